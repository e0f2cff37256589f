"""A lane: one physical log that the streams of a process's shards share, written in group commits.

A shard asks for a turn when it has something to write. At the turn, once a loop iteration, the lane drains every shard
that asked: each gives the payloads of one group, and all groups go out in one write. So everything that woke up
in the same iteration shares that write, and its sync.

* ``fsync``: the write is made durable by the `DurableWriter`; one is under way at a time. When it is done the owners
  hear `on_durable`, those who waited are woken, and what they write next joins the turn that follows at once.
* ``interval``: the write goes to the page cache at once; `IntervalSync` makes it durable, on a thread. `lagging` tells
  that writers must wait: the oldest record not yet durable is older than two intervals, or there is no room to write.

Invariants: frames of a stream are written in LSN order; one write is under way at a time; a segment's first group is
written only after the seal of the one before it (in ``fsync`` mode: only after that seal is durable); after a failed
write or sync nothing more is written. A full disk is no failure: in ``fsync`` mode the group is undone and refused, in
``interval`` mode, where its writers have gone on, it is held and tried again each second.

The lane does not know what a payload is, and does not read.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable
from typing import TypeGuard

from wal.errors import LogClosedError, LogFullError, LogPoisonedError, WalError
from wal.events import log_event
from wal.files import DurableWriter
from wal.format import HEADER_BYTES, SECTOR_BYTES, Kind, frame_bytes, pack_frame
from wal.interval_sync import IntervalSync, Written
from wal.lane_config import LaneConfig, Runner
from wal.next_segment import RETRY_S, NextSegment
from wal.segment import Segment, Segments
from wal.stream import Stream, StreamOwner
from wal.sync_timer import SyncTimer

logger = logging.getLogger(__name__)

_Group = tuple[Stream, list[bytes]]
_Cut = tuple[Callable[[], None], asyncio.Future[int]]
_Done = Callable[[Exception | None], None]

_RESERVED_BYTES = 2 * SECTOR_BYTES  # a mark and the seal always fit behind the last group
_WRITE_ON_LOOP_BYTES_MAX = 8 << 20


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

    Attributes:
        durable: The position below which the log is durable.
        lagging: Whether writers must wait for the disk.
        n_groups: Groups written.
        n_bytes: Their bytes in the log.
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
        self.n_groups = 0
        self.n_bytes = 0
        self.lagging = False
        self.durable = active.end
        self._active = active
        self._loop = loop
        self._run = run
        self._writer = writer
        self._on_lag = on_lag
        self._on_poisoned = on_poisoned
        self._on_rotated = on_rotated
        self._ready: list[Stream] = []
        self._held: list[_Group] = []  # drained; for the next write, or for the next segment
        self._scheduled = False
        self._busy = False  # a write is under way
        self._stalled = False  # what is held waits for a segment, or for space
        self._full: OSError | None = None  # in "interval" mode: why it waits for space
        self._retry: asyncio.TimerHandle | None = None
        self._behind: asyncio.Future[int] | None = None  # a write off the loop
        self._n_commits = 0
        self._n_drains = 0
        self._idle_waiters: list[tuple[int, asyncio.Future[None], bool]] = []
        self._cuts: list[_Cut] = []
        self._cutting: list[_Cut] = []
        self._error: WalError | None = None
        self._mark_timer: asyncio.TimerHandle | None = None
        self._marked = active.end
        self._letting_go: asyncio.Task[None] | None = None
        self._sync: IntervalSync | None = None
        if config.durability == "interval":
            self._sync = IntervalSync(
                active,
                timer,
                config.sync_interval_s,
                loop=loop,
                run=run,
                monotonic=monotonic,
                on_synced=self._synced,
                on_failed=self._poison,
            )
        self._next = NextSegment(segments, loop=loop, run=run, on_change=self._next_changed)
        self._prepare()

    def open_stream(self, index: int, owner: StreamOwner, lsn_next: int) -> Stream:
        """Return the stream ``index``, whose next record gets ``lsn_next``; an older owner of it is forgotten."""
        self.streams = [s for s in self.streams if s.index != index]
        self._ready = [s for s in self._ready if s.index != index]
        stream = Stream(index, owner, lsn_next)
        self.streams.append(stream)
        return stream

    @property
    def n_syncs(self) -> int:
        """Syncs that were heard of."""
        return self._n_commits if self._sync is None else self._sync.n_syncs

    @property
    def active_number(self) -> int:
        """Number of the segment that is being written."""
        return self._active.header.number

    @property
    def active_bytes(self) -> int:
        """Size of the segment that is being written."""
        return self._active.header.segment_bytes

    @property
    def is_fresh(self) -> bool:
        """Whether the segment that is being written holds no frame, and none is on its way."""
        return self._active.offset == HEADER_BYTES and not (self._busy or self._held or self._ready)

    def lsn_taken(self, stream: Stream) -> int:
        """Return the LSN of the last record that this lane took from a stream, written or not."""
        return stream.lsn_next - 1 + sum(len(payloads) for held, payloads in self._held if held is stream)

    @property
    def end(self) -> int:
        """The position where the next group goes."""
        return self._active.end

    @property
    def waits_for_space(self) -> bool:
        """Whether what is held waits for room on the disk."""
        return self._stalled and (self._full is not None or self._next.error is not None)

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
        if not self._scheduled:
            self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled and not self._busy and not self._stalled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def flush(self) -> None:
        """Write what is pending now instead of at the next turn, unless a write is under way."""
        self._turn()

    def _turn(self) -> None:
        self._scheduled = False
        if self._busy or self._stalled or self._error is not None:
            return
        # A cut comes when all that was applied is in the log. In fsync mode nothing is applied before it is durable; in
        # interval mode what is pending has been applied, and is written first.
        if self._cuts and self._sync is None:
            self._cut()
        if not self._busy:
            groups, self._held = self._held or self._drain(), []
            if groups:
                self._commit(groups)
        if self._cuts and self._sync is not None:
            self._cut()
        if self._idle_waiters:
            self._wake_idle()

    def _drain(self) -> list[_Group]:
        self._n_drains += 1
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
        room = segment.header.segment_bytes - segment.offset - _RESERVED_BYTES
        buffers: list[bytes] = []
        offset = segment.offset
        n = 0
        try:
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
        except ValueError as e:  # a group that no reader would take for one
            self._poison(e)
            return
        self._held = groups[n:]
        if not n:
            self._rotate()
            return
        n_bytes = offset - segment.offset
        written = groups[:n]
        self.n_groups += n
        self.n_bytes += n_bytes
        self._write(buffers, n_bytes, lambda error: self._committed(written, n_bytes, error))

    def _write(self, buffers: list[bytes], n_bytes: int, done: _Done) -> None:
        """Write at the end of the segment, and call ``done``: in fsync mode when it is durable."""
        file, offset = self._active.file, self._active.offset
        if self._sync is None:
            self._busy = True
            self._writer.write(file, buffers, offset, done)
        elif n_bytes > _WRITE_ON_LOOP_BYTES_MAX:
            self._busy = True
            self._behind = asyncio.ensure_future(self._run(lambda: file.write(buffers, offset)))
            self._behind.add_done_callback(lambda task: done(task.exception()))  # type: ignore[arg-type]
        else:
            error: OSError | None = None
            try:
                file.write(buffers, offset)
            except OSError as e:
                error = e
            done(error)

    def _failed(self, error: Exception | None) -> bool:
        """Return whether a write that has ended does not count, because of its failure or the lane's end."""
        self._busy = False
        if self._error is not None:
            return True
        if error is not None and not _is_no_space(error):
            self._poison(error)
            return True
        return False

    def _committed(self, groups: list[_Group], n_bytes: int, error: Exception | None) -> None:
        self._n_commits += 1
        if self._failed(error):
            return
        if error is not None and _is_no_space(error):
            self._undo(groups, error)
            return
        self._active.offset += n_bytes
        try:
            if self._sync is None:
                self._durable(groups)
            else:
                self._sync.written(self._active.end, [(stream, stream.lsn_next - 1) for stream in self.streams])
                self._set_lagging(self._sync.is_late)
        finally:
            self._go_on()

    def _durable(self, groups: list[_Group]) -> None:
        """Tell whom the groups are of, wake who waited for them, and take the turn for what they write next."""
        self.durable = self._active.end
        self._scheduled = True  # the turn below: what is asked for meanwhile needs no other
        wakes: list[Callable[[], None]] = []
        for stream, payloads in groups:
            stream.lsn_durable += len(payloads)
            wake = stream.owner.on_durable(stream.lsn_durable)
            if wake is not None:
                wakes.append(wake)
        if self._idle_waiters:
            self._wake_idle()
        waiting = iter(wakes)
        try:
            for wake in waiting:
                wake()
        finally:
            for wake in waiting:  # one has raised what ends a loop: the others hear it when the loop runs on
                self._loop.call_soon(wake)
            self._turn()

    def _undo(self, groups: list[_Group], error: OSError) -> None:
        """The disk is full: nothing of the write may count."""
        for stream, payloads in groups:
            stream.lsn_next -= len(payloads)
        if self._sync is not None:
            self._held = groups + self._held
            self._try_again(error)
            return
        offset = self._active.offset
        try:
            for _, payloads in groups:  # some may be on disk whole, and would count behind a shorter write
                self._active.file.write([bytes(SECTOR_BYTES)], offset)
                offset += frame_bytes(payloads)
            self._active.file.sync()
        except OSError as e:
            self._poison(e)
            return
        self._refuse(groups, error)
        self._go_on()

    def _refuse(self, groups: list[_Group], error: OSError) -> None:
        refused = LogFullError(f"the log in {self.segments.directory} has no space: {error}")
        refused.__cause__ = error
        for stream, _ in groups:
            stream.owner.on_refused(refused)

    def _go_on(self) -> None:
        """After a write: have done what waited for it."""
        if self._held:
            self._turn()
        if self._busy or self._error is not None:
            return
        if self._ready or self._cuts:
            self._schedule()
        elif self._sync is None and self._mark_timer is None and self._active.end != self._marked:
            self._mark_timer = self._loop.call_later(self.config.mark_delay_s, self._mark_due, self._active.end)
        self._wake_idle()

    # Marks

    def _mark_due(self, end: int) -> None:
        """Confirm the last group by a frame behind it, if the log was idle since."""
        self._mark_timer = None
        if self._busy or self._error is not None or self._active.end == self._marked:
            return
        if self._active.end != end:
            self._mark_timer = self._loop.call_later(self.config.mark_delay_s, self._mark_due, self._active.end)
            return
        self._mark()

    def _mark(self) -> None:
        buffers = pack_frame(self._active.header, self._active.offset, Kind.MARK, durable=self.durable)
        self._write(buffers, SECTOR_BYTES, self._mark_written)

    def _mark_written(self, error: Exception | None) -> None:
        if self._failed(error):
            return
        if error is None:
            self._active.offset += SECTOR_BYTES
            if self._sync is None:
                self.durable = self._active.end
            else:
                self._sync.marked(self._active.end)
        self._marked = self._active.end  # without space for it, the next group is marked
        self._go_on()

    # Interval mode

    def _synced(self, written: Written, behind: bool) -> None:  # noqa: FBT001 - a callback
        self.durable = written.end
        for stream, lsn in written.lsns:
            if lsn > stream.lsn_durable:
                self._tell(stream, lsn)
        assert self._sync is not None
        self._set_lagging(self._stalled or self._sync.is_late)
        idle = not (behind or self._busy or self._stalled) and self._error is None
        if idle and self._active.end != self._marked:
            self._mark()

    def _tell(self, stream: Stream, lsn: int) -> None:
        stream.lsn_durable = lsn
        wake = stream.owner.on_durable(lsn)
        if wake is not None:
            self._loop.call_soon(wake)

    def _set_lagging(self, lagging: bool) -> None:  # noqa: FBT001
        if lagging != self.lagging:
            self.lagging = lagging
            self._on_lag(lagging)

    def _stall(self, error: OSError | None) -> None:
        """Keep what is held until `_resume`; in interval mode its writers must not go on without end."""
        self._stalled = True
        if self._sync is not None:
            self._full = error
            self._set_lagging(True)
        if error is not None:
            self._refuse_cuts(error)
        self._wake_idle()

    def _try_again(self, error: OSError) -> None:
        """In interval mode there was no space for a write."""
        self._retry = self._loop.call_later(RETRY_S, self._resume)
        self._stall(error)

    def _resume(self) -> None:
        self._stalled = False
        self._full = None
        if self._retry is not None:
            self._retry.cancel()
        if not self._busy:
            self._turn()

    # Rotation

    def _prepare(self, needed: int = 0) -> None:
        """Have the next segment made: twice as large as this one, up to the size asked for.

        Making one writes all of it; so an idle log costs little, and a busy one has the next in time.
        """
        segment_bytes = max(needed, min(self.config.segment_bytes, 2 * self._active.header.segment_bytes))
        self._next.prepare(self._active.header.number + 1, segment_bytes, durable=self.durable)

    def _next_changed(self) -> None:
        if self._stalled or self._cuts:
            self._resume()

    def _rotate(self) -> None:
        """Seal the segment for the first held group; hold all of them until there is a next segment with room."""
        needed = frame_bytes(self._held[0][1]) + 2 * _RESERVED_BYTES
        following = self._next.ready
        if following is not None and following.room() >= needed:
            self._seal()
        elif self._next.error is not None and self._sync is None:
            self._prepare()
            held, self._held = self._held, []
            self._refuse(held, self._next.error)
            self._go_on()
        else:
            self._next.drop()
            self._prepare(2 * needed)
            self._stall(self._next.error)

    def _seal(self) -> None:
        buffers = pack_frame(self._active.header, self._active.offset, Kind.SEAL, durable=self.durable)
        self._write(buffers, SECTOR_BYTES, self._sealed)

    def _sealed(self, error: Exception | None) -> None:
        if self._failed(error):
            return
        cuts, self._cutting = self._cutting, []
        if _is_no_space(error):
            self._cuts += cuts
            self._no_space_to_seal(error)
            return
        number = self.active_number
        for at_cut, future in cuts:
            if not future.done():
                at_cut()
                future.set_result(number)
        before, self._active = self._active, self._next.take()
        if self._sync is None:
            before.file.close()
            self.durable = self._active.end
        else:
            self._sync.rotated(self._active)
        self._marked = self._active.end
        self._prepare()
        self._on_rotated()
        self._go_on()

    def _no_space_to_seal(self, error: OSError) -> None:
        self._refuse_cuts(error)
        if self._sync is None:
            held, self._held = self._held, []
            self._refuse(held, error)
            self._go_on()
        elif self._held:
            self._try_again(error)

    # Cuts

    async def cut(self, at_cut: Callable[[], None]) -> int:
        """Seal the segment at a moment when every record applied so far is in the log; return the sealed number.

        Args:
            at_cut: Called at that moment. Records that are written later go to later segments.

        Raises:
            WalError: the lane is closed or poisoned, or there is no space for the next segment.

        Cancellation:
            Nothing is cut, or it is cut and ``at_cut`` was called.
        """
        if self._error is not None:
            raise self._error
        if self._full is not None:
            raise LogFullError(f"no space for what comes before the cut: {self._full}")
        future: asyncio.Future[int] = self._loop.create_future()
        self._cuts.append((at_cut, future))
        self._schedule()
        return await future

    def _cut(self) -> None:
        if self._busy or self._held:
            return  # the turn after the one under way cuts
        self._cuts = [cut for cut in self._cuts if not cut[1].done()]
        if not self._cuts:
            return
        if self._next.ready is not None:
            self._cutting, self._cuts = self._cuts, []
            self._seal()
        elif self._next.error is not None:
            self._refuse_cuts(self._next.error)

    def _refuse_cuts(self, error: OSError) -> None:
        cuts, self._cuts = self._cuts, []
        _fail(cuts, LogFullError(f"the log in {self.segments.directory} has no space for a cut: {error}"))

    def release(self, before: int) -> None:
        """Recycle the segments below ``before``; blocks, call it off the loop.

        Raises:
            OSError: a file could not be renamed or removed.
        """
        self.segments.release(min(before, self.active_number), spare_bytes=self.config.segment_bytes)

    # Waiting

    async def sync(self) -> None:
        """Return when everything written before the call is durable.

        Raises:
            LogFullError: there is no space; what is held is tried again.
            WalError: it failed; the lane is poisoned.
        """
        await self._idle()
        if self._full is not None and self._error is None:
            raise LogFullError(f"what was written waits for space: {self._full}")
        if self._sync is not None and self._error is None:
            await self._sync.sync()
        if self._error is not None:
            raise self._error

    async def settled(self) -> None:
        """Return when what is pending now has been written, or waits for space. Does not sync."""
        await self._idle()

    async def _idle(self, *, last: bool = False) -> None:
        """Return when what was asked for before has been written.

        Args:
            last: Whether nothing may be written from then on.
        """
        if not self._busy and not self._held and not self._ready:
            self._busy = last
            return
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._idle_waiters.append((self._n_drains + bool(self._ready), waiter, last))
        self._schedule()
        self._wake_idle()
        await waiter

    def _wake_idle(self) -> None:
        if not self._idle_waiters:
            return
        waits = self._idle_waiters
        if self._error is None and self._full is None:
            if self._busy or self._held:
                return
            self._idle_waiters = [wait for wait in waits if wait[0] > self._n_drains]
            waits = [wait for wait in waits if wait[0] <= self._n_drains]
        else:
            self._idle_waiters = []
        for _, waiter, last in waits:
            self._busy = self._busy or last
            if not waiter.done():
                waiter.set_result(None)

    # Failure and end

    def _poison(self, cause: BaseException) -> None:
        if self._error is not None:
            return
        error = LogPoisonedError(f"writing the log in {self.segments.directory} failed: {cause}")
        error.__cause__ = cause
        log_event(logger, logging.ERROR, "lane_poisoned", directory=self.segments.directory, error=cause)
        self._fail(error)
        self._on_poisoned(error)

    def _fail(self, error: WalError) -> None:
        self._error = error
        if self._sync is not None:
            self._sync.end()
        self._held = []
        self._ready = []
        for stream in self.streams:
            stream.owner.on_failed(error)
        self._end_waits(error)

    def _end_waits(self, error: WalError) -> None:
        cuts, self._cuts, self._cutting = [*self._cuts, *self._cutting], [], []
        _fail(cuts, error)
        self._wake_idle()

    def _cancel_timers(self) -> None:
        for timer in (self._mark_timer, self._retry):
            if timer is not None:
                timer.cancel()

    async def close(self) -> int:
        """Write, mark and sync everything, and give back what lies behind it; return the position where the log ends.

        Whoever asks for a turn from now on is not heard any more.

        Returns:
            The end for the manifest, or 0 if the lane is poisoned: then the next open replays.
        """
        await self._idle(last=True)
        if self._full is not None:
            self._poison(self._full)
        self._cancel_timers()
        if self._sync is not None:
            await self._sync.stop()
        end = 0
        if self._error is None:
            try:
                await self._run(self._finish)
            except OSError as e:
                self._poison(e)
            else:
                end = self._finished()
        await self._let_go()
        if end:
            try:
                await self._run(self._give_back)
            except OSError as e:  # it takes space, and the next opening uses or removes it
                log_event(logger, logging.WARNING, "unused_segments_stay", directory=self.segments.directory, error=e)
        return end

    def _finish(self) -> None:
        """Mark and sync the end; blocks. A seal would promise another segment."""
        active = self._active
        mark = pack_frame(active.header, active.offset, Kind.MARK, durable=self.durable)
        active.file.write(mark, active.offset)
        for file in [active.file] if self._sync is None else self._sync.files:
            file.sync()

    def _give_back(self) -> None:
        """Give back what the log has behind its durable end; blocks."""
        self.segments.remove_unused(self.active_number)
        self.segments.give_back(self.active_number, self._active.offset)

    def _finished(self) -> int:
        self._active.offset += SECTOR_BYTES
        for stream in self.streams:
            if stream.lsn_next - 1 > stream.lsn_durable:
                self._tell(stream, stream.lsn_next - 1)
        self._error = LogClosedError("the log is closed")
        self._end_waits(self._error)
        return self._active.end

    def abandon(self) -> None:
        """Let go of the files of a poisoned lane. Nothing is written any more, and no segment gets its name."""
        self._cancel_timers()
        if self._error is None:
            self._fail(LogClosedError("the log was abandoned"))
        self._next.close()
        if self._sync is None:
            self._release_files()
        else:
            self._letting_go = self._loop.create_task(self._let_go())

    async def _let_go(self) -> None:
        """Close the files when no thread writes or syncs them any more."""
        if self._behind is not None:
            await asyncio.wait([self._behind])
        if self._sync is not None:
            await self._sync.stop()
        self._release_files()
        await self._next.made()

    def _release_files(self) -> None:
        self._writer.close()
        self._next.close()
        for file in [self._active.file] if self._sync is None else self._sync.files:
            file.close()


def _is_no_space(error: Exception | None) -> TypeGuard[OSError]:
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}


def _fail(cuts: list[_Cut], error: WalError) -> None:
    for _, future in cuts:
        if not future.done():
            future.set_exception(error)
