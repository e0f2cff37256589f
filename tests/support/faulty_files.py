"""A file system in memory that remembers what was synced, fails on demand, and loses what a power cut would lose.

What a process sees and what a disk holds are kept apart. A write goes to the file at once; it reaches the disk by a
sync of the file. A creation, a rename or a removal reaches it by a sync of the directory. `FaultyFiles.crash` gives the
file system that a restarted machine would find: of what was not synced, every sector of 512 bytes and every change of a
name is there whole, or not at all, as the given generator has it.

A sync that fails leaves its writes visible, and no later sync writes them: so does Linux, whose page cache marks them
as clean.

Faults: `FaultyFiles.fail` refuses chosen calls with an errno; `FaultyFiles.power_off_at` refuses every call from the
nth on, after which only `crash` makes sense. `FaultyFiles.calls` counts what could fail.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wal.files import File

if TYPE_CHECKING:
    import asyncio

    from typing_extensions import Buffer

SECTOR_BYTES = 512


@dataclass
class _Write:
    """Bytes on their way to the disk, no more than a sector; without data: the file grows up to ``offset``."""

    offset: int
    data: bytes = b""

    def apply(self, target: bytearray) -> None:
        stop = self.offset + len(self.data)
        if len(target) < stop:
            target.extend(bytes(stop - len(target)))
        target[self.offset : stop] = self.data


@dataclass
class _Inode:
    """A file's bytes as processes see them, as the disk holds them, and what lies between.

    Attributes:
        seen: What a read returns.
        disk: What a crash cannot take away.
        unsynced: What the next sync makes durable.
        stranded: What a failed sync left behind: on disk or not, until something is written over it and synced.
    """

    seen: bytearray = field(default_factory=bytearray)
    disk: bytearray = field(default_factory=bytearray)
    unsynced: list[_Write] = field(default_factory=list)
    stranded: list[_Write] = field(default_factory=list)

    def write(self, write: _Write) -> None:
        write.apply(self.seen)
        self.unsynced.append(write)

    def sync(self) -> None:
        for write in self.unsynced:
            write.apply(self.disk)
        over = {write.offset for write in self.unsynced}
        self.stranded = [write for write in self.stranded if write.offset not in over]
        self.unsynced.clear()

    def fail_to_sync(self) -> None:
        self.stranded += self.unsynced
        self.unsynced.clear()

    def after_crash(self, chance: random.Random) -> _Inode:
        disk = bytearray(self.disk)
        for write in (*self.stranded, *self.unsynced):
            if chance.random() < 0.5:
                write.apply(disk)
        return _Inode(bytearray(disk), disk)


@dataclass
class _Naming:
    """A change of names: ``target`` names the inode, or nothing; ``source`` names nothing any more."""

    target: str
    inode: _Inode | None
    source: str = ""

    def apply(self, names: dict[str, _Inode]) -> None:
        names.pop(self.source, None)
        names.pop(self.target, None)
        if self.inode is not None:
            names[self.target] = self.inode


@dataclass
class _Fault:
    """Calls that fail: of one name, on paths that contain a text, the nth from now or always."""

    call: str
    number: int
    path: str
    skip: int
    always: bool

    def hits(self, call: str, path: str) -> bool:
        if call != self.call or self.path not in path:
            return False
        self.skip -= 1
        return self.skip < 0


class FaultyFile:
    """An open file of a `FaultyFiles`."""

    def __init__(self, files: FaultyFiles, path: str, inode: _Inode) -> None:
        self.path = path
        self.n_closed = 0
        self._files = files
        self._inode = inode

    def read(self, n_bytes: int, offset: int) -> bytes:
        self._step("read")
        return bytes(self._inode.seen[offset : offset + n_bytes])

    def read_cached(self, n_bytes: int, offset: int) -> bytes | None:
        data = bytes(self._inode.seen[offset : offset + n_bytes])
        return data if len(data) == n_bytes else None

    def will_need(self, n_bytes: int, offset: int) -> None:
        """Nothing: a hint."""

    def write(self, buffers: Sequence[Buffer], offset: int) -> int:
        """Write sector by sector; a refused write has written every second of its sectors."""
        data = b"".join(bytes(buffer) for buffer in buffers)
        error = self._fault("write")
        start = offset
        for i, stop in enumerate(_sector_ends(offset, offset + len(data))):
            if error is None or i % 2:
                self._inode.write(_Write(start, data[start - offset : stop - offset]))
            start = stop
        if error is not None:
            raise error
        return len(data)

    def copy_from(self, source: File, n_bytes: int, offset: int) -> int:
        return self.write([source.read(n_bytes, offset)], offset)

    def sync(self) -> None:
        error = self._fault("sync")
        if error is not None:
            self._inode.fail_to_sync()
            raise error
        self._inode.sync()

    def zero_fill(self, start: int, stop: int) -> None:
        self._step("zero_fill")
        for end in _sector_ends(start, stop):
            self._inode.write(_Write(start, bytes(end - start)))
            start = end

    def allocate(self, n_bytes: int) -> None:
        self._step("allocate")
        self._inode.write(_Write(n_bytes))

    def give_back(self, start: int) -> None:
        self._step("give_back")
        for end in _sector_ends(start, len(self._inode.seen)):
            self._inode.write(_Write(start, bytes(end - start)))
            start = end

    def size(self) -> int:
        return len(self._inode.seen)

    def close(self) -> None:
        if not self.n_closed:
            self._files.open_files.remove(self)
        self.n_closed += 1

    def _step(self, call: str) -> None:
        error = self._fault(call)
        if error is not None:
            raise error

    def _fault(self, call: str) -> OSError | None:
        if self.n_closed:
            return OSError(errno.EBADF, os.strerror(errno.EBADF), self.path)
        return self._files.fault(call, self.path)


class FaultyLock:
    """A lock of a `FaultyFiles`."""

    def __init__(self, files: FaultyFiles, path: str) -> None:
        self._files = files
        self._path = path

    def close(self) -> None:
        self._files.locked.discard(self._path)


class FaultyWriter:
    """A `DurableWriter` that has written and synced when the loop turns."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.is_closed = False

    def write(self, file: File, buffers: Sequence[Buffer], offset: int, done: Callable[[OSError | None], None]) -> None:
        error: OSError | None = None
        try:
            file.write(buffers, offset)
            file.sync()
        except OSError as e:
            error = e
        self._loop.call_soon(done, error)

    def close(self) -> None:
        self.is_closed = True


class FaultyFiles:
    """A `wal.files.FileSystem` in memory.

    Attributes:
        calls: (name, path) of every call that could fail.
        open_files: The files that nobody has closed.
        locked: The paths under a lock.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.open_files: list[FaultyFile] = []
        self.locked: set[str] = set()
        self._directories: set[str] = set()
        self._names: dict[str, _Inode] = {}
        self._names_on_disk: dict[str, _Inode] = {}
        self._namings: list[_Naming] = []
        self._faults: list[_Fault] = []
        self._power_off_at: int | None = None

    # What a test does to it

    def fail(self, call: str, number: int, *, path: str = "", skip: int = 0, always: bool = False) -> None:
        """Let a call fail.

        Args:
            call: Its name, as in the protocol.
            number: The errno.
            path: Only on paths that contain this.
            skip: How many such calls succeed before.
            always: Whether all later ones fail too.
        """
        self._faults.append(_Fault(call, number, path, skip, always))

    def heal(self) -> None:
        """Let no call fail any more."""
        self._faults.clear()

    def power_off_at(self, n: int) -> None:
        """Refuse every call from the nth on, counted from 0 and from the first call of all."""
        self._power_off_at = n

    def crash(self, chance: random.Random) -> FaultyFiles:
        """Return what a machine finds that lost its power now and came back."""
        after = FaultyFiles()
        after._directories = set(self._directories)
        names = dict(self._names_on_disk)
        for naming in self._namings:
            if chance.random() < 0.5:
                naming.apply(names)
        inodes = {id(inode): inode.after_crash(chance) for inode in names.values()}
        after._names = {path: inodes[id(inode)] for path, inode in names.items()}
        after._names_on_disk = dict(after._names)
        return after

    def contents(self, path: str) -> bytes:
        """Return a file's bytes as a process sees them."""
        return bytes(self._names[path].seen)

    def put(self, path: str, data: bytes) -> None:
        """Place a durable file."""
        self._names[path] = self._names_on_disk[path] = _Inode(bytearray(data), bytearray(data))

    def fault(self, call: str, path: str) -> OSError | None:
        """Count a call and return the error that it must fail with."""
        n = len(self.calls)
        self.calls.append((call, path))
        if self._power_off_at is not None and n >= self._power_off_at:
            return OSError(errno.EIO, "the power is off", path)
        for fault in self._faults:
            if fault.hits(call, path):
                if not fault.always:
                    self._faults.remove(fault)
                return OSError(fault.number, os.strerror(fault.number), path)
        return None

    # The protocol

    def open(self, path: str) -> FaultyFile:
        self._step("open", path)
        return self._opened(path)

    def open_write(self, path: str) -> FaultyFile:
        self._step("open_write", path)
        return self._opened(path)

    def create(self, path: str) -> FaultyFile:
        self._step("create", path)
        if path in self._names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        self._name(_Naming(path, _Inode()))
        return self._opened(path)

    def make_directory(self, path: str) -> None:
        self._step("make_directory", path)
        while path not in {"", "/"}:
            self._directories.add(path)
            path = os.path.dirname(path)

    def list_directory(self, path: str) -> list[str]:
        self._step("list_directory", path)
        if path not in self._directories:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        every = (*self._names, *self._directories)
        return sorted(os.path.basename(name) for name in every if os.path.dirname(name) == path)

    def exists(self, path: str) -> bool:
        return path in self._names or path in self._directories

    def is_directory(self, path: str) -> bool:
        return path in self._directories

    def rename(self, source: str, target: str) -> None:
        self._step("rename", target)
        if source not in self._names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), source)
        self._name(_Naming(target, self._names[source], source))

    def remove(self, path: str) -> None:
        self._step("remove", path)
        if path in self._names:
            self._name(_Naming(path, None))

    def sync_directory(self, path: str) -> None:
        self._step("sync_directory", path)
        mine = [naming for naming in self._namings if os.path.dirname(naming.target) == path]
        for naming in mine:
            naming.apply(self._names_on_disk)
            self._namings.remove(naming)

    def lock(self, path: str, owner: bytes) -> FaultyLock:
        self._step("lock", path)
        if path in self.locked:
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK), path)
        self.locked.add(path)
        self.put(path, owner)
        return FaultyLock(self, path)

    def lock_shared(self, path: str) -> FaultyLock:
        self._step("lock", path)
        if path not in self._names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if path in self.locked:
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK), path)
        return FaultyLock(self, f"{path} (shared)")  # nobody tests that it keeps an owner away here

    def durable_writer(self, loop: asyncio.AbstractEventLoop) -> FaultyWriter:
        return FaultyWriter(loop)

    def _step(self, call: str, path: str) -> None:
        error = self.fault(call, path)
        if error is not None:
            raise error

    def _opened(self, path: str) -> FaultyFile:
        if path not in self._names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        file = FaultyFile(self, path, self._names[path])
        self.open_files.append(file)
        return file

    def _name(self, naming: _Naming) -> None:
        naming.apply(self._names)
        self._namings.append(naming)


def _sector_ends(start: int, stop: int) -> list[int]:
    """Return where the pieces of a write end that lie in one sector each."""
    return [*range(start - start % SECTOR_BYTES + SECTOR_BYTES, stop, SECTOR_BYTES), stop] if stop > start else []
