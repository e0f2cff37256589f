"""From a stored array back to a record.

One concept: the decoder of arrays that one schema wrote, the current one or an older one. It decodes into a sibling of
the record class whose fields are in stored order. Where the sibling's instances have the layout of the record's (slots
are sorted by name), assigning ``__class__`` makes a record of it; else the record is constructed from its fields.

Of an older schema, dropped fields are skipped, renamed ones go to their new name (see `warpstore.evolution`), and
added ones get their default. A computed field is computed where it was not stored, was computed of other fields, or
hangs on a field whose value is not the stored one. What has to fit a column, or to be in order of time, is made so: a
record of an older schema reads as if it had been put today.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

import msgspec

from gpu_kernels import Backend
from warpstore._native import Decoder
from warpstore.annotations import Temporal
from warpstore.batch_computed import BatchFunction
from warpstore.checks import Source, indented
from warpstore.errors import IncompatibleSchemaError
from warpstore.evolution import became, incompatibilities, must_fit
from warpstore.explain import explain_value
from warpstore.generated import checked, compile_source, plain_classes
from warpstore.plan import FieldPlan, Plan
from warpstore.schema import Schema

Reader = Callable[[bytes | memoryview], Any]
_DECODED = frozenset({str, bytes, int, float, bool, list, dict})


def reader(
    plan: Plan[Any], tag: int, schema: Schema, backend: Backend, between: Sequence[Schema] = ()
) -> Callable[[bytes | memoryview], Any]:
    """Return a function from an array that ``schema`` wrote under the id ``tag`` to a record.

    The function raises ``msgspec.DecodeError`` (``msgspec.ValidationError`` among them) for bytes that are no such
    array, and `IncompatibleSchemaError` where a stored value does not fit its field of today.

    Args:
        plan: The record type.
        tag: The schema id.
        schema: What was declared then.
        backend: Computes fields that are not as they were stored and take columns.
        between: The schemas after it and before the record type's.

    Raises:
        IncompatibleSchemaError: the record type cannot read the arrays of ``schema``.
    """
    problems = incompatibilities(plan.schema, schema, between)
    if problems:
        raise IncompatibleSchemaError(
            f"{plan.record_type.__name__} cannot read its stored records: {'; '.join(problems)}", table=plan.table
        )
    names = became(plan.schema, schema, between)
    sibling = _sibling(plan, tag, schema, names)
    source = Source()
    source.names |= {"cls": plan.record_type, "dec": msgspec.msgpack.Decoder(sibling).decode}
    lines = ["x = dec(b)"]
    lines += _made_to_fit(plan, schema, names, source)
    if _same_layout(plan, sibling):
        lines.append("x.__class__ = cls")
        if "__post_init__" in dir(plan.record_type):
            lines.append("x.__post_init__()")
    else:
        lines.append(f"x = cls({', '.join(f'{name}=x.{name}' for name in plan.fields)})")
    lines += _computed_anew(plan, schema, names, source, backend)
    text = "\n".join(["def decode(b):", *indented([*lines, "return x"])])
    (decode,) = compile_source(source, f"{plan.record_type.__name__} decode", [text], ["decode"])
    return decode


def _made_to_fit(plan: Plan[Any], schema: Schema, names: Mapping[str, str], source: Source) -> list[str]:
    """Return the statements that bring stored values into the form that a put gives them today."""
    old, new = ({field.name: field for field in some.fields} for some in (schema, plan.schema))
    lines: list[str] = []
    for then, name in names.items():
        field = plan.fields[name]
        if not must_fit(new[name], old[then]):
            continue
        if isinstance(field.tier, Temporal):
            by_time = source.bind(attrgetter(str(field.tier.time)), "time")
            fits = [f"v = sorted(v, key={by_time})"]
        else:
            fits = checked(field, "v", source)
        lines += _set(plan, field, f"x.{name}", fits, source)
    return lines


def _computed_anew(
    plan: Plan[Any], schema: Schema, names: Mapping[str, str], source: Source, backend: Backend
) -> list[str]:
    """Return the statements that compute what is not stored, or is computed of what is not as it was stored."""
    old, new = ({field.name: field for field in some.fields} for some in (schema, plan.schema))
    stored = {name: old[then] for then, name in names.items()}
    changed = {name for name in plan.fields if name not in stored or must_fit(new[name], stored[name])}
    lines: list[str] = []
    for computed in plan.computed_fields:
        was = stored.get(computed.name)
        same_of = was is not None and tuple(names.get(name, name) for name in was.computed_of) == computed.of
        if same_of and computed.name not in changed and changed.isdisjoint(computed.depends_on):
            continue
        f = BatchFunction(plan, computed, backend) if computed.batch else computed.f
        field = plan.fields[computed.name]
        lines += _set(plan, field, f"{source.bind(f, 'f')}(x)", checked(field, "v", source), source)
    return lines


def _set(plan: Plan[Any], field: FieldPlan, value: str, fits: list[str], source: Source) -> list[str]:
    """Return the statements that set a field to a value made to fit, or raise."""
    source.names["force_setattr"] = msgspec.structs.force_setattr
    explain = source.bind(partial(_misfit, plan, field), f"misfit_{field.name}")
    return [
        f"v = {value}",
        "try:",
        *indented(fits),
        f"except Exception as error: raise {explain}(v, error) from None",
        f"force_setattr(x, {field.name!r}, v)",
    ]


def _misfit(plan: Plan[Any], field: FieldPlan, value: Any, error: Exception) -> Exception:
    """Return the error for a stored value that its field cannot hold."""
    why = explain_value(plan, field, value, error)
    return IncompatibleSchemaError(
        f"a stored record of an older schema of {plan.table!r} does not fit: {why}", table=plan.table, field=field.name
    )


def bare_readers(plan: Plan[Any], tag: int) -> tuple[Reader, Reader] | None:
    """Return the decoder behind `reader`, and one for a MessagePack array of such arrays.

    Their results need only the record type as their class. None if they need more.
    """
    sibling = _sibling(plan, tag, plan.schema, {name: name for name in plan.stored_fields})
    if not _same_layout(plan, sibling) or "__post_init__" in dir(plan.record_type):
        return None
    many: Any = list[sibling]  # type: ignore[valid-type]
    return msgspec.msgpack.Decoder(sibling).decode, msgspec.msgpack.Decoder(many).decode


def plain_reader(plan: Plan[Any], tag: int, slow: Reader) -> Reader:
    """Return a `Decoder` if all fields are stored and plain, else ``slow``, the `reader` of the current schema."""
    config = plan.record_type.__struct_config__
    fields: list[tuple[str | type, ...]] = []
    for name in plan.stored_fields:
        classes = plain_classes(plan.fields[name].kind)
        if classes is None or not _DECODED.issuperset(classes):
            return slow
        fields.append((name, *classes))
    if len(fields) < len(plan.fields) or config.gc or config.cache_hash:
        return slow
    if hasattr(plan.record_type, "__del__"):  # it would see records that are not whole
        return slow
    array = msgspec.msgpack.encode([tag, *([None] * len(fields))])
    return Decoder(record_type=plan.record_type, prefix=array[: -len(fields)], fields=tuple(fields), slow=slow)


def _sibling(plan: Plan[Any], tag: int, schema: Schema, names: Mapping[str, str]) -> type[msgspec.Struct]:
    hints: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    for index, old in enumerate(schema.fields):
        name = names.get(old.name)
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
