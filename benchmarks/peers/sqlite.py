"""SQLite: write-ahead log, ``synchronous`` OFF for relaxed and FULL for durable, autocommit, one table by key."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.codec import UserRow, decode, encode
from benchmarks.peers.peer import Peer, SyncStore

CREATE = "create table if not exists user (key text primary key, value blob not null) without rowid"
PUT = "insert into user values (?, ?) on conflict do update set value = excluded.value"
GET = "select value from user where key = ?"
SCAN = "select value from user where key >= ? order by key limit ?"


def pragmas(*, durable: bool) -> dict[str, str]:
    """Return the settings that SQLite and aiosqlite share, by name."""
    return {
        "journal_mode": "WAL",
        "synchronous": "FULL" if durable else "OFF",
        "cache_size": str(-1 << 20),  # KiB, so 1 GiB
        "mmap_size": str(8 << 30),
        "temp_store": "MEMORY",
    }


def open_sqlite(folder: Path, *, durable: bool) -> SyncStore:
    """Return SQLite in a file in ``folder``."""
    connection = sqlite3.connect(folder / "user.db", isolation_level=None, check_same_thread=False)
    execute = connection.execute
    settings: dict[str, Any] = {"version": sqlite3.sqlite_version}
    for name, value in pragmas(durable=durable).items():
        execute(f"pragma {name} = {value}").fetchall()
        settings[name] = execute(f"pragma {name}").fetchone()[0]
    execute(CREATE)

    def put(record: UserRow) -> None:
        execute(PUT, (record.id, encode(record)))

    def get(key: str) -> UserRow | None:
        found = execute(GET, (key,)).fetchone()
        return None if found is None else decode(found[0])

    def increment(key: str) -> None:
        execute("begin immediate")
        record = decode(execute(GET, (key,)).fetchone()[0])
        record.age += 1
        execute(PUT, (key, encode(record)))
        execute("commit")

    def put_many(records: Sequence[UserRow]) -> None:
        execute("begin immediate")
        connection.executemany(PUT, [(record.id, encode(record)) for record in records])
        execute("commit")

    def get_many(keys: Sequence[str]) -> list[Any]:
        execute("begin")
        records = [decode(execute(GET, (key,)).fetchone()[0]) for key in keys]
        execute("commit")
        return records

    return SyncStore(
        settings=settings,
        put=put,
        get=get,
        increment=increment,
        put_many=put_many,
        get_many=get_many,
        scan=lambda start, n: [decode(value) for (value,) in execute(SCAN, (start, n))],
        close=connection.close,
    )


PEER = Peer(name="SQLite", open_sync=open_sqlite, has_log=True)
