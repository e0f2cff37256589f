"""What a record's series have beside the record: which incarnation it is, its last move, and times of append.

Every table with series that age has a second table beside it, `companion_of` its name, with the same keys and so in the
same shards. A state is written in one piece with its record where both change: by a move, a delete, an append.

* ``incarnation`` is the number of the first move that took items out of the record. A record that is deleted and
  inserted anew gets another, so items of the one before do not come back.
* ``last_move`` is the number of the last such move. Of a move that was interrupted, it tells which records it reached.
* ``arrivals`` are the times of append of the items in the record, for series without a time field: by series, for each
  item its time and the CRC32C of its bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from google_crc32c import value as crc32c

from warpstore.keys import HotKey
from warpstore.schema import FieldSchema, KeyKind, Schema

COMPANION_SUFFIX = "+series"
"""No name of a user's table has a plus in it."""

_ARRIVAL = struct.Struct("<qI")


class State(NamedTuple):
    """The state of a record's series."""

    incarnation: int = 0
    last_move: int = 0
    arrivals: dict[int, bytes] = {}


class _Stored(msgspec.Struct, array_like=True, gc=False):
    tag: int
    key: Any
    incarnation: int
    last_move: int
    arrivals: dict[int, bytes]


NO_STATE = State()
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Stored).decode


def companion_of(table: str) -> str:
    """Return the name of the table of states beside a table."""
    return table + COMPANION_SUFFIX


def is_companion(table: str) -> bool:
    """Return whether a table holds states."""
    return table.endswith(COMPANION_SUFFIX)


def companion_schema(table: str, key_kind: KeyKind) -> Schema:
    """Return the schema of the states beside a table."""
    kinds = {"key": key_kind, "incarnation": "int", "last_move": "int", "arrivals": "dict[int, bytes]"}
    fields = tuple(FieldSchema(name=name, type=kind, tier="auto") for name, kind in kinds.items())
    return Schema(table=companion_of(table), key_kind=key_kind, fields=fields)


def pack_state(tag: int, key: HotKey, state: State) -> bytes:
    """Return a state as the value of its table."""
    return _encode((tag, key, *state))


def unpack_state(value: bytes) -> State:
    """Return the state of a value, `NO_STATE` of a tombstone."""
    if not value:
        return NO_STATE
    stored = _decode(value)
    return State(stored.incarnation, stored.last_move, stored.arrivals)


def arrivals_now(known: bytes, items: Sequence[bytes | memoryview], now_ns: int) -> bytes:
    """Return the times of append of the items that a record has, from those known before.

    Items are found again by their bytes, in order. Those that are new at the end come now; one that came between older
    ones has the time of the one behind it, so that times never fall.
    """
    crcs = [int(crc32c(bytes(item))) for item in items]
    times: list[int | None] = []
    before = list(_ARRIVAL.iter_unpack(known))
    at = 0
    for crc in crcs:
        found = next((i for i in range(at, len(before)) if before[i][1] == crc), None)
        times.append(None if found is None else before[found][0])
        at = at if found is None else found + 1
    behind = max([now_ns, *(time for time in times if time is not None)])
    packed = []
    for time, crc in zip(reversed(times), reversed(crcs), strict=True):
        behind = behind if time is None else min(time, behind)
        packed.append(_ARRIVAL.pack(behind, crc))
    return b"".join(reversed(packed))


def arrival_times(arrivals: bytes) -> list[int]:
    """Return the times."""
    return [time for time, _ in _ARRIVAL.iter_unpack(arrivals)]
