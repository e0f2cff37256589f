"""``Computed(batch=True)``: a field of many records at once, by one call with columns.

One concept: the way from records to columns, through the function, and back to values. A field of fixed width is a
NumPy array (``float64``, ``int64``, ``bool``, or the dtype of its `Gpu` column; a vector has two dimensions), any other
field a list of its values. What the function returns is checked here for its length, and by the field's kind for its
type.

The function is called by a backend of ``gpu_kernels``, which may hand it the arrays in a device's memory. ``put_many``
calls it once for up to 1,024 records, every other write with columns of one row; so it must treat each row by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np

from gpu_kernels import Backend
from warpstore.checks import fail
from warpstore.containers import FixedTuple
from warpstore.containers import Sequence as SequenceKind
from warpstore.gpu_fields import ColumnKind
from warpstore.plan import ComputedField, FieldPlan, Plan
from warpstore.scalars import Scalar
from warpstore.variants import Constrained

_DTYPES = {float: "f8", int: "i8", bool: "bool"}


class BatchFunction:
    """The function of one field, called with records.

    Args:
        plan: Their type.
        computed: The field.
        backend: What calls the function.
    """

    def __init__(self, plan: Plan[Any], computed: ComputedField, backend: Backend) -> None:
        self._where = f"{plan.record_type.__name__}.{computed.name}"
        self._f = computed.f
        self._backend = backend
        self._columns = [
            (name, attrgetter(name), column_dtype(plan.fields[name]), f"{plan.record_type.__name__}.{name}")
            for name in computed.of
        ]
        self._gives_tuples = _is_tuple(plan.fields[computed.name])

    def __call__(self, record: Any) -> Any:
        """Return the field's value for one record."""
        return self.values([record])[0]

    def values(self, records: Sequence[Any]) -> list[Any]:
        """Return the field's value for each record; their fields are checked, the values are not.

        Raises:
            ValidationError: the function returned no column of as many rows, or an int does not fit an int64.
            Exception: what the function raised.
        """
        columns: dict[str, Any] = {}
        for name, get, dtype, where in self._columns:
            values = list(map(get, records))
            try:
                columns[name] = values if dtype is None else _array(values, dtype)
            except OverflowError:
                fail(where, f"is out of the range of its column, which {self._where} is computed of")
        found = self._backend.apply(self._f, columns)
        n, rows = len(records), f"{len(records)} record{'s' * (len(records) != 1)}"
        if not isinstance(found, list | tuple):
            what = type(found).__name__
            found = np.asarray(found)
            if not found.ndim:
                fail(self._where, f"Computed(batch=True) returned a single {what} for {rows}, not a column")
        if len(found) != n:
            fail(self._where, f"Computed(batch=True) returned {len(found)} values for {rows}")
        if isinstance(found, np.ndarray):
            items: list[Any] = found.tolist()
            return [tuple(item) for item in items] if self._gives_tuples and found.ndim > 1 else items
        return [item.item() if isinstance(item, np.generic) else item for item in found]


class BulkFill:
    """Sets the batch fields of many records, and what these are computed of.

    Args:
        prepare: Checks the fields of one record that are not computed and that a batch field depends on.
        steps: In the order of their dependence: a computed field, its `BatchFunction`, and the check that returns what
            is stored of a value; or, for a field of one record at a time, the function that sets it.
    """

    def __init__(
        self,
        prepare: Callable[[Any], None],
        steps: Sequence[tuple[str, BatchFunction, Callable[[Any], Any]] | Callable[[Any], None]],
    ) -> None:
        self._prepare = prepare
        self._steps = list(steps)

    def __call__(self, records: Sequence[Any]) -> None:
        """Set them.

        Raises:
            ValidationError: a record is wrong, or what a function returned.
            Exception: what a function raised.
        """
        for record in records:
            self._prepare(record)
        for step in self._steps:
            if not isinstance(step, tuple):
                for record in records:
                    step(record)
                continue
            name, function, checked = step
            for record, value in zip(records, function.values(records), strict=True):
                msgspec.structs.force_setattr(record, name, checked(value))


def needed_by_batches(plan: Plan[Any]) -> frozenset[str]:
    """Return the computed fields that take columns, and those that these are computed of."""
    by_name = {computed.name: computed for computed in plan.computed_fields}
    needed: set[str] = set()
    for computed in reversed(plan.computed_fields):  # each stands after what it depends on
        if computed.batch or computed.name in needed:
            needed.add(computed.name)
            needed.update(name for name in computed.of if name in by_name)
    return frozenset(needed)


def column_dtype(field: FieldPlan) -> np.dtype[Any] | None:
    """Return the dtype of a field's column, or None if its column is a list."""
    kind = field.kind
    if isinstance(kind, ColumnKind):
        return np.dtype(kind.dtype)
    if isinstance(kind, Constrained):
        kind = kind.base
    name = _DTYPES.get(kind.cls) if isinstance(kind, Scalar) else None
    return None if name is None else np.dtype(name)


def _array(values: list[Any], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    return np.array(values, dtype.base).reshape(len(values), *dtype.shape)


def _is_tuple(field: FieldPlan) -> bool:
    kind = field.kind.base if isinstance(field.kind, ColumnKind | Constrained) else field.kind
    return isinstance(kind, FixedTuple) or (isinstance(kind, SequenceKind) and kind.cls is tuple)
