"""Redis: a server of our own on a Unix socket, through ``redis.asyncio``; the append-only file on.

Relaxed: ``appendfsync everysec``; durable: ``always``. The server is started when the contestant is opened, has its
files in the contestant's folder and its socket in a temporary folder of its own (the path of a socket is limited to 107
bytes), and is ended by its process id. With the package ``hiredis`` present the client parses replies in C.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import redis.asyncio as client

from benchmarks.peers.codec import UserRow, decode, encode
from benchmarks.peers.peer import AsyncStore, Peer

SERVER = shutil.which("redis-server") or shutil.which("valkey-server")
if SERVER is None:
    raise ImportError("no redis-server or valkey-server on the path")

START_S_MAX = 30.0


_PLACES = frozenset({"unixsocket", "dir", "logfile"})
"""Settings that say where this run's files are, and mean nothing to a reader of the results."""


def _start(options: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start the server, so that it ends with this process even if that is killed, where ``setpriv`` can see to it."""
    with_parent = ["setpriv", "--pdeathsig", "SIGTERM"] if shutil.which("setpriv") else []
    return subprocess.Popen([*with_parent, str(SERVER), *options], stdin=subprocess.DEVNULL)


async def _answering(connection: Any, server: subprocess.Popen[bytes]) -> None:
    """Return when the server answers a ping with its data loaded.

    Raises:
        RuntimeError: it ended, or did not answer in time.
    """
    for _ in range(int(START_S_MAX / 0.01)):
        if server.poll() is not None:
            break
        with contextlib.suppress(client.ConnectionError, client.BusyLoadingError, FileNotFoundError):
            await connection.ping()
            return
        await asyncio.sleep(0.01)
    raise RuntimeError(f"the Redis server (pid {server.pid}) does not answer")


async def open_redis(folder: Path, *, durable: bool) -> AsyncStore:
    """Return a Redis server with its files in ``folder`` and 64 connections at most to it."""
    socket_folder = tempfile.mkdtemp(prefix="redis-")
    socket = f"{socket_folder}/s"
    arguments = {
        "port": "0",
        "unixsocket": socket,
        "dir": str(folder),
        "save": "",
        "appendonly": "yes",
        "appendfsync": "always" if durable else "everysec",
        "daemonize": "no",
        "logfile": str(folder / "redis.log"),
    }
    options = [part for name, value in arguments.items() for part in (f"--{name}", value)]
    server = _start(options)
    connection: Any = client.Redis(unix_socket_path=socket, max_connections=64)
    try:
        await _answering(connection, server)
    except BaseException:
        server.terminate()
        raise
    version = (await connection.info("server"))["redis_version"]
    write = connection.set
    find = connection.get

    async def put(record: UserRow) -> None:
        await write(record.id, encode(record))

    async def get(key: str) -> UserRow | None:
        encoded = await find(key)
        return None if encoded is None else decode(encoded)

    async def increment(key: str) -> None:
        record = decode(await find(key))
        record.age += 1
        await write(key, encode(record))

    async def put_many(records: Sequence[UserRow]) -> None:
        await connection.mset({record.id: encode(record) for record in records})

    async def get_many(keys: Sequence[str]) -> list[Any]:
        return [decode(encoded) for encoded in await connection.mget(keys)]

    async def close() -> None:
        await connection.aclose()
        server.terminate()
        try:
            await asyncio.to_thread(server.wait, 20)
        finally:
            shutil.rmtree(socket_folder, ignore_errors=True)

    return AsyncStore(
        settings={
            "version": version,
            **{k: v for k, v in arguments.items() if k not in _PLACES},
            "hiredis": find_spec("hiredis") is not None,
            "connections": 64,
        },
        put=put,
        get=get,
        increment=increment,
        put_many=put_many,
        get_many=get_many,
        close=close,
        native=connection,
    )


PEER = Peer(name="Redis", open_async=open_redis, has_log=True, slow=True)
