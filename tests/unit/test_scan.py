"""Scans give keys in order, and one state of the table, whatever is written while they run."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import warpstore as ws
from tests.support.worlds import Blob, Named, Reading, Token, User, World, collected, turns, users, world_in
from warpstore import scan
from warpstore.record import plan_of
from warpstore.scan import KEYS_PER_RANGE, ScanBounds, after_prefix
from warpstore.table import Table

STAGES = ("hot", "checkpointed", "overlaid", "reopened")
KINDS: dict[str, tuple[Any, Any]] = {
    "str": (Named, lambda r: "".join(r.choices("ab\uffff\U0001f600", k=r.randrange(6)))),
    "bytes": (Blob, lambda r: bytes(r.choices((0, 1, 254, 255), k=r.randrange(6)))),
    "int": (Reading, lambda r: r.randrange(-300, 300)),
    "uuid": (Token, lambda r: UUID(int=r.getrandbits(128))),
}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_in(tmp_path) as made:
        yield made


@pytest.mark.parametrize("shards", [1, 4, 16])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", KINDS)
async def test_bounds_limits_and_directions_agree_with_a_sorted_list(
    kind: str, stage: str, shards: int, world: World
) -> None:
    model, draw = KINDS[kind]
    rng = random.Random(f"{kind}{stage}{shards}")
    expected: dict[Any, Any] = {}

    async def write(table: Table[Any], n: int) -> None:
        records = [model(id=draw(rng), value=float(rng.randrange(1000))) for _ in range(n)]
        await table.put_many(records)
        expected.update({record.id: record for record in records})
        gone = rng.sample(sorted(expected), len(expected) // 5)
        assert await table.delete_many(gone) == len(gone)
        for key in gone:
            del expected[key]

    async def look(table: Table[Any]) -> None:
        in_order = [expected[key] for key in sorted(expected)]
        for _ in range(12):
            start, stop = (rng.choice([None, draw(rng), rng.choice(sorted(expected))]) for _ in range(2))
            limit = rng.choice([None, 0, 1, 7, 10_000])
            inside = [r for r in in_order if (start is None or start <= r.id) and (stop is None or r.id < stop)]
            assert await collected(table.scan(start, stop, limit=limit)) == inside[:limit]
            assert await collected(table.scan(start, stop, limit=limit, reverse=True)) == inside[::-1][:limit]
        if kind in {"str", "bytes"}:
            for _ in range(8):
                prefix = draw(rng)[:3]
                inside = [r for r in in_order if r.id.startswith(prefix)]
                assert await collected(table.scan(prefix=prefix)) == inside
                assert await collected(table.scan(prefix=prefix, reverse=True, snapshot=True)) == inside[::-1]
                assert await collected(table.scan(prefix=prefix, limit=2)) == inside[:2]
        assert await table.count() == len(expected)

    async with world.open(model, shards=shards) as store:
        await write(store[model], 400)
        if stage != "hot":
            await store.checkpoint()
        if stage == "overlaid":
            await write(store[model], 150)
        if stage != "reopened":
            await look(store[model])
    if stage == "reopened":
        async with world.open(model) as store:
            await look(store[model])


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "uncached"])
@pytest.mark.parametrize("reverse", [False, True])
async def test_a_scan_over_many_blocks_and_ranges_misses_nothing(reverse: bool, cached: bool, world: World) -> None:
    n = 6 * KEYS_PER_RANGE
    everyone = users(0, n, note="x" * 80)
    async with world.open(User, shards=2) as store:
        table = store[User]
        await table.put_many(everyone)
        expected = everyone[::-1] if reverse else everyone
        assert await collected(table.scan(reverse=reverse)) == expected
        await store.checkpoint()
        world.files.nothing_cached = not cached
        assert await collected(table.scan(reverse=reverse)) == expected
        assert await collected(table.scan(reverse=reverse, limit=40)) == expected[:40]
        later = [User(id=f"u{i:04d}", n=-i) for i in range(0, n, 97)]
        await table.put_many(later)
        await table.delete_many([f"u{i:04d}" for i in range(50, n, 97)])
        newest = {u.id: u for u in [*everyone, *later] if int(u.id[1:]) % 97 != 50}
        in_order = [newest[key] for key in sorted(newest, reverse=reverse)]
        assert await collected(table.scan(reverse=reverse)) == in_order
        assert await collected(table.scan("u0100", "u0900", reverse=reverse)) == [
            u for u in in_order if "u0100" <= u.id < "u0900"
        ]


@pytest.mark.parametrize("reverse", [False, True])
async def test_large_values_in_memory_are_copied_a_few_at_a_time(
    reverse: bool, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "RANGE_BYTES", 2_000)
    fill = scan._MemoryRun.fill
    copied = []

    async def counted(run: Any, wanted: int) -> None:
        await fill(run, wanted)
        copied.append(sum(map(len, run.rows)))

    monkeypatch.setattr(scan._MemoryRun, "fill", counted)
    everyone = [User(id=f"u{i:04d}", note="x" * (i % 7 * 400)) for i in range(300)]
    async with world.open(User, shards=2) as store:
        await store[User].put_many(everyone)
        assert await collected(store[User].scan(reverse=reverse)) == (everyone[::-1] if reverse else everyone)
        assert await collected(store[User].scan("u0100", "u0200", reverse=reverse, limit=9)) == (
            everyone[199:190:-1] if reverse else everyone[100:109]
        )
    assert max(copied) < 5_000


def checkpoints(world: World) -> list[str]:
    """Return the checkpoint files that are open, also those that have no name any more."""
    return [path.rsplit("/")[-1] for path in world.open_files() if ".ckpt" in path]


# One state


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("stage", ["hot", "checkpointed", "checkpoint during it"])
@pytest.mark.parametrize("mode", ["fsync", "interval"])
async def test_writes_between_its_steps_are_not_seen(
    mode: str, stage: str, reverse: bool, shards: int, world: World
) -> None:
    async with world.open(User, shards=shards, durability=mode) as store:
        table = store[User]
        everyone = users(0, 900, note="x" * 100)
        await table.put_many(everyone)
        if stage == "checkpointed":
            await store.checkpoint()
        before = everyone[::-1] if reverse else everyone
        found: list[User] = []
        scan = table.scan(reverse=reverse)
        async for user in scan:
            found.append(user)
            i = len(found)
            if i % 60 == 1:
                await table.put(User(id=f"u{(i * 37) % 900:04d}", n=-1))
                await table.put(User(id=f"u{(i * 37) % 900:04d}a", n=-1))
                await table.delete(f"u{(i * 53) % 900:04d}")
                await table.update("u0450", note="later") if await table.contains("u0450") else None
            if stage == "checkpoint during it" and i in {100, 500}:
                await store.checkpoint()
        assert found == before
        assert await table.count() == len(await collected(table.scan()))


async def test_two_scans_each_see_their_own_moment(world: World) -> None:
    async with world.open(User) as store:
        table = store[User]
        await table.put_many(users(0, 300))
        first = table.scan()
        assert (await anext(first)).id == "u0000"
        await table.put_many([User(id=u.id, n=-1) for u in users(0, 300)])
        second = table.scan()
        assert (await anext(second)).n == -1
        await table.delete_many([u.id for u in users(0, 300)])
        await store.checkpoint()
        assert [u.n for u in await collected(second)] == [-1] * 299
        assert [u.n for u in await collected(first)] == list(range(1, 300))
        assert await collected(table.scan()) == []


async def test_a_scan_that_is_left_early_lets_go_of_everything(world: World) -> None:
    async with world.open(User, shards=1) as store:
        table = store[User]
        await table.put_many(users(0, 300))
        await store.checkpoint()
        scan = table.scan()
        await anext(scan)
        await store.checkpoint()
        await anext(scan)
        await store.checkpoint()
        assert len(checkpoints(world)) == 2  # the one it reads, and the newest
        await table.put(User(id="x"))
        await scan.aclose()  # type: ignore[attr-defined]
        [tier] = store._context.tiers("user")
        assert tier.frozen == []
        assert checkpoints(world) == [store._catalog.manifest.shards[0].name]


async def test_a_cancelled_scan_lets_go_of_everything(world: World) -> None:
    async with world.open(User, shards=1) as store:
        table = store[User]
        await table.put_many(users(0, 300))
        await store.checkpoint()
        world.files.nothing_cached = True
        task = asyncio.ensure_future(collected(table.scan()))
        await turns(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await table.count() == 300


async def test_a_scan_of_a_store_that_was_closed_says_so(world: World) -> None:
    store = await world.open(User)
    await store[User].put_many(users(0, 2000, note="x" * 100))
    await store.checkpoint()
    world.files.nothing_cached = True
    scan = store[User].scan()
    first = await anext(scan)
    assert first.id == "u0000"
    await store.close()
    with pytest.raises(ws.ClosedStoreError):
        await collected(scan)
    await scan.aclose()  # type: ignore[attr-defined]


async def test_records_that_end_during_a_scan_may_be_left_out_but_none_comes_twice(world: World) -> None:
    async with world.open(User) as store:
        await store[User].put_many(users(0, 2000), ttl=10)
        found = []
        async for user in store[User].scan():
            found.append(user.id)
            if len(found) == 700:
                world.clock.advance(10)
        assert 700 <= len(found) < 2000
        assert found == sorted(set(found))
        assert found[:700] == [f"u{i:04d}" for i in range(700)]


# Prefixes


@pytest.mark.parametrize(
    ("prefix", "following"),
    [
        ("", None),
        ("a", "b"),
        ("a\U0010ffff", "b"),
        ("\U0010ffff", None),
        ("\U0010ffff\U0010ffff", None),
        ("a\ud7ff", "a\ue000"),
        ("\uffff", "\U00010000"),
        (b"", None),
        (b"a", b"b"),
        (b"a\xff", b"b"),
        (b"\xff\xff", None),
        (b"\xfe\xff", b"\xff"),
    ],
    ids=ascii,
)
def test_the_key_after_a_prefix(prefix: Any, following: Any) -> None:
    assert after_prefix(prefix) == following


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("kind", ["str", "bytes"])
async def test_prefixes_at_the_edges_of_the_alphabet(kind: str, checkpointed: bool, world: World) -> None:
    model = KINDS[kind][0]
    edges: list[Any] = (
        ["a", "\ud7ff", "\ue000", "\uffff", "\U00010000", "\U0010ffff"]
        if kind == "str"
        else [b"a", b"\0", b"\xfe", b"\xff", b"\x7f"]
    )
    empty = type(edges[0])()
    keys = sorted({empty, *edges, *(a + b for a in edges for b in edges), *(a + b + b for a in edges for b in edges)})
    async with world.open(model) as store:
        table = store[model]
        await table.put_many([model(id=key) for key in keys])
        if checkpointed:
            await store.checkpoint()
        for prefix in keys:
            inside = [key for key in keys if key.startswith(prefix)]
            assert [r.id for r in await collected(table.scan(prefix=prefix))] == inside
            assert [r.id for r in await collected(table.scan(prefix=prefix, reverse=True))] == inside[::-1]


# What is refused


@pytest.mark.parametrize(
    ("model", "bounds", "field"),
    [
        (User, {"start": 1}, "start"),
        (User, {"stop": b"a"}, "stop"),
        (User, {"prefix": b"a"}, "prefix"),
        (User, {"prefix": "a", "start": "a"}, "prefix"),
        (User, {"prefix": "a", "stop": "b"}, "prefix"),
        (User, {"limit": -1}, "limit"),
        (User, {"limit": "5"}, "limit"),
        (User, {"limit": True}, "limit"),
        (Reading, {"prefix": "a"}, "prefix"),
        (Reading, {"start": 1.0}, "start"),
        (Reading, {"start": True}, "start"),
        (Token, {"start": "00000000-0000-0000-0000-000000000000"}, "start"),
        (Token, {"prefix": b"a"}, "prefix"),
        (Blob, {"prefix": "a"}, "prefix"),
    ],
    ids=str,
)
async def test_bounds_of_the_wrong_type_are_refused(
    model: type[ws.Record], bounds: dict[str, Any], field: str, world: World
) -> None:
    async with world.open(model) as store:
        with pytest.raises(ws.ValidationError) as error:
            await collected(store[model].scan(**bounds))
        assert error.value.field == field


async def test_int_keys_beyond_64_bits_bound_a_scan_or_are_refused(world: World) -> None:
    async with world.open(Reading) as store:
        table = store[Reading]
        await table.put_many([Reading(id=i) for i in (-(2**63), 0, 2**63 - 1)])
        assert [r.id for r in await collected(table.scan(-(2**70), 2**70))] == [-(2**63), 0, 2**63 - 1]
        await store.checkpoint()
        assert [r.id for r in await collected(table.scan(-(2**70), 2**70))] == [-(2**63), 0, 2**63 - 1]


def test_bounds_take_keys_as_the_tiers_hold_them() -> None:
    codec: Any = plan_of(Token).bind(1)
    bounds = ScanBounds.of(codec, UUID(int=5), None, None, 3)
    assert (bounds.start, bounds.stop, bounds.limit) == (UUID(int=5).bytes, None, 3)
