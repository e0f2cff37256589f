"""A store is read as data: the same records that its tables give, beside its owner or with its lock shared."""

import asyncio
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import msgspec
import pytest

import warpstore as ws
from tests.support import stores
from tests.support.worlds import Blob, FakeClock, Reading, Token, User, World, collected, users
from wal import OsFileSystem
from warpstore import json_values, locking
from warpstore import manifest as manifests
from warpstore.stored import LOADS_MAX, StoredReader


class HookedFiles(OsFileSystem):
    """The real file system, with a call before each file that is opened."""

    def __init__(self, before: Callable[[str], None]) -> None:
        self._before = before

    def open(self, path: str) -> Any:
        self._before(path)
        return super().open(path)


def reader(path: Path | str, *, lock: bool = True, clock: FakeClock | None = None, files: Any = None) -> StoredReader:
    return StoredReader.open(path, lock=lock, clock=clock, files=files)


@pytest.mark.parametrize(("shards", "lanes"), [(1, 1), (4, 1), (5, 2)])
@pytest.mark.parametrize("durability", ["fsync", "interval", "memory"])
def test_it_reads_what_the_tables_give(shards: int, lanes: int, durability: Any, tmp_path: Path) -> None:
    rng = random.Random(shards)
    world = World(tmp_path / "store")
    models = (User, Reading, Token, Blob)

    def some(i: int) -> list[ws.Record]:
        return [
            User(id=f"é{i}", n=i),
            Reading(id=i - 50, code=i),
            Token(id=UUID(int=i)),
            Blob(id=i.to_bytes(2, "big") + b"\xff"),
        ]

    async def run() -> None:
        async with world.open(*models, shards=shards, lanes=lanes, durability=durability) as store:
            for step in range(400):
                record = rng.choice(some(rng.randrange(100)))
                table: Any = store[type(record)]
                if rng.random() < 0.3:
                    await table.delete(record.id)  # type: ignore[attr-defined]
                else:
                    await table.put(record, ttl=rng.choice([None, None, 50, 500]))
                if step == 200:
                    await store.checkpoint()
            world.clock.advance(100)
            expected.update({m: await collected(store[m].scan()) for m in models})
            n.update({m.__name__.lower(): await store[m].count() for m in models})

    expected: dict[Any, list[Any]] = {}
    n: dict[str, int] = {}
    asyncio.run(run())
    with reader(world.path, clock=world.clock) as stored:
        for model in models:
            name = model.__name__.lower()
            found = list(stored.records(name))
            want = [msgspec.structs.asdict(record) for record in expected[model]]
            assert [record.fields for record in found] == want
            table = stored.table(name)
            for record in found:
                hot = record.key.bytes if isinstance(record.key, UUID) else record.key
                assert stored.get(name, hot) == record
            counts = stored.counts()[name]
            assert counts.records - counts.expiring <= n[name] <= counts.records
            assert table.key_field == "id"
        assert stored.get("user", "absent") is None
        prefixed = [r.key for r in stored.records("user", prefix="é1")]
        assert prefixed == [r.id for r in expected[User] if r.id.startswith("é1")]
        assert [r.key for r in stored.records("blob", prefix=b"\0\xff")] == []
    world.assert_nothing_left()


def test_records_of_older_schemas_have_todays_names(tmp_path: Path) -> None:
    class Before(ws.Record, name="item"):
        id: Annotated[str, ws.Key()]
        old: int = 0
        gone: str = ""

    class After(ws.Record, name="item"):
        id: Annotated[str, ws.Key()]
        new: Annotated[int, ws.Renamed("old")] = 0
        added: str = "x"

    async def before(store: ws.Store) -> None:
        await store[Before].put(Before(id="a", old=1, gone="y"))

    async def after(store: ws.Store) -> None:
        await store[After].put(After(id="b", new=2))

    stores.make(tmp_path / "store", before, Before)
    stores.make(tmp_path / "store", after, After)
    with reader(tmp_path / "store") as stored:
        assert [r.fields for r in stored.records("item")] == [
            {"id": "a", "new": 1},
            {"id": "b", "new": 2, "added": "x"},
        ]
        assert len(stored.table("item").schemas) == 2


def test_a_dropped_table_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "store"
    stores.make_users(path)

    async def drop(store: ws.Store) -> None:
        await store.drop("user")

    stores.make(path, drop, Reading)
    with reader(path) as stored:
        assert "user" not in stored.tables
        with pytest.raises(ws.UnknownTableError):
            next(stored.records("user"))
        assert list(stored.records("reading")) == []


def test_readers_share_a_store_and_keep_owners_away(tmp_path: Path) -> None:
    path = tmp_path / "store"
    stores.make_users(path, 5)
    before = stores.files_of(path)
    with reader(path), reader(path) as second:
        assert len(list(second.records("user"))) == 5
        assert locking.owner_of(OsFileSystem(), str(path)) is None
        with pytest.raises(ws.StoreInUseError, match="is being read by another program") as error:
            asyncio.run(_open(path))
        assert error.value.pid is None
        second.close()
        second.close()
    assert stores.files_of(path) == before
    asyncio.run(_open(path))


async def _open(path: Path) -> None:
    async with ws.open(path):
        pass


def test_who_only_looks_for_the_owner_keeps_nobody_away(tmp_path: Path) -> None:
    class Looked(OsFileSystem):
        n_refused = 0

        def lock(self, path: str, owner: bytes) -> Any:
            if not self.n_refused:
                self.n_refused += 1
                raise BlockingIOError
            return super().lock(path, owner)

    stores.make_users(tmp_path / "store", 5)
    files = Looked()
    locking.own(files, str(tmp_path / "store")).close()
    assert files.n_refused == 1


def test_an_owner_without_a_readable_id_is_still_one(tmp_path: Path) -> None:
    stores.make_users(tmp_path / "store", 5)
    lock = OsFileSystem().lock(str(tmp_path / "store/LOCK"), b"what\n")
    with pytest.raises(ws.StoreInUseError, match="in use by process unknown"):
        reader(tmp_path / "store")
    lock.close()


def test_a_copy_without_a_lock_file_is_read(tmp_path: Path) -> None:
    stores.make_users(tmp_path / "store", 5)
    (tmp_path / "store/LOCK").unlink()
    with reader(tmp_path / "store") as stored:
        assert len(list(stored.records("user"))) == 5
    assert not (tmp_path / "store/LOCK").exists()


def test_a_checkpoint_of_the_owner_meanwhile_has_the_state_loaded_again(tmp_path: Path) -> None:
    old, new, path = tmp_path / "old", tmp_path / "new", tmp_path / "store"
    stores.make_users(old, 50)
    shutil.copytree(old, new)

    async def more(store: ws.Store) -> None:
        await store[User].put_many(users(50, 60))
        await store.checkpoint()

    stores.make(new, more)
    shutil.copytree(old, path)
    n_swaps = 0

    def swap(opened: str) -> None:
        nonlocal n_swaps
        if opened.endswith("-002.ckpt") and not n_swaps:
            n_swaps += 1
            shutil.rmtree(path)
            shutil.copytree(new, path)

    with reader(path, lock=False, files=HookedFiles(swap)) as stored:
        assert len(list(stored.records("user"))) == 60
        assert n_swaps == 1


def test_damage_beside_an_owner_is_damage_after_some_tries(tmp_path: Path) -> None:
    path = tmp_path / "store"
    stores.make_users(path, 50)
    checkpoint = stores.checkpoint_file(path)
    stores.flip(checkpoint, checkpoint.stat().st_size - 5)
    n_opened = 0

    def count(opened: str) -> None:
        nonlocal n_opened
        n_opened += opened == str(checkpoint)

    with reader(path, lock=False, files=HookedFiles(count)) as stored, pytest.raises(ws.CorruptionError):
        list(stored.records("user"))
    assert n_opened == LOADS_MAX
    n_opened = 0
    with reader(path, files=HookedFiles(count)) as stored, pytest.raises(ws.CorruptionError):
        list(stored.records("user"))
    assert n_opened == 1


def test_an_owner_that_changes_files_all_the_time_is_too_busy(tmp_path: Path) -> None:
    path = tmp_path / "store"
    stores.make_users(path, 50)

    (lane,) = manifests.read(OsFileSystem(), str(path)).lanes
    firsts = [lane.first, lane.first + 1]
    n_changes = 0

    def change(opened: str) -> None:
        nonlocal n_changes
        if opened.endswith("-003.ckpt"):
            n_changes += 1
            lanes = [msgspec.structs.replace(lane, first=firsts[n_changes % 2])]
            stores.change_manifest(path, lanes=lanes, clean_lsns=[])

    with (
        reader(path, lock=False, files=HookedFiles(change)) as stored,
        pytest.raises(ws.UnavailableError, match="faster than they are read"),
    ):
        list(stored.records("user"))
    assert n_changes == LOADS_MAX


def test_what_cannot_be_read_is_an_error_of_the_store(tmp_path: Path) -> None:
    stores.make_users(tmp_path / "store", 50)

    def refuse(opened: str) -> None:
        if opened.endswith(".ckpt"):
            raise OSError(5, "Input/output error", opened)

    failing = HookedFiles(refuse)
    with reader(tmp_path / "store", files=failing) as stored, pytest.raises(ws.UnavailableError, match="Input/output"):
        stored.counts()


def test_a_log_of_a_newer_format_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    from google_crc32c import value as crc32c

    async def fill(store: ws.Store) -> None:
        await store[User].put(User(id="a"))

    path = Path(stores.make(tmp_path / "store", fill).path)
    segment = min((path / "log/000").glob("*.wal"))
    data = bytearray(segment.read_bytes())
    data[8] = 9
    data[4092:4096] = crc32c(bytes(data[:4092])).to_bytes(4, "little")
    segment.write_bytes(data)
    with reader(path) as stored, pytest.raises(ws.FormatVersionError, match="format version 9"):
        stored.counts()


def test_a_generator_that_is_left_closes_its_files(tmp_path: Path) -> None:
    world = stores.make_users(tmp_path / "store", 50)
    with reader(tmp_path / "store") as stored:
        found = stored.records("user")
        next(found)
        assert world.open_files()
        found.close()
    world.assert_nothing_left()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"\x91\x01", "the record is no array"),
        (b"\x80", "the record is no array"),
        (b"\x95\xa1x\xa1a\x00\xa0\x90", "the record has the tag 'x', which is none of table 'user'"),
        (b"\x92\x01\xa1a", "the record has 1 fields, its schema has 4"),
        (b"\x95\x01\x05\x00\xa0\x90", "the key is of another type than str"),
        (b"\x95\x01\xa1a\x00\xa1\xff\x90", "the record is no MessagePack"),
    ],
)
def test_a_value_that_is_no_record_of_its_table_is_refused(value: bytes, message: str, tmp_path: Path) -> None:
    stores.make_users(tmp_path / "store", 1)
    with reader(tmp_path / "store") as stored, pytest.raises(ValueError, match=message):
        stored.table("user").record(value)


def test_what_no_record_holds_is_written_or_refused_as_json() -> None:
    assert json_values.to_json(msgspec.msgpack.Ext(5, b"\0\1")) == b'{"$ext":5,"$base64":"AAE="}'
    assert json_values.to_json({None: (1, 2), True: float("inf")}) == b'{"null":[1,2],"true":{"$float":"inf"}}'
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        json_values.to_json(object())
