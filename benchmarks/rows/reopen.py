"""Reopening with cold caches: a fresh process opens the store and gets one record; imports are not counted.

After a clean close, and for warpstore after SIGKILL with 64 MiB of log behind its last checkpoint. The killed store is
copied for each trial, since opening it may end the need to replay. The clean store also gives the bytes per record on
disk, and to the row of memory the records that were not touched since the open.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import workloads
from benchmarks.bench import Bench
from benchmarks.child import Child, ChildFailedError, run_child
from benchmarks.measure import Cell, Trial, disk_bytes, drop_caches
from benchmarks.peers.peer import load_peer
from benchmarks.row import OURS, Row, Verdict

LOG = " (log to replay)"


@dataclass(frozen=True, slots=True)
class Opening:
    """What a child is to open.

    Attributes:
        name: Of the contestant, in the row.
        module: Of the peer.
        folder: Of its store.
        numbers: Records to get: the first one timed, all checked.
        keep: The store is needed again, so it must be closed cleanly.
        kind: Of `benchmarks.kinds.KINDS`, what its records are.
    """

    name: str
    module: str
    folder: Path
    numbers: list[int]
    keep: bool = True
    kind: str = "User"


def arguments(opening: Opening) -> dict[str, Any]:
    """Return what the job gets besides the peer."""
    return {
        "folder": str(opening.folder),
        "numbers": opening.numbers,
        "keep": opening.keep,
        "kind": opening.kind,
    }


def reopened(openings: Sequence[Opening], work: Path) -> dict[str, dict[str, Any] | ChildFailedError]:
    """Return by name what fresh processes measured, one after the other, each with the caches dropped before.

    The processes start together and wait with their imports done; a store is closed before the next is opened.
    """
    found: dict[str, dict[str, Any] | ChildFailedError] = {}
    with ExitStack() as stack:
        children = [stack.enter_context(Child("reopen", {"peer": o.module, **arguments(o)}, work)) for o in openings]
        for opening, child in zip(openings, children, strict=True):
            try:
                child.line()
                how = drop_caches(opening.folder)
                child.go()
                found[opening.name] = {**child.line(), "dropped": how}
            except ChildFailedError as error:
                found[opening.name] = error
            child.kill()
    return found


def killed(folder: Path, n: int, log_bytes: int, work: Path) -> int:
    """Make a store of warpstore's that was killed with log to replay; return its number of records."""
    arguments = {"peer": "warpstore", "folder": str(folder), "n": n, "log_bytes": log_bytes}
    with Child("load", arguments, work) as child:
        n_records = int(child.line()["n"])
        child.kill()
    return n_records


def module_names(bench: Bench) -> dict[str, str]:
    """Return module to display name of the peers this row measures."""
    names = {name: load_peer(name).name for name in ("warpstore", *bench.sizes.reopened) if name not in bench.missing}
    return {module: name for module, name in names.items() if any(peer.name == name for peer in bench.found.peers)}


async def prepare(row: Row, name: str, module: str, folder: Path, n: int, work: Path) -> None:
    """Make a clean store, and note what it takes on disk."""
    row.cells[name] = Cell()
    row.figures[name] = {}
    try:
        await run_child("load", {"peer": module, "folder": str(folder), "n": n, "log_bytes": 0}, work)
    except ChildFailedError as error:
        row.cells[name].error = str(error)
        return
    row.figures[name]["disk B/record"] = disk_bytes(folder) / n


async def prepare_killed(row: Row, folder: Path, n: int, log_bytes: int, work: Path) -> int:
    """Make the killed store and return its number of records, 0 if that failed."""
    row.cells[OURS + LOG] = Cell()
    try:
        return await asyncio.to_thread(killed, folder, n, log_bytes, work)
    except ChildFailedError as error:
        row.cells[OURS + LOG].error = str(error)
        return 0


async def reopen(bench: Bench) -> Row:
    """Open and first get after a clean close, and after a kill; disk bytes per record."""
    sizes, n, work = bench.sizes, bench.sizes.n_reopen, bench.folder
    row = Row("reopen", f"reopen of {n:,} records, caches dropped: open + first get", "open/s")
    modules = module_names(bench)
    folders = {name: work / f"reopen-{module}" for module, name in modules.items()}
    killed_folder, copy = work / "reopen-killed", work / "reopen-copy"
    clean = [prepare(row, name, module, folders[name], n, work) for module, name in modules.items()]
    n_killed = 0
    if "warpstore" in modules:  # side by side: the making of the stores is not timed
        killing = asyncio.ensure_future(prepare_killed(row, killed_folder, n, sizes.log_bytes, work))
        await asyncio.gather(killing, *clean[:2])
        n_killed, clean = killing.result(), clean[2:]
    for preparing in clean:
        await preparing
    for trial in range(sizes.n_trials):
        numbers = workloads.uniform(n, 1_000, seed=200 + trial).tolist()
        openings = [Opening(name, module, folders[name], numbers) for module, name in modules.items()]
        if n_killed:
            await asyncio.to_thread(shutil.copytree, killed_folder, copy)
            tail = list(range(n, n_killed))[:: max(1, (n_killed - n) // 500)]
            openings.append(Opening(OURS + LOG, "warpstore", copy, tail + numbers, keep=False))
        openings = [opening for opening in openings if row.cells[opening.name].error is None]
        for name, found in (await asyncio.to_thread(reopened, openings, work)).items():
            add_trial(row.cells[name], found)
        shutil.rmtree(copy, ignore_errors=True)
    finish(bench, row)
    for name in modules.values():
        anonymous = row.cells[name].note("anonymous")
        if anonymous is not None:
            bench.untouched[name] = anonymous
    return row


def add_trial(cell: Cell, found: dict[str, Any] | ChildFailedError) -> None:
    """Put what a child measured into its contestant's cell."""
    if isinstance(found, ChildFailedError):
        cell.error = str(found)
        return
    cell.settings["caches"] = found["dropped"]
    notes = {"open ms": found["open_s"] * 1e3, "anonymous": found["anonymous"], "resident": found["resident"]}
    cell.trials.append(Trial(1, found["seconds"], notes=notes))


def finish(bench: Bench, row: Row) -> None:
    """Write the row's figures and targets."""
    milliseconds: dict[str, float] = {}
    for name, cell in row.cells.items():
        if cell.trials:
            milliseconds[name] = statistics.median(trial.seconds for trial in cell.trials) * 1e3
            row.figures.setdefault(name, {})["open + get ms"] = milliseconds[name]
            row.figures[name]["of it open ms"] = cell.note("open ms") or 0.0
            row.figures[name]["slowest ms"] = max(trial.seconds for trial in cell.trials) * 1e3
    row.verdicts = [
        Verdict("after a clean close", milliseconds.get(OURS), 60, at_most=True, unit="ms"),
        Verdict(
            f"with {bench.sizes.log_bytes >> 20} MiB of log to replay after SIGKILL",
            milliseconds.get(OURS + LOG),
            1_500,
            at_most=True,
            unit="ms",
        ),
    ]
    row.remarks.append("disk is all that the files take, log segments allocated in advance included")
    caches = {str(cell.settings["caches"]) for cell in row.cells.values() if "caches" in cell.settings}
    row.remarks.append(f"caches dropped by: {', '.join(sorted(caches)) or 'nothing'}")
