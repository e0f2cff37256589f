"""From a class statement to a plan.

One concept: ``compile_plan``, which runs once, when a record class is created. Each contradiction of a declaration is a
``SchemaError`` that names class and field and says what to write instead.
"""

from __future__ import annotations

import dataclasses
import typing
import uuid
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np

from warpstore.annotations import Auto, Computed, Disk, Ephemeral, Gpu, Key, Marker, Memory, Renamed, Temporal, Tier
from warpstore.checks import Kind
from warpstore.containers import Sequence, StructKind
from warpstore.errors import SchemaError, ValidationError
from warpstore.gpu_fields import column_of
from warpstore.kinds import KindBuilder, hints_of
from warpstore.parts import part_order
from warpstore.plan import ComputedField, FieldPlan, GpuField, Plan, TemporalField, nearest
from warpstore.scalars import Scalar
from warpstore.schema import FieldSchema, KeyKind, Schema
from warpstore.strategy import Strategy
from warpstore.variants import Constrained

FIELDS_MAX = 4096
_KEY_KINDS: dict[type, KeyKind] = {str: "str", bytes: "bytes", int: "int", uuid.UUID: "uuid"}


def compile_plan(cls: type[Any], table: str, strategy: Strategy, local_names: Mapping[str, Any]) -> Plan[Any]:
    """Return the plan of a record class.

    Args:
        cls: The class, complete.
        table: Its table's name.
        strategy: Its policy.
        local_names: The names of the functions it is made in, for string annotations.

    Raises:
        SchemaError: the declaration contradicts itself, or has a type that cannot be stored.
    """
    names: tuple[str, ...] = cls.__struct_fields__
    if len(names) > FIELDS_MAX:
        raise SchemaError(f"{cls.__name__}: {len(names)} fields; the limit is {FIELDS_MAX}")
    hints = hints_of(cls, local_names)
    builder = KindBuilder(local_names)
    keys: list[str] = []
    fields: dict[str, FieldPlan] = {}
    for name, default in zip(names, _defaults(cls), strict=True):
        field, is_key = _field(f"{cls.__name__}.{name}", name, hints[name], default, builder)
        fields[name] = field
        if is_key:
            keys.append(name)
    if len(keys) != 1:
        found = f"has {len(keys)} keys ({', '.join(keys)})" if keys else "has no key"
        raise SchemaError(f"{cls.__name__}: {found}; annotate exactly one field with Key()")
    key = fields[keys[0]]
    key_kind = _check_key(cls, key)
    _check_renamed(cls, fields)
    masses = [f.name for f in fields.values() if isinstance(f.tier, Gpu) and f.tier.mass]
    if len(masses) > 1:
        raise SchemaError(f"{cls.__name__}: mass=True on {' and '.join(masses)}; at most one field weighs its record")
    rest = [f for f in fields.values() if f is not key and not isinstance(f.tier, Ephemeral)]
    stored = [key, *sorted(rest, key=_stored_order)]
    ephemeral = [f for f in fields.values() if isinstance(f.tier, Ephemeral)]
    return Plan(
        table=table,
        record_type=cls,
        schema=Schema(
            table=table,
            key_kind=key_kind,
            fields=tuple(map(_field_schema, stored)),
            ephemeral=tuple(map(_field_schema, ephemeral)),
        ),
        strategy=strategy,
        key_field=key.name,
        key_kind=key_kind,
        stored_fields=tuple(f.name for f in stored),
        gpu_fields=tuple(
            GpuField(f.name, np.dtype(f.column.dtype), f.tier.mass)
            for f in stored
            if f.column is not None and isinstance(f.tier, Gpu)
        ),
        ephemeral_fields=tuple(f.name for f in ephemeral),
        computed_fields=_computed(cls, fields),
        temporal_fields=tuple(
            TemporalField(f.name, f.tier.time, f.tier.archive, **_horizons(f.tier))
            for f in stored
            if isinstance(f.tier, Temporal)
        ),
        fields=MappingProxyType({f.name: f for f in (*stored, *ephemeral)}),
    )


def _stored_order(field: FieldPlan) -> tuple[int, bool, str]:
    """Fixed-width fields first, `Disk` fields last, those of one part (`warpstore.parts`) together."""
    if isinstance(field.tier, Disk):
        return 2, *part_order({"compression": field.tier.compression, "cache": field.tier.cache})
    return int(not field.fixed_width), False, ""


def _horizons(tier: Temporal) -> dict[str, float | None]:
    return {f"{name}_s": seconds for name, seconds in tier.horizons_s.items()}


def _defaults(cls: Any) -> list[Any]:
    defaults = cls.__struct_defaults__
    return [msgspec.NODEFAULT] * (len(cls.__struct_fields__) - len(defaults)) + list(defaults)


def _field(where: str, name: str, hint: Any, default: Any, builder: KindBuilder) -> tuple[FieldPlan, bool]:
    """Return the compiled field and whether it is marked as the key."""
    markers, bare = _split(where, hint)
    kind = builder.build(bare, where)
    tiers = [marker for marker in markers if isinstance(marker, Tier)]
    if len(tiers) > 1:
        raise SchemaError(f"{where}: lives in two tiers, {tiers[0]!r} and {tiers[1]!r}; give one")
    tier = tiers[0] if tiers else Auto()
    by_type = {type(marker): marker for marker in markers}
    if len(by_type) != len(markers):
        raise SchemaError(f"{where}: the same marker twice")
    computed, renamed = by_type.get(Computed), by_type.get(Renamed)
    factory = getattr(default, "factory", None) if type(default).__name__ == "Factory" else None
    if isinstance(tier, Gpu):
        kind = column_of(kind, tier, where)
    if isinstance(tier, Temporal):
        _check_temporal(where, kind, tier)
    if (default is msgspec.UNSET) != (computed is not None):
        missing = "a Computed field needs the default ws.derived()" if computed else "ws.derived() needs Computed(...)"
        raise SchemaError(f"{where}: {missing}")
    field = FieldPlan(
        name=name,
        hint=bare,
        kind=kind,
        tier=tier,
        computed=computed if isinstance(computed, Computed) else None,
        renamed_from=renamed.old if isinstance(renamed, Renamed) else None,
        default=msgspec.NODEFAULT if factory else default,
        factory=factory,
    )
    if isinstance(tier, Ephemeral):
        _check_ephemeral(where, field, by_type)
    if field.default is not msgspec.NODEFAULT and computed is None:
        try:
            kind.explain(default, where, 0)
        except ValidationError as error:
            raise SchemaError(f"{error} (its default)") from None
    return field, Key in by_type


def _split(where: str, hint: Any) -> tuple[list[Marker], Any]:
    """Return the markers of an annotation and the type without them."""
    if typing.get_origin(hint) is not typing.Annotated:
        return [], hint
    inner, *extras = typing.get_args(hint)
    for extra in extras:
        if isinstance(extra, type) and issubclass(extra, Marker):
            raise SchemaError(f"{where}: {extra.__name__} is a class; write {extra.__name__}(...)")
    markers = [extra for extra in extras if isinstance(extra, Marker)]
    others = [extra for extra in extras if not isinstance(extra, Marker)]
    for other in others:
        inner = typing.Annotated[inner, other]
    return markers, inner


def _check_key(cls: type, key: FieldPlan) -> KeyKind:
    where = f"{cls.__name__}.{key.name}"
    base = key.kind.base if isinstance(key.kind, Constrained) else key.kind
    key_kind = _KEY_KINDS.get(base.cls) if type(base) is Scalar else None
    if key.computed is not None or not isinstance(key.tier, (Auto, Memory)):
        marker = "Computed" if key.computed is not None else type(key.tier).__name__
        raise SchemaError(f"{where}: a key cannot be {marker}; it may only be marked Memory or Auto")
    if key_kind is None:
        raise SchemaError(f"{where}: a key is str, bytes, int or UUID, not {key.kind.expected}")
    return key_kind


def _check_temporal(where: str, kind: Kind, tier: Temporal) -> None:
    if not isinstance(kind, Sequence) or kind.cls is not list:
        raise SchemaError(f"{where}: Temporal needs a list[T], not {kind.expected}")
    if tier.time is None:
        return
    if not isinstance(kind.item, StructKind):
        raise SchemaError(
            f"{where}: Temporal(time={tier.time!r}) needs items of a msgspec.Struct, not {kind.item.expected}"
        )
    item = kind.item.fields.get(tier.time)
    if item is None:
        known = nearest(tier.time, kind.item.fields)
        raise SchemaError(f"{where}: Temporal(time={tier.time!r}): {kind.item.expected} has no such field{known}")
    if not isinstance(item, Scalar) or item.expected not in ("datetime", "float", "int"):
        raise SchemaError(
            f"{where}: Temporal(time={tier.time!r}) must be a datetime, float or int, not {item.expected}"
        )


def _check_ephemeral(where: str, field: FieldPlan, markers: Mapping[type, Marker]) -> None:
    if Key in markers:
        raise SchemaError(f"{where}: a key cannot be Ephemeral")
    if field.computed is not None:
        raise SchemaError(f"{where}: a Computed field is stored; it cannot be Ephemeral")
    if not field.has_default:
        raise SchemaError(f"{where}: an Ephemeral field needs a default, which it has after its time or a restart")


def _check_renamed(cls: type, fields: Mapping[str, FieldPlan]) -> None:
    olds: set[str] = set()
    for field in fields.values():
        old = field.renamed_from
        if old is not None and (old in fields or old in olds):
            raise SchemaError(
                f"{cls.__name__}.{field.name}: Renamed({old!r}), but {old!r} is the name of another field"
            )
        olds |= {old} if old is not None else set()


def _computed(cls: type, fields: Mapping[str, FieldPlan]) -> tuple[ComputedField, ...]:
    """Return the computed fields in the order of their dependence."""
    done: dict[str, ComputedField] = {}
    on_the_way: list[str] = []

    def visit(name: str) -> frozenset[str]:
        marker, where = fields[name].computed, f"{cls.__name__}.{name}"
        if marker is None:
            return frozenset((name,))
        if name in done:
            return done[name].depends_on
        if name in on_the_way:
            raise SchemaError(f"{where}: computed of itself: {' -> '.join([*on_the_way, name])}")
        on_the_way.append(name)
        for other in marker.of:
            if other not in fields:
                raise SchemaError(f"{where}: Computed of the unknown field {other!r}{nearest(other, fields)}")
            if isinstance(fields[other].tier, Ephemeral):
                raise SchemaError(
                    f"{where}: Computed of {other!r}, which is Ephemeral; what is stored cannot hang on it"
                )
        depends = frozenset[str]().union(*(visit(other) for other in marker.of))
        on_the_way.pop()
        done[name] = ComputedField(name, marker.f, marker.of, depends, marker.batch)
        return depends

    for name in fields:
        visit(name)
    return tuple(done.values())


def _field_schema(field: FieldPlan) -> FieldSchema:
    options: dict[str, Any] = {}
    if field.column is not None and isinstance(field.tier, Gpu):
        options = {"dtype": field.column.dtype, "mass": field.tier.mass}
    elif isinstance(field.tier, Temporal):
        options = {"time": field.tier.time, **field.tier.horizons_s, "archive": field.tier.archive}
    elif isinstance(field.tier, Ephemeral):
        options = {"ttl": field.tier.ttl_s}
    elif isinstance(field.tier, (Memory, Disk)):
        options = dataclasses.asdict(field.tier)
    return FieldSchema(
        name=field.name,
        type=field.kind.name,
        tier=type(field.tier).__name__.lower(),
        options=options,
        has_default=field.has_default,
        computed_of=field.computed.of if field.computed is not None else (),
        computed_batch=field.computed is not None and field.computed.batch,
        renamed_from=field.renamed_from,
    )
