"""Reads the frames of one segment, and finds intact frames behind damage.

A segment is read whole (its size is bounded by `SEGMENT_BYTES_MAX`). Reading stops at the first sector that holds no
intact frame; whether that is the end of the log, a torn tail, or corruption is for `wal.replay` to decide, which knows
what later frames and segments say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from wal.errors import LogCorruptError, LogFormatError
from wal.files import File
from wal.format import (
    FRAME_HEADER_BYTES,
    HEADER_BYTES,
    SECTOR_BYTES,
    FrameHeader,
    Kind,
    NewerFormatError,
    SegmentHeader,
    body_is_intact,
    position,
    unpack_frame_header,
    unpack_payloads,
    unpack_segment_header,
)

SEGMENT_BYTES_MAX = 1 << 30


@dataclass(frozen=True, slots=True)
class Frame:
    """An intact frame and where it stands.

    Attributes:
        header: Its fixed part.
        offset: Byte offset in the segment.
        body: Its body, without padding.
    """

    header: FrameHeader
    offset: int
    body: bytes

    def payloads(self) -> list[bytes]:
        """Return the records of a group. A forged table of lengths is a `ValueError`."""
        return unpack_payloads(self.header, self.body)


def read_header(file: File, *, store_id: bytes, lane: int) -> SegmentHeader:
    """Return the header of a segment.

    Raises:
        LogCorruptError: it is damaged.
        LogFormatError: the segment is newer than this code, or of another store or lane.
    """
    data = file.read(HEADER_BYTES, 0)
    try:
        header = unpack_segment_header(data)
    except NewerFormatError as e:
        raise LogFormatError(str(e), path=file.path) from e
    except ValueError as e:
        raise LogCorruptError(str(e), path=file.path, offset=0) from e
    if header.store_id != store_id:
        raise LogFormatError("the segment belongs to another store", path=file.path)
    if header.lane != lane:
        raise LogFormatError(f"the segment belongs to lane {header.lane}, not to lane {lane}", path=file.path)
    return header


class SegmentReader:
    """The frames of one segment, in order, from its bytes in memory.

    Attributes:
        header: The segment's header.
        offset: Where the next frame is expected; after iteration, where reading stopped.
        sealed: Whether iteration ended at a seal.
    """

    def __init__(self, header: SegmentHeader, data: bytes) -> None:
        self.header = header
        self.offset = HEADER_BYTES
        self.sealed = False
        self._data = data
        self._view = memoryview(data)

    @property
    def n_bytes(self) -> int:
        """Bytes of the segment."""
        return len(self._data)

    @property
    def end(self) -> int:
        """The position where reading stopped."""
        return position(self.header.number, self.offset)

    def __iter__(self) -> Iterator[Frame]:
        while not self.sealed:
            frame = self.frame_at(self.offset)
            if frame is None:
                return
            self.offset += frame.header.span
            self.sealed = frame.header.kind is Kind.SEAL
            yield frame

    def frame_at(self, offset: int) -> Frame | None:
        """Return the intact frame at ``offset``, or None."""
        head = unpack_frame_header(self.header, self._data, offset)
        if head is None:
            return None
        stop = offset + FRAME_HEADER_BYTES + head.body_bytes
        if not body_is_intact(self.header, head, offset, self._view[offset:stop]):
            return None
        return Frame(head, offset, self._data[offset + FRAME_HEADER_BYTES : stop])

    @property
    def is_short(self) -> bool:
        """Whether the file has lost bytes; it has its full size before it gets its name."""
        return len(self._data) < self.header.segment_bytes

    def begun_at(self, offset: int) -> bool:
        """Return whether a frame of this segment was begun at ``offset``, damaged as it is."""
        tag = self.header.tag.to_bytes(4, "little")
        if self._data[offset : offset + 4] == tag:
            return True
        rest = self._data[offset + 4 :]
        head = unpack_frame_header(self.header, tag + rest[:FRAME_HEADER_BYTES])
        return head is not None and body_is_intact(self.header, head, offset, memoryview(tag + rest))

    def frames_behind(self, offset: int) -> Iterator[Frame]:
        """Yield every intact frame that starts on a sector after ``offset``."""
        first = offset // SECTOR_BYTES + 1
        n_sectors = len(self._data) // SECTOR_BYTES
        if first >= n_sectors:
            return
        words = np.frombuffer(self._data, np.uint32, n_sectors * SECTOR_BYTES // 4)
        tags = words[:: SECTOR_BYTES // 4][first:]
        resume = 0
        for sector in np.flatnonzero(tags == self.header.tag):
            start = (first + int(sector)) * SECTOR_BYTES
            if start < resume:
                continue
            frame = self.frame_at(start)
            if frame is not None:
                resume = start + frame.header.span
                yield frame
