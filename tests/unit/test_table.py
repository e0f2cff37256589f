"""Every call of a table keeps its contract in all three durability modes, with one shard and with many."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

import msgspec
import pytest

import warpstore as ws
from tests.support.ids import shown
from tests.support.worlds import MODES, Blob, Named, Reading, Token, User, World, collected, turns, users, world_in
from warpstore.table import Table

EVERY = [("fsync", 1), ("fsync", 4), ("fsync", 16), ("interval", 1), ("interval", 16), ("memory", 1), ("memory", 16)]


class Event(msgspec.Struct):
    at: float
    what: str = ""


class Profile(ws.Record):
    id: Annotated[str, ws.Key(), ws.Memory(priority="critical")]
    friends: Annotated[list[str], ws.Disk(compression="lz4")] = []
    degree: Annotated[int, ws.Computed(lambda p: len(p.friends), of=("friends",)), ws.Memory()] = ws.derived()
    score: Annotated[float, ws.Gpu(dtype="f4", mass=True)] = 0.0
    activity: Annotated[list[Event], ws.Temporal(time="at", memory="24h")] = []
    seen: Annotated[list[int], ws.Temporal()] = []
    archived: Annotated[dict[str, str], ws.Disk(compression="max", cache=False)] = {}
    session: Annotated[dict[str, str], ws.Ephemeral(ttl="1h")] = {}
    nick: str | None = None


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_in(tmp_path) as made:
        yield made


@pytest.fixture(params=EVERY, ids=lambda p: f"{p[0]}-{p[1]}")
async def store(request: pytest.FixtureRequest, world: World) -> AsyncIterator[ws.Store]:
    mode, shards = request.param
    async with world.open(User, Profile, durability=mode, shards=shards) as opened:
        yield opened


@pytest.fixture
def table(store: ws.Store) -> Table[User]:
    return store[User]


# One record in


async def test_a_record_that_was_put_is_returned_and_an_absent_key_is_none(table: Table[User]) -> None:
    await table.put(User(id="ann", n=1, tags=["a"]))
    assert await table.get("ann") == User(id="ann", n=1, tags=["a"])
    assert await table.get("bob") is None
    assert await table.contains("ann")
    assert not await table.contains("bob")
    await table.put(User(id="ann", n=2))
    assert await table.get("ann") == User(id="ann", n=2)
    assert await table.count() == 1


async def test_what_get_returned_is_the_callers_own(table: Table[User]) -> None:
    await table.put(User(id="ann", tags=["a"]))
    for _ in range(40):  # decoded the first times, copied from the kept record later
        user = await table.get("ann")
        assert user is not None
        assert user.tags == ["a"]
        user.tags.append("mine")
        user.note = "mine"
    (many,) = await table.get_many(["ann"])
    assert many == User(id="ann", tags=["a"])
    many.tags.append("mine")
    [scanned] = await collected(table.scan())
    assert scanned == User(id="ann", tags=["a"])
    scanned.tags.append("mine")
    assert await table.get("ann") == User(id="ann", tags=["a"])


async def test_changing_a_record_after_its_put_changes_nothing_stored(table: Table[User]) -> None:
    user = User(id="ann", tags=["a"])
    writing = asyncio.ensure_future(table.put(user))
    await asyncio.sleep(0)
    user.tags.append("b")
    user.note = "changed"
    await writing
    await table.put_many([other := User(id="bob", tags=["a"])])
    other.tags.append("b")
    assert await table.get("ann") == User(id="ann", tags=["a"])
    assert await table.get("bob") == User(id="bob", tags=["a"])


async def test_a_read_that_was_kept_decoded_sees_every_later_write(table: Table[User]) -> None:
    await table.put(User(id="ann", n=0))
    for i in range(1, 20):
        for _ in range(9):
            await table.get("ann")
        if i % 3 == 0:
            await table.update("ann", n=i)
        elif i % 3 == 1:
            await table.put(User(id="ann", n=i))
        else:
            await table.put_many([User(id="ann", n=i)])
        assert (await table.get("ann")) == User(id="ann", n=i)
    for _ in range(9):
        await table.get("ann")
    await table.delete("ann")
    assert await table.get("ann") is None


async def test_insert_takes_a_free_key_only(table: Table[User]) -> None:
    await table.insert(User(id="ann", n=1))
    with pytest.raises(ws.KeyExistsError) as error:
        await table.insert(User(id="ann", n=2))
    assert error.value.key == "ann"
    assert await table.get("ann") == User(id="ann", n=1)
    await table.delete("ann")
    await table.insert(User(id="ann", n=3))
    assert await table.get("ann") == User(id="ann", n=3)


async def test_of_many_inserts_at_once_one_wins(table: Table[User]) -> None:
    results = await asyncio.gather(*(table.insert(User(id="ann", n=i)) for i in range(20)), return_exceptions=True)
    assert [type(r) for r in results if r is not None] == [ws.KeyExistsError] * 19
    assert await table.get("ann") == User(id="ann", n=results.index(None))


async def test_update_sets_fields_and_keeps_the_others(table: Table[User]) -> None:
    await table.put(User(id="ann", n=1, tags=["a"]))
    tags = ["x"]
    await table.update("ann", n=2, tags=tags)
    tags.append("mine")
    assert await table.get("ann") == User(id="ann", n=2, tags=["x"])


async def test_an_update_that_is_refused_writes_nothing(table: Table[User]) -> None:
    await table.put(User(id="ann", n=1))
    with pytest.raises(ws.KeyNotFoundError) as missing:
        await table.update("bob", n=2)
    assert missing.value.key == "bob"
    with pytest.raises(ws.ValidationError, match="did you mean 'note'") as unknown:
        await table.update("ann", n=2, notes="x")
    assert unknown.value.field == "notes"
    with pytest.raises(ws.ValidationError, match="is the key") as key:
        await table.update("ann", id="bob")
    assert key.value.field == "id"
    with pytest.raises(ws.ValidationError, match="expected int, got str") as wrong:
        await table.update("ann", n="2")
    assert wrong.value.field == "n"
    assert await collected(table.scan()) == [User(id="ann", n=1)]


async def test_modify_loses_no_update_of_100_tasks(table: Table[User]) -> None:
    await table.put(User(id="ann"))

    def add(user: User) -> None:
        user.n += 1
        user.tags.append("x")

    await asyncio.gather(*(table.modify("ann", add) for _ in range(100)))
    assert await table.get("ann") == User(id="ann", n=100, tags=["x"] * 100)


async def test_modify_sees_the_writes_before_it_that_are_still_under_way(table: Table[User]) -> None:
    def double(user: User) -> None:
        user.n *= 2

    await asyncio.gather(
        table.put(User(id="ann", n=1)),
        table.update("ann", n=5),
        table.modify("ann", double),
        table.put_many([User(id="bob", n=3)]),
        table.modify("bob", double),
    )
    assert [u.n for u in await collected(table.scan())] == [10, 6]


async def test_what_a_modify_function_raises_goes_to_the_caller_and_nothing_is_written(table: Table[User]) -> None:
    await table.put(User(id="ann", n=1))

    def fails(user: User) -> None:
        user.n = 9
        raise LookupError("mine")

    def renames(user: User) -> None:
        user.id = "bob"

    def spoils(user: User) -> None:
        user.n = "9"  # type: ignore[assignment]

    with pytest.raises(LookupError, match="mine"):
        await table.modify("ann", fails)
    with pytest.raises(ws.ValidationError, match="key"):
        await table.modify("ann", renames)
    with pytest.raises(ws.ValidationError, match="expected int"):
        await table.modify("ann", spoils)
    with pytest.raises(ws.KeyNotFoundError):
        await table.modify("bob", fails)
    assert await collected(table.scan()) == [User(id="ann", n=1)]


async def test_a_modify_whose_function_closes_the_short_way_is_not_lost(table: Table[User]) -> None:
    await table.put(User(id="a", n=1))

    def change(user: User) -> None:
        user.n += 1
        table._close_slots()

    await table.modify("a", change)
    found = await table._get("a")
    assert found is not None
    assert found.n == 2


async def test_a_modify_that_fails_fails_alone(table: Table[User]) -> None:
    await table.put_many(users(0, 8))

    def change(user: User) -> None:
        if user.n % 2:
            raise LookupError(user.id)
        user.note = "changed"

    results = await asyncio.gather(*(table.modify(f"u{i:04d}", change) for i in range(8)), return_exceptions=True)
    assert [type(r) for r in results] == [type(None), LookupError] * 4
    assert [u.note for u in await collected(table.scan())] == ["changed", ""] * 4


async def test_delete_says_whether_there_was_a_record(table: Table[User]) -> None:
    await table.put_many(users(0, 5))
    assert await table.delete("u0001")
    assert not await table.delete("u0001")
    assert await table.delete_many(["u0000", "u0001", "u0002"]) == 2
    assert await table.get("u0002") is None
    assert await table.count() == 2
    await table.put(User(id="u0001", n=7))
    assert [u.n for u in await collected(table.scan())] == [7, 3, 4]


async def test_a_version_stands_for_the_stored_bytes(table: Table[User]) -> None:
    assert await table.get_with_version("ann") == (None, 0)
    with pytest.raises(ws.VersionConflictError):
        await table.put(User(id="ann"), if_version=1)
    assert await table.get("ann") is None
    await table.put(User(id="ann", n=1), if_version=0)
    with pytest.raises(ws.VersionConflictError) as conflict:
        await table.put(User(id="ann", n=2), if_version=0)
    assert conflict.value.key == "ann"
    user, version = await table.get_with_version("ann")
    assert user == User(id="ann", n=1)
    assert version
    await table.put(User(id="ann", n=2), if_version=version)
    with pytest.raises(ws.VersionConflictError):
        await table.put(User(id="ann", n=3), if_version=version)
    await table.put(User(id="ann", n=1))
    assert await table.get_with_version("ann") == (User(id="ann", n=1), version)
    await table.delete("ann")
    assert await table.get_with_version("ann") == (None, 0)


async def test_of_many_puts_with_one_version_one_wins(table: Table[User]) -> None:
    await table.put(User(id="ann"))
    _, version = await table.get_with_version("ann")
    results = await asyncio.gather(
        *(table.put(User(id="ann", n=i + 1), if_version=version) for i in range(20)), return_exceptions=True
    )
    assert [type(r) for r in results if r is not None] == [ws.VersionConflictError] * 19
    assert await table.get("ann") == User(id="ann", n=results.index(None) + 1)


async def test_put_nowait_gives_a_future_that_is_done_when_the_promise_holds(table: Table[User]) -> None:
    futures = [table.put_nowait(user) for user in users(0, 10)]
    await asyncio.gather(*futures)
    assert await table.count() == 10
    with pytest.raises(ws.ValidationError):
        table.put_nowait(User(id=1))  # type: ignore[arg-type]


async def test_one_callers_writes_are_applied_in_order(table: Table[User]) -> None:
    waiting: list[asyncio.Future[Any]] = [
        table.put_nowait(User(id="ann", n=1)),
        asyncio.ensure_future(table.update("ann", note="b")),
        asyncio.ensure_future(table.put(User(id="ann", n=2))),
        asyncio.ensure_future(table.delete("ann")),
        asyncio.ensure_future(table.insert(User(id="ann", n=3))),
        asyncio.ensure_future(table.put_many([User(id="ann", n=4), User(id="ann", n=5)])),
    ]
    await asyncio.gather(*waiting)
    assert await table.get("ann") == User(id="ann", n=5)


# Many records


async def test_put_many_takes_any_iterable_and_the_later_of_two_with_one_key_wins(table: Table[User]) -> None:
    assert await table.put_many([]) == 0
    assert await table.put_many(iter(users(0, 1500))) == 1500
    assert await table.put_many([User(id="u0000", n=7), User(id="u0000", n=8)]) == 2
    assert await table.count() == 1500
    assert await table.get("u0000") == User(id="u0000", n=8)


@pytest.mark.parametrize(
    "wrong",
    [
        User(id=5),  # type: ignore[arg-type]
        User(id="x", n="5"),  # type: ignore[arg-type]
        Reading(id=5),
        "x",
        User,
    ],
    ids=["key", "field", "type", "str", "class"],
)
async def test_one_wrong_record_of_a_batch_refuses_all_of_it(wrong: Any, table: Table[User]) -> None:
    with pytest.raises(ws.ValidationError):
        await table.put_many([*users(0, 700), wrong])
    assert await table.count() == 0


async def test_get_many_keeps_the_order_of_the_keys(table: Table[User]) -> None:
    await table.put_many(users(0, 600))
    keys = [f"u{i:04d}" for i in (599, 3, 3, 700, 0)]
    assert await table.get_many(keys) == [User(id=k, n=int(k[1:])) if k != "u0700" else None for k in keys]
    assert await table.get_many(iter(())) == []
    everything = await table.get_many([f"u{i:04d}" for i in range(1200)])
    assert everything == [*users(0, 600), *[None] * 600]


async def test_fields_reads_only_these_and_the_key(table: Table[User]) -> None:
    await table.put(User(id="ann", n=1, note="x", tags=["a"]))
    [part, absent] = await table.get_many(["ann", "bob"], fields=["n", "tags"])
    assert part is not None
    assert (part.id, part.n, part.tags) == ("ann", 1, ["a"])
    assert not hasattr(part, "note")
    assert absent is None
    [scanned] = await collected(table.scan(fields=["note"]))
    assert (scanned.id, scanned.note) == ("ann", "x")
    with pytest.raises(ws.ValidationError, match="fields="):
        await table.put(part)
    with pytest.raises(ws.ValidationError, match="did you mean 'tags'"):
        await table.get_many(["ann"], fields=["tag"])
    with pytest.raises(ws.ValidationError, match="did you mean 'tags'"):
        await collected(table.scan(fields=["tag"]))


# Fields of every tier


async def test_a_record_with_every_annotation_comes_back(store: ws.Store) -> None:
    table = store[Profile]
    profile = Profile(id="ann", friends=["b", "c"], score=0.1, archived={"a": "b"}, session={"s": "t"})
    await table.put(profile)
    assert profile.degree == 2
    stored = await table.get("ann")
    assert stored == profile
    assert stored.score != 0.1  # rounded to four bytes, at once and for every reader
    assert stored.nick is None
    await table.update("ann", friends=["b", "c", "d"])
    assert (await table.get("ann")).degree == 3  # type: ignore[union-attr]
    with pytest.raises(ws.ValidationError, match="computed"):
        await table.update("ann", degree=5)
    with pytest.raises(ws.ValidationError, match="score"):
        await table.update("ann", score=1e300)
    await table.modify("ann", lambda p: p.friends.clear())
    assert (await table.get("ann")).degree == 0  # type: ignore[union-attr]


async def test_append_keeps_a_series_in_the_order_of_time(store: ws.Store) -> None:
    table = store[Profile]
    await table.put(Profile(id="ann"))
    for at in (3.0, 1.0, 2.0, 2.0):
        await table.append("ann", "activity", Event(at, f"{at}"))
    for n in (3, 1, 2):
        await table.append("ann", "seen", n)
    stored = await table.get("ann")
    assert stored is not None
    assert [e.at for e in stored.activity] == [1.0, 2.0, 2.0, 3.0]
    assert stored.seen == [3, 1, 2]
    await asyncio.gather(*(table.append("ann", "seen", n) for n in range(50)))
    assert (await table.get("ann")).seen == [3, 1, 2, *range(50)]  # type: ignore[union-attr]


async def test_append_refuses_what_is_no_series_and_what_is_no_item(store: ws.Store) -> None:
    table = store[Profile]
    await table.put(Profile(id="ann"))
    for field in ("friends", "id", "score"):
        with pytest.raises(ws.ValidationError, match="no Temporal series") as error:
            await table.append("ann", field, "x")
        assert error.value.field == field
    with pytest.raises(ws.ValidationError, match="did you mean 'activity'"):
        await table.append("ann", "activty", Event(1.0))
    with pytest.raises(ws.ValidationError):
        await table.append("ann", "seen", "x")
    with pytest.raises(ws.ValidationError):
        await table.append("ann", "activity", Event("now"))  # type: ignore[arg-type]
    with pytest.raises(ws.KeyNotFoundError):
        await table.append("bob", "seen", 1)
    assert await collected(table.scan()) == [Profile(id="ann", degree=0)]


# Keys of every type


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("model", "keys"),
    [
        (Named, ["", "a", "ä", "\U0010ffff", "x" * 4096]),
        (Blob, [b"", b"\0", b"\xff\xff", bytes(4096)]),
        (Reading, [0, -1, 1, 2**63 - 1, -(2**63)]),
        (Token, [UUID(int=0), UUID(int=2**128 - 1), uuid4()]),
    ],
    ids=["str", "bytes", "int", "uuid"],
)
async def test_keys_of_every_type_find_their_records(model: Any, keys: list[Any], mode: str, world: World) -> None:
    records = [model(id=key, value=float(i)) for i, key in enumerate(keys)]
    in_order = sorted(records, key=lambda r: r.id)

    async def look(table: Table[Any]) -> None:
        assert [await table.get(key) for key in keys] == records
        assert await table.get_many(keys) == records
        assert await collected(table.scan()) == in_order
        assert await collected(table.scan(reverse=True)) == in_order[::-1]
        assert await table.count() == len(keys)
        values, found = await table.column("value").lookup(keys)
        assert found.all()
        assert values.tolist() == [r.value for r in records]

    async with world.open(model, durability=mode) as store:
        for record in records:
            await store[model].put(record)
        await look(store[model])
        await store.checkpoint()
        await look(store[model])
    async with world.open(model, durability=mode) as store:
        await look(store[model])
        await store[model].update(keys[0], value=99.0)
        assert await store[model].delete(keys[1])
        assert await store[model].get(keys[1]) is None
        assert (await store[model].get(keys[0])).value == 99.0  # type: ignore[union-attr]


# Waiting, cancelling, yielding


async def test_a_cancelled_writer_has_written_and_disturbs_nobody(table: Table[User], store: ws.Store) -> None:
    tasks = [asyncio.ensure_future(table.put(user)) for user in users(0, 20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(r is None for r in results[1::2])
    assert all(r is None or isinstance(r, asyncio.CancelledError) for r in results)
    await store.sync()
    kept = {u.id for u in await collected(table.scan())}
    assert kept >= {f"u{i:04d}" for i, r in enumerate(results) if r is None}
    await table.put(User(id="z"))
    assert await table.contains("z")


async def test_a_full_mailbox_makes_put_wait_and_put_nowait_refuse(world: World) -> None:
    async with world.open(User, durability="fsync", shards=1, mailbox_messages_max=4) as store:
        table = store[User]
        futures = [table.put_nowait(user) for user in users(0, 4)]
        with pytest.raises(ws.OverloadedError):
            table.put_nowait(User(id="late"))
        waiting = [asyncio.ensure_future(table.put(user)) for user in users(4, 40)]
        cancelled = asyncio.ensure_future(table.put(User(id="cancelled")))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(*futures, *waiting)
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert await collected(table.scan()) == users(0, 40)


@pytest.mark.parametrize("mode", MODES)
async def test_calls_that_need_not_wait_let_other_tasks_run(mode: str, world: World) -> None:
    async with world.open(User, durability=mode) as store:
        table = store[User]
        await table.put_many(users(0, 10))
        n_turns = 0

        async def other() -> None:
            nonlocal n_turns
            while True:
                n_turns += 1
                await asyncio.sleep(0)

        def touch(user: User) -> None:
            user.n += 1

        task = asyncio.ensure_future(other())
        keys = [f"u{i % 10:04d}" for i in range(3000)]
        for work in (
            [table.put(User(id=key)) for key in keys[:600]],
            [table.get(key) for key in keys],
            [table.modify(key, touch) for key in keys[:600]],
            [table.put_many(users(0, 3000))],
            [table.get_many(keys)],
        ):
            before = n_turns
            for call in work:
                await call
            assert n_turns > before
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_large_records_pass(table: Table[User], store: ws.Store) -> None:
    big = User(id="big", note="x" * (3 << 20))
    await table.put(big)
    await table.put_many([User(id=f"big{i}", note="y" * (1 << 20)) for i in range(3)])
    await store.checkpoint()
    assert await table.get("big") == big
    assert [len(u.note) for u in await collected(table.scan())] == [3 << 20, 1 << 20, 1 << 20, 1 << 20]


async def test_calls_of_a_table_have_a_name_and_a_type(store: ws.Store) -> None:
    assert store[User].name == "user"
    assert store[User].record_type is User
    assert "user" in repr(store[User])
    assert store.path in repr(store)


# A record's time to live


async def test_a_record_is_never_gone_before_its_time(store: ws.Store, world: World) -> None:
    table = store[User]
    await table.put(User(id="ann"), ttl=10)
    await table.put_many(users(0, 3), ttl="10s")
    await table.put_nowait(User(id="bob"), ttl=10.0)
    await table.insert(User(id="cid"), ttl="1m")
    world.clock.advance(9.999)
    assert await table.count() == 6
    assert await table.contains("ann")
    world.clock.jump(-3600)
    assert await table.count() == 6
    world.clock.jump(3600)
    world.clock.advance(0.001)
    assert [u.id for u in await collected(table.scan())] == ["cid"]
    assert await table.count() == 1
    assert await table.get("ann") is None
    assert await table.get_many(["ann", "bob", "cid"]) == [None, None, User(id="cid")]
    assert await table.get_with_version("ann") == (None, 0)
    assert not await table.contains("ann")
    assert not await table.delete("ann")
    with pytest.raises(ws.KeyNotFoundError):
        await table.update("bob", n=1)
    await table.insert(User(id="bob", n=5))
    world.clock.advance(1e6)
    assert await collected(table.scan()) == [User(id="bob", n=5)]


async def test_a_put_without_ttl_ends_it_and_a_change_keeps_it(table: Table[User], world: World) -> None:
    await table.put_many(users(0, 4), ttl=10)
    await table.put(User(id="u0000"))
    await table.put_many([User(id="u0001")])
    await table.update("u0002", n=9)
    await table.modify("u0003", lambda u: u.tags.append("x"))
    world.clock.advance(9.9)
    assert await table.get("u0002") == User(id="u0002", n=9)
    assert await table.get("u0003") == User(id="u0003", n=3, tags=["x"])
    world.clock.advance(0.1)
    assert [u.id for u in await collected(table.scan())] == ["u0000", "u0001"]


@pytest.mark.parametrize("ttl", ["soon", -1, [], float("nan")], ids=shown)
async def test_a_ttl_that_is_no_length_of_time_is_refused(ttl: Any, table: Table[User]) -> None:
    for call in (table.put(User(id="a"), ttl=ttl), table.insert(User(id="a"), ttl=ttl), table.put_many([], ttl=ttl)):
        with pytest.raises(ws.ValidationError, match="ttl") as error:
            await call
        assert error.value.field == "ttl"
    assert await table.count() == 0


# Where records are


STAGES = [("fsync", 1), ("fsync", 16), ("fsync", 4), ("interval", 4), ("memory", 4)]


@pytest.fixture(params=[True, False], ids=["cached", "uncached"])
def cached(request: pytest.FixtureRequest, world: World) -> Iterator[bool]:
    world.files.nothing_cached = not request.param
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize(("mode", "shards"), STAGES)
async def test_cold_records_are_read_and_written_like_hot_ones(
    mode: str, shards: int, cached: bool, world: World
) -> None:
    async with world.open(User, durability=mode, shards=shards) as store:
        await store[User].put_many(users(0, 500))
        await store.checkpoint()
    async with world.open(User, durability=mode) as store:
        table = store[User]
        assert store.statistics().tables[0].n_resident == 0
        assert await table.get("u0000") == User(id="u0000", n=0)
        assert await table.get("v") is None
        assert await table.contains("u0001")
        assert await table.get_with_version("u0002") != (None, 0)
        assert await table.get_many(["u0499", "x", "u0003"]) == [User(id="u0499", n=499), None, User(id="u0003", n=3)]
        assert await table.count() == 500
        await table.update("u0004", n=-4)
        await table.modify("u0005", lambda u: u.tags.append("x"))
        with pytest.raises(ws.KeyExistsError):
            await table.insert(User(id="u0006"))
        await table.insert(User(id="new"))
        assert await table.delete("u0007")
        assert not await table.delete("absent")
        _, version = await table.get_with_version("u0008")
        await table.put(User(id="u0008", n=-8), if_version=version)
        with pytest.raises(ws.VersionConflictError):
            await table.put(User(id="u0009"), if_version=0)
        await table.put(User(id="u0010", n=-10))
        assert await table.count() == 500
        expected = {u.id: u for u in users(0, 500)}
        expected["u0004"].n = -4
        expected["u0005"].tags = ["x"]
        expected["new"] = User(id="new")
        del expected["u0007"]
        expected["u0008"].n, expected["u0010"].n = -8, -10
        in_order = [expected[key] for key in sorted(expected)]
        assert await collected(table.scan()) == in_order
        await store.checkpoint()
        assert await collected(table.scan()) == in_order
        assert await table.get("u0007") is None
        assert await table.count() == 500
        await table.put(User(id="u0007", n=7))
    async with world.open(User, durability=mode) as store:
        expected["u0007"] = User(id="u0007", n=7)
        assert await store[User].get_many(sorted(expected)) == [expected[key] for key in sorted(expected)]


async def test_concurrent_reads_of_one_cold_record_agree(world: World) -> None:
    async with world.open(User) as store:
        await store[User].put_many(users(0, 50))
        await store.checkpoint()
    world.files.nothing_cached = True
    async with world.open(User) as store:
        table = store[User]

        def add(user: User) -> None:
            user.n += 1

        await asyncio.gather(*(table.get("u0001") for _ in range(10)), *(table.modify("u0001", add) for _ in range(10)))
        assert await table.get("u0001") == User(id="u0001", n=11)
        reads = [asyncio.ensure_future(table.get(f"u{i:04d}")) for i in range(50)]
        await turns(1)
        await store.checkpoint()  # while they are under way
        assert [u.id for u in await asyncio.gather(*reads) if u] == [f"u{i:04d}" for i in range(50)]


@pytest.mark.parametrize("mode", MODES)
async def test_a_record_that_was_loaded_while_a_scan_began_is_not_kept_for_later_reads(mode: str, world: World) -> None:
    async with world.open(User, shards=1, durability=mode) as store:
        await store[User].put_many(users(0, 20))
        await store.checkpoint()
    world.files.nothing_cached = True
    async with world.open(User, shards=1, durability=mode) as store:
        table = store[User]
        await table.put(User(id="other"))
        reads = [asyncio.ensure_future(table.get("u0001")) for _ in range(16)]  # several, so that one is kept
        await turns(1)
        scan = table.scan()
        await anext(scan)  # freezes the generation that the reads looked into
        assert await asyncio.gather(*reads) == [User(id="u0001", n=1)] * 16
        await table.put(User(id="u0001", n=77))
        assert await table.get("u0001") == User(id="u0001", n=77)
        await scan.aclose()  # type: ignore[attr-defined]


async def test_a_bool_is_no_int_key_even_where_its_equal_is_known(world: World) -> None:
    async with world.open(Reading) as store:
        readings = store[Reading]
        await readings.put(Reading(id=1))
        for _ in range(40):
            await readings.get(1)
        with pytest.raises(ws.ValidationError, match="id"):
            await readings.get(True)


async def test_an_oversized_key_is_refused_by_get_too(world: World) -> None:
    async with world.open(User) as store:
        with pytest.raises(ws.LimitError, match="4,096"):
            await store[User].get("k" * 5000)


async def test_a_scan_ends_with_its_store(world: World) -> None:
    store = await world.open(User)
    await store[User].put_many(users(0, 3000))
    scan = store[User].scan()
    await anext(scan)
    await store.close()
    with pytest.raises(ws.ClosedStoreError):
        [user async for user in scan]
