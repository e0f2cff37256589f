"""The keys of a generation in sorted order, kept up to date at the price of what is new.

A hot map tells the keys that are new since the last look. They are sorted in slices small enough not to hold the
interpreter (`sorted` of 1,000,000 keys takes 400 ms), and kept as a few sorted runs; a range is cut out of every run
and merged.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain

from warpstore._native import HotMap, first_keys
from warpstore.keys import HotKey

RUN_KEYS_MAX = 16_384


class KeyOrder:
    """Sorted runs over the keys of some hot maps that only grow."""

    __slots__ = ("_maps", "_runs", "_seen")

    def __init__(self, maps: Sequence[HotMap]) -> None:
        self._maps = maps
        self._seen = [0] * len(maps)
        self._runs: list[list[HotKey]] = []

    async def refresh(self, pause: Callable[[], Awaitable[None]]) -> None:
        """Take in the keys that are new, pausing between slices."""
        fresh: list[HotKey] = []
        for i, keys in enumerate(self._maps):
            if len(keys) > self._seen[i]:
                self._seen[i] = len(keys)
                fresh += keys.new_keys()
            while len(fresh) >= RUN_KEYS_MAX:
                self._add(fresh[:RUN_KEYS_MAX])
                fresh = fresh[RUN_KEYS_MAX:]
                await pause()
        if fresh:
            self._add(fresh)

    def _add(self, fresh: list[HotKey]) -> None:
        runs = self._runs
        while runs and len(runs[-1]) + len(fresh) <= RUN_KEYS_MAX:
            fresh = runs.pop() + fresh
        fresh.sort()
        runs.append(fresh)

    def between(self, start: HotKey | None, stop: HotKey | None) -> list[HotKey]:
        """Return the keys k with start <= k < stop in ascending order; a None bound is open."""
        parts = []
        for run in self._runs:
            first = 0 if start is None else bisect_left(run, start)
            last = len(run) if stop is None else bisect_left(run, stop)
            if first < last:
                parts.append(run[first:last])
        return _merged(parts)

    def first(self, n: int, start: HotKey | None, stop: HotKey | None) -> list[HotKey]:
        """Return the first ``n`` keys of `between` in ascending order."""
        starts = [0 if start is None else bisect_left(run, start) for run in self._runs]
        stops = [len(run) if stop is None else bisect_left(run, stop) for run in self._runs]
        return first_keys(self._runs, starts, stops, n)

    def last(self, n: int, start: HotKey | None, stop: HotKey | None) -> list[HotKey]:
        """Return the last ``n`` keys of `between` in ascending order."""
        parts = []
        for run in self._runs:
            first = 0 if start is None else bisect_left(run, start)
            last = len(run) if stop is None else bisect_left(run, stop)
            parts.append(run[max(first, last - n) : last])
        return _merged(parts)[-n:]


def _merged(parts: list[list[HotKey]]) -> list[HotKey]:
    if len(parts) == 1:
        return parts[0]
    return sorted(chain.from_iterable(parts))
