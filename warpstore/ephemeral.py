"""Ephemeral fields: values that live in RAM beside their records, and in no file.

Each field of a table holds its own values by hot key, as encoded bytes with a deadline on the monotonic clock. A field
has one time to live, so insertion order is deadline order, and the ended ones are always at the front.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
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

    __slots__ = ("_entries", "_loop", "_monotonic", "_timer", "_ttl_s", "codec", "name")

    def __init__(self, codec: EphemeralCodec, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self.codec = codec
        self.name = codec.name
        self._monotonic = clock.monotonic
        self._ttl_s = _FOREVER if codec.ttl_s is None else codec.ttl_s
        self._loop = loop
        self._entries: dict[HotKey, tuple[float, bytes]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def set(self, key: HotKey, encoded: bytes | None) -> None:
        """Set a key's value, or drop it for None, which stands for the field's default."""
        entries = self._entries
        entries.pop(key, None)  # so that the new entry goes to the end
        if encoded is not None:
            entries[key] = (self._monotonic() + self._ttl_s, encoded)
            if self._timer is None and self._ttl_s < _FOREVER:
                self._timer = self._loop.call_later(self._ttl_s, self._sweep)

    def fill(self, key: HotKey, record: Any) -> None:
        """Set the field of a record read from storage, if the key has a value that has not ended."""
        entry = self._entries.get(key)
        if entry is not None and self._monotonic() < entry[0]:
            msgspec.structs.force_setattr(record, self.name, self.codec.decode(entry[1]))

    def _sweep(self) -> None:
        """Drop what has ended, a slice at a time, and come back when the next one ends."""
        self._timer = None
        now = self._monotonic()
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


class EphemeralFields:
    """The ephemeral fields of one table."""

    __slots__ = ("_encoders", "_fields", "_setters")

    def __init__(self, codecs: Iterable[EphemeralCodec], clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self._fields = [EphemeralField(codec, clock, loop) for codec in codecs]
        self._encoders = [field.codec.encode for field in self._fields]
        self._setters = [field.set for field in self._fields]

    def __bool__(self) -> bool:
        return bool(self._fields)

    def __len__(self) -> int:
        return sum(map(len, self._fields))

    def named(self, names: Collection[str]) -> list[EphemeralField]:
        """Return the fields with these names."""
        return [field for field in self._fields if field.name in names]

    def encode(self, record: Any) -> list[bytes | None]:
        """Return the encoded values of a record's fields, checked.

        Raises:
            ValidationError: a value is wrong.
        """
        if len(self._encoders) == 1:
            return [self._encoders[0](record)]
        return [encode(record) for encode in self._encoders]

    def set(self, key: HotKey, encoded: Sequence[bytes | None]) -> None:
        """Set every field of a key."""
        for i, set_field in enumerate(self._setters):
            set_field(key, encoded[i])

    def drop(self, key: HotKey) -> None:
        """Forget every field of a key."""
        for set_field in self._setters:
            set_field(key, None)

    def fill(self, key: HotKey, record: Any) -> None:
        """Set the fields of a record read from storage."""
        for field in self._fields:
            field.fill(key, record)

    def close(self) -> None:
        """Forget everything."""
        for field in self._fields:
            field.close()
