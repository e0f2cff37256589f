"""Packed blocks: those of a table whose records have parts in block files.

What a checkpoint keeps of such a record is short and much like its neighbours: a key, and where its parts are. So these
blocks are compressed, they are small, and the index names the block: a read of one record fetches and unpacks its
block, and looks for the key in it.

::

    packed block    crc u32 | raw u32 | lz4 of a block of ``raw`` bytes; that block itself if it would not shrink

The CRC32C covers the file's salt, the block's own offset and all behind it.
"""

from __future__ import annotations

import lz4.block

from warpstore.blocks.format import RAW_BYTES_MAX
from warpstore.checkpoint.format import PACKED_HEADER, checksum

PACKED_BYTES = 4 << 10
"""Bytes gathered for a packed block, before compression."""


def pack(salt: int, offset: int, raw: bytes) -> bytes:
    """Return the packed form of a block for an offset of the file with this salt."""
    shrunk = lz4.block.compress(raw, store_size=False)
    body = PACKED_HEADER.pack(0, len(raw))[4:] + (shrunk if len(shrunk) < len(raw) else raw)
    return checksum(salt, offset, body).to_bytes(4, "little") + body


def unpack(salt: int, offset: int, data: bytes) -> bytes:
    """Return the block that was packed.

    Raises:
        ValueError: it is damaged.
    """
    if len(data) < PACKED_HEADER.size or checksum(salt, offset, data[4:]) != int.from_bytes(data[:4], "little"):
        raise ValueError("the checksum of a block is wrong")
    n_bytes, stored = PACKED_HEADER.unpack_from(data)[1], data[PACKED_HEADER.size :]
    if n_bytes == len(stored):
        return stored
    if n_bytes > RAW_BYTES_MAX:
        raise ValueError("a block says that it is larger than a block can be")
    try:
        raw = lz4.block.decompress(stored, uncompressed_size=n_bytes)
    except lz4.block.LZ4BlockError as e:
        raise ValueError(f"a block does not decompress: {e}") from e
    if len(raw) != n_bytes:
        raise ValueError("a block has another size than its header says")
    return bytes(raw)
