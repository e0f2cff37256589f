"""Durable writes that do not block the loop, on real files, and what happens where the kernel refuses them."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.support.faulty_files import FaultyFiles
from wal._native import Aio
from wal.aio import AioWriter, ThreadWriter
from wal.files import DurableWriter, File, OsFile, OsFileSystem

W = TypeVar("W", bound=AioWriter | ThreadWriter)
Writer = type[AioWriter | ThreadWriter]
both_writers = pytest.mark.parametrize("writer_type", [AioWriter, ThreadWriter])


@pytest.fixture
def file(tmp_path: Path) -> Iterator[OsFile]:
    file = OsFileSystem().create(str(tmp_path / "file"))
    file.allocate(4 << 20)
    yield file
    file.close()


def opened(writer_type: type[W]) -> W:
    try:
        return writer_type(asyncio.get_running_loop())
    except OSError as e:
        pytest.skip(f"no asynchronous I/O here: {e}")


async def write(writer: DurableWriter, file: File, buffers: list[bytes], offset: int = 0) -> OSError | None:
    done: asyncio.Future[OSError | None] = asyncio.get_running_loop().create_future()
    writer.write(file, buffers, offset, done.set_result)
    assert not done.done()
    return await done


class Reaped:
    """An `Aio` whose writes end otherwise than they did."""

    def __init__(self, aio: Aio, result: int) -> None:
        self._aio = aio
        self._result = result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._aio, name)

    def reap(self) -> int | None:
        return None if self._aio.reap() is None else self._result


@both_writers
async def test_what_was_written_is_in_the_file_when_it_is_done(writer_type: Writer, file: OsFile) -> None:
    writer = opened(writer_type)
    for i in range(20):
        buffers = [bytes([65 + i]) * 300, b"-" * 212]
        assert await write(writer, file, buffers, i * 512) is None
        assert file.read(512, i * 512) == b"".join(buffers)
    writer.close()
    writer.close()


@both_writers
async def test_a_write_larger_than_the_staging_buffer_is_whole(writer_type: Writer, file: OsFile) -> None:
    writer = opened(writer_type)
    data = os.urandom((1 << 20) + 512)
    assert await write(writer, file, [data], 1024) is None
    assert file.read(len(data), 1024) == data
    assert await write(writer, file, [bytes(512)], 0) is None
    writer.close()


@both_writers
async def test_a_failed_write_says_why(writer_type: Writer, file: OsFile, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = opened(writer_type)
    closed = OsFileSystem().open_write(file.path)
    closed.close()
    error = await write(writer, closed, [bytes(512)])
    assert error is not None
    assert error.errno in {errno.EBADF, errno.ENOENT}
    writer.close()


@both_writers
async def test_a_write_to_a_full_device_says_so(writer_type: Writer, file: OsFile) -> None:
    writer = opened(writer_type)
    file._direct_fd = os.open("/dev/full", os.O_WRONLY)
    regular, file.fd = file.fd, os.open("/dev/full", os.O_WRONLY)
    error = await write(writer, file, [bytes(512)])
    os.close(file.fd)
    file.fd = regular
    assert error is not None
    assert error.errno == errno.ENOSPC
    writer.close()


async def test_a_failure_that_is_no_os_error_is_heard_as_well(file: OsFile) -> None:
    writer = opened(ThreadWriter)
    error = await write(writer, file, ["no bytes"])  # type: ignore[list-item]
    assert error is not None
    assert error.errno == errno.EIO
    assert "TypeError" in str(error)
    writer.close()


async def test_what_the_thread_has_written_is_durable() -> None:
    files = FaultyFiles()
    files.put("file", bytes(512))
    writer = opened(ThreadWriter)
    assert await write(writer, files.open_write("file"), [b"x" * 512]) is None
    assert all(files.crash(random.Random(seed)).contents("file") == b"x" * 512 for seed in range(8))
    writer.close()


async def test_an_unaligned_write_goes_through_the_thread(file: OsFile) -> None:
    writer = opened(AioWriter)
    assert await write(writer, file, [b"0123456789"], 7) is None
    assert file.read(10, 7) == b"0123456789"
    assert await write(writer, file, [bytes(512)], 512) is None
    writer.close()


async def test_a_file_system_that_refuses_direct_io_is_written_by_the_thread(
    file: OsFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: OsFile) -> int:
        raise OSError(errno.EINVAL, "no O_DIRECT")

    monkeypatch.setattr(OsFile, "direct_fd", refuse)
    writer = opened(AioWriter)
    for i in range(2):
        assert await write(writer, file, [b"%d" % i * 512], 512 * i) is None
    assert file.read(1024, 0) == b"0" * 512 + b"1" * 512
    writer.close()


async def test_a_file_that_is_no_file_of_the_system_is_written_by_the_thread() -> None:
    files = FaultyFiles()
    double = files.create("file")
    writer = opened(AioWriter)
    assert await write(writer, double, [b"x" * 512]) is None
    assert files.contents("file") == b"x" * 512
    writer.close()


@pytest.mark.parametrize(("result", "number"), [(-errno.ENOSPC, errno.ENOSPC), (-errno.EIO, errno.EIO)])
async def test_a_completion_that_is_not_the_whole_write_is_a_failure(
    file: OsFile, monkeypatch: pytest.MonkeyPatch, result: int, number: int
) -> None:
    writer = opened(AioWriter)
    writer._aio = Reaped(writer._aio, result)  # type: ignore[assignment]
    error = await write(writer, file, [bytes(512)])
    assert error is not None
    assert error.errno == number
    writer.close()


async def test_a_wake_up_without_a_completion_is_ignored() -> None:
    writer = opened(AioWriter)
    writer._completed()
    writer.close()


async def test_a_kernel_without_room_for_another_is_an_error_and_leaves_none_open() -> None:
    opened(AioWriter).close()
    before = os.listdir("/proc/self/fd")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            AioWriter(asyncio.get_running_loop())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(os.listdir("/proc/self/fd")) == len(before)


async def test_a_second_write_before_the_first_has_ended_is_refused(file: OsFile) -> None:
    aio = Aio()
    aio.submit(file.direct_fd(), [bytes(512)], 0)
    with pytest.raises(RuntimeError, match="under way"):
        aio.submit(file.direct_fd(), [bytes(512)], 512)
    aio.close()
    aio.close()
    assert aio.fileno() == -1
    assert aio.reap() is None
    with pytest.raises(RuntimeError, match="closed"):
        aio.submit(file.direct_fd(), [bytes(512)], 0)


def test_what_is_no_bytes_is_refused(file: OsFile) -> None:
    aio = Aio()
    for arguments in ((1, [bytearray(512)], 0), (1, (bytes(512),), 0), (1, [bytes(512)])):
        with pytest.raises(TypeError):
            aio.submit(*arguments)  # type: ignore[arg-type]
    aio.close()


async def test_a_loop_that_watches_no_descriptors_is_an_error_and_leaves_none_open() -> None:
    class Deaf:
        def add_reader(self, *_: Any) -> None:
            raise NotImplementedError

    opened(AioWriter).close()
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="watches no descriptors"):
        AioWriter(Deaf())  # type: ignore[arg-type]
    assert len(os.listdir("/proc/self/fd")) == len(before)
