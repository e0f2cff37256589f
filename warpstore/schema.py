"""``Schema``: a record type's declaration as plain data.

One concept: what the manifest keeps of a version of a type. It needs no class to be read: a tool names the columns of a
stored array with ``array_names`` alone. The array is ``[tag, key, field, ...]`` in the order of ``fields``.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import msgspec

KeyKind = Literal["str", "bytes", "int", "uuid"]


class FieldSchema(msgspec.Struct, frozen=True, kw_only=True):
    """One field.

    Attributes:
        name: Its name.
        type: The canonical text of its type, nested Structs spelt out.
        tier: ``memory``, ``gpu``, ``disk``, ``temporal``, ``ephemeral`` or ``auto``.
        options: The tier's options as plain data.
        has_default: Whether a record without it can be read.
        computed_of: The fields it is computed of; empty if it is not computed.
        computed_batch: Whether its function takes columns.
        renamed_from: Its former name.
    """

    name: str
    type: str
    tier: str
    options: dict[str, str | int | float | bool | None] = {}
    has_default: bool = False
    computed_of: tuple[str, ...] = ()
    computed_batch: bool = False
    renamed_from: str | None = None


class Schema(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a record type.

    Attributes:
        table: The table's name.
        key_kind: ``str``, ``bytes``, ``int`` or ``uuid``.
        fields: The stored fields in stored order; the first is the key.
        ephemeral: The fields that are in no file.
    """

    table: str
    key_kind: KeyKind
    fields: tuple[FieldSchema, ...]
    ephemeral: tuple[FieldSchema, ...] = ()

    def to_builtins(self) -> dict[str, Any]:
        """Return the schema as dicts, lists and scalars."""
        builtins: dict[str, Any] = msgspec.to_builtins(self)
        return builtins

    @classmethod
    def from_builtins(cls, data: Any) -> Schema:
        """Return the schema that ``to_builtins`` gave.

        Raises:
            msgspec.ValidationError: ``data`` is no schema.
        """
        return msgspec.convert(data, cls)

    @property
    def digest(self) -> str:
        """The BLAKE2b-128 of the schema in hex; equal schemas have equal digests."""
        text = msgspec.json.encode(self, order="deterministic")
        return hashlib.blake2b(text, digest_size=16).hexdigest()

    @property
    def array_names(self) -> tuple[str, ...]:
        """The names of the elements of a stored array; the first is the schema's id."""
        return ("(schema)", *(field.name for field in self.fields))

    def difference(self, old: Schema) -> list[str]:
        """Return what changed since ``old``, a sentence each; empty if nothing did."""
        return [words for words, _ in self._changes(old)]

    def incompatibilities(self, old: Schema) -> list[str]:
        """Return the changes since ``old`` under which its records cannot be read."""
        return [words for words, readable in self._changes(old) if not readable]

    def _changes(self, old: Schema) -> list[tuple[str, bool]]:
        changes: list[tuple[str, bool]] = []
        if self.table != old.table:
            changes.append((f"the table was named {old.table!r}, now {self.table!r}", True))
        if self.key_kind != old.key_kind:
            changes.append((f"the key was of type {old.key_kind}, now {self.key_kind}", False))
        before = {field.name: field for field in old.fields}
        for new in self.fields:
            same = before.pop(new.name, None)
            if same is None and new.renamed_from in before:
                same = before.pop(new.renamed_from)
                changes.append((f"field {same.name!r} was renamed to {new.name!r}", True))
            if same is None:
                if new is self.fields[0]:
                    words = f"the key field was named {old.fields[0].name!r}, now {new.name!r} without Renamed"
                    changes.append((words, False))
                    before.pop(old.fields[0].name, None)
                    continue
                missing = "" if new.has_default else " without a default"
                changes.append((f"field {new.name!r} ({new.type}) was added{missing}", new.has_default))
                continue
            changes += _field_changes(new, same)
        changes += [(f"field {name!r} ({field.type}) was dropped", True) for name, field in before.items()]
        kept = sorted(before[name].name for name in before)
        order = [field.name for field in self.fields if field.name not in kept]
        if not changes and order != [field.name for field in old.fields]:
            changes.append(("the order of the fields changed", True))
        if self.ephemeral != old.ephemeral:
            changes.append(("the ephemeral fields changed", True))
        return changes


def _field_changes(new: FieldSchema, old: FieldSchema) -> list[tuple[str, bool]]:
    changes: list[tuple[str, bool]] = []
    if new.type != old.type:
        changes.append((f"field {new.name!r} was {old.type}, now {new.type}", _widens(old.type, new.type)))
    if (new.tier, new.options) != (old.tier, old.options):
        changes.append((f"field {new.name!r} lived in {_tier(old)}, now in {_tier(new)}", True))
    if new.computed_of != old.computed_of:
        changes.append((f"field {new.name!r} was computed of {_names(old)}, now of {_names(new)}", True))
    if new.computed_of and new.computed_batch != old.computed_batch:
        takes = "columns" if new.computed_batch else "one record at a time"
        changes.append((f"field {new.name!r} is computed from {takes} now", True))
    if new.has_default != old.has_default:
        changes.append((f"field {new.name!r} has {'a' if new.has_default else 'no'} default now", True))
    return changes


def _widens(old: str, new: str) -> bool:
    """Return whether every stored value of type ``old`` reads back as type ``new``."""
    if new == "Any":
        return old in ("str", "bytes", "int", "float", "bool", "None")
    options = set(new.split(" | "))
    if "[" in old + new or "{" in old + new or "(" in old + new:
        return new in (f"{old} | None", f"None | {old}")
    return all(option in options or (option == "int" and "float" in options) for option in old.split(" | "))


def _tier(field: FieldSchema) -> str:
    options = ", ".join(f"{name}={value!r}" for name, value in field.options.items())
    return f"{field.tier}({options})"


def _names(field: FieldSchema) -> str:
    return ", ".join(field.computed_of) or "nothing"
