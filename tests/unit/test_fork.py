"""A forked child owns nothing of a store: every call in it says so, and its parent keeps the lock."""

import subprocess
import sys
from pathlib import Path

import pytest

CHILD = r'''
import asyncio, os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # newer versions of Python warn of fork beside threads
import warpstore as ws
from tests.support.worlds import CALLS, Reading, User, users

PLAIN = [lambda s: s.statistics(), lambda s: s[User].put_nowait(User(id="a"))]


def step(coroutine):
    """Run a coroutine as far as it goes without its loop, which belongs to the parent."""
    try:
        coroutine.send(None)
    except StopIteration:
        return "done"
    except ws.ForkedError:
        return "ForkedError"
    except BaseException as error:
        return repr(error)
    coroutine.close()
    return "waits"


async def in_child(store, path):
    calls = [*CALLS, lambda s: s.close()]
    wrong = [(i, said) for i, call in enumerate(calls) if (said := step(call(store))) != "ForkedError"]
    for i, call in enumerate(PLAIN):
        try:
            call(store)
            wrong.append(("plain", i))
        except ws.ForkedError:
            pass
    os.write(1, f"child {wrong}\n".encode())


async def asynchronous(path, mode):
    async with ws.open(path, models=[User, Reading], durability=mode) as store:
        await store[User].put_many(users(0, 10))
        for _ in range(20):
            await store[User].get("u0001")  # kept decoded
        pid = os.fork()
        if not pid:
            step(in_child(store, path))
            os._exit(0)
        os.waitpid(pid, 0)
        try:
            await ws.open(path, models=[User])
            print("the lock is lost")
        except ws.StoreInUseError:
            print("the parent keeps the lock")
        await store[User].put(User(id="z"))
        await store.checkpoint()
        print("parent", await store[User].count())
    async with ws.open(path, models=[User]) as store:
        print("again", await store[User].count())


def synchronous(path):
    with ws.open_sync(path, models=[User]) as store:
        store[User].put(User(id="a"))
        pid = os.fork()
        if not pid:
            said = []
            for call in (
                lambda: store[User].get("a"),
                lambda: list(store[User].scan()),
                store.sync,
                store.statistics,
                store.close,
            ):
                try:
                    call()
                    said.append("done")
                except ws.ForkedError:
                    said.append("ForkedError")
            os.write(1, f"child {set(said)}\n".encode())
            os._exit(0)
        os.waitpid(pid, 0)
        store[User].put(User(id="b"))
        print("parent", store[User].count())


async def killed(path):
    store = await ws.open(path, models=[User])
    await store[User].put(User(id="a"))
    pid = os.fork()
    if not pid:
        os.write(1, b"child\n")
        sys.stdin.read()  # lives on until the test closes it
        os._exit(0)
    os.kill(os.getpid(), 9)


mode, path = sys.argv[1:]
if mode == "sync":
    synchronous(path)
elif mode == "killed":
    asyncio.run(killed(path))
else:
    asyncio.run(asynchronous(path, mode))
'''


def run(mode: str, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CHILD, mode, str(path)], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("mode", ["fsync", "interval", "memory"])
def test_every_call_in_a_forked_child_is_refused_and_the_parent_goes_on(mode: str, tmp_path: Path) -> None:
    done = run(mode, tmp_path / "store")
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["child []", "the parent keeps the lock", "parent 11", "again 11"]


def test_a_forked_child_of_a_synchronous_program_is_refused_and_does_not_hang(tmp_path: Path) -> None:
    done = run("sync", tmp_path / "store")
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["child {'ForkedError'}", "parent 2"]


def test_the_lock_is_free_when_the_owner_is_killed_while_a_forked_child_lives(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, "killed", str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"child\n"
        owner.wait()
        check = "import sys, warpstore as ws; ws.open_sync(sys.argv[1]).close()"
        subprocess.run([sys.executable, "-c", check, str(path)], check=True, timeout=60)
