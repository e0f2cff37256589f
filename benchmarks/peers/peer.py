"""The contestants: one module a peer, each a function that opens it, behind two shapes.

A synchronous peer opens as a `SyncStore`, an asynchronous one as an `AsyncStore`: the same calls with and without an
await. The calls are closures kept in slots, so that a peer pays for one Python call and for nothing of the harness.
`load_peers` imports what is installed and says why the rest is missing; it is the only place that knows all names.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.codec import UserRow

PEER_MODULES = ("floor", "lmdb", "leveldb", "rocksdb", "sqlite", "aiosqlite", "diskcache", "redis")

CLOSE_S_MAX = 60.0

Settings = dict[str, Any]


def nothing() -> None:
    """Do nothing: the `settle` of a synchronous store without work in the background."""


async def nothing_async() -> None:
    """Do nothing: the `settle` of an asynchronous store without work in the background."""


@dataclass(slots=True, kw_only=True)
class SyncStore:
    """An open synchronous contestant.

    Attributes:
        settings: What it runs with, read back from it where it can say so.
        put: Write one record; with ``durable`` set at open, on the device when it returns.
        get: Return the decoded record, or None.
        increment: Read the record, add 1 to ``age``, write it back.
        put_many: Write a batch in the quickest way the peer has for it.
        get_many: Return the decoded records in the order of the keys.
        scan: Return ``n`` records in key order from ``start``; None if it keeps no order.
        prefix_many: ``get_many`` decoding only the fields up to ``age``; for the one peer this is stated of.
        settle: Finish the work left for the background, untimed; the best state for reading.
        compact: Bring the files into their smallest form.
    """

    settings: Settings
    put: Callable[[Any], object]
    get: Callable[[str], Any]
    increment: Callable[[str], object]
    put_many: Callable[[Sequence[Any]], object]
    get_many: Callable[[Sequence[str]], list[Any]]
    close: Callable[[], object]
    scan: Callable[[str, int], list[Any]] | None = None
    prefix_many: Callable[[Sequence[str]], list[Any]] | None = None
    settle: Callable[[], object] = nothing
    compact: Callable[[], object] = nothing


@dataclass(slots=True, kw_only=True)
class AsyncStore:
    """An open asynchronous contestant; the calls are those of `SyncStore`, awaited.

    Attributes:
        fields_many: Read the two named fields of many records; None if a part cannot be read alone.
        checkpoint: Write everything to its ordered form on disk; None if there is no such call.
        native: The store object itself, for the rows that only one contestant can run.
    """

    settings: Settings
    put: Callable[[Any], Awaitable[object]]
    get: Callable[[str], Awaitable[Any]]
    increment: Callable[[str], Awaitable[object]]
    put_many: Callable[[Sequence[Any]], Awaitable[object]]
    get_many: Callable[[Sequence[str]], Awaitable[list[Any]]]
    close: Callable[[], Awaitable[object]]
    scan: Callable[[str, int], Awaitable[list[Any]]] | None = None
    fields_many: Callable[[Sequence[str]], Awaitable[list[Any]]] | None = None
    checkpoint: Callable[[], Awaitable[object]] | None = None
    settle: Callable[[], Awaitable[object]] = nothing_async
    native: Any = None


Store = SyncStore | AsyncStore


OpenSync = Callable[..., SyncStore]
"""Opens a synchronous contestant at a folder, with ``durable`` and settings of its own as keywords."""

OpenAsync = Callable[..., Awaitable[AsyncStore]]
"""The same for an asynchronous one."""


def row_itself(row: UserRow) -> Any:
    """Return the row: peers store `UserRow` as it is."""
    return row


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A contestant before it is opened.

    Attributes:
        name: As shown in the table.
        open_sync: Opens it at a folder, durably or not; None for an asynchronous one.
        open_async: The same for an asynchronous one.
        record: Turns a `UserRow` into the record type it stores, outside every timed region.
        has_log: It keeps a write-ahead log, so that a relaxed write survives a crash of the process.
        stores: It keeps its data in files that a later process can open.
        slow: More than about 20 us a call here: it gets fewer calls, in a quick run fewer trials, not another workload.
        threads: Threads may share it, and may help where there are many clients.
        commits_in_groups: Durable writes of many threads share a sync, and the peer lets the threads run meanwhile.
    """

    name: str
    open_sync: OpenSync | None = None
    open_async: OpenAsync | None = None
    record: Callable[[UserRow], Any] = row_itself
    has_log: bool = False
    stores: bool = True
    slow: bool = False
    threads: bool = False
    commits_in_groups: bool = False

    async def open(self, folder: Path, *, durable: bool = False, **settings: Any) -> Store:
        """Return the contestant opened at ``folder``, which is made if it is missing; ``settings`` are its own."""
        os.makedirs(folder, exist_ok=True)
        if self.open_async is not None:
            return await self.open_async(folder, durable=durable, **settings)
        if self.open_sync is None:
            raise TypeError(f"peer {self.name} has no way to be opened")
        return self.open_sync(folder, durable=durable, **settings)


async def close_store(store: Store) -> None:
    """Close a contestant of either shape.

    Raises:
        TimeoutError: it is not closed within `CLOSE_S_MAX`.
    """
    if isinstance(store, SyncStore):
        store.close()
    else:
        async with asyncio.timeout(CLOSE_S_MAX):
            await store.close()


async def settle_store(store: Store) -> None:
    """Let a contestant of either shape finish its background work."""
    if isinstance(store, SyncStore):
        store.settle()
    else:
        await store.settle()


@dataclass(slots=True)
class Loaded:
    """What `load_peers` found.

    Attributes:
        peers: Those that can run here, in the order of the table.
        missing: Name to reason for the others.
    """

    peers: list[Peer] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)


def load_peer(name: str) -> Peer:
    """Return the peer of a module of this package.

    Raises:
        ImportError: its library, or for Redis its server, is not installed.
    """
    peer: Peer = importlib.import_module(f"benchmarks.peers.{name}").PEER
    return peer


def load_peers(names: Sequence[str] = ("warpstore", *PEER_MODULES)) -> Loaded:
    """Return the peers that are installed, and the reasons for those that are not."""
    loaded = Loaded()
    for name in names:
        try:
            loaded.peers.append(load_peer(name))
        except ImportError as error:
            loaded.missing[name] = str(error)
    return loaded
