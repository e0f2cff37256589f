"""What every stored record has to satisfy, wherever it is stored."""

from __future__ import annotations

import msgspec

from warpstore.keys import slot_of, slot_range
from warpstore.stored import StoredReader
from warpstore.values import TOMBSTONE, split_payload


class RecordRules:
    """The rules of one store's records."""

    def __init__(self, stored: StoredReader) -> None:
        self._tables = {tag: table for table in stored.tables.values() for tag in table.schemas}
        self._next_tag = stored.manifest.next_tag
        n = len(stored.manifest.shards)
        self._slots = [slot_range(shard, n) for shard in range(n)]

    def problem(self, payload: bytes, shard: int, table: int | None = None) -> str | None:
        """Return what is wrong with a payload, or None.

        Args:
            payload: The bytes in the log or in a checkpoint.
            shard: The shard that stored it.
            table: The number of the table that it is stored under; None in the log, where all tables are.
        """
        try:
            tag, key, value = split_payload(payload)
        except (msgspec.MsgspecError, ValueError, RecursionError) as e:
            return f"the record cannot be decoded: {e}"
        if type(key) not in (str, bytes, int) or (type(key) is int and not -(2**63) <= key < 2**63):
            return "the key is none"
        stored = self._tables.get(tag)
        if stored is None:
            return None if 0 < tag < self._next_tag else f"the record has the tag {tag}, which no schema was given"
        if table is not None and stored.number != table:
            return f"the record is one of table {stored.name!r}"
        if not stored.is_key(key):
            return f"the key is of another type than {stored.schema.key_kind}"
        if slot_of(key) not in self._slots[shard]:
            return f"the record does not belong to shard {shard}"
        if value is TOMBSTONE:
            return None
        try:
            stored.record(value)
        except ValueError as e:
            return str(e)
        return None
