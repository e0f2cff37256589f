"""Column lookups see every acknowledged write, and give what the records give."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import numpy as np
import pytest

import warpstore as ws
from tests.support.worlds import MODES, Blob, Named, Reading, Token, World, until, world_in
from warpstore import gpu_tier
from warpstore.table import Table

KEYS: dict[str, tuple[Any, Callable[[int], Any]]] = {
    "str": (Named, lambda i: f"k{i}" + "long" * (12 if i % 3 == 0 else 0)),
    "bytes": (Blob, lambda i: bytes([i % 256, i // 256]) * (1 + i % 30)),
    "int": (Reading, lambda i: (i - 150) * 10**15),
    "uuid": (Token, lambda i: UUID(int=i * 2**100 + i)),
}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_in(tmp_path) as made:
        yield made


async def look(table: Table[Any], keys: list[Any], name: str = "value") -> list[float | None]:
    """Return the column's values of keys, None where there is none, and assert that the records say the same."""
    values, found = await table.column(name).lookup(keys)
    assert values[~found].tolist() == [0] * int((~found).sum())
    got = [value if there else None for value, there in zip(values.tolist(), found.tolist(), strict=True)]
    assert got == [None if record is None else getattr(record, name) for record in await table.get_many(keys)]
    return got


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KEYS)
async def test_every_key_type_through_every_stage(kind: str, mode: str, world: World) -> None:
    model, key = KEYS[kind]
    keys = [key(i) for i in range(300)]
    async with world.open(model, durability=mode) as store:
        table = store[model]
        assert await look(table, keys[:3]) == [None] * 3
        await table.put_many([model(id=k, value=float(i)) for i, k in enumerate(keys[:250])])
        assert await look(table, keys) == [float(i) if i < 250 else None for i in range(300)]
        await table.put(model(id=keys[0], value=-1.0))
        await table.update(keys[1], value=-2.0)
        await table.delete(keys[2])
        table.put_nowait(model(id=keys[3], value=-3.0)) if mode != "fsync" else await table.insert(
            model(id=keys[299], value=-3.0)
        )
        expected = [-1.0, -2.0, None, 3.0 if mode == "fsync" else -3.0, 4.0]
        assert await look(table, keys[:5]) == expected
        assert await look(table, [keys[4], keys[0], keys[4]]) == [4.0, -1.0, 4.0]
        await store.checkpoint()
        assert await look(table, keys[:5]) == expected
        await table.put(model(id=keys[2], value=9.0))
        assert (await look(table, keys[:3]))[2] == 9.0
        assert await look(table, []) == []
    async with world.open(model, durability=mode) as store:
        assert await look(store[model], keys[:3]) == [-1.0, -2.0, 9.0]
        await store[model].delete(keys[0])
        assert await look(store[model], keys[:3]) == [None, -2.0, 9.0]


async def test_arrays_of_every_sort_are_taken(world: World) -> None:
    async with world.open(Reading, Named, Blob) as store:
        await store[Reading].put_many([Reading(id=i, value=float(i)) for i in range(100)])
        await store[Named].put_many([Named(id=f"{i}", value=float(i)) for i in range(20)])
        await store[Blob].put_many([Blob(id=b"%d" % i, value=float(i)) for i in range(20)])
        keys: Any
        for keys in (np.arange(100), np.arange(100, dtype=np.uint64), np.arange(100).astype(object), range(100)):
            values, found = await store[Reading].column("value").lookup(keys)
            assert values.dtype == np.float32
            assert values.tolist() == list(range(100))
            assert found.all()
        for keys in (np.array(["3", "x"]), np.array(["3", "x"], object), ["3", "x"]):
            values, found = await store[Named].column("value").lookup(keys)
            assert (values.tolist(), found.tolist()) == ([3.0, 0.0], [True, False])
        values, found = await store[Blob].column("value").lookup(np.array([b"3", b"x"]))
        assert (values.tolist(), found.tolist()) == ([3.0, 0.0], [True, False])
        column = store[Reading].column("code")
        assert (column.name, column.dtype) == ("code", np.dtype("i2"))


async def test_values_are_rounded_so_that_every_way_of_reading_gives_the_same(world: World) -> None:
    async with world.open(Reading) as store:
        table = store[Reading]
        await table.put(reading := Reading(id=1, value=0.1))
        assert reading.value == float(np.float32(0.1))
        assert await look(table, [1]) == [float(np.float32(0.1))]
        await table.update(1, value=1 / 3)
        await table.modify(1, lambda r: setattr(r, "value", r.value * 3))
        assert await look(table, [1]) == [(await table.get(1)).value]  # type: ignore[union-attr]
        for wrong in ({"value": 1e39}, {"code": 40_000}, {"code": -40_000}):
            with pytest.raises(ws.ValidationError, match="|".join(wrong)):
                await table.update(1, **wrong)


class Vector(ws.Record):
    id: Annotated[int, ws.Key()]
    place: Annotated[list[float], ws.Gpu(dtype="3f4")]
    flag: Annotated[bool, ws.Gpu()] = False
    code: Annotated[bytes, ws.Gpu(dtype="S4")] = b""


async def test_vectors_flags_and_bytes_are_columns_too(world: World) -> None:
    async with world.open(Vector) as store:
        await store[Vector].put_many(
            [Vector(id=i, place=[i, 0.5, -1.0], flag=i > 1, code=b"c%d" % i) for i in range(4)]
        )
        places, found = await store[Vector].column("place").lookup([2, 9, 0])
        assert places.tolist() == [[2.0, 0.5, -1.0], [0.0, 0.0, 0.0], [0.0, 0.5, -1.0]]
        assert found.tolist() == [True, False, True]
        assert (await store[Vector].column("flag").lookup([1, 2]))[0].tolist() == [False, True]
        assert (await store[Vector].column("code").lookup([1, 9]))[0].tolist() == [b"c1", b""]


@pytest.mark.parametrize("looked_before", [False, True])
async def test_ended_records_are_not_found(looked_before: bool, world: World) -> None:
    async with world.open(Reading) as store:
        table = store[Reading]
        await table.put(Reading(id=1, value=1.0))
        if looked_before:
            await look(table, [1])
        await table.put(Reading(id=2, value=2.0), ttl=10)
        await table.put(Reading(id=3, value=3.0), ttl=20)
        assert await look(table, [1, 2, 3]) == [1.0, 2.0, 3.0]
        world.clock.advance(10)
        assert await look(table, [1, 2, 3]) == [1.0, None, 3.0]
        await table.put(Reading(id=3, value=4.0))
        await table.put(Reading(id=2, value=5.0), ttl=1)
        assert await look(table, [1, 2, 3]) == [1.0, 5.0, 4.0]
        await store.checkpoint()
        world.clock.advance(10)
        assert await look(table, [1, 2, 3]) == [1.0, None, 4.0]
    async with world.open(Reading) as store:
        assert await look(store[Reading], [1, 2, 3]) == [1.0, None, 4.0]


@pytest.mark.parametrize("mode", MODES)
async def test_writes_while_the_column_is_built_or_searched_are_not_lost(mode: str, world: World) -> None:
    async with world.open(Reading, durability=mode) as store:
        table = store[Reading]
        await table.put_many([Reading(id=i, value=float(i)) for i in range(2000)])
        column = table.column("value")
        lookups = [asyncio.ensure_future(column.lookup(np.arange(2000))) for _ in range(3)]
        await asyncio.gather(*(table.put(Reading(id=i, value=-1.0)) for i in range(100)))
        await asyncio.gather(*lookups)
        assert await look(table, list(range(110))) == [-1.0] * 100 + [float(i) for i in range(100, 110)]


async def test_large_batches_and_long_feeds_leave_the_loop(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_tier, "LOOKUP_ON_LOOP_MAX", 10)
    monkeypatch.setattr(gpu_tier, "TAKE_IN_ON_LOOP_MAX", 10)
    monkeypatch.setattr(gpu_tier, "FED_MAX", 50)
    async with world.open(Reading) as store:
        table = store[Reading]
        await look(table, [0])
        for start in range(0, 300, 30):
            await table.put_many([Reading(id=i, value=float(i)) for i in range(start, start + 30)])
        tier = table._gpu
        assert tier is not None
        await until(lambda: tier._task is None)
        assert tier._n_fed <= 50
        assert await look(table, list(range(300))) == [float(i) for i in range(300)]
        assert store.statistics().tables[0].columns is not None


async def test_closing_while_a_column_takes_in_leaves_no_task(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_tier, "FED_MAX", 5)
    async with world.open(Reading, durability="interval") as store:
        await look(store[Reading], [0])
        await store[Reading].put_many([Reading(id=i) for i in range(100)])
        store._context.lanes[0].lane.flush()  # type: ignore[union-attr]


async def test_tables_feed_their_own_columns_only(world: World) -> None:
    async with world.open(Reading, Named) as store:
        await store[Reading].put(Reading(id=1, value=1.0))
        await store[Named].put(Named(id="1", value=2.0))
        assert await look(store[Reading], [1]) == [1.0]
        await store[Named].put(Named(id="1", value=3.0))
        await store[Named].delete("2")
        assert await look(store[Reading], [1]) == [1.0]
        assert await look(store[Named], ["1"]) == [3.0]


async def test_a_column_that_could_not_take_something_in_is_built_anew(world: World) -> None:
    async with world.open(Reading) as store:
        table = store[Reading]
        await table.put(Reading(id=1, value=1.0))
        await look(table, [1])
        tier = table._gpu
        assert tier is not None
        await table.put(Reading(id=1, value=2.0))

        def fails(*_: object) -> None:
            raise MemoryError

        tier._apply = fails  # type: ignore[assignment, method-assign]
        with pytest.raises(MemoryError):
            await table.column("value").lookup([1])
        del tier._apply
        assert await look(table, [1]) == [2.0]
