"""`Disk` fields are in backups, in the stores that those become, and in what a store opened read-only shows."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import warpstore as ws
from tests.support.worlds import MODES, World, collected, until, world_in
from tests.unit.test_backup import contents, restored
from tests.unit.test_cli_blocks import Doc, block_files, defects, doc, docs
from warpstore import manifest as manifests
from warpstore.backup import format as backups
from warpstore.blocks.format import unpack_file_header
from warpstore.synchronous import open_sync

SOME = slice(0, 300, 7)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_in(tmp_path) as made:
        yield made


def names(folder: Path) -> set[str]:
    return {path.name for path in block_files(folder)}


# Backups


@pytest.mark.parametrize("stage", ["log", "checkpoint", "both", "dealt anew"])
@pytest.mark.parametrize("mode", MODES)
async def test_a_restored_store_has_the_parts_of_its_records(
    mode: str, stage: str, world: World, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    if stage == "dealt anew":  # several shards share the block files of one
        async with world.open(Doc, durability=mode, shards=1) as store:
            await store[Doc].put_many(docs(0, 200))
            await store.checkpoint()
    async with world.open(Doc, durability=mode, shards=3) as store:
        await store[Doc].put_many(docs(0, 200))
        if stage != "log":
            await store.checkpoint()
        if stage != "checkpoint":
            await store[Doc].put_many(docs(150, 250, salt=1))
            await store[Doc].delete_many([doc(i).id for i in range(0, 200, 9)])
        expected = await collected(store[Doc].scan())
        result = await store.backup(copy)
        assert result.n_copied == result.n_files == len(contents(copy)) - 1
        await store[Doc].put_many(docs(0, 300, salt=2))
        await store.checkpoint()
    assert bool(names(copy)) == (stage != "log" or mode == "memory")
    assert await restored(copy, Doc) == [expected]
    assert await restored(copy, Doc, shards=2) == [expected]
    ws.restore(copy, tmp_path / "new")
    assert defects(tmp_path / "new") == []
    manifest = manifests.read(world.files, str(tmp_path / "new"))
    assert {number for shard in manifest.shards for number in shard.blocks} == {
        int(name.partition(".")[0], 16) for name in names(tmp_path / "new")
    }
    for path in block_files(tmp_path / "new"):
        theirs = (copy / "blocks" / path.name).read_bytes()
        assert unpack_file_header(path.read_bytes()[:64])[3] == manifest.id_bytes != unpack_file_header(theirs[:64])[3]
        assert path.read_bytes()[64:] == theirs[64:]


async def test_a_second_backup_copies_the_new_block_file_and_keeps_the_old(world: World, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    async with world.open(Doc, shards=1) as store:
        await store[Doc].put_many(docs(0, 300))
        await store.checkpoint()
        assert (await store.backup(copy)).n_copied == 2
        (old,) = block_files(copy)
        before = old.stat()
        await store[Doc].put_many(docs(0, 10, salt=1))
        await store.checkpoint()
        second = await store.backup(copy)
        assert (second.n_files, second.n_copied, second.n_removed) == (3, 2, 1)
        assert names(copy) == names(Path(world.path)) > {old.name}
        assert old.stat() == before
        assert await restored(copy, Doc) == [[*docs(0, 10, salt=1), *docs(10, 300)]]
        await store[Doc].put_many(docs(0, 200, salt=2))
        await store.checkpoint()
        assert old.name not in names(Path(world.path))  # too little of it was of use
        third = await store.backup(copy)
        assert names(copy) == names(Path(world.path))
        assert third.n_removed >= 2
    assert await restored(copy, Doc) == [[*docs(0, 200, salt=2), *docs(200, 300)]]


async def test_block_files_of_a_cut_are_kept_while_they_are_copied(world: World, tmp_path: Path) -> None:
    async def replace_all() -> None:
        for salt in (1, 2):
            await store[Doc].put_many(docs(0, 100, salt=salt))
            await store.checkpoint()
        assert old < names(Path(world.path))

    async with world.open(Doc, shards=2, checkpoint_log_bytes="1GiB") as store:
        await store[Doc].put_many(docs(0, 100))
        await store.checkpoint()
        old = names(Path(world.path))
        world.on_backup = replace_all
        await store.backup(tmp_path / "copy")
        world.on_backup = None
        assert not old & names(Path(world.path))  # what only the backup kept is gone
    assert names(tmp_path / "copy") == old
    assert await restored(tmp_path / "copy", Doc) == [docs(0, 100)]


async def test_a_damaged_block_file_of_the_store_is_named_and_not_copied(world: World, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    async with world.open(Doc, shards=1) as store:
        await store[Doc].put_many(docs(0, 100))
        await store.backup(copy)
        before = contents(copy)
        await store.checkpoint()
        (path,) = block_files(Path(world.path))
        good = path.read_bytes()
        for at in (*range(0, 200, 13), len(good) // 2, len(good) - 1):
            path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
            with pytest.raises(ws.BackupDamagedError, match=path.name) as error:
                await store.backup(copy)
            assert error.value.path == str(path)
            assert contents(copy) == before
        path.write_bytes(good[:-1])
        with pytest.raises(ws.BackupDamagedError, match=path.name):
            await store.backup(copy)
        path.unlink()
        with pytest.raises(ws.BackupDamagedError, match="missing"):
            await store.backup(copy)
        assert contents(copy) == before
        path.write_bytes(good)
        await store.backup(copy)
        assert store._catalog._pins == []
    assert await restored(copy, Doc) == [docs(0, 100)]


async def test_a_damaged_block_file_of_a_backup_is_not_restored(world: World, tmp_path: Path) -> None:
    copy, new = tmp_path / "copy", tmp_path / "new"
    async with world.open(Doc, shards=1) as store:
        await store[Doc].put_many(docs(0, 100))
        await store.checkpoint()
        await store.backup(copy)
    (path,) = block_files(copy)
    good = path.read_bytes()
    for at in (*range(0, 200, 13), len(good) // 2, len(good) - 1):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(ws.BackupDamagedError, match=path.name):
            ws.restore(copy, new)
    path.unlink()
    with pytest.raises(ws.BackupSourceError, match=path.name):
        ws.restore(copy, new)
    path.write_bytes(good)
    ws.restore(copy, new)
    assert defects(new) == []


async def test_a_copy_of_the_store_that_went_its_own_way_is_known_by_its_block_files(
    world: World, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    async with world.open(Doc, shards=1) as store:
        await store[Doc].put_many(docs(0, 50))
    other = world.crashed()
    for at, salt in ((world, 1), (other, 2)):
        async with at.open(Doc) as store:
            await store[Doc].put_many(docs(0, 50, salt=salt))
            await store.checkpoint()
            if at is world:
                await store.backup(copy)
                (file,) = [entry for entry in backups.read(world.files, str(copy)).files if "blocks/" in entry.path]
            else:
                assert (Path(other.path) / file.path).exists()
                with pytest.raises(ws.BackupTargetError, match="went its own way"):
                    await store.backup(copy)
    assert await restored(copy, Doc) == [docs(0, 50, salt=1)]


# Stores opened read-only


@pytest.mark.parametrize("settings", [{}, {"ram": "1MiB", "block_cache_bytes": 0}])
@pytest.mark.parametrize("mode", MODES)
async def test_a_reader_shows_parts_beside_an_owner_and_alone(
    mode: str, settings: dict[str, Any], world: World
) -> None:
    async def look() -> None:
        async with world.open(Doc, read_only=True, **settings) as reader:
            assert await collected(reader[Doc].scan()) == expected
            assert await reader[Doc].get_many([record.id for record in expected]) == expected
            assert [await reader[Doc].get(record.id) for record in expected[SOME]] == expected[SOME]
            assert await reader[Doc].get("absent") is None
            if settings:
                assert reader.statistics().resident_bytes < 1 << 20

    async with world.open(Doc, durability=mode, shards=2) as store:
        await store[Doc].put_many(docs(0, 200))
        await store.checkpoint()
        await store[Doc].put_many(docs(150, 250, salt=1))
        await store[Doc].delete(doc(3).id)
        await store.sync()
        expected = await collected(store[Doc].scan())
        await look()
    await look()


async def test_an_owner_replaces_block_files_that_a_reader_reads(world: World) -> None:
    first, second = docs(0, 300), docs(0, 300, salt=1)
    async with world.open(Doc, shards=2, checkpoint_log_bytes="1GiB") as store:
        await store[Doc].put_many(first)
        await store.checkpoint()
        async with world.open(Doc, read_only=True, block_cache_bytes=0) as reader:
            old = names(Path(world.path))
            scan = reader[Doc].scan()
            assert await anext(scan) == first[0]
            await store[Doc].put_many(second)
            await store.checkpoint()
            assert not old & names(Path(world.path))
            assert await reader[Doc].get_many([record.id for record in first]) == first
            late = reader[Doc].scan()
            assert await anext(late) == first[0]
            await reader.refresh()
            assert [first[0], *await collected(scan)] == first
            assert [first[0], *await collected(late)] == first
            assert await collected(reader[Doc].scan()) == second
            assert await reader[Doc].get(second[9].id) == second[9]
            await until(
                lambda: (
                    {path.rpartition("/")[2] for path in world.open_files() if path.endswith(".blk")}
                    <= (names(Path(world.path)))
                )
            )


async def test_readers_read_parts_while_an_owner_takes_checkpoints(world: World) -> None:
    rng = random.Random(4)
    is_over = False

    async def read() -> int:
        n = 0
        async with world.open(Doc, read_only=True, block_cache_bytes=0) as reader:
            before = 0
            while not is_over:
                salts = {}
                for record in await collected(reader[Doc].scan()):
                    i = record.n
                    salts[i] = next(salt for salt in range(12) if record == doc(i, salt))
                assert len(salts) == 60
                assert min(salts.values()) >= before  # of what was acknowledged before the refresh
                before = done
                await reader.refresh()
                n += 1
                i = rng.randrange(60)
                found = await reader[Doc].get(doc(i).id)
                assert found in [doc(i, salt) for salt in range(before, 12)]
        return n

    async with world.open(Doc, shards=2) as store:
        await store[Doc].put_many(docs(0, 60))
        await store.checkpoint()
        done = 0
        readers = [asyncio.create_task(read()) for _ in range(2)]
        for salt in range(1, 12):
            await store[Doc].put_many(docs(0, 60, salt=salt))
            done = salt
            await store.checkpoint()
            await asyncio.sleep(0)
        is_over = True
        assert min(await asyncio.gather(*readers)) > 0


async def test_a_table_with_parts_that_comes_later_is_read_and_counted(world: World) -> None:
    async with world.open(shards=1):
        pass
    async with world.open(Doc, read_only=True, ram="64MiB") as reader:
        assert await reader[Doc].get("d0001") is None
        async with world.open(Doc) as store:
            await store[Doc].put_many(docs(0, 50))
            await store.checkpoint()
            await reader.refresh()
            before = reader.statistics().resident_bytes
            assert await collected(reader[Doc].scan()) == docs(0, 50)
            assert await reader[Doc].get_many([doc(i).id for i in range(50)]) == docs(0, 50)
            assert reader.statistics().resident_bytes > before


async def test_a_damaged_block_file_is_refused_and_leaves_a_reader_its_state(world: World) -> None:
    async with world.open(Doc, shards=1) as store:
        await store[Doc].put_many(docs(0, 50))
        await store.checkpoint()
        async with world.open(Doc, read_only=True) as reader:
            await store[Doc].put_many(docs(0, 50, salt=1))
            await store.checkpoint()
            (path,) = block_files(Path(world.path))
            good = path.read_bytes()
            path.write_bytes(b"x" + good[1:])
            with pytest.raises(ws.CorruptionError, match=path.name):
                await reader.refresh()
            with pytest.raises(ws.CorruptionError, match=path.name):
                await world.open(Doc, read_only=True)
            assert await collected(reader[Doc].scan()) == docs(0, 50)
            path.write_bytes(good)
            await reader.refresh()
            assert await collected(reader[Doc].scan()) == docs(0, 50, salt=1)


def test_a_synchronous_reader_reads_parts(tmp_path: Path) -> None:
    with open_sync(tmp_path / "store", models=[Doc]) as store:
        store[Doc].put_many(docs(0, 20))
        store.checkpoint()
        with open_sync(tmp_path / "store", models=[Doc], read_only=True) as reader:
            assert list(reader[Doc].scan()) == docs(0, 20)
