"""A stored table as data: its schemas from the manifest, and its records as dicts, without the record class.

A record is shown as a reader with the newest declaration sees it: fields that were renamed since it was written have
their new name, dropped ones are left out. Fields that were added since are absent, because their defaults are code and
not in the manifest. Values are what MessagePack gives back; a field whose type names UUID, and neither bytes nor Any,
has its 16-byte values as ``uuid.UUID``.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec

from warpstore.errors import CorruptionError, ValidationError
from warpstore.evolution import became
from warpstore.keys import HotKey
from warpstore.manifest import TableManifest
from warpstore.schema import Schema
from warpstore.values import DEADLINE_BYTES, deadline_of, has_deadline

_NAMES_UUID = re.compile(r"\bUUID\b")
_NAMES_BYTES = re.compile(r"\b(bytes|Any)\b")
_KEY_TYPES: dict[str, type] = {"str": str, "bytes": bytes, "int": int, "uuid": bytes}


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """One record as it is stored.

    Attributes:
        table: The table's name.
        key: Its key: str, bytes, int or UUID.
        fields: Its fields by name, the key first.
        deadline_ms: When it ends, in milliseconds since the epoch, or None.
        tag: The tag of the schema that it was written under.
    """

    table: str
    key: str | bytes | int | UUID
    fields: dict[str, Any]
    deadline_ms: int | None
    tag: int


class StoredTable:
    """A table of the manifest.

    Attributes:
        name: Its name.
        number: Its number, the same for ever.
        schemas: Its schemas by tag, the newest last.
        schema: The newest.
    """

    def __init__(self, name: str, entry: TableManifest, path: str) -> None:
        """Read the schemas of a table.

        Raises:
            CorruptionError: they are no schemas; ``path`` is the manifest's.
        """
        self.name = name
        self.number = entry.table
        self.schemas: dict[int, Schema] = {}
        for version in entry.schemas:
            try:
                self.schemas[version.tag] = Schema.from_builtins(version.schema)
            except msgspec.ValidationError as e:
                message = f"{path}: offset 0: the schema of tag {version.tag} in table {name!r}: {e}"
                raise CorruptionError(message, path=path, offset=0) from e
        if not self.schemas or not all(schema.fields for schema in self.schemas.values()):
            raise CorruptionError(f"{path}: offset 0: table {name!r} has no fields", path=path, offset=0)
        self.schema = self.schemas[entry.schemas[-1].tag]
        versions = list(self.schemas.values())
        self._shapes = {
            tag: _Shape(schema, became(self.schema, schema, versions[i + 1 : -1]))
            for i, (tag, schema) in enumerate(self.schemas.items())
        }

    @property
    def key_field(self) -> str:
        """The name of its key."""
        return self.schema.fields[0].name

    def is_key(self, key: object) -> bool:
        """Return whether a hot key is of the table's type."""
        expected = _KEY_TYPES[self.schema.key_kind]
        return type(key) is expected and (self.schema.key_kind != "uuid" or len(key) == 16)  # type: ignore[arg-type]

    def record(self, value: bytes) -> StoredRecord:
        """Return the record that a value of the log or of a checkpoint holds; not that of a tombstone.

        Raises:
            ValueError: the value is no record of this table; the message says why.
        """
        deadline_ms = None
        body = memoryview(value)
        if has_deadline(value):
            deadline_ms, body = deadline_of(value), body[DEADLINE_BYTES:]
        try:
            array = msgspec.msgpack.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, TypeError, RecursionError) as e:
            raise ValueError(f"the record is no MessagePack: {e}") from e
        if not isinstance(array, list) or len(array) < 2:
            raise ValueError("the record is no array")
        shape = self._shapes.get(array[0]) if isinstance(array[0], int) else None
        if shape is None:
            raise ValueError(f"the record has the tag {array[0]!r}, which is none of table {self.name!r}")
        if len(array) - 1 != len(shape.names):
            raise ValueError(f"the record has {len(array) - 1} fields, its schema has {len(shape.names)}")
        if not self.is_key(array[1]):
            raise ValueError(f"the key is of another type than {self.schema.key_kind}")
        fields = {}
        for name, holds_uuid, item in zip(shape.names, shape.holds_uuid, array[1:], strict=True):
            if name is not None:
                fields[name] = _with_uuids(item) if holds_uuid else item
        key = UUID(bytes=array[1]) if self.schema.key_kind == "uuid" else array[1]
        return StoredRecord(self.name, key, fields, deadline_ms, array[0])

    def parse_key(self, text: str, field: str = "KEY") -> HotKey:
        """Return the hot key that a text names: a str key itself, an int in digits, a UUID, or bytes as base64.

        Raises:
            ValidationError: the text is no key of this table.
        """
        kind = self.schema.key_kind
        try:
            if kind == "str":
                text.encode()
                return text
            if kind == "uuid":
                return UUID(text).bytes
            if kind == "bytes":
                return base64.b64decode(text, validate=True)
            number = int(text)
        except (ValueError, binascii.Error) as e:
            how = {"int": "an int", "uuid": "a UUID", "bytes": "bytes, given as base64", "str": "valid text"}[kind]
            raise ValidationError(f"{field}: {text!r}: a key of table {self.name!r} is {how}", field=field) from e
        if not -(2**63) <= number < 2**63:
            raise ValidationError(f"{field}: {text}: an int key is limited to 64 bits", field=field)
        return number

    def parse_prefix(self, text: str, field: str = "--prefix") -> str | bytes:
        """Return the prefix that a text names, as `parse_key` does.

        Raises:
            ValidationError: the table's keys have no prefixes, or the text is none.
        """
        key = self.parse_key(text, field) if self.schema.key_kind in {"str", "bytes"} else None
        if not isinstance(key, str | bytes):
            message = f"{field}: the keys of {self.name!r} are {self.schema.key_kind}; only str and bytes have prefixes"
            raise ValidationError(message, field=field)
        return key


class _Shape:
    """What the elements of the arrays of one schema are called now; None where a field was dropped."""

    def __init__(self, schema: Schema, names: Mapping[str, str]) -> None:
        self.names = [names.get(field.name) for field in schema.fields]
        self.holds_uuid = [
            _NAMES_UUID.search(field.type) is not None and _NAMES_BYTES.search(field.type) is None
            for field in schema.fields
        ]


def _with_uuids(value: Any) -> Any:
    """Return a value with the 16-byte bytes in it as UUIDs."""
    if isinstance(value, bytes):
        return UUID(bytes=value) if len(value) == 16 else value
    if isinstance(value, list):
        return [_with_uuids(item) for item in value]
    if isinstance(value, dict):
        return {_with_uuids(key): _with_uuids(item) for key, item in value.items()}
    return value
