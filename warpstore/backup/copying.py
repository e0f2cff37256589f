"""Copies files in bounded slices, each made durable soon, and reads the copies back for their checksums.

So no more than two slices of dirty pages wait behind the store's own syncs, and between slices the disk gets a rest.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from time import monotonic, sleep

from google_crc32c import extend

from wal import File, FileSystem
from warpstore.errors import BackupDamagedError, BackupError, BackupFullError

SLICE_BYTES = 8 << 20
READ_BYTES = 1 << 20
REST_SHARE = 0.2
"""The time between two slices, as a share of the time that a slice took."""

Said = Callable[[int], object]
"""Called with the bytes of each slice that was copied."""


def no_progress(copied: int, total: int) -> None:
    """Be told of progress, and do nothing."""


def copy_slices(files: FileSystem, source: str, target: str, n_bytes: int, said: Said, *, rest: float) -> None:
    """Write the first ``n_bytes`` of a file to a new file, durably; what has that name is replaced. Blocks.

    Raises:
        BackupDamagedError: the source is shorter.
        OSError: reading or writing failed; the target was removed, if that was possible.
    """
    files.remove(target)
    reader = files.open(source)
    try:
        writer = files.create(target)
        try:
            # Blocks that are reserved do not tie their data to the file system's journal, which the store's log waits
            # for; and a full disk is known before anything is copied.
            writer.allocate(n_bytes)
            _copy(reader, writer, n_bytes, said, rest)
        except BaseException:
            with suppress(OSError):
                files.remove(target)
            raise
        finally:
            writer.close()
    finally:
        reader.close()


def _copy(reader: File, writer: File, n_bytes: int, said: Said, rest: float) -> None:
    """Copy slice by slice; a slice is synced in a thread while the next is copied, and no more than two are dirty."""
    done = 0
    with ThreadPoolExecutor(1) as syncing:
        before: Future[None] | None = None
        while done < n_bytes:
            began = monotonic()
            n = writer.copy_from(reader, min(SLICE_BYTES, n_bytes - done), done)
            if not n:
                message = f"{reader.path}: has {done} bytes, and should have {n_bytes}"
                raise BackupDamagedError(message, path=reader.path)
            if before is not None:
                before.result()
            before = syncing.submit(writer.sync)
            done += n
            said(n)
            if rest and done < n_bytes:
                sleep(rest * (monotonic() - began))
        if before is not None:
            before.result()


def crc_of(files: FileSystem, path: str, n_bytes: int) -> int:
    """Return the CRC32C of a file's first ``n_bytes``; blocks.

    Raises:
        OSError: reading failed.
    """
    file = files.open(path)
    crc = 0
    try:
        for start in range(0, n_bytes, READ_BYTES):
            crc = extend(crc, file.read(min(READ_BYTES, n_bytes - start), start))
    finally:
        file.close()
    return int(crc)


def failure(error: OSError, path: str) -> BackupError:
    """Return the error of a backup or restore for what the file system raised."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return BackupFullError(f"{path}: there is no space for the copy: {error}", path=path)
    return BackupError(f"{path}: {error}", path=path)
