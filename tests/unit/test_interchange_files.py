"""Files of an export are whole or absent; what an import is given is judged before it is stored."""

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import warpstore as ws
from tests.support.worlds import World, collected, world_in

FORMATS = ("parquet", "arrow", "jsonl")


class Item(ws.Record):
    id: Annotated[int, ws.Key()]
    n: int
    note: str = ""
    tags: list[str] = []
    score: Annotated[float, ws.Gpu("f4")] = 0.0
    maybe: float | None = None
    points: dict[str, int] = {}
    doubled: Annotated[int, ws.Computed(lambda r: 2 * r.n, of=("n",))] = ws.derived()
    session: Annotated[str, ws.Ephemeral()] = ""


def items(n: int, **fields: Any) -> list[Item]:
    return [Item(id=i, n=i, **fields) for i in range(n)]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_in(tmp_path) as made:
        yield made


@pytest.fixture
async def table(world: World) -> AsyncIterator[ws.Table[Item]]:
    async with world.open(Item, durability="interval") as store:
        yield store[Item]


# Exports


@pytest.mark.parametrize("form", FORMATS)
async def test_an_export_replaces_a_file_only_when_told(form: str, table: ws.Table[Item], tmp_path: Path) -> None:
    path = tmp_path / f"items.{form}"
    await table.put_many(items(3))
    assert await table.export(path) == 3
    before = path.read_bytes()
    await table.put_many(items(9))
    with pytest.raises(ws.TargetExistsError, match="overwrite=True") as caught:
        await table.export(path)
    assert caught.value.path == str(path)
    assert path.read_bytes() == before
    assert await table.export(path, overwrite=True) == 9
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ws.TargetExistsError, match="folder"):
        await table.export(tmp_path, format="jsonl", overwrite=True)
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("operation", ["write", "sync", "rename", "create"])
async def test_a_failed_export_leaves_nothing(form: str, operation: str, world: World, tmp_path: Path) -> None:
    async with world.open(Item) as store:
        await store[Item].put_many(items(5))
        world.files.fail(operation, f"items.{form}", code=errno.ENOSPC)
        with pytest.raises(ws.FileError, match="No space left on device"):
            await store[Item].export(tmp_path / f"items.{form}")
        assert names(tmp_path) == []
        assert await store[Item].export(tmp_path / f"items.{form}") == 5


@pytest.mark.parametrize("form", FORMATS)
async def test_a_cancelled_export_leaves_nothing(form: str, table: ws.Table[Item], tmp_path: Path) -> None:
    await table.put_many(items(3_000, note="x" * 500))
    turn = 0
    done = False
    while not done:
        task = asyncio.create_task(table.export(tmp_path / f"items.{form}", overwrite=True))
        for _ in range(turn):
            await asyncio.sleep(0)
        turn = 2 * turn + 1
        done = turn > 500 or task.done()
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            left = names(tmp_path)
            assert left in ([], [f"items.{form}"])  # the name is there at once or not at all: then the file is whole
            if left:
                assert await table.import_(tmp_path / f"items.{form}") == 3_000
                (tmp_path / f"items.{form}").unlink()


@pytest.mark.parametrize("form", FORMATS)
async def test_closing_the_store_ends_an_export_without_a_part_of_a_file(
    form: str, world: World, tmp_path: Path
) -> None:
    async with world.open(Item, durability="interval") as store:
        await store[Item].put_many(items(20_000, note="x" * 200))
        task = asyncio.create_task(store[Item].export(tmp_path / f"items.{form}"))
        for _ in range(5):
            await asyncio.sleep(0)
    try:
        assert await task == 20_000  # it was quicker than the closing
    except ws.ClosedStoreError:
        assert names(tmp_path) == []


async def test_what_a_progress_callback_raises_ends_the_export(table: ws.Table[Item], tmp_path: Path) -> None:
    await table.put_many(items(10))

    def refuse(done: int, total: int | None) -> None:
        raise KeyboardInterrupt(done, total)

    with pytest.raises(KeyboardInterrupt) as caught:
        await table.export(tmp_path / "items.arrow", progress=refuse)
    assert caught.value.args == (10, 10)
    assert names(tmp_path) == []


async def test_unknown_formats_fields_and_folders_are_refused(table: ws.Table[Item], tmp_path: Path) -> None:
    with pytest.raises(ws.ValidationError, match="suffix is none of"):
        await table.export(tmp_path / "items.csv")
    with pytest.raises(ws.ValidationError, match="format='csv'"):
        await table.export(tmp_path / "items", format="csv")  # type: ignore[arg-type]
    with pytest.raises(ws.ValidationError, match=r"Item\.session: is Ephemeral"):
        await table.export(tmp_path / "items.jsonl", fields=["session"])
    with pytest.raises(ws.FileError, match="No such file or directory"):
        await table.export(tmp_path / "absent" / "items.jsonl")
    with pytest.raises(ws.ValidationError, match="existing='no'"):
        await table.import_(tmp_path / "items.jsonl", existing="no")  # type: ignore[arg-type]
    assert names(tmp_path) == []


# Imports


@pytest.mark.parametrize("form", FORMATS)
async def test_records_in_the_way_are_replaced_kept_or_refused(
    form: str, table: ws.Table[Item], tmp_path: Path
) -> None:
    path = tmp_path / f"items.{form}"
    told: list[tuple[int, int | None]] = []
    await table.put_many(items(10, note="new"))
    await table.export(path)
    await table.delete_many(range(5))
    await table.put_many(items(3, note="old"))
    assert await table.import_(path, existing="keep") == 2
    assert [r.note async for r in table.scan()] == ["old"] * 3 + ["new"] * 7
    with pytest.raises(ws.KeyExistsError):
        await table.import_(path, existing="refuse")
    assert [r.note async for r in table.scan()] == ["old"] * 3 + ["new"] * 7
    assert await table.import_(path, ttl=5, progress=lambda *args: told.append(args)) == 10
    assert told == [(10, 10 if form == "parquet" else None)]
    table._context.clock.advance(6)  # type: ignore[attr-defined]
    assert await table.count() == 0


def columns(**changed: Any) -> pa.Table:
    base: dict[str, Any] = {"id": [1, 2], "n": [3, 4]}
    return pa.table({name: value for name, value in (base | changed).items() if value is not None})


MISMATCHES: list[tuple[pa.Table, str]] = [
    (columns(n=None), "the column 'n' is missing"),
    (columns(id=None), "the column 'id' is missing"),
    (columns(nots=["", ""]), "the column 'nots' is no field of it; did you mean 'note'"),
    (columns(session=["", ""]), "the column 'session' is an Ephemeral field"),
    (columns(n=["3", "4"]), "the column 'n': expected an integer, got string"),
    (columns(n=[3.0, 4.0]), "the column 'n': expected an integer, got double"),
    (columns(tags=["a", "b"]), "the column 'tags': expected a list, got string"),
    (columns(tags=[[1], [2]]), "the column 'tags': items: expected string, got int64"),
    (columns(points=[1, 2]), "the column 'points': expected a map, got int64"),
    (pa.table([pa.array([1]), pa.array([1]), pa.array([1])], names=["id", "n", "n"]), "the column 'n' is there twice"),
]


@pytest.mark.parametrize(("data", "words"), MISMATCHES, ids=lambda x: x if isinstance(x, str) else "")
@pytest.mark.parametrize("form", ["parquet", "arrow", "table"])
async def test_another_schema_is_refused_before_anything_is_stored(
    data: pa.Table, words: str, form: str, table: ws.Table[Item], tmp_path: Path
) -> None:
    path = tmp_path / f"other.{form}"
    if form == "parquet":
        pq.write_table(data, path)
    elif form == "arrow":
        with pa.ipc.new_file(path, data.schema) as writer:
            writer.write_table(data)
    with pytest.raises(ws.SchemaMismatchError, match=words):
        await (table.put_arrow(data) if form == "table" else table.import_(path))
    assert await table.count() == 0


async def test_a_file_that_says_it_held_another_type_is_refused(world: World, tmp_path: Path) -> None:
    from decimal import Decimal

    class Price(ws.Record, name="price"):
        id: Annotated[int, ws.Key()]
        value: Decimal

    class Text(ws.Record, name="text"):
        id: Annotated[int, ws.Key()]
        value: str

    async with world.open(Price, Text) as store:
        await store[Price].put(Price(id=1, value=Decimal(1)))
        await store[Price].export(tmp_path / "price.parquet")
        with pytest.raises(ws.SchemaMismatchError, match="field 'value' was Decimal, now str"):
            await store[Text].import_(tmp_path / "price.parquet")
        assert await store[Text].put_arrow((await store[Price].to_arrow()).replace_schema_metadata(None)) == 1


@pytest.mark.parametrize(
    ("data", "row", "field"),
    [
        (columns(n=[3, None]), 2, "n"),
        (columns(id=[None, 2]), 1, "id"),
        (columns(score=[1.0, 1e300]), 2, "score"),
        (columns(n=pa.array([1, 2**64 - 1], pa.uint64()), id=pa.array([1, 2**63], pa.uint64())), 2, "id"),
        (columns(tags=[["a"], [None]]), 2, "tags[0]"),
        (columns(points=pa.array([[("a", 1)], [("b", 1), ("b", 2)]], pa.map_(pa.string(), pa.int64()))), 2, "points"),
    ],
)
async def test_a_wrong_value_names_its_row_and_field(
    data: pa.Table, row: int, field: str, table: ws.Table[Item]
) -> None:
    with pytest.raises(ws.RowError, match=f"row {row}: ") as caught:
        await table.put_arrow(data)
    assert (caught.value.row, caught.value.field) == (row, field)
    assert await table.count() == 0


LINES: list[tuple[bytes, int, str]] = [
    (b'{"id":1,"n":1}\n\n{"id":2,\n', 3, "no JSON"),
    (b'{"id":1,"n":1}\n{"id":2}\n', 2, "missing required field `n`"),
    (b'{"id":1,"n":"1"}', 1, r"Item\.n: Expected `int`, got `str`"),
    (b'{"id":1,"n":1}\r\n{"id":2,"n":1,"nots":""}', 2, "unknown field `nots`"),
    (b'{"id":1,"n":1,"session":""}', 1, "unknown field `session`"),
    (b'{"id":null,"n":1}', 1, r"Item\.id"),
    (b"[1]\n", 1, "Expected `object`"),
    (b'\xef\xbb\xbf{"id":1,"n":1}\n{"id":"\xff"}\n', 2, "Item|JSON"),
    (b'{"id":1,"n":1}\n{"id":2,"n":1,"score":"NaN"}\n{"id":3,"n":1,"score":"nan"}', 3, r"Item\.score"),
]


@pytest.mark.parametrize(("data", "row", "words"), LINES)
async def test_a_broken_line_is_named(data: bytes, row: int, words: str, table: ws.Table[Item], tmp_path: Path) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_bytes(data)
    with pytest.raises(ws.RowError, match=words) as caught:
        await table.import_(path)
    assert caught.value.row == row
    assert f"line {row}" in str(caught.value)
    assert await table.count() == 0


@pytest.mark.parametrize("form", ["parquet", "arrow"])
@pytest.mark.parametrize("left", [0, 1, 7, 0.5, 0.99])
async def test_a_truncated_file_is_refused(form: str, left: float, table: ws.Table[Item], tmp_path: Path) -> None:
    path = tmp_path / f"cut.{form}"
    await table.put_many(items(2_000, note="n"))
    await table.export(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(left * len(data)) if isinstance(left, float) else left])
    await table.delete_many(range(2_000))
    with pytest.raises(ws.FileFormatError, match=f"is no {form} file, or is damaged"):
        await table.import_(path)
    assert await table.count() == 0
    with pytest.raises(ws.FileError, match="No such file"):
        await table.import_(tmp_path / f"absent.{form}")


async def test_an_absent_column_is_the_default_and_null_is_none(table: ws.Table[Item], tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"id":1,"n":1}\n{"id":2,"n":2,"maybe":null,"doubled":"what was","note":"x"}')
    assert await table.import_(tmp_path / "a.jsonl") == 2
    assert await table.put_arrow(columns(id=[3, 4], maybe=[None, 0.5], doubled=["", ""])) == 2
    found = [(r.id, r.n, r.note, r.maybe, r.doubled) async for r in table.scan()]
    assert found == [(1, 1, "", None, 2), (2, 2, "x", None, 4), (3, 3, "", None, 6), (4, 4, "", 0.5, 8)]


async def test_batches_too_large_for_a_frame_of_the_log_are_split(table: ws.Table[Item], tmp_path: Path) -> None:
    blob = "x" * (14 << 20)
    small = pa.table({"id": list(range(10, 20)), "n": list(range(10))})
    large = pa.table({"id": list(range(6)), "n": list(range(6)), "note": [blob] * 6})
    both = pa.concat_tables([large, small], promote_options="default").combine_chunks()
    both = both.set_column(2, "note", both.column("note").fill_null(""))
    assert await table.put_arrow(both) == 16
    assert [len(r.note) async for r in table.scan(stop=7)] == [len(blob)] * 6


async def test_a_cancelled_import_keeps_what_was_stored(table: ws.Table[Item], tmp_path: Path) -> None:
    await table.put_many(items(30_000))
    await table.export(tmp_path / "items.parquet")
    await table.delete_many(range(30_000))
    task: asyncio.Task[int]

    def stop(done: int, total: int | None) -> None:
        if done > 10_000:
            task.cancel()

    task = asyncio.create_task(table.import_(tmp_path / "items.parquet", progress=stop))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert 10_000 < await table.count() < 30_000


# Data frames


async def test_pandas_and_polars_take_and_give_tables(table: ws.Table[Item]) -> None:
    some = items(50, note="é", tags=["a", "b"], maybe=0.5, points={"a": 1, "b": 2})
    await table.put_many(some)
    arrow = await table.to_arrow()
    frame = arrow.to_pandas()
    assert frame["n"].tolist() == list(range(50))
    assert pl.from_arrow(arrow)["doubled"].to_list() == [2 * i for i in range(50)]  # type: ignore[call-overload]
    for data in (
        arrow,
        arrow.to_batches()[0],
        arrow.to_reader(),
        arrow.to_batches(),
        table.to_arrow_batches(batch_rows=7),
        pl.from_arrow(arrow),
        pl.from_arrow(arrow).drop("points"),  # type: ignore[union-attr]
        frame.drop(columns=["points"]),
        pd.DataFrame({"id": [100], "n": [1]}),
    ):
        if not hasattr(data, "aclose"):
            await table.delete_many(range(50))
        n = await table.put_arrow(data)
        assert n == (1 if n == 1 else 50)
        if n == 50:
            found = await collected(table.scan(stop=50))
            points = found[0].points
            assert found == [msgspec.structs.replace(record, points=points) for record in some]
    for wrong in ([1], 5, "text", {"id": [1]}):
        with pytest.raises(ws.ValidationError, match="expected "):
            await table.put_arrow(wrong)


def test_the_calls_of_a_synchronous_table(tmp_path: Path) -> None:
    world = World(tmp_path / "store")
    with ws.open_sync(world.path, models=[Item], environment=world.environment) as store:
        table = store[Item]
        table.put_many(items(100))
        assert table.export(tmp_path / "items.parquet", fields=["n"], progress=lambda *_: None) == 100
        assert pq.read_table(tmp_path / "items.parquet").column_names == ["id", "n"]
        assert table.import_(tmp_path / "items.parquet") == 100
        assert [batch.num_rows for batch in table.to_arrow_batches(batch_rows=60)] == [60, 40]
        assert table.put_arrow(table.to_arrow()) == 100
    world.assert_nothing_left()


async def test_without_pyarrow_the_extra_is_named(
    table: ws.Table[Item], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    await table.put_many(items(3))
    with pytest.raises(ws.MissingExtraError, match=r"pip install 'warpstore\[arrow\]'") as caught:
        await table.export(tmp_path / "items.parquet")
    assert caught.value.extra == "arrow"
    with pytest.raises(ws.MissingExtraError):
        await table.put_arrow([])
    assert await table.export(tmp_path / "items.jsonl") == 3
    assert await table.import_(tmp_path / "items.jsonl") == 3
    assert names(tmp_path) == ["items.jsonl"]
