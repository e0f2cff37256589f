"""Reads a file of items: the runs of one series of one record, or all runs in their order.

Every call blocks. The file is one of a file system or an object of an archive: whatever gives bytes at an offset.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator
from typing import Protocol

import msgspec
from google_crc32c import value

from warpstore.blocks import BlockCache
from warpstore.blocks.format import (
    BLOCK_HEADER_BYTES,
    end_bytes,
    item_of,
    lengths_of,
    unpack_block,
    unpack_block_header,
)
from warpstore.checkpoint.format import checksum
from warpstore.errors import CorruptionError, FormatVersionError, UnavailableError
from warpstore.keys import HotKey
from warpstore.manifest import SeriesFileManifest, SeriesRange
from warpstore.temporal.format import (
    FOOTER_BYTES,
    FORMAT_VERSION,
    HEADER_BYTES,
    INDEX_BITS,
    INDEX_MASK,
    PAGE_BYTES,
    PAGE_ENTRIES,
    PAGE_HEADER,
    ROOT_BYTES_MAX,
    ROOT_HEADER,
    Directory,
    Run,
    decode_run,
    digest_of,
    unpack_footer,
    unpack_header,
)

PAGES_KEPT = 64
_READ_BYTES = 1 << 20


class Bytes(Protocol):
    """Bytes that do not change."""

    path: str

    def read(self, n_bytes: int, offset: int) -> bytes:
        """Return ``n_bytes`` from ``offset``, fewer only at the end."""

    def close(self) -> None:
        """Let go of them."""


class SeriesReader:
    """An open file of items. Safe from any thread.

    Args:
        file: Its bytes; closed with the reader.
        entry: What the manifest says of it.
        store_id: 16 bytes that name the store.
        cache: Keeps blocks that were read.

    Raises:
        CorruptionError: it is damaged, or another file.
        FormatVersionError: it was written by a newer warpstore.
        UnavailableError: reading failed.
    """

    def __init__(self, file: Bytes, entry: SeriesFileManifest, store_id: bytes, cache: BlockCache | None) -> None:
        self._file = file
        self._cache = cache
        self._number = entry.number
        self._n_bytes = entry.n_bytes
        self._lock = threading.Lock()
        self._pages: dict[int, bytes] = {}
        try:
            version, number, self._salt, written_for = unpack_header(self._read(HEADER_BYTES, 0))
            if version > FORMAT_VERSION:
                message = f"{file.path}: format version {version}, this warpstore reads up to {FORMAT_VERSION}"
                raise FormatVersionError(message, path=file.path)
            if written_for != store_id or number != entry.number:
                raise ValueError("it belongs to another store, or has another's name")
            end = entry.n_bytes - FOOTER_BYTES
            offset, n_bytes, crc = unpack_footer(self._read(FOOTER_BYTES, max(0, end)))
            data = self._read(n_bytes, offset)
            if offset + n_bytes != end or value(data) != crc:
                raise ValueError("the checksum of the directory is wrong")
            self._directory = msgspec.msgpack.decode(data, type=Directory)
            self._root = self._read_root()
        except (ValueError, msgspec.MsgspecError) as e:
            raise self._damaged(0, str(e)) from e

    def _read_root(self) -> memoryview:
        n, offset = self._directory.n_pages, self._directory.root_offset
        n_bytes = ROOT_HEADER.size + 8 * n
        if n_bytes > ROOT_BYTES_MAX or offset + n_bytes > self._n_bytes:
            raise ValueError("the page root lies behind the end of the file")
        data = self._read(n_bytes, offset)
        crc, says = ROOT_HEADER.unpack_from(data)
        if says != n or checksum(self._salt, offset, data[4:]) != crc:
            raise ValueError("the checksum of the page root is wrong")
        return memoryview(data[ROOT_HEADER.size :]).cast("Q")

    def find(self, table: int, series: int, key: HotKey) -> list[Run]:
        """Return the runs of a series of a record, by time; those of every incarnation.

        Raises:
            CorruptionError: what was read is damaged.
            UnavailableError: reading failed.

        Cost:
            An index page, kept, and a block.
        """
        digest = digest_of(table, series, key)
        runs: list[Run] = []
        for place in self._places(digest):
            run = self._run(place)
            if run.table == table and run.series == series and run.key == key:
                runs.append(run)
        return runs

    def _places(self, digest: int) -> Iterator[int]:
        number = max(0, bisect_left(self._root, digest) - 1)
        while number < len(self._root) and self._root[number] <= digest:
            page = self._page(number)
            n = PAGE_HEADER.unpack_from(page)[1]
            hashes = memoryview(page)[8 : 8 + 8 * n].cast("Q")
            i = bisect_left(hashes, digest)
            while i < n and hashes[i] == digest:
                at = 8 + 8 * (n + i)
                yield int.from_bytes(page[at : at + 8], "little")
                i += 1
            number += 1

    def _page(self, number: int) -> bytes:
        page = self._pages.get(number)
        if page is not None:
            return page
        offset = self._directory.pages_offset + number * PAGE_BYTES
        page = self._read(PAGE_BYTES, offset)
        crc, n, _ = PAGE_HEADER.unpack_from(page.ljust(8, b"\0"))
        if len(page) != PAGE_BYTES or n > PAGE_ENTRIES or checksum(self._salt, offset, page[4:]) != crc:
            raise self._damaged(offset, "the checksum of an index page is wrong")
        with self._lock:
            if len(self._pages) >= PAGES_KEPT:
                self._pages.pop(next(iter(self._pages)))
            self._pages[number] = page
        return page

    def _run(self, place: int) -> Run:
        offset, index = place >> INDEX_BITS, place & INDEX_MASK
        # Block files and files of items share the cache; those of items have the numbers below zero.
        block = None if self._cache is None else self._cache.get(-self._number, offset)
        if block is None:
            block = self._block(offset)[:2]
            if self._cache is not None:
                self._cache.put(-self._number, offset, *block)
        try:
            return decode_run(item_of(*block, index))
        except (ValueError, msgspec.MsgspecError) as e:
            raise self._damaged(offset, str(e)) from e

    def _block(self, offset: int) -> tuple[bytes, int, int]:
        """Return what the block at an offset holds, its number of items, and where it ends."""
        try:
            header = unpack_block_header(self._read(BLOCK_HEADER_BYTES, offset))
            data = self._read(header.stored_bytes, offset + BLOCK_HEADER_BYTES)
            raw = unpack_block(self._salt, offset, header, data)
        except ValueError as e:
            raise self._damaged(offset, str(e)) from e
        return raw, header.n_items, offset + BLOCK_HEADER_BYTES + header.stored_bytes

    @property
    def ranges(self) -> list[SeriesRange]:
        """What the file says that it holds of each series."""
        return self._directory.ranges

    def index(self) -> Iterator[tuple[int, int]]:
        """Yield each entry of the index in order: the hash of a run, and its place.

        Raises:
            CorruptionError: a page is damaged.
        """
        for number, first in enumerate(self._root):
            page = self._page(number)
            n = PAGE_HEADER.unpack_from(page)[1]
            entries = memoryview(page)[8 : 8 + 16 * n].cast("Q").tolist()
            if not n or entries[0] != first:
                raise self._damaged(
                    self._directory.pages_offset + number * PAGE_BYTES, "the root names another hash for the page"
                )
            yield from zip(entries[:n], entries[n:], strict=True)

    def runs(self) -> Iterator[Run]:
        """Yield every run in order.

        Raises:
            CorruptionError: what was read is damaged.
            UnavailableError: reading failed.
        """
        return (run for _, run in self.placed_runs())

    def placed_runs(self) -> Iterator[tuple[int, Run]]:
        """Yield every run in order, with its place.

        Raises:
            CorruptionError: what was read is damaged.
            UnavailableError: reading failed.
        """
        offset = HEADER_BYTES
        while offset < self._directory.pages_offset:
            raw, n_items, end = self._block(offset)
            start = end_bytes(len(raw)) * n_items
            try:
                for i, n_bytes in enumerate(lengths_of(raw, n_items)):
                    yield offset << INDEX_BITS | i, decode_run(raw[start : start + n_bytes])
                    start += n_bytes
            except (ValueError, msgspec.MsgspecError) as e:
                raise self._damaged(offset, str(e)) from e
            offset = end

    def _read(self, n_bytes: int, offset: int) -> bytes:
        try:
            return self._file.read(n_bytes, offset)
        except OSError as e:
            raise UnavailableError.at(self._file.path, offset, e) from e

    def _damaged(self, offset: int, message: str) -> CorruptionError:
        return CorruptionError.at(self._file.path, offset, message)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        if self._cache is not None:
            self._cache.forget(-self._number)
