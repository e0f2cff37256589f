"""The lane: group commit, marks, cuts, and the end."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from tests.support.lanes import DIRECTORY, MARK_DELAY_S, LaneWorld, Owner, both_modes, frames, kinds, settle
from tests.support.virtual_loop import run_virtual, virtual
from wal import Durability, LogClosedError, LogFullError, LogPoisonedError
from wal.format import FRAME_BYTES_MAX, HEADER_BYTES, Kind, position, split_position
from wal.replay import segment_numbers


# Group commit
@virtual
async def test_all_that_ask_in_one_turn_share_one_write() -> None:
    world = LaneWorld(n_streams=3)
    lane = world.recover()
    for i, owner in enumerate(world.owners):
        owner.write(b"a%d" % i, b"b%d" % i)
    assert world.writer.writes == []
    await lane.settled()
    assert len(world.writer.writes) == 1
    assert [owner.heard for owner in world.owners] == [[("durable", 2)]] * 3
    assert (lane.n_groups, lane.n_syncs, lane.n_bytes) == (3, 1, 3 * 512)
    await lane.close()


@virtual
async def test_writers_that_a_commit_wakes_join_the_next_write() -> None:
    world = LaneWorld(n_streams=3)
    lane = world.recover()
    wakes = [asyncio.Event() for _ in world.owners]

    async def write_two(i: int) -> None:
        owner = world.owners[i]
        owner.on_heard = wakes[i].set
        for _ in range(2):
            wakes[i].clear()
            owner.write(b"record")
            await wakes[i].wait()

    await asyncio.gather(*(write_two(i) for i in range(3)))
    assert [n_bytes for _, _, n_bytes in world.writer.writes] == [3 * 512] * 2
    await lane.close()


def wake_by(owner: Owner, wake: Callable[[], object]) -> None:
    """Have the lane call ``wake`` when a write of this owner's is durable, as it wakes the writers of a shard."""
    hear = owner.on_durable

    def on_durable(lsn: int) -> Callable[[], object]:
        hear(lsn)
        return wake

    owner.on_durable = on_durable  # type: ignore[assignment, method-assign]


def once(call: Callable[[], object]) -> Callable[[], None]:
    """Return a function that does its work at the first call only."""
    calls = [call]
    return lambda: None if not calls else (calls.pop()(), None)[1]


@virtual
async def test_writers_that_a_commit_wakes_join_the_next_write_without_a_turn_between() -> None:
    world = LaneWorld(n_streams=3)
    lane = world.recover()
    seen: list[Any] = []

    def woken(i: int) -> None:
        seen.append([one.durable for one in world.owners])
        world.loop.call_soon(lambda: seen.append(len(world.writer.writes)))  # before any turn that is asked for now
        world.owners[i].write(b"again")

    for i, owner in enumerate(world.owners):
        wake_by(owner, once(lambda i=i: woken(i)))  # type: ignore[misc]
        owner.write(b"first")
    await lane.settled()
    assert seen == [[1, 1, 1]] * 3  # all had heard before the first was woken
    await lane.settled()
    assert seen[3:] == [2, 2, 2]
    assert [n_bytes for _, _, n_bytes in world.writer.writes] == [3 * 512] * 2
    assert [owner.durable for owner in world.owners] == [2, 2, 2]
    await lane.close()


@virtual
async def test_a_woken_writer_that_flushes_leaves_the_others_to_the_write_after() -> None:
    world = LaneWorld()
    lane = world.recover()
    first, second = world.owners

    def flush() -> None:
        first.write(b"flushed")
        lane.flush()
        lane.flush()

    wake_by(first, once(flush))
    wake_by(second, once(lambda: second.write(b"later")))
    first.write(b"1")
    second.write(b"2")
    await settle(0.1)
    assert [n_bytes for _, _, n_bytes in world.writer.writes[:3]] == [1024, 512, 512]
    end = await lane.close()
    world.replay(clean_end=end)
    assert world.records == [[b"1", b"flushed"], [b"2", b"later"]]


@virtual
async def test_a_woken_writer_that_flushes_nothing_leaves_the_lane_in_order() -> None:
    world = LaneWorld()
    lane = world.recover()
    first, second = world.owners
    wake_by(first, lane.flush)
    wake_by(second, once(lambda: second.write(b"later")))
    first.write(b"1")
    second.write(b"2")
    await settle(0.1)
    assert [n_bytes for _, _, n_bytes in world.writer.writes[:2]] == [1024, 512]
    await lane.close()
    assert [owner.durable for owner in world.owners] == [1, 2]


@virtual
async def test_a_woken_writer_may_ask_for_the_turn_of_another_stream() -> None:
    world = LaneWorld(n_streams=3)
    lane = world.recover()
    first, second, third = world.owners
    wake_by(first, once(lambda: third.write(b"3")))
    wake_by(second, once(lambda: first.write(b"again")))
    first.write(b"1")
    second.write(b"2")
    await settle(0.1)
    assert [n_bytes for _, _, n_bytes in world.writer.writes[:2]] == [1024, 1024]
    end = await lane.close()
    world.replay(clean_end=end)
    assert world.records == [[b"1", b"again"], [b"2"], [b"3"]]


@virtual
async def test_a_woken_writer_that_abandons_the_lane_leaves_it_in_order() -> None:
    world = LaneWorld()
    lane = world.recover()
    first, second = world.owners
    wake_by(first, lane.abandon)
    wake_by(second, lambda: second.write(b"never"))
    first.write(b"1")
    second.write(b"2")
    await settle()
    assert [owner.words for owner in world.owners] == [["durable", "failed"]] * 2
    assert second.pending == [b"never"]
    assert len(world.writer.writes) == 1
    assert world.files.open_files == []
    with pytest.raises(LogClosedError):
        await lane.sync()
    world.replay()
    assert world.records == [[b"1"], [b"2"]]


@virtual
async def test_an_interrupt_in_a_woken_writer_stops_neither_the_others_nor_the_next_turn() -> None:
    world = LaneWorld(n_streams=3)
    lane = world.recover()
    first, second, third = world.owners
    interrupts: list[BaseException] = []
    write = world.writer.write

    def write_and_catch(file: Any, buffers: Any, offset: int, done: Callable[[OSError | None], None]) -> None:
        def done_and_catch(error: OSError | None) -> None:
            try:
                done(error)
            except KeyboardInterrupt as interrupt:  # the loop would end
                interrupts.append(interrupt)

        write(file, buffers, offset, done_and_catch)

    def interrupt() -> None:
        raise KeyboardInterrupt

    world.writer.write = write_and_catch  # type: ignore[method-assign]
    wake_by(first, once(lambda: first.write(b"again")))
    wake_by(second, once(interrupt))
    wake_by(third, once(lambda: third.write(b"again")))
    for owner in world.owners:
        owner.write(b"1")
    await settle(MARK_DELAY_S * 5)
    assert len(interrupts) == 1
    assert [owner.durable for owner in world.owners] == [2, 1, 2]
    wake_by(second, once(interrupt))
    second.write(b"last")
    await settle(MARK_DELAY_S * 5)
    assert len(interrupts) == 2
    assert kinds(world.files, 1)[-2:] == "GM"  # the idle log is confirmed all the same
    await lane.close()


@virtual
async def test_what_is_asked_during_a_write_goes_into_the_next_one() -> None:
    world = LaneWorld()
    lane = world.recover()
    first, second = world.owners
    first.write(b"1")
    await asyncio.sleep(0)
    first.write(b"2")
    second.write(b"3")
    lane.flush()  # a write is under way: nothing happens
    assert len(world.writer.writes) == 1
    await lane.settled()
    assert [n for _, _, n in world.writer.writes] == [512, 1024]
    assert first.heard == [("durable", 1), ("durable", 2)]
    await lane.close()


@virtual
async def test_asking_twice_in_a_turn_is_asking_once() -> None:
    world = LaneWorld()
    lane = world.recover()
    owner = world.owners[0]
    owner.write(b"1")
    owner.write(b"2")
    await lane.settled()
    assert owner.groups == [[b"1", b"2"]]
    await lane.close()


@virtual
async def test_an_owner_with_nothing_to_write_makes_no_frame() -> None:
    world = LaneWorld()
    lane = world.recover()
    world.owners[0].write()
    await lane.settled()
    assert world.writer.writes == []
    await lane.close()


@virtual
async def test_a_new_owner_of_a_stream_replaces_the_old_one() -> None:
    world = LaneWorld()
    lane = world.recover()
    old, other = world.owners
    assert old.stream is not None
    old.write(b"never taken")
    old_stream = old.stream
    old.stream = lane.open_stream(0, other, 1)
    await lane.settled()
    assert old_stream not in lane.streams
    assert old.groups == []
    await lane.close()


@virtual
async def test_flush_writes_relaxed_records_without_waiting_for_the_turn() -> None:
    world = LaneWorld("interval")
    lane = world.recover()
    world.owners[0].write(b"now")
    lane.flush()
    assert [frame.payloads() for frame in frames(world.files, 1)] == [[b"now"]]
    await lane.close()


@both_modes
@virtual
async def test_every_frame_names_what_was_durable_when_it_was_written(durability: Durability) -> None:
    world = LaneWorld(durability)
    lane = world.recover()
    for _ in range(3):
        world.owners[0].write(b"x")
        await lane.sync()
    await lane.close()
    groups = [frame for frame in frames(world.files, 1) if frame.header.kind is Kind.GROUP]
    assert [frame.header.lsn for frame in groups] == [1, 2, 3]
    for before, after in pairwise(groups):
        end = position(1, before.offset + before.header.span)
        assert end <= after.header.durable <= position(1, after.offset)


@virtual
async def test_a_seal_names_everything_before_it() -> None:
    world = LaneWorld()
    lane = world.recover()
    world.owners[0].write(b"x")
    await lane.settled()
    await lane.cut(lambda: None)
    group, seal = frames(world.files, 1)
    assert seal.header.durable == position(1, group.offset + 512) == position(1, seal.offset)
    await lane.close()


@both_modes
@virtual
async def test_a_group_larger_than_any_frame_poisons_the_lane_rather_than_be_unreadable(durability: Durability) -> None:
    world = LaneWorld(durability)
    lane = world.recover()
    payload = bytes(FRAME_BYTES_MAX // 64)
    world.owners[0].write(*[payload] * 65)
    await settle()
    assert world.owners[0].words == ["failed"]
    assert isinstance(lane.error, LogPoisonedError)
    lane.abandon()
    await settle()
    assert segment_numbers(world.files, DIRECTORY) == [1, 2]


# Marks
@virtual
async def test_an_idle_log_confirms_its_last_group_by_a_mark() -> None:
    world = LaneWorld()
    lane = world.recover()
    world.owners[0].write(b"x")
    await lane.settled()
    await settle(MARK_DELAY_S * 3)
    assert kinds(world.files, 1) == "GM"
    assert frames(world.files, 1)[1].header.durable == position(1, HEADER_BYTES + 512)
    await settle()
    assert kinds(world.files, 1) == "GM"
    assert world.replay().durable == position(1, HEADER_BYTES + 512)
    await lane.close()


@virtual
async def test_a_busy_log_writes_no_mark() -> None:
    world = LaneWorld()
    lane = world.recover()
    for _ in range(10):
        world.owners[0].write(b"x")
        await asyncio.sleep(MARK_DELAY_S * 0.6)
    assert kinds(world.files, 1) == "G" * 10
    await lane.close()


@virtual
async def test_a_mark_waits_while_a_write_is_under_way() -> None:
    world = LaneWorld()
    lane = world.recover()
    world.owners[0].write(b"x")
    await lane.settled()
    world.writer.write_s = MARK_DELAY_S * 3
    world.owners[0].write(b"y")
    await settle()
    assert kinds(world.files, 1) == "GGM"
    await lane.close()


@virtual
async def test_a_failed_mark_poisons() -> None:
    world = LaneWorld()
    lane = world.recover()
    world.owners[0].write(b"x")
    await lane.settled()
    world.files.fail("sync", errno.EIO, path="0001.wal")
    await settle()
    assert world.owners[0].words == ["durable", "failed"]
    assert world.events == ["poisoned"]
    lane.abandon()
    await settle()


@both_modes
@virtual
async def test_a_mark_for_which_the_disk_has_no_space_is_left_out(durability: Durability) -> None:
    world = LaneWorld(durability)
    lane = world.recover()
    await settle()
    world.owners[0].write(b"x")
    await asyncio.sleep(0.001)
    await lane.settled()
    world.files.fail("write", errno.ENOSPC, always=True)
    await settle()
    assert kinds(world.files, 1) == "G"
    world.files.heal()
    world.owners[0].write(b"y")
    await settle()
    assert kinds(world.files, 1) == "GGM"
    assert world.owners[0].durable == 2
    await lane.close()


@virtual
async def test_a_mark_of_a_closed_or_poisoned_lane_is_never_written() -> None:
    world = LaneWorld()
    lane = world.recover()
    world.owners[0].write(b"x")
    await lane.settled()
    lane.abandon()
    await settle()
    assert kinds(world.files, 1) == "G"


# Cuts
@both_modes
@virtual
async def test_a_cut_seals_everything_that_was_applied_before_it(durability: Durability) -> None:
    world = LaneWorld(durability)
    lane = world.recover()
    owner = world.owners[0]
    owner.write(b"before")
    if durability == "fsync":
        await lane.settled()
    assert owner.stream is not None
    lsns = []
    sealed = await lane.cut(lambda: lsns.append(owner.stream.lsn_next - 1))  # type: ignore[union-attr]
    owner.write(b"after")
    await lane.sync()
    assert (sealed, lsns, lane.active_number) == (1, [1], 2)
    world.replay(until=sealed)
    assert world.records[0] == [b"before"]
    await lane.close()


@both_modes
@virtual
async def test_cuts_that_are_asked_for_together_share_a_seal(durability: Durability) -> None:
    world = LaneWorld(durability)
    lane = world.recover()
    called: list[int] = []
    numbers = await asyncio.gather(*(lane.cut(lambda i=i: called.append(i)) for i in range(3)))  # type: ignore[misc]
    assert (numbers, called) == ([1, 1, 1], [0, 1, 2])
    assert await lane.cut(lambda: None) == 2
    await lane.close()


@both_modes
@virtual
async def test_a_cut_waits_for_the_write_under_way_and_for_held_groups(durability: Durability) -> None:
    world = LaneWorld(durability, segment_bytes=8 << 10)
    lane = world.recover()
    world.run_s = 1.0
    first, second = world.owners
    first.write(bytes(1400))
    second.write(bytes(3000))
    await asyncio.sleep(0)
    seen = []
    sealed = await lane.cut(lambda: seen.append([len(owner.groups) for owner in world.owners]))
    assert seen == [[1, 1]]
    world.replay(until=sealed)
    assert world.records == [[bytes(1400)], [bytes(3000)]]
    await lane.close()


@both_modes
@virtual
async def test_writes_go_on_while_a_cut_waits_for_its_segment(durability: Durability) -> None:
    world = LaneWorld(durability)
    lane = world.recover()
    world.run_s = 10.0
    cut = asyncio.create_task(lane.cut(lambda: None))
    await asyncio.sleep(0.1)
    world.owners[0].write(b"meanwhile")
    await asyncio.sleep(0.1)
    assert kinds(world.files, 1)[0] == "G"
    assert not cut.done()
    assert await cut == 1
    await lane.close()


@both_modes
@virtual
async def test_writes_that_wait_behind_a_cut_follow_it(durability: Durability) -> None:
    world = LaneWorld(durability)
    lane = world.recover()
    await settle()
    cut = asyncio.create_task(lane.cut(lambda: None))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    world.owners[0].write(b"after")
    assert await cut == 1
    await lane.sync()
    assert [frame.payloads() for frame in frames(world.files, 2)][:1] == [[b"after"]]
    await lane.close()


@both_modes
@virtual
async def test_a_cancelled_cut_is_not_made(durability: Durability) -> None:
    world = LaneWorld(durability)
    lane = world.recover()
    called: list[str] = []
    cut = asyncio.create_task(lane.cut(lambda: called.append("cut")))
    await asyncio.sleep(0)
    cut.cancel()
    await settle()
    assert (called, lane.active_number) == ([], 1)
    await lane.close()


@both_modes
@virtual
async def test_a_cut_cancelled_during_its_seal_leaves_the_others_alone(durability: Durability) -> None:
    world = LaneWorld(durability)
    lane = world.recover()
    await settle()
    first = asyncio.create_task(lane.cut(lambda: None))
    second = asyncio.create_task(lane.cut(lambda: None))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    assert await second == 1
    await lane.close()


@both_modes
@virtual
async def test_a_cut_of_a_poisoned_or_closed_lane_raises(durability: Durability) -> None:
    world = LaneWorld(durability)
    lane = world.recover()
    await lane.close()
    with pytest.raises(LogClosedError):
        await lane.cut(lambda: None)


@both_modes
@virtual
async def test_a_cut_that_waits_hears_that_the_lane_is_poisoned(durability: Durability) -> None:
    world = LaneWorld(durability)
    lane = world.recover()
    world.run_s = 10.0  # no segment yet: the cut waits
    cut = asyncio.create_task(lane.cut(lambda: None))
    gone = asyncio.create_task(lane.cut(lambda: None))
    await asyncio.sleep(0.1)
    gone.cancel()
    await asyncio.sleep(0)
    world.files.fail("write", errno.EIO)
    world.owners[0].write(b"x")
    with pytest.raises(LogPoisonedError):
        await cut
    lane.abandon()
    await settle(30)


@virtual
async def test_a_cut_whose_seal_fails_hears_it() -> None:
    world = LaneWorld()
    lane = world.recover()
    await settle()
    world.files.fail("sync", errno.EIO)
    with pytest.raises(LogPoisonedError):
        await lane.cut(lambda: None)
    lane.abandon()
    await settle()


@both_modes
@virtual
async def test_a_cut_without_space_for_the_next_segment_is_refused_and_a_later_one_made(durability: Durability) -> None:
    world = LaneWorld(durability)
    world.files.fail("allocate", errno.ENOSPC, skip=1, always=True)
    lane = world.recover()
    called: list[str] = []
    with pytest.raises(LogFullError):
        await lane.cut(lambda: called.append("cut"))
    with pytest.raises(LogFullError):
        await lane.cut(lambda: called.append("cut"))
    assert called == []
    n_calls = len(world.files.calls)
    await settle(10)
    assert len(world.files.calls) < n_calls + 300  # it tries once a second
    world.files.heal()
    await settle(2)
    assert await lane.cut(lambda: called.append("cut")) == 1
    await lane.close()


@both_modes
@virtual
async def test_a_cut_without_space_for_its_seal_is_refused(durability: Durability) -> None:
    world = LaneWorld(durability)
    lane = world.recover()
    await settle()
    world.files.fail("write", errno.ENOSPC)
    with pytest.raises(LogFullError):
        await lane.cut(lambda: None)
    assert lane.active_number == 1
    world.owners[0].write(b"x")
    await lane.sync()
    assert await lane.cut(lambda: None) == 1
    await lane.close()
    world.replay()
    assert world.records[0] == [b"x"]


# The end
@both_modes
@virtual
async def test_close_writes_everything_and_a_reopened_lane_goes_on_at_the_clean_end(durability: Durability) -> None:
    world = LaneWorld(durability)
    lane = world.recover()
    world.owners[0].write(b"1")
    world.owners[1].write(b"2")
    end = await lane.close()
    assert [owner.heard for owner in world.owners] == [[("durable", 1)]] * 2
    assert world.files.open_files == []
    assert world.writer.is_closed
    number, offset = split_position(end)
    assert (number, offset) == (1, HEADER_BYTES + 3 * 512)
    again = world.recover(clean_end=end)
    assert world.found.torn is None
    assert world.found.durable == end
    assert world.records == [[b"1"], [b"2"]]
    world.owners[0].write(b"3")
    await again.close()
    world.replay()
    assert world.records == [[b"1", b"3"], [b"2"]]


@both_modes
@virtual
async def test_close_gives_back_what_is_behind_the_end_and_a_crash_before_the_manifest_loses_nothing(
    durability: Durability,
) -> None:
    world = LaneWorld(durability)
    lane = world.recover()
    world.owners[0].write(b"1")
    await lane.close()
    assert ("give_back", f"{DIRECTORY}/0000000000000001.wal") in world.files.calls
    for seed in range(20):
        world.files = world.files.crash(random.Random(seed))
        found = world.replay()
        assert (world.records[0], found.torn) == ([b"1"], None)


@both_modes
@virtual
async def test_a_close_that_cannot_give_back_is_clean(durability: Durability) -> None:
    world = LaneWorld(durability)
    lane = world.recover()
    world.owners[0].write(b"1")
    world.files.fail("give_back", errno.EIO)
    end = await lane.close()
    assert end > 0
    assert world.files.open_files == []
    again = world.recover(clean_end=end)
    assert world.records[0] == [b"1"]
    await again.close()


@both_modes
@virtual
async def test_a_clean_close_that_the_manifest_never_heard_of_opens_as_well(durability: Durability) -> None:
    world = LaneWorld(durability)
    world.files.fail("allocate", errno.ENOSPC, skip=1, always=True)  # a full disk: there is no next segment
    lane = world.recover()
    await settle()
    world.owners[0].write(b"1")
    assert await lane.close() > 0
    found = world.replay()
    assert world.records[0] == [b"1"]
    assert found.torn is None


@both_modes
@virtual
async def test_closing_an_idle_or_empty_lane_gives_its_end(durability: Durability) -> None:
    world = LaneWorld(durability)
    assert split_position(await world.recover().close())[0] == 1
    lane = world.recover()
    assert split_position(await lane.close())[0] == lane.active_number
    assert isinstance(lane.error, LogClosedError)
    assert await lane.close() == 0
    with pytest.raises(LogClosedError):
        await lane.sync()


@both_modes
@virtual
async def test_close_waits_for_the_segment_that_is_being_made(durability: Durability) -> None:
    world = LaneWorld(durability, segment_bytes=8 << 10)
    lane = world.recover()
    world.run_s = 5.0
    for owner in world.owners:
        owner.write(bytes(3000))
    assert split_position(await lane.close())[0] == 2
    assert world.files.open_files == []
    world.replay()
    assert world.records == [[bytes(3000)]] * 2


@both_modes
@virtual
async def test_a_cut_that_close_overtakes_is_refused(durability: Durability) -> None:
    world = LaneWorld(durability)
    lane = world.recover()
    called: list[str] = []
    cut = asyncio.create_task(lane.cut(lambda: called.append("cut")))
    await asyncio.sleep(0)
    end = await lane.close()
    with pytest.raises(LogClosedError):
        await cut
    assert called == []
    world.replay(clean_end=end)


@both_modes
@virtual
async def test_what_is_asked_during_close_is_not_written_over_its_end(durability: Durability) -> None:
    world = LaneWorld(durability)
    lane = world.recover()
    await settle()
    world.owners[0].write(b"1")
    closing = asyncio.create_task(lane.close())
    for _ in range(12):
        await asyncio.sleep(0.0003)
        world.owners[1].write(b"late")
    end = await closing
    await settle()
    found = world.replay(clean_end=end)
    assert found.end >= end
    assert world.records[0] == [b"1"]
    assert world.owners[1].durable == len(world.records[1])


@both_modes
@virtual
async def test_a_close_that_cannot_write_poisons_and_returns_no_end(durability: Durability) -> None:
    world = LaneWorld(durability)
    lane = world.recover()
    await settle()
    world.files.fail("write", errno.EIO)
    assert await lane.close() == 0
    assert world.owners[0].words == ["failed"]
    assert world.files.open_files == []


@virtual
async def test_a_poisoned_relaxed_lane_closes_and_stops_its_timer() -> None:
    world = LaneWorld("interval")
    lane = world.recover()
    await settle()
    world.files.fail("write", errno.EIO)
    world.owners[0].write(b"x")
    await settle()
    assert await lane.close() == 0
    assert world.timer.is_stopped


@virtual
async def test_sync_ends_although_others_never_stop_writing() -> None:
    world = LaneWorld()
    lane = world.recover()
    first, second = world.owners
    stop = False

    def again(owner: Any) -> Callable[[], None]:
        return lambda: None if stop else owner.write(b"more")

    for owner in world.owners:
        owner.on_heard = again(owner)
    first.write(b"1")
    await asyncio.sleep(0)
    second.write(b"2")  # from now on one of the two always waits
    await asyncio.wait_for(lane.sync(), 1.0)
    await asyncio.wait_for(lane.settled(), 1.0)
    stop = True
    await settle(0.1)
    await lane.close()


@virtual
async def test_sync_ends_although_woken_writers_never_stop_writing() -> None:
    world = LaneWorld()
    lane = world.recover()
    stop = False

    def again(owner: Owner) -> Callable[[], None]:
        return lambda: None if stop else owner.write(b"more")

    for owner in world.owners:
        wake_by(owner, again(owner))
        owner.write(b"1")
    for delay_s in (0.0, 0.0002, 0.0007):
        await asyncio.sleep(delay_s)
        await asyncio.wait_for(lane.sync(), 0.01)
        await asyncio.wait_for(lane.settled(), 0.01)
    assert not lane.error
    stop = True
    await settle(0.1)
    await lane.close()


@pytest.mark.parametrize("run_s", [0.0, 0.01])
@virtual
async def test_close_marks_the_end_behind_the_last_write_although_woken_writers_write_on(run_s: float) -> None:
    for delay_s in (0.0, 0.0001, 0.0005, 0.0007, 0.001):
        world = LaneWorld()
        ends: list[int] = []

        async def run(call: Callable[[], Any], world: LaneWorld = world, ends: list[int] = ends) -> Any:
            await asyncio.sleep(run_s)
            if call == world.lane._finish:
                assert not world.writer._under_way
                ends.append(len(world.writer.writes))
            return call()

        def again(owner: Owner) -> Callable[[], None]:
            return lambda: owner.write(b"more")

        world.run = run  # type: ignore[method-assign]
        lane = world.recover()
        for owner in world.owners:
            wake_by(owner, again(owner))
            owner.write(b"1")
        await asyncio.sleep(delay_s)
        end = await asyncio.wait_for(lane.close(), 1.0)
        await settle()
        assert end > 0
        assert ends == [len(world.writer.writes)]
        assert world.files.open_files == []
        found = world.replay(clean_end=end)
        assert found.torn is None
        assert world.records == [owner.taken for owner in world.owners]
        assert [owner.durable for owner in world.owners] == [len(records) for records in world.records]


@both_modes
@pytest.mark.parametrize("seed", range(10))
def test_the_order_of_callbacks_within_a_turn_does_not_matter(durability: Durability, seed: int) -> None:
    async def run() -> None:
        world = LaneWorld(durability, segment_bytes=8 << 10)
        lane = world.recover()

        async def work(i: int) -> None:
            for n in range(12):
                world.owners[i].write(b"%d" % n + bytes(300 * n))
                await (lane.sync() if n % 3 else lane.cut(lambda: None))

        await asyncio.gather(work(0), work(1))
        end = await lane.close()
        world.replay(clean_end=end)
        assert world.records == [owner.taken for owner in world.owners]
        assert [owner.durable for owner in world.owners] == [12, 12]

    run_virtual(run(), seed=seed)
