"""A backup while 20,000 puts a second go on, beside plain copying of the same files.

The puts keep to a clock: what is due is put each millisecond, and what is late is made up for, so the rate falls only
if the loop or the log holds the writer up for longer than it can make up. While it makes up, the writer lets the loop
turn after each millisecond of its own, so that a stall is the store's and not that of 10,000 puts in a row. The same is
measured before, with nothing else going on. Plain copying is ``shutil.copytree`` and an fsync of every file and folder,
in a thread, with no puts. Both copy from the page cache, and are durable at the end. The backup's time holds the start
of the process that copies, and its check of every checksum. A trial's backup is compared with its own plain copy.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
from collections.abc import Awaitable, Callable
from operator import truediv
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks import workloads
from benchmarks.bench import Bench
from benchmarks.child import ChildFailedError, run_child
from benchmarks.drive import put_batch
from benchmarks.measure import WrongAnswerError, freeze, stall_probe
from benchmarks.peers.peer import AsyncStore, close_store, load_peer
from benchmarks.row import OURS, Row, Verdict

PUTS_PER_S = 20_000
TICK_S = 0.001
QUIET_S = 2.0
Put = Callable[[Any], Awaitable[Any]]


class PacedPuts:
    """Puts records at a fixed rate until told to stop.

    Attributes:
        n: Records put.
        seconds: The time that took.
    """

    def __init__(self, put: Put, records: list[Any]) -> None:
        self.n = 0
        self.seconds = 0.0
        self._put = put
        self._records = records
        self._stopping = False
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        put, records = self._put, self._records
        start = perf_counter()
        while not self._stopping:
            began = perf_counter()
            due = int((began - start) * PUTS_PER_S)
            while self.n < due and perf_counter() - began < TICK_S:
                await put(records[self.n % len(records)])
                self.n += 1
            await asyncio.sleep(0 if self.n < due else TICK_S)
        self.seconds = perf_counter() - start

    async def stop(self) -> float:
        """Stop; return the rate."""
        self._stopping = True
        await self._task
        return self.n / self.seconds


def copy_plainly(source: Path, target: Path) -> int:
    """Copy a folder, sync every file and folder of the copy; return the bytes."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.new", "*.spare"))
    n_bytes = 0
    for path in [*target.rglob("*"), target]:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
            n_bytes += 0 if path.is_dir() else os.fstat(fd).st_size
        finally:
            os.close(fd)
    return n_bytes


async def backup_job(peer: str, folder: str, n: int, n_trials: int) -> dict[str, Any]:
    """Load ``n`` records, checkpoint them, and back them up under puts; return the figures of each trial."""
    import warpstore as ws

    contestant = load_peer(peer)
    root = Path(folder)
    store = await contestant.open(root / "data")
    for chunk in workloads.many_rows(n):
        await put_batch(store, [contestant.record(row) for row in chunk])
    await close_store(store)
    store = await contestant.open(root / "data")
    if not isinstance(store, AsyncStore):
        raise TypeError(f"{peer} is synchronous")
    assert store.checkpoint is not None
    await store.checkpoint()
    bodies = workloads.rows(4_096)
    records = [contestant.record(workloads.numbered_row(i % n, bodies)) for i in range(min(n, PUTS_PER_S))]
    freeze()
    found: dict[str, Any] = {"MB/s": [], "plain MB/s": [], "puts/s": [], "quiet puts/s": [], "stall ms": [], "bytes": 0}
    path, copy, plain = root / "data" / "store", root / "copy", root / "plain"
    for trial in range(n_trials):
        await asyncio.to_thread(os.sync)
        puts = PacedPuts(store.put, records)
        await asyncio.sleep(QUIET_S if n > PUTS_PER_S else 0.05)
        found["quiet puts/s"].append(await puts.stop())
        await store.checkpoint()  # so that both copy checkpoints, and little log
        await asyncio.to_thread(os.sync)
        start = perf_counter()
        n_plain = await asyncio.to_thread(copy_plainly, path / "checkpoint", plain)
        found["plain MB/s"].append(n_plain / (perf_counter() - start) / 1e6)
        await asyncio.to_thread(shutil.rmtree, plain)
        await asyncio.to_thread(os.sync)
        async with stall_probe() as stalls:
            puts = PacedPuts(store.put, records)
            start = perf_counter()
            result = await store.native.backup(copy)
            seconds = perf_counter() - start
            found["puts/s"].append(await puts.stop())
        found["MB/s"].append(result.copied_bytes / seconds / 1e6)
        found["stall ms"].append(stalls.longest_ms)
        found["bytes"] = result.copied_bytes
        start = perf_counter()
        again = await store.native.backup(copy)
        found["second copied"] = again.copied_bytes
        found["second s"] = perf_counter() - start
        if trial + 1 < n_trials:
            await asyncio.to_thread(shutil.rmtree, copy)
    await close_store(store)
    start = perf_counter()
    await asyncio.to_thread(ws.restore, copy, root / "restored" / "store")
    found["restore s"] = perf_counter() - start
    restored = await contestant.open(root / "restored")
    for number in range(0, n, max(1, n // 100)):
        answer = await restored.get(workloads.key_of(number))
        if answer is None or answer.age != number:
            raise WrongAnswerError("a record of the restored store is missing or differs")
    await close_store(restored)
    return found


async def backup(bench: Bench) -> Row:
    """Backup under puts: its rate beside plain copying, the rate of the puts, the longest stall."""
    sizes = bench.sizes
    row = Row("backup", f"backup of {sizes.n_backup:,} records while {PUTS_PER_S:,} puts/s go on", "MB/s")
    if OURS not in {peer.name for peer in bench.found.peers}:
        return row
    arguments = {
        "peer": "warpstore",
        "folder": str(bench.folder / "backup"),
        "n": sizes.n_backup,
        "n_trials": min(3, sizes.n_trials),
    }
    try:
        found = await run_child("backup", arguments, bench.folder)
    except ChildFailedError as error:
        row.figures[OURS] = {"error": str(error)}
        return row
    finally:
        await asyncio.to_thread(shutil.rmtree, bench.folder / "backup", ignore_errors=True)
    medians = {name: statistics.median(found[name]) for name in ("MB/s", "plain MB/s", "puts/s", "quiet puts/s")}
    row.figures[OURS] = {
        **medians,
        "stall ms": max(found["stall ms"]),
        "MB": found["bytes"] / 1e6,
        "second backup MB": found["second copied"] / 1e6,
        "second backup s": found["second s"],
        "restore s": found["restore s"],
    }
    row.verdicts = [
        Verdict("of plain copying", statistics.median(map(truediv, found["MB/s"], found["plain MB/s"])), 0.5),
        Verdict("of the quiet puts", medians["puts/s"] / medians["quiet puts/s"], 0.9),
        Verdict("longest stall of all trials", max(found["stall ms"]), 20, at_most=True, unit="ms"),
    ]
    return row
