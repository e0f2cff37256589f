"""RocksDB through rocksdict: a log-structured merge tree; 1 GiB cache, bloom filter, lz4, the write-ahead log on.

RocksDB commits in groups, but rocksdict keeps other threads from running while it syncs: 64 gained nothing over one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import rocksdict

from benchmarks.peers.codec import USERS, Codec
from benchmarks.peers.peer import Peer, SyncStore

CACHE_BYTES = 1 << 30
SETTLE_S_MAX = 3.0


def open_rocksdb(folder: Path, *, durable: bool, codec: Codec = USERS, cache_bytes: int = CACHE_BYTES) -> SyncStore:
    """Return RocksDB at ``folder``; ``settle`` flushes and waits for running compactions, for 3 s at most."""
    encode, decode, _ = codec
    n_threads = os.cpu_count() or 1
    blocks = rocksdict.BlockBasedOptions()
    blocks.set_block_cache(rocksdict.Cache(cache_bytes))
    blocks.set_bloom_filter(10, False)
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(blocks)
    options.set_compression_type(rocksdict.DBCompressionType.lz4())
    options.increase_parallelism(n_threads)
    database = rocksdict.Rdict(str(folder), options)
    write_options = rocksdict.WriteOptions()
    write_options.sync = durable
    database.set_write_options(write_options)
    write = database.put
    find: Any = database.get  # its stub says that a list of keys may give None

    def put(record: Any) -> None:
        write(record.id.encode(), encode(record))

    def get(key: str) -> Any:
        encoded = find(key.encode())
        return None if encoded is None else decode(encoded)

    def increment(key: str) -> None:
        key_bytes = key.encode()
        record = decode(find(key_bytes))
        record.age += 1
        write(key_bytes, encode(record))

    def put_many(records: Sequence[Any]) -> None:
        batch = rocksdict.WriteBatch(raw_mode=True)
        add = batch.put
        for record in records:
            add(record.id.encode(), encode(record))
        database.write(batch)

    def get_many(keys: Sequence[str]) -> list[Any]:
        return [decode(encoded) for encoded in find([key.encode() for key in keys])]

    def scan(start: str, n: int) -> list[Any]:
        return [decode(encoded) for encoded in islice(database.values(from_key=start.encode()), n)]

    def settle() -> None:
        database.flush()
        end = time.monotonic() + SETTLE_S_MAX
        while time.monotonic() < end:
            running = database.property_int_value("rocksdb.num-running-compactions") or 0
            pending = database.property_int_value("rocksdb.compaction-pending") or 0
            if not running and not pending:
                return
            time.sleep(0.01)

    def compact() -> None:
        database.flush()
        database.compact_range(None, None)

    return SyncStore(
        settings={
            "version": f"rocksdict {version('rocksdict')}",
            "block_cache_bytes": cache_bytes,
            "bloom_filter_bits": 10,
            "compression": "lz4",
            "wal": True,
            "sync": durable,
            "threads": n_threads,
        },
        put=put,
        get=get,
        increment=increment,
        put_many=put_many,
        get_many=get_many,
        scan=scan,
        close=database.close,
        settle=settle,
        compact=compact,
    )


PEER = Peer(name="RocksDB", open_sync=open_rocksdb, has_log=True, threads=True)
