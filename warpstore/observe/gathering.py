"""Gathers a store's statistics from its parts.

Every number is one that a part keeps anyway, or a length; so it costs some microseconds a table and shard, whatever
they hold. Called on the loop's thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from warpstore.hot_tier import HotTier
from warpstore.lane_keeper import LaneKeeper
from warpstore.process import Reason
from warpstore.shard import Shard
from warpstore.statistics import (
    LaneStatistics,
    SeriesStatistics,
    ShardStatistics,
    StoreStatistics,
    TableStatistics,
)
from warpstore.supervisor import ChildInfo, Supervisor
from warpstore.temporal.state import is_companion

if TYPE_CHECKING:
    from warpstore.catalog import Catalog
    from warpstore.context import StoreContext
    from warpstore.record import Record
    from warpstore.table import Table

_OFFSET_MASK = (1 << 32) - 1


def gather(
    context: StoreContext, catalog: Catalog, root: Supervisor, tables: Mapping[type[Record], Table[Any]]
) -> StoreStatistics:
    """Return the numbers of an open store."""
    by_name = {table.name: table for table in tables.values()}
    shards = [shard for _, shard in sorted(context.shards.items())]
    checkpointer, checkpoints = context.checkpointer, context.checkpoints
    nested = root.child("shards")
    actors = root.which_children() + (nested.which_children() if isinstance(nested, Supervisor) else ())
    infos = {actor.name: actor for actor in actors}
    resident = {
        (shard.index, number): _Resident.of_tier(tier) for shard in shards for number, tier in shard.tiers.items()
    }
    return StoreStatistics(
        path=context.path,
        durability=context.config.durability,
        epoch=catalog.manifest.epoch,
        open_s=context.clock.monotonic() - context.opened_s,
        n_shards=len(shards),
        ram=context.config.ram,
        resident_bytes=context.caps.n_bytes,
        dirty_bytes=context.caps.dirty_bytes,
        read_only=None if context.read_only is None else str(context.read_only),
        n_restarts=sum(actor.n_restarts for actor in actors),
        n_checkpoints=checkpoints.n_done,
        n_checkpoints_failed=checkpoints.n_failed,
        checkpointing=checkpoints.running,
        checkpoint_bytes=sum(shard.checkpoint.n_bytes for shard in shards if shard.checkpoint is not None),
        checkpoint_bytes_written=checkpoints.n_bytes,
        last_checkpoint_s=checkpoints.last_s,
        last_checkpoint_at_s=checkpoints.last_at_s,
        last_checkpoint_error=_words(checkpoints.last_error),
        log_bytes=0 if checkpointer is None else checkpointer.log_bytes(),
        tables=tuple(
            _table(context, name, by_name.get(name), shards, resident)
            for name in sorted(catalog.manifest.tables)
            if not is_companion(name)
        ),
        shards=tuple(_shard(shard, infos.get(shard.name), resident) for shard in shards),
        series=_series(context, catalog),
        lanes=tuple(_lane(keeper, infos.get(keeper.name)) for keeper in context.lanes),
        actors=actors,
    )


@dataclass(frozen=True, slots=True)
class _Resident:
    """Values in RAM of one table in one shard, or of several: how many, their bytes, and of these the dirty ones."""

    n: int = 0
    n_dirty: int = 0
    n_bytes: int = 0
    dirty_bytes: int = 0

    @classmethod
    def of_tier(cls, tier: HotTier) -> _Resident:
        dirty = [one for generation in (tier.young, *tier.frozen) for one in generation.maps]
        n_dirty, dirty_bytes = sum(map(len, dirty)), sum(map(_bytes, dirty))
        return cls(
            n_dirty + sum(map(len, tier.clean)), n_dirty, dirty_bytes + sum(map(_bytes, tier.clean)), dirty_bytes
        )

    def __add__(self, other: _Resident) -> _Resident:
        return _Resident(
            self.n + other.n,
            self.n_dirty + other.n_dirty,
            self.n_bytes + other.n_bytes,
            self.dirty_bytes + other.dirty_bytes,
        )


_bytes = attrgetter("n_bytes")
_ByPart = Mapping[tuple[int, int], _Resident]
"""By shard and table number."""


def _words(reason: Reason | None) -> str | None:
    return None if reason is None else str(reason) or type(reason).__name__


def _table(
    context: StoreContext, name: str, table: Table[Any] | None, shards: list[Shard], resident: _ByPart
) -> TableStatistics:
    number = context.table_numbers[name]
    held = sum((resident[shard.index, number] for shard in shards), _Resident())
    cold = [tier.cold for tier in context.tiers(name) if tier.cold is not None]
    gpu = None if table is None else table._gpu
    is_cached = table is not None and table._codec.copy is not None
    return TableStatistics(
        name=name,
        n_resident=held.n,
        n_dirty=held.n_dirty,
        resident_bytes=held.n_bytes,
        dirty_bytes=held.dirty_bytes,
        n_checkpointed=sum(part.n_records for part in cold),
        checkpointed_bytes=sum(part.n_bytes for part in cold),
        n_ephemeral=0 if table is None else len(table._ephemeral),
        record_cache_entries=context.config.record_cache_entries if is_cached else 0,
        n_projections=0 if table is None else table._codec.n_projections,
        columns=None if gpu is None else gpu.statistics(),
        columns_backend=None if gpu is None else context.backend.name,
        n_columns_pending=0 if gpu is None else gpu.n_fed,
    )


def _series(context: StoreContext, catalog: Catalog) -> SeriesStatistics:
    n_files: dict[str, int] = {}
    n_bytes: dict[str, int] = {}
    n_items: dict[str, int] = {}
    for entry in catalog.manifest.series:
        n_files[entry.tier] = n_files.get(entry.tier, 0) + 1
        n_bytes[entry.tier] = n_bytes.get(entry.tier, 0) + entry.n_bytes
        n_items[entry.tier] = n_items.get(entry.tier, 0) + sum(found.n_items for found in entry.ranges)
    ager = context.ager
    return SeriesStatistics(
        n_files=n_files,
        n_bytes=n_bytes,
        n_items=n_items,
        n_rounds=0 if ager is None else ager.n_rounds,
        n_items_moved=0 if ager is None else ager.n_items_moved,
        last_error=_words(None if ager is None else ager.last_error),
    )


def _shard(shard: Shard, info: ChildInfo | None, resident: _ByPart) -> ShardStatistics:
    held = sum((resident[shard.index, number] for number in shard.tiers), _Resident())
    checkpoint = shard.checkpoint
    return ShardStatistics(
        index=shard.index,
        state=shard.state.value if info is None else info.state,
        takes_writes=shard.is_alive and (shard.takes_posts or shard.is_open),
        n_restarts=0 if info is None else info.n_restarts,
        n_slots=len(shard.slots),
        n_resident=held.n,
        n_dirty=held.n_dirty,
        n_mailbox_messages=len(shard.mailbox),
        mailbox_bytes=shard.mailbox.n_bytes,
        n_mailbox_waiters=shard.mailbox.n_waiters,
        n_pending=len(shard.pending),
        lsn=shard.lsn_recovered if shard.stream is None else shard.stream.lsn_next - 1,
        checkpoint_lsn=0 if checkpoint is None else checkpoint.lsn,
        checkpoint_bytes=0 if checkpoint is None else checkpoint.n_bytes,
    )


def _lane(keeper: LaneKeeper, info: ChildInfo | None) -> LaneStatistics:
    lane, report = keeper.lane, keeper.report
    torn = None if report is None else report.torn
    error = keeper.reason if lane is None or lane.error is None else lane.error
    return LaneStatistics(
        index=keeper.index,
        state=keeper.state.value if info is None else info.state,
        n_restarts=0 if info is None else info.n_restarts,
        n_groups=0 if lane is None else lane.n_groups,
        n_bytes=0 if lane is None else lane.n_bytes,
        n_syncs=0 if lane is None else lane.n_syncs,
        segment=0 if lane is None else lane.end >> 32,
        offset=0 if lane is None else lane.end & _OFFSET_MASK,
        durable_segment=0 if lane is None else lane.durable >> 32,
        durable_offset=0 if lane is None else lane.durable & _OFFSET_MASK,
        lagging=lane is not None and lane.lagging,
        waits_for_space=lane is not None and lane.waits_for_space,
        error=_words(error),
        last_restart_reason=None if info is None else info.last_reason,
        replayed_records=0 if report is None else report.n_records,
        replayed_bytes=0 if report is None else report.n_bytes,
        torn_tail=None if torn is None else f"{torn.path}: offset {torn.offset}, {torn.n_frames} frames behind it",
        damage=() if report is None else tuple(report.damage),
    )
