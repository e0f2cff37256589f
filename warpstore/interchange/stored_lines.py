"""Stored records into a file of JSON Lines, without their record class: what `warpstore export` does without --models.

Fields that were added since a record was written are absent from its line; an import gives them their defaults.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from wal import FileSystem
from warpstore.interchange.export_file import ExportFile
from warpstore.interchange.json_lines import plain_line
from warpstore.stored_table import StoredRecord

LINES_BYTES = 1 << 20


def write_lines(
    records: Iterable[StoredRecord], files: FileSystem, path: str, *, overwrite: bool, advance: Callable[[int], None]
) -> int:
    """Write records to a file, which is there only when it is whole and durable; return how many. Blocks.

    Args:
        records: The records.
        files: The file system.
        path: Where; an absolute path.
        overwrite: Whether to replace a file of this name.
        advance: Told how many more records are written.

    Raises:
        TargetExistsError: something has the name.
        FileError: there is no such folder, or it cannot be written.
        OSError: the file could not be written.
    """
    file = ExportFile(files, path, overwrite=overwrite, random_u64=lambda: int.from_bytes(os.urandom(8), "little"))
    n = 0
    try:
        for n_lines, piece in _pieces(records):
            file.write(piece)
            n += n_lines
            advance(n_lines)
        file.commit()
    except BaseException:
        file.abandon()
        raise
    return n


def _pieces(records: Iterable[StoredRecord]) -> Iterable[tuple[int, bytes]]:
    lines: list[bytes] = []
    size = 0
    for record in records:
        lines.append(plain_line(record.fields))
        size += len(lines[-1])
        if size >= LINES_BYTES:
            yield len(lines), b"".join(lines)
            lines, size = [], 0
    if lines:
        yield len(lines), b"".join(lines)
