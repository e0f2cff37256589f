"""diskcache: a cache on SQLite; eviction and statistics off, values as BLOBs, ``sqlite_synchronous`` 0 or 2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diskcache

from benchmarks.peers.codec import UserRow, decode, encode
from benchmarks.peers.peer import Peer, SyncStore


def open_diskcache(folder: Path, *, durable: bool) -> SyncStore:
    """Return a diskcache at ``folder``; a batch is one transaction."""
    settings = {
        "eviction_policy": "none",
        "cull_limit": 0,
        "statistics": 0,
        "size_limit": 1 << 40,
        "sqlite_synchronous": 2 if durable else 0,
        "sqlite_cache_size": 1 << 18,  # pages of 4 KiB, so 1 GiB
        "sqlite_mmap_size": 8 << 30,
    }
    cache = diskcache.Cache(str(folder), **settings)

    def put(record: UserRow) -> None:
        cache.set(record.id, encode(record))

    def get(key: str) -> UserRow | None:
        encoded = cache.get(key)
        return None if encoded is None else decode(encoded)

    def increment(key: str) -> None:
        with cache.transact():
            record = decode(cache[key])
            record.age += 1
            cache.set(key, encode(record))

    def put_many(records: Sequence[UserRow]) -> None:
        with cache.transact():
            for record in records:
                cache.set(record.id, encode(record))

    def get_many(keys: Sequence[str]) -> list[Any]:
        with cache.transact():
            return [decode(cache[key]) for key in keys]

    return SyncStore(
        settings={"version": diskcache.__version__, **settings},
        put=put,
        get=get,
        increment=increment,
        put_many=put_many,
        get_many=get_many,
        close=cache.close,
    )


PEER = Peer(name="diskcache", open_sync=open_diskcache, has_log=True, slow=True)
