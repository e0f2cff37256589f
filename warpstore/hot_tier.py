"""The hot tier: one table's records in one shard, in RAM, above its checkpoint.

Records are encoded values in hot maps by key, one map a slot: bytes keep the collector away, and many small maps grow
without a stall.

From newest to oldest a key is looked for in

* ``young``: the generation that is written now,
* ``frozen``: generations that were ended by a checkpoint's cut, or by a scan that reads one state while writes go on,
* ``clean``: copies of what the checkpoint holds, with `TOMBSTONE` for keys known to be absent from it,
* ``cold``: the checkpoint itself.

Young and frozen are what the checkpoint lacks. A frozen generation never changes, so a reader that holds it and the
checkpoint below holds one state. In all of them `TOMBSTONE` is a deleted key.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from warpstore._native import HotMap, MemoryPool, set_values
from warpstore.blocks import BlockFiles
from warpstore.checkpoint import Checkpoint, CheckpointTable, WouldBlock
from warpstore.key_order import KeyOrder
from warpstore.keys import HotKey, key_hash
from warpstore.parts import is_split_value
from warpstore.values import TOMBSTONE

MERGE_ON_LOOP_MAX = 4_096


class Loaded(NamedTuple):
    """What disk held for a key: true as long as the checkpoint is the tier's, and memory says nothing newer.

    Attributes:
        cold: The checkpoint's table that it was read from.
        value: The value, perhaps split; `TOMBSTONE` if there is none.
        whole: The value with its parts.
    """

    cold: CheckpointTable | None
    value: bytes
    whole: bytes


class Generation:
    """Records written between two freezes.

    Attributes:
        maps: One hot map a slot of the shard.
        order: Their keys in order.
        pins: Scans that read it.
        cut: Whether a checkpoint that is under way takes it in.
    """

    __slots__ = ("cut", "maps", "order", "pins")

    def __init__(self, n_slots: int, pool: MemoryPool | None = None) -> None:
        self.maps = [HotMap(pool, dirty=True) for _ in range(n_slots)]
        self.order = KeyOrder(self.maps)
        self.pins = 0
        self.cut = False

    def __len__(self) -> int:
        return sum(map(len, self.maps))


class Snapshot:
    """One state of a table in one shard: generations, newest first, over a checkpoint. Release it once."""

    __slots__ = ("checkpoint", "cold", "generations", "tier")

    def __init__(
        self, tier: HotTier, generations: list[Generation], cold: CheckpointTable | None, checkpoint: Checkpoint | None
    ) -> None:
        self.tier = tier
        self.generations = generations
        self.cold = cold
        self.checkpoint = checkpoint

    def release(self) -> None:
        """Let go of the generations and the checkpoint."""
        for generation in self.generations:
            generation.pins -= 1
        self.tier.collapse()
        if self.checkpoint is not None:
            self.checkpoint.release()


class HotTier:
    """One table's records in one shard.

    Args:
        table: The table's number.
        slots: The shard's slots.
        checkpoint: The shard's checkpoint, or None.
        pool: What counts its bytes, or None.
        on_growth: Called when a read has put something into memory, or None.
        blocks: Holds the parts of the records; None: they have no parts, or only ones that are not read.

    Attributes:
        on_change: Called when ``young`` or ``frozen`` became another object, so that fast paths can follow.
        revision: Grows when a checkpoint is installed; what was read from an older one must not be promoted.
    """

    __slots__ = (
        "_hand",
        "_on_growth",
        "_pool",
        "blocks",
        "checkpoint",
        "clean",
        "cold",
        "first_slot",
        "frozen",
        "on_change",
        "revision",
        "slots",
        "table",
        "young",
    )

    def __init__(
        self,
        table: int,
        slots: range,
        checkpoint: Checkpoint | None,
        pool: MemoryPool | None = None,
        on_growth: Callable[[], None] | None = None,
        blocks: BlockFiles | None = None,
    ) -> None:
        self.table = table
        self.slots = slots
        self.first_slot = slots.start
        self.young = Generation(len(slots), pool)
        self.frozen: list[Generation] = []
        self.clean = [HotMap(pool) for _ in slots]
        self._pool = pool
        self._on_growth = on_growth
        self.blocks = blocks
        self._hand = 0
        self.checkpoint = checkpoint
        self.cold: CheckpointTable | None = checkpoint.tables.get(table) if checkpoint else None
        self.revision = 0
        self.on_change: Callable[[HotTier], None] | None = None

    # One record

    def put(self, slot: int, key: HotKey, value: bytes) -> None:
        """Set a key's newest value; `TOMBSTONE` deletes it."""
        self.young.maps[slot - self.first_slot].set(key, value)

    def put_values(self, values: list[bytes]) -> None:
        """Set the newest values of their keys."""
        set_values(self.young.maps, self.first_slot, values)

    def in_memory(self, slot: int, key: HotKey) -> bytes | None:
        """Return the newest value if memory holds it (`TOMBSTONE`: absent), or None if only the checkpoint can tell."""
        i = slot - self.first_slot
        value = self.young.maps[i].get(key)
        if value is not None:
            return value
        for generation in self.frozen:
            value = generation.maps[i].get(key)
            if value is not None:
                return value
        value = self.clean[i].get(key)
        if value is None and self.cold is None:
            return TOMBSTONE
        return value

    def head(
        self, slot: int, key: HotKey, *, blocking: bool = False, loaded: Loaded | None = None
    ) -> bytes | WouldBlock:
        """Return the newest value, perhaps split, `TOMBSTONE` if none, or `WOULD_BLOCK`; promote what it reads.

        Args:
            slot: The key's slot.
            key: The key.
            blocking: Whether it may wait for the disk.
            loaded: What was read before: it counts where memory has let go of it already.

        Raises:
            CorruptionError: the checkpoint is damaged.
        """
        value = self.in_memory(slot, key)
        if value is not None:
            return value
        if loaded is not None and loaded.cold is self.cold:
            return loaded.value
        assert self.cold is not None
        found = self.cold.find(key_hash(key), key, blocking=blocking)
        return found if isinstance(found, WouldBlock) else self.promote(slot, key, found)

    def current(
        self, slot: int, key: HotKey, *, blocking: bool = False, loaded: Loaded | None = None
    ) -> bytes | WouldBlock:
        """Return the newest value with its parts; else as `head`.

        Raises:
            CorruptionError: the checkpoint or a block file is damaged.
        """
        value = self.head(slot, key, blocking=blocking, loaded=loaded)
        if self.blocks is None or isinstance(value, WouldBlock) or not value:
            return value
        if loaded is not None and (loaded.value == value or (loaded.cold is self.cold and is_split_value(value))):
            return loaded.whole  # what is split is clean: the same record, perhaps with its parts elsewhere
        return self.blocks.whole(value, blocking=blocking)

    def promote(self, slot: int, key: HotKey, found: bytes | None) -> bytes:
        """Keep what the checkpoint says about a key, and return it as a value."""
        value = TOMBSTONE if found is None else found
        self.clean[slot - self.first_slot].set(key, value)
        if self._on_growth is not None:
            self._on_growth()
        return value

    def evict(self, n_bytes: int) -> int:
        """Let go of clean values that were not looked up since this came by last; return the bytes that became free.

        Args:
            n_bytes: How many are wanted. It ends earlier after a look at every value.
        """
        freed = 0
        for _ in self.clean:
            freed += self.clean[self._hand].evict(n_bytes - freed)
            if freed >= n_bytes:
                break
            self._hand = (self._hand + 1) % len(self.clean)
        return freed

    def forget_pages(self) -> None:
        """Let go of the cached index pages of the checkpoint."""
        if self.cold is not None:
            self.cold.forget()

    # Generations

    def freeze(self) -> None:
        """End the young generation, if it holds anything, and begin another."""
        if any(self.young.maps):
            self.frozen.insert(0, self.young)
            self.young = Generation(len(self.slots), self._pool)
            self._changed()

    def snapshot(self) -> Snapshot:
        """Return the state of this moment, which stays readable until it is released."""
        self.freeze()
        generations = list(self.frozen)
        for generation in generations:
            generation.pins += 1
        if self.checkpoint is not None:
            self.checkpoint.acquire()
        return Snapshot(self, generations, self.cold, self.checkpoint)

    def collapse(self) -> None:
        """Merge the young generation into the one below it, if nobody reads that and the merge is short."""
        while self.frozen and not self.frozen[0].pins and not self.frozen[0].cut:
            if len(self.young) > MERGE_ON_LOOP_MAX:
                return
            below = self.frozen.pop(0)
            for older, newer in zip(below.maps, self.young.maps, strict=True):
                older.update(newer)
            self.young = below
            self._changed()

    def begin_cut(self) -> None:
        """Freeze, and mark every frozen generation as part of the checkpoint that begins."""
        self.freeze()
        for generation in self.frozen:
            generation.cut = True

    def abandon_cut(self) -> None:
        """The checkpoint failed: the generations are as dirty as before."""
        for generation in self.frozen:
            generation.cut = False
        self.collapse()

    async def install(self, checkpoint: Checkpoint, pause: Callable[[], Awaitable[None]]) -> None:
        """Put a checkpoint, which holds every generation marked by `begin_cut`, below the others."""
        cut = [generation for generation in self.frozen if generation.cut]
        before = self.checkpoint
        self.checkpoint, self.cold = checkpoint, checkpoint.tables.get(self.table)
        self.revision += 1
        gone = set() if before is None else set(before.block_numbers) - set(checkpoint.block_numbers)
        if self.blocks is not None and gone:
            self.clean = [HotMap(self._pool) for _ in self.slots]  # what is split may name a file that goes
            self._changed()
        for i, clean in enumerate(self.clean):
            for generation in reversed(cut):
                # Whole records are copied; of those with parts the heads come back with the next read.
                clean.update(generation.maps[i]) if self.blocks is None else clean.forget(generation.maps[i])
            clean.drop_tombstones()
            await pause()
        self.frozen = [generation for generation in self.frozen if not generation.cut]
        self._changed()
        self.collapse()

    def _changed(self) -> None:
        if self.on_change is not None:
            self.on_change(self)

    # Counting

    def n_resident(self) -> int:
        """Return how many entries memory holds, tombstones and replaced values included."""
        return len(self.young) + sum(map(len, self.frozen)) + sum(map(len, self.clean))
