"""Items leave their record and go from place to place as they age; no crash, fault or race loses or doubles one."""

import asyncio
import errno
import os
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import pytest

import warpstore as ws
from tests.support.series import DAY, HOUR, Event, Person, Sensor, open_inline
from tests.support.worlds import MODES, World, turns, until, world_in
from warpstore.temporal import ager


def whats(items: list[Any]) -> list[str]:
    return [item.what for item in items]


def tiers(store: ws.Store) -> dict[str, int]:
    """Return the items by tier, in files that count."""
    return store.statistics().series.n_items


@pytest.mark.parametrize("mode", MODES)
async def test_items_go_through_every_place(tmp_path: Path, mode: str) -> None:
    async with world_in(tmp_path) as world, world.open(Person, durability=mode) as store:
        table = store[Person]
        await table.put(Person(id="a", events=[Event(at=world.clock.wall(), what="x")], note="n"))
        for advance, place in (
            (0.5 * HOUR, None),
            (HOUR, "ssd"),
            (2 * DAY, "disk"),
            (10 * DAY, "archive"),
            (999 * DAY, "archive"),
        ):
            world.clock.advance(advance)
            await store.age()
            assert tiers(store) == ({} if place is None else {place: 1})
            assert whats(await table.window("a", "events")) == ["x"]
            person = await table.get("a")
            assert person is not None
            assert (len(person.events), person.note) == (int(place is None), "n")
        assert sorted(path.name for path in (Path(world.path) / "series").iterdir()) == ["archive", "disk", "ssd"]
        assert len(list(Path(world.path).rglob("*.ser"))) == 1
        assert store.statistics().series.n_items_moved == 1
        assert list(store.tables) == ["person"]


async def test_items_past_the_last_horizon_are_never_returned_and_their_files_go(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world, world.open(Person) as store:
        for n in range(3):
            await store[Person].put(Person(id=str(n), seen=[n]))
        world.clock.advance(2 * HOUR)
        await store.age()
        assert tiers(store) == {"disk": 3}
        world.clock.advance(5 * DAY)
        assert await store[Person].window("1", "seen") == []
        assert tiers(store) == {"disk": 3}
        await store.age()
        assert tiers(store) == {}
        assert list(Path(world.path).rglob("*.ser")) == []
        await store[Person].append("1", "events", Event(at=0.0, what="archived at once"))
        await store.age()
        assert tiers(store) == {"archive": 1}


async def test_a_put_replaces_what_is_in_memory_and_leaves_what_is_older(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world, world.open(Person) as store:
        table, now = store[Person], world.clock.wall()
        await table.put(Person(id="a", events=[Event(at=now, what="old")]))
        world.clock.advance(2 * HOUR)
        await store.age()
        await table.put(Person(id="a", events=[Event(at=now + 7200, what="new")]))
        await table.put_many([Person(id="a", events=[Event(at=now + 7200, what="newer")])])
        assert whats(await table.window("a", "events")) == ["old", "newer"]
        assert await table.delete("a")
        assert not await table.delete("a")
        assert await table.window("a", "events") == []
        await table.insert(Person(id="a"))
        assert await table.window("a", "events") == []
        await table.append("a", "events", Event(at=now, what="late"))
        await store.age()
        assert whats(await table.window("a", "events")) == ["late"]


async def test_items_of_a_record_that_expired_do_not_come_back(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        store = await world.open(Person)
        table, now = store[Person], world.clock.wall()

        def person() -> Person:
            return Person(id="a", events=[Event(at=now, what="x")])

        for again in ("put", "insert", "put_many", "reopen"):
            await table.put(person(), ttl=3 * HOUR)
            world.clock.advance(2 * HOUR)
            await store.age()
            assert whats(await table.window("a", "events")) == ["x"]
            world.clock.advance(2 * HOUR)
            assert await table.window("a", "events") == []
            if again == "insert":
                await table.insert(Person(id="a"))
            elif again == "put_many":
                await table.put_many([Person(id="a")])
            else:
                if again == "reopen":
                    await store.checkpoint()
                    await store.close()
                    store = await world.open(Person)
                    table = store[Person]
                with pytest.raises(ws.OverloadedError):
                    table.put_nowait(Person(id="a"))
                await table.put(Person(id="a"))
            assert await table.window("a", "events") == []
            await table.delete("a")
        await store.close()


async def test_what_changes_while_a_move_is_written_is_not_lost_and_not_doubled(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        store = await open_inline(world, Person, durability="interval")
        table, now = store[Person], world.clock.wall()
        for key in "abcdef":
            await table.put(Person(id=key, events=[Event(at=now - DAY, what="p")]))
        await store.age()
        for key in "abcdef":
            await table.put(Person(id=key, events=[Event(at=now, what="1"), Event(at=now, what="2")]))
        world.clock.advance(2 * HOUR)

        def change(operation: str, path: str) -> None:
            """The files of the move are written: now other writes come in between."""
            if operation == "rename" and path.endswith(".ser.new"):
                del world.files.before  # type: ignore[attr-defined]
                table.put_nowait(Person(id="a", events=[Event(at=now, what="3")]))
                table.put_nowait(Person(id="b", events=[Event(at=now, what=w) for w in "1a2"]))
                tasks.append(asyncio.ensure_future(table.delete("c")))
                tasks.append(asyncio.ensure_future(table.append("d", "events", Event(at=now, what="3"))))
                tasks.append(asyncio.ensure_future(table.append("e", "events", Event(at=now - 1, what="0"))))

        tasks: list[asyncio.Future[Any]] = []
        world.files.before = change  # type: ignore[method-assign]
        await store.age()
        await asyncio.gather(*tasks)
        expected = {"a": "p3", "b": "p1a2", "c": "", "d": "p123", "e": "p012", "f": "p12"}
        for _ in range(3):
            assert {k: "".join(whats(await table.window(k, "events"))) for k in expected} == expected
            world.clock.advance(2 * HOUR)
            await store.age()
        await store.close()


async def test_appends_while_items_age_lose_nothing_and_the_loop_stays_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ager, "KEYS_PER_MOVE", 64)
    async with world_in(tmp_path) as world, world.open(Person, Sensor, durability="interval") as store:
        keys = [f"k{i}" for i in range(200)]
        await store[Person].put_many([Person(id=key) for key in keys])
        appended: dict[str, list[str]] = {key: [] for key in keys}
        ends = False
        longest = 0.0

        async def append(own: list[str]) -> None:
            n = 0
            while not ends:
                key = own[n % len(own)]
                n += 1
                what = str(n)
                late = [0.0, 2 * HOUR, 30 * HOUR][n % 3]
                await store[Person].append(key, "events", Event(at=world.clock.wall() - late, what=what))
                appended[key].append(what)
                await asyncio.sleep(0)

        async def watch() -> None:
            nonlocal longest
            while not ends:
                before = time.perf_counter()
                await asyncio.sleep(0)
                longest = max(longest, time.perf_counter() - before)

        tasks = [asyncio.ensure_future(append(keys[i::4])) for i in range(4)] + [asyncio.ensure_future(watch())]
        for _ in range(12):
            await asyncio.sleep(0.02)
            world.clock.advance(0.7 * HOUR)
            await store.age()
        ends = True
        await asyncio.gather(*tasks)
        assert store.statistics().series.n_items_moved > 100
        for key in keys:
            found = await store[Person].window(key, "events")
            assert sorted(whats(found)) == sorted(appended[key])
            assert [event.at for event in found] == sorted(event.at for event in found)
        print(f"longest stall {longest * 1000:.1f} ms")


@pytest.mark.parametrize("mode", ["fsync", "interval"])
async def test_a_crash_at_any_call_of_a_round_loses_and_doubles_nothing(tmp_path: Path, mode: str) -> None:
    """At every call of the file system in a round the folder is copied, and each copy is opened."""
    async with world_in(tmp_path) as world:
        store = await open_inline(world, Person, Sensor, durability=mode)
        now = world.clock.wall()
        ages = [0, 0.5 * HOUR, 2 * HOUR, 2 * HOUR, 2 * DAY, 12 * DAY]
        for key in ("a", "b"):
            await store[Person].put(
                Person(
                    id=key,
                    events=sorted([Event(at=now - age, what=str(i)) for i, age in enumerate(ages)], key=lambda e: e.at),
                )
            )
        await store[Sensor].put(Sensor(id=1, values=[Event(at=now, what="v")]))
        await store.age()
        for key in ("a", "b"):
            for age in ages:
                await store[Person].append(key, "events", Event(at=now - age, what="late"))
        world.clock.advance(1.5 * DAY)
        await store.sync()
        expected = [await store[Person].window(key, "events") for key in ("a", "b")]
        assert [len(events) for events in expected] == [12, 12]
        images: list[World] = []

        def before(operation: str, path: str) -> None:
            if threading.current_thread() is threading.main_thread():  # else the copy is not of one moment
                images.append(world.crashed())

        world.files.before = before  # type: ignore[method-assign]
        await store.age()
        del world.files.before  # type: ignore[attr-defined]
        await store.close()
        assert len(images) > 40
        for image in images:
            async with open_inline(image, Person, Sensor, durability=mode, shards=2) as after:
                for _ in range(2):
                    assert [await after[Person].window(key, "events") for key in ("a", "b")] == expected
                    assert whats(await after[Sensor].window(1, "values")) == ["v"]
                    await after.age()
                named = {Path(path).name for path in after._catalog.series_files()}
            assert {path.name for path in Path(image.path).rglob("*.ser*") if "archive" not in path.parts} <= named


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("part", ["series/", "MANIFEST"])
async def test_a_fault_at_any_call_of_a_round_loses_nothing_and_the_next_round_does_the_rest(
    tmp_path: Path, part: str, code: int
) -> None:
    """The first call of the file system fails, in the next round the second one, and so on."""
    async with world_in(tmp_path) as world, world.open(Person) as store:
        events: list[Event] = []
        await store[Person].put(Person(id="a"))
        n_failed = 0
        left = 0

        def before(operation: str, path: str) -> None:
            nonlocal left, n_failed
            if part in path:
                left -= 1
                if left == 0:
                    n_failed += 1
                    raise OSError(code, os.strerror(code), path)

        for n in range(1, 1000):
            for age in (12 * DAY, 2 * DAY, 2 * HOUR):
                events.append(Event(at=world.clock.wall() - age, what=str(n)))
                await store[Person].append("a", "events", events[-1])
            before_n, left = n_failed, n
            world.files.before = before  # type: ignore[method-assign]
            try:
                await store.age()
                is_done = n_failed == before_n
            except ws.UnavailableError:
                is_done = False
            del world.files.before  # type: ignore[attr-defined]
            expected = sorted(events, key=lambda event: event.at)
            assert await store[Person].window("a", "events") == expected
            if is_done:
                break
            world.clock.advance(HOUR / 4)
        assert n_failed > 10
        await store.age()
        assert await store[Person].window("a", "events") == expected
        named = {Path(path).name for path in store._catalog.series_files()}
        assert {path.name for path in Path(world.path).rglob("*.ser")} == named


async def test_many_small_files_of_a_partition_become_one(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world, world.open(Person) as store:
        start = world.clock.wall()
        await store[Person].put(Person(id="a"))
        for n in range(20):
            await store[Person].append("a", "events", Event(at=start, what=str(n)))
            world.clock.advance(HOUR / 2 + 1 if n < 2 else 1)
            await store.age()
        assert store.statistics().series.n_files["ssd"] < ager.MERGED_FILES
        assert whats(await store[Person].window("a", "events")) == [str(n) for n in range(20)]


async def test_a_renamed_series_keeps_its_items_and_a_dropped_one_loses_them(tmp_path: Path) -> None:
    class Before(ws.Record, name="thing"):
        id: Annotated[str, ws.Key()]
        events: Annotated[list[Event], ws.Temporal(time="at", memory="1h", ssd="1d", disk="10d")] = []
        others: Annotated[list[Event], ws.Temporal(time="at", memory="1h", ssd="1d", disk="10d")] = []

    class After(ws.Record, name="thing"):
        id: Annotated[str, ws.Key()]
        visits: Annotated[list[Event], ws.Temporal(time="at", memory="2h", disk="20d"), ws.Renamed("events")] = []
        plain: list[int] = []

    async with world_in(tmp_path) as world:
        now = world.clock.wall()
        async with world.open(Before) as store:
            await store[Before].put(Before(id="a", events=[Event(at=now, what="e")], others=[Event(at=now, what="o")]))
            world.clock.advance(1.5 * HOUR)
            await store[Before].append("a", "events", Event(at=world.clock.wall(), what="f"))
            await store.age()
            assert tiers(store) == {"ssd": 2}
        async with world.open() as store:
            world.clock.advance(2 * HOUR)
            await store.age()  # without a class nothing leaves its record
            assert tiers(store) == {"ssd": 2}
        async with world.open(After) as store:
            assert whats(await store[After].window("a", "visits")) == ["e", "f"]
            world.clock.advance(2 * DAY)
            await store.age()
            assert whats(await store[After].window("a", "visits")) == ["e", "f"]
            assert tiers(store) == {"disk": 2}
            world.clock.advance(15 * DAY)
            assert whats(await store[After].window("a", "visits")) == ["e", "f"]
            world.clock.advance(15 * DAY)
            await store.age()
            assert await store[After].window("a", "visits") == []
            assert tiers(store) == {}


async def test_strays_are_removed_and_files_of_others_are_not(tmp_path: Path) -> None:
    ssd = tmp_path / "ssd"
    async with world_in(tmp_path) as world:
        async with world.open(Person, ssd=ssd) as store:
            await store[Person].put(Person(id="a", events=[Event(at=world.clock.wall())]))
            world.clock.advance(2 * HOUR)
            await store.age()
            store_id = store._catalog.manifest.store_id
            (named,) = [path.name for path in ssd.iterdir()]
        for name in (f"{store_id}-000000ff.ser", f"{store_id}-00000001.ser.new", "ffff-00000001.ser", "notes"):
            (ssd / name).write_text("x")
        async with world.open(Person):
            pass
        assert sorted(path.name for path in ssd.iterdir()) == sorted([named, "ffff-00000001.ser", "notes"])
        (ssd / named).unlink()
        async with world.open(Person, ssd=ssd) as store:
            with pytest.raises(ws.CorruptionError, match="the file of items is missing"):
                await store[Person].window("a", "events")


async def test_rounds_come_by_themselves_and_after_a_failure_again(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world, world.open(Person, ageing_interval_s=0.1) as store:
        await store[Person].put(Person(id="a", events=[Event(at=world.clock.wall())]))
        world.clock.advance(2 * HOUR)
        world.files.fail("create", "series/ssd")
        await until(lambda: store.statistics().series.last_error is not None or tiers(store) == {"ssd": 1})
        await until(lambda: tiers(store) == {"ssd": 1} and store.statistics().series.last_error is None)


async def test_a_store_that_is_closed_while_items_age_keeps_all(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        for n in range(1, 30, 4):
            store = await world.open(Person)
            await store[Person].put(Person(id=str(n), events=[Event(at=world.clock.wall() + i) for i in range(5)]))
            world.clock.advance(2 * HOUR)
            ageing = asyncio.ensure_future(store.age())
            await turns(n)
            await store.close()
            await asyncio.gather(ageing, return_exceptions=True)
        async with world.open(Person) as store:
            for n in range(1, 30, 4):
                assert len(await store[Person].window(str(n), "events")) == 5
