"""A sorted run: distinct keys in order, their column values, tombstones and index.

A slab is a few runs, oldest first; where a key is in several, the newest holds. All arrays of a run are read-only, so
any thread may read it while the slab goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_kernels.index import Index
from gpu_kernels.keys import Words


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One sorted run of n >= 1 keys.

    Attributes:
        words: The keys' words, sorted and distinct.
        columns: ``dtype[n, ...]`` of each column; of a deleted key the values mean nothing.
        tombstones: ``bool[n]``, True where the key is deleted, or None if none is.
        full: ``object[n]`` with the full key of each word that is a digest, None elsewhere; None if there is none.
        index: Where a word lies.
    """

    words: Words
    columns: Mapping[str, NDArray[Any]]
    tombstones: NDArray[np.bool_] | None
    full: NDArray[np.object_] | None
    index: Index

    def __post_init__(self) -> None:
        arrays = [self.words, *self.columns.values(), self.tombstones, self.full]
        for array in (*arrays, self.index.codes, self.index.order, self.index.table):
            if array is not None:
                array.setflags(write=False)

    def __len__(self) -> int:
        return len(self.words)

    @property
    def bytes_columns(self) -> int:
        """Bytes of the column values."""
        return sum(values.nbytes for values in self.columns.values())

    @property
    def bytes_keys(self) -> int:
        """Bytes of the words, tombstones and full keys."""
        full = self.full.nbytes + sum(len(key) for key in self.full if key is not None) if self.full is not None else 0
        return self.words.nbytes + full + (self.tombstones.nbytes if self.tombstones is not None else 0)
