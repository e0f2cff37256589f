"""``Codec``: the record's way to bytes and back, for one record type under one schema id.

One concept: a bundle of functions. A stored value is the MessagePack array ``[tag, key, field, ...]`` in the plan's
order; ``tag`` is the schema id. ``encode``, ``encode_changed``, ``route``, ``routes``, ``decode``, ``copy`` and those
of the ephemeral fields are generated when the codec is made, so a call looks at no annotation. A codec has no state
that a caller could see, but belongs to one thread at a time.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec

from gpu_kernels import Backend, NumpyBackend
from warpstore._native import adopt
from warpstore.annotations import Disk, Ephemeral
from warpstore.batch_computed import BulkFill
from warpstore.checks import Source, indented
from warpstore.errors import ValidationError
from warpstore.explain import explain_value
from warpstore.generated import EncodeWriter, compile_source, copier, plain_encoder, route_text
from warpstore.plan import FieldPlan, Plan
from warpstore.projection import projector
from warpstore.reading import bare_readers, plain_reader, reader
from warpstore.schema import Schema

R = TypeVar("R")
HotKey = str | bytes | int
PROJECTIONS_MAX = 256
force_setattr: Callable[[Any, str, Any], None] = msgspec.structs.force_setattr


class EphemeralCodec:
    """One ephemeral field on its own.

    Attributes:
        name: The field.
        ttl_s: Its time to live in seconds, or None.
        encode: From a record to bytes, or None where the value equals the default; ``ValidationError`` if it is wrong.
        decode: From these bytes to the value.
    """

    __slots__ = ("decode", "encode", "name", "ttl_s")

    decode: Callable[[bytes | memoryview], Any]
    encode: Callable[[Any], bytes | None]

    def __init__(self, plan: Plan[Any], field: FieldPlan, encode: Callable[[Any], bytes]) -> None:
        self.name = field.name
        self.ttl_s = field.tier.ttl_s if isinstance(field.tier, Ephemeral) else None
        self.decode = msgspec.msgpack.Decoder(field.stored_hint).decode
        source = Source()
        explain = partial(explain_value, plan, field)
        source.names |= {"enc": encode, "explain": explain, "default": field.default, "factory": field.factory}
        if field.factory in (list, dict, set):
            is_default = "not v"
        else:
            is_default = "v == factory()" if field.factory is not None else "v == default and type(v) is type(default)"
        lines = ["v = UNSET", "try:", f"    v = r.{field.name}"]
        lines += [*indented(field.kind.check("v", "0", source)), f"    return None if {is_default} else enc(v)"]
        lines += ["except Exception as error: raise explain(v, error) from None"]
        source.names["UNSET"] = msgspec.UNSET
        text = "\n".join(["def encode(r):", *indented(lines)])
        (self.encode,) = compile_source(source, f"{plan.record_type.__name__}.{field.name}", [text], ["encode"])


class Codec(Generic[R]):
    """Writes and reads the records of one type.

    Attributes:
        plan: The record type, compiled.
        tag: The schema id.
        stored_names: The stored fields in stored order.
        encode: ``(record) -> (slot, hot key, value)``. Checks, rounds, computes and encodes; the rounded and computed
            values are also set on the record. ``ValidationError`` or ``LimitError`` if it is refused; what a
            ``Computed`` function raises goes through.
        encode_changed: ``(record, changed)``, the same, but computed fields are renewed only if a field they depend on
            is in the frozenset ``changed``.
        fill: ``(records)``: sets the computed fields that take columns, for all at once; None if there are none.
        encode_filled: As ``encode``, for a record that ``fill`` has had; ``encode`` itself if there is no ``fill``.
        route: ``(key) -> (slot, hot key)``; ``ValidationError`` for a key of another type or beyond the limit.
        routes: ``(keys) -> [(slot, hot key), ...]`` in order.
        decode: ``(value) -> record`` of an array without TTL prefix; ``msgspec.DecodeError`` for anything else.
        parse: As ``decode``, but the result may still need ``__class__ = plan.record_type``; for callers that spare a
            call.
        copy: ``(record) -> record`` that shares no mutable part with it; None if the type has no quick way.
        ephemeral: The ephemeral fields, each with its own codec.
    """

    __slots__ = (
        "_backend",
        "_parse_many",
        "_project",
        "_read_key",
        "_settable",
        "copy",
        "decode",
        "encode",
        "encode_changed",
        "encode_filled",
        "ephemeral",
        "fill",
        "parse",
        "plan",
        "route",
        "routes",
        "stored_names",
        "tag",
    )

    encode: Callable[[R], tuple[int, HotKey, bytes]]
    encode_changed: Callable[[R, frozenset[str]], tuple[int, HotKey, bytes]]
    fill: BulkFill | None
    encode_filled: Callable[[R], tuple[int, HotKey, bytes]]
    route: Callable[[Any], tuple[int, HotKey]]
    routes: Callable[[Iterable[Any]], list[tuple[int, HotKey]]]
    decode: Callable[[bytes | memoryview], R]
    parse: Callable[[bytes | memoryview], Any]
    copy: Callable[[R], R] | None

    def __init__(self, plan: Plan[R], tag: int, backend: Backend | None = None) -> None:
        if type(tag) is not int or not 0 <= tag < 2**63:
            raise ValueError(f"tag={tag!r}: a schema id is an int from 0 to 2^63 - 1")
        self.plan = plan
        self.tag = tag
        self.stored_names = plan.stored_fields
        encode = msgspec.msgpack.Encoder(uuid_format="bytes").encode
        source = Source()
        self._backend = NumpyBackend() if backend is None else backend
        writer = EncodeWriter(plan, tag, encode, source, self._backend)
        texts = [writer.text("encode", "r"), writer.text("encode_changed", "r, changed"), *route_text(plan, source)]
        names = ["encode", "encode_changed", "route", "routes", *writer.bulk_names()]
        label = f"{plan.record_type.__name__} codec"
        self.encode, self.encode_changed, self.route, self.routes, *bulk = compile_source(
            source, label, [*texts, *writer.bulk_texts()], names
        )
        self.encode = plain_encoder(plan, tag, encode, self.encode)
        self.fill, self.encode_filled = None, self.encode
        if bulk:
            self.encode_filled, prepare, *steps = bulk
            self.fill = writer.bulk_fill(prepare, steps)
        self.decode = reader(plan, tag, plan.schema, self._backend)
        bare = bare_readers(plan, tag)
        self.parse = self.decode if bare is None else bare[0]
        if bare is not None:
            plain = plain_reader(plan, tag, self.decode)
            if plain is not self.decode:
                self.parse = self.decode = plain
        self._parse_many = None if bare is None else bare[1]
        self.copy = copier(plan, label)
        self._read_key = _key_decoder(plan, tag)
        self._project = lru_cache(maxsize=PROJECTIONS_MAX)(partial(projector, plan, tag))
        self.ephemeral = tuple(EphemeralCodec(plan, plan.fields[name], encode) for name in plan.ephemeral_fields)
        computed = {field.name for field in plan.computed_fields}
        self._settable = frozenset(plan.fields) - computed - {plan.key_field}

    def key_of(self, payload: bytes | memoryview) -> HotKey:
        """Return the hot key of a stored array or of a tombstone's ``[tag, key]``.

        Raises:
            msgspec.DecodeError: the bytes are no array of this schema id.
        """
        return self._read_key(payload)

    def decode_array(self, values: bytes) -> list[R]:
        """Return the records of a MessagePack array of values, none with a TTL prefix.

        Raises:
            msgspec.DecodeError: a value is something else.

        Cost:
            One call of the decoder for all: 0.15 us less a record than ``decode``, measured.
        """
        if self._parse_many is None:
            raise msgspec.DecodeError("the type's records are not decoded in bulk")
        collecting = gc.isenabled()
        gc.disable()
        try:
            records: list[R] = self._parse_many(values)
        finally:
            if collecting:
                gc.enable()
        adopt(records, self.plan.record_type)
        return records

    def memory_table(self) -> dict[str, Any]:
        """Return what a `MemoryTable` has to know of these records."""
        return {
            "key_type": {"str": str, "bytes": bytes, "int": int, "uuid": UUID}[self.plan.key_kind],
            "key_bytes": "bytes" if self.plan.key_kind == "uuid" else None,
            "key_field": self.plan.key_field,
            "record_type": self.plan.record_type,
            "encode": self.encode,
            "parse": self.parse,
            "parse_many": self._parse_many,
            "copy": self.copy,
            "decode_error": msgspec.DecodeError,
        }

    def decoder_of(self, tag: int, schema: Schema, between: Sequence[Schema] = ()) -> Callable[[bytes | memoryview], R]:
        """Return ``decode`` for the arrays that an older ``schema`` wrote under ``tag``.

        Args:
            tag: The schema id.
            schema: The older schema.
            between: The schemas after it and before this type's, in the order in which they were current.

        The function raises `IncompatibleSchemaError` for a value that a field of today cannot hold.

        Raises:
            IncompatibleSchemaError: this type cannot read them.
        """
        return reader(self.plan, tag, schema, self._backend, between)

    def needs_whole(self, fields: Iterable[str]) -> bool:
        """Return whether these fields cannot be read without the parts of a record that are elsewhere."""
        fields_of = self.plan.fields
        return any(name in fields_of and isinstance(fields_of[name].tier, Disk | Ephemeral) for name in fields)

    def project(self, fields: tuple[str, ...]) -> Callable[[bytes | memoryview], Any]:
        """Return a function from a stored array to an object with just ``fields`` and the key.

        Ephemeral fields among them are attributes with their default, for the caller to set. The functions of the last
        256 tuples are kept.

        Raises:
            ValidationError: a name is unknown; the nearest one is suggested.
        """
        return self._project(fields).decode

    def pick(self, fields: tuple[str, ...]) -> Callable[[R], Any]:
        """Return a function from a record to what `project` gives of its array.

        Raises:
            ValidationError: as for `project`.
        """
        return self._project(fields).pick

    @property
    def n_projections(self) -> int:
        """Functions that `project` keeps."""
        return self._project.cache_info().currsize

    def set_fields(self, record: R, changes: dict[str, Any]) -> None:
        """Set fields of ``record``; nothing is set if a name is wrong. The values are checked by the next ``encode``.

        Raises:
            ValidationError: a name is unknown, the key, or a computed field.
        """
        if not self._settable.issuperset(changes):
            name = next(name for name in changes if name not in self._settable)
            if name not in self.plan.fields:
                raise self.plan.unknown_field(name)
            what = (
                "the key; delete the record and put a new one" if name == self.plan.key_field else "computed, not set"
            )
            raise ValidationError(f"{self.plan.record_type.__name__}.{name}: is {what}", field=name)
        for name, value in changes.items():
            force_setattr(record, name, value)


def _key_decoder(plan: Plan[Any], tag: int) -> Callable[[bytes | memoryview], HotKey]:
    hint: type = {"str": str, "bytes": bytes, "int": int, "uuid": bytes}[plan.key_kind]
    prefix = msgspec.defstruct("StoredKey", [("key", hint)], array_like=True, tag=tag, gc=False)
    decode = msgspec.msgpack.Decoder(prefix).decode

    def read_key(payload: bytes | memoryview) -> HotKey:
        key: HotKey = decode(payload).key  # type: ignore[attr-defined]
        return key

    return read_key
