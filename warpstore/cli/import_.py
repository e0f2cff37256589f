"""``warpstore import``: the rows of a file of Parquet, Arrow or JSON Lines into a table."""

from __future__ import annotations

import asyncio
import os
from enum import StrEnum
from typing import Annotated, Any

import typer

from warpstore.cli.arguments import Json, StorePath, TableName
from warpstore.cli.models import Models, model_of
from warpstore.cli.output import print_json
from warpstore.cli.progress import reached
from warpstore.cli.transfer import FilePath, FormatOrNone, format_named
from warpstore.record import Record
from warpstore.store import open as open_store
from warpstore.stored import StoredReader
from warpstore.units import parse_seconds


class Taken(StrEnum):
    """What becomes of records whose keys are taken."""

    REPLACE = "replace"
    KEEP = "keep"
    REFUSE = "refuse"


def import_(
    path: StorePath,
    table: TableName,
    file: FilePath,
    *,
    models: Models,
    format: FormatOrNone = None,  # noqa: A002 - the option's name
    existing: Annotated[Taken, typer.Option("--existing", help="What to do where a key is taken.")] = Taken.REPLACE,
    ttl: Annotated[str | None, typer.Option("--ttl", help="Their time to live, such as 30d.")] = None,
    json: Json = False,
) -> None:
    """Store the rows of a file in a table of a store; its columns go to the fields of their names.

    A row that is wrong is named, and ends the import with 1; the batches before it (8,192 rows) are stored then. What
    does not fit as a whole is refused before anything is stored.
    """
    form = format_named(file, format)
    if ttl is not None:
        try:
            parse_seconds(ttl)
        except ValueError as e:
            raise typer.BadParameter(str(e), param_hint="--ttl") from e
    model = model_of(table, models)
    with StoredReader.open(path, lock=True) as stored:  # so that a path without a store does not get one
        pass
    with open(file, "rb"):  # nor a store the table of a file that is not there
        pass
    options = {"format": form, "existing": existing.value, "ttl": ttl}
    n = asyncio.run(_import(stored.path, model, os.path.abspath(file), options, hidden=json))
    if json:
        print_json({"path": stored.path, "table": table, "file": os.path.abspath(file), "format": form, "n_stored": n})
    else:
        typer.echo(f"{stored.path}: {n:,} records stored in table {table!r}")


async def _import(path: str, model: type[Record], file: str, options: dict[str, Any], *, hidden: bool) -> int:
    with reached("importing", hidden=hidden) as reach:
        async with open_store(path, models=[model]) as store:
            return await store[model].import_(file, progress=reach, **options)
