"""What a store can tell about itself, as frozen data; `observe.gathering` gathers it.

Counts begin with ``n_``. Sizes are in bytes, times in seconds. "Since it was opened" means by this process. No record
is looked at to make any of this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from gpu_kernels import SlabStatistics
from warpstore.config import Durability
from warpstore.supervisor import ChildInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class TableStatistics:
    """One table.

    Attributes:
        name: Its name.
        n_resident: Values in RAM, replaced ones and tombstones included: dirty ones and clean ones.
        n_dirty: Those of them that no checkpoint holds yet.
        resident_bytes: Bytes of RAM that all of them take, with what finds them.
        dirty_bytes: Bytes of the dirty ones.
        n_checkpointed: Records in the checkpoints, on disk.
        checkpointed_bytes: Bytes of their values, on disk.
        n_ephemeral: Ephemeral values in RAM.
        record_cache_entries: Decoded records that its cache may hold; 0 where there is none.
        n_projections: Sets of fields that a compiled reader is kept for.
        columns: The slab of its `Gpu` fields, or None before the first lookup.
        columns_backend: What answers column lookups: "numpy"; None where there are none.
        n_columns_pending: Acknowledged writes that the next column lookup takes in first.
    """

    name: str
    n_resident: int
    n_dirty: int
    resident_bytes: int
    dirty_bytes: int
    n_checkpointed: int
    checkpointed_bytes: int
    n_ephemeral: int
    record_cache_entries: int
    n_projections: int
    columns: SlabStatistics | None
    columns_backend: str | None
    n_columns_pending: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardStatistics:
    """One shard.

    Attributes:
        index: Its number.
        state: Its actor's: "running", or where else it is in its life.
        takes_writes: Whether a write goes in now without waiting for a restart, or, in "interval" mode, for the disk.
        n_restarts: Times its actor was started again by itself, since its lane was last recovered.
        n_slots: Slots that it owns, of 256.
        n_resident: Values in RAM, over all tables; as for a table.
        n_dirty: Those of them that no checkpoint holds yet.
        n_mailbox_messages: Messages that wait for it: in "fsync" mode writes, at most ``mailbox_messages_max``.
        mailbox_bytes: Their bytes, at most ``mailbox_bytes_max``.
        n_mailbox_waiters: Callers that wait for room in its mailbox.
        n_pending: Relaxed writes that the log takes when the loop turns.
        lsn: The last LSN that it gave; 0 before the first write. In "memory" mode that of the last opening.
        checkpoint_lsn: The LSN up to which its checkpoint holds everything.
        checkpoint_bytes: Size of its checkpoint file.
    """

    index: int
    state: str
    takes_writes: bool
    n_restarts: int
    n_slots: int
    n_resident: int
    n_dirty: int
    n_mailbox_messages: int
    mailbox_bytes: int
    n_mailbox_waiters: int
    n_pending: int
    lsn: int
    checkpoint_lsn: int
    checkpoint_bytes: int

    @property
    def is_running(self) -> bool:
        """Whether its actor runs."""
        return self.state == "running"


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneStatistics:
    """One lane of the log. Its counts begin anew when it is recovered after a failure, as ``n_restarts`` shows.

    Attributes:
        index: Its number.
        state: Its actor's: "running", or where else it is in its life.
        n_restarts: Times it failed and was recovered since the store was opened.
        n_groups: Groups written.
        n_bytes: Bytes written.
        n_syncs: Syncs done.
        segment: Number of the segment that is being written; 0 while the lane is down.
        offset: Where in it the next group goes, in bytes.
        durable_segment: The segment of the position below which the log is durable; 0 while the lane is down.
        durable_offset: That position in it, in bytes.
        lagging: Whether writers wait for the disk.
        waits_for_space: Whether what was written waits for room on the disk.
        error: Why the lane is down, or why it takes no more, in words; None while it works.
        last_restart_reason: What it failed with last: the name of an exception's type; None if it never did.
        replayed_records: Records that the last recovery replayed.
        replayed_bytes: Bytes of log that it replayed.
        torn_tail: What it cut off the log, in words, or None.
        damage: What it left out because of ``on_corruption``, in words.
    """

    index: int
    state: str
    n_restarts: int
    n_groups: int
    n_bytes: int
    n_syncs: int
    segment: int
    offset: int
    durable_segment: int
    durable_offset: int
    lagging: bool
    waits_for_space: bool
    error: str | None
    last_restart_reason: str | None
    replayed_records: int
    replayed_bytes: int
    torn_tail: str | None
    damage: tuple[str, ...]

    @property
    def is_running(self) -> bool:
        """Whether its actor runs."""
        return self.state == "running"


@dataclass(frozen=True, slots=True, kw_only=True)
class TierStatistics:
    """The files of items in one place.

    Attributes:
        tier: Where: "ssd", "disk" or "archive".
        n_files: Files.
        n_bytes: Bytes of them.
        n_items: Items in them, those of records that are gone included.
    """

    tier: str
    n_files: int
    n_bytes: int
    n_items: int


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

    @property
    def tiers(self) -> tuple[TierStatistics, ...]:
        """The same by tier, also of those without files."""
        return tuple(
            TierStatistics(
                tier=tier,
                n_files=self.n_files.get(tier, 0),
                n_bytes=self.n_bytes.get(tier, 0),
                n_items=self.n_items.get(tier, 0),
            )
            for tier in ("ssd", "disk", "archive")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStatistics:
    """A store.

    Attributes:
        path: Its folder.
        durability: When an awaited write returns: "fsync", "interval" or "memory".
        epoch: How often it was opened.
        open_s: Seconds since it was opened.
        n_shards: Its shards.
        ram: The cap that was asked for, in bytes, or None.
        resident_bytes: Bytes that count against it: of all tables' values, and of what is kept with them.
        dirty_bytes: Those of values that no checkpoint holds yet.
        read_only: Why it takes no writes, in words, or None.
        n_restarts: Restarts of its actors since it was opened: lanes, the shards together, single shards, the
            checkpointer.
        n_checkpoints: Checkpoints since it was opened.
        n_checkpoints_failed: Checkpoints that failed since it was opened.
        checkpointing: Whether one is being written.
        checkpoint_bytes: Size of the current checkpoint files.
        checkpoint_bytes_written: Bytes of all checkpoint files written since it was opened.
        last_checkpoint_s: Seconds that the last one took, also if it failed; None before the first.
        last_checkpoint_at_s: When the last one that did not fail was finished, as unix seconds; None before the first.
        last_checkpoint_error: Why the last checkpoint failed, in words, or None.
        log_bytes: Bytes of log written since the last checkpoint.
        tables: Its tables, by name.
        shards: Its shards, by number.
        series: The items of `Temporal` fields that left their records.
        lanes: Its lanes, by number.
        actors: Its actors, supervisors' children flattened.
    """

    path: str
    durability: Durability
    epoch: int
    open_s: float
    n_shards: int
    ram: int | None
    resident_bytes: int
    dirty_bytes: int
    read_only: str | None
    n_restarts: int
    n_checkpoints: int
    n_checkpoints_failed: int
    checkpointing: bool
    checkpoint_bytes: int
    checkpoint_bytes_written: int
    last_checkpoint_s: float | None
    last_checkpoint_at_s: float | None
    last_checkpoint_error: str | None
    log_bytes: int
    tables: tuple[TableStatistics, ...]
    shards: tuple[ShardStatistics, ...]
    series: SeriesStatistics
    lanes: tuple[LaneStatistics, ...]
    actors: tuple[ChildInfo, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the same as dicts, lists, strings, numbers, bools and None: what ``json`` takes and gives back."""
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return plain
