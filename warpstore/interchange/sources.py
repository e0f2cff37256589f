"""Where rows to import come from: files, and Arrow data of other programs. Each gives its rows in pieces.

A file is read in a thread, a piece at a time, by plain reads: a memory map of a file that is cut short kills the
process.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from warpstore.errors import FileError, FileFormatError, ValidationError
from warpstore.interchange.formats import Format
from warpstore.interchange.jobs import finished
from warpstore.interchange.json_lines import LineSplitter
from warpstore.interchange.pyarrow_extra import load_pyarrow

if TYPE_CHECKING:
    from warpstore.context import StoreContext

BLOCK_BYTES = 1 << 20
PARQUET_ROWS = 16_384


class ArrowSource:
    """Record batches.

    Attributes:
        schema: Their schema.
        n_rows: How many rows they have, or None.
    """

    def __init__(self, schema: Any, n_rows: int | None, batches: AsyncIterator[Any]) -> None:
        self.schema = schema
        self.n_rows = n_rows
        self.batches = batches


async def arrow_file(context: StoreContext, path: str, form: Format) -> tuple[ArrowSource, Callable[[], None]]:
    """Return the batches of a Parquet or Arrow file, and the function that closes it.

    Raises:
        FileError: it cannot be read.
        FileFormatError: it is no such file.
    """
    pa = load_pyarrow()

    def opened() -> tuple[Any, Any, int | None, Iterator[Any]]:
        file = pa.OSFile(path, "rb")
        try:
            if form == "parquet":
                import pyarrow.parquet

                reader: Any = pyarrow.parquet.ParquetFile(file)
                found = reader.iter_batches(batch_size=PARQUET_ROWS)
                return file, reader.schema_arrow, reader.metadata.num_rows, found
            reader = pa.ipc.open_file(file)
            return file, reader.schema, None, map(reader.get_batch, range(reader.num_record_batches))
        except BaseException:
            file.close()
            raise

    file, schema, n_rows, found = await finished(context.run, lambda: _reading(path, form, opened))

    async def batches() -> AsyncIterator[Any]:
        while (
            batch := await finished(context.run, lambda: _reading(path, form, lambda: next(found, None)))
        ) is not None:
            yield batch

    return ArrowSource(schema, n_rows, batches()), file.close


def _reading(path: str, form: Format, read: Callable[[], Any]) -> Any:
    pa = load_pyarrow()
    try:
        return read()
    except (pa.ArrowException, OSError, EOFError) as e:
        if isinstance(e, OSError) and e.errno is not None:
            raise FileError(f"{path}: cannot be read: {os.strerror(e.errno)}", path=path) from e
        raise FileFormatError(f"{path}: is no {form} file, or is damaged: {e}", path=path) from e


async def lines_of(context: StoreContext, path: str) -> AsyncGenerator[list[bytes], None]:
    """Yield the lines of a file, some at a time.

    Raises:
        FileError: it cannot be read.
        FileFormatError: a line is too long.
    """
    splitter = LineSplitter()
    try:
        file = await finished(context.run, lambda: open(path, "rb", buffering=0))  # noqa: SIM115
        try:
            is_first = True
            while block := await finished(context.run, lambda: file.read(BLOCK_BYTES)):
                found = list(splitter.lines(block))
                if is_first and found:
                    found[0] = found[0].removeprefix(b"\xef\xbb\xbf")
                    is_first = False
                yield found
            yield [splitter.last().removeprefix(b"\xef\xbb\xbf") if is_first else splitter.last()]
        finally:
            file.close()
    except OSError as e:
        raise FileError(f"{path}: cannot be read: {e.strerror or e}", path=path) from e
    except ValueError as e:
        raise FileFormatError(f"{path}: {e}", path=path) from e


def arrow_data(data: Any) -> ArrowSource:
    """Return the batches of what another program calls a table.

    Args:
        data: A `pyarrow.Table`, ``RecordBatch`` or ``RecordBatchReader``; anything with ``__arrow_c_stream__``, such as
            a data frame of pandas or polars; or record batches, iterated over plainly or asynchronously.

    Raises:
        ValidationError: it is none of these.
    """
    pa = load_pyarrow()
    if isinstance(data, pa.RecordBatch):
        return ArrowSource(data.schema, data.num_rows, _each([data]))
    if isinstance(data, pa.Table):
        return ArrowSource(data.schema, data.num_rows, _each(data.to_batches()))
    if isinstance(data, pa.RecordBatchReader):
        return ArrowSource(data.schema, None, _each(data))
    if hasattr(data, "__arrow_c_stream__"):
        n_rows = len(data) if hasattr(data, "__len__") else None
        reader = pa.RecordBatchReader.from_stream(data)
        return ArrowSource(reader.schema, n_rows, _each(reader))
    if hasattr(data, "__aiter__"):
        return ArrowSource(None, None, aiter(data))
    if isinstance(data, Iterable) and not isinstance(data, str | bytes | dict):
        return ArrowSource(None, None, _each(data))
    raise ValidationError(f"expected an Arrow table, record batches or a data frame, got {type(data).__name__}")


async def _each(batches: Iterable[Any]) -> AsyncIterator[Any]:
    for batch in batches:
        yield batch
