"""The way back: the state before the last migration, kept until it is restored or forgotten.

What a migration reads are files that never change: checkpoints and block files, with the whole state in them, because
the log was taken in before. So keeping them is only not removing them: the manifest names them beside the current ones,
and the same replacement of the manifest that ends a migration begins to keep, and the one that restores them ends it.
There is no second copy that could be older or half there, and files and their names stay byte for byte as they were.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from wal import FileSystem, log_event
from wal.replay import segment_numbers, segment_path
from warpstore import manifest as manifests
from warpstore._native import MemoryPool
from warpstore.blocks import BlockCache, BlockFiles
from warpstore.catalog import Catalog
from warpstore.checkpoint import Checkpoint
from warpstore.environment import Environment
from warpstore.errors import MigrationError, OpenError
from warpstore.lane_keeper import release_all
from warpstore.log_at_rest import read_log
from warpstore.manifest import KeptState, LaneManifest
from warpstore.observe.tracing import Tracing
from warpstore.opening import take_lock

logger = logging.getLogger(__name__)


def roll_back(
    path: str | os.PathLike[str], *, discard_writes: bool = False, environment: Environment | None = None
) -> None:
    """Restore the state before the last migration: its records, schemas and files, byte for byte.

    Args:
        path: The store; nobody may have it open.
        discard_writes: Restore it also if the store was written to since, and lose that.
        environment: The world the store lives in, for tests.

    Raises:
        NotAStoreError: there is no store.
        StoreInUseError: somebody has it open.
        MigrationError: no state is kept, or the store was written to since; nothing was changed.
        CorruptionError: what was kept is damaged; nothing was changed.
        OpenError: reading or writing failed; the store is as it was, or rolled back.

    Cost:
        Blocks: one replacement of the manifest, and a look into each file that was kept. If the store was not closed
        cleanly, its log is read.
    """
    environment = environment or Environment()
    where = os.path.abspath(os.fspath(path))
    began_s = environment.clock.monotonic()
    try:
        with Tracing(where).span("roll_back"), _locked(where, environment.files) as catalog:
            _roll_back(environment.files, catalog, discard_writes=discard_writes)
    except Exception as e:
        log_event(logger, logging.WARNING, "roll_back_failed", path=where, error=e)
        raise
    seconds = environment.clock.monotonic() - began_s
    log_event(logger, logging.INFO, "store_rolled_back", path=where, seconds=seconds)


def _roll_back(files: FileSystem, catalog: Catalog, *, discard_writes: bool) -> None:
    kept = _kept(catalog)
    _check_series(catalog, kept)
    if not discard_writes:
        why = _written_since(files, catalog, kept)
        if why is not None:
            raise MigrationError(
                f"{catalog.path}: {why} since the migration; discard_writes=True goes back all the same, and loses"
                " that. Nothing was changed.",
                path=catalog.path,
            )
    _check_kept(files, catalog, kept)
    lanes = [_after_all_segments(files, catalog, lane) for lane in range(len(catalog.manifest.lanes))]
    catalog.rolled_back(kept, lanes)
    _clean_up(files, catalog)


def forget_rollback(path: str | os.PathLike[str], *, environment: Environment | None = None) -> bool:
    """Remove what was kept of the state before the last migration; return whether there was something.

    Args:
        path: The store; nobody may have it open.
        environment: The world the store lives in, for tests.

    Raises:
        NotAStoreError: there is no store.
        StoreInUseError: somebody has it open.
        OpenError: reading or writing failed; calling it again goes on.

    Cost:
        Blocks: one replacement of the manifest, and the removal of the files.
    """
    files = (environment or Environment()).files
    where = os.path.abspath(os.fspath(path))
    with _locked(where, files) as catalog:
        if catalog.manifest.rollback is None:
            return False
        catalog.rollback_forgotten()
        catalog.remove_strays()
    log_event(logger, logging.INFO, "rollback_forgotten", path=where)
    return True


@contextmanager
def _locked(path: str, files: FileSystem) -> Iterator[Catalog]:
    """Give the catalog of a store while its lock is held; what fails below leaves as `OpenError`."""
    try:
        lock = take_lock(files, path, must_exist=True)
        try:
            yield Catalog(files, path, manifests.read(files, path))
        finally:
            lock.close()
    except OSError as e:
        raise OpenError(f"{path}: {e}", path=path) from e


def _kept(catalog: Catalog) -> KeptState:
    kept = catalog.manifest.rollback
    if kept is None:
        raise MigrationError(f"{catalog.path}: there is no state to go back to", path=catalog.path)
    return kept


def _check_series(catalog: Catalog, kept: KeptState) -> None:
    """Refuse where items of series went from place to place since: the records before would have them twice, or not.

    Raises:
        MigrationError: they did; the table is named.
    """
    now = catalog.manifest.series
    changed = [entry for entry in (*now, *kept.series) if entry not in now or entry not in kept.series]
    if changed:
        numbers = {part.table for entry in changed for part in entry.ranges}
        names = sorted(name for name, table in kept.tables.items() if table.table in numbers) or ["a dropped table"]
        words = ", ".join(map(repr, names))
        raise MigrationError(
            f"{catalog.path}: items of the series of {words} have moved in files since the migration;"
            " the records before it and these files do not belong together. Nothing was changed.",
            path=catalog.path,
            table=names[0],
        )


def _written_since(files: FileSystem, catalog: Catalog, kept: KeptState) -> str | None:
    """Return what was done to the records since the migration, in words; None if nothing was."""
    manifest = catalog.manifest
    if len(manifest.shards) != len(kept.shards):
        return "the records were dealt to another number of shards"
    lsns = [shard.lsn for shard in kept.shards]
    if [shard.lsn for shard in manifest.shards] != lsns or (manifest.clean_lsns and manifest.clean_lsns != lsns):
        return "records were written"
    if [shard.name for shard in manifest.shards] != kept.written:
        return 'a checkpoint was written, perhaps with records of the "memory" mode,'
    if not manifest.clean_lsns and _has_log(files, catalog):
        return "records were written"
    return None


def _has_log(files: FileSystem, catalog: Catalog) -> bool:
    """Return whether the log holds a record that no checkpoint has."""
    payloads: list[bytes] = []
    read_log(files, catalog, lambda payload: payloads.extend(() if payloads else (payload,)))
    return bool(payloads)


def _check_kept(files: FileSystem, catalog: Catalog, kept: KeptState) -> None:
    """Open every file that was kept.

    Raises:
        CorruptionError: one is missing or damaged.
    """
    store_id = catalog.manifest.id_bytes
    blocks = BlockFiles(files, catalog.block_directory, store_id=store_id, cache=BlockCache(0, MemoryPool()))
    for index, shard in enumerate(kept.shards):
        if shard.name:
            path = f"{catalog.checkpoint_directory}/{shard.name}"
            release_all([Checkpoint.open(files, path, store_id=store_id, shard=index, blocks=blocks)])


def _after_all_segments(files: FileSystem, catalog: Catalog, lane: int) -> LaneManifest:
    """Return a lane whose log is empty and begins behind every segment that there is, or was named."""
    entry, directory = catalog.manifest.lanes[lane], catalog.lane_directory(lane)
    numbers = segment_numbers(files, directory) if files.exists(directory) else []
    return LaneManifest(
        entry.directory, 1 + max([entry.first - 1, entry.active, entry.clean_end >> 32, *numbers]), 0, 0
    )


def _clean_up(files: FileSystem, catalog: Catalog) -> None:
    """Remove what no longer counts."""
    catalog.remove_strays()
    for lane, entry in enumerate(catalog.manifest.lanes):
        directory = catalog.lane_directory(lane)
        for number in segment_numbers(files, directory) if files.exists(directory) else []:
            if number < entry.first:
                files.remove(segment_path(directory, number))
