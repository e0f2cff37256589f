"""The bytes of a checkpoint file.

::

    block*        records in key order: n u32 | lengths u32[n] | payloads; packed in some tables (`checkpoint.packed`)
    index page*   4,096 bytes: entries sorted by the xxh3-64 of the key (`checkpoint.index_page`)
    page root     crc u32 | n u32 | first hash of each page u64[n]
    block root    crc u32 | n u32 | msgpack [[first key, offset, bytes, crc], ...]
    directory     msgpack `Directory`
    footer        64 bytes: magic | directory offset, bytes, crc | salt | store id | crc

Blocks, pages and roots repeat once a table. An index entry names the payload of its record by offset, length and
CRC32C, so one record is read and verified without its block. In a packed table it names the block by offset and length,
which has a checksum of its own. The CRC32C of blocks, pages and roots covers the file's random salt and their own
offset: a part that was moved, or left over from another file, is no part.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec
from google_crc32c import extend, value

MAGIC = b"WARPCKP1"
FORMAT_VERSION = 2  # 2: records may have parts in block files
PAGE_BYTES = 4096
BLOCK_BYTES = 32 << 10
DIRECTORY_BYTES_MAX = 64 << 20

BLOCK_HEADER = struct.Struct("<I")
PACKED_HEADER = struct.Struct("<II")
PAGE_HEADER = struct.Struct("<IHBBBBHQ")
ROOT_HEADER = struct.Struct("<II")
_FOOTER = struct.Struct("<8sQII Q16s")
_CRC = struct.Struct("<I")
_SEED = struct.Struct("<QQ")
FOOTER_BYTES = 64


class TableEntry(msgspec.Struct, array_like=True, frozen=True):
    """One table's part of a checkpoint.

    Attributes:
        table: The table's number in the manifest.
        n_records: Live records.
        n_expiring: Those of them that have a deadline.
        n_bytes: Bytes of their payloads.
        pages_offset: Where the index pages start.
        n_pages: Index pages.
        page_root: (offset, bytes) of the page root.
        block_root: (offset, bytes) of the block root.
        packed: Whether its blocks are packed, and its index names blocks.
    """

    table: int
    n_records: int
    n_expiring: int
    n_bytes: int
    pages_offset: int
    n_pages: int
    page_root: tuple[int, int]
    block_root: tuple[int, int]
    packed: bool = False


class BlockUse(msgspec.Struct, array_like=True, frozen=True):
    """A block file that the records of a checkpoint have parts in.

    Attributes:
        number: The file's number.
        n_bytes: What the parts in it take, by their places.
        n_live: What those take that belong to records of this checkpoint.
    """

    number: int
    n_bytes: int
    n_live: int


class Directory(msgspec.Struct, array_like=True, frozen=True):
    """What a checkpoint holds.

    Attributes:
        version: Format version.
        shard: The shard.
        lsn: Everything of the shard up to this LSN is in it.
        tables: Its tables.
        blocks: The block files that its records have parts in.
    """

    version: int
    shard: int
    lsn: int
    tables: list[TableEntry]
    blocks: list[BlockUse] = []


class BlockEntry(msgspec.Struct, array_like=True, frozen=True):
    """Where a block is, and what it must be: its first key, its offset, its size and its CRC32C.

    That of a packed block is the one that it opens with.
    """

    first: Any
    offset: int
    n_bytes: int
    crc: int


def checksum(salt: int, offset: int, *parts: bytes) -> int:
    """Return the CRC32C of the parts at an offset of the file with this salt."""
    crc = value(_SEED.pack(salt, offset))
    for part in parts:
        crc = extend(crc, part)
    return int(crc)


def pack_footer(directory_offset: int, directory: bytes, salt: int, store_id: bytes) -> bytes:
    """Return the footer for a directory."""
    body = _FOOTER.pack(MAGIC, directory_offset, len(directory), value(directory), salt, store_id)
    body = body.ljust(FOOTER_BYTES - _CRC.size, b"\0")
    return body + _CRC.pack(value(body))


def unpack_footer(data: bytes) -> tuple[int, int, int, int, bytes]:
    """Return the directory's offset, size and CRC32C, the salt and the store id.

    Raises:
        ValueError: it is damaged.
    """
    if len(data) != FOOTER_BYTES or data[:8] != MAGIC:
        raise ValueError("this is no checkpoint footer")
    body = data[: -_CRC.size]
    if value(body) != _CRC.unpack_from(data, len(body))[0]:
        raise ValueError("the checksum of the footer is wrong")
    _, offset, n_bytes, crc, salt, store_id = _FOOTER.unpack_from(body)
    if n_bytes > DIRECTORY_BYTES_MAX:
        raise ValueError(f"the directory has {n_bytes} bytes, the limit is {DIRECTORY_BYTES_MAX}")
    return offset, n_bytes, crc, salt, store_id
