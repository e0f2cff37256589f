"""Reading one segment: its header by name, its frames in order, and what stands behind damage."""

from __future__ import annotations

import pytest

from tests.support.faulty_files import FaultyFiles
from wal import LogCorruptError, LogFormatError
from wal.format import (
    FORMAT_VERSION,
    FRAME_HEADER_BYTES,
    HEADER_BYTES,
    Kind,
    SegmentHeader,
    pack_frame,
    pack_segment_header,
    position,
)
from wal.reader import SegmentReader, read_header

STORE_ID = b"the store's name"
HEADER = SegmentHeader(number=1, lane=2, epoch=1, salt=99, segment_bytes=16 << 10, store_id=STORE_ID, durable=0)
PATH = "log/segment"


def segment(*frames: tuple[Kind, list[bytes]], header: SegmentHeader = HEADER) -> bytearray:
    """Return a segment of these frames, zeros behind them."""
    data = bytearray(pack_segment_header(header))
    for kind, payloads in frames:
        data += b"".join(pack_frame(header, len(data), kind, lsn=1, payloads=payloads))
    return data.ljust(header.segment_bytes, b"\0")


def read(header: bytes, *, store_id: bytes = STORE_ID, lane: int = 2) -> SegmentHeader:
    files = FaultyFiles()
    files.put(PATH, header)
    return read_header(files.open(PATH), store_id=store_id, lane=lane)


def test_the_header_of_our_segment_is_read() -> None:
    assert read(pack_segment_header(HEADER)) == HEADER


@pytest.mark.parametrize("data", [b"", bytes(HEADER_BYTES), pack_segment_header(HEADER)[:-1]])
def test_a_damaged_header_is_corruption_at_offset_0(data: bytes) -> None:
    with pytest.raises(LogCorruptError, match="segment: offset 0: this is no segment header") as raised:
        read(data)
    assert (raised.value.path, raised.value.offset) == (PATH, 0)


def test_a_segment_of_another_store_or_lane_or_a_newer_format_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = pack_segment_header(HEADER)
    with pytest.raises(LogFormatError, match="log/segment: the segment belongs to another store") as raised:
        read(data, store_id=bytes(16))
    assert raised.value.path == PATH
    with pytest.raises(LogFormatError, match="belongs to lane 2, not to lane 0"):
        read(data, lane=0)
    monkeypatch.setattr("wal.format.FORMAT_VERSION", FORMAT_VERSION + 1)
    newer = pack_segment_header(HEADER)
    monkeypatch.undo()
    with pytest.raises(LogFormatError, match="log/segment: the segment has format version 2"):
        read(newer)


def test_frames_are_read_in_order_up_to_the_first_empty_sector() -> None:
    reader = SegmentReader(HEADER, bytes(segment((Kind.GROUP, [b"a", b"b" * 600]), (Kind.MARK, []))))
    frames = list(reader)
    assert [frame.header.kind for frame in frames] == [Kind.GROUP, Kind.MARK]
    assert frames[0].payloads() == [b"a", b"b" * 600]
    assert [frame.offset for frame in frames] == [HEADER_BYTES, HEADER_BYTES + 1024]
    assert (reader.offset, reader.sealed) == (HEADER_BYTES + 1536, False)
    assert reader.end == position(1, HEADER_BYTES + 1536)
    assert not reader.begun_at(reader.offset)


def test_nothing_is_read_behind_a_seal() -> None:
    reader = SegmentReader(HEADER, bytes(segment((Kind.SEAL, []), (Kind.GROUP, [b"a"]))))
    assert [frame.header.kind for frame in reader] == [Kind.SEAL]
    assert reader.sealed
    assert list(reader) == []


def test_a_segment_full_to_its_last_sector_is_read() -> None:
    data = segment((Kind.GROUP, [bytes(3000)]), (Kind.GROUP, [bytes(8600)]))
    full = bytes(data[: HEADER_BYTES + 3072 + 8704])
    reader = SegmentReader(HEADER, full)
    assert len(list(reader)) == 2
    assert reader.offset == len(full)
    assert list(reader.frames_behind(reader.offset)) == []
    assert reader.is_short


def test_reading_stops_at_a_damaged_frame_and_finds_the_intact_ones_behind_it() -> None:
    data = segment((Kind.GROUP, [b"a"]), (Kind.GROUP, [b"b" * 1000]), (Kind.GROUP, [b"c"]), (Kind.MARK, []))
    data[HEADER_BYTES + 512 + 700] ^= 1
    reader = SegmentReader(HEADER, bytes(data))
    assert [frame.payloads() for frame in reader] == [[b"a"]]
    assert reader.begun_at(reader.offset)
    assert not reader.is_short
    assert [frame.header.kind for frame in reader.frames_behind(reader.offset)] == [Kind.GROUP, Kind.MARK]


def test_a_frame_whose_first_bytes_alone_are_damaged_was_begun() -> None:
    data = segment((Kind.GROUP, [b"a"]))
    for byte in range(4):
        damaged = bytearray(data)
        damaged[HEADER_BYTES + byte] ^= 1
        reader = SegmentReader(HEADER, bytes(damaged))
        assert list(reader) == []
        assert reader.begun_at(HEADER_BYTES)


def test_what_a_payload_says_is_never_taken_for_a_frame() -> None:
    inner = HEADER_BYTES + 1024  # a sector that lies within the first frame
    mimic = b"".join(pack_frame(HEADER, inner, Kind.GROUP, lsn=7, payloads=[b"mimic"]))
    data = segment((Kind.MARK, []), (Kind.GROUP, [bytes(512 - FRAME_HEADER_BYTES - 4) + mimic]), (Kind.MARK, []))
    reader = SegmentReader(HEADER, bytes(data))
    assert reader.frame_at(inner) is not None  # whoever looks there must know that it is a payload
    assert [frame.offset for frame in reader] == [HEADER_BYTES, HEADER_BYTES + 512, HEADER_BYTES + 1536]
    assert [frame.offset for frame in reader.frames_behind(HEADER_BYTES)] == [
        HEADER_BYTES + 512,
        HEADER_BYTES + 1536,
    ]


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"\0" * 512])
def test_a_segment_of_less_than_two_sectors_has_nothing_behind(data: bytes) -> None:
    reader = SegmentReader(HEADER, data)
    assert list(reader) == []
    assert list(reader.frames_behind(0)) == []
    assert not reader.begun_at(0)
