"""A lane: one physical log that the streams of a process's shards share, written in group commits.

A shard asks for a turn when it has something to write. At the turn, once a loop iteration, the lane drains every shard
that asked: each gives the payloads of one group, and all groups go out in one write. So everything that woke up
in the same iteration shares that write, and its sync.

* ``fsync``: the write is made durable by the `DurableWriter`; one is under way at a time; when it is done the owners
  hear `on_durable`, and the next turn comes by ``call_soon``, so that the writers just woken join it.
* ``interval``: the write goes to the page cache at once; a `SyncTimer` makes it durable, on its own thread. `lagging`
  tells that the oldest record not yet durable is older than two intervals: owners then make writers wait.

Invariants: frames of a stream are written in LSN order; a segment's first group is written only after the seal of the
one before it (in ``fsync`` mode: only after that seal is durable); after a failed write or sync nothing more is
written.

The lane does not know what a payload is, and does not read.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from wal.errors import LogClosedError, LogFullError, LogPoisonedError, WalError
from wal.files import DurableWriter, File
from wal.format import SECTOR_BYTES, Kind, frame_bytes, pack_frame
from wal.segment import Segment, Segments
from wal.stream import Stream, StreamOwner
from wal.sync_timer import SyncTimer

Durability = Literal["fsync", "interval"]

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_Group = tuple[Stream, list[bytes]]
_Written = tuple[int, list[tuple[Stream, int]], list[File]]
"""What a sync of these files makes durable: the log up to a position, each stream up to an LSN."""

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_RESERVED_BYTES = 2 * SECTOR_BYTES  # a mark and the seal always fit behind the last group
_RETRY_S = 1.0
_WRITE_ON_LOOP_BYTES_MAX = 8 << 20


class Runner(Protocol):
    """Runs a blocking call without blocking the loop."""

    def __call__(self, call: Callable[[], _T]) -> Awaitable[_T]:
        """Return an awaitable for the call's result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneConfig:
    """How a lane writes.

    Attributes:
        durability: When a record counts as durable.
        segment_bytes: Size of a segment.
        sync_interval_s: Longest time until a written record is synced, in ``interval`` mode.
        mark_delay_s: How long the log is idle, in ``fsync`` mode, before a mark confirms the last group.
    """

    durability: Durability
    segment_bytes: int
    sync_interval_s: float
    mark_delay_s: float


class Lane:
    """Writes the log of some streams. Belongs to one event loop.

    Args:
        segments: Makes the segment files.
        active: The segment to write first, from `Segments.make`.
        config: How to write.
        loop: The event loop.
        run: Runs blocking calls.
        timer: Syncs in ``interval`` mode.
        monotonic: Returns seconds.
        writer: Makes writes durable, in ``fsync`` mode.
        on_lag: Called with True when writers must wait for the disk, with False when they need no longer.
        on_poisoned: Called once, after a failed write or sync, when the owners have heard.
        on_rotated: Called when another segment has begun.
    """

    def __init__(
        self,
        segments: Segments,
        active: Segment,
        config: LaneConfig,
        *,
        loop: asyncio.AbstractEventLoop,
        run: Runner,
        timer: SyncTimer,
        monotonic: Callable[[], float],
        writer: DurableWriter,
        on_lag: Callable[[bool], None],
        on_poisoned: Callable[[WalError], None],
        on_rotated: Callable[[], None],
    ) -> None:
        self.segments = segments
        self.streams: list[Stream] = []
        self.config = config
        self.n_syncs = 0
        self.n_groups = 0
        self.n_bytes = 0
        self.lagging = False
        self.durable = active.end
        self._active = active
        self._next: Segment | None = None
        self._preparing: asyncio.Task[None] | None = None
        self._loop = loop
        self._run = run
        self._timer = timer
        self._monotonic = monotonic
        self._writer = writer
        self._on_lag = on_lag
        self._on_poisoned = on_poisoned
        self._on_rotated = on_rotated
        self._fsync = config.durability == "fsync"
        self._ready: list[Stream] = []
        self._scheduled = False
        self._busy = False
        self._held: list[_Group] = []
        self._cuts: list[tuple[Callable[[], None], asyncio.Future[int]]] = []
        self._idle_waiters: list[asyncio.Future[None]] = []
        self._error: WalError | None = None
        self._space_error: OSError | None = None
        self._unsynced: list[File] = [active.file]
        self._published: _Written = (active.end, [], self._unsynced)
        self._unsynced_since: float | None = None
        self._sync_lock = threading.Lock()
        self._mark_timer: asyncio.TimerHandle | None = None
        self._marked = active.end
        if not self._fsync:
            timer.start(self._sync_tick, config.sync_interval_s)
        self._prepare_next(config.segment_bytes)

    def open_stream(self, index: int, owner: StreamOwner, lsn_next: int) -> Stream:
        """Return the stream ``index``, whose next record gets ``lsn_next``; an older owner of it is forgotten."""
        self.streams = [s for s in self.streams if s.index != index]
        self._ready = [s for s in self._ready if s.index != index]
        stream = Stream(index, owner, lsn_next)
        self.streams.append(stream)
        return stream

    @property
    def active_number(self) -> int:
        """Number of the segment that is being written."""
        return self._active.header.number

    @property
    def error(self) -> WalError | None:
        """Why nothing more is written, or None."""
        return self._error

    # The turn

    def request_turn(self, stream: Stream) -> None:
        """Have ``stream`` drained in the next turn. Idempotent within a turn."""
        if stream.asked:
            return
        stream.asked = True
        self._ready.append(stream)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled and not self._busy:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        if self._busy or self._error is not None:
            return
        if self._fsync and self._cuts and not self._held:
            self._cut()
        else:
            self._write_groups()
        if not self._fsync and self._cuts:
            self._cut()
        self._wake_idle()

    def flush(self) -> None:
        """Write what is pending now instead of at the next turn, unless a write is under way."""
        self._turn()

    def _write_groups(self) -> None:
        groups, self._held = self._held or self._drain(), []
        if groups:
            self._commit(groups)

    def _drain(self) -> list[_Group]:
        ready, self._ready = self._ready, []
        groups: list[_Group] = []
        for stream in ready:
            stream.asked = False
            payloads = stream.owner.take_group()
            if payloads:
                groups.append((stream, payloads))
        return groups

    def _commit(self, groups: list[_Group]) -> None:
        """Write as many of the groups as fit into the segment; hold the others for the turn after it."""
        segment = self._active
        room = segment.room() - _RESERVED_BYTES
        buffers: list[bytes] = []
        offset = segment.offset
        n = 0
        for stream, payloads in groups:
            span = frame_bytes(payloads)
            if span > room:
                break
            room -= span
            buffers += pack_frame(
                segment.header,
                offset,
                Kind.GROUP,
                stream=stream.index,
                lsn=stream.lsn_next,
                durable=self.durable,
                payloads=payloads,
            )
            offset += span
            stream.lsn_next += len(payloads)
            n += 1
        self._held = groups[n:]
        if n:
            self._write(groups[:n], buffers, offset - segment.offset)
        if self._held and not self._busy:
            self._rotate()

    def _write(self, groups: list[_Group], buffers: list[bytes], n_bytes: int) -> None:
        segment = self._active
        start = segment.offset
        self.n_groups += len(groups)
        self.n_bytes += n_bytes
        if self._fsync:
            self._busy = True
            self._writer.write(segment.file, buffers, start, lambda error: self._committed(groups, n_bytes, error))
            return
        if n_bytes > _WRITE_ON_LOOP_BYTES_MAX:
            self._busy = True
            task = asyncio.ensure_future(self._run(lambda: segment.file.write(buffers, start)))
            task.add_done_callback(lambda t: self._written_behind(n_bytes, t))
            return
        try:
            segment.file.write(buffers, start)
        except OSError as e:
            self._poison(e)
            return
        self._written(n_bytes)

    # fsync mode

    def _committed(self, groups: list[_Group], n_bytes: int, error: OSError | None) -> None:
        self._busy = False
        self.n_syncs += 1
        if error is not None:
            if error.errno in _NO_SPACE:
                self._undo(groups, error)
            else:
                self._poison(error)
            return
        self._active.offset += n_bytes
        self.durable = self._active.end
        for stream, payloads in groups:
            stream.lsn_durable += len(payloads)
            stream.owner.on_durable(stream.lsn_durable)
        self._go_on()

    def _go_on(self) -> None:
        if self._held:
            self._turn()
        elif self._ready or self._cuts:
            self._schedule()
        else:
            self._wake_idle()
            if self._fsync and self._mark_timer is None and self.durable != self._marked:
                self._mark_timer = self._loop.call_later(self.config.mark_delay_s, self._mark, self.durable)

    def _undo(self, groups: list[_Group], error: OSError) -> None:
        """The disk is full: wipe the group's first sector, so that no replay finds it, and tell the writers."""
        try:
            self._active.file.write([bytes(SECTOR_BYTES)], self._active.offset)
            self._active.file.sync()
        except OSError as e:
            self._poison(e)
            return
        refused = LogFullError(f"no space for a group of the log: {error}")
        for stream, payloads in groups:
            stream.lsn_next -= len(payloads)
            stream.owner.on_refused(refused)
        self._go_on()

    def _mark(self, durable: int) -> None:
        """Confirm the last group by a frame behind it, if the log was idle since."""
        self._mark_timer = None
        if self._busy or self._error is not None or self.durable == self._marked:
            return
        if self.durable != durable:
            self._mark_timer = self._loop.call_later(self.config.mark_delay_s, self._mark, self.durable)
            return
        segment = self._active
        buffers = pack_frame(segment.header, segment.offset, Kind.MARK, durable=durable)
        if self._fsync:
            self._busy = True
            self._writer.write(segment.file, buffers, segment.offset, self._marked_durable)
            return
        try:
            segment.file.write(buffers, segment.offset)
        except OSError as e:
            self._poison(e)
            return
        segment.offset += SECTOR_BYTES
        self._marked = self.durable = segment.end

    def _marked_durable(self, error: OSError | None) -> None:
        self._busy = False
        if error is not None:
            self._poison(error)
            return
        self._active.offset += SECTOR_BYTES
        self._marked = self.durable = self._active.end
        self._go_on()

    # interval mode

    def _written_behind(self, n_bytes: int, task: asyncio.Future[int]) -> None:
        self._busy = False
        error = task.exception()
        if error is not None:
            self._poison(error)
            return
        self._written(n_bytes)
        self._go_on()

    def _written(self, n_bytes: int) -> None:
        self._active.offset += n_bytes
        self._publish()
        now = self._monotonic()
        if self._unsynced_since is None:
            self._unsynced_since = now
        elif not self.lagging and now - self._unsynced_since > 2 * self.config.sync_interval_s:
            self.lagging = True
            self._on_lag(True)
        self._timer.arm()

    def _publish(self) -> None:
        """Hand the thread that syncs one consistent view, in one assignment."""
        lsns = [(stream, stream.lsn_next - 1) for stream in self.streams]
        self._published = (self._active.end, lsns, self._unsynced)

    def _sync_tick(self) -> None:
        """Sync what is written; runs in the timer's thread, or in one of `sync`."""
        with self._sync_lock:
            if self._error is not None:
                return
            captured = self._monotonic()
            written = self._published
            error: OSError | None = None
            try:
                for file in written[2]:
                    file.sync()
            except OSError as e:
                error = e
            try:
                self._loop.call_soon_threadsafe(self._synced, captured, written, error)
            except RuntimeError:
                logger.warning("event=synced_after_loop_closed lane=%s", self.segments.directory)

    def _synced(self, captured: float, written: _Written, error: OSError | None) -> None:
        end, lsns, files = written
        self.n_syncs += 1
        if self._error is not None:
            return
        if error is not None:
            self._poison(error)
            return
        done = [file for file in files if file is not self._active.file]
        if done:
            self._unsynced = [file for file in self._unsynced if file not in done]
            for file in done:
                file.close()
        self.durable = max(self.durable, end)
        for stream, lsn in lsns:
            if lsn > stream.lsn_durable:
                stream.lsn_durable = lsn
                stream.owner.on_durable(lsn)
        behind = self._active.end > end
        self._unsynced_since = captured if behind else None
        if behind:
            self._timer.arm()
        elif self._active.end != self._marked and self._active.room() > _RESERVED_BYTES:
            self._mark(self.durable)
        if self.lagging and not behind:
            self.lagging = False
            self._on_lag(False)

    # Rotation

    def _rotate(self) -> None:
        """Seal the segment and go on in the next; without a next one, hold everything until it is there."""
        needed = sum(frame_bytes(payloads) for _, payloads in self._held[:1]) + 2 * _RESERVED_BYTES
        following = self._next
        if following is None or following.room() < needed:
            if self._space_error is not None and self._fsync:
                held, self._held = self._held, []
                for stream, _ in held:
                    stream.owner.on_refused(LogFullError(f"no space for the next segment: {self._space_error}"))
                return
            self._busy = True  # until the segment is prepared
            if following is not None:
                following.file.close()
                self._next = None
            self._prepare_next(max(self.config.segment_bytes, 2 * needed))
            return
        self._seal(self._after_rotation)

    def _after_rotation(self) -> None:
        if self._held or self._ready or self._cuts:
            self._turn()

    def _seal(self, then: Callable[[], None]) -> None:
        segment = self._active
        buffers = pack_frame(segment.header, segment.offset, Kind.SEAL, durable=self.durable)
        if not self._fsync:
            try:
                segment.file.write(buffers, segment.offset)
            except OSError as e:
                self._poison(e)
                return
            self._switch()
            self._timer.arm()
            then()
            return
        self._busy = True

        def sealed(error: OSError | None) -> None:
            self._busy = False
            if error is not None:
                self._poison(error)
                return
            self._switch()
            then()
            if not self._busy:
                self._go_on()

        self._writer.write(segment.file, buffers, segment.offset, sealed)

    def _switch(self) -> None:
        following = self._next
        assert following is not None
        before, self._active, self._next = self._active, following, None
        if self._fsync:
            before.file.close()
            self.durable = following.end
            self._unsynced = [following.file]
        else:
            self._unsynced = [*self._unsynced, following.file]
            self._publish()
        self._marked = following.end
        self._prepare_next(self.config.segment_bytes)
        self._on_rotated()

    def _prepare_next(self, segment_bytes: int) -> None:
        if self._preparing is None and self._next is None:
            self._preparing = self._loop.create_task(self._prepare(segment_bytes))

    async def _prepare(self, segment_bytes: int) -> None:
        number, durable = self._active.header.number + 1, self.durable
        try:
            self._next = await self._run(lambda: self.segments.make(number, segment_bytes, durable=durable))
            self._space_error = None
        except OSError as e:
            logger.warning("event=segment_not_made number=%d error=%s", number, e)
            self._space_error = e
            self._loop.call_later(_RETRY_S, self._prepare_again, segment_bytes)
        finally:
            self._preparing = None
        if self._held or self._cuts:
            self._busy = False
            self._rotate() if self._held else self._turn()

    def _prepare_again(self, segment_bytes: int) -> None:
        if self._error is None:
            self._prepare_next(segment_bytes)

    # Cuts

    async def cut(self, at_cut: Callable[[], None]) -> int:
        """Seal the segment at a moment when every record applied so far is in the log; return the sealed number.

        Args:
            at_cut: Called at that moment. Records that are written later go to later segments.

        Raises:
            WalError: the lane is closed or poisoned.
        """
        if self._error is not None:
            raise self._error
        future: asyncio.Future[int] = self._loop.create_future()
        self._cuts.append((at_cut, future))
        self._schedule()
        return await future

    def _cut(self) -> None:
        if self._busy or self._held:
            return  # the turn after the one under way cuts
        if self._next is None:
            self._prepare_next(self.config.segment_bytes)
            return  # the turn after the preparation cuts
        cuts, self._cuts = self._cuts, []
        number = self.active_number
        for at_cut, _ in cuts:
            at_cut()

        def sealed() -> None:
            for _, future in cuts:
                if not future.done():
                    future.set_result(number)
            self._after_rotation()

        self._seal(sealed)

    def release(self, before: int) -> None:
        """Recycle the segments below ``before``; blocks, call it off the loop.

        Raises:
            OSError: a file could not be renamed or removed.
        """
        self.segments.release(before)

    # Sync, failure, close

    async def sync(self) -> None:
        """Return when everything written before the call is durable.

        Raises:
            WalError: it failed; the lane is poisoned.
        """
        await self._idle()
        if not self._fsync and self._error is None:
            await self._run(self._sync_tick)
            await asyncio.sleep(0)  # `_synced` runs before this returns
        if self._error is not None:
            raise self._error

    async def settled(self) -> None:
        """Return when nothing is pending or being written. Does not sync."""
        await self._idle()

    async def _idle(self) -> None:
        while self._error is None and (self._busy or self._ready or self._held):
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._idle_waiters.append(waiter)
            self._schedule()
            await waiter

    def _wake_idle(self) -> None:
        if self._error is None and (self._busy or self._ready or self._held):
            return
        waiters, self._idle_waiters = self._idle_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _poison(self, cause: BaseException) -> None:
        if self._error is not None:
            return
        error = LogPoisonedError(f"writing the log in {self.segments.directory} failed: {cause}")
        error.__cause__ = cause
        logger.error("event=lane_poisoned directory=%s error=%s", self.segments.directory, cause)
        self._fail(error)
        self._on_poisoned(error)

    def _fail(self, error: WalError) -> None:
        self._error = error
        self._busy = False
        self._held = []
        self._ready = []
        for stream in self.streams:
            stream.owner.on_failed(error)
        for _, future in self._cuts:
            if not future.done():
                future.set_exception(error)
        self._cuts = []
        self._wake_idle()

    async def close(self) -> int:
        """Write, seal and sync everything; return the position where the log ends.

        Returns:
            The end for the manifest, or 0 if the lane is poisoned: then the next open replays.
        """
        await self._idle()
        if self._mark_timer is not None:
            self._mark_timer.cancel()
        if self._preparing is not None:
            await asyncio.wait([self._preparing])
        await self._idle()
        end = 0
        if not self._fsync:
            await self._run(self._timer.stop)
        if self._error is None:
            segment = self._active
            seal = pack_frame(segment.header, segment.offset, Kind.SEAL, durable=self.durable)

            def finish() -> None:
                segment.file.write(seal, segment.offset)
                for file in self._unsynced:
                    file.sync()

            try:
                await self._run(finish)
                segment.offset += SECTOR_BYTES
                end = segment.end
                for stream in self.streams:
                    if stream.lsn_next - 1 > stream.lsn_durable:
                        stream.lsn_durable = stream.lsn_next - 1
                        stream.owner.on_durable(stream.lsn_durable)
            except OSError as e:
                self._poison(e)
        self._release_files()
        if self._error is None:
            self._error = LogClosedError("the log is closed")
        return end

    def abandon(self) -> None:
        """Let go of the files of a poisoned lane. Nothing is written any more."""
        if self._mark_timer is not None:
            self._mark_timer.cancel()
        if self._error is None:
            self._fail(LogClosedError("the log was abandoned"))
        if not self._fsync:
            self._loop.run_in_executor(None, self._timer.stop)
        self._release_files()

    def _release_files(self) -> None:
        self._writer.close()
        for file in [*self._unsynced, self._active.file]:
            file.close()
        if self._next is not None:
            self._next.file.close()
            self._next = None
