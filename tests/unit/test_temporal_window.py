"""A window gives the items of a series with since <= time < until, from wherever they are, and refuses what is none."""

import datetime as dt
import math
from pathlib import Path
from typing import Annotated, Any

import pytest

import warpstore as ws
from tests.support.series import DAY, HOUR, Event, Person, Visit
from tests.support.worlds import World, world_in
from warpstore.temporal.horizons import Horizons
from warpstore.temporal.state import arrival_times, arrivals_now
from warpstore.temporal.times import NS, TIME_MAX, TIME_MIN, ns_of

T0 = 1_700_000_000.0


class Plain(ws.Record):
    """A series without horizons, and a list that is none."""

    id: Annotated[str, ws.Key()]
    events: Annotated[list[Event], ws.Temporal(time="at")] = []
    numbers: Annotated[list[int], ws.Temporal()] = []
    tags: list[str] = []


def whats(items: list[Any]) -> str:
    return "".join(item.what for item in items)


async def test_since_is_within_and_until_is_not(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world, world.open(Plain, Person) as store:
        events = [Event(at=T0 + i / 4, what=letter) for i, letter in enumerate("abcdef")]
        await store[Plain].put(Plain(id="a", events=events))
        await store[Person].put(Person(id="a", events=[Event(at=e.at, what=e.what) for e in events]))
        for aged in (False, True):
            if aged:
                world.clock.advance(2 * HOUR)
                await store.age()
                assert (await store[Person].get("a")).events == []  # type: ignore[union-attr]
            for table in (store[Plain], store[Person]):
                assert whats(await table.window("a", "events")) == "abcdef"
                assert whats(await table.window("a", "events", T0 + 0.25, T0 + 1)) == "bcd"
                assert whats(await table.window("a", "events", None, T0 + 0.5)) == "ab"
                assert whats(await table.window("a", "events", T0 + 1.25)) == "f"
                assert whats(await table.window("a", "events", T0, T0)) == ""
                assert whats(await table.window("a", "events", math.nextafter(T0 + 0.25, math.inf), T0 + 0.75)) == "c"
                at = dt.datetime.fromtimestamp(T0 + 0.5, dt.UTC)
                assert whats(await table.window("a", "events", at, None)) == "cdef"
                assert whats(await table.window("a", "events", at.replace(tzinfo=None), at.astimezone())) == ""
                assert whats(await table.window("a", "events", -math.inf, math.inf)) == "abcdef"


async def test_datetimes_take_bounds_of_both_kinds(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world, world.open(Person) as store:
        start = dt.datetime.fromtimestamp(world.clock.wall(), dt.UTC)
        visits = [Visit(when=start + dt.timedelta(microseconds=i), page=i) for i in range(5)]
        await store[Person].put(Person(id="a", visits=visits))
        for _ in range(2):
            window = store[Person].window
            assert [v.page for v in await window("a", "visits", visits[1].when, visits[3].when)] == [1, 2]
            assert [v.page for v in await window("a", "visits", visits[2].when.replace(tzinfo=None))] == [2, 3, 4]
            assert [v.page for v in await window("a", "visits", world.clock.wall() - DAY, None)] == [0, 1, 2, 3, 4]
            world.clock.advance(3 * HOUR)
            await store.age()


async def test_naive_datetimes_count_as_utc(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world, world.open(Person) as store:
        start = dt.datetime.fromtimestamp(world.clock.wall(), dt.UTC)
        await store[Person].put(Person(id="a", visits=[Visit(when=start.replace(tzinfo=None), page=1)]))
        world.clock.advance(3 * HOUR)
        await store.age()
        await store[Person].append("a", "visits", Visit(when=start + dt.timedelta(hours=3), page=2))
        assert [v.page for v in await store[Person].window("a", "visits", start)] == [1, 2]


async def test_a_series_without_a_time_field_goes_by_the_time_of_append(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world, world.open(Plain) as store:
        table = store[Plain]
        await table.put(Plain(id="a", numbers=[1, 1]))
        for n in (2, 1, 3):
            world.clock.advance(10)
            await table.append("a", "numbers", n)
        world.clock.advance(10)
        assert await table.window("a", "numbers", T0 + 10, T0 + 30) == [2, 1]
        await table.modify("a", lambda record: record.numbers.remove(2))
        await table.update("a", tags=["x"])
        await table.put(Plain(id="a", numbers=[1, 1, 1, 3, 4]))  # the last item is new
        assert await table.window("a", "numbers", T0 + 20, T0 + 40) == [1, 3]
        assert await table.window("a", "numbers", T0 + 40, None) == [4]
        assert await table.window("a", "numbers") == [1, 1, 1, 3, 4]


@pytest.mark.parametrize(
    ("field", "since", "until", "wrong", "words"),
    [
        ("events", T0 + 1, T0, "since", "lies behind until"),
        ("events", dt.datetime(2030, 1, 1, tzinfo=dt.UTC), T0, "since", "lies behind until"),
        ("events", "yesterday", None, "since", "since='yesterday': must be a datetime, unix seconds"),
        ("events", None, dt.date(2030, 1, 1), "until", "until=datetime.date"),
        ("events", True, None, "since", "since=True"),
        ("events", math.nan, None, "since", "since=nan"),
        ("events", None, dt.timedelta(1), "until", "must be a datetime"),
        ("event", None, None, "event", "did you mean 'events'"),
        ("tags", None, None, "tags", "Plain.tags: is no Temporal series"),
        ("id", None, None, "id", "is no Temporal series"),
    ],
)
async def test_what_is_no_window_is_refused(
    tmp_path: Path, field: str, since: Any, until: Any, wrong: str, words: str
) -> None:
    async with world_in(tmp_path) as world, world.open(Plain) as store:
        await store[Plain].put(Plain(id="a", events=[Event(at=T0)]))
        for key in ("a", "absent"):
            with pytest.raises(ws.ValidationError) as error:
                await store[Plain].window(key, field, since, until)
            assert words in str(error.value)
            assert error.value.field == wrong
        with pytest.raises(ws.ValidationError):
            await store[Plain].window(5, "events")
        assert await store[Plain].window("absent", "events") == []
        with pytest.raises(ws.ValidationError, match="no Temporal series"):
            await store[Plain].append("a", "tags", "x")


async def test_a_type_without_series_has_no_window(tmp_path: Path) -> None:
    from tests.support.worlds import User

    async with world_in(tmp_path) as world, world.open(User) as store:
        await store.age()
        with pytest.raises(ws.ValidationError, match="no Temporal series"):
            await store[User].window("a", "tags")
        with pytest.raises(ws.ValidationError, match="no field"):
            await store[User].window("a", "tagz")


def test_the_store_of_synchronous_programs_has_windows_too(tmp_path: Path) -> None:
    world = World(tmp_path / "store")
    with ws.open_sync(world.path, models=[Person], environment=world.environment) as store:
        store[Person].put(Person(id="a", events=[Event(at=T0, what="x")]))
        world.clock.advance(2 * HOUR)
        store.age()
        assert whats(store[Person].window("a", "events", T0, T0 + 1)) == "x"
        assert store[Person].window("a", "events", until=T0) == []
        assert store.statistics().series.n_files == {"ssd": 1}
    world.assert_nothing_left()


async def test_a_closed_store_gives_no_window(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        async with world.open(Person) as store:
            pass
        with pytest.raises(ws.ClosedStoreError):
            await store[Person].window("a", "events")
        with pytest.raises(ws.ClosedStoreError):
            await store.age()


def test_times_become_nanoseconds_and_keep_their_order() -> None:
    assert ns_of(1.5) == 1_500_000_000
    assert ns_of(-1) == -NS
    assert ns_of(dt.datetime(1970, 1, 1, 0, 0, 1, 5, dt.UTC)) == NS + 5000
    assert ns_of(dt.datetime(1970, 1, 2)) == 86400 * NS  # noqa: DTZ001 - UTC is meant
    assert ns_of(math.inf) == ns_of(1e300) == ns_of(2**63) == TIME_MAX
    assert ns_of(-math.inf) == ns_of(math.nan) == ns_of(-(2**63)) == TIME_MIN
    assert ns_of(dt.datetime.max) == TIME_MAX  # noqa: DTZ901
    assert ns_of(dt.datetime.min) == TIME_MIN  # noqa: DTZ901


def test_horizons_say_where_an_item_belongs() -> None:
    whole = Horizons.of({"memory": 10, "ssd": 100, "disk": 1000, "archive": True})
    assert [whole.place(age * NS) for age in (-5, 0, 10, 11, 100, 101, 1000, 1001, 10**9)] == [
        "record", "record", "record", "ssd", "ssd", "disk", "disk", "archive", "archive",
    ]  # fmt: skip
    assert Horizons.of({"memory": 10}).place(11 * NS) == "gone"
    assert Horizons.of({"disk": 10}).place(0) == "disk"
    assert Horizons.of({"archive": True}).place(0) == "archive"
    assert Horizons.of({}).place(10**30) == "record"
    assert not Horizons.of({}).ages
    assert Horizons.of({"memory": 3600, "ssd": 86400}).width_s("ssd") == 4096
    assert Horizons.of({"memory": 1, "ssd": 2}).width_s("ssd") == 64


def test_times_of_append_stay_with_their_items() -> None:
    first = arrivals_now(b"", [b"a", b"b", b"a"], 10)
    assert arrival_times(first) == [10, 10, 10]
    second = arrivals_now(first, [b"a", b"b", b"a", b"c"], 20)
    assert arrival_times(second) == [10, 10, 10, 20]
    assert arrival_times(arrivals_now(second, [b"x", b"c", b"y"], 30)) == [20, 20, 30]
    assert arrival_times(arrivals_now(second, [b"c"], 5)) == [20]  # the clock was set back
    assert arrivals_now(second, [], 30) == b""
