"""Writes one checkpoint file from records in key order, in bounded memory beside its index."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterable, Iterator

import msgspec
import numpy as np
from google_crc32c import value
from xxhash import xxh3_64_intdigest

from wal import File
from warpstore.checkpoint.format import (
    BLOCK_BYTES,
    BLOCK_HEADER,
    FORMAT_VERSION,
    ROOT_HEADER,
    BlockEntry,
    BlockUse,
    Directory,
    TableEntry,
    checksum,
    pack_footer,
)
from warpstore.checkpoint.index_page import pack_pages
from warpstore.checkpoint.packed import PACKED_BYTES, pack
from warpstore.keys import HotKey, key_bytes
from warpstore.values import has_deadline

_WRITE_BYTES = 1 << 20


class CheckpointWriter:
    """Writes the tables of one shard into a new file, one after another, then its directory.

    Args:
        file: A new, empty file.
        store_id: 16 bytes that name the store.
        shard: The shard.
        salt: A random 64-bit number.
    """

    def __init__(self, file: File, *, store_id: bytes, shard: int, salt: int) -> None:
        self._file = file
        self._store_id = store_id
        self._shard = shard
        self._salt = salt
        self._offset = 0
        self._buffers: list[bytes] = []
        self._buffered = 0
        self._tables: list[TableEntry] = []
        self._encode: Callable[[object], bytes] = msgspec.msgpack.Encoder(uuid_format="bytes").encode

    def _put(self, *parts: bytes) -> None:
        for part in parts:
            self._buffers.append(part)
            self._buffered += len(part)
            self._offset += len(part)
        if self._buffered >= _WRITE_BYTES:
            self._flush()

    def _flush(self) -> None:
        self._file.write(self._buffers, self._offset - self._buffered)
        self._buffers = []
        self._buffered = 0

    def write_table(self, table: int, records: Iterable[tuple[HotKey, bytes]], *, packed: bool = False) -> int:
        """Write a table's live records, which come in ascending order of their keys; return how many.

        Args:
            table: The table's number.
            records: The records: key and payload.
            packed: Whether to pack the blocks, for payloads that are short and much alike.

        Cost:
            About 1.5 us and 24 bytes of memory a record.
        """
        index = _Index(packed=packed)
        block_bytes_max = PACKED_BYTES if packed else BLOCK_BYTES
        blocks: list[BlockEntry] = []
        payloads: list[bytes] = []
        first: HotKey = b""
        n_expiring = n_bytes = block_bytes = 0
        for key, payload in records:
            if payloads and block_bytes + len(payload) > block_bytes_max:
                blocks.append(self._write_block(first, payloads, index))
                payloads, block_bytes = [], 0
            if not payloads:
                first = key
            index.hashes.append(xxh3_64_intdigest(key_bytes(key)))
            if has_deadline(payload):
                n_expiring += 1
            payloads.append(payload)
            block_bytes += len(payload)
            n_bytes += len(payload)
        if payloads:
            blocks.append(self._write_block(first, payloads, index))
        pages_offset = self._offset
        root = self._write_pages(index)
        self._tables.append(
            TableEntry(
                table=table,
                n_records=len(index.hashes),
                n_expiring=n_expiring,
                n_bytes=n_bytes,
                pages_offset=pages_offset,
                n_pages=len(root),
                page_root=self._write_root(len(root), root.tobytes()),
                block_root=self._write_root(len(blocks), self._encode(blocks)),
                packed=packed,
            )
        )
        return len(index.hashes)

    def _write_block(self, first: HotKey, payloads: list[bytes], index: _Index) -> BlockEntry:
        n = len(payloads)
        lengths = [len(payload) for payload in payloads]
        offset = self._offset
        parts = (BLOCK_HEADER.pack(n), struct.pack(f"<{n}I", *lengths), *payloads)
        if index.packed:
            block = pack(self._salt, offset, b"".join(parts))
            self._put(block)
            index.offsets.extend([offset] * n)
            index.lengths.extend([len(block)] * n)
            return BlockEntry(first, offset, len(block), int.from_bytes(block[:4], "little"))
        block = b"".join(parts)
        self._put(block)
        at = offset + BLOCK_HEADER.size + 4 * n
        for payload, length in zip(payloads, lengths, strict=True):
            index.offsets.append(at)
            index.lengths.append(length)
            index.crcs.append(value(payload))
            at += length
        return BlockEntry(first, offset, len(block), checksum(self._salt, offset, block))

    def _write_pages(self, index: _Index) -> array[int]:
        root = array("Q")
        for first, body in index.pages():
            root.append(first)
            self._put(checksum(self._salt, self._offset, body).to_bytes(4, "little") + body)
        return root

    def _write_root(self, n: int, body: bytes) -> tuple[int, int]:
        offset = self._offset
        count = ROOT_HEADER.pack(0, n)[4:]
        self._put(checksum(self._salt, offset, count, body).to_bytes(4, "little") + count, body)
        return offset, ROOT_HEADER.size + len(body)

    def finish(self, lsn: int, blocks: list[BlockUse] | None = None) -> None:
        """Write the directory and the footer, and make the file durable.

        Args:
            lsn: Everything of the shard up to this LSN is in the file.
            blocks: The block files that its records have parts in.
        """
        directory = self._encode(Directory(FORMAT_VERSION, self._shard, lsn, self._tables, blocks or []))
        footer = pack_footer(self._offset, directory, self._salt, self._store_id)
        self._put(directory, footer)
        self._flush()
        self._file.sync()


class _Index:
    """What the index of a table will hold, in the order of its records."""

    __slots__ = ("crcs", "hashes", "lengths", "offsets", "packed")

    def __init__(self, *, packed: bool) -> None:
        self.packed = packed
        self.hashes, self.offsets = array("Q"), array("Q")
        self.lengths, self.crcs = array("I"), array("I")  # of a packed table the blocks have the checksums

    def pages(self) -> Iterator[tuple[int, bytes]]:
        hashes = np.frombuffer(self.hashes, np.uint64)
        order = np.argsort(hashes, kind="stable")
        offsets = np.frombuffer(self.offsets, np.uint64)[order]
        lengths = np.frombuffer(self.lengths, np.uint32)[order]
        crcs = None if self.packed else np.frombuffer(self.crcs, np.uint32)[order]
        return pack_pages(hashes[order], offsets, lengths, crcs)
