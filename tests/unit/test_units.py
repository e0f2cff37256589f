"""Sizes, times and rates."""

from __future__ import annotations

from datetime import timedelta

import pytest

from warpstore.units import parse_bytes, parse_rate, parse_seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512MB", 512_000_000),
        ("4KiB", 4096),
        ("1.5 GiB", 3 << 29),
        ("17", 17),
        ("17 b", 17),
        (17, 17),
        ("2tb", 2 * 10**12),
    ],
)
def test_a_size_is_read_in_decimal_and_binary_units(text: str | int, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1", -1, "1XB", "0.5", "1e3", True, 1.5, None, "1 2"])
def test_what_is_no_size_is_refused_with_the_units(text: object) -> None:
    with pytest.raises(ValueError, match=r"is no size.*KiB"):
        parse_bytes(text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("24h", 86400),
        ("30m", 1800),
        ("1h30m", 5400),
        ("500ms", 0.5),
        ("7d", 604800),
        ("2w", 1209600),
        (1.5, 1.5),
        (3, 3),
        (timedelta(minutes=1), 60),
        (" 1h 30 m ", 5400),
    ],
)
def test_a_time_is_read_from_numbers_strings_and_timedeltas(text: str | float | timedelta, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "h", "-1s", -1, "1y", "30", "1h-30m", True, float("nan"), float("inf"), None, timedelta(-1), 10**400]
)
def test_what_is_no_time_is_refused_with_the_units(text: object) -> None:
    with pytest.raises(ValueError, match=r"is no length of time.*24h"):
        parse_seconds(text)  # type: ignore[arg-type]


def test_a_rate_is_read_per_second_minute_hour_and_day() -> None:
    assert [parse_rate(rate) for rate in ("36/h", "864/day", "1/s", 2)] == [0.01, 0.01, 1.0, 2.0]


@pytest.mark.parametrize("text", ["10", "10/year", -1, True, None, "/h", float("nan")])
def test_what_is_no_rate_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is no rate"):
        parse_rate(text)  # type: ignore[arg-type]
