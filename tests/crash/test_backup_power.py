"""A machine that loses its power anywhere in a backup or a restore finds the backup before, or the new one, whole."""

import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from tests.support import faulty_files
from tests.support.worlds import User, World, users, world_in
from tests.unit.test_cli_blocks import Doc, docs
from warpstore import manifest as manifests
from warpstore.backup import format as backups
from warpstore.backup import restore
from warpstore.backup.copying import crc_of
from warpstore.backup.format import BackupResult
from warpstore.backup.job import BackupJob, Progress, run_backup
from warpstore.blocks import block_path
from warpstore.blocks import whole as blocks
from warpstore.checkpoint import whole as checkpoints
from warpstore.errors import BackupError


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_in(tmp_path) as made:
        yield made


def simulated(folder: str, files: faulty_files.FaultyFiles) -> None:
    """Place the files of a real folder in a simulated file system."""
    for at, _, names in os.walk(folder):
        files.make_directory(at)
        for name in names:
            files.put(f"{at}/{name}", Path(at, name).read_bytes())


def assert_whole(files: faulty_files.FaultyFiles, copy: str) -> int:
    """Assert that a backup is there and whole; return its number."""
    found = backups.read(files, copy)
    for file in found.files:
        assert len(files.contents(f"{copy}/{file.path}")) == file.n_bytes
        assert crc_of(files, f"{copy}/{file.path}", file.n_bytes) == file.crc
    return found.number


async def test_power_lost_anywhere_leaves_a_whole_backup(world: World, tmp_path: Path) -> None:
    copy, made = str(tmp_path / "copy"), str(tmp_path / "made")
    jobs: list[tuple[BackupJob, faulty_files.FaultyFiles]] = []

    async def keep(job: BackupJob, progress: Progress) -> BackupResult:
        files = faulty_files.FaultyFiles()
        simulated(world.path, files)
        files.make_directory(str(tmp_path))
        jobs.append((msgspec.structs.replace(job, rest=0.0), files))
        progress(0, 0)
        return BackupResult(job.target, 0, 0, 0, 0)

    world._backup = keep  # type: ignore[method-assign]
    async with world.open(User, Doc, shards=2) as store:
        await store[User].put_many(users(0, 40))
        await store[Doc].put_many(docs(0, 10))
        await store.checkpoint()
        await store[User].put_many(users(20, 60))
        await store.backup(copy)
        await store[User].put_many(users(0, 10, note="x"))
        await store[Doc].put_many(docs(0, 1, salt=1))
        await store.checkpoint()
        await store[User].put_many(users(50, 70))
        await store.backup(copy)
    (first, files), (second, later) = jobs
    run_backup(files, first, lambda done, total: None)
    for path in [p for p in files._names if p.startswith(copy)]:  # the first backup, durable, beside the later store
        later.put(path, files.contents(path))
    later._directories |= files._directories
    seen = set()
    rng = random.Random(3)
    for n in range(10_000):
        at = later.crash(rng)
        at.power_off_at(n)
        try:
            run_backup(at, second, lambda done, total: None)
            is_done = True
        except BackupError:
            is_done = False
        for _ in range(3):
            after = at.crash(rng)
            seen.add(assert_whole(after, copy))
            assert not is_done or assert_whole(after, copy) == 2
        run_backup(after, second, lambda done, total: None)
        assert assert_whole(after.crash(rng), copy) >= 2
        if is_done:
            break
    assert n > 30
    assert seen == {1, 2}
    old, new = ({n for entry in job.store.shards for n in entry.blocks} for job in (first, second))
    assert old & new  # block files that the second backup takes from the first,
    assert new - old  # and that it copies
    source = at.crash(rng)
    for n in range(10_000):
        target = source.crash(rng)
        target.power_off_at(n)
        try:
            restore(copy, made, files=target, random_u64=lambda: rng.getrandbits(64))
            is_done = True
        except BackupError:
            is_done = False
        after = target.crash(rng)
        assert assert_whole(after, copy) == 2
        if after.exists(f"{made}/MANIFEST"):
            store = manifests.read(after, made)
            for shard, entry in enumerate(store.shards):
                path = f"{made}/checkpoint/{entry.name}"
                checkpoints.verified_crc(after, path, store_id=store.id_bytes, shard=shard)
                for number in entry.blocks:
                    at_blocks = block_path(f"{made}/blocks", number)
                    blocks.verified_crc(after, at_blocks, store_id=store.id_bytes, number=number)
        else:
            assert not is_done
            restore(copy, made, files=after, random_u64=lambda: rng.getrandbits(64))
        if is_done:
            break
    assert n > 30
