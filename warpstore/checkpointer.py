"""The checkpointer: the actor that has checkpoints written, and then lets go of the log they cover.

A checkpoint is one cut over all shards. Each lane is sealed at a moment when everything applied is in its log; the hot
tiers freeze there. A child process makes the new files from the sealed segments and the checkpoints before; the
manifest names them; the tiers put them below what is newer; the log before the cut is recycled. A failed one leaves
nothing behind but the log.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from functools import partial
from typing import TYPE_CHECKING

from wal import Lane, Segments, WalError, log_event
from warpstore.actor import Actor, Call
from warpstore.checkpoint import Checkpoint, CheckpointJob, ShardJob, TableJob
from warpstore.checkpoint.job import LogJob
from warpstore.errors import UnavailableError, WarpstoreError
from warpstore.keys import slot_range
from warpstore.lane_keeper import release_all
from warpstore.manifest import CheckpointManifest
from warpstore.shard import Shard
from warpstore.strategy import Strategy
from warpstore.values import tombstone

if TYPE_CHECKING:
    from warpstore.catalog import Catalog
    from warpstore.context import StoreContext

logger = logging.getLogger(__name__)

GROUP_BYTES = 4 << 20
_LSN_MAX = 1 << 62


class Checkpointer(Actor[str, None]):
    """Writes checkpoints on request, and when the log has grown enough.

    Attributes:
        n_done: Checkpoints that it wrote; those of the store are counted in its `CheckpointHistory`.
    """

    def __init__(self, context: StoreContext, catalog: Catalog) -> None:
        super().__init__("checkpointer", loop=context.loop, clock=context.clock)
        self.n_done = 0
        self._context = context
        self._catalog = catalog
        self._log_bytes_done = 0

    async def on_start(self) -> None:
        self._catalog.on_rotated = self._rotated
        self._context.caps.checkpointer_started()

    async def on_stop(self) -> None:
        self._catalog.on_rotated = lambda: None

    def log_bytes(self) -> int:
        """Return the bytes of log written since the last checkpoint."""
        return sum(keeper.lane.n_bytes for keeper in self._context.lanes if keeper.lane) - self._log_bytes_done

    def _rotated(self) -> None:
        """Ask for a checkpoint if the log behind the last one is larger than it may be, or soon will be.

        The next look comes when the segment just begun is full.
        """
        checkpoints = sum(shard.checkpoint.n_bytes for shard in self._context.shards.values() if shard.checkpoint)
        limit = max(self._context.config.checkpoint_log_bytes, checkpoints // 2)
        ahead = sum(keeper.lane.active_bytes for keeper in self._context.lanes if keeper.lane) // 2
        if self.log_bytes() + ahead >= limit and self.is_alive and self.is_idle:
            self.cast_nowait("the log has grown")

    def handle_batch(self, messages: list[str | Call[str, None]]) -> Awaitable[None]:
        return self._answer(messages)

    async def _answer(self, messages: list[str | Call[str, None]]) -> None:
        """One checkpoint answers all who asked."""
        error: Exception | None = None
        reason = next(message.message if isinstance(message, Call) else message for message in messages)
        history, tracing = self._context.checkpoints, self._context.tracing
        under, links = tracing.asked()
        history.began()
        try:
            told = {"warpstore.reason": reason}
            with tracing.span("checkpoint", under=under, links=links, attributes=told) as span:
                await self._write()
                n_bytes = sum(s.checkpoint.n_bytes for s in self._context.shards.values() if s.checkpoint)
                span.set("warpstore.checkpoint_bytes", n_bytes)
            self.n_done += 1
            history.done(n_bytes)
            seconds = history.last_s
            log_event(logger, logging.INFO, "checkpoint_written", reason=reason, bytes=n_bytes, seconds=seconds)
        except (WarpstoreError, WalError, OSError) as e:
            error = e if isinstance(e, WarpstoreError) else UnavailableError(f"the checkpoint failed: {e}")
            error.__cause__ = None if error is e else e
            history.failed(error)
            log_event(logger, logging.WARNING, "checkpoint_failed", reason=reason, error=e)
        except BaseException as e:
            history.failed(e)
            raise
        self._context.caps.checkpointed(error)
        for message in messages:
            if isinstance(message, Call):
                message.reply(None) if error is None else message.fail(error)

    async def _write(self) -> None:
        context, catalog = self._context, self._catalog
        if context.closed is not None:  # the lanes are closed already, or will be in a moment
            raise context.closed
        if context.read_only is not None:
            raise context.read_only
        shards = [context.shards[i] for i in sorted(context.shards)]
        lsns = [0] * len(shards)
        bytes_at_cut = 0

        def cut_lane(index: int, lane: Lane) -> None:
            nonlocal bytes_at_cut
            bytes_at_cut += lane.n_bytes
            cut(catalog.shards_of_lane(index))

        def cut(indexes: range) -> None:
            for i in indexes:
                stream = shards[i].stream
                lsns[i] = shards[i].lsn_recovered if stream is None else stream.lsn_next - 1
                for tier in shards[i].tiers.values():
                    tier.begin_cut()

        try:
            if context.config.durability == "memory":
                cut(range(len(shards)))
                logs, first = await self._dump(shards), [entry.active for entry in catalog.manifest.lanes]
                after = [0] * len(shards)
            else:
                logs, first = [], []
                for keeper in context.lanes:
                    if keeper.lane is None:
                        raise UnavailableError(f"lane {keeper.index} is being closed or recovered")
                    sealed = await keeper.lane.cut(partial(cut_lane, keeper.index, keeper.lane))
                    directory = catalog.lane_directory(keeper.index)
                    start = catalog.manifest.lanes[keeper.index].first
                    logs.append(LogJob(directory, keeper.index, start, sealed))
                    first.append(sealed + 1)
                after = [entry.lsn for entry in catalog.manifest.shards]
            upto = [_LSN_MAX] * len(shards) if context.config.durability == "memory" else lsns
            await self._run(shards, logs, after, upto, lsns, first)
        except BaseException:
            for shard in shards:
                for tier in shard.tiers.values():
                    tier.abandon_cut()
            raise
        self._log_bytes_done = bytes_at_cut

    async def _run(
        self,
        shards: list[Shard],
        logs: list[LogJob],
        after: list[int],
        upto: list[int],
        lsns: list[int],
        first: list[int],
    ) -> None:
        context, catalog = self._context, self._catalog
        job = checkpoint_job(context, catalog, logs=logs, after=after, upto=upto, lsns=lsns, n_shards=len(shards))
        await context.environment.run_checkpoint(job)
        directory = catalog.checkpoint_directory

        def open_new() -> list[Checkpoint]:
            new: list[Checkpoint] = []
            try:
                context.files.sync_directory(directory)
                context.files.sync_directory(catalog.block_directory)
                for s in job.shards:
                    store_id = catalog.manifest.id_bytes
                    new.append(
                        Checkpoint.open(
                            context.files,
                            s.target,
                            store_id=store_id,
                            shard=s.shard,
                            pools=context.pools,
                            blocks=context.blocks,
                        )
                    )
                entries = [CheckpointManifest(c.path.rpartition("/")[2], c.lsn, c.block_numbers) for c in new]
                catalog.checkpointed(entries, first)
            except BaseException:
                release_all(new)
                raise
            return new

        def clean_up() -> None:
            let_go(context, catalog)
            for log in logs:
                if log.directory == self._dump_directory:
                    for name in context.files.list_directory(log.directory):
                        context.files.remove(f"{log.directory}/{name}")

        async with context.installing:
            for index, checkpoint in enumerate(await context.run(open_new)):
                shard = context.shards[index]  # it may have been started again since the cut
                before, shard.checkpoint = shard.checkpoint, checkpoint
                for tier in shard.tiers.values():
                    await tier.install(checkpoint, context.pause)
                if before is not None:
                    before.release()
            await context.run(clean_up)

    # "memory" mode: there is no log, so what is dirty becomes one.

    @property
    def _dump_directory(self) -> str:
        return f"{self._catalog.path}/dump"

    async def _dump(self, shards: list[Shard]) -> list[LogJob]:
        context, catalog = self._context, self._catalog
        current = {table.table: table.schemas[-1].tag for table in catalog.manifest.tables.values()}
        groups: list[tuple[int, int, list[bytes]]] = []
        for shard in shards:
            lsn = 1
            for tier in shard.tiers.values():
                for generation in reversed([g for g in tier.frozen if g.cut]):
                    for records in generation.maps:
                        tag = current.get(tier.table, 0)
                        payloads = [value or tombstone(tag, key) for key, value in records.items()]
                        if payloads:
                            groups.append((shard.index, lsn, payloads))
                            lsn += len(payloads)
                        await context.pause()

        def write() -> int:
            directory = self._dump_directory
            context.files.make_directory(directory)
            for name in context.files.list_directory(directory):
                context.files.remove(f"{directory}/{name}")
            segments = Segments(
                context.files,
                directory,
                store_id=catalog.manifest.id_bytes,
                lane=0,
                epoch=catalog.manifest.epoch,
                zero_fill=False,
                salt=context.environment.random_u64,
            )
            number, part, part_bytes = 0, [], 0
            next_lsn = [1] * len(shards)
            for group in groups:
                part.append(group)
                part_bytes += sum(map(len, group[2]))
                if part_bytes > GROUP_BYTES * 16 or group is groups[-1]:
                    number += 1
                    segments.make(number, 0, durable=0, takeover=next_lsn, groups=part).file.close()
                    for stream, lsn, payloads in part:
                        next_lsn[stream] = lsn + len(payloads)
                    part, part_bytes = [], 0
            return number

        n_segments = await context.run(write)
        return [LogJob(self._dump_directory, 0, 1, n_segments)] if n_segments else []


def let_go(context: StoreContext, catalog: Catalog) -> None:
    """Remove the checkpoints and recycle the log that neither the manifest nor a pin needs; blocks.

    One call at a time: hold ``context.installing``.

    Raises:
        OSError: a file could not be renamed or removed; the next call tries again.
    """
    catalog.remove_strays()
    for keeper in context.lanes:
        if keeper.lane is not None:
            keeper.lane.release(catalog.first_kept(keeper.index))


def checkpoint_job(
    context: StoreContext,
    catalog: Catalog,
    *,
    logs: list[LogJob],
    after: list[int],
    upto: list[int],
    lsns: list[int],
    n_shards: int,
) -> CheckpointJob:
    """Return the job that writes the checkpoints of all shards; it deals the slots anew if their number changes."""
    manifest = catalog.manifest
    number = catalog.take_checkpoint_number()
    directory = catalog.checkpoint_directory
    paths = [(f"{directory}/{entry.name}", i) for i, entry in enumerate(manifest.shards) if entry.name]
    same = n_shards == len(manifest.shards)
    shards = []
    for i in range(n_shards):
        slots = slot_range(i, n_shards)
        shards.append(
            ShardJob(
                shard=i,
                sources=[path for path in paths if path[1] == i] if same else paths,
                slots=(slots.start, slots.stop),
                lsn=lsns[i],
                target=f"{directory}/{number:08x}-{i:03d}.ckpt",
                salt=context.environment.random_u64(),
                blocks=(number << 8 | i) & 0xFFFFFFFF,
            )
        )
    tables = [
        TableJob(
            table.table,
            [entry.tag for entry in table.schemas],
            catalog.parts(table),
            context.strategies.get(name, Strategy()).bytes("compression_threshold") or 0,
        )
        for name, table in manifest.tables.items()
    ]
    return CheckpointJob(
        store_id=manifest.id_bytes,
        logs=logs,
        after=after,
        upto=upto,
        tables=tables,
        shards=shards,
        dealt_anew=not same,
        now_ms=int(context.clock.wall() * 1000),
        block_directory=catalog.block_directory,
        on_corruption=context.config.on_corruption,
    )
