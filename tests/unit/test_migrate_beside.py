"""A migration and its way back beside backups, readers, tools and logs."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

import warpstore as ws
from tests.support.worlds import World, collected, world_in
from wal import OsFileSystem
from warpstore import manifest as manifests
from warpstore.backup import format as backups
from warpstore.stored import StoredReader

KEY = Annotated[str, ws.Key()]


class Old(ws.Record, name="thing"):
    id: KEY
    n: int
    note: Annotated[str, ws.Disk()] = ""


class Middle(ws.Record, name="thing"):
    id: KEY
    m: Annotated[int, ws.Renamed("n")]
    note: Annotated[str, ws.Disk()] = ""


class New(ws.Record, name="thing"):
    id: KEY
    total: Annotated[int, ws.Renamed("m")]
    note: Annotated[str, ws.Disk()] = ""


class Doubled(ws.Record, name="thing"):
    id: KEY
    n: Annotated[int, ws.Renamed("m")]
    note: Annotated[str, ws.Disk()] = ""
    twice: Annotated[float, ws.Gpu("f4"), ws.Computed(lambda c: c.n * 2.0, of=("n",), batch=True)] = ws.derived()


class Wrong(ws.Record, name="thing"):
    id: KEY
    total: bytes = b""


def olds(start: int, stop: int) -> list[Old]:
    return [Old(id=f"k{i:03d}", n=i, note=f"{i} " * 60) for i in range(start, stop)]


def news(start: int, stop: int) -> list[New]:
    return [New(id=old.id, total=old.n, note=old.note) for old in olds(start, stop)]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_in(tmp_path / "store") as world:
        yield world


async def fill(world: World) -> None:
    """Store records of two older schemas."""
    async with world.open(Old, shards=2) as store:
        await store[Old].put_many(olds(0, 20))
        await store.checkpoint()
    async with world.open(Middle) as store:
        await store[Middle].put_many([Middle(id=old.id, m=old.n, note=old.note) for old in olds(20, 30)])


async def migrate(world: World) -> ws.MigrationReport:
    return await ws.migrate(world.path, [New], environment=world.environment)


async def scanned(world: World, model: type[ws.Record], **options: Any) -> list[Any]:
    async with world.open(model, **options) as store:
        return await collected(store[model].scan())


def kept_names(world: World) -> set[str]:
    """Return the names of the files that only the kept state needs."""
    manifest = manifests.read(world.files, world.path)
    assert manifest.rollback is not None
    return {shard.name for shard in manifest.rollback.shards} - {shard.name for shard in manifest.shards}


async def test_a_backup_leaves_the_way_back_with_the_store(world: World, tmp_path: Path) -> None:
    await fill(world)
    copy = tmp_path / "copy"
    await migrate(world)
    async with world.open(New) as store:
        await store.backup(copy)
    assert manifests.read(world.files, world.path).rollback is not None
    kept = kept_names(world)
    assert kept
    assert kept.isdisjoint(os.listdir(copy / "checkpoint"))
    assert backups.read(world.files, str(copy)).store.rollback is None
    await asyncio.to_thread(ws.restore, copy, tmp_path / "restored")
    restored = World(tmp_path / "restored")
    assert await scanned(restored, New) == news(0, 30)
    with pytest.raises(ws.MigrationError, match="no state to go back to"):
        ws.roll_back(restored.path)
    ws.roll_back(world.path, environment=world.environment, discard_writes=True)
    assert await scanned(world, Middle) == [Middle(id=r.id, m=r.total, note=r.note) for r in news(0, 30)]


async def test_a_backup_that_names_a_way_back_is_restored_without_it(world: World, tmp_path: Path) -> None:
    await fill(world)
    copy = tmp_path / "copy"
    await migrate(world)
    async with world.open(New) as store:
        await store.backup(copy)
    system = OsFileSystem()
    backup = backups.read(system, str(copy))
    rollback = manifests.read(world.files, world.path).rollback
    named = msgspec.structs.replace(backup.store, rollback=rollback)
    backups.write(system, str(copy), msgspec.structs.replace(backup, store=named))
    await asyncio.to_thread(ws.restore, copy, tmp_path / "restored")
    assert manifests.read(system, str(tmp_path / "restored")).rollback is None


async def test_backups_into_one_folder_follow_a_migration_and_the_way_back(world: World, tmp_path: Path) -> None:
    async def backed_up(model: type[ws.Record], name: str) -> list[Any]:
        async with world.open(model) as store:
            await store.backup(tmp_path / "copy")
        await asyncio.to_thread(ws.restore, tmp_path / "copy", tmp_path / name)
        return await scanned(World(tmp_path / name), model)

    await fill(world)
    before = await backed_up(Middle, "first")
    await migrate(world)
    async with world.open(New) as store:
        await store[New].put_many(news(40, 60))
    assert await backed_up(New, "second") == news(0, 30) + news(40, 60)
    ws.roll_back(world.path, environment=world.environment, discard_writes=True)
    assert await backed_up(Middle, "third") == before
    async with world.open(Middle) as store:
        await store[Middle].put(Middle(id="z", m=1))
    assert await backed_up(Middle, "fourth") == [*before, Middle(id="z", m=1)]


async def test_what_a_backup_pins_and_what_is_kept_both_survive_a_checkpoint(world: World) -> None:
    await fill(world)
    await migrate(world)
    kept = kept_names(world)
    async with world.open(New) as store:
        pinned = store._catalog.pin()
        await store[New].put_many(news(30, 40))
        await store.checkpoint()
        names = set(os.listdir(f"{world.path}/checkpoint"))
        assert names == kept | {s.name for s in pinned.shards} | {s.name for s in store._catalog.manifest.shards}
        store._catalog.unpin(pinned)
        await store.checkpoint()
        names = set(os.listdir(f"{world.path}/checkpoint"))
        assert names == kept | {s.name for s in store._catalog.manifest.shards}


async def test_readers_follow_a_migration_and_the_way_back(world: World) -> None:
    await fill(world)
    async with world.open(New, read_only=True) as new, world.open(Middle, read_only=True) as middle:
        before = await collected(middle[Middle].scan())
        assert await collected(new[New].scan()) == news(0, 30)
        await migrate(world)
        await new.refresh()
        assert await collected(new[New].scan()) == news(0, 30)
        async with world.open(New) as store:
            await store[New].put_many(news(30, 35))
            await store.sync()
            await new.refresh()
            assert await collected(new[New].scan()) == news(0, 35)
        ws.roll_back(world.path, environment=world.environment, discard_writes=True)
        await new.refresh()
        await middle.refresh()
        assert await collected(new[New].scan()) == news(0, 30)
        assert await collected(middle[Middle].scan()) == before


async def test_a_reader_learns_schemas_between_from_a_refresh(world: World) -> None:
    async with world.open(Old) as store:
        await store[Old].put_many(olds(0, 5))
    async with world.open(Middle) as store:
        await store[Middle].put(Middle(id="m", m=5))
    async with world.open(New, read_only=True) as reader:
        assert [record.total for record in await collected(reader[New].scan())] == [0, 1, 2, 3, 4, 5]
        async with world.open(New) as store:
            await store[New].put(New(id="n", total=6))
            await store.sync()
            await reader.refresh()
            assert [record.total for record in await collected(reader[New].scan())] == [0, 1, 2, 3, 4, 5, 6]


async def test_a_field_computed_of_columns_is_added_lazily_and_by_a_migration(world: World) -> None:
    await fill(world)
    expected = [Doubled(id=old.id, n=old.n, note=old.note) for old in olds(0, 30)]

    async def doubled() -> list[tuple[str, int, float]]:
        return [(r.id, r.n, r.twice) for r in await scanned(world, Doubled)]

    assert await doubled() == [(r.id, r.n, 2.0 * r.n) for r in expected]
    await ws.migrate(world.path, [Doubled], environment=world.environment)
    assert await doubled() == [(r.id, r.n, 2.0 * r.n) for r in expected]


async def test_tools_read_through_the_schemas_between(world: World) -> None:
    await fill(world)
    async with world.open(New) as store:
        await store[New].put(New(id="z", total=99))
    with StoredReader.open(world.path, lock=True) as stored:
        assert [record.fields["total"] for record in stored.records("thing")] == [*range(30), 99]


def events(caplog: pytest.LogCaptureFixture, *names: str) -> list[tuple[str, dict[str, Any]]]:
    found = ((getattr(r, "event", ""), dict(getattr(r, "fields", {}))) for r in caplog.records)
    return [(event, fields) for event, fields in found if event in names]


async def test_a_migration_and_the_way_back_log_what_they_did(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await fill(world)
    await migrate(world)
    ws.roll_back(world.path, environment=world.environment)
    with pytest.raises(ws.MigrationError):
        ws.roll_back(world.path, environment=world.environment)
    await migrate(world)
    assert ws.forget_rollback(world.path, environment=world.environment)
    with pytest.raises(ws.IncompatibleSchemaError):
        await ws.migrate(world.path, [Wrong], environment=world.environment)
    told = events(
        caplog, "store_migrated", "migration_failed", "store_rolled_back", "roll_back_failed", "rollback_forgotten"
    )
    assert [event for event, _ in told] == [
        "store_migrated", "store_rolled_back", "roll_back_failed", "store_migrated", "rollback_forgotten",
        "migration_failed",
    ]  # fmt: skip
    assert {fields["path"] for _, fields in told} == {world.path}
    assert (told[0][1]["rewritten"], told[0][1]["untouched"]) == (30, 0)
    assert told[2][1]["error"] == "MigrationError"
