"""Relaxed writes: synced at an interval, behind the loop's back."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest

from tests.support.lanes import SYNC_INTERVAL_S, LaneWorld, frames, kinds, settle
from tests.support.virtual_loop import virtual
from wal import LogPoisonedError
from wal.format import position


@virtual
async def test_relaxed_records_are_synced_within_the_interval_and_then_marked() -> None:
    world = LaneWorld("interval")
    lane = world.recover()
    world.owners[0].write(b"x")
    await lane.settled()
    assert world.owners[0].heard == []
    await settle(SYNC_INTERVAL_S * 1.5)
    assert world.owners[0].heard == [("durable", 1)]
    assert kinds(world.files, 1) == "GM"
    await lane.close()


@virtual
async def test_an_idle_log_is_not_synced_again() -> None:
    world = LaneWorld("interval")
    lane = world.recover()
    world.owners[0].write(b"x")
    await settle()
    await lane.sync()
    n_ticks = world.timer.n_ticks
    await settle(100 * SYNC_INTERVAL_S)
    assert world.timer.n_ticks == n_ticks
    await lane.close()


@virtual
async def test_a_group_never_names_a_mark_that_was_not_synced() -> None:
    world = LaneWorld("interval")
    lane = world.recover()
    world.owners[0].write(b"x")
    await settle()
    world.owners[0].write(b"y")
    await lane.settled()
    _, mark, group = frames(world.files, 1)
    assert group.header.durable <= position(1, mark.offset)
    await lane.close()


@virtual
async def test_what_is_written_during_a_sync_is_synced_by_the_next() -> None:
    world = LaneWorld("interval")
    lane = world.recover()
    first = world.owners[0]
    first.write(b"x")
    await asyncio.sleep(SYNC_INTERVAL_S)  # in this very turn the tick syncs
    first.write(b"y")
    await settle()
    assert first.durable == 2
    assert kinds(world.files, 1).endswith("M")
    await lane.close()


@virtual
async def test_records_behind_a_sync_keep_the_timer_armed() -> None:
    world = LaneWorld("interval")
    lane = world.recover()
    owner = world.owners[0]
    owner.write(b"x")
    await lane.settled()
    world.timer.fire()  # as the timer's thread does
    owner.write(b"y")
    lane.flush()  # before the loop hears of the sync
    await asyncio.sleep(0)
    assert owner.heard == [("durable", 1)]
    assert kinds(world.files, 1) == "GG"
    await settle()
    assert owner.heard == [("durable", 1), ("durable", 2)]
    await lane.close()


@virtual
async def test_a_disk_that_does_not_sync_makes_writers_wait_until_it_has() -> None:
    world = LaneWorld("interval")
    lane = world.recover()
    await settle()
    owner = world.owners[0]
    world.timer.arm = lambda: None  # type: ignore[method-assign]  # a disk that takes its time
    owner.write(b"1")
    await asyncio.sleep(SYNC_INTERVAL_S * 1.9)
    owner.write(b"2")
    await lane.settled()
    assert world.events == []
    await asyncio.sleep(SYNC_INTERVAL_S * 0.2)
    owner.write(b"3")
    await lane.settled()
    assert world.events == ["lag"]
    owner.write(b"4")
    await lane.settled()
    assert world.events == ["lag"]
    world.timer.fire()
    owner.write(b"5")
    lane.flush()
    await asyncio.sleep(0)
    assert world.events == ["lag", "no lag"]  # what is behind the sync is young
    await asyncio.sleep(SYNC_INTERVAL_S * 2.1)
    owner.write(b"6")
    await lane.settled()
    assert world.events[-1] == "lag"
    world.timer.fire()
    await asyncio.sleep(0)
    assert world.events[-1] == "no lag"
    assert owner.durable == 6
    await lane.close()


@virtual
async def test_a_large_relaxed_group_is_written_off_the_loop() -> None:
    world = LaneWorld("interval", segment_bytes=32 << 20)
    lane = world.recover()
    await settle()
    owner, other = world.owners
    large = bytes(9 << 20)
    owner.write(large)
    await asyncio.sleep(0)
    assert kinds(world.files, 1) == ""
    other.write(b"behind it")
    await asyncio.sleep(0)
    assert other.groups == []
    await lane.sync()
    assert kinds(world.files, 1)[:2] == "GG"
    assert (owner.durable, other.durable) == (1, 1)
    await lane.close()
    assert world.replay().n_records == 2


@virtual
async def test_a_large_group_that_cannot_be_written_poisons() -> None:
    world = LaneWorld("interval", segment_bytes=32 << 20)
    lane = world.recover()
    await settle()
    world.files.fail("write", errno.EIO)
    world.owners[0].write(bytes(9 << 20))
    await settle()
    assert world.owners[0].words == ["failed"]
    lane.abandon()
    await settle()


@virtual
async def test_a_sync_during_a_large_write_confirms_nothing_of_it() -> None:
    world = LaneWorld("interval", segment_bytes=32 << 20)
    lane = world.recover()
    await settle()
    owner, other = world.owners
    other.write(b"small")
    await lane.cut(lambda: None)  # so that the sync has a sealed file to let go
    await asyncio.sleep(0.01)  # the next segment
    world.run_s = 10.0
    owner.write(bytes(9 << 20))
    await asyncio.sleep(0)
    await asyncio.sleep(2.5 * SYNC_INTERVAL_S)
    world.timer.fire()
    await asyncio.sleep(0)
    assert other.heard == [("durable", 1)]
    assert owner.heard == []
    await settle(30)
    assert owner.heard == [("durable", 1)]
    await lane.close()


@virtual
async def test_a_large_write_of_an_abandoned_lane_is_not_counted() -> None:
    world = LaneWorld("interval", segment_bytes=32 << 20)
    lane = world.recover()
    await settle()
    world.owners[0].write(bytes(9 << 20))
    await asyncio.sleep(0)
    lane.abandon()
    await settle()
    assert world.owners[0].words == ["failed"]
    assert world.files.open_files == []


@virtual
async def test_a_sync_that_ends_after_the_loop_is_closed_is_only_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = LaneWorld("interval")
    lane = world.recover()

    def closed(*_: Any) -> None:
        raise RuntimeError("Event loop is closed")

    with monkeypatch.context() as patch:
        patch.setattr(world.loop, "call_soon_threadsafe", closed)
        world.timer.fire()
    assert "synced_after_loop_closed" in caplog.text
    await lane.close()


@virtual
async def test_a_sync_that_a_busy_loop_has_not_heard_of_makes_what_is_written_younger() -> None:
    world = LaneWorld("interval")
    lane = world.recover()
    await settle()
    owner = world.owners[0]
    world.timer.arm = lambda: None  # type: ignore[method-assign]  # the ticks come from here
    for _ in range(3):
        owner.write(b"x")
        lane.flush()
        await asyncio.sleep(SYNC_INTERVAL_S * 1.5)
        world.timer.fire()  # everything is durable
        owner.write(b"y")
        lane.flush()  # before the loop has heard of it
        assert world.events == []
        await asyncio.sleep(SYNC_INTERVAL_S * 1.5)
        owner.write(b"z")
        lane.flush()
        assert world.events == []
        world.timer.fire()
        await asyncio.sleep(0)
    await lane.close()


@virtual
async def test_a_sync_that_did_not_cover_everything_makes_it_as_young_as_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = LaneWorld("interval")
    lane = world.recover()
    await settle()
    owner = world.owners[0]
    world.timer.arm = lambda: None  # type: ignore[method-assign]  # the ticks come from here
    owner.write(b"x")
    lane.flush()
    await asyncio.sleep(SYNC_INTERVAL_S * 1.5)
    fault = world.files.fault

    def write_meanwhile(call: str, path: str) -> OSError | None:
        if call == "sync":
            owner.write(b"during the sync")
            lane.flush()
        return fault(call, path)

    with monkeypatch.context() as patch:
        patch.setattr(world.files, "fault", write_meanwhile)
        world.timer.fire()
    owner.write(b"before the loop has heard of it")
    lane.flush()
    await asyncio.sleep(0)
    assert owner.heard == [("durable", 1)]
    await asyncio.sleep(SYNC_INTERVAL_S * 1.5)
    owner.write(b"three intervals after the first")
    lane.flush()
    assert world.events == []
    world.timer.fire()
    await asyncio.sleep(0)
    assert owner.heard == [("durable", 1), ("durable", 4)]
    await lane.close()


@virtual
async def test_a_failed_sync_that_the_loop_has_not_heard_of_fails_the_sync_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = LaneWorld("interval")
    lane = world.recover()
    await settle()
    world.owners[0].write(b"x")
    await lane.settled()
    world.files.fail("sync", errno.EIO)
    with monkeypatch.context() as patch:
        patch.setattr(world.loop, "call_soon_threadsafe", lambda *_: None)
        world.timer.fire()
    with pytest.raises(LogPoisonedError):
        await lane.sync()
    assert world.owners[0].words == ["failed"]
    await lane.close()


@virtual
async def test_a_failed_sync_of_a_lane_that_is_poisoned_already_is_told_nobody() -> None:
    world = LaneWorld("interval")
    lane = world.recover()
    await settle()
    world.owners[0].write(b"x")
    lane.flush()
    world.files.fail("sync", errno.EIO)
    world.timer.fire()
    world.files.fail("write", errno.EIO)
    world.owners[0].write(b"y")
    lane.flush()
    await settle()
    assert (world.owners[0].words, world.events) == (["failed"], ["poisoned"])
    await lane.close()


@virtual
async def test_a_lane_that_is_poisoned_during_a_sync_fails_it_and_syncs_nothing_more() -> None:
    world = LaneWorld("interval")
    lane = world.recover()
    await settle()
    world.owners[0].write(b"x")
    await lane.settled()
    syncing = asyncio.create_task(lane.sync())
    await asyncio.sleep(0)
    n_calls = len(world.files.calls)
    world.files.fail("write", errno.EIO)
    world.owners[0].write(b"y")
    with pytest.raises(LogPoisonedError):
        await syncing
    world.timer.fire()
    assert [call for call, _ in world.files.calls[n_calls:]] == ["write"]
    await lane.close()


@virtual
async def test_syncs_that_are_heard_of_in_the_wrong_order_take_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    world = LaneWorld("interval")
    lane = world.recover()
    await settle()
    told: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(world.loop, "call_soon_threadsafe", lambda *call: told.append(call))
        for payload in (b"x", b"y"):
            world.owners[0].write(payload)
            lane.flush()
            world.timer.fire()
    for hear, *outcome in reversed(told):
        hear(*outcome)
        assert world.owners[0].heard == [("durable", 2)]
        assert lane.durable == position(1, frames(world.files, 1)[1].offset + 512)
    await lane.close()
