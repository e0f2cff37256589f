"""A bounded queue that an actor empties in batches.

All messages posted between two drains form one batch and share one future, which is done when the handler of that batch
has finished: with one disk sync per batch, group commit falls out of it, and a post allocates nothing of its own.

Invariants:
- A mailbox belongs to one event loop; every method is called on that loop's thread.
- At most ``messages_max`` messages and ``bytes_max`` bytes wait, room promised to waiters included. The batch in the
  handler's hand is no longer counted.
- ``wake`` is called once when an empty mailbox gets its first message. A wake that defers the drain with ``call_soon``
  lets every writer of that loop turn join the same batch.
- Waiters get room in the order they came. A later ``post`` cannot take room that was promised to a waiter.
- Every future handed out is settled by ``Batch.finish``, ``Batch.fail`` or ``fail_all``.

Who calls it: ``warpstore.actor`` owns one per actor; a shard posts its durable writes directly.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, NoReturn, TypeVar

from warpstore._native import BatchFuture
from warpstore.errors import LimitError, OverloadedError

MESSAGES_MAX = 10_000
BYTES_MAX = 64 * 1024 * 1024

M = TypeVar("M")


def _settle(done: asyncio.Future[None], error: BaseException) -> None:
    """Fail ``done``, without a complaint at its collection when nobody awaits it."""
    if done.done():
        return
    done.set_exception(error)
    done.exception()  # Marks it retrieved: a writer may have been cancelled, or may not care.


class Batch(Generic[M]):
    """The messages of one drain, in posting order, and the future that answers them all.

    Attributes:
        messages: What was posted, in order; the taker's own list.
        n_bytes: The sum of the sizes given to ``post``.
        done: The future every ``post`` of this batch returned.
    """

    __slots__ = ("done", "messages", "n_bytes")

    def __init__(self, messages: list[M], n_bytes: int, done: BatchFuture) -> None:
        self.messages = messages
        self.n_bytes = n_bytes
        self.done = done

    def finish(self) -> None:
        """Tell every waiter of this batch that it was handled; nothing if that is settled."""
        if not self.done.done():
            self.done.finish()
            self.done.wake_soon()

    def fail(self, error: BaseException) -> None:
        """Raise ``error`` in every waiter of this batch; nothing if that is settled."""
        if not self.done.done():
            self.done.fail(error)
            self.done.wake_soon()


class Mailbox(Generic[M]):
    """A bounded, batch-draining queue of one event loop.

    Args:
        loop: The loop it belongs to.
        wake: Called when an empty mailbox gets its first message, before that message is in it; must arrange for a
            later ``take`` and must not call it. If it raises, the post fails and changes nothing.
        messages_max: Messages that may wait.
        bytes_max: Bytes that may wait, by the sizes given to ``post``.

    Example:
        >>> async def main() -> list[str]:
        ...     mailbox = Mailbox[str](loop=asyncio.get_running_loop(), wake=lambda: None)
        ...     first, second = mailbox.post("a"), mailbox.post("b")
        ...     assert first is second
        ...     batch = mailbox.take()
        ...     batch.finish()
        ...     await first
        ...     return batch.messages
        >>> asyncio.run(main())
        ['a', 'b']
    """

    __slots__ = (
        "_bytes_limit",
        "_closed",
        "_done",
        "_loop",
        "_messages",
        "_messages_limit",
        "_n_bytes",
        "_waiters",
        "_wake",
        "bytes_max",
        "messages_max",
    )

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        wake: Callable[[], object],
        messages_max: int = MESSAGES_MAX,
        bytes_max: int = BYTES_MAX,
    ) -> None:
        if messages_max < 1 or bytes_max < 0:
            raise ValueError(f"messages_max={messages_max} must be at least 1 and bytes_max={bytes_max} at least 0")
        self.messages_max = messages_max
        self.bytes_max = bytes_max
        self._loop = loop
        self._wake = wake
        self._messages: list[M] = []
        self._n_bytes = 0
        self._done = BatchFuture(loop=loop)  # Of the batch that is collecting.
        self._waiters: deque[tuple[asyncio.Future[None], int]] = deque()
        self._closed: BaseException | None = None
        # The limits less what was promised to waiters. Closing sets both below zero, so ``post`` needs no other check.
        self._messages_limit = messages_max
        self._bytes_limit = bytes_max

    def post(self, message: M, size: int = 0) -> BatchFuture:
        """Queue ``message`` and return the future of its batch, done when the handler of that batch has finished.

        Args:
            message: Anything; handed to the taker as it is.
            size: Bytes it counts against ``bytes_max``.

        Raises:
            OverloadedError: no room; nothing was queued.
            LimitError: ``size`` alone exceeds ``bytes_max``; waiting would not help.
            BaseException: what ``close`` was given.

        Cancellation:
            See ``BatchFuture``: awaiting the future cannot be cut short by cancelling the waiter.

        Cost:
            One list append; the first post of a batch adds one future and one ``wake``.
        """
        messages = self._messages
        n_bytes = self._n_bytes + size
        if n_bytes > self._bytes_limit or len(messages) >= self._messages_limit:
            self._refuse(size)
        if not messages:
            self._wake()
        self._n_bytes = n_bytes
        messages.append(message)
        return self._done

    def has_room(self, size: int = 0) -> bool:
        """Return whether ``post`` of ``size`` bytes would succeed now."""
        return self._n_bytes + size <= self._bytes_limit and len(self._messages) < self._messages_limit

    async def wait_for_room(self, size: int = 0) -> None:
        """Return when a ``post`` of ``size`` bytes succeeds, if it is made before the next await.

        Waiters are served in the order they came, and their room is kept for them until they run.

        Raises:
            LimitError: ``size`` alone exceeds ``bytes_max``.
            BaseException: what ``close`` was given, before or while waiting.

        Cancellation:
            Safe: the place in the queue, or the room already promised, goes to the next waiter.
        """
        if not self._waiters and self.has_room(size):
            return
        if self._closed is not None or size > self.bytes_max:
            self._refuse(size)
        waiter: asyncio.Future[None] = self._loop.create_future()
        place = (waiter, size)
        self._waiters.append(place)
        try:
            await waiter
        except BaseException:
            if not waiter.done() or waiter.cancelled():
                self._forget(place)
            elif waiter.exception() is None:
                self._release(size)
                self._promise_room()
            raise
        self._release(size)
        if self._closed is not None:  # Closed between the promise and this turn.
            raise self._closed.with_traceback(None)

    async def post_when_room(self, message: M, size: int = 0) -> BatchFuture:
        """Queue ``message`` as soon as there is room and return the (probably pending) future of its batch.

        Raises:
            LimitError: ``size`` alone exceeds ``bytes_max``.
            BaseException: what ``close`` was given.

        Cancellation:
            Safe: a call cancelled while it waits has queued nothing.
        """
        if self._waiters or not self.has_room(size):
            await self.wait_for_room(size)
        return self.post(message, size)

    def take(self) -> Batch[M] | None:
        """Return everything that waits as one batch, or None if nothing does. The caller must finish or fail it."""
        messages = self._messages
        if not messages:
            return None
        batch = Batch(messages, self._n_bytes, self._done)
        self._messages = []
        self._n_bytes = 0
        self._done = BatchFuture(loop=self._loop)
        if self._waiters:
            self._promise_room()
        return batch

    def fail_all(self, error: BaseException) -> list[M]:
        """Fail everything that waits with ``error`` and return the messages; neither opens nor closes the mailbox."""
        batch = self.take()
        if batch is None:
            return []
        batch.fail(error)
        return batch.messages

    def close(self, error: BaseException) -> None:
        """Make every later ``post`` and everyone who waits for room raise ``error``; what is queued can still be taken.

        Idempotent: the first error is kept.
        """
        if self._closed is not None:
            return
        self._closed = error
        self._messages_limit = self._bytes_limit = -1
        waiters, self._waiters = self._waiters, deque()
        for waiter, _ in waiters:
            _settle(waiter, error)

    def __len__(self) -> int:
        """Return the number of messages that wait."""
        return len(self._messages)

    @property
    def n_bytes(self) -> int:
        """The bytes that wait."""
        return self._n_bytes

    @property
    def n_waiters(self) -> int:
        """The callers that wait for room."""
        return len(self._waiters)

    @property
    def is_empty(self) -> bool:
        """Whether no message waits and no caller waits, or is about to use its promise, to post one."""
        return not self._messages and not self._waiters and self._messages_limit == self.messages_max

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed is not None

    def _refuse(self, size: int) -> NoReturn:
        if self._closed is not None:
            # One error serves every late post; without the reset its traceback would grow with each.
            raise self._closed.with_traceback(None)
        if size > self.bytes_max:
            raise LimitError(f"a message of {size} bytes exceeds the mailbox's bytes_max={self.bytes_max}")
        raise OverloadedError(
            f"the mailbox is full: {len(self._messages)} messages of messages_max={self.messages_max},"
            f" {self._n_bytes} bytes of bytes_max={self.bytes_max}; await the waiting form of the call, or send less"
        )

    def _promise_room(self) -> None:
        """Give room to the waiters at the head for as long as they fit; none passes another."""
        waiters = self._waiters
        while waiters and self.has_room(waiters[0][1]):
            waiter, size = waiters.popleft()
            if not waiter.done():  # A waiter cancelled in this turn has not run yet.
                self._messages_limit -= 1
                self._bytes_limit -= size
                waiter.set_result(None)

    def _release(self, size: int) -> None:
        """Take back the promise of room for one message of ``size`` bytes."""
        if self._closed is None:
            self._messages_limit += 1
            self._bytes_limit += size

    def _forget(self, place: tuple[asyncio.Future[None], int]) -> None:
        try:
            self._waiters.remove(place)
        except ValueError:
            return  # Already passed over or closed.
        self._promise_room()  # A large one may have held up smaller ones behind it.
