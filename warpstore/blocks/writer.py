"""Writes one block file, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable

from wal import File
from warpstore.blocks.format import pack_block, pack_file_header, raw_size, size_in_file
from warpstore.parts import ITEMS_MAX, PartPlan, Place

BLOCK_BYTES = {"lz4": 16 << 10, "max": 64 << 10, "none": 16 << 10}
"""Bytes gathered for a block, before compression. One read decompresses one block."""

_WRITE_BYTES = 1 << 20

Placed = Callable[[Place], None]


class _Gathering:
    """The block of one kind of part that is being filled."""

    __slots__ = ("items", "n_bytes", "waiting")

    def __init__(self) -> None:
        self.items: list[bytes] = []
        self.waiting: list[Placed] = []
        self.n_bytes = 0


class BlockWriter:
    """Gathers parts into blocks, those of each compression apart, and writes them into a new file.

    Args:
        create: Returns the new, empty file; called with the first part.
        number: The file's number.
        salt: A random 64-bit number.
        store_id: 16 bytes that name the store.

    Attributes:
        n_items: Parts written.
        n_bytes: Size of the file.
        n_placed: The sum of what its parts take, by their places.
    """

    def __init__(self, create: Callable[[], File], *, number: int, salt: int, store_id: bytes) -> None:
        self.number = number
        self.n_items = 0
        self.n_bytes = 0
        self.n_placed = 0
        self._create = create
        self._salt = salt
        self._store_id = store_id
        self._file: File | None = None
        self._gathering: dict[tuple[str, bool, int], _Gathering] = {}
        self._buffers: list[bytes] = []
        self._buffered = 0

    def add(self, part: bytes, plan: PartPlan, threshold: int, placed: Placed) -> None:
        """Add a part; ``placed`` is called with its place when its block is full, at the latest by `finish`.

        A part as large as a block is a block of its own.
        """
        kind = plan.compression, plan.cache, threshold
        if len(part) >= BLOCK_BYTES[plan.compression]:
            self._write_block(kind, [part], [placed])
            return
        gathering = self._gathering.get(kind)
        if gathering is None:
            gathering = self._gathering[kind] = _Gathering()
        gathering.items.append(part)
        gathering.waiting.append(placed)
        gathering.n_bytes += len(part)
        if gathering.n_bytes >= BLOCK_BYTES[plan.compression] or len(gathering.items) >= ITEMS_MAX:
            self._write_gathered(kind)

    def flush(self) -> None:
        """Write the blocks that are being filled, so that every part has its place."""
        for kind in list(self._gathering):
            self._write_gathered(kind)

    def _write_gathered(self, kind: tuple[str, bool, int]) -> None:
        gathering = self._gathering.pop(kind)
        self._write_block(kind, gathering.items, gathering.waiting)

    def _write_block(self, kind: tuple[str, bool, int], items: list[bytes], waiting: list[Placed]) -> None:
        if self._file is None:
            self._file = self._create()
            self._put(pack_file_header(self.number, self._salt, self._store_id))
        offset = self.n_bytes
        compression, cache, threshold = kind
        self._put(pack_block(self._salt, offset, items, compression, threshold, cache=cache))
        self.n_items += len(items)
        block_bytes, raw_bytes = self.n_bytes - offset, raw_size(len(items), sum(map(len, items)))
        for index, (item, placed) in enumerate(zip(items, waiting, strict=True)):
            place = Place(self.number, offset, index, size_in_file(block_bytes, raw_bytes, len(item)))
            self.n_placed += place.n_bytes
            placed(place)

    def _put(self, data: bytes) -> None:
        self._buffers.append(data)
        self._buffered += len(data)
        self.n_bytes += len(data)
        if self._buffered >= _WRITE_BYTES:
            self._write()

    def _write(self) -> None:
        assert self._file is not None
        self._file.write(self._buffers, self.n_bytes - self._buffered)
        self._buffers, self._buffered = [], 0

    def finish(self) -> bool:
        """Write what is left and make the file durable; return whether there is one."""
        self.flush()
        if self._file is None:
            return False
        if self._buffers:
            self._write()
        self._file.sync()
        return True

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
