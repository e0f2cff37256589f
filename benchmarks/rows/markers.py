"""What annotations cost a put: all fields `Memory`, and every marker at once, against the same fields unannotated.

Small batches of puts of the four types follow each other in one store; the ratios are medians of the ratios within a
round, since a difference of 5 % is smaller than a machine's drift between trials.
"""

from __future__ import annotations

import random
import statistics
import time
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks import workloads
from benchmarks.bench import Bench
from benchmarks.child import run_child
from benchmarks.measure import Cell, Trial, WrongAnswerError, freeze
from benchmarks.peers.peer import AsyncStore, close_store, load_peer
from benchmarks.row import Row, Verdict

BATCH = 1_000
KINDS = ("unannotated", "all Memory", "wide unannotated", "every marker")


async def markers_job(peer: str, folder: str, n: int) -> dict[str, Any]:
    """Return the time in s of each round's batch, by kind of record."""
    from benchmarks import models

    store = await load_peer(peer).open(Path(folder))
    if not isinstance(store, AsyncStore):
        raise TypeError(f"{peer} is synchronous")
    tables = [store.native[t] for t in (models.User, models.UserMemory, models.UserUnmixed, models.UserMixed)]
    rows = workloads.rows(BATCH)
    now = time.time()
    narrow: list[dict[str, Any]] = [
        {"id": r.id, "score": r.score, "age": r.age, "tags": r.tags, "attrs": r.attrs, "blob": r.blob} for r in rows
    ]
    wide = [
        {**fields, "activity": [models.Event(now - 60 + i, "seen") for i in range(4)], "session": {"token": "x"}}
        for fields in narrow
    ]
    records: list[list[Any]] = [
        [models.User(**fields) for fields in narrow],
        [models.UserMemory(**fields) for fields in narrow],
        [models.UserUnmixed(**fields, degree=8) for fields in wide],
        [models.UserMixed(**fields) for fields in wide],
    ]
    freeze()
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    order = random.Random(1)
    n_rounds = max(3, n // BATCH)
    for number in range(-2, n_rounds):
        for at in order.sample(range(len(KINDS)), len(KINDS)):
            put, batch = tables[at].put, records[at]
            start = perf_counter()
            for record in batch:
                await put(record)
            taken = perf_counter() - start
            if number >= 0:
                times[KINDS[at]].append(taken / len(batch))
    for table, batch in zip(tables, records, strict=True):
        answer = await table.get(batch[-1].id)
        if answer is None or answer.tags != batch[-1].tags or answer.blob != batch[-1].blob:
            raise WrongAnswerError("a record differs from what was put")
    degree = (await tables[3].get(rows[0].id)).degree
    if degree != len(rows[0].tags):
        raise WrongAnswerError(f"the computed field is {degree}")
    await close_store(store)
    return {"times": times}


async def markers(bench: Bench) -> Row:
    """The cost of a put with all fields `Memory` and with every marker."""
    row = Row("markers", "relaxed put by the annotations of its type", "put/s")
    memory = mixed = None
    if "warpstore" not in bench.missing:
        arguments = {"peer": "warpstore", "folder": str(bench.folder / "markers"), "n": bench.sizes.n_markers}
        times = (await run_child("markers", arguments, bench.folder))["times"]
        for kind in KINDS:
            row.cells[kind] = Cell([Trial(1, seconds) for seconds in times[kind]])
        plain, all_memory, wide, every = (times[kind] for kind in KINDS)
        memory = statistics.median(a / b for a, b in zip(all_memory, plain, strict=True))
        mixed = statistics.median(a / b for a, b in zip(every, wide, strict=True))
    row.verdicts = [
        Verdict("time of a put, all fields Memory / unannotated", memory, 1.05, at_most=True),
        Verdict("time of a put, every marker / the same fields unannotated", mixed, 1.6, at_most=True),
    ]
    return row
