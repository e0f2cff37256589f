"""A sorted slab of keys and columns, looked up in batches; see README.md."""

from gpu_kernels.backend import Backend, BackendInfo
from gpu_kernels.errors import (
    CapacityError,
    ColumnError,
    DtypeError,
    GpuKernelsError,
    KeyCollisionError,
    KeyTypeError,
    SlabClosedError,
    UnsortedKeysError,
)
from gpu_kernels.keys import KeyBatch, KeyKind, key_words, keys_of
from gpu_kernels.numpy_backend import NumpyBackend
from gpu_kernels.slab import Slab
from gpu_kernels.snapshot import ROW_MISSING, Snapshot
from gpu_kernels.statistics import SlabStatistics

__all__ = [
    "ROW_MISSING",
    "Backend",
    "BackendInfo",
    "CapacityError",
    "ColumnError",
    "DtypeError",
    "GpuKernelsError",
    "KeyBatch",
    "KeyCollisionError",
    "KeyKind",
    "KeyTypeError",
    "NumpyBackend",
    "Slab",
    "SlabClosedError",
    "SlabStatistics",
    "Snapshot",
    "UnsortedKeysError",
    "key_words",
    "keys_of",
]
