"""The store for synchronous programs makes the same calls, from any thread, and ends without leaving one waiting."""

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest

import warpstore as ws
from tests.support.worlds import SMALL, Reading, User, World, users
from warpstore.synchronous import SCAN_BATCH


class Diary(ws.Record):
    id: Annotated[str, ws.Key()]
    days: Annotated[list[int], ws.Temporal()] = []


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "store")
    yield made
    made.assert_nothing_left()
    assert not [t for t in threading.enumerate() if t.name == "warpstore-loop"]


def opened(world: World, **settings: Any) -> ws.SyncStore:
    return ws.open_sync(world.path, models=[User, Reading, Diary], environment=world.environment, **SMALL | settings)


def test_every_call_does_what_the_asynchronous_one_does(world: World) -> None:
    with opened(world) as store:
        table = store[User]
        table.put(User(id="a", n=1))
        table.put(User(id="b"), ttl=10)
        assert table.put_many(users(0, 600)) == 600
        table.insert(User(id="c"))
        with pytest.raises(ws.KeyExistsError):
            table.insert(User(id="c"))
        table.update("a", note="x")
        table.modify("a", lambda u: u.tags.append("y"))
        assert table.get("a") == User(id="a", n=1, note="x", tags=["y"])
        user, version = table.get_with_version("a")
        table.put(User(id="a", n=2), if_version=version)
        with pytest.raises(ws.VersionConflictError):
            table.put(User(id="a", n=3), if_version=version)
        assert user is not None
        assert table.get_many(["a", "x"], fields=["n"])[1] is None
        assert table.contains("a")
        assert table.delete("c")
        assert table.delete_many(["c", "u0001"]) == 1
        assert table.count() == 601
        world.clock.advance(10)
        assert table.count() == 600
        assert [u.id for u in table.scan(prefix="u", limit=SCAN_BATCH + 3)][-1] == f"u{SCAN_BATCH + 3:04d}"
        assert [u.id for u in table.scan("u0598", reverse=True)] == ["u0599", "u0598"]
        assert len(list(table.scan(prefix="u"))) == 599
        store[Reading].put(Reading(id=1, value=2.0))
        values, found = store[Reading].column("value").lookup(np.array([1, 2]))
        assert (values.tolist(), found.tolist()) == ([2.0, 0.0], [True, False])
        store[Diary].put(Diary(id="a"))
        store[Diary].append("a", "days", 5)
        assert store[Diary].get("a") == Diary(id="a", days=[5])
        store.sync()
        store.checkpoint()
        assert store.statistics().n_checkpoints == 1
        assert store.tables == {"user": User, "reading": Reading, "diary": Diary}
        assert store.path == world.path
    with ws.open_sync(world.path, models=[User], environment=world.environment) as store:
        store.drop("reading")
        assert store.tables == {"user": User, "diary": None}
        assert store[User].count() == 600


@pytest.mark.parametrize("mode", ["fsync", "interval", "memory"])
def test_many_threads_lose_no_update(mode: str, world: World) -> None:
    def add(user: User) -> None:
        user.n += 1

    with opened(world, durability=mode) as store:
        table = store[User]
        table.put(User(id="a"))

        def work(i: int) -> None:
            for _ in range(10):
                table.modify("a", add)
            table.put(User(id=f"t{i}"))
            assert table.get(f"t{i}") == User(id=f"t{i}")
            assert len(list(table.scan(prefix="t"))) >= 1

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(16)))
        assert table.get("a") == User(id="a", n=160)
        assert table.count() == 17


def test_after_close_every_call_says_so_and_close_is_idempotent(world: World) -> None:
    store = opened(world)
    table = store[User]
    table.put(User(id="a"))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: store.close(), range(4)))
    calls: list[Any] = [
        lambda: table.put(User(id="b")),
        lambda: table.get("a"),
        lambda: list(table.scan()),
        store.sync,
        store.checkpoint,
        store.statistics,
        table.count,
        lambda: store.drop("x"),
    ]
    for call in calls:
        with pytest.raises(ws.ClosedStoreError):
            call()
    store.close()


def test_calls_of_other_threads_end_when_the_store_is_closed(world: World) -> None:
    store = opened(world)
    table = store[User]
    table.put_many(users(0, 100))
    begun = threading.Barrier(9)
    ends: list[object] = []

    def work() -> None:
        begun.wait()
        try:
            for i in range(10_000):
                table.put(User(id=f"w{i}"))
                table.get("u0001")
        except ws.WarpstoreError as error:
            ends.append(type(error))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    begun.wait()
    store.close()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert len(ends) == 8
    assert set(ends) <= {ws.ClosedStoreError, ws.ShardUnavailableError}


def test_a_scan_that_is_left_open_disturbs_nobody(world: World) -> None:
    store = opened(world)
    store[User].put_many(users(0, 1000))
    scan = store[User].scan()
    assert next(scan).id == "u0000"
    other = store[User].scan()
    next(other)
    other.close()  # type: ignore[attr-defined]
    store.close()
    del scan
    gc.collect()


def test_a_modify_function_that_calls_the_store_is_told_off(world: World) -> None:
    with opened(world) as store:
        table = store[User]
        table.put(User(id="a", n=1))
        with pytest.raises(ws.WrongThreadError, match="own loop"):
            table.modify("a", lambda _: table.get("a"))
        assert table.get("a") == User(id="a", n=1)


def test_what_cannot_be_opened_leaves_nothing(world: World) -> None:
    Path(world.path).write_bytes(b"mine")
    with pytest.raises(ws.NotAStoreError):
        opened(world)
    with pytest.raises(ws.ConfigError):
        opened(world, shards=0)
