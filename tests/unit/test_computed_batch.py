"""``Computed(batch=True)``: columns in, a column out, stored like any other field."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import pytest

import warpstore as ws
from gpu_kernels import NumpyBackend
from tests.support.worlds import MODES, World, world_in
from warpstore.batch_computed import BatchFunction
from warpstore.evolution import difference, incompatibilities
from warpstore.record import plan_of
from warpstore.schema import Schema

calls: list[dict[str, Any]] = []
"""The columns of every call, emptied before each test."""


def watched(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a function that remembers the columns it was called with."""

    def call(columns: Any) -> Any:
        calls.append(vars(columns))
        return function(columns)

    return call


class Point(ws.Record):
    """One field of each sort of column, and a chain: size of one record, then length and ratio of columns."""

    id: Annotated[str, ws.Key()]
    x: Annotated[float, ws.Gpu("f4")] = 0.0
    n: int = 0
    on: bool = True
    at: Annotated[list[float], ws.Gpu("2f4")] = msgspec.field(default_factory=lambda: [0.0, 0.0])
    words: list[str] = []
    note: str = ""
    size: Annotated[int, ws.Computed(lambda p: len(p.words), of=("words",))] = ws.derived()
    length: Annotated[
        float,
        ws.Computed(watched(lambda c: np.hypot(c.at[:, 0], c.at[:, 1]) * c.on), of=("at", "on"), batch=True),
        ws.Gpu("f4"),
    ] = ws.derived()
    ratio: Annotated[
        float, ws.Computed(watched(lambda c: c.length / np.maximum(c.size, 1)), of=("length", "size"), batch=True)
    ] = ws.derived()
    title: Annotated[
        str,
        ws.Computed(
            watched(lambda c: [f"{i}:{n}" for i, n in zip(c.id, c.n, strict=True)]), of=("id", "n"), batch=True
        ),
    ] = ws.derived()
    shout: Annotated[str, ws.Computed(lambda p: p.title.upper(), of=("title",))] = ws.derived()


class Watched(ws.Record):
    """A record with an ephemeral field and a column over it that has nothing to do with it."""

    id: Annotated[int, ws.Key()]
    n: int = 0
    tab: Annotated[str, ws.Ephemeral()] = ""
    twice: Annotated[int, ws.Computed(watched(lambda c: c.n * 2), of=("n",), batch=True)] = ws.derived()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    calls.clear()
    async with world_in(tmp_path) as made:
        yield made


def points(n: int) -> list[Point]:
    return [Point(id=f"p{i:04d}", n=i, at=[3.0 * i, 4.0 * i], words=["w"] * (i % 3)) for i in range(n)]


def calls_of(*names: str) -> list[dict[str, Any]]:
    return [call for call in calls if tuple(call) == names]


@pytest.mark.parametrize("mode", MODES)
async def test_put_many_calls_the_function_once_for_many_records(mode: str, world: World) -> None:
    async with world.open(Point, durability=mode) as store:
        assert await store[Point].put_many(points(1500)) == 1500
        assert [len(call["on"]) for call in calls_of("at", "on")] == [1024, 476]
        found = await store[Point].get_many([f"p{i:04d}" for i in range(1500)])
    for i, point in enumerate(found):
        assert point is not None
        assert (point.length, point.size, point.title, point.shout) == (
            5.0 * i,
            i % 3,
            f"p{i:04d}:{i}",
            f"P{i:04d}:{i}",
        )
        assert point.ratio == 5.0 * i / max(i % 3, 1)


async def test_a_batch_gives_the_same_bytes_as_one_put_each() -> None:
    codec = plan_of(Point).bind(3)
    one_by_one = [codec.encode(point) for point in points(50)]
    many = points(50)
    assert codec.fill is not None
    codec.fill(many)
    assert [codec.encode_filled(point) for point in many] == one_by_one
    assert codec.decode(one_by_one[7][2]) == many[7]


async def test_columns_are_arrays_for_fixed_width_and_lists_for_others(world: World) -> None:
    async with world.open(Point) as store:
        await store[Point].put_many(points(3))
    (at_on,), (chain,), (title,) = calls_of("at", "on"), calls_of("length", "size"), calls_of("id", "n")
    assert (at_on["at"].dtype, at_on["at"].shape) == (np.float32, (3, 2))
    assert at_on["on"].dtype == np.bool_
    assert (chain["length"].dtype, chain["size"].dtype) == (np.float32, np.int64)
    assert title["id"] == ["p0000", "p0001", "p0002"]
    assert title["n"].tolist() == [0, 1, 2]


async def test_a_put_an_insert_and_put_nowait_are_batches_of_one(world: World) -> None:
    async with world.open(Point) as store:
        table = store[Point]
        point = Point(id="a", at=[3.0, 4.0])
        await table.put(point)
        assert point.length == 5.0
        await table.insert(Point(id="b", at=[6.0, 8.0]))
        await table.put_nowait(Point(id="c", at=[0.0, 1.0]))
        assert [len(call["on"]) for call in calls_of("at", "on")] == [1, 1, 1]
        found = await table.get_many(["a", "b", "c"])
        assert [p.length for p in found if p is not None] == [5.0, 10.0, 1.0]


async def test_an_update_computes_anew_only_what_hangs_on_a_changed_field(world: World) -> None:
    async with world.open(Point) as store:
        await store[Point].put(Point(id="a", n=1, at=[3.0, 4.0]))
        calls.clear()
        await store[Point].update("a", note="x")
        assert calls == []
        await store[Point].update("a", at=[6.0, 8.0])
        assert [tuple(call) for call in calls] == [("at", "on"), ("length", "size")]
        await store[Point].modify("a", lambda p: setattr(p, "n", 7))
        found = await store[Point].get("a")
    assert found is not None
    assert (found.length, found.ratio, found.title) == (10.0, 10.0, "a:7")


async def test_an_append_to_a_series_computes_anew(world: World) -> None:
    class Log(ws.Record):
        id: Annotated[str, ws.Key()]
        items: Annotated[list[int], ws.Temporal()] = []
        total: Annotated[int, ws.Computed(lambda c: [sum(items) for items in c.items], of=("items",), batch=True)] = (
            ws.derived()
        )

    async with world.open(Log) as store:
        await store[Log].put(Log(id="a", items=[1]))
        await store[Log].append("a", "items", 4)
        found = await store[Log].get("a")
    assert found is not None
    assert found.total == 5


async def test_it_is_stored_and_a_column_of_it_is_looked_up(world: World) -> None:
    async with world.open(Point) as store:
        await store[Point].put_many(points(10))
        await store.checkpoint()
    calls.clear()
    async with world.open(Point) as store:
        values, found = await store[Point].column("length").lookup(["p0002", "absent"])
        assert (values.tolist(), found.tolist()) == ([10.0, 0.0], [True, False])
    assert calls == []


async def test_a_batch_with_an_ephemeral_field_is_filled_too(world: World) -> None:
    async with world.open(Watched) as store:
        await store[Watched].put_many([Watched(id=i, n=i, tab="s") for i in range(5)])
        assert [len(call["n"]) for call in calls] == [5]
        assert await store[Watched].get(4) == Watched(id=4, n=4, tab="s", twice=8)


async def test_a_field_added_later_is_computed_when_an_old_record_is_read(world: World) -> None:
    class Old(ws.Record, name="t"):
        id: Annotated[int, ws.Key()]
        n: int

    class New(ws.Record, name="t"):
        id: Annotated[int, ws.Key()]
        n: int
        root: Annotated[float, ws.Computed(lambda c: np.sqrt(c.n), of=("n",), batch=True)] = ws.derived()

    async with world.open(Old) as store:
        await store[Old].put(Old(id=1, n=9))
    async with world.open(New) as store:
        assert await store[New].get(1) == New(id=1, n=9, root=3.0)


def declared(result: Callable[[Any], Any], kind: Any = float) -> type[Any]:
    """Return a record type whose field ``y`` is computed of the column ``x``."""
    y = Annotated[kind, ws.Computed(result, of=("x",), batch=True)]
    namespace = {"__annotations__": {"id": Annotated[int, ws.Key()], "x": float, "y": y}, "y": ws.derived()}
    made: type[Any] = type(ws.Record)("Made", (ws.Record,), namespace)
    return made


BAD = [
    (lambda c: np.zeros(len(c.x) + 1), float, "returned 3 values for 2 records"),
    (lambda c: [], float, "returned 0 values for 2 records"),
    (lambda c: 1.5, float, "returned a single float for 2 records, not a column"),
    (lambda c: None, float, "returned a single NoneType for 2 records, not a column"),
    (lambda c: "no", float, "returned a single str for"),
    (lambda c: np.array(["a", "b"]), float, "expected float, got str"),
    (lambda c: np.zeros((2, 2)), float, "expected float, got list"),
    (lambda c: c.x, int, "expected int, got float"),
    (lambda c: ["a", None], str, "expected str, got NoneType"),
    (lambda c: [[1], ["a"]], list[int], r"\[0\]: expected int, got str"),
    (lambda c: c.x, Annotated[float, ws.Gpu("f4")], "out of range of f4"),
]


@pytest.mark.parametrize(("result", "kind", "words"), BAD)
async def test_a_wrong_result_names_the_field_and_nothing_is_written(
    result: Callable[[Any], Any], kind: Any, words: str, world: World
) -> None:
    made = declared(result, kind)
    async with world.open(made) as store:
        records = [made(id=1, x=1.0), made(id=2, x=1e300)]
        with pytest.raises(ws.ValidationError, match=rf"Made\.y.*({words})") as caught:
            await store[made].put_many(records)
        assert str(caught.value.field).startswith("y")
        assert await store[made].count() == 0


GOOD = [
    (lambda c: c.x.astype(int), float, 2.0),
    (lambda c: c.x > 1, bool, True),
    (lambda c: [np.float64(v) for v in c.x], float, 2.0),
    (lambda c: tuple(c.x.astype(int).tolist()), int, 2),
    (lambda c: np.stack([c.x, c.x], axis=1), Annotated[tuple[float, float], ws.Gpu("2f4")], (2.0, 2.0)),
    (lambda c: np.stack([c.x, c.x], axis=1), list[float], [2.0, 2.0]),
    (lambda c: np.array([b"ab"] * len(c.x)), Annotated[bytes, ws.Gpu("S4")], b"ab"),
    (lambda c: [{"x": v} for v in c.x.tolist()], dict[str, float], {"x": 2.0}),
    (lambda c: c.x, Annotated[float, msgspec.Meta(ge=0)], 2.0),
]


@pytest.mark.parametrize(("result", "kind", "expected"), GOOD)
async def test_a_column_may_be_of_any_type_that_can_be_stored(
    result: Callable[[Any], Any], kind: Any, expected: Any, world: World
) -> None:
    made = declared(result, kind)
    async with world.open(made) as store:
        await store[made].put_many([made(id=1, x=2)])
        await store[made].put(made(id=2, x=2.0))
        for key in (1, 2):
            found = await store[made].get(key)
            assert found.y == expected
            assert type(found.y) is type(expected)


async def test_a_wrong_input_is_refused_before_the_function_sees_it(world: World) -> None:
    async with world.open(Point) as store:
        for bad, words in (
            (Point(id="b", at=[1.0]), r"Point\.at: expected 2 items"),
            (Point(id="b", n=2**63), r"Point\.n: is out of the range of its column, which Point\.title"),
            (Point(id="b", words="abc"), r"Point\.words: expected list\[str\]"),  # type: ignore[arg-type]
            ("b", "expected a Point, got str"),
        ):
            calls.clear()
            with pytest.raises(ws.ValidationError, match=words):
                await store[Point].put_many([Point(id="a"), bad])  # type: ignore[list-item]
        assert await store[Point].count() == 0


async def test_what_the_function_raises_goes_to_the_caller(world: World) -> None:
    made = declared(lambda c: 1 // 0)
    async with world.open(made) as store:
        with pytest.raises(ZeroDivisionError):
            await store[made].put_many([made(id=1, x=1.0)])
        assert await store[made].count() == 0


def test_the_backend_calls_the_function() -> None:
    class Counting(NumpyBackend):
        n_calls = 0

        def apply(self, function: Any, columns: Any) -> Any:
            self.n_calls += 1
            return super().apply(function, columns)

    backend = Counting()
    codec = plan_of(Point).bind(1, backend)
    assert codec.fill is not None
    codec.fill(points(5))
    assert backend.n_calls == 3
    codec.encode(points(1)[0])
    assert backend.n_calls == 6


async def test_the_store_gives_its_own_backend(world: World) -> None:
    async with world.open(Point) as store:
        codec = store[Point]._codec
        assert codec.fill is not None
        functions = [step[1] for step in codec.fill._steps if isinstance(step, tuple)]
        assert functions
        assert all(isinstance(f, BatchFunction) and f._backend is store._context.backend for f in functions)


def test_a_type_without_batch_fields_has_no_further_step_and_the_same_encoder() -> None:
    class Plain(ws.Record):
        id: Annotated[str, ws.Key()]
        n: int = 0
        m: Annotated[int, ws.Computed(lambda r: r.n + 1, of=("n",))] = ws.derived()

    codec = plan_of(Plain).bind(1)
    assert codec.fill is None
    assert codec.encode_filled is codec.encode


def test_the_schema_says_that_a_field_takes_columns() -> None:
    class Before(ws.Record, name="t"):
        id: Annotated[int, ws.Key()]
        n: int
        m: Annotated[int, ws.Computed(lambda r: r.n, of=("n",))] = ws.derived()

    class After(ws.Record, name="t"):
        id: Annotated[int, ws.Key()]
        n: int
        m: Annotated[int, ws.Computed(lambda c: c.n, of=("n",), batch=True)] = ws.derived()

    old, new = plan_of(Before).schema, plan_of(After).schema
    assert [field.computed_batch for field in new.fields] == [False, False, True]
    assert difference(new, old) == ["field 'm' is computed from columns now"]
    assert incompatibilities(new, old) == []
    stored = old.to_builtins()
    for field in stored["fields"]:
        del field["computed_batch"]  # as a store wrote it before there was such a thing
    assert Schema.from_builtins(stored) == old
