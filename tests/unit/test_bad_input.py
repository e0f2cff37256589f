"""What a caller does wrong is refused by an error of its own that says what to do, and nothing is written."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import pytest
from google_crc32c import value as crc32c

import warpstore as ws
from tests.support.worlds import (
    CALLS,
    MODES,
    SMALL,
    Blob,
    Named,
    Reading,
    Token,
    User,
    World,
    collected,
    turns,
    users,
    world_in,
)
from warpstore.table import Table


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_in(tmp_path) as made:
        yield made


async def ended(call: Any) -> None:
    """Make a plain call, or await one that is under way."""
    if callable(call):
        call()
    else:
        await call


async def refused(error: type[ws.WarpstoreError], words: str, *calls: Any) -> None:
    """Assert that each call is refused with exactly this error, whose message contains the words."""
    try:
        for call in calls:
            with pytest.raises(error, match=words) as caught:
                await ended(call)
            assert type(caught.value) is error
    finally:
        for call in calls:
            if hasattr(call, "close"):
                call.close()


# Records and keys


@pytest.mark.parametrize("mode", MODES)
async def test_wrong_records_are_refused_and_nothing_is_written(mode: str, world: World) -> None:
    async with world.open(User, durability=mode) as store:
        table: Table[Any] = store[User]
        unset = User(id="a")
        del unset.id
        wrong: list[tuple[Any, str, str | None]] = [
            (User(id="a", n="1"), r"User\.n: expected int, got str", "n"),  # type: ignore[arg-type]
            (User(id="a", n=True), r"User\.n: expected int, got bool", "n"),
            (User(id="a", tags=["x", 1]), r"User\.tags\[1\]: expected str, got int", "tags[1]"),  # type: ignore[list-item]
            (User(id="a", tags={"x"}), r"User\.tags: expected list\[str\], got set", "tags"),  # type: ignore[arg-type]
            (User(id=1), r"User\.id: expected str, got int", "id"),  # type: ignore[arg-type]
            (User(id=None), r"User\.id: expected str, got NoneType", "id"),  # type: ignore[arg-type]
            (User(id="a", note="\ud800"), r"User\.note", "note"),
            (unset, r"User\.id: is missing", "id"),
            (Reading(id=1), "expected a User, got Reading", None),
            ({"id": "a"}, "expected a User, got dict", None),
            (User, "expected a User, got the class User", None),
            (None, "expected a User, got NoneType", None),
        ]
        for record, words, field in wrong:
            await refused(
                ws.ValidationError,
                words,
                table.put(record),
                table.insert(record),
                table.put_many([User(id="b"), record]),
                table.put(record, if_version=0),
                lambda record=record: table.put_nowait(record),
            )
            with pytest.raises(ws.ValidationError) as caught:
                await table.put(record)
            assert caught.value.field == field
        assert await table.count() == 0
        await store.sync()
        assert b"expected" not in world.all_bytes()
    async with world.open(User) as store:
        assert await store[User].count() == 0


@pytest.mark.parametrize(
    ("model", "good", "wrong"),
    [
        (Named, "a", [1, b"a", None, 1.0, ("a",), True]),
        (Blob, b"a", ["a", 1, None, bytearray(b"a")]),
        (Reading, 1, ["1", b"1", None, 2.5, 2**63, -(2**63) - 1]),
        (Token, uuid4(), ["a", 1, None, b"x" * 16]),
    ],
    ids=["str", "bytes", "int", "uuid"],
)
async def test_keys_of_the_wrong_type_are_refused(model: Any, good: Any, wrong: list[Any], world: World) -> None:
    async with world.open(model) as store:
        table = store[model]
        await table.put(model(id=good))
        for key in wrong:
            await refused(
                ws.ValidationError,
                model.__name__ + r"\.id",
                table.get(key),
                table.contains(key),
                table.get_with_version(key),
                table.get_many([good, key]),
                table.delete(key),
                table.delete_many([key]),
                table.update(key, value=1.0),
                table.modify(key, repr),
            )
        assert await table.count() == 1


async def test_one_key_where_several_are_expected_is_refused(world: World) -> None:
    async with world.open(User) as store:
        await refused(ws.ValidationError, "expected several keys, got one str", store[User].get_many("ann"))
        await refused(ws.ValidationError, "expected several keys, got one str", store[User].delete_many("ann"))


async def test_oversized_keys_and_records_are_limit_errors_that_name_the_limit(world: World) -> None:
    async with world.open(User, Blob) as store:
        table = store[User]
        await table.put(User(id="x" * 4096))
        long, large = User(id="x" * 4097), User(id="a", note="x" * (16 << 20))
        await refused(ws.LimitError, "limit of a key is 4,096", table.put(long), table.insert(long))
        await refused(ws.LimitError, "limit of a key is 4,096", store[Blob].put(Blob(id=bytes(4097))))
        await refused(ws.LimitError, r"limit of a record is 16,777,215", table.put(large), table.put_many([large]))
        await table.put(User(id="a"))
        await refused(ws.LimitError, "limit of a record", table.update("a", note="x" * (16 << 20)))
        assert sorted(u.id for u in await collected(table.scan())) == ["a", "x" * 4096]


async def test_a_batch_of_more_than_64_mib_for_one_shard_is_refused_whole(world: World) -> None:
    async with world.open(User, shards=1, durability="interval") as store:
        batch = [User(id=f"{i}", note="x" * (13 << 20)) for i in range(5)]
        await refused(ws.LimitError, "split the batch", store[User].put_many(batch))
        assert await store[User].count() == 0


async def test_values_nested_too_deep_are_refused(world: World) -> None:
    class Tree(ws.Record):
        id: Annotated[str, ws.Key()]
        value: Any = None

    nested: Any = []
    for _ in range(70):
        nested = [nested]
    async with world.open(Tree) as store:
        await refused(ws.LimitError, "nested deeper than the limit of 64", store[Tree].put(Tree(id="a", value=nested)))
        assert await store[Tree].count() == 0


async def test_columns_of_unknown_fields_or_of_no_gpu_field_are_refused(world: World) -> None:
    async with world.open(Reading, User) as store:
        await refused(ws.ValidationError, "did you mean 'value'", lambda: store[Reading].column("values"))
        await refused(ws.ValidationError, "no Gpu field", lambda: store[Reading].column("id"))
        await refused(ws.ValidationError, "no Gpu field", lambda: store[User].column("n"))
        await refused(ws.ValidationError, "reading", store[Reading].column("value").lookup(["a"]))


# Closed, another thread


@pytest.mark.parametrize("mode", MODES)
async def test_every_call_of_a_closed_store_says_that_it_is_closed(mode: str, world: World) -> None:
    async with world.open(User, Reading, durability=mode) as store:
        await store[User].put_many(users(0, 5))
        for _ in range(20):
            await store[User].get("u0001")
    before = world.all_bytes()
    for call in CALLS:
        await refused(ws.ClosedStoreError, "was closed", call(store))
    await refused(ws.ClosedStoreError, "was closed", store.statistics, lambda: store[User].put_nowait(User(id="a")))
    assert world.all_bytes() == before
    await store.close()


@pytest.mark.parametrize("mode", MODES)
async def test_calls_from_another_threads_loop_are_refused(mode: str, world: World) -> None:
    async with world.open(User, Reading, durability=mode) as store:
        await store[User].put_many(users(0, 5))
        for _ in range(20):
            await store[User].get("u0001")
        wrong: list[object] = []

        async def elsewhere() -> None:
            for i, call in enumerate(CALLS):
                try:
                    await refused(ws.WrongThreadError, "belongs to the event loop that opened it", call(store))
                except BaseException as error:  # noqa: BLE001 - the thread's errors are read by the test
                    wrong.append((i, error))
            with pytest.raises(ws.WrongThreadError):
                store.statistics()
            with pytest.raises(ws.WrongThreadError):
                await store.close()

        thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
        thread.start()
        while thread.is_alive():
            await turns(1)
        assert wrong == []
        assert await collected(store[User].scan()) == users(0, 5)


# Paths


async def test_a_path_that_is_a_file_is_refused(world: World) -> None:
    Path(world.path).write_bytes(b"mine")
    await refused(ws.NotAStoreError, "is a file; a store is a folder", world.open(User))
    assert Path(world.path).read_bytes() == b"mine"


async def test_a_path_below_a_file_is_refused(world: World) -> None:
    Path(world.path).write_bytes(b"mine")
    world.path += "/store"
    await refused(ws.OpenError, "cannot be opened", world.open(User))


async def test_a_folder_of_something_else_is_refused_and_left_as_it_is(world: World) -> None:
    Path(world.path).mkdir()
    Path(world.path, "letters.txt").write_bytes(b"mine")
    await refused(ws.NotAStoreError, r"holds something else \(letters.txt\); give an empty folder", world.open(User))
    assert os.listdir(world.path) == ["letters.txt"]


async def test_an_empty_folder_becomes_a_store_of_its_owner_alone(world: World) -> None:
    Path(world.path).mkdir()
    async with world.open(User) as store:
        await store[User].put(User(id="KEY-IN-NO-FILE-NAME"))
        await store.checkpoint()
        for path in Path(world.path).rglob("*"):
            assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
            assert "KEY" not in path.name


HOLDER = """
import asyncio, sys
import warpstore as ws
async def main():
    async with ws.open(sys.argv[1]):
        print("open", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
asyncio.run(main())
"""


async def test_a_store_in_use_by_another_process_names_its_pid_and_is_free_when_that_is_killed(world: World) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, world.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path.cwd()
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(ws.StoreInUseError, match=f"in use by process {holder.pid}") as error:
            await world.open(User)
        assert error.value.pid == holder.pid
        assert error.value.path == world.path
        holder.kill()
        holder.wait()
    async with world.open(User) as store:
        await store[User].put(User(id="a"))
        with pytest.raises(ws.StoreInUseError, match=f"{os.getpid()}"):
            await world.open(User)  # also by this one
        assert await store[User].count() == 1


async def test_a_lock_file_without_a_pid_still_refuses(world: World) -> None:
    async with world.open(User):
        Path(world.path, "LOCK").write_bytes(b"?")
        with pytest.raises(ws.StoreInUseError, match="unknown") as error:
            await world.open(User)
        assert error.value.pid is None


async def test_a_store_of_a_newer_format_is_refused(world: World) -> None:
    async with world.open(User) as store:
        await store[User].put(User(id="a"))
    manifest = Path(world.path, "MANIFEST")
    data = manifest.read_bytes()
    manifest.write_bytes(data.replace(b"warpstore-manifest 1 ", b"warpstore-manifest 2 ", 1))
    before = world.all_bytes()
    with pytest.raises(ws.FormatVersionError, match="format version 2, this warpstore reads up to 1: upgrade") as error:
        await world.open(User)
    assert error.value.path == str(manifest)
    assert world.all_bytes() == before


async def test_a_log_of_a_newer_format_is_refused_as_newer_and_not_as_damaged(world: World) -> None:
    class Later(ws.Record, name="user"):
        id: Annotated[str, ws.Key()]
        added: str = ""

    async with world.open(User) as store:
        await store[User].put(User(id="a"))
    segment = min(Path(world.path, "log/000").glob("*.wal"))
    data = bytearray(segment.read_bytes())
    data[8] = 9
    data[4092:4096] = crc32c(bytes(data[:4092])).to_bytes(4, "little")
    segment.write_bytes(data)
    for _ in range(2):
        with pytest.raises(ws.FormatVersionError, match="format version 9") as error:
            await world.open(User)
        assert error.value.path == str(segment)
    with pytest.raises(ws.FormatVersionError, match="format version 9"):
        ws.migration_plan(world.path, [Later])
    assert segment.read_bytes() == data


# Settings and models


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"durabilty": "fsync"}, "unknown setting 'durabilty'; did you mean 'durability'"),
        ({"zzz": 1}, "unknown setting 'zzz'$"),
        ({"durability": "always"}, "must be one of 'fsync', 'interval', 'memory'"),
        ({"shards": 0}, "must be from 1 to 256"),
        ({"segment_bytes": "1 parsec"}, "segment_bytes='1 parsec'"),
    ],
    ids=str,
)
def test_unknown_and_impossible_settings_are_refused_at_once(
    settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ws.ConfigError, match=words) as error:
        ws.open(tmp_path / "store", models=[User], **SMALL | settings)
    assert error.value.setting == next(iter(settings))
    assert not (tmp_path / "store").exists()


async def test_models_that_are_no_record_types_are_refused(world: World) -> None:
    await refused(ws.UsageError, "no record type", world.open(int))  # type: ignore[arg-type]
    await refused(ws.UsageError, "no record type", world.open(ws.Record))
    assert not Path(world.path).exists()


async def test_a_table_that_was_not_among_the_models_is_refused(world: World) -> None:
    async with world.open(User) as store:
        await refused(ws.UnknownTableError, "Reading was not among the models", lambda: store[Reading])
        await refused(ws.UnknownTableError, "int was not among the models", lambda: store[int])  # type: ignore[type-var]
