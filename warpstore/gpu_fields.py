"""``Gpu`` fields: values of fixed width, rounded to their column's type.

One concept: the kind of a field that is a column. Its value is converted when its record is encoded, so that a read
of the record and a read of the column give the same; a value out of the column's range is refused. Which annotated
type goes with which column type is decided here too.
"""

from __future__ import annotations

import struct
from typing import Any

from warpstore.annotations import Gpu, parse_dtype
from warpstore.checks import Kind, Source, fail
from warpstore.containers import FixedTuple, Sequence
from warpstore.errors import SchemaError
from warpstore.scalars import Scalar

_CODES = {"f2": "e", "f4": "f", "f8": "d"} | {
    f"{sign}{width}": letter if sign == "i" else letter.upper()
    for sign in "iu"
    for width, letter in ((1, "b"), (2, "h"), (4, "i"), (8, "q"))
}
_DEFAULTS = {float: "f8", int: "i8", bool: "bool"}
_FAMILIES = {float: "f", int: "iu", bool: "b", bytes: "S"}


class ColumnKind(Kind):
    """The kind of a ``Gpu`` field: its base kind, then the conversion to its column type."""

    def __init__(self, base: Kind, dtype: str) -> None:
        self.base = base
        self.dtype = dtype
        self.count, self.code = parse_dtype(dtype)
        self.name = base.name
        self.expected = base.expected
        self.depth = base.depth
        self._struct = struct.Struct(f"<{self.count or 1}{_CODES[self.code]}") if self.code in _CODES else None

    @property
    def rounds(self) -> bool:
        """Whether the conversion may change a value that it accepts."""
        return self.code in ("f2", "f4") or (self.count is not None and self.code == "f8")

    def guard(self, v: str, source: Source) -> str:
        return self.base.guard(v, source)

    def reject(self, v: str, source: Source) -> str:
        return self.base.reject(v, source)

    def body(self, v: str, depth: str, source: Source) -> list[str]:
        return self.base.body(v, depth, source)

    def admits(self, v: Any) -> bool:
        return self.base.admits(v)

    def copy(self, v: str, source: Source) -> str | None:
        return self.base.copy(v, source)

    def convert(self, v: str, source: Source) -> list[str]:
        """Return the statements that round the checked ``v`` to the column's type or raise."""
        if self._struct is None:
            if self.code == "bool":
                return []
            return [f"if len({v}) > {self.code[1:]} or {v}[-1:] == b'\\0': raise Mismatch"]
        pack, unpack = source.bind(self._struct.pack, "pack"), source.bind(self._struct.unpack, "unpack")
        if self.count is not None:
            tuples = isinstance(self.base, FixedTuple) or getattr(self.base, "cls", None) is tuple
            rounded = f"{unpack}({pack}(*{v}))"
            return [f"{v} = {rounded if tuples else f'[*{rounded}]'}"] if self.rounds else [f"{pack}(*{v})"]
        if self.code == "f8":
            return []
        if self.code == "f4":
            return [f"{v} = as_f4({v})"]
        if self.code[0] == "f":
            return [f"{v} = {unpack}({pack}({v}))[0]"]
        low, high = _range(self.code)
        return [f"if not {low} <= {v} <= {high}: raise Mismatch"]

    def explain(self, v: Any, path: str, depth: int) -> None:
        self.base.explain(v, path, depth)
        if self._struct is None:
            if self.code[0] == "S" and (len(v) > int(self.code[1:]) or v[-1:] == b"\0"):
                fail(path, f"does not fit {self.code}: at most {self.code[1:]} bytes, the last not zero")
            return
        items = v if self.count is not None else (v,)
        if len(items) != (self.count or 1):
            fail(path, f"expected {self.count} items for {self.dtype}, got {len(items)}")
        try:
            self._struct.pack(*items)
        except (struct.error, OverflowError):
            fail(path, f"out of range of {self.code}")


def column_of(base: Kind, marker: Gpu, where: str) -> ColumnKind:
    """Return the column kind of a ``Gpu`` field.

    Args:
        base: The kind of its annotated type.
        marker: Its annotation.
        where: ``User.score``, for errors.

    Raises:
        SchemaError: the type has no fixed width, or does not go with the dtype.
    """
    item = base
    length: int | None = None
    if isinstance(base, Sequence) and base.cls in (list, tuple):
        item = base.item
    elif isinstance(base, FixedTuple) and len({option.name for option in base.items}) == 1:
        item, length = base.items[0], len(base.items)
    python = item.cls if isinstance(item, Scalar) else None
    if python not in _FAMILIES or (item is not base and python not in (int, float)):
        raise SchemaError(
            f"{where}: Gpu needs a type of fixed width: float, int, bool, bytes, or a list or tuple of float or int; "
            f"got {base.expected}"
        )
    if marker.dtype is None and (item is not base or python not in _DEFAULTS):
        example = "S16" if python is bytes else "4f4"
        raise SchemaError(f'{where}: {base.expected} has no fixed width; give one, such as Gpu(dtype="{example}")')
    column = ColumnKind(base, marker.dtype or _DEFAULTS[python])
    if (column.count is None) != (item is base):
        needs = "a count, such as 4f4" if column.count is None else "no count"
        raise SchemaError(f"{where}: Gpu(dtype={marker.dtype!r}) does not fit {base.expected}: it needs {needs}")
    if column.code[0] not in _FAMILIES[python]:
        raise SchemaError(f"{where}: Gpu(dtype={column.dtype!r}) does not fit {base.expected}")
    if length is not None and length != column.count:
        raise SchemaError(f"{where}: Gpu(dtype={column.dtype!r}) does not fit a tuple of {length}")
    if marker.mass and (item is not base or python not in (int, float)):
        raise SchemaError(f"{where}: mass=True needs a single float or int, not {base.expected}")
    return column


def _range(code: str) -> tuple[int, int]:
    bits = int(code[1:]) * 8
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if code[0] == "i" else (0, (1 << bits) - 1)
