"""The file system, as the log and the checkpoints see it.

Every system call of warpstore goes through `FileSystem` and the `File` objects that it opens, so that a test can lose,
reorder, tear, delay or refuse any of them. `OsFileSystem` is the real one. Short reads and writes and EINTR are handled
here, once; every other failure leaves as the `OSError` that it is.

`durable_writer` gives the quickest way of making one write durable: see `wal.aio`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from wal._native import punch_hole

if TYPE_CHECKING:
    import asyncio

    from typing_extensions import Buffer

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700
ZERO_CHUNK_BYTES = 1 << 20
IOV_MAX = 1024
_NO_COPY_IN_KERNEL = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})


class File(Protocol):
    """One open file. Offsets and sizes are bytes; every method may raise `OSError`."""

    path: str

    def read(self, n_bytes: int, offset: int) -> bytes:
        """Return ``n_bytes`` from ``offset``, fewer only at the end of the file."""

    def read_cached(self, n_bytes: int, offset: int) -> bytes | None:
        """Return the bytes if reading them cannot block, else None."""

    def will_need(self, n_bytes: int, offset: int) -> None:
        """Say that these bytes will be read soon, so that the disk may be asked for many at once. A hint: no error."""

    def write(self, buffers: Sequence[Buffer], offset: int) -> int:
        """Write all buffers one after another from ``offset``; return the bytes written. Not durable."""

    def copy_from(self, source: File, n_bytes: int, offset: int) -> int:
        """Write bytes of another file at the same offset here, in the kernel where it can; return how many.

        Fewer than ``n_bytes`` only at the source's end. Not durable.
        """

    def sync(self) -> None:
        """Make data, and the size, durable (fdatasync)."""

    def zero_fill(self, start: int, stop: int) -> None:
        """Write zeros from ``start`` to ``stop``, so that the blocks are allocated and written."""

    def allocate(self, n_bytes: int) -> None:
        """Reserve blocks up to ``n_bytes``; the file grows to that size."""

    def give_back(self, start: int) -> None:
        """Free the blocks from ``start`` on, which reads as zeros then; the size stays. Not durable.

        Where the file system cannot do that, nothing happens.
        """

    def size(self) -> int:
        """Return the size."""

    def close(self) -> None:
        """Close the file; closing twice is harmless."""


class DurableWriter(Protocol):
    """Makes one write at a time durable without blocking the loop."""

    def write(self, file: File, buffers: list[bytes], offset: int, done: Callable[[OSError | None], None]) -> None:
        """Start writing at a sector; call ``done`` on the loop when it is durable, or failed."""

    def close(self) -> None:
        """Release it. No write may be under way."""


class Lock(Protocol):
    """A lock that its process holds until it closes it or dies."""

    def close(self) -> None:
        """Let the lock go (in the owner), or only this copy of it (in a forked child)."""


class FileSystem(Protocol):
    """The calls that create, name and remove files. Every method may raise `OSError`."""

    def open(self, path: str) -> File:
        """Open an existing regular file for reading."""

    def open_write(self, path: str) -> File:
        """Open an existing regular file for reading and writing."""

    def create(self, path: str) -> File:
        """Create a file for reading and writing, mode 0600; an existing one is `FileExistsError`."""

    def make_directory(self, path: str) -> None:
        """Create a directory, mode 0700, with its parents; an existing one stays as it is."""

    def list_directory(self, path: str) -> list[str]:
        """Return the names in a directory, sorted."""

    def exists(self, path: str) -> bool:
        """Return whether something has this path."""

    def is_directory(self, path: str) -> bool:
        """Return whether the path is a directory."""

    def rename(self, source: str, target: str) -> None:
        """Rename atomically, replacing the target."""

    def remove(self, path: str) -> None:
        """Remove a file; an absent one is no error."""

    def sync_directory(self, path: str) -> None:
        """Make creations, renames and removals in a directory durable."""

    def lock(self, path: str, owner: bytes) -> Lock:
        """Take the lock file, writing ``owner`` into it; held by another process: `BlockingIOError`."""

    def lock_shared(self, path: str) -> Lock:
        """Share an existing lock file with other readers, writing nothing; held by its owner: `BlockingIOError`."""

    def durable_writer(self, loop: asyncio.AbstractEventLoop) -> DurableWriter:
        """Return the quickest durable writer that works here."""


class OsFile:
    """A `File` on a descriptor of the operating system."""

    __slots__ = ("_direct_fd", "fd", "path")

    def __init__(self, path: str, flags: int) -> None:
        self.path = path
        self._direct_fd = -1
        # Without O_NONBLOCK, opening a pipe would wait for its other end; for a regular file it means nothing.
        self.fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, FILE_MODE)
        if not stat.S_ISREG(os.fstat(self.fd).st_mode):
            self.close()
            raise OSError(errno.EINVAL, "not a regular file", path)

    def read(self, n_bytes: int, offset: int) -> bytes:
        data = os.pread(self.fd, n_bytes, offset)
        if len(data) == n_bytes or not data:
            return data
        parts = [data]
        got = len(data)
        while got < n_bytes:
            data = os.pread(self.fd, n_bytes - got, offset + got)
            if not data:
                break
            parts.append(data)
            got += len(data)
        return b"".join(parts)

    def read_cached(self, n_bytes: int, offset: int) -> bytes | None:
        buffer = bytearray(n_bytes)
        try:
            got = os.preadv(self.fd, [buffer], offset, os.RWF_NOWAIT)
        except OSError:
            return None  # not cached, or the file system has no such flag: the caller hops to a thread
        return bytes(buffer) if got == n_bytes else None

    def will_need(self, n_bytes: int, offset: int) -> None:
        with suppress(OSError):
            os.posix_fadvise(self.fd, offset, n_bytes, os.POSIX_FADV_WILLNEED)

    def write(self, buffers: Sequence[Buffer], offset: int) -> int:
        parts = [part for part in (memoryview(b).cast("B") for b in buffers) if part]
        wanted = sum(map(len, parts))
        written = 0
        while written < wanted:
            n = os.pwritev(self.fd, parts[:IOV_MAX], offset + written)
            written += n
            while n:
                if n >= len(parts[0]):
                    n -= len(parts.pop(0))
                else:
                    parts[0] = parts[0][n:]
                    n = 0
        return written

    def copy_from(self, source: File, n_bytes: int, offset: int) -> int:
        done = 0
        if isinstance(source, OsFile):
            try:
                while done < n_bytes:
                    n = os.copy_file_range(source.fd, self.fd, n_bytes - done, offset + done, offset + done)
                    if not n:
                        return done
                    done += n
            except OSError as e:
                if e.errno not in _NO_COPY_IN_KERNEL:
                    raise
        while done < n_bytes:
            data = source.read(min(n_bytes - done, ZERO_CHUNK_BYTES), offset + done)
            if not data:
                break
            done += self.write([data], offset + done)
        return done

    def sync(self) -> None:
        os.fdatasync(self.fd)

    def zero_fill(self, start: int, stop: int) -> None:
        zeros = bytes(ZERO_CHUNK_BYTES)
        while start < stop:
            start += self.write([memoryview(zeros)[: stop - start]], start)

    def allocate(self, n_bytes: int) -> None:
        os.posix_fallocate(self.fd, 0, n_bytes)

    def give_back(self, start: int) -> None:
        size = self.size()
        if start < size:
            try:
                punch_hole(self.fd, start, size)
            except OSError as e:
                if e.errno not in {errno.EOPNOTSUPP, errno.ENOSYS}:
                    raise

    def size(self) -> int:
        return os.fstat(self.fd).st_size

    def direct_fd(self) -> int:
        """Return a descriptor of the same file that bypasses the page cache (O_DIRECT)."""
        if self._direct_fd < 0:
            flags = os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC
            self._direct_fd = os.open(f"/proc/self/fd/{self.fd}", flags)
        return self._direct_fd

    def close(self) -> None:
        for fd in (self.fd, self._direct_fd):
            if fd >= 0:
                os.close(fd)
        self.fd = self._direct_fd = -1


class OsLock:
    """A lock file under ``flock``, which a close of another descriptor cannot lose, as it would lose ``lockf``.

    Without an owner to write into it, the lock is shared, and the file only read.
    """

    __slots__ = ("_fd",)

    def __init__(self, path: str, owner: bytes | None) -> None:
        access = os.O_RDONLY if owner is None else os.O_RDWR | os.O_CREAT
        self._fd = os.open(path, access | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
        try:
            fcntl.flock(self._fd, (fcntl.LOCK_SH if owner is None else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            if owner is not None:
                os.ftruncate(self._fd, 0)
                os.pwrite(self._fd, owner, 0)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class OsFileSystem:
    """The file system of the operating system."""

    def open(self, path: str) -> OsFile:
        return OsFile(path, os.O_RDONLY)

    def open_write(self, path: str) -> OsFile:
        return OsFile(path, os.O_RDWR)

    def create(self, path: str) -> OsFile:
        return OsFile(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)

    def make_directory(self, path: str) -> None:
        os.makedirs(path, DIRECTORY_MODE, exist_ok=True)

    def list_directory(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

    def is_directory(self, path: str) -> bool:
        return os.path.isdir(path)

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    def remove(self, path: str) -> None:
        try:
            os.unlink(path)
        except FileNotFoundError:
            return

    def sync_directory(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def lock(self, path: str, owner: bytes) -> OsLock:
        return OsLock(path, owner)

    def lock_shared(self, path: str) -> OsLock:
        return OsLock(path, None)

    def durable_writer(self, loop: asyncio.AbstractEventLoop) -> DurableWriter:
        from wal.aio import AioWriter, ThreadWriter

        try:
            return AioWriter(loop)
        except OSError:
            return ThreadWriter(loop)
