"""Keeps the segment that follows the active one ready before it is needed.

Making a segment blocks (zeros, a sync, a rename), so it is done off the loop while the active one still has room. What
cannot be made is tried again each second; meanwhile `NextSegment.error` says why, and the lane decides who waits and
who is refused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from wal.events import log_event
from wal.lane_config import Runner
from wal.segment import Segment, Segments

logger = logging.getLogger(__name__)

RETRY_S = 1.0


class NextSegment:
    """The next segment of a lane: ready, being made, or waiting for another try.

    Args:
        segments: Makes it.
        loop: The event loop.
        run: Runs blocking calls.
        on_change: Called when it is ready, and when a try has failed.

    Attributes:
        ready: The segment, or None.
        error: Why the last try failed; None when none has, or one has succeeded since.
    """

    def __init__(
        self, segments: Segments, *, loop: asyncio.AbstractEventLoop, run: Runner, on_change: Callable[[], None]
    ) -> None:
        self.ready: Segment | None = None
        self.error: OSError | None = None
        self._segments = segments
        self._loop = loop
        self._run = run
        self._on_change = on_change
        self._wanted = (0, 0, 0)
        self._making: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._closed = False

    def prepare(self, number: int, n_bytes: int, *, durable: int) -> None:
        """Have segment ``number`` made, if none is ready, being made, or waiting for its next try."""
        self._wanted = number, n_bytes, durable
        if self.ready is None and self._making is None and self._retry is None:
            self._making = self._loop.create_task(self._make())

    def take(self) -> Segment:
        """Return the segment that is ready; the next one can be prepared then."""
        segment, self.ready = self.ready, None
        assert segment is not None
        return segment

    def drop(self) -> None:
        """Let go of the segment that is ready, if one is: a larger one of its number will take its place."""
        if self.ready is not None:
            self.take().file.close()

    async def made(self) -> None:
        """Return when none is being made."""
        if self._making is not None:
            await asyncio.wait([self._making])

    def close(self) -> None:
        """Make none any more; one that is being made never gets its name."""
        self._closed = True
        self._segments.retire()
        if self._retry is not None:
            self._retry.cancel()
        self.drop()

    async def _make(self) -> None:
        number, n_bytes, durable = self._wanted
        try:
            made = await self._run(lambda: self._segments.make(number, n_bytes, durable=durable))
        except OSError as e:
            if not self._closed:
                log_event(logger, logging.WARNING, "segment_not_made", number=number, error=e)
                self.error = e
                self._retry = self._loop.call_later(RETRY_S, self._try_again)
        else:
            self.ready, self.error = made, None
        self._making = None
        if self._closed:
            self.drop()
        else:
            self._on_change()

    def _try_again(self) -> None:
        self._retry = None
        self.prepare(self._wanted[0], self._wanted[1], durable=self._wanted[2])
