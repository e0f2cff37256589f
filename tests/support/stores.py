"""Stores at rest for tests of tools: made in a moment, then damaged byte by byte."""

import asyncio
import struct
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

import warpstore as ws
from tests.support.worlds import Blob, Reading, Token, User, World, users
from wal import OsFileSystem
from warpstore import manifest as manifests
from warpstore.checkpoint.format import (
    FOOTER_BYTES,
    PAGE_BYTES,
    PAGE_HEADER,
    BlockUse,
    Directory,
    checksum,
    unpack_footer,
)
from warpstore.checkpoint.writer import CheckpointWriter
from warpstore.keys import HotKey

MODELS = (User, Reading, Blob, Token)


def make(path: Path, fill: Callable[[ws.Store], Awaitable[Any]], *models: type[ws.Record], **settings: Any) -> World:
    """Make a store, fill it and close it; return its world."""
    world = World(path)

    async def run() -> None:
        async with world.open(*(models or MODELS), **settings) as store:
            await fill(store)

    asyncio.run(run())
    return world


def make_users(path: Path, n: int = 400, **settings: Any) -> World:
    """Make a store with ``n`` users in a checkpoint."""

    async def fill(store: ws.Store) -> None:
        await store[User].put_many(users(0, n, note="x" * 200))
        await store.checkpoint()

    return make(path, fill, **settings)


def flip(path: Path, offset: int) -> None:
    """Change one byte of a file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x40
    path.write_bytes(data)


def files_of(path: Path) -> dict[str, tuple[bytes, int]]:
    """Return the bytes and the time of the last change of every file of a store."""
    return {str(f): (f.read_bytes(), f.stat().st_mtime_ns) for f in sorted(path.rglob("*")) if f.is_file()}


def checkpoint_file(path: Path, shard: int = 0) -> Path:
    """Return the checkpoint of a shard."""
    return path / "checkpoint" / manifests.read(OsFileSystem(), str(path)).shards[shard].name


def directory_of(checkpoint: Path) -> tuple[Directory, int]:
    """Return a checkpoint's directory and salt."""
    data = checkpoint.read_bytes()
    offset, size, _, salt, _ = unpack_footer(data[-FOOTER_BYTES:])
    return msgspec.msgpack.decode(data[offset : offset + size], type=Directory), salt


def rewrite_page(checkpoint: Path, number: int, edit: Callable[[bytearray], object], table: int = 0) -> int:
    """Change an index page and make its checksum right again; return where it is."""
    directory, salt = directory_of(checkpoint)
    offset = directory.tables[table].pages_offset + number * PAGE_BYTES
    data = bytearray(checkpoint.read_bytes())
    page = data[offset : offset + PAGE_BYTES]
    edit(page)
    page[:4] = checksum(salt, offset, bytes(page[4:])).to_bytes(4, "little")
    data[offset : offset + PAGE_BYTES] = page
    checkpoint.write_bytes(data)
    return offset


def replace_checkpoint(
    path: Path,
    table: int,
    records: Iterable[tuple[HotKey, bytes]],
    shard: int = 0,
    blocks: list[BlockUse] | None = None,
    *,
    packed: bool = False,
) -> Path:
    """Write a shard's checkpoint anew, with these records in this order and this list of block files."""
    files = OsFileSystem()
    manifest = manifests.read(files, str(path))
    target = path / "checkpoint" / manifest.shards[shard].name
    target.unlink()
    file = files.create(str(target))
    writer = CheckpointWriter(file, store_id=manifest.id_bytes, shard=shard, salt=77)
    writer.write_table(table, records, packed=packed)
    writer.finish(manifest.shards[shard].lsn, blocks)
    file.close()
    return target


def change_manifest(path: Path, **changes: Any) -> None:
    """Write the manifest anew with other attributes."""
    files = OsFileSystem()
    manifests.write(files, str(path), msgspec.structs.replace(manifests.read(files, str(path)), **changes))


def columns_of(page: bytes | bytearray) -> tuple[int, list[tuple[int, int]]]:
    """Return the entries of an index page; and where ranks, offsets, lengths and crcs start, each with its width."""
    n, *widths = struct.unpack_from("<HBBB", page, 4)
    columns, at = [], PAGE_HEADER.size
    for width in (4, *widths):
        columns.append((at, width))
        at += n * width
    return n, columns


def rewrite_root(checkpoint: Path, which: str, edit: Callable[[bytearray], object]) -> int:
    """Change what follows the header of the page root or block root, checksum made right; return where it is."""
    directory, salt = directory_of(checkpoint)
    offset, size = getattr(directory.tables[0], which)
    data = bytearray(checkpoint.read_bytes())
    body = data[offset + 8 : offset + size]
    edit(body)
    head = bytes(data[offset + 4 : offset + 8])
    data[offset : offset + 4] = checksum(salt, offset, head, bytes(body)).to_bytes(4, "little")
    data[offset + 8 : offset + size] = body
    checkpoint.write_bytes(data)
    return int(offset)
