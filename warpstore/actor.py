"""An actor: state behind a mailbox, handled in batches by callbacks on one event loop.

Elixir's ``GenServer`` on asyncio. An actor owns what it works on; others reach it by ``call`` (awaits a reply) and
``cast`` (does not). Messages that arrive while a batch is in hand collect into the next one. There is no task per
actor: a drain is a plain callback, because each hop through the loop costs 4-6 us on the way of a durable write.

Invariants:
- One batch is in hand at a time, and batches are handled in posting order.
- Whatever ends an actor (``stop``, a crash, a kill) settles every future it ever handed out, then tells each monitor
  once.
- An exception that leaves ``handle_batch`` is a crash and the actor never runs again: a supervisor starts a new one.
  Only ``ReplyError`` is an answer instead.
- Every method is called on the loop's thread.

What it does not do: restart (``warpstore.supervisor``), or find out that a handler awaits ``call`` or ``stop`` of its
own actor, which ends in a timeout as it does in Elixir.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Final, Generic, TypeVar, cast

from wal import log_event
from warpstore.clock import Clock, SystemClock
from warpstore.errors import ActorStoppedError, CallTimeoutError, UsageError
from warpstore.mailbox import BYTES_MAX, MESSAGES_MAX, Batch, Mailbox
from warpstore.process import SHUTDOWN, Process, Reason, State

logger = logging.getLogger(__name__)

CALL_TIMEOUT_S = 5.0
TURN_S_MAX = 0.002
"""The work after which the default ``handle_batch`` gives the loop a turn, in seconds."""

M = TypeVar("M")
R = TypeVar("R")


class ReplyError(Exception):
    """Raised in a handler to answer with an error instead of crashing.

    Out of ``handle`` it answers that one call; out of ``handle_batch`` it answers every message of the batch. The
    caller gets ``error`` itself.

    Attributes:
        error: What the caller gets.
    """

    def __init__(self, error: Exception) -> None:
        if isinstance(error, StopIteration):
            raise TypeError("a future cannot hold StopIteration")
        super().__init__(f"an answer that is an error: {type(error).__name__}")
        self.error = error


class Call(Generic[M, R]):
    """A message whose sender waits for a reply, as it lies in the mailbox.

    ``handle`` never sees one: the default ``handle_batch`` unwraps it. An actor with its own ``handle_batch`` answers
    each with ``reply`` or ``fail``, now or after the batch is done; what it never answers fails when the actor ends.

    Attributes:
        message: What was sent.
        future: What the sender awaits; it may be cancelled already, which ``reply`` and ``fail`` allow for.
    """

    __slots__ = ("future", "message")

    def __init__(self, message: M, future: asyncio.Future[R]) -> None:
        self.message = message
        self.future = future

    def reply(self, value: R) -> None:
        """Answer with ``value``; nothing if the sender has an answer or went away."""
        if not self.future.done():
            self.future.set_result(value)

    def fail(self, error: BaseException) -> None:
        """Answer with ``error``, raised in the sender; nothing if it has an answer or went away."""
        if not self.future.done():
            self.future.set_exception(error)


class _UnderWay:
    def __await__(self) -> Generator[None, None, None]:
        raise NotImplementedError("UNDER_WAY is a word to the actor, not to be awaited")


UNDER_WAY: Final = _UnderWay()
"""What ``handle_batch`` returns if its batch ends later, by a call of ``finish_batch`` and without a turn between."""


class Actor(Process, Generic[M, R]):
    """State behind a bounded mailbox. ``M`` is the type of its messages, ``R`` of its replies.

    Subclasses override ``handle`` (one message) or ``handle_batch`` (all that collected), and where needed
    ``on_start``, ``on_stop``, ``on_crash`` and ``ended_error``.

    Args:
        name: For logs, errors and statistics.
        loop: The loop it belongs to; the running one by default.
        clock: Measures turns and deadlines; the system's by default.
        messages_max: Messages that may wait.
        bytes_max: Bytes that may wait.
        wake: Called with the actor when it has work and no batch in hand; must arrange for ``drain`` in a later turn
            and must not call it. By default ``loop.call_soon(actor.drain)``, so that all writers woken in one turn
            join. A lane passes its own to drain several shards in one turn.

    Example:
        >>> class Counter(Actor[int, int]):
        ...     total = 0
        ...
        ...     def handle(self, message: int) -> int:
        ...         self.total += message
        ...         return self.total
        >>> async def main() -> int:
        ...     counter = Counter("counter")
        ...     await counter.start()
        ...     counter.cast_nowait(2)
        ...     total = await counter.call(3)
        ...     await counter.stop()
        ...     return total
        >>> asyncio.run(main())
        5
    """

    def __init__(
        self,
        name: str,
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        clock: Clock | None = None,
        messages_max: int = MESSAGES_MAX,
        bytes_max: int = BYTES_MAX,
        wake: Callable[[Any], object] | None = None,
    ) -> None:
        super().__init__(name, loop=loop)
        self.clock: Clock = SystemClock() if clock is None else clock
        self.mailbox: Mailbox[M | Call[M, R]] = Mailbox(
            loop=self.loop, wake=self._on_first_post, messages_max=messages_max, bytes_max=bytes_max
        )
        self._wake_hook: Callable[[Any], object] = Actor._drain_soon if wake is None else wake
        self._batch: Batch[M | Call[M, R]] | None = None
        self._work: asyncio.Future[None] | None = None  # What the handler of the batch in hand still does.
        self._is_starting = False
        self._quiet: asyncio.Future[None] | None = None  # What ``_stop`` awaits: neither a start nor a batch in hand.
        self._replies: set[asyncio.Future[R]] = set()

    # What a subclass overrides.

    async def on_start(self) -> None:
        """Acquire what the actor needs; messages wait until it returns. If it raises, the actor has crashed.

        It frees what it acquired before it raises, also ``CancelledError``: ``on_stop`` is not called then.
        """

    async def on_stop(self) -> None:
        """Release what ``on_start`` acquired; called after the last batch, unless the actor crashed."""

    def on_crash(self, error: BaseException) -> None:
        """Release at once what may not outlive a crash; called before any caller learns of it."""

    def ended_error(self, reason: Reason, *, in_hand: bool) -> Exception:
        """Return the error for callers of an actor that ended; its cause is set to ``reason`` where that is one.

        Args:
            reason: Why it ended.
            in_hand: True for messages that the handler had (the outcome is unknown), False for those that still waited
                and for all that come later (certainly not handled).
        """
        ended = f"crashed with {type(reason).__name__}" if isinstance(reason, BaseException) else f"stopped: {reason}"
        when = "while it handled the message" if in_hand else "before it handled the message"
        return ActorStoppedError(f"actor {self.name!r} {ended}, {when}")

    def handle(self, message: M) -> R | Awaitable[R]:
        """Handle one message and return the reply, or an awaitable of it; a cast's reply is dropped.

        Raises:
            ReplyError: to answer with its ``error``; in answer to a cast it is logged.
            Exception: anything else crashes the actor.
        """
        raise NotImplementedError(f"{type(self).__name__} overrides neither handle nor handle_batch")

    def handle_batch(self, messages: list[M | Call[M, R]]) -> Awaitable[None] | None:
        """Handle everything that collected, in order; the batch's future is done when this, or what it returns, is.

        The default gives each message to ``handle``, one after the other, and the loop a turn every ``TURN_S_MAX``.

        Args:
            messages: As posted; those sent by ``call`` are wrapped in ``Call``.

        Raises:
            ReplyError: to answer the whole batch with its ``error``.
            Exception: anything else crashes the actor.
        """
        turn_ends = self.clock.monotonic() + TURN_S_MAX
        for i, message in enumerate(messages):
            answer = self._handle_one(message)
            if answer is not None or self.clock.monotonic() >= turn_ends:
                return self._handle_rest(answer, messages, i + 1)
        return None

    # What others call.

    async def call(self, message: M, *, timeout: float | None = CALL_TIMEOUT_S, size: int = 0) -> R:
        """Send ``message``, waiting for room, and return the reply.

        Args:
            message: For ``handle``.
            timeout: Seconds for the wait for room and for the reply together; None waits for ever.
            size: Bytes it counts against the mailbox.

        Raises:
            CallTimeoutError: no reply in time; the message may still be handled.
            ActorStoppedError: the actor ended first (or what ``ended_error`` returns).
            LimitError: ``size`` alone exceeds the mailbox.
            Exception: the reply, when the handler answered with an error.

        Cancellation:
            Prompt. A message that is in the mailbox is still handled and its reply dropped; one that waited for room is
            never sent.
        """
        if timeout is None:
            if not self.mailbox.has_room(size) or self.mailbox.n_waiters:
                await self.mailbox.wait_for_room(size)
            return await self.call_nowait(message, size=size)
        deadline = self.loop.time() + timeout
        if not self.mailbox.has_room(size) or self.mailbox.n_waiters:
            try:
                async with asyncio.timeout_at(deadline):
                    await self.mailbox.wait_for_room(size)
            except TimeoutError as error:
                raise self._timeout_error(timeout) from error
        future = self.call_nowait(message, size=size)
        timer = self.loop.call_at(deadline, self._expire, future, timeout)
        try:
            return await future
        finally:
            timer.cancel()

    def call_nowait(self, message: M, *, size: int = 0) -> asyncio.Future[R]:
        """Send ``message`` and return the future of its reply.

        Raises:
            OverloadedError: the mailbox is full; nothing was sent.
            ActorStoppedError: the actor has ended.
            LimitError: ``size`` alone exceeds the mailbox.

        Cancellation:
            The future may be cancelled; the message is handled all the same.
        """
        future: asyncio.Future[R] = self.loop.create_future()
        self.mailbox.post(Call(message, future), size)
        self._replies.add(future)
        future.add_done_callback(self._replies.discard)
        return future

    async def cast(self, message: M, *, size: int = 0) -> None:
        """Send ``message``, waiting for room, and return when it is in the mailbox, not when it is handled.

        Raises:
            ActorStoppedError: the actor has ended.
            LimitError: ``size`` alone exceeds the mailbox.

        Cancellation:
            A message that waited for room is never sent.
        """
        await self.mailbox.post_when_room(message, size)

    def cast_nowait(self, message: M, *, size: int = 0) -> None:
        """Send ``message`` and return at once.

        Raises:
            OverloadedError: the mailbox is full; nothing was sent.
            ActorStoppedError: the actor has ended.
            LimitError: ``size`` alone exceeds the mailbox.
        """
        self.mailbox.post(message, size)

    @property
    def is_idle(self) -> bool:
        """Whether it runs, has no batch in hand and nobody has sent or waits to send: work done now keeps its order."""
        return self._state is State.RUNNING and self._batch is None and self.mailbox.is_empty

    @property
    def n_replies_pending(self) -> int:
        """Calls that have no answer yet."""
        return len(self._replies)

    async def start(self) -> None:
        """Run ``on_start``, then begin to handle messages.

        Raises:
            UsageError: it was started before.
            ActorStoppedError: ``stop`` was called meanwhile.
            Exception: what ``on_start`` raised; the actor has crashed.

        Cancellation:
            Cancels ``on_start``; the actor has stopped.
        """
        if self._state is not State.NEW:
            raise UsageError(f"actor {self.name!r} is {self._state.value}; an actor is started once")
        self._state = State.STARTING
        self._is_starting = True
        try:
            await self.on_start()
        except BaseException as error:
            if self.is_alive:
                self._end(SHUTDOWN if isinstance(error, asyncio.CancelledError) else error)
            raise
        finally:
            self._is_starting = False
            self._became_quiet()
        if not self.is_alive:  # Killed by a stop that had a deadline, so nobody else will release.
            await self.on_stop()
        if self._state is not State.STARTING:
            raise self._ended_error(self._reason or SHUTDOWN, in_hand=False)
        self._state = State.RUNNING
        if self.mailbox:
            self._wake_hook(self)

    def drain(self) -> None:
        """Handle what the mailbox holds as one batch; nothing while a batch is in hand or the actor does not run."""
        if self._batch is not None or self._state is not State.RUNNING:
            return
        batch = self.mailbox.take()
        if batch is None:
            return
        self._batch = batch
        try:
            awaitable = self.handle_batch(batch.messages)
            if awaitable is None:
                self._finish_batch(None)
                return
            if awaitable is UNDER_WAY:
                return
            work = asyncio.ensure_future(awaitable, loop=self.loop)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a crash of this actor alone
            self._finish_batch(error)
            return
        except BaseException as error:
            self._finish_batch(error)
            raise
        self._work = work
        if work.done():
            self._on_work_done(work)
        else:
            work.add_done_callback(self._on_work_done)

    # How batches end.

    def finish_batch(self, error: Exception | None = None) -> None:
        """Settle the batch that ``handle_batch`` left ``UNDER_WAY``; with ``error``, as the answer to all of it."""
        self._finish_batch(None if error is None else ReplyError(error))

    def settle_batch(self) -> Callable[[], None] | None:
        """Settle the batch that ``handle_batch`` left ``UNDER_WAY``, but wake no sender; return what does, or None.

        For an owner that has more to do before any code may run; it calls what is returned in the same turn.
        """
        batch = self._batch
        if batch is None:
            return None
        batch.done.finish()
        self._go_on()
        return batch.done.wake

    def crash(self, error: Exception) -> None:
        """End the actor with ``error``, as if its handler had raised it; nothing if it has ended."""
        if self.is_alive:
            self._end(error)

    def _on_first_post(self) -> None:
        if self._batch is None and self._state is State.RUNNING:
            self._wake_hook(self)

    def _drain_soon(self) -> None:
        self.loop.call_soon(self.drain)

    def _on_work_done(self, work: asyncio.Future[None]) -> None:
        if work is not self._work:  # Of a batch that was settled when the actor was killed.
            if not work.cancelled():
                work.exception()
            return
        self._work = None
        if not work.cancelled():
            self._finish_batch(work.exception())
        elif isinstance(work, asyncio.Task) and work.cancelling():
            self._end(SHUTDOWN)  # The loop is being torn down: that is no fault of the handler.
        else:
            self._finish_batch(asyncio.CancelledError("the handler awaited something that was cancelled"))

    def _finish_batch(self, error: BaseException | None) -> None:
        """Settle the batch in hand by how its handler ended, then go on with what collected meanwhile."""
        batch = self._batch
        if batch is None:  # The handler itself ended the actor.
            return
        if error is None:
            batch.finish()
        elif isinstance(error, ReplyError):
            batch.fail(error.error)
            for message in batch.messages:
                if isinstance(message, Call):
                    message.fail(error.error)
        else:
            self._end(error)
            return
        self._go_on()

    def _go_on(self) -> None:
        self._batch = None
        if self._state is State.RUNNING:
            if self.mailbox:
                # A turn later: the waiters just settled run first and may join.
                self._wake_hook(self)
        else:
            self._became_quiet()

    def _handle_one(self, message: M | Call[M, R]) -> Awaitable[None] | None:
        """Handle one message, or begin to; return what remains to be awaited."""
        call = message if isinstance(message, Call) else None
        try:
            answer = self.handle(cast("M", message) if call is None else call.message)
        except ReplyError as error:
            self._refuse(call, error)
            return None
        if hasattr(answer, "__await__"):  # A sixth of the cost of isinstance(answer, Awaitable).
            return self._answer_later(call, cast("Awaitable[R]", answer))
        if call is not None:
            call.reply(answer)
        return None

    async def _answer_later(self, call: Call[M, R] | None, answer: Awaitable[R]) -> None:
        try:
            value = await answer
        except ReplyError as error:
            self._refuse(call, error)
            return
        if call is not None:
            call.reply(value)

    async def _handle_rest(self, answer: Awaitable[None] | None, messages: list[M | Call[M, R]], start: int) -> None:
        if answer is not None:
            await answer
        turn_ends = 0.0  # The first message below begins with a turn of the loop unless the answer took one.
        if answer is not None:
            turn_ends = self.clock.monotonic() + TURN_S_MAX
        for i in range(start, len(messages)):
            if self.clock.monotonic() >= turn_ends:
                await asyncio.sleep(0)
                turn_ends = self.clock.monotonic() + TURN_S_MAX
            answer = self._handle_one(messages[i])
            if answer is not None:
                await answer

    def _refuse(self, call: Call[M, R] | None, error: ReplyError) -> None:
        if call is not None:
            call.fail(error.error)
        else:
            log_event(logger, logging.WARNING, "cast_refused", actor=self.name, error=error.error)

    # How an actor ends.

    def _begin_stop(self, reason: str) -> bool:
        if self._state is State.NEW:
            self._end(reason)
            return False
        self._state = State.STOPPING
        self.mailbox.close(self._ended_error(reason, in_hand=False))
        self._fail_queued(reason)
        return True

    async def _stop(self, reason: str, timeout_s: float | None) -> BaseException | None:
        deadline = asyncio.timeout(timeout_s)
        try:
            async with deadline:
                if self._is_starting or self._batch is not None:
                    self._quiet = self.loop.create_future()
                    await self._quiet
                if self.is_alive:
                    await self.on_stop()
        except BaseException as error:
            end: Reason = SHUTDOWN if isinstance(error, asyncio.CancelledError) else error
            if deadline.expired():
                end = CallTimeoutError(f"actor {self.name!r} did not stop within {timeout_s} s and was killed")
            if self.is_alive:
                self._end(end)
            if isinstance(error, Exception):
                return None if deadline.expired() else error
            raise
        if self.is_alive:
            self._end(reason)
        return None

    def _became_quiet(self) -> None:
        if self._quiet is not None and not self._quiet.done():
            self._quiet.set_result(None)

    def _end(self, reason: Reason) -> None:
        """Settle every future with an error, then record the end and tell the monitors."""
        batch, self._batch = self._batch, None
        work, self._work = self._work, None
        if isinstance(reason, BaseException):
            log_event(logger, logging.ERROR, "actor_crashed", actor=self.name, error=reason, at=_origin(reason))
            try:
                self.on_crash(reason)
            except Exception as error:  # noqa: BLE001 - the callers still have to be told
                self.loop.call_exception_handler({"message": f"on_crash of {self.name} raised", "exception": error})
        self.mailbox.close(self._ended_error(reason, in_hand=False))
        self._fail_queued(reason)
        if batch is not None:
            batch.fail(self._ended_error(reason, in_hand=True))
        for future in list(self._replies):
            if not future.done():
                future.set_exception(self._ended_error(reason, in_hand=True))
                future.exception()  # Marks it retrieved: whoever asked may no longer care.
        if work is not None and not work.done():
            work.cancel()
        self._became_quiet()
        self._down(reason)

    def _fail_queued(self, reason: Reason) -> None:
        if not self.mailbox:
            return
        error = self._ended_error(reason, in_hand=False)
        for message in self.mailbox.fail_all(error):
            if isinstance(message, Call) and not message.future.done():
                message.future.set_exception(error)
                message.future.exception()

    def _ended_error(self, reason: Reason, *, in_hand: bool) -> Exception:
        error = self.ended_error(reason, in_hand=in_hand)
        if isinstance(reason, BaseException) and error is not reason:
            error.__cause__ = reason
        return error

    def _expire(self, future: asyncio.Future[R], timeout_s: float) -> None:
        if not future.done():
            future.set_exception(self._timeout_error(timeout_s))

    def _timeout_error(self, timeout_s: float) -> CallTimeoutError:
        return CallTimeoutError(
            f"no answer from actor {self.name!r} in {timeout_s} s; the message may still be handled"
        )


def _origin(error: BaseException) -> str:
    """Return file name and line where ``error`` was raised; its message stays out of logs, it may hold keys."""
    trace = error.__traceback__
    if trace is None:
        return "unknown"
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
