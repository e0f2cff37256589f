"""The timed loops, each twice line for line: called directly for a synchronous store, awaited for an asynchronous one.

What a loop does besides the contestant's calls (a list comprehension, a branch per YCSB operation) is the same in both.
Threads get the synchronous loop each. The loops return answers for the caller to check; inside, only that a YCSB read
gave its key is checked.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter, perf_counter_ns
from typing import Any

from benchmarks.peers.peer import AsyncStore, Store, SyncStore

Step = tuple[int, str, Any]
"""A YCSB operation: `WRITE`, `READ` or `KEEP`, the key, the record to write (None: read-modify-write)."""

WRITE, READ, KEEP = range(3)
"""`KEEP` is a read whose answer is returned. A program does not collect records by the thousand as it reads them one by
one; doing so would measure fresh memory instead of the contestants."""


async def put_each(store: Store, records: Sequence[Any]) -> None:
    """Put the records one by one."""
    if isinstance(store, SyncStore):
        put = store.put
        for record in records:
            put(record)
    else:
        put_async = store.put
        for record in records:
            await put_async(record)


async def get_each(store: Store, keys: Sequence[str]) -> list[Any]:
    """Return what one get per key gives."""
    if isinstance(store, SyncStore):
        get = store.get
        return [get(key) for key in keys]
    get_async = store.get
    return [await get_async(key) for key in keys]


async def put_batch(store: Store, batch: Sequence[Any]) -> None:
    """Put one batch in the contestant's own way."""
    if isinstance(store, SyncStore):
        store.put_many(batch)
    else:
        await store.put_many(batch)


async def get_batch(store: Store, keys: Sequence[str]) -> list[Any]:
    """Return one multi-get in the contestant's own way."""
    if isinstance(store, SyncStore):
        return store.get_many(keys)
    return await store.get_many(keys)


async def rest(store: Store) -> None:
    """Let an asynchronous store finish what it has in flight, after a timed region that wrote.

    Synchronous contestants then hold the loop for longer than a program would, with no callback run.
    """
    if isinstance(store, AsyncStore):
        await store.settle()


async def put_timed(store: Store, records: Sequence[Any]) -> list[int]:
    """Put the records one by one and return the time of each in ns."""
    times: list[int] = []
    if isinstance(store, SyncStore):
        put = store.put
        for record in records:
            start = perf_counter_ns()
            put(record)
            times.append(perf_counter_ns() - start)
    else:
        put_async = store.put
        for record in records:
            start = perf_counter_ns()
            await put_async(record)
            times.append(perf_counter_ns() - start)
    return times


async def get_timed(store: Store, keys: Sequence[str]) -> list[int]:
    """Get the keys one by one and return the time of each in ns."""
    times: list[int] = []
    if isinstance(store, SyncStore):
        get = store.get
        for key in keys:
            start = perf_counter_ns()
            get(key)
            times.append(perf_counter_ns() - start)
    else:
        get_async = store.get
        for key in keys:
            start = perf_counter_ns()
            await get_async(key)
            times.append(perf_counter_ns() - start)
    return times


def put_until_sync(store: SyncStore, records: Sequence[Any], until: float) -> list[int]:
    """Put the records until they or the time end; return the time of each in ns."""
    times: list[int] = []
    put = store.put
    for record in records:
        start = perf_counter_ns()
        put(record)
        end = perf_counter_ns()
        times.append(end - start)
        if end > until:
            break
    return times


async def put_until_async(store: AsyncStore, records: Sequence[Any], until: float) -> list[int]:
    """Put the records until they or the time end; return the time of each in ns."""
    times: list[int] = []
    put = store.put
    for record in records:
        start = perf_counter_ns()
        await put(record)
        end = perf_counter_ns()
        times.append(end - start)
        if end > until:
            break
    return times


async def writers(store: Store, parts: Sequence[Sequence[Any]], seconds: float) -> tuple[float, list[list[int]]]:
    """Let one writer per part put its records for about ``seconds``; return the wall time and the times of each.

    Writers are tasks for an asynchronous store and threads for a synchronous one (none for a single writer). The wall
    time runs from the first writer's start to the last one's end.
    """
    if isinstance(store, AsyncStore):
        start = perf_counter()
        until = (start + seconds) * 1e9
        times = await asyncio.gather(*(put_until_async(store, part, until) for part in parts))
        return perf_counter() - start, list(times)
    if len(parts) == 1:
        start = perf_counter()
        alone = put_until_sync(store, parts[0], (start + seconds) * 1e9)
        return perf_counter() - start, [alone]
    barrier = threading.Barrier(len(parts))

    def write(part: Sequence[Any]) -> tuple[float, float, list[int]]:
        barrier.wait()
        begun = perf_counter()
        taken = put_until_sync(store, part, (begun + seconds) * 1e9)
        return begun, perf_counter(), taken

    with ThreadPoolExecutor(len(parts)) as pool:
        found = list(pool.map(write, parts))
    wall = max(end for _, end, _ in found) - min(begun for begun, _, _ in found)
    return wall, [taken for _, _, taken in found]


def steps_sync(store: SyncStore, steps: Sequence[Step]) -> list[Any]:
    """Do a client's operations in order; return the answers to keep.

    Raises:
        LookupError: a read gave another record, or none.
    """
    get, put, increment = store.get, store.put, store.increment
    answers: list[Any] = []
    for kind, key, record in steps:
        if kind:
            answer = get(key)
            if answer is None or answer.id != key:
                raise LookupError(key)
            if kind == KEEP:
                answers.append(answer)
        elif record is None:
            increment(key)
        else:
            put(record)
    return answers


async def steps_async(store: AsyncStore, steps: Sequence[Step]) -> list[Any]:
    """As `steps_sync`."""
    get, put, increment = store.get, store.put, store.increment
    answers: list[Any] = []
    for kind, key, record in steps:
        if kind:
            answer = await get(key)
            if answer is None or answer.id != key:
                raise LookupError(key)
            if kind == KEEP:
                answers.append(answer)
        elif record is None:
            await increment(key)
        else:
            await put(record)
    return answers


async def clients(store: Store, parts: Sequence[Sequence[Step]], pool: ThreadPoolExecutor | None) -> list[list[Any]]:
    """Let one client per part do its operations; return the answers per part.

    Clients are tasks for an asynchronous store. For a synchronous one they are threads of ``pool``, or take turns in
    this thread where ``pool`` is None.
    """
    if isinstance(store, AsyncStore):
        if len(parts) == 1:
            return [await steps_async(store, parts[0])]
        return list(await asyncio.gather(*(steps_async(store, part) for part in parts)))
    if pool is None:
        return [steps_sync(store, part) for part in parts]
    return list(pool.map(lambda part: steps_sync(store, part), parts))
