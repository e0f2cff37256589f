"""Loading all four tables in batches, each batch durable when its await returns."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import warpstore as ws
from warpstore.demo.costs import resident_bytes
from warpstore.demo.data import Dataset
from warpstore.demo.report import Report, duration, per_second, size, timed

T = TypeVar("T")
BATCH = 4_000


@dataclass(slots=True)
class Load:
    """How the load went.

    Attributes:
        samples: Seconds since the first batch and records stored by then, after each batch.
        began_s: When the first batch of each kind of record began, on the same clock.
        ram_bytes: Growth of the process's resident memory over the empty open store.
    """

    samples: list[tuple[float, int]] = field(default_factory=list)
    began_s: dict[str, float] = field(default_factory=dict)
    ram_bytes: int = 0


def batches(items: Sequence[T], length: int) -> Iterator[Sequence[T]]:
    """Yield consecutive slices of at most ``length`` items.

    Example:
        >>> list(batches("abcde", 2))
        ['ab', 'cd', 'e']
    """
    for start in range(0, len(items), length):
        yield items[start : start + length]


async def load(report: Report, store: ws.Store, data: Dataset) -> Load:
    """Load everything, check that it is counted, then checkpoint."""
    n_records = sum(map(len, data.tables.values()))
    report.section("Bulk load", f"put_many of {BATCH:,} at a time; each is on disk (fdatasync) when its await returns")
    outcome = Load()
    before_bytes = resident_bytes()
    columns = (
        TextColumn("  "),
        BarColumn(bar_width=40),
        MofNCompleteColumn(),
        TextColumn("[cyan]{task.fields[rate]}[/] {task.fields[table]}"),
        TimeElapsedColumn(),
    )
    with timed() as watch, Progress(*columns, console=report.console) as progress:
        task = progress.add_task("", total=n_records, rate="", table="")
        began, stored = time.perf_counter(), 0
        for kind, records in data.tables.items():
            table = store[type(records[0])]
            outcome.began_s[kind] = time.perf_counter() - began
            for batch in batches(records, BATCH):
                await table.put_many(batch)
                stored += len(batch)
                seconds = time.perf_counter() - began
                outcome.samples.append((seconds, stored))
                rate = per_second(stored, seconds)
                progress.update(task, completed=stored, rate=rate, table=kind)
        progress.update(task, table="")
    outcome.ram_bytes = resident_bytes() - before_bytes
    for kind, records in data.tables.items():
        count = await store[type(records[0])].count()
        report.check(count == len(records), f"all {kind} are counted", f"{count:,}")
    report.figure(
        "checked, encoded, logged and synced", f"{per_second(n_records, watch.seconds)}, {duration(watch.seconds)}"
    )
    report.figure("RAM that the load added", size(outcome.ram_bytes))
    with timed() as watch:
        await store.checkpoint()
    report.figure("checkpoint, in key order, beside the log", duration(watch.seconds))
    return outcome
