"""What `export` and `import` have in common on the command line: their file, its format, and a file in its way."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from warpstore.cli.confirmation import confirm
from warpstore.interchange.formats import Format, format_of

FilePath = Annotated[
    Path, typer.Argument(metavar="FILE", help=".parquet, .arrow, .feather, .jsonl or .ndjson.", show_default=False)
]


class FileFormat(StrEnum):
    """The formats by the names that ``--format`` takes."""

    PARQUET = "parquet"
    ARROW = "arrow"
    JSONL = "jsonl"


FormatOrNone = Annotated[
    FileFormat | None, typer.Option("--format", help="The format, for a file with another suffix.", show_default=False)
]


def format_named(file: Path, given: FileFormat | None) -> Format:
    """Return the format of a file.

    Raises:
        ValidationError: its suffix says none, and none was given.
    """
    names: dict[FileFormat, Format] = {
        FileFormat.PARQUET: "parquet",
        FileFormat.ARROW: "arrow",
        FileFormat.JSONL: "jsonl",
    }
    return format_of(os.fspath(file), None if given is None else names[given])


def may_replace(file: Path, *, yes: bool) -> bool:
    """Return whether there is a file that is to be replaced, after the user has agreed.

    Raises:
        typer.Exit: the user has not.
    """
    if not os.path.lexists(file) or file.is_dir():
        return False
    confirm(f"{file} exists and would be replaced", file.name, yes=yes)
    return True
