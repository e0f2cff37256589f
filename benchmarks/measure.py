"""How things are measured: trials, medians, interleaving, percentiles, stalls of the loop, memory, bytes on disk.

A trial of a row runs every contestant once, in an order of its own, before the next trial begins, so that a machine
that gets slower or warmer does so for all. A contestant's figure is the median of its trials; ratios are of medians
unless a row says otherwise. Answers are checked between timed chunks: on the answers given inside the timing, outside
of it.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import re
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

T = TypeVar("T")
C = TypeVar("C")

TURN_S = 0.001
"""Before each part the loop turns, to run what became due while a synchronous contestant held it."""

RUN_S_MAX = 120.0
"""A contestant that takes longer for its part of a trial, or to close, is out of the row."""


class WrongAnswerError(Exception):
    """A contestant returned something else than what was stored."""


@dataclass(slots=True)
class Trial:
    """One contestant's part of one trial.

    Attributes:
        n: Items done.
        seconds: Time inside the timed region.
        latencies_ns: Times of single calls, where they were taken.
        notes: Further counts of this trial, such as lost updates.
    """

    n: int
    seconds: float
    latencies_ns: list[int] = field(default_factory=list)
    notes: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Cell:
    """What one contestant did in one row.

    Attributes:
        trials: Without the warm-up.
        latencies_ns: Of all trials, or of a pass of its own.
        settings: What was chosen for it in this row, such as its number of threads.
        error: Why there is no figure.
    """

    trials: list[Trial] = field(default_factory=list)
    latencies_ns: list[int] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    error: str | None = None

    @property
    def rates(self) -> list[float]:
        """Items per second of each trial."""
        return [trial.n / trial.seconds for trial in self.trials if trial.seconds > 0]

    @property
    def rate(self) -> float | None:
        """The median of `rates`."""
        return statistics.median(self.rates) if self.rates else None

    @property
    def seconds(self) -> float | None:
        """The median time of a trial."""
        return statistics.median(trial.seconds for trial in self.trials) if self.trials else None

    def note(self, name: str) -> float | None:
        """Return the median of a note over the trials that have it."""
        found = [trial.notes[name] for trial in self.trials if name in trial.notes]
        return statistics.median(found) if found else None


def percentiles_us(latencies_ns: Sequence[int]) -> dict[str, float]:
    """Return p50, p99 and p99.9 in us; nothing for no values."""
    if not latencies_ns:
        return {}
    ordered = sorted(latencies_ns)
    last = len(ordered) - 1
    return {
        name: ordered[min(last, int(len(ordered) * share))] / 1e3
        for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))
    }


async def interleaved(
    contestants: Sequence[tuple[str, C]],
    run: Callable[[C, int], Awaitable[Trial]],
    *,
    n_trials: int,
    seed: int = 1,
    warm_up: bool = True,
    fewer: Mapping[str, int] | None = None,
    warm_fewer: bool = False,
) -> dict[str, Cell]:
    """Return each contestant's cell after ``n_trials`` rounds, each in a shuffled order of its own.

    A contestant that raises, or is not done within `RUN_S_MAX`, is out of the row, with its error in its cell; the
    others go on. (A synchronous call can't be interrupted.)

    Args:
        contestants: Names and what ``run`` gets of them.
        run: One trial; its number is -1 for the warm-up, which is thrown away.
        n_trials: Rounds after the warm-up.
        seed: Of the orders.
        warm_up: Whether there is a round before the first.
        fewer: Contestants that run in the first so many trials only.
        warm_fewer: Whether those have a warm-up too.
    """
    freeze()  # what earlier rows left behind, so that the collections below have little to look at
    fewer = fewer or {}
    cells = {name: Cell(settings={"trials": fewer[name]} if name in fewer else {}) for name, _ in contestants}
    order = random.Random(seed)
    for trial in range(-1 if warm_up else 0, n_trials):
        for name, contestant in order.sample(list(contestants), len(contestants)):
            cell = cells[name]
            cold = trial < 0 and name in fewer and not warm_fewer
            if cold or cell.error is not None or trial >= fewer.get(name, n_trials):
                continue
            gc.collect()
            await asyncio.sleep(TURN_S)
            try:
                async with asyncio.timeout(RUN_S_MAX):
                    measured = await run(contestant, trial)
            except Exception as error:  # the row goes on without it, and says so
                cell.error = f"{type(error).__name__}: {error}"
                cell.trials.clear()
                continue
            if trial >= 0:
                cell.trials.append(measured)
                cell.latencies_ns.extend(measured.latencies_ns)
    return cells


def keep_best(cells: dict[str, Cell], variants: Mapping[str, tuple[str, int]]) -> dict[str, Cell]:
    """Return the cells with, of each contestant's variants, only the one with the highest median rate.

    Args:
        cells: By entry.
        variants: Entry to contestant and number of threads; entries that are not in it stay as they are.
    """
    kept: dict[str, Cell] = {}
    for entry, cell in cells.items():
        name, n_threads = variants.get(entry, (entry, 0))
        if n_threads:
            cell.settings["threads"] = n_threads
        if name not in kept or (cell.rate or 0.0) > (kept[name].rate or 0.0):
            kept[name] = cell
    return kept


async def timed_chunks(
    chunks: Iterable[T],
    run: Callable[[T], Awaitable[Any]],
    *,
    seconds_max: float,
    size: Callable[[T], int],
    check: Callable[[T, Any], None] | None = None,
) -> Trial:
    """Return the time ``run`` takes for the chunks, until they or ``seconds_max`` of timed region end.

    Args:
        chunks: Inputs, each of one or more items.
        run: The timed call.
        seconds_max: No chunk is begun after this much timed region.
        size: Items of a chunk.
        check: Gets a chunk and its answers between the timed calls.
    """
    trial = Trial(0, 0.0)
    for chunk in chunks:
        start = perf_counter()
        answers = await run(chunk)
        trial.seconds += perf_counter() - start
        trial.n += size(chunk)
        if check is not None:
            check(chunk, answers)
        if trial.seconds >= seconds_max:
            break
    return trial


def freeze() -> None:
    """Take all objects that exist out of the garbage collector's sight: inputs cost no contestant a collection."""
    gc.collect()
    gc.freeze()


@dataclass(slots=True)
class Stalls:
    """What the probe saw.

    Attributes:
        longest_ms: The longest time by which a tick came late.
        n_ticks: Ticks in all.
    """

    longest_ms: float = 0.0
    n_ticks: int = 0


@asynccontextmanager
async def stall_probe(tick_ms: float = 1.0) -> AsyncIterator[Stalls]:
    """Measure how long other coroutines would have waited for the loop while the block ran."""
    stalls = Stalls()

    async def tick() -> None:
        before = perf_counter()
        while True:
            await asyncio.sleep(tick_ms / 1e3)
            now = perf_counter()
            stalls.longest_ms = max(stalls.longest_ms, (now - before) * 1e3 - tick_ms)
            stalls.n_ticks += 1
            before = now

    task = asyncio.create_task(tick())
    await asyncio.sleep(0)
    try:
        yield stalls
        await asyncio.sleep(2 * tick_ms / 1e3)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@dataclass(frozen=True, slots=True)
class Memory:
    """A process's memory in bytes: its own pages, and all that is resident with mapped files."""

    anonymous: int
    resident: int


def memory() -> Memory:
    """Return this process's memory from ``/proc/self/smaps_rollup``, after a collection."""
    gc.collect()
    rollup = Path("/proc/self/smaps_rollup").read_text()
    found = dict(re.findall(r"^(Anonymous|Rss):\s+(\d+) kB$", rollup, re.MULTILINE))
    return Memory(int(found["Anonymous"]) * 1024, int(found["Rss"]) * 1024)


def disk_bytes(folder: Path) -> int:
    """Return the bytes that the files under ``folder`` take on the device (holes take none)."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def drop_caches(folder: Path) -> str:
    """Write back and drop the cached pages of the files under ``folder``; return how.

    ``posix_fadvise`` works for everyone but leaves directories and inodes cached; where permitted, the kernel's
    ``drop_caches`` takes those too.
    """
    for path in folder.rglob("*"):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        return "posix_fadvise"
    return "posix_fadvise and drop_caches"
