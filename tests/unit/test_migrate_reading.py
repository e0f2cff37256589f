"""Records of older schemas read as if they had been put today, wherever they are, before and after `migrate`."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

import warpstore as ws
from tests.support.worlds import World, collected, world_in
from warpstore import manifest as manifests
from warpstore.temporal.state import is_companion

KEY = Annotated[str, ws.Key()]
LONG = "x" * 300


class Event(msgspec.Struct):
    at: float
    what: str = ""


class Base(ws.Record, name="thing"):
    id: KEY
    n: int = 0
    note: str = ""
    big: Annotated[str, ws.Disk()] = ""
    events: list[Event] = []


class Added(ws.Record, name="thing"):
    id: KEY
    n: int = 0
    note: str = ""
    big: Annotated[str, ws.Disk()] = ""
    events: list[Event] = []
    more: list[int] = msgspec.field(default_factory=lambda: [1])
    huge: Annotated[bytes, ws.Disk(compression="max")] = b"h" * 50


class Dropped(ws.Record, name="thing"):
    id: KEY
    n: int = 0


class Renamed(ws.Record, name="thing"):
    id: KEY
    count: Annotated[int, ws.Renamed("n")] = 0
    text: Annotated[str, ws.Renamed("note")] = ""
    large: Annotated[str, ws.Renamed("big"), ws.Disk()] = ""


class NoLongerMarked(ws.Record, name="thing"):
    id: KEY
    count: int = -1
    text: str = "none"
    large: Annotated[str, ws.Disk()] = "none"
    n: str = "another n"


class KeyRenamed(ws.Record, name="thing"):
    key: Annotated[str, ws.Key(), ws.Renamed("id")]
    n: int = 0


class Moved(ws.Record, name="thing"):
    id: KEY
    n: Annotated[int, ws.Gpu(dtype="i4")] = 0
    note: Annotated[str, ws.Disk(compression="max", cache=False)] = ""
    big: Annotated[str, ws.Memory(priority="low")] = ""
    events: Annotated[list[Event], ws.Temporal(time="at", memory="24h")] = []


class Recompressed(ws.Record, name="thing"):
    id: KEY
    n: int = 0
    note: str = ""
    big: Annotated[str, ws.Disk(compression="none", cache=False)] = ""


class Widened(ws.Record, name="thing"):
    id: KEY
    n: Annotated[float, ws.Gpu(dtype="f4")] = 0.0
    note: str | None = None


class Fleeting(ws.Record, name="thing"):
    id: KEY
    n: int = 0
    note: Annotated[str, ws.Ephemeral()] = "gone"
    big: Annotated[str, ws.Disk()] = ""


class AnotherType(ws.Record, name="thing"):
    id: KEY
    n: list[str] = []
    note: str = "anew"


class Counted(ws.Record, name="thing"):
    id: KEY
    n: int = 0
    big: Annotated[str, ws.Disk()] = ""
    twice: Annotated[int, ws.Computed(lambda r: 2 * r.n, of=("n",))] = ws.derived()
    half: Annotated[float, ws.Gpu(dtype="f2"), ws.Computed(lambda r: r.n / 3, of=("n",))] = ws.derived()


class CountedOtherwise(ws.Record, name="thing"):
    id: KEY
    n: int = 0
    big: Annotated[str, ws.Disk()] = ""
    twice: Annotated[int, ws.Computed(lambda r: 2 * len(r.big), of=("big",))] = ws.derived()


class CountedOfAnother(ws.Record, name="thing"):
    id: KEY
    n: list[str] = []
    twice: Annotated[int, ws.Computed(lambda r: 2 * len(r.n), of=("n",))] = ws.derived()


class OnlyKey(ws.Record, name="thing"):
    id: KEY


def base(i: int) -> Base:
    events = [Event(3.0, "c"), Event(1.0 + i, "a")]
    return Base(id=f"k{i}", n=i, note=f"note {i}", big=f"{i}" + LONG, events=events)


@dataclass
class Case:
    """A chain of types, each with the records that it stores, and what these are to the last one."""

    steps: list[tuple[type[ws.Record], list[Any]]]
    today: type[ws.Record]
    expected: list[Any]
    fields: tuple[str, ...]


BASES = [base(1), base(2)]
CASES = {
    "added": Case(
        [(Base, BASES), (Added, [Added(id="k3", more=[2])])],
        Added,
        [*(Added(id=b.id, n=b.n, note=b.note, big=b.big, events=b.events) for b in BASES), Added(id="k3", more=[2])],
        ("more", "huge"),
    ),
    "dropped": Case([(Base, BASES)], Dropped, [Dropped(id="k1", n=1), Dropped(id="k2", n=2)], ("n",)),
    "renamed": Case(
        [(Base, BASES)], Renamed, [Renamed(id=b.id, count=b.n, text=b.note, large=b.big) for b in BASES], ("large",)
    ),
    "renamed, and the marker gone since": Case(
        [(Base, BASES), (Renamed, [Renamed(id="k3", count=3)])],
        NoLongerMarked,
        [
            *(NoLongerMarked(id=b.id, count=b.n, text=b.note, large=b.big) for b in BASES),
            NoLongerMarked(id="k3", count=3, text="", large=""),
        ],
        ("count", "n", "large"),
    ),
    "renamed, and taken back": Case(
        [(Base, BASES), (Renamed, [Renamed(id="k3", count=3, text="t", large="l")])],
        Base,
        [*BASES, Base(id="k3", n=3, note="t", big="l")],
        ("n", "big"),
    ),
    "the key renamed": Case([(Base, BASES)], KeyRenamed, [KeyRenamed(key=b.id, n=b.n) for b in BASES], ("n",)),
    "moved": Case(
        [(Base, BASES)],
        Moved,
        [Moved(id=b.id, n=b.n, note=b.note, big=b.big, events=sorted(b.events, key=lambda e: e.at)) for b in BASES],
        ("n", "note", "events"),
    ),
    "moved back": Case(
        [(Moved, [Moved(id="k1", n=5, note="a" * 99, big="b", events=[Event(1.0), Event(2.0)])])],
        Base,
        [Base(id="k1", n=5, note="a" * 99, big="b", events=[Event(1.0), Event(2.0)])],
        ("note", "big"),
    ),
    "a disk field compressed otherwise": Case(
        [(Base, BASES)], Recompressed, [Recompressed(id=b.id, n=b.n, note=b.note, big=b.big) for b in BASES], ("big",)
    ),
    "widened into a column": Case(
        [(Dropped, [Dropped(id="k1", n=1), Dropped(id="k2", n=2**24 + 1)])],
        Widened,
        [Widened(id="k1", n=1.0), Widened(id="k2", n=float(2**24))],
        ("n", "note"),
    ),
    "become ephemeral": Case(
        [(Base, BASES)], Fleeting, [Fleeting(id=b.id, n=b.n, big=b.big) for b in BASES], ("note", "big")
    ),
    "no longer ephemeral": Case(
        [(Fleeting, [Fleeting(id="k1", n=1, note="lost", big=LONG)])], Base, [Base(id="k1", n=1, big=LONG)], ("note",)
    ),
    "dropped, and back with another type": Case(
        [(Base, BASES), (OnlyKey, [OnlyKey(id="k3")])],
        AnotherType,
        [*(AnotherType(id=b.id, note=b.note) for b in BASES), AnotherType(id="k3")],
        ("n", "note"),
    ),
    "dropped, and back with its type": Case(
        [(Base, BASES), (OnlyKey, [OnlyKey(id="k3")])], Base, [*BASES, Base(id="k3")], ("n", "big")
    ),
    "a release taken back and come again": Case(
        [(Base, BASES), (Added, [Added(id="k3", more=[2])]), (Base, [Base(id="k4")])],
        Added,
        [
            *(Added(id=b.id, n=b.n, note=b.note, big=b.big, events=b.events) for b in BASES),
            Added(id="k3", more=[2]),
            Added(id="k4"),
        ],
        ("more",),
    ),
    "computed": Case(
        [(Base, BASES)],
        Counted,
        [
            Counted(id=b.id, n=b.n, big=b.big, twice=2 * b.n, half=[0.333251953125, 0.66650390625][b.n - 1])
            for b in BASES
        ],
        ("twice", "half"),
    ),
    "computed of another field": Case(
        [(Counted, [Counted(id="k1", n=1, big=LONG)])],
        CountedOtherwise,
        [CountedOtherwise(id="k1", n=1, big=LONG, twice=600)],
        ("twice",),
    ),
    "computed of a field that began anew": Case(
        [(Counted, [Counted(id="k1", n=1)]), (OnlyKey, [])],
        CountedOfAnother,
        [CountedOfAnother(id="k1", n=[], twice=0)],
        ("twice",),
    ),
}
PLACES = ("log", "checkpoint", "checkpoint in between")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_in(tmp_path) as world:
        yield world


async def store_steps(world: World, case: Case, place: str, ttl: str | None) -> None:
    for i, (model, records) in enumerate(case.steps):
        async with world.open(model) as store:
            for record in records:
                await store[model].put(record, ttl=ttl)
            if place == "checkpoint" or (place == "checkpoint in between" and i == 0):
                await store.checkpoint()


def key_of(record: Any) -> str:
    return str(getattr(record, record.__struct_fields__[0] if hasattr(record, "__struct_fields__") else "id"))


async def check(store: ws.Store, case: Case) -> None:
    """Assert that every way of reading gives what is expected."""
    table = store[case.today]
    keys = [key_of(record) for record in case.expected]
    assert await collected(table.scan()) == case.expected
    assert await collected(table.scan(reverse=True)) == case.expected[::-1]
    assert [await table.get(key) for key in keys] == case.expected
    assert await table.get_many([*keys, "absent"]) == [*case.expected, None]
    for parts in (await table.get_many(keys, fields=case.fields), await collected(table.scan(fields=case.fields))):
        for part, record in zip(parts, case.expected, strict=True):
            assert [getattr(part, name) for name in case.fields] == [getattr(record, name) for name in case.fields]
    for name in {"n", "half"} & set(case.today.__struct_fields__):
        try:
            column = table.column(name)
        except ws.ValidationError:
            continue
        values, found = await column.lookup(keys)
        assert found.all()
        assert values.tolist() == [getattr(record, name) for record in case.expected]
    assert await table.count() == len(keys)


@pytest.mark.parametrize("ttl", [None, "1h"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", CASES)
async def test_older_records_read_as_todays_lazily_and_after_a_migration(
    name: str, place: str, ttl: str | None, world: World
) -> None:
    case = CASES[name]
    await store_steps(world, case, place, ttl)
    copy = world.crashed()  # which is migrated without having been opened with the new type
    async with world.open(case.today) as store:
        await check(store, case)
        await store.checkpoint()
        await check(store, case)
    for one in (world, copy):
        plan = ws.migration_plan(one.path, [case.today], environment=one.environment)
        older = sum(len(records) for model, records in case.steps if model is not case.today)
        assert plan.n_records == older
        report = await ws.migrate(one.path, [case.today], plan=plan, environment=one.environment)
        assert (report.n_rewritten, report.n_untouched) == (older, len(case.expected) - older)
        tables = manifests.read(one.files, one.path).tables
        assert [len(table.schemas) for name, table in tables.items() if not is_companion(name)] == [1]
        async with one.open(case.today) as store:
            await check(store, case)
            first = case.expected[0]
            await store[case.today].modify(key_of(first), lambda record: None)
            await store.checkpoint()
            await check(store, case)
        if ttl is not None:
            one.clock.advance(3601)
            async with one.open(case.today) as store:
                assert await store[case.today].count() == 0
            one.clock.advance(-3601)
    copy.assert_nothing_left()


@pytest.mark.parametrize("name", CASES)
async def test_older_records_are_changed_in_place_as_todays(name: str, world: World) -> None:
    case = CASES[name]
    await store_steps(world, case, "checkpoint", None)
    async with world.open(case.today) as store:
        for record in case.expected:
            await store[case.today].modify(key_of(record), lambda record: None)
        await check(store, case)
        await store.checkpoint()
        await check(store, case)
        await store[case.today].delete_many(map(key_of, case.expected))
        assert await store[case.today].count() == 0
    plan = ws.migration_plan(world.path, [case.today], environment=world.environment)
    assert plan.n_records == 0


async def test_releases_that_take_turns_add_no_schemas(world: World) -> None:
    for _ in range(3):
        for model in (Base, Added, Renamed):
            async with world.open(model) as store:
                await store[model].put(model(id=model.__name__))
    [table] = manifests.read(world.files, world.path).tables.values()
    assert [entry.tag for entry in table.schemas] == [1, 2, 3]


class Wide(ws.Record, name="thing"):
    id: KEY
    n: Annotated[int, ws.Gpu(dtype="i8")] = 0
    score: float = 0.0


class Narrow(ws.Record, name="thing"):
    id: KEY
    n: Annotated[int, ws.Gpu(dtype="i2")] = 0
    score: Annotated[float, ws.Gpu(dtype="f4")] = 0.0


@pytest.mark.parametrize(("field", "value"), [("n", 40_000), ("score", 1e300)])
@pytest.mark.parametrize("checkpointed", [False, True])
async def test_a_value_that_a_narrower_column_cannot_hold_is_named_when_it_is_read_and_when_it_is_migrated(
    checkpointed: bool, field: str, value: Any, world: World
) -> None:
    async with world.open(Wide) as store:
        await store[Wide].put_many([Wide(id="good", n=-5, score=0.1), Wide(id="bad", **{field: value})])
        if checkpointed:
            await store.checkpoint()
    good = Narrow(id="good", n=-5, score=0.10000000149011612)
    reads: list[Callable[[ws.Table[Narrow]], Any]] = [
        lambda t: t.get("bad"),
        lambda t: t.get_many(["good", "bad"]),
        lambda t: collected(t.scan()),
        lambda t: t.get_many(["bad"], fields=["n"]),
        lambda t: t.column("n").lookup(["good"]),
        lambda t: t.update("bad", n=1),
    ]
    async with world.open(Narrow) as store:
        assert await store[Narrow].get("good") == good
        for read in reads:
            with pytest.raises(
                ws.IncompatibleSchemaError, match=f"'thing' does not fit: Narrow.{field}: out of ran"
            ) as e:
                await read(store[Narrow])
            assert (e.value.table, e.value.field) == ("thing", field)
    before = manifests.read(world.files, world.path)
    with pytest.raises(
        ws.MigrationError, match=f"record 'bad' of 'thing' cannot be.*Narrow.{field}: out of r"
    ) as failed:
        await ws.migrate(world.path, [Narrow], environment=world.environment)
    assert (failed.value.table, failed.value.field) == ("thing", field)
    after = manifests.read(world.files, world.path)
    assert (after.tables, after.rollback) == (before.tables, None)
    async with world.open(Wide) as store:
        await store[Wide].delete("bad")
    await ws.migrate(world.path, [Narrow], environment=world.environment)
    async with world.open(Narrow) as store:
        assert await collected(store[Narrow].scan()) == [good]
        assert (await store[Narrow].column("score").lookup(["good"]))[0].tolist() == [good.score]
