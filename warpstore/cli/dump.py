"""``warpstore dump``: the records of a store as JSON Lines."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any

import typer

from warpstore.cli.arguments import Json, Live, StorePath, TableOrAll
from warpstore.cli.progress import progress
from warpstore.errors import ValidationError
from warpstore.json_values import to_json
from warpstore.stored import StoredReader
from warpstore.stored_table import StoredRecord


def dump(
    path: StorePath,
    table: TableOrAll = None,
    *,
    limit: Annotated[int | None, typer.Option("--limit", min=0, help="At most so many records.")] = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", help="Only keys that begin with this; base64 where keys are bytes.")
    ] = None,
    json: Json = False,
    live: Live = False,
) -> None:
    """Print records as JSON Lines, in key order, each as it was last written; expired ones are left out.

    With TABLE a line is a record; without, it is {"table": ..., "expires_ms": ..., "record": {...}}, table by table.
    Bytes are {"$base64": "..."}, floats that are no numbers {"$float": "nan"}, UUIDs and times their text, keys of
    dicts that are no text the JSON of the key. Fields that were added since a record was written are absent. Of a
    series a line has the items that are still in the record, not those that left it for files.
    """
    with StoredReader.open(path, lock=not live) as stored:
        found = islice(_records(stored, table, prefix), limit)
        if json:
            _print_object({"path": stored.path, "table": table}, (_line(record, table) for record in found))
            return
        hidden = sys.stdout.isatty()  # the records themselves are the progress then
        with progress("reading", hidden=hidden) as advance:
            for record in found:
                sys.stdout.write(to_json(_line(record, table)).decode() + "\n")
                advance(1)


def _records(stored: StoredReader, name: str | None, prefix: str | None) -> Iterator[StoredRecord]:
    if name is None:
        if prefix is not None:
            raise ValidationError("--prefix: needs a TABLE", field="--prefix")
        for each in stored.user_tables:
            yield from stored.records(each)
        return
    table = stored.table(name)
    yield from stored.records(name, prefix=None if prefix is None else table.parse_prefix(prefix))


def _print_object(head: dict[str, Any], records: Iterator[dict[str, Any]]) -> None:
    """Print one object, its records one after another, so that they need not be in memory together."""
    write = sys.stdout.write
    write(to_json(head).decode()[:-1] + ',"records":[')
    for i, record in enumerate(records):
        write("," * (i > 0) + to_json(record).decode())
    write("]}\n")


def _line(record: StoredRecord, table: str | None) -> dict[str, Any]:
    if table is not None:
        return record.fields
    return {"table": record.table, "expires_ms": record.deadline_ms, "record": record.fields}
