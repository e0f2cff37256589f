"""The bytes of segments: what is packed is read back, and nothing else is."""

from __future__ import annotations

import dataclasses

import pytest

from wal.format import (
    FORMAT_VERSION,
    FRAME_BYTES_MAX,
    FRAME_HEADER_BYTES,
    HEADER_BYTES,
    SECTOR_BYTES,
    STREAMS_MAX,
    FrameHeader,
    Kind,
    NewerFormatError,
    SegmentHeader,
    body_is_intact,
    frame_bytes,
    pack_frame,
    pack_segment_header,
    position,
    split_position,
    unpack_frame_header,
    unpack_payloads,
    unpack_segment_header,
)

HEADER = SegmentHeader(
    number=7,
    lane=3,
    epoch=2,
    salt=0x0123_4567_89AB_CDEF,
    segment_bytes=64 << 10,
    store_id=bytes(range(16)),
    durable=position(6, 8192),
    takeover=(5, 1, 9),
)


def packed(*payloads: bytes, offset: int = HEADER_BYTES, header: SegmentHeader = HEADER) -> bytes:
    return b"".join(
        pack_frame(header, offset, Kind.GROUP, stream=2, lsn=11, durable=position(7, HEADER_BYTES), payloads=payloads)
    )


def read(data: bytes, offset: int = HEADER_BYTES, header: SegmentHeader = HEADER) -> list[bytes] | None:
    head = unpack_frame_header(header, data)
    if head is None or not body_is_intact(header, head, offset, memoryview(data)):
        return None
    return unpack_payloads(head, data[FRAME_HEADER_BYTES : FRAME_HEADER_BYTES + head.body_bytes])


def test_a_position_is_ordered_by_segment_and_then_by_offset() -> None:
    assert position(1, (1 << 32) - 1) < position(2, 0) < position(2, 1)
    assert split_position(position(9, 4711)) == (9, 4711)


@pytest.mark.parametrize("takeover", [(), (1,), tuple(range(STREAMS_MAX))])
def test_a_segment_header_is_read_back(takeover: tuple[int, ...]) -> None:
    header = SegmentHeader(
        number=1, lane=0, epoch=1, salt=5, segment_bytes=8192, store_id=bytes(16), durable=0, takeover=takeover
    )
    data = pack_segment_header(header)
    assert len(data) == HEADER_BYTES
    assert unpack_segment_header(data) == header


def test_every_flipped_bit_of_a_segment_header_is_noticed() -> None:
    data = bytearray(pack_segment_header(HEADER))
    for bit in range(8 * HEADER_BYTES):
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match="segment header"):
            unpack_segment_header(bytes(data))
        data[bit // 8] ^= 1 << bit % 8


def test_a_short_segment_header_is_none() -> None:
    with pytest.raises(ValueError, match="no segment header"):
        unpack_segment_header(pack_segment_header(HEADER)[:-1])


def test_a_newer_version_is_refused_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wal.format.FORMAT_VERSION", FORMAT_VERSION + 1)
    data = pack_segment_header(HEADER)
    monkeypatch.undo()
    with pytest.raises(NewerFormatError, match=f"version {FORMAT_VERSION + 1}"):
        unpack_segment_header(data)


def test_a_header_that_names_too_many_streams_is_refused() -> None:
    data = pack_segment_header(dataclasses.replace(HEADER, takeover=(1,) * (STREAMS_MAX + 1)))
    with pytest.raises(ValueError, match="257 streams"):
        unpack_segment_header(data)


def test_the_tag_of_a_segment_is_never_zero() -> None:
    for salt in (0, 0x57A1_F3A5, 1 << 63, (1 << 64) - 1):
        assert 0 < dataclasses.replace(HEADER, salt=salt).tag < 1 << 32


@pytest.mark.parametrize("payloads", [[b"one"], [b"a", b"", b"c" * 5000], [bytes(472)], [bytes(473)], [b""] * 200])
def test_a_frame_is_read_back_and_fills_whole_sectors(payloads: list[bytes]) -> None:
    data = packed(*payloads)
    assert len(data) == frame_bytes(payloads)
    assert len(data) % SECTOR_BYTES == 0
    assert read(data) == payloads
    head = unpack_frame_header(HEADER, data)
    assert head is not None
    assert (head.kind, head.stream, head.lsn, head.n_records) == (Kind.GROUP, 2, 11, len(payloads))
    assert (head.durable, head.span) == (position(7, HEADER_BYTES), len(data))


@pytest.mark.parametrize("kind", [Kind.MARK, Kind.SEAL])
def test_marks_and_seals_fill_one_sector(kind: Kind) -> None:
    data = b"".join(pack_frame(HEADER, HEADER_BYTES, kind, durable=position(7, HEADER_BYTES)))
    assert len(data) == SECTOR_BYTES
    assert read(data) == []


def test_every_flipped_bit_of_a_frame_is_noticed_and_of_its_padding_has_no_effect() -> None:
    data = bytearray(packed(b"one", b"two"))
    used = FRAME_HEADER_BYTES + 4 * 2 + 6
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        assert read(bytes(data)) == (None if bit < 8 * used else [b"one", b"two"])
        data[bit // 8] ^= 1 << bit % 8


def test_a_frame_counts_only_where_it_was_written_and_in_its_segments_life() -> None:
    data = packed(b"one")
    assert read(data, HEADER_BYTES + SECTOR_BYTES) is None
    assert read(data, header=dataclasses.replace(HEADER, number=8)) is None
    assert read(data, header=dataclasses.replace(HEADER, salt=HEADER.salt + 1)) is None
    same_tag = dataclasses.replace(HEADER, salt=HEADER.salt ^ (1 << 5 | 1 << 37))
    assert same_tag.tag == HEADER.tag
    assert read(data, header=same_tag) is None


def test_a_frame_header_cut_short_is_none() -> None:
    data = packed(b"one")
    assert unpack_frame_header(HEADER, data[: FRAME_HEADER_BYTES - 1]) is None
    assert read(data[: FRAME_HEADER_BYTES + 6]) is None


@pytest.mark.parametrize(
    ("offset", "value"),
    [(8, FRAME_BYTES_MAX + 1), (12, 1 << 20), (16, 0), (16, 4), (18, STREAMS_MAX)],
    ids=["body too large", "more records than body", "no kind", "unknown kind", "no such stream"],
)
def test_lengths_beyond_their_limits_make_no_frame(offset: int, value: int) -> None:
    data = bytearray(packed(b"one"))
    width = 4 if offset < 16 else 1 if offset == 16 else 2
    data[offset : offset + width] = value.to_bytes(width, "little")
    assert unpack_frame_header(HEADER, bytes(data)) is None


def test_a_group_that_no_reader_would_accept_is_never_packed() -> None:
    class Large(bytes):
        def __len__(self) -> int:
            return FRAME_BYTES_MAX

    with pytest.raises(ValueError, match="too large"):
        frame_bytes([Large()])


def test_lengths_that_do_not_add_up_are_refused() -> None:
    head = FrameHeader(Kind.GROUP, 0, 11, 2, 1, 0, 0)
    with pytest.raises(ValueError, match="do not add up"):
        unpack_payloads(head, b"\1\0\0\0\5\0\0\0abc")
