"""Making segments: durable before they are named, recycled, and nothing left behind by a failure."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable

import pytest

from tests.support.faulty_files import FaultyFiles
from wal import Segments
from wal.format import HEADER_BYTES, position
from wal.reader import SegmentReader, read_header
from wal.replay import segment_numbers, segment_path
from wal.segment import BLOCK_BYTES

LOG = "log"
STORE_ID = bytes(16)
SIZE = 16 << 10


@pytest.fixture
def files() -> FaultyFiles:
    files = FaultyFiles()
    files.make_directory(LOG)
    return files


def segments_in(files: FaultyFiles, *, zero_fill: bool = True, seed: int = 1) -> Segments:
    salts = random.Random(seed)
    return Segments(
        files, LOG, store_id=STORE_ID, lane=0, epoch=3, zero_fill=zero_fill, salt=lambda: salts.getrandbits(64)
    )


def payloads_in(files: FaultyFiles, number: int) -> list[list[bytes]]:
    file = files.open(segment_path(LOG, number))
    header = read_header(file, store_id=STORE_ID, lane=0)
    data = file.read(file.size(), 0)
    file.close()
    return [frame.payloads() for frame in SegmentReader(header, data)]


@pytest.mark.parametrize("zero_fill", [True, False])
def test_a_new_segment_is_empty_and_has_its_size(files: FaultyFiles, zero_fill: bool) -> None:
    segment = segments_in(files, zero_fill=zero_fill).make(5, SIZE, durable=position(4, 8192), takeover=[1, 2])
    assert (segment.offset, segment.end, segment.room()) == (HEADER_BYTES, position(5, HEADER_BYTES), SIZE - 4096)
    assert segment.file.path == segment_path(LOG, 5)
    assert segment.file.size() == segment.header.segment_bytes == SIZE
    assert (segment.header.number, segment.header.epoch) == (5, 3)
    assert (segment.header.durable, segment.header.takeover) == (position(4, 8192), (1, 2))
    assert files.list_directory(LOG) == ["0000000000000005.wal"]
    assert ("zero_fill" in [call for call, _ in files.calls]) == zero_fill
    assert payloads_in(files, 5) == []


def test_a_segment_survives_a_crash_as_soon_as_it_is_made(files: FaultyFiles) -> None:
    segments_in(files).make(1, SIZE, durable=0, groups=[(0, 1, [b"carried", b"over"])])
    for seed in range(20):
        after = files.crash(random.Random(seed))
        assert payloads_in(after, 1) == [[b"carried", b"over"]]
        assert len(after.contents(segment_path(LOG, 1))) == SIZE


def test_a_segment_grows_with_the_groups_that_it_carries_over(files: FaultyFiles) -> None:
    groups = [(i, 7, [bytes([i]) * 9000]) for i in range(4)]
    segment = segments_in(files).make(1, 1000, durable=0, groups=groups)
    assert segment.header.segment_bytes >= 2 * 4 * 9000
    assert segment.offset == HEADER_BYTES + 4 * 9216
    assert payloads_in(files, 1) == [payloads for _, _, payloads in groups]
    tiny = segments_in(files).make(2, 1, durable=0)
    assert tiny.room() >= 4096


def test_a_segment_of_the_same_number_is_replaced(files: FaultyFiles) -> None:
    segments = segments_in(files)
    segments.make(1, SIZE, durable=0).file.close()
    segments.make(1, SIZE, durable=0, groups=[(0, 1, [b"new"])]).file.close()
    assert payloads_in(files, 1) == [[b"new"]]


MAKING = ["create", "allocate", "zero_fill", "write", "sync", "rename", "sync_directory"]


@pytest.mark.parametrize("call", MAKING)
def test_a_segment_that_cannot_be_made_leaves_no_file_behind(files: FaultyFiles, call: str) -> None:
    segments = segments_in(files)
    files.fail(call, errno.ENOSPC)
    with pytest.raises(OSError, match="No space") as raised:
        segments.make(1, SIZE, durable=0)
    assert raised.value.errno == errno.ENOSPC
    assert files.open_files == []
    named = call == "sync_directory"  # the name may or may not be there; what it names is whole
    assert files.list_directory(LOG) == ["0000000000000001.wal"] * named
    segments.make(1, SIZE, durable=0)
    assert files.list_directory(LOG) == ["0000000000000001.wal"]


@pytest.mark.parametrize("call", ["open_write", "rename", "write", "sync"])
def test_a_spare_that_cannot_be_used_leaves_no_file_open(files: FaultyFiles, call: str) -> None:
    segments = segments_in(files)
    segments.make(1, SIZE, durable=0).file.close()
    segments.release(2, spare_bytes=SIZE)
    files.fail(call, errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        segments.make(2, SIZE, durable=0)
    assert files.open_files == []
    segments.make(2, SIZE, durable=0)


def test_a_crash_during_the_making_names_no_segment_or_a_whole_one(files: FaultyFiles) -> None:
    n_before = len(files.calls)
    segments_in(files).make(1, SIZE, durable=0, groups=[(0, 1, [b"x" * 2000])])
    n_calls = len(files.calls)
    for n in range(n_before, n_calls):
        world = FaultyFiles()
        world.make_directory(LOG)
        world.power_off_at(n)
        with pytest.raises(OSError, match="power is off"):
            segments_in(world).make(1, SIZE, durable=0, groups=[(0, 1, [b"x" * 2000])])
        for seed in range(8):
            after = world.crash(random.Random(seed))
            segments_in(after).remove_temporaries()
            assert after.list_directory(LOG) in ([], ["0000000000000001.wal"])
            if segment_numbers(after, LOG):
                assert payloads_in(after, 1) == [[b"x" * 2000]]


def test_a_retired_lane_names_no_segment_any_more(files: FaultyFiles) -> None:
    segments = segments_in(files)
    segments.retire()
    with pytest.raises(OSError) as raised:
        segments.make(1, SIZE, durable=0)
    assert raised.value.errno == errno.ECANCELED
    assert files.list_directory(LOG) == []
    assert files.open_files == []


def during_sync(files: FaultyFiles, action: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have something happen in the middle of the next sync of a file."""
    fault = files.fault

    def meanwhile(call: str, path: str) -> OSError | None:
        if call == "sync":
            monkeypatch.setattr(files, "fault", fault)
            action()
        return fault(call, path)

    monkeypatch.setattr(files, "fault", meanwhile)


@pytest.mark.parametrize("old_is_first", [True, False])
def test_two_makers_of_one_number_do_not_touch_each_others_files(
    files: FaultyFiles, monkeypatch: pytest.MonkeyPatch, old_is_first: bool
) -> None:
    old, new = segments_in(files, seed=1), segments_in(files, seed=2)

    def make_old() -> None:
        with pytest.raises(OSError) as raised:
            old.make(1, SIZE, durable=0)
        assert raised.value.errno == errno.ECANCELED

    def make_new() -> None:
        old.retire()
        new.remove_temporaries()
        new.make(1, SIZE, durable=0, groups=[(0, 1, [b"new"])])

    first, second = (make_old, make_new) if old_is_first else (make_new, make_old)
    during_sync(files, second, monkeypatch)
    first()
    assert payloads_in(files, 1) == [[b"new"]]


def test_what_an_interrupted_making_left_is_removed(files: FaultyFiles) -> None:
    segments = segments_in(files)
    for name in ("0000000000000001.wal.00ff.new", "other.new"):
        files.create(f"{LOG}/{name}").close()
    segments.make(1, SIZE, durable=0)
    segments.remove_temporaries()
    assert files.list_directory(LOG) == ["0000000000000001.wal"]


def test_released_segments_become_spares_and_the_rest_is_removed(files: FaultyFiles) -> None:
    segments = segments_in(files)
    for number in range(1, 6):
        segments.make(number, SIZE, durable=0).file.close()
    assert segments.release(5, spare_bytes=SIZE) == 4
    assert files.list_directory(LOG) == ["0000000000000001.spare", "0000000000000002.spare", "0000000000000005.wal"]
    assert segments.release(5, spare_bytes=SIZE) == 0
    n_created = len([1 for call, _ in files.calls if call == "create"])
    segments.make(6, SIZE, durable=0)
    segments.make(7, 2 * SIZE, durable=0)  # no spare has this size
    assert len([1 for call, _ in files.calls if call == "create"]) == n_created + 1
    assert files.list_directory(LOG)[0] == "0000000000000002.spare"


def test_without_zeros_nothing_is_recycled_and_spares_of_another_opening_are_left_alone(files: FaultyFiles) -> None:
    before = segments_in(files)
    before.make(1, SIZE, durable=0).file.close()
    before.release(2, spare_bytes=SIZE)
    segments = segments_in(files, zero_fill=False, seed=2)
    for number in range(2, 5):
        segments.make(number, SIZE, durable=0).file.close()
    assert segments.release(4, spare_bytes=SIZE) == 2
    assert files.list_directory(LOG) == ["0000000000000001.spare", "0000000000000004.wal"]


def test_a_segment_of_another_opening_is_not_recycled_because_its_blocks_may_be_gone(files: FaultyFiles) -> None:
    segments_in(files).make(1, SIZE, durable=0).file.close()
    segments = segments_in(files, seed=2)
    segments.make(2, SIZE, durable=0).file.close()
    segments.make(3, SIZE, durable=0).file.close()
    assert segments.release(3, spare_bytes=SIZE) == 2
    assert files.list_directory(LOG) == ["0000000000000002.spare", "0000000000000003.wal"]


def test_only_what_is_behind_the_block_of_the_end_is_given_back(files: FaultyFiles) -> None:
    segments = segments_in(files)
    segment = segments.make(1, SIZE, durable=0)
    segment.file.write([b"x" * (SIZE - HEADER_BYTES)], HEADER_BYTES)
    segment.file.close()
    segments.give_back(1, HEADER_BYTES + 512)
    data = files.contents(f"{LOG}/0000000000000001.wal")
    assert len(data) == SIZE
    assert data[HEADER_BYTES:] == b"x" * BLOCK_BYTES + bytes(SIZE - HEADER_BYTES - BLOCK_BYTES)
    assert files.open_files == []


def test_a_release_survives_a_crash(files: FaultyFiles) -> None:
    segments = segments_in(files)
    for number in range(1, 6):
        segments.make(number, SIZE, durable=0).file.close()
    segments.release(5, spare_bytes=SIZE)
    for seed in range(10):
        assert segment_numbers(files.crash(random.Random(seed)), LOG) == [5]


def test_segments_of_another_size_never_become_spares(files: FaultyFiles) -> None:
    segments = segments_in(files)
    segments.make(1, 2 * SIZE, durable=0).file.close()
    segments.release(2, spare_bytes=SIZE)
    assert files.list_directory(LOG) == []


def test_the_old_frames_of_a_recycled_segment_are_noise(files: FaultyFiles) -> None:
    segments = segments_in(files)
    old = segments.make(1, SIZE, durable=0, groups=[(0, lsn, [b"old %d" % lsn]) for lsn in range(1, 9)])
    old.file.close()
    segments.release(2, spare_bytes=SIZE)
    new = segments.make(2, SIZE, durable=0, groups=[(0, 9, [b"new"])])
    data = new.file.read(SIZE, 0)
    assert b"old 5" in data
    reader = SegmentReader(new.header, data)
    assert [frame.payloads() for frame in reader] == [[b"new"]]
    assert list(reader.frames_behind(0)) == [reader.frame_at(HEADER_BYTES)]
    assert not reader.begun_at(reader.offset)


def test_only_names_of_segments_count_as_segments(files: FaultyFiles) -> None:
    for name in ("notes.wal", "1.wal", "00000000000000AB.wal", "00000000000000ab.wal.new", "00000000000000ab.wal"):
        files.create(f"{LOG}/{name}").close()
    assert segment_numbers(files, LOG) == [0xAB]
