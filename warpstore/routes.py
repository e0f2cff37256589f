"""The ways from a table's calls into the shards, by slot: what a hot path needs, found with one index.

A route or a reader is None where the quick way is closed (the shard is restarting, writers must wait, the store is
closed); the call then goes through the shard, which knows why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from warpstore.hot_tier import HotTier
from warpstore.keys import SLOTS, HotKey
from warpstore.shard import Shard

Dict = dict[HotKey, bytes]
Post = Callable[[Any, int], "asyncio.Future[None]"]


class Route(NamedTuple):
    """Where a relaxed write goes: the young dictionary, the shard's pending payloads, and how to announce the first."""

    young: Dict
    pending: list[bytes]
    ask: Callable[[], None]


class TableRoutes:
    """One table's ways into the shards.

    Attributes:
        routes: Per slot, where a relaxed write goes, or None.
        readers: Per slot, the dictionaries a read looks into, newest first, or None.
        shards: Per slot, the shard, or None before it was started.
        tiers: Per slot, the hot tier.
        posts: Per slot, the post of the shard's mailbox where writes are durable, or None.
        known: The table's decoded records, each with the dictionaries that say whether it still is the newest; emptied
            when those change.
    """

    __slots__ = ("known", "posts", "readers", "routes", "shards", "table", "tiers")

    def __init__(self, table: int) -> None:
        self.table = table
        self.routes: list[Route | None] = [None] * SLOTS
        self.posts: list[Post | None] = [None] * SLOTS
        self.readers: list[tuple[Dict, ...] | None] = [None] * SLOTS
        self.shards: list[Shard | None] = [None] * SLOTS
        self.tiers: list[HotTier | None] = [None] * SLOTS
        self.known: dict[Any, Any] = {}

    def follow(self, shard: Shard) -> None:
        """Take in what a shard's tier for this table is now."""
        self.known.clear()
        tier = shard.tiers[self.table]
        for i, slot in enumerate(shard.slots):
            young = tier.young.dicts[i]
            self.shards[slot] = shard
            self.tiers[slot] = tier
            frozen = [generation.dicts[i] for generation in tier.frozen]
            self.readers[slot] = (young, *frozen, tier.clean[i]) if shard.is_alive else None
            self.posts[slot] = shard.mailbox.post if shard.durable and shard.is_alive else None
            self.routes[slot] = Route(young, shard.pending, shard.ask) if shard.is_open else None

    def close(self) -> None:
        """Close every quick way."""
        self.routes[:] = [None] * SLOTS
        self.posts[:] = [None] * SLOTS
        self.readers[:] = [None] * SLOTS
        self.known.clear()
