"""JSON for values: which types JSON keeps as they are, and how the rest is written.

JSON has no NaN, no infinity, and one kind of text. A field whose type says what each text means reads back exactly:
bytes are base64, times are RFC 3339, a float that is not finite is ``"NaN"``, ``"Infinity"`` or ``"-Infinity"``. For
`Any`, unions and dicts with unusual keys the type does not always say; such a value is read back before it is written,
and refused if it comes out another one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec

from warpstore.checks import Kind
from warpstore.containers import FixedTuple, Mapping, Sequence, StructKind
from warpstore.gpu_fields import ColumnKind
from warpstore.scalars import Enumeration, Float, Null, OneOf, Scalar
from warpstore.variants import Anything, Constrained, Union

encode: Callable[[Any], bytes] = msgspec.json.Encoder(decimal_format="string").encode
NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def options_of(kind: Kind) -> list[Kind]:
    """Return the kinds that a value may have beside None."""
    options = kind.options if isinstance(kind, Union) else [kind]
    return [option for option in options if not isinstance(option, Null)]


def bare(kind: Kind) -> Kind:
    """Return a kind without constraints and column."""
    while isinstance(kind, Constrained | ColumnKind):
        kind = kind.base
    return kind


def is_exact(kind: Kind) -> bool:
    """Return whether the type alone tells what a JSON value stands for."""
    kind = bare(kind)
    if isinstance(kind, Anything):
        return False
    if isinstance(kind, Union):
        options = options_of(kind)
        return len(options) <= 1 and all(map(is_exact, options))
    if isinstance(kind, Sequence):
        return is_exact(kind.item)
    if isinstance(kind, FixedTuple):
        return all(map(is_exact, kind.items))
    if isinstance(kind, Mapping):
        key = bare(kind.key)
        plain = isinstance(key, Scalar) and not isinstance(key, Float | Enumeration) and key.cls in (str, int)
        return plain and is_exact(kind.value)
    if isinstance(kind, StructKind):
        return not kind.recursive and all(map(is_exact, kind.fields.values()))
    return not isinstance(kind, OneOf) or len({type(value) for value in kind.values} - {type(None)}) <= 1


class JsonText:
    """A value of one type as JSON text, and back."""

    __slots__ = ("_decode",)

    def __init__(self, hint: Any) -> None:
        self._decode = msgspec.json.Decoder(hint).decode

    def dump(self, value: Any) -> str:
        """Return the text of a value.

        Raises:
            ValueError: it does not read back as the same value.
        """
        try:
            text = encode(value)
            again = self._decode(text)
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError) as e:
            raise ValueError(f"has no JSON text: {e}") from e
        if not _same(again, value):
            raise ValueError("has no JSON text that reads back as the same value")
        return text.decode()

    def load(self, text: str) -> Any:
        """Return the value of a text.

        Raises:
            msgspec.DecodeError: the text is none of the type.
        """
        return self._decode(text)


def _same(a: Any, b: Any) -> bool:
    """Return whether two values are equal, and of the same types throughout lists and dicts."""
    if type(a) is not type(b):
        return False
    if type(a) is list or type(a) is tuple:
        return len(a) == len(b) and all(map(_same, a, b))
    if type(a) is dict:
        return len(a) == len(b) and all(_same(x, y) and _same(a[x], b[y]) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def spelt_out(value: Any) -> Any:
    """Return builtins, as `msgspec.to_builtins` gave them, with floats that are not finite as text."""
    if type(value) is float and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if type(value) is dict:
        return {key: spelt_out(item) for key, item in value.items()}
    if type(value) is list or type(value) is tuple:
        return [spelt_out(item) for item in value]
    return value


def read_back(kind: Kind, value: Any) -> Any:
    """Return decoded JSON with the texts of `spelt_out` as floats again, wherever the type has a float."""
    kind = bare(kind)
    if isinstance(kind, Union):
        options = options_of(kind)
        return read_back(options[0], value) if len(options) == 1 else value
    if isinstance(kind, Float) and type(value) is str:
        return NOT_FINITE.get(value, value)
    if type(value) is list and isinstance(kind, Sequence):
        return [read_back(kind.item, item) for item in value]
    if type(value) is list and isinstance(kind, FixedTuple) and len(value) == len(kind.items):
        return [read_back(item_kind, item) for item_kind, item in zip(kind.items, value, strict=True)]
    if type(value) is dict and isinstance(kind, Mapping):
        return {key: read_back(kind.value, item) for key, item in value.items()}
    if isinstance(kind, StructKind):
        names = kind.cls.__struct_encode_fields__
        if type(value) is dict:
            known = dict(zip(names, kind.fields.values(), strict=True))
            return {key: read_back(known[key], item) if key in known else item for key, item in value.items()}
        if type(value) is list:
            return [*map(read_back, kind.fields.values(), value), *value[len(names) :]]
    return value
