"""What an actor and a supervisor have in common: a life with one end, which is told once to each who watches.

It begins NEW, runs after `Process.start`, and ends once: stopped for a reason in words, or crashed with an exception.
Every method is called on the loop's thread.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from typing import Any

NORMAL = "normal"
SHUTDOWN = "shutdown"
"""The reason of an actor that goes because its tree goes; a supervisor never restarts it."""

Reason = str | BaseException
"""Why an actor ended: a word for a stop that was asked for, an exception for a crash."""


class State(enum.Enum):
    """Where an actor or a supervisor is in its life; it only moves down this list."""

    NEW = "new"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    CRASHED = "crashed"


class Process:
    """What a supervisor supervises: something named with a life, an end and monitors.

    Args:
        name: For logs, errors and statistics.
        loop: The loop it belongs to; the running one by default.
    """

    def __init__(self, name: str, *, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.name = name
        self.loop = asyncio.get_running_loop() if loop is None else loop
        self._state = State.NEW
        self._reason: Reason | None = None
        self._monitors: dict[object, Callable[[Any, Reason], object]] = {}
        self._stop_task: asyncio.Task[BaseException | None] | None = None

    @property
    def state(self) -> State:
        """Where it is in its life."""
        return self._state

    @property
    def reason(self) -> Reason | None:
        """Why it ended, or None while it has not."""
        return self._reason

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._state is not State.STOPPED and self._state is not State.CRASHED

    def monitor(self, callback: Callable[[Any, Reason], object]) -> Callable[[], None]:
        """Have ``callback(process, reason)`` called once when it ends, and return a function that takes this back.

        Of one that has ended already, it is told in the next loop turn. Callbacks run on the loop and must not block.
        """
        token = object()
        self._monitors[token] = callback
        if not self.is_alive:
            self.loop.call_soon(self._tell, token)

        def unsubscribe() -> None:
            self._monitors.pop(token, None)

        return unsubscribe

    async def start(self) -> None:
        """Bring it from NEW to RUNNING, or raise."""
        raise NotImplementedError

    async def stop(self, reason: str = NORMAL, *, timeout_s: float | None = None) -> None:
        """End it and return when it has ended; idempotent, and callers that come later wait for the same end.

        From the call on it accepts nothing more, and what waits in its mailbox fails; a batch in hand may finish.

        Args:
            reason: What monitors are told.
            timeout_s: After this long what it still does is cancelled, and it counts as crashed with
                ``CallTimeoutError``. None waits for ever. The first caller's counts.

        Raises:
            Exception: what ``on_stop`` raised. Everything is settled all the same.

        Cancellation:
            The end goes on without the caller.
        """
        if not self.is_alive:
            return
        if self._stop_task is None:
            if not self._begin_stop(reason):
                return
            self._stop_task = self.loop.create_task(self._stop(reason, timeout_s), name=f"stop {self.name}")
        error = await asyncio.shield(self._stop_task)
        if error is not None:
            raise error

    def _begin_stop(self, reason: str) -> bool:
        """Do at once what a stop does at once, and return whether more is to do; one that never started ends here."""
        raise NotImplementedError

    async def _stop(self, reason: str, timeout_s: float | None) -> BaseException | None:
        """Do the rest of a stop, and return what it met."""
        raise NotImplementedError

    def _down(self, reason: Reason) -> None:
        """Record the end and tell the monitors; every future is settled before this is called."""
        self._state = State.CRASHED if isinstance(reason, BaseException) else State.STOPPED
        self._reason = reason
        for token in list(self._monitors):
            self._tell(token)

    def _tell(self, token: object) -> None:
        callback = self._monitors.pop(token, None)
        if callback is None or self._reason is None:
            return
        try:
            callback(self, self._reason)
        except Exception as error:  # noqa: BLE001 - one monitor must not keep the others from hearing
            self.loop.call_exception_handler({"message": f"a monitor of {self.name} raised", "exception": error})
