"""Runs a backup job in a child process, and hears of its progress.

The child writes one line of JSON a message: ``{"copied", "total"}`` while it copies; then ``{"result"}``, or
``{"error", "message", "path"}`` with the name of an error class.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from typing import Protocol

import msgspec

from warpstore import errors
from warpstore.backup.format import BackupResult
from warpstore.backup.job import BackupJob, Progress
from warpstore.errors import BackupError


class Message(msgspec.Struct, omit_defaults=True):
    """A line of the child."""

    copied: int = 0
    total: int = 0
    result: BackupResult | None = None
    error: str = ""
    message: str = ""
    path: str = ""


class BackupRunner(Protocol):
    """Runs a job off the event loop."""

    async def __call__(self, job: BackupJob, progress: Progress) -> BackupResult:
        """Return the job's result; ``progress`` is called on the loop.

        Raises:
            BackupError: as `run_backup`.
        """


async def back_up_in_child(job: BackupJob, progress: Progress) -> BackupResult:
    """Return the result of a job that a child process ran.

    Raises:
        BackupError: as `run_backup`, or the child was killed.

    Cancellation:
        The child is killed. The backup before is whole; what was copied is removed by the next backup.
    """
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(path or os.getcwd() for path in sys.path))
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "warpstore.backup.worker",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        with suppress(ConnectionError):  # it has ended already, which is seen below
            child.stdin.write(msgspec.msgpack.encode(job))
            await child.stdin.drain()
        child.stdin.close()
        last = Message()
        async for line in child.stdout:
            last = msgspec.json.decode(line, type=Message)
            if last.result is None and not last.error:
                progress(last.copied, last.total)
        await child.wait()
    except BaseException:
        with suppress(ProcessLookupError):
            child.kill()
        await child.wait()
        raise
    if last.result is not None:
        return last.result
    if last.error:
        raise getattr(errors, last.error, BackupError)(last.message, path=last.path)
    message = f"{job.target}: the process that copied ended with status {child.returncode}"
    raise BackupError(message, path=job.target)
