"""Memory and disk per record: of records not touched since the open, and of hot ones, in fresh processes.

Memory is anonymous memory above that of the same process with an empty open store: mapped files and the page cache,
which the kernel can take back, do not count but are shown as resident. Not touched: the row reopen, after its
open and first get. Hot: records are put into an empty store.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from benchmarks import workloads
from benchmarks.bench import Bench
from benchmarks.child import ChildFailedError, run_child
from benchmarks.drive import get_each, put_batch
from benchmarks.measure import WrongAnswerError, disk_bytes, memory
from benchmarks.peers.codec import encode
from benchmarks.peers.peer import close_store, load_peer, settle_store
from benchmarks.row import OURS, Row, Verdict
from benchmarks.rows.reopen import Opening, reopened


async def hot_job(peer: str, folder: str, n: int) -> dict[str, Any]:
    """Return how much ``n`` records put into an empty store add to this process's memory, per record."""
    contestant = load_peer(peer)
    bodies = workloads.rows(4_096)
    for chunk in workloads.many_rows(10_000):  # the making of records has its memory before the first reading
        [contestant.record(row) for row in chunk]
    store = await contestant.open(Path(folder))
    empty = memory()
    for chunk in workloads.many_rows(n):
        await put_batch(store, [contestant.record(row) for row in chunk])
    await settle_store(store)
    del chunk
    full = memory()
    for number in range(0, n, max(1, n // 100)):
        answers = await get_each(store, [workloads.key_of(number)])
        if not workloads.same(answers[0], workloads.numbered_row(number, bodies)):
            raise WrongAnswerError(f"record {number} differs")
    await close_store(store)
    return {
        "anonymous": (full.anonymous - empty.anonymous) / n,
        "resident": (full.resident - empty.resident) / n,
        "disk": disk_bytes(Path(folder)) / n,
    }


async def hot(bench: Bench, module: str) -> dict[str, float | str]:
    """Return a contestant's figures while its records are hot."""
    arguments = {"peer": module, "folder": str(bench.folder / f"hot-{module}"), "n": bench.sizes.n_memory}
    try:
        found = await run_child("hot", arguments, bench.folder)
    except ChildFailedError as error:
        return {"error": str(error)}
    return {"hot anonymous": found["anonymous"], "hot resident": found["resident"], "disk": found["disk"]}


async def untouched(bench: Bench, names: dict[str, str]) -> dict[str, dict[str, float | str]]:
    """Return by name the memory that records take before they are touched, per record; ``names``: by module."""
    openings = []
    for module, name in names.items():
        if name in bench.untouched:
            openings.append(Opening(name, module, bench.folder / f"empty-{module}", []))
            os.mkdir(openings[-1].folder)
    figures: dict[str, dict[str, float | str]] = {}
    for name, empty in (await asyncio.to_thread(reopened, openings, bench.folder)).items():
        if isinstance(empty, ChildFailedError):
            figures[name] = {"error": str(empty)}
        else:
            each = (bench.untouched[name] - empty["anonymous"]) / bench.sizes.n_reopen
            figures[name] = {"untouched anonymous": each}
    return figures


async def footprint(bench: Bench) -> Row:
    """Bytes of RAM and disk per record."""
    row = Row("memory", "bytes per record in RAM (above an empty open store) and on disk", "B/record")
    bodies = workloads.rows(1_000)
    encoded = sum(len(encode(body)) for body in bodies) / len(bodies)
    installed = {peer.name for peer in bench.found.peers}
    names = {m: load_peer(m).name for m in ("warpstore", "floor", *bench.sizes.reopened) if m not in bench.missing}
    names = {module: name for module, name in names.items() if name in installed}
    found = await asyncio.gather(*(hot(bench, module) for module in names))  # nothing is timed here
    row.figures = dict(zip(names.values(), found, strict=True))
    if not bench.untouched:
        row.remarks.append("records not touched since the open: run with the row reopen")
    for name, figures in (await untouched(bench, names)).items():
        row.figures[name] |= figures
    row.remarks.append("disk is all that the files take, log segments allocated in advance included")
    ours = {key: value for key, value in row.figures.get(OURS, {}).items() if isinstance(value, float)}
    row.verdicts = [
        Verdict("not touched since the open", ours.get("untouched anonymous"), 4, at_most=True, unit="B"),
        Verdict(
            f"hot, at most 2.0x the {encoded:.0f} encoded bytes + 64",
            ours.get("hot anonymous"),
            2 * encoded + 64,
            at_most=True,
            unit="B",
        ),
    ]
    return row
