"""The run that goes through the rows of a benchmark, in their order.

A row is a coroutine function of `Bench` that returns a `Row`. A row that fails is reported and the next one begins.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.bench import Bench
from benchmarks.environment import header
from benchmarks.measure import freeze
from benchmarks.peers.peer import PEER_MODULES, Loaded, Peer, close_store, load_peers
from benchmarks.report import print_row
from benchmarks.row import FULL, QUICK, Row, Sizes

RowFunction = Callable[[Bench], Awaitable[Row]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A list of rows.

    Attributes:
        name: As on the command line.
        title: What it compares.
        rows: By name, in their order.
        peers: Modules of the peers that take part beside warpstore.
        in_process: Rows run in this process on the inputs of `Bench`; else all in child processes that make their own.
    """

    name: str
    title: str
    rows: Mapping[str, RowFunction]
    peers: Sequence[str] = PEER_MODULES
    in_process: bool = True


class UnknownRowError(Exception):
    """``--only`` names no row."""


def chosen(benchmark: Benchmark, only: Sequence[str]) -> list[str]:
    """Return the rows to run, in their order; a name that is no row stands for all that begin with it, like ``ycsb``.

    Raises:
        UnknownRowError: a name fits no row.
    """
    every = benchmark.rows
    if not only:
        return list(every)
    picked: set[str] = set()
    for name in only:
        rows = [name] if name in every else [row for row in every if row.startswith(f"{name}-")]
        if not rows:
            raise UnknownRowError(f"no row {name!r}; there are: {', '.join(every)}")
        picked.update(rows)
    return [row for row in every if row in picked]


async def effective_settings(found: Loaded, folder: Path) -> dict[str, dict[str, Any]]:
    """Return what each contestant runs with when relaxed and when durable, asked of it by opening it twice.

    One that does not open leaves ``found`` for its list of the missing.
    """

    async def ask(peer: Peer, mode: str) -> Any:
        at = folder / f"settings-{mode}-{found.peers.index(peer)}"
        store = await peer.open(at, durable=mode == "durable")
        await close_store(store)
        shutil.rmtree(at, ignore_errors=True)
        return store.settings

    modes = ("relaxed", "durable")
    asked = [ask(peer, mode) for peer in found.peers for mode in modes]
    answers = iter(await asyncio.gather(*asked, return_exceptions=True))
    settings: dict[str, dict[str, Any]] = {}
    for peer in list(found.peers):
        answered = {mode: next(answers) for mode in modes}
        failures = [answer for answer in answered.values() if isinstance(answer, BaseException)]
        if failures:
            found.peers.remove(peer)
            found.missing[peer.name] = f"{type(failures[0]).__name__}: {failures[0]}"
        else:
            settings[peer.name] = answered
    return settings


async def run(
    benchmark: Benchmark,
    *,
    sizes: Sizes = FULL,
    only: Sequence[str] = (),
    found: Loaded | None = None,
    say: Callable[[str], None] = print,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Run the rows and return the report: the header first, then the rows by name.

    Args:
        benchmark: What to run.
        sizes: How much to do.
        only: Rows to run; all if empty.
        found: The contestants; those installed if None.
        say: Prints.
        folder: Where the work folder is made; by default where temporary files go.

    Raises:
        UnknownRowError: ``only`` names no row.
    """
    names = chosen(benchmark, only)
    work = Path(tempfile.mkdtemp(prefix="benchmark-", dir=folder))
    started = perf_counter()
    report: dict[str, Any] = {}
    try:
        found = load_peers(("warpstore", *benchmark.peers)) if found is None else found
        settings = await effective_settings(found, work)
        report["run"] = header(benchmark.name, sizes, settings, found.missing, work)
        say(report["run"]["line"])
        bench = Bench(sizes, work, found, in_process=benchmark.in_process)
        freeze()
        report["rows"] = rows = {}
        try:
            for name in names:
                began = perf_counter()
                try:
                    row = await benchmark.rows[name](bench)
                except Exception as error:  # the run goes on, and the report says what failed
                    row = Row(name, name, "", remarks=[f"failed: {type(error).__name__}: {error}"])
                    row.failure = "".join(traceback.format_exception(error))
                rows[name] = row
                print_row(row, perf_counter() - began, say)
        finally:
            await bench.close()
    finally:
        shutil.rmtree(work, ignore_errors=True)
    report["run"]["seconds"] = perf_counter() - started
    return report


def sizes_of(*, quick: bool) -> Sizes:
    """Return the sizes of a quick or a full run."""
    return QUICK if quick else FULL
