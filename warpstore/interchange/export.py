"""A table into a file: pieces of it are made on the loop, and written in a thread while the next one is made."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from warpstore.errors import FileError
from warpstore.interchange.arrow_schema import exported_fields
from warpstore.interchange.export_file import ArrowFile, ExportFile, LinesFile, ParquetFile
from warpstore.interchange.formats import Format
from warpstore.interchange.jobs import Job, finished
from warpstore.interchange.json_lines import LineWriter

if TYPE_CHECKING:
    from warpstore.scan import Scan
    from warpstore.table import Table

Progress = Callable[[int, int | None], None]

LINES_BYTES = 1 << 20
WRITERS: dict[Format, Any] = {"parquet": ParquetFile, "arrow": ArrowFile, "jsonl": LinesFile}


async def export_table(
    table: Table[Any],
    path: str,
    *,
    form: Format,
    fields: Sequence[str] | None,
    bounds: dict[str, Any],
    overwrite: bool,
    progress: Progress | None,
) -> int:
    """Write a table, or a part of it; return how many rows. See `Interchange.export`."""
    context = table._context
    source: Any
    pieces: AsyncGenerator[tuple[int, Any], None]
    if form == "jsonl":
        names = exported_fields(table._codec.plan, fields)
        source = table.scan(**bounds, fields=fields)
        pieces = _lines(source, LineWriter(table._codec.plan, names))
    else:
        source = table.to_arrow_batches(fields, **bounds)
        pieces = _batches(source)
    total = None
    if progress is not None and all(bound is None for bound in bounds.values()):
        total = await table.count()
    file = ExportFile(context.files, path, overwrite=overwrite, random_u64=context.environment.random_u64)
    writer = WRITERS[form](file, lambda: source.schema)
    try:
        async with aclosing(pieces):
            n = await _write(context.run, pieces, writer, (progress, total))
        await finished(context.run, writer.close)
        await finished(context.run, file.commit)
    except BaseException as e:
        file.abandon()
        _end(writer)
        if isinstance(e, OSError):
            raise FileError(f"{path}: cannot be written: {e.strerror or e}", path=path) from e
        raise
    finally:
        await source.aclose()
    return n


async def _write(
    run: Callable[[Callable[[], None]], Any],
    pieces: AsyncIterator[tuple[int, Any]],
    writer: Any,
    told: tuple[Progress | None, int | None],
) -> int:
    progress, total = told
    job: Job[None] | None = None
    n = 0
    try:
        async for n_rows, piece in pieces:
            if job is not None:
                await job.result()
            job = Job(run, lambda piece=piece: writer.write(piece))  # type: ignore[misc]
            n += n_rows
            if progress is not None:
                progress(n, total)
        if job is not None:
            await job.result()
    finally:
        if job is not None:
            await job.ended()
    return n


def _end(writer: Any) -> None:
    """Let pyarrow end a file that is gone already, so that it does not try later."""
    if getattr(writer, "_writer", None) is not None:
        try:
            writer.close()
        except Exception:  # noqa: BLE001, S110 - what is wrong is known already
            pass


async def _batches(source: Any) -> AsyncGenerator[tuple[int, Any], None]:
    async for batch in source:
        yield batch.num_rows, batch


async def _lines(source: Scan[Any], writer: LineWriter) -> AsyncGenerator[tuple[int, bytes], None]:
    lines: list[bytes] = []
    size = 0
    async for record in source:
        line = writer.line(record)
        lines.append(line)
        size += len(line)
        if size >= LINES_BYTES:
            yield len(lines), b"".join(lines)
            lines, size = [], 0
    if lines:
        yield len(lines), b"".join(lines)
