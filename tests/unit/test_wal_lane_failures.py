"""What a lane does when a write or a sync fails, and when the disk is full."""

from __future__ import annotations

import asyncio
import errno
import random

import pytest

from tests.support.lanes import DIRECTORY, MARK_DELAY_S, LaneWorld, both_modes, settle
from tests.support.virtual_loop import virtual
from wal import Durability, LogClosedError, LogFullError, LogPoisonedError
from wal.replay import segment_numbers, segment_path


# Failures
@virtual
async def test_a_failed_sync_poisons_and_every_owner_hears_once_and_nothing_is_synced_again() -> None:
    world = LaneWorld(n_streams=3)
    lane = world.recover()
    await settle()
    world.owners[0].write(b"durable")
    await lane.settled()
    n_syncs = world.files.calls.count(("sync", segment_path(DIRECTORY, 1)))
    world.files.fail("sync", errno.EIO)
    world.owners[0].write(b"unknown")
    world.owners[1].write(b"unknown")
    await asyncio.sleep(0)
    world.owners[2].write(b"waits")
    await settle()
    assert [owner.words for owner in world.owners] == [["durable", "failed"], ["failed"], ["failed"]]
    assert all(isinstance(owner.heard[-1][1], LogPoisonedError) for owner in world.owners)
    assert world.files.calls.count(("sync", segment_path(DIRECTORY, 1))) == n_syncs + 1
    assert world.events == ["poisoned"]
    world.owners[2].write(b"too late")
    await settle()
    assert [owner.words for owner in world.owners] == [["durable", "failed"], ["failed"], ["failed"]]
    with pytest.raises(LogPoisonedError):
        await lane.sync()
    with pytest.raises(LogPoisonedError):
        await lane.cut(lambda: None)
    assert await lane.close() == 0
    assert world.files.open_files == []


@virtual
async def test_a_failed_relaxed_write_poisons() -> None:
    world = LaneWorld("interval")
    lane = world.recover()
    await settle()
    world.files.fail("write", errno.EIO)
    world.owners[0].write(b"x")
    await settle()
    assert [owner.words for owner in world.owners] == [["failed"], ["failed"]]
    assert await lane.close() == 0
    assert world.files.open_files == []


@virtual
async def test_a_failed_mark_poisons_in_interval_mode() -> None:
    world = LaneWorld("interval")
    lane = world.recover()
    await settle()
    world.owners[0].write(b"x")
    await lane.settled()
    world.files.fail("write", errno.EIO)
    await settle()
    assert world.owners[0].words == ["durable", "failed"]
    lane.abandon()
    await settle()
    assert world.files.open_files == []


@virtual
async def test_a_failed_background_sync_poisons_and_is_never_repeated() -> None:
    world = LaneWorld("interval")
    lane = world.recover()
    await settle()
    world.files.fail("sync", errno.EIO)
    world.owners[0].write(b"x")
    await lane.settled()
    n_syncs = len([c for c in world.files.calls if c[0] == "sync"])
    world.timer.fire()
    world.timer.fire()  # before the loop has heard of the failure
    await settle()
    assert len([c for c in world.files.calls if c[0] == "sync"]) == n_syncs + 1
    assert world.owners[0].words == ["failed"]
    assert world.events == ["poisoned"]
    with pytest.raises(LogPoisonedError):
        await lane.sync()
    world.timer.fire()  # a late tick of a poisoned lane
    await lane.close()


@virtual
async def test_a_sync_that_ends_after_a_failed_write_confirms_nothing() -> None:
    world = LaneWorld("interval")
    lane = world.recover()
    await settle()
    owner = world.owners[0]
    owner.write(b"x")
    await lane.settled()
    world.timer.fire()
    world.files.fail("write", errno.EIO)
    owner.write(b"y")
    lane.flush()
    await asyncio.sleep(0)
    assert owner.words == ["failed"]
    lane.abandon()
    await settle()


@virtual
async def test_sync_raises_what_the_sync_failed_with() -> None:
    world = LaneWorld("interval")
    lane = world.recover()
    await settle()
    world.files.fail("sync", errno.EIO)
    world.owners[0].write(b"x")
    with pytest.raises(LogPoisonedError) as raised:
        await lane.sync()
    assert isinstance(raised.value.__cause__, OSError)
    lane.abandon()
    await settle()


@virtual
async def test_whoever_waits_for_a_sync_hears_that_the_lane_was_poisoned() -> None:
    world = LaneWorld()
    lane = world.recover()
    world.files.fail("sync", errno.EIO, path="1.wal")
    world.owners[0].write(b"x")
    waits = [asyncio.create_task(lane.sync()) for _ in range(2)]
    await asyncio.sleep(0)
    waits[1].cancel()
    with pytest.raises(LogPoisonedError):
        await waits[0]
    lane.abandon()
    await settle()


@virtual
async def test_a_write_that_ends_after_the_lane_was_abandoned_confirms_nothing() -> None:
    for write in (lambda w: w.owners[0].write(b"x"), lambda w: asyncio.ensure_future(cut_of(w))):
        world = LaneWorld()
        lane = world.recover()
        await settle()
        world.writer.close = lambda: None  # type: ignore[method-assign]  # as one whose last completion is on its way
        write(world)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        lane.abandon()
        await settle()
        assert [owner.words for owner in world.owners] == [["failed"], ["failed"]]
        assert isinstance(lane.error, LogClosedError)


async def cut_of(world: LaneWorld) -> None:
    with pytest.raises(LogClosedError):
        await world.lane.cut(lambda: None)


@virtual
async def test_a_mark_that_ends_after_the_lane_was_abandoned_changes_nothing() -> None:
    world = LaneWorld()
    lane = world.recover()
    world.owners[0].write(b"x")
    await lane.settled()
    durable = lane.durable
    world.writer.write_s = 1.0
    world.writer.close = lambda: None  # type: ignore[method-assign]
    await asyncio.sleep(MARK_DELAY_S * 2)
    lane.abandon()
    await settle(3)
    assert lane.durable == durable


@both_modes
@virtual
async def test_abandoning_a_lane_leaves_no_file_open_and_names_no_segment_later(durability: Durability) -> None:
    world = LaneWorld(durability)
    lane = world.recover()  # the second segment is being made
    lane.abandon()
    await settle()
    assert world.files.open_files == []
    assert segment_numbers(world.files, DIRECTORY) == [1]
    assert world.files.list_directory(DIRECTORY) == ["0000000000000001.wal"]


@both_modes
@virtual
async def test_abandoning_a_lane_with_its_next_segment_ready_closes_both(durability: Durability) -> None:
    world = LaneWorld(durability)
    lane = world.recover()
    world.owners[0].write(b"x")
    await settle()
    lane.abandon()
    await settle()
    assert world.files.open_files == []
    assert world.timer.is_stopped == (durability == "interval")


# A full disk
@virtual
async def test_a_group_without_space_is_undone_and_later_writes_succeed() -> None:
    world = LaneWorld()
    lane = world.recover()
    await settle()
    first, second = world.owners
    first.write(b"kept")
    await lane.settled()
    world.files.fail("sync", errno.ENOSPC)
    first.write(b"refused")
    second.write(b"refused too")
    await lane.settled()
    assert (first.words, second.words) == (["durable", "refused"], ["refused"])
    assert isinstance(first.heard[-1][1], LogFullError)
    for seed in range(8):
        after = LaneWorld(files=world.files.crash(random.Random(seed)))
        after.replay()
        assert after.records == [[b"kept"], []]
    first.write(b"later")
    await lane.settled()
    assert first.heard[-1] == ("durable", 2)
    await lane.close()
    world.replay()
    assert world.records == [[b"kept", b"later"], []]


@virtual
async def test_no_part_of_a_refused_write_comes_back_when_a_shorter_one_takes_its_place() -> None:
    for skip in range(2):
        world = LaneWorld()
        lane = world.recover()
        await settle()
        first, second = world.owners
        # The write that fails has put every second of its sectors on the disk: one of the two groups is whole.
        world.files.fail("sync" if skip else "write", errno.ENOSPC)
        first.write(b"refused")
        second.write(b"refused")
        await lane.settled()
        first.write(b"1")
        await lane.settled()
        world.replay()
        assert world.records == [[b"1"], []]
        await lane.close()


@virtual
async def test_a_refused_group_that_cannot_be_wiped_poisons() -> None:
    world = LaneWorld()
    lane = world.recover()
    await settle()
    world.files.fail("write", errno.ENOSPC, always=True)
    world.owners[0].write(b"x")
    await settle()
    assert world.owners[0].words == ["failed"]
    world.files.heal()
    lane.abandon()
    await settle()


@virtual
async def test_groups_held_behind_a_refused_one_are_still_written() -> None:
    world = LaneWorld(segment_bytes=8 << 10)
    lane = world.recover()
    await settle()
    world.files.fail("write", errno.ENOSPC)
    world.owners[0].write(bytes(1400))
    world.owners[1].write(bytes(3000))
    await settle()
    assert [owner.words for owner in world.owners] == [["refused"], ["durable"]]
    await lane.close()


@virtual
async def test_without_space_for_a_segment_writers_are_refused_until_there_is_some() -> None:
    world = LaneWorld(segment_bytes=8 << 10, n_streams=3)
    world.files.fail("allocate", errno.ENOSPC, skip=1, always=True)
    lane = world.recover()
    first, second, third = world.owners
    await settle()
    first.write(bytes(1400))
    await lane.settled()
    second.write(bytes(3000))
    await lane.settled()
    assert second.words == ["refused"]
    first.write(bytes(1400))
    second.write(bytes(3000))
    third.write(b"fits")
    await lane.settled()
    assert first.words == ["durable", "refused"] or first.durable == 2
    assert second.words == ["refused"] * 2
    world.files.heal()
    await settle(2)
    second.write(bytes(3000))
    await lane.settled()
    assert second.words == ["refused"] * 2 + ["durable"]
    await lane.close()


@virtual
async def test_writers_that_asked_while_a_segment_could_not_be_made_are_served() -> None:
    world = LaneWorld(segment_bytes=8 << 10)
    world.files.fail("allocate", errno.ENOSPC, skip=1)
    lane = world.recover()
    first, second = world.owners
    world.run_s = 0.1
    first.write(bytes(6000))  # fits into no segment of 8 KiB: held until the preparation fails
    await asyncio.sleep(0.01)
    second.write(b"asked meanwhile")
    await settle(0.5)
    assert first.words == ["refused"]
    assert second.words == ["durable"]
    await settle(5)
    await lane.close()


@virtual
async def test_a_segment_that_cannot_be_made_for_another_reason_refuses_with_it() -> None:
    world = LaneWorld(segment_bytes=8 << 10)
    world.files.fail("sync_directory", errno.EIO, skip=1, always=True)
    lane = world.recover()
    await settle()
    world.owners[0].write(bytes(6000))
    await lane.settled()
    assert world.owners[0].words == ["refused"]
    assert "Input/output error" in str(world.owners[0].heard[0][1])
    await lane.close()
    assert world.files.open_files == []


@virtual
async def test_relaxed_writers_wait_while_there_is_no_space_and_nothing_they_wrote_is_lost() -> None:
    world = LaneWorld("interval", segment_bytes=8 << 10)
    world.files.fail("allocate", errno.ENOSPC, skip=1, always=True)
    lane = world.recover()
    owner = world.owners[0]
    written = [b"%d" % i + bytes(1400) for i in range(5)]
    for payload in written:
        owner.write(payload)
        await asyncio.sleep(0.001)
    n_calls = len(world.files.calls)
    await settle(10)
    assert len(world.files.calls) < n_calls + 500  # it tries once a second
    assert world.events == ["lag"]
    assert lane.lagging
    with pytest.raises(LogFullError):
        await lane.sync()
    await lane.settled()
    assert owner.words.count("failed") == 0
    world.files.heal()
    await settle(5)
    assert (world.events[0], world.events[-1]) == ("lag", "no lag")
    assert owner.durable == 5
    await lane.close()
    world.replay()
    assert world.records[0] == written


@virtual
async def test_a_relaxed_write_without_space_is_tried_again() -> None:
    world = LaneWorld("interval")
    lane = world.recover()
    await settle()
    first, second = world.owners
    first.write(b"1")
    await lane.settled()
    world.files.fail("write", errno.ENOSPC, always=True)
    first.write(b"2", bytes(2000))
    second.write(b"3")
    await settle(3)
    assert world.events[-1] == "lag"
    second.write(b"4")
    world.files.heal()
    await settle(3)
    assert (first.durable, second.durable) == (3, 2)
    assert world.events[-1] == "no lag"
    await lane.close()
    world.replay()
    assert world.records == [[b"1", b"2", bytes(2000)], [b"3", b"4"]]


@virtual
async def test_a_large_relaxed_write_without_space_is_tried_again() -> None:
    world = LaneWorld("interval", segment_bytes=32 << 20)
    lane = world.recover()
    await settle()
    world.files.fail("write", errno.ENOSPC)
    large = bytes(9 << 20)
    world.owners[0].write(large)
    await settle(3)
    assert world.owners[0].durable == 1
    await lane.close()
    world.replay()
    assert world.records[0] == [large]


@virtual
async def test_closing_while_there_is_no_space_poisons_what_could_not_be_written() -> None:
    world = LaneWorld("interval", segment_bytes=8 << 10)
    world.files.fail("allocate", errno.ENOSPC, skip=1, always=True)
    lane = world.recover()
    owner = world.owners[0]
    owner.write(bytes(1400))
    await lane.settled()
    owner.write(bytes(3000))
    await settle()
    assert await lane.close() == 0
    assert owner.words == ["durable", "failed"]
    assert world.files.open_files == []
    await settle(5)
    assert segment_numbers(world.files, DIRECTORY) == [1]


@virtual
async def test_a_rotation_without_space_for_the_seal_is_tried_again() -> None:
    world = LaneWorld("interval", segment_bytes=8 << 10)
    lane = world.recover()
    await settle()
    first, second = world.owners
    first.write(bytes(1400))
    await lane.sync()
    await settle()
    world.files.fail("write", errno.ENOSPC, path="1.wal", always=True)
    second.write(bytes(1500))
    await settle(3)
    assert world.events == ["lag"]
    with pytest.raises(LogFullError):
        await lane.cut(lambda: None)
    world.files.heal()
    await settle(3)
    assert (first.durable, second.durable) == (1, 1)
    await lane.close()
    world.replay()
    assert world.records == [[bytes(1400)], [bytes(1500)]]


@virtual
async def test_durable_writers_are_refused_when_a_rotation_has_no_space_for_the_seal() -> None:
    world = LaneWorld(segment_bytes=8 << 10)
    lane = world.recover()
    await settle()
    first, second = world.owners
    first.write(bytes(1400))
    await settle()
    world.files.fail("write", errno.ENOSPC)
    second.write(bytes(1500))
    await lane.settled()
    assert second.words == ["refused"]
    second.write(bytes(1500))
    await lane.settled()
    assert second.words == ["refused", "durable"]
    await lane.close()
