"""An ordered table of fixed-width columns, looked up and written in batches.

A slab maps keys of one kind to rows of columns. Writes land in small sorted runs over one large base; a look-up asks
them all and the newest holds, so a reader sees every write before its call. Deletion is a flag beside the row: no key
and no value is reserved.

Runs never change. The slab's whole state is one ``Snapshot`` that a write or a merge replaces by assignment: readers
take no lock, and a snapshot held by another thread stays as it was. Writers are serialised by a lock. A merge works on
the runs it saw and then puts its result in their place; runs that writes appended meanwhile stay above it. So ``merge``
may run in a worker thread (``auto_merge=False``), with NumPy outside the interpreter lock.

Not here: durability, eviction, and updates of some columns of a row (a write gives all).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Lock
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from gpu_kernels.backend import Backend, merge_runs
from gpu_kernels.columns import checked_columns, checked_dtypes
from gpu_kernels.errors import CapacityError, KeyCollisionError, SlabClosedError, UnsortedKeysError
from gpu_kernels.keys import KeyBatch, KeyKind, Keys, key_words, word_dtype
from gpu_kernels.merge_policy import RUNS_MAX, merge_start
from gpu_kernels.numpy_backend import NumpyBackend
from gpu_kernels.run import Run
from gpu_kernels.snapshot import Snapshot
from gpu_kernels.statistics import SlabStatistics

ROWS_MAX = 2**31 - 2
INLINE_MERGE_ROWS_MAX = 16_384


class Slab:
    """Sorted keys with columns.

    Args:
        kind: "int", "uint", "float", "str", "bytes" or "uuid".
        columns: The dtype of each column: any fixed one, also vectors (``"(4,)f4"``) and ``S<n>``.
        backend: What holds and searches the runs; by default a ``NumpyBackend`` of the slab's own.
        auto_merge: True: writes merge runs when that is due. False: only tiny ones, and the caller calls ``merge``
            when ``merge_due``; if it never does, writes merge all the same past twice ``RUNS_MAX`` runs.

    Raises:
        KeyTypeError: There is no such kind.
        DtypeError: A column's dtype has no fixed width.

    Example:
        >>> slab = Slab("str", {"score": "f4"})
        >>> slab.upsert(["ann", "bob"], {"score": [0.5, 0.25]})
        (2, 0)
        >>> scores, found = slab.lookup(["bob", "eve"])
        >>> scores.tolist(), found.tolist()
        ([0.25, 0.0], [True, False])
    """

    def __init__(
        self,
        kind: KeyKind,
        columns: Mapping[str, DTypeLike],
        *,
        backend: Backend | None = None,
        auto_merge: bool = True,
    ) -> None:
        word_dtype(kind)
        self._kind: KeyKind = kind
        self._dtypes = MappingProxyType(checked_dtypes(columns))
        self._owns_backend = backend is None
        self._backend: Backend = backend if backend is not None else NumpyBackend()
        self._auto_merge = auto_merge
        self._state: Snapshot | None = Snapshot(kind, self._dtypes, self._backend, (), 0)
        self._write_lock = Lock()  # one write at a time
        self._merge_lock = Lock()  # one merge at a time
        self._swap_lock = Lock()  # held for the assignment of _state only
        self._n_merges = 0

    @classmethod
    def build(
        cls,
        kind: KeyKind,
        keys: Keys,
        columns: Mapping[str, ArrayLike],
        dtypes: Mapping[str, DTypeLike] | None = None,
        *,
        assume_sorted: bool = False,
        backend: Backend | None = None,
        auto_merge: bool = True,
    ) -> Slab:
        """Return a slab of many rows at once: one run, nothing to merge.

        Args:
            kind: As for the slab.
            keys: All keys; of repeated ones the last wins.
            columns: The values of each column.
            dtypes: The dtype of each column, by default that of its values.
            assume_sorted: The keys strictly rise (in the order of their words), so need no sort; this is checked.
            backend: As for the slab.
            auto_merge: As for the slab.

        Raises:
            UnsortedKeysError: ``assume_sorted``, and they do not.
            GpuKernelsError: As for ``upsert``.

        Cost:
            One sort, outside the interpreter lock: 10,000,000 random int keys with an f8 and an f4 column in about 3 s.
        """
        if dtypes is None:
            arrays = {name: np.asarray(values) for name, values in columns.items()}
            dtypes = {name: np.dtype((array.dtype, array.shape[1:])) for name, array in arrays.items()}
        slab = cls(kind, dtypes, backend=backend, auto_merge=auto_merge)
        slab._write(keys, columns, assume_sorted=assume_sorted)
        return slab

    def upsert(self, keys: Keys, columns: Mapping[str, ArrayLike]) -> tuple[int, int]:
        """Insert or replace rows; return how many keys were inserted and how many replaced.

        Args:
            keys: Keys in any order; of repeated ones the last wins and counts once.
            columns: Values of every column, ``dtype[n, ...]`` or lists.

        Raises:
            KeyTypeError: A key is of another type or out of range.
            KeyCollisionError: A long key shares its digest with another.
            ColumnError: A column is missing, unknown or of the wrong length.
            DtypeError: Values do not fit their column.
            CapacityError: The slab would exceed ``ROWS_MAX`` rows.
            SlabClosedError: ``close`` was called.

        Cost:
            A sort of the batch, a look-up of its keys and, amortised, O(log n) copies of each row in merges. Batches of
            fewer than 100 rows cost about 150 us each whatever their size.
        """
        return self._write(keys, columns, assume_sorted=False)

    def delete(self, keys: Keys) -> int:
        """Delete keys; return how many were there.

        Raises:
            KeyTypeError: A key is of another type.
            SlabClosedError: ``close`` was called.
        """
        with self._write_lock:
            state = self.snapshot()
            batch = key_words(keys, self._kind)
            batch, _ = self._sorted(batch, assume_sorted=False)
            live = np.flatnonzero(self._backend.rows(state.runs, batch) >= 0)
            if not live.size:
                return 0
            values = {name: np.zeros((live.size, *dtype.shape), dtype.base) for name, dtype in self._dtypes.items()}
            full = batch.full[live] if batch.full is not None else None
            run = self._backend.make_run(batch.words[live], values, np.ones(live.size, bool), full)
            self._append(run, -live.size)
        self._merge_after_write()
        return int(live.size)

    def snapshot(self) -> Snapshot:
        """Return the slab as it is now, for any thread; later writes do not show in it.

        Raises:
            SlabClosedError: ``close`` was called.
        """
        state = self._state
        if state is None:
            raise SlabClosedError("the slab is closed")
        return state

    def lookup(self, keys: Keys, columns: Sequence[str] | str | None = None) -> tuple[NDArray[Any], ...]:
        """Return the values of each column in query order, and last ``bool[n]`` found; see ``Snapshot.lookup``."""
        return self.snapshot().lookup(keys, columns)

    def rows(self, keys: Keys) -> NDArray[np.int64]:
        """Return the live row of each key, or ``ROW_MISSING``; valid until the next write or merge."""
        return self.snapshot().rows(keys)

    def contains(self, keys: Keys) -> NDArray[np.bool_]:
        """Return where keys are present (``bool[n]``)."""
        return self.snapshot().contains(keys)

    def lower_bound(self, keys: Keys) -> NDArray[np.int64]:
        """Return how many live keys are smaller than each key; see ``Snapshot.lower_bound``."""
        return self.snapshot().lower_bound(keys)

    def range(
        self, start: Any = None, stop: Any = None, columns: Sequence[str] | str | None = None
    ) -> tuple[NDArray[Any], ...]:
        """Return the live keys with ``start <= key < stop`` in order, and their columns; see ``Snapshot.range``."""
        return self.snapshot().range(start, stop, columns)

    def items(self, columns: Sequence[str] | str | None = None) -> tuple[NDArray[Any], ...]:
        """Return all live keys in order, and their columns."""
        return self.snapshot().items(columns)

    def __len__(self) -> int:
        return len(self.snapshot())

    @property
    def merge_due(self) -> bool:
        """True when ``merge`` would do something."""
        return merge_start([len(run) for run in self.snapshot().runs]) is not None

    def merge(self, *, wait: bool = True) -> bool:
        """Merge the runs that are due; return whether there were any.

        Thread-safe: reads and writes go on and are not lost.

        Args:
            wait: Whether to wait for a merge under way in another thread, or to return False at once.

        Raises:
            SlabClosedError: ``close`` was called.

        Cost:
            O(rows merged). The old runs stay in memory until the swap, and as long as a snapshot holds them.
        """
        if not self._merge_lock.acquire(blocking=wait):
            return False
        try:
            runs = self.snapshot().runs
            start = merge_start([len(run) for run in runs])
            if start is None:
                return False
            self._merge(runs[start:], oldest=start == 0)
            return True
        finally:
            self._merge_lock.release()

    def compact(self) -> None:
        """Merge all runs into one without tombstones. Thread-safe, as ``merge``."""
        with self._merge_lock:
            runs = self.snapshot().runs
            if len(runs) > 1 or (runs and runs[0].tombstones is not None):
                self._merge(runs, oldest=True)

    def statistics(self) -> SlabStatistics:
        """Return rows, runs and bytes; walks no rows."""
        state = self.snapshot()
        return SlabStatistics(
            backend=self._backend.name,
            rows=len(state),
            run_rows=tuple(len(run) for run in state.runs),
            tombstones=sum(run.n_tombstones for run in state.runs),
            bytes_keys=sum(run.bytes_keys for run in state.runs),
            bytes_columns=sum(run.bytes_columns for run in state.runs),
            bytes_index=sum(run.index.nbytes for run in state.runs),
            n_merges=self._n_merges,
        )

    def close(self) -> None:
        """Drop the runs; later calls raise ``SlabClosedError``, snapshots stay readable. Idempotent."""
        with self._swap_lock:
            self._state = None
        if self._owns_backend:
            self._backend.close()

    def _write(self, keys: Keys, columns: Mapping[str, ArrayLike], *, assume_sorted: bool) -> tuple[int, int]:
        batch = key_words(keys, self._kind, query=False)
        arrays = checked_columns(columns, self._dtypes, len(batch))
        with self._write_lock:
            state = self.snapshot()
            if not len(batch):
                return 0, 0
            stored = sum(len(run) for run in state.runs)
            if stored + len(batch) > ROWS_MAX:
                raise CapacityError(f"{stored} + {len(batch)} rows exceed {ROWS_MAX}", limit=ROWS_MAX)
            batch, order = self._sorted(batch, assume_sorted=assume_sorted)
            if batch.full is not None:
                self._check_collisions(state, batch)
            n_replaced = int(np.count_nonzero(self._backend.rows(state.runs, batch) >= 0)) if state.runs else 0
            values = {
                name: array.copy() if order is None else self._backend.gather(array, order)
                for name, array in arrays.items()
            }
            run = self._backend.make_run(batch.words, values, None, batch.full)
            n_inserted = len(batch) - n_replaced
            self._append(run, n_inserted)
        self._merge_after_write()
        return n_inserted, n_replaced

    def _sorted(self, batch: KeyBatch, *, assume_sorted: bool) -> tuple[KeyBatch, NDArray[np.int64] | None]:
        """Return the batch sorted, without repeats and absents, and where each key was (None: where it is)."""
        words = batch.words
        if assume_sorted:
            if not (words[1:] > words[:-1]).all():
                at = int(np.flatnonzero(words[1:] <= words[:-1])[0]) + 1
                raise UnsortedKeysError(f"key {at} is not larger than the one before it", index=at)
            return KeyBatch(words.copy(), batch.full), None
        order = self._backend.sort_order(words)
        if batch.absent is not None:
            order = order[~batch.absent[order]]
        words = self._backend.gather(words, order)
        first = np.ones(len(words), bool)
        first[1:] = words[1:] != words[:-1]
        if not first.all():
            if batch.full is not None:
                _check_repeats(batch.full, order, first)
            # The sort leaves equal words in any order: the last of them is the one with the largest position.
            order = np.maximum.reduceat(order, np.flatnonzero(first))
            words = words[first]
        return KeyBatch(words, batch.full[order] if batch.full is not None else None), order

    def _check_collisions(self, state: Snapshot, batch: KeyBatch) -> None:
        """Refuse a long key whose digest another key has: their words could not be told apart."""
        assert batch.full is not None
        by_digest = self._backend.rows(state.runs, KeyBatch(batch.words))
        by_key = self._backend.rows(state.runs, batch)
        clash = np.flatnonzero(by_digest != by_key)
        if clash.size:
            raise KeyCollisionError(f"a stored key has the digest of key {batch.full[clash[0]]!r}")

    def _append(self, run: Run, n_added: int) -> None:
        with self._swap_lock:
            state = self.snapshot()
            self._state = state.replaced_by((*state.runs, run), len(state) + n_added)

    def _merge(self, merging: tuple[Run, ...], *, oldest: bool) -> None:
        """Merge neighbouring runs and put the result in their place; ``_merge_lock`` is held."""
        merged = merge_runs(self._backend, merging, drop_tombstones=oldest)
        with self._swap_lock:
            state = self.snapshot()
            start = next(i for i, run in enumerate(state.runs) if run is merging[0])
            kept = (merged,) if merged is not None else ()
            runs = (*state.runs[:start], *kept, *state.runs[start + len(merging) :])
            self._state = state.replaced_by(runs, len(state))
            self._n_merges += 1

    def _merge_after_write(self) -> None:
        """Merge what is due as far as a write may: all with ``auto_merge``, else small runs or far too many."""
        sizes = [len(run) for run in self.snapshot().runs]
        start = merge_start(sizes)
        if start is None:
            return
        overdue = len(sizes) > 2 * RUNS_MAX
        if self._auto_merge or overdue or sum(sizes[start:]) <= INLINE_MERGE_ROWS_MAX:
            # A merge under way elsewhere is waited for only when readers would suffer from one run more.
            self.merge(wait=overdue)


def _check_repeats(full: NDArray[np.object_], order: NDArray[np.int64], first: NDArray[np.bool_]) -> None:
    for at in np.flatnonzero(~first):
        if full[order[at]] != full[order[at - 1]]:
            raise KeyCollisionError(f"two keys of the batch have the digest of key {full[order[at]]!r}")
