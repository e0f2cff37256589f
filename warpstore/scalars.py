"""The kinds of single values: numbers, text, times, enums, literals.

One concept: an exact built-in type, with a test where some of its values have no encoding that reads back equal. An
aware ``datetime`` is kept as its instant and reads back in UTC; a naive one reads back as it was.
"""

# ruff: noqa: ARG002  # every kind has the same methods; not every kind needs all their arguments.
from __future__ import annotations

import datetime as dt
import reprlib
from collections.abc import Callable, Iterable
from decimal import Decimal
from enum import Enum
from typing import Any

from warpstore.checks import Kind, Source, fail

INT_MIN, INT_MAX = -(2**63), 2**64 - 1


class Scalar(Kind):
    """A value of exactly one immutable type."""

    def __init__(self, cls: type, name: str | None = None) -> None:
        self.cls = cls
        self.name = self.expected = name or cls.__name__

    def guard(self, v: str, source: Source) -> str:
        return f"type({v}) is {self.class_name(source)}"

    def reject(self, v: str, source: Source) -> str:
        return f"type({v}) is not {self.class_name(source)}"

    def class_name(self, source: Source) -> str:
        """Return the name under which generated code finds the class."""
        builtin = self.cls in (bool, int, float, str, bytes)
        return self.cls.__name__ if builtin else source.bind(self.cls, self.cls.__name__)

    def admits(self, v: Any) -> bool:
        return type(v) is self.cls

    def explain(self, v: Any, path: str, depth: int) -> None:
        if not self.admits(v):
            self.wrong(v, path)
        if type(v) is int and not INT_MIN <= v <= INT_MAX:
            fail(path, "an int is limited to 64 bits")
        if type(v) is str:
            try:
                v.encode()
            except UnicodeEncodeError as error:
                fail(path, f"no valid Unicode: lone surrogate at index {error.start}")


class Float(Scalar):
    """A float; an int is taken and reads back as a float."""

    def __init__(self) -> None:
        super().__init__(float)

    def guard(self, v: str, source: Source) -> str:
        return f"(type({v}) is float or type({v}) is int)"

    def reject(self, v: str, source: Source) -> str:
        return f"type({v}) is not float and type({v}) is not int"

    def admits(self, v: Any) -> bool:
        return type(v) is float or type(v) is int


class Tested(Scalar):
    """A scalar of which some values have no encoding, found by a condition on ``v``."""

    def __init__(self, cls: type, condition: str, test: Callable[[Any], str | None]) -> None:
        super().__init__(cls)
        self.condition = condition
        self.test = test

    def body(self, v: str, depth: str, source: Source) -> list[str]:
        test = source.bind(self.test, "test")
        return [f"if {self.condition.format(v=v)} and {test}({v}) is not None: raise Mismatch"]

    def explain(self, v: Any, path: str, depth: int) -> None:
        if not self.admits(v):
            self.wrong(v, path)
        if (reason := self.test(v)) is not None:
            fail(path, reason)


def _datetime_problem(v: dt.datetime) -> str | None:
    try:
        if v.utcoffset() is not None:
            v.astimezone(dt.UTC)
        elif v.tzinfo is not None:
            return "its tzinfo gives no UTC offset"
    except (OverflowError, ValueError):
        return "out of range in UTC"
    return None


def _time_problem(v: dt.time) -> str | None:
    offset = v.utcoffset()
    if offset is None:
        return "its tzinfo gives no UTC offset without a date"
    return "its UTC offset has a fraction of a minute" if offset % dt.timedelta(minutes=1) else None


def _decimal_problem(v: Decimal) -> str | None:
    return "a signalling NaN cannot be stored" if v.is_snan() else None


def datetime_kind() -> Kind:
    """Return the kind of ``datetime``: an aware one is kept as its instant and read in UTC, a naive one as it is."""
    return Tested(dt.datetime, "{v}.tzinfo is not None", _datetime_problem)


def time_kind() -> Kind:
    """Return the kind of ``datetime.time``."""
    return Tested(dt.time, "{v}.tzinfo is not None", _time_problem)


def decimal_kind() -> Kind:
    """Return the kind of ``Decimal``."""
    return Tested(Decimal, "{v}.is_snan()", _decimal_problem)


class Null(Kind):
    """``None``."""

    name = expected = "None"

    def guard(self, v: str, source: Source) -> str:
        return f"{v} is None"

    def reject(self, v: str, source: Source) -> str:
        return f"{v} is not None"

    def admits(self, v: Any) -> bool:
        return v is None

    def explain(self, v: Any, path: str, depth: int) -> None:
        if v is not None:
            self.wrong(v, path)


class OneOf(Kind):
    """A ``Literal``: one of some strings, ints or None, of exactly their types."""

    def __init__(self, values: Iterable[Any]) -> None:
        self.values = frozenset(values)
        self.types = frozenset(map(type, self.values))
        self.name = self.expected = f"Literal[{', '.join(sorted(map(repr, self.values)))}]"

    def guard(self, v: str, source: Source) -> str:
        return f"(type({v}) in {source.bind(self.types, 'types')} and {v} in {source.bind(self.values, 'values')})"

    def admits(self, v: Any) -> bool:
        return type(v) in self.types and v in self.values

    def explain(self, v: Any, path: str, depth: int) -> None:
        if not self.admits(v):
            got = reprlib.repr(v) if type(v) in self.types else type(v).__name__
            fail(path, f"expected {self.expected}, got {got}")


class Enumeration(Scalar):
    """A member of an ``Enum`` with str or int values."""

    def __init__(self, cls: type[Enum]) -> None:
        super().__init__(cls)
        self.name = f"{cls.__name__}({', '.join(sorted(repr(member.value) for member in cls))})"

    def explain(self, v: Any, path: str, depth: int) -> None:
        if not self.admits(v):
            self.wrong(v, path)
