"""``store.statistics()``: complete, frozen, plain on demand, and no look at any record."""

import dataclasses
import json
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import warpstore as ws
from gpu_kernels import SlabStatistics
from tests.support.worlds import MODES, Blob, Reading, User, World, turns, until, users, world_in
from warpstore.statistics import LaneStatistics, ShardStatistics, StoreStatistics, TableStatistics
from warpstore.supervisor import ChildInfo

CLASSES = [StoreStatistics, TableStatistics, ShardStatistics, LaneStatistics, ChildInfo, SlabStatistics]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_in(tmp_path) as made:
        yield made


@pytest.mark.parametrize("cls", CLASSES)
def test_every_field_is_documented(cls: type[Any]) -> None:
    documented = re.findall(r"^ {8}(\w+): ", cls.__doc__ or "", re.MULTILINE)
    assert documented == [field.name for field in dataclasses.fields(cls)]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(object.__new__(cls), documented[0], 1)


@pytest.mark.parametrize("mode", MODES)
async def test_the_dictionary_is_what_json_gives_back(mode: str, world: World) -> None:
    async with world.open(User, Reading, durability=mode) as store:
        await store[User].put_many(users(0, 9))
        await store[Reading].put(Reading(id=1))
        await store[Reading].column("value").lookup([1])
        plain = store.statistics().to_dict()
        assert json.loads(json.dumps(plain)) == plain
        assert [table["name"] for table in plain["tables"]] == ["reading", "user"]
        assert plain["tables"][0]["columns"]["rows"] == 1
        assert set(plain) == {field.name for field in dataclasses.fields(StoreStatistics)}


async def test_dirty_values_are_those_that_no_checkpoint_holds(world: World) -> None:
    async with world.open(User, durability="interval", shards=2) as store:
        await store[User].put_many(users(0, 10))
        table = store.statistics().tables[0]
        assert (table.n_resident, table.n_dirty, table.n_checkpointed) == (10, 10, 0)
        assert 0 < table.dirty_bytes <= table.resident_bytes <= store.statistics().resident_bytes
        await store.checkpoint()
        await store[User].put(User(id="new"))
        numbers = store.statistics()
        table = numbers.tables[0]
        assert (table.n_resident, table.n_dirty, table.n_checkpointed) == (11, 1, 10)
        assert sum(shard.n_resident for shard in numbers.shards) == 11
        assert sum(shard.n_dirty for shard in numbers.shards) == 1
        assert sum(shard.checkpoint_bytes for shard in numbers.shards) == numbers.checkpoint_bytes
        assert table.checkpointed_bytes > 0
        assert table.dirty_bytes < table.resident_bytes


async def test_shards_tell_their_lsn_slots_and_mailbox(world: World) -> None:
    async with world.open(User, shards=3) as store:
        await store[User].put_many(users(0, 30))
        waiting = [store[User].put_nowait(user) for user in users(30, 60)]
        shards = store.statistics().shards
        assert [shard.index for shard in shards] == [0, 1, 2]
        assert sum(shard.n_slots for shard in shards) == 256
        assert sum(shard.lsn for shard in shards) == 30
        assert sum(shard.n_mailbox_messages for shard in shards) == 30
        assert all(shard.mailbox_bytes > 0 for shard in shards)
        assert all(shard.is_running and shard.takes_writes for shard in shards)
        for done in waiting:
            await done
        shards = store.statistics().shards
        assert sum(shard.lsn for shard in shards) == 60
        assert sum(shard.n_mailbox_messages + shard.mailbox_bytes for shard in shards) == 0


async def test_relaxed_writes_are_pending_until_the_loop_turns(world: World) -> None:
    async with world.open(User, durability="interval", shards=1) as store:
        store[User].put_nowait(User(id="a"))
        assert store.statistics().shards[0].n_pending == 1
        await turns()
        assert store.statistics().shards[0].n_pending == 0


async def test_a_lane_tells_what_is_written_and_what_is_durable(world: World) -> None:
    world.hand_timers = True
    async with world.open(User, durability="interval") as store:
        before = store.statistics().lanes[0]
        await store[User].put_many(users(0, 20))
        await turns()
        written = store.statistics().lanes[0]
        assert written.n_groups > before.n_groups
        assert written.offset > before.offset
        assert (written.durable_segment, written.durable_offset) == (before.durable_segment, before.durable_offset)
        await store.sync()
        synced = store.statistics().lanes[0]
        assert synced.durable_segment == synced.segment
        assert written.offset <= synced.durable_offset <= synced.offset  # a mark may stand behind it
        assert synced.error is None
        assert synced.is_running


async def test_a_lane_that_failed_is_counted_and_says_why(world: World) -> None:
    async with world.open(User, shards=2) as store:
        await store[User].put(User(id="a"))
        lane = store._context.lanes[0].lane
        assert lane is not None
        world.files.fail("sync", f"{lane.active_number:016x}.wal")  # not the one that is being made
        with pytest.raises(ws.OutcomeUnknownError):
            await store[User].put(User(id="b"))
        await until(lambda: all(actor.state == "running" for actor in store.statistics().actors))
        await until(lambda: store.statistics().lanes[0].is_running and store.statistics().shards[1].is_running)
        numbers = store.statistics()
        assert numbers.lanes[0].n_restarts == 1
        assert numbers.lanes[0].last_restart_reason == "LogPoisonedError"
        assert numbers.n_restarts >= 1
        assert numbers.lanes[0].replayed_records >= 1


async def test_a_lane_is_listed_while_it_is_down(world: World) -> None:
    async with world.open(User, shards=1) as store:
        keeper = store._context.lanes[0]
        keeper.crash(RuntimeError("for the test"))
        down = store.statistics().lanes
        assert [(lane.index, lane.segment, lane.error) for lane in down] == [(0, 0, "for the test")]
        assert not down[0].is_running
        await until(lambda: store.statistics().lanes[0].is_running)


async def test_checkpoints_are_counted_across_a_restart_of_the_checkpointer(world: World) -> None:
    async with world.open(User, durability="interval", shards=1) as store:
        assert store.statistics().last_checkpoint_s is None

        async def slow() -> None:
            assert store.statistics().checkpointing
            world.clock.advance(2.5)

        world.on_checkpoint = slow
        await store[User].put(User(id="a"))
        await store.checkpoint()
        numbers = store.statistics()
        assert (numbers.n_checkpoints, numbers.n_checkpoints_failed) == (1, 0)
        assert (numbers.last_checkpoint_s, numbers.last_checkpoint_at_s) == (2.5, world.clock.wall())
        assert numbers.checkpoint_bytes_written == numbers.checkpoint_bytes > 0
        assert (numbers.open_s, numbers.checkpointing) == (2.5, False)
        world.on_checkpoint = None
        store._context.checkpointer.crash(RuntimeError("for the test"))  # type: ignore[union-attr]
        await until(lambda: all(actor.state == "running" for actor in store.statistics().actors))
        world.files.fail("create", ".ckpt")
        with pytest.raises(ws.UnavailableError):
            await store.checkpoint()
        numbers = store.statistics()
        assert (numbers.n_checkpoints, numbers.n_checkpoints_failed, numbers.last_checkpoint_s) == (1, 1, 0.0)
        assert "Input/output" in str(numbers.last_checkpoint_error)
        await store.checkpoint()
        assert store.statistics().last_checkpoint_error is None


async def test_a_checkpoint_that_a_close_overtakes_is_a_failed_one_and_no_crash(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async with world.open(User, durability="interval") as store:
        await store[User].put(User(id="a"))
        store._context.checkpointer.cast_nowait("the log has grown")  # type: ignore[union-attr]
    assert "actor_crashed" not in caplog.text


async def test_writes_that_a_column_has_not_taken_in_are_counted(world: World) -> None:
    async with world.open(Reading, durability="interval") as store:
        table = store[Reading]
        await table.put(Reading(id=1))
        assert store.statistics().tables[0].n_columns_pending == 0  # nobody has looked anything up
        await table.column("value").lookup([1])
        await table.put_many([Reading(id=i) for i in range(5)])
        await turns()
        assert store.statistics().tables[0].n_columns_pending == 5
        await table.column("value").lookup([1])
        assert store.statistics().tables[0].n_columns_pending == 0


def n_calls(store: ws.Store) -> int:
    """Return how many functions, in Python and C, gathering the statistics calls."""
    n = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal n
        n += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        store.statistics()
    finally:
        sys.setprofile(None)
    return n


async def test_statistics_do_the_same_work_for_any_number_of_records(world: World) -> None:
    async with world.open(User, Blob, durability="interval", shards=2) as store:
        key = b"long" * 16  # such a key is kept in full beside its digest
        for n in (1, 2000):
            await store[User].put_many(users(0, n))
            await store[Blob].put_many([Blob(id=key + b"%d" % i) for i in range(n)])
            await store.checkpoint()
            await store[User].put_many(users(0, n))
            await store[Blob].put_many([Blob(id=key + b"%d" % i) for i in range(n)])
            await store[Blob].column("value").lookup([key])
            await store[Blob].delete(key + b"0")
            await store[Blob].column("value").lookup([key])
            work = n_calls(store)
            if n == 1:
                least = work
        assert store.statistics().tables[0].columns is not None
        assert work <= least + 100  # some runs and frozen generations more


async def test_a_closed_store_has_no_statistics(world: World) -> None:
    async with world.open(User) as store:
        pass
    with pytest.raises(ws.ClosedStoreError):
        store.statistics()
