"""The chart of a run: a panel a row, a bar a contestant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.row import OURS


def write_png(report: dict[str, Any], path: Path) -> None:
    """Draw each row's median rates as bars, slowest to quickest trial as a line.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    drawn = [row for row in report["rows"].values() if not row.figures and any(c.rate for c in row.cells.values())]
    if not drawn:
        return
    n_columns = 3
    n_lines = -(-len(drawn) // n_columns)
    figure, grid = plt.subplots(n_lines, n_columns, figsize=(6.2 * n_columns, 3.0 * n_lines), squeeze=False)
    for axes in grid.flat[len(drawn) :]:
        axes.set_axis_off()
    for axes, row in zip(grid.flat, drawn, strict=False):
        cells = sorted(((c.rate, name, c) for name, c in row.cells.items() if c.rate), key=lambda found: found[0])
        rates = [rate for rate, _, _ in cells]
        spread = [[r - min(c.rates) for r, _, c in cells], [max(c.rates) - r for r, _, c in cells]]
        colors = ["#d1495b" if name.startswith(OURS) else "#8d99ae" for _, name, _ in cells]
        axes.barh([name for _, name, _ in cells], rates, color=colors, xerr=spread, error_kw={"lw": 0.8})
        axes.set_title(f"{row.title}", fontsize=9)
        axes.set_xlabel(row.unit, fontsize=8)
        axes.tick_params(labelsize=8)
    run = report["run"]
    figure.suptitle(f"{run['commit']}, {run['machine']['cpu']}, {run['machine']['cores']} cores", fontsize=11)
    figure.tight_layout(rect=(0, 0, 1, 0.98))
    figure.savefig(path, dpi=110)
    plt.close(figure)
