"""Gets from disk: a fresh process opens a store with the caches dropped, and gets records one by one, or many at once.

Two kinds of record: profiles, whose `Disk` fields lie in blocks beside their heads, and users, of which warpstore keeps
all in one place. The first get, which reads what every other needs, is not timed. LMDB takes part with and without the
kernel's readahead; the one that is quicker in all counts. (With it most gets find what another one's 8 MiB brought
along, so their p50 says nothing of the disk.)
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.bench import Bench
from benchmarks.child import Child, ChildFailedError, pause
from benchmarks.drive import get_batch, get_each, get_timed
from benchmarks.kinds import KINDS, numbers
from benchmarks.measure import Cell, Trial, drop_caches, freeze, percentiles_us
from benchmarks.peers.peer import close_store
from benchmarks.row import OURS, Row, Verdict
from benchmarks.rows.made import made_all, present
from benchmarks.workloads import key_of

LMDB = "LMDB"
NO_READAHEAD = ", no readahead"
N_CHECKED = 100


async def cold_job(
    module: str, kind: str, folder: str, wanted: list[int], settings: dict[str, Any], *, at_once: bool
) -> dict[str, Any]:
    """Get the records: the first by itself, the others one by one, each timed in ns, or with one call; check them."""
    records = KINDS[kind]
    records.records(module, [0])  # makes the bodies, and imports what the store needs
    keys = [key_of(number) for number in wanted]
    freeze()
    pause()
    store = await records.open(module, Path(folder), **settings)
    answers = await get_each(store, keys[:1])
    times: list[int] = []
    start = perf_counter()
    if at_once:
        answers += await get_batch(store, keys[1:])
        seconds = perf_counter() - start
        checked: Sequence[int] = wanted
    else:
        times = await get_timed(store, keys[1:])
        seconds = sum(times) / 1e9
        checked = wanted[:N_CHECKED]
        answers = await get_each(store, keys[:N_CHECKED])
    for number, answer in zip(checked, answers, strict=True):
        records.check(number, answer)
    await close_store(store)
    return {"seconds": seconds, "times": times}


def cold(jobs: Sequence[dict[str, Any]], work: Path) -> list[dict[str, Any] | ChildFailedError]:
    """Return what fresh processes measured, one after the other, each with the caches dropped before.

    The processes start together and wait with their imports done, since these would be read from the disk too.
    """
    found: list[dict[str, Any] | ChildFailedError] = []
    with ExitStack() as stack:
        children = [stack.enter_context(Child("cold", arguments, work)) for arguments in jobs]
        for arguments, child in zip(jobs, children, strict=True):
            try:
                child.line()
                how = drop_caches(Path(arguments["folder"]))
                child.go()
                found.append({**child.line(), "caches": how})
            except ChildFailedError as error:
                found.append(error)
            child.kill()
    return found


def contestants(modules: dict[str, str]) -> list[tuple[str, str, dict[str, Any]]]:
    """Return name, module and settings of each entry."""
    found: list[tuple[str, str, dict[str, Any]]] = [(name, module, {}) for module, name in modules.items()]
    if "lmdb" in modules:
        found.append((LMDB + NO_READAHEAD, "lmdb", {"readahead": False}))
    return found


async def measure(bench: Bench, row: Row, kind: str) -> set[str]:
    """Measure one kind of record: fill in its cells; return how caches were dropped."""
    dropped: set[str] = set()
    n, work, sizes = bench.sizes.n_disk, bench.folder, bench.sizes
    names = present(bench, ("warpstore", "lmdb", "rocksdb"))
    folders, failures = await made_all(bench, list(names), kind)
    for module, error in failures.items():
        row.cells[f"{kind}: {names[module]}"] = Cell(error=str(error))
    entries = contestants({module: name for module, name in names.items() if module in folders})
    order = random.Random(1)
    for at_once, size in ((False, sizes.n_cold), (True, sizes.batch)):
        for trial in range(sizes.n_trials):
            wanted = numbers(n, size + 1, seed=300 + trial)
            shuffled = order.sample(entries, len(entries))
            jobs = [
                {
                    "module": module,
                    "kind": kind,
                    "folder": str(folders[module]),
                    "wanted": wanted,
                    "settings": settings,
                    "at_once": at_once,
                }
                for _, module, settings in shuffled
            ]
            outcomes = await asyncio.to_thread(cold, jobs, work)
            for (name, _, _), found in zip(shuffled, outcomes, strict=True):
                cell = row.cells.setdefault(f"{kind}: {name}{', get_many' if at_once else ''}", Cell())
                if isinstance(found, ChildFailedError):
                    cell.error = str(found)
                    continue
                dropped.add(found["caches"])
                notes = {} if at_once else {"p50 us": percentiles_us(found["times"])["p50"]}
                cell.trials.append(Trial(len(wanted) - 1, found["seconds"], notes=notes))
                cell.latencies_ns.extend(found["times"])
    return dropped


async def cold_get(bench: Bench) -> Row:
    """Cold gets, one by one and many at once."""
    sizes = bench.sizes
    row = Row("cold-get", f"caches dropped: {sizes.n_cold:,} single gets, get_many of {sizes.batch:,}", "get/s")
    dropped: set[str] = set()
    for kind in ("Profile", "User"):
        dropped |= await measure(bench, row, kind)
        ours, variants = f"{kind}: {OURS}", [f"{kind}: {LMDB}", f"{kind}: {LMDB}{NO_READAHEAD}"]
        one, many = row.best(variants), row.best([f"{name}, get_many" for name in variants])
        mine = row.cells[ours].note("p50 us") if ours in row.cells else None
        theirs = None if one is None else row.cells[one].note("p50 us")
        p50 = mine / theirs if mine is not None and theirs is not None else None
        row.verdicts.append(Verdict(f"{kind}: p50 of a single get over LMDB's", p50, 1.1, at_most=True))
        ratio = None if many is None else row.ratio(many, of=f"{ours}, get_many")
        row.verdicts.append(Verdict(f"{kind}: get_many, records/s over LMDB", ratio, 3.0))
    row.remarks.append(f"caches dropped by: {', '.join(sorted(dropped)) or 'nothing'}")
    return row
