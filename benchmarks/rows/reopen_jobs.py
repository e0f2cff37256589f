"""The child processes of the row reopen: one loads a store, one opens it and reads."""

from __future__ import annotations

import os
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks import workloads
from benchmarks.child import pause
from benchmarks.drive import get_batch, get_each, put_batch
from benchmarks.kinds import KINDS
from benchmarks.measure import memory
from benchmarks.peers.codec import encode
from benchmarks.peers.peer import Store, close_store, load_peer, settle_store


async def open_kept(folder: Path) -> Store:
    """Return warpstore at ``folder``, keeping all its log."""
    from benchmarks.peers.warpstore import open_warpstore

    os.makedirs(folder, exist_ok=True)
    return await open_warpstore(folder, durable=False, checkpoint_log_bytes="64GB")


async def load_job(peer: str, folder: str, n: int, log_bytes: int) -> dict[str, Any]:
    """Load ``n`` records. With ``log_bytes``: checkpoint, put that much more, sync, and wait to be killed.

    warpstore then starts no checkpoint of its own, which would take the log away that is to be replayed.
    """
    contestant = load_peer(peer)
    if log_bytes:
        store: Store = await open_kept(Path(folder))
    else:
        store = await contestant.open(Path(folder))
    start = perf_counter()
    for chunk in workloads.many_rows(n):
        await put_batch(store, [contestant.record(row) for row in chunk])
    checkpoint = getattr(store, "checkpoint", None)
    if log_bytes and checkpoint is not None:
        await checkpoint()
    bodies = workloads.rows(4_096)
    record_bytes = len(encode(bodies[0]))
    n_more = log_bytes // record_bytes
    for first in range(n, n + n_more, 10_000):
        rows = [workloads.numbered_row(number, bodies) for number in range(first, min(first + 10_000, n + n_more))]
        await put_batch(store, [contestant.record(row) for row in rows])
    if log_bytes:
        await settle_store(store)
        pause(n=n + n_more)
    await close_store(store)
    return {"n": n + n_more, "seconds": perf_counter() - start}


async def reopen_job(peer: str, folder: str, numbers: list[int], *, keep: bool, kind: str) -> dict[str, Any]:
    """Open the store and get the first of ``numbers``, timed; get and check the others; return time and memory.

    Without ``keep`` the store is needed no more: the result is given before it is closed, and the parent kills.
    """
    records = KINDS[kind]
    records.numbered(0)  # makes the bodies, and imports what the store needs
    load_peer(peer)
    pause()
    start = perf_counter()
    store = await records.open(peer, Path(folder))
    opened = perf_counter()
    keys = [workloads.key_of(number) for number in numbers]
    answers = await get_each(store, keys[:1])
    done = perf_counter()
    used = memory()
    answers += await get_batch(store, keys[1:]) if keys[1:] else []
    for number, answer in zip(numbers, answers, strict=True):
        records.check(number, answer)
    result = {
        "seconds": done - start,
        "open_s": opened - start,
        "anonymous": used.anonymous,
        "resident": used.resident,
    }
    if not keep:
        pause(**result)
    await close_store(store)
    return result
