"""Blocking work in a thread that its caller does not leave behind.

A cancelled caller of a thread is gone while the thread goes on; what it works on must not be closed under it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Job(Generic[T]):
    """A blocking call under way.

    Args:
        run: Begins a call in a thread, such as `StoreContext.run`.
        call: The call.
    """

    def __init__(self, run: Callable[[Callable[[], T]], Awaitable[T]], call: Callable[[], T]) -> None:
        self._future: asyncio.Future[T] = asyncio.ensure_future(run(call))

    async def result(self) -> T:
        """Return what the call returned.

        Cancellation:
            The call goes on; `ended` waits for it.
        """
        return await asyncio.shield(self._future)

    async def ended(self) -> None:
        """Return when the call has ended, however, and however often the caller is cancelled."""
        while not self._future.done():
            try:
                await asyncio.wait([self._future])
            except asyncio.CancelledError:
                continue
        if not self._future.cancelled():
            self._future.exception()


async def finished(run: Callable[[Callable[[], T]], Awaitable[T]], call: Callable[[], T]) -> T:
    """Return what a blocking call returns.

    Cancellation:
        `asyncio.CancelledError` comes when the call has ended.
    """
    job = Job(run, call)
    try:
        return await job.result()
    finally:
        await job.ended()
