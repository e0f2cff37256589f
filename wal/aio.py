"""Durable writes that do not block the event loop.

`AioWriter` submits one write to Linux's asynchronous I/O with O_DIRECT and RWF_DSYNC; its completion rings an eventfd
that the loop watches. That saves the thread hop of a write and fdatasync, which costs more than a small write itself.
`ThreadWriter` is that hop, for systems where the kernel interface is missing; `AioWriter` falls back to it for a file
whose file system refuses O_DIRECT.

What a device refuses, such as sectors smaller than its own, the thread writes.

One write is under way at a time: the lane is the only caller, and a group commits when the one before it has.

Source: io_submit(2), and the io_uring and AIO comparison in ScyllaDB's Seastar (``reactor_backend.cc``).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from wal._native import Aio
from wal.files import File, OsFile

if TYPE_CHECKING:
    import asyncio

_REFUSED = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.EAGAIN, errno.ENOSYS})

Done = Callable[[OSError | None], None]


class ThreadWriter:
    """A write and an fdatasync in a thread: one hop a group."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pool = ThreadPoolExecutor(1, "wal-write")

    def write(self, file: File, buffers: list[bytes], offset: int, done: Done) -> None:
        def work() -> None:
            error: OSError | None = None
            try:
                file.write(buffers, offset)
                file.sync()
            except OSError as e:
                error = e
            except Exception as e:  # noqa: BLE001 - whatever it is, it must not go unheard
                error = OSError(errno.EIO, repr(e))
            self._loop.call_soon_threadsafe(done, error)

        self._pool.submit(work)

    def close(self) -> None:
        self._pool.shutdown(wait=True)


class AioWriter:
    """One O_DIRECT, RWF_DSYNC write at a time through Linux AIO.

    Raises:
        OSError: this kernel, machine or loop has no such interface (from the constructor).
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._aio = Aio()
        self._under_way: tuple[File, list[bytes], int, Done] | None = None
        self._fallback: ThreadWriter | None = None
        try:
            loop.add_reader(self._aio.fileno(), self._completed)
        except NotImplementedError as e:
            self._aio.close()
            raise OSError(errno.ENOSYS, "the event loop watches no descriptors") from e

    def write(self, file: File, buffers: list[bytes], offset: int, done: Done) -> None:
        if self._fallback is not None or not isinstance(file, OsFile):
            self._write_in_thread(file, buffers, offset, done)
            return
        try:
            self._aio.submit(file.direct_fd(), buffers, offset)
        except OSError as e:
            if e.errno in _REFUSED:
                self._write_in_thread(file, buffers, offset, done)
            else:
                self._loop.call_soon(done, e)
            return
        self._under_way = file, buffers, offset, done

    def _write_in_thread(self, file: File, buffers: list[bytes], offset: int, done: Done) -> None:
        if self._fallback is None:
            self._fallback = ThreadWriter(self._loop)
        self._fallback.write(file, buffers, offset, done)

    def _completed(self) -> None:
        result = self._aio.reap()
        if result is None:
            return
        assert self._under_way is not None
        (file, buffers, offset, done), self._under_way = self._under_way, None
        if result >= 0:
            done(None)
        elif -result in _REFUSED:
            self._write_in_thread(file, buffers, offset, done)
        else:
            done(OSError(-result, os.strerror(-result)))

    def close(self) -> None:
        if self._aio.fileno() < 0:
            return
        self._loop.remove_reader(self._aio.fileno())
        self._aio.close()
        if self._fallback is not None:
            self._fallback.close()
