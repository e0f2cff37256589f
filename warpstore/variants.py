"""The kinds that admit several types: ``Any``, unions, and a type with constraints.

One concept: telling by the outer type what a value is meant to be, then checking it as that.
"""

# ruff: noqa: ARG002  # every kind has the same methods; not every kind needs all their arguments.
from __future__ import annotations

import reprlib
from typing import Any

import msgspec

from warpstore.checks import NESTING_MAX, Kind, Mismatch, Source, TooDeep, fail, indented, too_deep
from warpstore.scalars import OneOf, Scalar

_ANY_SCALARS = (type(None), bool, int, float, str, bytes)


class Anything(Kind):
    """``Any``: None, bool, int, float, str, bytes, lists and dicts of them: what MessagePack gives back the same."""

    name = "Any"
    expected = "None, bool, int, float, str, bytes, list or dict"

    def guard(self, v: str, source: Source) -> str:
        return "True"

    def reject(self, v: str, source: Source) -> str:
        return "False"

    def body(self, v: str, depth: str, source: Source) -> list[str]:
        return [f"{source.bind(check_any, 'check_any')}({v}, {depth})"]

    def copy(self, v: str, source: Source) -> str | None:
        return None

    def admits(self, v: Any) -> bool:
        return True

    def explain(self, v: Any, path: str, depth: int) -> None:
        if type(v) is list:
            too_deep(path, depth + 1)
            for index, item in enumerate(v):
                self.explain(item, f"{path}[{index}]", depth + 1)
        elif type(v) is dict:
            too_deep(path, depth + 1)
            for key, item in v.items():
                if type(key) not in _ANY_SCALARS:
                    fail(path, f"expected dict keys of str, int, float, bool, bytes or None, got {type(key).__name__}")
                Scalar(type(key)).explain(key, f"{path} key {reprlib.repr(key)}", depth)
                self.explain(item, f"{path}[{reprlib.repr(key)}]", depth + 1)
        elif type(v) in _ANY_SCALARS:
            Scalar(type(v)).explain(v, path, depth)
        else:
            self.wrong(v, path)


def check_any(v: Any, depth: int) -> None:
    """Raise ``Mismatch`` unless ``v`` is what an ``Any`` field may hold."""
    kind = type(v)
    if kind is list:
        if depth >= NESTING_MAX:
            raise TooDeep
        for item in v:
            check_any(item, depth + 1)
    elif kind is dict:
        if depth >= NESTING_MAX:
            raise TooDeep
        for key, item in v.items():
            if type(key) not in _ANY_SCALARS:
                raise Mismatch
            check_any(item, depth + 1)
    elif kind not in _ANY_SCALARS:
        raise Mismatch


class Constrained(Kind):
    """A kind whose values must also satisfy ``msgspec.Meta`` (bounds, pattern, length)."""

    def __init__(self, base: Kind, hint: Any, words: str) -> None:
        self.base = base
        self.hint = hint
        self.name = f"{base.name} ({words})"
        self.expected = base.expected
        self.depth = base.depth

    def guard(self, v: str, source: Source) -> str:
        return self.base.guard(v, source)

    def reject(self, v: str, source: Source) -> str:
        return self.base.reject(v, source)

    def body(self, v: str, depth: str, source: Source) -> list[str]:
        return [*self.base.body(v, depth, source), f"{source.bind(self.convert, 'convert')}({v})"]

    def copy(self, v: str, source: Source) -> str | None:
        return self.base.copy(v, source)

    def admits(self, v: Any) -> bool:
        return self.base.admits(v)

    def convert(self, v: Any) -> None:
        """Raise ``msgspec.ValidationError`` if a constraint does not hold."""
        msgspec.convert(v, self.hint)

    def explain(self, v: Any, path: str, depth: int) -> None:
        self.base.explain(v, path, depth)
        try:
            self.convert(v)
        except msgspec.ValidationError as error:
            fail(path, str(error))


class Union(Kind):
    """One of several kinds whose guards tell them apart."""

    def __init__(self, options: list[Kind]) -> None:
        self.options = options
        self.name = " | ".join(sorted(option.name for option in options))
        self.expected = " | ".join(option.expected for option in options)
        self.depth = max(option.depth for option in options)

    def guard(self, v: str, source: Source) -> str:
        return f"({' or '.join(option.guard(v, source) for option in self.options)})"

    def reject(self, v: str, source: Source) -> str:
        return " and ".join(f"({option.reject(v, source)})" for option in self.options)

    def body(self, v: str, depth: str, source: Source) -> list[str]:
        lines: list[str] = []
        bodies = [(option, option.body(v, depth, source)) for option in self.options]
        for option, body in sorted(bodies, key=lambda pair: not isinstance(pair[0], OneOf)):
            if body or isinstance(option, OneOf):
                lines += [f"{'elif' if lines else 'if'} {option.guard(v, source)}:", *indented(body or ["pass"])]
        return lines if any(body for _, body in bodies) else []

    def copy(self, v: str, source: Source) -> str | None:
        expression = v
        for option in self.options:
            copied = option.copy(v, source)
            if copied is None:
                return None
            if copied != v:
                expression = f"{copied} if {option.guard(v, source)} else {expression}"
        return expression if expression == v else f"({expression})"

    def admits(self, v: Any) -> bool:
        return any(option.admits(v) for option in self.options)

    def explain(self, v: Any, path: str, depth: int) -> None:
        matching = [option for option in self.options if option.admits(v)]
        if not matching:
            self.wrong(v, path)
        min(matching, key=lambda option: not isinstance(option, OneOf)).explain(v, path, depth)
