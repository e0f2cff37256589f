"""The store's numbers, gathered when asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpu_kernels import SlabStatistics
from warpstore.supervisor import ChildInfo, Supervisor
from warpstore.temporal.state import is_companion

if TYPE_CHECKING:
    from collections.abc import Mapping

    from warpstore.catalog import Catalog
    from warpstore.context import StoreContext
    from warpstore.record import Record
    from warpstore.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class TableStatistics:
    """One table.

    Attributes:
        name: Its name.
        n_resident: Values in RAM, replaced ones and tombstones included.
        n_checkpointed: Records in the checkpoints.
        checkpointed_bytes: Bytes of their values.
        n_ephemeral: Ephemeral values in RAM.
        columns: The slab of its `Gpu` fields, or None before the first lookup.
        columns_backend: What answers column lookups: "numpy"; None where there are none.
    """

    name: str
    n_resident: int
    n_checkpointed: int
    checkpointed_bytes: int
    n_ephemeral: int
    columns: SlabStatistics | None
    columns_backend: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneStatistics:
    """One lane, since it was opened.

    Attributes:
        n_groups: Groups written.
        n_bytes: Bytes written.
        n_syncs: Syncs done.
        segment: Number of the segment that is being written.
        lagging: Whether writers wait for the disk.
        replayed_records: Records that opening replayed.
        torn_tail: What opening cut off the log, in words, or None.
        damage: What opening left out because of ``on_corruption``, in words.
    """

    n_groups: int
    n_bytes: int
    n_syncs: int
    segment: int
    lagging: bool
    replayed_records: int
    torn_tail: str | None
    damage: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesStatistics:
    """The items of `Temporal` fields that left their records.

    Attributes:
        n_files: Files by tier: "ssd", "disk", "archive".
        n_bytes: Bytes of them.
        n_items: Items in them, those of records that are gone included.
        n_rounds: Rounds of ageing without an error since the store was opened.
        n_items_moved: Items that left their records in them.
        last_error: Why the last round was not complete, or None.
    """

    n_files: dict[str, int]
    n_bytes: dict[str, int]
    n_items: dict[str, int]
    n_rounds: int
    n_items_moved: int
    last_error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStatistics:
    """A store.

    Attributes:
        epoch: How often it was opened.
        n_shards: Its shards.
        ram: The cap that was asked for, in bytes, or None.
        read_only: Why it takes no writes, or None.
        n_checkpoints: Checkpoints since it was opened.
        checkpoint_bytes: Size of the current checkpoint files.
        log_bytes: Bytes of log written since the last checkpoint.
        last_checkpoint_error: Why the last checkpoint failed, or None.
        tables: Its tables.
        series: The items of `Temporal` fields that left their records.
        lanes: Its lanes.
        actors: Its actors, supervisors' children flattened.
    """

    epoch: int
    n_shards: int
    ram: int | None
    read_only: str | None
    n_checkpoints: int
    checkpoint_bytes: int
    log_bytes: int
    last_checkpoint_error: str | None
    tables: tuple[TableStatistics, ...]
    series: SeriesStatistics
    lanes: tuple[LaneStatistics, ...]
    actors: tuple[ChildInfo, ...]


def gather(
    context: StoreContext, catalog: Catalog, root: Supervisor, tables: Mapping[type[Record], Table[Any]]
) -> StoreStatistics:
    """Return the numbers of an open store."""
    by_name = {table.name: table for table in tables.values()}
    shards = list(context.shards.values())
    checkpointer = context.checkpointer
    nested = root.child("shards")
    actors = root.which_children() + (nested.which_children() if isinstance(nested, Supervisor) else ())
    error = None if checkpointer is None else checkpointer.last_error
    return StoreStatistics(
        epoch=catalog.manifest.epoch,
        n_shards=len(shards),
        ram=context.config.ram,
        read_only=None if context.read_only is None else str(context.read_only),
        n_checkpoints=0 if checkpointer is None else checkpointer.n_done,
        checkpoint_bytes=sum(shard.checkpoint.n_bytes for shard in shards if shard.checkpoint is not None),
        log_bytes=0 if checkpointer is None else checkpointer.log_bytes(),
        last_checkpoint_error=None if error is None else str(error),
        tables=tuple(
            _table(context, name, by_name.get(name))
            for name in sorted(catalog.manifest.tables)
            if not is_companion(name)
        ),
        series=_series(context, catalog),
        lanes=tuple(_lanes(context)),
        actors=actors,
    )


def _table(context: StoreContext, name: str, table: Table[Any] | None) -> TableStatistics:
    tiers = context.tiers(name)
    gpu = None if table is None else table._gpu
    return TableStatistics(
        name=name,
        n_resident=sum(tier.n_resident() for tier in tiers),
        n_checkpointed=sum(tier.cold.n_records for tier in tiers if tier.cold is not None),
        checkpointed_bytes=sum(tier.cold.n_bytes for tier in tiers if tier.cold is not None),
        n_ephemeral=0 if table is None else len(table._ephemeral),
        columns=None if gpu is None else gpu.statistics(),
        columns_backend=None if gpu is None else "numpy",
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
        last_error=None if ager is None or ager.last_error is None else str(ager.last_error),
    )


def _lanes(context: StoreContext) -> list[LaneStatistics]:
    found = []
    for keeper in context.lanes:
        lane, report = keeper.lane, keeper.report
        if lane is None or report is None:
            continue
        torn = report.torn
        found.append(
            LaneStatistics(
                n_groups=lane.n_groups,
                n_bytes=lane.n_bytes,
                n_syncs=lane.n_syncs,
                segment=lane.active_number,
                lagging=lane.lagging,
                replayed_records=report.n_records,
                torn_tail=None
                if torn is None
                else f"{torn.path}: offset {torn.offset}, {torn.n_frames} frames behind it",
                damage=tuple(report.damage),
            )
        )
    return found
