"""The child process of a checkpoint: reads a job from its standard input, writes the result to its standard output."""

from __future__ import annotations

import os
import sys

import msgspec

from wal import OsFileSystem
from warpstore.checkpoint.job import CheckpointJob, run_job

NICENESS = 5


def main() -> None:
    """Run the job on standard input; an exception ends the process with its text on standard error."""
    os.nice(NICENESS)
    job = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=CheckpointJob)
    sys.stdout.buffer.write(msgspec.msgpack.encode(run_job(OsFileSystem(), job)))


if __name__ == "__main__":
    main()
