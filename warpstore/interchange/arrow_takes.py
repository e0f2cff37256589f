"""Which Arrow types a field takes, and their values as Python has them.

One concept: judging a type that another program chose. A wider or another form of the same thing is taken (any int for
an int, large and dictionary-encoded strings, a list of key and value for a map); what would change or lose something is
a problem, in words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from warpstore.interchange.pyarrow_extra import load_pyarrow

Problem = Callable[[Any], str | None]


def _is(expected: str, test: Callable[[Any, Any], bool]) -> Problem:
    """Return the problem of types that fail a test, which gets ``pyarrow.types`` and the type."""

    def problem(got: Any) -> str | None:
        types = load_pyarrow().types
        if types.is_dictionary(got):
            got = got.value_type
        return None if test(types, got) else f"expected {expected}, got {got}"

    return problem


def _is_text(types: Any, got: Any) -> bool:
    return bool(types.is_string(got) or types.is_large_string(got) or types.is_string_view(got))


def _is_binary(types: Any, got: Any) -> bool:
    return bool(
        types.is_binary(got)
        or types.is_large_binary(got)
        or types.is_binary_view(got)
        or types.is_fixed_size_binary(got)
    )


def _is_uuid(types: Any, got: Any) -> bool:
    sixteen = types.is_fixed_size_binary(got) and got.byte_width == 16
    return bool(got == load_pyarrow().uuid() or sixteen or _is_text(types, got))


text = _is("string", _is_text)
binary = _is("binary", _is_binary)
uuid = _is("uuid, fixed_size_binary[16] or string", _is_uuid)
whole = _is("an integer", lambda types, got: types.is_integer(got))
real = _is("a float or an integer", lambda types, got: types.is_floating(got) or types.is_integer(got))
truth = _is("bool", lambda types, got: types.is_boolean(got))
date = _is("date", lambda types, got: types.is_date(got))
moment = _is("timestamp", lambda types, got: types.is_timestamp(got))
duration = _is("duration", lambda types, got: types.is_duration(got))
decimal = _is("string or decimal", lambda types, got: _is_text(types, got) or types.is_decimal(got))
null = _is("null", lambda types, got: types.is_null(got))


def list_of(item: Problem) -> Problem:
    """Return the problem of a list whose items are to fit."""

    def problem(got: Any) -> str | None:
        types = load_pyarrow().types
        if not (types.is_list(got) or types.is_large_list(got) or types.is_fixed_size_list(got)):
            return f"expected a list, got {got}"
        return None if types.is_null(got.value_type) else _within("items", item(got.value_type))

    return problem


def struct_of(fields: Mapping[str, Problem], needed: frozenset[str]) -> Problem:
    """Return the problem of a struct: it has all fields of ``needed``, and none but these."""

    def problem(got: Any) -> str | None:
        types = load_pyarrow().types
        if not types.is_struct(got):
            return f"expected a struct, got {got}"
        names = [got.field(i).name for i in range(got.num_fields)]
        for name in names:
            if name not in fields:
                return f"has the unknown field {name!r}"
            if names.count(name) > 1:
                return f"has the field {name!r} twice"
            wrong = fields[name](got.field(name).type)
            if wrong is not None:
                return _within(repr(name), wrong)
        missing = sorted(needed.difference(names))
        return f"lacks the field {missing[0]!r}" if missing else None

    return problem


def map_of(key: Problem, value: Problem) -> Problem:
    """Return the problem of a map, or a list of structs with key and value."""
    pairs = list_of(struct_of({"key": key, "value": value}, frozenset(("key", "value"))))

    def problem(got: Any) -> str | None:
        if not load_pyarrow().types.is_map(got):
            return None if pairs(got) is None else f"expected a map, got {got}"
        return _within("keys", key(got.key_type)) or _within("values", value(got.item_type))

    return problem


def required(cls: type[msgspec.Struct]) -> frozenset[str]:
    """Return the names of the fields without a default."""
    return frozenset(field.name for field in msgspec.structs.fields(cls) if field.required)


def _within(place: str, wrong: str | None) -> str | None:
    return None if wrong is None else f"{place}: {wrong}"


def as_python(column: Any) -> list[Any]:
    """Return the values of an Arrow array; moments as `datetime`, of at most microseconds.

    Raises:
        pyarrow.ArrowInvalid: a moment or duration has nanoseconds.
    """
    pa = load_pyarrow()
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    plain = _plain_type(pa, column.type)
    values: list[Any] = (column if plain == column.type else column.cast(plain)).to_pylist()
    return values


def _plain_type(pa: Any, of: Any) -> Any:
    """Return a type with times in microseconds, and nothing dictionary-encoded."""
    types = pa.types
    if types.is_timestamp(of):
        return pa.timestamp("us", of.tz and "UTC")
    if types.is_duration(of):
        return pa.duration("us")
    if types.is_dictionary(of):
        return _plain_type(pa, of.value_type)
    if types.is_map(of):
        return pa.map_(_plain_type(pa, of.key_type), of.item_field.with_type(_plain_type(pa, of.item_type)))
    if types.is_fixed_size_list(of):
        return pa.list_(of.value_field.with_type(_plain_type(pa, of.value_type)), of.list_size)
    if types.is_list(of) or types.is_large_list(of):
        make = pa.list_ if types.is_list(of) else pa.large_list
        return make(of.value_field.with_type(_plain_type(pa, of.value_type)))
    if types.is_struct(of):
        fields = [of.field(i) for i in range(of.num_fields)]
        return pa.struct([field.with_type(_plain_type(pa, field.type)) for field in fields])
    return of
