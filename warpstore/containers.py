"""The kinds that hold others: lists, sets, tuples, dicts and Structs.

One concept: how a check, its explanation and a copy go one level down. Where the items are plain scalars, one call
checks them all.
"""

# ruff: noqa: ARG002  # every kind has the same methods; not every kind needs all their arguments.
from __future__ import annotations

import reprlib
from typing import Any

import msgspec

from warpstore.checks import NESTING_MAX, Kind, Source, fail, indented, too_deep
from warpstore.scalars import Scalar


def deeper(depth: str) -> str:
    """Return the source text of ``depth + 1``."""
    return str(int(depth) + 1) if depth.isdigit() else f"{depth} + 1"


class Sequence(Kind):
    """``list[T]``, ``set[T]``, ``frozenset[T]`` or ``tuple[T, ...]``."""

    def __init__(self, cls: type, item: Kind) -> None:
        self.cls = cls
        self.item = item
        dots = ", ..." if cls is tuple else ""
        self.name = f"{cls.__name__}[{item.name}{dots}]"
        self.expected = f"{cls.__name__}[{item.expected}{dots}]"
        self.depth = item.depth + 1

    def guard(self, v: str, source: Source) -> str:
        return f"type({v}) is {self.cls.__name__}"

    def reject(self, v: str, source: Source) -> str:
        return f"type({v}) is not {self.cls.__name__}"

    def admits(self, v: Any) -> bool:
        return type(v) is self.cls

    def body(self, v: str, depth: str, source: Source) -> list[str]:
        if type(self.item) is Scalar:
            return [f"all_of({v}, {self.item.class_name(source)})"]
        x = source.local()
        check = self.item.check(x, deeper(depth), source)
        return [f"for {x} in {v}:", *indented(check)]

    def copy(self, v: str, source: Source) -> str | None:
        x = source.local()
        item = self.item.copy(x, source)
        if item is None:
            return None
        if item == x:
            return f"{v}.copy()" if self.cls in (list, set) else v
        inner = f"{item} for {x} in {v}"
        return f"[{inner}]" if self.cls is list else f"{self.cls.__name__}([{inner}])"

    def explain(self, v: Any, path: str, depth: int) -> None:
        if not self.admits(v):
            self.wrong(v, path)
        too_deep(path, depth + 1)
        for index, item in enumerate(v):
            place = f"{path}[{index}]" if self.cls in (list, tuple) else f"{path} item {reprlib.repr(item)}"
            self.item.explain(item, place, depth + 1)


class FixedTuple(Kind):
    """``tuple[A, B, C]``."""

    def __init__(self, items: list[Kind]) -> None:
        self.items = items
        self.name = f"tuple[{', '.join(item.name for item in items) or '()'}]"
        self.expected = f"tuple[{', '.join(item.expected for item in items) or '()'}]"
        self.depth = 1 + max((item.depth for item in items), default=0)

    def guard(self, v: str, source: Source) -> str:
        return f"type({v}) is tuple"

    def reject(self, v: str, source: Source) -> str:
        return f"type({v}) is not tuple"

    def admits(self, v: Any) -> bool:
        return type(v) is tuple

    def body(self, v: str, depth: str, source: Source) -> list[str]:
        lines = [f"if len({v}) != {len(self.items)}: raise Mismatch"]
        xs = [source.local() for _ in self.items]
        if xs:
            lines.append(f"{', '.join(xs)}, = {v}")
        for x, item in zip(xs, self.items, strict=True):
            lines += item.check(x, deeper(depth), source)
        return lines

    def copy(self, v: str, source: Source) -> str | None:
        copies = [item.copy(f"{v}[{index}]", source) for index, item in enumerate(self.items)]
        if copies == [f"{v}[{index}]" for index in range(len(self.items))]:
            return v
        known = [copied for copied in copies if copied is not None]
        return f"({', '.join(known)},)" if len(known) == len(copies) else None

    def explain(self, v: Any, path: str, depth: int) -> None:
        if not self.admits(v):
            self.wrong(v, path)
        too_deep(path, depth + 1)
        if len(v) != len(self.items):
            fail(path, f"expected {self.expected}, got a tuple of {len(v)}")
        for index, (item, kind) in enumerate(zip(v, self.items, strict=True)):
            kind.explain(item, f"{path}[{index}]", depth + 1)


class Mapping(Kind):
    """``dict[K, V]``."""

    def __init__(self, key: Kind, value: Kind) -> None:
        self.key = key
        self.value = value
        self.name = f"dict[{key.name}, {value.name}]"
        self.expected = f"dict[{key.expected}, {value.expected}]"
        self.depth = 1 + max(key.depth, value.depth)

    def guard(self, v: str, source: Source) -> str:
        return f"type({v}) is dict"

    def reject(self, v: str, source: Source) -> str:
        return f"type({v}) is not dict"

    def admits(self, v: Any) -> bool:
        return type(v) is dict

    def body(self, v: str, depth: str, source: Source) -> list[str]:
        if type(self.key) is Scalar and type(self.value) is Scalar:
            return [f"pairs_of({v}, {self.key.class_name(source)}, {self.value.class_name(source)})"]
        k, x = source.local(), source.local()
        value = self.value.check(x, deeper(depth), source)
        if type(self.key) is Scalar:
            key = self.key.class_name(source)
            return [f"all_of({v}, {key})", f"for {x} in {v}.values():", *indented(value)]
        return [f"for {k}, {x} in {v}.items():", *indented([*self.key.check(k, deeper(depth), source), *value])]

    def copy(self, v: str, source: Source) -> str | None:
        k, x = source.local(), source.local()
        value = self.value.copy(x, source)
        if value is None or self.key.copy(k, source) != k:
            return None
        return f"{v}.copy()" if value == x else f"{{{k}: {value} for {k}, {x} in {v}.items()}}"

    def explain(self, v: Any, path: str, depth: int) -> None:
        if not self.admits(v):
            self.wrong(v, path)
        too_deep(path, depth + 1)
        for key, item in v.items():
            self.key.explain(key, f"{path} key {reprlib.repr(key)}", depth + 1)
            self.value.explain(item, f"{path}[{reprlib.repr(key)}]", depth + 1)


class StructKind(Kind):
    """A nested ``msgspec.Struct``, exactly of its class; its fields are filled in after it exists, so it may recur."""

    def __init__(self, cls: type[msgspec.Struct]) -> None:
        self.cls = cls
        self.name = self.expected = cls.__name__
        self.fields: dict[str, Kind] = {}
        self.recursive = False
        self.depth = 1

    def fill(self, fields: dict[str, Kind], *, recursive: bool) -> None:
        """Give the kinds of its fields."""
        self.fields = fields
        self.recursive = recursive
        config = self.cls.__struct_config__
        named = ", ".join(
            f"{name if name == wire else f'{name}={wire}'}{'' if default else '!'}: {fields[name].name}"
            for name, wire, default in zip(
                self.cls.__struct_fields__, self.cls.__struct_encode_fields__, _has_default(self.cls), strict=True
            )
        )
        tag = "" if config.tag is None else f" tag={config.tag!r}"
        left, right = "[]" if config.array_like else "{}"
        self.name = f"{self.cls.__name__}{tag}{left}{named}{right}"
        self.depth = 1 + max((kind.depth for kind in fields.values()), default=0)

    def guard(self, v: str, source: Source) -> str:
        return f"type({v}) is {source.bind(self.cls, 'type')}"

    def reject(self, v: str, source: Source) -> str:
        return f"type({v}) is not {source.bind(self.cls, 'type')}"

    def admits(self, v: Any) -> bool:
        return type(v) is self.cls

    def body(self, v: str, depth: str, source: Source) -> list[str]:
        name = source.bind(self, "check")
        if callable(source.names[name]):
            return [f"{name}({v}, {depth})"]
        source.names[name] = _declared
        lines = [f"if d >= {NESTING_MAX}: raise TooDeep"] if self.recursive else []
        for field, kind in self.fields.items():
            x = source.local()
            lines += [f"{x} = v.{field}", *kind.check(x, "d + 1", source)]
        source.functions.append("\n".join([f"def {name}(v, d):", *indented(lines or ["pass"])]))
        return [f"{name}({v}, {depth})"]

    def copy(self, v: str, source: Source) -> str | None:
        own_copy = any("__copy__" in vars(base) for base in self.cls.__mro__[:-3])
        if self.recursive or own_copy:
            return None
        copies = {field: kind.copy(f"c.{field}", source) for field, kind in self.fields.items()}
        if None in copies.values():
            return None
        changed = [f"c.{field} = {copied}" for field, copied in copies.items() if copied != f"c.{field}"]
        frozen = bool(self.cls.__struct_config__.frozen)
        if not changed:
            return v if frozen else f"{v}.__copy__()"
        if frozen:
            return None
        name = source.bind(self, "copy")
        if source.names[name] is self:
            source.names[name] = _declared
            lines = ["c = r.__copy__()", *changed, "return c"]
            source.functions.append("\n".join([f"def {name}(r):", *indented(lines)]))
        return f"{name}({v})"

    def explain(self, v: Any, path: str, depth: int) -> None:
        if not self.admits(v):
            self.wrong(v, path)
        too_deep(path, depth + 1)
        for field, kind in self.fields.items():
            try:
                value = getattr(v, field)
            except AttributeError:
                fail(f"{path}.{field}", "is missing")
            kind.explain(value, f"{path}.{field}", depth + 1)


def _declared() -> None:
    """Stand for a generated function until its source text is executed."""


def _has_default(cls: type[msgspec.Struct]) -> list[bool]:
    defaults = cls.__struct_defaults__
    missing = [False] * (len(cls.__struct_fields__) - len(defaults))
    return [*missing, *(default is not msgspec.NODEFAULT for default in defaults)]
