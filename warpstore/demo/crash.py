"""Killing a writer in mid-load with SIGKILL and finding again everything that it was told is durable.

The writer is a process of its own (``writer.py``). What it reported on its pipe before it died was acknowledged; every
flight of these batches must be there, whole and right. Each of its tasks had at most one batch in flight: flights of
these may be there or not, and what is there must be right too.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import warpstore as ws
from warpstore.demo.models import MODELS, Flight
from warpstore.demo.report import Report, Stopwatch, duration
from warpstore.demo.same import facts
from warpstore.demo.writer import BATCH, N_TASKS

KILL_AFTER_BATCHES = 80
MOMENT_S_MAX = 0.02  # the kill falls at a random moment of the rounds of writing and syncing


async def kill_and_recover(report: Report, path: Path, flights: list[Flight]) -> None:
    """Run a writer, kill it, reopen its store, and compare."""
    about = f"a child process stores batches of {BATCH} from {N_TASKS} tasks and is killed (SIGKILL)"
    report.section("Crash and recovery", about)
    writer = await asyncio.create_subprocess_exec(sys.executable, "-m", "warpstore.demo.writer", str(path), stdout=PIPE)
    acknowledged = await _kill_in_mid_load(writer)
    promised = [f for number in sorted(acknowledged) for f in flights[number * BATCH : (number + 1) * BATCH]]
    report.check(writer.returncode == -signal.SIGKILL, "the writer was killed", f"exit status {writer.returncode}")
    in_mid_load = 0 < len(promised) < len(flights)
    report.check(in_mid_load, "it was in the middle of its load", f"{len(promised):,} acknowledged")

    watch = Stopwatch()
    async with ws.open(path, models=MODELS) as store:
        report.figure("reopened, log replayed", duration(watch.seconds))
        table = store[Flight]
        found = await table.get_many([flight.id for flight in promised])
        lost = sum(flight is None for flight in found)
        report.check(lost == 0, "every acknowledged flight is there", f"{len(promised) - lost:,} of {len(promised):,}")
        wrong = sum(f is not None and facts(f) != facts(p) for f, p in zip(found, promised, strict=True))
        report.check(wrong == 0, "each is what was written", f"{wrong} differ")

        source = {flight.id: flight for flight in flights}
        present = strange = 0
        async for flight in table.scan():
            present += 1
            expected = source.get(flight.id)
            strange += expected is None or facts(flight) != facts(expected)
        in_flight = present - len(promised)
        few = 0 <= in_flight <= N_TASKS * BATCH
        report.check(few and not strange, "all else there was in flight, and is right", f"{in_flight:,} flights")


async def _kill_in_mid_load(writer: Process) -> set[int]:
    """Kill the writer after some batches, and return the numbers of all that it reported before it died."""
    assert writer.stdout is not None
    acknowledged: set[int] = set()
    while line := await writer.stdout.readline():
        acknowledged.add(int(line))
        if len(acknowledged) == KILL_AFTER_BATCHES:
            await asyncio.sleep(random.uniform(0.0, MOMENT_S_MAX))
            writer.kill()
    await writer.wait()
    return acknowledged
