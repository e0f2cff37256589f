"""Replay: order, gaps, takeover, and the judgement of damage; every case on files placed by hand."""

from __future__ import annotations

import importlib
import struct
from collections.abc import Callable
from typing import Any

import google_crc32c
import pytest

from tests.support.faulty_files import FaultyFiles
from wal import LogCorruptError, LogFormatError, OnCorruption, Replay, replay
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
from wal.reader import SEGMENT_BYTES_MAX
from wal.replay import segment_path

LOG = "log"
STORE_ID = b"the store's name"
SIZE = 12 << 10


class Log:
    """Segments placed by hand, and what a replay of them hands out."""

    def __init__(self) -> None:
        self.files = FaultyFiles()
        self.files.make_directory(LOG)
        self.data: dict[int, bytearray] = {}
        self.records: dict[int, list[bytes]] = {}

    def segment(self, number: int, *, salt: int = 0, durable: int = 0, takeover: tuple[int, ...] = ()) -> Writer:
        header = SegmentHeader(
            number=number,
            lane=0,
            epoch=1,
            salt=salt or number * 0x9E37_79B9_7F4A_7C15 & (1 << 64) - 1,
            segment_bytes=SIZE,
            store_id=STORE_ID,
            durable=durable,
            takeover=takeover,
        )
        self.data[number] = bytearray(pack_segment_header(header)).ljust(SIZE, b"\0")
        return Writer(self.data[number], header)

    def replay(self, on_corruption: OnCorruption = "refuse", **options: Any) -> Replay:
        for name in self.files.list_directory(LOG):
            self.files.remove(f"{LOG}/{name}")
        for number, data in self.data.items():
            self.files.put(segment_path(LOG, number), bytes(data))
        self.records = {}

        def deliver(stream: int, lsn: int, payloads: list[bytes]) -> None:
            self.records.setdefault(stream, []).extend(payloads)

        options = {"store_id": STORE_ID, "lane": 0, "first": 1, "after": [0, 0], "deliver": deliver, **options}
        try:
            return replay(self.files, LOG, on_corruption=on_corruption, **options)
        finally:
            assert self.files.open_files == []

    def refused(self, number: int, offset: int, match: str = "is damaged", **options: Any) -> None:
        """Assert that the replay is refused, by path and offset."""
        with pytest.raises(LogCorruptError, match=match) as raised:
            self.replay(**options)
        assert (raised.value.path, raised.value.offset) == (segment_path(LOG, number), offset)


class Writer:
    """Appends frames to a segment's bytes."""

    def __init__(self, data: bytearray, header: SegmentHeader) -> None:
        self.data = data
        self.header = header
        self.offset = HEADER_BYTES

    @property
    def end(self) -> int:
        return position(self.header.number, self.offset)

    def frame(self, kind: Kind, durable: int | None = None, **content: Any) -> int:
        """Append a frame that names ``durable``, everything before it if None; return its offset."""
        at = self.offset
        durable = self.end if durable is None else durable
        frame = b"".join(pack_frame(self.header, at, kind, durable=durable, **content))
        self.data[at : at + len(frame)] = frame
        self.offset += len(frame)
        return at

    def group(self, lsn: int, *payloads: bytes, stream: int = 0, durable: int | None = None) -> int:
        return self.frame(Kind.GROUP, durable, stream=stream, lsn=lsn, payloads=payloads)

    def mark(self) -> int:
        return self.frame(Kind.MARK)

    def seal(self) -> int:
        return self.frame(Kind.SEAL)


def two_segments() -> tuple[Log, list[int]]:
    """Return a log of LSNs 1-4 in two segments, and the offsets of its groups."""
    log = Log()
    one = log.segment(1)
    offsets = [one.group(1, b"1"), one.group(2, b"2")]
    one.seal()
    two = log.segment(2, durable=one.end)
    offsets += [two.group(3, b"3"), two.group(4, b"4")]
    return log, offsets


# What counts


def test_an_empty_directory_is_an_empty_log() -> None:
    found = Log().replay()
    assert (found.n_segments, found.next_number, found.next_lsn, found.numbers) == (0, 1, [1, 1], [])
    assert Log().replay(first=7).next_number == 7


def test_records_come_in_order_from_all_segments() -> None:
    log, _ = two_segments()
    found = log.replay()
    assert log.records == {0: [b"1", b"2", b"3", b"4"]}
    assert (found.n_segments, found.n_frames, found.n_records, found.n_bytes) == (2, 4, 4, 4 * 512)
    assert (found.next_lsn, found.numbers, found.next_number) == ([5, 1], [1, 2], 3)
    assert found.durable == position(2, HEADER_BYTES + 512)
    assert found.end == position(2, HEADER_BYTES + 1024)
    assert found.tail == [(0, 4, [b"4"])]
    assert (found.torn, found.damage) == (None, [])


def test_a_mark_names_the_last_group_so_nothing_is_tail() -> None:
    log = Log()
    one = log.segment(1)
    one.group(1, b"1")
    one.mark()
    assert log.replay().tail == []


def test_what_a_checkpoint_holds_is_not_handed_out_again() -> None:
    log = Log()
    one = log.segment(1)
    one.group(1, b"1", b"2")
    one.group(3, b"3", b"4")
    found = log.replay(after=[3, 0])
    assert log.records == {0: [b"4"]}
    assert (found.next_lsn, found.n_records) == ([5, 1], 1)
    assert log.replay(after=[9, 0]).next_lsn == [10, 1]
    assert log.records == {}


def test_only_the_wanted_streams_are_handed_out() -> None:
    log = Log()
    one = log.segment(1)
    one.group(1, b"a")
    one.group(1, b"b", stream=1)
    found = log.replay(streams=frozenset({1}))
    assert log.records == {1: [b"b"]}
    assert (found.n_records, found.next_lsn) == (1, [2, 2])


def test_a_group_without_records_says_nothing() -> None:
    log = Log()
    one = log.segment(1)
    one.group(1)
    one.group(1, b"1")
    assert log.replay().n_frames == 1


def test_an_unused_last_segment_is_written_again() -> None:
    log, _ = two_segments()
    log.data[2][HEADER_BYTES:] = bytes(SIZE - HEADER_BYTES)
    found = log.replay()
    assert (found.next_number, found.torn, found.end) == (2, None, position(2, HEADER_BYTES))


def test_reading_ends_with_the_segment_that_was_asked_for() -> None:
    log, _ = two_segments()
    assert log.replay(until=1).n_segments == 1
    assert log.records == {0: [b"1", b"2"]}


def test_older_segments_than_the_first_are_not_looked_at() -> None:
    log, _ = two_segments()
    log.data[1][0] ^= 1
    log.replay(first=2, after=[2, 0])
    assert log.records == {0: [b"3", b"4"]}


# Segments that are missing or not ours


@pytest.mark.parametrize(
    ("gone", "options"),
    [
        ([1], {}),
        ([2], {}),
        ([3], {}),
        ([3, 4], {"last": 4}),
        ([4], {"last": 4}),
        ([4], {"clean_end": position(4, HEADER_BYTES)}),
        ([1, 2, 3, 4], {"last": 4}),
        ([3, 4], {"until": 3}),
    ],
)
def test_a_missing_segment_is_refused_by_name(gone: list[int], options: dict[str, Any]) -> None:
    log = Log()
    for number in range(1, 5):
        writer = log.segment(number)
        writer.group(number, b"%d" % number)
        if number < 4:
            writer.seal()
    for number in gone:
        del log.data[number]
    log.refused(gone[0], 0, "missing", **options)


def test_a_sealed_segment_without_a_successor_is_refused() -> None:
    log, _ = two_segments()
    del log.data[2]
    log.refused(2, 0, "the one before it ends in a seal")


def test_segments_of_another_store_or_lane_or_a_newer_format_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log, _ = two_segments()
    with pytest.raises(LogFormatError, match=r"0001\.wal: the segment belongs to another store"):
        log.replay(store_id=bytes(16))
    with pytest.raises(LogFormatError, match=r"0001\.wal: the segment belongs to lane 0, not to lane 5"):
        log.replay(lane=5)
    monkeypatch.setattr("wal.format.FORMAT_VERSION", FORMAT_VERSION + 1)
    log.segment(2)
    monkeypatch.undo()
    with pytest.raises(LogFormatError, match=r"0002\.wal: the segment has format version"):
        log.replay()


def test_a_segment_under_another_number_is_refused() -> None:
    log, _ = two_segments()
    log.data[2] = log.data[1]
    log.refused(2, 0, "this is segment 1")


def test_an_old_copy_of_a_segment_is_refused() -> None:
    log, offsets = two_segments()
    log.data[1][offsets[1] :] = bytes(SIZE - offsets[1])  # as it was before its second group
    log.refused(1, offsets[1], "was durable, and is damaged")


def test_a_segment_of_another_life_under_our_number_is_refused() -> None:
    log, _ = two_segments()
    stranger = log.segment(1, salt=4711)
    stranger.group(7, b"7")
    stranger.seal()
    log.refused(1, HEADER_BYTES, "LSN 7 of stream 0 follows LSN 0")


def test_a_file_larger_than_any_segment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    log, _ = two_segments()
    monkeypatch.setattr(importlib.import_module("wal.replay"), "SEGMENT_BYTES_MAX", SIZE - 1)
    log.refused(1, 0, f"the segment has {SIZE} bytes")
    assert SEGMENT_BYTES_MAX == 1 << 30


# Order


@pytest.mark.parametrize("lsn", [1, 2, 4, 1 << 40])
def test_a_gap_or_a_repetition_in_a_stream_is_refused(lsn: int) -> None:
    log = Log()
    one = log.segment(1)
    one.group(1, b"1", b"2")
    one.group(1, b"1", stream=1)
    at = one.group(lsn, b"?")
    log.refused(1, at, f"LSN {lsn} of stream 0 follows LSN 2")


def test_a_log_that_begins_behind_its_checkpoint_is_refused() -> None:
    log = Log()
    at = log.segment(1).group(5, b"5")
    log.refused(1, at, "LSN 5 of stream 0 follows LSN 3", after=[3, 0])
    log.replay(after=[4, 0])


def test_a_stream_that_the_store_does_not_have_is_refused() -> None:
    log = Log()
    at = log.segment(1).group(1, b"x", stream=2)
    log.refused(1, at, "a record of stream 2, the store has 2")


def test_a_forged_table_of_lengths_is_refused() -> None:
    log = Log()
    one = log.segment(1)
    seed = google_crc32c.value(struct.pack("<QQ", one.header.salt, one.end))
    head, checked, _ = pack_frame(one.header, one.offset, Kind.GROUP, lsn=1, payloads=[b"abc"])
    forged = checked[:32] + struct.pack("<I", 4) + checked[36:]
    crc = google_crc32c.extend(seed, forged)
    one.data[one.offset : one.offset + 39] = head[:4] + struct.pack("<I", crc) + forged
    log.refused(1, HEADER_BYTES, "do not add up")


# Torn tail or corruption


def test_damage_in_the_last_group_that_nothing_names_is_a_torn_tail() -> None:
    log, offsets = two_segments()
    log.data[2][offsets[3] + 33] ^= 1
    found = log.replay()
    assert log.records == {0: [b"1", b"2", b"3"]}
    assert found.torn is not None
    assert (found.torn.path, found.torn.offset) == (segment_path(LOG, 2), offsets[3])
    assert (found.torn.n_bytes, found.torn.n_frames) == (SIZE - offsets[3], 0)
    assert (found.end, found.next_lsn, found.next_number) == (position(2, offsets[3]), [4, 1], 3)


def test_damage_below_what_a_later_frame_names_is_corruption() -> None:
    for named_by in range(4):
        log, offsets = two_segments()
        target = offsets[named_by]
        log.data[2 if named_by > 1 else 1][target + 33] ^= 1
        if named_by < 3:
            log.refused(2 if named_by > 1 else 1, target, "was durable, and is damaged")
        else:
            assert log.replay().torn is not None


def test_damage_below_what_a_mark_or_a_seal_names_is_corruption() -> None:
    for kind in (Kind.MARK, Kind.SEAL):
        log = Log()
        one = log.segment(1)
        at = one.group(1, b"1")
        one.frame(kind)
        one.data[at + 20] ^= 1
        log.refused(1, at)


def test_damage_below_the_clean_end_is_corruption() -> None:
    log, offsets = two_segments()
    log.replay(clean_end=position(2, offsets[3] + 512))
    log.data[2][offsets[3] + 33] ^= 1
    log.refused(2, offsets[3], clean_end=position(2, offsets[3] + 512))


def test_damage_below_what_the_next_segments_header_names_is_corruption() -> None:
    log, offsets = two_segments()
    log.data[2][HEADER_BYTES:] = bytes(SIZE - HEADER_BYTES)
    log.data[1][offsets[1] :] = bytes(SIZE - offsets[1])  # the seal is gone as well
    log.refused(1, offsets[1])


def test_a_damaged_seal_is_a_torn_tail_unless_the_next_segment_names_it() -> None:
    log = Log()
    one = log.segment(1)
    one.group(1, b"1")
    seal = one.seal()
    two = log.segment(2, durable=position(1, seal))
    one.data[seal] ^= 1
    assert log.replay().torn is not None  # nothing behind it was durable
    two.group(2, b"2")
    log.refused(1, seal)


def test_intact_frames_behind_a_torn_one_are_not_taken_and_counted() -> None:
    log = Log()
    one = log.segment(1)
    one.group(1, b"1")
    named = one.end
    torn = one.group(2, b"2")
    one.group(3, b"3", durable=named)
    log.segment(2).group(4, b"4", durable=named)
    one.data[torn + 40] ^= 1
    found = log.replay()
    assert log.records == {0: [b"1"]}
    assert found.torn is not None
    assert found.torn.n_frames == 2


def test_a_torn_first_sector_of_zeros_is_the_end_of_the_log() -> None:
    log, offsets = two_segments()
    log.data[2][offsets[3] : offsets[3] + 512] = bytes(512)
    assert log.replay().torn is None
    assert log.records == {0: [b"1", b"2", b"3"]}


def test_a_segment_that_has_lost_its_end_is_reported() -> None:
    log, offsets = two_segments()
    del log.data[2][offsets[3] :]
    found = log.replay()
    assert found.torn is not None
    assert (found.torn.offset, found.torn.n_bytes) == (offsets[3], 0)


def test_a_damaged_header_is_corruption() -> None:
    log, _ = two_segments()
    log.data[2][100] ^= 1
    log.refused(2, 0, "checksum of the segment header")


# Takeover


def taken_over(copies: bool) -> tuple[Log, Writer, Writer]:
    """Return a log whose segment 2 takes over from LSN 3; 3 and 4 stand in segment 1 as well."""
    log = Log()
    one = log.segment(1)
    one.group(1, b"1", b"2")
    one.group(3, b"old 3", b"old 4")
    two = log.segment(2, durable=position(1, HEADER_BYTES + 512), takeover=(3, 1))
    if copies:
        two.group(3, b"3", b"4")
        two.group(5, b"5")
    return log, one, two


def test_a_takeover_hides_what_older_segments_hold_beyond_it() -> None:
    log, _, _ = taken_over(copies=True)
    found = log.replay()
    assert log.records == {0: [b"1", b"2", b"3", b"4", b"5"]}
    assert found.torn is None
    log, _, _ = taken_over(copies=False)
    assert log.replay().next_lsn == [3, 1]
    assert log.records == {0: [b"1", b"2"]}


def test_a_takeover_may_cut_through_a_group() -> None:
    log = Log()
    log.segment(1).group(1, b"1", b"2", b"old 3")
    log.segment(2, takeover=(3, 1)).group(3, b"3")
    log.replay()
    assert log.records == {0: [b"1", b"2", b"3"]}


def test_a_later_takeover_hides_an_earlier_one() -> None:
    log, _, _ = taken_over(copies=True)
    log.segment(3, durable=position(2, HEADER_BYTES), takeover=(4, 1, 1)).group(4, b"new 4")
    log.replay()
    assert log.records == {0: [b"1", b"2", b"3", b"new 4"]}


def test_damage_in_what_was_taken_over_has_no_effect_and_below_it_is_corruption() -> None:
    log, one, _ = taken_over(copies=True)
    one.data[HEADER_BYTES + 512 + 40] ^= 1
    found = log.replay()
    assert log.records == {0: [b"1", b"2", b"3", b"4", b"5"]}
    assert found.torn is None  # that was reported when it was taken over
    one.data[HEADER_BYTES + 40] ^= 1
    log.refused(1, HEADER_BYTES)


def test_segments_between_a_torn_one_and_its_takeover_are_passed_over() -> None:
    log = Log()
    one = log.segment(1)
    one.group(1, b"1")
    torn = one.group(2, b"2")
    one.data[torn + 40] ^= 1
    named = position(1, torn)
    log.segment(2).group(3, b"lost", durable=named)
    log.segment(3, durable=named, takeover=(2, 1)).group(2, b"new 2")
    log.replay()
    assert log.records == {0: [b"1", b"new 2"]}


def test_what_a_takeover_copied_is_copied_again_until_something_names_it() -> None:
    log, _, two = taken_over(copies=True)
    assert [lsn for _, lsn, _ in log.replay().tail] == [5]
    two.mark()
    assert log.replay().tail == []


# By choice


def test_point_in_time_ends_the_log_before_the_damage_and_stays_ended() -> None:
    log, offsets = two_segments()
    log.data[1][offsets[1] + 40] ^= 1
    found = log.replay("point_in_time", clean_end=position(2, HEADER_BYTES + 1024))
    assert log.records == {0: [b"1"]}
    assert (found.next_lsn, found.next_number, found.torn) == ([2, 1], 3, None)
    assert found.damage == [f"{segment_path(LOG, 1)}: offset {offsets[1]}: what stood here was durable, and is damaged"]
    log.segment(3, durable=found.durable, takeover=tuple(found.next_lsn)).group(2, b"new 2")
    log.replay()
    assert log.records == {0: [b"1", b"new 2"]}


def test_salvage_skips_the_damage_and_takes_everything_behind_it() -> None:
    log, offsets = two_segments()
    log.data[1][offsets[0] + 40] ^= 1
    log.data[2][offsets[2] + 40] ^= 1
    found = log.replay("salvage")
    assert log.records == {0: [b"2", b"4"]}
    assert (len(found.damage), found.next_lsn) == (2, [5, 1])


def test_salvage_goes_on_in_the_next_segment_when_nothing_is_left_in_this_one() -> None:
    log, offsets = two_segments()
    log.data[1][offsets[1] :] = bytes(SIZE - offsets[1])
    log.replay("salvage")
    assert log.records == {0: [b"1", b"3", b"4"]}


def test_salvage_ends_when_nothing_is_left_at_all() -> None:
    log = Log()
    one = log.segment(1)
    one.group(1, b"1")
    found = log.replay("salvage", clean_end=position(1, HEADER_BYTES + 1024))
    assert log.records == {0: [b"1"]}
    assert len(found.damage) == 1


def test_a_torn_tail_is_none_of_the_choices_business() -> None:
    choices: tuple[OnCorruption, ...] = ("refuse", "point_in_time", "salvage")
    for choice in choices:
        log, offsets = two_segments()
        log.data[2][offsets[3] + 33] ^= 1
        found = log.replay(choice)
        assert found.damage == []
        assert found.torn is not None


# Every bit, byte and sector of a small log


def small_log() -> tuple[Log, bytes]:
    """Return a segment with four groups of two streams; all but the last are named, and its bytes."""
    log = Log()
    one = log.segment(1)
    one.group(1, b"a1")
    one.group(1, b"b1" * 300, stream=1)
    one.group(2, b"a2", b"a3")
    one.group(2, b"b2", stream=1)
    return log, bytes(log.data[1])


WHOLE = {0: [b"a1", b"a2", b"a3"], 1: [b"b1" * 300, b"b2"]}
LAST = HEADER_BYTES + 4 * 512
BODY = FRAME_HEADER_BYTES


def judged(log: Log, change: Callable[[bytearray], None], data: bytes) -> str:
    """Return what became of a change: "refused", "no effect", "cut" (and reported), or "cut unseen"."""
    log.data[1] = bytearray(data)
    change(log.data[1])
    try:
        found = log.replay()
    except LogCorruptError:
        return "refused"
    if log.records == WHOLE:
        return "no effect" if found.torn is None else "reported without effect"
    assert all(records == WHOLE[stream][: len(records)] for stream, records in log.records.items())
    assert found.end < position(1, LAST + 512)
    return "cut" if found.torn is not None else "cut unseen"


def test_every_flipped_bit_is_refused_cut_and_reported_or_without_effect() -> None:
    log, data = small_log()
    verdicts: dict[str, set[int]] = {}
    for byte in range(HEADER_BYTES, len(data)):
        for bit in range(8) if byte < LAST + 600 else (byte % 8,):
            verdict = judged(log, lambda d, at=byte, b=bit: d.__setitem__(at, d[at] ^ 1 << b), data)  # type: ignore[misc]
            verdicts.setdefault(verdict, set()).add(byte)
    assert verdicts.keys() == {"refused", "cut", "no effect"}
    assert verdicts["cut"] == set(range(LAST, LAST + BODY + 4 + 2))
    assert max(verdicts["refused"]) < LAST
    for byte in range(0, HEADER_BYTES, 7):
        assert judged(log, lambda d, at=byte: d.__setitem__(at, d[at] ^ 16), data) == "refused"  # type: ignore[misc]


def test_a_log_cut_at_any_byte_keeps_whole_groups_and_is_reported() -> None:
    log, data = small_log()
    ends = [at + BODY + n for at, n in ((0, 4 + 2), (512, 4 + 600), (1536, 8 + 4), (2048, 4 + 2))]
    for n_bytes in [*range(0, HEADER_BYTES, 13), *range(HEADER_BYTES, LAST + 600)]:
        log.data[1] = bytearray(data[:n_bytes])
        if n_bytes < HEADER_BYTES:
            log.refused(1, 0, "no segment header")
            continue
        found = log.replay()
        assert found.n_frames == sum(end <= n_bytes - HEADER_BYTES for end in ends)
        assert log.records == {s: WHOLE[s][:n] for s, n in enumerate(lsn - 1 for lsn in found.next_lsn) if n}
        assert found.torn is not None
        assert found.torn.n_bytes >= 0


def test_a_sealed_segment_cut_at_any_byte_is_refused_where_it_was_durable() -> None:
    log, offsets = two_segments()
    data = bytes(log.data[1])
    used = offsets[1] + 512 + BODY  # up to the end of the seal
    for n_bytes in [*range(0, HEADER_BYTES, 13), *range(HEADER_BYTES, SIZE, 5)]:
        log.data[1] = bytearray(data[:n_bytes])
        if n_bytes < used:
            with pytest.raises(LogCorruptError) as raised:
                log.replay()
            assert raised.value.path == segment_path(LOG, 1)
        else:
            assert log.replay().n_records == 4


def test_sectors_zeroed_swapped_repeated_or_stale_never_give_a_wrong_record() -> None:
    log, data = small_log()
    stale = Log()
    old = stale.segment(1, salt=4711)
    for lsn in range(1, 14):
        old.group(lsn, b"stale")
    seen: dict[str, int] = {}
    sectors = range(HEADER_BYTES, HEADER_BYTES + 7 * 512, 512)
    for at in sectors:
        changes: list[Callable[[bytearray], None]] = [
            lambda d, at=at: d.__setitem__(slice(at, at + 512), bytes(512)),  # type: ignore[misc]
            lambda d, at=at: d.__setitem__(slice(at, at + 512), old.data[at : at + 512]),  # type: ignore[misc]
        ]
        for other in sectors:
            changes.append(lambda d, at=at, o=other: d.__setitem__(slice(at, at + 512), d[o : o + 512]))  # type: ignore[misc]

            def swap(d: bytearray, at: int = at, other: int = other) -> None:
                d[at : at + 512], d[other : other + 512] = d[other : other + 512], d[at : at + 512]

            changes.append(swap)
        for change in changes:
            verdict = judged(log, change, data)
            seen[verdict] = seen.get(verdict, 0) + 1
    assert seen.keys() == {"refused", "cut", "cut unseen", "no effect", "reported without effect"}
    assert seen["refused"] > 50
    assert seen["no effect"] > 20
