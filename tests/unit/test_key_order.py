"""The order of a generation's keys, taken in slice by slice, agrees with sorting them all."""

import random
from collections.abc import Iterable

import pytest

from warpstore import key_order
from warpstore._native import HotMap
from warpstore.key_order import KeyOrder
from warpstore.keys import HotKey
from warpstore.values import TOMBSTONE


def hot_map(keys: Iterable[HotKey]) -> HotMap:
    made = HotMap()
    for key in keys:
        made.set(key, TOMBSTONE)
    return made


async def pause() -> None:
    """Stand for a turn of the loop."""


@pytest.mark.parametrize("seed", range(6))
async def test_ranges_agree_with_a_sorted_list(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_order, "RUN_KEYS_MAX", 64)
    rng = random.Random(seed)
    maps = [HotMap() for _ in range(5)]
    order = KeyOrder(maps)
    for _ in range(6):
        for _ in range(rng.choice([0, 1, 40, 300])):
            key = rng.randrange(2000)
            maps[key % 5].set(key, TOMBSTONE)
        await order.refresh(pause)
        keys = sorted(key for some in maps for key, _ in some.items())
        for _ in range(20):
            start, stop = (rng.choice([None, rng.randrange(-5, 2005)]) for _ in range(2))
            n = rng.choice([1, 5, 100, 5000])
            inside = [k for k in keys if (start is None or start <= k) and (stop is None or k < stop)]  # type: ignore[operator]
            assert order.between(start, stop) == inside
            assert order.first(n, start, stop) == inside[:n]
            assert order.last(n, start, stop) == inside[-n:]


async def test_sorting_pauses_between_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_order, "RUN_KEYS_MAX", 100)
    n_pauses = 0

    async def count() -> None:
        nonlocal n_pauses
        n_pauses += 1

    order = KeyOrder([hot_map(map(str, range(1000)))])
    await order.refresh(count)
    assert n_pauses == 10
    assert order.between(None, None) == sorted(map(str, range(1000)))
    await order.refresh(count)
    assert n_pauses == 10


async def test_keys_that_come_while_it_pauses_are_taken_in_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_order, "RUN_KEYS_MAX", 10)
    some = hot_map(range(25))
    order = KeyOrder([some])

    async def write() -> None:
        some.set(1000 + len(some), TOMBSTONE)

    await order.refresh(write)
    seen = order.between(None, None)
    assert set(range(25)) <= set(seen)
    await order.refresh(pause)
    assert order.between(None, None) == sorted(key for key, _ in some.items())
