"""Rows into a table: made to records a slice at a time, stored in batches, with the row at fault named.

What is held at a time is one piece of the source and one batch of records. Nothing is stored of a batch in which a row
is wrong; the batches before it are, and stay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from warpstore.errors import KeyExistsError, LimitError, RowError, SchemaMismatchError, ValidationError
from warpstore.interchange.arrow_kinds import ArrowKind
from warpstore.interchange.arrow_schema import fitted
from warpstore.interchange.arrow_takes import as_python
from warpstore.interchange.json_lines import LineReader
from warpstore.interchange.pyarrow_extra import load_pyarrow
from warpstore.interchange.sources import ArrowSource
from warpstore.plan import FieldPlan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from warpstore.table import TTL, Table

Existing = Literal["replace", "keep", "refuse"]
Progress = Callable[[int, int | None], None]

SLICE_ROWS = 1_024
SLICE_BYTES = 8 << 20
BATCH_ROWS = 8_192
BATCH_BYTES = 16 << 20


class Intake:
    """Stores records in batches.

    Args:
        table: Where.
        existing: What becomes of records whose keys are taken.
        ttl: The records' time to live.
        progress: Told the rows so far, and how many there are.
        n_rows: How many there are, or None.
    """

    def __init__(
        self,
        table: Table[Any],
        existing: Existing,
        ttl: TTL | None,
        progress: Progress | None,
        n_rows: int | None = None,
    ) -> None:
        if existing not in ("replace", "keep", "refuse"):
            raise ValidationError(f"existing={existing!r}: use replace, keep or refuse", field="existing")
        table._deadline(ttl)
        self.n_stored = 0
        self._table = table
        self._existing = existing
        self._ttl = ttl
        self._progress = progress
        self._n_rows = n_rows
        self._n_read = 0
        self._records: list[Any] = []
        self._rows: list[int] = []
        self._n_bytes = 0

    def record(self, fields: dict[str, Any], row: int) -> Any:
        """Return the record of some fields.

        Raises:
            RowError: the record type refuses them.
        """
        try:
            return self._table.record_type(**fields)
        except (TypeError, ValueError) as e:
            raise RowError(f"row {row}: {self._table.record_type.__name__}: {e}", row=row) from e

    async def add(self, records: Sequence[Any], rows: Sequence[int], n_bytes: int) -> None:
        """Take in some records with the numbers of their rows, and about how large they are."""
        self._records += records
        self._rows += rows
        self._n_bytes += n_bytes
        if len(self._records) >= BATCH_ROWS or self._n_bytes >= BATCH_BYTES:
            await self.flush()
        else:
            await self._table._context.pause()

    async def flush(self) -> None:
        """Store what was taken in.

        Raises:
            RowError: a record is wrong; none of these was stored.
            KeyExistsError: a key is taken, and that is refused.
        """
        records, rows = self._records, self._rows
        self._records, self._rows, self._n_bytes = [], [], 0
        if records:
            await self._store(records, rows)
        self._n_read += len(records)
        if self._progress is not None and records:
            self._progress(self._n_read, self._n_rows)

    async def _store(self, records: list[Any], rows: list[int]) -> None:
        try:
            if self._existing == "replace":
                self.n_stored += await self._table.put_many(records, ttl=self._ttl)
            else:
                await self._insert(records, rows)
        except ValidationError as e:
            self._find(records, rows)
            if not isinstance(e, LimitError) or len(records) == 1:
                raise
            half = len(records) // 2  # each is right, together they are too large for a frame of the log
            await self._store(records[:half], rows[:half])
            await self._store(records[half:], rows[half:])

    async def _insert(self, records: list[Any], rows: list[int]) -> None:
        self._find(records, rows)
        for start in range(0, len(records), SLICE_ROWS):
            some = records[start : start + SLICE_ROWS]
            outcomes = await asyncio.gather(
                *(self._table.insert(record, ttl=self._ttl) for record in some), return_exceptions=True
            )
            self.n_stored += sum(outcome is None for outcome in outcomes)
            for outcome in outcomes:
                taken = isinstance(outcome, KeyExistsError)
                if outcome is not None and not (taken and self._existing == "keep"):
                    raise outcome

    def _find(self, records: list[Any], rows: list[int]) -> None:
        """Raise the `RowError` of the first record that is wrong, if one is."""
        for record, row in zip(records, rows, strict=True):
            try:
                self._table._encode(record)
                self._table._ephemeral.encode(record)
            except ValidationError as e:
                raise RowError(f"row {row}: {e}", row=row, field=e.field) from e


async def take_batches(source: ArrowSource, intake: Intake, table: Table[Any]) -> int:
    """Store the rows of record batches; return how many were stored.

    Raises:
        SchemaMismatchError: the schema does not fit; nothing was stored.
        RowError: a row is wrong.
    """
    pa = load_pyarrow()
    plan = table._codec.plan
    columns = None if source.schema is None else fitted(plan, source.schema)
    schema = source.schema
    row = 1
    async for batch in source.batches:
        if not isinstance(batch, pa.RecordBatch):
            raise ValidationError(f"expected a pyarrow.RecordBatch, got {type(batch).__name__}")
        if columns is None:
            schema, columns = batch.schema, fitted(plan, batch.schema)
        elif batch.schema != schema:
            raise SchemaMismatchError(f"{plan.record_type.__name__}: the batch at row {row} has another schema")
        step = max(1, min(SLICE_ROWS, SLICE_BYTES * batch.num_rows // max(batch.nbytes, 1)))
        for start in range(0, batch.num_rows, step):
            part = batch.slice(start, step)
            rows = range(row + start, row + start + part.num_rows)
            found = [_values(part.column(place), field, kind, rows) for place, field, kind in columns]
            names = [field.name for _, field, _ in columns]
            records = [
                intake.record(dict(zip(names, values, strict=True)), number)
                for number, *values in zip(rows, *found, strict=True)
            ]
            await intake.add(records, rows, batch.nbytes * part.num_rows // batch.num_rows)
        row += batch.num_rows
    await intake.flush()
    return intake.n_stored


def _values(column: Any, field: FieldPlan, kind: ArrowKind, rows: range) -> list[Any]:
    """Return the values of a column as the record has them.

    Raises:
        RowError: one has no such value.
    """
    try:
        values = as_python(column)
        return values if kind.load is None else list(map(kind.load, values))
    except Exception as e:  # whatever a class of the user's, or pyarrow, raises
        if len(rows) == 1:
            raise RowError(f"row {rows[0]}: {field.name}: {e}", row=rows[0], field=field.name) from e
        for place, row in enumerate(rows):
            _values(column.slice(place, 1), field, kind, range(row, row + 1))
        raise


async def take_lines(lines: AsyncIterator[list[bytes]], intake: Intake, table: Table[Any]) -> int:
    """Store the records of JSON Lines; return how many were stored.

    Raises:
        RowError: a line is wrong.
    """
    reader = LineReader(table._codec.plan)
    row = 0
    async for some in lines:
        for start in range(0, len(some), SLICE_ROWS):
            records: list[Any] = []
            rows: list[int] = []
            part = some[start : start + SLICE_ROWS]
            for line in part:
                row += 1
                if line and not line.isspace():
                    records.append(intake.record(reader.fields(line, row), row))
                    rows.append(row)
            await intake.add(records, rows, sum(map(len, part)))
    await intake.flush()
    return intake.n_stored
