"""A store opened read-only shows the synced state, beside a live owner too, writes nothing and refuses every write."""

import asyncio
import errno
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import pytest

import warpstore as ws
from tests.support.worlds import CALLS, MODES, Reading, User, World, collected, users, world_in
from tests.unit.test_backup import contents
from warpstore.keys import SLOTS, slot_of
from warpstore.reading_state import READS_OF_DAMAGE_MAX

WRITES = (*range(10), 19, 20, 22)
"""The places in `CALLS` of those that write."""
APPEND = 7
"""The place of ``append``, which is refused because a `User` has no series."""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_in(tmp_path) as made:
        yield made


@pytest.mark.parametrize("stage", ["log", "checkpoint", "both"])
@pytest.mark.parametrize(("shards", "lanes"), [(1, 1), (5, 3)])
@pytest.mark.parametrize("mode", MODES)
async def test_the_state_of_a_live_a_crashed_and_a_closed_store_is_read(
    mode: str, shards: int, lanes: int, stage: str, world: World
) -> None:
    async def look(at: World) -> None:
        def stable() -> dict[str, bytes]:
            """Return the files; not those of the log where an owner lives, whose marks come by themselves."""
            lives = at is world and not is_closed
            paths = [path for path in Path(at.path).rglob("*") if path.is_file()]
            kept = [path for path in paths if not (lives and ".wal" in path.name)]
            return {str(path.relative_to(at.path)): path.read_bytes() for path in kept}

        before = stable()
        async with at.open(User, Reading, read_only=True) as reader:
            assert [await collected(reader[model].scan()) for model in (User, Reading)] == expected
            assert await reader[User].count() == len(expected[0])
            assert await reader[User].get("u0005") == User(id="u0005", n=5, note="old")
            assert await reader[User].get_many(["u0199", "absent"]) == [expected[0][-1], None]
            values, found = await reader[Reading].column("value").lookup([7, 999])
            assert (values.tolist(), found.tolist()) == ([3.5, 0.0], [True, False])
            assert reader.statistics().read_only is not None
        assert stable() == before
        at.assert_nothing_left() if at is not world else None

    is_closed = False
    async with world.open(User, Reading, durability=mode, shards=shards, lanes=lanes) as store:
        await store[User].put_many(users(0, 120, note="old"))
        await store[Reading].put_many([Reading(id=i, value=i / 2) for i in range(50)])
        if stage != "log":
            await store.checkpoint()
        if stage != "checkpoint":
            await store[User].put_many(users(100, 200, note="new"))
            await store[User].delete("u0003")
        else:
            await store[User].put_many(users(120, 200))
            await store.checkpoint()
        if mode != "fsync":
            await store.sync()
        expected = [await collected(store[model].scan()) for model in (User, Reading)]
        await look(world)
        await look(world.crashed())
    is_closed = True
    await look(world)


async def test_an_acknowledged_durable_write_is_seen_by_whoever_opens_next(world: World) -> None:
    async with world.open(User, mark_delay_ms=60_000) as store:
        for n in range(5):
            await store[User].put(User(id=f"{n}"))
            async with world.open(User, read_only=True) as reader:
                assert await reader[User].count() == n + 1


async def test_a_refresh_moves_to_the_newer_state_and_scans_keep_theirs(world: World) -> None:
    async with world.open(User, shards=2) as store, world.open(User, read_only=True) as reader:
        assert await collected(reader[User].scan()) == []
        await store[User].put_many(users(0, 600))
        assert await reader[User].count() == 0
        await reader.refresh()
        scan = reader[User].scan()
        first = await anext(scan)
        await store[User].put_many(users(0, 700, note="x"))
        await store.checkpoint()
        await store[User].delete("u0000")
        await reader.refresh()
        assert await collected(reader[User].scan()) == users(1, 700, note="x")
        assert [first, *await collected(scan)] == users(0, 600)
        late = reader[User].scan()
        await store[User].put(User(id="z"))
        await reader.refresh()
        assert (await collected(late))[-1] == User(id="z")
        await store.refresh()  # the owner's is always the newest


async def test_every_write_is_refused_and_the_cause_is_named(world: World) -> None:
    async with world.open(User, Reading) as store:
        await store[User].put(User(id="u0001"))
    before = contents(Path(world.path))
    async with world.open(User, Reading, read_only=True) as reader:
        for i, call in enumerate(CALLS):
            if i == APPEND:
                continue
            if i in WRITES:
                with pytest.raises(ws.ReadOnlyStoreError, match="read_only=True"):
                    await call(reader)
            else:
                await call(reader)
        with pytest.raises(ws.ReadOnlyStoreError, match="read_only=True"):
            reader[User].put_nowait(User(id="x"))
        with pytest.raises(ws.ValidationError):
            await reader[User].put(User(id=3))  # type: ignore[arg-type]
    assert contents(Path(world.path)) == before
    for call in CALLS:
        with pytest.raises(ws.ClosedStoreError):
            await call(reader)


async def test_nothing_is_made_written_or_removed(world: World) -> None:
    async with world.open(User) as store:
        await store[User].put_many(users(0, 50))
        await store.checkpoint()
        await store[User].put_many(users(0, 50))
        for operation in (
            "create",
            "write",
            "rename",
            "remove",
            "make_directory",
            "sync_directory",
            "zero_fill",
            "give_back",
        ):
            world.files.fail(operation, code=errno.EROFS, times=10**9)
        async with world.open(User, read_only=True) as reader:
            assert await reader[User].count() == 50
            await reader.refresh()
        world.files.faults.clear()


async def test_readers_live_beside_an_owner_that_writes_checkpoints_and_recycles(world: World) -> None:
    n_written = 0
    is_done = False

    async def write() -> None:
        nonlocal n_written, is_done
        for round_ in range(12):
            for _ in range(15):
                user = User(id=f"{n_written:05d}", n=n_written, note="x" * 500)
                await store[User].put(user)
                n_written += 1
            if round_ % 2:
                await store.checkpoint()
        is_done = True

    async with (
        world.open(User, shards=2, checkpoint_log_bytes="64KiB") as store,
        world.open(User, read_only=True) as reader,
    ):
        writer = asyncio.create_task(write())
        sizes = []
        while not is_done:
            acknowledged = n_written
            await reader.refresh()
            seen = await collected(reader[User].scan())
            assert [user.n for user in seen] == list(range(len(seen)))  # one lane, so one state of all shards
            assert len(seen) >= acknowledged
            sizes.append(len(seen))
            async with world.open(User, read_only=True) as another:
                assert await another[User].count() >= len(seen)
        await writer
        assert len(set(sizes)) > 3


OWNER = """
import asyncio, sys
import warpstore as ws
from tests.support.worlds import User


async def main(path, mode):
    async with ws.open(path, models=[User], durability=mode, segment_bytes="64KiB", checkpoint_log_bytes="64KiB") as s:
        for n in range(1_000_000):
            await s[User].put(User(id=f"{n % 3000:05d}", n=n, note="x" * 300))
            if n == 20:
                print("ready", flush=True)
            if n % 20 == 0:
                await asyncio.sleep(0.01)


asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


def shard_of(n: int) -> int:
    """Return the shard of four that has the nth record of `OWNER`."""
    return slot_of(f"{n % 3000:05d}") * 4 // SLOTS


@pytest.mark.parametrize("mode", ["fsync", "interval"])
async def test_a_reader_in_another_process_than_the_owner_never_sees_damage(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "store"
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(path), mode], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as owner:
        try:
            assert owner.stdout is not None
            await asyncio.to_thread(owner.stdout.readline)
            newest = -1
            async with ws.open(path, models=[User], read_only=True) as reader:
                for _ in range(100):
                    await reader.refresh()
                    seen = [user.n async for user in reader[User].scan()]
                    # In "interval" mode each shard is at its own LSN; in "fsync" mode all are one cut.
                    parts = [[n for n in seen if shard_of(n) == i] for i in range(4)] if mode == "interval" else [seen]
                    for i, part in enumerate(parts):
                        last = max(part, default=-1)
                        written = {n % 3000: n for n in range(last + 1) if mode == "fsync" or shard_of(n) == i}
                        assert sorted(part) == sorted(written.values())
                    assert max(seen, default=-1) >= newest
                    newest = max(seen, default=-1)
        finally:
            owner.kill()
    assert newest > 20


async def test_what_is_no_store_is_refused_and_not_made(world: World, tmp_path: Path) -> None:
    with pytest.raises(ws.NotAStoreError, match="no store"):
        await ws.open(tmp_path / "absent", models=[User], read_only=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ws.NotAStoreError, match="no store"):
        await ws.open(tmp_path / "file", models=[User], read_only=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
    async with world.open(User, shards=2):
        with pytest.raises(ws.ConfigError, match="shards=3"):
            await world.open(User, read_only=True, shards=3)
        with pytest.raises(ws.ConfigError, match="lanes=2"):
            await world.open(User, read_only=True, lanes=2)


async def test_damage_is_refused_and_leaves_a_reader_its_state(world: World) -> None:
    async with world.open(User, shards=1) as store:
        await store[User].put_many(users(0, 200))
        await store.checkpoint()
    (path,) = Path(world.path, "checkpoint").iterdir()
    good = path.read_bytes()
    async with world.open(User, read_only=True) as reader:
        path.write_bytes(good[:-10] + b"0123456789")
        with pytest.raises(ws.CorruptionError, match=path.name):
            await reader.refresh()
        with pytest.raises(ws.CorruptionError, match=path.name):
            await world.open(User, read_only=True)
        path.write_bytes(good)
        assert await reader[User].count() == 200
        fault = world.files.fail("read", "MANIFEST")
        with pytest.raises(ws.UnavailableError):
            await reader.refresh()
        assert fault.n_failed == 1
        await reader.refresh()


async def test_a_passing_fault_is_read_past(world: World) -> None:
    async with world.open(User, shards=1) as store:
        await store[User].put(User(id="a"))
    fault = world.files.fail("read", "log/", times=READS_OF_DAMAGE_MAX - 1)
    async with world.open(User, read_only=True) as reader:
        assert fault.n_failed == READS_OF_DAMAGE_MAX - 1
        assert await reader[User].count() == 1


async def test_what_cannot_be_synced_is_not_shown_as_synced(world: World) -> None:
    async with world.open(User, mark_delay_ms=60_000) as store:
        await store[User].put(User(id="a"))
        world.files.fail("sync", times=10**9)
        with pytest.raises(ws.UnavailableError, match="cannot be synced"):
            await world.open(User, read_only=True)
        world.files.faults.clear()


async def test_tables_and_schemas_that_come_later_are_taken_in(world: World) -> None:
    class Wider(ws.Record, name="user"):
        id: Annotated[str, ws.Key()]
        n: int = 0
        note: str = ""
        tags: list[str] = []
        extra: int = 7

    async with world.open(User) as store:
        await store[User].put(User(id="a", n=1))
    async with world.open(Wider, Reading, read_only=True) as reader:
        assert await reader[Wider].get("a") == Wider(id="a", n=1)
        assert await reader[Reading].count() == 0
        async with world.open(Wider, Reading) as store:
            await store[Wider].put(Wider(id="b", extra=8))
            await store[Reading].put(Reading(id=1, value=0.5))
            await reader.refresh()
            both = [Wider(id="a", n=1), Wider(id="b", extra=8)]
            assert await collected(reader[Wider].scan()) == both
            assert await reader[Wider].get_many(["a", "b"]) == both
            assert [part and part.extra for part in await reader[Wider].get_many(["a", "b"], fields=["extra"])] == [
                7,
                8,
            ]
            values, _ = await reader[Reading].column("value").lookup([1])
            assert values.tolist() == [0.5]
            assert await reader[Reading].get(1) == Reading(id=1, value=0.5)
        async with world.open(Wider, shards=7) as store:
            await store[Wider].put(Wider(id="c"))
            await reader.refresh()
            assert [user.id for user in await collected(reader[Wider].scan())] == ["a", "b", "c"]
            assert reader.statistics().n_shards == 7


async def test_a_type_that_cannot_read_what_is_stored_is_refused(world: World) -> None:
    class Other(ws.Record, name="user"):
        id: Annotated[int, ws.Key()]

    async with world.open(User):
        pass
    with pytest.raises(ws.IncompatibleSchemaError):
        await world.open(Other, read_only=True)


async def test_another_store_under_the_same_path_is_no_newer_state(world: World, tmp_path: Path) -> None:
    async with world.open(User) as store:
        await store[User].put(User(id="a"))
        await store.backup(tmp_path / "copy")
    async with world.open(User, read_only=True) as reader:
        Path(world.path).rename(tmp_path / "away")
        ws.restore(tmp_path / "copy", world.path)
        with pytest.raises(ws.OpenError, match="another store"):
            await reader.refresh()
        assert await reader[User].get("a") == User(id="a")


async def test_reads_under_way_end_with_their_state_when_it_is_refreshed(world: World) -> None:
    async with world.open(User, shards=3) as store:
        await store[User].put_many(users(0, 300))
        await store.checkpoint()
        async with world.open(User, read_only=True) as reader:
            world.files.nothing_cached = True

            async def read() -> list[Any]:
                return [
                    await reader[User].count(),
                    [await reader[User].get(f"u{i:04d}") for i in range(0, 300, 30)],
                    len(await collected(reader[User].scan())),
                ]

            tasks = [asyncio.create_task(read()) for _ in range(5)]
            for _ in range(5):
                await store.checkpoint()
                await reader.refresh()
            for task in tasks:
                assert await task == [300, users(0, 300)[::30], 300]
            world.files.nothing_cached = False


def test_a_synchronous_reader_reads_and_refreshes(tmp_path: Path) -> None:
    with ws.open_sync(tmp_path / "store", models=[User]) as store:
        store[User].put(User(id="a"))
        with ws.open_sync(tmp_path / "store", models=[User], read_only=True) as reader:
            assert reader[User].get("a") == User(id="a")
            store[User].put(User(id="b"))
            reader.refresh()
            assert list(reader[User].scan(snapshot=True)) == [User(id="a"), User(id="b")]
            with pytest.raises(ws.ReadOnlyStoreError):
                reader[User].put(User(id="c"))
