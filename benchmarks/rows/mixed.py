"""YCSB A, B, C and F with 1 and 16 clients on the loaded stores.

Clients are tasks for asynchronous contestants; for the others threads, or turns in one thread, whichever is quicker.
F counts lost updates: what the ages of the touched records gained, against the number of increments.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from time import perf_counter
from typing import Any

from benchmarks import drive, workloads
from benchmarks.bench import Bench, Contestant
from benchmarks.drive import rest
from benchmarks.measure import Trial, WrongAnswerError, interleaved, keep_best
from benchmarks.peers.peer import Store
from benchmarks.row import OURS, Row, Verdict

STEPS_A_CHUNK = 2_048
SLOW_STEPS_A_CHUNK = 256
KEPT_EVERY = 32
OPERATIONS_S = 700_000
SLOW_OPERATIONS_S = 50_000


def steps_of(
    bench: Bench, contestant: Contestant, part: workloads.Operations, start: int, stop: int
) -> list[drive.Step]:
    """Return a client's operations from ``start`` to ``stop`` with keys and the contestant's records."""
    keys, records = bench.keys, contestant.changed
    kinds = [drive.READ if read else drive.WRITE for read in part.read[start:stop]]
    for place in kept(part, start, stop):
        kinds[place - start] = drive.KEEP
    return [
        (kind, keys[number], None if part.modify else records[number])
        for kind, number in zip(kinds, part.number[start:stop], strict=True)
    ]


def kept(part: workloads.Operations, start: int, stop: int) -> list[int]:
    """Return the places of the reads whose answers are checked."""
    return [place for place in range(start, min(stop, len(part.read))) if part.read[place]][::KEPT_EVERY]


def check_reads(bench: Bench, part: workloads.Operations, start: int, stop: int, answers: Sequence[Any]) -> None:
    """Check the values that no operation changes in a client's kept answers.

    Raises:
        WrongAnswerError: an answer is missing or is no version of its record.
    """
    places = kept(part, start, stop)
    if len(places) != len(answers):
        raise WrongAnswerError(f"{len(answers)} answers to {len(places)} reads")
    for place, answer in zip(places, answers, strict=True):
        row = bench.rows[part.number[place]]
        whole = answer.tags == row.tags and answer.attrs == row.attrs and answer.blob == row.blob
        if not whole or answer.age < row.age or answer.score not in (row.score, row.score + 1.0):
            raise WrongAnswerError(f"the answer for record {part.number[place]} is no version of it")


async def ages(bench: Bench, store: Store, numbers: Sequence[int]) -> int:
    """Return the sum of the ages of these records."""
    return sum(answer.age for answer in await drive.get_batch(store, [bench.keys[number] for number in numbers]))


async def ycsb_row(bench: Bench, workload: str, n_clients: int) -> Row:
    """Return the row of one workload and number of clients."""
    sizes = bench.sizes
    size_fast, size_slow = (
        max(n_clients * 32, int(rate * sizes.mixed_s) // n_clients * n_clients)
        for rate in (OPERATIONS_S, SLOW_OPERATIONS_S)
    )
    pool = ThreadPoolExecutor(n_clients)

    @lru_cache(maxsize=2)
    def operations(trial: int, size: int) -> list[workloads.Operations]:
        return workloads.ycsb(workload, sizes.n, size, n_clients=n_clients, seed=100 + trial)

    async def run(entry: tuple[Contestant, bool], trial: int) -> Trial:
        contestant, threads = entry
        store = await bench.loaded(contestant)
        size = size_slow if contestant.peer.slow else size_fast
        parts = operations(trial, size)
        each = max(1, (SLOW_STEPS_A_CHUNK if contestant.peer.slow else STEPS_A_CHUNK) // n_clients)
        measured = Trial(0, 0.0)
        touched = {
            n for part in parts for read, n in zip(part.read, part.number, strict=True) if part.modify and not read
        }
        before = await ages(bench, store, list(touched))
        n_increments = 0
        for start in range(0, size // n_clients, each):
            stop = start + each
            steps = [steps_of(bench, contestant, part, start, stop) for part in parts]
            begun = perf_counter()
            answers = await drive.clients(store, steps, pool if threads else None)
            measured.seconds += perf_counter() - begun
            measured.n += sum(len(client) for client in steps)
            for part, found in zip(parts, answers, strict=True):
                check_reads(bench, part, start, stop, found)
                n_increments += part.read[start:stop].count(False)
            if measured.seconds >= (sizes.mixed_s if trial >= 0 else sizes.mixed_s / 3):
                break
        await rest(store)
        if workload == "F":
            measured.notes["lost updates"] = n_increments - (await ages(bench, store, list(touched)) - before)
        return measured

    entries = [(name, (contestant, False)) for name, contestant in bench.named]
    variants: dict[str, tuple[str, int]] = {}
    for name, contestant in bench.named:
        if contestant.peer.threads and n_clients > 1:
            variants[f"{name}, threads"] = (name, n_clients)
            entries.append((f"{name}, threads", (contestant, True)))
    tasks = "1 task" if n_clients == 1 else f"{n_clients} tasks"
    row = Row(f"ycsb-{workload.lower()}-{n_clients}", f"YCSB {workload}, {tasks}, zipfian", "op/s")
    try:
        cells = await interleaved(entries, run, n_trials=sizes.n_trials, fewer=bench.fewer)
    finally:
        pool.shutdown()
    row.cells = keep_best(cells, variants)
    verdicts(bench, workload, n_clients, row)
    return row


def verdicts(bench: Bench, workload: str, n_clients: int, row: Row) -> None:
    """Add the targets of A and F with 16 tasks, and what was lost."""
    if workload in "AF" and n_clients > 1:
        best = row.best(bench.names(log=True))
        text = f"op/s over the best peer with a log ({best})"
        row.verdicts.append(Verdict(text, row.ratio(best) if best else None, 1.5))
    if workload == "F":
        lost = {name: sum(t.notes.get("lost updates", 0) for t in cell.trials) for name, cell in row.cells.items()}
        ours = row.cells.get(OURS)
        if n_clients > 1:
            measured = lost[OURS] if ours is not None and ours.error is None else None
            row.verdicts.append(Verdict("updates lost", measured, 0, at_most=True, unit=""))
        losers = ", ".join(f"{name} {n:,.0f}" for name, n in lost.items() if n)
        row.remarks.append(f"updates lost over all trials: {losers or 'none'}")
