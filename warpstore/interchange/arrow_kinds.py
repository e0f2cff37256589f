"""A field's type in Arrow.

| in a record | in Arrow |
|---|---|
| str, Enum and Literal of str | string |
| bytes, `Gpu("S16")` | binary |
| int, Enum and Literal of int | int64; a value of 2^63 or more is refused |
| float, bool | float64, bool |
| `Gpu("f4")`, `Gpu("u2")`, ... | that type |
| `Gpu("4f4")` | fixed_size_list of 4 |
| UUID | uuid (within other types fixed_size_binary of 16) |
| datetime | timestamp[us, UTC]; timestamp[us] if those of the first batch have no zone; both in one field are refused |
| date, timedelta | date32, duration[us] |
| time, Decimal | string, as they print: Arrow's have no zone, and a fixed scale |
| `T | None` | as T, nullable |
| list, set, frozenset, tuple[T, ...] | list; a Temporal series of a Struct is a list of struct |
| tuple[T, T] / tuple[A, B] | fixed_size_list of 2 / struct with the fields "0" and "1" |
| dict | map; list of struct if a key may be None |
| a Struct | struct |
| Any, other unions, a Struct that contains itself | string, holding JSON; what JSON cannot hold exactly is refused |

One concept: a `ArrowKind` says what a field's values are in Arrow, how they get there, and what may come back.
``storage`` is the type they are built as: moments and durations are int64 there, and become what they are by a cast,
since only the values tell whether a field's moments have a zone.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import uuid
from collections.abc import Callable
from collections.abc import Sequence as Sequence_
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Any, cast

from warpstore.checks import Kind
from warpstore.containers import FixedTuple, Mapping, Sequence, StructKind
from warpstore.gpu_fields import ColumnKind
from warpstore.interchange import arrow_takes as takes
from warpstore.interchange.json_text import JsonText, options_of
from warpstore.interchange.pyarrow_extra import load_pyarrow
from warpstore.plan import FieldPlan
from warpstore.scalars import Enumeration, Float, Null, OneOf, Scalar
from warpstore.variants import Constrained, Union

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
EPOCH_WITHOUT_ZONE = dt.datetime(1970, 1, 1)  # noqa: DTZ001 - that of moments without one
TICK = dt.timedelta(microseconds=1)
LETTERS = {"f2": "e", "f4": "f", "f8": "d", "bool": "o"} | {
    f"{sign}{width}": letter if sign == "i" else letter.upper()
    for sign in "iu"
    for width, letter in ((1, "b"), (2, "h"), (4, "i"), (8, "q"))
}

Convert = Callable[[Any], Any]


class Zone:
    """Whether the moments of one place in a type have a time zone, as far as they were seen.

    Attributes:
        aware: One with a zone was seen.
    """

    __slots__ = ("_expected", "_naive", "_settled", "aware")

    def __init__(self, *, naive: bool) -> None:
        self.aware = False
        self._naive = False
        self._expected = naive
        self._settled = False

    def ticks(self, moment: dt.datetime) -> int:
        """Return the microseconds of a moment since the epoch."""
        if moment.tzinfo is None:
            self._naive = True
            return (moment - EPOCH_WITHOUT_ZONE) // TICK
        self.aware = True
        return (moment - EPOCH) // TICK

    @property
    def name(self) -> str | None:
        """The zone of the column."""
        naive = self._expected if self._settled or not self._naive | self.aware else self._naive
        return None if naive else "UTC"

    def settle(self) -> None:
        """Keep to what the column is by now."""
        self._expected = self.name is None
        self._settled = True

    @property
    def is_mixed(self) -> bool:
        """Whether a moment does not fit the column."""
        return self.aware if self.name is None else self._naive


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrowKind:
    """What a field is in Arrow.

    Attributes:
        final: Its type, as far as the values have shown it.
        storage: The type its values are built as.
        word: Its word in the layout of `_native.columns`; ``r`` if its values are decoded.
        dump: From a decoded value to one that Arrow builds from; None if it is the same.
        load: From what Arrow gives to a value of the record; None if it is the same.
        problem: What is wrong with an Arrow type for this field; None if nothing is.
        nullable: Whether None is a value.
        zones: Those of the moments in it.
    """

    final: Callable[[], Any]
    storage: Any
    word: str = "r"
    dump: Convert | None = None
    load: Convert | None = None
    problem: Callable[[Any], str | None]
    nullable: bool = False
    zones: Sequence_[Zone] = ()


class _NeedsJsonError(Exception):
    """A part of the type has no Arrow type."""


def arrow_kind(field: FieldPlan) -> ArrowKind:
    """Return what a field is in Arrow."""
    builder = _Builder()
    try:
        found = builder.build(field.kind, top=True)
    except _NeedsJsonError:
        pa = load_pyarrow()
        text = JsonText(field.stored_hint)
        nullable = any(type(kind) is Null for kind in getattr(field.kind, "options", ()))
        return ArrowKind(
            final=pa.string,
            storage=pa.string(),
            dump=_unless_none(text.dump) if nullable else text.dump,
            load=_unless_none(text.load),
            problem=takes.text,
            nullable=nullable,
        )
    return dataclasses.replace(found, zones=builder.zones)


class _Builder:
    """Builds the kinds of one field."""

    def __init__(self) -> None:
        self.zones: list[Zone] = []
        self._pa = load_pyarrow()
        self._naive = False

    def build(self, kind: Kind, *, top: bool = False) -> ArrowKind:
        if isinstance(kind, Constrained):
            before, self._naive = self._naive, "tz=False" in kind.name
            found = self.build(kind.base, top=top)
            self._naive = before
            return found
        if isinstance(kind, Union):
            options = options_of(kind)
            if len(options) != 1:
                raise _NeedsJsonError
            return self.build_nullable(options[0], top=top)
        if isinstance(kind, ColumnKind):
            return self._column(kind)
        if isinstance(kind, OneOf):
            types = {type(value) for value in kind.values}
            names = types - {type(None)}
            if names not in ({str}, {int}):
                raise _NeedsJsonError
            scalar = Scalar(names.pop())
            return self.build_nullable(scalar) if type(None) in types else self.build(scalar)
        if isinstance(kind, Enumeration):
            return self._enumeration(kind)
        if isinstance(kind, Scalar):
            return self._scalar(kind, top=top)
        if isinstance(kind, Sequence):
            return self._sequence(kind)
        if isinstance(kind, FixedTuple) and kind.items:
            return self._tuple(kind)
        if isinstance(kind, Mapping):
            return self._mapping(kind)
        if isinstance(kind, StructKind) and kind.fields and not kind.recursive:
            return self._struct(kind)
        if isinstance(kind, Null):
            pa = self._pa
            return ArrowKind(final=pa.null, storage=pa.null(), problem=takes.null, nullable=True)
        raise _NeedsJsonError

    def build_nullable(self, kind: Kind, *, top: bool = False) -> ArrowKind:
        """Return the kind of values that may be None as well."""
        found = self.build(kind, top=top)
        return ArrowKind(
            final=found.final,
            storage=found.storage,
            word=found.word if found.word == "r" else f"{found.word}?",
            dump=found.dump and _unless_none(found.dump),
            load=found.load,
            problem=lambda got: None if takes.null(got) is None else found.problem(got),
            nullable=True,
        )

    def _plain(self, of: Any, word: str, problem: Callable[[Any], str | None], **more: Any) -> ArrowKind:
        return ArrowKind(final=lambda: of, storage=of, word=word, problem=problem, **more)

    def _scalar(self, kind: Scalar, *, top: bool) -> ArrowKind:
        pa, cls = self._pa, kind.cls
        if isinstance(kind, Float):
            return self._plain(pa.float64(), "d", takes.real)
        if cls is dt.datetime:
            zone = Zone(naive=self._naive)
            self.zones.append(zone)
            return ArrowKind(
                final=lambda: pa.timestamp("us", zone.name),
                storage=pa.int64(),
                word="t",
                dump=zone.ticks,
                problem=takes.moment,
            )
        if cls is dt.timedelta:
            return ArrowKind(
                final=lambda: pa.duration("us"),
                storage=pa.int64(),
                dump=lambda v: v // TICK,
                problem=takes.duration,
            )
        if cls is uuid.UUID:
            stored = pa.binary(16)
            return ArrowKind(
                final=pa.uuid if top else (lambda: stored),
                storage=stored,
                word="u",
                dump=lambda v: v.bytes,
                load=_unless_none(_as_uuid),
                problem=takes.uuid,
            )
        simple: dict[type, Callable[[], ArrowKind]] = {
            str: lambda: self._plain(pa.string(), "s", takes.text),
            bytes: lambda: self._plain(pa.binary(), "y", takes.binary),
            int: lambda: self._plain(pa.int64(), "q", takes.whole),
            bool: lambda: self._plain(pa.bool_(), "o", takes.truth),
            dt.date: lambda: self._plain(pa.date32(), "r", takes.date),
            dt.time: lambda: self._plain(
                pa.string(), "r", takes.text, dump=dt.time.isoformat, load=_unless_none(dt.time.fromisoformat)
            ),
            Decimal: lambda: self._plain(pa.string(), "r", takes.decimal, dump=str, load=_unless_none(Decimal)),
        }
        return simple[cls]()

    def _enumeration(self, kind: Enumeration) -> ArrowKind:
        member = next(iter(cast("type[Enum]", kind.cls)))
        base = self.build(Scalar(type(member.value)))
        return self._plain(base.storage, base.word, base.problem, dump=lambda v: v.value, load=_unless_none(kind.cls))

    def _column(self, kind: ColumnKind) -> ArrowKind:
        pa = self._pa
        if kind.code[0] == "S":
            return self._plain(pa.binary(), "y", takes.binary)
        word = LETTERS[kind.code]
        family = {"f": "float", "i": "int", "u": "uint", "b": "bool_"}[kind.code[0]]
        of = getattr(pa, family if kind.code == "bool" else f"{family}{8 * int(kind.code[1:])}")()
        problem = {"f": takes.real, "b": takes.truth}.get(kind.code[0], takes.whole)
        load = _unless_none(float) if problem is takes.real else None
        if kind.count is None:
            return self._plain(of, word, problem, load=load)
        as_tuple = isinstance(kind.base, FixedTuple) or getattr(kind.base, "cls", None) is tuple
        vector = pa.list_(pa.field("item", of, nullable=False), kind.count)
        return self._plain(
            vector,
            f"{kind.count}{word}",
            takes.list_of(problem),
            load=_unless_none(_all_loaded(load, tuple if as_tuple else list)),
        )

    def _sequence(self, kind: Sequence) -> ArrowKind:
        pa, item = self._pa, self.build(kind.item)
        return ArrowKind(
            final=lambda: pa.list_(pa.field("item", item.final(), nullable=item.nullable)),
            storage=pa.list_(pa.field("item", item.storage, nullable=item.nullable)),
            dump=_all_dumped(item.dump, kind.cls),
            load=_unless_none(_all_loaded(item.load, kind.cls)),
            problem=takes.list_of(item.problem),
        )

    def _tuple(self, kind: FixedTuple) -> ArrowKind:
        pa = self._pa
        items = [self.build(item) for item in kind.items]
        if len({item.name for item in kind.items}) == 1:
            item, n = items[0], len(items)
            return ArrowKind(
                final=lambda: pa.list_(pa.field("item", item.final(), nullable=item.nullable), n),
                storage=pa.list_(pa.field("item", item.storage, nullable=item.nullable), n),
                dump=_all_dumped(item.dump, tuple),
                load=_unless_none(_all_loaded(item.load, tuple)),
                problem=takes.list_of(item.problem),
            )
        named = {str(place): item for place, item in enumerate(items)}

        def load(value: dict[str, Any]) -> tuple[Any, ...]:
            return tuple(_loaded(item.load, value[place]) for place, item in named.items())

        return ArrowKind(
            final=lambda: self._struct_type(named, lambda item: item.final()),
            storage=self._struct_type(named, lambda item: item.storage),
            dump=lambda v: {place: _dumped(named[place].dump, x) for place, x in zip(named, v, strict=True)},
            load=_unless_none(load),
            problem=takes.struct_of({place: item.problem for place, item in named.items()}, frozenset(named)),
        )

    def _mapping(self, kind: Mapping) -> ArrowKind:
        pa, key, value = self._pa, self.build(kind.key), self.build(kind.value)

        def of(part: Callable[[ArrowKind], Any]) -> Any:
            if not key.nullable:
                return pa.map_(part(key), pa.field("value", part(value), nullable=value.nullable))
            pair = [pa.field("key", part(key)), pa.field("value", part(value), nullable=value.nullable)]
            return pa.list_(pa.field("item", pa.struct(pair), nullable=False))

        def dump(pairs: dict[Any, Any]) -> list[Any]:
            dumped = [(_dumped(key.dump, k), _dumped(value.dump, v)) for k, v in pairs.items()]
            return [{"key": k, "value": v} for k, v in dumped] if key.nullable else dumped

        def load(pairs: list[Any]) -> dict[Any, Any]:
            both = [(pair["key"], pair["value"]) if type(pair) is dict else pair for pair in pairs]
            loaded = {_loaded(key.load, k): _loaded(value.load, v) for k, v in both}
            if len(loaded) != len(both):
                raise ValueError("has a key twice")
            return loaded

        return ArrowKind(
            final=lambda: of(lambda kind: kind.final()),
            storage=of(lambda kind: kind.storage),
            dump=dump,
            load=_unless_none(load),
            problem=takes.map_of(key.problem, value.problem),
        )

    def _struct(self, kind: StructKind) -> ArrowKind:
        fields = {name: self.build(field) for name, field in kind.fields.items()}
        cls = kind.cls

        def load(value: dict[str, Any]) -> Any:
            return cls(**{name: _loaded(fields[name].load, item) for name, item in value.items()})

        return ArrowKind(
            final=lambda: self._struct_type(fields, lambda item: item.final()),
            storage=self._struct_type(fields, lambda item: item.storage),
            dump=lambda v: {name: _dumped(field.dump, getattr(v, name)) for name, field in fields.items()},
            load=_unless_none(load),
            problem=takes.struct_of({name: field.problem for name, field in fields.items()}, takes.required(cls)),
        )

    def _struct_type(self, fields: dict[str, ArrowKind], part: Callable[[ArrowKind], Any]) -> Any:
        pa = self._pa
        return pa.struct([pa.field(name, part(field), nullable=field.nullable) for name, field in fields.items()])


def _unless_none(convert: Convert) -> Convert:
    return lambda value: None if value is None else convert(value)


def _dumped(dump: Convert | None, value: Any) -> Any:
    return value if dump is None else dump(value)


def _loaded(load: Convert | None, value: Any) -> Any:
    return value if load is None else load(value)


def _all_dumped(dump: Convert | None, cls: type) -> Convert | None:
    if dump is None:
        return None if cls in (list, tuple) else list
    return lambda values: [dump(value) for value in values]


def _all_loaded(load: Convert | None, cls: type) -> Convert:
    if load is None:
        return cls
    return lambda values: cls(load(value) for value in values)


def _as_uuid(value: Any) -> uuid.UUID:
    if isinstance(value, uuid.UUID):
        return value
    return uuid.UUID(value) if isinstance(value, str) else uuid.UUID(bytes=value)
