"""What a store needs of the world: files, clocks, threads, randomness, child processes. A test brings its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from wal import FileSystem, OsFileSystem, SyncTimer, ThreadSyncTimer
from warpstore.backup.runner import BackupRunner, back_up_in_child
from warpstore.checkpoint import CheckpointRunner, run_in_child
from warpstore.clock import Clock, SystemClock

T = TypeVar("T")
THREADS = 4


class Runner(Protocol):
    """Runs blocking calls without blocking the loop."""

    def __call__(self, call: Callable[[], T]) -> Awaitable[T]:
        """Return an awaitable for the call's result."""

    def close(self) -> None:
        """Return when the calls under way have ended, and release what it holds."""


class ThreadRunner:
    """A `Runner` on a few threads."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pool = ThreadPoolExecutor(THREADS, "warpstore")

    def __call__(self, call: Callable[[], T]) -> Awaitable[T]:
        return self._loop.run_in_executor(self._pool, call)

    def close(self) -> None:
        self._pool.shutdown(wait=True)  # whoever opens the store next must not meet a call of ours


def random_u64() -> int:
    """Return a random 64-bit number."""
    return int.from_bytes(os.urandom(8), "little")


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The world a store lives in.

    Attributes:
        files: The file system.
        clock: Monotonic and wall time.
        runner: Makes the runner of blocking calls.
        sync_timer: Makes a lane's timer.
        run_checkpoint: Runs checkpoint jobs.
        run_backup: Copies backups.
        random_u64: Returns random numbers, for salts and the store's id.
    """

    files: FileSystem = field(default_factory=OsFileSystem)
    clock: Clock = field(default_factory=SystemClock)
    runner: Callable[[asyncio.AbstractEventLoop], Runner] = ThreadRunner
    sync_timer: Callable[[], SyncTimer] = ThreadSyncTimer
    run_checkpoint: CheckpointRunner = run_in_child
    run_backup: BackupRunner = back_up_in_child
    random_u64: Callable[[], int] = random_u64
