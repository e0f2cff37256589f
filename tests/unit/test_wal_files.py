"""The real file system: rights, names, short and interrupted calls, locks."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from wal.aio import AioWriter, ThreadWriter
from wal.files import IOV_MAX, ZERO_CHUNK_BYTES, OsFile, OsFileSystem

FILES = OsFileSystem()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "file")


@pytest.fixture
def file(path: str) -> Any:
    file = FILES.create(path)
    yield file
    file.close()


def test_what_is_written_is_read_back(file: OsFile) -> None:
    assert file.write([b"one", bytearray(b"two"), memoryview(b"three")], 5) == 11
    assert file.read(100, 0) == b"\0\0\0\0\0onetwothree"
    assert file.read(3, 8) == b"two"
    assert file.read(3, 100) == b""
    assert file.size() == 16
    file.sync()


def test_files_and_folders_are_their_owners_alone(tmp_path: Path) -> None:
    folder = str(tmp_path / "a" / "b")
    FILES.make_directory(folder)
    FILES.make_directory(folder)
    FILES.create(f"{folder}/file").close()
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(f"{folder}/file").st_mode) == 0o600
    assert FILES.is_directory(folder)
    assert not FILES.is_directory(f"{folder}/file")


def test_an_existing_file_is_never_created_again(path: str, file: OsFile) -> None:
    with pytest.raises(FileExistsError):
        FILES.create(path)


def test_an_absent_file_is_not_opened(path: str) -> None:
    with pytest.raises(FileNotFoundError):
        FILES.open(path)
    with pytest.raises(FileNotFoundError):
        FILES.open_write(path)


@pytest.mark.parametrize("make", [os.mkfifo, lambda p: os.symlink(__file__, p), os.mkdir], ids=["pipe", "link", "dir"])
def test_only_regular_files_are_opened(path: str, make: Callable[[str], None]) -> None:
    make(path)
    with pytest.raises(OSError, match="file"):
        FILES.open(path)
    with pytest.raises(OSError):
        FILES.open_write(path)


def test_a_file_opened_for_reading_refuses_writes(path: str, file: OsFile) -> None:
    reader = FILES.open(path)
    with pytest.raises(OSError, match="Bad file descriptor"):
        reader.write([b"x"], 0)
    reader.close()


def test_closing_twice_is_harmless_and_closes_both_descriptors(path: str) -> None:
    file = FILES.create(path)
    fds = [file.fd, file.direct_fd()]
    assert file.direct_fd() == fds[1]
    file.close()
    file.close()
    for fd in fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_short_reads_are_continued(file: OsFile, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write([b"0123456789"], 0)
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, n, offset: pread(fd, min(n, 3), offset))
    assert file.read(10, 0) == b"0123456789"
    assert file.read(20, 5) == b"56789"


def test_short_writes_are_continued(file: OsFile, monkeypatch: pytest.MonkeyPatch) -> None:
    pwritev = os.pwritev

    def short(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        return pwritev(fd, [b"".join(buffers)[:5]], offset)

    monkeypatch.setattr(os, "pwritev", short)
    assert file.write([b"abc", b"", b"defgh", b"i", b"jkl"], 2) == 12
    assert file.read(100, 2) == b"abcdefghijkl"


def test_more_buffers_than_one_call_takes_are_written(file: OsFile) -> None:
    buffers = [b""] * IOV_MAX + [b"%d," % i for i in range(2 * IOV_MAX + 1)]
    file.write(buffers, 0)
    assert file.read(1 << 20, 0) == b"".join(buffers)


def test_errors_of_reads_and_writes_leave_as_they_are(file: OsFile, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> int:
        raise OSError(errno.EIO, "broken")

    for call in ("pread", "pwritev", "fdatasync"):
        monkeypatch.setattr(os, call, fail)
    for attempt in (lambda: file.read(1, 0), lambda: file.write([b"x"], 0), file.sync):
        with pytest.raises(OSError, match="broken"):
            attempt()


def test_a_cached_read_gives_all_or_nothing(file: OsFile, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write([b"0123456789"], 0)
    assert file.read_cached(4, 3) in {b"3456", None}  # None where the file system cannot tell
    assert file.read_cached(40, 3) is None
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset, flags: 4)
    assert file.read_cached(4, 3) == bytes(4)

    def blocks(*_: Any) -> int:
        raise BlockingIOError

    monkeypatch.setattr(os, "preadv", blocks)
    assert file.read_cached(4, 3) is None


def test_zeros_are_written_over_what_was_there(file: OsFile) -> None:
    file.write([b"x" * (2 * ZERO_CHUNK_BYTES)], 0)
    file.zero_fill(1, ZERO_CHUNK_BYTES + 7)
    assert file.read(2 * ZERO_CHUNK_BYTES, 0).strip(b"\0").startswith(b"x\0")
    assert file.read(2 * ZERO_CHUNK_BYTES, 0).count(b"x") == ZERO_CHUNK_BYTES - 6


def test_allocated_space_is_part_of_the_size(file: OsFile) -> None:
    file.allocate(12_345)
    assert file.size() == 12_345


def test_blocks_that_are_given_back_read_as_zeros_and_what_is_before_them_stays(file: OsFile) -> None:
    file.write([b"x" * (1 << 20)], 0)
    file.sync()
    file.give_back(8192)
    assert file.size() == 1 << 20
    assert file.read(1 << 20, 0) == b"x" * 8192 + bytes((1 << 20) - 8192)
    assert os.fstat(file.fd).st_blocks * 512 < 1 << 20
    file.give_back(1 << 20)  # nothing is there
    assert file.size() == 1 << 20


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_without_holes_keeps_the_blocks(file: OsFile, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("wal.files.punch_hole", refuse)
    file.write([b"xyz"], 0)
    if code == errno.EOPNOTSUPP:
        file.give_back(0)
    else:
        with pytest.raises(OSError, match="Input/output"):
            file.give_back(0)
    assert file.read(3, 0) == b"xyz"


def test_names_are_listed_in_order_and_removed_and_replaced(tmp_path: Path) -> None:
    folder = str(tmp_path)
    for name in ("b", "a", "c"):
        FILES.create(f"{folder}/{name}").close()
    assert FILES.list_directory(folder) == ["a", "b", "c"]
    FILES.rename(f"{folder}/a", f"{folder}/b")
    FILES.remove(f"{folder}/c")
    FILES.remove(f"{folder}/c")
    FILES.sync_directory(folder)
    assert FILES.list_directory(folder) == ["b"]
    assert FILES.exists(f"{folder}/b")
    os.symlink("nowhere", f"{folder}/dangling")
    assert FILES.exists(f"{folder}/dangling")
    assert not FILES.exists(f"{folder}/a")


def test_the_directory_of_nothing_cannot_be_synced(path: str) -> None:
    with pytest.raises(FileNotFoundError):
        FILES.sync_directory(path)


def test_directories_and_files_are_synced_by_the_system(
    path: str, file: OsFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append(os.fstat(fd).st_ino))
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
    file.sync()
    FILES.sync_directory(os.path.dirname(path))
    assert synced == [os.stat(path).st_ino, os.stat(os.path.dirname(path)).st_ino]


def test_a_lock_is_refused_while_somebody_holds_it(path: str) -> None:
    lock = FILES.lock(path, b"12\n")
    with pytest.raises(BlockingIOError):
        FILES.lock(path, b"13\n")
    assert Path(path).read_bytes() == b"12\n"
    lock.close()
    lock.close()
    FILES.lock(path, b"1\n").close()
    assert Path(path).read_bytes() == b"1\n"


def test_a_lock_is_shared_by_readers_who_write_nothing(path: str) -> None:
    with pytest.raises(FileNotFoundError):
        FILES.lock_shared(path)
    owner = FILES.lock(path, b"12\n")
    with pytest.raises(BlockingIOError):
        FILES.lock_shared(path)
    owner.close()
    first, second = FILES.lock_shared(path), FILES.lock_shared(path)
    first.close()
    with pytest.raises(BlockingIOError):
        FILES.lock(path, b"13\n")
    second.close()
    assert Path(path).read_bytes() == b"12\n"
    FILES.lock(path, b"13\n").close()


async def test_the_durable_writer_is_the_quickest_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()

    def refuse() -> None:
        raise OSError(errno.ENOSYS, "not implemented")

    monkeypatch.setattr("wal.aio.Aio", refuse)
    writer = FILES.durable_writer(loop)
    assert isinstance(writer, ThreadWriter)
    writer.close()
    monkeypatch.undo()
    writer = FILES.durable_writer(loop)
    assert isinstance(writer, AioWriter | ThreadWriter)
    writer.close()
