"""A table's calls are coroutines to all that asyncio does with them, and its scans let go of what they read."""

import asyncio
import gc
import inspect
import sys
import weakref
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

import warpstore as ws
from tests.support.ids import shown
from tests.support.worlds import User, World, turns, users, world_in
from warpstore._native import DONE, LONG_WAY, ChunkedIterator, HotMap, MemoryTable, slot_of
from warpstore.record import plan_of

CODEC = plan_of(User).bind(1)
BAD: Any = User(id="a", n="x")  # type: ignore[arg-type]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_in(tmp_path) as made:
        yield made


@pytest.fixture(params=["fsync", "memory"])
async def table(request: pytest.FixtureRequest, world: World) -> AsyncIterator[Any]:
    """Give a table whose puts wait for the disk, and one whose puts are done at once."""
    async with world.open(User, durability=request.param) as store:
        yield store[User]


# Calls


async def test_a_call_is_a_coroutine(table: Any) -> None:
    for call in (table.put(User(id="a")), table.get("a"), table.put(BAD)):
        assert asyncio.iscoroutine(call)
        assert inspect.isawaitable(call)
        assert isinstance(call, Coroutine)
        call.close()


async def test_calls_are_awaited_gathered_and_wrapped(table: Any) -> None:
    assert await table.put(User(id="a", n=1)) is None
    assert await asyncio.create_task(table.put(User(id="b", n=2))) is None
    assert await asyncio.wait_for(table.put(User(id="c", n=3)), 60) is None
    assert await asyncio.gather(*(table.put(one) for one in users(0, 50))) == [None] * 50
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(table.get(key)) for key in "abcd"]
    assert [task.result() for task in tasks] == [User(id="a", n=1), User(id="b", n=2), User(id="c", n=3), None]
    assert await asyncio.gather(*(table.get(one.id) for one in users(0, 50))) == users(0, 50)
    assert await asyncio.ensure_future(table.get("a")) == User(id="a", n=1)
    assert await asyncio.shield(table.get("a")) == User(id="a", n=1)


async def test_a_settled_call_is_awaited_once(table: Any) -> None:
    await table.put(User(id="a"))
    call = table.get("a")
    assert await call == User(id="a")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            await call
    failed = table.put(BAD)
    with pytest.raises(ws.ValidationError):
        await failed
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        await failed


async def test_a_put_is_awaited_once(table: Any) -> None:
    call = table.put(User(id="a"))
    await call
    for _ in range(2):
        with pytest.raises(RuntimeError):
            await call


async def test_a_settled_call_ends_at_the_first_step(table: Any) -> None:
    await table.put(User(id="a"))
    call = table.get("a")
    with pytest.raises(StopIteration) as stop:
        call.send(None)
    assert stop.value.value == User(id="a")
    with pytest.raises(RuntimeError):
        call.send(None)
    with pytest.raises(StopIteration) as stop:
        next(iter(table.get("a").__await__()))
    assert stop.value.value == User(id="a")


async def test_a_closed_call_is_over(table: Any) -> None:
    await table.put(User(id="a"))
    call = table.get("a")
    assert call.close() is None
    assert call.close() is None
    with pytest.raises(RuntimeError):
        await call


@pytest.mark.parametrize(
    "thrown", [(ZeroDivisionError("x"),), (ZeroDivisionError,), (ZeroDivisionError, "x")], ids=shown
)
async def test_what_is_thrown_into_a_call_comes_out(thrown: Any, table: Any) -> None:
    await table.put(User(id="a"))
    call = table.get("a")
    with pytest.raises(ZeroDivisionError):
        call.throw(*thrown)
    with pytest.raises(RuntimeError):
        await call


async def test_only_an_exception_is_thrown_into_a_call(table: Any) -> None:
    await table.put(User(id="a"))
    for thrown in ((), (5,), (int,), (1, 2, 3, 4)):
        with pytest.raises(TypeError):
            table.get("a").throw(*thrown)


async def test_a_bad_record_is_refused_when_its_put_is_awaited(table: Any) -> None:
    call = table.put(BAD)
    with pytest.raises(ws.ValidationError, match=r"User\.n: expected int, got str"):
        await call
    found = await asyncio.gather(table.put(User(id="b")), table.put(BAD), return_exceptions=True)
    assert found[0] is None
    assert isinstance(found[1], ws.ValidationError)
    task = asyncio.create_task(table.put(BAD))
    with pytest.raises(ws.ValidationError):
        await task
    with pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(table.put(BAD))
    assert await table.get("a") is None


async def test_a_call_that_nobody_awaits_lets_go_of_its_result(table: Any) -> None:
    await table.put(User(id="a"))
    record = User(id="a", n=5)
    before = sys.getrefcount(record)
    call = table.put(record)
    await call
    del call
    table.put(BAD)
    table.get("a")
    assert sys.getrefcount(record) == before


async def test_a_failed_call_that_is_kept_keeps_no_frame_alive(table: Any) -> None:
    class Probe:
        pass

    seen: list[Any] = []

    async def fail() -> None:
        probe = Probe()
        seen.append(weakref.ref(probe))
        call = table.put(BAD)
        try:
            await call
        except ws.ValidationError:
            pass

    await fail()
    gc.collect()
    assert seen[0]() is None


async def test_what_an_encoder_raises_is_raised_when_the_put_is_awaited() -> None:
    def encode(record: Any) -> Any:
        raise ZeroDivisionError

    call = made_table(encode=encode).put(User(id="a"))
    with pytest.raises(ZeroDivisionError):
        await call


# Durable puts


async def test_a_cancelled_put_is_stored_as_if_it_had_not_been_cancelled(world: World) -> None:
    async with world.open(User, durability="fsync") as store:
        table = store[User]
        task = asyncio.create_task(table.put(User(id="a", n=1)))
        other = asyncio.create_task(table.put(User(id="b", n=2)))
        await turns(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await other
        assert task.cancelled()
        assert await table.get("a") == User(id="a", n=1)
        assert await table.get("b") == User(id="b", n=2)


async def test_a_put_that_is_cancelled_before_it_runs_ends_as_cancelled(world: World) -> None:
    async with world.open(User, durability="fsync") as store:
        task = asyncio.create_task(store[User].put(User(id="a")))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await store[User].put(User(id="b"))
        assert await store[User].get("b") == User(id="b")


async def test_a_waiting_call_can_be_closed_or_thrown_into(world: World) -> None:
    async with world.open(User, durability="fsync") as store:
        table = store[User]
        closed: Any = table.put(User(id="a"))
        closed.close()
        thrown: Any = table.put(User(id="b"))
        with pytest.raises(ZeroDivisionError):
            thrown.throw(ZeroDivisionError())
        stepped: Any = table.put(User(id="c"))
        future = stepped.send(None)
        assert asyncio.isfuture(future)
        future._asyncio_future_blocking = False  # as a task does that takes it in
        await future
        with pytest.raises(StopIteration):
            stepped.send(None)
        assert [user.id async for user in table.scan()] == ["a", "b", "c"]


# ChunkedIterator


class Chunks(ChunkedIterator[int]):
    def __init__(self, *chunks: Any) -> None:
        self.chunks = list(chunks)

    async def _next(self) -> int:
        await asyncio.sleep(0)
        if not self.chunks:
            raise StopAsyncIteration
        return self._give(self.chunks.pop(0))


async def test_what_comes_in_lists_is_given_out_one_by_one() -> None:
    chunk = [3, 4]
    chunks = Chunks([1, 2], chunk, [5])
    assert chunks.__aiter__() is chunks
    assert [one async for one in chunks] == [1, 2, 3, 4, 5]
    assert chunk == [None, None]
    with pytest.raises(StopAsyncIteration):
        await anext(chunks)
    assert await anext(chunks, 7) == 7


async def test_only_a_list_that_is_not_empty_is_given() -> None:
    for bad in ([], (), (1,), None, "ab"):
        with pytest.raises(TypeError, match="a list that is not empty"):
            await anext(Chunks(bad))


async def test_a_list_that_shrinks_is_given_out_as_far_as_it_goes() -> None:
    chunk = [1, 2, 3, 4]
    chunks = Chunks(chunk, [5])
    assert await anext(chunks) == 1
    del chunk[1:]
    assert [one async for one in chunks] == [5]


async def test_an_iterator_without_a_next_list_says_so() -> None:
    with pytest.raises(AttributeError, match="_next"):
        await anext(ChunkedIterator())


async def test_an_iterator_in_a_cycle_is_collected_with_its_list() -> None:
    class Probe:
        pass

    probe: Any = Probe()
    chunks: Any = Chunks([0, probe])
    await anext(chunks)
    probe.chunks = chunks
    seen = weakref.ref(probe)
    del probe, chunks
    gc.collect()
    assert seen() is None


# Scans


async def test_a_scan_gives_one_record_at_a_time(world: World) -> None:
    async with world.open(User, shards=1) as store:
        table = store[User]
        await table.put_many(users(0, 300))
        await store.checkpoint()
        world.files.nothing_cached = True
        scan = table.scan()
        first = asyncio.ensure_future(anext(scan))
        await turns(1)
        with pytest.raises(RuntimeError, match="one record at a time"):
            await anext(scan)
        assert await first == users(0, 1)[0]
        assert [user.n async for user in scan] == list(range(1, 300))


@pytest.mark.parametrize("end", ["aclose", "forget", "break"])
async def test_a_scan_that_is_left_early_lets_go_of_its_snapshots(end: str, world: World) -> None:
    async with world.open(User, shards=1) as store:
        table = store[User]
        await table.put_many(users(0, 300))
        [tier] = store._context.tiers("user")
        found = []
        if end == "break":
            async for user in table.scan():
                found.append(user)
                if len(found) == 3:
                    break
        else:
            scan: Any = table.scan()
            found = [await anext(scan) for _ in range(3)]
            assert len(tier.frozen) == 1
            if end == "aclose":
                await scan.aclose()
                await scan.aclose()
            else:
                del scan
        await table.put(User(id="x"))
        assert found == users(0, 3)
        assert tier.frozen == []
        assert await table.count() == 301


# MemoryTable


class Memory(MemoryTable[User]):
    async def _get(self, key: Any, /) -> Any:
        return ("get", key)

    async def _put(self, record: Any, /, **options: Any) -> Any:
        return ("put", record, options)

    async def _write(self, encoded: Any, /) -> Any:
        return ("write", encoded)


def arguments(**changes: Any) -> dict[str, Any]:
    return {**CODEC.memory_table(), "n_known": 16, "puts_at_once": True, "ephemeral": None} | changes


def made_table(**changes: Any) -> Any:
    return Memory(**arguments(**changes))


def open_slot(table: Any, key: str, found: HotMap, pending: list[bytes]) -> None:
    table._set_slot(slot_of(key), (found,), pending, lambda: None, None, None)


async def test_an_open_slot_is_written_and_read_at_once() -> None:
    table, found, pending = made_table(), HotMap(), []
    open_slot(table, "a", found, pending)
    record = User(id="a", n=1, tags=["x"])
    await table.put(record)
    encoded = CODEC.encode(record)
    assert pending == [encoded[2]]
    for _ in range(4):  # decoded, decoded and kept, copied, copied
        read = await table.get("a")
        assert read == record
        read.tags.append("y")
    assert table._value("a") is table._writable_value("a") is encoded[2] or table._value("a") == encoded[2]
    assert table._write_now(encoded) == DONE
    table._close_slots()
    assert table._write_now(encoded) == LONG_WAY
    assert await table.get("a") == ("get", "a")
    assert await table.put(record) == ("write", encoded)
    assert await table.put(record, ttl=5) == ("put", record, {"ttl": 5})


async def test_a_table_that_was_not_initialised_goes_the_long_way() -> None:
    table: Any = Memory.__new__(Memory)
    assert await table.get("a") == ("get", "a")
    assert await table.put(1) == ("put", 1, {})
    assert table._records(["a"]) is None


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"n_known": -1}, ValueError),
        ({"n_known": (1 << 24) + 1}, ValueError),
        ({"n_known": 2**70}, OverflowError),
        ({"n_known": "1"}, TypeError),
        ({"key_type": "str"}, TypeError),
        ({"record_type": None}, TypeError),
        ({"ephemeral": object()}, AttributeError),
        ({"unknown": 1}, TypeError),
    ],
    ids=shown,
)
def test_a_table_of_wrong_parts_is_refused(changes: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        made_table(**changes)


def test_a_table_takes_names_only_and_all_of_them() -> None:
    with pytest.raises(TypeError):
        MemoryTable(*arguments().values())  # type: ignore[misc]
    for name in arguments():
        with pytest.raises(TypeError):
            MemoryTable(**{key: part for key, part in arguments().items() if key != name})


async def test_a_table_is_initialised_once() -> None:
    table, found = made_table(), HotMap()
    open_slot(table, "a", found, [])
    await table.put(User(id="a"))
    with pytest.raises(RuntimeError, match="initialised once"):
        table.__init__(**arguments(n_known=1 << 20))
    assert await table.get("a") == User(id="a")


async def looped_table(n_known: int, value: list[bytes]) -> Any:
    """Return a weak reference to what a table holds that is in a cycle, and that nobody else holds."""

    class Probe:
        pass

    def copied(record: Any) -> Any:
        assert probe.table is table
        return CODEC.copy(record)  # type: ignore[misc]

    probe: Any = Probe()
    table = probe.table = made_table(n_known=n_known, copy=copied)
    table._set_slot(slot_of("a"), (HotMap(),), value, lambda: table, lambda *_: probe, probe)
    await table.put(User(id="a"))
    for _ in range(3):
        assert await table.get("a") == User(id="a")
    return weakref.ref(probe)


@pytest.mark.parametrize("n_known", [0, 1, 1000])
async def test_a_table_in_a_cycle_is_collected_with_all_it_holds(n_known: int) -> None:
    pending: list[bytes] = []
    seen = await looped_table(n_known, pending)
    gc.collect()
    assert seen() is None
    held = sys.getrefcount(pending[0])
    assert held == 2


@pytest.mark.parametrize(
    "wrong",
    [
        (),
        (256, None, None, repr, None, None),
        (-1, None, None, repr, None, None),
        ("0", None, None, repr, None, None),
        (0, (), None, repr, None, None),
        (0, [HotMap()], None, repr, None, None),
        (0, ({},), None, repr, None, None),
        (0, None, (), repr, None, None),
    ],
    ids=shown,
)
def test_a_slot_of_wrong_parts_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError):
        made_table()._set_slot(*wrong)


@pytest.mark.parametrize("encoded", [None, (), (1, "a"), (1, "a", "text"), (1, "a", b""), [1, "a", b"v"]], ids=shown)
async def test_an_encoded_record_of_another_form_is_refused(encoded: Any) -> None:
    table = made_table(encode=lambda record: encoded)
    with pytest.raises(TypeError, match="an encoded record is"):
        table._write_now(encoded)
    with pytest.raises(TypeError, match="an encoded record is"):
        await table.put(User(id="a"))


async def test_a_slot_that_is_no_number_goes_the_long_way_or_is_refused() -> None:
    encoded = ("0", "a", CODEC.encode(User(id="a"))[2])
    table = made_table(encode=lambda record: encoded)
    try:
        assert await table.put(User(id="a")) == ("write", encoded)
    except TypeError as error:
        assert "int" in str(error)  # noqa: PT017 - either is right


async def test_bytes_that_cannot_be_decoded_go_the_long_way() -> None:
    table, found = made_table(), HotMap()
    found.set("a", msgspec.msgpack.encode([99, "a"]))
    open_slot(table, "a", found, [])
    assert await table.get("a") == ("get", "a")
    assert table._records(["a"]) is None
