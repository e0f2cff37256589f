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

import ctypes
import errno
import mmap
import os
import platform
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from wal.files import File, OsFile

if TYPE_CHECKING:
    import asyncio

    from typing_extensions import Buffer

SECTOR_BYTES = 512
STAGING_BYTES_MIN = 1 << 20

_SYSCALLS = {  # io_setup, io_destroy, io_getevents, io_submit
    "x86_64": (206, 207, 208, 209),
    "aarch64": (0, 1, 4, 2),
}
_IOCB_CMD_PWRITE = 1
_IOCB_FLAG_RESFD = 1
_RWF_DSYNC = 2
_REFUSED = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.EAGAIN, errno.ENOSYS})

Done = Callable[[OSError | None], None]


class _Iocb(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_int32),
        ("opcode", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("fd", ctypes.c_uint32),
        ("buffer", ctypes.c_uint64),
        ("n_bytes", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("event_fd", ctypes.c_uint32),
    )


class _Event(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_uint64),
        ("iocb", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("result2", ctypes.c_int64),
    )


class ThreadWriter:
    """A write and an fdatasync in a thread: one hop a group."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pool = ThreadPoolExecutor(1, "wal-write")

    def write(self, file: File, buffers: Sequence[Buffer], offset: int, done: Done) -> None:
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
        numbers = _SYSCALLS.get(platform.machine())
        if numbers is None or not hasattr(os, "eventfd"):
            raise OSError(errno.ENOSYS, "no asynchronous I/O on this machine")
        self._loop = loop
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._syscall = self._libc.syscall
        self._n_setup, self._n_destroy, self._n_getevents, self._n_submit = map(ctypes.c_long, numbers)
        self._context = ctypes.c_ulong(0)
        self._one = ctypes.c_long(1)
        self._check(self._syscall(self._n_setup, ctypes.c_long(4), ctypes.byref(self._context)))
        self._event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._iocb = _Iocb(
            opcode=_IOCB_CMD_PWRITE, rw_flags=_RWF_DSYNC, flags=_IOCB_FLAG_RESFD, event_fd=self._event_fd
        )
        self._iocbs = (ctypes.POINTER(_Iocb) * 1)(ctypes.pointer(self._iocb))
        self._events = (_Event * 1)()
        self._under_way: tuple[File, bytes, int, Done] | None = None
        self._fallback: ThreadWriter | None = None
        self._stage(STAGING_BYTES_MIN)
        try:
            loop.add_reader(self._event_fd, self._completed)
        except NotImplementedError as e:
            self._destroy()
            raise OSError(errno.ENOSYS, "the event loop watches no descriptors") from e

    def _check(self, result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result

    def _stage(self, n_bytes: int) -> None:
        self._staging = mmap.mmap(-1, n_bytes)
        self._view = memoryview(self._staging)
        self._iocb.buffer = ctypes.addressof(ctypes.c_char.from_buffer(self._staging))

    def write(self, file: File, buffers: Sequence[Buffer], offset: int, done: Done) -> None:
        data = b"".join(buffers)
        n_bytes = len(data)
        if self._fallback is not None or not isinstance(file, OsFile):
            self._write_in_thread(file, data, offset, done)
            return
        if n_bytes > len(self._view):
            self._stage(1 << (n_bytes - 1).bit_length())
        self._view[:n_bytes] = data
        iocb = self._iocb
        iocb.n_bytes = n_bytes
        iocb.offset = offset
        try:
            iocb.fd = file.direct_fd()
            self._check(self._syscall(self._n_submit, self._context, self._one, self._iocbs))
        except OSError as e:
            if e.errno in _REFUSED:
                self._write_in_thread(file, data, offset, done)
            else:
                self._loop.call_soon(done, e)
            return
        self._under_way = file, data, offset, done

    def _write_in_thread(self, file: File, data: bytes, offset: int, done: Done) -> None:
        if self._fallback is None:
            self._fallback = ThreadWriter(self._loop)
        self._fallback.write(file, [data], offset, done)

    def _completed(self) -> None:
        try:
            os.read(self._event_fd, 8)
        except BlockingIOError:
            return
        assert self._under_way is not None
        (file, data, offset, done), self._under_way = self._under_way, None
        result = self._result()
        if -result in _REFUSED:
            self._write_in_thread(file, data, offset, done)
        elif result < 0:
            done(OSError(-result, os.strerror(-result)))
        elif result != len(data):
            done(OSError(errno.EIO, f"{result} of {len(data)} bytes were written"))
        else:
            done(None)

    def _result(self) -> int:
        n = self._syscall(self._n_getevents, self._context, self._one, self._one, self._events, None)
        return int(self._events[0].result) if n == 1 else -(ctypes.get_errno() or errno.EIO)

    def close(self) -> None:
        if self._event_fd < 0:
            return
        self._loop.remove_reader(self._event_fd)
        self._destroy()
        if self._fallback is not None:
            self._fallback.close()

    def _destroy(self) -> None:
        self._syscall(self._n_destroy, self._context)
        os.close(self._event_fd)
        self._event_fd = -1
