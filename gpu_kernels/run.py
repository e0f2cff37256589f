"""A sorted run: distinct keys in order, their column values, tombstones and index.

A slab is a few runs, oldest first; where a key is in several, the newest holds. All arrays of a run are read-only, so
any thread may read it while the slab goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
        n_tombstones: Deleted keys.
        bytes_keys: Bytes of the words, tombstones and full keys. Both are counted once, when the run is made, so that
            statistics walk no rows.
    """

    words: Words
    columns: Mapping[str, NDArray[Any]]
    tombstones: NDArray[np.bool_] | None
    full: NDArray[np.object_] | None
    index: Index
    n_tombstones: int = field(init=False)
    bytes_keys: int = field(init=False)

    def __post_init__(self) -> None:
        arrays = [self.words, *self.columns.values(), self.tombstones, self.full]
        for array in (*arrays, self.index.codes, self.index.order, self.index.table):
            if array is not None:
                array.setflags(write=False)
        full = self.full.nbytes + sum(len(key) for key in self.full if key is not None) if self.full is not None else 0
        tombstones = 0 if self.tombstones is None else self.tombstones.nbytes
        object.__setattr__(self, "n_tombstones", 0 if self.tombstones is None else int(self.tombstones.sum()))
        object.__setattr__(self, "bytes_keys", self.words.nbytes + full + tombstones)

    def __len__(self) -> int:
        return len(self.words)

    @property
    def bytes_columns(self) -> int:
        """Bytes of the column values."""
        return sum(values.nbytes for values in self.columns.values())
