"""The caps on memory: the store's ``ram``, and those of the pools that `Strategy` names.

Hot maps charge what they hold to a `MemoryPool`, every pool also to the store's. When a pool nears its cap, a clock
takes clean values out of its tables' hot tiers, those of low priority first, critical ones never: they are in the
checkpoint, and the next read brings them back. What is dirty becomes clean by a checkpoint; one is asked for long
before only that is left. Where neither is enough writers wait; after a checkpoint that has not helped they are refused.

The cap holds for the growth of RSS, so index pages of checkpoints and decoded records are charged too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wal import log_event
from warpstore._native import MemoryPool
from warpstore.blocks import BlockCache
from warpstore.errors import ConfigError, MemoryLimitError
from warpstore.process import State

if TYPE_CHECKING:
    from warpstore.checkpointer import Checkpointer
    from warpstore.context import StoreContext
    from warpstore.hot_tier import HotTier
    from warpstore.manifest import TableManifest
    from warpstore.strategy import Strategy

logger = logging.getLogger(__name__)

MEMORY = "memory"
"""The reason for which shards hold their writers."""

DECODED_BYTES = 2048
"""What a decoded record is taken to need."""

_DECODED_PART = 64  # of a pool may be decoded records
_BLOCKS_PART = 16  # of the store's may be decompressed blocks
_HIGH, _LOW = 0.98, 0.96
_DIRTY_MAX = 0.4
_SLICE_BYTES = 64 << 10
_RETRY_S = 1.0  # after a checkpoint that failed, if no writer waits
_PRIORITIES = ("low", "normal", "critical")


def priority_of(table: TableManifest) -> str:
    """Return the priority of a table's records: the highest of its `Memory` fields; normal where there are none.

    The key's own marker counts for nothing: a key is where its record is.
    """
    fields = table.schemas[-1].schema["fields"][1:]
    named = [str(entry["options"].get("priority", "normal")) for entry in fields if entry["tier"] == "memory"]
    return max(named, key=_PRIORITIES.index, default="normal")


def check_pools(strategies: Iterable[Strategy | None]) -> None:
    """Raise `ConfigError` if two types name one pool and different caps for it."""
    caps: dict[str, int] = {}
    for strategy in strategies:
        n_bytes = None if strategy is None else strategy.bytes("memory_pool_bytes")
        if strategy is not None and n_bytes is not None:
            name = strategy.memory_pool
            if caps.setdefault(name, n_bytes) != n_bytes:
                raise ConfigError(
                    f"memory_pool_bytes: two types name the pool {name!r}, with {caps[name]} and {n_bytes} bytes",
                    setting="memory_pool_bytes",
                )


@dataclass(slots=True, eq=False)
class Cap:
    """A pool and its cap.

    Attributes:
        name: The pool's name; "" for the store.
        pool: What counts.
        limit: Bytes that it may reach; None: there is no cap of its own.
        tables: Tables whose records it holds, by number, with their priority.
    """

    name: str
    pool: MemoryPool
    limit: int | None
    tables: dict[int, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"the pool {self.name!r}" if self.name else "ram"


class MemoryCaps:
    """Keeps the hot tiers of a store within its caps.

    Args:
        context: The store's.
        ram: The store's cap in bytes, or None.
        block_cache_bytes: What decompressed blocks may take, and no more than a sixteenth of ``ram``.

    Attributes:
        block_cache: Keeps those blocks.
    """

    def __init__(self, context: StoreContext, ram: int | None, block_cache_bytes: int) -> None:
        self._context = context
        self._store = Cap("", MemoryPool(), ram)
        bytes_max = block_cache_bytes if ram is None else min(block_cache_bytes, ram // _BLOCKS_PART)
        self.block_cache = BlockCache(bytes_max, self._store.pool)
        self._pools: dict[str, Cap] = {}
        self._capped: list[Cap] = []
        self._hand = 0
        self._over: Cap | None = None  # the pool for which writers wait
        self._asked: Checkpointer | None = None  # for a checkpoint, and has not answered
        self._retry_at = 0.0  # no checkpoint is asked for before, if no writer waits
        self._hopeless: tuple[Cap, int] | None = None  # where a checkpoint left a pool above its cap

    @property
    def is_active(self) -> bool:
        """Whether there is any cap."""
        return bool(self._capped)

    @property
    def is_over(self) -> bool:
        """Whether writers wait for memory."""
        return self._over is not None

    @property
    def n_bytes(self) -> int:
        """Bytes that the hot tiers hold."""
        return self._store.pool.n_bytes

    @property
    def dirty_bytes(self) -> int:
        """Those of them that no checkpoint holds."""
        return self._store.pool.dirty_bytes

    def add_table(self, number: int, priority: str, strategy: Strategy | None) -> MemoryPool:
        """Return the pool of a table; see `check_pools`."""
        name = "default" if strategy is None else strategy.memory_pool
        n_bytes = None if strategy is None else strategy.bytes("memory_pool_bytes")
        cap = self._pools.get(name)
        if cap is None:
            cap = self._pools[name] = Cap(name, MemoryPool(self._store.pool), n_bytes)
        elif n_bytes is not None:
            cap.limit = n_bytes
        cap.tables[number] = self._store.tables[number] = priority
        self._capped = [cap for cap in (*self._pools.values(), self._store) if cap.limit is not None]
        return cap.pool

    def decoded_records(self, number: int, wanted: int) -> int:
        """Return how many decoded records a table may keep, a power of two or 0, and charge them to its pool."""
        for cap in self._pools.values():
            if number in cap.tables:
                limit = min((c.limit for c in (cap, self._store) if c.limit is not None), default=None)
                while limit is not None and wanted * DECODED_BYTES > limit // _DECODED_PART:
                    wanted //= 2
                cap.pool.charge(wanted * DECODED_BYTES)
        return wanted

    # Keeping within the caps

    def check(self) -> None:
        """Make room in pools that near their caps. Cheap; called after whatever may have grown one."""
        for cap in self._capped:
            assert cap.limit is not None
            if cap.pool.n_bytes > _HIGH * cap.limit:
                self._relieve(cap, cap.limit)
            elif self._over is cap:
                self._release()
            if cap.pool.dirty_bytes > _DIRTY_MAX * cap.limit:
                self._ask_for_checkpoint()

    def _relieve(self, cap: Cap, limit: int) -> None:
        self._evict(cap, cap.pool.n_bytes - int(_LOW * limit))
        if cap.pool.n_bytes > limit:
            for tier in self._tiers(cap.tables):
                tier.forget_pages()
            if cap is self._store:
                self.block_cache.evict(cap.pool.n_bytes - limit)
        if cap.pool.n_bytes > limit:
            self._over = cap
            for shard in self._context.shards.values():
                shard.hold_writers(MEMORY)
            if cap.pool.dirty_bytes:
                self._ask_for_checkpoint()
        elif self._over is cap:
            self._release()

    def _evict(self, cap: Cap, wanted: int) -> None:
        for priority in _PRIORITIES[:2]:
            tiers = list(self._tiers(number for number, of in cap.tables.items() if of == priority))
            n_idle = 0  # tiers in a row that gave nothing; the clock may have to come by twice
            while tiers and wanted > 0 and n_idle <= 2 * len(tiers):
                self._hand += 1
                freed = tiers[self._hand % len(tiers)].evict(min(wanted, _SLICE_BYTES))
                wanted -= freed
                n_idle = 0 if freed else n_idle + 1

    def _tiers(self, tables: Iterable[int]) -> Iterable[HotTier]:
        for number in tables:
            for shard in self._context.shards.values():
                tier = shard.tiers.get(number)
                if tier is not None:
                    yield tier

    def _release(self) -> None:
        self._over = None
        for shard in self._context.shards.values():
            shard.release_writers(MEMORY)

    def _ask_for_checkpoint(self, *, writer_waits: bool = False) -> None:
        checkpointer = self._context.checkpointer
        if checkpointer is None or checkpointer is self._asked or self._context.closed is not None:
            return
        is_time = writer_waits or self._context.clock.monotonic() >= self._retry_at
        if is_time and checkpointer.state in {State.STARTING, State.RUNNING}:
            self._asked = checkpointer
            checkpointer.cast_nowait("memory is short")

    def _refuse(self, cap: Cap, error: Exception | None) -> None:
        why = "nothing in it may leave memory" if error is None else f"the checkpoint failed: {error}"
        refusal = MemoryLimitError(
            f"{cap} is at its cap: {cap.pool.n_bytes} bytes of {cap.limit}, and {why}; raise the cap, or delete"
        )
        refusal.__cause__ = error
        log_event(logger, logging.WARNING, "memory_limit_reached", pool=cap.name or "ram", bytes=cap.pool.n_bytes)
        for shard in self._context.shards.values():
            shard.refuse_waiting(refusal)

    # What others tell it

    def admit(self, table: int, n_bytes: int) -> None:
        """Make room for a batch of a table, as far as that needs no wait.

        Raises:
            MemoryLimitError: it is larger than a cap.
        """
        for cap in self._capped:
            if table in cap.tables and cap.limit is not None:
                if n_bytes > cap.limit:
                    raise MemoryLimitError(
                        f"a batch of {n_bytes} bytes: {cap} has a cap of {cap.limit}; split the batch, or raise the cap"
                    )
                if cap.pool.n_bytes + n_bytes > _HIGH * cap.limit:
                    self._evict(cap, cap.pool.n_bytes + n_bytes - int(_LOW * cap.limit))

    def writer_waits(self) -> None:
        """A writer has come while writers are held."""
        cap = self._over
        if cap is None:
            return
        if self._asked is None and self._hopeless == (cap, cap.pool.n_bytes):
            self._refuse(cap, None)
        else:
            self._ask_for_checkpoint(writer_waits=True)

    def checkpointer_started(self) -> None:
        """There is a checkpointer, perhaps in the place of one that failed with what it was asked for."""
        self._retry_at = 0.0
        self.check()

    def checkpointed(self, error: Exception | None) -> None:
        """A checkpoint has ended: what was dirty at its beginning is clean, unless it failed."""
        self._asked = None
        self._hopeless = None
        self._retry_at = 0.0 if error is None else self._context.clock.monotonic() + _RETRY_S
        self.check()
        cap = self._over
        if cap is None or (error is None and cap.pool.dirty_bytes):  # the next checkpoint, asked for already, helps
            return
        if error is None:
            self._hopeless = (cap, cap.pool.n_bytes)
        self._refuse(cap, error)
