"""Random use of series, with ageing, late items, crashes and checkpoints, equals the same use of plain lists."""

import asyncio
import datetime as dt
import random
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

import warpstore as ws
from tests.support.series import DAY, HOUR, Event, Kept, Person, Sensor, SeriesModel, Visit, open_inline
from tests.support.worlds import World, turns

KEYS = ("ann", "bob", "cid")


class PersonModel:
    """What the model knows of one person."""

    def __init__(self) -> None:
        self.deadline: float | None = None
        self.events = SeriesModel(HOUR, None)
        self.visits = SeriesModel(2 * HOUR, 2 * DAY)
        self.seen = SeriesModel(HOUR, 5 * DAY)

    @property
    def every(self) -> dict[str, SeriesModel]:
        return {"events": self.events, "visits": self.visits, "seen": self.seen}


class Driver:
    """Does the same to a store and to the model."""

    def __init__(self, world: World, rng: random.Random, mode: str) -> None:
        self.world = world
        self.rng = rng
        self.mode = mode
        self.store: ws.Store
        self.people: dict[str, PersonModel] = {}
        self.sensors: dict[int, SeriesModel] = {}
        self.n = 0
        self.log: list[str] = []

    @property
    def now(self) -> float:
        return self.world.clock.wall()

    def number(self) -> int:
        self.n += 1
        return self.n

    def live(self, key: str) -> PersonModel | None:
        person = self.people.get(key)
        if person is None or (person.deadline is not None and person.deadline <= self.now):
            return None
        return person

    def time(self) -> float:
        """Return the time of an item: mostly of now, sometimes late, sometimes equal to others."""
        back = self.rng.choice([0, 0, 0, 10, 60, HOUR, 3 * HOUR, 1.5 * DAY, 4 * DAY, 12 * DAY])
        return self.now - back

    async def open(self) -> None:
        shards = self.rng.choice([1, 2, 3])
        self.store = await open_inline(self.world, Person, Sensor, durability=self.mode, shards=shards)

    async def make_durable(self) -> None:
        await self.store.sync()

    async def step(self) -> None:
        name = self.rng.choice(
            ["append"] * 6
            + ["sensor", "sensor", "put", "put_ttl", "put_many", "insert", "note", "delete"]
            + ["advance"] * 3
            + ["age"] * 3
            + ["checkpoint", "crash", "reopen", "crash_in_age", "fail_in_age"]
        )
        self.log.append(name)
        await getattr(self, f"do_{name}")()

    async def do_append(self) -> None:
        key = self.rng.choice(KEYS)
        field = self.rng.choice(["events", "visits", "seen"])
        time, item = self.item(field)
        person = self.live(key)
        if person is None:
            with pytest.raises(ws.KeyNotFoundError):
                await self.store[Person].append(key, field, item)
            return
        await self.store[Person].append(key, field, item)
        person.every[field].append(time, item)

    def item(self, field: str) -> tuple[float, Any]:
        n, time = self.number(), self.time()
        if field == "events":
            return time, Event(at=time, what=str(n))
        if field == "visits":
            return time, Visit(when=dt.datetime.fromtimestamp(time, dt.UTC), page=n)
        return self.now, n

    async def do_sensor(self) -> None:
        key = self.rng.randrange(3)
        table = self.store[Sensor]
        if key not in self.sensors:
            await table.put(Sensor(id=key))
            self.sensors[key] = SeriesModel(-1.0, None)
        time = self.time()
        event = Event(at=time, what=str(self.number()))
        await table.append(key, "values", event)
        self.sensors[key].append(time, event)

    def record(self, key: str) -> tuple[Person, dict[str, list[Kept]]]:
        """Return a person with some items, of which those without a time field come now."""
        items = {
            field: [Kept(*self.item(field)) for _ in range(self.rng.randrange(3))] for field in ("events", "visits")
        }
        items["seen"] = [Kept(self.now, self.number()) for _ in range(self.rng.randrange(3))]
        lists = {field: [kept.item for kept in some] for field, some in items.items()}
        return Person(id=key, text="x" * 50, **lists), items

    def was_put(self, key: str, items: dict[str, list[Kept]], deadline: float | None) -> None:
        person = self.live(key)
        if person is None:
            person = self.people[key] = PersonModel()
        person.deadline = deadline
        for field, some in items.items():
            person.every[field].put(some)

    async def do_put(self) -> None:
        key = self.rng.choice(KEYS)
        record, items = self.record(key)
        await self.store[Person].put(record)
        self.was_put(key, items, None)

    async def do_put_ttl(self) -> None:
        key = self.rng.choice(KEYS)
        record, items = self.record(key)
        ttl = self.rng.choice([100.0, HOUR, 3 * HOUR])
        await self.store[Person].put(record, ttl=ttl)
        self.was_put(key, items, self.now + ttl)

    async def do_put_many(self) -> None:
        made = [(key, *self.record(key)) for key in KEYS[:2]]
        await self.store[Person].put_many([record for _, record, _ in made])
        for key, _, items in made:
            self.was_put(key, items, None)

    async def do_insert(self) -> None:
        key = self.rng.choice(KEYS)
        record, items = self.record(key)
        if self.live(key) is not None:
            with pytest.raises(ws.KeyExistsError):
                await self.store[Person].insert(record)
            return
        await self.store[Person].insert(record)
        self.was_put(key, items, None)

    async def do_note(self) -> None:
        key = self.rng.choice(KEYS)
        if self.live(key) is not None:
            await self.store[Person].update(key, note=str(self.number()))

    async def do_delete(self) -> None:
        key = self.rng.choice(KEYS)
        assert await self.store[Person].delete(key) == (self.live(key) is not None)
        self.people.pop(key, None)

    async def do_advance(self) -> None:
        self.world.clock.advance(self.rng.choice([1, 60, 0.5 * HOUR, 2 * HOUR, 0.7 * DAY, 3 * DAY]))

    def aged(self) -> None:
        for key in KEYS:
            person = self.live(key)
            for series in person.every.values() if person else ():
                series.age(self.now)
        for sensor in self.sensors.values():
            sensor.age(self.now)

    async def do_age(self) -> None:
        await self.store.age()
        self.aged()

    async def do_checkpoint(self) -> None:
        await self.store.checkpoint()

    async def do_reopen(self) -> None:
        await self.store.close()
        await self.open()

    async def do_crash(self) -> None:
        await self.make_durable()
        crashed = self.world.crashed()
        await self.go_on_in(crashed)

    async def go_on_in(self, crashed: World) -> None:
        await self.store.close()
        shutil.rmtree(self.world.path)
        self.world = crashed
        await self.open()

    async def do_crash_in_age(self) -> None:
        """Let the process die at some call of the file system while items age."""
        await self.make_durable()
        images: list[World] = []
        left = self.rng.randrange(60)

        def before(operation: str, path: str) -> None:
            nonlocal left
            if threading.current_thread() is not threading.main_thread():
                return  # the loop goes on beside the lane's threads: a copy made there would be of many moments
            left -= 1
            if left == 0:
                images.append(self.world.crashed())

        self.world.files.before = before  # type: ignore[method-assign]
        ageing = asyncio.ensure_future(self.store.age())
        await turns(self.rng.randrange(1, 40))
        if not images and self.rng.random() < 0.5:
            images.append(self.world.crashed())
        await ageing
        del self.world.files.before  # type: ignore[attr-defined]
        if images:
            await self.go_on_in(images[0])
            await self.check()  # before and after the interrupted move is settled
            await self.store.age()
        self.aged()

    async def do_fail_in_age(self) -> None:
        operation = self.rng.choice(["create", "write", "sync", "rename", "sync_directory", "read", "open"])
        part = self.rng.choice(["series", "MANIFEST"])
        fault = self.world.files.fail(operation, part, times=1)
        try:
            await self.store.age()
        except ws.UnavailableError:
            assert fault.n_failed
        self.world.files.faults.clear()
        await self.check()
        await self.store.age()
        self.aged()

    async def check(self) -> None:
        now = self.now
        since, until = sorted(
            [now - self.rng.choice([0, 60, HOUR, 2 * DAY, 6 * DAY]), now - self.rng.choice([0, 60, DAY])]
        )
        for low, high in ((None, None), (since, until), (None, since), (until, None)):
            for key in KEYS:
                person = self.live(key)
                for field in ("events", "visits", "seen"):
                    wanted = [] if person is None else person.every[field].window(now, low, high)
                    found = await self.store[Person].window(key, field, low, high)
                    assert found == wanted, (key, field, low, high, self.log[-12:])
            for number, sensor in self.sensors.items():
                assert await self.store[Sensor].window(number, "values", low, high) == sensor.window(now, low, high)


@pytest.mark.parametrize("mode", ["fsync", "interval", "memory"])
@pytest.mark.parametrize("seed", range(4))
async def test_windows_equal_plain_lists_whatever_happens(tmp_path: Path, seed: int, mode: str) -> None:
    rng = random.Random(f"{seed} {mode}")
    driver = Driver(World(tmp_path / "store"), rng, mode)
    await driver.open()
    for _ in range(60):
        await driver.step()
        await driver.check()
    await driver.store.close()
    driver.world.assert_nothing_left()
