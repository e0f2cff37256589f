"""What a slab asks of the machine that holds its runs.

A backend sorts, merges and searches runs; the slab decides what is in them. All calls are synchronous, may come from
several threads at once and change none of their arguments. Every backend gives the same bits for the same calls (one
contract suite runs over all of them).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpu_kernels.keys import KeyBatch, Words
from gpu_kernels.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendInfo:
    """What a backend runs on.

    Attributes:
        name: The backend's name, as in configuration and statistics.
        device: The device in words.
        threads: Threads that work on one call.
    """

    name: str
    device: str
    threads: int


class Backend(Protocol):
    """The operations on runs that a slab is built from."""

    @property
    def name(self) -> str:
        """The backend's name."""
        ...

    def info(self) -> BackendInfo:
        """Return what this backend runs on."""
        ...

    def sort_order(self, words: Words) -> NDArray[np.int64]:
        """Return the positions that sort words (``int64[n]``); the order among equal words is open."""
        ...

    def make_run(
        self,
        words: Words,
        columns: Mapping[str, NDArray[Any]],
        tombstones: NDArray[np.bool_] | None,
        full: NDArray[np.object_] | None,
    ) -> Run:
        """Return a run of sorted, distinct words; takes the arrays over and makes them read-only."""
        ...

    def merge(self, older: Run, newer: Run, *, drop_tombstones: bool) -> Run | None:
        """Return one run of both, where newer wins; None if no key is left.

        Args:
            older: The run whose rows give way.
            newer: The run whose rows win.
            drop_tombstones: True when no run lies below older, so that deleted keys need no mark.
        """
        ...

    def rows(self, runs: Sequence[Run], batch: KeyBatch) -> NDArray[np.int64]:
        """Return the live row of each key, counted through all runs oldest first; -1 where absent or deleted."""
        ...

    def lookup(
        self, runs: Sequence[Run], batch: KeyBatch, columns: Mapping[str, np.dtype[Any]]
    ) -> tuple[list[NDArray[Any]], NDArray[np.bool_]]:
        """Return the values of each column (zero where absent) and ``bool[n]`` found, in query order."""
        ...

    def lower_bound(self, words: Words, queries: Words) -> NDArray[np.int64]:
        """Return how many of the sorted words are smaller than each query (``int64[n]``)."""
        ...

    def gather(self, values: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return ``values[rows]`` along the first axis; all rows are valid."""
        ...

    def apply(self, function: Callable[[Any], Any], columns: Mapping[str, NDArray[Any] | list[Any]]) -> Any:
        """Return what a caller's function gives for columns.

        Args:
            function: Called with one object whose attributes are the columns. Arrays may lie in this backend's memory,
                as its array type; lists stay lists.
            columns: All of one length.

        Returns:
            What it returned, unchecked; an array of this backend's type as a NumPy array.

        Raises:
            Exception: what the function raised.
        """
        ...

    def close(self) -> None:
        """Release threads and memory; idempotent. A later call starts them anew."""
        ...


def merge_runs(backend: Backend, runs: Sequence[Run], *, drop_tombstones: bool) -> Run | None:
    """Return all runs (at least one) as one, the newest first so that the large oldest one is copied once."""
    merged = runs[-1]
    for older in reversed(runs[1:-1]):
        merged = _present(backend.merge(older, merged, drop_tombstones=False))
    if len(runs) > 1 or (drop_tombstones and merged.tombstones is not None):
        return backend.merge(runs[0], merged, drop_tombstones=drop_tombstones)
    return merged


def _present(run: Run | None) -> Run:
    assert run is not None, "a merge that keeps tombstones loses no key"
    return run
