"""What a lane needs around it in a test, all of it on virtual time: shards, a timer, a runner, a writer, and recovery.

A `LaneWorld` is one directory of segments in a `FaultyFiles`. `LaneWorld.recover` does what the store does when it
opens: replay, copy the tail into a new segment that takes over, and write on from there.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from tests.support.faulty_files import FaultyFiles
from wal import Durability, File, Lane, LaneConfig, Replay, Segment, Segments, Stream, WalError, replay
from wal.reader import Frame, SegmentReader, read_header
from wal.replay import segment_path

if TYPE_CHECKING:
    from typing_extensions import Buffer

T = TypeVar("T")

both_modes = pytest.mark.parametrize("durability", ["fsync", "interval"])

STORE_ID = bytes(range(16))
DIRECTORY = "store/log"
SYNC_INTERVAL_S = 0.05
MARK_DELAY_S = 0.01


def frames(files: FaultyFiles, number: int) -> list[Frame]:
    """Return the intact frames of a segment."""
    file = files.open(segment_path(DIRECTORY, number))
    header = read_header(file, store_id=STORE_ID, lane=0)
    data = file.read(file.size(), 0)
    file.close()
    return list(SegmentReader(header, data))


def kinds(files: FaultyFiles, number: int) -> str:
    """Return the kinds of a segment's frames as a word of G, M and S."""
    return "".join(frame.header.kind.name[0] for frame in frames(files, number))


async def settle(seconds: float = 1.0) -> None:
    """Let everything that is under way come to its end."""
    await asyncio.sleep(seconds)


class Owner:
    """A shard: gives what `write` got, and remembers what it heard.

    Attributes:
        heard: "durable", "refused" and "failed", in order, with the LSN or the error.
        groups: The groups that the lane took and did not refuse.
    """

    def __init__(self) -> None:
        self.pending: list[bytes] = []
        self.heard: list[tuple[str, Any]] = []
        self.groups: list[list[bytes]] = []
        self.stream: Stream | None = None
        self.lane: Lane | None = None
        self.on_heard: Callable[[], None] = lambda: None

    def write(self, *payloads: bytes) -> None:
        assert self.lane is not None
        assert self.stream is not None
        self.pending += payloads
        self.lane.request_turn(self.stream)

    def take_group(self) -> list[bytes]:
        group, self.pending = self.pending, []
        if group:
            self.groups.append(group)
        return group

    def on_durable(self, lsn: int) -> None:
        self._hear("durable", lsn)

    def on_refused(self, error: WalError) -> None:
        self.groups.pop()
        self._hear("refused", error)

    def on_failed(self, error: WalError) -> None:
        self._hear("failed", error)

    def _hear(self, what: str, about: object) -> None:
        self.heard.append((what, about))
        self.on_heard()

    @property
    def taken(self) -> list[bytes]:
        """The payloads of those groups."""
        return [payload for group in self.groups for payload in group]

    @property
    def words(self) -> list[str]:
        """What was heard, without the details."""
        return [word for word, _ in self.heard]

    @property
    def durable(self) -> int:
        """The last LSN that was heard to be durable."""
        return max((about for word, about in self.heard if word == "durable"), default=0)


class LoopTimer:
    """A `SyncTimer` on the loop's clock."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.n_ticks = 0
        self.is_stopped = False
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None
        self._tick: Callable[[], None] = lambda: None
        self._interval_s = 0.0

    def start(self, tick: Callable[[], None], interval_s: float) -> None:
        self._tick, self._interval_s = tick, interval_s

    def arm(self) -> None:
        if self._handle is None and not self.is_stopped:
            self._handle = self._loop.call_later(self._interval_s, self._run)

    def stop(self) -> None:
        self.is_stopped = True
        if self._handle is not None:
            self._handle.cancel()

    def fire(self) -> None:
        """Tick now, as the thread does when its time has come."""
        self.n_ticks += 1
        self._tick()

    def _run(self) -> None:
        self._handle = None
        self.fire()


class SlowWriter:
    """A `DurableWriter` whose writes take a time; it refuses a second one before the first is done.

    Attributes:
        writes: (path, offset, bytes) of each write.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, write_s: float) -> None:
        self.write_s = write_s
        self.writes: list[tuple[str, int, int]] = []
        self.is_closed = False
        self._loop = loop
        self._under_way = False

    def write(self, file: File, buffers: Sequence[Buffer], offset: int, done: Callable[[OSError | None], None]) -> None:
        assert not self._under_way, "a second write before the first is done"
        assert not self.is_closed
        self._under_way = True
        self.writes.append((file.path, offset, sum(len(bytes(b)) for b in buffers)))
        error: OSError | None = None
        try:
            file.write(buffers, offset)
            file.sync()
        except OSError as e:
            error = e
        self._loop.call_later(self.write_s, self._end, error, done)

    def _end(self, error: OSError | None, done: Callable[[OSError | None], None]) -> None:
        self._under_way = False
        done(error)

    def close(self) -> None:
        self.is_closed = True


class LaneWorld:
    """A lane in a file system in memory.

    Attributes:
        run_s: How long a blocking call takes.
        events: What the lane told its keeper: "lag", "no lag", "poisoned", "rotated".
        found: What the last recovery found.
        records: Per stream, what the last recovery handed out.
    """

    def __init__(
        self,
        durability: Durability = "fsync",
        *,
        files: FaultyFiles | None = None,
        segment_bytes: int = 32 << 10,
        first_bytes: int | None = None,
        n_streams: int = 2,
        seed: int = 0,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.random = random.Random(seed)
        self.files = files or FaultyFiles()
        self.durability: Durability = durability
        self.segment_bytes = segment_bytes
        self.first_bytes = first_bytes or segment_bytes
        self.n_streams = n_streams
        self.run_s = 0.001
        self.events: list[str] = []
        self.found = Replay()
        self.records: list[list[bytes]] = []
        self.owners: list[Owner] = []
        self.last_lsns = [0] * n_streams
        self.epoch = 0
        if not self.files.is_directory(DIRECTORY):
            self.files.make_directory(DIRECTORY)

    async def run(self, call: Callable[[], T]) -> T:
        """Run a blocking call; time passes before it."""
        await asyncio.sleep(self.run_s)
        return call()

    def new_segments(self) -> Segments:
        """Return the segment files of a new epoch."""
        self.epoch += 1
        return Segments(
            self.files,
            DIRECTORY,
            store_id=STORE_ID,
            lane=0,
            epoch=self.epoch,
            zero_fill=self.durability == "fsync",
            salt=lambda: self.random.getrandbits(64),
        )

    def replay(self, already: Sequence[list[bytes]] = (), **options: Any) -> Replay:
        """Read the log; `records` gets what it holds, behind what a checkpoint has ``already``."""
        self.records = [list(records) for records in already] or [[] for _ in range(self.n_streams)]

        def deliver(stream: int, lsn: int, payloads: list[bytes]) -> None:
            records = self.records[stream]
            assert lsn == len(records) + 1 or options.get("on_corruption") == "salvage"
            records.extend(payloads)

        options = {"first": 1, "after": [0] * self.n_streams, **options}
        return replay(self.files, DIRECTORY, store_id=STORE_ID, lane=0, deliver=deliver, **options)

    def recover_segment(self, **options: Any) -> tuple[Segments, Segment]:
        """Read the log and return a durable segment that takes over from it."""
        segments = self.new_segments()
        segments.remove_temporaries()
        self.found = found = self.replay(**options)
        takeover = list(found.next_lsn)
        for stream, lsn, _ in found.tail:
            takeover[stream] = min(takeover[stream], lsn)
        active = segments.make(
            found.next_number, self.first_bytes, durable=found.durable, takeover=takeover, groups=found.tail
        )
        return segments, active

    def recover(self, **options: Any) -> Lane:
        """Open the lane, and give each stream an owner."""
        segments, active = self.recover_segment(**options)
        self.timer = LoopTimer(self.loop)
        self.writer = SlowWriter(self.loop, 0.0005)
        self.lane = Lane(
            segments,
            active,
            LaneConfig(
                durability=self.durability,
                segment_bytes=self.segment_bytes,
                sync_interval_s=SYNC_INTERVAL_S,
                mark_delay_s=MARK_DELAY_S,
            ),
            loop=self.loop,
            run=self.run,
            timer=self.timer,
            monotonic=self.loop.time,
            writer=self.writer,
            on_lag=lambda lagging: self.events.append("lag" if lagging else "no lag"),
            on_poisoned=lambda _: self.events.append("poisoned"),
            on_rotated=lambda: self.events.append("rotated"),
        )
        self.owners = [Owner() for _ in range(self.n_streams)]
        for index, owner in enumerate(self.owners):
            owner.lane = self.lane
            owner.stream = self.lane.open_stream(index, owner, self.found.next_lsn[index])
        return self.lane
