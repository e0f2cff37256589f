"""The blocks that were read last, decompressed, within a bound on their bytes."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

from warpstore._native import MemoryPool

_ENTRY_BYTES = 256  # the key, the entry, and the bytes object's head


class BlockCache:
    """Keeps decompressed blocks, the least recently used leaving first. Safe from any thread.

    Args:
        bytes_max: Bytes that it may hold; 0: it keeps nothing.
        pool: What they are charged to.
    """

    def __init__(self, bytes_max: int, pool: MemoryPool) -> None:
        self.bytes_max = bytes_max
        self.n_bytes = 0
        self._pool = pool
        self._blocks: OrderedDict[tuple[int, int], tuple[bytes, int]] = OrderedDict()
        self._lock = Lock()

    def get(self, file: int, offset: int) -> tuple[bytes, int] | None:
        """Return what a block holds and its number of items, or None."""
        with self._lock:
            block = self._blocks.get((file, offset))
            if block is not None:
                self._blocks.move_to_end((file, offset))
        return block

    def put(self, file: int, offset: int, raw: bytes, n_items: int) -> None:
        """Keep a block, if it is no larger than a quarter of the cache."""
        if 4 * len(raw) > self.bytes_max:
            return
        with self._lock:
            if (file, offset) not in self._blocks:
                self._blocks[(file, offset)] = raw, n_items
                self._grow(len(raw) + _ENTRY_BYTES)
            while self.n_bytes > self.bytes_max:
                self._drop_oldest()

    def evict(self, n_bytes: int) -> int:
        """Let go of the blocks used least recently; return the bytes that became free."""
        before = self.n_bytes
        with self._lock:
            while self._blocks and before - self.n_bytes < n_bytes:
                self._drop_oldest()
        return before - self.n_bytes

    def forget(self, file: int) -> None:
        """Let go of the blocks of a file."""
        with self._lock:
            for place in [place for place in self._blocks if place[0] == file]:
                raw, _ = self._blocks.pop(place)
                self._grow(-len(raw) - _ENTRY_BYTES)

    def _drop_oldest(self) -> None:
        _, (raw, _) = self._blocks.popitem(last=False)
        self._grow(-len(raw) - _ENTRY_BYTES)

    def _grow(self, n_bytes: int) -> None:
        self.n_bytes += n_bytes
        self._pool.charge(n_bytes)
