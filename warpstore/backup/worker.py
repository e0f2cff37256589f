"""The child process of a backup: reads a job from its standard input, writes lines of progress and the result."""

from __future__ import annotations

import os
import sys

import msgspec

from wal import OsFileSystem
from warpstore.backup.job import BackupJob, run_backup
from warpstore.backup.runner import Message
from warpstore.errors import BackupError

NICENESS = 10


def main() -> None:
    """Run the job on standard input. It ends when its parent does: a line that nobody reads is an error."""
    os.nice(NICENESS)
    job = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=BackupJob)
    try:
        result = run_backup(OsFileSystem(), job, lambda copied, total: _say(Message(copied=copied, total=total)))
    except BackupError as e:
        _say(Message(error=type(e).__name__, message=str(e), path=e.path))
    else:
        _say(Message(result=result))


def _say(message: Message) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
