"""Changing records: update, modify, conditional and refused writes, append, ephemeral values, TTL, delete."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import warpstore as ws
from warpstore.demo.models import LATE_MINUTES, Airport, Flight
from warpstore.demo.report import Report, duration, timed

N_MODIFIERS = 200
TTL_S = 0.4
WATCHER = "a name that no file may hold"


@dataclass(frozen=True, slots=True)
class Changed:
    """What a reopened store must know.

    Attributes:
        updated: Key of the flight that was updated, modified and watched.
        note: That flight's note.
        deleted: Keys that were deleted.
        expired: Key of the flight whose time to live ran out.
        n_flights: Flights that are left.
    """

    updated: str
    note: str
    deleted: list[str]
    expired: str
    n_flights: int


async def change(report: Report, store: ws.Store, path: Path, flights: list[Flight]) -> Changed:
    """Change some flights and an airport, checking each effect."""
    report.section("Changing", "update, modify, conditional writes, append, ephemeral values, TTL, delete")
    table = store[Flight]
    key = flights[0].id
    await _update(report, table, key)
    note = await _modify(report, table, key)
    await _refusals(report, table, key)
    await _append(report, store[Airport])
    await _ephemeral(report, store, path, key, note)
    expired = await _time_to_live(report, table, key)
    deleted = await _delete(report, table, [flight.id for flight in flights[1:101]])
    return Changed(key, note, deleted, expired, len(flights) - len(deleted))


async def _update(report: Report, table: ws.Table[Flight], key: str) -> None:
    await table.update(key, arr_delay=float(LATE_MINUTES + 30))
    flight = await table.get(key)
    delays, _ = await table.column("arr_delay").lookup(np.array([key]))
    seen = flight is not None and flight.arr_delay == delays[0] == LATE_MINUTES + 30
    report.check(seen, "an updated delay is seen by get and column", f"{delays[0]:.0f} min")
    report.check(flight is not None and flight.late, "the field computed from it was renewed", "late = True")


async def _modify(report: Report, table: ws.Table[Flight], key: str) -> str:
    """Let many tasks each add a character to one note at once."""

    def add(flight: Flight) -> None:
        flight.note += "x"

    with timed() as watch:
        await asyncio.gather(*(table.modify(key, add) for _ in range(N_MODIFIERS)))
    flight = await table.get(key)
    note = flight.note if flight is not None else ""
    report.check(
        len(note) == N_MODIFIERS,
        f"{N_MODIFIERS} tasks modify one flight at once, none lost",
        duration(watch.seconds),
    )
    return note


async def _refusals(report: Report, table: ws.Table[Flight], key: str) -> None:
    flight, version = await table.get_with_version(key)
    assert flight is not None
    await table.update(key, tailnum="N00000")
    await _refused(
        report, ws.VersionConflictError, "a put with an outdated version", table.put(flight, if_version=version)
    )
    await _refused(report, ws.KeyExistsError, "an insert of a key that is there", table.insert(flight))
    flight.distance = "far"  # type: ignore[assignment]
    await _refused(report, ws.ValidationError, "a put of a text as distance", table.put(flight))
    after = await table.get(key)
    kept = after is not None and after.tailnum == "N00000" and after.distance > 0
    report.check(kept, "none of the refused writes left a trace")


async def _refused(report: Report, error: type[Exception], what: str, write: Awaitable[object]) -> None:
    try:
        await write
    except error:
        report.check(True, f"{what} is refused", error.__name__)
    else:
        report.check(False, f"{what} is refused", "it was accepted")


async def _append(report: Report, table: ws.Table[Airport]) -> None:
    notices = ["runway 04L closed until 06:00", "de-icing at gate 22", "runway 04L open"]
    for notice in notices:
        await table.append("JFK", "notices", notice)
    airport = await table.get("JFK")
    kept = airport is not None and airport.notices == notices
    report.check(kept, "appended notices keep their order", f"{len(notices)} notices")


async def _ephemeral(report: Report, store: ws.Store, path: Path, key: str, note: str) -> None:
    """Set an ephemeral value, then search every file of the store for it, and for a durable one as a control."""
    table = store[Flight]
    await table.update(key, watchers=[WATCHER])
    await store.sync()
    flight = await table.get(key)
    report.check(flight is not None and flight.watchers == [WATCHER], "an ephemeral value is read back")
    contents = await asyncio.to_thread(_contents, path)
    in_a_file = any(WATCHER.encode() in content for content in contents)
    control = any(note.encode() in content for content in contents)
    n_bytes = sum(map(len, contents))
    report.check(control and not in_a_file, "it is in no file of the store, the note is", f"{n_bytes:,} B searched")


def _contents(path: Path) -> list[bytes]:
    return [file.read_bytes() for file in path.rglob("*") if file.is_file()]


async def _time_to_live(report: Report, table: ws.Table[Flight], key: str) -> str:
    flight = await table.get(key)
    assert flight is not None
    flight.id = f"{key}-short-lived"
    loop = asyncio.get_running_loop()
    deadline = loop.time() + TTL_S
    await table.put(flight, ttl=TTL_S)
    there = await table.contains(flight.id)
    while (left := await table.contains(flight.id)) and loop.time() < deadline + 5:  # noqa: ASYNC110 nothing announces it
        await asyncio.sleep(0.02)
    late_s = loop.time() - deadline
    report.check(there and not left and late_s >= 0, f"a TTL of {TTL_S} s ends a record, not early")
    return flight.id


async def _delete(report: Report, table: ws.Table[Flight], keys: list[str]) -> list[str]:
    before = await table.count()
    await table.delete(keys[0])
    await table.delete_many(keys[1:])
    _, found = await table.column("arr_delay").lookup(np.array(keys))
    gone = not found.any() and set(await table.get_many(keys)) == {None}
    report.check(gone, "deleted flights are gone for get and column", f"{len(keys)} flights")
    report.check(await table.count() == before - len(keys), "and are counted no more", f"{before - len(keys):,} left")
    return keys
