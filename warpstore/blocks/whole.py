"""A block file as a whole: every checksum in it, and the store that it belongs to."""

from __future__ import annotations

from google_crc32c import extend

from wal import File, FileSystem
from warpstore.blocks.format import (
    BLOCK_HEADER_BYTES,
    FILE_HEADER_BYTES,
    FORMAT_VERSION,
    lengths_of,
    pack_file_header,
    unpack_block,
    unpack_block_header,
    unpack_file_header,
)
from warpstore.errors import CorruptionError


def verified_crc(files: FileSystem, path: str, *, store_id: bytes, number: int) -> int:
    """Return the CRC32C of a block file after a check of its header and every block in it; blocks.

    Raises:
        CorruptionError: it is damaged, newer than this warpstore, or of another store or number.
        OSError: reading failed.

    Cost:
        One pass over the file, a block at a time, each of which is decompressed.
    """
    file = files.open(path)
    at = 0
    try:
        header = file.read(FILE_HEADER_BYTES, 0)
        version, says, salt, written_for = unpack_file_header(header)
        if version > FORMAT_VERSION:
            raise ValueError(f"format version {version}, this warpstore reads up to {FORMAT_VERSION}")
        if (says, written_for) != (number, store_id):
            raise ValueError("the block file belongs to another store, or has another's name")
        crc, at, end = extend(0, header), FILE_HEADER_BYTES, file.size()
        while at < end:
            head = file.read(BLOCK_HEADER_BYTES, at)
            block = unpack_block_header(head)
            data = file.read(block.stored_bytes, at + BLOCK_HEADER_BYTES)
            lengths_of(unpack_block(salt, at, block, data), block.n_items)
            crc = extend(extend(crc, head), data)
            at += BLOCK_HEADER_BYTES + len(data)
        return int(crc)
    except ValueError as e:
        raise CorruptionError.at(path, at, e) from e
    finally:
        file.close()


def give_to_store(file: File, before: bytes, store_id: bytes) -> None:
    """Let a block file belong to another store: only its header names one. Not durable.

    Raises:
        ValueError: the header is damaged, or names another store than ``before``.
        OSError: reading or writing failed.
    """
    _, number, salt, written_for = unpack_file_header(file.read(FILE_HEADER_BYTES, 0))
    if written_for != before:
        raise ValueError("the block file belongs to another store")
    file.write([pack_file_header(number, salt, store_id)], 0)
