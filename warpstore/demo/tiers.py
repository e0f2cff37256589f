"""Data that moves: more of it than memory may hold, and a field that a new declaration puts elsewhere.

Annotations are read when the class is made, so this module has no ``from __future__ import annotations``.
"""

from pathlib import Path
from typing import Annotated, Any

import warpstore as ws
from warpstore.demo.changing import Changed
from warpstore.demo.data import Dataset
from warpstore.demo.models import MODELS, Airport, Flight
from warpstore.demo.report import Report, Stopwatch, duration, size
from warpstore.demo.same import facts

BATCH = 4_096
CAP_SHARE = 4
"""Memory may hold one part in so many of what the checkpoints hold."""

CAP_BYTES_MIN = 2 << 20


class MovedAirport(ws.Record, name="airport"):
    """An `Airport` as a later release declares it: its name is on disk."""

    faa: Annotated[str, ws.Key(), ws.Memory(priority="critical")]
    name: Annotated[str, ws.Disk(compression="lz4")]
    position: Annotated[list[float], ws.Gpu(dtype="2f4")]
    altitude: Annotated[float, ws.Gpu(dtype="f4")]
    zone: str | None
    notices: Annotated[list[str], ws.Temporal(memory="24h", ssd="30d", disk="365d", archive=True)] = []


async def show_tiers(report: Report, path: Path, data: Dataset, changed: Changed) -> None:
    """Read the closed store under a cap on memory, then move a field from RAM to disk, and back."""
    report.section("More data than memory", "under ram= what is in the checkpoint leaves first; reads bring it back")
    await _read_under_cap(report, path, data, changed)
    report.section(
        "A field moves to disk", "a later release declares it so; the plan first, then one go, and a way back"
    )
    await _move_a_field(report, path)


async def _read_under_cap(report: Report, path: Path, data: Dataset, changed: Changed) -> None:
    async with ws.open(path, models=MODELS) as store:
        stored = sum(table.checkpointed_bytes for table in store.statistics().tables)
    cap = max(CAP_BYTES_MIN, stored // CAP_SHARE)
    touched = {changed.updated, changed.expired, *changed.deleted}
    async with ws.open(path, models=MODELS, ram=cap) as store:
        flights = [flight for flight in data.flights if flight.id not in touched]
        most, wrong, watch = 0, 0, Stopwatch()
        for start in range(0, len(flights), BATCH):
            part = flights[start : start + BATCH]
            found = await store[Flight].get_many([flight.id for flight in part])
            wrong += sum(1 for flight, read in zip(part, found, strict=True) if not _is_as_loaded(flight, read))
            most = max(most, store.statistics().resident_bytes)
        report.figure(f"{len(flights):,} flights read, {size(stored)} stored, cap {size(cap)}", duration(watch.seconds))
        report.check(most <= cap, "memory stayed within its cap", f"at most {size(most)}")
        report.check(wrong == 0, "every flight is as it was loaded", f"{wrong} differ")


def _is_as_loaded(flight: Flight, read: Flight | None) -> bool:
    return read is not None and facts(flight) == facts(read)


async def _move_a_field(report: Report, path: Path) -> None:
    before = await _names(path, Airport)
    plan = ws.migration_plan(path, [MovedAirport])
    for line in plan.text().splitlines():
        report.line(f"      [dim]{line}[/]")
    watch = Stopwatch()
    await ws.migrate(path, [MovedAirport], plan=plan)
    report.figure("migrated", duration(watch.seconds))
    report.check(await _names(path, MovedAirport) == before, "every name is as it was, read from disk")
    ws.roll_back(path, discard_writes=True)
    report.check(await _names(path, Airport) == before, "and again after going back to the earlier release")


async def _names(path: Path, model: type[Any]) -> dict[str, str]:
    async with ws.open(path, models=[model]) as store:
        return {airport.faa: airport.name async for airport in store[model].scan()}
