"""The demo's record types: four tables that between them use every annotation.

They are what a service for flight data might declare: what is read in batches (delays, distances, weather) is a column,
what identifies a record stays in RAM, what is rarely read goes to disk, a plane's legs are a series by time, and who
is watching a flight right now is nowhere on disk.

Annotations are read when the classes are made, so this module has no ``from __future__ import annotations``.
"""

from typing import Annotated

import msgspec

import warpstore as ws

LATE_MINUTES = 15
STATIONS = ("EWR", "JFK", "LGA")


class Leg(msgspec.Struct, frozen=True, gc=False):
    """One flight in a plane's series: its departure in unix seconds, its route and its delay on arrival in minutes."""

    at: int
    route: str
    delay: int | None


class Flight(ws.Record, name="flight"):
    """A scheduled departure; its key sorts by local time, so one day is one prefix.

    A flight that never arrived has NaN as delay and time in the air: a column has one width, and NaN is its "unknown".
    """

    id: Annotated[str, ws.Key(), ws.Memory(priority="critical")]
    carrier: Annotated[str, ws.Memory()]
    origin: Annotated[str, ws.Memory()]
    dest: Annotated[str, ws.Memory()]
    departs: Annotated[int, ws.Memory(priority="low")]
    distance: Annotated[float, ws.Gpu(dtype="f4")]
    air_time: Annotated[float, ws.Gpu(dtype="f4")]
    arr_delay: Annotated[float, ws.Gpu(dtype="f4")]
    times: Annotated[dict[str, int | None], ws.Disk(compression="lz4")]
    tailnum: Annotated[str | None, ws.Auto()] = None
    note: str = ""
    speed: Annotated[
        float,
        ws.Computed(lambda c: c.distance / c.air_time * 60, of=("distance", "air_time"), batch=True),
        ws.Gpu(dtype="f4"),
    ] = ws.derived()
    late: Annotated[bool, ws.Computed(lambda f: f.arr_delay > LATE_MINUTES, of=("arr_delay",)), ws.Memory()] = (
        ws.derived()
    )
    watchers: Annotated[list[str], ws.Ephemeral(ttl="1h")] = []


class Plane(ws.Record, name="plane"):
    """An aircraft; its seats weigh it in placement, and its legs of the year are one series.

    The legs are from 2013 and are read as a whole, so their stay in RAM is longer than that is ago.
    """

    tailnum: Annotated[str, ws.Key(), ws.Memory(priority="critical")]
    seats: Annotated[int, ws.Gpu(dtype="u2", mass=True)]
    engines: Annotated[int, ws.Gpu(dtype="u1")]
    year: Annotated[int | None, ws.Memory(priority="critical")]
    papers: Annotated[dict[str, str], ws.Disk(compression="max", cache=False)]
    legs: Annotated[list[Leg], ws.Temporal(time="at", memory="50000d")] = []


class Airport(ws.Record, name="airport"):
    """A place, with the notices that came in for it, ordered by arrival and ageing from RAM to an archive."""

    faa: Annotated[str, ws.Key(), ws.Memory(priority="critical")]
    name: Annotated[str, ws.Memory(priority="low")]
    position: Annotated[list[float], ws.Gpu(dtype="2f4")]
    altitude: Annotated[float, ws.Gpu(dtype="f4")]
    zone: str | None
    notices: Annotated[list[str], ws.Temporal(memory="24h", ssd="30d", disk="365d", archive=True)] = []


class Weather(ws.Record, name="weather"):
    """An hour's observation at one of the three airports, under an int key (``weather_key``)."""

    id: Annotated[int, ws.Key(), ws.Memory()]
    temperature: Annotated[float, ws.Gpu(dtype="f4")]
    humidity: Annotated[float, ws.Gpu(dtype="f4")]
    wind: Annotated[list[float], ws.Gpu(dtype="2f4")]
    visibility: Annotated[float, ws.Gpu(dtype="f4")]
    rest: Annotated[dict[str, float | None], ws.Disk(compression="lz4")]


MODELS: list[type[ws.Record]] = [Flight, Plane, Airport, Weather]


def weather_key(station: str, at: int) -> int:
    """Return the key of the observation for the hour of ``at`` (unix seconds): hours in order, stations within an hour.

    Example:
        >>> weather_key("JFK", 7200) - weather_key("EWR", 3600)
        4
    """
    return at // 3600 * len(STATIONS) + STATIONS.index(station)
