"""Migration: every record of an older schema is written again under the current one, in one go.

A migration is a checkpoint that rewrites. The store is brought to a state that lies in its checkpoints and block files
alone; a job reads them in key order, decodes each record of an older schema, encodes it anew, and writes the next
checkpoints; one replacement of the manifest makes these the store's, forgets the older schemas, and names what was
before as the way back (`warpstore.rollback`). Before that replacement the store is as it was, after it is migrated:
there is nothing in between, whatever stops the program, and running it again begins anew or finds nothing to do.

Nobody else may have the store open. A store that serves needs no migration to be read rightly, because each read brings
a record into its form of today; and a way back is a way back only as long as nobody writes.

User code runs here (computed fields, ``__post_init__``), so the job runs in a thread of this process, not in a child.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from threading import Event
from typing import Any

import msgspec

from wal import FileSystem, Lock, log_event
from warpstore import manifest as manifests
from warpstore.blocks import BlockFiles
from warpstore.catalog import CHECKPOINT_SUFFIX, Catalog, check_names, older_schemas
from warpstore.checkpoint import Checkpoint, CheckpointJob, ShardJob, TableJob
from warpstore.checkpoint.job import Records, run_job
from warpstore.environment import Environment, Runner
from warpstore.errors import MigrationError, OpenError, UnavailableError, WarpstoreError
from warpstore.keys import HotKey, slot_range
from warpstore.lane_keeper import release_all
from warpstore.manifest import CheckpointManifest, KeptState, TableManifest
from warpstore.migration_plan import MigrationPlan, digest_of, target_tables
from warpstore.observe.tracing import Tracing
from warpstore.opening import take_lock
from warpstore.plan import Plan
from warpstore.record import Record, plan_of
from warpstore.store import Settings
from warpstore.store import open as open_store
from warpstore.strategy import Strategy
from warpstore.values import DEADLINE_BYTES, deadline_of, has_deadline, split_payload, with_deadline
from warpstore.would_block import WouldBlock

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], object]

RECORDS_PER_REPORT = 1_024
_TRIES = 3
_TO_CHECKPOINT: Settings = {"durability": "interval", "segment_bytes": "64KiB"}
"""Settings of an opening that writes no record: its log is as small as a log can be."""
_NOTHING_CHANGED: frozenset[str] = frozenset()


class MigrationReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a migration did.

    Attributes:
        n_rewritten: Records that were written again under the current schema.
        n_untouched: Records that were copied as they were.
        has_rollback: Whether `roll_back` can restore the state before.
    """

    n_rewritten: int
    n_untouched: int
    has_rollback: bool


async def migrate(
    path: str | os.PathLike[str],
    models: Sequence[type[Record]],
    *,
    plan: MigrationPlan | None = None,
    keep: bool = True,
    progress: Progress | None = None,
    environment: Environment | None = None,
) -> MigrationReport:
    """Write every record of an older schema again under its record type of today, all or none.

    Afterwards the store has no older schema of these tables. What records read as does not change; their versions
    (`get_with_version`) do, and values of dropped fields are gone from the store's current files.

    Args:
        path: The store; nobody may have it open.
        models: The record types. Tables without one stay as they are.
        plan: A plan that `migration_plan` gave for the same models; it is refused if the store's schemas are others
            now. None: without.
        keep: Keep the files of the state before, so that `roll_back` can restore it, until `forget_rollback` or the
            next migration. They take as much room as the records that were written again, and the index.
        progress: Called on the loop with the records done and the records in all; must not raise.
        environment: The world the store lives in, for tests.

    Raises:
        NotAStoreError: there is no store.
        StoreInUseError: somebody has it open.
        IncompatibleSchemaError: a record type cannot read what is stored; nothing was touched.
        MigrationError: the plan is out of date, a record cannot be rewritten (table and field are named), or the disk
            failed; the records are as they were.
        CorruptionError: bytes on disk are damaged.

    Cost:
        One pass over all records, in key order, in a thread that shares the interpreter with the loop; 24 bytes of
        memory a record of the largest shard, and as for opening the store once. On disk a second copy of the
        checkpoints, and of the block files' parts of the records that are written again.

    Cancellation:
        The store is as it was, or, if it was at its last step, migrated.
    """
    environment = environment or Environment()
    where = os.path.abspath(os.fspath(path))  # noqa: ASYNC240 - it reads no file
    began_s = environment.clock.monotonic()
    try:
        with Tracing(where).span("migrate") as span:
            report = await _migrated_store(where, models, plan, keep, progress, environment)
            span.set("warpstore.rewritten_records", report.n_rewritten)
    except Exception as e:
        log_event(logger, logging.WARNING, "migration_failed", path=where, error=e)
        raise
    seconds = environment.clock.monotonic() - began_s
    n, n_others = report.n_rewritten, report.n_untouched
    log_event(logger, logging.INFO, "store_migrated", path=where, rewritten=n, untouched=n_others, seconds=seconds)
    return report


async def _migrated_store(
    path: str,
    models: Sequence[type[Record]],
    plan: MigrationPlan | None,
    keep: bool,  # noqa: FBT001 - as `migrate` has it
    progress: Progress | None,
    environment: Environment,
) -> MigrationReport:
    plans = [plan_of(model) for model in models]
    check_names(plans)
    run = environment.runner(asyncio.get_running_loop())
    lock: Lock | None = None
    try:
        lock, catalog = await _at_rest(path, plans, plan, environment)
        tables = _to_migrate(catalog, plans)
        if not tables:
            return MigrationReport(n_rewritten=0, n_untouched=0, has_rollback=catalog.manifest.rollback is not None)
        work = _Work(environment, catalog, plans, tables, keep=keep)
        return await _watched(work, run, progress)
    finally:
        run.close()
        if lock is not None:
            lock.close()


def _to_migrate(catalog: Catalog, plans: Sequence[Plan[Any]]) -> dict[str, TableManifest]:
    """Return the tables with an older schema, as they are to be read; today's schema is their last."""
    stored = catalog.manifest.tables
    tables = target_tables(catalog.manifest, plans)
    return {name: table for name, table in tables.items() if table != _migrated(stored[name])}


def _migrated(table: TableManifest) -> TableManifest:
    """Return a table without its older schemas."""
    return msgspec.structs.replace(table, schemas=table.schemas[-1:])


async def _at_rest(
    path: str, plans: Sequence[Plan[Any]], plan: MigrationPlan | None, environment: Environment
) -> tuple[Lock, Catalog]:
    """Take the lock of a store whose checkpoints hold everything, having them written if need be.

    Where there is nothing to migrate they need not.
    """
    for _ in range(_TRIES):
        lock, catalog = _locked(path, plans, plan, environment.files)
        covered = all(catalog.is_covered(lane) for lane in range(len(catalog.manifest.lanes)))
        if covered or not _to_migrate(catalog, plans):
            return lock, catalog
        lock.close()
        async with open_store(path, environment=environment, **_TO_CHECKPOINT) as store:
            await store.checkpoint()
    raise MigrationError(f"{path}: somebody else writes to it", path=path)


def _locked(
    path: str, plans: Sequence[Plan[Any]], plan: MigrationPlan | None, files: FileSystem
) -> tuple[Lock, Catalog]:
    """Take the lock of a store that these record types can read."""
    lock: Lock | None = None
    try:
        lock = take_lock(files, path, must_exist=True)
        catalog = Catalog(files, path, manifests.read(files, path))
        target_tables(catalog.manifest, plans)
        if plan is not None and plan.digest != digest_of(catalog.manifest, plans):
            message = f"{path}: the plan was made for other schemas than the store, or the models, have now"
            raise MigrationError(f"{message}; make a new one. Nothing was touched.", path=path)
    except BaseException as e:
        if lock is not None:
            lock.close()
        if isinstance(e, OSError):
            raise OpenError(f"{path}: cannot be opened: {e}", path=path) from e
        raise
    return lock, catalog


async def _watched(work: _Work, run: Runner, progress: Progress | None) -> MigrationReport:
    """Run the work in a thread; when cancelled, let it stop first."""
    loop = asyncio.get_running_loop()
    if progress is not None:
        work.report = lambda done, total: loop.call_soon_threadsafe(progress, done, total)
    task = asyncio.ensure_future(run(work.run))
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        work.stop.set()
        await asyncio.wait({task})
        task.exception()
        raise
    report = await task
    if progress is not None:
        progress(work.n_done, work.n_done)
    return report


def _nobody(done: int, total: int) -> None:
    """Take a report for which nobody asked."""


class _Stopped(Exception):  # noqa: N818 - it ends the thread, and nobody sees it
    """The migration was cancelled."""


class _Work:
    """One migration, at a store at rest whose lock is held. `run` blocks, and runs in a thread.

    Args:
        environment: The world.
        catalog: The store's.
        plans: The record types.
        tables: The tables to migrate, as they are to be read; their last schema is today's.
        keep: Whether there is to be a way back.

    Attributes:
        stop: Set to make `run` raise.
        report: Called with the records done and the records in all.
        n_done: Records done.
    """

    def __init__(
        self,
        environment: Environment,
        catalog: Catalog,
        plans: Sequence[Plan[Any]],
        tables: dict[str, TableManifest],
        *,
        keep: bool,
    ) -> None:
        self.stop = Event()
        self.report: Callable[[int, int], object] = _nobody
        self.n_done = 0
        self._files: FileSystem = environment.files
        self._environment = environment
        self._catalog = catalog
        self._keep = keep
        self._before = catalog.manifest
        self._tables = {**self._before.tables, **{name: _migrated(table) for name, table in tables.items()}}
        self._plans = {plan.table: plan for plan in plans}
        self._rewriters = {
            table.table: _Rewriter(catalog.path, self._plans[name], table) for name, table in tables.items()
        }
        self._n_total = 0

    def run(self) -> MigrationReport:
        """Write the new checkpoints and make them the store's."""
        path = self._catalog.path
        try:
            self._n_total = self._count()
            job = self._job()
            run_job(self._files, job, self._rewritten)
        except (OSError, UnavailableError) as e:
            raise MigrationError(f"{path}: the migration failed: {e}. Nothing was changed.", path=path) from e
        try:
            self._install(job)
        except OSError as e:
            raise MigrationError(
                f"{path}: the migration failed at its last step: {e}. The store is as it was, or migrated: try again.",
                path=path,
            ) from e
        n_rewritten = sum(rewriter.n_rewritten for rewriter in self._rewriters.values())
        return MigrationReport(n_rewritten=n_rewritten, n_untouched=self.n_done - n_rewritten, has_rollback=self._keep)

    def _checkpoint(self, index: int, name: str) -> Checkpoint:
        path = f"{self._catalog.checkpoint_directory}/{name}"
        return Checkpoint.open(self._files, path, store_id=self._before.id_bytes, shard=index)

    def _count(self) -> int:
        """Return how many records there are."""
        n = 0
        for index, shard in enumerate(self._before.shards):
            if shard.name:
                checkpoint = self._checkpoint(index, shard.name)
                n += sum(table.n_records for table in checkpoint.tables.values())
                checkpoint.release()
        return n

    def _job(self) -> CheckpointJob:
        catalog, before = self._catalog, self._before
        number, directory = catalog.take_checkpoint_number(), catalog.checkpoint_directory
        shards = []
        for i, entry in enumerate(before.shards):
            slots = slot_range(i, len(before.shards))
            shards.append(
                ShardJob(
                    shard=i,
                    sources=[(f"{directory}/{entry.name}", i)] if entry.name else [],
                    slots=(slots.start, slots.stop),
                    lsn=entry.lsn,
                    target=f"{directory}/{number:08x}-{i:03d}{CHECKPOINT_SUFFIX}",
                    salt=self._environment.random_u64(),
                    blocks=(number << 8 | i) & 0xFFFFFFFF,
                )
            )
        tables = []
        for name, table in self._tables.items():
            strategy = self._plans[name].strategy if name in self._plans else Strategy()
            tags = [entry.tag for entry in table.schemas]
            threshold = strategy.bytes("compression_threshold") or 0
            tables.append(TableJob(table.table, tags, catalog.parts(table), threshold))
        return CheckpointJob(
            store_id=before.id_bytes,
            logs=[],
            after=[entry.lsn for entry in before.shards],
            upto=[entry.lsn for entry in before.shards],
            tables=tables,
            shards=shards,
            dealt_anew=False,
            now_ms=self._now_ms(),
            block_directory=catalog.block_directory,
        )

    def _now_ms(self) -> int:
        return int(self._environment.clock.wall() * 1000)

    def _rewritten(self, table: int, records: Records, /, *, blocks: BlockFiles) -> Records:
        rewriter = self._rewriters.get(table)
        return self._counted(records if rewriter is None else rewriter.rewritten(records, blocks))

    def _counted(self, records: Records) -> Iterator[tuple[HotKey, bytes]]:
        for record in records:
            if not self.n_done % RECORDS_PER_REPORT:
                if self.stop.is_set():
                    raise _Stopped
                self.report(self.n_done, self._n_total)
            self.n_done += 1
            yield record

    def _install(self, job: CheckpointJob) -> None:
        """Make what was written the store's, once it has proved to be readable."""
        catalog, files = self._catalog, self._files
        files.sync_directory(catalog.checkpoint_directory)
        files.sync_directory(catalog.block_directory)
        made: list[Checkpoint] = []
        try:
            for shard in job.shards:
                checkpoint = self._checkpoint(shard.shard, shard.target.rpartition("/")[2])
                made.append(checkpoint)
            entries = [CheckpointManifest(c.path.rpartition("/")[2], c.lsn, c.block_numbers) for c in made]
        finally:
            release_all(made)
        kept = None
        if self._keep:
            kept = KeptState(
                self._before.tables,
                self._before.shards,
                [entry.name for entry in entries],
                self._now_ms(),
                self._before.series,
            )
        if self.stop.is_set():
            raise _Stopped
        catalog.migrated(self._tables, entries, kept)
        catalog.remove_strays()


class _Rewriter:
    """Brings the values of one table under its current schema.

    Attributes:
        n_rewritten: Values that had another.
    """

    def __init__(self, path: str, plan: Plan[Any], table: TableManifest) -> None:
        self.n_rewritten = 0
        self._path = path
        self._plan = plan
        codec = plan.bind(table.schemas[-1].tag)
        self._tag = codec.tag
        self._encode = codec.encode_changed
        self._decoders = {older.tag: codec.decoder_of(*older) for older in older_schemas(table)}

    def rewritten(self, records: Records, blocks: BlockFiles) -> Iterator[tuple[HotKey, bytes]]:
        """Yield the records under the current schema; those that are already stay as they are."""
        for key, value in records:
            tag = split_payload(value)[0]
            if tag == self._tag:
                yield key, value
                continue
            whole = blocks.whole(value, blocking=True)
            assert not isinstance(whole, WouldBlock)
            self.n_rewritten += 1
            yield key, self._under_current(key, tag, whole)

    def _under_current(self, key: HotKey, tag: int, value: bytes) -> bytes:
        has_end = has_deadline(value)
        try:
            record = self._decoders[tag](value[DEADLINE_BYTES:] if has_end else value)
            _, new_key, encoded = self._encode(record, _NOTHING_CHANGED)
        except Exception as e:
            raise self._failed(key, e) from e
        if new_key != key:
            raise self._failed(key, ValueError("its key would change"))
        return with_deadline(encoded, deadline_of(value)) if has_end else encoded

    def _failed(self, key: HotKey, error: Exception) -> MigrationError:
        table = self._plan.table
        field = getattr(error, "field", None)
        why = str(error) if isinstance(error, WarpstoreError) else f"{type(error).__name__}: {error}"
        words = f"{self._path}: the record {key!r} of {table!r} cannot be written under its new schema: {why}"
        return MigrationError(f"{words}. Nothing was changed.", path=self._path, table=table, field=field)
