"""Replays a lane's log: hands every record that counts to its stream, and judges what is damaged.

The rule. Let reading stop at position p without a seal. If any later intact frame, any later segment's header, or the
position of the last clean close names a durable position beyond p, then what stood at p had been durable: that is
corruption. Otherwise nothing behind p was ever acknowledged as durable: that is a torn tail, which is cut.
The limit of the rule is the last group: a frame that nothing later names can be told from a torn write by nobody.

Frames behind the last named durable position are handed out too, and returned as the `tail`: the caller copies them
into the next segment and syncs it before it serves them, because a page cache may show what a failed sync never wrote.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NoReturn

from wal.errors import LogCorruptError
from wal.files import FileSystem
from wal.format import HEADER_BYTES, Kind, SegmentHeader, position, split_position
from wal.reader import SEGMENT_BYTES_MAX, Frame, SegmentReader, read_header

OnCorruption = Literal["refuse", "point_in_time", "salvage"]
Deliver = Callable[[int, int, list[bytes]], None]

SEGMENT_SUFFIX = ".wal"
_SEGMENT_NAME = re.compile(r"[0-9a-f]{16}\.wal")
_UNLIMITED = 1 << 63


@dataclass(frozen=True, slots=True, kw_only=True)
class TornTail:
    """What was cut off the end of a log.

    Attributes:
        path: The segment.
        offset: Where the cut is.
        n_bytes: Bytes from the cut to the end of the segment.
        n_frames: Intact frames behind the cut, none of which had been acknowledged as durable.
    """

    path: str
    offset: int
    n_bytes: int
    n_frames: int


@dataclass(slots=True, kw_only=True)
class Replay:
    """What a replay found.

    Attributes:
        n_segments: Segments read.
        n_frames: Intact groups that counted.
        n_records: Records handed out.
        n_bytes: Bytes of those groups in the log.
        durable: The position below which the log is known to be durable.
        end: The position where the log ends.
        next_lsn: LSN that each stream assigns next.
        tail: Groups behind ``durable`` as (stream, first LSN, payloads).
        torn: The torn tail, or None.
        damage: What was skipped or cut by ``on_corruption``, in words.
        numbers: Numbers of the segments present, ascending.
        next_number: Number of the segment that the next epoch writes first.
    """

    n_segments: int = 0
    n_frames: int = 0
    n_records: int = 0
    n_bytes: int = 0
    durable: int = 0
    end: int = 0
    next_lsn: list[int] = field(default_factory=list)
    tail: list[tuple[int, int, list[bytes]]] = field(default_factory=list)
    torn: TornTail | None = None
    damage: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    next_number: int = 1


def segment_path(directory: str, number: int) -> str:
    """Return the path of segment ``number``."""
    return f"{directory}/{number:016x}{SEGMENT_SUFFIX}"


def segment_numbers(files: FileSystem, directory: str) -> list[int]:
    """Return the numbers of the segments in a directory, ascending."""
    names = files.list_directory(directory)
    return sorted(int(n[: -len(SEGMENT_SUFFIX)], 16) for n in names if _SEGMENT_NAME.fullmatch(n))


def replay(
    files: FileSystem,
    directory: str,
    *,
    store_id: bytes,
    lane: int,
    first: int,
    after: Sequence[int],
    deliver: Deliver,
    last: int | None = None,
    until: int | None = None,
    clean_end: int = 0,
    streams: frozenset[int] | None = None,
    on_corruption: OnCorruption = "refuse",
) -> Replay:
    """Hand every record behind ``after`` to ``deliver`` and return what was found.

    Args:
        files: The file system.
        directory: The lane's folder.
        store_id: The store that the segments must belong to.
        lane: The lane that they must belong to.
        first: Number of the first segment that counts; older files are ignored.
        after: Per stream, the LSN up to which a checkpoint already holds its records.
        deliver: Called with (stream, LSN of the first payload, payloads), in log order per stream.
        last: Number of a segment that must exist, or None.
        until: Number of the last segment to read, or None for all there are.
        clean_end: Position where a clean close ended the log; 0 if it was not closed cleanly.
        streams: Hand out only these; None for all.
        on_corruption: "refuse" raises; "point_in_time" ends the log before the damage; "salvage" skips the damage.

    Raises:
        LogCorruptError: durable bytes are damaged, or a segment is missing.
        LogFormatError: a segment is not ours.
        OSError: reading failed.
    """
    numbers = [n for n in segment_numbers(files, directory) if n >= first and (until is None or n <= until)]
    _require_all(directory, numbers, first, until or last, clean_end)
    headers = []
    for number in numbers:
        path = segment_path(directory, number)
        file = files.open(path)
        try:
            headers.append(read_header(file, store_id=store_id, lane=lane))
        finally:
            file.close()
        if headers[-1].number != number:
            raise LogCorruptError(f"this is segment {headers[-1].number}", path=path, offset=0)
    replayer = _Replayer(files, directory, headers, after, deliver, streams, on_corruption)
    replayer.found.numbers = numbers
    replayer.found.next_number = first
    replayer.found.durable = clean_end
    return replayer.run(clean_end, whole=until is None)


def _require_all(directory: str, numbers: list[int], first: int, last: int | None, clean_end: int) -> None:
    """Refuse a log whose segments are not consecutive from ``first`` through ``last`` and the clean end."""
    wanted = max(last or 0, split_position(clean_end)[0], *numbers, 0)
    present = set(numbers)
    for number in range(first, wanted + 1):
        if number not in present:
            raise LogCorruptError("the segment is missing", path=segment_path(directory, number), offset=0)


class _Replayer:
    """One run of `replay`: the state that goes from frame to frame."""

    def __init__(
        self,
        files: FileSystem,
        directory: str,
        headers: list[SegmentHeader],
        after: Sequence[int],
        deliver: Deliver,
        streams: frozenset[int] | None,
        on_corruption: OnCorruption,
    ) -> None:
        self.files = files
        self.directory = directory
        self.headers = headers
        self.deliver = deliver
        self.streams = streams
        self.on_corruption = on_corruption
        self.after = after
        self.found = Replay(next_lsn=[n + 1 for n in after])
        self.log_next: list[int | None] = [None] * len(after)
        self.pending: deque[tuple[int, int, int, list[bytes]]] = deque()

    def run(self, clean_end: int, *, whole: bool) -> Replay:
        found = self.found
        i: int | None = 0 if self.headers else None
        while i is not None:
            reader = self.load(self.headers[i])
            found.n_segments += 1
            self.name_durable(reader.header.durable)
            limits = self.takeover_limits(i)
            for frame in reader:
                self.take(frame, reader, limits)
            i = self.next_segment(i, reader, limits, clean_end, whole=whole)
            found.end = reader.end
        found.tail = [(stream, lsn, payloads) for _, stream, lsn, payloads in self.pending]
        if self.headers:
            last = self.headers[-1].number
            found.next_number = last if found.end == position(last, HEADER_BYTES) else last + 1
        return found

    def load(self, header: SegmentHeader) -> SegmentReader:
        file = self.files.open(segment_path(self.directory, header.number))
        try:
            n_bytes = file.size()
            if n_bytes > SEGMENT_BYTES_MAX:
                raise LogCorruptError(f"the segment has {n_bytes} bytes", path=file.path, offset=0)
            return SegmentReader(header, file.read(n_bytes, 0))
        finally:
            file.close()

    def name_durable(self, at: int) -> None:
        found = self.found
        if at > found.durable:
            found.durable = at
            while self.pending and self.pending[0][0] < at:
                self.pending.popleft()

    def takeover_limits(self, i: int) -> list[int]:
        """Return, per stream, the LSN from which a later segment counts instead of segment ``i``."""
        limits = [_UNLIMITED] * len(self.after)
        for header in self.headers[i + 1 :]:
            for stream, lsn in enumerate(header.takeover[: len(limits)]):
                limits[stream] = min(limits[stream], lsn)
        return limits

    def take(self, frame: Frame, reader: SegmentReader, limits: list[int]) -> None:
        """Let one intact frame count: check its place in its stream, and deliver what no checkpoint holds."""
        head = frame.header
        self.name_durable(head.durable)
        if head.kind is not Kind.GROUP:
            return
        stream, lsn = head.stream, head.lsn
        if stream >= len(self.after):
            self.refuse(reader, frame.offset, f"a record of stream {stream}, the store has {len(self.after)}")
        try:
            payloads = frame.payloads()
        except ValueError as e:
            self.refuse(reader, frame.offset, str(e))
        if lsn + len(payloads) > limits[stream]:
            payloads = payloads[: max(0, limits[stream] - lsn)]
        if not payloads:
            return
        self.check_order(stream, lsn, len(payloads), reader, frame.offset)
        found = self.found
        found.n_frames += 1
        found.n_bytes += head.span
        held = self.after[stream] + 1 - lsn
        if held > 0:
            payloads = payloads[held:]
            lsn += held
        if not payloads:
            return
        at = position(reader.header.number, frame.offset)
        if at >= found.durable:
            self.pending.append((at, stream, lsn, payloads))
        if self.streams is None or stream in self.streams:
            found.n_records += len(payloads)
            self.deliver(stream, lsn, payloads)

    def check_order(self, stream: int, lsn: int, n: int, reader: SegmentReader, offset: int) -> None:
        expected = self.log_next[stream]
        in_order = lsn <= self.after[stream] + 1 if expected is None else lsn == expected
        if not in_order and self.on_corruption != "salvage":
            before = self.after[stream] if expected is None else expected - 1
            self.refuse(reader, offset, f"LSN {lsn} of stream {stream} follows LSN {before}")
        self.log_next[stream] = lsn + n
        self.found.next_lsn[stream] = max(self.found.next_lsn[stream], lsn + n)

    def next_segment(
        self, i: int, reader: SegmentReader, limits: list[int], clean_end: int, *, whole: bool
    ) -> int | None:
        """Return the index of the segment where the log goes on, or None at its end. Judges what stopped reading."""
        headers = self.headers
        follows = i + 1 if i + 1 < len(headers) else None
        while not reader.sealed:
            successor = next((j for j in range(i + 1, len(headers)) if headers[j].takeover), None)
            behind = list(reader.frames_behind(reader.offset))
            if successor is not None:
                # Whoever made it has judged this end, and copied into it what nothing named as durable.
                if headers[successor].durable <= reader.end:
                    return successor
            else:
                later = [f for h in headers[i + 1 :] for f in self.load(h)]
                named = [f.header.durable for f in (*behind, *later)] + [h.durable for h in headers[i + 1 :]]
                if max(clean_end, *named, 0) <= reader.end:
                    self.cut(reader, len(behind) + len(later))
                    return None
            self.damaged(reader, "what stood here was durable, and is damaged")
            if self.on_corruption == "point_in_time":
                self.found.durable = reader.end  # so the next replay sees an end where this one made it
                return None
            if not behind:
                return follows
            reader.offset = behind[0].offset
            for frame in reader:
                self.take(frame, reader, limits)
        if whole and follows is None:
            path = segment_path(self.directory, reader.header.number + 1)
            raise LogCorruptError("the segment is missing: the one before it ends in a seal", path=path, offset=0)
        return follows

    def cut(self, reader: SegmentReader, n_frames: int) -> None:
        """End the log where the reader stands; report it if something was begun there."""
        if n_frames or reader.is_short or reader.begun_at(reader.offset):
            path = segment_path(self.directory, reader.header.number)
            n_bytes = max(0, reader.n_bytes - reader.offset)
            self.found.torn = TornTail(path=path, offset=reader.offset, n_bytes=n_bytes, n_frames=n_frames)

    def damaged(self, reader: SegmentReader, message: str) -> None:
        path = segment_path(self.directory, reader.header.number)
        if self.on_corruption == "refuse":
            raise LogCorruptError(message, path=path, offset=reader.offset)
        self.found.damage.append(f"{path}: offset {reader.offset}: {message}")

    def refuse(self, reader: SegmentReader, offset: int, message: str) -> NoReturn:
        path = segment_path(self.directory, reader.header.number)
        raise LogCorruptError(message, path=path, offset=offset)
