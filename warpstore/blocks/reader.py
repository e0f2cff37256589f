"""Reads the parts of records back from block files.

Nothing here may block the event loop unless its caller says so: with ``blocking=False`` a read that the page cache
cannot answer gives `WOULD_BLOCK`, and the caller repeats it in a thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from threading import Lock

from wal import File, FileSystem
from warpstore.blocks.cache import BlockCache
from warpstore.blocks.format import (
    BLOCK_HEADER_BYTES,
    FILE_HEADER_BYTES,
    FORMAT_VERSION,
    BlockHeader,
    item_of,
    unpack_block,
    unpack_block_header,
    unpack_file_header,
)
from warpstore.errors import CorruptionError, FormatVersionError, UnavailableError
from warpstore.parts import Place, is_split_value, join, places_of
from warpstore.values import DEADLINE_BYTE, DEADLINE_BYTES
from warpstore.would_block import WOULD_BLOCK, WouldBlock

SUFFIX = ".blk"

BLOCKS_ON_LOOP_MAX = 64
"""Blocks that one call reads from the page cache; decompressing one takes some 40 us."""


READ_AHEAD_BYTES = 16 << 10
"""What the disk is asked for at once where a block begins, before its header has told its size."""


def block_path(directory: str, number: int) -> str:
    """Return the path of a block file."""
    return f"{directory}/{number:08x}{SUFFIX}"


class BlockFile:
    """An open block file.

    Attributes:
        path: The file.
        number: Its number.
        n_bytes: Its size.
    """

    def __init__(self, file: File, number: int, salt: int) -> None:
        self.path = file.path
        self.number = number
        self.n_bytes = file.size()
        self.users = 0
        self._file = file
        self._salt = salt

    @classmethod
    def open(cls, files: FileSystem, directory: str, number: int, *, store_id: bytes) -> BlockFile:
        """Return the block file of a number.

        Raises:
            CorruptionError: it is missing, damaged, or of another store.
            FormatVersionError: it was written by a newer warpstore.
        """
        path = block_path(directory, number)
        try:
            file = files.open(path)
        except FileNotFoundError as e:
            raise CorruptionError(f"{path}: the block file is missing", path=path, offset=0) from e
        try:
            version, says, salt, written_for = unpack_file_header(file.read(FILE_HEADER_BYTES, 0))
            if version > FORMAT_VERSION:
                message = f"{path}: format version {version}, this warpstore reads up to {FORMAT_VERSION}"
                raise FormatVersionError(message, path=path)
            if written_for != store_id or says != number:
                raise ValueError("the block file belongs to another store, or has another's name")
        except ValueError as e:
            file.close()
            raise CorruptionError.at(path, 0, e) from e
        except BaseException:
            file.close()
            raise
        return cls(file, number, salt)

    def read(self, offset: int, *, blocking: bool) -> tuple[bytes, BlockHeader] | WouldBlock:
        """Return what the block at an offset holds, and its header.

        Raises:
            CorruptionError: it is damaged.
            UnavailableError: reading failed.
        """
        try:
            # Where it may wait, one read gets most blocks whole; without waiting, it might ask for more than is cached.
            first = self._read(READ_AHEAD_BYTES if blocking else BLOCK_HEADER_BYTES, offset, blocking=blocking)
            if first is None:
                return WOULD_BLOCK
            header = unpack_block_header(first[:BLOCK_HEADER_BYTES])
            if offset + BLOCK_HEADER_BYTES + header.stored_bytes > self.n_bytes:
                raise ValueError("the block is cut off")
            data = first[BLOCK_HEADER_BYTES : BLOCK_HEADER_BYTES + header.stored_bytes]
            if len(data) < header.stored_bytes:
                at = offset + BLOCK_HEADER_BYTES + len(data)
                rest = self._read(header.stored_bytes - len(data), at, blocking=blocking)
                if rest is None:
                    return WOULD_BLOCK
                data += rest
            return unpack_block(self._salt, offset, header, data), header
        except ValueError as e:
            raise self.damaged(offset, str(e)) from e

    def will_need(self, offset: int) -> None:
        """Have the disk asked for the block at an offset: all of it at once, as it is in most cases."""
        self._file.will_need(READ_AHEAD_BYTES, offset)

    def _read(self, n_bytes: int, offset: int, *, blocking: bool) -> bytes | None:
        try:
            return self._file.read(n_bytes, offset) if blocking else self._file.read_cached(n_bytes, offset)
        except OSError as e:
            raise UnavailableError.at(self._file.path, offset, e) from e

    def damaged(self, offset: int, message: str) -> CorruptionError:
        """Return the error for a block."""
        return CorruptionError.at(self._file.path, offset, message)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class BlockFiles:
    """The block files that open checkpoints use. Safe from any thread.

    Args:
        files: The file system.
        directory: Their folder.
        store_id: 16 bytes that name the store.
        cache: Keeps blocks that were read.
        keeps_all: Whether it also keeps blocks of fields with ``cache=False``: for a reader that takes the records of
            a block one after another, and then goes.

    Attributes:
        directory: Their folder.
        store_id: The store that they belong to.
        cache: Keeps blocks that were read.
    """

    def __init__(
        self, files: FileSystem, directory: str, *, store_id: bytes, cache: BlockCache, keeps_all: bool = False
    ) -> None:
        self.directory = directory
        self.cache = cache
        self._keeps_all = keeps_all
        self._files = files
        self.store_id = store_id
        self._open: dict[int, BlockFile] = {}
        self._lock = Lock()

    def acquire(self, numbers: Iterable[int]) -> None:
        """Keep files open until one more `release`; blocks.

        Raises:
            CorruptionError: one is missing or damaged; none is kept then.
        """
        taken: list[int] = []
        with self._lock:
            try:
                for number in numbers:
                    file = self._open.get(number)
                    if file is None:
                        file = BlockFile.open(self._files, self.directory, number, store_id=self.store_id)
                        self._open[number] = file
                    file.users += 1
                    taken.append(number)
            except BaseException:
                self._release(taken)
                raise

    def release(self, numbers: Iterable[int]) -> None:
        """Close the files that nobody uses any more."""
        with self._lock:
            self._release(numbers)

    def _release(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            file = self._open[number]
            file.users -= 1
            if not file.users:
                del self._open[number]
                file.close()
                self.cache.forget(number)

    @property
    def numbers(self) -> set[int]:
        """The files that are open."""
        return set(self._open)

    def n_bytes(self, number: int) -> int:
        """Return the size of a file that is open."""
        return self._open[number].n_bytes

    def n_bytes_of(self, value: bytes) -> int:
        """Return about how many bytes of files the parts of a split value take.

        Raises:
            CorruptionError: its note is damaged.
        """
        return sum(place.n_bytes for place in self._places(value))

    def whole(self, value: bytes, *, blocking: bool) -> bytes | WouldBlock:
        """Return a value with its parts, if it is split.

        Args:
            value: A value that is not empty.
            blocking: Whether reads may wait for the disk.

        Raises:
            CorruptionError: a block is damaged, or a place is wrong.
            UnavailableError: reading failed.
        """
        if not is_split_value(value):
            return value
        parts: list[bytes] = []
        for place in self._places(value):
            block = self.cache.get(place.file, place.offset) or self._read(place, blocking=blocking)
            if isinstance(block, WouldBlock):
                return block
            parts.append(self._item(place, block))
        return join(value, parts)

    def whole_many(self, values: Sequence[bytes | None]) -> list[bytes | None]:
        """Return values with their parts, reading each block once, those of a file in order; blocks.

        Raises:
            CorruptionError: a block is damaged, or a place is wrong.
            UnavailableError: reading failed.
        """
        found = self.whole_many_nowait(values, blocking=True)
        assert not any(isinstance(value, WouldBlock) for value in found)
        return found  # type: ignore[return-value]

    def whole_many_nowait(
        self, values: Sequence[bytes | None], *, blocking: bool = False
    ) -> list[bytes | WouldBlock | None]:
        """As `whole_many`, but for reads that would have to wait for the disk.

        Args:
            values: The values, of which any may be split.
            blocking: Whether reads may wait for the disk; else `WOULD_BLOCK` stands where one would have to, and for
                what is in more blocks than `BLOCKS_ON_LOOP_MAX`, which would hold the event loop for long.

        Raises:
            CorruptionError: a block is damaged, or a place is wrong.
            UnavailableError: reading failed.
        """
        places = {i: self._places(value) for i, value in enumerate(values) if value and is_split_value(value)}
        parts: dict[Place, bytes | WouldBlock] = {}
        block: tuple[bytes, int] | WouldBlock | None = None
        at = (-1, -1)
        n_read = 0
        wanted = sorted({place for some in places.values() for place in some})
        if blocking:
            for number, offset in dict.fromkeys((place.file, place.offset) for place in wanted):
                if self.cache.get(number, offset) is None:
                    self._file(number).will_need(offset)
        for place in wanted:
            if at != (place.file, place.offset):
                at = place.file, place.offset
                block = self.cache.get(*at)
                if block is None:
                    n_read += 1
                    may_read = blocking or n_read <= BLOCKS_ON_LOOP_MAX
                    block = self._read(place, blocking=blocking) if may_read else WOULD_BLOCK
            assert block is not None
            parts[place] = block if isinstance(block, WouldBlock) else self._item(place, block)
        found: list[bytes | WouldBlock | None] = list(values)
        for i, some in places.items():
            value = values[i]
            assert value is not None
            known = [part for place in some if isinstance(part := parts[place], bytes)]
            found[i] = join(value, known) if len(known) == len(some) else WOULD_BLOCK
        return found

    def _places(self, value: bytes) -> list[Place]:
        try:
            return places_of(value[DEADLINE_BYTES:] if value[0] == DEADLINE_BYTE else value)
        except ValueError as e:
            raise CorruptionError(f"{self.directory}: {e}", path=self.directory, offset=0) from e

    def _file(self, number: int) -> BlockFile:
        file = self._open.get(number)
        if file is None:
            path = block_path(self.directory, number)
            raise CorruptionError(f"{path}: a record names this file, and no checkpoint does", path=path, offset=0)
        return file

    def _read(self, place: Place, *, blocking: bool) -> tuple[bytes, int] | WouldBlock:
        read = self._file(place.file).read(place.offset, blocking=blocking)
        if isinstance(read, WouldBlock):
            return read
        block = read[0], read[1].n_items
        if read[1].may_cache or self._keeps_all:
            self.cache.put(place.file, place.offset, *block)
        return block

    def _item(self, place: Place, block: tuple[bytes, int]) -> bytes:
        try:
            return item_of(*block, place.item)
        except ValueError as e:
            raise self._file(place.file).damaged(place.offset, str(e)) from e
