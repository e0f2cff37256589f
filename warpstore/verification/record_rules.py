"""What every stored record has to satisfy, wherever it is stored."""

from __future__ import annotations

import msgspec

from warpstore.keys import slot_of, slot_range
from warpstore.parts import head_of, is_split_value, parts_of, places_of
from warpstore.stored import StoredReader
from warpstore.stored_table import StoredTable
from warpstore.values import DEADLINE_BYTES, TOMBSTONE, has_deadline, split_payload


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
        if is_split_value(value):
            return (
                "the record has parts in block files, as none has in the log"
                if table is None
                else _split(stored, value)
            )
        try:
            stored.record(value)
        except ValueError as e:
            return str(e)
        return None


def _split(table: StoredTable, value: bytes) -> str | None:
    """Return what is wrong with a split value, so far as can be said without its parts."""
    body = value[DEADLINE_BYTES:] if has_deadline(value) else value
    try:
        places = places_of(body)
        head = msgspec.msgpack.decode(head_of(body))
    except (msgspec.MsgspecError, UnicodeDecodeError, TypeError, ValueError, RecursionError) as e:
        return f"the head of the record is damaged: {e}"
    plans = parts_of(table.schemas[head[0]])
    if len(places) != len(plans):
        return f"the record has {len(places)} parts, its schema has {len(plans)}"
    if len(head) != plans[0].first:
        return f"the head of the record has {len(head)} elements, its schema has {plans[0].first}"
    return None
