"""An asyncio event loop on virtual time: when nothing is ready, time jumps to the next timer.

A test that waits five seconds takes none, and always sees the same order of events. With a seed, the callbacks that are
ready in one turn run in a shuffled order, the same for the same seed: code that is right only by luck of the order
fails.

Executor jobs work: while one runs in a thread, time stands still. A loop with nothing ready, no timer and no job would
hang for ever; it raises ``DeadlockError`` instead. A test whose own threads, processes or descriptors wake the loop
raises ``n_jobs`` for as long as they may.

``virtual`` turns an async test into a plain one. It also fails a test that leaves a task behind, or a future whose
exception nobody retrieved.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import random
import selectors
import types
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")

JOB_POLL_S = 0.01
"""Real seconds between looks at whether executor jobs have ended; only a bound, their end wakes the loop."""


class DeadlockError(RuntimeError):
    """Nothing can ever happen again on this loop."""


class _JumpingSelector:
    """A selector that never waits while a timer can be reached by moving the clock."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._real = selectors.DefaultSelector()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = self._real.select(0)
        if events or timeout == 0:
            self._loop.shuffle_ready()
            return events
        if self._loop.n_jobs:
            return self._real.select(JOB_POLL_S)
        if timeout is None:
            raise DeadlockError("no callback is ready, no timer is set, no executor job runs: this would wait for ever")
        self._loop.advance(timeout)
        return events

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class VirtualLoop(asyncio.SelectorEventLoop):
    """A deterministic event loop whose ``time`` starts at 0 and moves only when nothing else can happen."""

    def __init__(self, seed: int | None = None) -> None:
        self._now = 0.0
        self._random = None if seed is None else random.Random(seed)
        self.n_jobs = 0
        super().__init__(_JumpingSelector(self))  # type: ignore[arg-type]  # what the loop uses

    def time(self) -> float:
        return self._now

    @property
    def n_timers(self) -> int:
        """The timers that are set and not cancelled."""
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]  # no public way to them
        return sum(not timer.cancelled() for timer in timers)

    def advance(self, seconds: float) -> None:
        """Move the clock forward."""
        self._now += seconds

    def shuffle_ready(self) -> None:
        """Reorder what is ready in this turn; nothing without a seed."""
        if self._random is not None:
            ready: deque[Any] = self._ready  # type: ignore[attr-defined]  # no public way to the loop's queue
            handles = list(ready)
            self._random.shuffle(handles)
            ready.clear()
            ready.extend(handles)

    def run_in_executor(  # type: ignore[override]  # typeshed's is generic over the arguments
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = super().run_in_executor(executor, func, *args)
        self.n_jobs += 1
        future.add_done_callback(self._job_done)
        return future

    async def shutdown_default_executor(self, *args: Any) -> None:
        self.n_jobs += 1  # It is awaited through a thread.
        try:
            await super().shutdown_default_executor(*args)
        finally:
            self.n_jobs -= 1

    def _job_done(self, _: object) -> None:
        self.n_jobs -= 1


class VirtualClock:
    """A ``warpstore.clock.Clock`` on a virtual loop's time; ``wall_offset_s`` may be set at any moment."""

    def __init__(self, loop: asyncio.AbstractEventLoop, wall_offset_s: float = 1_700_000_000.0) -> None:
        self._loop = loop
        self.wall_offset_s = wall_offset_s

    def monotonic(self) -> float:
        return self._loop.time()

    def wall(self) -> float:
        return self._loop.time() + self.wall_offset_s


def run_virtual(main: Coroutine[Any, Any, T], *, seed: int | None = None) -> T:
    """Run ``main`` on a new virtual loop and return its result.

    Raises:
        AssertionError: it left tasks behind, or something reported an error to the loop.
        DeadlockError: it waits for something that cannot come.
    """
    reports: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(seed)) as runner:
        loop = runner.get_loop()
        loop.set_exception_handler(lambda _, context: reports.append(context))
        result = runner.run(_leaving_nothing(main))
        gc.collect()  # A future whose exception nobody retrieved reports when it is collected.
    assert not reports, f"reported to the loop: {reports}"
    return result


async def _leaving_nothing(main: Coroutine[Any, Any, T]) -> T:
    result = await main
    for _ in range(3):
        await asyncio.sleep(0)  # Callbacks of what has just ended.
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"tasks left behind: {left}"
    return result


def virtual(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Turn an async test function into a plain one that runs on a virtual loop; fixtures and parameters are kept."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        run_virtual(test(*args, **kwargs))

    return run


@types.coroutine
def cancelled_at(awaitable: Awaitable[T], step: int, reached: list[int]) -> Generator[Any, Any, T]:
    """Await ``awaitable`` and cancel the current task as soon as it has suspended for the ``step``-th time (from 0).

    ``reached`` gets every step that was suspended at, so a caller that counts ``step`` up knows when it has tried all.
    """
    task = asyncio.current_task()
    assert task is not None
    steps = awaitable.__await__()
    send: Callable[[], Any] = functools.partial(next, steps)
    n = 0
    while True:
        try:
            waits_for = send()
        except StopIteration as stop:
            result: T = stop.value
            return result
        if n == step:
            task.get_loop().call_soon(task.cancel)
        reached.append(n)
        n += 1
        try:
            value = yield waits_for
        except BaseException as error:  # noqa: BLE001 - handed on to what is awaited
            send = functools.partial(steps.throw, error)
        else:
            send = functools.partial(steps.send, value)
