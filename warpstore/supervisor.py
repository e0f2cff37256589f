"""A supervisor: starts its children in order, restarts the ones that crash, stops them in reverse.

OTP's ``supervisor`` on asyncio. Children are actors or supervisors. The strategy decides what a crash takes along, the
intensity how many are borne: when more than ``intensity`` restarts would happen within ``period_s``, the supervisor
gives up and says so once.

Invariants:
- Ends of children are handled one at a time, in the order they came, by one task that the supervisor owns. One that
  comes during a restart waits for it; none is lost, and one of a child that was replaced meanwhile is dropped.
- A start that fails during a restart counts as another restart, so a child that cannot start ends in escalation and
  never spins.
- An end whose reason has ``counts_as_restart = False`` is no fault of the child (a full disk): it is restarted after
  ``retry_s`` and not counted, for as long as it takes.
- A child that ended with the reason "shutdown" went because the tree goes, and is not restarted.

Who calls it: the store has one over its shards, GPU worker and background work.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from wal import log_event
from warpstore.clock import Clock, SystemClock
from warpstore.errors import ActorStoppedError, CallTimeoutError, ReadOnlyStoreError, UsageError
from warpstore.process import SHUTDOWN, Process, Reason, State

logger = logging.getLogger(__name__)

Restart = Literal["permanent", "transient", "temporary"]
Strategy = Literal["one_for_one", "one_for_all", "rest_for_one"]

INTENSITY = 3
PERIOD_S = 5.0
RETRY_S = 1.0
SHUTDOWN_S = 5.0


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """How one child is started, restarted and stopped.

    Attributes:
        name: Unique among its siblings.
        start: Makes a new child for each start: a factory that returns it new (the supervisor awaits its ``start``), or
            an async function that returns it running and frees what it acquired if it raises.
        restart: "permanent": whenever it ends; "transient": when it crashed; "temporary": never.
        shutdown_s: Seconds it may take to stop before it is killed; None waits for ever (for a supervisor, whose
            children have limits of their own).
    """

    name: str
    start: Callable[[], Process | Awaitable[Process]]
    restart: Restart = "permanent"
    shutdown_s: float | None = SHUTDOWN_S


@dataclass(frozen=True, slots=True)
class ChildInfo:
    """One child at one moment, for statistics.

    Attributes:
        name: From its spec.
        state: Its state; "restarting" between its end and its next start, "gone" when it will not be restarted.
        restart: From its spec.
        n_restarts: Times it was started again.
        last_reason: Why it ended last: the word, or the name of the exception's type. None if it never did.
    """

    name: str
    state: str
    restart: Restart
    n_restarts: int
    last_reason: str | None


class _Child:
    """The supervisor's note on one child."""

    __slots__ = ("generation", "is_due", "last_reason", "n_restarts", "process", "spec")

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.process: Process | None = None  # While it lives.
        self.generation = 0  # Counts starts and stops by the supervisor: an end of an older one is stale.
        self.is_due = False  # Ended, and to be started again.
        self.n_restarts = 0
        self.last_reason: Reason | None = None


class Supervisor(Process):
    """Keeps its children running.

    Args:
        children: In the order of their start.
        name: For logs, errors and statistics.
        strategy: What a restart takes along: "one_for_one" the child alone, "one_for_all" all children, "rest_for_one"
            it and those started after it.
        intensity: Restarts borne within ``period_s``; the next one escalates.
        period_s: The window of the intensity in seconds.
        retry_s: Seconds before a child is restarted whose end does not count.
        clock: Measures the window; the system's by default.
        loop: The loop it belongs to; the running one by default.
        on_escalate: Called once with a ``ReadOnlyStoreError`` whose cause is the last crash. The children that live
            then stay alive, so that reads go on, and none is restarted any more. Without it (a supervisor within
            another) the children are stopped and the supervisor ends as crashed with that error, which its own
            supervisor handles.

    Example:
        >>> from warpstore.actor import Actor
        >>> async def main() -> list[str]:
        ...     specs = [ChildSpec("a", lambda: Actor("a")), ChildSpec("b", lambda: Actor("b"))]
        ...     supervisor = Supervisor(specs, strategy="rest_for_one")
        ...     await supervisor.start()
        ...     states = [child.state for child in supervisor.which_children()]
        ...     await supervisor.stop()
        ...     return states
        >>> asyncio.run(main())
        ['running', 'running']
    """

    def __init__(
        self,
        children: Sequence[ChildSpec],
        *,
        name: str = "supervisor",
        strategy: Strategy = "one_for_one",
        intensity: int = INTENSITY,
        period_s: float = PERIOD_S,
        retry_s: float = RETRY_S,
        clock: Clock | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        on_escalate: Callable[[ReadOnlyStoreError], object] | None = None,
    ) -> None:
        super().__init__(name, loop=loop)
        names = [spec.name for spec in children]
        if len(set(names)) != len(names):
            raise UsageError(f"supervisor {name!r} has two children of one name: {sorted(names)}")
        if strategy not in ("one_for_one", "one_for_all", "rest_for_one"):
            raise UsageError(f"no restart strategy is called {strategy!r}")
        self._children = [_Child(spec) for spec in children]
        self._strategy: Strategy = strategy
        self._intensity = intensity
        self._period_s = period_s
        self._retry_s = retry_s
        self._clock: Clock = SystemClock() if clock is None else clock
        self._on_escalate = on_escalate
        self._restarts: deque[float] = deque()  # Times of the counted restarts within the window.
        self._ends: deque[tuple[_Child, int, Reason]] = deque()
        self._retries: set[asyncio.TimerHandle] = set()
        self._restarter: asyncio.Task[None] | None = None
        self._starter: asyncio.Task[None] | None = None
        self._escalation: ReadOnlyStoreError | None = None

    @property
    def escalation(self) -> ReadOnlyStoreError | None:
        """The error it gave up with, or None while it restarts."""
        return self._escalation

    def child(self, name: str) -> Process | None:
        """Return the living child of that name, or None while it is down.

        Raises:
            UsageError: there is no such child.
        """
        for child in self._children:
            if child.spec.name == name:
                return child.process
        raise UsageError(f"supervisor {self.name!r} has no child {name!r}")

    def which_children(self) -> tuple[ChildInfo, ...]:
        """Return every child's state, in the order of their start."""
        return tuple(self._info(child) for child in self._children)

    async def start(self) -> None:
        """Start the children in order.

        Raises:
            UsageError: it was started before.
            ActorStoppedError: ``stop`` was called meanwhile.
            Exception: what the start of a child raised. Those started before it were stopped in reverse.

        Cancellation:
            As if the start of the current child had failed.
        """
        if self._state is not State.NEW:
            raise UsageError(f"supervisor {self.name!r} is {self._state.value}; a supervisor is started once")
        self._state = State.STARTING
        # A task of its own, so that ``stop`` can cancel it without cancelling the caller.
        self._starter = self.loop.create_task(self._start_all(), name=f"start {self.name}")
        try:
            await self._starter
        except BaseException as error:
            await self._stop_children(self._children)  # As ``stop`` does when it cancelled the starter; both may.
            is_stopped = self._stop_task is not None
            if self.is_alive and not is_stopped:
                self._down(SHUTDOWN if isinstance(error, asyncio.CancelledError) else error)
            caller = asyncio.current_task()
            if not is_stopped or not isinstance(error, asyncio.CancelledError) or (caller and caller.cancelling()):
                raise
        if self._state is not State.STARTING:
            raise ActorStoppedError(f"supervisor {self.name!r} was stopped while it started")
        self._state = State.RUNNING
        self._handle_soon()

    async def _start_all(self) -> None:
        for child in self._children:
            await self._start_child(child)

    def _begin_stop(self, reason: str) -> bool:
        if self._state is State.NEW:
            self._down(reason)
            return False
        self._state = State.STOPPING
        return True

    async def _stop(self, reason: str, timeout_s: float | None) -> BaseException | None:
        error: BaseException | None = None
        try:
            async with asyncio.timeout(timeout_s):
                await self._stop_restarting()
                error = await self._stop_children(self._children)
        except TimeoutError:
            error = CallTimeoutError(f"supervisor {self.name!r} did not stop within {timeout_s} s")
            for child in self._children:
                if child.process is not None:
                    log_event(logger, logging.WARNING, "child_abandoned", supervisor=self.name, child=child.spec.name)
        finally:
            if self.is_alive:
                self._down(reason)
        return error

    async def _stop_restarting(self) -> None:
        """Cancel the restarts under way and planned, and return when none runs."""
        for timer in self._retries:
            timer.cancel()
        self._retries.clear()
        self._ends.clear()
        for task in (self._starter, self._restarter):
            if task is not None and not task.done():
                task.cancel()
                await asyncio.wait([task])
        self._ends.clear()

    async def _start_child(self, child: _Child) -> None:
        child.generation += 1
        generation = child.generation
        made = child.spec.start()
        process = made if isinstance(made, Process) else await made
        if process.state is State.NEW:
            await process.start()
        child.process = process
        child.is_due = False
        # Of one that ended between its start and here, the monitor tells too.
        process.monitor(lambda _, reason: self._on_end(child, generation, reason))

    async def _stop_children(self, children: Sequence[_Child]) -> BaseException | None:
        """Stop ``children`` in reverse, all of them whatever they raise, and return the first error."""
        first: BaseException | None = None
        for child in reversed(children):
            process = child.process
            child.generation += 1  # Its end is expected and no longer news.
            child.is_due = False
            if process is None:
                continue
            try:
                await process.stop(SHUTDOWN, timeout_s=child.spec.shutdown_s)
            except Exception as error:  # noqa: BLE001 - the others have to be stopped too
                first = first or error
                child.last_reason = error
                log_event(
                    logger,
                    logging.WARNING,
                    "child_stop_failed",
                    supervisor=self.name,
                    child=child.spec.name,
                    error=error,
                )
            child.process = None
        return first

    # What happens when a child ends.

    def _on_end(self, child: _Child, generation: int, reason: Reason) -> None:
        if generation != child.generation:
            return
        child.process = None
        child.last_reason = reason
        child.is_due = self._is_restarted(child, reason)
        if child.is_due and self._escalation is None:
            self._plan_restart(child, reason)

    def _plan_restart(self, child: _Child, reason: Reason) -> None:
        """Queue the restart of ``child``, at once or, if its end does not count, after ``retry_s``."""
        end = (child, child.generation, reason)

        def enqueue() -> None:
            self._ends.append(end)
            self._handle_soon()

        def retry() -> None:
            self._retries.discard(timer)
            enqueue()

        if getattr(reason, "counts_as_restart", True):
            enqueue()
        else:
            timer = self.loop.call_later(self._retry_s, retry)
            self._retries.add(timer)

    def _handle_soon(self) -> None:
        if self._ends and self._restarter is None and self._state is State.RUNNING and self._escalation is None:
            self._restarter = self.loop.create_task(self._handle_ends(), name=f"restart under {self.name}")

    async def _handle_ends(self) -> None:
        try:
            while self._ends and self._state is State.RUNNING:
                child, generation, reason = self._ends.popleft()
                if generation != child.generation:
                    continue  # It was replaced or stopped meanwhile.
                if getattr(reason, "counts_as_restart", True) and not self._bears_another():
                    await self._escalate(child, reason)
                    return
                await self._restart(child, reason)
        finally:
            self._restarter = None

    def _bears_another(self) -> bool:
        """Count a restart, and return whether it is within the intensity."""
        now = self._clock.monotonic()
        self._restarts.append(now)
        while self._restarts[0] < now - self._period_s:
            self._restarts.popleft()
        return len(self._restarts) <= self._intensity

    async def _restart(self, child: _Child, reason: Reason) -> None:
        log_event(
            logger, logging.WARNING, "child_restarting", supervisor=self.name, child=child.spec.name, reason=reason
        )
        i = self._children.index(child)
        if self._strategy == "one_for_one":
            affected = [child]
        else:
            affected = self._children[i:] if self._strategy == "rest_for_one" else self._children
            await self._stop_children(affected)
        # As in OTP: a temporary child that went along with a sibling does not come back.
        affected = [other for other in affected if other.spec.restart != "temporary"]
        for other in affected:
            other.is_due = True
        for other in affected:
            other.n_restarts += 1
            try:
                await self._start_child(other)
            except Exception as error:  # noqa: BLE001 - a start that fails is one more end of this child
                log_event(
                    logger,
                    logging.WARNING,
                    "child_restart_failed",
                    supervisor=self.name,
                    child=other.spec.name,
                    error=error,
                )
                other.last_reason = error
                self._plan_restart(other, error)
                return

    async def _escalate(self, child: _Child, reason: Reason) -> None:
        error = ReadOnlyStoreError(
            f"supervisor {self.name!r} gave up: more than {self._intensity} restarts within {self._period_s} s,"
            f" the last for child {child.spec.name!r}, which ended with {_word(reason)}"
        )
        if isinstance(reason, BaseException):
            error.__cause__ = reason
        self._escalation = error
        log_event(logger, logging.ERROR, "escalated", supervisor=self.name, child=child.spec.name, reason=reason)
        for timer in self._retries:
            timer.cancel()
        self._retries.clear()
        self._ends.clear()
        if self._on_escalate is None:
            await self._stop_children(self._children)
            if self.is_alive:
                self._down(error)
            return
        try:
            self._on_escalate(error)
        except Exception as failed:  # noqa: BLE001 - the owner's fault; the supervisor has given up either way
            self.loop.call_exception_handler({"message": f"on_escalate of {self.name} raised", "exception": failed})

    def _is_restarted(self, child: _Child, reason: Reason) -> bool:
        if reason == SHUTDOWN or child.spec.restart == "temporary":
            return False
        return child.spec.restart == "permanent" or isinstance(reason, BaseException)

    def _info(self, child: _Child) -> ChildInfo:
        if child.process is not None:
            state = child.process.state.value
        elif child.is_due and self._escalation is None:
            state = "restarting"
        else:
            state = "gone"
        last = None if child.last_reason is None else _word(child.last_reason)
        return ChildInfo(child.spec.name, state, child.spec.restart, child.n_restarts, last)


def _word(reason: Reason) -> str:
    """Return a reason for logs and statistics: never an exception's message, which may hold keys."""
    return type(reason).__name__ if isinstance(reason, BaseException) else reason
