"""Reads and writes in turn, zipfian, with RAM for a quarter of the data: how much RAM is used, and how quickly it goes.

warpstore's ``ram`` and RocksDB's block cache are the same number of bytes. Growth is of this process's RSS, above that
with an empty store open under the same settings, and the highest value seen between two parts of the run; the inputs
are there before. (What making them left free in the heap, up to 20 MB at full size, is not in it.) Each trial is a
fresh process on the store that the trial before left; its first quarter is not timed.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
from pathlib import Path
from typing import Any

from benchmarks import workloads
from benchmarks.bench import Bench
from benchmarks.child import ChildFailedError, run_child
from benchmarks.drive import KEEP, READ, WRITE, Step, clients
from benchmarks.kinds import KINDS
from benchmarks.measure import Cell, Trial, freeze, memory, timed_chunks
from benchmarks.peers.peer import close_store
from benchmarks.row import OURS, Row, Verdict
from benchmarks.rows.made import made_all, present

KIND = "User"
PART = 10_000
KEEP_EVERY = 32
CAP_BYTES_MIN = 1 << 20


def steps_of(module: str, n: int, n_ops: int, seed: int) -> tuple[list[Step], list[int]]:
    """Return the operations of YCSB A, and the record of each read whose answer is kept."""
    operations = workloads.ycsb("A", n, n_ops, n_clients=1, seed=seed)[0]
    chosen = sorted(set(operations.number))
    records = dict(zip(chosen, KINDS[KIND].records(module, chosen), strict=True))
    for record in records.values():
        record.score += 1.0
    steps: list[Step] = []
    kept: list[int] = []
    for at, (read, number) in enumerate(zip(operations.read, operations.number, strict=True)):
        keep = read and at % KEEP_EVERY == 0
        if keep:
            kept.append(number)
        kind = (KEEP if keep else READ) if read else WRITE
        steps.append((kind, workloads.key_of(number), None if read else records[number]))
    return steps, kept


async def cap_job(module: str, folder: str, empty: str, n: int, n_ops: int, cap: int, seed: int) -> dict[str, Any]:
    """Return the operations and seconds of one trial, and the growth of RSS in bytes."""
    kind = KINDS[KIND]
    settings = {"ram": cap} if module == "warpstore" else {"cache_bytes": cap}
    steps, kept = steps_of(module, n, n_ops, seed)
    freeze()
    store = await kind.open(module, Path(empty), **settings)
    before = memory().resident
    await close_store(store)
    store = await kind.open(module, Path(folder), **settings)
    peak = 0
    numbers = iter(kept)

    async def run(part: list[Step]) -> list[Any]:
        return (await clients(store, [part], None))[0]

    def look(_: list[Step], answers: list[Any]) -> None:
        nonlocal peak
        for answer, number in zip(answers, numbers, strict=False):
            kind.check(number, answer, but_for="score")
        peak = max(peak, memory().resident - before)

    parts = [steps[start : start + PART] for start in range(0, len(steps), PART)]
    n_warm = len(parts) // 4
    for part in parts[:n_warm]:
        look(part, await run(part))
    trial = await timed_chunks(parts[n_warm:], run, seconds_max=60.0, size=len, check=look)
    await close_store(store)
    return {"n": trial.n, "seconds": trial.seconds, "peak": peak}


async def cap(bench: Bench) -> Row:
    """Operations per second and growth of RSS under a cap."""
    sizes, n = bench.sizes, bench.sizes.n_disk
    kind = KINDS[KIND]
    n_bytes = max(CAP_BYTES_MIN, int(kind.encoded_bytes(n) * n / 4))
    title = f"{n:,} users with RAM for a quarter of them ({n_bytes / 1e6:.0f} MB): half gets, half puts, zipfian"
    row = Row("cap", title, "op/s")
    names = present(bench, ("warpstore", "rocksdb"))
    folders, failures = await made_all(bench, list(names), KIND)
    row.cells = {name: Cell(error=str(failures[m]) if m in failures else None) for m, name in names.items()}
    order = random.Random(1)
    for trial in range(min(3, sizes.n_trials)):
        for module in order.sample(list(folders), len(folders)):
            cell = row.cells[names[module]]
            arguments = {
                "module": module,
                "folder": str(folders[module]),
                "empty": str(bench.folder / f"cap-empty-{module}-{trial}"),
                "n": n,
                "n_ops": sizes.n_cap_ops,
                "cap": n_bytes,
                "seed": 400 + trial,
            }
            try:
                found = await run_child("cap", arguments, bench.folder)
            except ChildFailedError as error:
                cell.error = str(error)
                continue
            await asyncio.to_thread(os.sync)  # what this trial left to be written is not the next one's
            cell.trials.append(Trial(found["n"], found["seconds"], notes={"growth": found["peak"]}))
    growth: dict[str, float] = {}
    for name, cell in row.cells.items():
        if cell.trials:
            growth[name] = max(trial.notes["growth"] for trial in cell.trials)
            row.figures[name] = {
                "op/s": statistics.median(cell.rates),
                "RSS growth MB": growth[name] / 1e6,
                "of the cap": growth[name] / n_bytes,
            }
    ours = growth.get(OURS)
    row.verdicts = [
        Verdict(
            "RSS growth over the cap, largest of all trials",
            None if ours is None else ours / n_bytes,
            1.1,
            at_most=True,
        ),
        Verdict("op/s over RocksDB with a block cache of the same size", row.ratio("RocksDB"), 2.0),
    ]
    return row
