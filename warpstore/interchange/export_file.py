"""The file of an export: written beside its place, and put there when it is whole and durable.

An export that fails or is cancelled leaves nothing. What has the name already is not replaced unless that is asked for.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any, cast

from wal import FileSystem
from warpstore.errors import FileError, TargetExistsError
from warpstore.interchange.pyarrow_extra import load_pyarrow

SUFFIX = ".partial"


class ExportFile(io.RawIOBase):
    """A file in the making, which pyarrow takes as one to write to.

    Args:
        files: The file system.
        path: Where it shall be.
        overwrite: Whether it may replace a file.
        random_u64: For the name that it has meanwhile.

    Raises:
        TargetExistsError: something has the name.
        FileError: there is no such folder, or it cannot be written.
    """

    def __init__(self, files: FileSystem, path: str, *, overwrite: bool, random_u64: Callable[[], int]) -> None:
        super().__init__()
        self._files = files
        self._path = path
        self._overwrite = overwrite
        self._size = 0
        self._abandoned = False
        self._check_target()
        self._beside = f"{path}.{random_u64():016x}{SUFFIX}"
        try:
            self._file = files.create(self._beside)
        except OSError as e:
            raise FileError(f"{path}: cannot be written: {e.strerror or e}", path=path) from e

    def _check_target(self) -> None:
        if self._files.is_directory(self._path):
            raise TargetExistsError(f"{self._path}: is a folder", path=self._path)
        if not self._overwrite and os.path.lexists(self._path):
            raise TargetExistsError(f"{self._path}: exists; overwrite=True replaces it", path=self._path)

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, data: Any) -> int:
        if self._abandoned:  # a writer of pyarrow ends its file whatever happened
            return memoryview(data).nbytes
        n = self._file.write([data], self._size)
        self._size += n
        return n

    def commit(self) -> None:
        """Give the file its name; then it is durable. Blocks.

        Raises:
            TargetExistsError: something got the name meanwhile.
            OSError: it cannot be made durable.
        """
        self._file.sync()
        self._file.close()
        self._check_target()
        self._files.rename(self._beside, self._path)
        self._files.sync_directory(os.path.dirname(self._path))

    def abandon(self) -> None:
        """Remove the file, as far as it got."""
        self._abandoned = True
        self._file.close()
        with suppress(OSError):
            self._files.remove(self._beside)


class LinesFile:
    """Writes pieces of bytes."""

    def __init__(self, file: ExportFile, schema: Any) -> None:  # noqa: ARG002 - as for the others
        self._file = file

    def write(self, piece: bytes) -> None:
        """Write a piece; blocks."""
        self._file.write(piece)

    def close(self) -> None:
        """End the file; blocks."""


class ArrowFile:
    """Writes batches as an Arrow IPC file. Its schema is that of the first batch."""

    def __init__(self, file: ExportFile, schema: Callable[[], Any]) -> None:
        self._pa = load_pyarrow()
        self._file = file
        self._schema = schema
        self._writer: Any = None

    def _opened(self) -> Any:
        return self._pa.ipc.new_file(self._file, self._schema())

    def write(self, batch: Any) -> None:
        """Write a batch; blocks."""
        if self._writer is None:
            self._writer = self._opened()
        self._writer.write_batch(batch)

    def close(self) -> None:
        """End the file; blocks."""
        if self._writer is None:
            self._writer = self._opened()
        self._writer.close()


class ParquetFile(ArrowFile):
    """Writes batches as a Parquet file, compressed by zstd."""

    def _opened(self) -> Any:
        import pyarrow.parquet

        return pyarrow.parquet.ParquetWriter(cast("IO[bytes]", self._file), self._schema(), compression="zstd")
