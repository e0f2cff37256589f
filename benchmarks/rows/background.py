"""What is noticed of work in the background: times of puts while checkpoints, compaction and ageing go on.

One caller puts profiles over existing ones as quickly as it can: first with nothing else going on, then while one
checkpoint follows another (each sets `Disk` fields apart anew, and writes again what is left of block files that the
puts made useless) and series age, whose items are put too. Then the longest stall of the loop, by a probe that ticks
each millisecond, under puts at a fixed rate: while items age, and in a checkpoint that must compact.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks import workloads
from benchmarks.bench import Bench
from benchmarks.child import ChildFailedError, run_child
from benchmarks.drive import put_batch, put_until_async
from benchmarks.kinds import KINDS, numbers
from benchmarks.measure import WrongAnswerError, freeze, percentiles_us, stall_probe
from benchmarks.peers.peer import AsyncStore, close_store
from benchmarks.row import OURS, Row, Verdict
from benchmarks.rows.backup import PacedPuts
from benchmarks.rows.made import present

MODULE = "warpstore"
N_ITEMS = 4
AGED_S = 7_200.0
FEED = 100
"""Series that are put at once, between rounds of ageing."""

OVERWRITTEN = 0.4
"""Share of the profiles put again before a checkpoint, so that it must compact."""

NEVER = {"checkpoint_log_bytes": "64GB", "ageing_interval_s": "365d"}


class Load:
    """The store with profiles, and series whose items are all due.

    Args:
        store: The store.
        n: Profiles in it.
    """

    def __init__(self, store: AsyncStore, n: int) -> None:
        from benchmarks.models import Event, Journal

        self.store = store
        self.journals = store.native[Journal]
        self.n_journals = 0
        self.n_checkpoints = 0
        self.n_rounds = 0
        self.n = n
        order = numbers(n, min(n, 100_000), seed=500)
        self.records = KINDS["Profile"].records(MODULE, order)
        at = time.time() - AGED_S
        self._journal, self._events = Journal, [Event(at + i, "seen") for i in range(N_ITEMS)]

    async def feed(self, n: int) -> None:
        """Put ``n`` series more."""
        ids = [f"journal:{number:09d}" for number in range(self.n_journals, self.n_journals + n)]
        for start in range(0, n, FEED):
            await self.journals.put_many(
                [self._journal(id=key, events=list(self._events)) for key in ids[start : start + FEED]]
            )
        self.n_journals += n

    async def puts(self, seconds: float) -> list[int]:
        """Put for so long; return the time of each put in ns."""
        times: list[int] = []
        until = perf_counter() + seconds
        while perf_counter() < until:
            times += await put_until_async(self.store, self.records, until * 1e9)
        return times

    @asynccontextmanager
    async def background(self) -> AsyncIterator[None]:
        """Have checkpoints and ageing go on, one round after another, while the block runs."""
        checkpoint = self.store.checkpoint
        assert checkpoint is not None
        stopping = False

        async def checkpoints() -> None:
            while not stopping:
                await checkpoint()
                self.n_checkpoints += 1

        async def ageing() -> None:
            while not stopping:
                await self.feed(10 * FEED)
                await self.store.native.age()
                self.n_rounds += 1

        tasks = [asyncio.ensure_future(checkpoints()), asyncio.ensure_future(ageing())]
        try:
            yield
        finally:
            stopping = True
            await asyncio.gather(*tasks)

    async def check(self) -> None:
        """Check a sample of the profiles, and of the series.

        Raises:
            WrongAnswerError: one is missing or differs.
        """
        for number in numbers(self.n, 100, seed=501):
            KINDS["Profile"].check(number, await self.store.get(workloads.key_of(number)))
        for number in numbers(self.n_journals, 50, seed=502):
            items = await self.journals.window(f"journal:{number:09d}", "events")
            if items != self._events:
                raise WrongAnswerError(f"series {number} has {len(items)} of {N_ITEMS} items, or others")


def block_files(folder: Path) -> set[str]:
    """Return the names of the block files."""
    return set(os.listdir(folder / "store" / "blocks"))


async def background_job(folder: str, n: int, n_series: int, seconds: float, n_trials: int) -> dict[str, Any]:
    """Return the figures of each trial."""
    from benchmarks.models import Journal, Profile

    path = Path(folder)
    store = await KINDS["Profile"].open(MODULE, path, models=[Profile, Journal], **NEVER)
    if not isinstance(store, AsyncStore) or store.checkpoint is None:
        raise TypeError(f"{MODULE} is synchronous")
    for chunk in KINDS["Profile"].chunks(MODULE, n):
        await put_batch(store, chunk)
    load = Load(store, n)
    freeze()
    names = ("quiet", "busy", "ageing ms", "compaction ms", "puts/s quiet", "puts/s busy", "files gone")
    found: dict[str, list[Any]] = {name: [] for name in names}
    for _ in range(n_trials):
        await store.checkpoint()
        await asyncio.to_thread(os.sync)
        quiet = await load.puts(seconds)
        async with load.background():
            busy = await load.puts(seconds)
        for name, times in (("quiet", quiet), ("busy", busy)):
            found[name].append({**percentiles_us(times), "max": max(times) / 1e3})
            found[f"puts/s {name}"].append(len(times) / seconds)

        await load.feed(n_series)
        await store.checkpoint()
        async with stall_probe() as ageing:
            puts = PacedPuts(store.put, load.records)
            await store.native.age()
            await puts.stop()
        found["ageing ms"].append(ageing.longest_ms)

        changed = numbers(n, int(n * OVERWRITTEN), seed=503)
        for start in range(0, len(changed), 1_000):
            await put_batch(store, KINDS["Profile"].records(MODULE, changed[start : start + 1_000]))
        before = block_files(path)
        async with stall_probe() as compaction:
            puts = PacedPuts(store.put, load.records)
            await store.checkpoint()
            await puts.stop()
        found["compaction ms"].append(compaction.longest_ms)
        found["files gone"].append(len(before - block_files(path)))
    await load.check()
    await close_store(store)
    return {**found, "checkpoints": load.n_checkpoints, "rounds": load.n_rounds}


async def background(bench: Bench) -> Row:
    """Times of puts beside work in the background, and the longest stalls."""
    sizes = bench.sizes
    row = Row("background", f"{sizes.n_background:,} profiles: puts beside checkpoints, compaction and ageing", "")
    if not present(bench, [MODULE]):
        row.remarks.append("not run: warpstore is missing")
        return row
    arguments = {
        "folder": str(bench.folder / "background"),
        "n": sizes.n_background,
        "n_series": sizes.n_background // 20,
        "seconds": sizes.background_s,
        "n_trials": min(3, sizes.n_trials),
    }
    try:
        found = await run_child("background", arguments, bench.folder)
        nothing = {"peer": "", "folder": "", "n": 0, "seconds_max": sizes.background_s}
        control = await run_child("stall", nothing, bench.folder)
    except ChildFailedError as error:
        row.figures[OURS] = {"error": str(error)}
        return row
    for name in ("quiet", "busy"):
        figures: dict[str, float | str] = {"puts/s": statistics.median(found[f"puts/s {name}"])}
        for percentile in ("p50", "p99", "p99.9", "max"):
            figures[f"{percentile} us"] = statistics.median(each[percentile] for each in found[name])
        row.figures[f"{OURS}, {name}"] = figures
    stalls = {name: max(found[f"{name} ms"]) for name in ("ageing", "compaction")}
    ratio = statistics.median(b["p99"] / q["p99"] for b, q in zip(found["busy"], found["quiet"], strict=True))
    row.verdicts = [
        Verdict("p99 of a put beside all of it / with nothing else", ratio, 2, at_most=True),
        Verdict("longest stall in compaction", stalls["compaction"], 20, at_most=True, unit="ms"),
        Verdict("longest stall in ageing", stalls["ageing"], 20, at_most=True, unit="ms"),
    ]
    row.remarks.append(f"longest stall of a program that gives the loop back each 2 ms: {control['loading ms']:.1f} ms")
    row.remarks.append(
        f"meanwhile {found['checkpoints']} checkpoints, {found['rounds']} rounds of ageing; "
        f"each compaction removed {min(found['files gone'])} block files or more"
    )
    return row
