"""Rotation: the next segment comes in time, late, larger, or recycled."""

from __future__ import annotations

import asyncio
import errno

import pytest

from tests.support.faulty_files import FaultyFile
from tests.support.lanes import DIRECTORY, LaneWorld, both_modes, kinds, settle
from tests.support.virtual_loop import virtual
from wal import Durability, LogPoisonedError
from wal.replay import segment_numbers


# Rotation
@both_modes
@virtual
async def test_a_full_segment_is_sealed_and_the_log_goes_on_in_the_next(durability: Durability) -> None:
    world = LaneWorld(durability, segment_bytes=16 << 10)
    lane = world.recover()
    written = [b"%04d" % i + bytes(1000) for i in range(40)]
    for payload in written:
        world.owners[0].write(payload)
        await lane.sync()
    assert lane.active_number > 3
    assert world.events.count("rotated") == lane.active_number - 1
    sealed = [kinds(world.files, n) for n in range(1, lane.active_number)]
    assert all(text.count("S") == 1 and text.endswith("S") for text in sealed)
    await lane.close()
    assert world.files.open_files == []
    world.replay()
    assert world.records[0] == written


@both_modes
@virtual
async def test_segments_grow_to_the_size_that_was_asked_for(durability: Durability) -> None:
    world = LaneWorld(durability, segment_bytes=60 << 10, first_bytes=10 << 10)
    lane = world.recover()
    sizes = [lane.active_bytes]
    while len(sizes) < 6:
        await lane.cut(lambda: None)
        await settle()
        sizes.append(lane.active_bytes)
    assert sizes == [n << 10 for n in (10, 20, 40, 60, 60, 60)]
    await lane.close()


@both_modes
@virtual
async def test_groups_that_do_not_fit_wait_for_a_segment_that_is_not_ready(durability: Durability) -> None:
    world = LaneWorld(durability, segment_bytes=8 << 10)
    lane = world.recover()
    world.run_s = 5.0
    first, second = world.owners
    for i in range(10):
        first.write(b"%d" % i + bytes(1400))
        second.write(b"%d" % i + bytes(1400))
        await asyncio.sleep(0.01)
    await settle(60)
    assert [owner.durable for owner in world.owners] == [10, 10]
    await lane.close()
    world.replay()
    assert world.records == [owner.taken for owner in world.owners]


@both_modes
@virtual
async def test_a_write_under_way_when_the_next_segment_comes_is_not_overwritten(durability: Durability) -> None:
    world = LaneWorld(durability, segment_bytes=8 << 10)
    lane = world.recover()
    world.writer.write_s = 0.02  # the segment, after 1 ms, comes in the middle of the write
    first, second = world.owners
    first.write(bytes(1400))
    second.write(bytes(3000))  # does not fit any more: held
    await settle()
    assert (first.durable, second.durable) == (1, 1)
    await lane.close()
    world.replay()
    assert world.records == [[bytes(1400)], [bytes(3000)]]


@both_modes
@virtual
async def test_a_group_larger_than_a_segment_gets_a_larger_one(durability: Durability) -> None:
    world = LaneWorld(durability, segment_bytes=8 << 10)
    lane = world.recover()
    large = [bytes([i]) * 3000 for i in range(20)]
    world.owners[0].write(*large)
    world.owners[1].write(b"small")
    await lane.sync()
    assert world.owners[0].durable == 20
    await lane.close()
    assert world.files.open_files == []
    world.replay()
    assert world.records == [large, [b"small"]]


@virtual
async def test_a_failed_seal_poisons_in_interval_mode() -> None:
    world = LaneWorld("interval")
    lane = world.recover()
    await settle()
    world.files.fail("write", errno.EIO)
    with pytest.raises(LogPoisonedError):
        await lane.cut(lambda: None)
    assert world.owners[0].words == ["failed"]
    lane.abandon()
    await settle()


@virtual
async def test_a_failed_seal_poisons_in_fsync_mode_and_the_held_groups_hear_it() -> None:
    world = LaneWorld(segment_bytes=8 << 10)
    lane = world.recover()
    await settle()
    world.files.fail("sync", errno.EIO, path="1.wal", skip=1)
    world.owners[0].write(bytes(1400))
    world.owners[1].write(bytes(3000))
    await settle()
    assert [owner.words for owner in world.owners] == [["durable", "failed"], ["failed"]]
    lane.abandon()
    await settle()


# Recycling
@both_modes
@virtual
async def test_released_segments_are_used_again_in_fsync_mode_and_their_old_frames_never_read(
    durability: Durability,
) -> None:
    world = LaneWorld(durability)
    lane = world.recover()
    for i in range(6):
        world.owners[0].write(b"%d" % i, bytes(4000))
        await lane.sync()
        sealed = await lane.cut(lambda: None)
        await lane._run(lambda sealed=sealed: lane.release(sealed + 1))  # type: ignore[misc]
        await settle()
    assert segment_numbers(world.files, DIRECTORY) == [7, 8]
    n_created = len([1 for call, _ in world.files.calls if call == "create"])
    assert n_created < 6 if durability == "fsync" else n_created == 8
    await lane.close()
    found = world.replay(first=7, after=[12, 0])
    assert (found.n_records, found.next_lsn) == (0, [13, 1])


@virtual
async def test_only_segments_of_the_configured_size_are_kept_as_spares() -> None:
    world = LaneWorld(segment_bytes=8 << 10)
    lane = world.recover()
    await settle()
    for _ in range(3):
        world.owners[0].write(bytes(20_000))  # each needs a segment of its own size
        await settle()
    sealed = await lane.cut(lambda: None)
    lane.release(sealed + 1)
    spares = [name for name in world.files.list_directory(DIRECTORY) if name.endswith(".spare")]
    assert {len(world.files.contents(f"{DIRECTORY}/{name}")) for name in spares} == {8 << 10}
    await settle()
    await lane.close()


@virtual
async def test_the_active_segment_is_never_released() -> None:
    world = LaneWorld()
    lane = world.recover()
    await settle()
    lane.release(lane.active_number + 7)
    assert segment_numbers(world.files, DIRECTORY) == [1, 2]
    await lane.close()


@virtual
async def test_a_sealed_file_is_closed_only_while_no_sync_can_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    world = LaneWorld("interval")
    lane = world.recover()
    await settle()
    world.owners[0].write(b"x")
    await lane.cut(lambda: None)
    locked: list[bool] = []
    close = FaultyFile.close

    def watched(file: FaultyFile) -> None:
        assert lane._sync is not None
        locked.append(lane._sync._lock.locked())
        close(file)

    with monkeypatch.context() as patch:
        patch.setattr(FaultyFile, "close", watched)
        await lane.sync()
        await settle()
    assert locked
    assert all(locked[:1])
    await lane.close()
