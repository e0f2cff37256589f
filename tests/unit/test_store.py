"""A store is opened, reopened, checkpointed, resharded and closed, and what it holds stays what was put into it."""

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import pytest

import warpstore as ws
from tests.support.worlds import MODES, Named, Reading, User, World, collected, turns, until, users, world_in
from warpstore.catalog import Catalog
from warpstore.keys import slot_of

EVERY = [("fsync", 1), ("fsync", 4), ("fsync", 16), ("interval", 1), ("interval", 16), ("memory", 1), ("memory", 16)]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_in(tmp_path) as made:
        yield made


async def everything(world: World, **settings: Any) -> list[User]:
    """Return all users of the store after opening it."""
    async with world.open(User, **settings) as store:
        found = await collected(store[User].scan())
        assert await store[User].count() == len(found)
        assert await store[User].get_many([u.id for u in found]) == found
    return found


# Reopening


@pytest.mark.parametrize(("mode", "shards"), EVERY)
async def test_a_clean_close_keeps_everything(mode: str, shards: int, world: World) -> None:
    async with world.open(User, durability=mode, shards=shards) as store:
        await store[User].put_many(users(0, 100))
        await store[User].delete("u0007")
        await store[User].update("u0008", note="x")
    expected = [u for u in users(0, 100) if u.n != 7]
    expected[7].note = "x"
    assert await everything(world, durability=mode) == expected
    assert await everything(world) == expected


@pytest.mark.parametrize("mode", ["fsync", "interval", "memory"])
@pytest.mark.parametrize("shards", [1, 4, 16])
async def test_a_crash_keeps_what_was_promised(mode: str, shards: int, world: World) -> None:
    async with world.open(User, durability=mode, shards=shards) as store:
        await store[User].put_many(users(0, 50))
        await store[User].put_many(users(50, 60), ttl="1h")
        await store[User].delete("u0001")
        if mode != "fsync":
            await store.sync()
        crashed = world.crashed()
    expected = [u for u in users(0, 60) if u.n != 1]
    assert await everything(crashed) == expected
    assert await everything(crashed) == expected


@pytest.mark.parametrize("mode", MODES)
async def test_a_crash_after_a_checkpoint_keeps_what_came_before_and_after_it(mode: str, world: World) -> None:
    async with world.open(User, durability=mode) as store:
        table = store[User]
        await table.put_many(users(0, 50))
        await store.checkpoint()
        await table.put_many([User(id="u0001", n=-1), User(id="v")])
        await table.delete("u0002")
        await store.sync()
        crashed = world.crashed()
    expected = [u for u in users(0, 50) if u.n != 2] + [User(id="v")]
    expected[1].n = -1
    assert await everything(crashed) == expected


@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1), (4, 16), (16, 3), (256, 4)])
@pytest.mark.parametrize("ending", ["closed", "crashed", "checkpointed"])
async def test_another_number_of_shards_deals_the_records_anew(
    ending: str, before: int, after: int, world: World
) -> None:
    async with world.open(User, shards=before) as store:
        await store[User].put_many(users(0, 200))
        await store[User].delete_many(["u0001", "u0002"])
        if ending == "checkpointed":
            await store.checkpoint()
            await store[User].put(User(id="u0003", n=-3))
        copy = world.crashed()
    world = copy if ending == "crashed" else world
    expected = [u for u in users(0, 200) if u.n not in {1, 2}]
    if ending == "checkpointed":
        expected[1].n = -3
    async with world.open(User, shards=after) as store:
        assert store.statistics().n_shards == after
        assert await collected(store[User].scan()) == expected
        await store[User].put(User(id="v"))
        again = world.crashed()
    assert await everything(world, shards=before) == [*expected, User(id="v")]
    assert await everything(again) == [*expected, User(id="v")]
    world.assert_nothing_left()
    copy.assert_nothing_left()


@pytest.mark.parametrize("then", MODES)
@pytest.mark.parametrize("first", MODES)
async def test_durability_may_change_from_one_opening_to_the_next(first: str, then: str, world: World) -> None:
    async with world.open(User, durability=first) as store:
        await store[User].put_many([User(id="a", n=1), User(id="b", n=1), User(id="c", n=1)])
        await store.sync()
        crashed = world.crashed()
    for start in (world, crashed):
        async with start.open(User, durability=then) as store:
            await store[User].put(User(id="a", n=2))
            await store[User].delete("b")
            await store.sync()
            again = start.crashed()
        assert await everything(again) == [User(id="a", n=2), User(id="c", n=1)]
        assert await everything(start) == [User(id="a", n=2), User(id="c", n=1)]


async def test_a_memory_store_that_cannot_be_checkpointed_at_its_end_keeps_the_log_before(world: World) -> None:
    async with world.open(User) as store:
        await store[User].put(User(id="a", n=1))
    world.files.fail("write", ".ckpt")
    store = await world.open(User, durability="memory")
    await store[User].put(User(id="b"))
    with pytest.raises(ws.UnavailableError, match="checkpoint"):
        await store.close()
    assert await everything(world) == [User(id="a", n=1)]


async def test_deadlines_live_through_a_restart_and_a_checkpoint_drops_what_has_ended(world: World) -> None:
    async with world.open(User) as store:
        await store[User].put_many(users(0, 5), ttl=100)
        await store[User].put_many(users(5, 10), ttl=1000)
        await store.checkpoint()
        assert store.statistics().tables[0].n_checkpointed == 10
    world.clock.advance(99)
    assert len(await everything(world)) == 10
    world.clock.advance(1)
    async with world.open(User) as store:
        assert await collected(store[User].scan()) == users(5, 10)
        assert await store[User].count() == 5
        assert await store[User].get("u0000") is None
        await store[User].put(User(id="u0001"), ttl=1)
        world.clock.advance(1)
        await store.checkpoint()
        assert store.statistics().tables[0].n_checkpointed == 5
        assert await store[User].get("u0001") is None
        await store[User].put(User(id="u0005"), ttl=1)
        assert await store[User].count() == 5
        world.clock.advance(1)
        assert await store[User].count() == 4


async def test_a_types_own_time_to_live_holds_unless_a_put_gives_another(world: World) -> None:
    class Visit(ws.Record, strategy=ws.Strategy(ttl="10s")):
        id: Annotated[str, ws.Key()]

    async with world.open(Visit) as store:
        await store[Visit].put(Visit(id="a"))
        await store[Visit].put_many([Visit(id="b")])
        await store[Visit].put(Visit(id="c"), ttl="20s")
        world.clock.advance(10)
        assert await collected(store[Visit].scan()) == [Visit(id="c")]


# Tables and schemas


async def test_several_tables_share_a_store(world: World) -> None:
    async with world.open(User, Named, Reading) as store:
        await store[User].put(User(id="a", n=1))
        await store[Named].put(Named(id="a", value=2.0))
        await store[Reading].put(Reading(id=1, value=3.0))
        await store.checkpoint()
        await store[Named].delete("a")
        assert await store[User].get("a") == User(id="a", n=1)
        assert await store[Named].count() == 0
        assert store.tables == {"user": User, "named": Named, "reading": Reading}
    async with world.open(Reading) as store:
        assert await store[Reading].get(1) == Reading(id=1, value=3.0)


async def test_a_table_without_a_class_is_kept_and_listed_until_it_is_dropped(world: World) -> None:
    async with world.open(User, Named) as store:
        await store[User].put_many(users(0, 10))
        await store[Named].put(Named(id="SECRET-NAME"))
    async with world.open(User) as store:
        assert store.tables == {"user": User, "named": None}
        with pytest.raises(ws.UnknownTableError, match="Named"):
            store[Named]
        with pytest.raises(ws.UnknownTableError, match="open"):
            await store.drop("user")
        with pytest.raises(ws.UnknownTableError, match="'other'"):
            await store.drop("other")
        await store.checkpoint()
    async with world.open(User, Named) as store:
        assert await store[Named].get("SECRET-NAME") == Named(id="SECRET-NAME")
    assert b"SECRET-NAME" in world.all_bytes()
    async with world.open(User) as store:
        await store.drop("named")
        assert store.tables == {"user": User}
        assert [t.name for t in store.statistics().tables] == ["user"]
        await store.checkpoint()
        assert await store[User].count() == 10
    async with world.open(User, Named) as store:
        assert await store[Named].count() == 0
        assert await store[Named].get("SECRET-NAME") is None
        await store[Named].put(Named(id="x"))
        await store.checkpoint()
        assert [r.id for r in await collected(store[Named].scan())] == ["x"]


@pytest.mark.parametrize("checkpointed", [False, True])
async def test_old_records_are_read_with_what_their_type_has_become(checkpointed: bool, world: World) -> None:
    class Old(ws.Record, name="thing"):
        id: Annotated[str, ws.Key()]
        count: int
        gone: str = ""
        value: Annotated[float, ws.Gpu()] = 0.0

    class New(ws.Record, name="thing"):
        id: Annotated[str, ws.Key()]
        total: Annotated[int, ws.Renamed("count"), ws.Memory()]
        value: Annotated[float, ws.Gpu()] = 0.0
        added: list[int] = []
        double: Annotated[int, ws.Computed(lambda r: 2 * r.total, of=("total",))] = ws.derived()

    async with world.open(Old) as store:
        await store[Old].put_many([Old(id=f"{i}", count=i, gone="x", value=float(i)) for i in range(5)])
        if checkpointed:
            await store.checkpoint()
    async with world.open(New) as store:
        table = store[New]
        expected = [New(id=f"{i}", total=i, value=float(i), double=2 * i) for i in range(5)]
        assert await collected(table.scan()) == expected
        assert await table.get("3") == expected[3]
        assert await table.get_many(["2", "x"]) == [expected[2], None]
        [part] = await table.get_many(["4"], fields=["total", "double"])
        assert part is not None
        assert (part.total, part.double) == (4, 8)
        values, found = await table.column("value").lookup(["4", "0", "x"])
        assert (values.tolist(), found.tolist()) == ([4.0, 0.0, 0.0], [True, True, False])
        await table.update("3", total=30)
        await table.delete("4")
        await store.checkpoint()
        expected[3] = New(id="3", total=30, value=3.0, double=60)
        assert await collected(table.scan()) == expected[:4]
        values, found = await table.column("value").lookup(["4", "3"])
        assert (values.tolist(), found.tolist()) == ([0.0, 3.0], [False, True])
    async with world.open(New) as store:
        assert await collected(store[New].scan()) == expected[:4]


async def test_an_incompatible_type_is_refused_before_anything_is_touched(world: World) -> None:
    class Wrong(ws.Record, name="user"):
        id: Annotated[str, ws.Key()]
        n: str = ""

    class Other(ws.Record, name="user"):
        id: Annotated[int, ws.Key()]

    async with world.open(User) as store:
        await store[User].put(User(id="a"))
    before = world.all_bytes()
    for model, words in ((Wrong, "'n' was int, now str"), (Other, "key was of type str, now int")):
        with pytest.raises(ws.IncompatibleSchemaError, match=words):
            await world.open(model)
        assert world.all_bytes() == before
    assert await everything(world) == [User(id="a")]


async def test_two_types_of_one_name_are_refused_and_nothing_is_made(world: World) -> None:
    class Twin(ws.Record, name="user"):
        id: Annotated[str, ws.Key()]

    with pytest.raises(ws.ConfigError, match="two record types have the table name 'user'"):
        await world.open(User, Twin)
    assert not Path(world.path).exists()


# Checkpoints


async def test_the_log_is_let_go_after_a_checkpoint(world: World) -> None:
    async with world.open(User, segment_bytes="64KiB", durability="interval") as store:
        for i in range(4):
            await store[User].put_many(users(0, 1000, note=f"{i}" * 50))
        assert store.statistics().log_bytes > 200_000
        await store.checkpoint()
        assert store.statistics().log_bytes == 0
        assert store.statistics().n_checkpoints == 1
        assert store.statistics().checkpoint_bytes > 50_000
        segments = [p for p in Path(world.path, "log/000").iterdir() if p.suffix == ".wal"]
        assert len(segments) <= 2
        assert await store[User].count() == 1000


@pytest.mark.parametrize("mode", ["fsync", "interval"])
async def test_a_checkpoint_begins_by_itself_when_the_log_has_grown(mode: str, world: World) -> None:
    async with world.open(
        User, durability=mode, segment_bytes="64KiB", checkpoint_log_bytes="64KiB", shards=1
    ) as store:
        for i in range(20):
            await store[User].put_many(users(20 * i, 20 * i + 20, note="x" * 500))
            await store.sync()
        await until(lambda: store.statistics().n_checkpoints > 0)
        assert await store[User].count() == 400


async def test_writes_during_a_checkpoint_are_kept_and_are_not_in_it(world: World) -> None:
    async with world.open(User, shards=2) as store:
        table = store[User]
        await table.put_many(users(0, 100))

        async def meanwhile() -> None:
            await table.put(User(id="u0001", n=-1))
            await table.delete("u0002")
            await table.put(User(id="late"))

        world.on_checkpoint = meanwhile
        await store.checkpoint()
        world.on_checkpoint = None
        assert store.statistics().tables[0].n_checkpointed == 100
        expected = [User(id="late"), *[u for u in users(0, 100) if u.n != 2]]
        expected[2].n = -1
        assert await collected(table.scan()) == expected
        assert await table.get("u0002") is None
        crashed = world.crashed()
        await store.checkpoint()
        assert store.statistics().tables[0].n_checkpointed == 100
        assert await collected(table.scan()) == expected
    assert await everything(crashed) == expected


async def test_all_who_ask_at_once_get_one_checkpoint(world: World) -> None:
    async with world.open(User) as store:
        await store[User].put(User(id="a"))
        await asyncio.gather(*(store.checkpoint() for _ in range(10)))
        assert store.statistics().n_checkpoints <= 2


async def test_a_checkpoint_in_a_child_process_is_the_same(world: World) -> None:
    environment = ws.Environment(clock=world.clock)
    async with ws.open(world.path, models=[User], environment=environment, shards=2) as store:
        await store[User].put_many(users(0, 100))
        await store.checkpoint()
        assert store.statistics().tables[0].n_checkpointed == 100
    assert await everything(world) == users(0, 100)


FAILURES = [
    ("write", ".ckpt"),
    ("sync", ".ckpt"),
    ("create", ".ckpt"),
    ("sync_directory", "checkpoint"),
    ("open", ".ckpt"),
    ("create", "MANIFEST"),
    ("write", "MANIFEST"),
    ("sync", "MANIFEST"),
    ("rename", "MANIFEST"),
    ("sync_directory", "store"),
]


@pytest.mark.parametrize("mode", ["fsync", "memory"])
@pytest.mark.parametrize("failure", FAILURES, ids="-".join)
async def test_a_failed_checkpoint_leaves_the_store_serving(failure: tuple[str, str], mode: str, world: World) -> None:
    async with world.open(User, shards=2, durability=mode) as store:
        table = store[User]
        await table.put_many(users(0, 50))
        await store.checkpoint()
        await table.put(User(id="u0001", n=-1))
        world.files.fail(*failure)
        with pytest.raises(ws.UnavailableError, match="the checkpoint failed"):
            await store.checkpoint()
        assert "Input/output" in str(store.statistics().last_checkpoint_error)
        assert store.statistics().n_checkpoints == 1
        await table.put(User(id="u0002", n=-2))
        world.files.fail("sync", ".ckpt")  # the next one fails later, after it took the names of its files
        with pytest.raises(ws.UnavailableError):
            await store.checkpoint()
        expected = users(0, 50)
        expected[1].n, expected[2].n = -1, -2
        assert await collected(table.scan()) == expected
        if mode == "fsync":
            crashed = world.crashed()
            assert await everything(crashed) == expected
            assert crashed.open_files() == []
        await store.checkpoint()
        assert store.statistics().last_checkpoint_error is None
        assert await collected(table.scan()) == expected
        names = {shard.name for shard in store._catalog.manifest.shards}
        assert {p.name for p in Path(world.path, "checkpoint").iterdir()} == names
    assert await everything(world) == expected


async def test_a_child_that_fails_leaves_the_store_serving(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: object, **__: object) -> Any:
        raise OSError(errno.EAGAIN, "no process")

    async with ws.open(world.path, models=[User], segment_bytes="64KiB") as store:
        await store[User].put(User(id="a"))
        monkeypatch.setattr(asyncio, "create_subprocess_exec", fails)
        with pytest.raises(ws.UnavailableError, match="no process"):
            await store.checkpoint()
        assert await store[User].get("a") == User(id="a")


async def test_a_restart_of_a_shard_during_a_checkpoint_loses_nothing(world: World) -> None:
    async with world.open(User, shards=2, restart_intensity=100) as store:
        table = store[User]
        await table.put_many(users(0, 100))
        await store.checkpoint()
        await table.put_many([User(id=u.id, n=-u.n) for u in users(0, 50)])

        async def meanwhile() -> None:
            before = store._context.shards[0]
            before.crash(RuntimeError("a fault of the test"))
            await until(lambda: store._context.shards[0] is not before)
            await turns()
            await table.put_many([User(id=u.id, n=-u.n) for u in users(50, 60)])

        world.on_checkpoint = meanwhile
        await store.checkpoint()
        world.on_checkpoint = None
        expected = [User(id=u.id, n=-u.n) if u.n < 60 else u for u in users(0, 100)]
        assert await collected(table.scan()) == expected
        await store.checkpoint()
        assert await collected(table.scan()) == expected
        assert len([p for p in world.open_files() if ".ckpt" in p]) == 2
    assert await everything(world) == expected


# Sync and close


async def test_sync_makes_acknowledged_writes_durable(world: World) -> None:
    world.hand_timers = True
    async with world.open(User, durability="interval") as store:
        await store[User].put_many(users(0, 10))
        syncs = store.statistics().lanes[0].n_syncs
        await store.sync()
        assert store.statistics().lanes[0].n_syncs > syncs
        crashed = world.crashed()
    assert await everything(crashed) == users(0, 10)


async def test_writers_wait_while_the_oldest_record_is_unsynced_for_too_long(world: World) -> None:
    world.hand_timers = True
    async with world.open(User, durability="interval", sync_interval_ms=50, shards=2) as store:
        table = store[User]
        await table.put(User(id="a"))
        await turns()
        world.clock.advance(0.2)
        await table.put(User(id="b"))  # its write to the log finds that the sync is late
        await turns()
        assert store.statistics().lanes[0].lagging
        with pytest.raises(ws.OverloadedError):
            table.put_nowait(User(id="c"))
        late = [
            asyncio.ensure_future(call)
            for call in (
                table.put(User(id="c")),
                table.insert(User(id="d")),
                table.put_many(users(0, 8)),
                table.update("a", n=1),
            )
        ]
        await turns()
        assert not any(task.done() for task in late)
        assert await table.get("c") is None
        world.timers[0].fire()
        await asyncio.gather(*late)
        assert not store.statistics().lanes[0].lagging
        assert await table.count() == 12


@pytest.mark.parametrize("ending", ["close", "escalation"])
async def test_writers_that_wait_are_told_when_the_store_ends(ending: str, world: World) -> None:
    world.hand_timers = True
    store = await world.open(User, durability="interval", shards=1)
    table = store[User]
    await table.put(User(id="a"))
    await turns()
    world.clock.advance(1)
    await table.put(User(id="b"))
    await turns()
    late = [
        asyncio.ensure_future(call)
        for call in (
            table.put(User(id="c")),
            table.insert(User(id="d")),
            table.put_many(users(0, 8)),
            table.modify("a", repr),
        )
    ]
    await turns()
    if ending == "escalation":
        store._context.read_only = ws.ReadOnlyStoreError("a test")
        store._context.shards[0].refuse_writers(store._context.read_only)
    else:
        await store.close()
    results = await asyncio.gather(*late, return_exceptions=True)
    allowed = ws.ReadOnlyStoreError if ending == "escalation" else (ws.ShardUnavailableError, ws.ClosedStoreError)
    assert all(isinstance(result, allowed) for result in results)
    await store.close()


async def test_a_close_that_cannot_make_the_last_bytes_durable_says_so(world: World) -> None:
    world.hand_timers = True
    store = await world.open(User, durability="interval")
    await store[User].put(User(id="a"))
    await turns()
    world.files.fail("sync", "1.wal")
    with pytest.raises(ws.OutcomeUnknownError, match="durable"):
        await store.close()
    with pytest.raises(ws.OutcomeUnknownError):
        await store.close()
    world.assert_nothing_left()
    assert await everything(world) == [User(id="a")]  # the file system of the test kept it


async def test_close_is_idempotent_and_calls_under_way_end(world: World) -> None:
    store = await world.open(User)
    writes = [asyncio.ensure_future(store[User].put(user)) for user in users(0, 50)]
    await asyncio.sleep(0)
    await asyncio.gather(store.close(), store.close())
    await store.close()
    results = await asyncio.gather(*writes, return_exceptions=True)
    kept = [u for u, result in zip(users(0, 50), results, strict=True) if result is None]
    assert all(r is None or isinstance(r, ws.WarpstoreError) for r in results)
    found = await everything(world)
    assert [u for u in kept if u not in found] == []


async def test_a_cancelled_close_goes_on(world: World) -> None:
    store = await world.open(User)
    await store[User].put(User(id="a"))
    closing = asyncio.ensure_future(store.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await store.close()
    assert await everything(world) == [User(id="a")]


async def test_a_store_can_be_opened_with_await_and_leaves_nothing_when_opening_is_cancelled(world: World) -> None:
    opening = asyncio.ensure_future(world.open(User)._open())
    await turns(2)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    store = await world.open(User)
    await store.close()


# Several lanes


@pytest.mark.parametrize("mode", MODES)
async def test_lanes_in_folders_of_their_own(mode: str, world: World, tmp_path: Path) -> None:
    log = [tmp_path / "one", tmp_path / "two"]
    async with world.open(User, durability=mode, log=log, shards=4) as store:
        await store[User].put_many(users(0, 100))
        await store.sync()
        assert len(store.statistics().lanes) == 2
        await store.checkpoint()
        await store[User].put_many(users(100, 120))
    assert ".wal" in {p.suffix for p in log[0].iterdir()}
    assert await everything(world, log=log) == users(0, 120)
    assert await everything(world) == users(0, 120)
    with pytest.raises(ws.ConfigError, match="log"):
        await world.open(User, log=[tmp_path / "three", tmp_path / "four"])
    with pytest.raises(ws.ConfigError, match="lanes"):
        await world.open(User, lanes=3)


# Numbers


async def test_statistics_tell_what_is_where(world: World) -> None:
    async with world.open(User, Reading, shards=2, ram="512MB") as store:
        await store[User].put_many(users(0, 10))
        await store[Reading].put(Reading(id=1))
        await store[Reading].column("value").lookup([1])
        numbers = store.statistics()
        assert (numbers.epoch, numbers.n_shards, numbers.ram, numbers.read_only) == (1, 2, 512_000_000, None)
        assert numbers.log_bytes > 0
        reading, user = numbers.tables
        assert (user.name, user.n_resident, user.n_checkpointed, user.columns, user.columns_backend) == (
            "user",
            10,
            0,
            None,
            None,
        )
        assert reading.columns is not None
        assert reading.columns_backend == "numpy"
        [lane] = numbers.lanes
        assert (lane.replayed_records, lane.torn_tail, lane.damage, lane.lagging) == (0, None, (), False)
        assert lane.n_groups > 0
        assert {actor.name: actor.state for actor in numbers.actors} == dict.fromkeys(
            ["lane 0", "shards", "checkpointer", "ager", "shard 0", "shard 1"], "running"
        )
        await store.checkpoint()
        assert [t.n_checkpointed for t in store.statistics().tables] == [1, 10]
        await store[User].put_many(users(0, 3))
        crashed = world.crashed()
    async with crashed.open(User) as store:
        assert store.statistics().lanes[0].replayed_records == 3
        assert store.statistics().epoch == 2


async def test_what_was_cut_off_the_log_is_kept_in_quarantine_and_reported(world: World) -> None:
    async with world.open(User, shards=1) as store:
        await store[User].put(User(id="a"))
        lane = store._context.lanes[0].lane
        assert lane is not None
        segment = lane._active
        crashed = world.crashed()
    path = Path(crashed.path, "log/000", Path(segment.file.path).name)
    data = bytearray(path.read_bytes())
    end = len(data.rstrip(b"\0")) // 512 * 512 + 512
    data[end : end + 12] = data[4096:4100] + b"torn off"  # a frame that was begun
    path.write_bytes(data)
    async with crashed.open(User) as store:
        assert await store[User].get("a") == User(id="a")
        torn = store.statistics().lanes[0].torn_tail
        assert torn is not None
        assert f"offset {end}" in torn
    [kept] = Path(crashed.path, "quarantine").iterdir()
    assert kept.read_bytes().endswith(b"torn off")


@pytest.mark.parametrize("mode", ["fsync", "interval"])
async def test_of_a_batch_that_was_torn_each_shard_has_all_of_its_part_or_none(mode: str, world: World) -> None:
    async with world.open(User, shards=2, durability=mode) as store:
        await store[User].put_many(users(0, 10))
        await store.sync()
        parts = [{u.id for u in users(100, 200) if slot_of(u.id) in s.slots} for s in store._context.shards.values()]
        await store[User].put_many(users(100, 200, note="x" * 30))
        await turns()
        crashed = world.crashed()
    path = Path(crashed.path, "log/000", f"{1:016x}.wal")
    good = path.read_bytes()
    begin, end = min(good.index(u.id.encode()) for u in users(100, 200)), good.rindex(b"x" * 30)
    seen = set()
    for at in range(begin - 100, end, (end - begin) // 12):
        path.write_bytes(good[:at].ljust(len(good), b"\0"))
        torn = crashed.crashed()
        found = {u.id for u in await everything(torn)}
        assert {u.id for u in users(0, 10)} <= found
        for part in parts:
            assert part <= found or not part & found
        seen.add(sum(part <= found for part in parts))
    assert 0 in seen
    assert seen <= {0, 1}


@pytest.mark.parametrize("step", ["lane_opened", "remove_strays"])
async def test_an_opening_that_fails_at_a_late_step_leaves_nothing_open(
    step: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.open(User) as store:
        await store[User].put(User(id="a"))
        await store.checkpoint()

    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, "a fault of the test")

    with monkeypatch.context() as patch:
        patch.setattr(Catalog, step, fail)
        with pytest.raises(ws.OpenError):
            await world.open(User)
    assert world.open_files() == []
    assert await everything(world) == [User(id="a")]


async def test_a_close_that_cannot_record_the_clean_end_says_so_and_loses_nothing(world: World) -> None:
    store = await world.open(User)
    await store[User].put(User(id="a"))
    world.files.fail("rename", "MANIFEST.new")
    with pytest.raises(ws.UnavailableError, match="the clean end could not be recorded"):
        await store.close()
    assert await everything(world) == [User(id="a")]
