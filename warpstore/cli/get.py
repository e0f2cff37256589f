"""``warpstore get``: one record of a store."""

from __future__ import annotations

from typing import Annotated

import typer

from warpstore.cli.arguments import Json, Live, StorePath, TableName
from warpstore.cli.failures import PROBLEM, fail
from warpstore.cli.output import print_json
from warpstore.stored import StoredReader


def get(
    path: StorePath,
    table: TableName,
    key: Annotated[str, typer.Argument(metavar="KEY", help="Text, an int, a UUID, or base64 where keys are bytes.")],
    *,
    json: Json = False,
    live: Live = False,
) -> None:
    """Print the record under a key as one line of JSON, as dump does; ends with 1 if there is none.

    With --json the line is {"path": ..., "table": ..., "found": ..., "expires_ms": ..., "record": {...} or null}.
    A negative int needs -- before it.
    """
    with StoredReader.open(path, lock=not live) as stored:
        record = stored.get(table, stored.table(table).parse_key(key))
        if json:
            print_json(
                {
                    "path": stored.path,
                    "table": table,
                    "found": record is not None,
                    "expires_ms": None if record is None else record.deadline_ms,
                    "record": None if record is None else record.fields,
                }
            )
        elif record is not None:
            print_json(record.fields)
    if record is None:
        fail(f"{stored.path}: table {table!r} has no record under this key", PROBLEM)
