"""Comparing a stored flight with its source: by the bytes of its fields, so that NaN equals NaN."""

from __future__ import annotations

import msgspec

from warpstore.demo.models import Flight

SOURCE_FIELDS = (
    "id", "carrier", "origin", "dest", "departs", "distance", "air_time", "arr_delay", "times", "tailnum", "note",
)  # fmt: skip
_encode = msgspec.msgpack.Encoder(order="deterministic").encode


def facts(flight: Flight) -> bytes:
    """Return the fields that came from the data set, encoded; two flights with the same facts have the same bytes."""
    return _encode([getattr(flight, name) for name in SOURCE_FIELDS])
