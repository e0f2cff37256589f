"""Worlds for tests of a whole store: its files, clocks and checkpoints in the hands of the test.

A `World` is a folder with an `Environment`. Its clock stands still until the test moves it, its file system fails the
calls that the test names, its checkpoints run in this process. At its end it asserts that nothing of a store is left:
no task, no open file, no thread.
"""

import asyncio
import errno
import os
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import msgspec

import warpstore as ws
from wal import DurableWriter, File, OsFileSystem, SyncTimer, ThreadSyncTimer
from wal.aio import ThreadWriter
from warpstore.backup.format import BackupResult
from warpstore.backup.job import BackupJob, Progress, run_backup
from warpstore.checkpoint import CheckpointJob, CheckpointResult
from warpstore.checkpoint.job import run_job
from warpstore.store import Opening

SMALL: dict[str, Any] = {"segment_bytes": "64KiB"}
MODES = ("fsync", "interval", "memory")
THREADS = ("warpstore", "wal-")


class User(ws.Record):
    """A record with a str key and one mutable field."""

    id: Annotated[str, ws.Key()]
    n: int = 0
    note: str = ""
    tags: list[str] = []


class Reading(ws.Record):
    """A record with an int key and two columns."""

    id: Annotated[int, ws.Key()]
    value: Annotated[float, ws.Gpu(dtype="f4")] = 0.0
    code: Annotated[int, ws.Gpu(dtype="i2")] = 0


class Blob(ws.Record):
    """A record with a bytes key and a column."""

    id: Annotated[bytes, ws.Key()]
    value: Annotated[float, ws.Gpu()] = 0.0


class Token(ws.Record):
    """A record with a UUID key and a column."""

    id: Annotated[UUID, ws.Key()]
    value: Annotated[float, ws.Gpu()] = 0.0


class Named(ws.Record):
    """A record with a str key and a column."""

    id: Annotated[str, ws.Key()]
    value: Annotated[float, ws.Gpu()] = 0.0


class FakeClock:
    """Both clocks, standing still until the test moves them."""

    def __init__(self, wall_s: float = 1_700_000_000.0) -> None:
        self.monotonic_s = 1000.0
        self.wall_s = wall_s

    def monotonic(self) -> float:
        return self.monotonic_s

    def wall(self) -> float:
        return self.wall_s

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.monotonic_s += seconds
        self.wall_s += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or, below zero, back, as an operator does."""
        self.wall_s += seconds


@dataclass
class Fault:
    """Calls that fail: of one operation, on paths that contain a text, so many times."""

    operation: str
    part: str
    error: OSError
    times: int
    n_failed: int = 0


class FaultyFile:
    """A file that asks its file system before every call."""

    def __init__(self, file: File, files: "FaultyFiles") -> None:
        self._file = file
        self._files = files

    @property
    def path(self) -> str:
        return self._file.path

    @path.setter
    def path(self, path: str) -> None:
        self._file.path = path

    def read(self, n_bytes: int, offset: int) -> bytes:
        self._files.before("read", self.path)
        return self._file.read(n_bytes, offset)

    def read_cached(self, n_bytes: int, offset: int) -> bytes | None:
        if self._files.nothing_cached:
            return None
        return self._file.read_cached(n_bytes, offset)

    def will_need(self, n_bytes: int, offset: int) -> None:
        self._file.will_need(n_bytes, offset)

    def write(self, buffers: Sequence[Any], offset: int) -> int:
        self._files.before("write", self.path)
        return self._file.write(buffers, offset)

    def copy_from(self, source: Any, n_bytes: int, offset: int) -> int:
        self._files.before("copy", self.path)
        self._files.before("read", source.path)
        return self._file.copy_from(source._file, n_bytes, offset)

    def sync(self) -> None:
        self._files.before("sync", self.path)
        self._file.sync()

    def zero_fill(self, start: int, stop: int) -> None:
        self._files.before("zero_fill", self.path)
        self._file.zero_fill(start, stop)

    def allocate(self, n_bytes: int) -> None:
        self._files.before("allocate", self.path)
        self._file.allocate(n_bytes)

    def give_back(self, start: int) -> None:
        self._files.before("give_back", self.path)
        self._file.give_back(start)

    def size(self) -> int:
        return self._file.size()

    def close(self) -> None:
        self._file.close()


class FaultyFiles(OsFileSystem):
    """The real file system, except for the calls that the test lets fail.

    Attributes:
        nothing_cached: Whether every read has to hop to a thread.
    """

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.nothing_cached = False

    def fail(self, operation: str, part: str = "", *, code: int = errno.EIO, times: int = 1) -> Fault:
        """Let the next ``times`` calls of an operation on matching paths raise an `OSError`."""
        fault = Fault(operation, part, OSError(code, os.strerror(code)), times)
        self.faults.append(fault)
        return fault

    def before(self, operation: str, path: str) -> None:
        """Raise if the call is to fail."""
        for fault in self.faults:
            if fault.operation == operation and fault.part in path and fault.n_failed < fault.times:
                fault.n_failed += 1
                raise fault.error

    def open(self, path: str) -> Any:
        self.before("open", path)
        return FaultyFile(super().open(path), self)

    def open_write(self, path: str) -> Any:
        self.before("open", path)
        return FaultyFile(super().open_write(path), self)

    def create(self, path: str) -> Any:
        self.before("create", path)
        return FaultyFile(super().create(path), self)

    def remove(self, path: str) -> None:
        self.before("remove", path)
        super().remove(path)

    def make_directory(self, path: str) -> None:
        self.before("make_directory", path)
        super().make_directory(path)

    def list_directory(self, path: str) -> list[str]:
        self.before("list", path)
        return super().list_directory(path)

    def rename(self, source: str, target: str) -> None:
        self.before("rename", source)
        super().rename(source, target)

    def sync_directory(self, path: str) -> None:
        self.before("sync_directory", path)
        super().sync_directory(path)

    def durable_writer(self, loop: asyncio.AbstractEventLoop) -> DurableWriter:
        return ThreadWriter(loop)


class HandTimer:
    """A `SyncTimer` that ticks when the test says so."""

    def __init__(self) -> None:
        self.armed = False
        self._tick: Callable[[], None] = lambda: None

    def start(self, tick: Callable[[], None], interval_s: float) -> None:
        self._tick = tick

    def arm(self) -> None:
        self.armed = True

    def stop(self) -> None:
        self._tick = lambda: None

    def fire(self) -> None:
        """Tick once."""
        self.armed = False
        self._tick()


class World:
    """A store's folder and all it needs of the world.

    Attributes:
        path: The folder; nothing is there yet.
        files: Its file system.
        clock: Its clocks.
        timers: The timers of the lanes opened so far; filled only with ``hand_timers``.
        hand_timers: Whether the log is synced only when the test says so, in "interval" mode.
        on_backup: Awaited before each backup's files are copied.
        on_checkpoint: Awaited before each checkpoint's job is run; what it raises fails the job.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self.files = FaultyFiles()
        self.clock = FakeClock()
        self.timers: list[HandTimer] = []
        self.hand_timers = False
        self.on_checkpoint: Callable[[], Any] | None = None
        self.on_backup: Callable[[], Any] | None = None
        self.copies = 0
        self._threads_before = set(threading.enumerate())

    @property
    def environment(self) -> ws.Environment:
        """The world as `ws.open` takes it."""
        return ws.Environment(
            files=self.files,
            clock=self.clock,
            sync_timer=self._timer,
            run_checkpoint=self._checkpoint,
            run_backup=self._backup,
        )

    def _timer(self) -> SyncTimer:
        if not self.hand_timers:
            return ThreadSyncTimer()
        self.timers.append(HandTimer())
        return self.timers[-1]

    async def _checkpoint(self, job: CheckpointJob) -> CheckpointResult:
        if self.on_checkpoint is not None:
            await self.on_checkpoint()
        return run_job(self.files, job)

    async def _backup(self, job: BackupJob, progress: Progress) -> BackupResult:
        if self.on_backup is not None:
            await self.on_backup()
        return run_backup(self.files, msgspec.structs.replace(job, rest=0.0), progress)

    def open(self, *models: type[ws.Record], **settings: Any) -> Opening:
        """Open the store of this world with small settings."""
        return ws.open(self.path, models=models, environment=self.environment, **SMALL | settings)

    def crashed(self) -> "World":
        """Return a world in which this one's processes have just died: a copy of its folder as it is on disk."""
        self.copies += 1
        copy = World(f"{self.path}-crashed-{self.copies}")
        copy.clock = self.clock
        for folder, _, names in os.walk(self.path):
            target = folder.replace(self.path, copy.path, 1)
            Path(target).mkdir(parents=True)
            for name in names:
                if not name.endswith(".new"):
                    shutil.copyfile(f"{folder}/{name}", f"{target}/{name}")
        return copy

    def all_bytes(self) -> bytes:
        """Return what is in all files of the store."""
        return b"".join(file.read_bytes() for file in sorted(Path(self.path).rglob("*")) if file.is_file())

    def open_files(self) -> list[str]:
        """Return the store's files that this process has open."""
        found = []
        for fd in os.listdir("/proc/self/fd"):
            try:
                target = os.readlink(f"/proc/self/fd/{fd}")
            except OSError:
                continue
            if target.startswith(f"{self.path}/") or target == self.path:
                found.append(target)
        return sorted(found)

    def assert_nothing_left(self) -> None:
        """Assert that no store of this world left an open file or a thread."""
        for thread in set(threading.enumerate()) - self._threads_before:
            if thread.name.startswith(THREADS):
                thread.join(10.0)
                assert not thread.is_alive(), f"the thread {thread.name} is left"
        assert self.open_files() == []


@asynccontextmanager
async def world_in(folder: Path) -> AsyncIterator[World]:
    """Give a world in a folder, and assert at its end that no task, file or thread of a store is left."""
    before = asyncio.all_tasks()
    world = World(folder / "store")
    yield world
    await asyncio.sleep(0)
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert [task for task in left if not task.done()] == []
    world.assert_nothing_left()


async def turns(n: int = 20) -> None:
    """Let the loop turn a few times."""
    for _ in range(n):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until a condition holds; threads may have to do their part."""
    loop = asyncio.get_running_loop()
    while not condition():
        await loop.run_in_executor(None, os.sched_yield)


async def collected(records: AsyncIterator[Any]) -> list[Any]:
    """Return all that an iterator yields."""
    return [record async for record in records]


def users(start: int, stop: int, **fields: Any) -> list[User]:
    """Return users with the keys ``u0000`` on."""
    return [User(id=f"u{i:04d}", n=i, **fields) for i in range(start, stop)]


CALLS: list[Callable[[ws.Store], Any]] = [
    lambda s: s[User].put(User(id="a")),
    lambda s: s[User].put(User(id="a"), ttl=5),
    lambda s: s[User].put(User(id="a"), if_version=0),
    lambda s: s[User].put_many([User(id="a")]),
    lambda s: s[User].insert(User(id="a")),
    lambda s: s[User].update("u0001", n=1),
    lambda s: s[User].modify("u0001", repr),
    lambda s: s[User].append("u0001", "tags", "x"),
    lambda s: s[User].delete("u0001"),
    lambda s: s[User].delete_many(["u0001"]),
    lambda s: s[User].get("u0001"),
    lambda s: s[User].get("absent"),
    lambda s: s[User].get_many(["u0001"]),
    lambda s: s[User].get_with_version("u0001"),
    lambda s: s[User].contains("u0001"),
    lambda s: s[User].count(),
    lambda s: collected(s[User].scan()),
    lambda s: s[Reading].column("value").lookup([1]),
    lambda s: s.sync(),
    lambda s: s.checkpoint(),
    lambda s: s.backup(f"{s.path}-backup"),
    lambda s: s.refresh(),
    lambda s: s.drop("user"),
]
"""Every call of a store and its tables that is a coroutine, but ``close``."""
