"""The RAM cap holds while much more is written and read, loses nothing, and says what is wrong where it cannot."""

import asyncio
import errno
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import pytest

import warpstore as ws
from tests.support.worlds import MODES, World, collected, turns, until, world_in
from warpstore.checkpointer import Checkpointer
from warpstore.hot_tier import HotTier
from warpstore.keys import slot_of
from warpstore.lane_keeper import DISK
from warpstore.memory_cap import DECODED_BYTES, MEMORY, MemoryCaps
from warpstore.values import TOMBSTONE, tombstone

CAP = 1 << 20
every_mode = pytest.mark.parametrize("durability", MODES)


class Cheap(ws.Record):
    """A record of low priority."""

    id: Annotated[str, ws.Key()]
    text: Annotated[str, ws.Memory(priority="low")] = ""


class Usual(ws.Record):
    """A record of normal priority."""

    id: Annotated[str, ws.Key()]
    n: int = 0
    text: Annotated[str, ws.Memory()] = ""


class Vital(ws.Record):
    """A record that never leaves memory."""

    id: Annotated[str, ws.Key()]
    text: Annotated[str, ws.Memory(priority="critical")] = ""


class Distant(ws.Record):
    """A record with a field on disk."""

    id: Annotated[str, ws.Key()]
    text: Annotated[str, ws.Disk(compression="none")] = ""


class Mixed(ws.Record):
    """A record whose fields differ in priority."""

    id: Annotated[str, ws.Key()]
    text: Annotated[str, ws.Memory(priority="low")] = ""
    name: Annotated[str, ws.Memory(priority="critical")] = ""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_in(tmp_path) as made:
        yield made


def caps(store: ws.Store) -> MemoryCaps:
    return store._context.caps


def checkpointer(store: ws.Store) -> Checkpointer:
    found = store._context.checkpointer
    assert found is not None
    return found


def tiers(store: ws.Store, name: str) -> list[HotTier]:
    return store._context.tiers(name)


def n_clean(store: ws.Store, name: str) -> int:
    return sum(len(clean) for tier in tiers(store, name) for clean in tier.clean)


def is_held(store: ws.Store) -> bool:
    return caps(store).is_over


def text(i: int, n: int = 4000) -> str:
    return f"{i:06d}" * (n // 6)


def key(i: int) -> str:
    return f"k{i:05d}"


async def idle(store: ws.Store) -> None:
    """Wait until no checkpoint is wanted or under way."""
    await turns()
    await until(lambda: checkpointer(store).is_idle)


async def fill(table: ws.Table[Any], model: Any, n: int, *, start: int = 0) -> int:
    """Put records, five at a time, until some are refused; return how many went in."""
    for i in range(start, start + n, 5):
        try:
            await table.put_many([model(id=key(k), text=text(k)) for k in range(i, i + 5)])
        except ws.MemoryLimitError:
            return i - start
    return n


# The cap holds


@every_mode
async def test_many_times_the_cap_is_written_and_read_back_and_found_after_a_reopening(
    world: World, durability: str
) -> None:
    peak = 0
    async with world.open(Usual, ram=CAP, durability=durability) as store:
        table = store[Usual]
        for start in range(0, 1000, 50):
            await asyncio.gather(*(table.put(Usual(id=key(i), text=text(i))) for i in range(start, start + 50)))
            await turns(1)
            peak = max(peak, caps(store).n_bytes)
        assert CAP * 3 < 1000 * 4000
        await idle(store)
        for i in range(0, 1000, 3):
            assert await table.get(key(i)) == Usual(id=key(i), text=text(i))
            peak = max(peak, caps(store).n_bytes)
        assert peak <= CAP * 1.1
        found = await table.get_many([key(i) for i in range(1000)])
        assert found == [Usual(id=key(i), text=text(i)) for i in range(1000)]
        assert caps(store).n_bytes <= CAP
        assert await table.count() == 1000
        assert not is_held(store)
        assert store.statistics().ram == CAP
        assert store.statistics().n_checkpoints > 1
        assert store.statistics().tables[0].n_resident * 4000 <= CAP
    async with world.open(Usual, ram=CAP, durability=durability) as store:
        assert [r async for r in store[Usual].scan()] == [Usual(id=key(i), text=text(i)) for i in range(1000)]
        assert caps(store).n_bytes <= CAP


@pytest.mark.parametrize("durability", ["fsync", "interval"])
async def test_what_was_acknowledged_under_the_cap_survives_a_crash(world: World, durability: str) -> None:
    async with world.open(Usual, ram=CAP, durability=durability) as store:
        for start in range(0, 800, 50):
            await asyncio.gather(
                *(store[Usual].put(Usual(id=key(i % 400), n=i, text=text(i))) for i in range(start, start + 50))
            )
        await store[Usual].delete(key(7))
        await store.sync()
        copy = world.crashed()
    async with copy.open(Usual, ram=CAP, durability=durability) as store:
        expected = {key(i % 400): Usual(id=key(i % 400), n=i, text=text(i)) for i in range(800)}
        del expected[key(7)]
        assert await collected(store[Usual].scan()) == [expected[k] for k in sorted(expected)]
    copy.assert_nothing_left()


async def test_an_opening_that_finds_more_in_the_log_than_the_cap_makes_room_by_itself(world: World) -> None:
    async with world.open(Usual, durability="interval") as store:
        for i in range(800):
            await store[Usual].put(Usual(id=key(i), text=text(i)))
        await store.sync()
        copy = world.crashed()
    async with copy.open(Usual, ram=CAP, durability="interval") as store:
        assert is_held(store)
        await store[Usual].put(Usual(id="new"))
        assert caps(store).n_bytes <= CAP
        assert await store[Usual].count() == 801
        await idle(store)
    copy.assert_nothing_left()


async def test_reading_what_is_on_disk_does_not_exceed_the_cap(world: World) -> None:
    async with world.open(Usual, durability="interval") as store:
        await store[Usual].put_many([Usual(id=key(i), text=text(i)) for i in range(800)])
        await store.checkpoint()
    async with world.open(Usual, ram=CAP, durability="interval") as store:
        for i in range(800):
            assert await store[Usual].get(key(i)) is not None
            assert caps(store).n_bytes <= CAP
        assert await store[Usual].get_many([f"absent{i}" for i in range(800)]) == [None] * 800
        assert caps(store).n_bytes <= CAP


async def test_records_that_are_read_again_and_again_stay(world: World) -> None:
    async with world.open(Usual, ram=CAP, durability="interval") as store:
        table = store[Usual]
        for i in range(800):
            await table.put(Usual(id=key(i), text=text(i)))
            if i > 20 and not i % 20:
                assert None not in await table.get_many([key(k) for k in range(20)])
        await idle(store)
        for i in range(300, 400):
            await table.get(key(i))
            for k in range(20):
                await table.get(key(k))
        resident = [
            tiers(store, "usual")[s.index].in_memory(slot_of(key(k)), key(k))
            for k in range(20)
            for s in store._context.shards.values()
            if slot_of(key(k)) in s.slots
        ]
        assert None not in resident


# Reads beside evictions


async def test_reads_that_always_hop_end_where_everything_read_is_evicted_at_once(world: World) -> None:
    async with world.open(Vital, Usual, durability="interval") as store:
        await store[Usual].put_many([Usual(id=key(i), text=text(i)) for i in range(60)])
        await store[Vital].put_many([Vital(id=key(i), text=text(i)) for i in range(400)])
    async with world.open(Vital, Usual, ram=CAP, durability="interval") as store:
        world.files.nothing_cached = True
        await store[Vital].get_many([key(i) for i in range(400)])
        assert caps(store).n_bytes > CAP * 0.99
        for i in range(20):
            assert await store[Usual].get(key(i)) == Usual(id=key(i), text=text(i))
        found = await store[Usual].get_many([key(i) for i in range(60)])
        assert found == [Usual(id=key(i), text=text(i)) for i in range(60)]
        assert await store[Usual].contains(key(3))
        assert (await store[Usual].get_with_version(key(4)))[0] == Usual(id=key(4), text=text(4))
        assert n_clean(store, "usual") < 60


@pytest.mark.parametrize("durability", MODES)
async def test_a_changed_record_that_was_evicted_again_before_its_change_is_decided_is_changed(
    world: World, durability: str
) -> None:
    async with world.open(Usual, ram="8MB", durability=durability) as store:
        table = store[Usual]
        await table.put_many([Usual(id=key(i), text=text(i)) for i in range(100)])
        await store.checkpoint()
        world.files.nothing_cached = True
        context = store._context
        load = context.load

        async def evicting(wanted: Any) -> Any:
            found = await load(wanted)
            for tier in tiers(store, "usual"):
                tier.evict(1 << 40)
                tier.evict(1 << 40)
            return found

        context.load = evicting  # type: ignore[method-assign]
        await evicting([])
        await table.update(key(1), n=1)
        await table.modify(key(2), lambda r: setattr(r, "n", 2))
        assert await table.delete(key(3))
        assert not await table.delete("absent")
        with pytest.raises(ws.KeyNotFoundError):
            await table.update("absent", n=1)
        with pytest.raises(ws.KeyExistsError):
            await table.insert(Usual(id=key(4)))
        assert [r and r.n for r in await table.get_many([key(i) for i in range(5)])] == [0, 1, 2, None, 0]


async def test_a_value_read_before_a_checkpoint_took_its_place_does_not_count(world: World) -> None:
    async with world.open(Usual, ram="8MB", durability="interval") as store:
        table = store[Usual]
        await table.put(Usual(id="a", n=1))
        await store.checkpoint()
        world.files.nothing_cached = True
        context = store._context
        load = context.load
        n_loads = 0

        def evict() -> None:
            for tier in tiers(store, "usual"):
                tier.evict(1 << 40)
                tier.evict(1 << 40)

        async def overtaken(wanted: Any) -> Any:
            nonlocal n_loads
            n_loads += 1
            found = await load(wanted)
            if n_loads == 1:
                await table.put(Usual(id="a", n=2))
                await store.checkpoint()
            evict()
            return found

        evict()
        context.load = overtaken  # type: ignore[method-assign]
        assert await table.get("a") == Usual(id="a", n=2)
        evict()
        n_loads = 0
        await table.modify("a", lambda r: setattr(r, "n", r.n * 10))
        assert await table.get("a") == Usual(id="a", n=20)


@pytest.mark.parametrize("durability", ["fsync", "interval"])
async def test_concurrent_changes_of_evicted_records_lose_none(world: World, durability: str) -> None:
    async with world.open(Usual, ram=CAP, durability=durability) as store:
        table = store[Usual]
        assert await fill(table, Usual, 700) == 700
        await idle(store)

        def grow(record: Usual) -> None:
            record.n += 1

        async def change(worker: int) -> None:
            for i in range(0, 700, 28):
                await table.modify(key(i), grow)
                await table.get(key((i * 7 + worker * 31) % 700))
                await table.update(key(i + 1 + worker), n=worker)

        await asyncio.gather(*(change(worker) for worker in range(8)), churn(store))
        assert [r and r.n for r in await table.get_many([key(i) for i in range(0, 700, 28)])] == [8] * 25
        assert [r and r.n for r in await table.get_many([key(8 + i) for i in range(0, 700, 28)])] == [7] * 25


async def churn(store: ws.Store) -> None:
    """Evict and checkpoint beside others."""
    for _ in range(3):
        for tier in tiers(store, "usual"):
            tier.evict(1 << 40)
        await store.checkpoint()
        await turns(10)


async def test_a_scan_and_batched_reads_are_right_while_records_are_evicted_and_written(world: World) -> None:
    async with world.open(Usual, ram=CAP, durability="interval") as store:
        table = store[Usual]
        for i in range(700):
            await table.put(Usual(id=key(i), text=text(i)))
        scanned = []
        i = 0
        async for record in table.scan():
            scanned.append(record)
            if not len(scanned) % 25:
                await table.put(Usual(id=key(i % 700), n=1, text=text(i % 700)))
                for tier in tiers(store, "usual"):
                    tier.evict(64 << 10)
                i += 7
                some = await table.get_many([key(k) for k in range(i, i + 40)])
                assert [r and r.id for r in some] == [key(k) for k in range(i, i + 40)]
            if len(scanned) == 300:
                await store.checkpoint()
        assert [r.id for r in scanned] == [key(k) for k in range(700)]
        assert all(r.text == text(k) for k, r in enumerate(scanned))
        again = await collected(table.scan(reverse=True))
        assert [r.id for r in again] == [key(k) for k in reversed(range(700))]
        assert sum(r.n for r in again) == 28


# Order


async def test_low_goes_before_normal_and_critical_never(world: World) -> None:
    async with world.open(Cheap, Usual, Vital, ram="8MB", durability="interval") as store:
        for model in (Vital, Usual, Cheap):
            await store[model].put_many([model(id=key(i), text=text(i)) for i in range(300)])
        await store.checkpoint()
        for model in (Usual, Vital, Cheap):
            await store[model].get_many([key(i) for i in range(300)])
        assert [n_clean(store, name) for name in ("cheap", "usual", "vital")] == [300, 300, 300]
        cap = caps(store)._store
        caps(store)._evict(cap, 400 << 10)
        low = n_clean(store, "cheap")
        assert 150 < low < 250
        assert [n_clean(store, name) for name in ("usual", "vital")] == [300, 300]
        caps(store)._evict(cap, 1300 << 10)
        assert (n_clean(store, "cheap"), n_clean(store, "vital")) == (0, 300)
        assert 0 < n_clean(store, "usual") < 300
        caps(store)._evict(cap, 1 << 40)
        assert [n_clean(store, name) for name in ("cheap", "usual", "vital")] == [0, 0, 300]


async def test_one_critical_field_keeps_the_whole_record(world: World) -> None:
    async with world.open(Mixed, ram=CAP, durability="interval") as store:
        await store[Mixed].put_many([Mixed(id=key(i), text=text(i)) for i in range(100)])
        await store.checkpoint()
        caps(store)._evict(caps(store)._store, 1 << 40)
        assert n_clean(store, "mixed") == 100


# Only what must stay is left


@every_mode
async def test_writers_are_refused_when_only_critical_records_are_left(world: World, durability: str) -> None:
    async with world.open(Vital, ram=CAP, durability=durability) as store:
        table = store[Vital]
        n = await fill(table, Vital, 1500)
        assert 150 < n < 280
        assert caps(store).n_bytes < CAP * 1.1
        before = caps(store).n_bytes
        record = Vital(id=key(9999), text="x")
        calls: list[Any] = [
            lambda: table.put(record),
            lambda: table.put(record, ttl=5),
            lambda: table.put(record, if_version=0),
            lambda: table.put_many([Vital(id=key(9000 + i)) for i in range(50)]),
            lambda: table.insert(record),
            lambda: table.update(key(1), text="y"),
            lambda: table.modify(key(1), lambda r: setattr(r, "text", "y")),
        ]
        for call in calls:
            with pytest.raises(ws.MemoryLimitError, match=rf"ram is at its cap: \d+ bytes of {CAP}.*raise the cap"):
                await call()
        assert caps(store).n_bytes == before
        assert await table.count() == n
        assert await table.get(key(9999)) is None
        assert await table.get(key(1)) == Vital(id=key(1), text=text(1))
        assert await table.get_many([key(i) for i in range(n)]) == [Vital(id=key(i), text=text(i)) for i in range(n)]
    async with world.open(Vital, durability=durability) as store:
        assert await store[Vital].count() == n
        await store[Vital].put(record)
        assert await store[Vital].get(key(9999)) == record


async def test_a_full_store_does_not_write_one_checkpoint_after_another(world: World) -> None:
    async with world.open(Vital, ram=CAP, durability="interval") as store:
        await fill(store[Vital], Vital, 1500)
        n = checkpointer(store).n_done
        for _ in range(20):
            with pytest.raises(ws.MemoryLimitError):
                await store[Vital].put(Vital(id="x"))
            await turns(50)
        assert checkpointer(store).n_done <= n + 1
        assert checkpointer(store).is_idle


@every_mode
@pytest.mark.parametrize("through_the_table", [False, True])
async def test_a_delete_goes_through_at_the_cap_and_writers_after_it(
    world: World, durability: str, through_the_table: bool
) -> None:
    async with world.open(Vital, ram=CAP, durability=durability) as store:
        table = store[Vital]
        n = await fill(table, Vital, 1500)
        assert is_held(store)
        n_deleted = n // 2
        for i in range(n_deleted):
            if through_the_table:
                assert await table.delete(key(i))
            else:
                await delete(table, key(i))
        assert await table.count() == n - n_deleted
        await table.put(Vital(id="new", text="x"))
        assert await table.get("new") == Vital(id="new", text="x")
        # A deleted value leaves memory with the next checkpoint. The put may have gone in before that, where index
        # pages had been let go of, and have filled their room: it asked for the checkpoint then.
        await idle(store)
        assert not is_held(store)
        assert caps(store).n_bytes <= CAP
        assert await table.get_many([key(i) for i in range(n_deleted)]) == [None] * n_deleted


async def delete(table: ws.Table[Any], k: str) -> None:
    """Delete as a table does."""
    await table._access.operate(
        slot_of(k),
        k,
        lambda current: (TOMBSTONE, tombstone(table._codec.tag, k)) if current else None,
        frees_memory=True,
    )


async def test_a_delete_at_the_cap_waits_for_a_lagging_disk(world: World) -> None:
    async with world.open(Vital, ram=CAP, durability="interval") as store:
        await fill(store[Vital], Vital, 1500)
        for shard in store._context.shards.values():
            shard.hold_writers(DISK)
        deleting = asyncio.create_task(delete(store[Vital], key(0)))
        await turns()
        with pytest.raises(ws.MemoryLimitError):
            await store[Vital].put(Vital(id="x"))
        await turns()
        assert not deleting.done()
        for shard in store._context.shards.values():
            shard.release_writers(DISK)
        await deleting
        assert await store[Vital].get(key(0)) is None


async def test_two_reasons_to_hold_writers_do_not_undo_each_other(world: World) -> None:
    async with world.open(Usual, durability="interval") as store:
        shards = list(store._context.shards.values())
        for first, second in ((DISK, MEMORY), (MEMORY, DISK)):
            for shard in shards:
                shard.hold_writers(DISK)
                shard.hold_writers(MEMORY)
            writing = asyncio.create_task(store[Usual].put(Usual(id=first)))
            await turns()
            for shard in shards:
                shard.release_writers(first)
                shard.release_writers(first)
            await turns()
            assert not writing.done()
            assert all(shard.is_held() for shard in shards)
            for shard in shards:
                shard.release_writers(second)
            await writing
            assert await store[Usual].get(first) == Usual(id=first)


# Pools


def pooled(name: str, pool: str, n_bytes: str | int | None, priority: str = "normal") -> Any:
    """Return a record type in a pool."""

    class Pooled(ws.Record, name=name, strategy=ws.Strategy(memory_pool=pool, memory_pool_bytes=n_bytes)):
        id: Annotated[str, ws.Key()]
        text: Annotated[str, ws.Memory(priority=priority)] = ""

    return Pooled


@pytest.mark.parametrize("second", [None, "256KiB", 256 << 10])
async def test_two_types_share_a_pool_and_its_cap(world: World, second: Any) -> None:
    one, two = pooled("one", "small", "256KiB"), pooled("two", "small", second)
    async with world.open(one, two, Usual, durability="interval") as store:
        for i in range(400):
            for model in (one, two):
                await store[model].put(model(id=key(i), text=text(i)))
            await store[Usual].put(Usual(id=key(i), text=text(i)))
        await idle(store)
        pool = caps(store)._pools["small"]
        assert pool.limit == 256 << 10
        assert pool.pool.n_bytes <= 256 << 10
        assert caps(store).n_bytes > 700_000  # what is in another pool stays
        for model in (one, two, Usual):
            assert await collected(store[model].scan()) == [model(id=key(i), text=text(i)) for i in range(400)]


async def test_a_pool_that_is_smaller_than_ram_is_named_when_it_is_full(world: World) -> None:
    small = pooled("small", "few", "128KiB", "critical")
    async with world.open(small, ram="4MB", durability="interval") as store:
        n = await fill(store[small], small, 1000)
        assert 15 < n < 40
        with pytest.raises(ws.MemoryLimitError, match=r"the pool 'few' is at its cap: \d+ bytes of 131072"):
            await store[small].put(small(id="x"))


async def test_a_pool_that_is_larger_than_ram_is_held_by_ram(world: World) -> None:
    large = pooled("large", "many", "64MB", "critical")
    async with world.open(large, ram=CAP, durability="interval") as store:
        assert 150 < await fill(store[large], large, 1500) < 280
        with pytest.raises(ws.MemoryLimitError, match="ram is at its cap"):
            await store[large].put(large(id="x"))


async def test_contradictory_sizes_of_a_pool_are_refused_before_anything_is_written(world: World) -> None:
    one, two = pooled("one", "p", "1MB"), pooled("two", "p", "2MB")
    with pytest.raises(ws.ConfigError, match="two types name the pool 'p', with 1000000 and 2000000 bytes") as caught:
        async with world.open(one, two):
            pass
    assert caught.value.setting == "memory_pool_bytes"
    assert not Path(world.path).exists()
    async with world.open(one) as store:
        await store[one].put(one(id="a"))
    before = world.all_bytes()
    with pytest.raises(ws.ConfigError):
        async with world.open(one, two):
            pass
    assert world.all_bytes() == before
    async with world.open(one, pooled("two", "q", "2MB")) as store:
        assert await store[one].get("a") == one(id="a")


async def test_a_bigger_pool_takes_writes_again(world: World) -> None:
    async with world.open(pooled("one", "p", "128KiB", "critical"), durability="interval") as store:
        model = next(iter(store._tables))
        n = await fill(store[model], model, 1000)
    bigger = pooled("one", "p", "256KiB", "critical")
    async with world.open(bigger, durability="interval") as store:
        await store[bigger].get_many([key(i) for i in range(n)])
        assert await fill(store[bigger], bigger, 10, start=n) == 10
        assert await store[bigger].count() == n + 10


# Batches


@pytest.mark.parametrize("durability", ["fsync", "interval"])
async def test_a_batch_larger_than_the_cap_is_refused_and_nothing_of_it_is_written(
    world: World, durability: str
) -> None:
    async with world.open(Usual, ram=CAP, durability=durability) as store:
        await store[Usual].put(Usual(id="a"))
        with pytest.raises(ws.MemoryLimitError, match=f"ram has a cap of {CAP}; split the batch"):
            await store[Usual].put_many(Usual(id=key(i), text=text(i)) for i in range(400))
        assert await store[Usual].count() == 1
        for start in range(0, 400, 50):
            await store[Usual].put_many(Usual(id=key(i), text=text(i)) for i in range(start, start + 50))
            await turns()
            assert caps(store).n_bytes <= CAP * 1.3
        await idle(store)
        assert await store[Usual].count() == 401
        assert caps(store).n_bytes <= CAP


# Checkpoints that fail


@pytest.mark.parametrize("durability", ["fsync", "interval"])
async def test_a_failing_checkpoint_is_named_and_writes_go_on_when_it_is_healed(world: World, durability: str) -> None:
    failing = True

    async def fail() -> None:
        if failing:
            raise OSError(errno.ENOSPC, "no space for it")

    world.on_checkpoint = fail
    async with world.open(Usual, ram=CAP, durability=durability) as store:
        table = store[Usual]
        n = await fill(table, Usual, 1500)
        assert 150 < n < 280
        assert caps(store).n_bytes < CAP * 1.1
        with pytest.raises(ws.MemoryLimitError, match=r"the checkpoint failed: .*no space for it") as caught:
            await table.put(Usual(id="x"))
        assert isinstance(caught.value.__cause__, ws.UnavailableError)
        assert await table.get("x") is None
        assert await table.count() == n
        failing = False
        await table.put(Usual(id="x"))
        await idle(store)
        assert await fill(table, Usual, 400, start=n) == 400
        assert await table.count() == n + 401
        assert caps(store).n_bytes <= CAP
        expected = [Usual(id=key(i), text=text(i)) for i in range(n + 400)]
        assert await table.get_many([key(i) for i in range(n + 400)]) == expected


async def test_a_failing_checkpoint_is_not_tried_again_and_again_while_nobody_waits(world: World) -> None:
    n_tries = 0

    async def fail() -> None:
        nonlocal n_tries
        n_tries += 1
        raise OSError(errno.EIO, "no")

    world.on_checkpoint = fail
    async with world.open(Usual, ram=CAP, durability="interval") as store:
        for i in range(150):
            await store[Usual].put(Usual(id=key(i), text=text(i)))
        await turns(300)
        assert caps(store).dirty_bytes > CAP * 0.4
        assert not is_held(store)
        await idle(store)
        assert n_tries == 1
        world.clock.advance(2)
        await store[Usual].put(Usual(id="x"))
        await turns(50)
        await idle(store)
        assert n_tries == 2
        world.on_checkpoint = None


async def test_a_checkpoint_that_began_before_the_cap_was_reached_is_followed_by_another(world: World) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        began.set()
        await go_on.wait()

    world.on_checkpoint = wait
    async with world.open(Usual, ram=CAP, durability="interval") as store:
        asked = asyncio.create_task(store.checkpoint())  # nothing is dirty yet
        await began.wait()
        writing = asyncio.create_task(fill(store[Usual], Usual, 500))
        await until(lambda: is_held(store))
        await turns()
        go_on.set()
        await asked
        assert await writing == 500
        assert await store[Usual].count() == 500


async def test_a_checkpointer_that_crashed_with_what_it_was_asked_for_is_asked_again(world: World) -> None:
    began = asyncio.Event()
    crash = True

    async def once() -> None:
        began.set()
        if crash:
            await until(lambda: is_held(store))
            await turns()
            raise ValueError("a fault of the test")

    world.on_checkpoint = once
    async with world.open(Usual, ram=CAP, durability="interval") as store:
        writing = asyncio.create_task(fill(store[Usual], Usual, 500))
        await began.wait()
        before = checkpointer(store)
        await until(lambda: not before.is_alive)
        crash = False
        assert await asyncio.wait_for(writing, 30) == 500
        assert checkpointer(store) is not before


# Those who wait


async def held(store: ws.Store, world: World, model: Any) -> tuple[asyncio.Event, int]:
    """Fill the store until writers wait for a checkpoint, which waits for the event."""
    go_on = asyncio.Event()
    world.on_checkpoint = go_on.wait
    i = 0
    while not is_held(store):
        await store[model].put(model(id=key(i), text=text(i)))
        await turns(2)
        i += 1
    return go_on, i


@every_mode
async def test_a_cancelled_writer_has_written_nothing_and_the_others_go_on(world: World, durability: str) -> None:
    async with world.open(Usual, ram=CAP, durability=durability) as store:
        table = store[Usual]
        go_on, n = await held(store, world, Usual)
        first, second, third = (asyncio.create_task(table.put(Usual(id=f"w{i}"))) for i in range(3))
        many = asyncio.create_task(table.put_many([Usual(id=f"m{i}") for i in range(20)]))
        change = asyncio.create_task(table.update(key(0), n=5))
        await turns()
        assert not any(task.done() for task in (first, second, third, many, change))
        for task in (first, many, change):
            task.cancel()
        await asyncio.wait([first, many, change])
        assert all(task.cancelled() for task in (first, many, change))
        go_on.set()
        await asyncio.gather(second, third)
        await idle(store)
        assert await table.count() == n + 2
        assert await table.get("w0") is None
        assert await table.get(key(0)) == Usual(id=key(0), text=text(0))


@every_mode
async def test_closing_tells_those_who_wait_and_keeps_all_that_was_acknowledged(world: World, durability: str) -> None:
    store = await world.open(Usual, ram=CAP, durability=durability)
    go_on, n = await held(store, world, Usual)
    waiting = [asyncio.create_task(store[Usual].put(Usual(id=f"w{i}"))) for i in range(4)]
    await turns()
    closing = asyncio.create_task(store.close())
    await turns()
    go_on.set()
    await closing
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    n_written = outcomes.count(None)
    assert all(o is None or isinstance(o, ws.UnavailableError | ws.ClosedStoreError) for o in outcomes)
    world.on_checkpoint = None
    async with world.open(Usual, ram=CAP, durability=durability) as store:
        assert await store[Usual].count() == n + n_written
        assert await store[Usual].get_many([key(i) for i in range(n)]) == [
            Usual(id=key(i), text=text(i)) for i in range(n)
        ]


@pytest.mark.parametrize("durability", ["fsync", "interval"])
async def test_a_shard_that_comes_back_while_writers_are_held_holds_them_too(world: World, durability: str) -> None:
    async with world.open(Usual, ram=CAP, durability=durability, shards=4) as store:
        go_on, n = await held(store, world, Usual)
        caps(store)._store.pool.charge(CAP)  # so that no look at the caps releases anybody
        before = store._context.shards[1]
        waiting = asyncio.create_task(
            store[Usual].put(Usual(id=next(f"w{i}" for i in range(999) if slot_of(f"w{i}") in before.slots)))
        )
        await turns()
        before.crash(RuntimeError("a fault of the test"))
        with pytest.raises(ws.ShardUnavailableError):
            await waiting
        await until(lambda: store._context.shards[1] is not before)
        after = store._context.shards[1]
        await until(lambda: after.state.name == "RUNNING")
        assert after.is_held()
        assert not after.is_open
        caps(store)._store.pool.charge(-CAP)
        go_on.set()
        await store[Usual].put(Usual(id="x"))
        assert not after.is_held()
        assert await store[Usual].count() == n + 1


async def test_a_shard_that_comes_back_while_the_disk_lags_holds_writers_too(world: World) -> None:
    async with world.open(Usual, durability="interval", shards=4) as store:
        lane = store._context.lanes[0].lane
        assert lane is not None
        before = store._context.shards[1]
        lane.lagging = True
        before.crash(RuntimeError("a fault of the test"))
        await until(lambda: (s := store._context.shards[1]) is not before and s.state.name == "RUNNING")
        assert store._context.shards[1].is_held()
        lane.lagging = False
        store._context.lanes[0]._on_lag(False)
        await store[Usual].put(Usual(id="x"))


async def test_a_shard_that_crashed_is_not_counted_twice(world: World) -> None:
    async with world.open(Usual, ram=CAP, durability="interval", shards=2) as store:
        for i in range(100):
            await store[Usual].put(Usual(id=key(i), text=text(i)))
        await store.sync()
        gc.collect()
        n_bytes = caps(store).n_bytes
        gc.disable()
        try:
            before = store._context.shards[1]
            before.crash(RuntimeError("a fault of the test"))
            await until(lambda: (s := store._context.shards[1]) is not before and s.state.name == "RUNNING")
            await turns()
            assert caps(store).n_bytes <= n_bytes + 4096
        finally:
            gc.enable()
        assert await store[Usual].count() == 100


async def test_a_write_that_may_not_wait_is_refused_while_writers_are_held(world: World) -> None:
    async with world.open(Usual, ram=CAP, durability="fsync") as store:
        go_on, _ = await held(store, world, Usual)
        try:
            with pytest.raises(ws.OverloadedError):
                await store[Usual].put_nowait(Usual(id="x"))
        finally:
            go_on.set()
            await idle(store)


async def test_no_cap_counts_and_holds_nothing(world: World) -> None:
    async with world.open(Usual, durability="interval") as store:
        for i in range(1000):
            await store[Usual].put(Usual(id=key(i), text=text(i)))
        await turns()
        assert not caps(store).is_active
        assert caps(store).n_bytes > 3_000_000
        assert caps(store).n_bytes - caps(store).dirty_bytes == 1024 * DECODED_BYTES
        assert checkpointer(store).n_done == 0
        assert store._context.on_growth is None


async def test_cached_blocks_leave_before_writers_wait(world: World) -> None:
    async with world.open(Distant, Vital, ram=CAP, block_cache_bytes=CAP // 4) as store:
        for i in range(100):
            await store[Distant].put(Distant(id=key(i), text=text(i)))
        await store.checkpoint()
        assert [(await store[Distant].get(key(i))).text for i in range(100)] == [text(i) for i in range(100)]
        assert caps(store).block_cache.n_bytes > 0
        n = await fill(store[Vital], Vital, 400)
        assert 0 < n < 400
        assert caps(store).block_cache.n_bytes == 0
        assert n * len(text(0)) > 0.8 * CAP
