"""Writes one file of items from runs in their order, in bounded memory beside its index."""

from __future__ import annotations

import struct
from array import array

import msgspec
from google_crc32c import extend

from wal import File
from warpstore.blocks.format import pack_block
from warpstore.checkpoint.format import checksum
from warpstore.manifest import SeriesRange
from warpstore.temporal.format import (
    INDEX_BITS,
    PAGE_BYTES,
    PAGE_ENTRIES,
    PAGE_HEADER,
    ROOT_HEADER,
    Directory,
    Run,
    SortKey,
    encode_run,
    pack_footer,
    pack_header,
    sort_key,
)

BLOCK_BYTES = {"lz4": 16 << 10, "max": 64 << 10}
RUN_BYTES = 64 << 10
"""A run of more bytes is parted."""

_WRITE_BYTES = 1 << 20
_RUNS_MAX = 1 << 13
_COMPRESSED_BYTES_MIN = 64


class SeriesWriter:
    """Writes runs into a new file.

    Args:
        file: A new, empty file.
        number: The file's number.
        salt: A random 64-bit number.
        store_id: 16 bytes that name the store.
        compression: "lz4" or "max".

    Attributes:
        n_bytes: Size of the file.
        crc: CRC32C of the file.
        ranges: What it holds, after `finish`.
    """

    def __init__(self, file: File, *, number: int, salt: int, store_id: bytes, compression: str) -> None:
        self.n_bytes = 0
        self.crc = 0
        self.ranges: list[SeriesRange] = []
        self._file = file
        self._salt = salt
        self._compression = compression
        self._runs: list[bytes] = []
        self._digests: list[int] = []
        self._gathered = 0
        self._hashes = array("Q")
        self._places = array("Q")
        self._before: SortKey | None = None
        self._found: dict[tuple[int, int], list[int]] = {}
        self._buffers: list[bytes] = []
        self._buffered = 0
        self._put(pack_header(number, salt, store_id))

    def add(self, run: Run) -> None:
        """Add a run; runs come in the order of `sort_key`."""
        key = sort_key(run)
        assert self._before is None or key >= self._before
        self._before = key
        times = self._found.setdefault((run.table, run.series), [0, run.items[0][0], run.items[0][0]])
        times[0] += len(run.items)
        times[1] = min(times[1], *(item[0] for item in run.items))
        times[2] = max(times[2], *(item[0] for item in run.items))
        part: list[tuple[int, int, msgspec.Raw]] = []
        n_bytes = 0
        for item in run.items:
            size = len(memoryview(item[2])) + 16
            if part and n_bytes + size > RUN_BYTES:
                self._add(key.digest, run, part)
                part, n_bytes = [], 0
            part.append(item)
            n_bytes += size
        self._add(key.digest, run, part)

    def _add(self, digest: int, run: Run, items: list[tuple[int, int, msgspec.Raw]]) -> None:
        data = encode_run(Run(run.table, run.key, run.series, run.incarnation, items))
        self._runs.append(data)
        self._digests.append(digest)
        self._gathered += len(data)
        if self._gathered >= BLOCK_BYTES[self._compression] or len(self._runs) >= _RUNS_MAX:
            self._write_block()

    def _write_block(self) -> None:
        offset = self.n_bytes
        block = pack_block(self._salt, offset, self._runs, self._compression, _COMPRESSED_BYTES_MIN, cache=True)
        self._hashes.extend(self._digests)
        self._places.extend([offset << INDEX_BITS | index for index in range(len(self._runs))])
        self._runs, self._digests, self._gathered = [], [], 0
        self._put(block)

    def finish(self) -> None:
        """Write the index, the directory and the footer, and make the file durable."""
        if self._runs:
            self._write_block()
        pages_offset, n = self.n_bytes, len(self._hashes)
        for start in range(0, n, PAGE_ENTRIES):
            hashes, places = self._hashes[start : start + PAGE_ENTRIES], self._places[start : start + PAGE_ENTRIES]
            head = PAGE_HEADER.pack(0, len(hashes), 0)[4:]
            body = b"".join((head, hashes.tobytes(), places.tobytes())).ljust(PAGE_BYTES - 4, b"\0")
            self._put(struct.pack("<I", checksum(self._salt, self.n_bytes, body)) + body)
        root_offset, first = self.n_bytes, self._hashes[::PAGE_ENTRIES]
        body = ROOT_HEADER.pack(0, len(first))[4:] + first.tobytes()
        self._put(struct.pack("<I", checksum(self._salt, root_offset, body)) + body)
        self.ranges = [SeriesRange(*series, *times) for series, times in sorted(self._found.items())]
        directory = msgspec.msgpack.encode(Directory(pages_offset, len(first), root_offset, self.ranges))
        self._put(directory + pack_footer(self.n_bytes, directory))
        self._write()
        self._file.sync()

    def _put(self, data: bytes) -> None:
        self._buffers.append(data)
        self._buffered += len(data)
        self.n_bytes += len(data)
        self.crc = int(extend(self.crc, data))
        if self._buffered >= _WRITE_BYTES:
            self._write()

    def _write(self) -> None:
        self._file.write(self._buffers, self.n_bytes - self._buffered)
        self._buffers, self._buffered = [], 0
