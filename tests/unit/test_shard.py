"""A shard or a lane that fails comes back with all that was acknowledged, and harms no other meanwhile."""

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import warpstore as ws
from tests.support.worlds import MODES, Named, User, World, collected, turns, until, users, world_in
from warpstore.keys import slot_of
from warpstore.shard import Shard


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_in(tmp_path) as made:
        yield made


class FaultError(Exception):
    """What a test lets a shard raise."""


def of_shard(shard: Shard, candidates: list[User]) -> list[User]:
    """Return the users whose keys belong to a shard."""
    return [user for user in candidates if slot_of(user.id) in shard.slots]


def raising(*_: object) -> Any:
    raise FaultError("a fault of the test")


async def back(store: ws.Store, before: Shard) -> None:
    """Wait until another shard has taken the place of ``before`` and runs."""
    await until(lambda: (new := store._context.shards[before.index]) is not before and new.state.name == "RUNNING")
    await turns()


def active(store: ws.Store) -> str:
    """Return the name of the segment that is being written."""
    lane = store._context.lanes[0].lane
    assert lane is not None
    return f"{lane.active_number:x}.wal"


# A shard that crashes


async def test_a_shard_that_raises_in_a_batch_comes_back_and_the_others_serve(world: World) -> None:
    async with world.open(User, shards=4) as store:
        table = store[User]
        await table.put_many(users(0, 100))
        await store.checkpoint()
        await table.put_many(users(100, 150))
        shard = store._context.shards[0]
        mine = of_shard(shard, users(0, 150))
        others = [u for u in users(0, 150) if u not in mine]
        shard.handle_batch = raising  # type: ignore[assignment, method-assign]
        writes = await asyncio.gather(
            *(table.put(User(id=u.id, n=-1)) for u in mine[:3]),
            *(table.put(User(id=u.id, n=-1)) for u in others),
            return_exceptions=True,
        )
        assert [type(w) for w in writes[:3]] == [ws.OutcomeUnknownError] * 3
        assert writes[3:] == [None] * len(others)
        await back(store, shard)
        assert await table.get_many([u.id for u in mine]) == mine
        assert await table.get_many([u.id for u in others]) == [User(id=u.id, n=-1) for u in others]
        await table.update(mine[0].id, n=7)
        assert await table.get(mine[0].id) == User(id=mine[0].id, n=7)
        assert await table.count() == 150
        info = {actor.name: actor for actor in store.statistics().actors}
        assert (info["shard 0"].n_restarts, info["shard 0"].last_reason) == (1, "FaultError")
        assert len([path for path in world.open_files() if ".ckpt" in path]) == 4


async def test_calls_to_a_shard_that_is_down_are_refused_and_nothing_is_applied(world: World) -> None:
    async with world.open(User, shards=1) as store:
        table = store[User]
        await table.put(User(id="a"))
        shard = store._context.shards[0]
        shard.crash(FaultError())
        for call in (table.put(User(id="b")), table.modify("a", repr), table.put_many([User(id="b")]), table.get("b")):
            with pytest.raises(ws.ShardUnavailableError, match="restarting"):
                await call
        with pytest.raises(ws.ShardUnavailableError):
            table.put_nowait(User(id="b"))
        await back(store, shard)
        assert await collected(table.scan()) == [User(id="a")]


async def test_a_group_that_was_durable_when_its_shard_crashed_is_found_again(world: World) -> None:
    async with world.open(Named, shards=1) as store:
        table = store[Named]
        await table.put(Named(id="a", value=1.0))
        column = table.column("value")
        await column.lookup(["a"])  # from now on the shard feeds the column
        shard = store._context.shards[0]
        shard._feed = raising
        with pytest.raises(ws.OutcomeUnknownError):
            await table.put(Named(id="a", value=2.0))
        await back(store, shard)
        assert await table.get("a") == Named(id="a", value=2.0)
        values, _ = await column.lookup(["a"])
        assert values.tolist() == [2.0]
        await table.put(Named(id="a", value=3.0))
        assert (await column.lookup(["a"]))[0].tolist() == [3.0]


@pytest.mark.parametrize("mode", ["interval", "fsync"])
async def test_a_crash_loses_nothing_that_was_acknowledged(mode: str, world: World) -> None:
    async with world.open(User, shards=2, durability=mode) as store:
        table = store[User]
        await table.put_many(users(0, 50))
        await table.delete("u0001")
        shard = store._context.shards[0]
        shard.crash(FaultError())  # in "interval" mode before the loop turned, so that nothing was written yet
        await back(store, shard)
        expected = [u for u in users(0, 50) if u.n != 1]
        assert await collected(table.scan()) == expected
        crashed = world.crashed()
    async with crashed.open(User) as store:
        assert await collected(store[User].scan()) == expected


async def test_in_memory_mode_a_shard_comes_back_as_of_its_checkpoint(world: World) -> None:
    async with world.open(User, shards=1, durability="memory") as store:
        await store[User].put(User(id="a"))
        await store.checkpoint()
        await store[User].put(User(id="b"))
        shard = store._context.shards[0]
        shard.crash(FaultError())
        await back(store, shard)
        assert await collected(store[User].scan()) == [User(id="a")]
        await store[User].put(User(id="c"))
    async with world.open(User) as store:
        assert [u.id for u in await collected(store[User].scan())] == ["a", "c"]


async def test_a_shard_comes_back_while_the_others_never_rest(world: World) -> None:
    async with world.open(User, shards=2) as store:
        table = store[User]
        shard, other = store._context.shards[0], store._context.shards[1]
        theirs = of_shard(other, users(0, 200))
        stop = False
        n_written = 0

        async def write(user: User) -> None:
            nonlocal n_written
            while not stop:
                await table.put(user)
                n_written += 1

        writers = [asyncio.ensure_future(write(user)) for user in theirs[:16]]
        await until(lambda: n_written > 50)
        shard.crash(FaultError())
        await back(store, shard)
        stop = True
        await asyncio.gather(*writers)
        assert await table.count() == 16


@pytest.mark.parametrize("mode", MODES)
async def test_a_shard_that_crashes_again_and_again_makes_the_store_read_only(mode: str, world: World) -> None:
    store = await world.open(User, shards=2, durability=mode)
    table = store[User]
    await table.put_many(users(0, 20))
    await store.sync()
    for n in range(1, 5):
        shard = store._context.shards[0]
        shard.crash(FaultError())
        if n <= 3:
            await back(store, shard)
        else:
            await until(lambda: store.statistics().read_only is not None)
    for call in (
        table.put(User(id="new")),
        table.insert(User(id="new")),
        table.put_many([User(id="new")]),
        table.update("u0001", n=5),
        table.modify("u0001", repr),
        table.delete("u0001"),
        table.put(User(id="new"), if_version=0),
        store.checkpoint(),
    ):
        with pytest.raises(ws.ReadOnlyStoreError):
            await call
    with pytest.raises(ws.ReadOnlyStoreError):
        table.put_nowait(User(id="new"))
    assert await collected(table.scan()) == users(0, 20)
    assert await table.get_many([u.id for u in users(0, 20)]) == users(0, 20)
    assert await table.count() == 20
    await store.close()
    async with world.open(User) as store:
        assert await collected(store[User].scan()) == users(0, 20)


async def test_crashes_far_apart_do_not_add_up(world: World) -> None:
    async with world.open(User, shards=1) as store:
        for _ in range(8):
            world.clock.advance(6)
            shard = store._context.shards[0]
            shard.crash(FaultError())
            await back(store, shard)
        await store[User].put(User(id="a"))
        assert store.statistics().read_only is None


# A lane that fails


@pytest.mark.parametrize("operation", ["sync", "write"])
async def test_after_a_failed_sync_the_outcome_is_unknown_and_the_lane_recovers(operation: str, world: World) -> None:
    async with world.open(User, shards=4) as store:
        table = store[User]
        await table.put_many(users(0, 100))
        before = store._context.lanes[0]
        world.files.fail(operation, active(store))
        results = await asyncio.gather(*(table.put(User(id=f"v{i}")) for i in range(8)), return_exceptions=True)
        assert {type(r) for r in results} <= {ws.OutcomeUnknownError, ws.ShardUnavailableError, type(None)}
        assert ws.OutcomeUnknownError in {type(r) for r in results}
        await until(lambda: store._context.lanes[0] is not before and store._context.lanes[0].lane is not None)
        await until(lambda: all(s.state.name == "RUNNING" for s in store._context.shards.values()))
        await turns()
        found = await collected(table.scan())
        assert found[:100] == users(0, 100)
        acknowledged = {f"v{i}" for i, r in enumerate(results) if r is None}
        assert {u.id for u in found[100:]} >= acknowledged
        await table.put(User(id="z"))
        await table.modify("u0001", lambda u: u.tags.append("x"))
        again = [*await collected(table.scan())]
        await store.sync()
        crashed = world.crashed()
    async with crashed.open(User) as store:
        assert await collected(store[User].scan()) == again
    assert crashed.open_files() == []
    async with world.open(User) as store:
        assert await collected(store[User].scan()) == again


async def test_in_interval_mode_a_failed_sync_is_told_by_sync_and_the_lane_recovers(world: World) -> None:
    world.hand_timers = True
    async with world.open(User, durability="interval", shards=2) as store:
        table = store[User]
        await table.put_many(users(0, 10))
        await store.sync()
        await table.put(User(id="v"))
        await turns()
        before = store._context.lanes[0]
        world.files.fail("sync", active(store))
        with pytest.raises(ws.OutcomeUnknownError):
            await store.sync()
        with pytest.raises(ws.OutcomeUnknownError):
            await store.sync()  # while it is recovered
        await until(lambda: store._context.lanes[0] is not before and store._context.lanes[0].lane is not None)
        await until(lambda: all(s.is_open for s in store._context.shards.values()))
        assert [u for u in await collected(table.scan()) if u.id != "v"] == users(0, 10)
        await table.put(User(id="w"))
        await store.sync()
        crashed = world.crashed()
    async with crashed.open(User) as store:
        assert await store[User].contains("w")
        assert await store[User].count() >= 11


async def test_columns_forget_what_a_failed_log_lost(world: World) -> None:
    async with world.open(Named, shards=1) as store:
        table = store[Named]
        await table.put(Named(id="a", value=1.0))
        column = table.column("value")
        await column.lookup(["a"])
        before = store._context.lanes[0]
        world.files.fail("write", active(store))
        with pytest.raises(ws.OutcomeUnknownError):
            await table.put(Named(id="a", value=2.0))
        await until(lambda: store._context.lanes[0] is not before and store._context.lanes[0].lane is not None)
        await until(lambda: store._context.shards[0].state.name == "RUNNING")
        stored = await table.get("a")
        assert stored is not None
        assert (await column.lookup(["a"]))[0].tolist() == [stored.value]


async def test_a_log_that_fails_every_time_makes_the_store_read_only(world: World) -> None:
    store = await world.open(User, shards=2)
    table = store[User]
    await table.put_many(users(0, 10))
    world.files.fail("sync", ".wal", times=1000)
    with pytest.raises(ws.OutcomeUnknownError):
        await table.put(User(id="v"))
    await until(lambda: store.statistics().read_only is not None)
    with pytest.raises(ws.ReadOnlyStoreError):
        await table.put(User(id="w"))
    assert await table.get("u0001") == User(id="u0001", n=1)
    assert [u for u in await collected(table.scan()) if u.id != "v"] == users(0, 10)
    await store.close()
    world.files.faults.clear()
    async with world.open(User) as store:
        assert [u for u in await collected(store[User].scan()) if u.id != "v"] == users(0, 10)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
async def test_a_full_disk_refuses_writes_for_certain_and_is_no_crash(code: int, world: World) -> None:
    async with world.open(User, shards=2) as store:
        table = store[User]
        await table.put_many(users(0, 10))
        fault = world.files.fail("write", active(store), code=code)
        with pytest.raises(ws.DiskFullError, match="not applied"):
            await table.put(User(id="v"))
        assert fault.n_failed == 1
        assert await collected(table.scan()) == users(0, 10)
        await table.put(User(id="w"))
        assert store.statistics().read_only is None
        assert all(actor.n_restarts == 0 for actor in store.statistics().actors)
        crashed = world.crashed()
    async with crashed.open(User) as store:
        assert await collected(store[User].scan()) == [*users(0, 10), User(id="w")]


async def test_a_record_that_cannot_be_read_from_disk_is_a_clear_error(world: World) -> None:
    async with world.open(User) as store:
        await store[User].put_many(users(0, 10))
        await store.checkpoint()
    world.files.nothing_cached = True
    async with world.open(User) as store:
        table = store[User]
        world.files.fail("read", ".ckpt", times=4)
        for call in (
            table.get("u0001"),
            table.get_many(["u0001"]),
            collected(table.scan()),
            table.update("u0001", n=5),
        ):
            with pytest.raises(ws.UnavailableError, match=r"\.ckpt: offset"):
                await call
        assert await collected(table.scan()) == users(0, 10)
