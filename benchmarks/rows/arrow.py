"""Export to Arrow of a table with a str key and fixed-width fields, in RAM and from a checkpoint.

The baseline is what a program does without the export: it scans records, and hands their fields to pyarrow's
``RecordBatch.from_pylist``, a batch of as many rows at a time. The second baseline is ``from_pylist`` alone, on dicts
that are there already. Columns are compared with what was put.
"""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.bench import Bench
from benchmarks.child import run_child
from benchmarks.measure import Cell, Trial, WrongAnswerError, freeze
from benchmarks.peers.peer import AsyncStore, close_store, load_peer
from benchmarks.row import OURS, Row, Verdict

BATCH = 65_536
LOAD_CHUNK = 20_000
IN_MEMORY = f"{OURS}, records in RAM"
JUST_WRITTEN = f"{OURS}, in RAM, first look at the keys"
SCANNED = "scan, asdict, from_pylist"
PYLIST = "from_pylist alone"


async def arrow_job(folder: str, n: int, n_trials: int, peer: str) -> dict[str, Any]:
    """Return the seconds of each trial by contestant."""
    import msgspec
    import pyarrow as pa

    from benchmarks.models import Sample

    store = await load_peer(peer).open(Path(folder))
    if not isinstance(store, AsyncStore) or store.checkpoint is None:
        raise TypeError(f"{peer} is synchronous")
    table = store.native[Sample]
    keys = [f"user:{number:09d}" for number in range(n)]
    for first in range(0, n, LOAD_CHUNK):
        numbers = range(first, min(n, first + LOAD_CHUNK))
        await table.put_many(
            [Sample(id=keys[i], score=i / 3, level=i, is_on=i % 3 == 0, weight=float(i % 100)) for i in numbers]
        )
    freeze()
    times: dict[str, list[float]] = {name: [] for name in (OURS, IN_MEMORY, JUST_WRITTEN, SCANNED, PYLIST)}

    async def export(name: str) -> None:
        start = perf_counter()
        batches = [batch async for batch in table.to_arrow_batches(batch_rows=BATCH)]
        times[name].append(perf_counter() - start)
        found = pa.Table.from_batches(batches)
        right = {"id": keys, "level": list(range(n)), "score": [i / 3 for i in range(n)]}
        if any(found.column(column).to_pylist() != values for column, values in right.items()):
            raise WrongAnswerError("an exported column differs from what was put")

    await export(JUST_WRITTEN)
    for _ in range(n_trials):
        await export(IN_MEMORY)
    await store.checkpoint()
    schema = table.to_arrow_batches().schema
    for _ in range(n_trials):
        await export(OURS)
        start = perf_counter()
        rows: list[dict[str, Any]] = []
        in_pylist = 0.0
        async for record in table.scan():
            rows.append(msgspec.structs.asdict(record))
            if len(rows) == BATCH:
                begun = perf_counter()
                pa.RecordBatch.from_pylist(rows, schema)
                in_pylist += perf_counter() - begun
                rows = []
        begun = perf_counter()
        pa.RecordBatch.from_pylist(rows, schema)
        times[PYLIST].append(in_pylist + perf_counter() - begun)
        times[SCANNED].append(perf_counter() - start)
    await close_store(store)
    return times


async def arrow(bench: Bench) -> Row:
    """The export of fixed-width columns beside pyarrow's own conversion of decoded records."""
    sizes = bench.sizes
    row = Row("arrow", f"Arrow export of {sizes.n_arrow:,} rows: str key, 2 floats, int, bool", "row/s")
    if "warpstore" in bench.missing:
        row.remarks.append("not run: warpstore is missing")
        return row
    arguments = {
        "folder": str(bench.folder / "arrow"),
        "n": sizes.n_arrow,
        "n_trials": sizes.n_trials,
        "peer": "warpstore",
    }
    found = await run_child("arrow", arguments, bench.folder)
    for name, seconds in found.items():
        row.cells[name] = Cell([Trial(sizes.n_arrow, s) for s in seconds])
    rate = row.rate(OURS)
    row.verdicts = [
        Verdict("from a checkpoint", rate / 1e6 if rate else None, 1.0, unit="M/s"),
        Verdict("rows/s over scan and from_pylist", row.ratio(SCANNED), 1.0),
    ]
    return row
