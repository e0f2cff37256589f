"""Tables with `Disk` fields go out and come in whole, wherever their parts are; heads alone are read where they do."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pyarrow as pa
import pytest

import warpstore as ws
from tests.support.worlds import World, collected, world_in
from warpstore import scan as scans
from warpstore.blocks import BlockFiles

FORMATS = ("parquet", "arrow", "jsonl")
every_form = pytest.mark.parametrize("form", FORMATS)


class Doc(ws.Record, name="doc"):
    id: Annotated[str, ws.Key()]
    n: int = 0
    score: Annotated[float, ws.Gpu("f4")] = 0.0
    name: str = ""
    text: Annotated[str, ws.Disk()] = ""
    n_text: Annotated[int, ws.Computed(lambda d: len(d.text), of=("text",)), ws.Disk()] = ws.derived()
    dense: Annotated[list[int], ws.Disk(compression="max")] = []
    raw: Annotated[bytes, ws.Disk(compression="none", cache=False)] = b""
    maybe: Annotated[float | None, ws.Disk(compression="max", cache=False)] = None
    session: Annotated[str, ws.Ephemeral()] = ""


class Moved(ws.Record, name="doc"):
    """The same table: a field moved to disk, one from disk, one renamed, one dropped, one added."""

    id: Annotated[str, ws.Key()]
    n: Annotated[int, ws.Disk()] = 0
    score: Annotated[float, ws.Gpu("f4")] = 0.0
    text: str = ""
    n_text: Annotated[int, ws.Computed(lambda d: len(d.text), of=("text",))] = ws.derived()
    called: Annotated[str, ws.Disk(compression="none"), ws.Renamed("name")] = ""
    raw: Annotated[bytes, ws.Disk(cache=False)] = b""
    added: Annotated[int, ws.Disk()] = 7


def doc(i: int, salt: int = 0) -> Doc:
    rng = random.Random(i * 31 + salt)
    return Doc(
        id=f"d{i:05}",
        n=i + salt,
        score=i / 2,
        name=f"name {i}",
        text="some words " * rng.randrange(30),
        dense=[rng.randrange(1000) for _ in range(rng.randrange(40))],
        raw=rng.randbytes(rng.randrange(300)),
        maybe=None if i % 3 else i / 4,
    )


def docs(n: int, salt: int = 0) -> list[Doc]:
    return [doc(i, salt) for i in range(n)]


def plain(records: list[Any]) -> list[dict[str, Any]]:
    found = [msgspec.structs.asdict(record) for record in records]
    for fields in found:
        fields.pop("session", None)
    return found


async def rows(table: Any, fields: list[str] | None = None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await table.to_arrow(fields)).to_pylist()
    return found


def no_block_is_read(world: World) -> None:
    world.files.nothing_cached = True
    world.files.fail("read", "/blocks/", times=10_000)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_in(tmp_path) as made:
        yield made


@every_form
@pytest.mark.parametrize("where", ["memory", "disk", "half", "reopened"])
@pytest.mark.parametrize("cached", [True, False])
async def test_every_record_comes_back_wherever_its_parts_are(
    form: str, where: str, cached: bool, world: World, tmp_path: Path
) -> None:
    path = tmp_path / f"docs.{form}"
    fresh = World(tmp_path / "fresh")

    async def go(store: ws.Store) -> None:
        world.files.nothing_cached = not cached
        expected = await collected(store[Doc].scan())
        assert len(expected) == 600
        assert await store[Doc].export(path) == 600
        async with fresh.open(Doc) as into:
            assert await into[Doc].import_(path) == 600
            assert plain(await collected(into[Doc].scan())) == plain(expected)
        assert (await rows(store[Doc])) == plain(expected)

    async with world.open(Doc, shards=2) as store:
        await store[Doc].put_many(docs(600))
        if where != "memory":
            await store.checkpoint()
        if where == "half":
            await store[Doc].put_many(docs(600, 5)[::2])
            await store[Doc].get_many([f"d{i:05}" for i in range(0, 600, 5)], fields=["n"])  # heads, kept in memory
        if where != "reopened":
            await go(store)
    if where == "reopened":
        async with world.open(Doc) as store:
            await go(store)


@every_form
async def test_fields_of_heads_are_exported_without_reading_a_block(form: str, world: World, tmp_path: Path) -> None:
    async with world.open(Doc) as store:
        await store[Doc].put_many(docs(300))
        await store[Doc].put_many([doc(i, 9) for i in range(0, 300, 7)], ttl=60)
        await store.checkpoint()
    async with world.open(Doc) as store:
        table = store[Doc]
        expected = [(one.id, one.n, one.score, one.name) for one in await collected(table.scan())]
    async with world.open(Doc) as store:
        table = store[Doc]
        no_block_is_read(world)
        found = await rows(table, ["n", "score", "name"])
        assert [tuple(row.values()) for row in found] == expected
        assert await table.export(tmp_path / f"heads.{form}", fields=["n", "name"]) == 300
        assert [row["id"] for row in await rows(table, [])] == [row[0] for row in expected]
        with pytest.raises(ws.UnavailableError):
            await table.to_arrow(["n_text"])
        with pytest.raises(ws.UnavailableError):
            await table.export(tmp_path / f"whole.{form}")
        assert not (tmp_path / f"whole.{form}").exists()


async def test_columns_of_heads_are_taken_as_they_are(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world.open(Doc) as store:
        await store[Doc].put_many(docs(200))
        await store.checkpoint()
        monkeypatch.setattr(scans.Scan, "_joined", None)
        monkeypatch.setattr(scans.Scan, "_decoded", None)
        arrow = await store[Doc].to_arrow(["score", "name"])
        assert arrow.schema.types == [pa.string(), pa.float32(), pa.string()]
        assert arrow.column("score").to_pylist() == [i / 2 for i in range(200)]


@every_form
async def test_what_has_expired_is_left_out(form: str, world: World, tmp_path: Path) -> None:
    async with world.open(Doc) as store:
        table = store[Doc]
        await table.put_many(docs(100))
        await table.put_many(docs(100, 3)[::2], ttl=10)
        await store.checkpoint()
        await table.put_many([doc(i, 4) for i in range(0, 100, 10)], ttl=20)
        assert [row["n"] for row in await rows(table)] == [row["n"] for row in await rows(table, ["n"])]
        world.clock.advance(11)
        left = [i for i in range(100) if i % 2 or i % 10 == 0]
        assert [row["id"] for row in await rows(table)] == [f"d{i:05}" for i in left]
        assert [row["id"] for row in await rows(table, ["n"])] == [f"d{i:05}" for i in left]
        assert await table.export(tmp_path / f"docs.{form}") == len(left)


@every_form
async def test_fields_that_moved_between_memory_and_disk(form: str, world: World, tmp_path: Path) -> None:
    fresh = World(tmp_path / "fresh")
    async with world.open(Doc) as store:
        await store[Doc].put_many(docs(400))
        await store.checkpoint()
    async with world.open(Moved) as store:
        table = store[Moved]
        await table.put_many([Moved(id=f"d{i:05}", n=-i, text="t" * i, called="new") for i in range(0, 400, 3)])
        for stage in ("half", "checkpointed"):
            expected = await collected(table.scan())
            assert len(expected) == 400
            assert (expected[1].called, expected[1].added, expected[3].called) == ("name 1", 7, "new")
            assert await rows(table) == plain(expected)
            for fields in (["n"], ["text"], ["score", "n_text"], ["called"], ["added", "raw"]):
                wanted = [{name: getattr(one, name) for name in ("id", *fields)} for one in expected]
                assert await rows(table, fields) == wanted
            path = tmp_path / f"{stage}.{form}"
            assert await table.export(path) == 400
            async with fresh.open(Moved) as into:
                assert await into[Moved].import_(path) == 400
                assert plain(await collected(into[Moved].scan())) == plain(expected)
            await store.checkpoint()
    async with world.open(Doc) as store:  # and back again
        assert await rows(store[Doc]) == plain(await collected(store[Doc].scan()))


@every_form
async def test_checkpoints_may_take_the_place_of_what_an_export_reads(
    form: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scans, "JOINED_PER_STEP", 16)
    async with world.open(Doc, shards=2) as store:
        table = store[Doc]
        await table.put_many(docs(1_500))
        await store.checkpoint()
        expected = plain(await collected(table.scan()))
        batches = table.to_arrow_batches(batch_rows=100)
        found = (await anext(batches)).to_pylist()
        export = asyncio.create_task(table.export(tmp_path / f"docs.{form}"))
        for salt in range(1, 4):
            await asyncio.sleep(0)
            await table.put_many(docs(1_500, salt))
            await store.checkpoint()
            found += (await anext(batches)).to_pylist()
        async for batch in batches:
            found += batch.to_pylist()
        assert found == expected
        assert await export == 1_500
        assert store._context.blocks.numbers == {
            number
            for shard in store._context.shards.values()
            for number in shard.checkpoint.block_numbers  # type: ignore[union-attr]
        }


async def test_large_parts_are_joined_a_few_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    class Large(ws.Record):
        id: Annotated[int, ws.Key()]
        raw: Annotated[bytes, ws.Disk(compression="none")] = b""

    joined: list[int] = []
    whole_many = BlockFiles.whole_many

    def counted(self: BlockFiles, values: Any) -> Any:
        found = whole_many(self, values)
        joined.append(sum(len(value) for value in found if value))
        return found

    monkeypatch.setattr(BlockFiles, "whole_many", counted)
    monkeypatch.setattr(scans, "JOINED_FILE_BYTES", 100_000)
    async with world.open(Large, segment_bytes="4MiB") as store:
        await store[Large].put_many([Large(id=i, raw=bytes([i]) * 20_000) for i in range(100)])
        await store.checkpoint()
        world.files.nothing_cached = True
        found = await rows(store[Large])
        assert [row["raw"] for row in found] == [bytes([i]) * 20_000 for i in range(100)]
        assert len(joined) >= 15
        assert max(joined) < 150_000


async def test_a_value_out_of_range_is_named_by_its_key_where_only_the_head_is_read(world: World) -> None:
    class Wide(ws.Record):
        id: Annotated[str, ws.Key()]
        n: int = 0
        text: Annotated[str, ws.Disk()] = ""

    async with world.open(Wide) as store:
        await store[Wide].put(Wide(id="small", n=1, text="x" * 100))
        await store[Wide].put(Wide(id="wide", n=2**64 - 1, text="x" * 100))
        await store.checkpoint()
        for fields in (["n"], None):
            with pytest.raises(ws.ValidationError, match=r"Wide\.n: .* under 'wide' is out of range"):
                await store[Wide].to_arrow(fields)


async def test_some_fields_of_older_records_are_not_computed_anew(world: World, tmp_path: Path) -> None:
    def model(version: int) -> type[Any]:
        n_tier = ws.Gpu("u1") if version == 2 else ws.Memory()

        class Item(ws.Record):
            id: Annotated[str, ws.Key()]
            text: str
            n: Annotated[int, n_tier] = 1
            size: Annotated[int, ws.Computed(lambda r: version * len(r.text), of=("text",))] = ws.derived()
            note: Annotated[str, ws.Disk()] = ""
            if version == 2:
                added: int = 5

        return Item

    first, second = model(1), model(2)
    async with world.open(first) as store:
        await store[first].put_many([first(id=f"i{i}", text="long text", n=200, note="n" * 50) for i in range(3)])
        await store.checkpoint()
        await store[first].put(first(id="i1", text="in memory"))
    async with world.open(second) as store:
        table = store[second]
        assert [item.size for item in await collected(table.scan())] == [9, 9, 9]
        for fields in (["size", "text"], ["size", "text", "note", "added", "n"]):
            for found in (
                await table.get_many(["i0", "i1"], fields=fields),
                await collected(table.scan(fields=fields)),
            ):
                assert [(one.id, one.size, one.text) for one in found[:2]] == [
                    ("i0", 9, "long text"),
                    ("i1", 9, "in memory"),
                ]
            assert [row["size"] for row in await rows(table, fields[:4])] == [9, 9, 9]
        assert (
            repr(found[0]) == "ItemFields(id='i0', size=9, text='long text', note='" + "n" * 50 + "', added=5, n=200)"
        )
        assert await table.export(tmp_path / "items.jsonl", fields=["size"]) == 3
