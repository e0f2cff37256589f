"""JSON Lines: one record a line, an object of its stored fields by name. Needs no pyarrow.

`json_text` says what the values look like. A field that a line leaves out gets its default; one that is null is None.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Mapping as AnyMapping
from operator import attrgetter
from typing import Any, Union

import msgspec

from warpstore.checks import Kind
from warpstore.containers import FixedTuple, Mapping, StructKind
from warpstore.containers import Sequence as SequenceKind
from warpstore.errors import RowError, ValidationError
from warpstore.interchange.json_text import JsonText, bare, encode, is_exact, options_of, read_back, spelt_out
from warpstore.plan import Plan
from warpstore.scalars import Float

LINE_BYTES_MAX = 256 << 20
_FIELD = re.compile(r"`?\$\.(\w+)|field `(\w+)`")


class LineWriter:
    """Writes records as lines.

    Args:
        plan: Their type.
        names: The fields to write.
    """

    def __init__(self, plan: Plan[Any], names: Sequence[str]) -> None:
        self._type = plan.record_type.__name__
        self._names = tuple(names)
        values = attrgetter(*names)
        self._values: Callable[[Any], tuple[Any, ...]] = values if len(names) > 1 else lambda record: (values(record),)
        self._floats = any(_has_float(plan.fields[name].kind) for name in names)
        inexact = [plan.fields[name] for name in names if not is_exact(plan.fields[name].kind)]
        self._checks = [(field.name, JsonText(field.stored_hint).dump) for field in inexact]

    def line(self, record: Any) -> bytes:
        """Return the line of a record, with its end.

        Raises:
            ValidationError: a value has no JSON that reads back as the same value.
        """
        for name, check in self._checks:
            try:
                check(getattr(record, name))
            except ValueError as e:
                raise ValidationError(f"{self._type}.{name}: {e}", field=name) from None
        fields = dict(zip(self._names, self._values(record), strict=True))
        line = encode(fields)
        if self._floats and b"null" in line:  # as which JSON has what is not finite
            line = encode(spelt_out(msgspec.to_builtins(fields, str_keys=True)))
        return line + b"\n"


def plain_line(fields: AnyMapping[str, Any]) -> bytes:
    """Return the line of what is stored of a record, with its end, made without the record's type.

    It is what `LineWriter` makes, but for what cannot be told without the type: a value that JSON does not give back.
    """
    line = encode(fields)
    if b"null" in line:
        line = encode(spelt_out(msgspec.to_builtins(fields, str_keys=True)))
    return line + b"\n"


class LineReader:
    """Reads lines to what a record is made of."""

    def __init__(self, plan: Plan[Any]) -> None:
        self._type = plan.record_type.__name__
        self._fields = plan.fields
        layout: list[Any] = []
        for name in plan.stored_fields:
            field = plan.fields[name]
            if field.computed is not None:
                layout.append((name, Any, msgspec.UNSET))
            elif field.has_default:
                layout.append((name, Union[field.stored_hint, msgspec.UnsetType], msgspec.UNSET))  # noqa: UP007
            else:
                layout.append((name, field.stored_hint))
        self._line: Any = msgspec.defstruct("Line", layout, kw_only=True, forbid_unknown_fields=True, gc=False)
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(self._line).decode
        self._names = [name for name in plan.stored_fields if plan.fields[name].computed is None]

    def fields(self, line: bytes, row: int) -> dict[str, Any]:
        """Return the fields that a line names, by name.

        Raises:
            RowError: the line is no JSON, lacks a field without a default, has an unknown one, or a wrong value.
        """
        try:
            found = self._decode(line)
        except msgspec.ValidationError as e:
            found = self._not_finite(line)
            if found is None:
                place = _FIELD.search(str(e))
                name = place and (place[1] or place[2])
                raise RowError(
                    f"line {row}: {self._type}{f'.{name}' if name else ''}: {e}", row=row, field=name
                ) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
            raise RowError(f"line {row}: no JSON: {e}", row=row) from None
        values = ((name, getattr(found, name)) for name in self._names)
        return {name: value for name, value in values if value is not msgspec.UNSET}

    def _not_finite(self, line: bytes) -> Any:
        """Return a line that has NaN or an infinity for a float; None if that is not what is wrong with it."""
        try:
            found = msgspec.json.decode(line)
            for name in found if type(found) is dict else ():
                if name in self._fields:
                    found[name] = read_back(self._fields[name].kind, found[name])
            return msgspec.convert(found, self._line, builtin_types=(), str_keys=True)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None


class LineSplitter:
    """Cuts blocks of bytes into lines."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._n_rest = 0

    def lines(self, block: bytes) -> Iterator[bytes]:
        """Yield the lines that end in a block.

        Raises:
            ValueError: a line is longer than 256 MiB.
        """
        first, *others = block.split(b"\n")
        self._rest.append(first)
        self._n_rest += len(first)
        if self._n_rest > LINE_BYTES_MAX:
            raise ValueError(f"a line is longer than {LINE_BYTES_MAX:,} bytes")
        if others:
            yield b"".join(self._rest)
            yield from others[:-1]
            self._rest, self._n_rest = [others[-1]], len(others[-1])

    def last(self) -> bytes:
        """Return what follows the last end of a line."""
        return b"".join(self._rest)


def _has_float(kind: Kind) -> bool:
    kind = bare(kind)
    if isinstance(kind, SequenceKind):
        return _has_float(kind.item)
    if isinstance(kind, FixedTuple):
        return any(map(_has_float, kind.items))
    if isinstance(kind, Mapping):
        return _has_float(kind.value)
    if isinstance(kind, StructKind):
        return not kind.recursive and any(map(_has_float, kind.fields.values()))
    return isinstance(kind, Float) or any(_has_float(option) for option in options_of(kind) if option is not kind)
