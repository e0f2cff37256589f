"""Runs a checkpoint job in a child process."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Protocol

import msgspec

from warpstore.checkpoint.job import CheckpointJob, CheckpointResult
from warpstore.errors import UnavailableError


class CheckpointRunner(Protocol):
    """Runs a job off the event loop."""

    async def __call__(self, job: CheckpointJob) -> CheckpointResult:
        """Return the job's result.

        Raises:
            UnavailableError: it failed, and left no file.
        """


async def run_in_child(job: CheckpointJob) -> CheckpointResult:
    """Return the result of a job that a child process ran.

    Raises:
        UnavailableError: the child failed; its message says why.

    Cancellation:
        The child is killed; the files it left are not named by any manifest, and the next open removes them.
    """
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(path or os.getcwd() for path in sys.path))
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "warpstore.checkpoint.worker",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        output, errors = await child.communicate(msgspec.msgpack.encode(job))
    except asyncio.CancelledError:
        child.kill()
        await child.wait()
        raise
    if child.returncode != 0:
        message = errors.decode(errors="replace").strip().splitlines()[-1:] or [f"exit status {child.returncode}"]
        raise UnavailableError(f"the checkpoint failed: {message[0]}")
    return msgspec.msgpack.decode(output, type=CheckpointResult)
