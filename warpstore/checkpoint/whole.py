"""A checkpoint file as a whole: every checksum in it, and the store that it belongs to."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from google_crc32c import extend

from wal import File, FileSystem
from warpstore.checkpoint.format import (
    FOOTER_BYTES,
    PAGE_BYTES,
    ROOT_HEADER,
    BlockEntry,
    Directory,
    TableEntry,
    checksum,
    pack_footer,
    unpack_footer,
)
from warpstore.checkpoint.reader import Checkpoint
from warpstore.errors import CorruptionError

READ_BYTES = 512 << 10

_Part = tuple[int, int, int]
"""A part's offset and bytes, and its checksum; below zero: its first four bytes have it."""


def verified_crc(files: FileSystem, path: str, *, store_id: bytes, shard: int) -> int:
    """Return the CRC32C of a checkpoint file after a check of every block, page and root in it; blocks.

    Raises:
        CorruptionError: a part is damaged, or bytes belong to no part.
        OSError: reading failed.

    Cost:
        One pass over the file, in reads of some 512 KiB.
    """
    Checkpoint.open(files, path, store_id=store_id, shard=shard).release()
    file = files.open(path)
    try:
        end = file.size() - FOOTER_BYTES
        footer = file.read(FOOTER_BYTES, end)
        offset, n_bytes, _, salt, _ = unpack_footer(footer)
        encoded = file.read(n_bytes, offset)
        directory = msgspec.msgpack.decode(encoded, type=Directory)
        crc = at = 0
        for table in directory.tables:
            for parts in _reads(_parts(file, table, salt)):
                start = parts[0][0]
                if start != at:
                    raise CorruptionError.at(path, at, "these bytes belong to no part")
                at = parts[-1][0] + parts[-1][1]
                data = file.read(at - start, start)
                crc = extend(crc, data)
                for place, size, wanted in parts:
                    part = data[place - start : place - start + size]
                    if wanted < 0:
                        wanted, part, size = int.from_bytes(part[:4], "little"), part[4:], size - 4
                    if len(part) != size or checksum(salt, place, part) != wanted:
                        raise CorruptionError.at(path, place, "the checksum is wrong")
        if at != offset:
            raise CorruptionError.at(path, at, "these bytes belong to no part")
        return int(extend(extend(crc, encoded), footer))
    except (ValueError, msgspec.MsgspecError) as e:
        raise CorruptionError.at(path, 0, str(e)) from e
    finally:
        file.close()


def _parts(file: File, table: TableEntry, salt: int) -> Iterator[_Part]:
    """Yield the parts of a table in the order of the file."""
    offset, n_bytes = table.block_root
    root = file.read(n_bytes, offset)
    if len(root) != n_bytes or checksum(salt, offset, root[4:]) != int.from_bytes(root[:4], "little"):
        raise ValueError(f"the checksum of the root at {offset} is wrong")
    for block in msgspec.msgpack.decode(root[ROOT_HEADER.size :], type=list[BlockEntry]):
        yield block.offset, block.n_bytes, -1 if table.packed else block.crc
    for number in range(table.n_pages):
        yield table.pages_offset + number * PAGE_BYTES, PAGE_BYTES, -1
    yield *table.page_root, -1
    yield *table.block_root, -1


def _reads(parts: Iterator[_Part]) -> Iterator[list[_Part]]:
    """Yield parts that follow one another as what one read is to fetch."""
    taken: list[_Part] = []
    n_bytes = 0
    for part in parts:
        if taken and (n_bytes + part[1] > READ_BYTES or taken[-1][0] + taken[-1][1] != part[0]):
            yield taken
            taken, n_bytes = [], 0
        taken.append(part)
        n_bytes += part[1]
    if taken:
        yield taken


def give_to_store(file: File, before: bytes, store_id: bytes) -> None:
    """Let a checkpoint file belong to another store: only its footer names one. Not durable.

    Raises:
        ValueError: the footer is damaged, or names another store than ``before``.
        OSError: reading or writing failed.
    """
    end = file.size() - FOOTER_BYTES
    offset, n_bytes, _, salt, written_for = unpack_footer(file.read(FOOTER_BYTES, end))
    if written_for != before:
        raise ValueError("the checkpoint belongs to another store")
    file.write([pack_footer(offset, file.read(n_bytes, offset), salt, store_id)], end)
