"""What goes out as Arrow, Parquet or JSON Lines comes back as the same record, whatever its type."""

import asyncio
import datetime as dt
import math
import tempfile
from collections.abc import AsyncIterator
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pyarrow as pa
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import warpstore as ws
from tests.support.worlds import World, collected, world_in
from warpstore.interchange.arrow_schema import stored_schema
from warpstore.record import plan_of

FORMATS = ("parquet", "arrow", "jsonl")


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Event(msgspec.Struct):
    at: float
    what: str = ""
    when: dt.datetime | None = None
    code: UUID | None = None


class Tree(msgspec.Struct):
    name: str
    leaves: "list[Tree]" = []


class Everything(ws.Record):
    id: Annotated[str, ws.Key()]
    real: float
    whole: int
    truth: bool
    text: str
    blob: bytes
    half: Annotated[float, ws.Gpu("f2")]
    single: Annotated[float, ws.Gpu("f4")]
    small: Annotated[int, ws.Gpu("u1")]
    wide: Annotated[int, ws.Gpu("u8")]
    flag: Annotated[bool, ws.Gpu()]
    fixed: Annotated[bytes, ws.Gpu("S8")]
    vector: Annotated[list[float], ws.Gpu("3f4")]
    pair: Annotated[tuple[int, int], ws.Gpu("2i2")]
    aware: Annotated[dt.datetime, msgspec.Meta(tz=True)]
    naive: Annotated[dt.datetime, msgspec.Meta(tz=False)]
    moment: dt.datetime
    span: dt.timedelta
    day: dt.date
    clock: dt.time
    exact: Decimal
    code: UUID
    maybe_whole: int | None
    maybe_real: float | None
    maybe_text: str | None
    maybe_event: Event | None
    colour: Colour
    level: Level
    literal: Literal["x", "y"] | None
    numbers: list[int | None]
    moments: list[dt.datetime]
    some: set[str]
    triple: tuple[float, float, float]
    mixed: tuple[int, str]
    pairs: dict[str, float]
    by_number: dict[int, list[str]]
    by_maybe: dict[str | None, int]
    event: Event
    tree: Tree
    anything: Any
    either: int | str | None
    series: Annotated[list[Event], ws.Temporal(time="at", memory="1d", archive=True)]
    doubled: Annotated[float, ws.Computed(lambda r: 2 * r.real, of=("real",))] = ws.derived()
    session: Annotated[str, ws.Ephemeral()] = ""


def floats(width: Literal[16, 32, 64] = 64) -> st.SearchStrategy[float]:
    """Floats with one NaN: the bits of others, and its sign, are not in JSON."""
    return st.floats(width=width, allow_nan=False) | st.just(math.nan)


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
moments = st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30))  # noqa: DTZ001
utc = moments.map(lambda m: m.replace(tzinfo=dt.UTC))
spans = st.timedeltas(dt.timedelta(days=-100_000_000), dt.timedelta(days=100_000_000))
int64 = st.integers(-(2**63), 2**63 - 1)
events = st.builds(Event, at=floats(), what=text, when=st.none() | utc, code=st.none() | st.uuids())
timed = st.builds(Event, at=st.floats(allow_nan=False), what=text, when=st.none() | utc)
trees = st.recursive(st.builds(Tree, name=text), lambda t: st.builds(Tree, name=text, leaves=st.lists(t, max_size=2)))
anything = st.recursive(
    st.none() | st.booleans() | int64 | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
records = st.builds(
    Everything,
    id=text,
    real=floats(),
    whole=int64,
    truth=st.booleans(),
    text=text,
    blob=st.binary(max_size=8),
    half=floats(16),
    single=floats(32),
    small=st.integers(0, 255),
    wide=st.integers(0, 2**64 - 1),
    flag=st.booleans(),
    fixed=st.binary(max_size=8).map(lambda b: b.rstrip(b"\0")),
    vector=st.lists(floats(32), min_size=3, max_size=3),
    pair=st.tuples(st.integers(-(2**15), 2**15 - 1), st.integers(-(2**15), 2**15 - 1)),
    aware=utc,
    naive=moments,
    moment=utc,
    span=spans,
    day=st.dates(),
    clock=st.times() | st.times(timezones=st.just(dt.timezone(dt.timedelta(minutes=-90)))),
    exact=st.decimals(allow_nan=False) | st.just(Decimal("1.10")),
    code=st.uuids(),
    maybe_whole=st.none() | int64,
    maybe_real=st.none() | floats(),
    maybe_text=st.none() | text,
    maybe_event=st.none() | events,
    colour=st.sampled_from(Colour),
    level=st.sampled_from(Level),
    literal=st.sampled_from(["x", "y", None]),
    numbers=st.lists(st.none() | int64, max_size=3),
    moments=st.lists(moments, max_size=2),
    some=st.sets(text, max_size=3),
    triple=st.tuples(floats(), floats(), floats()),
    mixed=st.tuples(int64, text),
    pairs=st.dictionaries(text, floats(), max_size=3),
    by_number=st.dictionaries(int64, st.lists(text, max_size=2), max_size=2),
    by_maybe=st.dictionaries(st.none() | text, int64, max_size=2),
    event=events,
    tree=trees,
    anything=anything,
    either=st.none() | int64 | text,
    series=st.lists(timed, max_size=3),
)
encode = msgspec.msgpack.Encoder().encode


def spelt(records: list[Any]) -> list[bytes]:
    """Return the records as bytes: NaN equals NaN there, and 1 is not True."""
    plain = [msgspec.structs.asdict(record) for record in records]
    return [encode({name: sorted(v) if type(v) is set else v for name, v in fields.items()}) for fields in plain]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_in(tmp_path) as made:
        yield made


@settings(max_examples=20, phases=[Phase.explicit, Phase.generate])
@given(st.lists(records, max_size=6), st.sampled_from(FORMATS), st.booleans())
def test_every_type_comes_back_as_it_went(some: list[Everything], form: str, checkpointed: bool) -> None:
    if form == "jsonl":  # where None is no key
        for record in some:
            record.by_maybe.pop(None, None)

    async def go(folder: str) -> None:
        world = World(f"{folder}/store")
        other = World(f"{folder}/other")
        async with (
            world.open(Everything, durability="memory") as store,
            other.open(Everything, durability="memory") as into,
        ):
            await store[Everything].put_many(some)
            if checkpointed:
                await store.checkpoint()
            expected = await collected(store[Everything].scan())
            path = f"{folder}/file.{form}"
            assert await store[Everything].export(path) == len(expected)
            assert await into[Everything].import_(path) == len(expected)
            assert spelt(await collected(into[Everything].scan())) == spelt(expected)

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(go(folder))


class ByInt(ws.Record):
    id: Annotated[int, ws.Key()]


class ByBytes(ws.Record):
    id: Annotated[bytes, ws.Key()]


class ByUuid(ws.Record):
    id: Annotated[UUID, ws.Key()]


class ByText(ws.Record):
    id: Annotated[str, ws.Key()]


KEYS: dict[type[Any], tuple[Any, list[Any]]] = {
    ByInt: (pa.int64(), [-(2**63), -1, 0, 2**63 - 1]),
    ByBytes: (pa.binary(), [b"", b"\0", b"\xff" * 4096]),
    ByUuid: (pa.uuid(), [UUID(int=0), UUID(int=2**128 - 1)]),
    ByText: (pa.string(), ["", "\0", "x" * 4096, "é", "\U0001f600"]),
}


@pytest.mark.parametrize("model", KEYS)
@pytest.mark.parametrize("form", FORMATS)
async def test_every_kind_of_key_comes_back(model: type[Any], form: str, world: World, tmp_path: Path) -> None:
    of, keys = KEYS[model]
    async with world.open(model) as store:
        table = store[model]
        await table.put_many([model(id=key) for key in keys])
        arrow = await table.to_arrow()
        assert arrow.schema.field("id").type == of
        assert not arrow.schema.field("id").nullable
        assert arrow.column("id").to_pylist() == keys
        await table.export(tmp_path / f"keys.{form}")
        await table.delete_many(keys)
        assert await table.import_(tmp_path / f"keys.{form}") == len(keys)
        assert [record.id async for record in table.scan()] == keys


@pytest.mark.parametrize("form", FORMATS)
async def test_an_empty_table_makes_a_file_that_can_be_imported(form: str, world: World, tmp_path: Path) -> None:
    async with world.open(Everything) as store:
        assert await store[Everything].export(tmp_path / f"none.{form}") == 0
        assert await store[Everything].import_(tmp_path / f"none.{form}") == 0
        empty = await store[Everything].to_arrow()
        assert empty.num_rows == 0
        assert "session" not in empty.schema.names
        found = stored_schema(empty.schema)
        assert found is not None
        assert found.fields == tuple(plan_of(Everything).schema.fields)


class Number(ws.Record):
    id: Annotated[int, ws.Key()]
    real: float = 0.0
    whole: int = 0
    note: str = ""


@pytest.mark.parametrize("form", FORMATS)
async def test_what_is_not_finite_comes_back(form: str, world: World, tmp_path: Path) -> None:
    reals = [math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7976931348623157e308]
    async with world.open(Number) as store:
        await store[Number].put_many([Number(id=i, real=real) for i, real in enumerate(reals)])
        await store[Number].export(tmp_path / f"reals.{form}")
        await store[Number].delete_many(range(len(reals)))
        await store[Number].import_(tmp_path / f"reals.{form}")
        assert [repr(record.real) async for record in store[Number].scan()] == list(map(repr, reals))


@pytest.mark.parametrize("form", FORMATS)
async def test_large_records_come_back_and_batches_stay_small(form: str, world: World, tmp_path: Path) -> None:
    blob = "x" * (9 << 20)
    async with world.open(Number, durability="memory") as store:
        table = store[Number]
        await table.put_many([Number(id=i, note="y") for i in range(100)])
        for i in range(100, 112):
            await table.put(Number(id=i, note=blob[: (9 << 20) - i]))
        if form == "arrow":
            sizes = [batch.nbytes async for batch in table.to_arrow_batches()]
            assert max(sizes) < 128 << 20
            assert len(sizes) > 1
        before = spelt(await collected(table.scan()))
        await table.export(tmp_path / f"large.{form}")
        await table.delete_many(range(112))
        assert await table.import_(tmp_path / f"large.{form}") == 112
        assert spelt(await collected(table.scan())) == before


async def test_batches_have_the_rows_asked_for_and_cover_the_range(world: World) -> None:
    async with world.open(Number) as store:
        table = store[Number]
        await table.put_many([Number(id=i, whole=i) for i in range(10_000)])
        batches = [batch async for batch in table.to_arrow_batches(batch_rows=3_000)]
        assert [batch.num_rows for batch in batches] == [3_000, 3_000, 3_000, 1_000]
        assert pa.Table.from_batches(batches).column("id").to_pylist() == list(range(10_000))
        part = await table.to_arrow(["whole"], start=10, stop=20)
        assert part.to_pydict() == {"id": list(range(10, 20)), "whole": list(range(10, 20))}
        with pytest.raises(ws.ValidationError, match="batch_rows=0"):
            table.to_arrow_batches(batch_rows=0)
        with pytest.raises(ws.ValidationError, match="did you mean 'whole'"):
            await table.to_arrow(["hole"])


async def test_an_export_is_one_moment_whatever_is_written_meanwhile(world: World) -> None:
    async with world.open(Number) as store:
        table = store[Number]
        await table.put_many([Number(id=i) for i in range(0, 20_000, 2)])
        seen = []
        async for batch in table.to_arrow_batches(batch_rows=1_000):
            seen += batch.column("id").to_pylist()
            await table.put_many([Number(id=i, whole=1) for i in range(1, 20_000, 200)])
            await table.delete_many(range(0, 20_000, 500))
            if len(seen) == 5_000:
                await store.checkpoint()
        assert seen == list(range(0, 20_000, 2))


async def test_records_past_their_deadline_are_left_out(world: World) -> None:
    async with world.open(Number) as store:
        table = store[Number]
        await table.put_many([Number(id=i) for i in range(100)])
        await table.put_many([Number(id=i, whole=1) for i in range(0, 100, 3)], ttl=10)
        assert (await table.to_arrow()).column("whole").to_pylist() == [int(i % 3 == 0) for i in range(100)]
        world.clock.advance(11)
        assert (await table.to_arrow()).column("id").to_pylist() == [i for i in range(100) if i % 3]


async def test_records_of_older_schemas_are_exported_as_they_are_read(world: World) -> None:
    def model(version: int) -> type[Any]:
        if version == 1:

            class Item(ws.Record):
                id: Annotated[str, ws.Key()]
                n: int
                gone: str = ""
                old: str = "o"
        else:

            class Item(ws.Record):  # type: ignore[no-redef]
                id: Annotated[str, ws.Key()]
                n: float
                new: Annotated[str, ws.Renamed("old")] = ""
                added: int = 7
                twice: Annotated[float, ws.Computed(lambda r: 2 * r.n, of=("n",))] = ws.derived()

        return Item

    first, second = model(1), model(2)
    async with world.open(first) as store:
        await store[first].put_many([first(id=f"a{i:04}", n=i, old=str(i)) for i in range(2_000)])
    async with world.open(second) as store:
        table = store[second]
        await table.put_many([second(id=f"a{i:04}x", n=0.5) for i in range(0, 2_000, 2)])
        found = (await table.to_arrow()).to_pylist()
        assert found == [msgspec.structs.asdict(record) async for record in table.scan()]
        assert found[:2] == [
            {"id": "a0000", "n": 0.0, "new": "0", "added": 7, "twice": 0.0},
            {"id": "a0000x", "n": 0.5, "new": "", "added": 7, "twice": 1.0},
        ]
        assert (await table.to_arrow(["twice"])).column("twice").to_pylist() == [row["twice"] for row in found]


class Moment(ws.Record):
    id: Annotated[int, ws.Key()]
    at: dt.datetime | None


async def test_whether_moments_have_a_zone_is_seen_by_their_values(world: World, tmp_path: Path) -> None:
    aware = dt.datetime(2026, 1, 2, 3, tzinfo=dt.UTC)
    naive = aware.replace(tzinfo=None)
    async with world.open(Moment) as store:
        table = store[Moment]
        assert (await table.to_arrow()).schema.field("at").type == pa.timestamp("us", "UTC")
        for moment, zone in ((naive, None), (aware, "UTC")):
            await table.put_many([Moment(id=i, at=moment if i % 2 else None) for i in range(3_000)])
            arrow = await table.to_arrow()
            assert arrow.schema.field("at").type == pa.timestamp("us", zone)
            assert arrow.column("at").to_pylist()[:2] == [None, moment]
        await table.put(Moment(id=2_001, at=naive))
        with pytest.raises(ws.ValidationError, match=r"Moment\.at: some moments have a time zone and some have none"):
            await table.to_arrow()
        await table.export(tmp_path / "mixed.jsonl")
        before = await collected(table.scan())
        await table.import_(tmp_path / "mixed.jsonl")
        assert await collected(table.scan()) == before


class Loose(ws.Record):
    id: Annotated[int, ws.Key()]
    value: Any = None
    whole: int = 0


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("value", [math.nan, b"bytes", {1: 2}, [b""]])
async def test_what_json_cannot_hold_is_refused_by_field(form: str, value: Any, world: World, tmp_path: Path) -> None:
    async with world.open(Loose) as store:
        await store[Loose].put(Loose(id=1, value=value))
        with pytest.raises(ws.ValidationError, match=r"Loose\.value: .*JSON") as caught:
            await store[Loose].export(tmp_path / f"loose.{form}")
        assert caught.value.field == "value"
        assert list(tmp_path.glob("loose*")) == []


async def test_an_int_beyond_int64_is_refused_by_key_and_field(world: World, tmp_path: Path) -> None:
    async with world.open(Loose) as store:
        await store[Loose].put_many([Loose(id=1), Loose(id=2, whole=2**63)])
        with pytest.raises(ws.ValidationError, match=r"Loose\.whole: .* under 2 is out of range of Arrow's int64"):
            await store[Loose].to_arrow()
        await store[Loose].export(tmp_path / "wide.jsonl")
        await store[Loose].import_(tmp_path / "wide.jsonl")
        assert await store[Loose].get(2) == Loose(id=2, whole=2**63)
