"""Ephemeral values are in RAM beside their records, end at their time, and are in no file."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import pytest

import warpstore as ws
from tests.support.worlds import MODES, FakeClock, World, collected, world_in
from warpstore.ephemeral import EphemeralField, EphemeralFields
from warpstore.record import plan_of

SECRET = "SECRET-SESSION-VALUE"


class Visit(ws.Record):
    id: Annotated[str, ws.Key()]
    n: int = 0
    session: Annotated[dict[str, str], ws.Ephemeral(ttl="10s")] = {}
    until_restart: Annotated[str, ws.Ephemeral()] = ""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_in(tmp_path) as made:
        yield made


@pytest.mark.parametrize("mode", MODES)
async def test_every_way_of_reading_gives_the_value_until_its_time(mode: str, world: World) -> None:
    async with world.open(Visit, durability=mode) as store:
        table = store[Visit]
        visit = Visit(id="a", n=1, session={"s": SECRET}, until_restart=SECRET)
        await table.put(visit)
        await table.put_many([Visit(id="b", session={"b": SECRET})])
        await table.insert(Visit(id="c", session={"c": SECRET}))
        await table.put_nowait(Visit(id="d", session={"d": SECRET}))
        await table.put(Visit(id="e", session={"e": SECRET}), if_version=0)
        assert store.statistics().tables[0].n_ephemeral == 6
        for _ in range(2):
            assert await table.get("a") == visit
            assert (await table.get_with_version("a"))[0] == visit
            assert [v.session for v in await table.get_many(["a", "b"]) if v] == [{"s": SECRET}, {"b": SECRET}]
            assert [list(v.session) for v in await collected(table.scan())] == [["s"], ["b"], ["c"], ["d"], ["e"]]
            [part] = await collected(table.scan("a", "b", fields=["session"]))
            assert (part.id, part.session) == ("a", {"s": SECRET})
            [part] = await table.get_many(["a"], fields=["n"])
            assert not hasattr(part, "session")
            await store.checkpoint()
        world.clock.advance(9.99)
        world.clock.jump(1e9)  # the wall clock has no part in it
        assert (await table.get("a")) == visit
        world.clock.advance(0.01)
        assert await table.get("a") == Visit(id="a", n=1, until_restart=SECRET)
        assert [v.session for v in await collected(table.scan())] == [{}] * 5


@pytest.mark.parametrize("mode", MODES)
async def test_it_is_in_no_file_and_gone_at_restart(mode: str, world: World) -> None:
    async with world.open(Visit, durability=mode) as store:
        table = store[Visit]
        await table.put_many([Visit(id=f"{i}", n=i, session={"s": SECRET}, until_restart=SECRET) for i in range(20)])
        await table.update("1", session={"t": SECRET})
        await table.modify("2", lambda v: v.session.update(u=SECRET))
        await store.sync()
        assert SECRET.encode() not in world.all_bytes()
        await store.checkpoint()
        await table.update("3", n=5)
        await store.sync()
        assert SECRET.encode() not in world.all_bytes()
        crashed = world.crashed()
    assert SECRET.encode() not in world.all_bytes()
    for start in (world, crashed):
        async with start.open(Visit) as store:
            assert {tuple(v.session) for v in await collected(store[Visit].scan())} == {()}
            assert {v.until_restart for v in await collected(store[Visit].scan())} == {""}


@pytest.mark.parametrize("mode", MODES)
async def test_changes_and_deletes_carry_it_along(mode: str, world: World) -> None:
    async with world.open(Visit, durability=mode) as store:
        table = store[Visit]
        await table.put(Visit(id="a", session={"s": "1"}))
        _, version = await table.get_with_version("a")
        await table.update("a", n=2)
        assert await table.get("a") == Visit(id="a", n=2, session={"s": "1"})
        await table.update("a", n=0, session={"s": "2"})
        assert (await table.get_with_version("a"))[1] == version  # it has no part in the version
        await table.modify("a", lambda v: v.session.update(t="3"))
        assert await table.get("a") == Visit(id="a", session={"s": "2", "t": "3"})
        with pytest.raises(ws.ValidationError, match=r"Visit\.session"):
            await table.update("a", session={"s": 1})
        with pytest.raises(ws.ValidationError, match=r"Visit\.session"):
            await table.put(Visit(id="a", session=[]))  # type: ignore[arg-type]
        with pytest.raises(ws.KeyExistsError):
            await table.insert(Visit(id="a", session={"x": "y"}))
        assert await table.get("a") == Visit(id="a", session={"s": "2", "t": "3"})
        await table.put(Visit(id="a"))
        assert await table.get("a") == Visit(id="a")
        await table.put(Visit(id="a", session={"s": "4"}))
        await table.delete("a")
        await table.put(Visit(id="a"))
        assert await table.get("a") == Visit(id="a")


async def test_what_get_returned_is_the_callers_own(world: World) -> None:
    async with world.open(Visit) as store:
        await store[Visit].put(visit := Visit(id="a", session={"s": "1"}))
        visit.session["s"] = "changed"
        for _ in range(20):
            found = await store[Visit].get("a")
            assert found is not None
            assert found.session == {"s": "1"}
            found.session["s"] = "mine"


async def test_a_write_that_fails_sets_nothing(world: World) -> None:
    async with world.open(Visit, shards=1) as store:
        table = store[Visit]
        await table.put(Visit(id="a", session={"s": "1"}))
        world.files.fail("write", "0001.wal", code=28)
        with pytest.raises(ws.DiskFullError):
            await table.put(Visit(id="a", session={"s": "2"}))
        assert await table.get("a") == Visit(id="a", session={"s": "1"})


class HandLoop:
    """A loop whose timers the test calls."""

    def __init__(self) -> None:
        self.timers: list[tuple[float, Any]] = []

    def call_later(self, delay: float, callback: Any) -> Any:
        self.timers.append((delay, callback))
        return type("Handle", (), {"cancel": lambda _: self.timers.clear()})()

    def fire(self) -> float:
        """Call the only timer; return the delay it had."""
        [(delay, callback)] = self.timers
        self.timers.clear()
        callback()
        return delay


def test_what_has_ended_is_swept_in_slices_and_the_sweep_ends_with_the_last() -> None:
    clock, loop = FakeClock(), HandLoop()
    codec = plan_of(Visit).bind(1)
    field = EphemeralField(codec.ephemeral[0], clock, loop)  # type: ignore[arg-type]
    for i in range(600):
        field.set(f"{i}", b"\x80")
    clock.advance(5)
    field.set("late", b"\x80")
    field.set("0", b"\x80")  # goes to the end
    assert len(field) == 601
    clock.advance(5)
    assert loop.fire() == 10.0
    assert len(field) == 601 - 512
    assert loop.fire() == 0.0
    assert len(field) == 2
    clock.advance(5)
    assert loop.fire() == 5.0
    assert len(field) == 0
    assert loop.timers == []
    field.set("x", b"\x80")
    field.set("x", None)
    field.close()
    assert loop.timers == []


def test_values_equal_to_the_default_take_no_room() -> None:
    codec = plan_of(Visit).bind(1)
    loop = asyncio.new_event_loop()
    fields = EphemeralFields(codec.ephemeral[1:], FakeClock(), loop)
    fields.set("a", fields.encode(Visit(id="a", until_restart="x")))
    fields.set("b", fields.encode(Visit(id="b")))
    assert len(fields) == 1
    visit = Visit(id="a")
    fields.fill("a", visit)
    assert visit.until_restart == "x"
    loop.close()
