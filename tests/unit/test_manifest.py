"""There is one whole manifest at any time, and damage to any file of a store is refused by name."""

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from google_crc32c import value as crc32c

import warpstore as ws
from tests.support.worlds import User, World, collected, users, world_in
from wal import OsFileSystem
from warpstore import manifest as manifests
from warpstore.catalog import Catalog, new_manifest, with_schemas
from warpstore.record import plan_of


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_in(tmp_path) as made:
        yield made


@pytest.fixture
def written(tmp_path: Path) -> manifests.Manifest:
    manifest = new_manifest(bytes(range(16)), 2, ["", "/logs"])
    manifests.write(OsFileSystem(), str(tmp_path), manifest)
    return manifest


def test_a_manifest_reads_back(written: manifests.Manifest, tmp_path: Path) -> None:
    assert manifests.read(OsFileSystem(), str(tmp_path)) == written
    assert written.id_bytes == bytes(range(16))
    assert not (tmp_path / "MANIFEST.new").exists()


def test_every_flipped_bit_is_refused(written: manifests.Manifest, tmp_path: Path) -> None:
    path = tmp_path / "MANIFEST"
    good = path.read_bytes()
    for bit in range(8 * len(good)):
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with pytest.raises((ws.CorruptionError, ws.FormatVersionError)) as error:
            manifests.read(OsFileSystem(), str(tmp_path))
        assert error.value.path == str(path)


def test_every_length_of_it_is_refused(written: manifests.Manifest, tmp_path: Path) -> None:
    path = tmp_path / "MANIFEST"
    good = path.read_bytes()
    for n in range(len(good)):
        path.write_bytes(good[:n])
        with pytest.raises(ws.CorruptionError):
            manifests.read(OsFileSystem(), str(tmp_path))


@pytest.mark.parametrize("version", [b"0", b"00", b"-1", b"1.0", b"", b"9" * 5000])
def test_a_strange_version_is_refused(version: bytes, tmp_path: Path) -> None:
    path = tmp_path / "MANIFEST"
    path.write_bytes(b"warpstore-manifest %s %08x\n{}" % (version, crc32c(b"{}")))
    with pytest.raises(ws.OpenError):
        manifests.read(OsFileSystem(), str(tmp_path))


@pytest.mark.parametrize("body", [b"{}", b"[]", b"", b'{"store_id": 5}', b"\xff"])
def test_a_body_that_is_no_manifest_is_refused_though_its_checksum_holds(body: bytes, tmp_path: Path) -> None:
    path = tmp_path / "MANIFEST"
    path.write_bytes(b"warpstore-manifest 1 %08x\n" % crc32c(body) + body)
    with pytest.raises(ws.CorruptionError, match="MANIFEST: offset"):
        manifests.read(OsFileSystem(), str(tmp_path))


@pytest.mark.parametrize("store_id", ["", "x" * 32, "0" * 31, "0" * 33, "A" * 32, "0 " * 16])
def test_a_store_id_that_is_none_is_refused(store_id: str, written: manifests.Manifest, tmp_path: Path) -> None:
    manifests.write(OsFileSystem(), str(tmp_path), msgspec.structs.replace(written, store_id=store_id))
    body = (tmp_path / "MANIFEST").read_bytes().index(b"\n") + 1
    with pytest.raises(ws.CorruptionError, match="the store id is not 32 hexadecimal digits") as error:
        manifests.read(OsFileSystem(), str(tmp_path))
    assert (error.value.path, error.value.offset) == (str(tmp_path / "MANIFEST"), body)


def test_two_catalog_changes_follow_each_other(tmp_path: Path) -> None:
    files = OsFileSystem()
    tables, next_table, next_tag = with_schemas(new_manifest(bytes(16), 1, [""]), [plan_of(User)])
    catalog = Catalog(files, str(tmp_path), new_manifest(bytes(16), 1, [""]))
    catalog.begin_epoch(tables, next_table, next_tag)
    catalog.make_directories()
    catalog.make_directories()
    assert catalog.table_of_tag() == {1: 1}
    assert msgspec.to_builtins(manifests.read(files, str(tmp_path))) == msgspec.json.decode(
        msgspec.json.encode(catalog.manifest)
    )
    assert with_schemas(catalog.manifest, [plan_of(User)]) == (tables, 2, 2)
    assert [catalog.take_checkpoint_number() for _ in range(3)] == [1, 2, 3]
    catalog.dropped("user")
    assert manifests.read(files, str(tmp_path)).next_checkpoint == 4
    assert catalog.table_of_tag() == {}


# Damage to a whole store


async def closed_store(world: World, *, checkpointed: bool) -> None:
    """Make a store of two shards whose log is needed, over checkpoints if asked for."""
    async with world.open(User, shards=2) as store:
        await store[User].put_many(users(0, 40, note="x" * 50))
        if checkpointed:
            await store.checkpoint()
        await store[User].put_many(users(40, 60))


@pytest.mark.parametrize("checkpointed", [False, True])
async def test_every_missing_file_is_refused_and_named(checkpointed: bool, world: World) -> None:
    await closed_store(world, checkpointed=checkpointed)
    manifest = manifests.read(OsFileSystem(), world.path)
    first, last = manifest.lanes[0].first, manifest.lanes[0].clean_end >> 32
    needed = ["MANIFEST", *(f"log/000/{n:016x}.wal" for n in range(first, last + 1))]
    needed += [f"checkpoint/{shard.name}" for shard in manifest.shards if shard.name]
    for name in needed:
        damaged = world.crashed()
        Path(damaged.path, name).unlink()
        before = damaged.all_bytes()
        with pytest.raises(ws.CorruptionError, match="missing") as error:
            await damaged.open(User)
        assert error.value.path == f"{damaged.path}/{name}"
        if name == "MANIFEST":
            assert damaged.all_bytes() == before
        assert damaged.open_files() == []


@pytest.mark.parametrize("part", ["MANIFEST", "checkpoint", "log"])
async def test_a_flipped_bit_is_refused_named_or_without_effect(part: str, world: World) -> None:
    await closed_store(world, checkpointed=True)
    expected = [*users(0, 40, note="x" * 50), *users(40, 60)]
    manifest = manifests.read(OsFileSystem(), world.path)
    rng = random.Random(part)
    n_refused = 0
    for _ in range(60):
        damaged = world.crashed()
        shard = rng.choice(manifest.shards)
        segment = f"log/000/{manifest.lanes[0].first:016x}.wal"
        name = {"MANIFEST": "MANIFEST", "checkpoint": f"checkpoint/{shard.name}", "log": segment}[part]
        path = Path(damaged.path, name)
        data = bytearray(path.read_bytes())
        used = len(data.rstrip(b"\0"))
        data[rng.randrange(used)] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        try:
            async with damaged.open(User) as store:
                found: list[Any] = await collected(store[User].scan())
                assert await store[User].get_many([u.id for u in expected]) == expected
            assert found == expected
        except (ws.CorruptionError, ws.FormatVersionError) as error:
            assert error.path == str(path)  # noqa: PT017
            assert error.path in str(error)  # noqa: PT017
            n_refused += 1
        assert damaged.open_files() == []
    assert n_refused > 30


async def test_an_old_manifest_or_checkpoint_mixed_in_is_refused(world: World) -> None:
    async with world.open(User, shards=1) as store:
        await store[User].put_many(users(0, 10))
        await store.checkpoint()
        old = world.crashed()
        await store[User].put_many(users(10, 20))
        await store.checkpoint()
        await store[User].put_many(users(20, 30))
    (name,) = (shard.name for shard in manifests.read(OsFileSystem(), world.path).shards)
    (old_name,) = (shard.name for shard in manifests.read(OsFileSystem(), old.path).shards)
    mixed = world.crashed()
    Path(mixed.path, "checkpoint", name).write_bytes(Path(old.path, "checkpoint", old_name).read_bytes())
    with pytest.raises(ws.CorruptionError, match="LSN") as error:
        await mixed.open(User)
    assert error.value.path.endswith(name)
    mixed = world.crashed()
    Path(mixed.path, "MANIFEST").write_bytes(Path(old.path, "MANIFEST").read_bytes())
    with pytest.raises(ws.CorruptionError):
        await mixed.open(User)


async def test_a_file_of_another_store_is_refused(world: World, tmp_path: Path) -> None:
    await closed_store(world, checkpointed=True)
    other = World(tmp_path / "other")
    await closed_store(other, checkpointed=True)
    names = [shard.name for shard in manifests.read(OsFileSystem(), world.path).shards]
    for name in (
        f"checkpoint/{names[0]}",
        f"log/000/{manifests.read(OsFileSystem(), world.path).lanes[0].first:016x}.wal",
    ):
        mixed = world.crashed()
        Path(mixed.path, name).write_bytes(Path(other.path, name).read_bytes())
        with pytest.raises(ws.CorruptionError, match="another store") as error:
            await mixed.open(User)
        assert error.value.path.endswith(name)


@pytest.mark.parametrize("choice", ["point_in_time", "salvage"])
async def test_a_damaged_log_opens_by_choice_and_says_what_is_missing(choice: str, world: World) -> None:
    async with world.open(User, shards=1) as store:
        for user in users(0, 20):
            await store[User].put(user)
    path = Path(world.path, f"log/000/{1:016x}.wal")
    data = bytearray(path.read_bytes())
    data[data.index(b"u0010")] ^= 1
    path.write_bytes(data)
    with pytest.raises(ws.CorruptionError):
        await world.open(User)
    async with world.open(User, on_corruption=choice) as store:
        assert any(str(path) in words for words in store.statistics().lanes[0].damage)
        found = [u.n for u in await collected(store[User].scan())]
        assert found == list(range(10)) if choice == "point_in_time" else [n for n in range(20) if n != 10]
        await store[User].put(User(id="new"))
