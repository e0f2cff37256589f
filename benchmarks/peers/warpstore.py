"""warpstore through its public interface, as a contestant.

Relaxed is ``durability="interval"`` (synced within 50 ms), durable is ``"fsync"``; every other setting is the default.
Importing this module imports warpstore.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec

import warpstore as ws
from benchmarks.models import MODELS, User
from benchmarks.peers.codec import UserRow
from benchmarks.peers.peer import AsyncStore, Peer

FIELDS = ["score", "age"]


def user_of(row: UserRow) -> User:
    """Return the `User` of a row, sharing its values."""
    return User(id=row.id, score=row.score, age=row.age, tags=row.tags, attrs=row.attrs, blob=row.blob)


def effective_settings(store: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Return every setting of an open store, or what was given to it where it does not say."""
    config = getattr(store, "config", None)
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        found = dataclasses.asdict(config)
    elif isinstance(config, msgspec.Struct):
        found = msgspec.structs.asdict(config)
    else:
        found = {}
    return {"version": getattr(ws, "__version__", None), **given, **found}


def bump(user: User) -> None:
    """Add 1 to ``age``: the change of YCSB F."""
    user.age += 1


async def open_warpstore(
    folder: Path,
    *,
    durable: bool,
    record: type[ws.Record] = User,
    models: Sequence[type[ws.Record]] = (),
    **settings: Any,
) -> AsyncStore:
    """Return warpstore at ``folder``, ready for one type of records; ``settings`` are passed on.

    The types of the store benchmark lie in one store; any other has one of its own, if ``models`` names no others.
    """
    given = {"durability": "fsync" if durable else "interval", "gpu": "off", **settings}
    stack = AsyncExitStack()
    store = await stack.enter_async_context(
        ws.open(folder / "store", models=models or (MODELS if record in MODELS else [record]), **given)
    )
    users: Any = store[record]
    modify = users.modify

    async def increment(key: str) -> None:
        await modify(key, bump)

    async def scan(start: str, n: int) -> list[Any]:
        return [user async for user in users.scan(start=start, limit=n)]

    async def fields_many(keys: Any) -> list[Any]:
        found: list[Any] = await users.get_many(keys, fields=FIELDS)
        return found

    return AsyncStore(
        settings=effective_settings(store, given),
        put=users.put,
        get=users.get,
        increment=increment,
        put_many=users.put_many,
        get_many=users.get_many,
        fields_many=fields_many,
        scan=scan,
        checkpoint=store.checkpoint,
        settle=store.sync,
        close=stack.aclose,
        native=store,
    )


PEER = Peer(name="warpstore", open_async=open_warpstore, record=user_of, has_log=True)
