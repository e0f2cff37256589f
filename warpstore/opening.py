"""Opens a store: the path, the lock, the manifest, the schemas; then the tree of actors, which recovers the log.

Everything that can be refused is refused before anything is written.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

from wal import FileSystem, Lock, WalError
from warpstore import manifest as manifests
from warpstore.backup.format import BACKUP_LOCK_NAME, BACKUP_NAME, RESTORING_NAME
from warpstore.blocks import BlockFiles
from warpstore.catalog import Catalog, check_names, new_manifest, with_schemas
from warpstore.checkpoint import Checkpoint
from warpstore.checkpoint.job import LogJob, run_job
from warpstore.checkpointer import Checkpointer, checkpoint_job
from warpstore.config import SHARDS_DEFAULT, Config
from warpstore.context import StoreContext
from warpstore.environment import Environment
from warpstore.errors import (
    ConfigError,
    CorruptionError,
    NotAStoreError,
    OpenError,
    ReadOnlyStoreError,
    ShardUnavailableError,
)
from warpstore.keys import slot_range
from warpstore.lane_keeper import DISK, LaneKeeper, Prepared, load_tiers, release_all, replay_into
from warpstore.locking import LOCK_NAME, own
from warpstore.manifest import CheckpointManifest, LaneManifest, Manifest
from warpstore.memory_cap import MEMORY, check_pools, priority_of
from warpstore.observe.tracing import Tracing
from warpstore.plan import Plan
from warpstore.process import Process
from warpstore.routes import TableRoutes
from warpstore.shard import Shard
from warpstore.supervisor import ChildSpec, Supervisor
from warpstore.temporal import Ager, SeriesFiles
from warpstore.temporal.archive import open_archive


class OpenParts:
    """What `open_parts` opened."""

    def __init__(self, context: StoreContext, catalog: Catalog, root: Supervisor) -> None:
        self.context = context
        self.catalog = catalog
        self.root = root


async def open_parts(
    path: str, plans: Sequence[Plan[Any]], config: Config, environment: Environment, tracing: Tracing
) -> OpenParts:
    """Return the running parts of the store at ``path``, creating it if there is nothing.

    Raises:
        OpenError: the path cannot be opened as a store.
        IncompatibleSchemaError: a record type cannot read what is stored.
        ConfigError: a setting contradicts the store.
    """
    check_names(plans)
    check_pools(plan.strategy for plan in plans)
    try:
        return await _open_parts(path, plans, config, environment, tracing)
    except OSError as e:
        raise OpenError(f"{path}: cannot be opened: {e}", path=path) from e


async def _open_parts(
    path: str, plans: Sequence[Plan[Any]], config: Config, environment: Environment, tracing: Tracing
) -> OpenParts:
    files = environment.files
    loop = asyncio.get_running_loop()
    lock = take_lock(files, path)
    context: StoreContext | None = None
    root: Supervisor | None = None
    try:
        manifest = _manifest(files, path, config, environment)
        tables, next_table, next_tag = with_schemas(manifest, plans)
        _check_lanes(manifest, config)
        catalog = Catalog(files, path, manifest)
        context = StoreContext(path, loop, config, environment, lock, tracing)
        context.blocks = BlockFiles(
            files, catalog.block_directory, store_id=manifest.id_bytes, cache=context.caps.block_cache
        )
        folders = _folders(manifest, config)
        context.strategies = {plan.table: plan.strategy for plan in plans}
        await context.run(lambda: _prepare(context, catalog, tables, next_table, next_tag, folders))
        for name, table in catalog.manifest.tables.items():
            context.tables[table.table] = TableRoutes(table.table)
            context.table_numbers[name] = table.table
            context.pools[table.table] = context.caps.add_table(
                table.table, priority_of(table), context.strategies.get(name)
            )
        if context.caps.is_active:
            context.on_growth = context.caps.check
        root = _tree(context, catalog)
        await root.start()
        await context.run(catalog.remove_strays)
        if any(keeper.report is not None and keeper.report.damage for keeper in context.lanes):
            assert context.checkpointer is not None
            await context.checkpointer.call(
                "the log is damaged", timeout=None
            )  # so that the next opening need not know
    except BaseException:
        if root is not None:
            await root.stop()
        if context is not None:
            context.release()
        else:
            lock.close()
        raise
    return OpenParts(context, catalog, root)


def take_lock(files: FileSystem, path: str, *, must_exist: bool = False) -> Lock:
    """Take a store's lock, making its folder first.

    Args:
        files: The file system.
        path: The store's folder.
        must_exist: Whether there has to be a store already; then nothing is made.

    Raises:
        NotAStoreError: there is something else, or nothing where there has to be a store.
        CorruptionError: the manifest is missing.
        StoreInUseError: another process, or this one, has the store open.
    """
    if must_exist and not files.exists(path):
        raise NotAStoreError(f"{path}: there is no store", path=path)
    if files.exists(path) and not files.is_directory(path):
        raise NotAStoreError(f"{path}: is a file; a store is a folder", path=path)
    if files.exists(path):
        names = files.list_directory(path)
        if names and manifests.NAME not in names and set(names) - {LOCK_NAME, f"{manifests.NAME}.new"}:
            if {BACKUP_NAME, BACKUP_LOCK_NAME} & set(names):
                raise NotAStoreError(f"{path}: holds a backup; ws.restore makes a store of it", path=path)
            if RESTORING_NAME in names:
                raise NotAStoreError(f"{path}: a restore into it was interrupted; run it again", path=path)
            ours = {"log", "checkpoint"} & set(names)
            if ours:
                missing = f"{path}/{manifests.NAME}"
                raise CorruptionError(f"{missing}: the manifest is missing", path=missing, offset=0)
            raise NotAStoreError(f"{path}: holds something else ({names[0]}); give an empty folder", path=path)
        if must_exist and manifests.NAME not in names:
            raise NotAStoreError(f"{path}: there is no store", path=path)
    else:
        files.make_directory(path)
        files.sync_directory(os.path.dirname(path) or ".")
    return own(files, path)


def _manifest(files: FileSystem, path: str, config: Config, environment: Environment) -> Manifest:
    try:
        return manifests.read(files, path)
    except FileNotFoundError:
        store_id = b"".join(environment.random_u64().to_bytes(8, "little") for _ in range(2))
        directories = config.log or [""] * (config.lanes or 1)
        return new_manifest(store_id, config.shards or SHARDS_DEFAULT, directories)


def _check_lanes(manifest: Manifest, config: Config) -> None:
    has = [lane.directory for lane in manifest.lanes]
    if config.lanes not in {None, len(has)}:
        raise ConfigError(f"lanes={config.lanes}: the store was created with {len(has)}", setting="lanes")
    if config.log and list(config.log) != has:
        raise ConfigError(f"log={list(config.log)}: the store was created with {has}", setting="log")


def _folders(manifest: Manifest, config: Config) -> dict[str, str]:
    """Return the folders of the files of items.

    Raises:
        ConfigError: a setting names another one than that in which there are files.
    """
    folders = dict(manifest.folders)
    for tier in ("ssd", "disk", "archive"):
        wanted = getattr(config, tier)
        if wanted is None or wanted == folders.get(tier):
            continue
        if any(entry.tier == tier for entry in manifest.series):
            has = folders.get(tier) or "a folder inside it"
            raise ConfigError(f"{tier}={wanted!r}: the store has files in {has}", setting=tier)
        folders[tier] = wanted
    return folders


def _prepare(
    context: StoreContext,
    catalog: Catalog,
    tables: dict[str, Any],
    next_table: int,
    next_tag: int,
    folders: dict[str, str],
) -> None:
    """Begin the epoch, and deal the slots to another number of shards if that is asked for; blocks."""
    config, environment = context.config, context.environment
    if "://" in folders.get("archive", ""):
        open_archive(context.files, folders["archive"], dict(config.archive_options))  # or refuses
    catalog.begin_epoch(tables, next_table, next_tag, config.durability, folders)
    catalog.make_directories()
    catalog.remove_series_strays()
    context.series = SeriesFiles(
        context.files, catalog, context.caps.block_cache, config.archive_options, environment.random_u64
    )
    n_shards = config.shards or len(catalog.manifest.shards)
    if n_shards != len(catalog.manifest.shards):
        _reshard(context, catalog, n_shards)


def _reshard(context: StoreContext, catalog: Catalog, n_shards: int) -> None:
    manifest = catalog.manifest
    next_lsn = [entry.lsn + 1 for entry in manifest.shards]
    logs = []
    lanes = []
    for lane, entry in enumerate(manifest.lanes):
        number = entry.first
        if not catalog.is_covered(lane):
            states = {shard: load_tiers(context, catalog, shard) for shard in catalog.shards_of_lane(lane)}
            try:
                found = replay_into(context, catalog, lane, {shard: tiers for shard, (tiers, _) in states.items()})
            finally:
                release_all(checkpoint for _, checkpoint in states.values())
            next_lsn = [max(a, b) for a, b in zip(next_lsn, found.next_lsn, strict=True)]
            number = found.next_number
            if found.numbers:
                logs.append(LogJob(catalog.lane_directory(lane), lane, entry.first, found.numbers[-1]))
        elif entry.clean_end:
            number = (entry.clean_end >> 32) + 1
        lanes.append(LaneManifest(entry.directory, number, 0, 0))
    lsn = max(next_lsn) - 1
    job = checkpoint_job(
        context,
        catalog,
        logs=logs,
        after=[entry.lsn for entry in manifest.shards],
        upto=[n - 1 for n in next_lsn],
        lsns=[lsn] * n_shards,
        n_shards=n_shards,
    )
    try:
        run_job(context.files, job)
    except WalError as e:
        raise CorruptionError(str(e), path=catalog.path, offset=0) from e
    context.files.sync_directory(catalog.checkpoint_directory)
    context.files.sync_directory(catalog.block_directory)
    names = []
    for shard in job.shards:
        made = Checkpoint.open(context.files, shard.target, store_id=manifest.id_bytes, shard=shard.shard)
        names.append(CheckpointManifest(shard.target.rpartition("/")[2], lsn, made.block_numbers))
        made.release()
    catalog.redealt(names, lanes)


def _tree(context: StoreContext, catalog: Catalog) -> Supervisor:
    """Return the supervisors: lanes first, then the shards, the checkpointer, the ager."""
    config = context.config
    n_shards = len(catalog.manifest.shards)

    def keep_lane(index: int) -> Process:
        keeper = LaneKeeper(index, context, catalog)
        context.lanes[index : index + 1] = [keeper]
        return keeper

    def begin_checkpointer() -> Process:
        context.checkpointer = Checkpointer(context, catalog)
        return context.checkpointer

    def begin_ager() -> Process:
        context.ager = Ager(context, catalog)
        return context.ager

    def escalated(error: ReadOnlyStoreError) -> None:
        context.read_only = error
        for shard in context.shards.values():
            shard.refuse_writers(error)

    shards = [
        ChildSpec(f"shard {i}", lambda i=i: _start_shard(context, catalog, i), shutdown_s=config.stop_timeout_s)  # type: ignore[misc]
        for i in range(n_shards)
    ]
    options: dict[str, Any] = {
        "clock": context.clock,
        "loop": context.loop,
        "intensity": config.restart_intensity,
        "period_s": config.restart_period_s,
    }

    def shard_supervisor() -> Process:
        return Supervisor(shards, name="shards", strategy="one_for_one", on_escalate=escalated, **options)

    children = [
        ChildSpec(f"lane {i}", lambda i=i: keep_lane(i), shutdown_s=config.stop_timeout_s)  # type: ignore[misc]
        for i in range(len(catalog.manifest.lanes))
    ]
    children.append(ChildSpec("shards", shard_supervisor, shutdown_s=config.stop_timeout_s))
    children.append(ChildSpec("checkpointer", begin_checkpointer, shutdown_s=config.stop_timeout_s))
    children.append(ChildSpec("ager", begin_ager, shutdown_s=config.stop_timeout_s))
    return Supervisor(children, name="store", strategy="rest_for_one", on_escalate=escalated, **options)


async def _start_shard(context: StoreContext, catalog: Catalog, index: int) -> Shard:
    """Return a shard on the state that its lane's recovery left, or, when it alone restarts, on its own replay."""
    config = context.config
    lane_index = index % len(catalog.manifest.lanes)
    keeper = context.lanes[lane_index]
    prepared = keeper.prepared.pop(index, None)
    if prepared is None:
        if keeper.lane is None:
            raise ShardUnavailableError(f"shard {index} cannot start while its lane is down")
        # What the shard wrote is in sealed segments then, which nobody writes while they are read.
        sealed = await keeper.lane.cut(lambda: None)

        def reload() -> Prepared:
            tiers, checkpoint = load_tiers(context, catalog, index)
            try:
                found = replay_into(context, catalog, lane_index, {index: tiers}, until=sealed)
            except BaseException:
                release_all([checkpoint])
                raise
            return Prepared(tiers, checkpoint, found.next_lsn[index])

        async with context.installing:
            prepared = await context.run(reload)
    shard = Shard(
        index,
        slot_range(index, len(catalog.manifest.shards)),
        prepared.tiers,
        prepared.checkpoint,
        durability=config.durability,
        loop=context.loop,
        clock=context.clock,
        on_routes=context.follow,
        feed=context.feed,
        on_growth=context.on_growth,
        on_wait=context.caps.writer_waits if context.caps.is_active else None,
        mailbox_messages_max=config.mailbox_messages_max,
        mailbox_bytes_max=config.mailbox_bytes_max,
    )
    shard.is_fed = context.is_feeding
    shard.attach(keeper.lane if config.durability != "memory" else None, prepared.lsn_next)
    before = context.shards.get(index)
    context.shards[index] = shard
    if context.caps.is_over:
        shard.hold_writers(MEMORY)
    if keeper.lane is not None and keeper.lane.lagging:
        shard.hold_writers(DISK)
    context.forget_columns()
    context.follow(shard)
    if before is not None:
        before.release_state()
    return shard
