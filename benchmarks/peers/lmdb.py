"""LMDB: a memory-mapped B+ tree without a log.

Relaxed: ``sync=False`` and ``writemap=True``, the quickest it has; durable: ``sync=True``. One transaction a put, one a
batch. Read transactions are kept for reuse (``max_spare_txns``) and ended without a context manager, which saved about
0.15 us a get here. Values are decoded from ``bytes``: a ``buffers=True`` transaction was slower at this size.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import lmdb

from benchmarks.peers.codec import USERS, Codec
from benchmarks.peers.peer import Peer, SyncStore

MAP_BYTES = 32 << 30


def open_lmdb(folder: Path, *, durable: bool, codec: Codec = USERS, readahead: bool = True) -> SyncStore:
    """Return LMDB at ``folder``."""
    encode, decode, decode_prefix = codec
    settings: dict[str, Any] = {
        "map_size": MAP_BYTES,
        "sync": durable,
        "metasync": durable,
        "writemap": not durable,
        "max_spare_txns": 16,
        "readahead": readahead,
    }
    environment = lmdb.open(str(folder), **settings)
    begin = environment.begin

    def put(record: Any) -> None:
        with begin(write=True) as transaction:
            transaction.put(record.id.encode(), encode(record))

    def get(key: str) -> Any:
        transaction = begin()
        encoded = transaction.get(key.encode())
        record = None if encoded is None else decode(encoded)
        transaction.abort()
        return record

    def increment(key: str) -> None:
        key_bytes = key.encode()
        with begin(write=True) as transaction:
            encoded = transaction.get(key_bytes)
            if encoded is None:
                raise KeyError(key)
            record = decode(encoded)
            record.age += 1
            transaction.put(key_bytes, encode(record))

    def put_many(records: Sequence[Any]) -> None:
        with begin(write=True) as transaction:
            transaction.cursor().putmulti([(record.id.encode(), encode(record)) for record in records])

    def get_many(keys: Sequence[str]) -> list[Any]:
        with begin() as transaction:
            find = transaction.get
            return [decode(find(key.encode())) for key in keys]  # type: ignore[arg-type]

    def prefix_many(keys: Sequence[str]) -> list[Any]:
        with begin() as transaction:
            find = transaction.get
            return [decode_prefix(find(key.encode())) for key in keys]  # type: ignore[arg-type]

    def scan(start: str, n: int) -> list[Any]:
        with begin() as transaction:
            cursor = transaction.cursor()
            if not cursor.set_range(start.encode()):
                return []
            return [decode(encoded) for encoded in islice(cursor.iternext(keys=False), n)]

    return SyncStore(
        settings={"version": ".".join(map(str, lmdb.version())), **settings, "flags": environment.flags()},
        put=put,
        get=get,
        increment=increment,
        put_many=put_many,
        get_many=get_many,
        prefix_many=prefix_many,
        scan=scan,
        close=environment.close,
    )


PEER = Peer(name="LMDB", open_sync=open_lmdb, threads=True)
