"""A backup is one cut, whole or absent whatever fails, copies what is new, and becomes a store that equals the cut."""

import asyncio
import errno
import itertools
import os
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import warpstore as ws
from tests.support.worlds import MODES, Reading, User, World, collected, turns, until, users, world_in
from tests.unit.test_snapshot import N_WRITERS, assert_one_cut, dependent_writes
from wal import LogFormatError
from warpstore.backup import format as backups

OPERATIONS = ("list", "make_directory", "open", "create", "copy", "read", "write", "sync", "rename", "sync_directory")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_in(tmp_path) as made:
        yield made


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file in a folder by its path there, without the lock."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "BACKUP.lock"
    }


async def restored(source: Path, *models: Any, **settings: Any) -> list[list[Any]]:
    """Return all records of the store that a backup becomes, which is checked, written, closed and opened again."""
    target = source.parent / f"{source.name}-restored-{len(list(source.parent.iterdir()))}"
    await asyncio.to_thread(ws.restore, source, target)
    models = models or (User,)
    world = World(target)
    world.clock.wall_s = time.time()
    async with world.open(*models, **settings) as store:
        found = [await collected(store[model].scan()) for model in models]
        for model, records in zip(models, found, strict=True):
            assert await store[model].count() == len(records)
            assert await store[model].get_many([record.id for record in records]) == records
        if User in models:
            await store[User].put(User(id="~new"))
            await store.checkpoint()
    async with world.open(*models) as store:
        assert [await collected(store[model].scan(stop=None)) for model in models if model is not User] == [
            records for model, records in zip(models, found, strict=True) if model is not User
        ]
        if User in models:
            assert await store[User].get("~new") == User(id="~new")
    return found


@pytest.mark.parametrize("stage", ["log", "checkpoint", "both"])
@pytest.mark.parametrize(("shards", "lanes"), [(1, 1), (4, 1), (5, 3)])
@pytest.mark.parametrize("mode", MODES)
async def test_a_restored_store_equals_the_one_at_the_cut(
    mode: str, shards: int, lanes: int, stage: str, world: World, tmp_path: Path
) -> None:
    async with world.open(User, Reading, durability=mode, shards=shards, lanes=lanes) as store:
        await store[User].put_many(users(0, 300, note="old"))
        await store[Reading].put_many([Reading(id=i, value=i / 2) for i in range(50)])
        if stage != "log":
            await store.checkpoint()
        if stage != "checkpoint":
            await store[User].put_many(users(100, 400, note="new"))
            await store[User].delete_many([f"u{i:04d}" for i in range(0, 300, 7)])
            await store[User].put(User(id="later"), ttl=1_000)
        expected = [await collected(store[model].scan()) for model in (User, Reading)]
        result = await store.backup(tmp_path / "copy")
        assert result.n_copied == result.n_files > 0
        await store[User].put_many(users(0, 400, note="behind the cut"))
        await store.checkpoint()
        assert await collected(store[User].scan(limit=1)) == [User(id="later")] or stage == "checkpoint"
    # The clocks of the test stand in the past; a deadline of theirs has passed for the store that is opened below.
    expected[0] = [user for user in expected[0] if user.id != "later"]
    assert await restored(tmp_path / "copy", User, Reading) == expected
    assert await restored(tmp_path / "copy", User, shards=3) == expected[:1]


@pytest.mark.parametrize(("shards", "lanes"), [(4, 1), (4, 4), (16, 3)])
@pytest.mark.parametrize("mode", MODES)
async def test_a_backup_under_writers_is_one_cut(
    mode: str, shards: int, lanes: int, world: World, tmp_path: Path
) -> None:
    sizes = []
    async with world.open(User, durability=mode, shards=shards, lanes=lanes) as store:
        writers = [asyncio.create_task(dependent_writes(store, f"w{i}")) for i in range(N_WRITERS)]
        for i in range(6):
            await turns(20 if mode == "fsync" else 4)
            acknowledged = await store[User].count()
            await store.backup(tmp_path / f"copy{i}")
            sizes.append(acknowledged)
            if i == 3:
                await store.checkpoint()
        await asyncio.gather(*writers)
    for i, size in enumerate(sizes):
        (found,) = await restored(tmp_path / f"copy{i}")
        assert assert_one_cut(found) >= size
    assert len(set(sizes)) > 1


async def test_pending_writes_of_interval_mode_are_in_the_cut(world: World, tmp_path: Path) -> None:
    async with world.open(User, durability="interval", shards=4, lanes=2) as store:
        for user in users(0, 100):
            store[User].put_nowait(user)
        task = asyncio.create_task(store.backup(tmp_path / "copy"))
        await asyncio.sleep(0)
        for user in users(100, 200):
            store[User].put_nowait(user)
        await task
    assert await restored(tmp_path / "copy") == [users(0, 100)]


# Incremental


async def test_a_second_backup_copies_only_what_is_new(world: World, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    async with world.open(User, shards=2) as store:
        await store[User].put_many(users(0, 500))
        await store.checkpoint()
        await store[User].put_many(users(500, 600))
        first = await store.backup(copy)
        again = await store.backup(copy)
        assert (again.n_copied, again.copied_bytes, again.n_removed) == (0, 0, 0)
        before = contents(copy)
        await store[User].put_many(users(600, 700))
        second = await store.backup(copy)
        assert (second.n_copied, second.n_files) == (1, first.n_files + 1)  # a segment
        after = contents(copy)
        assert {name for name in after if after[name] != before.get(name)} == {
            "BACKUP",
            max(name for name in after if name.endswith(".wal")),
        }
        await store.checkpoint()
        third = await store.backup(copy)
        assert third.n_copied == third.n_files == 2  # the checkpoints
        assert third.n_removed == second.n_files
        assert sorted(name.rpartition(".")[2] for name in contents(copy)) == ["BACKUP", "ckpt", "ckpt"]
        assert backups.read(world.files, str(copy)).number == 4
    assert await restored(copy) == [users(0, 700)]


async def test_a_checkpoint_during_a_backup_takes_nothing_from_it(world: World, tmp_path: Path) -> None:
    async def write_and_checkpoint() -> None:
        for i in range(3):
            await store[User].put_many(users(0, 200, note=f"{i}" * 300))
            await store.checkpoint()

    async with world.open(User, shards=2, checkpoint_log_bytes="1GiB") as store:
        await store[User].put_many(users(0, 100))
        await store.checkpoint()
        await store[User].put_many(users(50, 150))
        world.on_backup = write_and_checkpoint
        await store.backup(tmp_path / "copy")
        world.on_backup = None
        assert len(list(Path(world.path, "checkpoint").iterdir())) == 2  # what only the backup kept is gone
        assert len(list(Path(world.path, "log", "000").glob("*.wal"))) <= 2
    assert await restored(tmp_path / "copy") == [users(0, 150)]


async def test_two_backups_at_once_into_two_folders_are_both_whole(world: World, tmp_path: Path) -> None:
    async with world.open(User, shards=2, lanes=2) as store:
        await store[User].put_many(users(0, 100))
        await asyncio.gather(*(store.backup(tmp_path / f"copy{i}") for i in range(3)))
        assert store._catalog._pins == []
    for i in range(3):
        assert await restored(tmp_path / f"copy{i}") == [users(0, 100)]


async def test_progress_is_told_in_bytes(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warpstore.backup.copying.SLICE_BYTES", 4_096)
    told: list[tuple[int, int]] = []
    async with world.open(User) as store:
        await store[User].put_many(users(0, 300, note="x" * 100))
        result = await store.backup(tmp_path / "copy", lambda done, total: told.append((done, total)))
    assert told[0] == (0, result.copied_bytes)
    assert told[-1] == (result.copied_bytes, result.copied_bytes)
    assert len(told) > 5
    assert told == sorted(told)
    told.clear()
    ws.restore(tmp_path / "copy", tmp_path / "new", progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (result.n_bytes, result.n_bytes)


async def test_a_child_process_copies_and_tells_of_errors(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    async with ws.open(tmp_path / "store", models=[User]) as store:
        await store[User].put_many(users(0, 100))
        result = await store.backup(tmp_path / "copy", lambda done, total: told.append((done, total)))
        assert told[-1] == (result.copied_bytes, result.copied_bytes)
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "letter.txt").write_text("dear")
        with pytest.raises(ws.BackupTargetError, match=r"letter\.txt") as error:
            await store.backup(tmp_path / "other")
        assert error.value.path == str(tmp_path / "other")
    assert await restored(tmp_path / "copy") == [users(0, 100)]


def test_a_synchronous_store_makes_backups_too(tmp_path: Path) -> None:
    with ws.open_sync(tmp_path / "store", models=[User]) as store:
        store[User].put(User(id="a"))
        store.backup(tmp_path / "copy")
    ws.restore(tmp_path / "copy", tmp_path / "new")
    with ws.open_sync(tmp_path / "new", models=[User]) as store:
        assert store[User].get("a") == User(id="a")


# What is refused


async def test_a_target_that_holds_something_else_is_refused_and_unchanged(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("x")
    async with ws.open(tmp_path / "another", models=[User]) as store:
        await store[User].put(User(id="x"))
        await store.backup(tmp_path / "theirs")
    before = contents(tmp_path)
    async with world.open(User) as store:
        for target, words in {
            "file": "is a file",
            "letters": "holds something else",
            "another": "holds something else",
            "theirs": "another store",
            "store/copy": "inside the store",
            "store": "inside the store",
            "store/log/000": "inside the store",
            "": "holds something else",
        }.items():
            with pytest.raises(ws.BackupTargetError, match=words):
                await store.backup(tmp_path / target)
        outside = {name: data for name, data in contents(tmp_path).items() if not name.startswith("store/")}
        assert outside == before


async def test_a_backup_of_a_store_that_went_its_own_way_is_refused(world: World, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    async with world.open(User, shards=1) as store:
        await store[User].put_many(users(0, 50))
    twin = world.crashed()
    for one in (world, twin):
        async with one.open(User) as store:
            await store[User].put_many(users(0, 50, note=one.path))
            if one is world:
                await store.backup(copy)
                before = contents(copy)
            else:
                with pytest.raises(ws.BackupTargetError, match="went its own way"):
                    await store.backup(copy)
    assert contents(copy) == before
    twin.assert_nothing_left()


async def test_a_folder_is_written_by_one_backup_at_a_time(world: World, tmp_path: Path) -> None:
    async with world.open(User) as store:
        await store[User].put(User(id="a"))
        await store.backup(tmp_path / "copy")
        lock = world.files.lock(str(tmp_path / "copy" / "BACKUP.lock"), b"")
        with pytest.raises(ws.BackupTargetError, match="under way"):
            await store.backup(tmp_path / "copy")
        lock.close()
        await store.backup(tmp_path / "copy")


@pytest.mark.parametrize("what", ["BACKUP", "ckpt", "wal"])
async def test_a_damaged_backup_is_not_restored(what: str, world: World, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    async with world.open(User, shards=1) as store:
        await store[User].put_many(users(0, 50))
        await store.checkpoint()
        await store[User].put_many(users(0, 50))
        await store.backup(copy)
    path = next(path for path in copy.rglob("*") if path.name.endswith(what))
    good = path.read_bytes()
    for at in range(0, len(good), 211):
        path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        with pytest.raises((ws.BackupDamagedError, ws.FormatVersionError)):
            ws.restore(copy, tmp_path / "new")
    path.unlink()
    with pytest.raises(ws.BackupSourceError):
        ws.restore(copy, tmp_path / "new")
    path.write_bytes(good)
    ws.restore(copy, tmp_path / "new")  # where the refused ones began
    with pytest.raises(ws.BackupTargetError, match="holds a store"):
        ws.restore(copy, tmp_path / "new")


@pytest.mark.parametrize("what", ["*.ckpt", "log/000/*.wal"])
async def test_damage_in_the_store_is_not_copied_into_a_backup(what: str, world: World, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    async with world.open(User, shards=1, checkpoint_log_bytes="1GiB") as store:
        await store[User].put_many(users(0, 50))
        await store.backup(copy)
        before = contents(copy)
        await store[User].put_many(users(0, 500))
        await store.checkpoint()
        await store[User].put_many(users(0, 50, note="x"))
        lane = store._context.lanes[0].lane
        assert lane is not None
        path = max(p for p in Path(world.path).rglob(what) if "ckpt" in what or p.stem <= f"{lane.active_number:016x}")
        for at in (4_400, 4_700):
            data = bytearray(path.read_bytes())
            data[at] ^= 1
            path.write_bytes(data)
            with pytest.raises(ws.BackupDamagedError, match=path.name if "ckpt" in what else "log"):
                await store.backup(copy)
            assert contents(copy) == before
            data[at] ^= 1
            path.write_bytes(data)
        await store.backup(copy)
    (found,) = await restored(copy)
    assert len(found) == 500


async def test_what_may_not_be_restored_is_refused(world: World, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    async with world.open(User) as store:
        await store.backup(copy)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("x")
    with pytest.raises(ws.BackupSourceError, match="no backup"):
        ws.restore(tmp_path / "letters", tmp_path / "new")
    with pytest.raises(ws.BackupSourceError, match="no backup"):
        ws.restore(world.path, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    for target, words in {
        "letters": "something else",
        "letters/a.txt": "is a file",
        "store": "holds a store",
        "copy": "in one another",
        "copy/new": "in one another",
        "": "in one another",
    }.items():
        with pytest.raises(ws.BackupTargetError, match=words):
            ws.restore(copy, tmp_path / target)
    with pytest.raises(ws.NotAStoreError, match=r"ws\.restore"):
        await ws.open(copy, models=[User])
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "RESTORING").touch()
    with pytest.raises(ws.NotAStoreError, match="interrupted"):
        await ws.open(tmp_path / "half", models=[User])


async def test_the_originals_log_does_not_count_in_a_restored_store(world: World, tmp_path: Path) -> None:
    copy, new = tmp_path / "copy", tmp_path / "new"
    async with world.open(User, shards=1) as store:
        await store[User].put_many(users(0, 10))
        await store.backup(copy)
        await store[User].put_many(users(10, 20))
    ws.restore(copy, new)
    there = {path.name for path in (new / "log" / "000").iterdir()}
    following = max(Path(world.path, "log", "000").glob("*.wal"))
    assert there == {"0000000000000001.wal"}
    (new / "log" / "000" / "0000000000000002.wal").write_bytes(following.read_bytes())
    with pytest.raises(ws.CorruptionError, match="another store") as error:
        await ws.open(new, models=[User])
    assert isinstance(error.value.__cause__, LogFormatError)


# Faults


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
async def test_a_fault_anywhere_leaves_the_backup_before_whole(
    code: int, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    seen: list[str] = []
    whole = world.files.before
    fails_at = -1

    def before(operation: str, path: str) -> None:
        if str(copy) in path or (threading.current_thread() is threading.main_thread() and operation != "sync"):
            seen.append(operation)
            if len(seen) - 1 == fails_at:
                raise OSError(code, os.strerror(code))
        whole(operation, path)

    async with world.open(User, shards=2, checkpoint_log_bytes="1GiB", durability="interval") as store:
        await store[User].put_many(users(0, 60))
        await store.backup(copy)
        for n in itertools.count():
            await store[User].put_many(users(n % 40, 60, note=f"{n}"))
            if n % 3 == 0:
                await store.checkpoint()
            expected = await collected(store[User].scan())
            old = backups.read(world.files, str(copy))
            files_before = {file.path: (copy / file.path).read_bytes() for file in old.files}
            seen.clear()
            fails_at = n
            monkeypatch.setattr(world.files, "before", before)
            try:
                await store.backup(copy)
            except ws.BackupError as error:
                assert isinstance(error, ws.BackupFullError) == (code == errno.ENOSPC)  # noqa: PT017
                failed = True
            else:
                failed = False
            monkeypatch.setattr(world.files, "before", whole)
            now = backups.read(world.files, str(copy))
            if failed and now == old:
                assert {file.path: (copy / file.path).read_bytes() for file in old.files} == files_before
            else:
                assert all((copy / file.path).stat().st_size == file.n_bytes for file in now.files)
            await store.backup(copy)
            assert set(contents(copy)) == {"BACKUP", *(f.path for f in backups.read(world.files, str(copy)).files)}
            if n % 10 == 0:
                await asyncio.to_thread(ws.restore, copy, tmp_path / f"new{n}")
                async with ws.open(tmp_path / f"new{n}", models=[User]) as found:
                    assert await collected(found[User].scan()) == expected
            if len(seen) <= n:
                break
        assert n > 40
        assert {"create", "copy", "sync", "rename", "sync_directory", "write"} <= set(seen)


async def test_a_restore_that_fails_anywhere_is_run_again(world: World, tmp_path: Path) -> None:
    copy, new = tmp_path / "copy", tmp_path / "new"
    async with world.open(User, shards=2, lanes=2) as store:
        await store[User].put_many(users(0, 100))
        await store.checkpoint()
        await store[User].put_many(users(50, 150))
        await store.backup(copy)
    before = contents(copy)
    for operation in OPERATIONS:
        for n in itertools.count():
            fault = world.files.fail(operation, str(new) if operation != "read" else "", times=10**9)
            seen = 0
            once = world.files.before

            def nth(name: str, path: str, operation: str = operation, n: int = n) -> None:
                nonlocal seen
                if name == operation:
                    seen += 1
                    if seen == n + 1:
                        raise OSError(errno.EIO, os.strerror(errno.EIO))

            world.files.faults.remove(fault)
            world.files.before = nth  # type: ignore[method-assign]
            try:
                ws.restore(copy, new, files=world.files)
                failed = False
            except ws.BackupError:
                failed = True
            finally:
                world.files.before = once  # type: ignore[method-assign]
            if failed:
                assert not (new / "MANIFEST").exists() or operation == "sync_directory"
            if (new / "MANIFEST").exists():
                async with ws.open(new, models=[User]) as store:
                    assert await collected(store[User].scan()) == users(0, 150)
                for path in sorted(new.rglob("*"), reverse=True):
                    path.rmdir() if path.is_dir() else path.unlink()
            if not failed:
                break
        assert contents(copy) == before


async def test_a_full_disk_is_named_and_nothing_is_changed(world: World, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    async with world.open(User) as store:
        await store[User].put_many(users(0, 50))
        world.files.fail("copy", str(copy), code=errno.ENOSPC)
        with pytest.raises(ws.BackupFullError, match="no space") as error:
            await store.backup(copy)
        assert error.value.path == str(copy)
        assert contents(copy) == {}
        await store.backup(copy)
    assert await restored(copy) == [users(0, 50)]


async def test_a_cancelled_backup_lets_go_of_what_it_kept(world: World, tmp_path: Path) -> None:
    waiting = asyncio.Event()

    async def wait() -> None:
        waiting.set()
        await asyncio.Event().wait()

    async with world.open(User) as store:
        await store[User].put(User(id="a"))
        world.on_backup = wait
        task = asyncio.create_task(store.backup(tmp_path / "copy"))
        await waiting.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        assert store._catalog._pins == []
        world.on_backup = None
        await store.backup(tmp_path / "copy")


async def test_a_backup_while_the_log_is_recovered_fails_or_is_whole(world: World, tmp_path: Path) -> None:
    async with world.open(User, shards=2) as store:
        await store[User].put_many(users(0, 20))
        keeper, shards = store._context.lanes[0], dict(store._context.shards)
        lane = keeper.lane
        assert lane is not None
        await until(lambda: lane._next.ready is not None)  # or the fault would meet the making of the next segment
        world.files.fail("sync", "log/000")
        with pytest.raises(ws.OutcomeUnknownError):
            await store[User].put(User(id="x"))
        try:
            await store.backup(tmp_path / "copy")
        except (ws.BackupError, ws.UnavailableError):
            pass
        context = store._context
        await until(lambda: context.lanes[0] is not keeper and context.lanes[0].lane is not None)
        await until(lambda: all(context.shards[i] is not shards[i] and context.shards[i].is_alive for i in shards))
        expected = await collected(store[User].scan())
        await store.backup(tmp_path / "copy")
    assert await restored(tmp_path / "copy") == [expected]


async def test_a_backup_whose_store_has_no_id_is_damaged(world: World, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    async with world.open(User) as store:
        await store.backup(copy)
        backup = backups.read(world.files, str(copy))
        unnamed = msgspec.structs.replace(backup.store, store_id="x" * 32)
        backups.write(world.files, str(copy), msgspec.structs.replace(backup, store=unnamed))
        with pytest.raises(ws.BackupDamagedError, match="the store id is not"):
            ws.restore(copy, tmp_path / "new")
        with pytest.raises(ws.BackupTargetError, match="cannot be read"):
            await store.backup(copy)
