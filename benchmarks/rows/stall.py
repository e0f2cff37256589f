"""The longest time the loop is held up while a store is loaded by single puts and then checkpointed under writes.

A probe ticks each millisecond in the same loop; the row's figure is the latest tick of any trial. A control does plain
Python work in slices of 2 ms: what it shows is the machine's own doing. Synchronous peers hold the loop by nature and
are left out, in a quick run the slow ones too.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks import workloads
from benchmarks.bench import Bench
from benchmarks.child import ChildFailedError, pause, run_child
from benchmarks.measure import WrongAnswerError, freeze, stall_probe
from benchmarks.peers.codec import decode, encode
from benchmarks.peers.peer import AsyncStore, close_store, load_peer
from benchmarks.row import OURS, Row, Verdict

CONTROL = "control (slices of 2 ms)"
SLICE_S = 0.002


async def control(seconds: float) -> float:
    """Return the longest stall in ms beside work that gives the loop back every 2 ms."""
    encoded = encode(workloads.rows(1)[0])
    async with stall_probe() as stalls:
        end = perf_counter() + seconds
        while (now := perf_counter()) < end:
            while perf_counter() - now < SLICE_S:
                decode(encoded)
            await asyncio.sleep(0)
    return stalls.longest_ms


async def stall_job(peer: str, folder: str, n: int, seconds_max: float) -> dict[str, Any]:
    """Load ``n`` records with single puts, then checkpoint while putting; return the longest stall of each in ms."""
    if not peer:
        freeze()
        return {"loading ms": await control(seconds_max), "n": 0}
    contestant = load_peer(peer)
    store = await contestant.open(Path(folder))
    if not isinstance(store, AsyncStore):
        raise TypeError(f"{peer} is synchronous")
    records = [contestant.record(row) for chunk in workloads.many_rows(n) for row in chunk]
    freeze()
    put = store.put
    start = perf_counter()
    n_put = 0
    async with stall_probe() as loading:
        for first in range(0, n, 100):
            for record in records[first : first + 100]:
                await put(record)
            n_put += len(records[first : first + 100])
            if perf_counter() - start > seconds_max:
                break
    result: dict[str, Any] = {"loading ms": loading.longest_ms, "n": n_put, "ticks": loading.n_ticks}
    if store.checkpoint is not None:
        async with stall_probe() as checkpointing:
            task = asyncio.ensure_future(store.checkpoint())
            at = 0
            while not task.done():
                await put(records[at % n_put])
                at += 1
                if at % 64 == 0:
                    await asyncio.sleep(0)
            await task
        result |= {"checkpoint ms": checkpointing.longest_ms, "puts during checkpoint": at}
    for record in records[: n_put : max(1, n_put // 100)]:
        answer = await store.get(record.id)
        if answer is None or answer.age != record.age:
            raise WrongAnswerError("a record loaded under the probe is missing or differs")
    if store.checkpoint is not None:
        pause(**result)  # closing would write another checkpoint, which is no part of the row: the parent kills
    await close_store(store)
    return result


async def stall(bench: Bench) -> Row:
    """The longest stall of the loop over all trials, while loading and while checkpointing."""
    sizes = bench.sizes
    row = Row("stall", f"longest stall of the loop: {sizes.n_stall:,} single puts, then a checkpoint under puts", "ms")
    seconds_max = 20 * sizes.cap_s
    installed = {peer.name for peer in bench.found.peers}
    modules = {CONTROL: ""}
    for module in ("warpstore", "aiosqlite", "redis"):
        if module not in bench.missing and (name := load_peer(module).name) in installed and name not in bench.fewer:
            modules[name] = module
    worst: dict[str, float] = {}
    for name, module in modules.items():
        figures: dict[str, float | str] = {}
        row.figures[name] = figures
        n_trials = sizes.n_trials if name == OURS else 1
        for trial in range(n_trials):
            arguments = {
                "peer": module,
                "folder": str(bench.folder / f"stall-{module}-{trial}"),
                "n": sizes.n_stall,
                "seconds_max": seconds_max if name == OURS else sizes.cap_s * 10,
            }
            await asyncio.to_thread(os.sync)  # what the trial before left to be written is not this one's
            try:
                found = await run_child("stall", arguments, bench.folder)
            except ChildFailedError as error:
                figures["error"] = str(error)
                break
            for key in ("loading ms", "checkpoint ms"):
                if key in found:
                    figures[key] = max(float(figures.get(key, 0.0)), found[key])
            figures["records"] = found["n"]
        if "error" not in figures:
            worst[name] = max(float(figures[key]) for key in ("loading ms", "checkpoint ms") if key in figures)
    row.verdicts = [Verdict("longest of all trials", worst.get(OURS), 20, at_most=True, unit="ms")]
    return row
