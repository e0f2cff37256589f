"""``warpstore export``: a table into a file of Parquet, Arrow or JSON Lines."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import typer

from warpstore.cli.arguments import Json, Live, StorePath, TableName
from warpstore.cli.confirmation import Yes
from warpstore.cli.failures import USAGE, fail
from warpstore.cli.models import ModelsOrNone, model_of
from warpstore.cli.output import print_json
from warpstore.cli.progress import progress, reached
from warpstore.cli.transfer import FilePath, FormatOrNone, format_named, may_replace
from warpstore.interchange.formats import Format
from warpstore.interchange.stored_lines import write_lines
from warpstore.record import Record
from warpstore.store import open as open_store
from warpstore.stored import StoredReader


def export(
    path: StorePath,
    table: TableName,
    file: FilePath,
    *,
    models: ModelsOrNone = None,
    format: FormatOrNone = None,  # noqa: A002 - the option's name
    yes: Yes = False,
    json: Json = False,
    live: Live = False,
) -> None:
    """Write the records of a table to a file, in key order; expired ones are left out. Changes nothing in the store.

    JSON Lines can be written without the record classes; fields that were added since a record was written are absent
    from its line then. Arrow and Parquet need --models. The file is there only when it is whole.
    """
    form = format_named(file, format)
    if models is None and form != "jsonl":
        fail(f"--models: {form} needs the record class of table {table!r}; jsonl does not", USAGE)
    with StoredReader.open(path, lock=not live) as stored:
        stored.table(table)
        model = None if models is None else model_of(table, models)
        target = os.path.abspath(file)
        overwrite = may_replace(file, yes=yes)
        if model is None:
            with progress("exporting", hidden=json) as advance:
                found = stored.records(table)
                n = write_lines(found, stored.files, target, overwrite=overwrite, advance=advance)
        else:
            if not live and not stored.is_clean:
                note = "was not closed cleanly; what may not be durable is left out, unless compact recovers it first"
                typer.echo(f"warpstore: {stored.path}: {note}", err=True)
            n = asyncio.run(_export(stored.path, model, target, form, overwrite=overwrite, hidden=json))
    if json:
        print_json({"path": stored.path, "table": table, "file": target, "format": form, "n_records": n})
    else:
        typer.echo(f"{target}: {n:,} records of table {table!r}")


async def _export(path: str, model: type[Record], target: str, form: Format, **options: Any) -> int:
    with reached("exporting", hidden=options["hidden"]) as reach:
        async with open_store(path, models=[model], read_only=True) as store:
            return await store[model].export(Path(target), format=form, overwrite=options["overwrite"], progress=reach)
