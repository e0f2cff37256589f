"""aiosqlite: SQLite behind one thread, awaited; settings and statements are those of `benchmarks.peers.sqlite`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiosqlite

from benchmarks.peers.codec import UserRow, decode, encode
from benchmarks.peers.peer import AsyncStore, Peer
from benchmarks.peers.sqlite import CREATE, GET, PUT, SCAN, pragmas

GET_MANY = "select key, value from user where key in (select value from json_each(?))"


async def open_aiosqlite(folder: Path, *, durable: bool) -> AsyncStore:
    """Return aiosqlite on a file in ``folder``; `increment` reads, waits and writes, as programs do."""
    connection = await aiosqlite.connect(folder / "user.db", isolation_level=None)
    execute = connection.execute
    fetch = connection.execute_fetchall
    settings: dict[str, Any] = {"version": aiosqlite.sqlite_version}
    for name, value in pragmas(durable=durable).items():
        await fetch(f"pragma {name} = {value}")
        settings[name] = next(iter(await fetch(f"pragma {name}")))[0]
    await execute(CREATE)

    async def put(record: UserRow) -> None:
        await execute(PUT, (record.id, encode(record)))

    async def get(key: str) -> UserRow | None:
        for row in await fetch(GET, (key,)):
            return decode(row[0])
        return None

    async def increment(key: str) -> None:
        record = await get(key)
        if record is None:
            raise KeyError(key)
        record.age += 1
        await put(record)

    async def put_many(records: Sequence[UserRow]) -> None:
        await execute("begin immediate")
        await connection.executemany(PUT, [(record.id, encode(record)) for record in records])
        await execute("commit")

    async def get_many(keys: Sequence[str]) -> list[Any]:
        found: dict[str, bytes] = dict(map(tuple, await fetch(GET_MANY, (json.dumps(keys),))))
        return [decode(found[key]) for key in keys]

    async def scan(start: str, n: int) -> list[Any]:
        return [decode(row[0]) for row in await fetch(SCAN, (start, n))]

    return AsyncStore(
        settings=settings,
        put=put,
        get=get,
        increment=increment,
        put_many=put_many,
        get_many=get_many,
        scan=scan,
        close=connection.close,
        native=connection,
    )


PEER = Peer(name="aiosqlite", open_async=open_aiosqlite, has_log=True, slow=True)
