"""What commands print: JSON in one object, or tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from warpstore.json_values import to_json

PIPED_WIDTH = 200
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def print_json(data: Any) -> None:
    """Print one JSON object on a line of stdout."""
    typer.echo(to_json(data).decode())


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; numbers stand to the right, with thousands separated. What is printed is never markup."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    rows = [list(row) for row in rows]
    for i, column in enumerate(columns):
        is_number = bool(rows) and all(isinstance(row[i], int) for row in rows)
        table.add_column(Text(column), justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(f"{cell:,}" if type(cell) is int else str(cell)) for cell in row))
    console = Console(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    console.print(table)


def size(n_bytes: int) -> str:
    """Return a number of bytes in the unit that fits.

    Example:
        >>> size(812), size(4 << 20)
        ('812 B', '4.0 MiB')
    """
    amount, unit = float(n_bytes), 0
    while amount >= 1024 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.1f} {_UNITS[unit]}" if unit else f"{n_bytes} B"
