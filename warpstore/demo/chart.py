"""A chart of the load: records stored per second over time, as a PNG file."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from warpstore.demo.loading import Load
from warpstore.demo.report import Report

WINDOW_S = 0.1
INK, FAINT, LINE = "#24292f", "#8c959f", "#0969da"


def rates(samples: list[tuple[float, int]], window_s: float) -> tuple[list[float], list[float]]:
    """Return records per second over consecutive windows of at least ``window_s``.

    Args:
        samples: Seconds and the records stored by then, both increasing.
        window_s: The shortest time that a rate is taken over; a shorter rest at the end joins the window before it.

    Returns:
        The edges of the windows in seconds, one more than there are rates, and the rates.

    Example:
        >>> rates([(0.5, 100), (1.0, 300), (1.1, 400), (1.5, 500), (1.6, 520)], window_s=0.5)
        ([0.0, 0.5, 1.0, 1.6], [200.0, 400.0, 366.6...])
    """
    edges = [(0.0, 0)]
    for sample in samples:
        if sample[0] - edges[-1][0] >= window_s:
            edges.append(sample)
    if len(edges) > 1:
        edges.pop()
    edges.append(samples[-1])
    values = [(total - stored) / (end - start) for (start, stored), (end, total) in pairwise(edges)]
    return [seconds for seconds, _ in edges], values


def draw_throughput(report: Report, load: Load, path: Path) -> None:
    """Write the chart to ``path``."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    report.section("Chart", "records stored per second in the bulk load")
    seconds, total = load.samples[-1]
    edges, values = rates(load.samples, max(WINDOW_S, seconds / 40))
    mean = total / seconds

    figure = Figure(figsize=(9, 4), dpi=144, layout="constrained")
    axes = figure.add_subplot()
    axes.stairs(values, edges, fill=True, color=LINE, alpha=0.12)
    axes.stairs(values, edges, color=LINE, linewidth=1.6)
    axes.axhline(mean, color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
    title = f"{total:,} records in {seconds:.1f} s, {mean:,.0f} a second; each batch durable before the next"
    axes.set_title(title, loc="left", color=INK, fontsize=11)
    top = 1.35 * max(values)
    ends = [*load.began_s.values(), seconds][1:]
    for (kind, start), end in zip(load.began_s.items(), ends, strict=True):
        if end - start > seconds / 50:
            axes.text(start, top, f" {kind}", rotation=90, ha="left", va="top", color=FAINT, fontsize=8)
        if start > 0:
            axes.axvline(start, color=FAINT, linewidth=0.6, alpha=0.6)
    axes.set_xlabel("seconds since the first batch", color=INK)
    axes.set_ylabel("records per second", color=INK)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlim(0, seconds)
    axes.set_ylim(0, top)
    axes.grid(axis="y", color=FAINT, alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)
    figure.savefig(path, format="png", backend="agg")
    report.check(path.stat().st_size > 0, "written", str(path))
