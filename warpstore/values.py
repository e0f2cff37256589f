"""Values as the log, the checkpoints and the hot tier hold them.

A value is a MessagePack array ``[tag, key, field, ...]``; ``tag`` names the schema in the manifest. Three first bytes
tell four forms apart without decoding:

* an array's own first byte: a record without a deadline;
* ``0xd3``: a MessagePack int64 stands before the array, the record's deadline in milliseconds since the epoch;
* ``0xc1``: some fields are elsewhere (`warpstore.parts`); where there is a deadline, it comes before this;
* ``0xc0``: a tombstone; the array behind it is ``[tag, key]``. In the hot tier a tombstone is `TOMBSTONE`, the empty
  value.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

TOMBSTONE = b""
DEADLINE_BYTE = 0xD3
TOMBSTONE_BYTE = 0xC0
SPLIT_BYTE = 0xC1
DEADLINE_BYTES = 9

_DEADLINE = struct.Struct(">Bq")


class _TagAndKey(msgspec.Struct, array_like=True, gc=False):
    tag: int
    key: Any


_decode_tag_and_key = msgspec.msgpack.Decoder(_TagAndKey).decode
_encode = msgspec.msgpack.Encoder(uuid_format="bytes").encode


def with_deadline(value: bytes, deadline_ms: int) -> bytes:
    """Return a record's value that ends at ``deadline_ms``, milliseconds since the epoch."""
    return _DEADLINE.pack(DEADLINE_BYTE, deadline_ms) + value


def has_deadline(value: bytes) -> bool:
    """Return whether a non-empty value carries a deadline."""
    return value[0] == DEADLINE_BYTE


def deadline_of(value: bytes) -> int:
    """Return the deadline of a value that has one, in milliseconds since the epoch."""
    return int(_DEADLINE.unpack_from(value)[1])


def live_body(value: bytes, now_ms: int) -> bytes | None:
    """Return the array of a record's value, without its deadline; None if that has passed."""
    if value[0] != DEADLINE_BYTE:
        return value
    return value[DEADLINE_BYTES:] if deadline_of(value) > now_ms else None


def tombstone(tag: int, key: Any) -> bytes:
    """Return what the log holds for a deleted key."""
    return b"\xc0" + _encode((tag, key))


def split_payload(payload: bytes) -> tuple[int, Any, bytes]:
    """Return the tag, the hot key and the hot tier's value of a payload of the log.

    Raises:
        msgspec.DecodeError: the payload is none.
    """
    first = payload[0] if payload else 0
    if first == TOMBSTONE_BYTE:
        head = _decode_tag_and_key(memoryview(payload)[1:])
        return head.tag, head.key, TOMBSTONE
    skip = DEADLINE_BYTES if first == DEADLINE_BYTE else 0
    if len(payload) > skip + 1 and payload[skip] == SPLIT_BYTE:
        skip += 2 + payload[skip + 1]
    head = _decode_tag_and_key(memoryview(payload)[skip:] if skip else payload)
    return head.tag, head.key, payload
