"""A chart of the load: records stored per second over time, as a PNG file."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

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


def draw_throughput(report: Report, samples: list[tuple[float, int]], path: Path) -> None:
    """Write the chart to ``path``."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    report.section("Chart", "records stored per second in the bulk load")
    seconds, total = samples[-1]
    edges, values = rates(samples, max(WINDOW_S, seconds / 40))
    mean = total / seconds

    figure = Figure(figsize=(9, 4), dpi=144, layout="constrained")
    axes = figure.add_subplot()
    axes.stairs(values, edges, fill=True, color=LINE, alpha=0.12)
    axes.stairs(values, edges, color=LINE, linewidth=1.6)
    axes.axhline(mean, color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(
        f"mean {mean:,.0f}/s",
        (1, mean),
        xycoords=("axes fraction", "data"),
        xytext=(-4, 5),
        textcoords="offset points",
        ha="right",
        color=FAINT,
        fontsize=9,
    )
    axes.set_title(f"{total:,} records, each batch durable before the next", loc="left", color=INK, fontsize=11)
    axes.set_xlabel("seconds since the first batch", color=INK)
    axes.set_ylabel("records per second", color=INK)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlim(0, seconds)
    axes.set_ylim(0, 1.15 * max([*values, mean]))
    axes.grid(axis="y", color=FAINT, alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)
    figure.savefig(path, format="png", backend="agg")
    report.check(path.stat().st_size > 0, "written", str(path))
