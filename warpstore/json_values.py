"""Stored values as JSON.

JSON lacks some of what a record holds. So, at any depth:

* bytes are ``{"$base64": "AAE="}``;
* a float that is no number is ``{"$float": "nan"}``, ``"inf"`` or ``"-inf"``;
* UUIDs are their 36 characters, datetimes ISO 8601;
* MessagePack's extensions, which no record of warpstore has, are ``{"$ext": 5, "$base64": "AAE="}``;
* a key of a dict that is no str is the JSON text of that key: ``{5: "x"}`` is ``{"5": "x"}``.

Ints are written with all their digits, of up to 64 bits.
"""

from __future__ import annotations

import base64
import math
from typing import Any
from uuid import UUID

import msgspec

_encode = msgspec.json.Encoder().encode


def to_json(value: Any) -> bytes:
    r"""Return a value as JSON text in UTF-8, on one line.

    Raises:
        ValueError: there is something in it that no record holds.

    Example:
        >>> to_json({"id": b"\x00\x01", "seen": {5: float("inf")}}).decode()
        '{"id":{"$base64":"AAE="},"seen":{"5":{"$float":"inf"}}}'
    """
    try:
        return _encode(plain(value))
    except (TypeError, msgspec.MsgspecError) as e:
        raise ValueError(f"this cannot be written as JSON: {e}") from e


def plain(value: Any) -> Any:
    """Return a value made of what JSON has, and of what has one usual text: datetimes and UUIDs."""
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": str(value)}
    if isinstance(value, bytes):
        return {"$base64": base64.b64encode(value).decode()}
    if isinstance(value, msgspec.msgpack.Ext):
        return {"$ext": value.code, **plain(bytes(value.data))}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {_name(key): plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, UUID) else value


def _name(key: Any) -> str:
    if isinstance(key, str):
        return key
    return str(key) if isinstance(key, UUID) else _encode(plain(key)).decode()
