"""Where a key lies in a sorted run: a bucket table instead of a binary search.

A run's codes are ``uint64`` in rising order. Code c falls into bucket ``(c - origin) >> shift``; the table holds the
position of the first code of each bucket; from there a look-up walks forward to the first code that is not smaller.
There are half a bucket to one bucket a code, so the walk is about one step long, and each step reads the same or the
next cache line. (Twice and four times the buckets were 5-10 % faster, for 3 and 10 bytes a key more.) A small run,
which is asked mostly for keys it lacks, has four times as many: then most queries end at the first code.

Keys that spread evenly over their range (sequences, hashes, random numbers) are their own codes. Where one bucket would
hold more than ``BUCKET_ROWS_MAX`` keys, and for wide keys always, the codes are a mix of all bits of the word, sorted,
with the row of each beside it: such codes always spread. Two wide words may share a code, so the words themselves
decide.

Measured (1,000,000 random hits among 10,000,000 keys, one core): table 34 ms; sorting the batch and searching 77-150
ms; ``np.searchsorted`` without sorting 1,100 ms. Sorting the batch before the table look-up gained nothing.

Immutable after ``build``. Called by the NumPy backend.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_kernels.keys import Words, word_bytes

BUCKET_ROWS_MAX = 32
SMALL_RUN_ROWS_MAX = 262_144
SMALL_RUN_BUCKETS = 4

_MIX_A = np.uint64(0x9E3779B97F4A7C15)
_MIX_B = np.uint64(0xD6E8FEB86659FD93)
_HALF = np.uint64(32)


def mixed_codes(words: Words) -> NDArray[np.uint64]:
    """Return ``uint64[n]`` codes that spread evenly; equal words have equal codes, distinct scalars distinct ones."""
    if words.dtype == np.uint64:
        codes: NDArray[np.uint64] = words * _MIX_A
    else:
        raw = word_bytes(words)
        lanes = np.ascontiguousarray(raw[:, :-1]).view(np.uint64)
        codes = raw[:, -1] * _MIX_A
        for lane in range(lanes.shape[1]):
            codes ^= lanes[:, lane]
            codes *= _MIX_A
            codes ^= codes >> _HALF
    codes ^= codes >> _HALF
    codes *= _MIX_B
    codes ^= codes >> _HALF
    return codes


@dataclass(frozen=True, slots=True)
class Index:
    """The bucket table of one run.

    Attributes:
        codes: ``uint64[n]``, rising; the run's words themselves where ``order`` is None.
        order: ``int32[n]``, the row of each code, or None where the codes are the words.
        table: ``int32[buckets]``, position of the first code of each bucket.
        origin: The smallest code.
        last: The largest code.
        shift: Bits of ``code - origin`` below the bucket number.
    """

    codes: NDArray[np.uint64]
    order: NDArray[np.int32] | None
    table: NDArray[np.int32]
    origin: np.uint64
    last: np.uint64
    shift: np.uint64

    @classmethod
    def build(cls, words: Words) -> Index:
        """Return the index of sorted, distinct words; ``n`` >= 1."""
        if words.dtype == np.uint64:
            index, rows_max = cls._of_codes(words, None)
            if rows_max <= BUCKET_ROWS_MAX:
                return index
        codes = mixed_codes(words)
        order = np.argsort(codes)
        return cls._of_codes(codes[order], order.astype(np.int32))[0]

    @classmethod
    def of_mixed(cls, codes: NDArray[np.uint64], order: NDArray[np.int32]) -> Index:
        """Return the index of mixed codes already in rising order."""
        return cls._of_codes(codes, order)[0]

    @classmethod
    def _of_codes(cls, codes: NDArray[np.uint64], order: NDArray[np.int32] | None) -> tuple[Index, int]:
        origin, last = codes[0], codes[-1]
        span = int(last) - int(origin)
        buckets_max = len(codes) * (SMALL_RUN_BUCKETS if len(codes) <= SMALL_RUN_ROWS_MAX else 1)
        bits = max(0, span.bit_length() - buckets_max.bit_length())
        shift = np.uint64(bits if span >> bits < buckets_max else bits + 1)
        buckets = (codes - origin) >> shift
        counts = np.bincount(buckets.view(np.int64))
        table = np.zeros(len(counts), np.int32)
        np.cumsum(counts[:-1], out=table[1:])
        return cls(codes, order, table, origin, last, shift), int(counts.max())

    @property
    def nbytes(self) -> int:
        """Bytes this index holds beside the run's words."""
        return self.table.nbytes + (self.codes.nbytes + self.order.nbytes if self.order is not None else 0)

    def find(self, words: Words, queries: Words) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return the row of each query and whether it is there; the row is arbitrary, but valid, where it is not.

        Args:
            words: The run's words, sorted.
            queries: Words in any order.

        Cost:
            Two dependent random reads a query, three and the word itself with mixed codes.
        """
        if self.order is None:
            at, seen = self._first_at_least(queries)
            return at, seen == queries
        codes = mixed_codes(queries)
        at, seen = self._first_at_least(codes)
        hit = seen == codes
        todo = np.flatnonzero(hit)
        rows = self.order.take(at)
        while todo.size:  # a second round only where two words share a code
            same = words.take(rows[todo]) == queries[todo]
            todo = todo[~same]
            hit[todo] = False
            at[todo] += 1
            todo = todo[at[todo] < len(self.codes)]
            todo = todo[self.codes[at[todo]] == codes[todo]]
            hit[todo] = True
            rows[todo] = self.order[at[todo]]
        return rows, hit

    def _first_at_least(self, queries: NDArray[np.uint64]) -> tuple[NDArray[np.int32], NDArray[np.uint64]]:
        """Return the position of the first code >= each query (the last code if there is none), and that code."""
        bucket = ((queries - self.origin) >> self.shift).view(np.int64)
        # A query below origin wraps; clipping sends it to some bucket whose first code is larger than it.
        at = self.table.take(bucket, mode="clip")
        codes = self.codes
        seen = codes.take(at)
        todo = np.flatnonzero(seen < np.minimum(queries, self.last))
        if todo.size:
            here, wanted = at[todo], np.minimum(queries[todo], self.last)
            while True:
                here += 1
                code = codes.take(here)
                at[todo] = here
                seen[todo] = code
                more = np.flatnonzero(code < wanted)
                if not more.size:
                    break
                todo, here, wanted = todo[more], here[more], wanted[more]
        return at, seen
