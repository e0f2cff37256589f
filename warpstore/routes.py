"""The ways from a table's calls into the shards, by slot.

A slot of the table is closed where a call may not be served at once (the shard is restarting, writers must wait, the
store is closed); the call then goes through the shard, which knows why.
"""

from __future__ import annotations

from typing import Any

from warpstore._native import MemoryTable
from warpstore.hot_tier import HotTier
from warpstore.keys import SLOTS
from warpstore.shard import Shard


class TableRoutes:
    """One table's ways into the shards.

    Attributes:
        memory: The table itself, or None while it has no class.
        shards: Per slot, the shard, or None before it was started.
        tiers: Per slot, the hot tier.
        by_shard: The hot tier of each shard, by its number.
        has_quick_writes: Whether a write may go in without a look at what it replaces.
    """

    __slots__ = ("by_shard", "has_quick_writes", "memory", "shards", "table", "tiers")

    def __init__(self, table: int) -> None:
        self.table = table
        self.memory: MemoryTable[Any] | None = None
        self.has_quick_writes = True
        self.shards: list[Shard | None] = [None] * SLOTS
        self.tiers: list[HotTier | None] = [None] * SLOTS
        self.by_shard: dict[int, HotTier] = {}

    def attach(self, memory: MemoryTable[Any]) -> None:
        """Keep the slots of this table up to date from now on."""
        self.memory = memory
        self._follow_all()

    def close_quick_writes(self) -> None:
        """Have every write go the long way from now on."""
        self.has_quick_writes = False
        self._follow_all()

    def _follow_all(self) -> None:
        for shard in {id(shard): shard for shard in self.shards if shard is not None}.values():
            self.follow(shard)

    def follow(self, shard: Shard) -> None:
        """Take in what a shard's tier for this table is now."""
        tier = self.by_shard[shard.index] = shard.tiers[self.table]
        for i, slot in enumerate(shard.slots):
            self.shards[slot] = shard
            self.tiers[slot] = tier
            if self.memory is not None:
                maps = (tier.young.maps[i], *(generation.maps[i] for generation in tier.frozen), tier.clean[i])
                quick = self.has_quick_writes
                pending = shard.pending if shard.is_open and quick else None
                post = shard.mailbox.post if shard.takes_posts and quick else None
                self.memory._set_slot(slot, maps if shard.is_alive else None, pending, shard.ask, post, tier)

    def close(self) -> None:
        """Close every quick way."""
        if self.memory is not None:
            self.memory._close_slots()
