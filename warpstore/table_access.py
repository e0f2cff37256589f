"""The long ways from a table to its shards: for what its quick ways cannot do at once.

A shard that restarts, writers that must wait, a record that is on disk, a conditional write, a batch: here a call finds
out who serves it, waits where it has to, and raises what is to be raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from warpstore.checkpoint import WouldBlock
from warpstore.errors import LimitError, OverloadedError
from warpstore.hot_tier import HotTier, Loaded
from warpstore.keys import HotKey, slot_of
from warpstore.memory_cap import MEMORY
from warpstore.parts import is_split_value
from warpstore.routes import TableRoutes
from warpstore.shard import Batch, Operation, Pair, PairOperation, Shard, Write
from warpstore.values import TOMBSTONE, split_payload
from warpstore.would_block import WOULD_BLOCK

if TYPE_CHECKING:
    from warpstore.context import StoreContext

BATCH_BYTES_MAX = 64 << 20
YIELD_MASK = 127
"""A relaxed writer lets the loop turn when a shard has this many payloads pending, and one more."""
YIELD_BYTES = 64 << 10
"""A relaxed writer of a value of more bytes lets the loop turn."""
_OPERATIONS_PER_PAUSE = 128
_FRUITLESS_MAX = 16
"""Reads of a batch from the page cache that may be in vain, beyond those that are not."""


class TableAccess:
    """One table's long ways to its shards.

    Args:
        context: The store's.
        routes: The table's ways into the shards.
        name: The table's name, for errors.
    """

    __slots__ = ("_context", "_n_operations", "_name", "_slots")

    def __init__(self, context: StoreContext, routes: TableRoutes, name: str) -> None:
        self._context = context
        self._slots = routes
        self._name = name
        self._n_operations = 0

    # Who serves a slot

    def tier(self, slot: int) -> HotTier:
        """Return a slot's hot tier."""
        tier = self._slots.tiers[slot]
        assert tier is not None
        return tier

    def tiers(self) -> list[HotTier]:
        """Return the table's hot tiers, one a shard."""
        return list(self._slots.by_shard.values())

    def shard(self, slot: int) -> Shard:
        """Return a slot's shard, whether it is alive or not.

        Raises:
            UsageError: the call may not be served at all.
        """
        self._context.check()
        shard = self._slots.shards[slot]
        assert shard is not None
        return shard

    def readable(self, slot: int) -> Shard:
        """Return a slot's shard, which answers reads.

        Raises:
            ShardUnavailableError: it is restarting.
        """
        shard = self.shard(slot)
        if not shard.is_alive and self._context.read_only is None:
            raise shard.ended_error(shard.reason or "shutdown", in_hand=False)
        return shard

    def writable(self, slot: int) -> Shard:
        """Return a slot's shard, which takes writes.

        Raises:
            ShardUnavailableError: it is restarting.
            ReadOnlyStoreError: restarts were exhausted.
        """
        shard = self.shard(slot)
        if self._context.read_only is not None:
            raise self._context.read_only.with_traceback(None)
        if not shard.is_alive:
            raise shard.ended_error(shard.reason or "shutdown", in_hand=False)
        return shard

    # Reads

    async def values(self, routed: Sequence[tuple[int, HotKey]], *, whole: bool) -> list[bytes]:
        """Return the newest value of each key, `TOMBSTONE` where there is none.

        What is on disk comes from the page cache here, the rest with one thread hop.

        Args:
            routed: The keys with their slots.
            whole: Whether values are wanted with their parts; else they may be split.
        """
        memory = self._slots.memory
        values: list[bytes] = []
        missing: list[int] = []
        split: list[int] = []
        n_blocked = n_read = 0  # of those that memory lacks
        for slot, hot in routed:
            value: bytes | WouldBlock | None = None if memory is None else memory._value(hot)
            if value is None:
                self.readable(slot)
                tier = self.tier(slot)
                if n_blocked > n_read + _FRUITLESS_MAX:  # the page cache has little of them: look no more
                    value = tier.in_memory(slot, hot)
                    value = WOULD_BLOCK if value is None else value
                else:
                    value = tier.head(slot, hot)
                    n_blocked += value is WOULD_BLOCK
                    n_read += value is not WOULD_BLOCK
            if isinstance(value, WouldBlock):
                missing.append(len(values))
                value = TOMBSTONE
            elif whole and value and is_split_value(value):
                split.append(len(values))
            values.append(value)
        if split:
            joined = self._context.blocks.whole_many_nowait([values[i] for i in split])
            for i, one in zip(split, joined, strict=True):
                if isinstance(one, bytes):
                    values[i] = one
                else:
                    missing.append(i)
        if missing:
            found = await self._context.load([(self.tier(routed[i][0]), *routed[i]) for i in missing])
            for i, loaded in zip(missing, found, strict=True):
                values[i] = await self._load(*routed[i], loaded, whole=whole)
        return values

    async def load(self, slot: int, hot: HotKey) -> bytes:
        """Return the newest value with its parts, `TOMBSTONE` if there is none, from memory or from disk."""
        return await self._load(slot, hot, None, whole=True)

    async def _load(self, slot: int, hot: HotKey, loaded: Loaded | None, *, whole: bool) -> bytes:
        while True:
            self.readable(slot)
            tier = self.tier(slot)
            value = (tier.current if whole else tier.head)(slot, hot, loaded=loaded)
            if not isinstance(value, WouldBlock):
                return value
            (loaded,) = await self._context.load([(tier, slot, hot)])

    # Writes

    async def write(self, write: Write) -> None:
        """Make one write, waiting for room, and in "fsync" mode until it is durable."""
        shard = self.writable(write[1])
        while shard.is_held():
            await shard.room()
            shard = self.writable(write[1])
        if shard.durable:
            size = len(write[4])
            try:
                done = shard.mailbox.post(write, size)
            except OverloadedError:
                done = await shard.mailbox.post_when_room(write, size)
            await done
            return
        shard.write_now((self.tier(write[1]), *write[1:]))
        if not len(shard.pending) & YIELD_MASK or len(write[4]) > YIELD_BYTES:
            await asyncio.sleep(0)

    def new_parts(self) -> tuple[list[list[bytes]], list[list[bytes]]]:
        """Return empty lists for the values of a batch: each shard's under all of its slots, and once each."""
        parts: dict[int, list[bytes]] = {}
        by_slot = [parts.setdefault(0 if shard is None else shard.index, []) for shard in self._slots.shards]
        return by_slot, list(parts.values())

    async def write_batch(self, parts: list[list[bytes]]) -> None:
        """Write a batch: to each shard its part, as one."""
        sizes = [sum(map(len, part)) for part in parts]
        for part, n_bytes in zip(parts, sizes, strict=True):
            if n_bytes > BATCH_BYTES_MAX:
                raise LimitError(
                    f"{self._name}: {len(part)} records of one batch fall into one shard and have {n_bytes} bytes, the"
                    f" limit is {BATCH_BYTES_MAX}; split the batch"
                )
        self._context.caps.admit(self._slots.table, sum(sizes))
        slots = [slot_of(split_payload(part[0])[1]) if part else -1 for part in parts]
        while held := [slot for slot in slots if slot >= 0 and self.writable(slot).is_held()]:
            await self.writable(held[0]).room()
        waits = []
        for part, n_bytes, slot in zip(parts, sizes, slots, strict=True):
            if not part:
                continue
            shard = self.writable(slot)
            if shard.durable:
                size = min(n_bytes, shard.mailbox.bytes_max)
                waits.append(await shard.mailbox.post_when_room(Batch(self.tier(slot), part), size))
                continue
            shard.write_batch_now(Batch(self.tier(slot), part))
        for done in waits:
            await done
        await asyncio.sleep(0)

    async def operate(
        self,
        slot: int,
        key: HotKey,
        decide: Callable[[bytes], tuple[bytes, bytes] | None],
        *,
        frees_memory: bool = False,
    ) -> None:
        """Run a conditional write where the order of writes is decided, loading the record first if it is on disk.

        Args:
            slot: The key's slot.
            key: The key.
            decide: As for `Operation`.
            frees_memory: Whether it deletes; then it does not wait for memory.
        """
        loaded: Loaded | None = None
        while True:
            shard = await self._with_room(slot, frees_memory=frees_memory)
            operation = Operation(self.tier(slot), slot, key, decide, loaded)
            await self._run(shard, operation)
            if not operation.must_load:
                return
            (loaded,) = await self._context.load([(operation.tier, slot, key)])

    async def operate_pair(
        self,
        beside: TableAccess,
        slot: int,
        key: HotKey,
        decide: Callable[[bytes, bytes], Pair],
        *,
        frees_memory: bool = False,
    ) -> None:
        """Run a conditional write of a key in this table and another one: both are written as one, or none.

        Args:
            beside: The other table.
            slot: The key's slot.
            key: The key.
            decide: As for `PairOperation`.
            frees_memory: Whether it takes bytes out of memory; then it does not wait for memory.
        """
        loaded: tuple[Loaded | None, Loaded | None] = (None, None)
        while True:
            shard = await self._with_room(slot, frees_memory=frees_memory)
            operation = PairOperation(self.tier(slot), beside.tier(slot), slot, key, decide, loaded)
            await self._run(shard, operation)
            if not operation.must_load:
                return
            first, second = await self._context.load([(operation.tier, slot, key), (operation.beside, slot, key)])
            loaded = first, second

    async def load_pair(self, beside: TableAccess, slot: int, hot: HotKey) -> tuple[bytes, bytes]:
        """Return a key's newest values in this table and another one, perhaps split, as of the moment of the return."""
        loaded: tuple[Loaded | None, Loaded | None] = (None, None)
        while True:
            self.readable(slot)
            tiers = self.tier(slot), beside.tier(slot)
            first, second = (tier.head(slot, hot, loaded=one) for tier, one in zip(tiers, loaded, strict=True))
            if not isinstance(first, WouldBlock) and not isinstance(second, WouldBlock):
                return first, second
            one, other = await self._context.load([(tier, slot, hot) for tier in tiers])
            loaded = one, other

    async def _with_room(self, slot: int, *, frees_memory: bool) -> Shard:
        """Return a slot's shard when it takes a write."""
        but_for = MEMORY if frees_memory else ""
        shard = self.writable(slot)
        while shard.is_held(but_for=but_for):
            await shard.room(but_for=but_for)
            shard = self.writable(slot)
        return shard

    async def _run(self, shard: Shard, operation: Operation) -> None:
        """Have an operation decided once, and in "fsync" mode wait until it is durable."""
        if shard.durable:
            await (await shard.mailbox.post_when_room(operation))
            if operation.error is not None:
                raise operation.error
            return
        shard.operate_now(operation)
        self._n_operations += 1
        if not self._n_operations % _OPERATIONS_PER_PAUSE:
            await asyncio.sleep(0)
