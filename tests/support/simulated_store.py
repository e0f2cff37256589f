"""A whole store in a simulated machine: its disk is a `FaultyFiles`, its time a `VirtualLoop`'s, its threads none.

One seed fixes the order of the tasks, the random numbers and what a power cut leaves of unsynced writes, so a run can
be repeated exactly. Production code runs in it as it is, through its `Environment`.

`Ledger` is the expected state: what each key was set to, in order, and which of it was promised to outlive a power cut.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec

import warpstore as ws
from tests.support.faulty_files import FaultyFiles
from tests.support.lanes import LoopTimer
from tests.support.virtual_loop import VirtualClock
from warpstore.backup.format import BackupResult
from warpstore.backup.job import BackupJob, Progress, run_backup
from warpstore.checkpoint import CheckpointJob, CheckpointResult
from warpstore.checkpoint.job import run_job
from warpstore.store import Opening

T = TypeVar("T")
PATH = "/store"


class InlineRunner:
    """Runs blocking calls where they are asked for, a turn of the loop later."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __call__(self, call: Callable[[], T]) -> Awaitable[T]:
        future: asyncio.Future[T] = self._loop.create_future()

        def run() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(call())
            except Exception as e:  # noqa: BLE001 - handed to whoever awaits it
                future.set_exception(e)

        self._loop.call_soon(run)
        return future

    def close(self) -> None:
        """Nothing is left to wait for."""


class Machine:
    """A computer with one disk, from its start to a power cut.

    Args:
        files: The disk; by default an empty one.
        seed: Of its random numbers.
    """

    def __init__(self, files: FaultyFiles | None = None, *, seed: int = 0) -> None:
        self.files = FaultyFiles() if files is None else files
        self.chance = random.Random(seed)
        if files is None:
            self.files.make_directory("/")

    def open(self, *models: type[ws.Record], **settings: Any) -> Opening:
        """Open the store of this machine; on its loop."""
        loop = asyncio.get_running_loop()
        environment = ws.Environment(
            files=self.files,
            clock=VirtualClock(loop),
            runner=InlineRunner,
            sync_timer=lambda: LoopTimer(loop),
            run_checkpoint=self._checkpoint,
            run_backup=self._backup,
            random_u64=lambda: self.chance.getrandbits(64),
        )
        return ws.open(PATH, models=models, environment=environment, **settings)

    def after_power_cut(self) -> Machine:
        """Return the machine that comes back, with what its disk has kept."""
        return Machine(self.files.crash(self.chance), seed=self.chance.getrandbits(32))

    async def _checkpoint(self, job: CheckpointJob) -> CheckpointResult:
        try:
            return run_job(self.files, job)
        except OSError as e:  # as a child process would say it
            raise ws.UnavailableError(f"the checkpoint failed: {e}") from e

    async def _backup(self, job: BackupJob, progress: Progress) -> BackupResult:
        try:
            return run_backup(self.files, msgspec.structs.replace(job, rest=0.0), progress)
        except OSError as e:
            raise ws.UnavailableError(f"the backup failed: {e}") from e


class Ledger:
    """What was written under each key, in order, and from which write on a power cut may not go back.

    Writers must not share keys: of one key, a write begins after the one before it has ended.
    """

    def __init__(self) -> None:
        self._written: dict[str, list[Any]] = {}
        self._done: dict[str, int] = {}
        self._safe: dict[str, int] = {}
        self._batches: list[dict[str, int]] = []

    def begin(self, values: Mapping[str, Any]) -> dict[str, int]:
        """Note a write of keys, which counts as a whole; return what `end` takes."""
        write: dict[str, int] = {}
        for key, value in values.items():
            history = self._written.setdefault(key, [None])
            history.append(value)
            write[key] = len(history) - 1
        if len(write) > 1:
            self._batches.append(write)
        return write

    def end(self, write: dict[str, int], *, safe: bool) -> None:
        """The write returned; ``safe``: it was promised to be durable."""
        for key, at in write.items():
            self._done[key] = at
            if safe:
                self._safe[key] = at

    def synced(self, done: dict[str, int]) -> None:
        """A sync returned that began when this was `done`."""
        for key, at in done.items():
            self._safe[key] = max(at, self._safe.get(key, 0))

    def power_cut(self) -> None:
        """The power went: what was done and not safe may be undone, and no later sync brings it back."""
        self._done = dict(self._safe)

    @property
    def done(self) -> dict[str, int]:
        """The last write of each key that returned."""
        return dict(self._done)

    @property
    def keys(self) -> list[str]:
        """All keys that were ever written."""
        return list(self._written)

    def check(self, found: Mapping[str, Any]) -> None:
        """Assert that what a store holds after a power cut is what it may hold, and take it as written.

        Raises:
            AssertionError: a value was lost, invented, or a batch of one shard was torn.
        """
        unknown = set(found) - set(self._written)
        assert not unknown, f"invented: {unknown}"
        at: dict[str, int] = {}
        for key, history in self._written.items():
            allowed = range(self._safe.get(key, 0), len(history))
            value = found.get(key)
            matches = [i for i in allowed if history[i] == value]
            assert matches, f"{key}: found {value!r}, allowed {[history[i] for i in allowed]!r}"
            at[key] = matches[-1]
        for batch in self._batches:
            applied = {key: at[key] >= n for key, n in batch.items() if at[key] in (n - 1, n)}
            assert len(set(applied.values())) <= 1, f"a batch was torn: {applied}"
        for key in self._written:
            self._written[key] = [None, found.get(key)]
            self._done[key] = self._safe[key] = 1
        self._batches.clear()
