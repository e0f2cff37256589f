"""Column dtypes and values, checked before a slab takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from gpu_kernels.errors import ColumnError, DtypeError


def checked_dtypes(columns: Mapping[str, DTypeLike]) -> dict[str, np.dtype[Any]]:
    """Return the dtype of each column.

    Raises:
        DtypeError: It is unknown, or has no fixed width.
    """
    dtypes = {}
    for name, given in columns.items():
        try:
            dtype = np.dtype(given)
        except (TypeError, ValueError) as error:
            raise DtypeError(f"column {name!r}: {error}", column=name) from error
        if dtype.base.hasobject or dtype.itemsize == 0:
            raise DtypeError(f"column {name!r}: {dtype} has no fixed width", column=name)
        dtypes[name] = dtype
    return dtypes


def checked_columns(
    columns: Mapping[str, ArrayLike], dtypes: Mapping[str, np.dtype[Any]], n: int
) -> dict[str, NDArray[Any]]:
    """Return the values of each column as ``dtype[n, ...]``, without a copy where they are that already.

    Arrays are cast where no value can change, and from one float width to another; lists are converted.

    Raises:
        ColumnError: A column is missing, unknown, or not n long.
        DtypeError: Values do not fit.
    """
    for name in columns:
        if name not in dtypes:
            raise ColumnError(f"no column {name!r}; there are {', '.join(dtypes) or 'none'}", column=name)
    arrays = {}
    for name, dtype in dtypes.items():
        if name not in columns:
            raise ColumnError(f"column {name!r} is missing", column=name)
        array = _fitting(name, columns[name], dtype.base)
        if array.ndim == 0 or len(array) != n:
            raise ColumnError(f"column {name!r} has {len(array) if array.ndim else 1} values for {n} keys", column=name)
        if array.shape[1:] != dtype.shape:
            raise DtypeError(f"column {name!r}: values of shape {array.shape[1:]}, not {dtype.shape}", column=name)
        arrays[name] = np.ascontiguousarray(array)
    return arrays


def _fitting(name: str, values: ArrayLike, dtype: np.dtype[Any]) -> NDArray[Any]:
    if isinstance(values, np.ndarray):
        array = values
    else:
        try:
            array = np.asarray(values)
        except (TypeError, ValueError) as error:
            raise DtypeError(f"column {name!r}: {error}", column=name) from error
        if array.size == 0:
            array = array.astype(dtype)
        elif array.dtype.kind in "iu" and dtype.kind in "iuf":
            with np.errstate(over="ignore"):
                cast = array.astype(dtype)
            if dtype.kind in "iu" and not (cast == array).all():
                raise DtypeError(f"column {name!r}: an integer is out of the range of {dtype}", column=name)
            array = cast
    floats = array.dtype.kind == "f" and dtype.kind == "f"
    if not (np.can_cast(array.dtype, dtype, "safe") or floats):
        raise DtypeError(f"column {name!r}: {array.dtype} values do not fit {dtype}", column=name)
    with np.errstate(over="ignore"):  # a float beyond the narrower range becomes infinite, as in any cast
        return array.astype(dtype, copy=False)
