"""Actors: batches, calls and casts, crashes, and ends that leave no future pending."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

import pytest

from tests.support.virtual_loop import VirtualClock, VirtualLoop, cancelled_at, run_virtual, virtual
from warpstore.actor import UNDER_WAY, Actor, Call, ReplyError
from warpstore.clock import SystemClock
from warpstore.errors import (
    ActorStoppedError,
    CallTimeoutError,
    KeyNotFoundError,
    LimitError,
    OverloadedError,
    ShardUnavailableError,
    UsageError,
)
from warpstore.process import SHUTDOWN, Reason, State

A = TypeVar("A", bound=Actor[Any, Any])


class Recorder(Actor[Any, Any]):
    """Notes its batches; a handler of ``hold_s`` takes that long."""

    def __init__(self, name: str = "recorder", *, hold_s: float = 0.0, **settings: Any) -> None:
        super().__init__(name, **settings)
        self.hold_s = hold_s
        self.batches: list[list[Any]] = []
        self.log: list[str] = []

    async def on_start(self) -> None:
        self.log.append("start")

    async def on_stop(self) -> None:
        self.log.append("stop")

    def on_crash(self, error: BaseException) -> None:
        self.log.append(f"crash {error}")

    def handle_batch(self, messages: list[Any]) -> Awaitable[None] | None:
        self.batches.append([m.message if isinstance(m, Call) else m for m in messages])
        if self.hold_s:
            return self.work(messages)
        self.answer(messages)
        return None

    async def work(self, messages: list[Any]) -> None:
        await asyncio.sleep(self.hold_s)
        self.answer(messages)

    def answer(self, messages: list[Any]) -> None:
        for message in messages:
            if message == "crash":
                raise ZeroDivisionError("told to")
            if isinstance(message, Call):
                if message.message == "crash":
                    raise ZeroDivisionError("told to")
                message.reply(message.message)


class Handler(Actor[Any, Any]):
    """Handles one message at a time, by what the message says."""

    def handle(self, message: Any) -> Any:
        match message:
            case "crash":
                raise ZeroDivisionError("told to")
            case "refuse":
                raise ReplyError(KeyNotFoundError("none", key="k"))
            case ("later", delay_s, inner):
                return self.later(delay_s, inner)
            case _:
                return message

    async def later(self, delay_s: float, inner: Any) -> Any:
        await asyncio.sleep(delay_s)
        return self.handle(inner)


async def started(actor: A) -> A:
    await actor.start()
    return actor


def is_idle(actor: Actor[Any, Any]) -> bool:
    """As the property, which mypy would take for constant."""
    return actor.is_idle


def state_of(actor: Actor[Any, Any]) -> State:
    return actor.state


def ends_of(actor: Actor[Any, Any]) -> list[Reason]:
    ends: list[Reason] = []
    actor.monitor(lambda _, reason: ends.append(reason))
    return ends


# Calls and casts.


@virtual
async def test_a_call_returns_what_a_plain_handler_returns() -> None:
    actor = await started(Handler("h"))
    assert await actor.call(5) == 5
    assert await actor.call(None, timeout=None) is None
    assert actor.n_replies_pending == 0
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    assert loop.n_timers == 0  # The call took back its deadline.
    await actor.stop()


@virtual
async def test_a_call_returns_what_an_async_handler_returns() -> None:
    actor = await started(Handler("h"))
    assert await actor.call(("later", 1.0, "x")) == "x"
    await actor.stop()


@virtual
async def test_messages_are_handled_in_order_even_when_some_take_time() -> None:
    seen: list[Any] = []

    class Noting(Handler):
        def handle(self, message: Any) -> Any:
            answer = super().handle(message)
            seen.append(message)
            return answer

    actor = await started(Noting("n"))
    messages: list[Any] = [1, ("later", 1.0, "a"), 2, ("later", 0.5, "b"), 3]
    replies = [actor.call_nowait(message) for message in messages]
    assert await asyncio.gather(*replies) == [1, "a", 2, "b", 3]
    assert seen == [1, ("later", 1.0, "a"), "a", 2, ("later", 0.5, "b"), "b", 3]
    await actor.stop()


@virtual
async def test_a_cast_returns_before_its_message_is_handled() -> None:
    actor = await started(Recorder())
    await actor.cast("a")
    actor.cast_nowait("b")
    assert actor.batches == []
    await asyncio.sleep(0)
    assert actor.batches == [["a", "b"]]
    await actor.stop()


@virtual
async def test_a_call_without_an_answer_in_time_raises_and_leaves_nothing() -> None:
    loop = asyncio.get_running_loop()
    actor = await started(Handler("h"))
    with pytest.raises(CallTimeoutError, match="'h'"):
        await actor.call(("later", 60.0, "x"), timeout=2.0)
    assert loop.time() == pytest.approx(2.0)
    await asyncio.sleep(0)
    assert actor.n_replies_pending == 0
    assert actor.state is State.RUNNING
    await actor.stop()


@virtual
async def test_the_deadline_of_a_call_counts_its_wait_for_room() -> None:
    loop = asyncio.get_running_loop()
    actor = await started(Recorder(hold_s=60.0, messages_max=1))
    actor.cast_nowait("in hand")
    await asyncio.sleep(0)
    actor.cast_nowait("queued")
    with pytest.raises(CallTimeoutError):
        await actor.call("never sent", timeout=3.0)
    assert loop.time() == pytest.approx(3.0)
    await asyncio.sleep(200.0)
    assert actor.batches == [["in hand"], ["queued"]]
    await actor.stop()


@virtual
async def test_a_full_mailbox_makes_cast_and_call_wait_and_the_nowait_forms_raise() -> None:
    actor = await started(Recorder(hold_s=1.0, messages_max=1))
    actor.cast_nowait("a")
    await asyncio.sleep(0)
    actor.cast_nowait("b")
    with pytest.raises(OverloadedError):
        actor.cast_nowait("c")
    with pytest.raises(OverloadedError):
        actor.call_nowait("c")
    assert actor.n_replies_pending == 0
    cast = asyncio.create_task(actor.cast("c"))
    call = asyncio.create_task(actor.call("d", timeout=None))
    assert await call == "d"
    await cast
    assert actor.batches == [["a"], ["b"], ["c"], ["d"]]
    await actor.stop()


@virtual
async def test_a_message_larger_than_the_mailbox_is_a_limit_error_for_every_way_to_send() -> None:
    actor = await started(Recorder(bytes_max=10))
    with pytest.raises(LimitError):
        actor.cast_nowait("m", size=11)
    with pytest.raises(LimitError):
        await actor.cast("m", size=11)
    with pytest.raises(LimitError):
        await actor.call("m", size=11)
    await actor.stop()


@virtual
async def test_an_error_reply_reaches_its_caller_and_the_actor_lives() -> None:
    actor = await started(Handler("h"))
    with pytest.raises(KeyNotFoundError) as caught:
        await actor.call("refuse")
    assert caught.value.key == "k"
    with pytest.raises(KeyNotFoundError):
        await actor.call(("later", 1.0, "refuse"))
    assert await actor.call("next") == "next"
    await actor.stop()


@virtual
async def test_an_error_reply_to_a_cast_is_logged_without_its_message(caplog: pytest.LogCaptureFixture) -> None:
    actor = await started(Handler("h"))
    actor.cast_nowait("refuse")
    assert await actor.call("next") == "next"
    assert "cast_refused actor=h error=KeyNotFoundError" in caplog.text
    assert "none" not in caplog.text
    await actor.stop()


@virtual
async def test_an_error_reply_out_of_a_batch_answers_the_whole_batch_and_is_no_crash() -> None:
    class Full(Recorder):
        def handle_batch(self, messages: list[Any]) -> None:
            raise ReplyError(KeyNotFoundError("none", key="k"))

    actor = await started(Full())
    written = actor.mailbox.post("write")
    with pytest.raises(KeyNotFoundError):
        await actor.call("call")
    with pytest.raises(KeyNotFoundError):
        await written
    assert actor.state is State.RUNNING
    await actor.stop()


def test_an_error_reply_that_no_future_can_hold_is_refused_where_it_is_made() -> None:
    with pytest.raises(TypeError):
        ReplyError(StopIteration())


@virtual
async def test_a_call_may_be_answered_after_its_batch() -> None:
    kept: list[Call[Any, Any]] = []

    class Late(Actor[Any, Any]):
        def handle_batch(self, messages: list[Any]) -> None:
            kept.extend(messages)

    actor = await started(Late("late"))
    call = asyncio.create_task(actor.call("q"))
    never = asyncio.create_task(actor.call("never"))
    await asyncio.sleep(0.1)
    kept[0].reply("a")
    kept[0].reply("the first answer stands")
    kept[0].fail(ValueError())
    assert await call == "a"
    await actor.stop()
    with pytest.raises(ActorStoppedError):
        await never


# Batches.


@virtual
async def test_what_arrives_while_a_batch_is_in_hand_becomes_the_next_one() -> None:
    actor = await started(Recorder(hold_s=1.0))
    first = actor.mailbox.post(1)
    await asyncio.sleep(0.5)
    second, third = actor.mailbox.post(2), actor.mailbox.post(3)
    assert not first.done()
    await first
    assert not second.done()
    await third
    assert actor.batches == [[1], [2, 3]]
    await actor.stop()


@virtual
async def test_a_handler_that_posts_to_its_own_actor_does_not_starve_the_loop() -> None:
    class Busy(Actor[Any, Any]):
        n = 0

        def handle(self, message: Any) -> None:
            self.n += 1
            self.cast_nowait("again")

    actor = await started(Busy("busy"))
    actor.cast_nowait("go")
    for _ in range(10):
        await asyncio.sleep(0)
    assert 8 <= actor.n <= 11
    await actor.stop()


@virtual
async def test_actors_of_one_loop_take_turns() -> None:
    order: list[str] = []

    class Turn(Actor[Any, Any]):
        def handle(self, message: Any) -> None:
            order.append(self.name)
            self.cast_nowait("again")

    actors = [await started(Turn(name)) for name in "abc"]
    for actor in actors:
        actor.cast_nowait("go")
    for _ in range(5):
        await asyncio.sleep(0)
    assert order[:12] == list("abc") * 4
    for actor in actors:
        await actor.stop()


@virtual
async def test_a_long_batch_of_plain_handlers_gives_the_loop_turns() -> None:
    loop = asyncio.get_running_loop()

    class Ticking:
        now = 0.0

        def monotonic(self) -> float:
            self.now += 0.0005
            return self.now

        def wall(self) -> float:
            return 0.0

    actor = await started(Handler("h", clock=Ticking()))
    replies = [actor.call_nowait(i) for i in range(100)]
    turns = 0

    def tick() -> None:
        nonlocal turns
        turns += 1
        if not replies[-1].done():
            loop.call_soon(tick)

    loop.call_soon(tick)
    assert await asyncio.gather(*replies) == list(range(100))
    assert turns > 20
    await actor.stop()


@virtual
async def test_a_batch_answered_by_a_plain_future_is_done_when_that_is() -> None:
    sync: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    class Lane(Actor[Any, Any]):
        def handle_batch(self, messages: list[Any]) -> Awaitable[None]:
            return sync

    actor = await started(Lane("lane"))
    written = actor.mailbox.post("w")
    await asyncio.sleep(1.0)
    assert not written.done()
    assert not is_idle(actor)
    sync.set_result(None)
    await written
    assert actor.is_idle
    await actor.mailbox.post("the future that is done already")
    await actor.stop()


class Committer(Recorder):
    """Leaves its batches under way until it is told that they ended."""

    def handle_batch(self, messages: list[Any]) -> Awaitable[None] | None:
        super().handle_batch([])
        return UNDER_WAY


@virtual
async def test_a_batch_left_under_way_is_done_when_the_actor_says_so() -> None:
    actor = await started(Committer())
    first = actor.mailbox.post("a")
    await asyncio.sleep(1.0)
    second = actor.mailbox.post("b")
    await asyncio.sleep(1.0)
    assert not first.done()
    actor.finish_batch()
    assert first.done()  # Without a turn of the loop between.
    assert not second.done()
    await asyncio.sleep(0)
    actor.finish_batch(KeyNotFoundError("none", key="k"))
    with pytest.raises(KeyNotFoundError):
        await second
    assert actor.is_idle
    actor.finish_batch()
    await actor.stop()


@virtual
async def test_a_stop_waits_for_a_batch_left_under_way_and_a_kill_fails_it() -> None:
    actor, slow = await started(Committer()), await started(Committer())
    written, lost = actor.mailbox.post("a"), slow.mailbox.post("b")
    await asyncio.sleep(0)
    actor.loop.call_later(2.0, actor.finish_batch)
    await actor.stop()
    await written
    await slow.stop(timeout_s=1.0)
    with pytest.raises(ActorStoppedError, match="while it handled"):
        await lost
    slow.finish_batch()  # Too late, and harmless.


@virtual
async def test_an_actor_crashed_from_outside_its_handler_fails_everything_once() -> None:
    actor = await started(Committer())
    ends = ends_of(actor)
    in_hand = actor.mailbox.post("a")
    await asyncio.sleep(0)
    queued = actor.call_nowait("b")
    actor.crash(OSError("sync failed"))
    actor.crash(OSError("again"))
    for future in (in_hand, queued):
        with pytest.raises(ActorStoppedError) as caught:
            await future
        assert isinstance(caught.value.__cause__, OSError)
    assert [str(end) for end in ends] == ["sync failed"]


@virtual
async def test_a_wake_hook_decides_when_to_drain() -> None:
    due: list[Recorder] = []
    actor = await started(Recorder(hold_s=1.0, wake=due.append))
    actor.cast_nowait(1)
    actor.cast_nowait(2)
    await asyncio.sleep(5.0)
    assert due == [actor]
    assert actor.batches == []
    actor.drain()
    actor.drain()
    actor.cast_nowait(3)
    assert due == [actor]  # Not while a batch is in hand.
    actor.drain()
    assert actor.batches == [[1, 2]]
    await asyncio.sleep(1.5)
    assert due == [actor, actor]
    actor.drain()
    await asyncio.sleep(1.5)
    assert actor.batches == [[1, 2], [3]]
    actor.drain()
    await actor.stop()


# Crashes.


@virtual
async def test_an_exception_crashes_the_actor_and_fails_calls_in_hand_and_queued() -> None:
    actor = await started(Recorder(hold_s=1.0))
    ends = ends_of(actor)
    in_hand = actor.mailbox.post("crash")
    await asyncio.sleep(0)
    queued_write = actor.mailbox.post("queued")
    queued_call = actor.call_nowait("queued")
    for future in (in_hand, queued_write, queued_call):
        with pytest.raises(ActorStoppedError) as caught:
            await future
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert actor.state is State.CRASHED
    assert [type(end) for end in ends] == [ZeroDivisionError]
    assert actor.log == ["start", "crash told to"]  # on_stop is for actors that did not crash.
    with pytest.raises(ActorStoppedError):
        actor.cast_nowait("late")
    await actor.stop()
    assert len(ends) == 1


@pytest.mark.parametrize("message", ["crash", ("later", 1.0, "crash")])
def test_a_crash_in_handle_fails_the_call_that_caused_it(message: Any) -> None:
    async def main() -> None:
        actor = await started(Handler("h"))
        before, call, after = (actor.call_nowait(m) for m in ("before", message, "after"))
        with pytest.raises(ActorStoppedError, match="while it handled"):
            await call
        assert await before == "before"
        with pytest.raises(ActorStoppedError):
            await after
        await asyncio.sleep(0)
        assert actor.n_replies_pending == 0

    run_virtual(main())


@virtual
async def test_a_crash_is_logged_by_type_and_place_but_not_by_its_message(caplog: pytest.LogCaptureFixture) -> None:
    actor = await started(Handler("h"))
    with pytest.raises(ActorStoppedError):
        await actor.call("crash")
    assert "actor_crashed actor=h error=ZeroDivisionError at=test_actor.py:" in caplog.text
    assert "told to" not in caplog.text


@virtual
async def test_the_error_of_an_ended_actor_can_be_chosen_by_what_is_known_of_the_message() -> None:
    class Shard(Recorder):
        def ended_error(self, reason: Reason, *, in_hand: bool) -> Exception:
            return ValueError("unknown") if in_hand else ShardUnavailableError("not applied")

    actor = await started(Shard(hold_s=1.0))
    in_hand = actor.mailbox.post("crash")
    await asyncio.sleep(0)
    queued = actor.mailbox.post("queued")
    with pytest.raises(ValueError, match="unknown"):
        await in_hand
    with pytest.raises(ShardUnavailableError):
        await queued
    with pytest.raises(ShardUnavailableError):
        actor.cast_nowait("late")


@virtual
async def test_a_handler_that_awaits_something_cancelled_crashes() -> None:
    class Confused(Actor[Any, Any]):
        async def handle(self, message: Any) -> None:
            gone = self.loop.create_future()
            gone.cancel()
            await gone

    actor = await started(Confused("c"))
    with pytest.raises(ActorStoppedError) as caught:
        await actor.call("m")
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert actor.state is State.CRASHED


def test_an_interrupt_in_a_handler_settles_everything_and_goes_on_to_the_loop() -> None:
    async def main() -> tuple[asyncio.Future[None], list[Reason]]:
        actor = await started(Interrupted("i"))
        ends = ends_of(actor)
        futures.append(actor.mailbox.post("m"))
        await asyncio.sleep(1.0)
        return futures[0], ends

    class Interrupted(Actor[Any, Any]):
        def handle(self, message: Any) -> None:
            raise KeyboardInterrupt

    futures: list[asyncio.Future[None]] = []
    with pytest.raises(KeyboardInterrupt):
        run_virtual(main())
    assert isinstance(futures[0].exception(), ActorStoppedError)


@virtual
async def test_an_on_crash_that_raises_is_reported_and_callers_are_still_told() -> None:
    loop = asyncio.get_running_loop()
    reports: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: reports.append(context))

    class Clumsy(Handler):
        def on_crash(self, error: BaseException) -> None:
            raise OSError

    actor = await started(Clumsy("c"))
    with pytest.raises(ActorStoppedError):
        await actor.call("crash")
    assert [type(report["exception"]) for report in reports] == [OSError]


# Monitors.


@virtual
async def test_each_monitor_is_told_once_and_an_unsubscribed_one_never() -> None:
    actor = await started(Recorder())
    first, second, none = ends_of(actor), ends_of(actor), []
    unsubscribe = actor.monitor(lambda _, reason: none.append(reason))
    unsubscribe()
    unsubscribe()
    await asyncio.gather(actor.stop("done"), actor.stop("again"))
    await actor.stop("and again")
    assert first == second == ["done"]
    assert none == []
    assert actor.reason == "done"


@virtual
async def test_a_monitor_of_an_ended_actor_is_told_in_the_next_turn() -> None:
    actor = await started(Recorder())
    await actor.stop()
    ends = ends_of(actor)
    assert ends == []
    await asyncio.sleep(0)
    assert ends == ["normal"]


@virtual
async def test_a_monitor_that_raises_does_not_keep_the_others_from_hearing() -> None:
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    actor = await started(Recorder())

    def broken(_: Any, reason: Reason) -> None:
        raise OSError

    actor.monitor(broken)
    ends = ends_of(actor)
    await actor.stop()
    assert ends == ["normal"]
    assert len(reports) == 1


@virtual
async def test_every_future_is_settled_before_a_monitor_hears_of_the_end() -> None:
    actor = await started(Recorder(hold_s=9.0))
    futures: list[asyncio.Future[Any]] = [actor.mailbox.post("a"), actor.call_nowait("b")]
    settled: list[bool] = []
    actor.monitor(lambda *_: settled.append(all(future.done() for future in futures)))
    await asyncio.sleep(0)
    futures += [actor.mailbox.post("c"), actor.call_nowait("d")]
    await actor.stop(timeout_s=1.0)
    assert settled == [True]


# Start and stop.


@virtual
async def test_messages_sent_before_the_start_are_handled_after_it() -> None:
    actor = Recorder()
    call = actor.call_nowait("early")
    assert (actor.state, actor.is_idle) == (State.NEW, False)
    await actor.start()
    assert await call == "early"
    await actor.stop()


@virtual
async def test_a_start_that_fails_is_a_crash_and_fails_what_was_sent() -> None:
    class Broken(Recorder):
        async def on_start(self) -> None:
            raise OSError("no file")

    actor = Broken()
    ends = ends_of(actor)
    call = actor.call_nowait("early")
    with pytest.raises(OSError, match="no file"):
        await actor.start()
    with pytest.raises(ActorStoppedError):
        await call
    assert actor.state is State.CRASHED
    assert [type(end) for end in ends] == [OSError]


@virtual
async def test_an_actor_is_started_once() -> None:
    actor = await started(Recorder())
    with pytest.raises(UsageError, match="started once"):
        await actor.start()
    await actor.stop()
    with pytest.raises(UsageError, match="started once"):
        await actor.start()


@virtual
async def test_a_stop_lets_the_batch_in_hand_finish_and_fails_the_queued_calls() -> None:
    actor = await started(Recorder(hold_s=2.0))
    in_hand = actor.call_nowait("in hand")
    await asyncio.sleep(1.0)
    queued_call, queued_write = actor.call_nowait("queued"), actor.mailbox.post("queued")
    stop = asyncio.create_task(actor.stop())
    await asyncio.sleep(0)
    assert state_of(actor) is State.STOPPING
    with pytest.raises(ActorStoppedError):
        actor.cast_nowait("late")
    for future in (queued_call, queued_write):
        with pytest.raises(ActorStoppedError, match="before it handled"):
            await future
    assert await in_hand == "in hand"
    await stop
    assert actor.state is State.STOPPED
    assert actor.batches == [["in hand"]]
    assert actor.log == ["start", "stop"]


@virtual
async def test_a_stop_fails_those_who_wait_for_room() -> None:
    actor = await started(Recorder(hold_s=1.0, messages_max=1))
    actor.cast_nowait("a")
    await asyncio.sleep(0)
    actor.cast_nowait("b")
    waiting = [asyncio.create_task(actor.cast("c")), asyncio.create_task(actor.call("d"))]
    await asyncio.sleep(0)
    await actor.stop()
    for task in waiting:
        with pytest.raises(ActorStoppedError):
            await task


@virtual
async def test_an_actor_that_does_not_stop_in_time_is_killed() -> None:
    loop = asyncio.get_running_loop()
    actor = await started(Recorder(hold_s=3600.0))
    ends = ends_of(actor)
    in_hand = actor.mailbox.post("slow")
    await asyncio.sleep(0)
    await actor.stop(timeout_s=5.0)
    assert loop.time() == pytest.approx(5.0)
    assert actor.state is State.CRASHED
    assert [type(end) for end in ends] == [CallTimeoutError]
    with pytest.raises(ActorStoppedError, match="while it handled"):
        await in_hand


@virtual
async def test_an_on_stop_that_raises_is_told_to_who_stops_and_everything_is_settled() -> None:
    class Broken(Recorder):
        async def on_stop(self) -> None:
            raise OSError("last sync failed")

    actor = await started(Broken(hold_s=1.0))
    ends = ends_of(actor)
    actor.cast_nowait("in hand")
    await asyncio.sleep(0)
    call = actor.call_nowait("queued")
    results = await asyncio.gather(actor.stop(), actor.stop(), return_exceptions=True)
    assert [type(result) for result in results] == [OSError, OSError]
    assert actor.state is State.CRASHED
    assert [type(end) for end in ends] == [OSError]
    with pytest.raises(ActorStoppedError):
        await call


@virtual
async def test_a_crash_while_stopping_ends_the_stop_and_is_what_monitors_hear() -> None:
    actor = await started(Recorder(hold_s=1.0))
    ends = ends_of(actor)
    actor.cast_nowait("crash")
    await asyncio.sleep(0)
    await actor.stop()
    assert actor.state is State.CRASHED
    assert [type(end) for end in ends] == [ZeroDivisionError]


@virtual
async def test_a_crash_between_the_call_of_stop_and_its_first_turn_stands() -> None:
    sync: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    class Lane(Recorder):
        def handle_batch(self, messages: list[Any]) -> Awaitable[None]:
            return sync

    actor = await started(Lane())
    ends = ends_of(actor)
    written = actor.mailbox.post("m")
    await asyncio.sleep(0)
    sync.set_exception(ZeroDivisionError())  # Its callback runs before the first turn of the stop.
    await actor.stop()
    assert [type(end) for end in ends] == [ZeroDivisionError]
    assert actor.state is State.CRASHED
    assert actor.log == ["start", "crash "]
    with pytest.raises(ActorStoppedError):
        await written


@virtual
async def test_an_actor_that_was_never_started_can_be_stopped() -> None:
    actor = Recorder()
    ends = ends_of(actor)
    call = actor.call_nowait("early")
    await actor.stop()
    with pytest.raises(ActorStoppedError):
        await call
    assert ends == ["normal"]
    assert actor.log == []


class SlowStart(Recorder):
    async def on_start(self) -> None:
        await asyncio.sleep(2.0)
        await super().on_start()


@virtual
async def test_a_stop_during_the_start_waits_for_it_and_releases_what_it_acquired() -> None:
    actor = SlowStart()
    ends = ends_of(actor)
    start = asyncio.create_task(actor.start())
    await asyncio.sleep(1.0)
    await actor.stop()
    with pytest.raises(ActorStoppedError):
        await start
    assert actor.log == ["start", "stop"]
    assert ends == ["normal"]


@virtual
async def test_an_actor_killed_during_its_start_still_releases_what_it_acquires() -> None:
    actor = SlowStart()
    start = asyncio.create_task(actor.start())
    await asyncio.sleep(0.5)
    await actor.stop(timeout_s=1.0)
    assert actor.state is State.CRASHED
    with pytest.raises(ActorStoppedError):
        await start
    assert actor.log == ["crash " + str(actor.reason), "start", "stop"]


@virtual
async def test_a_cancelled_start_stops_the_actor_and_fails_what_was_sent() -> None:
    actor = SlowStart()
    ends = ends_of(actor)
    call = actor.call_nowait("early")
    start = asyncio.create_task(actor.start())
    await asyncio.sleep(1.0)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    with pytest.raises(ActorStoppedError):
        await call
    assert ends == [SHUTDOWN]


@virtual
async def test_a_cancelled_caller_of_stop_does_not_stop_the_stopping() -> None:
    actor = await started(Recorder(hold_s=1.0))
    actor.cast_nowait("m")
    await asyncio.sleep(0)
    stop = asyncio.create_task(actor.stop())
    await asyncio.sleep(0)
    stop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stop
    await actor.stop()
    assert actor.state is State.STOPPED
    assert actor.log == ["start", "stop"]


def test_a_loop_that_is_torn_down_settles_the_futures_of_an_actor_nobody_stopped() -> None:
    async def main() -> None:
        actor = await started(Recorder(hold_s=60.0))
        ends.append(ends_of(actor))
        futures.extend([actor.mailbox.post("in hand"), actor.call_nowait("in hand")])
        await asyncio.sleep(0)
        futures.extend([actor.mailbox.post("queued"), actor.call_nowait("queued")])

    futures: list[asyncio.Future[Any]] = []
    ends: list[list[Reason]] = []
    asyncio.run(main())
    assert all(isinstance(future.exception(), ActorStoppedError) for future in futures)
    assert ends == [[SHUTDOWN]]


# Cancellation (R17).


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("way", ["call", "cast", "write"])
def test_cancellation_at_every_await_leaves_no_future_and_no_room_behind(way: str, seed: int) -> None:
    async def attempt(step: int) -> list[int]:
        actor = await started(Recorder(hold_s=1.0, messages_max=1))
        actor.cast_nowait("in hand")
        await asyncio.sleep(0.5)
        actor.cast_nowait("queued")
        reached: list[int] = []

        async def send() -> None:
            if way == "call":
                await actor.call("victim")
            elif way == "cast":
                await actor.cast("victim")
            else:
                await (await actor.mailbox.post_when_room("victim"))

        async def victim() -> None:
            await cancelled_at(send(), step, reached)

        tasks = [asyncio.create_task(victim()), asyncio.create_task(actor.call("other", timeout=60.0))]
        done, _ = await asyncio.wait(tasks)
        assert tasks[1].result() == "other"
        assert len(done) == 2
        await asyncio.sleep(10.0)
        assert actor.n_replies_pending == 0
        assert actor.mailbox.n_waiters == 0
        assert actor.is_idle
        assert [message for batch in actor.batches for message in batch].count("victim") <= 1
        await actor.stop()
        return reached

    step = 0
    while step in run_virtual(attempt(step), seed=seed):
        step += 1
    assert step >= 1


@virtual
async def test_a_call_answered_in_the_turn_of_its_cancellation_reports_nothing() -> None:
    class Spiteful(Actor[Any, Any]):
        def handle(self, message: Any) -> None:
            self.loop.call_soon(call.cancel)  # Runs before the caller sees its answer.
            raise ReplyError(KeyNotFoundError("none", key="k"))

    actor = await started(Spiteful("s"))
    call = asyncio.create_task(wait_for_the_answer(actor))
    with pytest.raises(asyncio.CancelledError):
        await call
    await actor.stop()


async def wait_for_the_answer(actor: Actor[Any, Any]) -> None:
    await actor.call("m")


# The clocks.


@virtual
async def test_a_wall_clock_that_is_set_moves_no_monotonic_time() -> None:
    clock = VirtualClock(asyncio.get_running_loop())
    before = clock.monotonic(), clock.wall()
    clock.wall_offset_s += 3600.0
    await asyncio.sleep(2.0)
    assert clock.monotonic() - before[0] == pytest.approx(2.0)
    assert clock.wall() - before[1] == pytest.approx(3602.0)


def test_the_system_clock_ignores_a_wall_clock_that_is_set_after_it_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    now = {"wall": 1_000_000.0, "monotonic": 50.0}
    monkeypatch.setattr("time.time", lambda: now["wall"])
    monkeypatch.setattr("time.monotonic", lambda: now["monotonic"])
    clock = SystemClock()
    assert (clock.wall(), clock.monotonic()) == (1_000_000.0, 50.0)
    now["wall"] += 86_400.0  # Somebody sets the clock a day ahead: a TTL would be early.
    now["monotonic"] += 10.0
    assert clock.wall() == 1_000_010.0
    now["wall"] -= 200_000.0
    assert clock.wall() == 1_000_010.0
