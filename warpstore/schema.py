"""``Schema``: a record type's declaration as plain data.

One concept: what the manifest keeps of a version of a type. It needs no class to be read: a tool names the columns of a
stored array with ``array_names`` alone. The array is ``[tag, key, field, ...]`` in the order of ``fields``.
`warpstore.evolution` compares two versions.
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
