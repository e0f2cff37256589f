"""The record and the codec that all peers share.

A plain `msgspec.Struct` written as a MessagePack array and decoded to that type is the quickest fair form: no field
names on the wire, no checks before encoding, a typed decode. The fields come in the order that lets `decode_prefix`
stop looking after the third one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec


class UserRow(msgspec.Struct, array_like=True, gc=False):
    """A user of about 400 encoded bytes."""

    id: str
    score: float
    age: int
    tags: list[str]
    attrs: dict[str, str]
    blob: bytes


class UserPrefix(msgspec.Struct, array_like=True, gc=False):
    """The first three fields of a `UserRow`; decoding skips over the others."""

    id: str
    score: float
    age: int


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(UserRow).decode
decode_prefix = msgspec.msgpack.Decoder(UserPrefix).decode


class Codec(NamedTuple):
    """What a peer encodes and decodes one kind of record with; ``decode_prefix`` reads its first fields."""

    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    decode_prefix: Callable[[bytes], Any]


USERS = Codec(encode, decode, decode_prefix)
