"""A column: one `Gpu` field of a table, looked up in batches, NumPy in and NumPy out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from gpu_kernels.keys import Keys
    from warpstore.gpu_tier import GpuTier


class Column:
    """One `Gpu` field. Get it with ``store[User].column("score")``.

    Attributes:
        name: The field.
        dtype: The dtype of its values.
    """

    def __init__(self, name: str, tier: GpuTier, check: Callable[[], None]) -> None:
        self.name = name
        self.dtype: np.dtype[Any] = tier.dtypes[name]
        self._tier = tier
        self._check = check

    async def lookup(self, keys: Keys) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return the values of the records under keys, and which there are.

        Args:
            keys: int64, uint64, ``S``, ``U`` or object arrays, or lists of keys; in any order, repeats allowed.

        Returns:
            ``dtype[n]`` in the order of the keys, zero where there is no record; and ``bool[n]``. The newest
            acknowledged write wins.

        Raises:
            ValidationError: a key has the wrong type.

        Cost:
            The first call builds the slab from all records. After it: one search a key, and the writes since the last
            call are taken in first. Large batches are searched off the loop.
        """
        self._check()
        return await self._tier.lookup(self.name, keys)
