"""A backup that is killed anywhere leaves the one before whole, and the next one goes on.

A child process writes dependent records and makes one backup after another into one folder, and says so; the parent
kills it at random moments, sometimes only the process that copies, and restores what is there.
"""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

import warpstore as ws
from tests.crash.test_kill import Counter

CHILD = """
import asyncio, os, sys
import warpstore as ws
import warpstore.backup.copying
from tests.crash.test_kill import Counter


async def main(path, target, mode, first):
    async with ws.open(
        path, models=[Counter], durability=mode, shards=4, lanes=2, segment_bytes="64KiB", checkpoint_log_bytes="256KiB"
    ) as store:
        n = first

        async def write():
            nonlocal n
            while True:
                await store[Counter].put(Counter(id=f"{n:08d}", n=n, pad="x" * 300))
                n += 1
                await asyncio.sleep(0)

        writer = asyncio.create_task(write())
        while True:
            await asyncio.sleep(0.05)
            n_before = n
            os.write(1, f"begin {n_before}\\n".encode())
            try:
                await store.backup(target)
            except ws.BackupError as error:
                os.write(1, f"failed {n_before}\\n".encode())
            else:
                os.write(1, f"done {n_before}\\n".encode())


asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
"""


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has started and that run."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def copiers_of(pid: int) -> list[int]:
    """Return the processes that copy for a process."""
    found = []
    for child in children_of(pid):
        with suppress(FileNotFoundError, ProcessLookupError):
            if b"warpstore.backup.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found


async def numbers(path: Path) -> list[int]:
    async with ws.open(path, models=[Counter], segment_bytes="64KiB") as store:
        return [record.n async for record in store[Counter].scan()]


@pytest.mark.parametrize(
    ("mode", "n_kills"),
    [
        ("fsync", 1),
        pytest.param("fsync", 3, marks=pytest.mark.slow),
        pytest.param("interval", 3, marks=pytest.mark.slow),
    ],
)
def test_a_killed_backup_leaves_the_one_before_whole(mode: str, n_kills: int, tmp_path: Path) -> None:
    rng = random.Random(mode)
    store, copy = tmp_path / "store", tmp_path / "copy"
    done = 0
    for kill in range(n_kills):
        first = len(asyncio.run(numbers(store))) if store.exists() else 0
        copiers: list[int] = []
        n_lines = 2 if n_kills == 1 else rng.randrange(2, 5)
        with subprocess.Popen(
            [sys.executable, "-c", CHILD, str(store), str(copy), mode, str(first)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        ) as child:
            assert child.stdout is not None
            for i, line in enumerate(child.stdout):
                word, n = line.split()
                if word == b"done":
                    done = int(n)
                if word == b"begin" and i >= n_lines and not copiers:
                    while not copiers and child.poll() is None:
                        copiers = copiers_of(child.pid)
                    time.sleep(rng.random() * 0.4)  # somewhere in the start, the copying or the end of the child
                    if kill == 1:
                        with suppress(ProcessLookupError):
                            os.kill(copiers[0], signal.SIGKILL)
                    else:
                        os.kill(child.pid, signal.SIGKILL)
                elif kill == 1 and copiers and word == b"done":
                    os.kill(child.pid, signal.SIGKILL)
            assert child.wait() == -signal.SIGKILL
        for copier in copiers:  # an orphan ends by itself: nobody reads what it says
            while Path(f"/proc/{copier}/cmdline").exists() and Path(f"/proc/{copier}/cmdline").read_bytes():
                time.sleep(0.01)
        ws.restore(copy, tmp_path / f"new{kill}")
        found = asyncio.run(numbers(tmp_path / f"new{kill}"))
        assert found == list(range(len(found)))
        assert len(found) >= done > 0
