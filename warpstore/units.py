"""Sizes and times as numbers or as strings such as ``"512MB"`` and ``"24h"``.

One concept: turning what a person writes into bytes or seconds. Decimal units (KB, MB, GB, TB) are powers of 1,000 and
binary ones (KiB, MiB, GiB, TiB) powers of 1,024. A plain number is already bytes or seconds. Every error is a
``ValueError`` that names the value and the units accepted; the caller knows the field or setting and converts it to
``SchemaError``, ``ConfigError`` or ``ValidationError``.
"""

from __future__ import annotations

import math
import re
from datetime import timedelta

_BYTES = (
    {"b": 1}
    | {f"{p}b": 1000**n for n, p in enumerate("kmgt", 1)}
    | {f"{p}ib": 1024**n for n, p in enumerate("kmgt", 1)}
)
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PERIODS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "hour": 3600.0, "d": 86400.0, "day": 86400.0}
_NUMBER = r"(\d+(?:\.\d+)?)"
_SIZE = re.compile(_NUMBER + r"\s*([a-z]*)", re.IGNORECASE | re.ASCII)
_SPAN = re.compile(rf"(?:{_NUMBER}\s*(us|ms|s|m|h|d|w)\s*)+", re.ASCII)
_PART = re.compile(_NUMBER + r"\s*(us|ms|s|m|h|d|w)", re.ASCII)
_RATE = re.compile(_NUMBER + r"\s*/\s*([a-z]+)", re.ASCII)


def parse_bytes(value: str | int) -> int:
    """Return a size in bytes.

    Args:
        value: A whole number of bytes, or a string such as ``"512MB"``, ``"1.5 GiB"``, ``"100"``.

    Raises:
        ValueError: it is negative, no size, or no whole number of bytes.

    Example:
        >>> parse_bytes("512MB"), parse_bytes("4KiB"), parse_bytes(7)
        (512000000, 4096, 7)
    """
    if type(value) is int and value >= 0:
        return value
    if type(value) is str and (found := _SIZE.fullmatch(value.strip())):
        unit = _BYTES.get(found[2].lower() or "b")
        size = float(found[1]) * unit if unit and "." in found[1] else int(found[1].partition(".")[0]) * (unit or 0)
        if unit and size == int(size):
            return int(size)
    raise ValueError(
        f"{value!r} is no size: give a whole number of bytes >= 0, or a number with B, KB, MB, GB, TB "
        "(powers of 1,000) or KiB, MiB, GiB, TiB (powers of 1,024)"
    )


def parse_seconds(value: str | float | timedelta) -> float:
    """Return a length of time in seconds.

    Args:
        value: Seconds as a number, a ``timedelta``, or a string such as ``"24h"``, ``"1h30m"``, ``"500ms"``, ``"2w"``.

    Raises:
        ValueError: it is negative, not finite, or no length of time.

    Example:
        >>> parse_seconds("1h30m"), parse_seconds("500ms"), parse_seconds(2)
        (5400.0, 0.5, 2.0)
    """
    seconds = -1.0
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif type(value) is int or type(value) is float:
        try:
            seconds = float(value)
        except OverflowError:
            seconds = math.inf
    elif type(value) is str:
        text = value.strip()
        if _SPAN.fullmatch(text):
            seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))
    if 0 <= seconds < math.inf:
        return seconds
    raise ValueError(
        f"{value!r} is no length of time: give seconds >= 0, a timedelta, or numbers with us, ms, s, m, h, d, w "
        'such as "500ms", "24h", "1h30m"'
    )


def parse_rate(value: str | float) -> float:
    """Return a rate in events per second.

    Args:
        value: Events per second as a number, or a string such as ``"10/h"`` or ``"1/day"``.

    Raises:
        ValueError: it is negative, not finite, or no rate.

    Example:
        >>> parse_rate("36/h")
        0.01
    """
    if (type(value) is int or type(value) is float) and 0 <= value < math.inf:
        return float(value)
    if type(value) is str and (found := _RATE.fullmatch(value.strip())) and found[2] in _PERIODS:
        return float(found[1]) / _PERIODS[found[2]]
    raise ValueError(
        f'{value!r} is no rate: give events per second >= 0, or a number with /s, /min, /h, /day such as "10/h"'
    )
