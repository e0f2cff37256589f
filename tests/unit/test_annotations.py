"""Markers and strategies refuse what can never be right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from warpstore.annotations import (
    Computed,
    Disk,
    Ephemeral,
    Gpu,
    Memory,
    Renamed,
    Temporal,
    derived,
    parse_dtype,
)
from warpstore.errors import SchemaError
from warpstore.strategy import Strategy


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Memory(priority="high"), "priority='high'"),  # type: ignore[arg-type]
        (lambda: Gpu(dtype="f3"), "f3"),
        (lambda: Gpu(dtype="S257"), "256"),
        (lambda: Gpu(dtype="33f8"), "264 bytes wide"),
        (lambda: Gpu(dtype=4), "dtype=4"),  # type: ignore[arg-type]
        (lambda: Gpu(mass="yes"), "mass"),  # type: ignore[arg-type]
        (lambda: Disk(compression="zip"), "zip"),  # type: ignore[arg-type]
        (lambda: Disk(cache=1), "cache"),  # type: ignore[arg-type]
        (lambda: Temporal(memory="24x"), "24x"),
        (lambda: Temporal(memory="30d", ssd="24h"), "horizons increase"),
        (lambda: Temporal(memory=0), "exceed 0"),
        (lambda: Temporal(time=3), "time=3"),  # type: ignore[arg-type]
        (lambda: Temporal(archive=1), "archive"),  # type: ignore[arg-type]
        (lambda: Ephemeral(ttl="soon"), "soon"),
        (lambda: Ephemeral(ttl=0), "more than 0"),
        (lambda: Computed(len, of="friends"), "tuple"),  # type: ignore[arg-type]
        (lambda: Computed(len, of=()), "at least one"),
        (lambda: Computed(3, of=("a",)), "function"),  # type: ignore[arg-type]
        (lambda: Computed(len, of=("a",), batch=1), "batch"),  # type: ignore[arg-type]
        (lambda: Renamed("not a name"), "former name"),
        (lambda: Strategy(ttl="never"), "ttl"),
        (lambda: Strategy(ttl=0), "more than 0"),
        (lambda: Strategy(write_buffer=1), "write_buffer"),
        (lambda: Strategy(gpu_batch=0), "gpu_batch"),
        (lambda: Strategy(learning=1), "learning"),  # type: ignore[arg-type]
        (lambda: Strategy(memory_pool=""), "memory_pool"),
        (lambda: Strategy(hot_to_warm="ten"), "hot_to_warm"),
        (lambda: Strategy(hot_to_warm="1/day", warm_to_cold="1/h"), "must not exceed"),
        (lambda: Strategy(compression_threshold=None), "compression_threshold"),  # type: ignore[arg-type]
    ],
)
def test_an_argument_that_can_never_be_right_is_refused_at_once(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        make()


def test_markers_are_frozen_plain_data() -> None:
    assert Memory() == Memory(priority="normal")
    assert hash(Gpu(dtype="f4")) == hash(Gpu(dtype="f4"))
    with pytest.raises(AttributeError):
        Memory().priority = "low"  # type: ignore[misc]


def test_horizons_are_seconds_in_the_order_of_ageing() -> None:
    assert Temporal(memory="24h", disk=1e6).horizons_s == {"memory": 86400.0, "ssd": None, "disk": 1e6}
    assert Ephemeral(ttl="1h").ttl_s == 3600.0


def test_dtypes_are_scalars_bytes_and_vectors() -> None:
    assert [parse_dtype(dtype) for dtype in ("f4", "bool", "S16", "4f4", "?")] == [
        (None, "f4"),
        (None, "bool"),
        (None, "S16"),
        (4, "f4"),
        (None, "bool"),
    ]


def test_derived_is_the_unset_value() -> None:
    assert derived() is msgspec.UNSET


def test_a_strategy_gives_numbers_in_units() -> None:
    strategy = Strategy(ttl="30m", memory_pool_bytes="64MiB")
    assert strategy.seconds("ttl") == 1800
    assert strategy.bytes("memory_pool_bytes") == 64 << 20
    assert strategy.bytes("memory_per_record_bytes") is None
    assert strategy.rate("hot_to_warm") == pytest.approx(10 / 3600)
    assert strategy.seconds("cold_to_archive") == 90 * 86400
