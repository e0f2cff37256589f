"""The mailbox: its bounds, its batches, its order, and futures that no waiter can spoil for another."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.virtual_loop import cancelled_at, run_virtual, virtual
from warpstore.errors import ActorStoppedError, LimitError, OverloadedError
from warpstore.mailbox import Batch, Mailbox


def mailbox_of(**limits: int) -> Mailbox[Any]:
    return Mailbox(loop=asyncio.get_running_loop(), wake=lambda: None, **limits)


def taken(mailbox: Mailbox[Any]) -> Batch[Any]:
    batch = mailbox.take()
    assert batch is not None
    return batch


@virtual
async def test_a_batch_holds_its_messages_in_posting_order_and_shares_one_future() -> None:
    mailbox = mailbox_of()
    futures = [mailbox.post(i, size=10) for i in range(5)]
    assert len(mailbox) == 5
    assert mailbox.n_bytes == 50
    batch = taken(mailbox)
    assert batch.messages == [0, 1, 2, 3, 4]
    assert batch.n_bytes == 50
    assert all(future is batch.done for future in futures)
    assert (len(mailbox), mailbox.n_bytes, mailbox.take()) == (0, 0, None)
    batch.finish()
    await asyncio.gather(*futures)


@virtual
async def test_messages_posted_after_a_take_belong_to_the_next_batch() -> None:
    mailbox = mailbox_of()
    first = mailbox.post("a")
    batch = taken(mailbox)
    second = mailbox.post("b")
    batch.finish()
    assert first.done()
    assert not second.done()
    assert taken(mailbox).messages == ["b"]


@virtual
async def test_wake_is_called_once_for_each_batch() -> None:
    wakes: list[int] = []
    mailbox = Mailbox[int](loop=asyncio.get_running_loop(), wake=lambda: wakes.append(1))
    mailbox.post(1)
    mailbox.post(2)
    assert len(wakes) == 1
    taken(mailbox).finish()
    mailbox.post(3)
    assert len(wakes) == 2


@virtual
async def test_a_post_whose_wake_raises_changes_nothing() -> None:
    def wake() -> None:
        raise RuntimeError

    mailbox = Mailbox[int](loop=asyncio.get_running_loop(), wake=wake)
    with pytest.raises(RuntimeError):
        mailbox.post(1, size=5)
    assert (len(mailbox), mailbox.n_bytes) == (0, 0)


@virtual
async def test_writers_woken_in_one_turn_join_one_batch() -> None:
    loop = asyncio.get_running_loop()
    batches: list[list[int]] = []

    def drain() -> None:
        batch = taken(mailbox)
        batches.append(batch.messages)
        batch.finish()

    mailbox = Mailbox[int](loop=loop, wake=lambda: loop.call_soon(drain))

    async def writer(i: int) -> None:
        await mailbox.post(i)
        await mailbox.post(i)

    await asyncio.gather(*(writer(i) for i in range(64)))
    assert batches == [list(range(64))] * 2


@virtual
async def test_a_full_mailbox_refuses_and_names_its_limits() -> None:
    mailbox = mailbox_of(messages_max=2, bytes_max=100)
    mailbox.post("a", size=60)
    with pytest.raises(OverloadedError, match="bytes_max=100"):
        mailbox.post("b", size=41)
    mailbox.post("b", size=40)
    with pytest.raises(OverloadedError, match="messages_max=2"):
        mailbox.post("c")
    assert taken(mailbox).messages == ["a", "b"]
    mailbox.post("c")


@virtual
async def test_a_message_larger_than_the_mailbox_is_refused_for_good() -> None:
    mailbox = mailbox_of(bytes_max=100)
    with pytest.raises(LimitError, match="bytes_max=100"):
        mailbox.post("a", size=101)
    with pytest.raises(LimitError):
        await mailbox.wait_for_room(101)
    with pytest.raises(LimitError):
        await mailbox.post_when_room("a", 101)


def test_limits_below_one_message_are_refused() -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="messages_max"):
            mailbox_of(messages_max=0)

    run_virtual(main())


@virtual
async def test_waiters_get_room_in_the_order_they_came() -> None:
    mailbox = mailbox_of(messages_max=2)
    mailbox.post("x")
    mailbox.post("y")
    tasks = [asyncio.create_task(mailbox.post_when_room(i)) for i in range(5)]
    seen: list[Any] = []
    while len(seen) < 7:
        await asyncio.sleep(0)
        batch = mailbox.take()
        if batch is not None:
            assert len(batch.messages) <= 2
            seen += batch.messages
            batch.finish()
    assert seen == ["x", "y", 0, 1, 2, 3, 4]
    await asyncio.gather(*tasks)
    assert mailbox.n_waiters == 0
    assert mailbox.is_empty


@virtual
async def test_room_promised_to_a_waiter_is_not_given_to_a_later_post() -> None:
    mailbox = mailbox_of(messages_max=1)
    mailbox.post("x")
    waiter = asyncio.create_task(mailbox.post_when_room("waited"))
    await asyncio.sleep(0)
    taken(mailbox).finish()
    assert not mailbox.has_room()
    assert not mailbox.is_empty
    with pytest.raises(OverloadedError):
        mailbox.post("pushy")
    await waiter
    assert taken(mailbox).messages == ["waited"]


@virtual
async def test_a_large_waiter_is_not_passed_by_smaller_ones_behind_it() -> None:
    mailbox = mailbox_of(bytes_max=100)
    mailbox.post("x", size=90)
    order: list[str] = []

    async def wait(name: str, size: int) -> None:
        await mailbox.post_when_room(name, size)
        order.append(name)

    tasks = [asyncio.create_task(wait(name, size)) for name, size in (("large", 100), ("small", 5))]
    while len(order) < 2:
        await asyncio.sleep(0)
        batch = mailbox.take()
        if batch is not None:
            batch.finish()
    assert order == ["large", "small"]
    await asyncio.gather(*tasks)


@virtual
async def test_a_cancelled_waiter_leaves_its_place_to_those_behind_it() -> None:
    mailbox = mailbox_of(bytes_max=100)
    mailbox.post("x", size=90)
    large = asyncio.create_task(mailbox.wait_for_room(50))
    small = asyncio.create_task(mailbox.post_when_room("small", 10))
    await asyncio.sleep(0)
    assert mailbox.n_waiters == 2
    large.cancel()
    await small
    assert mailbox.n_bytes == 100
    taken(mailbox).finish()
    assert mailbox.is_empty


@pytest.mark.parametrize("turns_before_cancel", range(4))
def test_a_waiter_cancelled_at_any_turn_leaks_no_room(turns_before_cancel: int) -> None:
    async def main() -> None:
        mailbox = mailbox_of(messages_max=1, bytes_max=10)
        mailbox.post("x", size=10)
        first = asyncio.create_task(mailbox.post_when_room("first", 10))
        second = asyncio.create_task(mailbox.post_when_room("second", 10))
        await asyncio.sleep(0)
        taken(mailbox).finish()  # Promises the room to the first.
        for _ in range(turns_before_cancel):
            await asyncio.sleep(0)
        was_cancelled = first.cancel()
        for _ in range(4):
            await asyncio.sleep(0)
            if (batch := mailbox.take()) is not None:
                batch.finish()
        await asyncio.wait([first, second])
        assert first.cancelled() == was_cancelled
        assert not second.cancelled()
        assert mailbox.is_empty
        mailbox.post("y", size=10)  # All the room is there again.

    run_virtual(main())


@virtual
async def test_a_cancelled_writer_does_not_cancel_the_others_of_its_batch() -> None:
    mailbox = mailbox_of()

    async def write() -> str:
        await mailbox.post("m")
        return "written"

    victim, other = asyncio.create_task(write()), asyncio.create_task(write())
    await asyncio.sleep(0)
    victim.cancel()
    await asyncio.sleep(0)
    assert not victim.done()  # Delivered when the batch is done, not before.
    taken(mailbox).finish()
    assert await other == "written"
    with pytest.raises(asyncio.CancelledError):
        await victim


@virtual
async def test_a_deadline_on_a_shared_future_is_delivered_when_the_batch_is_done() -> None:
    loop = asyncio.get_running_loop()
    mailbox = mailbox_of()
    other = mailbox.post("other")
    loop.call_later(3.0, lambda: taken(mailbox).finish())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            await mailbox.post("m")
    assert loop.time() == pytest.approx(3.0)
    await other


@virtual
async def test_a_shared_future_refuses_to_be_cancelled() -> None:
    mailbox = mailbox_of()
    future = mailbox.post("m")
    assert not future.cancel()
    assert not future.cancel("message")
    taken(mailbox).finish()
    assert not future.cancelled()
    await future


@virtual
async def test_a_failed_batch_raises_in_each_of_its_waiters_and_only_there() -> None:
    mailbox = mailbox_of()
    failed = [mailbox.post("a"), mailbox.post("b")]
    batch = taken(mailbox)
    later = mailbox.post("c")
    batch.fail(ActorStoppedError("gone"))
    for future in failed:
        with pytest.raises(ActorStoppedError, match="gone"):
            await future
    assert not later.done()
    taken(mailbox).finish()
    await later


@virtual
async def test_a_failed_batch_that_nobody_awaits_is_not_reported() -> None:
    mailbox = mailbox_of()
    mailbox.post("a")
    taken(mailbox).fail(ActorStoppedError("gone"))  # The harness fails this test if the loop hears of it.


@virtual
async def test_the_first_answer_of_a_batch_stands() -> None:
    mailbox = mailbox_of()
    future = mailbox.post("a")
    batch = taken(mailbox)
    batch.finish()
    batch.fail(ActorStoppedError("late"))
    batch.finish()
    await future


@virtual
async def test_fail_all_fails_what_waits_and_leaves_the_mailbox_open() -> None:
    mailbox = mailbox_of()
    future = mailbox.post("a", size=3)
    assert mailbox.fail_all(ActorStoppedError("gone")) == ["a"]
    assert mailbox.fail_all(ActorStoppedError("gone")) == []
    with pytest.raises(ActorStoppedError):
        await future
    mailbox.post("b")
    assert (len(mailbox), mailbox.n_bytes) == (1, 0)


@virtual
async def test_a_closed_mailbox_refuses_posts_and_waiters_but_still_gives_what_it_holds() -> None:
    mailbox = mailbox_of(messages_max=1)
    held = mailbox.post("held")
    waiter = asyncio.create_task(mailbox.post_when_room("waiting"))
    await asyncio.sleep(0)
    mailbox.close(ActorStoppedError("closed"))
    mailbox.close(ActorStoppedError("the second error is not kept"))
    assert mailbox.is_closed
    with pytest.raises(ActorStoppedError, match="closed"):
        await waiter
    with pytest.raises(ActorStoppedError, match="closed"):
        mailbox.post("late")
    with pytest.raises(ActorStoppedError, match="closed"):
        await mailbox.wait_for_room()
    batch = taken(mailbox)
    assert batch.messages == ["held"]
    batch.finish()
    await held


@virtual
async def test_a_waiter_whose_promise_is_overtaken_by_the_close_gets_the_error() -> None:
    mailbox = mailbox_of(messages_max=1)
    mailbox.post("x")
    waiter = asyncio.create_task(mailbox.wait_for_room())
    await asyncio.sleep(0)
    taken(mailbox).finish()
    mailbox.close(ActorStoppedError("closed"))
    with pytest.raises(ActorStoppedError):
        await waiter


@virtual
async def test_a_mailbox_that_closes_on_forgotten_waiters_reports_nothing() -> None:
    mailbox = mailbox_of(messages_max=1)
    mailbox.post("x")
    waiter = asyncio.create_task(mailbox.wait_for_room())
    await asyncio.sleep(0)
    mailbox.close(ActorStoppedError("closed"))
    waiter.cancel()
    with pytest.raises((asyncio.CancelledError, ActorStoppedError)):
        await waiter


@virtual
async def test_a_thousand_late_posts_do_not_grow_the_error_they_share() -> None:
    mailbox = mailbox_of()
    error = ActorStoppedError("closed")
    mailbox.close(error)
    for _ in range(1_000):
        with pytest.raises(ActorStoppedError):
            mailbox.post("late")
    frames = 0
    trace = error.__traceback__
    while trace is not None:
        frames, trace = frames + 1, trace.tb_next
    assert frames < 10


@pytest.mark.parametrize("seed", range(20))
def test_cancellation_at_every_await_of_a_write_leaves_no_future_and_no_room_behind(seed: int) -> None:
    async def attempt(step: int) -> list[int]:
        loop = asyncio.get_running_loop()
        handled: list[str] = []

        def drain() -> None:
            batch = taken(mailbox)
            handled.extend(batch.messages)
            loop.call_later(1.0, batch.finish)

        mailbox = Mailbox[str](loop=loop, wake=lambda: loop.call_soon(drain), messages_max=1)

        async def write(name: str) -> None:
            await (await mailbox.post_when_room(name))

        reached: list[int] = []
        names = ("a", "b", "c")
        others = [asyncio.create_task(write(name)) for name in names]
        victim = asyncio.create_task(cancelled_task(write("victim"), step, reached))
        await asyncio.wait([victim, *others])
        assert sorted(set(handled) - {"victim"}) == list(names)
        assert handled.count("victim") <= 1
        assert not any(task.cancelled() for task in others)
        assert mailbox.is_empty
        return reached

    async def cancelled_task(write: Any, step: int, reached: list[int]) -> None:
        await cancelled_at(write, step, reached)

    step = 0
    while step in run_virtual(attempt(step), seed=seed):
        step += 1
    assert step >= 1
