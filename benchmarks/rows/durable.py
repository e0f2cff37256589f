"""Durable puts by 1 and by 64 writers: each is on the device before its put returns.

Beside them a bare loop that writes 512 bytes into blocks written before and syncs them: what one writer can have.
"""

from __future__ import annotations

import os
from time import perf_counter, perf_counter_ns

from benchmarks import drive, workloads
from benchmarks.bench import Bench, Contestant
from benchmarks.measure import Trial, interleaved, keep_best
from benchmarks.peers.peer import Store, close_store
from benchmarks.row import Row, Verdict
from benchmarks.rows.writes import check_put

BARE_LOOP = "bare 512 B + fdatasync"
THREADS = (64, 16, 1)


class BareLoop:
    """512-byte writes, each synced, into a file whose blocks were written before: what one durable writer can have."""

    BYTES = 64 << 20

    def __init__(self, bench: Bench) -> None:
        self.path = bench.folder / "bare-loop.log"
        self.path.write_bytes(bytes(self.BYTES))
        self.fd = os.open(self.path, os.O_WRONLY)
        os.fsync(self.fd)
        self.offset = 0

    def run(self, seconds: float) -> Trial:
        """Return a trial of about this long."""
        trial = Trial(0, 0.0)
        block = os.urandom(512)
        start = perf_counter()
        end = 0.0
        while end < seconds:
            before = perf_counter_ns()
            os.pwrite(self.fd, block, self.offset)
            os.fdatasync(self.fd)
            trial.latencies_ns.append(perf_counter_ns() - before)
            self.offset = (self.offset + 512) % self.BYTES
            trial.n += 1
            end = perf_counter() - start
        trial.seconds = end
        return trial

    def close(self) -> None:
        """Close and delete the file."""
        os.close(self.fd)
        self.path.unlink()


async def durable_row(bench: Bench, n_writers: int, row: Row) -> None:
    """Fill the row with durable puts by ``n_writers``; stores stay open over the trials.

    A synchronous peer that commits in groups runs with 64, 16 and 1 threads in each trial; the best is kept.
    """
    sizes = bench.sizes
    stores: dict[str, Store] = {}
    bare = BareLoop(bench)

    async def run(entry: tuple[Contestant, int] | None, trial: int) -> Trial:
        if entry is None:
            return bare.run(sizes.durable_s)
        contestant, n = entry
        name = contestant.name
        if name not in stores:
            stores[name] = await contestant.peer.open(bench.folder / f"durable-{n_writers}-{len(stores)}", durable=True)
        order = workloads.shuffled(sizes.n, seed=30 + trial).tolist()
        numbers = [order[writer::n] for writer in range(n)]
        parts = [[contestant.records[number] for number in part] for part in numbers]
        wall, times = await drive.writers(stores[name], parts, sizes.durable_s)
        done = [number for part, taken in zip(numbers, times, strict=True) for number in part[: len(taken)]]
        await check_put(bench, stores[name], done, every=16)
        return Trial(len(done), wall, [time for taken in times for time in taken])

    entries: list[tuple[str, tuple[Contestant, int] | None]] = [(BARE_LOOP, None)]
    variants: dict[str, tuple[str, int]] = {}
    for name, contestant in bench.named:
        if not contestant.peer.stores:
            continue
        if contestant.peer.open_sync is None:
            entries.append((name, (contestant, n_writers)))
            continue
        for n in THREADS if contestant.peer.commits_in_groups else (1,):
            if n <= n_writers:
                variants[f"{name}, {n}"] = (name, n)
                entries.append((f"{name}, {n}", (contestant, n)))
    fewer = {entry: bench.fewer[name] for entry, (name, _) in variants.items() if name in bench.fewer}
    try:
        cells = await interleaved(entries, run, n_trials=sizes.n_trials_short, fewer=bench.fewer | fewer)
    finally:
        for store in stores.values():
            await close_store(store)
        bare.close()
    row.cells = keep_best(cells, variants)


async def durable_1(bench: Bench) -> Row:
    """Durable puts by one writer, beside the bare loop."""
    row = Row("durable-1", "durable put, 1 writer", "put/s")
    await durable_row(bench, 1, row)
    row.verdicts = [
        Verdict("puts/s over the bare loop (0.60 where only a thread can sync)", row.ratio(BARE_LOOP), 0.78)
    ]
    return row


async def durable_64(bench: Bench) -> Row:
    """Durable puts by 64 writers: tasks for asynchronous contestants, the best number of threads for the others."""
    row = Row("durable-64", "durable put, 64 writers", "put/s")
    await durable_row(bench, 64, row)
    row.verdicts = [Verdict("puts/s over LevelDB", row.ratio("LevelDB"), 3.0)]
    return row
