"""A scan is one cut: what depends on a write is never seen without it, whatever shards and lanes the two are in."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import warpstore as ws
from tests.support.worlds import User, World, collected, turns, until, world_in

N_WRITERS = 6
N_WRITES = 60


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_in(tmp_path) as made:
        yield made


def assert_one_cut(seen: list[User]) -> int:
    """Assert that each writer's records are all of its writes up to some one; return how many there are.

    A writer begins a write when the one before was acknowledged, and the keys of its writes lie in all shards.
    """
    by_writer: dict[str, set[int]] = {}
    for user in seen:
        by_writer.setdefault(user.note, set()).add(user.n)
    for numbers in by_writer.values():
        assert numbers == set(range(len(numbers)))
    return len(seen)


async def dependent_writes(store: ws.Store, name: str) -> None:
    """Write records one after another, each when the one before is acknowledged."""
    for n in range(N_WRITES):
        await store[User].put(User(id=f"{name}-{n}", n=n, note=name))
        await turns(n % 3)


@pytest.mark.parametrize(("shards", "lanes"), [(1, 1), (4, 1), (4, 4), (16, 3)])
@pytest.mark.parametrize("mode", ["fsync", "interval", "memory"])
async def test_a_snapshot_holds_whatever_its_writes_depend_on(mode: str, shards: int, lanes: int, world: World) -> None:
    async with world.open(User, durability=mode, shards=shards, lanes=lanes) as store:
        writers = [asyncio.create_task(dependent_writes(store, f"w{i}")) for i in range(N_WRITERS)]
        sizes = []
        for i in itertools.count():
            await turns(20 if mode == "fsync" else 3)
            if i == 5:
                await store.checkpoint()
            sizes.append(assert_one_cut(await collected(store[User].scan(snapshot=True, reverse=bool(i % 2)))))
            if all(writer.done() for writer in writers):
                break
        assert sizes == sorted(sizes)
        assert len(set(sizes)) > 5


async def test_a_baton_that_goes_from_writer_to_writer_leaves_no_gap(world: World) -> None:
    async with world.open(User, shards=4, lanes=4) as store:
        baton: asyncio.Queue[int] = asyncio.Queue()
        baton.put_nowait(0)

        async def runner() -> None:
            while True:
                n = await baton.get()
                await store[User].put(User(id=f"{n}", n=n))
                baton.put_nowait(n + 1)

        runners = [asyncio.create_task(runner()) for _ in range(4)]
        for _ in range(30):
            await turns(5)
            assert_one_cut(await collected(store[User].scan(snapshot=True)))
        for task in runners:
            task.cancel()
        await asyncio.gather(*runners, return_exceptions=True)


async def test_a_snapshot_stays_while_shards_write_and_checkpoint(world: World) -> None:
    async with world.open(User, shards=4, durability="interval") as store:
        await store[User].put_many([User(id=f"{n:04d}", n=n, note="x") for n in range(2_000)])
        scan = store[User].scan(snapshot=True)
        first = await anext(scan)
        await store[User].put_many([User(id=f"{n:04d}", n=n, note="y") for n in range(2_500)])
        await store.checkpoint()
        rest = await collected(scan)
        assert [user.note for user in (first, *rest)] == ["x"] * 2_000


async def test_a_scan_made_before_a_shard_was_replaced_reads_the_new_one(world: World) -> None:
    async with world.open(User, shards=1) as store:
        await store[User].put(User(id="a"))
        await store.checkpoint()
        scan = store[User].scan(snapshot=True)
        shard = store._context.shards[0]
        shard.crash(RuntimeError("a fault"))
        await until(lambda: store._context.shards[0] is not shard)
        await store[User].put(User(id="b"))
        assert [user.id for user in await collected(scan)] == ["a", "b"]
