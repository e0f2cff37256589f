"""Records with series, a plain-list model of what a window must give, and a runner that needs no threads."""

import asyncio
import dataclasses
import datetime as dt
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import msgspec

import warpstore as ws
from tests.support.worlds import SMALL, World
from warpstore.store import Opening

T = TypeVar("T")
HOUR, DAY = 3600.0, 86400.0


class Event(msgspec.Struct):
    """An item with unix seconds."""

    at: float
    what: str = ""


class Visit(msgspec.Struct):
    """An item with a datetime."""

    when: dt.datetime
    page: int = 0


class Person(ws.Record):
    """A record with series of every kind, beside other fields."""

    id: Annotated[str, ws.Key()]
    events: Annotated[list[Event], ws.Temporal(time="at", memory="1h", ssd="1d", disk="10d", archive=True)] = []
    visits: Annotated[list[Visit], ws.Temporal(time="when", memory="2h", ssd="2d")] = []
    seen: Annotated[list[int], ws.Temporal(memory="1h", disk="5d")] = []
    text: Annotated[str, ws.Disk()] = ""
    note: str = ""


class Sensor(ws.Record):
    """A record of another table, with an int key, whose items go to files at once."""

    id: Annotated[int, ws.Key()]
    values: Annotated[list[Event], ws.Temporal(time="at", ssd="1d", archive=True)] = []


class InlineRunner:
    """Runs blocking calls at once, so that what a call does is one step of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __call__(self, call: Callable[[], T]) -> Awaitable[T]:
        done: asyncio.Future[T] = self._loop.create_future()
        try:
            done.set_result(call())
        except Exception as error:  # noqa: BLE001 - the caller's, as from a thread
            done.set_exception(error)
        return done

    def close(self) -> None:
        """Do nothing."""


def open_inline(world: World, *models: type[ws.Record], **settings: Any) -> Opening:
    """Open the store of a world so that its blocking calls run on the loop."""
    environment = dataclasses.replace(world.environment, runner=InlineRunner)
    return ws.open(world.path, models=models, environment=environment, **SMALL | settings)


@dataclasses.dataclass
class Kept:
    """An item as the model has it."""

    time: float
    item: Any


class SeriesModel:
    """One series of one record as plain lists.

    Attributes:
        here: The items in the record, by time.
        aged: Those that left it.
    """

    def __init__(self, memory: float, last: float | None) -> None:
        self.memory = memory
        self.last = last
        self.here: list[Kept] = []
        self.aged: list[Kept] = []

    def append(self, time: float, item: Any) -> None:
        self.here.append(Kept(time, item))
        self.here.sort(key=lambda kept: kept.time)

    def put(self, items: list[Kept]) -> None:
        self.here = sorted(items, key=lambda kept: kept.time)

    def age(self, now: float) -> None:
        self.aged += [kept for kept in self.here if now - kept.time > self.memory]
        self.here = [kept for kept in self.here if now - kept.time <= self.memory]

    def window(self, now: float, since: float | None, until: float | None) -> list[Any]:
        """Return what a window must give."""
        every = sorted([*self.aged, *self.here], key=lambda kept: kept.time)
        return [
            kept.item
            for kept in every
            if (since is None or kept.time >= since)
            and (until is None or kept.time < until)
            and (self.last is None or now - kept.time <= self.last)
        ]
