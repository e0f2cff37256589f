"""A migration: its plan, what it does, what stops it, and the way back."""

import asyncio
import copy
import errno
import gc
import json
import os
import random
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import pytest

import warpstore as ws
from tests.support.faulty_files import FaultyFiles
from tests.support.worlds import FakeClock, HandTimer, World, collected, world_in
from warpstore import manifest as manifests
from warpstore.checkpoint import CheckpointJob, CheckpointResult
from warpstore.checkpoint.job import run_job

T = TypeVar("T")
KEY = Annotated[str, ws.Key()]


class Old(ws.Record, name="thing"):
    id: KEY
    n: int
    note: Annotated[str, ws.Disk()] = ""
    gone: list[int] = []


class New(ws.Record, name="thing"):
    id: KEY
    total: Annotated[int, ws.Renamed("n")]
    tags: list[str] = []
    note: Annotated[str, ws.Disk(compression="max")] = ""


class Less(ws.Record, name="thing"):
    id: KEY


class Other(ws.Record, name="other"):
    id: KEY
    text: Annotated[str, ws.Disk(cache=False)] = ""


def olds(start: int, stop: int) -> list[Old]:
    return [Old(id=f"k{i:04d}", n=i, note=f"{i} " * 40, gone=[i]) for i in range(start, stop)]


def news(start: int, stop: int) -> list[New]:
    return [New(id=old.id, total=old.n, note=old.note) for old in olds(start, stop)]


OTHERS = [Other(id=f"o{i:02d}", text="text " * 30) for i in range(20)]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_in(tmp_path) as world:
        yield world


async def fill(world: World, n: int = 60) -> None:
    """Store old records, half of them in a checkpoint, and others of a table that has not changed."""
    async with world.open(Old, Other) as store:
        await store[Old].put_many(olds(0, n // 2))
        await store[Other].put_many(OTHERS)
        await store.checkpoint()
        await store[Old].put_many(olds(n // 2, n))


async def migrate(world: World, *models: type[ws.Record], **options: Any) -> ws.MigrationReport:
    return await ws.migrate(world.path, models or [New], environment=world.environment, **options)


def plan(world: World, *models: type[ws.Record]) -> ws.MigrationPlan:
    return ws.migration_plan(world.path, models or [New], environment=world.environment)


def tree(path: str) -> dict[str, bytes]:
    """Return every file of a store by its path, but for the lock's."""
    files = (file for file in Path(path).rglob("*") if file.is_file() and file.name != "LOCK")
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


async def scanned(world: World, model: type[ws.Record]) -> list[Any]:
    async with world.open(model) as store:
        return await collected(store[model].scan())


# The plan


async def test_a_plan_says_what_would_change_and_changes_nothing(world: World) -> None:
    await fill(world)
    before = tree(world.path)
    found = plan(world, New, Other)
    assert tree(world.path) == before
    thing, other = found.tables
    assert (thing.table, thing.record_type, thing.is_stored, thing.version, thing.is_new_version) == (
        "thing",
        "New",
        True,
        3,
        True,
    )
    assert other.versions == ()
    [version] = thing.versions
    assert (version.version, version.n_records) == (1, 60)
    assert version.changes == (
        "field 'n' was renamed to 'total'",
        "field 'tags' (list[str]) was added",
        "field 'note' lived in disk(compression='lz4', cache=True), now in disk(compression='max', cache=True)",
        "field 'gone' (list[int]) was dropped",
    )
    assert version.lost == ("field 'gone' (list[int]) was dropped",)
    assert version.unreadable == ()  # a rename is undone when the release is taken back
    [less] = plan(world, Less).tables
    assert less.versions[0].unreadable == ("field 'n' (int) was added without a default",)
    assert "a program with this schema cannot open the store" in plan(world, Less).text()
    assert 2_000 < version.n_bytes < 30_000
    assert (found.is_needed, found.is_lossless, found.n_records) == (True, False, 60)
    text = found.text()
    assert "60 records to rewrite, about" in text
    assert "thing (New): schema 1 to 3, 60 records" in text
    assert "- LOST: field 'gone' (list[int]) was dropped" in text
    assert "other (Other): up to date" in text
    data = json.loads(json.dumps(found.to_dict()))
    assert data["n_records"] == 60
    assert data["tables"][0]["versions"][0]["lost"] == ["field 'gone' (list[int]) was dropped"]
    with pytest.raises(AttributeError):
        found.path = "elsewhere"  # type: ignore[misc]


async def test_a_plan_counts_each_version_replaced_deleted_and_ended_records_left_out(world: World) -> None:
    await fill(world)
    async with world.open(Old) as store:
        await store[Old].delete("k0000")
        await store[Old].put(olds(59, 60)[0], ttl="1h")
    async with world.open(New) as store:
        await store[New].put(New(id="k0001", total=1))
        await store[New].put(New(id="new", total=1))
    assert [(v.version, v.n_records) for v in plan(world).tables[0].versions] == [(1, 58)]
    world.clock.advance(3601)
    assert plan(world).n_records == 57


async def test_a_plan_says_when_there_is_nothing_to_do(world: World) -> None:
    await fill(world)
    found = plan(world, Old, Other)
    assert not found.is_needed
    assert found.is_lossless
    assert found.text() == f"{world.path}: nothing to migrate"

    class Absent(ws.Record, name="absent"):
        id: KEY

    assert "there is no table 'absent'" in plan(world, Absent).text()
    assert "absent (Absent): the store has no such table" in plan(world, New, Absent).text()
    before = tree(world.path)
    report = await migrate(world, Old, Other, Absent)
    assert (report.n_rewritten, report.n_untouched, report.has_rollback) == (0, 0, False)
    assert tree(world.path) == before


async def test_a_plan_of_other_schemas_is_refused(world: World) -> None:
    await fill(world)
    found = plan(world)
    other = plan(world, New, Other)
    async with world.open(New):
        pass
    before = tree(world.path)
    for outdated in (found, other):
        with pytest.raises(ws.MigrationError, match=r"the plan was made for other schemas.*make a new one"):
            await migrate(world, plan=outdated)
    assert tree(world.path) == before
    assert (await migrate(world, plan=plan(world))).n_rewritten == 60


# What it does


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("mode", ["fsync", "interval", "memory"])
async def test_a_migration_rewrites_all_forgets_the_old_schema_and_leaves_other_tables(
    mode: str, shards: int, world: World
) -> None:
    settings: dict[str, Any] = {"durability": mode, "shards": shards}
    async with world.open(Old, Other, **settings) as store:
        await store[Old].put_many(olds(0, 60))
        await store[Other].put_many(OTHERS)
    report = await migrate(world)
    assert (report.n_rewritten, report.n_untouched, report.has_rollback) == (60, len(OTHERS), True)
    tables = manifests.read(world.files, world.path).tables
    assert [len(tables[name].schemas) for name in ("thing", "other")] == [1, 1]
    async with world.open(New, Other, **settings) as store:
        assert await collected(store[New].scan()) == news(0, 60)
        assert await collected(store[Other].scan()) == OTHERS
        await store[New].put(New(id="more", total=1))
    assert len(await scanned(world, New)) == 61
    assert not (await migrate(world)).n_rewritten


async def test_a_migration_reports_its_progress(world: World) -> None:
    async with world.open(Old) as store:
        await store[Old].put_many(olds(0, 3000))
    seen: list[tuple[int, int]] = []
    await migrate(world, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 3000), (1024, 3000), (2048, 3000), (3000, 3000)]


async def test_a_real_store_is_migrated_with_its_checkpoint_in_a_child(tmp_path: Path) -> None:
    path = tmp_path / "store"
    async with ws.open(path, models=[Old]) as store:
        await store[Old].put_many(olds(0, 60))
    assert ws.migration_plan(path, [New]).n_records == 60
    assert (await ws.migrate(path, [New])).n_rewritten == 60
    async with ws.open(path, models=[New]) as store:
        assert await collected(store[New].scan()) == news(0, 60)
    ws.roll_back(path, discard_writes=True)
    async with ws.open(path, models=[Old]) as store:
        assert await collected(store[Old].scan()) == olds(0, 60)


async def test_a_migration_takes_memory_for_the_index_only(world: World) -> None:
    note = random.Random(1).randbytes(4096).hex()
    async with world.open(Old, segment_bytes="1MiB") as store:
        for start in range(0, 4000, 500):
            await store[Old].put_many([Old(id=f"{i:05d}", n=i, note=note) for i in range(start, start + 500)])
        await store.checkpoint()
    gc.collect()
    tracemalloc.start()
    try:
        await migrate(world)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20  # of 32 MB
    assert await scanned(world, New) == [New(id=f"{i:05d}", total=i, note=note) for i in range(4000)]


# What stops it


async def test_an_incompatible_type_is_refused_by_table_and_field_before_anything_is_touched(world: World) -> None:
    class Wrong(ws.Record, name="thing"):
        id: KEY
        n: str

    class Needs(ws.Record, name="thing"):
        id: KEY
        n: int
        more: float

    await fill(world)
    before = tree(world.path)
    for model, field, words in (
        (Wrong, "n", "Wrong cannot read what is stored in 'thing': field 'n' was int, now str"),
        (Needs, "more", "field 'more' .float. was added without a default.*Nothing was touched"),
    ):
        with pytest.raises(ws.IncompatibleSchemaError, match=words) as refused:
            plan(world, model)
        assert (refused.value.table, refused.value.field) == ("thing", field)
        with pytest.raises(ws.IncompatibleSchemaError, match=words):
            await migrate(world, model)
    assert tree(world.path) == before
    with pytest.raises(ws.ConfigError, match="two record types"):
        await migrate(world, New, New)
    assert await scanned(world, Old) == olds(0, 60)


async def test_a_path_without_a_store_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "something").mkdir()
    (tmp_path / "something" / "else").write_text("x")
    before = sorted(tmp_path.rglob("*"))
    for name in ("file", "empty", "something", "absent"):
        path = tmp_path / name
        with pytest.raises(ws.NotAStoreError):
            ws.migration_plan(path, [New])
        with pytest.raises(ws.NotAStoreError):
            await ws.migrate(path, [New])
        with pytest.raises(ws.NotAStoreError):
            ws.roll_back(path)
        with pytest.raises(ws.NotAStoreError):
            ws.forget_rollback(path)
    assert sorted(tmp_path.rglob("*")) == before


async def test_a_store_in_use_is_refused(world: World) -> None:
    await fill(world)
    async with world.open(Old) as store:
        with pytest.raises(ws.StoreInUseError):
            plan(world)
        with pytest.raises(ws.StoreInUseError):
            await migrate(world)
        with pytest.raises(ws.StoreInUseError):
            ws.roll_back(world.path, environment=world.environment)
        with pytest.raises(ws.StoreInUseError):
            ws.forget_rollback(world.path, environment=world.environment)
        assert await store[Old].count() == 60


async def test_a_record_that_user_code_refuses_stops_the_migration_and_is_named(world: World) -> None:
    class Strict(ws.Record, name="thing"):
        id: KEY
        n: int
        root: Annotated[float, ws.Computed(lambda r: 1 / (30 - r.n), of=("n",))] = ws.derived()

    await fill(world)
    before = manifests.read(world.files, world.path).tables
    with pytest.raises(ws.MigrationError, match=r"record 'k0030' of 'thing' cannot.*ZeroDivisionError") as failed:
        await migrate(world, Strict)
    assert isinstance(failed.value.__cause__, ZeroDivisionError)
    assert manifests.read(world.files, world.path).tables == before
    assert await scanned(world, Old) == olds(0, 60)


async def test_a_cancelled_migration_leaves_the_store_as_it_was(world: World) -> None:
    async with world.open(Old) as store:
        await store[Old].put_many(olds(0, 3000))
    task: asyncio.Task[Any]

    def progress(done: int, total: int) -> None:
        if done:
            task.cancel()

    task = asyncio.create_task(migrate(world, progress=progress))
    with pytest.raises(asyncio.CancelledError):
        await task
    manifest = manifests.read(world.files, world.path)
    if manifest.rollback is None:  # else it was at its last step
        assert await scanned(world, Old) == olds(0, 3000)
        assert (await migrate(world)).n_rewritten == 3000
    assert await scanned(world, New) == news(0, 3000)


@pytest.mark.parametrize("operation", ["create", "write", "sync", "sync_directory", "rename", "open"])
async def test_a_disk_that_fails_leaves_the_store_as_it_was(operation: str, world: World) -> None:
    await fill(world)
    async with world.open(Old) as store:
        await store.checkpoint()
    before = tree(world.path)
    part = "MANIFEST.new" if operation == "rename" else "checkpoint"
    world.files.fail(operation, part, code=errno.ENOSPC)
    with pytest.raises(ws.WarpstoreError):
        await migrate(world)
    after = tree(world.path)
    assert {name: after[name] for name in before} == before
    assert (await migrate(world)).n_rewritten == 60
    assert await scanned(world, New) == news(0, 60)


# The way back


@pytest.mark.parametrize("served", [False, True])
async def test_rolling_back_restores_the_state_before_byte_by_byte(served: bool, world: World) -> None:
    await fill(world)
    async with world.open(Old) as store:
        await store.checkpoint()
    before = tree(world.path)
    manifest = manifests.read(world.files, world.path)
    await migrate(world, New, Other)
    if served:
        async with world.open(New, Other) as store:
            assert await collected(store[New].scan()) == news(0, 60)
            assert await collected(store[Other].scan()) == OTHERS
    ws.roll_back(world.path, environment=world.environment)
    after = tree(world.path)
    files = {name for name in before if name.startswith(("checkpoint/", "blocks/"))}
    assert {name for name in after if name.startswith(("checkpoint/", "blocks/"))} == files
    assert {name: after[name] for name in files} == {name: before[name] for name in files}
    restored = manifests.read(world.files, world.path)
    for part in ("store_id", "tables", "shards"):
        assert getattr(restored, part) == getattr(manifest, part)
    assert await scanned(world, Old) == olds(0, 60)
    with pytest.raises(ws.MigrationError, match="no state to go back to"):
        ws.roll_back(world.path, environment=world.environment)
    assert (await migrate(world)).n_rewritten == 60
    assert await scanned(world, New) == news(0, 60)


@pytest.mark.parametrize("ending", ["closed", "crashed", "checkpointed"])
@pytest.mark.parametrize("mode", ["fsync", "memory"])
async def test_rolling_back_over_later_writes_needs_to_be_told(mode: str, ending: str, world: World) -> None:
    await fill(world)
    await migrate(world)
    async with world.open(New, durability=mode) as store:
        await store[New].put(New(id="later", total=1))
        if ending == "checkpointed" or mode == "memory":
            await store.checkpoint()
        copy = world.crashed()
    after = copy if ending == "crashed" else world
    before = tree(after.path)
    with pytest.raises(ws.MigrationError, match="since the migration; discard_writes=True goes back all the same"):
        ws.roll_back(after.path, environment=after.environment)
    assert tree(after.path) == before
    assert len(await scanned(after, New)) == 61
    ws.roll_back(after.path, discard_writes=True, environment=after.environment)
    assert await scanned(after, Old) == olds(0, 60)
    async with after.open(Old) as store:  # the log that was discarded comes back with no later opening
        await store[Old].put(Old(id="again", n=1))
    assert await scanned(after, Old) == [Old(id="again", n=1), *olds(0, 60)]


async def test_rolling_back_after_the_records_were_dealt_anew_needs_to_be_told(world: World) -> None:
    await fill(world)
    await migrate(world)
    async with world.open(New, shards=2):
        pass
    with pytest.raises(ws.MigrationError, match="another number of shards"):
        ws.roll_back(world.path, environment=world.environment)
    ws.roll_back(world.path, discard_writes=True, environment=world.environment)
    assert await scanned(world, Old) == olds(0, 60)


async def test_what_is_kept_goes_with_the_next_migration_or_when_it_is_forgotten(world: World) -> None:
    class Newer(ws.Record, name="thing"):
        id: KEY
        total: int

    await fill(world)
    assert not ws.forget_rollback(world.path, environment=world.environment)
    await migrate(world, keep=False)
    n_files = len(tree(world.path))
    with pytest.raises(ws.MigrationError, match="no state"):
        ws.roll_back(world.path, environment=world.environment)
    await migrate(world, Newer)
    assert len(tree(world.path)) > n_files
    ws.roll_back(world.path, environment=world.environment)
    assert await scanned(world, New) == news(0, 60)
    await migrate(world, Newer)
    assert ws.forget_rollback(world.path, environment=world.environment)
    assert not ws.forget_rollback(world.path, environment=world.environment)
    names = {name for shard in manifests.read(world.files, world.path).shards for name in [shard.name]}
    assert set(os.listdir(f"{world.path}/checkpoint")) == names
    assert len(await scanned(world, Newer)) == 60


async def test_a_kept_state_that_is_damaged_is_refused_and_nothing_changes(world: World) -> None:
    await fill(world)
    await migrate(world)
    kept = manifests.read(world.files, world.path).rollback
    assert kept is not None
    name = next(shard.name for shard in kept.shards)
    Path(f"{world.path}/checkpoint/{name}").write_bytes(b"damage")
    with pytest.raises(ws.CorruptionError):
        ws.roll_back(world.path, environment=world.environment)
    assert await scanned(world, New) == news(0, 60)


async def test_what_is_kept_survives_openings_checkpoints_and_the_moving_of_blocks(world: World) -> None:
    await fill(world)
    await migrate(world)
    async with world.open(New) as store:
        for old in news(0, 40):
            await store[New].put(New(id=old.id, total=-1, tags=["t" * 100]))
        await store.checkpoint()
        await store.checkpoint()
    ws.roll_back(world.path, discard_writes=True, environment=world.environment)
    assert await scanned(world, Old) == olds(0, 60)


# Power cuts and faults, at every call of the file system


class InlineRunner:
    """A `Runner` that runs calls at once, so that the order of all calls is fixed."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __call__(self, call: Callable[[], T]) -> Awaitable[T]:
        done: asyncio.Future[T] = self._loop.create_future()
        try:
            done.set_result(call())
        except Exception as e:  # noqa: BLE001 - it goes to who awaits the call
            done.set_exception(e)
        return done

    def close(self) -> None:
        pass


STORE = "/store"


def environment_on(files: FaultyFiles) -> ws.Environment:
    async def run(job: CheckpointJob) -> CheckpointResult:
        return run_job(files, job)

    numbers = random.Random(1)
    return ws.Environment(
        files=files,
        clock=FakeClock(),
        runner=InlineRunner,
        sync_timer=HandTimer,
        run_checkpoint=run,
        random_u64=lambda: numbers.getrandbits(64),
    )


def opened(files: FaultyFiles, model: type[ws.Record]) -> Any:
    return ws.open(STORE, models=[model], environment=environment_on(files), segment_bytes="64KiB", shards=2)


async def on_files(files: FaultyFiles, model: type[ws.Record]) -> list[Any]:
    async with opened(files, model) as store:
        return await collected(store[model].scan())


async def a_store(*, migrated: bool) -> FaultyFiles:
    """Return a file system with a store of old records, some in a checkpoint, or with it migrated."""
    files = FaultyFiles()
    async with opened(files, Old) as store:
        await store[Old].put_many(olds(0, 8))
        await store.checkpoint()
        await store[Old].put_many(olds(8, 12))
    if migrated:
        await ws.migrate(STORE, [New], environment=environment_on(files))
    files.calls.clear()
    return files


async def attempt(what: str, files: FaultyFiles) -> bool:
    """Migrate or roll back; return whether it succeeded."""
    try:
        if what == "migrate":
            await ws.migrate(STORE, [New], environment=environment_on(files))
        else:
            ws.roll_back(STORE, environment=environment_on(files))
    except ws.WarpstoreError:
        files.locked.clear()
        return False
    return True


async def assert_all_there(what: str, files: FaultyFiles, *, done: bool) -> None:
    """Assert that the store holds all, in the form before or after, and that a second run completes it."""
    is_new = len(manifests.read(files, STORE).tables["thing"].schemas) == 1 and (
        manifests.read(files, STORE).tables["thing"].schemas[0].tag == 2
    )
    if done:
        assert is_new is (what == "migrate")
    if not is_new:
        assert await on_files(copy.deepcopy(files), Old) == olds(0, 12)
    assert await on_files(copy.deepcopy(files), New) == news(0, 12)
    if is_new is (what != "migrate"):
        assert await attempt(what, files)
    model, records = (New, news(0, 12)) if what == "migrate" else (Old, olds(0, 12))
    assert await on_files(files, model) == records
    assert not files.open_files


@pytest.mark.parametrize("what", ["migrate", "roll back"])
async def test_a_power_cut_at_any_call_loses_nothing_and_a_second_run_completes_it(what: str) -> None:
    start = await a_store(migrated=what != "migrate")
    whole = copy.deepcopy(start)
    assert await attempt(what, whole)
    assert len(whole.calls) > (60 if what == "migrate" else 10)
    for n in range(len(whole.calls)):
        files = copy.deepcopy(start)
        files.power_off_at(n)
        done = await attempt(what, files)
        await assert_all_there(what, files.crash(random.Random(n)), done=done)


@pytest.mark.parametrize("what", ["migrate", "roll back"])
async def test_a_call_that_fails_anywhere_loses_nothing_and_a_second_run_completes_it(what: str) -> None:
    start = await a_store(migrated=what != "migrate")
    whole = copy.deepcopy(start)
    assert await attempt(what, whole)
    for n, (call, path) in enumerate(whole.calls):
        files = copy.deepcopy(start)
        skip = sum(1 for earlier, its in whole.calls[:n] if earlier == call and path in its)
        files.fail(call, errno.EIO, path=path, skip=skip)
        done = await attempt(what, files)
        files.heal()
        await assert_all_there(what, files, done=done)


# A kill

CHILD = """
import asyncio, os, sys
import warpstore as ws
from tests.unit.test_migrate import New

def progress(done, total):
    os.write(1, b".")

asyncio.run(ws.migrate(sys.argv[1], [New], progress=progress))
os.write(1, b"!")
"""


@pytest.mark.parametrize("n_said", [0, 1, 3, 6])
async def test_a_killed_migration_loses_nothing_and_a_second_run_completes_it(n_said: int, tmp_path: Path) -> None:
    path = tmp_path / "store"
    async with ws.open(path, models=[Old]) as store:
        await store[Old].put_many(olds(0, 6000))
    root = Path(__file__).parents[2]
    environment = dict(os.environ, PYTHONPATH=str(root))
    child = [sys.executable, "-c", CHILD.replace("tests.unit.test_migrate", "test_migrate"), str(path)]
    environment["PYTHONPATH"] = os.pathsep.join([str(root), str(Path(__file__).parent)])
    with subprocess.Popen(child, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert len(process.stdout.read(n_said)) == n_said
        process.kill()
    saved = tmp_path / "copy"
    shutil.copytree(path, saved)
    if len(manifests.read(ws.Environment().files, str(saved)).tables["thing"].schemas[0].schema["fields"]) == 4:
        try:
            async with ws.open(saved, models=[Old]) as store:
                assert await collected(store[Old].scan()) == olds(0, 6000)
        except ws.IncompatibleSchemaError:
            assert manifests.read(ws.Environment().files, str(saved)).rollback is not None
    async with ws.open(path, models=[New]) as store:
        assert await collected(store[New].scan()) == news(0, 6000)
    await ws.migrate(path, [New])
    assert len(manifests.read(ws.Environment().files, str(path)).tables["thing"].schemas) == 1
    async with ws.open(path, models=[New]) as store:
        assert await collected(store[New].scan()) == news(0, 6000)


def test_a_plan_is_plain_data() -> None:
    made = ws.MigrationPlan(path="p", tables=(), digest="d")
    assert msgspec.convert(msgspec.to_builtins(made), ws.MigrationPlan) == made
