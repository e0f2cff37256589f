"""`Disk` fields are in block files after a checkpoint, and everything goes on as if they were not."""

import asyncio
import contextlib
import errno
import gc
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import lz4.block
import pytest

import warpstore as ws
from tests.support.faulty_files import FaultyFiles as MemoryFiles
from tests.support.worlds import MODES, World, collected, turns, until, world_in
from wal import OsFileSystem
from warpstore._native import MemoryPool
from warpstore.blocks import BlockCache, BlockFiles, block_path
from warpstore.blocks.format import (
    BLOCK_HEADER_BYTES,
    FILE_HEADER_BYTES,
    lengths_of,
    unpack_block,
    unpack_block_header,
    unpack_file_header,
)
from warpstore.checkpoint import CheckpointJob, CheckpointResult, TableJob, apart
from warpstore.checkpoint.apart import SetApart
from warpstore.checkpoint.job import ShardJob, run_job
from warpstore.hot_tier import HotTier
from warpstore.parts import PartPlan, is_split_value, parts_of, places_of
from warpstore.record import plan_of
from warpstore.shard import Shard
from warpstore.values import has_deadline

every_mode = pytest.mark.parametrize("durability", MODES)


class Person(ws.Record, name="person"):
    id: Annotated[str, ws.Key()]
    n: Annotated[int, ws.Memory()] = 0
    score: Annotated[float, ws.Gpu(dtype="f4")] = 0.0
    name: str = ""
    friends: Annotated[list[str], ws.Disk()] = []
    n_friends: Annotated[int, ws.Computed(lambda p: len(p.friends), of=("friends",)), ws.Disk()] = ws.derived()
    bio: Annotated[str, ws.Disk(compression="max", cache=False)] = ""
    raw: Annotated[bytes, ws.Disk(compression="none")] = b""
    seen: Annotated[list[float], ws.Temporal()] = []
    session: Annotated[dict[str, str], ws.Ephemeral(ttl="1h")] = {}


class Later(ws.Record, name="person"):
    """The same table: a field moved to disk, one from disk, one renamed, one dropped, one added."""

    id: Annotated[str, ws.Key()]
    n: Annotated[int, ws.Memory()] = 0
    score: Annotated[float, ws.Gpu(dtype="f4")] = 0.0
    name: Annotated[str, ws.Disk()] = ""
    friends: Annotated[list[str], ws.Memory()] = []
    n_friends: Annotated[int, ws.Computed(lambda p: len(p.friends), of=("friends",)), ws.Memory()] = ws.derived()
    about: Annotated[str, ws.Disk(compression="none"), ws.Renamed("bio")] = ""
    seen: Annotated[list[float], ws.Temporal()] = []
    new: Annotated[str, ws.Disk()] = "new"


class Plain(ws.Record, name="plain"):
    id: Annotated[str, ws.Key()]
    text: str = ""


class Text(ws.Record, name="text"):
    id: Annotated[str, ws.Key()]
    n: int = 0
    text: Annotated[str, ws.Disk(compression="none")] = ""


class Uncached(ws.Record, name="uncached"):
    id: Annotated[str, ws.Key()]
    n: int = 0
    text: Annotated[str, ws.Disk(cache=False)] = ""


def key(i: int) -> str:
    return f"k{i:05d}"


def person(i: int, salt: int = 0) -> Person:
    rng = random.Random(i * 7919 + salt)
    made = Person(
        id=key(i),
        n=i + salt,
        score=float(i % 100),
        name=f"name {i}",
        friends=[f"friend {rng.randrange(1000)}" for _ in range(rng.randrange(12))],
        bio="lorem ipsum " * rng.randrange(20),
        raw=rng.randbytes(rng.randrange(100)),
        seen=[1.0],
    )
    made.n_friends = len(made.friends)
    return made


def people(n: int, salt: int = 0) -> dict[str, Person]:
    return {key(i): person(i, salt) for i in range(n)}


def text(i: int, n: int = 300, salt: int = 0) -> str:
    return random.Random(i * 31 + salt).randbytes(n // 2).hex()


class Stored(ws.Record, name="stored"):
    id: Annotated[str, ws.Key()]
    text: Annotated[str, ws.Disk()]
    raw: Annotated[bytes, ws.Disk()]


class StoredByUuid(ws.Record, name="stored_by_uuid"):
    id: Annotated[UUID, ws.Key()]
    text: Annotated[str, ws.Disk()]
    raw: Annotated[bytes, ws.Disk()]


INDEX_BYTES_MAX = 24
"""Bytes on disk of a record that is wholly there, beside its key and what lz4 makes of its fields."""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_in(tmp_path) as made:
        yield made


def block_names(world: World) -> list[str]:
    return sorted(os.listdir(f"{world.path}/blocks"))


def named_blocks(store: ws.Store) -> set[str]:
    shards = [shard.checkpoint for shard in store._context.shards.values()]
    return {block_path("", n)[1:] for checkpoint in shards if checkpoint for n in checkpoint.block_numbers}


def n_split(store: ws.Store) -> int:
    """Return how many records have parts on disk."""
    found = 0
    for shard in store._context.shards.values():
        if shard.checkpoint is not None:
            for table in shard.checkpoint.tables.values():
                found += sum(is_split_value(value) for _, value in table.records())
    return found


async def settled_people(store: ws.Store, expected: dict[str, Person], *, absent: Iterable[str] = ("a", "z")) -> None:
    """Assert that every way of reading gives what is expected."""
    table = store[Person]
    keys = random.Random(1).sample(list(expected), len(expected))
    for one in keys[:20]:
        found = await table.get(one)
        assert found == expected[one]
        assert found is not None
        assert found.n_friends == len(found.friends)
        assert await table.contains(one)
    for one in absent:
        assert await table.get(one) is None
        assert not await table.contains(one)
        assert await table.get_with_version(one) == (None, 0)
    assert await table.get_many([*absent, *keys]) == [*(None for _ in absent), *(expected[one] for one in keys)]
    for fields in (["n", "name"], ["bio"], ["raw", "n"], ["n_friends"]):
        for one, some in zip(keys, await table.get_many(keys, fields=fields), strict=True):
            assert some is not None
            assert [getattr(some, field) for field in fields] == [getattr(expected[one], field) for field in fields]
    in_order = [expected[one] for one in sorted(expected)]
    assert await collected(table.scan()) == in_order
    assert await collected(table.scan(reverse=True)) == in_order[::-1]
    assert [p.n for p in await collected(table.scan(fields=["n"]))] == [p.n for p in in_order]
    assert [p.bio for p in await collected(table.scan(fields=["bio"], reverse=True))] == [p.bio for p in in_order[::-1]]
    assert await table.count() == len(expected)
    values, found_rows = await table.column("score").lookup(keys)
    assert found_rows.all()
    assert list(values) == [expected[one].score for one in keys]


# The store


@every_mode
@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("cached", [True, False])
async def test_records_in_block_files_are_read_and_changed_like_any(
    durability: str, shards: int, cached: bool, world: World
) -> None:
    expected = people(120)
    async with world.open(Person, durability=durability, shards=shards) as store:
        table = store[Person]
        await table.put_many(expected.values())
        await settled_people(store, expected)
        await store.checkpoint()
        world.files.nothing_cached = not cached
        assert n_split(store) > 90
        assert len(block_names(world)) == shards
        await settled_people(store, expected)

        await table.update(key(1), bio="b" * 100, n=7)
        expected[key(1)].bio, expected[key(1)].n = "b" * 100, 7
        await table.update(key(2), name="x")  # a field of the head
        expected[key(2)].name = "x"
        await table.modify(key(3), lambda p: p.friends.append("y"))
        expected[key(3)].friends.append("y")
        await table.append(key(4), "seen", 2.0)
        expected[key(4)].seen.append(2.0)
        one, version = await table.get_with_version(key(5))
        assert one is not None
        one.raw = b"raw" * 40
        await table.put(one, if_version=version)
        expected[key(5)] = one
        with pytest.raises(ws.VersionConflictError):
            await table.put(one, if_version=version)
        with pytest.raises(ws.KeyExistsError):
            await table.insert(person(6, 1))
        assert await table.delete(key(7))
        assert not await table.delete(key(7))
        assert await table.delete_many([key(8), key(9)]) == 2
        await table.insert(person(8, 5))
        expected |= {key(8): person(8, 5)}
        del expected[key(7)], expected[key(9)]
        with pytest.raises(ws.KeyNotFoundError):
            await table.update(key(7), n=1)
        for i in (1, 2, 3, 4, 5, 8):
            expected[key(i)].n_friends = len(expected[key(i)].friends)
        await settled_people(store, expected, absent=[key(7), key(9)])
        await store.checkpoint()
        await settled_people(store, expected, absent=[key(7), key(9)])
        assert set(block_names(world)) == named_blocks(store)
    async with world.open(Person, durability=durability) as store:
        await settled_people(store, expected, absent=[key(7), key(9)])


@every_mode
async def test_a_version_stays_when_the_parts_move_to_disk(durability: str, world: World) -> None:
    async with world.open(Person, durability=durability) as store:
        table = store[Person]
        await table.put_many(people(20).values())
        before = [await table.get_with_version(key(i)) for i in range(20)]
        await store.checkpoint()
        assert [await table.get_with_version(key(i)) for i in range(20)] == before
        for i, (one, version) in enumerate(before):
            assert one is not None
            one.n = -i
            await table.put(one, if_version=version)
            assert (await table.get(key(i))) == one


@every_mode
async def test_records_with_a_deadline_keep_it(durability: str, world: World) -> None:
    async with world.open(Person, durability=durability) as store:
        table = store[Person]
        expected = people(60)
        for i, one in enumerate(expected.values()):
            await table.put(one, ttl=10 if i % 3 == 0 else 1000)
        await store.checkpoint()
        await settled_people(store, expected)
        await table.update(key(3), bio="c" * 90)
        expected[key(3)].bio = "c" * 90
        await settled_people(store, expected)
        world.clock.advance(11)
        late = [key(i) for i in range(0, 60, 3)]
        expected = {one: p for one, p in expected.items() if one not in late}
        await settled_people(store, expected, absent=late)
        await store.checkpoint()
        await settled_people(store, expected, absent=late)
    async with world.open(Person) as store:
        await settled_people(store, expected, absent=late)
        world.clock.advance(1000)
        assert await collected(store[Person].scan()) == []
        assert await store[Person].get_many(list(expected)) == [None] * len(expected)


@every_mode
@pytest.mark.parametrize("cached", [True, False])
async def test_concurrent_changes_of_records_on_disk_lose_none(durability: str, cached: bool, world: World) -> None:
    async with world.open(Person, durability=durability) as store:
        table = store[Person]
        await table.put_many(people(10).values())
        await store.checkpoint()
        world.files.nothing_cached = not cached

        async def change(i: int) -> None:
            for j in range(6):
                await table.modify(key(i % 10), lambda p: p.friends.append(f"{i}.{j}"))  # noqa: B023
                await turns(i % 3)

        async def checkpoints() -> None:
            for _ in range(3):
                await store.checkpoint()

        await asyncio.gather(checkpoints(), *(change(i) for i in range(30)))
        for i in range(10):
            found = await table.get(key(i))
            assert found is not None
            added = Counter(found.friends[len(person(i).friends) :])
            assert added == Counter(f"{k}.{j}" for k in range(i, 30, 10) for j in range(6))
            assert found.n_friends == len(found.friends)


async def test_some_fields_of_the_head_read_no_block(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world.open(Person) as store:
        await store[Person].put_many(people(100).values())
        await store.checkpoint()
        world.files.fail("read", ".blk", times=1 << 30)
        monkeypatch.setattr("warpstore.blocks.reader.BlockFile.read", lambda *_, **__: pytest.fail("a block was read"))
        keys = [key(i) for i in range(100)]
        for cached in (True, False):
            world.files.nothing_cached = not cached
            assert [p.n for p in await store[Person].get_many(keys, fields=["n"]) if p] == list(range(100))
            some = await collected(store[Person].scan(fields=["name", "score"]))
            assert [(p.id, p.name) for p in some] == [(key(i), f"name {i}") for i in range(100)]
            assert await store[Person].contains(key(5))
            assert await store[Person].count() == 100
            values, _ = await store[Person].column("score").lookup(keys)
            assert list(values) == [float(i) for i in range(100)]


async def test_parts_that_are_empty_or_short_stay_in_the_head(world: World) -> None:
    async with world.open(Person, Text) as store:
        await store[Person].put(empty := Person(id="a"))
        await store[Text].put_many([Text(id="short", text="x" * 10), Text(id="none")])
        await store.checkpoint()
        assert n_split(store) == 0
        assert block_names(world) == []
        assert await store[Person].get("a") == empty
        await store[Text].put(Text(id="long", text="x" * 100))
        await store.checkpoint()
        assert n_split(store) == 1
        assert len(block_names(world)) == 1
        await store[Text].delete("long")
        await store.checkpoint()
        assert block_names(world) == []
        assert [t.id for t in await collected(store[Text].scan())] == ["none", "short"]


async def test_a_table_without_disk_fields_makes_no_block_file(world: World) -> None:
    async with world.open(Plain) as store:
        await store[Plain].put_many([Plain(id=key(i), text="x" * 500) for i in range(50)])
        await store.checkpoint()
        assert block_names(world) == []
        assert await store[Plain].get(key(7)) == Plain(id=key(7), text="x" * 500)


@pytest.mark.parametrize("n_bytes", [4 << 20, (4 << 20) + 1, 15 << 20])
async def test_a_record_as_large_as_may_be_is_set_apart(n_bytes: int, world: World) -> None:
    async with world.open(Person, durability="interval", shards=1) as store:
        large = Person(id="large", raw=os.urandom(n_bytes), friends=["f" * 1000] * 20)
        await store[Person].put_many([*people(30).values(), large])
        await store.checkpoint()
        for world.files.nothing_cached in (False, True):
            assert await store[Person].get("large") == large
            assert await store[Person].get(key(3)) == person(3)
        await store[Person].update("large", n=5)
        large.n = 5
        await store.checkpoint()
        assert (await collected(store[Person].scan(start="large")))[0] == large


# Other schemas


@pytest.mark.parametrize("cached", [True, False])
async def test_fields_move_to_disk_and_back_get_other_names_and_go(cached: bool, world: World) -> None:
    first = people(60)
    async with world.open(Person) as store:
        await store[Person].put_many(first.values())
        await store.checkpoint()
        await store[Person].put_many(person(i) for i in range(50, 60))
    world.files.nothing_cached = not cached

    def later(p: Person) -> Later:
        return Later(
            id=p.id, n=p.n, score=p.score, name=p.name, friends=p.friends, n_friends=len(p.friends), about=p.bio,
            seen=p.seen,
        )  # fmt: skip

    async with world.open(Later) as store:
        table = store[Later]
        expected = {one: later(p) for one, p in first.items()}
        for _ in range(2):
            keys = list(expected)
            for one in keys[:10]:
                assert await table.get(one) == expected[one]
            assert await table.get_many(keys) == list(expected.values())
            for field in ("n", "about", "friends", "name", "new", "n_friends"):
                some = await table.get_many(keys, fields=[field])
                assert [getattr(p, field) for p in some] == [getattr(p, field) for p in expected.values()]
                scanned = await collected(table.scan(fields=[field]))
                assert [getattr(p, field) for p in scanned] == [getattr(p, field) for p in expected.values()]
            assert await collected(table.scan(reverse=True)) == list(expected.values())[::-1]
            values, _ = await table.column("score").lookup(keys)
            assert list(values) == [p.score for p in expected.values()]
            await table.update(key(4), new="n" * 80)
            expected[key(4)].new = "n" * 80
            await table.modify(key(5), lambda p: setattr(p, "about", "a" * 80))
            expected[key(5)].about = "a" * 80
            await store.checkpoint()
    async with world.open(Person) as store:  # and back
        for one, changed in expected.items():
            found = await store[Person].get(one)
            assert found is not None
            assert (found.n, found.friends, found.name) == (changed.n, changed.friends, changed.name)
            assert found.bio == changed.about  # the rename is undone
            assert found.raw == (b"" if one in {key(4), key(5)} else first[one].raw)
        assert len(await collected(store[Person].scan())) == 60


async def test_a_table_without_a_class_is_kept_and_a_dropped_one_goes_with_its_blocks(world: World) -> None:
    async with world.open(Person, Text) as store:
        await store[Person].put_many(people(50).values())
        await store[Text].put_many([Text(id=key(i), text="t" * 100) for i in range(50)])
        await store.checkpoint()
    async with world.open(Text, shards=2) as store:
        await store[Text].put(Text(id="new", text="t" * 99))
        await store.checkpoint()
    async with world.open(Person) as store:
        await settled_people(store, people(50))
        await store.drop("text")
        await store.checkpoint()
        await settled_people(store, people(50))
        assert n_split(store) < 60
    async with world.open(Text) as store:
        assert await store[Text].count() == 0
        await store.drop("person")
        await store.checkpoint()
        assert block_names(world) == []


# Shards


async def test_other_numbers_of_shards_share_block_files_and_lose_nothing(world: World) -> None:
    expected = people(150)
    async with world.open(Person, shards=3) as store:
        await store[Person].put_many(expected.values())
        await store.checkpoint()
        for i in range(0, 150, 7):
            expected[key(i)] = person(i, 3)
            await store[Person].put(expected[key(i)])
    for shards in (1, 5, 2):
        async with world.open(Person, shards=shards) as store:
            await settled_people(store, expected)
            expected[key(shards)] = person(shards, 77)
            await store[Person].put(expected[key(shards)])
            await store.checkpoint()
            await settled_people(store, expected)
            assert set(block_names(world)) == named_blocks(store)


@pytest.mark.parametrize("durability", ["fsync", "interval"])
async def test_a_shard_that_crashes_comes_back_with_its_blocks(durability: str, world: World) -> None:
    expected = people(100)
    async with world.open(Person, durability=durability, shards=2) as store:
        await store[Person].put_many(expected.values())
        await store.checkpoint()
        expected[key(1)] = person(1, 9)
        await store[Person].put(expected[key(1)])
        before: Shard = store._context.shards[1]
        before.crash(RuntimeError("a fault of the test"))
        await until(lambda: (s := store._context.shards[1]) is not before and s.state.name == "RUNNING")
        await settled_people(store, expected)
        await store.checkpoint()
        await settled_people(store, expected)


@every_mode
async def test_a_process_that_died_left_what_it_had_set_apart(durability: str, world: World) -> None:
    expected = people(80)
    async with world.open(Person, durability=durability) as store:
        await store[Person].put_many(expected.values())
        await store.checkpoint()
        if durability == "fsync":
            expected[key(2)] = person(2, 2)
            await store[Person].put(expected[key(2)])
        after = world.crashed()
    Path(f"{after.path}/blocks/0000ff00.blk").write_bytes(b"a stray")
    async with after.open(Person, durability=durability) as store:
        await settled_people(store, expected)
        assert set(block_names(after)) == named_blocks(store)
    after.assert_nothing_left()


# Scans


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cached", [True, False])
async def test_a_scan_goes_on_while_checkpoints_take_the_place_of_what_it_reads(
    reverse: bool, cached: bool, world: World
) -> None:
    expected = people(700)
    async with world.open(Person, durability="interval", shards=2, block_cache_bytes=0) as store:
        await store[Person].put_many(expected.values())
        await store.checkpoint()
        world.files.nothing_cached = not cached
        found: list[Person] = []
        names = set(block_names(world))
        async for one in store[Person].scan(reverse=reverse):
            if len(found) in {3, 300, 600}:
                await store[Person].put_many(people(700, 1 + len(found)).values())
                await store.checkpoint()
            found.append(one)
        assert names.isdisjoint(block_names(world))  # no file that the scan has read has its name any more
        assert found == list(expected.values())[:: -1 if reverse else 1]
        await settled_people(store, people(700, 601))
        gc.collect()
        assert store._context.blocks.numbers == {int(name[:8], 16) for name in block_names(world)}
    assert world.open_files() == []


async def test_a_scan_reads_each_block_once_for_many_records(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world.open(Uncached, durability="interval", shards=1) as store:
        await store[Uncached].put_many([Uncached(id=key(i), text=text(i)) for i in range(1000)])
        await store.checkpoint()
        n_read = 0
        read = BlockFiles._read

        def counted(*args: Any, **options: Any) -> Any:
            nonlocal n_read
            n_read += 1
            return read(*args, **options)

        monkeypatch.setattr(BlockFiles, "_read", counted)
        assert [u.text for u in await collected(store[Uncached].scan())] == [text(i) for i in range(1000)]
        assert n_read < 60
        assert store._context.caps.block_cache.n_bytes == 0


# What becomes useless


def useless_share(world: World, store: ws.Store) -> float:
    """Return the largest share of a block file's bytes that no record uses any more."""
    n_live: Counter[str] = Counter()
    for shard in store._context.shards.values():
        assert shard.checkpoint is not None
        for table in shard.checkpoint.tables.values():
            for _, value in table.records():
                if is_split_value(value):
                    for place in places_of(value[9:] if has_deadline(value) else value):
                        n_live[block_path("", place.file)[1:]] += place.n_bytes
    sizes = {name: os.path.getsize(f"{world.path}/blocks/{name}") for name in block_names(world)}
    assert set(n_live) == set(sizes)
    return max((1 - n_live[name] / size for name, size in sizes.items()), default=0.0)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 1.0])
async def test_of_no_block_file_more_than_a_quarter_is_useless(share: float, world: World) -> None:
    n = 300
    expected = people(n)
    rng = random.Random(3)
    async with world.open(Person, durability="interval", shards=2) as store:
        await store[Person].put_many(expected.values())
        for i in range(8):
            await store.checkpoint()
            assert useless_share(world, store) < 0.25
            assert set(block_names(world)) == named_blocks(store)
            changed = {key(k): person(k, 1 + i) for k in rng.sample(range(n), int(share * n))}
            await store[Person].put_many(changed.values())
            expected |= changed
        await store.checkpoint()
        assert useless_share(world, store) < 0.25
        await settled_people(store, expected)
    async with world.open(Person) as store:
        await settled_people(store, expected)


async def test_bytes_not_parts_are_counted_as_useless(world: World) -> None:
    """A tenth of the parts are nine tenths of the bytes: as they go, their file goes."""
    async with world.open(Text, durability="interval", shards=1) as store:
        records = [Text(id=key(i), text=text(i, 5000 if i % 10 == 0 else 60)) for i in range(500)]
        await store[Text].put_many(records)
        await store.checkpoint()
        (before,) = block_names(world)
        size = os.path.getsize(f"{world.path}/blocks/{before}")
        for i in range(0, 500, 10):
            records[i].text = "short"
        await store[Text].put_many(records[::10])
        await store.checkpoint()
        (after,) = block_names(world)
        assert os.path.getsize(f"{world.path}/blocks/{after}") < size / 4
        assert before != after
        assert await collected(store[Text].scan()) == records


async def test_what_a_checkpoint_may_not_move_the_next_ones_move(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While parts of one record are in two files, what memory knows of it is read as well."""
    monkeypatch.setattr(apart, "MOVED_BYTES_MAX", 20_000)
    async with world.open(Uncached, durability="interval", shards=1) as store:
        table = store[Uncached]
        records = {key(i): Uncached(id=key(i), text=text(i)) for i in range(400)}
        await table.put_many(records.values())
        await store.checkpoint()
        first = block_names(world)
        assert await table.get_many(list(records)) == list(records.values())  # memory has their heads now
        for i in range(200, 400):
            records[key(i)].text = text(i, salt=1)
            await table.put(records[key(i)])
        await store.checkpoint()
        assert set(first) < set(block_names(world))
        world.files.nothing_cached = True
        async with asyncio.timeout(30):
            for one, record in records.items():
                assert await table.get(one) == record
            assert await table.get_many(list(records)) == list(records.values())
            await table.update(key(0), n=1)
        records[key(0)].n = 1
        for _ in range(5):
            await store.checkpoint()
        assert not set(first) & set(block_names(world))
        assert useless_share(world, store) < 0.25
        assert await table.get_many(list(records)) == list(records.values())


def test_records_do_not_wait_without_bound_for_a_block_that_does_not_fill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apart, "QUEUED_BYTES_MAX", 50_000)
    plan = plan_of(Text)
    plans = parts_of(plan.schema)
    odd, codec = plan.bind(1), plan.bind(2)
    job = CheckpointJob(bytes(16), [], [], [], [], [], dealt_anew=False, now_ms=0, block_directory=str(tmp_path))
    shard = ShardJob(0, [], (0, 256), 0, "", 1, 9)
    files = OsFileSystem()
    before = BlockFiles(files, str(tmp_path), store_id=bytes(16), cache=BlockCache(0, MemoryPool()))
    table = TableJob(1, [1, 2], {1: [PartPlan(plans[0].first, "max", cache=False)], 2: plans})
    setting = SetApart(files, job, shard, before, [], {})
    n_taken = 0

    def records() -> Iterable[tuple[Any, bytes]]:
        nonlocal n_taken
        for i in range(3000):
            n_taken += 1
            yield (odd if i == 0 else codec).encode(Text(id=key(i), text=text(i)))[1:]

    longest = 0
    for n_given, (one, value) in enumerate(setting.of_table(table, records())):
        assert one == key(n_given)
        assert is_split_value(value)
        longest = max(longest, n_taken - n_given)
    assert n_given == 2999
    assert longest < 200
    (use,) = setting.finish()
    assert use.n_bytes == use.n_live > 0
    setting.close()


# Faults


async def broken_and_healed(world: World, name: str, damage: Callable[[Path], None]) -> None:
    """Damage a block file; assert that its records are refused by name, and all others read."""
    async with world.open(Text, Plain, shards=1, block_cache_bytes=0) as store:
        await store[Plain].put(Plain(id="a", text="plain"))
        await store[Text].put_many([Text(id=key(i), n=i, text=text(i)) for i in range(300)])
        await store.checkpoint()
        (blocks,) = block_names(world)
        damage(Path(f"{world.path}/blocks/{blocks}"))
        n_served = 0
        for i in range(300):
            try:
                assert await store[Text].get(key(i)) == Text(id=key(i), n=i, text=text(i))
                n_served += 1
            except ws.CorruptionError as error:
                assert blocks in str(error)  # noqa: PT017
        assert 0 < n_served < 300
        with pytest.raises(ws.CorruptionError, match=blocks):
            await store[Text].get_many([key(i) for i in range(300)])
        with pytest.raises(ws.CorruptionError, match=blocks):
            await collected(store[Text].scan())
        assert [t.n for t in await store[Text].get_many([key(i) for i in range(300)], fields=["n"]) if t] == list(
            range(300)
        )
        assert await store[Plain].get("a") == Plain(id="a", text="plain")
        for i in range(300):  # what is written over needs the damaged block no more
            await store[Text].put(Text(id=key(i), n=-i, text=text(i, salt=1)))
        await store.checkpoint()
        assert await collected(store[Text].scan()) == [Text(id=key(i), n=-i, text=text(i, salt=1)) for i in range(300)]


async def test_a_damaged_block_is_named_and_the_other_records_are_served(world: World) -> None:
    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    await broken_and_healed(world, "flipped", flip)


async def test_a_file_that_was_cut_is_named_and_the_other_records_are_served(world: World) -> None:
    await broken_and_healed(world, "cut", lambda path: os.truncate(path, path.stat().st_size // 2))


@pytest.mark.parametrize("is_gone", [True, False])
async def test_a_store_whose_block_file_is_gone_or_damaged_is_not_opened(is_gone: bool, world: World) -> None:
    async with world.open(Text, shards=1) as store:
        await store[Text].put(Text(id="a", text="x" * 99))
        await store.checkpoint()
    (name,) = block_names(world)
    path = Path(f"{world.path}/blocks/{name}")
    data = path.read_bytes()
    path.unlink()
    if not is_gone:
        path.write_bytes(bytes(64) + data[64:])
    with pytest.raises(ws.CorruptionError, match=name) as error:
        await world.open(Text)
    assert error.value.path == str(path)
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    async with world.open(Text) as store:
        assert await store[Text].get("a") == Text(id="a", text="x" * 99)


class MemoryWorld:
    """A store in a `MemoryFiles`."""

    def __init__(self) -> None:
        self.files = MemoryFiles()
        self.files.make_directory("/")

    async def run(self, job: CheckpointJob) -> CheckpointResult:
        try:
            return run_job(self.files, job)
        except OSError as e:  # as a child process would say it
            raise ws.UnavailableError(f"the checkpoint failed: {e}") from e

    def open(self) -> Any:
        environment = ws.Environment(files=self.files, run_checkpoint=self.run)
        return ws.open(
            "/store", models=[Text], environment=environment, shards=1, durability="fsync", segment_bytes="64KiB"
        )

    def strays(self, store: ws.Store) -> set[str]:
        """Return checkpoints and block files that no shard uses."""
        found = set(self.files.list_directory("/store/blocks")) - named_blocks(store)
        shards = store._context.shards.values()
        checkpoints = {shard.checkpoint.path.rpartition("/")[2] for shard in shards if shard.checkpoint}
        return found | (set(self.files.list_directory("/store/checkpoint")) - checkpoints)


def rewritten(i: int) -> Text:
    return Text(id=key(i), n=i, text=text(i, 120, salt=2))


async def prepared(world: MemoryWorld) -> ws.Store:
    """Return a store the next checkpoint of which sets parts apart, rewrites a file and removes it."""
    store: ws.Store = await world.open()
    await store[Text].put_many([Text(id=key(i), text=text(i, 120)) for i in range(60)])
    await store.checkpoint()
    await store[Text].put_many([rewritten(i) for i in range(0, 60, 2)])
    return store


def expected_texts() -> list[Text]:
    return [Text(id=key(i), text=text(i, 120)) if i % 2 else rewritten(i) for i in range(60)]


CALLS = ("open", "create", "read", "write", "sync", "sync_directory", "rename", "remove", "list_directory")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("folder", ["/store/blocks", "/store/checkpoint", "/store/MANIFEST"])
async def test_a_call_that_fails_in_a_checkpoint_loses_nothing_and_leaves_nothing(call: str, folder: str) -> None:
    for skip in range(12):
        world = MemoryWorld()
        store = await prepared(world)
        n_calls = len(world.files.calls)
        world.files.fail(call, errno.EIO, path=folder, skip=skip)
        with contextlib.suppress(ws.UnavailableError):
            await store.checkpoint()
        made = [one for one in world.files.calls[n_calls:] if one[0] == call and folder in one[1]]
        world.files.heal()
        assert await store[Text].get_many([key(i) for i in range(60)]) == expected_texts()
        after = await _again(world, store, checkpoint=skip % 2 == 0)
        assert await collected(after[Text].scan()) == expected_texts()
        assert world.strays(after) == set()
        await after.close()
        assert world.files.open_files == []
        if len(made) <= skip:
            return
    pytest.fail("there are more calls than were tried")


async def _again(world: MemoryWorld, store: ws.Store, *, checkpoint: bool) -> ws.Store:
    """Write and checkpoint once more, close and open."""
    if checkpoint:
        await store.checkpoint()
        assert world.strays(store) == set()
    await store.close()
    opened: ws.Store = await world.open()
    return opened


async def test_a_power_cut_at_any_call_of_a_checkpoint_loses_nothing_and_leaves_nothing() -> None:
    world = MemoryWorld()
    store = await prepared(world)
    n_before = len(world.files.calls)
    await store.checkpoint()
    n_after = len(world.files.calls)
    await store.close()
    for n in range(n_before, n_after, 2):
        world = MemoryWorld()
        store = await prepared(world)
        world.files.power_off_at(n)
        with contextlib.suppress(ws.WarpstoreError):
            await store.checkpoint()
        after = MemoryWorld()
        after.files = world.files.crash(random.Random(n))
        with contextlib.suppress(ws.WarpstoreError, OSError):
            await store.close()
        store = await after.open()
        assert await collected(store[Text].scan()) == expected_texts()
        assert after.strays(store) == set()
        await store.close()
        assert after.files.open_files == []


# Memory


@pytest.mark.parametrize("model", [Uncached, Text])
async def test_a_small_cap_holds_while_everything_is_read(model: type[Any], world: World) -> None:
    cap = 1 << 20
    async with world.open(model, durability="interval", ram=cap) as store:
        table = store[model]
        caps = store._context.caps
        for start in range(0, 2500, 100):
            await table.put_many([model(id=key(i), text=text(i, 1000)) for i in range(start, start + 100)])
            await turns(2)
        await store.checkpoint()
        peak = n = 0
        async for one in table.scan():
            assert one.text == text(n, 1000)
            n += 1
            peak = max(peak, caps.n_bytes)
        assert n == 2500
        for start in range(0, 2500, 100):
            for i, one in enumerate(await table.get_many([key(i) for i in range(start, start + 100)]), start):
                assert one is not None
                assert one.text == text(i, 1000)
            peak = max(peak, caps.n_bytes)
        assert peak <= cap
        assert caps.block_cache.n_bytes <= cap // 16
        assert bool(caps.block_cache.n_bytes) == (model is Text)


async def test_what_is_not_to_be_cached_leaves_nothing_of_it_in_memory(world: World) -> None:
    async with world.open(Uncached, durability="interval") as store:
        await store[Uncached].put_many([Uncached(id=key(i), text=text(i, 2000)) for i in range(500)])
        await store.checkpoint()
        gc.collect()
        before = store._context.caps.n_bytes
        assert len(await store[Uncached].get_many([key(i) for i in range(500)])) == 500
        assert len(await collected(store[Uncached].scan())) == 500
        await store[Uncached].get(key(3))
        assert store._context.caps.n_bytes - before < 500 * 250  # heads, and index pages
        assert store._context.caps.block_cache.n_bytes == 0


async def test_pools_count_nothing_more_when_a_store_is_closed(world: World) -> None:
    store = await world.open(Person, durability="interval")
    caps = store._context.caps
    await store[Person].put_many(people(200).values())
    await store.checkpoint()
    await settled_people(store, people(200))
    assert caps.block_cache.n_bytes > 0
    blocks = store._context.blocks
    await store.close()
    assert blocks.numbers == set()
    assert caps.block_cache.n_bytes == 0


# What another table's block files mean for a table without any


async def test_a_block_file_that_goes_takes_no_records_of_other_tables_out_of_memory(world: World) -> None:
    async with world.open(Text, Plain, gpu="off") as store:
        await store[Plain].put_many([Plain(id=key(i), text=text(i, 20)) for i in range(40)])
        await store[Text].put_many([Text(id=key(i), text=text(i, 120)) for i in range(60)])
        await store.checkpoint()
        before = {name for tier in store._context.tiers("text") for name in blocks_of(tier)}
        await store[Text].put_many([rewritten(i) for i in range(60)])
        await store.checkpoint()
        assert before - {name for tier in store._context.tiers("text") for name in blocks_of(tier)}
        assert sum(len(clean) for tier in store._context.tiers("plain") for clean in tier.clean) == 40
        assert sum(len(clean) for tier in store._context.tiers("text") for clean in tier.clean) == 0


def blocks_of(tier: HotTier) -> tuple[int, ...]:
    assert tier.checkpoint is not None
    return tuple(tier.checkpoint.block_numbers)


@pytest.mark.parametrize("model", [Stored, StoredByUuid])
async def test_the_index_of_a_record_wholly_on_disk_is_at_most_24_bytes(model: Any, world: World) -> None:
    n, words = 20_000, [text(i, 12) for i in range(500)]
    rng = random.Random(5)
    keys = [f"user:{i:09d}" if model is Stored else UUID(int=rng.getrandbits(128)) for i in range(n)]
    records = [model(id=one, text=" ".join(rng.choices(words, k=25)), raw=rng.randbytes(80)) for one in keys]
    async with world.open(model, shards=2) as store:
        await store[model].put_many(records)
        await store.checkpoint()
    paths = [*Path(world.path, "checkpoint").iterdir(), *Path(world.path, "blocks").iterdir()]
    data = sum(len(one) if isinstance(one, str) else 16 for one in keys)
    for path in paths:
        if path.suffix == ".blk":
            data += sum(fields_bytes(path.read_bytes()))
    index = sum(path.stat().st_size for path in paths) - data
    assert 0 < index / n <= INDEX_BYTES_MAX


def fields_bytes(file: bytes) -> Iterable[int]:
    """Yield for each block of a block file what lz4 makes of its items alone."""
    salt, at = unpack_file_header(file[:FILE_HEADER_BYTES])[2], FILE_HEADER_BYTES
    while at < len(file):
        behind = at + BLOCK_HEADER_BYTES
        header = unpack_block_header(file[at:behind])
        raw = unpack_block(salt, at, header, file[behind : behind + header.stored_bytes])
        items = raw[-sum(lengths_of(raw, header.n_items)) :]
        yield len(lz4.block.compress(items, store_size=False)) if header.codec else len(items)
        at = behind + header.stored_bytes
