"""The demo's steps in their order, over a folder of its own."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path

import warpstore as ws
from warpstore.demo.ageing import show_ageing
from warpstore.demo.changing import change
from warpstore.demo.chart import draw_throughput
from warpstore.demo.costs import show_costs
from warpstore.demo.crash import kill_and_recover
from warpstore.demo.data import Dataset, read_dataset
from warpstore.demo.errors import CannotRunError
from warpstore.demo.loading import load
from warpstore.demo.models import MODELS
from warpstore.demo.reading import read
from warpstore.demo.reopening import reopen
from warpstore.demo.report import Report, Stopwatch, duration, timed
from warpstore.demo.tiers import show_tiers

MARKER = ".warpstore-demo"


async def run(folder: Path, n_flights: int | None = None) -> int:
    """Run every step and return the exit code.

    Args:
        folder: Where its stores and the chart go.
        n_flights: Use only so many flights; None: all of the year.

    Raises:
        CannotRunError: the folder holds something else, or the data is not installed.
    """
    clear(folder)
    report = Report()
    whole = Stopwatch()
    data = _read(report, n_flights)
    store_path = folder / "store"
    async with ws.open(store_path, models=MODELS, durability="fsync", gpu="auto") as store:
        loaded = await load(report, store, data)
        await kill_and_recover(report, folder / "crashed", data.flights)
        await read(report, store, data)
        changed = await change(report, store, store_path, data.flights)
        await show_costs(report, store, store_path, data, loaded.ram_bytes)
    await reopen(report, store_path, changed)
    await show_tiers(report, store_path, data, changed)
    await show_ageing(report, folder / "weather", data)
    draw_throughput(report, loaded, folder / "throughput.png")
    return report.conclude(whole.seconds)


def _read(report: Report, n_flights: int | None) -> Dataset:
    report.line("[bold]warpstore[/] on a year of flights from New York")
    with timed() as watch:
        data = read_dataset(n_flights)
    counts = ", ".join(f"{len(records):,} {name}" for name, records in data.tables.items())
    report.line(f"[dim]{counts}, read in {duration(watch.seconds)}[/]")
    gc.freeze()  # the collector need not visit the source again at each pass
    return data


def clear(folder: Path) -> None:
    """Make the folder empty but for the marker.

    Raises:
        CannotRunError: it is a file, or holds something that no run of the demo made.
    """
    if folder.exists() and not folder.is_dir():
        raise CannotRunError(f"{folder} is a file; give a folder with --path")
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise CannotRunError(f"{folder} is not empty and not of the demo's making; give another folder with --path")
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / MARKER).write_text("Made by python -m warpstore.demo, which empties this folder at its next run.\n")
