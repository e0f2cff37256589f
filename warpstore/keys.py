"""Keys as the tiers hold them, and how they are hashed.

A *hot key* is what the hot tier's dictionaries hold: a str, bytes or int key itself, a UUID key as its 16 bytes. Its
*key bytes* are what is hashed: UTF-8, the bytes, or 8 bytes little-endian signed. The hash is xxh3-64, stable for ever;
its low 8 bits are the slot.
"""

from __future__ import annotations

from warpstore._native import key_hash, slot_of

__all__ = ["SLOTS", "HotKey", "key_bytes", "key_hash", "slot_of", "slot_range"]

HotKey = str | bytes | int

SLOTS = 256


def key_bytes(key: HotKey) -> bytes:
    """Return the bytes of a hot key that are hashed."""
    if type(key) is str:
        return key.encode()
    if type(key) is int:
        return key.to_bytes(8, "little", signed=True)
    return key  # type: ignore[return-value]


def slot_range(shard: int, n_shards: int) -> range:
    """Return the slots that shard ``shard`` of ``n_shards`` owns."""
    return range(shard * SLOTS // n_shards, (shard + 1) * SLOTS // n_shards)
