"""From a stored array back to a record.

One concept: the decoder of arrays that one schema wrote, the current one or an older one. It decodes into a sibling of
the record class whose fields are in stored order. Where the sibling's instances have the layout of the record's (slots
are sorted by name), assigning ``__class__`` makes a record of it; else the record is constructed from its fields.

Of an older schema, dropped fields are skipped, renamed ones go to their new name, added ones get their default, and
added computed ones are computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from gpu_kernels import Backend
from warpstore.batch_computed import BatchFunction
from warpstore.checks import Source, indented
from warpstore.errors import IncompatibleSchemaError
from warpstore.generated import compile_source
from warpstore.plan import Plan
from warpstore.schema import Schema

Reader = Callable[[bytes | memoryview], Any]


def reader(plan: Plan[Any], tag: int, schema: Schema, backend: Backend) -> Callable[[bytes | memoryview], Any]:
    """Return a function from an array that ``schema`` wrote under the id ``tag`` to a record.

    The function raises ``msgspec.DecodeError`` (``msgspec.ValidationError`` among them) for bytes that are no such
    array. ``backend`` computes added fields that take columns.

    Raises:
        IncompatibleSchemaError: the record type cannot read the arrays of ``schema``.
    """
    problems = plan.schema.incompatibilities(schema)
    if problems:
        raise IncompatibleSchemaError(
            f"{plan.record_type.__name__} cannot read its stored records: {'; '.join(problems)}"
        )
    sibling = _sibling(plan, tag, schema)
    source = Source()
    source.names |= {"cls": plan.record_type, "dec": msgspec.msgpack.Decoder(sibling).decode}
    lines = ["x = dec(b)"]
    if _same_layout(plan, sibling):
        lines.append("x.__class__ = cls")
        if "__post_init__" in dir(plan.record_type):
            lines.append("x.__post_init__()")
    else:
        lines.append(f"x = cls({', '.join(f'{name}=x.{name}' for name in plan.fields)})")
    stored = _new_names(plan, schema)
    for computed in plan.computed_fields:
        if computed.name not in stored:
            f = BatchFunction(plan, computed, backend) if computed.batch else computed.f
            source.names["force_setattr"] = msgspec.structs.force_setattr
            lines.append(f"force_setattr(x, {computed.name!r}, {source.bind(f, 'f')}(x))")
    text = "\n".join(["def decode(b):", *indented([*lines, "return x"])])
    (decode,) = compile_source(source, f"{plan.record_type.__name__} decode", [text], ["decode"])
    return decode


def bare_readers(plan: Plan[Any], tag: int) -> tuple[Reader, Reader] | None:
    """Return the decoder behind `reader`, and one for a MessagePack array of such arrays.

    Their results need only the record type as their class. None if they need more.
    """
    sibling = _sibling(plan, tag, plan.schema)
    if not _same_layout(plan, sibling) or "__post_init__" in dir(plan.record_type):
        return None
    many: Any = list[sibling]  # type: ignore[valid-type]
    return msgspec.msgpack.Decoder(sibling).decode, msgspec.msgpack.Decoder(many).decode


def _new_names(plan: Plan[Any], schema: Schema) -> list[str | None]:
    """Return today's name of each field of ``schema``; None where it was dropped."""
    renamed = {field.renamed_from: field.name for field in plan.fields.values() if field.renamed_from is not None}
    stored = set(plan.stored_fields)
    old = {field.name for field in schema.fields}
    names: list[str | None] = []
    for field in schema.fields:
        name = field.name if field.name in stored else renamed.get(field.name)
        names.append(name if name in stored and (name == field.name or name not in old) else None)
    return names


def _sibling(plan: Plan[Any], tag: int, schema: Schema) -> type[msgspec.Struct]:
    hints: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    for index, name in enumerate(_new_names(plan, schema)):
        hints[name or f"_skipped_{index}"] = plan.fields[name].stored_hint if name else msgspec.Raw
    for name, field in plan.fields.items():
        if name not in hints:
            hints[name] = field.stored_hint
            defaults[name] = field.struct_default
    config, bases = plan.record_type.__struct_config__, plan.record_type.__bases__
    # The metaclass of Record would compile a plan; its base class makes the bare Struct, of the same metaclass.
    make: Any = msgspec.StructMeta.__new__
    sibling: type[msgspec.Struct] = make(
        type(plan.record_type),
        f"Stored{plan.record_type.__name__}",
        bases if not any(getattr(base, "__struct_fields__", ()) for base in bases) else (msgspec.Struct,),
        {"__annotations__": hints, "__module__": plan.record_type.__module__, **defaults},
        array_like=True,
        tag=tag,
        kw_only=True,
        gc=config.gc,
        weakref=config.weakref,
        dict=config.dict,
        frozen=config.cache_hash,
        cache_hash=config.cache_hash,
    )
    return sibling


def _same_layout(plan: Plan[Any], sibling: type[msgspec.Struct]) -> bool:
    if set(sibling.__struct_fields__) != set(plan.fields):
        return False
    try:
        sibling(**dict.fromkeys(sibling.__struct_fields__)).__class__ = plan.record_type
    except (TypeError, AttributeError):
        return False
    return True
