"""OpenTelemetry spans: for what takes time, and for calls only when asked."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

import warpstore as ws
from tests.support.worlds import CALLS, Reading, User, World, collected, turns, until, users, world_in
from warpstore._native import MemoryTable
from warpstore.column import Column
from warpstore.observe.traced_table import TracedTable
from warpstore.observe.tracing import Tracing
from warpstore.scan import Scan
from warpstore.table import Table

_exporter = InMemorySpanExporter()


@pytest.fixture(scope="module", autouse=True)
def provider() -> TracerProvider:
    made = TracerProvider()
    made.add_span_processor(SimpleSpanProcessor(_exporter))
    trace.set_tracer_provider(made)
    return made


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    _exporter.clear()
    return _exporter


@pytest.fixture
async def world(tmp_path: Path, exporter: InMemorySpanExporter) -> AsyncIterator[World]:
    async with world_in(tmp_path) as made:
        yield made


def spans(operation: str) -> list[ReadableSpan]:
    return [s for s in _exporter.get_finished_spans() if told(s).get("db.operation.name") == operation]


def told(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


async def test_an_opening_holds_the_recovery_of_each_lane_and_a_close_its_checkpoint(world: World) -> None:
    async with world.open(User, durability="memory", lanes=2) as store:
        await store[User].put_many(users(0, 5))
    (opened,), recovered, (closed,), (checkpoint,) = map(spans, ("open", "recover_lane", "close", "checkpoint"))
    assert opened.name == f"open {world.path}"
    assert told(opened) == {"db.system.name": "warpstore", "db.namespace": world.path, "db.operation.name": "open"}
    assert opened.kind is trace.SpanKind.INTERNAL
    assert sorted(told(span)["warpstore.lane"] for span in recovered) == [0, 1]
    assert {parent_of(span) for span in recovered} == {id_of(opened)}
    assert (told(checkpoint)["warpstore.reason"], parent_of(checkpoint)) == ("closing", id_of(closed))
    assert told(checkpoint)["warpstore.checkpoint_bytes"] > 0


async def test_a_checkpoint_is_a_part_of_the_call_that_asked_and_linked_to_the_others(world: World) -> None:
    tracer = trace.get_tracer("test")

    async def ask(name: str) -> None:
        with tracer.start_as_current_span(name):
            await store.checkpoint()

    async with world.open(User, durability="interval") as store:
        await store[User].put(User(id="a"))
        await ask("alone")
        await asyncio.gather(ask("first"), ask("second"))
        store._context.checkpointer.cast_nowait("the log has grown")  # type: ignore[union-attr]
        await until(lambda: len(spans("checkpoint")) == 3)
    by_name = {span.name: span for span in _exporter.get_finished_spans()}
    alone, together, grown = spans("checkpoint")
    assert parent_of(alone) == id_of(by_name["alone"])
    assert parent_of(together) == id_of(by_name["first"])
    assert [link.context.span_id for link in together.links] == [id_of(by_name["second"])]
    assert (parent_of(grown), told(grown)["warpstore.reason"]) == (None, "the log has grown")


async def test_a_lane_that_is_recovered_later_belongs_to_nobody(world: World) -> None:
    async with world.open(User) as store:
        with trace.get_tracer("test").start_as_current_span("request"):
            await store[User].put(User(id="a"))
            store._context.lanes[0].crash(RuntimeError("for the test"))
            await until(lambda: len(spans("recover_lane")) == 2)
        await until(lambda: store.statistics().shards[0].is_running)
        assert parent_of(spans("recover_lane")[1]) is None
        assert told(spans("recover_lane")[1])["warpstore.replayed_records"] == 1


async def test_a_failure_is_told_by_its_type_and_no_message(world: World) -> None:
    async with world.open(User, durability="interval") as store:
        world.files.fail("create", ".ckpt")
        with pytest.raises(ws.UnavailableError):
            await store.checkpoint()
    (failed,) = spans("checkpoint")
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.status.description is None
    assert told(failed)["error.type"] == "OSError"
    assert failed.events == ()


@pytest.mark.parametrize("mode", ["fsync", "memory"])
async def test_a_backup_its_restore_and_a_refresh_have_spans(mode: str, world: World, tmp_path: Path) -> None:
    copy, new = tmp_path / "copy", tmp_path / "new"
    async with world.open(User, durability=mode) as store:
        await store[User].put_many(users(0, 20))
        first = await store.backup(copy)
        second = await store.backup(copy)
        assert await store.refresh() is None
        async with world.open(User, read_only=True) as reader:
            await reader.refresh()
        with pytest.raises(ws.BackupTargetError):
            await store.backup(world.path)
    restored = ws.restore(copy, new)
    with pytest.raises(ws.BackupTargetError):
        ws.restore(copy, new)
    done, again, refused = spans("backup")
    for span, result in ((done, first), (again, second)):
        assert told(span)["db.namespace"] == world.path
        assert told(span)["warpstore.backup_bytes"] == result.n_bytes
        assert told(span)["warpstore.copied_bytes"] == result.copied_bytes
    assert told(refused)["error.type"] == "warpstore.errors.BackupTargetError"
    if mode == "memory":  # whose cut is a checkpoint
        assert [parent_of(span) for span in spans("checkpoint")[:2]] == [
            span.get_span_context().span_id for span in (done, again)
        ]
    made, failed = spans("restore")
    assert told(made)["db.namespace"] == str(new)
    assert told(made)["warpstore.backup_bytes"] == restored.n_bytes
    assert told(failed)["error.type"] == "warpstore.errors.BackupTargetError"
    (moved,) = spans("refresh")  # the owner's does nothing
    assert told(moved)["db.namespace"] == world.path


async def test_an_opening_that_fails_ends_its_span(world: World) -> None:
    Path(world.path).write_text("a file")
    with pytest.raises(ws.NotAStoreError):
        await world.open(User)
    (failed,) = spans("open")
    assert told(failed)["error.type"] == "warpstore.errors.NotAStoreError"


async def test_calls_make_no_spans_and_are_the_same_functions_unless_asked(world: World) -> None:
    async with world.open(User, Reading) as store:
        table = store[User]
        assert type(table) is Table
        assert Table.get is MemoryTable.get
        assert Table.put is MemoryTable.put
        assert type(table.scan()) is Scan
        assert type(store[Reading].column("value")) is Column
        before = len(_exporter.get_finished_spans())
        for call in CALLS[:-4]:  # not a checkpoint, nor what begins with one or ends the table
            try:
                await call(store)
            except ws.WarpstoreError:
                pass
        assert len(_exporter.get_finished_spans()) == before


async def test_traced_calls_have_a_span_each_with_what_they_did(world: World) -> None:
    async with world.open(User, Reading, trace_calls=True) as store:
        table = store[User]
        assert type(table) is TracedTable
        await table.put(User(id="a"))
        await table.put_many(users(0, 20))
        await table.put_nowait(User(id="b"))
        await table.insert(User(id="c"))
        await table.update("a", n=2)
        await table.modify("a", lambda u: setattr(u, "note", "x"))
        assert await table.get("a") == User(id="a", n=2, note="x")
        assert await table.get("absent") is None
        assert (await table.get_with_version("absent"))[0] is None
        assert len(await table.get_many(["a", "absent", "b"])) == 3
        assert await table.contains("a")
        assert await table.count() == 23
        assert len(await collected(table.scan(prefix="u"))) == 20
        assert await table.delete("a")
        assert await table.delete_many(["b", "c"]) == 2
        await store[Reading].put(Reading(id=1))
        values, _ = await store[Reading].column("value").lookup([1, 2])
        assert len(values) == 2
        with pytest.raises(ws.ValidationError):
            store[Reading].column("id")
    (put, _), (many,), (got, absent), (got_many,) = map(spans, ("put", "put_many", "get", "get_many"))
    assert (put.name, told(put)["db.collection.name"]) == ("put user", "user")
    assert told(many)["db.operation.batch.size"] == 20
    assert [told(span)["db.response.returned_rows"] for span in (got, absent)] == [1, 0]
    assert (told(got_many)["db.operation.batch.size"], told(got_many)["db.response.returned_rows"]) == (3, 2)
    assert sum(told(span)["db.response.returned_rows"] for span in spans("scan")) == 20
    assert [told(span)["db.operation.batch.size"] for span in spans("delete_many")] == [2]
    assert len(spans("delete")) == 1
    assert told(spans("lookup")[0])["warpstore.column"] == "value"
    for name in ("put_nowait", "insert", "update", "modify", "get_with_version", "contains", "count"):
        assert len(spans(name)) == 1
    values = {str(value) for span in _exporter.get_finished_spans() for value in told(span).values()}
    assert values & {"a", "b", "u0001"} == set()


async def test_a_traced_call_that_fails_raises_the_same_and_tells_no_key(world: World) -> None:
    async with world.open(User, trace_calls=True) as store:
        with pytest.raises(ws.KeyNotFoundError, match="secret"):
            await store[User].update("secret", n=1)
        with pytest.raises(ws.ValidationError):
            await store[User].put("no user")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            await store[User].append()  # type: ignore[call-arg]
    (failed,) = spans("update")
    assert told(failed)["error.type"] == "warpstore.errors.KeyNotFoundError"
    assert "secret" not in failed.to_json()


def test_a_synchronous_store_is_traced_too(tmp_path: Path, exporter: InMemorySpanExporter) -> None:
    with ws.open_sync(tmp_path / "store", models=[User], trace_calls=True) as store:
        store[User].put(User(id="a"))
        assert store[User].get("a") == User(id="a")
    assert [len(spans(name)) for name in ("open", "put", "get", "close")] == [1, 1, 1, 1]


async def test_a_block_of_ones_own_is_a_span(exporter: InMemorySpanExporter) -> None:
    tracing = Tracing("data")
    with tracing.span("backup", attributes={"warpstore.files": 3, "left out": None}) as span:
        span.set("warpstore.backup_bytes", 10)
        span.set("left out", None)
    (backup,) = spans("backup")
    assert told(backup).keys() - {"db.system.name", "db.namespace", "db.operation.name"} == {
        "warpstore.files",
        "warpstore.backup_bytes",
    }


async def test_a_wrong_setting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ws.ConfigError, match="trace_calls='yes': must be True or False"):
        ws.open(tmp_path / "store", trace_calls="yes")  # type: ignore[arg-type]


WITHOUT = """
import asyncio, sys
for name in {blocked}:
    sys.modules[name] = None
import warpstore as ws
from tests.support.worlds import User

async def main():
    async with ws.open({path!r}, models=[User]) as store:
        await store[User].put(User(id="a"))
        await store.checkpoint()
    try:
        await ws.open({path!r}, models=[User], trace_calls=True)
    except ws.ConfigError as error:
        print(error)
    print("opentelemetry.trace" in sys.modules)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("blocked", "words"),
    [
        (["opentelemetry"], "trace_calls=True needs opentelemetry-api: pip install 'warpstore[tracing]'\nFalse\n"),
        (["opentelemetry", "opentelemetry.trace"], "pip install 'warpstore[tracing]'\nTrue\n"),
    ],
)
def test_without_the_api_a_store_works_and_tracing_calls_says_what_to_install(
    blocked: list[str], words: str, tmp_path: Path
) -> None:
    program = WITHOUT.format(blocked=blocked, path=str(tmp_path / "store"))
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.endswith(words)


async def test_nothing_waits_for_a_span_after_a_cancelled_call(world: World) -> None:
    async with world.open(User, trace_calls=True) as store:
        task = asyncio.ensure_future(store[User].put(User(id="a")))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await turns()
    (cancelled,) = spans("put")
    assert told(cancelled)["error.type"] == "asyncio.exceptions.CancelledError"


class Wider(ws.Record, name="user"):
    id: Annotated[str, ws.Key()]
    n: int = 0
    more: int = 0


async def test_a_migration_and_the_way_back_are_spans(world: World) -> None:
    async with world.open(User) as store:
        await store[User].put_many(users(0, 7))
    await ws.migrate(world.path, [Wider], environment=world.environment)
    ws.roll_back(world.path, environment=world.environment)
    with pytest.raises(ws.MigrationError):
        ws.roll_back(world.path, environment=world.environment)
    (migrated,), (back, refused) = map(spans, ("migrate", "roll_back"))
    assert migrated.name == f"migrate {world.path}"
    assert told(migrated)["warpstore.rewritten_records"] == 7
    assert parent_of(spans("open")[-1]) == id_of(migrated)  # for the checkpoint that it begins with
    assert told(back)["db.namespace"] == world.path
    assert told(refused)["error.type"] == "warpstore.errors.MigrationError"
