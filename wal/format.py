"""The bytes of a segment: its header and its frames. `FORMAT.md` has the byte maps and a worked example.

Pure functions over bytes; no file is opened here. Writer and reader agree on three things that this module owns:

* A *position* is one number for a place in a lane's log: segment number in the upper 32 bits, byte offset in the lower.
* A frame starts on a sector. Its checksum covers the segment's salt and the frame's own position, so a frame that was
  moved, repeated, or left over from the segment's earlier life is no frame.
* Every frame names the position below which the log was durable when it was written.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import accumulate, pairwise

from google_crc32c import extend, value

from wal._native import pack_checked

SECTOR_BYTES = 512
HEADER_BYTES = 4096
MAGIC = b"WARPWAL1"
FORMAT_VERSION = 1
STREAMS_MAX = 256
FRAME_BYTES_MAX = 256 << 20
OFFSET_BITS = 32

_HEADER = struct.Struct("<8sHHIIIQQQ16s")
_CRC = struct.Struct("<I")
_FRAME = struct.Struct("<IIIIBBHIQQ")
_TAG_AND_CRC = struct.Struct("<II")
_SEED = struct.Struct("<QQ")
FRAME_HEADER_BYTES = _FRAME.size
_TAG_MIX = 0x57A1_F3A5
_PADDING = bytes(SECTOR_BYTES)


class NewerFormatError(ValueError):
    """The bytes are intact, and of a format version that this code does not know."""


class Kind(IntEnum):
    """What a frame says."""

    GROUP = 1
    """Records of one stream, in the order of their LSNs."""
    MARK = 2
    """Nothing but how far the log is durable."""
    SEAL = 3
    """The segment ends here; the log goes on in the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentHeader:
    """What a segment says of itself.

    Attributes:
        number: Position of the segment in the lane, from 1.
        lane: The lane.
        epoch: Counts the openings of the store; a segment belongs to one.
        salt: Random; enters every checksum of the segment.
        segment_bytes: Size of the file.
        store_id: 16 bytes that name the store.
        durable: The position below which the log was durable when the segment was made.
        takeover: First LSN of each stream from which this segment, not an older one, counts; empty where the segment
            simply follows the one before it.
    """

    number: int
    lane: int
    epoch: int
    salt: int
    segment_bytes: int
    store_id: bytes
    durable: int
    takeover: tuple[int, ...] = ()

    @property
    def tag(self) -> int:
        """The four bytes that open each frame of this segment, never zero."""
        return ((self.salt ^ (self.salt >> 32) ^ _TAG_MIX) & 0xFFFFFFFF) | 1


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """The fixed part of a frame.

    Attributes:
        kind: What it says.
        stream: The stream of its records.
        body_bytes: Bytes of body after the header.
        n_records: Records in the body.
        lsn: LSN of the first record.
        durable: The position below which the log was durable when this was written.
        crc: The stored checksum.
    """

    kind: Kind
    stream: int
    body_bytes: int
    n_records: int
    lsn: int
    durable: int
    crc: int

    @property
    def span(self) -> int:
        """Bytes from this frame to the next."""
        return sectors(FRAME_HEADER_BYTES + self.body_bytes)


def position(number: int, offset: int) -> int:
    """Return the position of ``offset`` in segment ``number``."""
    return number << OFFSET_BITS | offset


def split_position(at: int) -> tuple[int, int]:
    """Return the segment number and the byte offset of a position."""
    return at >> OFFSET_BITS, at & (1 << OFFSET_BITS) - 1


def sectors(n_bytes: int) -> int:
    """Return ``n_bytes`` rounded up to whole sectors."""
    return (n_bytes + SECTOR_BYTES - 1) & -SECTOR_BYTES


def pack_segment_header(header: SegmentHeader) -> bytes:
    """Return the 4,096 bytes that open a segment."""
    fixed = _HEADER.pack(
        MAGIC,
        FORMAT_VERSION,
        header.lane,
        len(header.takeover),
        header.segment_bytes,
        0,
        header.number,
        header.epoch,
        header.durable,
        header.store_id,
    )
    body = fixed + struct.pack(f"<Q{len(header.takeover)}Q", header.salt, *header.takeover)
    body = body.ljust(HEADER_BYTES - _CRC.size, b"\0")
    return body + _CRC.pack(value(body))


def unpack_segment_header(data: bytes) -> SegmentHeader:
    """Return the header at the start of a segment.

    Raises:
        ValueError: it is damaged.
        NewerFormatError: it is of a newer format version.
    """
    if len(data) < HEADER_BYTES or data[:8] != MAGIC:
        raise ValueError("this is no segment header")
    body, (crc,) = data[: HEADER_BYTES - _CRC.size], _CRC.unpack_from(data, HEADER_BYTES - _CRC.size)
    if value(body) != crc:
        raise ValueError("the checksum of the segment header is wrong")
    _, version, lane, n_takeover, segment_bytes, _, number, epoch, durable, store_id = _HEADER.unpack_from(body)
    if version > FORMAT_VERSION:
        raise NewerFormatError(f"the segment has format version {version}, this code reads up to {FORMAT_VERSION}")
    if n_takeover > STREAMS_MAX:
        raise ValueError(f"the segment header names {n_takeover} streams, the limit is {STREAMS_MAX}")
    salt, *takeover = struct.unpack_from(f"<Q{n_takeover}Q", body, _HEADER.size)
    return SegmentHeader(
        number=number,
        lane=lane,
        epoch=epoch,
        salt=salt,
        segment_bytes=segment_bytes,
        store_id=store_id,
        durable=durable,
        takeover=tuple(takeover),
    )


def pack_frame(
    header: SegmentHeader,
    offset: int,
    kind: Kind,
    *,
    stream: int = 0,
    lsn: int = 0,
    durable: int = 0,
    payloads: list[bytes] | tuple[bytes, ...] = (),
) -> list[bytes]:
    """Return a frame for ``offset`` of the segment as buffers that together fill whole sectors.

    `frame_bytes` tells the size before, and refuses what is too large.

    Cost:
        One copy and one CRC32C over all of it, whatever the number of records.
    """
    checked = pack_checked(kind, stream, lsn, durable, payloads)
    head = _TAG_AND_CRC.pack(header.tag, extend(_seed(header, offset), checked))
    return [head, checked, _PADDING[: -(len(head) + len(checked)) % SECTOR_BYTES]]


def frame_bytes(payloads: Sequence[bytes]) -> int:
    """Return how many bytes `pack_frame` will fill.

    Raises:
        ValueError: the payloads make a frame that no reader would accept.
    """
    body_bytes = 4 * len(payloads) + sum(map(len, payloads))
    if body_bytes > FRAME_BYTES_MAX:
        raise ValueError(f"a group of {body_bytes} bytes is too large, the limit is {FRAME_BYTES_MAX}")
    return (FRAME_HEADER_BYTES + body_bytes + SECTOR_BYTES - 1) & -SECTOR_BYTES


def unpack_frame_header(header: SegmentHeader, data: bytes, at: int = 0) -> FrameHeader | None:
    """Return the frame header at ``data[at:]``, or None if no frame of this segment can start there.

    Only plausibility is checked: `body_is_intact` checks the frame.
    """
    if len(data) - at < FRAME_HEADER_BYTES:
        return None
    tag, crc, body_bytes, n, kind, _, stream, _, lsn, durable = _FRAME.unpack_from(data, at)
    if tag != header.tag or kind not in _KINDS:
        return None
    if body_bytes > FRAME_BYTES_MAX or stream >= STREAMS_MAX or 4 * n > body_bytes:
        return None
    return FrameHeader(_KINDS[kind], stream, body_bytes, n, lsn, durable, crc)


def body_is_intact(header: SegmentHeader, frame: FrameHeader, offset: int, data: memoryview) -> bool:
    """Return whether a frame and its body are what was written.

    Args:
        header: The segment's.
        frame: What `unpack_frame_header` gave.
        offset: Where in the segment the frame starts.
        data: The frame's bytes: header and body.
    """
    if len(data) < FRAME_HEADER_BYTES + frame.body_bytes:
        return False
    return bool(extend(_seed(header, offset), bytes(data[8 : FRAME_HEADER_BYTES + frame.body_bytes])) == frame.crc)


def unpack_payloads(frame: FrameHeader, body: bytes) -> list[bytes]:
    """Return the payloads of an intact group.

    Raises:
        ValueError: the lengths do not add up to the body.
    """
    n = frame.n_records
    lengths = struct.unpack_from(f"<{n}I", body)
    ends = list(accumulate(lengths, initial=4 * n))
    if ends[-1] != len(body):
        raise ValueError("the lengths of the records do not add up to the body")
    return [body[a:b] for a, b in pairwise(ends)]


def _seed(header: SegmentHeader, offset: int) -> int:
    return int(value(_SEED.pack(header.salt, header.number << OFFSET_BITS | offset)))


_KINDS: dict[int, Kind] = {int(kind): kind for kind in Kind}
