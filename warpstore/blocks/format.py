"""The bytes of a block file.

::

    file header   64 bytes: magic | version u16 | 0 u16 | number u32 | salt u64 | store id 16 bytes | zeros | crc u32
    block*        header, 32 bytes: crc u32 | stored u32 | raw u32 | items u32 | codec u8 | flags u8 | zeros
                  then ``stored`` bytes, which decompress to ``raw`` bytes: end u16[items] or u32[items] | items

A block's CRC32C covers the file's salt, the block's own offset, the rest of its header and its stored bytes: a block
that was moved, or left over from another file, is no block. Sizes are checked before they are used. The ends of items
count from the first one's beginning; they are u16 where ``raw`` is less than 64 KiB, else u32.
"""

from __future__ import annotations

import struct
from itertools import accumulate, pairwise
from typing import NamedTuple

import lz4.block
from google_crc32c import extend, value

from warpstore.parts import size_class

MAGIC = b"WARPBLK1"
FORMAT_VERSION = 1
FILE_HEADER_BYTES = 64
BLOCK_HEADER_BYTES = 32
RAW_BYTES_MAX = 20 << 20
"""More than a record of the largest size, and its length."""

CODECS = {"none": 0, "lz4": 1, "max": 2}
_STORED, _LZ4, _LZ4_HIGH = 0, 1, 2
_NO_CACHE = 1

_FILE_HEADER = struct.Struct("<8sHHIQ16s")
_BLOCK_HEADER = struct.Struct("<IIIIBB")
_CHECKED = struct.Struct("<IIIBB")
_CRC = struct.Struct("<I")
_SHORT_BYTES_MAX = (1 << 16) - 1
_SEED = struct.Struct("<QQ")
_END_FORMATS = {2: "H", 4: "I"}
_ZEROS = bytes(BLOCK_HEADER_BYTES - _BLOCK_HEADER.size)


class BlockHeader(NamedTuple):
    """What a block says of itself."""

    crc: int
    stored_bytes: int
    raw_bytes: int
    n_items: int
    codec: int
    flags: int

    @property
    def may_cache(self) -> bool:
        """Whether what it holds may stay in memory after a read."""
        return not self.flags & _NO_CACHE


def pack_file_header(number: int, salt: int, store_id: bytes) -> bytes:
    """Return the 64 bytes that open a block file."""
    body = _FILE_HEADER.pack(MAGIC, FORMAT_VERSION, 0, number, salt, store_id)
    body = body.ljust(FILE_HEADER_BYTES - _CRC.size, b"\0")
    return body + _CRC.pack(value(body))


def unpack_file_header(data: bytes) -> tuple[int, int, int, bytes]:
    """Return the format version, the number, the salt and the store id of a block file.

    Raises:
        ValueError: it is damaged.
    """
    if len(data) != FILE_HEADER_BYTES or data[:8] != MAGIC:
        raise ValueError("this is no header of a block file")
    body = data[: -_CRC.size]
    if value(body) != _CRC.unpack_from(data, len(body))[0]:
        raise ValueError("the checksum of the header is wrong")
    _, version, _, number, salt, store_id = _FILE_HEADER.unpack_from(body)
    return version, number, salt, store_id


def pack_block(salt: int, offset: int, items: list[bytes], compression: str, threshold: int, *, cache: bool) -> bytes:
    """Return a block for an offset of the file with this salt.

    Args:
        salt: The file's.
        offset: Where the block will be.
        items: Its items.
        compression: "lz4", "max" (lz4's high compression) or "none". What does not shrink is stored as it is.
        threshold: Fewer bytes than this are not compressed.
        cache: Whether what it holds may stay in memory after a read.
    """
    ends = list(accumulate(map(len, items)))
    n_bytes = raw_size(len(items), ends[-1] if ends else 0)
    raw = b"".join((struct.pack(f"<{len(items)}{_END_FORMATS[end_bytes(n_bytes)]}", *ends), *items))
    codec, stored = _STORED, raw
    if compression != "none" and len(raw) >= threshold:
        if compression == "max":
            shrunk = lz4.block.compress(raw, mode="high_compression", compression=12, store_size=False)
        else:
            shrunk = lz4.block.compress(raw, store_size=False)
        if len(shrunk) < len(raw):
            codec, stored = CODECS[compression], shrunk
    checked = _CHECKED.pack(len(stored), len(raw), len(items), codec, 0 if cache else _NO_CACHE) + _ZEROS
    return _CRC.pack(_checksum(salt, offset, checked, stored)) + checked + stored


def unpack_block_header(data: bytes) -> BlockHeader:
    """Return the header of a block.

    Raises:
        ValueError: it cannot be one.
    """
    if len(data) != BLOCK_HEADER_BYTES:
        raise ValueError("the block's header is cut off")
    header = BlockHeader(*_BLOCK_HEADER.unpack_from(data))
    if data[_BLOCK_HEADER.size :] != _ZEROS:
        raise ValueError("the block's header is damaged")
    if header.raw_bytes > RAW_BYTES_MAX or header.stored_bytes > RAW_BYTES_MAX:
        raise ValueError("the block says that it is larger than a block can be")
    if (
        end_bytes(header.raw_bytes) * header.n_items > header.raw_bytes
        or header.codec > _LZ4_HIGH
        or data[_BLOCK_HEADER.size :] != _ZEROS
    ):
        raise ValueError("the block's header is damaged")
    return header


def unpack_block(salt: int, offset: int, header: BlockHeader, data: bytes) -> bytes:
    """Return what a block holds, from its header and the bytes behind it.

    Raises:
        ValueError: it is damaged.
    """
    checked = _CHECKED.pack(*header[1:]) + _ZEROS
    if len(data) != header.stored_bytes or _checksum(salt, offset, checked, data) != header.crc:
        raise ValueError("the checksum of the block is wrong")
    if header.codec == _STORED:
        raw = data
    else:
        try:
            raw = lz4.block.decompress(data, uncompressed_size=header.raw_bytes)
        except lz4.block.LZ4BlockError as e:
            raise ValueError(f"the block does not decompress: {e}") from e
    if len(raw) != header.raw_bytes:
        raise ValueError("the block has another size than its header says")
    return raw


def end_bytes(raw_bytes: int) -> int:
    """Return the bytes of an item's end, in a block that holds so many bytes."""
    return 2 if raw_bytes <= _SHORT_BYTES_MAX else 4


def raw_size(n_items: int, n_bytes: int) -> int:
    """Return how many bytes a block holds that has so many items, of so many bytes together."""
    short = 2 * n_items + n_bytes
    return short if end_bytes(short) == 2 else 4 * n_items + n_bytes


def lengths_of(raw: bytes, n_items: int) -> list[int]:
    """Return the length of each item of what a block holds.

    Raises:
        ValueError: the items are not all that it holds, or it has none.
    """
    if not n_items:
        raise ValueError("the block has no items")
    width = end_bytes(len(raw))
    ends = struct.unpack_from(f"<{n_items}{_END_FORMATS[width]}", raw)
    lengths = [end - start for start, end in pairwise((0, *ends))]
    if min(lengths) < 0 or width * n_items + ends[-1] != len(raw):
        raise ValueError("the ends of the block's items are wrong")
    return lengths


def size_in_file(block_bytes: int, raw_bytes: int, item_bytes: int) -> int:
    """Return the class of what an item takes of its file: its share of its block, with its end and the header.

    Args:
        block_bytes: The block's, with its header.
        raw_bytes: What the block holds, decompressed.
        item_bytes: The item's.
    """
    return size_class(max(1, round(block_bytes / raw_bytes * (item_bytes + end_bytes(raw_bytes)))))


def item_of(raw: bytes, n_items: int, index: int) -> bytes:
    """Return an item of what a block holds.

    Raises:
        ValueError: there is none of this number, or its ends are not in the block.
    """
    if index >= n_items:
        raise ValueError(f"the block has {n_items} items, and no item {index}")
    width = end_bytes(len(raw))
    first, at = width * n_items, width * index
    start = int.from_bytes(raw[at - width : at], "little") if index else 0
    end = int.from_bytes(raw[at : at + width], "little")
    if start > end or first + end > len(raw):
        raise ValueError("the ends of the block's items are wrong")
    return raw[first + start : first + end]


def _checksum(salt: int, offset: int, checked: bytes, stored: bytes) -> int:
    return int(extend(extend(value(_SEED.pack(salt, offset)), checked), stored))
