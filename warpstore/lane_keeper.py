"""The actor that keeps a lane: it recovers the lane's log when it starts, and ends when the lane is poisoned.

Its supervisor then starts another one and, after it, the shards of the lane: so what a failed sync left uncertain is
read back from disk, copied into a new segment and synced before anybody sees it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from wal import Lane, LaneConfig, Replay, Segment, Segments, WalError, log_event
from warpstore.actor import Actor
from warpstore.checkpoint import Checkpoint
from warpstore.errors import CorruptionError
from warpstore.hot_tier import HotTier
from warpstore.keys import slot_of, slot_range
from warpstore.lane_log import replay_lane
from warpstore.values import split_payload

if TYPE_CHECKING:
    from warpstore.catalog import Catalog
    from warpstore.context import StoreContext

logger = logging.getLogger(__name__)

FIRST_SEGMENT_BYTES = 4 << 20
"""The first segment after an opening is small, so that opening does not wait for a large one to be made."""

DISK = "disk"
"""The reason for which shards hold their writers while the lane lags."""

Tiers = dict[int, HotTier]


class Prepared(NamedTuple):
    """What a shard starts from."""

    tiers: Tiers
    checkpoint: Checkpoint | None
    lsn_next: int


class LaneKeeper(Actor[None, None]):
    """Keeps one lane.

    Attributes:
        lane: The open lane, or None.
        prepared: The hot tiers and the next LSN of each of its shards, as recovery left them, until the shard takes
            them.
        report: What the last recovery found.
    """

    def __init__(self, index: int, context: StoreContext, catalog: Catalog) -> None:
        super().__init__(f"lane {index}", loop=context.loop, clock=context.clock)
        self.index = index
        self.lane: Lane | None = None
        self.prepared: dict[int, Prepared] = {}
        self.report: Replay | None = None
        self._context = context
        self._catalog = catalog

    async def on_start(self) -> None:
        context, catalog = self._context, self._catalog
        segments = Segments(
            context.files,
            catalog.lane_directory(self.index),
            store_id=catalog.manifest.id_bytes,
            lane=self.index,
            epoch=catalog.manifest.epoch,
            zero_fill=context.config.durability == "fsync",
            salt=context.environment.random_u64,
        )
        began_s = context.clock.monotonic()
        lane = {"warpstore.lane": self.index}
        with context.tracing.span("recover_lane", under=context.tracing.apart(), attributes=lane) as span:
            active = await context.run(lambda: self._recover(segments))
            assert self.report is not None
            span.set("warpstore.replayed_records", self.report.n_records)
            span.set("warpstore.replayed_bytes", self.report.n_bytes)
        self._log_recovery(self.report, context.clock.monotonic() - began_s)
        config = context.config
        self.lane = Lane(
            segments,
            active,
            LaneConfig(
                durability="fsync" if config.durability == "fsync" else "interval",
                segment_bytes=config.segment_bytes,
                sync_interval_s=config.sync_interval_ms / 1000,
                mark_delay_s=config.mark_delay_ms / 1000,
            ),
            loop=context.loop,
            run=context.run,
            timer=context.environment.sync_timer(),
            monotonic=context.clock.monotonic,
            writer=context.files.durable_writer(context.loop),
            on_lag=self._on_lag,
            on_poisoned=self._on_poisoned,
            on_rotated=self._on_rotated,
        )

    def _log_recovery(self, report: Replay, seconds: float) -> None:
        lane = self.index
        n_records, n_bytes = report.n_records, report.n_bytes
        log_event(logger, logging.INFO, "lane_recovered", lane=lane, records=n_records, bytes=n_bytes, seconds=seconds)
        torn = report.torn
        if torn is not None:
            log_event(
                logger,
                logging.WARNING,
                "torn_tail_cut",
                lane=lane,
                path=torn.path,
                offset=torn.offset,
                bytes=torn.n_bytes,
                frames=torn.n_frames,
            )
        for words in report.damage:
            log_event(logger, logging.WARNING, "damage_left_out", lane=lane, what=words)

    def _recover(self, segments: Segments) -> Segment:
        """Read the log back, and return a durable segment that takes over from it; blocks."""
        context, catalog = self._context, self._catalog
        segments.remove_temporaries()
        shards = catalog.shards_of_lane(self.index)
        states: dict[int, tuple[Tiers, Checkpoint | None]] = {}
        try:
            for shard in shards:
                states[shard] = load_tiers(context, catalog, shard)
            return self._replayed(segments, states)
        except BaseException:
            self.prepared.clear()
            release_all(checkpoint for _, checkpoint in states.values())
            raise

    def _replayed(self, segments: Segments, states: dict[int, tuple[Tiers, Checkpoint | None]]) -> Segment:
        context, catalog = self._context, self._catalog
        entry = catalog.manifest.lanes[self.index]
        if catalog.is_covered(self.index):
            found = Replay(next_lsn=[shard.lsn + 1 for shard in catalog.manifest.shards])
            found.durable, found.next_number = entry.clean_end, (entry.clean_end >> 32) + 1
        else:
            found = replay_into(context, catalog, self.index, {shard: state[0] for shard, state in states.items()})
            if found.torn is not None:
                catalog.quarantine(found.torn)
        self.report = found
        for shard, state in states.items():
            self.prepared[shard] = Prepared(*state, found.next_lsn[shard])
        takeover = list(found.next_lsn)
        for stream, lsn, _ in found.tail:
            takeover[stream] = min(takeover[stream], lsn)
        n_bytes = min(context.config.segment_bytes, FIRST_SEGMENT_BYTES)
        active = segments.make(found.next_number, n_bytes, durable=found.durable, takeover=takeover, groups=found.tail)
        try:
            catalog.lane_opened(self.index, found.next_number)
        except BaseException:
            active.file.close()
            raise
        return active

    def _on_lag(self, lagging: bool) -> None:  # noqa: FBT001 - the lane calls it
        for index in self._catalog.shards_of_lane(self.index):
            shard = self._context.shards.get(index)
            if shard is not None and shard.is_alive:
                shard.hold_writers(DISK) if lagging else shard.release_writers(DISK)

    def _on_poisoned(self, error: WalError) -> None:
        if self.lane is not None:  # else it is being closed, and nothing is to be started again
            self.crash(error)

    def _on_rotated(self) -> None:
        self._catalog.on_rotated()

    async def close(self) -> int:
        """Close the lane cleanly; return the position where its log ends, 0 if it was poisoned."""
        lane, self.lane = self.lane, None
        return 0 if lane is None else await lane.close()

    async def on_stop(self) -> None:
        await self.close()
        self._release_prepared()

    def on_crash(self, error: BaseException) -> None:  # noqa: ARG002
        lane, self.lane = self.lane, None
        if lane is not None:
            lane.abandon()
        self._release_prepared()

    def _release_prepared(self) -> None:
        """Let go of the checkpoints that no shard has taken."""
        prepared, self.prepared = self.prepared, {}
        release_all(state.checkpoint for state in prepared.values())


def release_all(checkpoints: Iterable[Checkpoint | None]) -> None:
    """Release the checkpoints that there are."""
    for checkpoint in checkpoints:
        if checkpoint is not None:
            checkpoint.release()


def load_tiers(context: StoreContext, catalog: Catalog, shard: int) -> tuple[Tiers, Checkpoint | None]:
    """Return the hot tiers of a shard over its checkpoint, with nothing of the log; blocks.

    Raises:
        CorruptionError: the checkpoint is missing or damaged.
    """
    entry = catalog.manifest.shards[shard]
    checkpoint = None
    if entry.name:
        path = f"{catalog.checkpoint_directory}/{entry.name}"
        checkpoint = Checkpoint.open(
            context.files,
            path,
            store_id=catalog.manifest.id_bytes,
            shard=shard,
            pools=context.pools,
            blocks=context.blocks,
        )
        if checkpoint.lsn != entry.lsn:
            checkpoint.release()
            raise CorruptionError(f"{path}: it ends at LSN {checkpoint.lsn}, not {entry.lsn}", path=path, offset=0)
    slots = slot_range(shard, len(catalog.manifest.shards))
    tiers = {
        entry.table: HotTier(
            entry.table,
            slots,
            checkpoint,
            context.pools.get(entry.table),
            context.on_growth,
            blocks=context.blocks if catalog.parts(entry) else None,
        )
        for entry in catalog.manifest.tables.values()
    }
    return tiers, checkpoint


def replay_into(
    context: StoreContext,
    catalog: Catalog,
    lane: int,
    tiers: dict[int, Tiers],
    *,
    until: int | None = None,
    with_tail: bool = True,
) -> Replay:
    """Replay a lane's log, whole or through segment ``until``, into the hot tiers of some of its shards; blocks.

    Without its tail: only the groups below the last position that the log names as durable.

    Raises:
        CorruptionError: the log is damaged.
        FormatVersionError: a newer warpstore wrote it.
    """
    table_of = catalog.table_of_tag()

    def deliver(stream: int, lsn: int, payloads: list[bytes]) -> None:  # noqa: ARG001
        by_table = tiers[stream]
        for payload in payloads:
            tag, key, value = split_payload(payload)
            table = table_of.get(tag)
            if table is not None:
                by_table[table].put(slot_of(key), key, value)

    return replay_lane(
        context.files,
        catalog,
        lane,
        deliver,
        until=until,
        streams=frozenset(tiers),
        with_tail=with_tail,
        on_corruption=context.config.on_corruption,
    )
