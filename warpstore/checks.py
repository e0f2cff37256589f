"""Kinds: what a field's type admits, as a generated check, as an explanation and as a copy.

One concept: a ``Kind`` is one type, compiled. It gives four things that must agree:

- ``guard`` and ``body``: source text of the quick check that ``codec.py`` puts inline. ``guard`` is a shallow
  expression (exact built-in type), ``body`` the statements that look inside. They only raise ``Mismatch`` (or
  whatever the interpreter raises); nobody reads that exception.
- ``explain``: the slow twin, run after the quick check or the encoder failed. It raises the ``ValidationError`` or
  ``LimitError`` that names the place, such as ``User.attrs['k3']: expected str, got int``.
- ``copy``: source text of an expression that copies a value so that no mutable part is shared, or None.
- ``name``: the canonical text of the type, which the schema keeps.

Checks are strict: a set is no list, a bool is no int, a subclass is not its base. Only int is taken for float. Every
value that passes decodes to an equal value. The kinds of scalars are in ``scalars.py``, of ``Any`` and unions in
``variants.py``, of containers in ``containers.py``; ``kinds.py`` builds them from annotations.
"""

# ruff: noqa: ARG002  # every kind has the same methods; not every kind needs all their arguments.
from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

from warpstore._native import all_of, as_f4, in_order, pairs_of
from warpstore.errors import LimitError, ValidationError

NESTING_MAX = 64


class Mismatch(Exception):  # noqa: N818 - nobody sees it; the name is short in generated code
    """Raised by generated checks; ``explain`` finds out what it was."""


class TooDeep(Mismatch):
    """A value is nested deeper than ``NESTING_MAX``."""


class Source:
    """Generated source text and the objects it refers to by name."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {
            "Mismatch": Mismatch,
            "TooDeep": TooDeep,
            "all_of": all_of,
            "as_f4": as_f4,
            "in_order": in_order,
            "pairs_of": pairs_of,
        }
        self.functions: list[str] = []
        self._known: dict[tuple[str, int], str] = {}
        self._count = 0

    def bind(self, value: Any, hint: str) -> str:
        """Return the name under which the generated code finds ``value``."""
        name = self._known.get((hint, id(value)))
        if name is None:
            name = self._known[hint, id(value)] = f"{hint}_{len(self.names)}"
            self.names[name] = value
        return name

    def local(self) -> str:
        """Return a name that no other generated variable has."""
        self._count += 1
        return f"x{self._count}"


class Kind:
    """One type, compiled. The base is also the kind of everything that needs no look inside."""

    name = ""
    expected = ""
    depth = 0
    """Static levels of nesting below the value."""

    def guard(self, v: str, source: Source) -> str:
        """Return an expression that is true if ``v`` has the right outer type."""
        raise NotImplementedError

    def reject(self, v: str, source: Source) -> str:
        """Return the negation of ``guard``."""
        return f"not ({self.guard(v, source)})"

    def body(self, v: str, depth: str, source: Source) -> list[str]:
        """Return the statements that raise if something inside ``v``, whose guard holds, is wrong."""
        return []

    def check(self, v: str, depth: str, source: Source) -> list[str]:
        """Return the statements of the whole check."""
        return [f"if {self.reject(v, source)}: raise Mismatch", *self.body(v, depth, source)]

    def copy(self, v: str, source: Source) -> str | None:
        """Return an expression for an isolated copy of ``v``: ``v`` itself if immutable, None if there is none."""
        return v

    def explain(self, v: Any, path: str, depth: int) -> None:
        """Raise the ``ValidationError`` that says what is wrong with ``v``, if anything is."""
        raise NotImplementedError

    def admits(self, v: Any) -> bool:
        """Return whether the outer type of ``v`` is right."""
        raise NotImplementedError

    def wrong(self, v: Any, path: str) -> NoReturn:
        """Raise the ``ValidationError`` for a wrong outer type."""
        got = type(v).__name__ if type(v).__name__ != self.expected else f"{type(v).__module__}.{type(v).__name__}"
        fail(path, f"expected {self.expected}, got {got}")


def fail(path: str, words: str) -> NoReturn:
    """Raise a ``ValidationError`` for the place ``path`` (``User.tags[3]``)."""
    raise ValidationError(f"{path}: {words}", field=path.partition(".")[2] or None)


def too_deep(path: str, depth: int) -> None:
    """Raise a ``LimitError`` if ``depth`` levels are more than the limit."""
    if depth > NESTING_MAX:
        place = path if len(path) <= 80 else path[:77] + "..."
        raise LimitError(
            f"{place}: nested deeper than the limit of {NESTING_MAX} levels", field=path.partition(".")[2] or None
        )


def indented(lines: Iterable[str]) -> list[str]:
    """Return source lines one level deeper."""
    return ["    " + line for line in lines]
