"""The Arrow schema of a table, and the judgement of another one.

The schema carries warpstore's own under the key ``warpstore`` of its metadata, so that a file says what its columns
were: a Decimal and a str are both strings in Arrow. An import compares that first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from warpstore.annotations import Ephemeral
from warpstore.errors import SchemaMismatchError, ValidationError
from warpstore.evolution import incompatibilities
from warpstore.interchange.arrow_kinds import ArrowKind, arrow_kind
from warpstore.interchange.pyarrow_extra import load_pyarrow
from warpstore.plan import FieldPlan, Plan, nearest
from warpstore.schema import Schema

METADATA_KEY = b"warpstore"
METADATA_VERSION = 1


@dataclass(frozen=True, slots=True)
class ArrowColumn:
    """One column: its field, and what that is in Arrow."""

    field: FieldPlan
    kind: ArrowKind


def exported_fields(plan: Plan[Any], fields: Sequence[str] | None) -> list[str]:
    """Return the fields to export: the key first, then those asked for; by default all but ephemeral ones.

    Raises:
        ValidationError: one is unknown, or ephemeral.
    """
    if fields is None:
        return [name for name in plan.record_type.__struct_fields__ if name in plan.stored_fields]
    for name in fields:
        if name not in plan.fields:
            raise plan.unknown_field(name)
        if name in plan.ephemeral_fields:
            raise ValidationError(
                f"{plan.record_type.__name__}.{name}: is Ephemeral, and so goes into no file", field=name
            )
    return list(dict.fromkeys((plan.key_field, *fields)))


def arrow_columns(plan: Plan[Any], names: Sequence[str]) -> list[ArrowColumn]:
    """Return the columns of these fields."""
    return [ArrowColumn(plan.fields[name], arrow_kind(plan.fields[name])) for name in names]


def arrow_schema(plan: Plan[Any], columns: Sequence[ArrowColumn]) -> Any:
    """Return the `pyarrow.Schema` of some columns, with warpstore's in its metadata."""
    names = {column.field.name for column in columns}
    fields = tuple(field for field in plan.schema.fields if field.name in names)
    described = msgspec.structs.replace(plan.schema, fields=fields, ephemeral=())
    text = msgspec.json.encode({"version": METADATA_VERSION, "schema": described.to_builtins()})
    pa = load_pyarrow()
    arrow_fields = [pa.field(c.field.name, c.kind.final(), nullable=c.kind.nullable) for c in columns]
    return pa.schema(arrow_fields, metadata={METADATA_KEY: text})


def stored_schema(schema: Any) -> Schema | None:
    """Return warpstore's schema in the metadata of an Arrow schema; None if there is none that can be read."""
    text = (schema.metadata or {}).get(METADATA_KEY)
    if text is None:
        return None
    try:
        found = msgspec.json.decode(text)
        return Schema.from_builtins(found["schema"]) if found["version"] == METADATA_VERSION else None
    except (msgspec.MsgspecError, TypeError, KeyError):
        return None


def fitted(plan: Plan[Any], schema: Any) -> list[tuple[int, FieldPlan, ArrowKind]]:
    """Return the columns of an Arrow schema to import: their place, their field, and how their values are loaded.

    Computed fields are passed over: they are computed anew.

    Raises:
        SchemaMismatchError: the schema does not fit the record type; every reason is named.
    """
    name_of = plan.record_type.__name__
    renamed = {field.renamed_from: field.name for field in plan.fields.values() if field.renamed_from is not None}
    present = set(schema.names)
    found: dict[str, tuple[int, FieldPlan, ArrowKind]] = {}
    problems: list[tuple[str, str]] = []
    for place, column in enumerate(schema):
        name = column.name
        if name not in plan.fields and renamed.get(name, name) not in present:
            name = renamed.get(name, name)
        field = plan.fields.get(name)
        if field is None:
            problems.append((name, f"the column {name!r} is no field of it{nearest(name, plan.fields)}"))
        elif isinstance(field.tier, Ephemeral):
            problems.append((name, f"the column {name!r} is an Ephemeral field, which is in no file"))
        elif name in found:
            problems.append((name, f"the column {name!r} is there twice"))
        elif field.computed is None:
            kind = arrow_kind(field)
            wrong = kind.problem(column.type)
            if wrong is not None:
                problems.append((name, f"the column {name!r}: {wrong}"))
            found[name] = (place, field, kind)
    problems += [
        (field.name, f"the column {field.name!r} is missing, and has no default")
        for field in plan.fields.values()
        if field.name not in found and field.computed is None and not field.has_default
    ]
    theirs = stored_schema(schema)
    if theirs is not None and not problems:
        problems += [(plan.key_field, words) for words in incompatibilities(plan.schema, theirs)]
    if problems:
        words = "; ".join(words for _, words in problems)
        raise SchemaMismatchError(f"{name_of}: {words}", field=problems[0][0])
    return list(found.values())
