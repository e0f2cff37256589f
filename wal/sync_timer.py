"""The timer that makes written bytes durable at an interval, whether or not the event loop is free."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol


class SyncTimer(Protocol):
    """Calls ``tick`` once, an interval after each `arm` that found it idle."""

    def start(self, tick: Callable[[], None], interval_s: float) -> None:
        """Begin; ``tick`` must not raise, and may run in another thread."""

    def arm(self) -> None:
        """Ask for a tick within the interval. Cheap, from the loop."""

    def stop(self) -> None:
        """End, after a tick that is under way. No tick comes after it."""


class ThreadSyncTimer:
    """A `SyncTimer` in a thread of its own; idle, it costs nothing."""

    def __init__(self) -> None:
        self._armed = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, tick: Callable[[], None], interval_s: float) -> None:
        def run() -> None:
            while True:
                self._armed.wait()
                if self._stopping.wait(interval_s):
                    return
                self._armed.clear()
                if self._stopping.is_set():  # `stop` came before the line above, which has undone its wake
                    return
                tick()

        self._thread = threading.Thread(target=run, name="wal-sync", daemon=True)
        self._thread.start()

    def arm(self) -> None:
        if not self._armed.is_set():
            self._armed.set()

    def stop(self) -> None:
        self._stopping.set()
        self._armed.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
