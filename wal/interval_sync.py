"""Makes what a lane has written durable behind the loop's back, in ``interval`` mode.

The lane publishes, in one assignment, what a sync of which files makes durable. The timer's thread takes that view,
syncs the files, and tells the loop. So the loop never waits for the disk, and the disk never for the loop.

After a sync that failed none is tried again: the page cache has let go of what it could not write.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from wal.events import log_event
from wal.files import File
from wal.lane_config import Runner
from wal.segment import Segment
from wal.stream import Stream
from wal.sync_timer import SyncTimer

logger = logging.getLogger(__name__)


class Written(NamedTuple):
    """What a sync of these files makes durable: the log up to a position, each stream up to an LSN."""

    end: int
    lsns: list[tuple[Stream, int]]
    files: list[File]


class IntervalSync:
    """Syncs a lane's files at an interval.

    Args:
        active: The segment that is written first.
        timer: Calls for a sync.
        interval_s: Longest time until something written is synced.
        loop: The event loop.
        run: Runs blocking calls.
        monotonic: Returns seconds.
        on_synced: Called on the loop with what is durable now, and whether something was written behind it.
        on_failed: Called on the loop after a failed sync.

    Attributes:
        n_syncs: Syncs that were heard of.
    """

    def __init__(
        self,
        active: Segment,
        timer: SyncTimer,
        interval_s: float,
        *,
        loop: asyncio.AbstractEventLoop,
        run: Runner,
        monotonic: Callable[[], float],
        on_synced: Callable[[Written, bool], None],
        on_failed: Callable[[Exception], None],
    ) -> None:
        self.n_syncs = 0
        self._timer = timer
        self._interval_s = interval_s
        self._loop = loop
        self._run = run
        self._monotonic = monotonic
        self._on_synced = on_synced
        self._on_failed = on_failed
        self._published = Written(active.end, [], [active.file])
        self._synced_end = active.end
        self._unsynced_since: float | None = None
        self._last_sync = (0.0, active.end)  # set by the thread that syncs, in one assignment
        self._ended = False
        self._failure: tuple[float, Written, Exception | None] | None = None
        self._lock = threading.Lock()
        self._closing: set[asyncio.Future[None]] = set()
        timer.start(self.tick, interval_s / 2)  # so that a sync, which takes time, ends within the interval

    # What the lane tells it

    def written(self, end: int, lsns: list[tuple[Stream, int]]) -> None:
        """Have everything up to ``end`` synced within the interval."""
        captured, synced_end = self._last_sync
        if self._unsynced_since is None or synced_end >= self._published.end:
            self._unsynced_since = self._monotonic()
        elif captured > self._unsynced_since:  # a sync that a busy loop has not heard of yet
            self._unsynced_since = captured
        self._published = Written(end, lsns, self._published.files)
        self._timer.arm()

    def marked(self, end: int) -> None:
        """Note a mark; it goes along with the next sync and asks for none."""
        self._published = self._published._replace(end=end)

    def rotated(self, following: Segment) -> None:
        """Go on in another segment; the seal of the one before it is not synced yet."""
        _, lsns, files = self._published
        self._published = Written(following.end, lsns, [*files, following.file])
        self._timer.arm()

    @property
    def is_late(self) -> bool:
        """Whether the oldest record that is not durable was written more than two intervals ago."""
        since = self._unsynced_since
        return since is not None and self._monotonic() - since > 2 * self._interval_s

    @property
    def files(self) -> Sequence[File]:
        """The files that are written and may not be synced, the active one last."""
        return self._published.files

    # Syncs

    def tick(self) -> None:
        """Sync what is written, and tell the loop; runs in the timer's thread."""
        outcome = self._sync()
        if outcome is None:
            return
        try:
            self._loop.call_soon_threadsafe(self._heard, *outcome)
        except RuntimeError:
            log_event(logger, logging.WARNING, "synced_after_loop_closed", path=self.files[-1].path)

    async def sync(self) -> None:
        """Return when everything written before the call is durable, or the sync has failed and that was told."""
        outcome = await self._run(self._sync)
        if outcome is not None:
            self._heard(*outcome)

    def _sync(self) -> tuple[float, Written, Exception | None] | None:
        with self._lock:
            if self._ended:
                return self._failure  # for whoever asks before the loop has heard of it
            captured, written = self._monotonic(), self._published
            try:
                for file in written.files:
                    file.sync()
            except Exception as e:  # noqa: BLE001 - whatever it is, nothing may count as durable, nor go unheard
                self._ended = True
                self._failure = captured, written, e
                return self._failure
            self._last_sync = (captured, written.end)
            return captured, written, None

    def _heard(self, captured: float, written: Written, error: Exception | None) -> None:
        self.n_syncs += 1
        if error is not None:
            self._on_failed(error)
            return
        if self._ended or written.end < self._synced_end:
            return
        self._synced_end = written.end
        active = self.files[-1]
        sealed = [file for file in written.files if file is not active]
        if sealed:
            self._published = self._published._replace(files=[file for file in self.files if file not in sealed])
            self._close_later(sealed)
        behind = self._published.end > written.end
        self._unsynced_since = captured if behind else None
        if behind:
            self._timer.arm()
        self._on_synced(written, behind)

    # The end

    async def stop(self) -> None:
        """Return when no sync is under way and none will come."""
        await self._run(self._timer.stop)
        self._ended = True
        if self._closing:
            await asyncio.wait(self._closing)

    def end(self) -> None:
        """Sync nothing any more. A sync that is under way is not heard of."""
        self._ended = True

    def _close_later(self, files: list[File]) -> None:
        """Close files off the loop: a sync of them may be under way, and a descriptor must not change beneath it."""

        def close() -> None:
            with self._lock:
                for file in files:
                    file.close()

        closing = asyncio.ensure_future(self._run(close))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
