"""A process that is killed under load has lost nothing that it had acknowledged, and invented nothing.

The child stores records from several tasks and says on a pipe what it is about to write and what was acknowledged; a
line is one system call, so it is whole or absent. The parent reads until it has seen enough, kills the child, opens the
store and compares.
"""

import asyncio
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest

import warpstore as ws

CHILD = """
import asyncio, os, sys
import warpstore as ws
from tests.crash.test_kill import Counter

N_TASKS = 8


async def main(path, mode, shards, first):
    async with ws.open(
        path, models=[Counter], durability=mode, shards=shards, segment_bytes="64KiB", checkpoint_log_bytes="64KiB"
    ) as store:
        table = store[Counter]

        def say(word, key, n):
            os.write(1, f"{word} {key} {n}\\n".encode())

        async def work(task):
            n = first
            while True:
                n += 1
                key = f"{task}-{n % 50}"
                batch = [Counter(id=f"{task}-b{i}", n=n, pad="x" * 50) for i in range(4)]
                say("try", key, n)
                if n % 7 == 0:
                    await table.delete(key)
                    say("del", key, n)
                elif n % 5 == 0:
                    await table.put_many(batch)
                    for record in batch:
                        say("ack", record.id, n)
                else:
                    await table.put(Counter(id=key, n=n, pad="x" * 200))
                    say("ack", key, n)
                if n % 40 == 0 and task == 0:
                    await table.update("sum", n=n)
                    say("ack", "sum", n)
                if mode != "fsync":
                    await store.sync()
                    say("sync", key, n)

        await table.put(Counter(id="sum", n=first))
        say("ack", "sum", first)
        await asyncio.gather(*(work(task) for task in range(N_TASKS)))


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
"""


class Counter(ws.Record):
    id: Annotated[str, ws.Key()]
    n: int = 0
    pad: str = ""


def run_and_kill(path: Path, mode: str, shards: int, first: int, n_lines: int) -> list[tuple[str, str, int]]:
    """Return what a child said before it was killed, which is after so many lines."""
    said: list[tuple[str, str, int]] = []
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), mode, str(shards), str(first)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if len(said) == n_lines:
                os.kill(child.pid, signal.SIGKILL)
            word, key, n = line.split()
            said.append((word.decode(), key.decode(), int(n)))
        assert child.wait() == -signal.SIGKILL
    return said


async def stored(path: Path, shards: int | None) -> dict[str, int]:
    async with ws.open(path, models=[Counter], shards=shards, segment_bytes="64KiB") as store:
        found = {record.id: record.n async for record in store[Counter].scan()}
        assert len(found) == await store[Counter].count()
        many = await store[Counter].get_many(sorted(found))
        assert [record.n for record in many if record] == [found[key] for key in sorted(found)]
        return found


@pytest.mark.parametrize("mode", ["fsync", "interval"])
def test_everything_acknowledged_is_found_again_and_nothing_is_wrong(mode: str, tmp_path: Path) -> None:
    rng = random.Random(mode)
    path = tmp_path / "store"
    known: dict[str, tuple[int, bool]] = {}  # the newest write that is certain, by key, and whether it deleted
    last = 0
    for shards in (4, 2):
        said = run_and_kill(path, mode, shards, last, rng.randrange(1500, 3000))
        begun: dict[str, set[int]] = {}
        unsynced: dict[str, list[tuple[str, int, bool]]] = {}
        for word, key, n in said:
            last = max(last, n)
            task = key.partition("-")[0]
            if word == "try":
                begun.setdefault(key, set()).add(n)
                for i in range(4):
                    begun.setdefault(f"{task}-b{i}", set()).add(n)
                if task == "0":
                    begun.setdefault("sum", set()).add(n)
            elif word == "sync":
                known.update({done: (m, deleted) for done, m, deleted in unsynced.pop(task, [])})
            else:
                unsynced.setdefault("0" if key == "sum" else task, []).append((key, n, word == "del"))
                if mode == "fsync":
                    known[key] = (n, word == "del")
        found = asyncio.run(stored(path, None))
        for key, (n, deleted) in known.items():
            newer = {other for other in begun.get(key, set()) if other > n}
            if key in found:
                assert found[key] in newer or (found[key] == n and not deleted), (key, n, found[key])
            else:
                assert deleted or any(other % 7 == 0 for other in newer), (key, n)
        invented = [key for key, n in found.items() if key not in known and n not in begun.get(key, set())]
        assert [key for key in invented if (key, found[key]) != ("sum", 0)] == []
        known = {key: (n, False) for key, n in found.items()}  # what the second process starts from
        last += 1000


EXIT = """
import asyncio, os, sys
import warpstore as ws
from tests.crash.test_kill import Counter


async def main():
    store = await ws.open(sys.argv[1], models=[Counter], durability=sys.argv[2])
    await store[Counter].put(Counter(id="a", n=1))
    await store.sync()
    print("acknowledged", flush=True)


asyncio.run(main())
"""


@pytest.mark.parametrize("mode", ["fsync", "interval"])
def test_a_process_that_ends_without_closing_neither_hangs_nor_loses(mode: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EXIT, str(tmp_path / "store"), mode],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        timeout=60,
        check=False,
    )
    assert done.stdout == b"acknowledged\n"
    assert asyncio.run(stored(tmp_path / "store", 2)) == {"a": 1}
