"""Every error that leaves gpu_kernels, in one tree.

::

    GpuKernelsError
    ├── SlabClosedError        ``close`` was called on the slab
    ├── KeyTypeError           a key is not of the slab's kind, or cannot be represented in it
    │   └── UnsortedKeysError  ``assume_sorted`` was given keys that do not strictly rise
    ├── KeyCollisionError      two different long keys share one digest
    ├── ColumnError            a column is unknown, missing or of the wrong length
    ├── DtypeError             a column's values do not fit its dtype
    └── CapacityError          a limit of the slab would be exceeded

The slab is unchanged after any of them.
"""

from __future__ import annotations


class GpuKernelsError(Exception):
    """The root of every error that leaves gpu_kernels."""


class SlabClosedError(GpuKernelsError):
    """``close`` was called on the slab; snapshots taken before stay readable."""


class KeyTypeError(GpuKernelsError):
    """A key is not of the slab's kind, or cannot be represented in it.

    Attributes:
        index: Position of the first such key in the batch, or None if the batch as a whole is wrong.
    """

    def __init__(self, message: str, *, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


class UnsortedKeysError(KeyTypeError):
    """Keys given as sorted do not strictly rise."""


class KeyCollisionError(GpuKernelsError):
    """Two different keys of more than 32 bytes have the same xxh3-128 digest; only the first is stored."""


class ColumnError(GpuKernelsError):
    """A column is unknown, missing or of the wrong length.

    Attributes:
        column: The column's name.
    """

    def __init__(self, message: str, *, column: str) -> None:
        super().__init__(message)
        self.column = column


class DtypeError(GpuKernelsError):
    """A column's values do not fit its dtype.

    Attributes:
        column: The column's name.
    """

    def __init__(self, message: str, *, column: str) -> None:
        super().__init__(message)
        self.column = column


class CapacityError(GpuKernelsError):
    """A limit of the slab would be exceeded.

    Attributes:
        limit: The limit.
    """

    def __init__(self, message: str, *, limit: int) -> None:
        super().__init__(message)
        self.limit = limit
