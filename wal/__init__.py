"""A sharded binary write-ahead log: streams of records, one physical file for many streams, group commit.

`Lane` writes, `replay` reads back, `FORMAT.md` describes the bytes. The package knows nothing of records or stores: a
payload is bytes, a stream is a number.
"""

from wal import aio  # noqa: F401 - `files` asks for it when a log is opened: reading a module then would take its time
from wal.errors import LogClosedError, LogCorruptError, LogFormatError, LogFullError, LogPoisonedError, WalError
from wal.events import error_words, log_event
from wal.files import DurableWriter, File, FileSystem, Lock, OsFileSystem
from wal.lane import Lane
from wal.lane_config import Durability, LaneConfig
from wal.replay import OnCorruption, Replay, TornTail, replay
from wal.segment import Segment, Segments
from wal.stream import Stream, StreamOwner
from wal.sync_timer import SyncTimer, ThreadSyncTimer

__all__ = [
    "Durability",
    "DurableWriter",
    "File",
    "FileSystem",
    "Lane",
    "LaneConfig",
    "Lock",
    "LogClosedError",
    "LogCorruptError",
    "LogFormatError",
    "LogFullError",
    "LogPoisonedError",
    "OnCorruption",
    "OsFileSystem",
    "Replay",
    "Segment",
    "Segments",
    "Stream",
    "StreamOwner",
    "SyncTimer",
    "ThreadSyncTimer",
    "TornTail",
    "WalError",
    "error_words",
    "log_event",
    "replay",
]
