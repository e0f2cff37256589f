"""Reading what was loaded in every way, each answer checked against the source."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from math import isnan

import numpy as np
from numpy.typing import NDArray

import warpstore as ws
from warpstore.demo.data import Dataset
from warpstore.demo.models import Flight, Plane, Weather, weather_key
from warpstore.demo.report import Report, duration, per_second, timed
from warpstore.demo.same import facts

DAY = "2013-01-15"
N_GETS = 20_000
N_LOOKUPS = 100_000


async def read(report: Report, store: ws.Store, data: Dataset) -> None:
    """Run every kind of read."""
    report.section("Reading", "gets, columns, a range, an aggregate; every answer is compared with the files")
    draw = random.Random(2013)
    await _single_gets(report, store[Flight], data.flights, draw)
    await _column_lookup(report, store[Flight], data.flights, draw)
    await _join_with_weather(report, store[Weather], data, draw)
    await _scan_of_a_day(report, store[Flight], data.flights)
    await _series(report, store[Plane], data.planes)
    await _delay_by_carrier(report, store[Flight], data)


async def _single_gets(report: Report, table: ws.Table[Flight], flights: list[Flight], draw: random.Random) -> None:
    wanted = draw.choices(flights, k=N_GETS)
    found, took_ns = [], []
    for flight in wanted:
        began = time.perf_counter_ns()
        answer = await table.get(flight.id)
        took_ns.append(time.perf_counter_ns() - began)
        found.append(answer)
    right = sum(f is not None and facts(f) == facts(w) for f, w in zip(found, wanted, strict=True))
    p50, p99 = np.percentile(took_ns, [50, 99]) / 1e9
    report.check(
        right == N_GETS,
        f"{N_GETS:,} single gets of random flights are right",
        f"p50 {duration(p50)}, p99 {duration(p99)}",
    )


async def _column_lookup(report: Report, table: ws.Table[Flight], flights: list[Flight], draw: random.Random) -> None:
    """Look up a column for 100,000 keys in random order, one in a hundred of them absent."""
    positions = draw.choices(range(len(flights)), k=N_LOOKUPS)
    for place in range(0, N_LOOKUPS, 100):
        positions[place] = -1
    keys = np.array([flights[p].id if p >= 0 else "2014-01-01T00:00|--|0|EWR-JFK" for p in positions])
    at = np.array(positions)
    with timed() as watch:
        await table.column("distance").lookup(keys[:1])
    report.figure("columns built, at the first lookup in them", duration(watch.seconds))
    for name in ("arr_delay", "distance", "speed"):
        with timed() as watch:
            values, found = await table.column(name).lookup(keys)
        expected = _source_column(flights, name)[at]
        rtol = 1e-6 if name == "speed" else 0.0  # computed: in the width of its columns or in Python's
        right = bool((found == (at >= 0)).all())
        right = right and np.allclose(values[found], expected[at >= 0], rtol=rtol, atol=0.0, equal_nan=True)
        evidence = f"{duration(watch.seconds)}, {per_second(N_LOOKUPS, watch.seconds)}"
        report.check(right, f"{name} for {N_LOOKUPS:,} keys, 1,000 of them absent", evidence)


def _source_column(flights: list[Flight], name: str) -> NDArray[np.float32]:
    if name == "speed":
        distance, air_time = _source_column(flights, "distance"), _source_column(flights, "air_time")
        return (distance.astype("f8") / air_time * 60).astype("f4")
    return np.fromiter((getattr(flight, name) for flight in flights), "f4", len(flights))


async def _join_with_weather(report: Report, table: ws.Table[Weather], data: Dataset, draw: random.Random) -> None:
    """Look up the temperature at departure for as many flights: int keys, which the column holds in order."""
    wanted = draw.choices(data.flights, k=N_LOOKUPS)
    keys = np.fromiter((weather_key(f.origin, f.departs) for f in wanted), "i8", N_LOOKUPS)
    await table.column("temperature").lookup(keys[:1])
    with timed() as watch:
        values, found = await table.column("temperature").lookup(keys)
    source = {observation.id: observation.temperature for observation in data.weather}
    expected = np.fromiter((source.get(key, np.nan) for key in keys.tolist()), "f4", N_LOOKUPS)
    seen = np.fromiter((key in source for key in keys.tolist()), "bool", N_LOOKUPS)
    right = bool((found == seen).all()) and np.array_equal(values[found], expected[seen], equal_nan=True)
    evidence = f"{duration(watch.seconds)}, {per_second(N_LOOKUPS, watch.seconds)}"
    report.check(right, f"temperature at departure for {N_LOOKUPS:,} flights", evidence)


async def _scan_of_a_day(report: Report, table: ws.Table[Flight], flights: list[Flight]) -> None:
    expected = sorted(flight.id for flight in flights if flight.id.startswith(DAY))
    with timed() as watch:
        ids = [flight.id async for flight in table.scan(prefix=DAY)]
    report.check(
        ids == expected,
        f"a scan of {DAY} gives the day in order",
        f"{len(ids)} in {duration(watch.seconds)}",
    )
    backwards = [flight.id async for flight in table.scan(prefix=DAY, reverse=True, limit=100)]
    report.check(
        backwards == expected[::-1][:100],
        "backwards, the last 100 of the day",
        f"from {backwards[0] if backwards else '-'}",
    )


async def _series(report: Report, table: ws.Table[Plane], planes: list[Plane]) -> None:
    """Read the plane with the most legs; its series is in the order of time."""
    busiest = max(planes, key=lambda plane: len(plane.legs))
    found = await table.get(busiest.tailnum)
    right = found is not None and found.legs == busiest.legs
    report.check(right, f"the legs of {busiest.tailnum} are a series in order of time", f"{len(busiest.legs)} legs")


async def _delay_by_carrier(report: Report, table: ws.Table[Flight], data: Dataset) -> None:
    """Aggregate the mean delay by carrier, once by a scan of whole records and once by column, against plain Python."""
    expected: dict[str, list[float]] = defaultdict(list)
    for flight in data.flights:
        if not isnan(flight.arr_delay):
            expected[flight.carrier].append(flight.arr_delay)

    sums: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    with timed() as watch:
        async for flight in table.scan():
            if not isnan(flight.arr_delay):
                sums[flight.carrier] += flight.arr_delay
                counts[flight.carrier] += 1
    scanned = {carrier: (counts[carrier], sums[carrier]) for carrier in sums}
    right = scanned == {carrier: (len(delays), sum(delays)) for carrier, delays in expected.items()}
    report.check(
        right,
        "mean delay by carrier, by a scan of all flights",
        f"{len(sums)} carriers, {duration(watch.seconds)}",
    )

    keys = np.array([flight.id for flight in data.flights])
    carriers, groups = np.unique([flight.carrier for flight in data.flights], return_inverse=True)
    with timed() as watch:
        values, found = await table.column("arr_delay").lookup(keys)
        known = found & ~np.isnan(values)
        totals = np.bincount(groups[known], values[known], len(carriers))
    by_column = dict(zip(carriers.tolist(), totals.tolist(), strict=True))
    report.check(by_column == dict(sums), "the same by a column lookup of all keys", duration(watch.seconds))

    ranked = sorted(sums, key=lambda carrier: sums[carrier] / counts[carrier])
    rows = [
        (data.airlines[carrier], f"{counts[carrier]:,}", f"{sums[carrier] / counts[carrier]:+.1f} min")
        for carrier in (*ranked[:3], *ranked[-3:])
    ]
    report.table("the three most and least punctual", "arrivals", "mean delay", rows=rows, right=1)
