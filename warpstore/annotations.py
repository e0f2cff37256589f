"""What a record's field can say about itself, inside ``Annotated[...]``.

One concept: the markers. They are frozen plain data, checked when they are made: an argument that can never be right is
a ``SchemaError`` at once. What depends on the field they stand on (its type, its other markers) is checked when the
record class is created, in ``plan.py``. Nothing here is looked at again on the hot path.

A field has at most one tier marker (``Memory``, ``Gpu``, ``Disk``, ``Temporal``, ``Ephemeral``, ``Auto``; none means
``Auto``), and may also carry ``Key``, ``Computed`` and ``Renamed``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import msgspec

from warpstore.errors import SchemaError
from warpstore.units import parse_seconds

VECTOR_BYTES_MAX = 256
_DTYPE = re.compile(r"(?P<count>[1-9]\d*)?(?P<code>f[248]|i[1248]|u[1248])|(?P<bool>bool|b1|\?)|S(?P<bytes>[1-9]\d*)")


class Marker:
    """The base of every annotation of this module."""

    __slots__ = ()


class Tier(Marker):
    """The base of the annotations that say where a field lives."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Key(Marker):
    """The field that identifies its record: str, bytes, int (64-bit) or UUID, exactly one a record type."""


@dataclass(frozen=True, slots=True)
class Memory(Tier):
    """The field stays in RAM.

    Attributes:
        priority: Under pressure ``low`` is demoted first, then ``normal``; ``critical`` never.
    """

    priority: Literal["low", "normal", "critical"] = "normal"

    def __post_init__(self) -> None:
        _one_of("Memory", "priority", self.priority, ("low", "normal", "critical"))


@dataclass(frozen=True, slots=True)
class Gpu(Tier):
    """The field is a column of fixed width in GPU memory (a NumPy column where there is no GPU).

    Attributes:
        dtype: A NumPy type: ``f2 f4 f8`` for float, ``i1..i8 u1..u8`` for int, ``bool`` for bool, ``S<n>`` (n <= 256)
            for bytes, and with a count in front (``"4f4"``, up to 256 bytes) for lists and tuples of float or int.
            None: ``f8`` for float, ``i8`` for int, ``bool`` for bool.
        mass: The field's value weighs its record in placement; at most one field of a type, a scalar number.
    """

    dtype: str | None = None
    mass: bool = False

    def __post_init__(self) -> None:
        if self.dtype is not None:
            parse_dtype(self.dtype)
        _flag("Gpu", "mass", self.mass)


@dataclass(frozen=True, slots=True)
class Disk(Tier):
    """The field lives in blocks on disk.

    Attributes:
        compression: ``lz4``, ``max`` (smaller, slower to write) or ``none``.
        cache: False keeps it out of RAM once it is written.
    """

    compression: Literal["lz4", "max", "none"] = "lz4"
    cache: bool = True

    def __post_init__(self) -> None:
        _one_of("Disk", "compression", self.compression, ("lz4", "max", "none"))
        _flag("Disk", "cache", self.cache)


@dataclass(frozen=True, slots=True)
class Temporal(Tier):
    """The field is a series, ``list[T]``, that ages from RAM to ssd to disk to archive.

    Attributes:
        time: The field of ``T`` that orders the series (datetime, or unix seconds as float or int); None orders by the
            time of append.
        memory: Age up to which an item stays in RAM, as seconds or a string; None: no such tier.
        ssd: Age up to which it stays on ssd.
        disk: Age up to which it stays on disk.
        archive: Past the last age an item is archived (True) or deleted (False).
    """

    time: str | None = None
    memory: str | float | timedelta | None = None
    ssd: str | float | timedelta | None = None
    disk: str | float | timedelta | None = None
    archive: bool = False

    def __post_init__(self) -> None:
        if self.time is not None and type(self.time) is not str:
            raise SchemaError(f"Temporal(time={self.time!r}): give the name of a field of the items")
        _flag("Temporal", "archive", self.archive)
        last, last_name = 0.0, ""
        for name, seconds in self.horizons_s.items():
            if seconds is None:
                continue
            if seconds <= last:
                than = f"{last_name}={getattr(self, last_name)!r}" if last_name else "0"
                raise SchemaError(
                    f"Temporal({name}={getattr(self, name)!r}): horizons increase; this must exceed {than}"
                )
            last, last_name = seconds, name

    @property
    def horizons_s(self) -> dict[str, float | None]:
        """The ages in seconds by tier, in the order of ageing."""
        return {name: _seconds("Temporal", name, getattr(self, name)) for name in ("memory", "ssd", "disk")}


@dataclass(frozen=True, slots=True)
class Ephemeral(Tier):
    """The field lives in RAM only and is in no file; after ``ttl`` or a restart it has its default again.

    Attributes:
        ttl: How long a value lives after it was put, as seconds or a string; None: until restart.
    """

    ttl: str | float | timedelta | None = None

    def __post_init__(self) -> None:
        if self.ttl_s is not None and self.ttl_s <= 0:
            raise SchemaError(f"Ephemeral(ttl={self.ttl!r}): must be more than 0")

    @property
    def ttl_s(self) -> float | None:
        """The time to live in seconds."""
        return _seconds("Ephemeral", "ttl", self.ttl)


@dataclass(frozen=True, slots=True)
class Auto(Tier):
    """Placement decides where the field lives; the same as no tier marker."""


@dataclass(frozen=True, slots=True)
class Computed(Marker):
    """The field is computed from others and stored with its record.

    Attributes:
        f: Called with the record, and returns the field's value. With ``batch=True`` called with an object whose
            attributes are the columns of ``of``, a row each record: NumPy arrays for fields of fixed width (float64,
            int64, bool, or the dtype of a `Gpu` column), lists for others. It returns a column, array or list, of as
            many rows. It must treat every row by itself, and change no column.
        of: The fields it depends on; it is renewed when one of them changes.
        batch: Whether ``f`` takes columns instead of one record. `put_many` calls it for up to 1,024 records at once.
    """

    f: Callable[[Any], Any]
    of: tuple[str, ...]
    batch: bool = False

    def __post_init__(self) -> None:
        if not callable(self.f):
            raise SchemaError(f"Computed({self.f!r}): the first argument must be a function of the record")
        names: object = self.of
        if not isinstance(names, (tuple, list)) or not all(isinstance(name, str) for name in names):
            raise SchemaError(f'Computed(of={self.of!r}): give a tuple of field names, such as of=("friends",)')
        object.__setattr__(self, "of", tuple(self.of))
        if not self.of:
            raise SchemaError("Computed(of=()): name at least one field that it depends on")
        _flag("Computed", "batch", self.batch)


@dataclass(frozen=True, slots=True)
class Renamed(Marker):
    """The field was stored under another name before.

    Attributes:
        old: That name.
    """

    old: str

    def __post_init__(self) -> None:
        if type(self.old) is not str or not self.old.isidentifier():
            raise SchemaError(f"Renamed({self.old!r}): give the field's former name")


def derived() -> Any:
    """Return the default of a ``Computed`` field: a place that ``put`` fills.

    It is typed ``Any`` and is a plain default to type checkers, so that the constructor does not ask for the field.
    """
    return msgspec.UNSET


def parse_dtype(dtype: str) -> tuple[int | None, str]:
    """Return the count (None for a scalar) and the element code (``f4``, ``bool``, ``S16``) of a ``Gpu`` dtype.

    Raises:
        SchemaError: it is no type of fixed width, or wider than 256 bytes.
    """
    found = _DTYPE.fullmatch(dtype) if type(dtype) is str else None
    if found is None:
        raise SchemaError(
            f"Gpu(dtype={dtype!r}): no type of fixed width; use f2 f4 f8, i1 i2 i4 i8, u1 u2 u4 u8, bool, S<n>, "
            'or a count in front such as "4f4"'
        )
    if found["bool"]:
        return None, "bool"
    count = int(found["count"]) if found["count"] else None
    code = found["code"] or f"S{found['bytes']}"
    width = (count or 1) * int(code[1:])
    if width > VECTOR_BYTES_MAX:
        raise SchemaError(f"Gpu(dtype={dtype!r}): {width} bytes wide; the limit is {VECTOR_BYTES_MAX}")
    return count, code


def _one_of(marker: str, name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise SchemaError(f"{marker}({name}={value!r}): use one of {', '.join(map(repr, allowed))}")


def _flag(marker: str, name: str, value: object) -> None:
    if type(value) is not bool:
        raise SchemaError(f"{marker}({name}={value!r}): use True or False")


def _seconds(marker: str, name: str, value: str | float | timedelta | None) -> float | None:
    try:
        return None if value is None else parse_seconds(value)
    except ValueError as error:
        raise SchemaError(f"{marker}({name}={value!r}): {error}") from None
