"""The arguments and options that several commands have, and what the shell completes for them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from warpstore.stored import StoredReader

StorePath = Annotated[Path, typer.Argument(metavar="PATH", help="The folder of the store.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")]
Live = Annotated[
    bool, typer.Option("--live", help="Read beside the process that has the store open, instead of refusing.")
]


def complete_table(context: typer.Context, incomplete: str) -> list[str]:
    """Return the table names of the store on the command line that begin like this; none if it cannot be read."""
    try:
        with StoredReader.open(context.params.get("path") or "", lock=False) as stored:
            return [name for name in stored.user_tables if name.startswith(incomplete)]
    except Exception:  # noqa: BLE001 - whatever it is, a shell that completes shows no errors
        return []


TableName = Annotated[
    str, typer.Argument(metavar="TABLE", help="The table.", autocompletion=complete_table, show_default=False)
]
TableOrAll = Annotated[
    str | None,
    typer.Argument(metavar="[TABLE]", help="The table; all of them without.", autocompletion=complete_table),
]
