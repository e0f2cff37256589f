"""The table of Prometheus metrics: of each, which number of the statistics it shows.

The number stays where it is documented, in ``statistics.py``; here it gets the name, kind and labels that Prometheus'
conventions ask for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

from warpstore.statistics import StoreStatistics

UP = "warpstore_up"
UP_WORDS = "Whether the store is open and its event loop answered in time."

_LABELS = {
    "series.tiers": ("tier", "tier"),
    "tables": ("table", "name"),
    "shards": ("shard", "index"),
    "lanes": ("lane", "index"),
}


@dataclass(frozen=True, slots=True)
class Family:
    """One metric.

    Attributes:
        kind: "counter", whose samples get ``_total`` behind the name; "gauge"; or "flag", a gauge of 1 or 0.
        name: Its name, without ``warpstore_``.
        words: What it tells, for its HELP line.
        value: The attribute of the statistics. Where it is None a flag is 0, and of anything else there is no sample.
        part: Where that is: "tables", "shards", "lanes" or "series.tiers", each with its label; "" for the store.
    """

    kind: Literal["counter", "gauge", "flag"]
    name: str
    words: str
    value: str
    part: str = ""

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of its labels."""
        return ("store", _LABELS[self.part][0]) if self.part else ("store",)

    def samples(self, statistics: StoreStatistics) -> Iterator[tuple[tuple[str, ...], float]]:
        """Yield the labels behind ``store`` and the value, of each part."""
        for part in attrgetter(self.part)(statistics) if self.part else (statistics,):
            value: Any = part
            for name in self.value.split("."):
                value = None if value is None else getattr(value, name)
            if self.kind == "flag":
                value = bool(value)
            if value is not None:
                yield ((str(getattr(part, _LABELS[self.part][1])),) if self.part else ()), float(value)


FAMILIES = (
    Family("gauge", "open_seconds", "Time since the store was opened.", "open_s"),
    Family("flag", "read_only", "Whether restarts were exhausted and no write is taken.", "read_only"),
    Family("counter", "restarts", "Restarts of lanes, shards and other actors.", "n_restarts"),
    Family("gauge", "ram_limit_bytes", "The cap on RAM that was asked for; absent without one.", "ram"),
    Family("gauge", "ram_resident_bytes", "RAM that counts against it.", "resident_bytes"),
    Family("gauge", "ram_dirty_bytes", "Of values that no checkpoint holds yet.", "dirty_bytes"),
    Family("counter", "checkpoints", "Checkpoints written since the store was opened.", "n_checkpoints"),
    Family("counter", "checkpoint_failures", "Checkpoints that failed since then.", "n_checkpoints_failed"),
    Family("counter", "checkpoint_written_bytes", "Checkpoint files written.", "checkpoint_bytes_written"),
    Family("gauge", "checkpoint_bytes", "Size of the current checkpoint files.", "checkpoint_bytes"),
    Family("flag", "checkpoint_running", "Whether a checkpoint is being written.", "checkpointing"),
    Family("flag", "checkpoint_last_failed", "Whether the last checkpoint failed.", "last_checkpoint_error"),
    Family("gauge", "checkpoint_last_duration_seconds", "How long the last checkpoint took.", "last_checkpoint_s"),
    Family(
        "gauge",
        "checkpoint_last_success_timestamp_seconds",
        "When the last checkpoint that did not fail was finished, as Unix time.",
        "last_checkpoint_at_s",
    ),
    Family("gauge", "log_since_checkpoint_bytes", "Log written since the last checkpoint.", "log_bytes"),
    Family("gauge", "table_resident_values", "Values in RAM, tombstones included.", "n_resident", "tables"),
    Family("gauge", "table_dirty_values", "Values in RAM that no checkpoint holds yet.", "n_dirty", "tables"),
    Family("gauge", "table_resident_bytes", "RAM of the values, with what finds them.", "resident_bytes", "tables"),
    Family("gauge", "table_dirty_bytes", "RAM of the dirty values.", "dirty_bytes", "tables"),
    Family("gauge", "table_checkpointed_records", "Records in the checkpoints.", "n_checkpointed", "tables"),
    Family("gauge", "table_checkpointed_bytes", "Values in the checkpoints.", "checkpointed_bytes", "tables"),
    Family("gauge", "table_ephemeral_values", "Ephemeral values in RAM.", "n_ephemeral", "tables"),
    Family("gauge", "columns_rows", "Live rows of Gpu columns; absent before a lookup.", "columns.rows", "tables"),
    Family("gauge", "columns_bytes", "Arrays of Gpu columns; absent before a lookup.", "columns.bytes_total", "tables"),
    Family("gauge", "columns_pending_writes", "Writes that the next lookup takes in.", "n_columns_pending", "tables"),
    Family("counter", "ageing_rounds", "Rounds of ageing that were complete.", "series.n_rounds"),
    Family("counter", "ageing_moved_items", "Items of series that left their records.", "series.n_items_moved"),
    Family("flag", "ageing_last_failed", "Whether the last round was not complete.", "series.last_error"),
    Family("gauge", "series_files", "Files of items of series.", "n_files", "series.tiers"),
    Family("gauge", "series_bytes", "Size of these files.", "n_bytes", "series.tiers"),
    Family("gauge", "series_items", "Items in them, those of records that are gone too.", "n_items", "series.tiers"),
    Family("flag", "shard_up", "Whether the shard runs.", "is_running", "shards"),
    Family("flag", "shard_takes_writes", "Whether a write goes in without waiting.", "takes_writes", "shards"),
    Family("counter", "shard_restarts", "Times the shard was started again.", "n_restarts", "shards"),
    Family("gauge", "shard_mailbox_messages", "Messages in the mailbox.", "n_mailbox_messages", "shards"),
    Family("gauge", "shard_mailbox_bytes", "Bytes in the mailbox.", "mailbox_bytes", "shards"),
    Family("gauge", "shard_mailbox_waiters", "Callers that wait for room in it.", "n_mailbox_waiters", "shards"),
    Family("gauge", "shard_pending_writes", "Relaxed writes that the log takes next.", "n_pending", "shards"),
    Family("gauge", "shard_lsn", "The last LSN that was given.", "lsn", "shards"),
    Family("flag", "log_up", "Whether the lane of the log runs.", "is_running", "lanes"),
    Family("counter", "log_restarts", "Times the lane failed and was recovered.", "n_restarts", "lanes"),
    Family("counter", "log_groups", "Groups written.", "n_groups", "lanes"),
    Family("counter", "log_written_bytes", "Bytes written.", "n_bytes", "lanes"),
    Family("counter", "log_syncs", "Syncs done.", "n_syncs", "lanes"),
    Family("gauge", "log_segment", "Number of the segment that is being written.", "segment", "lanes"),
    Family("gauge", "log_offset_bytes", "Where in it the next group goes.", "offset", "lanes"),
    Family("gauge", "log_durable_segment", "Segment up to which the log is durable.", "durable_segment", "lanes"),
    Family("gauge", "log_durable_offset_bytes", "Offset in it below which it is.", "durable_offset", "lanes"),
    Family("flag", "log_lagging", "Whether writers wait for the disk.", "lagging", "lanes"),
    Family("flag", "log_waits_for_space", "Whether the log waits for room on the disk.", "waits_for_space", "lanes"),
    Family("gauge", "log_replayed_records", "Records that the last recovery replayed.", "replayed_records", "lanes"),
)
