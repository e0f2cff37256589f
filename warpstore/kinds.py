"""From type annotations to kinds.

One concept: resolving what a class says about its fields (also as strings, also for classes made inside functions) and
naming what cannot be stored. Everything here runs once, when a record class is created; what is wrong is a
``SchemaError`` that names class and field.
"""

from __future__ import annotations

import datetime as dt
import inspect
import sys
import types
import typing
import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from typing import Any

import msgspec

from warpstore import containers, scalars, variants
from warpstore.annotations import Marker
from warpstore.checks import NESTING_MAX, Kind
from warpstore.errors import SchemaError

_KEY_KINDS = (scalars.Scalar, scalars.OneOf)
_CONSTRAINTS = ("gt", "ge", "lt", "le", "multiple_of", "pattern", "min_length", "max_length", "tz")
_SCALARS: dict[Any, Callable[[], Kind]] = {
    str: lambda: scalars.Scalar(str),
    bytes: lambda: scalars.Scalar(bytes),
    int: lambda: scalars.Scalar(int),
    bool: lambda: scalars.Scalar(bool),
    float: scalars.Float,
    dt.date: lambda: scalars.Scalar(dt.date),
    dt.timedelta: lambda: scalars.Scalar(dt.timedelta),
    dt.datetime: scalars.datetime_kind,
    dt.time: scalars.time_kind,
    Decimal: scalars.decimal_kind,
    uuid.UUID: lambda: scalars.Scalar(uuid.UUID),
    None: scalars.Null,
    type(None): scalars.Null,
    Any: variants.Anything,
}
_STANDARD_ENUMS = (Enum, IntEnum, StrEnum)
_INSTEAD = {
    list: "list[T]",
    set: "set[T]",
    frozenset: "frozenset[T]",
    tuple: "tuple[T, ...]",
    dict: "dict[K, V]",
    bytearray: "bytes",
    memoryview: "bytes",
    object: "Any",
    complex: "tuple[float, float]",
}


def hints_of(cls: type, local_names: Mapping[str, Any]) -> dict[str, Any]:
    """Return the annotations of ``cls`` and its bases as types, strings resolved.

    Args:
        cls: A Struct class.
        local_names: Names of the functions the class was made in; asked after the class's own module.

    Raises:
        SchemaError: a name in a string annotation is not known where the class is created.
    """
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        own = inspect.get_annotations(base) if issubclass(base, msgspec.Struct) and base is not msgspec.Struct else {}
        # The module itself and no copy of it: a lambda in a string annotation keeps it as its globals.
        module = vars(sys.modules[base.__module__]) if base.__module__ in sys.modules else {}
        made_in_function = "<locals>" in base.__qualname__
        names = {name: local_names[name] for name in local_names if made_in_function or name not in module}
        names[cls.__name__] = cls
        for field, annotation in own.items():
            holder = types.SimpleNamespace(__annotations__={field: annotation})
            try:
                hints[field] = typing.get_type_hints(holder, module, names, include_extras=True)[field]
            except NameError as error:
                raise SchemaError(
                    f"{cls.__name__}.{field}: {error.name!r} in its annotation is not known where the class is "
                    "created; define it before the record class, and import it outside `if TYPE_CHECKING`"
                ) from None
            except (TypeError, SyntaxError, AttributeError) as error:
                raise SchemaError(f"{cls.__name__}.{field}: its annotation cannot be read: {error}") from None
    return hints


class KindBuilder:
    """Builds the kinds of one record class; nested Structs are shared and may recur."""

    def __init__(self, local_names: Mapping[str, Any]) -> None:
        self._local_names = local_names
        self._structs: dict[type, containers.StructKind] = {}
        self._open: list[type] = []
        self._recursive: set[type] = set()

    def build(self, hint: Any, where: str) -> Kind:
        """Return the kind of a type.

        Args:
            hint: A resolved annotation, without the markers of the field.
            where: ``User.tags``, for errors.

        Raises:
            SchemaError: values of the type cannot be stored, or would not read back equal.
        """
        kind = self._kind(hint, where)
        if kind.depth > NESTING_MAX:
            raise SchemaError(f"{where}: nested deeper than the limit of {NESTING_MAX} levels")
        try:
            msgspec.msgpack.Decoder(hint)
        except NameError as error:
            raise SchemaError(f"{where}: a nested Struct names {error.name!r}, unknown in its module") from None
        except (TypeError, ValueError, RecursionError) as error:
            raise SchemaError(f"{where}: {error}") from None
        return kind

    def _kind(self, hint: Any, where: str) -> Kind:
        named = getattr(hint, "__supertype__", None) or getattr(hint, "__value__", None)
        if named is not None and not isinstance(hint, type):  # a NewType, or an alias made by a `type` statement
            return self._kind(named, where)
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if isinstance(hint, typing.TypeVar) or hint is msgspec.UnsetType:
            raise SchemaError(f"{where}: {hint} cannot be stored")
        if origin is typing.Annotated:
            return self._annotated(hint, arguments, where)
        if origin is typing.Union or origin is types.UnionType:
            return variants.Union([self._kind(argument, where) for argument in arguments])
        if origin is typing.Literal:
            return scalars.OneOf(arguments)
        if origin in (list, set, frozenset):
            return containers.Sequence(origin, self._kind(arguments[0], where))
        if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
            return containers.Sequence(tuple, self._kind(arguments[0], where))
        if origin is tuple:
            return containers.FixedTuple([self._kind(argument, where) for argument in arguments])
        if origin is dict:
            return self._dict(arguments, where)
        try:
            if hint in _SCALARS:
                return _SCALARS[hint]()
        except TypeError:
            raise SchemaError(f"{where}: {hint!r} is no type") from None
        if isinstance(hint, type):
            return self._class(hint, where)
        raise SchemaError(f"{where}: {_text(hint)} cannot be stored")

    def _annotated(self, hint: Any, arguments: tuple[Any, ...], where: str) -> Kind:
        base = self._kind(arguments[0], where)
        for extra in arguments[1:]:
            if isinstance(extra, Marker) or (isinstance(extra, type) and issubclass(extra, Marker)):
                raise SchemaError(f"{where}: a marker inside another type; write Annotated[<whole type>, <marker>]")
        words = ", ".join(
            f"{name}={getattr(extra, name)!r}"
            for extra in arguments[1:]
            if isinstance(extra, msgspec.Meta)
            for name in _CONSTRAINTS
            if getattr(extra, name) is not None
        )
        return variants.Constrained(base, hint, words) if words else base

    def _dict(self, arguments: tuple[Any, ...], where: str) -> Kind:
        key = self._kind(arguments[0], where)
        simple = key.options if isinstance(key, variants.Union) else [key]
        if not all(isinstance(option, (*_KEY_KINDS, scalars.Null)) for option in simple):
            raise SchemaError(f"{where}: the keys of a dict must be scalars, not {key.expected}")
        return containers.Mapping(key, self._kind(arguments[1], where))

    def _class(self, cls: type, where: str) -> Kind:
        if cls in _INSTEAD:
            raise SchemaError(f"{where}: {cls.__name__} cannot be stored; use {_INSTEAD[cls]}")
        if issubclass(cls, Enum):
            kinds = {type(member.value) for member in cls}
            if issubclass(cls, Flag) or kinds not in ({str}, {int}):
                raise SchemaError(f"{where}: the values of {cls.__name__} must be all str or all int, and no flags")
            if any("_missing_" in vars(base) for base in cls.__mro__ if base not in _STANDARD_ENUMS):
                raise SchemaError(f"{where}: {cls.__name__} defines _missing_; only named members can be stored")
            return scalars.Enumeration(cls)
        if issubclass(cls, msgspec.Struct):
            return self._struct(cls, where)
        if hasattr(cls, "__dataclass_fields__"):
            raise SchemaError(f"{where}: dataclass {cls.__name__} cannot be stored; make it a msgspec.Struct")
        raise SchemaError(f"{where}: {_text(cls)} cannot be stored")

    def _struct(self, cls: type[msgspec.Struct], where: str) -> Kind:
        known = self._structs.get(cls)
        if known is not None:
            if cls in self._open:
                self._recursive.update(self._open[self._open.index(cls) :])
            return known
        if getattr(cls, "__parameters__", ()):
            raise SchemaError(f"{where}: generic Struct {cls.__name__} cannot be stored")
        kind = self._structs[cls] = containers.StructKind(cls)
        self._open.append(cls)
        hints = hints_of(cls, self._local_names)
        fields = {name: self._kind(hints[name], f"{where}.{name}") for name in cls.__struct_fields__}
        self._open.pop()
        kind.fill(fields, recursive=cls in self._recursive)
        return kind


def _text(hint: Any) -> str:
    return f"{hint.__module__}.{hint.__qualname__}" if isinstance(hint, type) else str(hint)
