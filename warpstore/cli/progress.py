"""Progress bars: on stderr, where it is a terminal, for what takes longer than a second."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

SHOWN_AFTER_S = 1.0


class Bar:
    """A bar that appears once its work has taken long enough."""

    def __init__(self, words: str, total: int | None, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task(words, total=total)
        self._lock = threading.Lock()
        self._is_over = False

    def advance(self, n: int) -> None:
        """Take in that ``n`` more of the total are done."""
        self._progress.advance(self._task, n)

    def reach(self, n: int, total: int | None) -> None:
        """Take in that ``n`` are done, of a total that may be known by now."""
        self._progress.update(self._task, completed=n, total=total)

    def show(self) -> None:
        """Draw it from now on, unless the work is over."""
        with self._lock:
            if not self._is_over:
                self._progress.start()

    def end(self) -> None:
        """Take it off the screen."""
        with self._lock:
            self._is_over = True
            self._progress.stop()


@contextmanager
def progress(
    words: str, total: int | None = None, *, hidden: bool = False, console: Console | None = None
) -> Iterator[Callable[[int], None]]:
    """Show a bar while the body runs, and give what it calls with the amount done since its last call.

    Args:
        words: What is being done.
        total: The amount there is to do; None: unknown.
        hidden: Whether to show nothing at all, as with ``--json``.
        console: Where to draw; None: stderr.
    """
    with _bar(words, total, hidden=hidden, console=console) as bar:
        yield (lambda _: None) if bar is None else bar.advance


@contextmanager
def reached(
    words: str, *, hidden: bool = False, console: Console | None = None
) -> Iterator[Callable[[int, int | None], None]]:
    """As `progress`, for work that tells how much is done in all, and how much there is (None: unknown)."""
    with _bar(words, None, hidden=hidden, console=console) as bar:
        yield (lambda _done, _total: None) if bar is None else bar.reach


@contextmanager
def _bar(words: str, total: int | None, *, hidden: bool, console: Console | None) -> Iterator[Bar | None]:
    console = console or Console(stderr=True)
    if hidden or not console.is_terminal:
        yield None
        return
    bar = Bar(words, total, console)
    timer = threading.Timer(SHOWN_AFTER_S, bar.show)
    timer.daemon = True
    timer.start()
    try:
        yield bar
    finally:
        timer.cancel()
        bar.end()
