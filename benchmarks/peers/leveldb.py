"""LevelDB through plyvel: a log-structured merge tree with a write-ahead log and group commit across threads."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import plyvel

from benchmarks.peers.codec import UserRow, decode, encode
from benchmarks.peers.peer import Peer, SyncStore


def open_leveldb(folder: Path, *, durable: bool) -> SyncStore:
    """Return LevelDB at ``folder``; ``settle`` compacts it, so that reads find one level."""
    settings = {"lru_cache_size": 1 << 30, "bloom_filter_bits": 10, "write_buffer_size": 64 << 20}
    database = plyvel.DB(str(folder), create_if_missing=True, **settings)
    write = database.put
    find = database.get

    def put(record: UserRow) -> None:
        write(record.id.encode(), encode(record), sync=durable)

    def get(key: str) -> UserRow | None:
        encoded = find(key.encode())
        return None if encoded is None else decode(encoded)

    def increment(key: str) -> None:
        key_bytes = key.encode()
        record = decode(find(key_bytes))
        record.age += 1
        write(key_bytes, encode(record), sync=durable)

    def put_many(records: Sequence[UserRow]) -> None:
        with database.write_batch(sync=durable) as batch:
            add = batch.put
            for record in records:
                add(record.id.encode(), encode(record))

    def scan(start: str, n: int) -> list[Any]:
        with database.iterator(start=start.encode(), include_key=False) as values:
            return [decode(encoded) for encoded in islice(values, n)]

    return SyncStore(
        settings={"version": plyvel.__leveldb_version__, **settings, "compression": "snappy", "sync": durable},
        put=put,
        get=get,
        increment=increment,
        put_many=put_many,
        get_many=lambda keys: [decode(find(key.encode())) for key in keys],
        scan=scan,
        close=database.close,
        settle=database.compact_range,
    )


PEER = Peer(name="LevelDB", open_sync=open_leveldb, has_log=True, threads=True, commits_in_groups=True)
