"""Times of items: as the caller has them, and as files hold them, in whole nanoseconds since the epoch.

A datetime without a timezone counts as UTC. Whatever lies outside of 64 bits counts as the nearest time within, so that
every item has a place in the order; who compares exactly compares the caller's own values.
"""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

from warpstore.errors import ValidationError

NS = 1_000_000_000
TIME_MAX = (1 << 62) - 1
TIME_MIN = -TIME_MAX
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)


def ns_of(time: Any) -> int:
    """Return a datetime, or unix seconds, in nanoseconds; not a number is the least time there is."""
    if isinstance(time, dt.datetime):
        return _clamped(((time if time.tzinfo else time.replace(tzinfo=dt.UTC)) - _EPOCH) // _MICROSECOND * 1000)
    if type(time) is int:
        return _clamped(time * NS)
    if math.isnan(time):
        return TIME_MIN
    return _clamped(round(time * NS)) if abs(time) < TIME_MAX / NS else _clamped(int(math.copysign(TIME_MAX, time)))


def bound_of(name: str, time: Any) -> Any:
    """Return a bound of a window if it can be one.

    Raises:
        ValidationError: it is no datetime and no number of unix seconds.
    """
    if time is None or isinstance(time, dt.datetime):
        return time
    if type(time) in (int, float) and time == time:  # noqa: PLR0124 - not a number differs from itself
        return time
    raise ValidationError(f"{name}={time!r}: must be a datetime, unix seconds, or None for no bound", field=name)


def seconds_of(time: Any) -> Any:
    """Return a bound as unix seconds, as it is if it is a number."""
    return ns_of(time) / NS if isinstance(time, dt.datetime) else time


def _clamped(ns: int) -> int:
    return min(max(ns, TIME_MIN), TIME_MAX)
