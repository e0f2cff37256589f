"""A table as Arrow record batches, in key order, as of one moment.

Rows of the scan go into Arrow's buffers without becoming records: `_native.columns` extracts numbers, text, bytes,
UUIDs and vectors from the stored arrays; what is left of a field is gathered, decoded as one array and handed to
pyarrow. A row that an older schema wrote is put into today's form first. Where no `Disk` field is wanted, heads do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from warpstore._native import Rows, columns
from warpstore.errors import ValidationError, WarpstoreError
from warpstore.interchange.arrow_schema import ArrowColumn, arrow_columns, arrow_schema, exported_fields
from warpstore.interchange.pyarrow_extra import load_pyarrow
from warpstore.values import split_payload

if TYPE_CHECKING:
    import pyarrow as pa

    from warpstore.codec import Codec
    from warpstore.scan import Scan

BATCH_ROWS = 65_536
BATCH_BYTES_MAX = 64 << 20
CHUNK_BYTES = 4 << 20
CHUNK_ROWS_MIN, CHUNK_ROWS_MAX = 16, 4_096
CHUNK_ROWS_DECODED_MAX = 1_024


class ArrowBatches:
    """An asynchronous iterator over `pyarrow.RecordBatch`. Get one with `Table.to_arrow_batches`.

    It holds one state of the table until it ends, is closed by `aclose`, or is forgotten; in memory it has one batch.
    """

    def __init__(
        self,
        scan: Scan[Any],
        codec: Codec[Any],
        *,
        fields: Sequence[str] | None,
        batch_rows: int,
        decode: Callable[[bytes], Any],
    ) -> None:
        if type(batch_rows) is not int or batch_rows < 1:
            raise ValidationError(f"batch_rows={batch_rows!r}: must be a whole number, 1 or more", field="batch_rows")
        self._pa: Any = load_pyarrow()
        self._scan = scan
        self._codec = codec
        self._batch_rows = batch_rows
        self._decode_whole = decode
        self._encode = msgspec.msgpack.Encoder(uuid_format="bytes").encode
        self._columns = arrow_columns(codec.plan, exported_fields(codec.plan, fields))
        self._is_settled = False
        self._schema: Any = arrow_schema(codec.plan, self._columns)
        by_name = {column.field.name: column for column in self._columns}
        last = max(place for place, name in enumerate(codec.stored_names) if name in by_name)
        self._stored = [by_name.get(name) for name in codec.stored_names[: last + 1]]
        self._words = ["-" if column is None else column.kind.word for column in self._stored]
        self._decoders = {
            name: msgspec.msgpack.Decoder(list[column.field.stored_hint]).decode  # type: ignore[name-defined]
            for name, column in by_name.items()
        }
        self._chunk_rows = CHUNK_ROWS_MIN

    @property
    def schema(self) -> pa.Schema:
        """The schema of every batch. Whether a `datetime` field has a time zone is known after the first one."""
        schema: pa.Schema = self._schema
        return schema

    def __aiter__(self) -> ArrowBatches:
        return self

    async def __anext__(self) -> pa.RecordBatch:
        """Return the next batch: ``batch_rows`` rows, fewer at the end or where they are larger than 64 MiB.

        Raises:
            ValidationError: a value has no place in its column; its field and key are named.
        """
        chunks: list[list[Any]] = []
        n = size = 0
        while n < self._batch_rows and size < BATCH_BYTES_MAX:
            rows = await self._scan.next_rows(min(self._batch_rows - n, self._chunk_rows))
            if rows is None:
                break
            n_live, arrays, n_bytes = await self._arrays(rows)
            if n_live:
                chunks.append(arrays)
                n += n_live
                size += n_bytes
                most = CHUNK_ROWS_DECODED_MAX if "r" in self._words else CHUNK_ROWS_MAX
                self._chunk_rows = max(CHUNK_ROWS_MIN, min(most, CHUNK_BYTES * n_live // max(n_bytes, 1)))
        if not n:
            raise StopAsyncIteration
        batch: pa.RecordBatch
        if size <= CHUNK_BYTES:
            batch = self._joined(chunks)
        else:
            batch = await self._scan.context.run(lambda: self._joined(chunks))
        return batch

    async def aclose(self) -> None:
        """End the export, and let go of what it reads."""
        await self._scan.aclose()

    async def _arrays(self, rows: Rows | tuple[bytes, ...]) -> tuple[int, list[Any], int]:
        """Return how many of some rows are live, their arrays in the order of the columns, and the bytes of these."""
        now_ms = int(self._scan.context.clock.wall() * 1000)
        try:
            n, found = columns(rows, " ".join(self._words), self._codec.tag, now_ms, self._recoded)
        except LookupError as e:  # moments without a zone are not where those with one are: decode the column
            if isinstance(e, KeyError | IndexError):
                raise
            self._words[e.args[1]] = "r"
            return await self._arrays(rows)
        except OverflowError as e:
            raise self._refused(rows, e.args) from None
        except ValueError as e:
            raise WarpstoreError(f"{self._codec.plan.table}: a stored record cannot be read: {e}") from e
        arrays = {}
        size = 0
        extracted = [(c, w) for c, w in zip(self._stored, self._words, strict=True) if c is not None]
        for (column, word), (n_null, validity, offsets, data) in zip(extracted, found, strict=True):
            size += len(data) + (0 if offsets is None else len(offsets))
            if word == "r":
                arrays[column.field.name] = self._decoded(column, data)
            else:
                if word[0] == "t" and n_null < n:
                    column.kind.zones[0].aware = True
                arrays[column.field.name] = self._buffered(column, n, n_null, (validity, offsets, data))
        return n, [arrays[column.field.name] for column in self._columns], size

    def _buffered(self, column: ArrowColumn, n: int, n_null: int, parts: tuple[bytes | None, ...]) -> Any:
        """Return an array over extracted buffers, without a copy."""
        pa, of = self._pa, column.kind.storage
        validity, offsets, data = (part if part is None else pa.py_buffer(part) for part in parts)
        if pa.types.is_fixed_size_list(of):
            items = pa.Array.from_buffers(of.value_type, n * of.list_size, [None, data])
            return pa.Array.from_buffers(of, n, [validity], n_null, children=[items])
        buffers = [validity, data] if offsets is None else [validity, offsets, data]
        return pa.Array.from_buffers(of, n, buffers, n_null)

    def _decoded(self, column: ArrowColumn, data: bytes) -> Any:
        """Return an array of values that Python has to look at."""
        kind, where = column.kind, f"{self._codec.plan.record_type.__name__}.{column.field.name}"
        try:
            values: list[Any] = self._decoders[column.field.name](data)
            if kind.dump is not None:
                dump = kind.dump
                values = [dump(value) for value in values]
            return self._pa.array(values, kind.storage)
        except (ValueError, TypeError, OverflowError, self._pa.ArrowException) as e:
            raise ValidationError(
                f"{where}: a value has no place in its Arrow column: {e}", field=column.field.name
            ) from e

    def _joined(self, chunks: list[list[Any]]) -> Any:
        """Return a batch of chunks of arrays."""
        pa = self._pa
        if not self._is_settled:
            for column in self._columns:
                for zone in column.kind.zones:
                    zone.settle()
            self._schema = arrow_schema(self._codec.plan, self._columns)
            self._is_settled = True
        arrays = []
        for place, (column, field) in enumerate(zip(self._columns, self._schema, strict=True)):
            if any(zone.is_mixed for zone in column.kind.zones):
                where = f"{self._codec.plan.record_type.__name__}.{column.field.name}"
                raise ValidationError(
                    f"{where}: some moments have a time zone and some have none, which no Arrow column holds; "
                    "export without the field, or as JSON Lines",
                    field=column.field.name,
                )
            parts = [chunk[place] for chunk in chunks]
            array = parts[0] if len(parts) == 1 else pa.concat_arrays(parts)
            if isinstance(field.type, pa.BaseExtensionType):
                array = pa.ExtensionArray.from_storage(field.type, array)
            elif array.type != field.type:
                array = array.cast(field.type)
            arrays.append(array)
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _recoded(self, value: bytes) -> bytes:
        """Return the value of an older schema as one of today's, no field computed anew."""
        record = self._decode_whole(value)
        stored = [getattr(record, name) for name in self._codec.stored_names]
        return self._encode((self._codec.tag, *stored))

    def _refused(self, rows: Rows | tuple[bytes, ...], place: tuple[Any, ...]) -> ValidationError:
        _, number, row = place
        column = self._stored[number]
        assert column is not None
        key = split_payload(rows[row])[1]
        if self._codec.plan.key_kind == "uuid":
            key = UUID(bytes=key)
        name = column.field.name
        return ValidationError(
            f"{self._codec.plan.record_type.__name__}.{name}: the value of the record under "
            f"{key!r} is out of range of Arrow's {column.kind.storage}; "
            "export without the field, or as JSON Lines",
            field=name,
        )
