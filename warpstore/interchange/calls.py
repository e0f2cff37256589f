"""The calls of a table that move its records in and out as Arrow, Parquet and JSON Lines."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

from warpstore.interchange.batches import BATCH_ROWS, ArrowBatches
from warpstore.interchange.export import export_table
from warpstore.interchange.formats import Format, format_of
from warpstore.interchange.intake import Existing, Intake, take_batches, take_lines
from warpstore.interchange.pyarrow_extra import load_pyarrow
from warpstore.interchange.sources import arrow_data, arrow_file, lines_of

if TYPE_CHECKING:
    import pyarrow as pa

    from warpstore.table import TTL, Key, Table

Progress = Callable[[int, int | None], None]
Path = str | os.PathLike[str]


class Interchange:
    """The part of a `Table` that other programs' data goes through. `arrow_kinds` has the table of types.

    Ephemeral fields are never exported. Deadlines are not either: what is imported gets ``ttl=``, or the table's own.
    Computed fields are exported, and computed anew on import.
    """

    __slots__ = ()

    def to_arrow_batches(
        self,
        fields: Sequence[str] | None = None,
        *,
        start: Key | None = None,
        stop: Key | None = None,
        prefix: str | bytes | None = None,
        batch_rows: int = BATCH_ROWS,
    ) -> ArrowBatches:
        """Return an asynchronous iterator over `pyarrow.RecordBatch`, in key order, as of one moment. Not a coroutine.

        Args:
            fields: Only these, and the key; by default all that are stored, in declared order.
            start: First key, included.
            stop: The key after the last, excluded.
            prefix: Only keys that begin with this; for str and bytes keys.
            batch_rows: Rows a batch; a batch that would be larger than about 64 MiB has fewer.

        Raises:
            ValidationError: a field is unknown or ephemeral, or a bound has the wrong type.
            MissingExtraError: pyarrow is not installed.
        """
        table = _table(self)
        return ArrowBatches(
            table.scan(start, stop, prefix=prefix, fields=fields),
            table._codec,
            fields=fields,
            batch_rows=batch_rows,
            decode=table._decoded,
        )

    async def to_arrow(
        self,
        fields: Sequence[str] | None = None,
        *,
        start: Key | None = None,
        stop: Key | None = None,
        prefix: str | bytes | None = None,
    ) -> pa.Table:
        """Return the records as a `pyarrow.Table` in memory; from there ``.to_pandas()`` or ``polars.from_arrow``.

        Args:
            fields: As for `to_arrow_batches`, like the bounds.

        Raises:
            ValidationError, MissingExtraError: as for `to_arrow_batches`.
        """
        async with aclosing(self.to_arrow_batches(fields, start=start, stop=stop, prefix=prefix)) as source:
            batches = [batch async for batch in source]
            found: pa.Table = load_pyarrow().Table.from_batches(batches, schema=source.schema)
        return found

    async def export(
        self,
        path: Path,
        *,
        format: Format | None = None,  # noqa: A002 - what it is called everywhere
        fields: Sequence[str] | None = None,
        start: Key | None = None,
        stop: Key | None = None,
        prefix: str | bytes | None = None,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> int:
        """Write the records to a file in key order, as of one moment; return how many.

        Of a `Temporal` series the file has the items that are still in the record, not those that left it for files.

        Args:
            path: Where: ``.parquet`` (zstd), ``.arrow`` or ``.feather`` (Arrow IPC), ``.jsonl`` or ``.ndjson``.
            format: ``parquet``, ``arrow`` or ``jsonl``, for another suffix.
            fields: As for `to_arrow_batches`, like the bounds.
            overwrite: Replace a file of this name.
            progress: Called with the rows so far, and how many there are (None if that is not known).

        Raises:
            TargetExistsError: something has the name.
            FileError: the file cannot be written.
            ValidationError: the suffix is unknown, a field is, or a value has no place in the format.
            MissingExtraError: the format needs pyarrow.

        Cancellation:
            No file is left, as after an error, unless it was just being given its name: then it is whole.
        """
        table = _table(self)
        table._context.check()
        path = _absolute(path)
        bounds = {"start": start, "stop": stop, "prefix": prefix}
        form = format_of(path, format)
        return await export_table(
            table, path, form=form, fields=fields, bounds=bounds, overwrite=overwrite, progress=progress
        )

    async def import_(
        self,
        path: Path,
        *,
        format: Format | None = None,  # noqa: A002 - what it is called everywhere
        existing: Existing = "replace",
        ttl: TTL | None = None,
        progress: Progress | None = None,
    ) -> int:
        """Store the rows of a file; return how many. Reads it a piece at a time.

        Columns go to the fields of their names. A field that the file lacks gets its default; null is None. The file's
        schema is judged before anything is stored.

        Args:
            path: A file as for `export`, of whatever program.
            format: As for `export`.
            existing: Where a key is taken, ``replace`` the record, ``keep`` it, or ``refuse`` the import. Of two rows
                with one key the later wins with ``replace``, the earlier with ``keep``.
            ttl: As for `put`.
            progress: As for `export`.

        Raises:
            SchemaMismatchError: the columns do not fit the record type; nothing was stored.
            RowError: a value is wrong; its row and field are named. The batches before it (8,192 rows) are stored.
            KeyExistsError: a key is taken, with ``refuse``; rows before it, and some behind it, may be stored.
            FileError, FileFormatError: the file cannot be read, or is damaged; what came before the damage is stored.
            MissingExtraError: the format needs pyarrow.

        Cancellation:
            What was stored stays.
        """
        table = _table(self)
        table._context.check()
        path = _absolute(path)
        form = format_of(path, format)
        intake = Intake(table, existing, ttl, progress)
        if form == "jsonl":
            async with aclosing(lines_of(table._context, path)) as lines:
                return await take_lines(lines, intake, table)
        source, close = await arrow_file(table._context, path, form)
        try:
            intake = Intake(table, existing, ttl, progress, source.n_rows)
            return await take_batches(source, intake, table)
        finally:
            close()

    async def put_arrow(
        self,
        data: pa.Table | pa.RecordBatch | Iterable[pa.RecordBatch] | AsyncIterable[pa.RecordBatch] | Any,
        *,
        existing: Existing = "replace",
        ttl: TTL | None = None,
        progress: Progress | None = None,
    ) -> int:
        """Store the rows of Arrow data; return how many.

        Args:
            data: A `pyarrow.Table`, record batch or reader; a data frame of pandas or polars, or anything else with
                ``__arrow_c_stream__``; or record batches, iterated over plainly or asynchronously.
            existing: As for `import_`, like the others.

        Raises:
            SchemaMismatchError, RowError, KeyExistsError, MissingExtraError: as for `import_`.
            ValidationError: ``data`` is none of these.
        """
        table = _table(self)
        table._context.check()
        source = arrow_data(data)
        return await take_batches(source, Intake(table, existing, ttl, progress, source.n_rows), table)


def _table(part: Interchange) -> Table[Any]:
    """Return the table that has these calls; no other class does."""
    return cast("Table[Any]", part)


def _absolute(path: Path) -> str:
    return os.path.abspath(os.fspath(path))
