"""Rows of relaxed writes: single puts, bulk load, batches."""

from __future__ import annotations

import os
from collections.abc import Sequence
from time import perf_counter

from benchmarks import drive, workloads
from benchmarks.bench import Bench, Contestant
from benchmarks.measure import Cell, Trial, WrongAnswerError, interleaved, timed_chunks
from benchmarks.peers.floor import plain_loop
from benchmarks.peers.peer import Store
from benchmarks.row import Row, Verdict

FLOOR_LOOP = "floor (plain loop)"
CHUNK = 2_000
LATENCY_SAMPLE = 5_000
SLOW_SAMPLE = 200


async def check_put(bench: Bench, store: Store, order: Sequence[int], *, every: int) -> None:
    """Read back each ``every``-th of the records put.

    Raises:
        WrongAnswerError: one is missing or differs.
    """
    sample = list(order[::every])
    answers = await drive.get_each(store, [bench.keys[number] for number in sample])
    bench.check(sample, answers, every=1)


def floor_trial(bench: Bench, order: Sequence[int], seconds_max: float) -> Trial:
    """Return a trial of the floor's plain loop over the records in this order."""
    path = bench.folder / "floor-loop.log"
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    table: dict[str, bytes] = {}
    buffer = bytearray()
    trial = Trial(0, 0.0)
    try:
        for start in range(0, len(order), CHUNK):
            chunk = [bench.rows[number] for number in order[start : start + CHUNK]]
            before = perf_counter()
            plain_loop(chunk, fd, table, buffer)
            trial.seconds += perf_counter() - before
            trial.n += len(chunk)
            if trial.seconds >= seconds_max:
                break
    finally:
        os.close(fd)
        path.unlink()
    if len(table) != trial.n:
        raise WrongAnswerError(f"the floor holds {len(table)} of {trial.n} records")
    return trial


async def put(bench: Bench) -> Row:
    """Single relaxed puts into an empty store."""
    sizes = bench.sizes
    latencies: dict[str, list[int]] = {}

    async def run(contestant: Contestant | None, trial: int) -> Trial:
        order = workloads.shuffled(sizes.n_put, seed=10 + trial).tolist()
        if contestant is None:
            return floor_trial(bench, order, 2 * sizes.cap_s)
        records = [contestant.records[number] for number in order]
        async with bench.fresh(contestant) as store:
            chunks = [records[start : start + CHUNK] for start in range(0, len(records), CHUNK)]
            if contestant.peer.slow:
                chunks = [chunk[at : at + 100] for chunk in chunks for at in range(0, len(chunk), 100)]
            if trial < 0:  # the times of single calls are taken here, so that taking them costs no trial
                n = min(len(records), LATENCY_SAMPLE if not contestant.peer.slow else SLOW_SAMPLE)
                await drive.put_each(store, records[: n // 10])
                latencies[contestant.name] = await drive.put_timed(store, records[n // 10 : n])
                return Trial(n, 0.0)
            measured = await timed_chunks(
                chunks, lambda chunk: drive.put_each(store, chunk), seconds_max=2 * sizes.cap_s, size=len
            )
            await check_put(bench, store, order[: measured.n], every=16)
        return measured

    row = Row("put", "relaxed put, one caller, empty store", "put/s")
    entries: list[tuple[str, Contestant | None]] = [(FLOOR_LOOP, None), *bench.named]
    row.cells = await interleaved(entries, run, n_trials=sizes.n_trials, fewer=bench.fewer, warm_fewer=True)
    for name, taken in latencies.items():
        row.cells[name].latencies_ns = taken
    ours = row.ratio(FLOOR_LOOP)
    row.verdicts = [
        Verdict("time of a put / of the floor's loop", 1 / ours if ours else None, 1.8, at_most=True),
        Verdict("puts/s over LMDB", row.ratio("LMDB"), 1.25),
    ]
    return row


async def load(bench: Bench) -> Row:
    """Bulk load of all records into an empty store; a contestant whose first trial takes over 1 s is not repeated."""
    sizes = bench.sizes
    once: dict[str, Trial] = {}

    async def run(contestant: Contestant, trial: int) -> Trial:
        if contestant.name in once:
            return once[contestant.name]
        async with bench.fresh(contestant) as store:
            measured = await timed_chunks(
                bench.batches(contestant.records[: sizes.n], seed=40 + trial),
                lambda batch: drive.put_batch(store, batch),
                seconds_max=60.0,
                size=len,
            )
            await check_put(bench, store, range(sizes.n), every=64)
        if measured.seconds > max(1.0, 10 * sizes.cap_s) or contestant.peer.slow:
            once[contestant.name] = measured
        return measured

    row = Row("load", f"bulk load of {sizes.n:,} records in batches of {sizes.batch:,}", "record/s")
    row.cells = await interleaved(bench.named, run, n_trials=sizes.n_trials, warm_up=False)
    for name in once:
        cell: Cell = row.cells[name]
        del cell.trials[1:]
        cell.settings["trials"] = 1
    return row


async def put_many(bench: Bench) -> Row:
    """Batches of 10,000 written over the records of a loaded store."""
    sizes = bench.sizes

    async def run(contestant: Contestant, trial: int) -> Trial:
        store = await bench.loaded(contestant)
        batches = bench.batches(contestant.records[: sizes.n], seed=50 + trial)
        measured = await timed_chunks(
            batches if trial >= 0 else batches[:1],
            lambda batch: drive.put_batch(store, batch),
            seconds_max=sizes.cap_s,
            size=len,
        )
        await drive.rest(store)
        await check_put(bench, store, range(sizes.n), every=64)
        return measured

    row = Row("put-many", f"put_many of {sizes.batch:,}, relaxed, over existing records", "record/s")
    row.cells = await interleaved(bench.named, run, n_trials=sizes.n_trials, fewer=bench.fewer)
    row.verdicts = [Verdict("records/s over RocksDB", row.ratio("RocksDB"), 1.2)]
    return row
