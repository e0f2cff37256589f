"""The bytes of a file of items that left their records.

::

    file header   64 bytes: magic | version u16 | 0 u16 | 0 u32 | number u64 | salt u64 | store id 16 bytes | 0 | crc
    block*        as in a block file (`warpstore.blocks.format`); its items are runs
    index page*   4,096 bytes: crc u32 | n u16 | 0 u16 | hash u64[n] | place u64[n], sorted by hash
    page root     crc u32 | n u32 | first hash of each page u64[n]
    directory     msgpack `Directory`
    footer        64 bytes: magic | directory offset u64, bytes u32, crc u32 | zeros | crc u32

A run holds items of one series of one record, in the order of their times: msgpack ``[table, key, series, incarnation,
[[time, move, item], ...]]``. Its hash is the xxh3-64 of table, series and key; its place has the block's offset in the
upper 40 bits, and the run's index in the block in the lower 24. Runs are sorted by hash, table, series and key, those
of one series by time. The CRC32C of blocks, pages and the root covers the file's salt and their own offset.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from google_crc32c import value
from xxhash import xxh3_64_intdigest

from warpstore.keys import HotKey, key_bytes
from warpstore.manifest import SeriesRange

if TYPE_CHECKING:
    from wal import File

MAGIC = b"WARPSER1"
FORMAT_VERSION = 1
HEADER_BYTES = 64
FOOTER_BYTES = 64
PAGE_BYTES = 4096
PAGE_ENTRIES = 255
INDEX_BITS = 24
INDEX_MASK = (1 << INDEX_BITS) - 1
DIRECTORY_BYTES_MAX = 64 << 20
ROOT_BYTES_MAX = 1 << 30

PAGE_HEADER = struct.Struct("<IHH")
ROOT_HEADER = struct.Struct("<II")
_HEADER = struct.Struct("<8sHHIQQ16s")
_FOOTER = struct.Struct("<8sQII")
_CRC = struct.Struct("<I")
_SERIES = struct.Struct("<II")

Item = tuple[int, int, msgspec.Raw]
"""An item: its time in nanoseconds, the move that took it out of its record, and its MessagePack."""


class Run(msgspec.Struct, array_like=True, gc=False):
    """Items of one series of one record.

    Attributes:
        table: The table's number.
        key: The record's hot key.
        series: The series' number.
        incarnation: Which record of this key.
        items: The items.
    """

    table: int
    key: Any
    series: int
    incarnation: int
    items: list[Item]


class Directory(msgspec.Struct, array_like=True, frozen=True):
    """What a file holds.

    Attributes:
        pages_offset: Where the index pages start.
        n_pages: Index pages.
        root_offset: Where the page root is.
        ranges: What it holds of each series.
    """

    pages_offset: int
    n_pages: int
    root_offset: int
    ranges: list[SeriesRange]


class SortKey(NamedTuple):
    """By what runs are sorted; those of one series then by time."""

    digest: int
    table: int
    series: int
    key: bytes


encode_run = msgspec.msgpack.Encoder().encode
decode_run = msgspec.msgpack.Decoder(Run).decode


def digest_of(table: int, series: int, key: HotKey) -> int:
    """Return the hash of a series of a record."""
    return xxh3_64_intdigest(_SERIES.pack(table, series) + key_bytes(key))


def sort_key(run: Run) -> SortKey:
    """Return by what a run is sorted."""
    return SortKey(digest_of(run.table, run.series, run.key), run.table, run.series, key_bytes(run.key))


def pack_header(number: int, salt: int, store_id: bytes) -> bytes:
    """Return the 64 bytes that open a file."""
    body = _HEADER.pack(MAGIC, FORMAT_VERSION, 0, 0, number, salt, store_id).ljust(HEADER_BYTES - _CRC.size, b"\0")
    return body + _CRC.pack(value(body))


def unpack_header(data: bytes) -> tuple[int, int, int, bytes]:
    """Return the format version, the number, the salt and the store id of a file.

    Raises:
        ValueError: it is damaged.
    """
    body = _checked(data, HEADER_BYTES)
    _, version, _, _, number, salt, store_id = _HEADER.unpack_from(body)
    return version, number, salt, store_id


def pack_footer(offset: int, directory: bytes) -> bytes:
    """Return the footer for a directory at an offset."""
    body = _FOOTER.pack(MAGIC, offset, len(directory), value(directory)).ljust(FOOTER_BYTES - _CRC.size, b"\0")
    return body + _CRC.pack(value(body))


def unpack_footer(data: bytes) -> tuple[int, int, int]:
    """Return the directory's offset, size and CRC32C.

    Raises:
        ValueError: it is damaged.
    """
    _, offset, n_bytes, crc = _FOOTER.unpack_from(_checked(data, FOOTER_BYTES))
    if n_bytes > DIRECTORY_BYTES_MAX:
        raise ValueError(f"the directory has {n_bytes} bytes, the limit is {DIRECTORY_BYTES_MAX}")
    return offset, n_bytes, crc


def give_to_store(file: File, before: bytes, store_id: bytes) -> None:
    """Let a file belong to another store: only its header names one. Not durable.

    Raises:
        ValueError: the header is damaged, or names another store than ``before``.
        OSError: reading or writing failed.
    """
    _, number, salt, written_for = unpack_header(file.read(HEADER_BYTES, 0))
    if written_for != before:
        raise ValueError("the file of items belongs to another store")
    file.write([pack_header(number, salt, store_id)], 0)


def _checked(data: bytes, n_bytes: int) -> bytes:
    if len(data) != n_bytes or data[:8] != MAGIC:
        raise ValueError("this is no file of items")
    body = data[: -_CRC.size]
    if value(body) != _CRC.unpack_from(data, len(body))[0]:
        raise ValueError("the checksum of its header or footer is wrong")
    return body
