"""Ephemeral fields: values that live in RAM beside their records, and in no file.

Each field of a table holds its own values by hot key, as encoded bytes with a deadline on the monotonic clock. A field
has one time to live, so insertion order is deadline order, and the ended ones are always at the front.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import islice
from typing import Any

import msgspec

from warpstore.clock import Clock
from warpstore.codec import EphemeralCodec
from warpstore.keys import HotKey

_SWEEP_KEYS = 512
_FOREVER = float("inf")


class EphemeralField:
    """The values of one ephemeral field of one table."""

    __slots__ = ("_clock", "_entries", "_loop", "_timer", "codec", "name")

    def __init__(self, codec: EphemeralCodec, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self.codec = codec
        self.name = codec.name
        self._clock = clock
        self._loop = loop
        self._entries: dict[HotKey, tuple[float, bytes]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def set(self, key: HotKey, encoded: bytes | None) -> None:
        """Set a key's value, or drop it for None, which stands for the field's default."""
        if self._entries:
            self._entries.pop(key, None)  # so that the new entry goes to the end
        if encoded is not None:
            ttl_s = self.codec.ttl_s
            deadline = _FOREVER if ttl_s is None else self._clock.monotonic() + ttl_s
            self._entries[key] = (deadline, encoded)
            if self._timer is None and ttl_s is not None:
                self._timer = self._loop.call_later(ttl_s, self._sweep)

    def fill(self, key: HotKey, record: Any) -> None:
        """Set the field of a record read from storage, if the key has a value that has not ended."""
        entry = self._entries.get(key)
        if entry is not None and self._clock.monotonic() < entry[0]:
            msgspec.structs.force_setattr(record, self.name, self.codec.decode(entry[1]))

    def _sweep(self) -> None:
        """Drop what has ended, a slice at a time, and come back when the next one ends."""
        self._timer = None
        now = self._clock.monotonic()
        ended = []
        wait_s = 0.0
        for key, (deadline, _) in islice(self._entries.items(), _SWEEP_KEYS):
            if deadline > now:
                wait_s = deadline - now
                break
            ended.append(key)
        for key in ended:
            del self._entries[key]
        if self._entries:
            self._timer = self._loop.call_later(wait_s, self._sweep)

    def close(self) -> None:
        """Forget everything."""
        self._entries.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def encode_all(fields: Sequence[EphemeralField], record: Any) -> list[bytes | None]:
    """Return the encoded values of a record's ephemeral fields, checked.

    Raises:
        ValidationError: a value is wrong.
    """
    return [field.codec.encode(record) for field in fields]


def set_all(fields: Sequence[EphemeralField], key: HotKey, encoded: Sequence[bytes | None]) -> None:
    """Set every field of a key."""
    for field, value in zip(fields, encoded, strict=True):
        if value is not None or len(field):
            field.set(key, value)
