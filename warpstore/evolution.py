"""How a record type has changed since a schema that records were written under.

One concept: the comparison of two schemas, given those between them. `became` says which field of today each field of
then is; `changes` says in sentences what that means for the records.

The schemas between matter. A field that was renamed keeps its values also when its class no longer says ``Renamed``,
because a schema between says it. A name that was dropped and came back is the same field if its type still reads the
old values (a release that was taken back finds its data again), and a new one if not. By the same rule a rename is
undone when a class with the former name, and without the later one, comes back.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from warpstore.annotations import parse_dtype
from warpstore.errors import SchemaError
from warpstore.schema import FieldSchema, Schema

Effect = Literal["kept", "rounded", "checked", "lost", "unreadable"]

_EXACT_BITS = {"f2": 11, "f4": 24, "f8": 53}


class Change(NamedTuple):
    """One thing that changed.

    Attributes:
        words: It as a sentence.
        field: Its field's name of today, or of then if it was dropped; None if it is about the whole.
        effect: What becomes of stored values. "kept": they are read as they are; "rounded": as the nearest value of a
            narrower number; "checked": as they are if they fit, and reading one that does not raises; "lost": no more;
            "unreadable": records cannot be read.
    """

    words: str
    field: str | None
    effect: Effect


def became(new: Schema, old: Schema, between: Sequence[Schema] = ()) -> dict[str, str]:
    """Return today's name of each field of ``old`` whose values are still read.

    Args:
        new: The schema of today.
        old: The schema of then.
        between: The schemas after ``old`` and before ``new``, in the order in which they were current.
    """
    names = {field.name: field.name for field in old.fields}
    for before, after in pairwise((old, *between, new)):
        step = _step(before, after)
        names = {then: step[name] for then, name in names.items() if name in step}
    taken = set(names.values())
    today = {field.name: field for field in new.fields}
    for field in old.fields:
        same = today.get(field.name)
        if field.name not in names and same and same.name not in taken and _widens(field.type, same.type):
            names[field.name] = field.name
    return names


def _step(old: Schema, new: Schema) -> dict[str, str]:
    """Return the next name of each field that the next schema still has."""
    before = {field.name for field in old.fields}
    after = {field.name: field for field in new.fields}
    step = {
        field.renamed_from: field.name
        for field in new.fields
        if field.renamed_from in before and field.name not in before
    }
    for field in old.fields:
        if field.name in step:
            continue
        former = after.get(field.renamed_from or "")
        if field.name in after:
            step[field.name] = field.name
        elif former is not None and former.name not in before and _widens(field.type, former.type):
            step[field.name] = former.name
    return step


def changes(new: Schema, old: Schema, between: Sequence[Schema] = ()) -> list[Change]:
    """Return what changed from ``old`` to ``new``; empty if nothing did. The arguments are those of `became`."""
    found: list[Change] = []
    if new.table != old.table:
        found.append(Change(f"the table was named {old.table!r}, now {new.table!r}", None, "kept"))
    if new.key_kind != old.key_kind:
        words = f"the key was of type {old.key_kind}, now {new.key_kind}"
        found.append(Change(words, new.fields[0].name, "unreadable"))
    names = became(new, old, between)
    origin = {now: then for then, now in names.items()}
    before = {field.name: field for field in old.fields}
    ephemeral = {field.name for field in new.ephemeral}
    for field in new.fields:
        then = origin.get(field.name)
        if field is new.fields[0] and then != old.fields[0].name:
            words = f"the key field was named {old.fields[0].name!r}, now {field.name!r} without Renamed"
            found.append(Change(words, field.name, "unreadable"))
        elif then is not None:
            if then != field.name:
                found.append(Change(f"field {then!r} was renamed to {field.name!r}", field.name, "kept"))
            found += _field_changes(field, before[then])
        elif field.computed_of:
            found.append(Change(f"field {field.name!r} ({field.type}) was added, computed", field.name, "kept"))
        else:
            missing = "" if field.has_default else " without a default"
            words = f"field {field.name!r} ({field.type}) was added{missing}"
            found.append(Change(words, field.name, "kept" if field.has_default else "unreadable"))
    for name, gone in before.items():
        if name not in names and (gone is not old.fields[0]):
            how = "became ephemeral" if name in ephemeral else "was dropped"
            found.append(Change(f"field {name!r} ({gone.type}) {how}", name, "lost"))
    if not found and [names[field.name] for field in old.fields] != [field.name for field in new.fields]:
        found.append(Change("the order of the fields changed", None, "kept"))
    if new.ephemeral != old.ephemeral:
        found.append(Change("the ephemeral fields changed", None, "kept"))
    return found


def difference(new: Schema, old: Schema, between: Sequence[Schema] = ()) -> list[str]:
    """Return what changed, a sentence each."""
    return [change.words for change in changes(new, old, between)]


def incompatibilities(new: Schema, old: Schema, between: Sequence[Schema] = ()) -> list[str]:
    """Return the changes under which records of ``old`` cannot be read, a sentence each."""
    return [change.words for change in changes(new, old, between) if change.effect == "unreadable"]


def must_fit(new: FieldSchema, old: FieldSchema) -> bool:
    """Return whether stored values have to be converted, or checked, before they are values of the field of today."""
    if new.tier == "temporal":
        return new.options.get("time") is not None and new.options.get("time") != old.options.get("time")
    return _column_effect(new, old) != "kept"


def _field_changes(new: FieldSchema, old: FieldSchema) -> list[Change]:
    found: list[Change] = []
    name = new.name

    def add(words: str, effect: Effect = "kept") -> None:
        found.append(Change(f"field {name!r} {words}", name, effect))

    column = _column_effect(new, old)
    if new.type != old.type:
        effect: Effect = "kept" if _widens(old.type, new.type) else "unreadable"
        add(f"was {old.type}, now {new.type}", "rounded" if effect == "kept" and _to_float(old, new) else effect)
    if (new.tier, new.options) != (old.tier, old.options):
        hint = {"checked": ": each value has to fit", "rounded": ": values are rounded"}.get(column, "")
        add(f"lived in {_tier(old)}, now in {_tier(new)}{hint}", column)
    if new.computed_of != old.computed_of:
        add(f"was computed of {_names(old)}, now of {_names(new)}")
    if new.computed_of and new.computed_batch != old.computed_batch:
        add(f"is computed from {'columns' if new.computed_batch else 'one record at a time'} now")
    if new.has_default != old.has_default:
        add(f"has {'a' if new.has_default else 'no'} default now")
    return found


def _to_float(old: FieldSchema, new: FieldSchema) -> bool:
    """Return whether ints, which have up to 64 bits, become floats, which have 53."""
    options = old.type.split(" | ")
    return "int" in options and "int" not in new.type.split(" | ") and "Any" not in new.type


def _column_effect(new: FieldSchema, old: FieldSchema) -> Effect:
    """Return what the tier and its options do to stored values: columns hold no more than their dtype can."""
    if new.tier != "gpu":
        return "kept"
    dtype, before = new.options.get("dtype"), old.options.get("dtype") if old.tier == "gpu" else None
    if dtype == before and new.type == old.type:
        return "kept"
    try:
        count, code = parse_dtype(str(dtype))
        old_count, old_code = (None, "") if before is None else parse_dtype(str(before))
    except SchemaError:
        return "checked"  # a dtype that only another version of warpstore knows
    if before is not None:
        return "unreadable" if count != old_count else _narrowing(old_code, code)
    if code in ("f2", "f4") or (code == "f8" and "int" in old.type):
        return "rounded"
    return "kept" if code == "bool" or (code == "f8" and count is None) else "checked"


def _narrowing(old: str, new: str) -> Effect:
    """Return what becomes of column values of one element code in a column of another."""
    kinds, old_bytes, new_bytes = old[0] + new[0], _width(old), _width(new)
    if old == new or (kinds == "SS" and new_bytes >= old_bytes) or (kinds == "ff" and new_bytes >= old_bytes):
        return "kept"
    if new in _EXACT_BITS:
        bits = 8 * old_bytes - (old[0] == "i")
        return "kept" if old[0] in "iu" and bits <= _EXACT_BITS[new] else "rounded"
    if kinds in ("ii", "uu"):
        return "kept" if new_bytes >= old_bytes else "checked"
    return "kept" if kinds == "ui" and new_bytes > old_bytes else "checked"


def _width(code: str) -> int:
    return 1 if code == "bool" else int(code[1:])


def _widens(old: str, new: str) -> bool:
    """Return whether every stored value of type ``old`` reads back as type ``new``."""
    if old == new:
        return True
    if new == "Any":
        return old in ("str", "bytes", "int", "float", "bool", "None")
    if old.startswith(f"{new} (") and old.endswith(")"):
        return True  # a constraint went
    options = set(new.split(" | "))
    if "[" in old + new or "{" in old + new or "(" in old + new:
        return new in (f"{old} | None", f"None | {old}")
    return all(option in options or (option == "int" and "float" in options) for option in old.split(" | "))


def _tier(field: FieldSchema) -> str:
    options: dict[str, Any] = dict(field.options)
    return f"{field.tier}({', '.join(f'{name}={value!r}' for name, value in options.items())})"


def _names(field: FieldSchema) -> str:
    return ", ".join(field.computed_of) or "nothing"
