"""The two clocks a store reads, behind one protocol.

``monotonic`` measures durations: restart intensity, ephemeral deadlines. ``wall`` places a record's TTL on the
calendar. Nothing else in warpstore asks the system for the time, so a test that passes its own clock decides it.

Invariant: ``SystemClock.wall`` never jumps. It is read once, at construction, and then advances with the monotonic
clock: an operator or NTP that sets the system's clock forward while the process runs cannot make a TTL early (it may
make it late by the same amount, until the store is opened again).
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What warpstore asks about time."""

    def monotonic(self) -> float:
        """Return seconds since an arbitrary point; never goes back."""

    def wall(self) -> float:
        """Return seconds since the Unix epoch, free of jumps for the life of the clock."""


class SystemClock:
    """The machine's clocks, with the wall clock anchored at construction.

    Example:
        >>> clock = SystemClock()
        >>> later = clock.wall()
        >>> clock.wall() >= later
        True
    """

    __slots__ = ("_epoch_s",)

    def __init__(self) -> None:
        self._epoch_s = time.time() - time.monotonic()

    def monotonic(self) -> float:
        """Return seconds of the system's monotonic clock."""
        return time.monotonic()

    def wall(self) -> float:
        """Return the wall time at construction plus the monotonic time since, in seconds since the epoch."""
        return self._epoch_s + time.monotonic()
