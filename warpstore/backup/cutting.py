"""Takes the cut of a backup, and has it copied.

One cut. The vector of LSNs is read in one step, in which no other code of the loop runs, at a time t: of each shard the
last record that is applied then. In "fsync" mode that is the last durable one; in "interval" mode also what has not
been written yet counts, by the LSN that it will get. Let a write B have begun after a write A was acknowledged, and let
the cut hold B. Then B was applied by t, so it began before t; A was applied before it was acknowledged, so before that:
the cut holds A, whatever shards and lanes they are in. No writer is held for it.

Then each lane is sealed, at its own time but behind t: so every record of the cut is in a sealed segment, and what
those hold beyond the cut a restore leaves out. What the manifest of the cut names is pinned meanwhile: a checkpoint
may come and go, and removes and recycles none of it.

In "memory" mode there is no log: a checkpoint is the cut, which takes all shards in one step as well.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import msgspec

from wal import LogFullError, WalError, log_event
from warpstore.backup.copying import REST_SHARE
from warpstore.backup.format import BackupResult
from warpstore.backup.job import BackupJob, Progress
from warpstore.checkpointer import let_go
from warpstore.errors import BackupError, BackupFullError, BackupTargetError

if TYPE_CHECKING:
    from warpstore.catalog import Catalog
    from warpstore.context import StoreContext
    from warpstore.manifest import Manifest

logger = logging.getLogger(__name__)


async def back_up(context: StoreContext, catalog: Catalog, target: str, progress: Progress) -> BackupResult:
    """Copy one cut of an open store; see `Store.backup`."""
    target = checked_target(catalog, target)
    if context.config.durability == "memory":
        assert context.checkpointer is not None
        with context.tracing.asking():
            await context.checkpointer.call("a backup", timeout=None)
    pinned = catalog.pin()
    try:
        job = await _cut(context, catalog, pinned, target)
        return await context.environment.run_backup(job, progress)
    finally:
        catalog.unpin(pinned)
        await _let_go(context, catalog)


def checked_target(catalog: Catalog, target: str) -> str:
    """Return the absolute path of a target outside the store.

    Raises:
        BackupTargetError: it lies inside the store.
    """
    target = os.path.abspath(target)
    here = os.path.realpath(target)
    lanes = [catalog.lane_directory(lane) for lane in range(len(catalog.manifest.lanes))]
    series = [folder for folder in map(catalog.series_folder, ("ssd", "disk", "archive")) if "://" not in folder]
    for folder in map(os.path.realpath, (catalog.path, *lanes, *series)):
        if here == folder or here.startswith(f"{folder}{os.sep}"):
            raise BackupTargetError(f"{target}: lies inside the store; give a folder outside", path=target)
    return target


async def _cut(context: StoreContext, catalog: Catalog, pinned: Manifest, target: str) -> BackupJob:
    shards = [context.shards[i] for i in sorted(context.shards)]
    lsns = [shard.lsn_applied for shard in shards]  # one step with `pin`: no await between them
    made_ms = int(context.clock.wall() * 1000)
    sealed = [entry.first - 1 for entry in pinned.lanes]
    if context.config.durability == "memory":
        lsns = [entry.lsn for entry in pinned.shards]
    else:
        lanes = [keeper.lane for keeper in context.lanes]
        try:
            for i, lane in enumerate(lanes):
                if lane is None:
                    raise BackupError(f"{target}: the log failed, and is being recovered; try again", path=target)
                sealed[i] = lane.active_number - 1 if lane.is_fresh else await lane.cut(lambda: None)
        except WalError as e:
            kind = BackupFullError if isinstance(e, LogFullError) else BackupError
            raise kind(f"{target}: the log cannot be cut: {e}", path=target) from e
    return BackupJob(
        path=catalog.path,
        target=target,
        store=msgspec.structs.replace(pinned, rollback=None),  # the way back of a migration stays with the store
        lsns=lsns,
        sealed=sealed,
        lanes=[catalog.lane_directory(lane) for lane in range(len(pinned.lanes))],
        made_ms=made_ms,
        rest=REST_SHARE,
    )


async def _let_go(context: StoreContext, catalog: Catalog) -> None:
    """Remove what only the pin kept; what cannot be removed goes with the next checkpoint."""
    async with context.installing:
        try:
            await context.run(lambda: let_go(context, catalog))
        except OSError as e:
            log_event(logger, logging.WARNING, "backup_strays_left", path=context.path, error=e)
