"""Items that age: a year of weather goes from RAM to ssd, to disk and to an archive, by a clock that the demo sets.

A store asks the `Environment` that it is opened with for the time. Here that is a calendar which stands still until
it is set forward, so two years pass in seconds.

Annotations are read when the classes are made, so this module has no ``from __future__ import annotations``.
"""

import time
from datetime import UTC, datetime, timedelta
from math import isnan
from pathlib import Path
from typing import Annotated

import msgspec

import warpstore as ws
from warpstore.demo.data import Dataset
from warpstore.demo.models import STATIONS
from warpstore.demo.report import Report, Stopwatch, duration

YEAR = 2013
SHOWN_MONTHS = (1, 3, 6, 12)
"""What lies where is shown after these months of the year."""

WINDS_DAYS = 30
"""How long a wind is kept."""


class Reading(msgspec.Struct, frozen=True, gc=False):
    """What a station measured at a time, in unix seconds."""

    at: int
    value: float


class Station(ws.Record, name="station"):
    """A weather station: its temperatures are kept for ever, its winds for 30 days."""

    id: Annotated[str, ws.Key()]
    temperatures: Annotated[
        list[Reading], ws.Temporal(time="at", memory="7d", ssd="60d", disk="180d", archive=True)
    ] = []
    winds: Annotated[list[Reading], ws.Temporal(time="at", memory="7d", ssd=f"{WINDS_DAYS}d")] = []


class Calendar:
    """A `ws.Clock` whose wall time stands still until it is set; durations are real.

    Attributes:
        now: The wall time.
    """

    def __init__(self, now: datetime) -> None:
        self.now = now

    def monotonic(self) -> float:
        """Return seconds of the system's monotonic clock."""
        return time.monotonic()

    def wall(self) -> float:
        """Return the time that was set, in seconds since the epoch."""
        return self.now.timestamp()


async def show_ageing(report: Report, path: Path, data: Dataset) -> None:
    """Let a year of weather come in month by month, then another year pass."""
    report.section(
        "Items that age", "temperatures: 7 days in RAM, 60 on ssd, 180 on disk, then the archive; winds: 30 days in all"
    )
    calendar = Calendar(datetime(YEAR, 1, 1, tzinfo=UTC))
    coming = _by_month(data)
    watch = Stopwatch()
    async with ws.open(path, models=[Station], environment=ws.Environment(clock=calendar)) as store:
        ageing = _Ageing(store, calendar)
        for month in range(1, 13):
            calendar.now = datetime(YEAR + month // 12, month % 12 + 1, 1, tzinfo=UTC)
            await ageing.receive({station: coming[station, month] for station in STATIONS})
            if month in SHOWN_MONTHS:
                await ageing.show()
        calendar.now += timedelta(days=365)
        await store.age()
        await ageing.show()
        left = store.statistics().series.n_items
    report.table("the clock says", "RAM", "ssd", "disk", "archive", "gone", rows=ageing.rows, right=1)
    report.figure(f"{ageing.n_received:,} readings aged through two years", duration(watch.seconds))
    n_temperatures = sum(map(len, ageing.temperatures.values()))
    report.check(ageing.n_wrong == 0, "every window has all that is within its horizon", f"{ageing.n_looks} windows")
    evidence = f"{left.get('archive', 0):,} of {n_temperatures:,}"
    report.check(left == {"archive": n_temperatures}, "in the end the archive has every temperature", evidence)
    report.check(await _winds(path, calendar) == 0, "and the winds are gone, also after reopening")


class _Ageing:
    """A store of stations over time, and what was put into it.

    Attributes:
        temperatures: By station, every temperature so far.
        winds: By station, every wind so far.
        n_received: Readings put so far.
        n_looks: Windows read.
        n_wrong: Those that were not what they should be.
        rows: What lay where, at each time that was shown.
    """

    def __init__(self, store: ws.Store, calendar: Calendar) -> None:
        self.temperatures: dict[str, list[Reading]] = {station: [] for station in STATIONS}
        self.winds: dict[str, list[Reading]] = {station: [] for station in STATIONS}
        self.n_received = 0
        self.n_looks = 0
        self.n_wrong = 0
        self.rows: list[tuple[str, ...]] = []
        self._store = store
        self._table = store[Station]
        self._calendar = calendar

    async def receive(self, stations: dict[str, Station]) -> None:
        """Age what is there, put what is new beside it, and age that."""
        await self._store.age()
        await self._table.put_many(stations.values())  # a put takes the place of what is in RAM, which has left it
        for name, station in stations.items():
            self.temperatures[name] += station.temperatures
            self.winds[name] += station.winds
            self.n_received += len(station.temperatures) + len(station.winds)
        await self._store.age()

    async def look(self) -> None:
        """Compare every window with what was put."""
        since = self._calendar.wall() - WINDS_DAYS * 86_400
        for name in STATIONS:
            winds = [reading for reading in self.winds[name] if reading.at >= since]
            self.n_wrong += await self._table.window(name, "temperatures") != self.temperatures[name]
            self.n_wrong += await self._table.window(name, "winds") != winds
            self.n_looks += 2

    async def show(self) -> None:
        """Compare every window with what was put, and note what lies where."""
        await self.look()
        in_files = self._store.statistics().series.n_items
        stations = await self._table.get_many(STATIONS)
        in_ram = sum(len(station.temperatures) + len(station.winds) for station in stations if station is not None)
        counts = [in_ram, *(in_files.get(tier, 0) for tier in ("ssd", "disk", "archive"))]
        counts.append(self.n_received - sum(counts))
        self.rows.append((f"{self._calendar.now:%Y-%m-%d}", *(f"{count:,}" for count in counts)))


def _by_month(data: Dataset) -> dict[tuple[str, int], Station]:
    """Return what each station measured in each month of the year."""
    found = {(name, month): Station(id=name) for name in STATIONS for month in range(1, 13)}
    for observation in data.weather:
        hour, number = divmod(observation.id, len(STATIONS))
        at = hour * 3600
        moment = datetime.fromtimestamp(at, UTC)
        if moment.year != YEAR:
            continue
        station = found[STATIONS[number], moment.month]
        for series, value in ((station.temperatures, observation.temperature), (station.winds, observation.wind[0])):
            if not isnan(value):
                series.append(Reading(at, value))
    return found


async def _winds(path: Path, calendar: Calendar) -> int:
    async with ws.open(path, models=[Station], environment=ws.Environment(clock=calendar)) as store:
        return sum([len(await store[Station].window(name, "winds")) for name in STATIONS])
