"""A slab as it was at one moment: what any thread may read while the owner goes on.

A snapshot is a tuple of runs that never change. Taking one costs nothing; holding one holds its runs in memory.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gpu_kernels.backend import Backend
from gpu_kernels.errors import ColumnError
from gpu_kernels.keys import KeyKind, Keys, Words, bound_words, is_long, key_words, keys_of, word_dtype
from gpu_kernels.run import Run

ROW_MISSING = -1

_LiveRows: TypeAlias = tuple[Words, NDArray[np.object_] | None, list[NDArray[Any]]]


class Snapshot:
    """An immutable view of a slab; made by ``Slab.snapshot``.

    Attributes:
        runs: The sorted runs, oldest first.
    """

    __slots__ = ("_backend", "_dtypes", "_kind", "_live", "_n_live", "runs")

    def __init__(
        self, kind: KeyKind, dtypes: Mapping[str, np.dtype[Any]], backend: Backend, runs: tuple[Run, ...], n_live: int
    ) -> None:
        self._kind = kind
        self._dtypes = dtypes
        self._backend = backend
        self._n_live = n_live
        self._live: _LiveRows | None = None
        self.runs = runs

    def __len__(self) -> int:
        return self._n_live

    def replaced_by(self, runs: tuple[Run, ...], n_live: int) -> Snapshot:
        """Return a snapshot of the same slab with other runs."""
        return Snapshot(self._kind, self._dtypes, self._backend, runs, n_live)

    def lookup(self, keys: Keys, columns: Sequence[str] | str | None = None) -> tuple[NDArray[Any], ...]:
        """Return the values of each column in query order, and last ``bool[n]`` found.

        Args:
            keys: Keys in any order, repeats allowed; see ``key_words`` for what is taken.
            columns: Names of the columns, one name, or None for all in declared order.

        Returns:
            For each column ``dtype[n, ...]``, zero where the key is absent; then found. The caller's own.

        Raises:
            KeyTypeError: A key is of another type.
            ColumnError: There is no such column.

        Cost:
            Three random reads a key, and two more for each run over the base (cheap: those are small).
        """
        batch = key_words(keys, self._kind)
        values, found = self._backend.lookup(self.runs, batch, self._chosen(columns))
        return (*values, found)

    def rows(self, keys: Keys) -> NDArray[np.int64]:
        """Return the live row of each key, or ``ROW_MISSING``.

        Rows count through all runs, oldest first. They hold for this snapshot only.
        """
        return self._backend.rows(self.runs, key_words(keys, self._kind))

    def contains(self, keys: Keys) -> NDArray[np.bool_]:
        """Return where keys are present (``bool[n]``)."""
        present: NDArray[np.bool_] = self.rows(keys) != ROW_MISSING
        return present

    def lower_bound(self, keys: Keys) -> NDArray[np.int64]:
        """Return how many live keys are smaller than each key (``int64[n]``).

        Cost:
            A binary search a key; the first call on a snapshot of several runs sorts their keys together, O(rows).
        """
        batch = key_words(keys, self._kind)
        if self._live is None:
            self._live = self._live_rows(None, None, ())
        words, full, _ = self._live
        queries = bound_words(batch)
        if full is None:
            ranks = self._backend.lower_bound(words, queries)
        else:
            long = is_long(words)
            ranks = self._backend.lower_bound(words[~long], queries)
            ordered = sorted(full[long])
            ranks += np.array([bisect_left(ordered, _key_bytes(key)) for key in keys], np.int64)
        if batch.absent is not None:
            for i in np.flatnonzero(batch.absent).tolist():
                ranks[i] = self._n_live if keys[i] > 0 else 0
        return ranks

    def range(
        self, start: Any = None, stop: Any = None, columns: Sequence[str] | str | None = None
    ) -> tuple[NDArray[Any], ...]:
        """Return the live keys with ``start <= key < stop`` in order, and the values of each column.

        Args:
            start: The first key, or None for all from the smallest.
            stop: The key to end before, or None for all to the largest.
            columns: Names of the columns, one name, or None for all in declared order.

        Returns:
            Keys (int64, uint64 or float64 array, or objects), then ``dtype[m, ...]`` for each column.

        Raises:
            KeyTypeError: A bound is of another type or, for integers, out of the kind's range.
            ColumnError: There is no such column.

        Cost:
            One binary search a run, then O(rows in the range). Keys of more than 32 bytes are not in order in the runs:
            if there are any, all of them are compared.
        """
        words, full, values = self._live_rows(start, stop, self._chosen(columns))
        keys = keys_of(words, self._kind, full)
        if full is not None:
            order = sorted(range(len(keys)), key=keys.__getitem__)
            return (keys[order], *(column[order] for column in values))
        return (keys, *values)

    def items(self, columns: Sequence[str] | str | None = None) -> tuple[NDArray[Any], ...]:
        """Return all live keys in order, and the values of each column; as ``range`` without bounds."""
        return self.range(None, None, columns)

    def _live_rows(self, start: Any, stop: Any, columns: Iterable[str]) -> _LiveRows:
        """Return words, full keys (or None) and values of the live keys in the range, in the order of the words."""
        names = tuple(columns)
        parts = [(run, self._part(run, start, stop)) for run in self.runs]
        words = _joined([run.words[part] for run, part in parts], word_dtype(self._kind))
        values = [_joined([run.columns[name][part] for run, part in parts], self._dtypes[name]) for name in names]
        full: NDArray[np.object_] | None = None
        if any(run.full is not None for run in self.runs):
            full = _joined([_dense(run, run.full, part, object) for run, part in parts], np.dtype(object))
        if len(parts) > 1 or any(run.tombstones is not None for run in self.runs):
            dead = _joined([_dense(run, run.tombstones, part, bool) for run, part in parts], np.dtype(bool))
            order = np.argsort(words, kind="stable")  # equal words stay oldest first
            words = words[order]
            keep = ~dead[order]
            keep[:-1] &= words[1:] != words[:-1]
            order, words = order[keep], words[keep]
            values = [self._backend.gather(column, order) for column in values]
            full = full[order] if full is not None else None
        return words, full, values

    def _part(self, run: Run, start: Any, stop: Any) -> slice | NDArray[np.int64]:
        """Return which rows of a run lie in the range."""
        low = int(np.searchsorted(run.words, self._bound(start))[0]) if start is not None else 0
        high = int(np.searchsorted(run.words, self._bound(stop))[0]) if stop is not None else len(run)
        high = max(low, high)
        if run.full is None or (start is None and stop is None):
            return slice(low, high)
        long = is_long(run.words)
        inside = np.zeros(len(run), bool)
        inside[low:high] = True
        first = _key_bytes(start) if start is not None else b""
        end = _key_bytes(stop) if stop is not None else None
        for i in np.flatnonzero(long):
            inside[i] = first <= run.full[i] and (end is None or run.full[i] < end)
        return np.flatnonzero(inside)

    def _bound(self, key: Any) -> Words:
        return bound_words(key_words([key], self._kind, query=False))

    def _chosen(self, columns: Sequence[str] | str | None) -> dict[str, np.dtype[Any]]:
        names = list(self._dtypes) if columns is None else [columns] if isinstance(columns, str) else columns
        for name in names:
            if name not in self._dtypes:
                raise ColumnError(f"no column {name!r}; there are {', '.join(self._dtypes) or 'none'}", column=name)
        return {name: self._dtypes[name] for name in names}


def _joined(parts: list[NDArray[Any]], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the parts as one new array."""
    return np.concatenate(parts) if parts else np.empty((0, *dtype.shape), dtype.base)


def _dense(run: Run, values: NDArray[Any] | None, part: slice | NDArray[np.int64], dtype: type) -> NDArray[Any]:
    """Return a part of what a run may lack: tombstones (then False) or full keys (then None)."""
    return (
        values[part] if values is not None else np.full(len(run.words[part]), False if dtype is bool else None, dtype)
    )


def _key_bytes(key: Any) -> bytes:
    return key.encode() if isinstance(key, str) else bytes(key)
