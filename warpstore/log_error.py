"""The boundary to the log's errors, for whoever reads a log back."""

from __future__ import annotations

from wal.format import NewerFormatError
from warpstore.errors import CorruptionError, FormatVersionError, OpenError


def log_error(error: Exception, directory: str) -> OpenError:
    """Return the error of warpstore for one of the log.

    Args:
        error: A `WalError`, or what a payload raised that is none.
        directory: The lane's folder, named where the error names no file.
    """
    path = getattr(error, "path", directory)
    if isinstance(error.__cause__, NewerFormatError):
        return FormatVersionError(str(error), path=path)
    text = str(error) if path in str(error) else f"{path}: {error}"
    return CorruptionError(text, path=path, offset=getattr(error, "offset", 0))
