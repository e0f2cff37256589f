"""Closing the store and opening it again: what must have stayed has, what must be gone is."""

from __future__ import annotations

from pathlib import Path

import warpstore as ws
from warpstore.demo.changing import Changed
from warpstore.demo.models import MODELS, Airport, Flight
from warpstore.demo.report import Report, Stopwatch, duration


async def reopen(report: Report, path: Path, changed: Changed) -> None:
    """Open the closed store, time its first get, and check what it knows."""
    report.section(
        "Closed and opened again", "what was changed must have stayed; what was ephemeral, deleted or expired, not"
    )
    watch = Stopwatch()
    async with ws.open(path, models=MODELS) as store:
        table = store[Flight]
        flight = await table.get(changed.updated)
        report.figure("open and first get", duration(watch.seconds))
        assert flight is not None
        report.check(flight.note == changed.note and flight.late, "updates and modifications stayed")
        report.check(flight.watchers == [], "the ephemeral field has its default again")
        airport = await store[Airport].get("JFK")
        report.check(airport is not None and len(airport.notices) == 3, "the appended notices stayed")
        back = [key for key in (*changed.deleted, changed.expired) if await table.contains(key)]
        report.check(not back, "nothing deleted or expired came back", f"{len(changed.deleted) + 1} keys")
        count = await table.count()
        report.check(count == changed.n_flights, "the count is right", f"{count:,} flights")
