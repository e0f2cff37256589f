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
from warpstore.hot_tier import HotTier
from warpstore.keys import HotKey, slot_of
from warpstore.routes import TableRoutes
from warpstore.shard import Batch, Operation, Shard, Write
from warpstore.values import split_payload

if TYPE_CHECKING:
    from warpstore.context import StoreContext

BATCH_BYTES_MAX = 64 << 20
YIELD_MASK = 127
"""A relaxed writer lets the loop turn when a shard has this many payloads pending, and one more."""
YIELD_BYTES = 64 << 10
"""A relaxed writer of a value of more bytes lets the loop turn."""
_OPERATIONS_PER_PAUSE = 128


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

    def values(self, routed: Sequence[tuple[int, HotKey]]) -> list[bytes | None]:
        """Return what memory holds for each key; None where only the checkpoint can tell."""
        memory, tiers = self._slots.memory, self._slots.tiers
        assert memory is not None
        values: list[bytes | None] = []
        for slot, hot in routed:
            value = memory._value(hot)
            if value is None:
                self.readable(slot)
                value = tiers[slot].in_memory(slot, hot)  # type: ignore[union-attr]
            values.append(value)
        return values

    async def load(self, slot: int, hot: HotKey) -> bytes:
        """Return the newest value, `TOMBSTONE` if there is none, from memory or from disk."""
        while True:
            self.readable(slot)
            tier = self.tier(slot)
            value = tier.current(slot, hot)
            if not isinstance(value, WouldBlock):
                return value
            await self._context.load([(tier, slot, hot)])

    async def load_missing(self, routed: Sequence[tuple[int, HotKey]], values: list[bytes | None]) -> None:
        """Fill in what memory did not hold: from the page cache here, the rest with one thread hop."""
        missing: list[tuple[int, int, HotKey]] = []
        for i, (slot, hot) in enumerate(routed):
            if values[i] is None:
                value = self.tier(slot).current(slot, hot)
                if isinstance(value, WouldBlock):
                    missing.append((i, slot, hot))
                else:
                    values[i] = value
        if missing:
            await self._context.load([(self.tier(slot), slot, hot) for _, slot, hot in missing])
            for i, slot, hot in missing:
                values[i] = await self.load(slot, hot)

    # Writes

    async def write(self, write: Write) -> None:
        """Make one write, waiting for room, and in "fsync" mode until it is durable."""
        shard = self.writable(write[1])
        while shard.is_held:
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
        waits = []
        for part, n_bytes in zip(parts, sizes, strict=True):
            if not part:
                continue
            slot = slot_of(split_payload(part[0])[1])
            shard = self.writable(slot)
            while shard.is_held:
                await shard.room()
                shard = self.writable(slot)
            if shard.durable:
                size = min(n_bytes, shard.mailbox.bytes_max)
                waits.append(await shard.mailbox.post_when_room(Batch(self.tier(slot), part), size))
                continue
            shard.write_batch_now(Batch(self.tier(slot), part))
        for done in waits:
            await done
        await asyncio.sleep(0)

    async def operate(self, slot: int, key: HotKey, decide: Callable[[bytes], tuple[bytes, bytes] | None]) -> None:
        """Run a conditional write where the order of writes is decided, loading the record first if it is on disk."""
        while True:
            shard = self.writable(slot)
            if shard.is_held:
                await shard.room()
                continue
            operation = Operation(self.tier(slot), slot, key, decide)
            if shard.durable:
                await (await shard.mailbox.post_when_room(operation))
                if operation.error is not None:
                    raise operation.error
            else:
                shard.operate_now(operation)
                self._n_operations += 1
                if not self._n_operations % _OPERATIONS_PER_PAUSE:
                    await asyncio.sleep(0)
            if not operation.must_load:
                return
            await self._context.load([(operation.tier, slot, key)])
