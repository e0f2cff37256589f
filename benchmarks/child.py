"""Jobs that want a process of their own: cold reads, memory, stalls, the large column, the cost of markers.

``python -m benchmarks.child JOB ARGUMENTS`` runs one job, its arguments and result JSON. A job may `pause`: it prints a
line and goes on when it gets one, so that the parent can drop caches, or kill it, at a known point. `Child` is the
parent's end.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

Job = Callable[..., Awaitable[dict[str, Any]]]

JOB_S_MAX = 180.0
"""A job that takes longer is killed."""

JOBS = {
    "load": "benchmarks.rows.reopen_jobs",
    "reopen": "benchmarks.rows.reopen_jobs",
    "hot": "benchmarks.rows.footprint",
    "column": "benchmarks.rows.column",
    "stall": "benchmarks.rows.stall",
    "backup": "benchmarks.rows.backup",
    "markers": "benchmarks.rows.markers",
    "arrow": "benchmarks.rows.arrow",
    "make": "benchmarks.rows.made",
    "cold": "benchmarks.rows.cold_get",
    "cap": "benchmarks.rows.cap",
    "background": "benchmarks.rows.background",
}


def pause(**result: Any) -> None:
    """Print a line for the parent and block until it answers."""
    print(json.dumps(result), flush=True)
    sys.stdin.readline()


class ChildFailedError(Exception):
    """A child ended without a result; the message holds the end of its standard error."""


class Child:
    """A running job. As a context manager it is killed, by its pid, when the block ends before it does.

    Args:
        job: A name of `JOBS`.
        arguments: Given to the job by name.
        folder: Where its standard error is kept.
    """

    def __init__(self, job: str, arguments: dict[str, Any], folder: Path) -> None:
        fd, self._errors = tempfile.mkstemp(prefix=f"{job}-", suffix=".err", dir=folder)
        with os.fdopen(fd, "wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.child", job, json.dumps(arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self._timer = threading.Timer(JOB_S_MAX, self.process.kill)
        self._timer.daemon = True
        self._timer.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        self._timer.cancel()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def line(self) -> dict[str, Any]:
        """Return the next line of the job, blocking.

        Raises:
            ChildFailedError: it ended without one.
        """
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        if not text:
            self.process.wait()
            said = Path(self._errors).read_text(errors="replace").strip().splitlines()
            raise ChildFailedError(f"exit status {self.process.returncode}: {' | '.join(said[-3:]) or 'killed?'}")
        found: dict[str, Any] = json.loads(text)
        return found

    def go(self) -> None:
        """Answer a pause."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()


async def run_child(job: str, arguments: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the result of a job that does not pause, without blocking the loop.

    Raises:
        ChildFailedError: it failed, or was killed after `JOB_S_MAX`.
    """
    with Child(job, arguments, folder) as child:
        return await asyncio.to_thread(child.line)


def main() -> None:
    """Run the job named on the command line."""
    name, arguments = sys.argv[1], json.loads(sys.argv[2])
    job: Job = getattr(importlib.import_module(JOBS[name]), f"{name}_job")

    async def run() -> dict[str, Any]:
        return await job(**arguments)

    print(json.dumps(asyncio.run(run())), flush=True)


if __name__ == "__main__":
    main()
