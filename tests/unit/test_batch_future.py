"""A batch's future is a future to all that asyncio does with one, and its waiters go on in one call."""

import asyncio
import collections.abc
import contextvars
import gc
import sys
import traceback
import weakref
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from tests.support.ids import shown
from tests.support.virtual_loop import virtual
from tests.support.worlds import User, turns, world_in
from warpstore._native import BatchFuture

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="nothing")


class Probe:
    """Something whose end a weak reference tells."""


class FakeLoop:
    """Remembers what it is to call."""

    def __init__(self) -> None:
        self.ready: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self.reports: list[dict[str, Any]] = []

    def call_soon(self, function: Callable[..., object], *args: Any, context: Any = None) -> None:
        self.ready.append((function, args))

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.reports.append(context)


def new() -> BatchFuture:
    return BatchFuture(loop=asyncio.get_running_loop())


def done() -> BatchFuture:
    future = new()
    future.finish()
    return future


def of_no_loop() -> Any:
    """Return a future whose loop is a `FakeLoop`."""
    return BatchFuture(loop=FakeLoop())  # type: ignore[arg-type]


async def finish(future: BatchFuture) -> None:
    """Settle a future and let its waiters go on."""
    future.finish()
    future.wake_soon()
    await turns(3)


def reports() -> list[dict[str, Any]]:
    """Return the list into which the running loop's exception handler writes from now on."""
    found: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context))
    return found


def named(name: str, calls: list[str]) -> Callable[[BatchFuture], None]:
    return lambda _: calls.append(name)


# Awaiting


async def test_an_await_of_a_settled_future_needs_no_turn() -> None:
    future = done()
    calls: list[str] = []
    asyncio.get_running_loop().call_soon(calls.append, "turn")
    assert await future is None  # type: ignore[func-returns-value]
    assert await future is None  # type: ignore[func-returns-value]
    assert calls == []


@virtual
async def test_an_await_of_a_pending_future_ends_when_it_is_woken_and_not_when_it_is_settled() -> None:
    future = new()
    task = asyncio.ensure_future(waiting(future))
    await turns()
    assert not task.done()
    future.finish()
    await turns()
    assert not task.done()
    asyncio.get_running_loop().call_soon(future.wake)
    await turns(1)
    assert task.done()
    assert await task is None  # type: ignore[func-returns-value]


async def waiting(future: BatchFuture) -> None:
    await future


@virtual
async def test_all_waiters_go_on_within_one_wake_in_the_order_they_came() -> None:
    future = new()
    calls: list[str] = []

    async def wait(name: str) -> None:
        await future
        calls.append(name)

    def wake() -> None:
        calls.append("wakes")
        future.wake()
        calls.append("has woken")

    tasks = [asyncio.create_task(wait(name)) for name in "abc"]
    await turns(1)
    future.add_done_callback(named("callback", calls))
    tasks.append(asyncio.create_task(wait("d")))
    await turns(1)
    future.finish()
    asyncio.get_running_loop().call_soon(wake)
    await turns(1)
    assert calls == ["wakes", "a", "b", "c", "callback", "d", "has woken"]
    await asyncio.gather(*tasks)


async def test_a_future_is_awaited_again_and_again() -> None:
    future = new()
    asyncio.get_running_loop().call_soon(future.finish)
    asyncio.get_running_loop().call_soon(future.wake)
    for _ in range(3):
        await future


@virtual
async def test_a_woken_waiter_may_wait_for_the_next_batch_at_once() -> None:
    first, second = new(), new()

    async def wait() -> None:
        await first
        await second

    task = asyncio.create_task(wait())
    await turns(1)
    first.finish()
    asyncio.get_running_loop().call_soon(first.wake)
    await turns()
    assert not task.done()
    await finish(second)
    assert task.done()


async def test_what_asyncio_asks_of_a_future_is_there() -> None:
    future: Any = new()
    loop = asyncio.get_running_loop()
    assert [asyncio.isfuture(one) for one in (future, BatchFuture)] == [True, False]
    assert issubclass(BatchFuture, collections.abc.Awaitable)
    assert future.get_loop() is loop
    assert [asyncio.ensure_future(future), asyncio.wrap_future(future)] == [future] * 2
    assert [future.done(), future.cancelled()] == [False] * 2
    assert [future.cancel(), future.cancel("why"), future.cancel(msg=1)] == [False] * 3
    assert future._asyncio_future_blocking is False
    values: tuple[Any, ...] = (True, 0, 1)
    for value in values:
        future._asyncio_future_blocking = value
        assert future._asyncio_future_blocking is bool(value)
    del future._asyncio_future_blocking
    assert future._asyncio_future_blocking is False
    future.finish()
    assert (future.done(), future.cancelled(), future.cancel()) == (True, False, False)
    assert (future.result(), future.exception()) == (None, None)


@virtual
async def test_gather_as_completed_and_shield_take_futures() -> None:
    first, second, third = new(), new(), new()
    gathered = asyncio.gather(first, second, first)
    shielded = asyncio.shield(third)
    assert isinstance(shielded, asyncio.Future)
    await finish(second)
    assert not gathered.done()
    await finish(first)
    assert list(await gathered) == [None, None, None]
    assert list(await asyncio.gather(first, second)) == [None, None]
    for one in asyncio.as_completed([first, second]):
        await one
    await finish(third)
    await shielded
    await asyncio.shield(third)


@virtual
async def test_gather_hears_errors() -> None:
    error = ZeroDivisionError("x")
    future, other = new(), new()
    together = asyncio.gather(future, other, return_exceptions=True)
    either = asyncio.gather(future, other)
    future.fail(error)
    future.wake_soon()
    with pytest.raises(ZeroDivisionError) as raised:
        await either
    assert raised.value is error
    await finish(other)
    assert list(await together) == [error, None]


@virtual
async def test_a_cancelled_shield_leaves_the_batch_and_the_others_alone() -> None:
    future = new()
    cancelled, kept = asyncio.shield(future), asyncio.shield(future)
    assert cancelled.cancel()
    await turns()
    assert (cancelled.cancelled(), kept.done(), future.done()) == (True, False, False)
    future.fail(ZeroDivisionError("x"))
    future.wake_soon()
    with pytest.raises(ZeroDivisionError):
        await kept


@virtual
async def test_a_task_group_waits_for_waiters() -> None:
    future = new()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(waiting(future)) for _ in range(3)]
        asyncio.get_running_loop().call_soon(future.finish)
        asyncio.get_running_loop().call_soon(future.wake)
    assert all(task.done() for task in tasks)


@virtual
async def test_a_task_of_another_loop_is_told_so() -> None:
    other = asyncio.new_event_loop()
    future = BatchFuture(loop=other)
    with pytest.raises(RuntimeError, match="attached to a different loop"):
        await future
    other.close()


def test_a_loop_runs_until_a_future_is_done() -> None:
    loop = asyncio.new_event_loop()
    future: Any = BatchFuture(loop=loop)
    loop.call_soon(future.finish)
    loop.call_soon(future.wake)
    assert loop.run_until_complete(future) is None
    assert loop.run_until_complete(future) is None
    loop.close()


def test_a_loop_in_debug_mode_finds_nothing_wrong(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []

    async def main() -> None:
        future, failed = new(), new()

        async def wait(name: str) -> None:
            await future
            calls.append(name)

        future.add_done_callback(named("callback", calls))
        tasks = [asyncio.create_task(wait("a")), asyncio.create_task(wait("b"))]
        await turns(1)
        assert "wait_for=<" in repr(tasks[0])
        future.finish()
        future.wake_soon()
        await asyncio.gather(*tasks)
        failed.fail(ZeroDivisionError("x"))
        failed.wake_soon()
        with pytest.raises(ZeroDivisionError):
            await failed
        future.add_done_callback(named("late", calls))
        await turns(1)

    asyncio.run(main(), debug=True)
    assert calls == ["callback", "a", "b", "late"]
    assert [record for record in caplog.records if "took" not in record.getMessage()] == []


# Deadlines and cancellation


@virtual
async def test_wait_stops_waiting_at_its_deadline_and_forgets_nothing() -> None:
    future: Any = new()
    loop = asyncio.get_running_loop()
    started = loop.time()
    assert await asyncio.wait([future], timeout=5) == (set(), {future})
    assert loop.time() == started + 5
    assert future.remove_done_callback(None) == 0
    loop.call_later(1, future.finish)
    loop.call_later(1, future.wake_soon)
    assert await asyncio.wait([future], timeout=5) == ({future}, set())
    assert await asyncio.wait([future]) == ({future}, set())


@virtual
async def test_wait_for_that_is_in_time_gives_the_outcome() -> None:
    future = new()
    loop = asyncio.get_running_loop()
    loop.call_later(1, future.finish)
    loop.call_later(1, future.wake_soon)
    assert await asyncio.wait_for(future, 5) is None  # type: ignore[func-returns-value]
    assert await asyncio.wait_for(future, 0) is None  # type: ignore[func-returns-value]
    failed = new()
    failed.fail(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(failed, 5)


@pytest.mark.parametrize("deadline_s", [0, 1])
@virtual
async def test_wait_for_whose_time_is_over_returns_once_the_batch_is_done(deadline_s: float) -> None:
    future = new()
    loop = asyncio.get_running_loop()
    loop.call_later(9, future.finish)
    loop.call_later(9, future.wake_soon)
    try:
        await asyncio.wait_for(future, deadline_s)
    except TimeoutError:
        pass  # which of the two is the release of Python's own affair
    assert loop.time() >= 9


@virtual
async def test_a_timeout_is_raised_once_the_batch_is_done() -> None:
    future = new()
    loop = asyncio.get_running_loop()
    loop.call_later(9, future.finish)
    loop.call_later(9, future.wake_soon)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await future
    assert loop.time() >= 9
    async with asyncio.timeout(1):
        await future


@pytest.mark.parametrize("error", [None, ZeroDivisionError("x")], ids=shown)
@virtual
async def test_a_cancelled_waiter_hears_of_it_once_the_batch_is_done(error: Exception | None) -> None:
    future = new()
    seen: list[tuple[Any, ...]] = []

    async def wait() -> None:
        try:
            await future
        except asyncio.CancelledError as cancelled:
            seen.append(cancelled.args)
            raise

    task, other = asyncio.create_task(wait()), asyncio.create_task(waiting(future))
    await turns(1)
    assert task.cancel("first")
    assert task.cancel("why")
    await turns()
    assert (task.done(), seen) == (False, [])
    if error is None:
        future.finish()
    else:
        future.fail(error)
    future.wake_soon()
    await asyncio.wait([task, other])
    assert (task.cancelled(), seen) == (True, [("why",)])
    assert (other.cancelled(), other.exception()) == (False, error)


@virtual
async def test_a_waiter_cancelled_between_settle_and_wake_is_cancelled() -> None:
    future = new()
    task = asyncio.create_task(waiting(future))
    await turns(1)
    future.finish()
    task.cancel()
    await turns()
    assert not task.done()
    future.wake_soon()
    await asyncio.wait([task])
    assert task.cancelled()


@virtual
async def test_a_waiter_that_takes_its_cancellation_back_can_wait_on() -> None:
    future, second = new(), new()

    async def wait() -> str:
        try:
            await future
        except asyncio.CancelledError:
            asyncio.current_task().uncancel()  # type: ignore[union-attr]
        await second
        return "went on"

    task = asyncio.create_task(wait())
    await turns(1)
    task.cancel()
    await finish(future)
    await finish(second)
    assert await task == "went on"


@virtual
async def test_a_cancelled_gather_is_cancelled_once_its_batches_are_done() -> None:
    future = new()

    async def wait() -> None:
        await asyncio.gather(future, future)

    task = asyncio.create_task(wait())
    await turns(1)
    task.cancel()
    await turns()
    assert not task.done()
    await finish(future)
    await asyncio.wait([task])
    assert task.cancelled()


# Outcomes


@virtual
async def test_every_waiter_gets_the_same_error_and_its_own_short_traceback() -> None:
    error = ZeroDivisionError("x")
    future = new()
    lengths: list[int] = []
    caught: list[Exception] = []

    async def wait() -> None:
        try:
            await future
        except ZeroDivisionError as raised:
            caught.append(raised)
            lengths.append(len(list(traceback.walk_tb(raised.__traceback__))))

    tasks = [asyncio.create_task(wait()) for _ in range(10)]
    await turns(1)
    future.fail(error)
    future.wake_soon()
    await asyncio.gather(*tasks)
    for _ in range(10):
        await wait()
    assert lengths == [1] * 20
    assert all(one is error for one in caught)
    for _ in range(10):
        with pytest.raises(ZeroDivisionError) as raised:
            future.result()
        assert raised.value is error
        assert len(list(traceback.walk_tb(error.__traceback__))) == 1
    assert future.exception() is error


@virtual
async def test_an_error_raised_while_itself_is_handled_is_no_context_of_itself() -> None:
    future = new()
    error = ZeroDivisionError("x")
    future.fail(error)
    try:
        await future
    except ZeroDivisionError:
        with pytest.raises(ZeroDivisionError):
            await future
    assert error.__context__ is None


async def test_an_error_that_nobody_looks_at_is_no_complaint() -> None:
    found = reports()
    future = new()
    future.fail(ZeroDivisionError("x"))
    future.wake_soon()
    del future
    await turns()
    gc.collect()
    assert found == []


class Stop(StopIteration):
    pass


@pytest.mark.parametrize(
    "wrong", [None, 5, "text", ZeroDivisionError, StopIteration(), StopIteration(5), Stop(), StopIteration], ids=shown
)
async def test_what_cannot_be_raised_in_a_waiter_is_refused_and_settles_nothing(wrong: Any) -> None:
    future = new()
    with pytest.raises(TypeError):
        future.fail(wrong)
    assert not future.done()
    future.finish()
    assert future.exception() is None


@pytest.mark.parametrize(
    "error", [asyncio.CancelledError("x"), GeneratorExit(), StopAsyncIteration(), ExceptionGroup("g", [OSError()])]
)
@virtual
async def test_any_other_exception_is_raised_in_a_waiter(error: BaseException) -> None:
    future = new()
    future.fail(error)
    with pytest.raises(type(error)) as raised:
        await future
    assert raised.value is error
    assert not future.cancelled()


async def test_a_future_is_settled_once() -> None:
    error = ZeroDivisionError("x")
    finished, failed = new(), new()
    finished.finish()
    failed.fail(error)
    for future in (finished, failed):
        with pytest.raises(asyncio.InvalidStateError):
            future.finish()
        with pytest.raises(asyncio.InvalidStateError):
            future.fail(OSError())
    assert finished.exception() is None
    assert failed.exception() is error


async def test_a_pending_future_has_no_outcome_and_wakes_nobody() -> None:
    future = new()
    calls: list[str] = []
    future.add_done_callback(named("a", calls))
    for call in (future.result, future.exception, future.wake):
        with pytest.raises(asyncio.InvalidStateError, match="no outcome yet"):
            call()
    assert calls == []
    future.finish()
    future.wake()
    assert calls == ["a"]


# Callbacks


async def test_a_callback_is_called_once_with_the_future() -> None:
    future = new()
    calls: list[BatchFuture] = []
    future.add_done_callback(calls.append)
    future.add_done_callback(calls.append)
    future.finish()
    assert calls == []
    future.wake()
    assert [call is future for call in calls] == [True, True]
    future.wake()
    future.wake_soon()
    await turns()
    assert len(calls) == 2


@pytest.mark.parametrize("n", [1, 3, 4, 5, 8, 9, 1000])
async def test_any_number_of_callbacks_runs_in_order(n: int) -> None:
    future = new()
    calls: list[int] = []
    for i in range(n):
        future.add_done_callback(lambda _, i=i: calls.append(i))  # type: ignore[misc]
    future.finish()
    future.wake()
    assert calls == list(range(n))


async def test_wake_soon_wakes_in_the_next_turn() -> None:
    future = new()
    calls: list[str] = []
    future.add_done_callback(named("a", calls))
    future.finish()
    future.wake_soon()
    assert calls == []
    await turns(1)
    assert calls == ["a"]


def test_wake_soon_asks_nothing_of_the_loop_where_nobody_waits() -> None:
    future = of_no_loop()
    loop = future.get_loop()
    future.wake_soon()
    future.finish()
    future.wake_soon()
    assert loop.ready == []
    waited_for = of_no_loop()
    waited_for.add_done_callback(repr)
    waited_for.finish()
    waited_for.wake_soon()
    assert waited_for.get_loop().ready == [(waited_for.wake, ())]


async def test_wakes_that_were_asked_for_twice_call_nobody_twice() -> None:
    future = new()
    calls: list[str] = []
    future.add_done_callback(named("a", calls))
    future.finish()
    future.wake_soon()
    future.wake_soon()
    future.wake()
    await turns()
    assert calls == ["a"]


async def test_a_callback_added_to_a_settled_future_is_called_in_the_next_turn() -> None:
    future = new()
    calls: list[str] = []
    future.add_done_callback(named("early", calls))
    future.finish()
    future.add_done_callback(named("late", calls))
    assert calls == []
    await turns(1)
    assert calls == ["late"]
    future.wake()
    assert calls == ["late", "early"]


async def test_a_callback_sees_the_context_it_was_added_in_or_the_one_it_was_given() -> None:
    given = contextvars.copy_context()
    given.run(VARIABLE.set, "given")
    seen: list[str] = []

    def look(_: object) -> None:
        seen.append(VARIABLE.get())
        VARIABLE.set("changed")

    def add(future: BatchFuture) -> None:
        VARIABLE.set("added")
        future.add_done_callback(look)
        future.add_done_callback(look, context=None)
        future.add_done_callback(look, context=given)
        VARIABLE.set("later")

    pending, settled = new(), done()
    contextvars.copy_context().run(add, pending)
    pending.finish()
    pending.wake()
    assert seen == ["added", "added", "given"]
    assert (VARIABLE.get(), given[VARIABLE]) == ("nothing", "changed")
    seen.clear()
    contextvars.copy_context().run(add, settled)
    await turns(1)
    assert seen == ["added", "added", "changed"]
    assert VARIABLE.get() == "nothing"


@virtual
async def test_a_task_keeps_its_context_over_an_await() -> None:
    future = new()

    async def wait(value: str) -> str:
        VARIABLE.set(value)
        await future
        return VARIABLE.get()

    tasks = [asyncio.create_task(wait(value)) for value in "abc"]
    await turns(1)
    await finish(future)
    assert [task.result() for task in tasks] == ["a", "b", "c"]


async def test_a_callback_whose_context_is_entered_already_runs_in_it_a_turn_later() -> None:
    future = new()
    context = contextvars.copy_context()
    context.run(VARIABLE.set, "entered")
    calls: list[str] = []
    future.add_done_callback(lambda _: calls.append(VARIABLE.get()), context=context)
    future.add_done_callback(named("other", calls))
    future.finish()
    context.run(future.wake)
    assert calls == ["other"]
    await turns(1)
    assert calls == ["other", "entered"]


def test_a_callback_that_the_loop_does_not_take_is_told_of() -> None:
    class Closed(FakeLoop):
        def call_soon(self, function: Callable[..., object], *args: Any, context: Any = None) -> None:
            raise RuntimeError("the loop is closed")

    loop: Any = Closed()
    future = BatchFuture(loop=loop)
    context = contextvars.copy_context()
    calls: list[str] = []
    future.add_done_callback(named("never", calls), context=context)
    future.add_done_callback(named("other", calls))
    with pytest.raises(RuntimeError):
        future.wake_soon()
    future.finish()
    with pytest.raises(RuntimeError):
        future.add_done_callback(named("late", calls))
    context.run(future.wake)
    assert calls == ["other"]
    assert [str(report["exception"]) for report in loop.reports] == ["the loop is closed"]


# Callbacks that raise


async def test_the_loop_is_told_of_what_a_callback_raises_and_the_others_run() -> None:
    found = reports()
    future = new()
    calls: list[str] = []

    def fail(_: object) -> None:
        raise ZeroDivisionError("x")

    wrong: Any = 5
    for callback in (named("a", calls), fail, named("b", calls), wrong, fail, named("c", calls)):
        future.add_done_callback(callback)
    future.finish()
    future.wake()
    assert calls == ["a", "b", "c"]
    assert [type(report["exception"]) for report in found] == [ZeroDivisionError, TypeError, ZeroDivisionError]
    assert all(report["future"] is future for report in found)
    assert [frame.f_code.co_name for frame, _ in traceback.walk_tb(found[0]["exception"].__traceback__)] == ["fail"]


async def test_a_callback_added_late_that_raises_is_told_of_too() -> None:
    found = reports()

    def fail(_: object) -> None:
        raise ZeroDivisionError("x")

    done().add_done_callback(fail)
    await turns(1)
    assert [type(report["exception"]) for report in found] == [ZeroDivisionError]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
async def test_an_interrupt_leaves_wake_at_once_and_the_others_run_a_turn_later(error: type[BaseException]) -> None:
    future = new()
    calls: list[str] = []

    def interrupt(_: object) -> None:
        raise error

    for callback in (named("a", calls), interrupt, named("b", calls), named("c", calls)):
        future.add_done_callback(callback)
    future.finish()
    with pytest.raises(error):
        future.wake()
    assert calls == ["a"]
    await turns(1)
    assert calls == ["a", "b", "c"]
    future.wake()
    assert calls == ["a", "b", "c"]


def test_an_interrupt_comes_through_although_the_loop_takes_nothing_any_more() -> None:
    class Closed(FakeLoop):
        def call_soon(self, function: Callable[..., object], *args: Any, context: Any = None) -> None:
            raise RuntimeError("the loop is closed")

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    loop: Any = Closed()
    future = BatchFuture(loop=loop)
    future.add_done_callback(interrupt)
    future.add_done_callback(repr)
    future.finish()
    with pytest.raises(KeyboardInterrupt):
        future.wake()


def test_what_the_exception_handler_raises_leaves_wake_and_the_others_run_a_turn_later() -> None:
    class Strict(FakeLoop):
        def call_exception_handler(self, context: dict[str, Any]) -> None:
            raise SystemExit

    def fail(_: object) -> None:
        raise ZeroDivisionError

    loop: Any = Strict()
    future = BatchFuture(loop=loop)
    future.add_done_callback(fail)
    future.add_done_callback(repr)
    future.finish()
    with pytest.raises(SystemExit):
        future.wake()
    assert loop.ready == [(repr, (future,))]


def test_a_program_that_exits_in_a_waiter_ends() -> None:
    ended: list[str] = []

    async def main() -> None:
        future = new()

        async def leave() -> None:
            await future
            sys.exit(3)

        async def wait() -> None:
            try:
                await future
            finally:
                ended.append("waiter")

        tasks = [asyncio.create_task(leave()), asyncio.create_task(wait())]
        await turns(1)
        future.finish()
        asyncio.get_running_loop().call_soon(future.wake)
        await asyncio.wait(tasks)

    with pytest.raises(SystemExit) as left:
        asyncio.run(main())
    assert (left.value.code, ended) == (3, ["waiter"])


# Callbacks that change the future


async def test_a_callback_that_adds_a_callback_has_it_called_a_turn_later() -> None:
    future = new()
    calls: list[str] = []
    future.add_done_callback(lambda it: it.add_done_callback(named("added", calls)))
    future.add_done_callback(named("b", calls))
    future.finish()
    future.wake()
    assert calls == ["b"]
    await turns(1)
    assert calls == ["b", "added"]


async def test_a_callback_cannot_remove_those_that_are_being_called() -> None:
    future = new()
    calls: list[Any] = []
    last = named("last", calls)
    future.add_done_callback(lambda it: calls.append(it.remove_done_callback(last)))
    future.add_done_callback(last)
    future.finish()
    future.wake()
    assert calls == [0, "last"]


async def test_a_callback_that_wakes_again_calls_nobody_twice() -> None:
    future = new()
    calls: list[str] = []
    future.add_done_callback(lambda it: it.wake())
    future.add_done_callback(named("b", calls))
    future.add_done_callback(lambda it: it.wake_soon())
    future.finish()
    future.wake()
    await turns()
    assert calls == ["b"]


def test_a_callback_may_drop_the_last_reference_to_the_future() -> None:
    holder = [of_no_loop()]
    calls: list[str] = []
    holder[0].add_done_callback(lambda _: holder.clear())
    holder[0].add_done_callback(named("b", calls))
    holder[0].finish()
    holder[0].wake()
    assert (holder, calls) == ([], ["b"])


# Removing


async def test_every_callback_that_equals_is_removed_and_the_others_keep_their_order() -> None:
    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

        def __call__(self, _: object) -> None:
            calls.append(self.name)

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Named) and self.name == other.name

        __hash__ = None  # type: ignore[assignment]

    calls: list[str] = []
    future = new()
    for name in "xaxxbxcx":
        future.add_done_callback(Named(name))
    assert future.remove_done_callback(Named("x")) == 5
    assert future.remove_done_callback(Named("x")) == 0
    assert future.remove_done_callback(repr) == 0
    assert future.remove_done_callback(Named("b")) == 1
    future.finish()
    future.wake()
    assert calls == ["a", "c"]


async def test_a_bound_method_is_removed_by_an_equal_one() -> None:
    future = new()
    calls: list[BatchFuture] = []
    future.add_done_callback(calls.append)
    assert future.remove_done_callback(calls.append) == 1
    assert new().remove_done_callback(calls.append) == 0
    future.finish()
    assert future.remove_done_callback(calls.append) == 0
    future.wake()
    assert calls == []


class Reacting:
    """A function that does something when it is first compared with another, and then says what it is to say."""

    def __init__(self, react: Callable[[], object], *, equal: bool) -> None:
        self.reactions = [react]
        self.equal = equal

    def __call__(self, _: object) -> None:
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        if not self.reactions:
            return other is self
        self.reactions.pop()()
        return self.equal

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("equal", [True, False])
async def test_a_comparison_that_removes_callbacks_removes_no_wrong_one(equal: bool) -> None:
    future = new()
    calls: list[str] = []
    first, other, last = named("first", calls), named("other", calls), named("last", calls)
    reacting = Reacting(lambda: future.remove_done_callback(first), equal=equal)
    for callback in (first, other, reacting, last):
        future.add_done_callback(callback)
    assert future.remove_done_callback(named("none", calls)) == equal
    future.remove_done_callback(reacting)
    future.finish()
    future.wake()
    assert calls == ["other", "last"]


@pytest.mark.parametrize("equal", [True, False])
async def test_a_comparison_that_removes_what_is_compared_harms_nothing(equal: bool) -> None:
    future = new()
    calls: list[str] = []
    reacting = Reacting(lambda: future.remove_done_callback(reacting), equal=equal)
    for callback in (named("a", calls), reacting, reacting, named("b", calls)):
        future.add_done_callback(callback)
    assert future.remove_done_callback(named("none", calls)) == 0
    future.finish()
    future.wake()
    assert calls == ["a", "b"]


@pytest.mark.parametrize("equal", [True, False])
async def test_a_comparison_that_wakes_the_future_harms_nothing(equal: bool) -> None:
    found = reports()
    future = new()
    calls: list[str] = []

    def settle() -> None:
        future.finish()
        future.wake()

    for callback in (named("a", calls), Reacting(settle, equal=equal), named("b", calls)):
        future.add_done_callback(callback)
    assert future.remove_done_callback(named("none", calls)) == 0
    assert calls == ["a", "b"]
    assert [type(report["exception"]) for report in found] == [NotImplementedError]


async def test_a_comparison_that_adds_callbacks_loses_none() -> None:
    future = new()
    calls: list[str] = []

    def add() -> None:
        for _ in range(20):
            future.add_done_callback(named("added", calls))

    for callback in (named("a", calls), Reacting(add, equal=True), named("b", calls)):
        future.add_done_callback(callback)
    assert future.remove_done_callback(named("none", calls)) == 1
    future.finish()
    future.wake()
    assert calls == ["a", "b"] + ["added"] * 20


async def test_a_comparison_that_raises_is_heard_of_and_removes_nothing() -> None:
    future = new()
    calls: list[str] = []

    def fail() -> None:
        raise ZeroDivisionError

    future.add_done_callback(named("a", calls))
    future.add_done_callback(Reacting(fail, equal=True))
    with pytest.raises(ZeroDivisionError):
        future.remove_done_callback(named("none", calls))
    found = reports()
    future.finish()
    future.wake()
    assert calls == ["a"]
    assert len(found) == 1


# What it holds


def looped(link: Callable[[Any, Any], None]) -> weakref.ref[Probe]:
    """Return a weak reference to a probe that is in a cycle with a future."""
    probe: Any = Probe()
    probe.future = of_no_loop()
    link(probe.future, probe)
    return weakref.ref(probe)


def by_callback(future: Any, probe: Any) -> None:
    future.add_done_callback(lambda _: probe)


def by_context(future: Any, probe: Any) -> None:
    variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable")
    context = contextvars.copy_context()
    context.run(variable.set, probe)
    future.add_done_callback(repr, context=context)


def by_error(future: Any, probe: Any) -> None:
    error = ZeroDivisionError()
    error.probe = probe  # type: ignore[attr-defined]
    future.fail(error)


def by_loop(future: Any, probe: Any) -> None:
    future.get_loop().probe = probe


def by_steps(future: Any, probe: Any) -> None:
    probe.future = future.__await__()
    next(probe.future)
    future.add_done_callback(lambda _: probe)


@pytest.mark.parametrize("link", [by_callback, by_context, by_error, by_loop, by_steps])
def test_a_future_in_a_cycle_is_collected_with_all_it_holds(link: Callable[[Any, Any], None]) -> None:
    gc.collect()
    seen = looped(link)
    gc.collect()
    assert seen() is None


def test_a_woken_future_lets_go_of_its_callbacks_without_the_collector() -> None:
    probe = Probe()
    seen = weakref.ref(probe)
    future = of_no_loop()
    future.add_done_callback(lambda _, probe=probe: None)
    del probe
    future.finish()
    assert seen() is not None
    future.wake()
    assert seen() is None


def test_a_removed_callback_is_let_go_of() -> None:
    probe = Probe()
    seen = weakref.ref(probe)
    future = of_no_loop()
    callback: Any = lambda _, probe=probe: None  # noqa: E731 - its last reference is deleted below
    del probe
    future.add_done_callback(callback)
    assert future.remove_done_callback(callback) == 1
    del callback
    assert seen() is None


def test_a_callback_that_goes_may_change_the_future() -> None:
    class Last:
        def __init__(self, future: Any) -> None:
            self.future = future

        def __call__(self, _: object) -> None:
            raise NotImplementedError

        def __eq__(self, other: object) -> bool:
            return other is Last

        __hash__ = None  # type: ignore[assignment]

        def __del__(self) -> None:
            for _ in range(5):
                self.future.add_done_callback(calls.append)

    calls: list[Any] = []
    future = of_no_loop()
    for _ in range(3):
        future.add_done_callback(Last(future))
    assert future.remove_done_callback(Last) == 3
    future.finish()
    future.wake()
    assert calls == [future] * 15


def use(error: Exception, context: contextvars.Context, loop: Any) -> None:
    """Do with some futures all that is done with futures."""
    for outcome in (None, error):
        future = BatchFuture(loop=loop)
        steps = future.__await__()
        next(steps)
        future.add_done_callback(repr, context=context)
        future.add_done_callback(repr)
        future.add_done_callback(id, context=context)
        future.remove_done_callback(repr)
        future.get_loop()
        if outcome is None:
            future.finish()
        else:
            future.fail(outcome)
        for step in (steps.__next__, future.result, lambda steps=steps: steps.throw(error)):
            try:
                step()
            except (StopIteration, ZeroDivisionError):
                pass
        future.exception()
        future.wake()
        future.add_done_callback(repr, context=context)


def test_ten_thousand_futures_leave_nothing_behind() -> None:
    error, context, loop = ZeroDivisionError(), contextvars.copy_context(), FakeLoop()

    def use_many(n: int) -> int:
        for _ in range(n):
            use(error, context, loop)
            loop.ready.clear()
        error.__traceback__ = None
        gc.collect()
        return sys.getallocatedblocks()

    held = (error, context, loop, repr, id, None)
    use_many(100)
    before, counts = use_many(1), [sys.getrefcount(one) for one in held]
    after = use_many(5000)
    assert after - before < 200
    assert all(sys.getrefcount(one) - count < 50 for one, count in zip(held, counts, strict=True))


# Steps


def test_the_steps_of_a_pending_future_are_itself_and_its_outcome() -> None:
    future = of_no_loop()
    steps = future.__await__()
    assert iter(steps) is steps
    assert isinstance(steps, collections.abc.Generator)
    assert steps.send(None) is future
    assert future._asyncio_future_blocking is True
    future.finish()
    with pytest.raises(StopIteration) as stop:
        steps.send(None)
    assert stop.value.value is None
    with pytest.raises(StopIteration):
        next(steps)


@pytest.mark.parametrize("step", [next, lambda steps: steps.send(None), lambda steps: steps.send(5)])
def test_each_way_of_stepping_gives_the_same(step: Callable[[Any], Any]) -> None:
    future = of_no_loop()
    steps = future.__await__()
    assert step(steps) is future
    with pytest.raises(RuntimeError, match="await wasn't used with future"):
        step(steps)
    future.finish()
    with pytest.raises(StopIteration):
        step(steps)
    failed = of_no_loop()
    steps = failed.__await__()
    assert step(steps) is failed
    failed.fail(ZeroDivisionError())
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            step(steps)


def test_a_coroutine_that_is_resumed_without_the_outcome_hears_so() -> None:
    future = of_no_loop()
    coroutine = waiting(future)
    assert coroutine.send(None) is future
    with pytest.raises(RuntimeError, match="await wasn't used with future"):
        coroutine.send(None)


def test_a_generator_passes_on_the_steps() -> None:
    def generator(future: BatchFuture) -> Generator[Any, Any, str]:
        yield from future  # type: ignore[misc]  # it is an iterable too, as asyncio's is
        return "end"

    future = of_no_loop()
    steps = generator(future)
    assert next(steps) is future
    future.finish()
    with pytest.raises(StopIteration) as stop:
        next(steps)
    assert stop.value.value == "end"


@pytest.mark.parametrize(
    "thrown",
    [(ZeroDivisionError("x"),), (ZeroDivisionError,), (ZeroDivisionError, "x"), (ZeroDivisionError, "x", None)],
)
@pytest.mark.parametrize("begun", [False, True])
def test_what_is_thrown_into_the_steps_comes_out(thrown: tuple[Any, ...], begun: bool) -> None:
    steps = of_no_loop().__await__()
    if begun:
        next(steps)
    with pytest.raises(ZeroDivisionError) as raised:
        steps.throw(*thrown)
    assert raised.value.args in {(), ("x",)}


@pytest.mark.parametrize("thrown", [(), (5,), (int,), (None,), (ZeroDivisionError, 1, None, 2)], ids=shown)
def test_only_an_exception_is_thrown_into_the_steps(thrown: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        of_no_loop().__await__().throw(*thrown)


@pytest.mark.parametrize("begun", [False, True])
def test_closing_the_steps_leaves_the_future_alone(begun: bool) -> None:
    future = of_no_loop()
    steps, other, coroutine = future.__await__(), future.__await__(), waiting(future)
    if begun:
        next(steps)
        coroutine.send(None)
    assert steps.close() is None
    assert steps.close() is None
    coroutine.close()
    assert next(other) is future
    assert not future.done()


def test_steps_come_only_from_a_future() -> None:
    kind: Any = type(of_no_loop().__await__())
    with pytest.raises(TypeError):
        kind()
    with pytest.raises(TypeError):
        type("Derived", (BatchFuture,), {})


# Bad arguments


@pytest.mark.parametrize(
    ("args", "named_args"), [((), {}), ((None,), {}), ((), {"loop": None, "x": 1}), ((), {"x": 1})]
)
def test_a_future_is_made_of_a_loop(args: tuple[Any, ...], named_args: dict[str, Any]) -> None:
    made: Any = BatchFuture
    with pytest.raises(TypeError):
        made(*args, **named_args)


@pytest.mark.parametrize(
    ("method", "args", "named_args"),
    [
        ("add_done_callback", (), {}),
        ("add_done_callback", (), {"context": None}),
        ("add_done_callback", (), {"function": repr}),
        ("add_done_callback", (repr, None), {}),
        ("add_done_callback", (repr,), {"contexts": None}),
        ("add_done_callback", (repr,), {"context": None, "x": 1}),
        ("add_done_callback", (repr,), {"context": 5}),
        ("add_done_callback", (repr,), {"context": {}}),
        ("remove_done_callback", (), {}),
        ("remove_done_callback", (repr, repr), {}),
        ("fail", (), {}),
        ("finish", (None,), {}),
        ("wake", (1,), {}),
        ("wake_soon", (1,), {}),
        ("result", (1,), {}),
        ("exception", (1,), {}),
        ("done", (1,), {}),
        ("cancelled", (1,), {}),
        ("get_loop", (1,), {}),
    ],
)
def test_wrong_arguments_are_refused_and_change_nothing(
    method: str, args: tuple[Any, ...], named_args: dict[str, Any]
) -> None:
    future = of_no_loop()
    with pytest.raises(TypeError):
        getattr(future, method)(*args, **named_args)
    assert not future.done()
    assert future.remove_done_callback(repr) == 0


def test_a_future_that_was_not_initialised_raises() -> None:
    future = BatchFuture.__new__(BatchFuture)
    with pytest.raises(RuntimeError):
        future.get_loop()
    future.add_done_callback(repr)
    with pytest.raises(RuntimeError):
        future.wake_soon()
    future.finish()
    with pytest.raises(RuntimeError):
        future.add_done_callback(repr)

    def fail(_: object) -> None:
        raise ZeroDivisionError

    failing = BatchFuture.__new__(BatchFuture)
    failing.add_done_callback(fail)
    failing.finish()
    with pytest.raises(RuntimeError):
        failing.wake()


# A table's puts


@pytest.mark.parametrize("when", ["at once", "in the write"])
async def test_cancelling_a_put_nowait_does_not_undo_it(tmp_path: Path, when: str) -> None:
    async with world_in(tmp_path) as world, world.open(User, durability="fsync") as store:
        table = store[User]
        cancelled, kept = table.put_nowait(User(id="a", n=1)), table.put_nowait(User(id="b", n=2))
        assert isinstance(cancelled, asyncio.Future)
        assert not cancelled.done()
        if when == "in the write":
            await turns(1)
        assert cancelled.cancel()
        assert await kept is None  # type: ignore[func-returns-value]
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert await table.get("a") == User(id="a", n=1)
        assert await table.get("b") == User(id="b", n=2)


async def test_a_put_nowait_is_done_when_it_is_durable(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        async with world.open(User, durability="fsync") as store:
            done = store[User].put_nowait(User(id="a", n=1))
            assert await asyncio.wait([done]) == ({done}, set())
            assert done.result() is None
            crashed = world.crashed()
        async with crashed.open(User, durability="fsync") as store:
            assert await store[User].get("a") == User(id="a", n=1)
