"""What a run says: a table a row, the table of targets, the JSON file.

Tables use rich on a terminal where it is installed and plain text else.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import Cell, percentiles_us
from benchmarks.row import OURS, Row, Verdict


def number(value: float) -> str:
    """Return a figure with three significant digits or thousands."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def cell_columns(row: Row, name: str, cell: Cell) -> list[str]:
    """Return a contestant's line in the table of a row."""
    if cell.error is not None:
        return [name, f"failed: {cell.error}", "", "", "", "", ""]
    rate = cell.rate
    if rate is None:
        return [name, "-", "", "", "", "", ""]
    latency = percentiles_us(cell.latencies_ns)
    ours = row.rate(OURS)
    chosen = ", ".join(f"{key} {value}" for key, value in cell.settings.items())
    return [
        name,
        number(rate),
        number(1e6 / rate),
        f"{number(min(cell.rates))} - {number(max(cell.rates))}",
        " / ".join(number(value) for value in latency.values()),
        f"{ours / rate:.2f}x" if ours and name != OURS else "",
        chosen,
    ]


def figure_columns(row: Row) -> tuple[list[str], list[list[str]]]:
    """Return heads and lines of a row of figures."""
    heads = list(dict.fromkeys(name for figures in row.figures.values() for name in figures))
    lines = []
    for contestant, figures in row.figures.items():
        shown = [figures.get(name, "") for name in heads]
        lines.append([contestant, *(number(value) if isinstance(value, int | float) else value for value in shown)])
    return ["", *heads], lines


def verdict_text(verdict: Verdict) -> str:
    """Return a target and how it went, on one line."""
    sign = "<=" if verdict.at_most else ">="
    unit = verdict.unit if verdict.unit in ("x", "") else f" {verdict.unit}"
    bound = f"{verdict.bound:,.2f}".rstrip("0").rstrip(".")
    if verdict.measured is None:
        return f"not run   {verdict.text}: target {sign} {bound}{unit}"
    outcome = "pass" if verdict.passed else "FAIL"
    return f"{outcome}      {verdict.text}: {number(verdict.measured)}{unit} (target {sign} {bound}{unit})"


def table(title: str, heads: Sequence[str], lines: Sequence[Sequence[str]], say: Callable[[str], None]) -> None:
    """Print a table: with rich on a terminal that has it, aligned plain text else."""
    if say is print and sys.stdout.isatty():
        try:
            from rich.console import Console
            from rich.markup import escape
            from rich.table import Table
        except ImportError:
            pass
        else:
            rich_table = Table(title=escape(title), title_justify="left", title_style="bold")
            for place, head in enumerate(heads):
                rich_table.add_column(escape(head), justify="left" if place in (0, len(heads) - 1) else "right")
            for line in lines:
                rich_table.add_row(*map(escape, line))
            Console().print(rich_table)
            return
    say(title)
    widths = [max(len(line[place]) for line in [heads, *lines]) for place in range(len(heads))]
    for line in [heads, *lines]:
        parts = [line[0].ljust(widths[0])]
        parts += [text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True)]
        say("  " + "  ".join(parts).rstrip())


def print_row(row: Row, seconds: float, say: Callable[[str], None]) -> None:
    """Print a row: its table, its targets, its remarks."""
    say("")
    title = f"{row.name}: {row.title}  [{seconds:.1f} s]"
    if row.failure:
        say(title)
    elif row.figures:
        heads, lines = figure_columns(row)
        table(title, heads, lines, say)
    else:
        heads = ["", row.unit, "us each", "slowest - quickest", "p50 / p99 / p99.9 us", "warpstore is", ""]
        ordered = sorted(row.cells.items(), key=lambda pair: -(pair[1].rate or 0.0))
        table(title, heads, [cell_columns(row, name, cell) for name, cell in ordered], say)
    for name, cell in row.cells.items():
        if row.figures and cell.error is not None:
            say(f"  {name} failed: {cell.error}")
    for verdict in row.verdicts:
        say(f"  {verdict_text(verdict)}")
    for remark in row.remarks:
        say(f"  {remark}")


def print_targets(rows: dict[str, Row], say: Callable[[str], None]) -> None:
    """Print all targets of the run in one table."""
    lines = []
    for row in rows.values():
        for verdict in row.verdicts:
            outcome = {True: "pass", False: "FAIL", None: "not run"}[verdict.passed]
            unit = verdict.unit if verdict.unit in ("x", "") else f" {verdict.unit}"
            measured = "-" if verdict.measured is None else number(verdict.measured) + unit
            bound = f"{verdict.bound:,.2f}".rstrip("0").rstrip(".")
            lines.append(
                [row.name, verdict.text, measured, f"{'<=' if verdict.at_most else '>='} {bound}{unit}", outcome]
            )
    if lines:
        say("")
        table("targets", ["row", "what", "measured", "target", ""], lines, say)


def broken(rows: dict[str, Row]) -> list[str]:
    """Return what failed to run or answered wrongly, one line each; a missed target is no failure of the run."""
    found = []
    for row in rows.values():
        if row.failure:
            found.append(f"{row.name}: {row.remarks[0]}")
        found += [f"{row.name}, {name}: {cell.error}" for name, cell in row.cells.items() if cell.error is not None]
        found += [f"{row.name}, {name}: {f['error']}" for name, f in row.figures.items() if "error" in f]
    return found


def as_json(report: dict[str, Any]) -> dict[str, Any]:
    """Return the report as plain data, the header first."""
    run = {name: value for name, value in report["run"].items() if name != "line"}
    rows = {}
    for name, row in report["rows"].items():
        cells = {}
        for contestant, cell in row.cells.items():
            cells[contestant] = {
                "rate": cell.rate,
                "rates": cell.rates,
                "latency_us": percentiles_us(cell.latencies_ns),
                "settings": cell.settings,
                "notes": [trial.notes for trial in cell.trials if trial.notes],
                "error": cell.error,
            }
        rows[name] = {
            "title": row.title,
            "unit": row.unit,
            "cells": cells,
            "figures": row.figures,
            "targets": [{**asdict(verdict), "passed": verdict.passed} for verdict in row.verdicts],
            "remarks": row.remarks,
            "failure": row.failure,
        }
    return {"run": run, "rows": rows}


def results_name(run: dict[str, Any]) -> str:
    """Return ``<benchmark>-<commit>-<machine>.json`` for a run's header."""
    found = run["machine"]
    slug = re.sub(r"[^a-z0-9]+", "-", f"{found['cpu']} {found['cores']} cores".lower()).strip("-")
    return f"{run['benchmark']}-{run['commit']}-{slug}.json"


def write_json(report: dict[str, Any], path: Path) -> Path:
    """Write the report; a folder gets a file named after commit and machine. Return the file's path."""
    if path.is_dir():
        path = path / results_name(report["run"])
    path.write_text(json.dumps(as_json(report), indent=1, default=str) + "\n")
    return path
