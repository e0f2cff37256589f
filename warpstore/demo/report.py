"""What the demo prints: sections, checks and figures, in one manner.

A check states a claim and the evidence for it. One that does not hold is printed as failed and counted; the demo goes
on, so that one run shows everything, and ends with exit code 1.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

WIDTH_MAX = 110
_CLAIM_WIDTH = 55


class Stopwatch:
    """The time since it was made, in seconds; it stands still once ``stop`` was called."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._ended: float | None = None

    def stop(self) -> None:
        """Keep the time of now."""
        self._ended = time.perf_counter()

    @property
    def seconds(self) -> float:
        """The time taken."""
        return (self._ended or time.perf_counter()) - self._began


class Report:
    """The demo's output.

    Attributes:
        console: Where it goes.
        n_checks: Checks made so far.
        failed: The claims of those that did not hold.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self.console.width = min(self.console.width, WIDTH_MAX)
        self.n_checks = 0
        self.failed: list[str] = []
        self._n_sections = 0

    def section(self, title: str, about: str) -> None:
        """Begin a numbered section."""
        self._n_sections += 1
        self.line(f"\n[bold cyan]{self._n_sections}[/]  [bold]{title}[/]")
        self.line(f"   [dim]{about}[/]")

    def figure(self, what: str, value: str) -> None:
        """Print something measured."""
        self.line(f"   [dim]·[/]  {what:<{_CLAIM_WIDTH}} [cyan]{value}[/]")

    def check(self, holds: bool, claim: str, evidence: str = "") -> None:  # noqa: FBT001 reads as check(a == b, "...")
        """Print whether a claim holds, and remember it if it does not."""
        self.n_checks += 1
        if not holds:
            self.failed.append(claim)
        mark = "[green]ok[/]" if holds else "[bold red]FAILED[/]"
        self.line(f"   {mark} {claim:<{_CLAIM_WIDTH}} [dim]{evidence}[/]")

    def line(self, text: str) -> None:
        """Print a line; the terminal may wrap it, but a path or a number stays in one piece."""
        self.console.print(text, soft_wrap=True)

    def table(self, *columns: str, rows: Sequence[tuple[str, ...]], right: int, folds: int = -1) -> None:
        """Print a table, its columns from ``right`` on aligned to the right; column ``folds`` may break lines."""
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        for number, column in enumerate(columns):
            table.add_column(column, justify="right" if number >= right else "left", no_wrap=number != folds)
        for row in rows:
            table.add_row(*row)
        self.console.print(Padding(table, (1, 0, 1, 6)))

    def conclude(self, seconds: float) -> int:
        """Print the outcome and return the exit code: 0 if every check held, else 1."""
        if self.failed:
            self.console.print(f"\n[bold red]{len(self.failed)} of {self.n_checks} checks failed[/] ({seconds:.0f} s)")
            for claim in self.failed:
                self.line(f"   [red]{claim}[/]")
            return 1
        self.console.print(f"\n[bold green]All {self.n_checks} checks passed[/] ({seconds:.0f} s)")
        return 0


@contextmanager
def timed() -> Iterator[Stopwatch]:
    """Time a block; the stopwatch stands still after it."""
    watch = Stopwatch()
    try:
        yield watch
    finally:
        watch.stop()


def per_second(count: int, seconds: float) -> str:
    """Return a rate for people, such as ``"412,000/s"``.

    Example:
        >>> per_second(824_600, 2.0)
        '412,000/s'
    """
    rate = count / max(seconds, 1e-9)
    digits = -3 if rate >= 10_000 else 0
    return f"{round(rate, digits):,.0f}/s"


def duration(seconds: float) -> str:
    """Return a time for people, in s, ms or µs.

    Example:
        >>> duration(1.25), duration(0.0042), duration(0.0000031)
        ('1.25 s', '4.2 ms', '3.1 µs')
    """
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.1f} µs"


def size(n_bytes: float) -> str:
    """Return a size for people, in powers of 1,000.

    Example:
        >>> size(512), size(45_600), size(1_234_000_000)
        ('512 B', '45.6 KB', '1.23 GB')
    """
    for unit, scale, digits in (("GB", 1e9, 2), ("MB", 1e6, 1), ("KB", 1e3, 1)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.{digits}f} {unit}"
    return f"{n_bytes:.0f} B"
