"""Reads a checkpoint: one record by its hash, or records in key order.

Opening reads the footer and the directory only; the roots are read at first use. Index pages are kept in a bounded
cache. Nothing here may block the event loop unless its caller says so: with ``blocking=False`` a read that the page
cache cannot answer gives `WOULD_BLOCK`, and the caller repeats the call in a thread.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from google_crc32c import value

from wal import File, FileSystem
from warpstore._native import MemoryPool, Rows
from warpstore.blocks import BlockFiles
from warpstore.checkpoint.format import (
    BLOCK_HEADER,
    FOOTER_BYTES,
    FORMAT_VERSION,
    PAGE_BYTES,
    ROOT_HEADER,
    BlockEntry,
    Directory,
    TableEntry,
    checksum,
    unpack_footer,
)
from warpstore.checkpoint.index_page import IndexPage
from warpstore.checkpoint.packed import unpack
from warpstore.errors import CorruptionError, FormatVersionError, UnavailableError
from warpstore.keys import HotKey
from warpstore.values import split_payload
from warpstore.would_block import WOULD_BLOCK, WouldBlock

PAGES_CACHED_MAX = 1024
_PAGE_COST = PAGE_BYTES + 768  # with what reads it, and its place in the dictionary
_AHEAD_BYTES = 256 << 10
_SHORT_BYTES = 256
"""Of index pages, and of payloads that are this short on average (heads), the disk is asked for all that is around one:
a read of so much takes hardly longer, and many other records are found there."""
_NO_POOLS: Mapping[int, MemoryPool] = {}


class Checkpoint:
    """An open checkpoint file.

    Attributes:
        path: The file.
        shard: The shard that it belongs to.
        lsn: Everything of the shard up to this LSN is in it.
        tables: Its tables by number.
        n_bytes: Size of the file.
        blocks: The block files that its records have parts in.
    """

    def __init__(
        self,
        file: File,
        directory: Directory,
        salt: int,
        n_bytes: int,
        pools: Mapping[int, MemoryPool],
        files: BlockFiles | None,
    ) -> None:
        self.path = file.path
        self.shard = directory.shard
        self.lsn = directory.lsn
        self.n_bytes = n_bytes
        self.blocks = directory.blocks
        self.tables = {
            entry.table: CheckpointTable(file, entry, salt, n_bytes, pools.get(entry.table))
            for entry in directory.tables
        }
        self._file = file
        self._users = 1
        self._files = files
        if files is not None:
            files.acquire(self.block_numbers)

    @property
    def block_numbers(self) -> list[int]:
        """The numbers of the block files that its records have parts in."""
        return [use.number for use in self.blocks]

    @classmethod
    def open(
        cls,
        files: FileSystem,
        path: str,
        *,
        store_id: bytes,
        shard: int | None = None,
        pools: Mapping[int, MemoryPool] = _NO_POOLS,
        blocks: BlockFiles | None = None,
    ) -> Checkpoint:
        """Return the checkpoint at ``path``.

        Args:
            files: The file system.
            path: The file.
            store_id: 16 bytes that name the store.
            shard: The shard that it must belong to.
            pools: By table number, what the memory that it takes is charged to.
            blocks: Keeps its block files open with it; None: the parts of its records are not read.

        Raises:
            CorruptionError: it is missing, damaged, or of another store or shard.
            FormatVersionError: it was written by a newer warpstore.
        """
        try:
            file = files.open(path)
        except FileNotFoundError as e:
            raise CorruptionError(f"{path}: the checkpoint is missing", path=path, offset=0) from e
        try:
            return cls._open(file, store_id, shard, pools, blocks)
        except BaseException:
            file.close()
            raise

    @classmethod
    def _open(
        cls,
        file: File,
        store_id: bytes,
        shard: int | None,
        pools: Mapping[int, MemoryPool],
        blocks: BlockFiles | None,
    ) -> Checkpoint:
        n_bytes = file.size()
        end = max(0, n_bytes - FOOTER_BYTES)
        try:
            offset, size, crc, salt, written_for = unpack_footer(file.read(FOOTER_BYTES, end))
            if written_for != store_id:
                raise ValueError("the checkpoint belongs to another store")
            data = file.read(size, offset)
            if len(data) != size or offset + size != end or value(data) != crc:
                raise ValueError("the checksum of the directory is wrong")
            directory = msgspec.msgpack.decode(data, type=Directory)
            if shard is not None and directory.shard != shard:
                raise ValueError(f"the checkpoint belongs to shard {directory.shard}")
        except (ValueError, msgspec.MsgspecError) as e:
            raise CorruptionError.at(file.path, end, e) from e
        if directory.version > FORMAT_VERSION:
            message = f"{file.path}: format version {directory.version}, this warpstore reads up to {FORMAT_VERSION}"
            raise FormatVersionError(message, path=file.path)
        return cls(file, directory, salt, n_bytes, pools, blocks)

    def acquire(self) -> None:
        """Keep the file open until one more `release`."""
        self._users += 1

    def release(self) -> None:
        """Close the file if nobody uses it any more. Opening counts as one use."""
        self._users -= 1
        if self._users == 0:
            for table in self.tables.values():
                table.forget()
            self._file.close()
            if self._files is not None:
                self._files.release(self.block_numbers)


class CheckpointTable:
    """One table of a checkpoint.

    Attributes:
        n_records: Records in it.
        n_expiring: Those with a deadline.
        n_bytes: Bytes of their payloads.
    """

    def __init__(self, file: File, entry: TableEntry, salt: int, file_bytes: int, pool: MemoryPool | None) -> None:
        self.n_records = entry.n_records
        self.n_expiring = entry.n_expiring
        self.n_bytes = entry.n_bytes
        self._file = file
        self._entry = entry
        self._salt = salt
        self._file_bytes = file_bytes
        self._page_root: memoryview | None = None
        self._block_root: list[BlockEntry] | None = None
        self._first_keys: list[Any] = []
        self._pages: dict[int, IndexPage] = {}
        self._pool = pool
        self._charged = 0
        self._is_short = entry.n_bytes < _SHORT_BYTES * entry.n_records

    def forget(self) -> None:
        """Let go of the cached index pages."""
        self._pages = {}
        self._charge()

    def _charge(self) -> None:
        """Charge the pages that are kept: what differs from the last time."""
        before, self._charged = self._charged, len(self._pages) * _PAGE_COST
        if self._pool is not None:
            self._pool.charge(self._charged - before)

    # One record

    def find(self, digest: int, key: HotKey, *, blocking: bool) -> bytes | WouldBlock | None:
        """Return the payload stored under a key, or None.

        Args:
            digest: The key's xxh3-64.
            key: The hot key.
            blocking: Whether the read may wait for the disk.

        Raises:
            CorruptionError: what was read is damaged.
            UnavailableError: reading failed.

        Cost:
            An index page, cached, and the record itself, or its packed block: two reads at most, but for another key
            of the same rank in the page, of which one in ten million has one.
        """
        if not self.n_records:
            return None
        root = self._first_hashes()
        number = max(0, bisect_left(root, digest) - 1)
        while number < len(root) and (root[number] <= digest):
            if blocking and number not in self._pages:
                self._will_need([self._page_place(number)], around=True)
            page = self._page(number, blocking=blocking)
            if isinstance(page, WouldBlock):
                return page
            for i in page.entries_of(digest):
                if blocking and self._is_short:
                    self._will_need([page.place(i)], around=True)
                payload = self._payload(page, i, key, blocking=blocking)
                if payload is not None:
                    return payload
            number += 1
        return None

    def find_many(self, wanted: Sequence[tuple[int, HotKey]]) -> list[bytes | None]:
        """Return what `find` gives for many pairs of digest and key, in their order; blocks.

        Raises:
            CorruptionError: what was read is damaged.
            UnavailableError: reading failed.

        Cost:
            The disk is asked for all index pages at once, in the order of the file, then for all records.
        """
        if not self.n_records:
            return [None] * len(wanted)
        if len(wanted) == 1:
            ((digest, key),) = wanted
            found = self.find(digest, key, blocking=True)
            assert not isinstance(found, WouldBlock)
            return [found]
        root = self._first_hashes()
        numbers = [max(0, bisect_left(root, digest) - 1) for digest, _ in wanted]
        unread = {number for number in numbers if number not in self._pages}
        self._will_need([self._page_place(number) for number in unread], around=True)
        entries: list[tuple[IndexPage, int] | None] = [None] * len(wanted)
        for at in sorted(range(len(wanted)), key=numbers.__getitem__):
            page = self._page(numbers[at], blocking=True)
            assert not isinstance(page, WouldBlock)
            i = next(iter(page.entries_of(wanted[at][0])), None)
            entries[at] = None if i is None else (page, i)
        self._will_need([page.place(i) for page, i in filter(None, entries)], around=self._is_short)
        payloads: list[bytes | None] = []
        for (digest, key), number, entry in zip(wanted, numbers, entries, strict=True):
            payload = None if entry is None else self._payload(*entry, key, blocking=True)
            if payload is None and (entry is not None or (number + 1 < len(root) and root[number + 1] == digest)):
                payload = self.find(digest, key, blocking=True)  # another key has this hash
            assert not isinstance(payload, WouldBlock)
            payloads.append(payload)
        return payloads

    def _page_place(self, number: int) -> tuple[int, int]:
        """Return offset and length of an index page."""
        return self._entry.pages_offset + number * PAGE_BYTES, PAGE_BYTES

    def _will_need(self, places: list[tuple[int, int]], *, around: bool) -> None:
        """Ask the disk for places of the file, or for all that is around them; of neighbours as one."""
        if around:
            places = [(n * _AHEAD_BYTES, _AHEAD_BYTES) for n in {offset // _AHEAD_BYTES for offset, _ in places}]
        start = end = 0
        for offset, length in sorted(places):
            if offset > end + PAGE_BYTES:
                if end:
                    self._file.will_need(end - start, start)
                start = offset
            end = max(end, offset + length)
        if end:
            self._file.will_need(end - start, start)

    def _payload(self, page: IndexPage, i: int, key: HotKey, *, blocking: bool) -> bytes | WouldBlock | None:
        """Return the payload of a key, if an entry names it."""
        offset, length = page.place(i)
        if offset + length > self._file_bytes:
            raise self._damaged(offset, "a record lies behind the end of the file")
        data = self._read(length, offset) if blocking else self._file.read_cached(length, offset)
        if data is None:
            return WOULD_BLOCK
        payload: bytes | None = data
        if self._entry.packed:
            payload = self._packed_payload(data, offset, key)
        elif len(data) != length or value(data) != page.crc(i):
            raise self._damaged(offset, "the checksum of a record is wrong")
        return payload if payload is not None and split_payload(payload)[1] == key else None

    def _packed_payload(self, block: bytes, offset: int, key: HotKey) -> bytes | None:
        """Return the first payload of a packed block that is not before a key."""
        rows = self._unpacked([block], offset)
        try:
            rows.between(key, None)
        except ValueError as e:
            raise self._damaged(offset, str(e)) from e
        return rows[0] if len(rows) else None

    def _page(self, number: int, *, blocking: bool) -> IndexPage | WouldBlock:
        page = self._pages.get(number)
        if page is not None:
            return page
        offset, _ = self._page_place(number)
        read = self._read(PAGE_BYTES, offset) if blocking else self._file.read_cached(PAGE_BYTES, offset)
        if read is None:
            return WOULD_BLOCK
        if len(read) != PAGE_BYTES or checksum(self._salt, offset, read[4:]) != int.from_bytes(read[:4], "little"):
            raise self._damaged(offset, "the checksum of an index page is wrong")
        try:
            page = IndexPage(read)
        except ValueError as e:
            raise self._damaged(offset, str(e)) from e
        if len(self._pages) >= PAGES_CACHED_MAX:
            self._pages.pop(next(iter(self._pages)), None)
        self._pages[number] = page
        self._charge()
        return page

    def _first_hashes(self) -> memoryview:
        """Return the first hash of each index page; read once."""
        if self._page_root is None:
            self._page_root = self._read_page_root()
        return self._page_root

    def _read_page_root(self) -> memoryview:
        n, body = self._root(self._entry.page_root)
        if n != self._entry.n_pages or len(body) != 8 * n:
            raise self._damaged(self._entry.page_root[0], "the page root has another size than the directory says")
        return memoryview(body).cast("Q")

    def _root(self, place: tuple[int, int]) -> tuple[int, bytes]:
        offset, n_bytes = place
        if offset + n_bytes > self._file_bytes:
            raise self._damaged(offset, "a root lies behind the end of the file")
        data = self._read(n_bytes, offset)
        if len(data) != n_bytes or checksum(self._salt, offset, data[4:]) != int.from_bytes(data[:4], "little"):
            raise self._damaged(offset, "the checksum of a root is wrong")
        return ROOT_HEADER.unpack_from(data)[1], data[ROOT_HEADER.size :]

    # Key order

    def load_block_root(self) -> None:
        """Read what `block_numbers` has to know; blocks.

        Raises:
            CorruptionError: the block root is damaged.
        """
        _, body = self._root(self._entry.block_root)
        try:
            root = msgspec.msgpack.decode(body, type=list[BlockEntry])
        except (msgspec.MsgspecError, UnicodeDecodeError) as e:
            raise self._damaged(self._entry.block_root[0], f"the block root cannot be decoded: {e}") from e
        self._first_keys = [entry.first for entry in root]
        self._block_root = root

    def block_numbers(self, start: HotKey | None, stop: HotKey | None) -> range:
        """Return the blocks that may hold keys k with start <= k < stop. Blocks the first time."""
        if self._block_root is None:
            self.load_block_root()
        first = 0 if start is None else max(0, bisect_right(self._first_keys, start) - 1)
        last = len(self._first_keys) if stop is None else bisect_left(self._first_keys, stop)
        return range(first, max(first, last))

    @property
    def n_blocks(self) -> int:
        """The table's blocks; `block_numbers` was called before."""
        return len(self._first_keys)

    @property
    def roots_loaded(self) -> bool:
        """Whether `block_numbers` answers without reading."""
        return self._block_root is not None

    def read_blocks(self, number: int, n: int, *, blocking: bool) -> Rows | WouldBlock:
        """Return the rows of ``n`` blocks from ``number`` on, with one read; `block_numbers` was called before.

        Raises:
            CorruptionError: a block is damaged.
        """
        assert self._block_root is not None
        entries = self._block_root[number : number + n]
        start, end = entries[0].offset, entries[-1].offset + entries[-1].n_bytes
        if end > self._file_bytes or start > end:
            raise self._damaged(start, "a block lies behind the end of the file")
        data = self._read(end - start, start) if blocking else self._file.read_cached(end - start, start)
        if data is None:
            return WOULD_BLOCK
        at = 0
        blocks: list[bytes] = []
        for entry in entries:
            block = data[at : at + entry.n_bytes]
            is_whole = len(block) == entry.n_bytes and entry.offset == start + at
            if not is_whole or self._crc(entry.offset, block) != entry.crc:
                raise self._damaged(entry.offset, "the checksum of a block is wrong")
            blocks.append(block)
            at += entry.n_bytes
        return self._unpacked(blocks, start) if self._entry.packed else self._rows(data, blocks, start)

    def _crc(self, offset: int, block: bytes) -> int:
        """Return the CRC32C of a block; of a packed one what it says, which is verified where it is unpacked."""
        return int.from_bytes(block[:4], "little") if self._entry.packed else checksum(self._salt, offset, block)

    def _unpacked(self, blocks: list[bytes], offset: int) -> Rows:
        """Return the rows of packed blocks, one behind another from an offset on."""
        at = offset
        unpacked: list[bytes] = []
        for block in blocks:
            try:
                unpacked.append(unpack(self._salt, at, block))
            except ValueError as e:
                raise self._damaged(at, str(e)) from e
            at += len(block)
        return self._rows(b"".join(unpacked), unpacked, offset)

    def _rows(self, data: bytes, blocks: list[bytes], offset: int) -> Rows:
        try:
            return Rows.of_blocks(data, [len(block) for block in blocks])
        except ValueError as e:
            raise self._damaged(offset, str(e)) from e

    def payloads(self, number: int) -> Iterator[tuple[int, int, bytes]]:
        """Yield the payloads of a block, each with the offset and the length by which the index names it; blocks.

        Raises:
            CorruptionError: the block is damaged.
        """
        rows = self.read_blocks(number, 1, blocking=True)
        assert not isinstance(rows, WouldBlock)
        assert self._block_root is not None
        block = self._block_root[number]
        at = block.offset + BLOCK_HEADER.size + 4 * len(rows)
        for payload in rows:
            yield (block.offset, block.n_bytes, payload) if self._entry.packed else (at, len(payload), payload)
            at += len(payload)

    def records(self) -> Iterator[tuple[HotKey, bytes]]:
        """Yield every record as (hot key, payload) in key order; blocks."""
        for number in self.block_numbers(None, None):
            rows = self.read_blocks(number, 1, blocking=True)
            assert not isinstance(rows, WouldBlock)
            for payload in rows:
                yield split_payload(payload)[1], payload

    def _read(self, n_bytes: int, offset: int) -> bytes:
        try:
            return self._file.read(n_bytes, offset)
        except OSError as e:
            raise UnavailableError.at(self._file.path, offset, e) from e

    def _damaged(self, offset: int, message: str) -> CorruptionError:
        return CorruptionError.at(self._file.path, offset, message)
