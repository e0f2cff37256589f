"""Scans: a table's values in key order, over all its shards, as of one moment.

Each shard gives its values range by range: a range is a block of its checkpoint with what was written since laid over
it, or, where there is no checkpoint, a slice of the sorted keys. The shards' ranges are merged by sorting what all of
them have up to the least of their ends: they are sorted runs, which `sorted` merges in one pass.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from warpstore.checkpoint import Block, CheckpointTable, WouldBlock
from warpstore.errors import ValidationError
from warpstore.hot_tier import HotTier, Snapshot
from warpstore.keys import HotKey, key_hash, slot_of
from warpstore.values import DEADLINE_BYTE, DEADLINE_BYTES, deadline_of, split_payload

if TYPE_CHECKING:
    from warpstore.codec import Codec
    from warpstore.context import StoreContext

KEYS_PER_RANGE = 512
READY_MIN = 16
CHUNK_MAX = 256
BLOCKS_PER_READ = 8
RECORDS_PER_PAUSE = 1_024
COUNTED_PER_PAUSE = 4_096
_HIGHEST = "\U0010ffff"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanBounds:
    """What a scan covers: start <= key < stop, at most ``limit`` records."""

    start: HotKey | None
    stop: HotKey | None
    limit: int | None

    @classmethod
    def of(cls, codec: Codec[Any], start: Any, stop: Any, prefix: Any, limit: int | None) -> ScanBounds:
        """Return the bounds for what a caller gave.

        Raises:
            ValidationError: a bound has the wrong type, or ``prefix`` comes with others.
        """
        if limit is not None and (type(limit) is not int or limit < 0):
            raise ValidationError(f"limit={limit!r}: must be a whole number, 0 or more", field="limit")
        if prefix is not None:
            if start is not None or stop is not None:
                raise ValidationError("prefix= comes without start= and stop=", field="prefix")
            kind = codec.plan.key_kind
            if kind not in {"str", "bytes"} or type(prefix).__name__ != kind:
                raise ValidationError(f"prefix={prefix!r}: the keys are {kind}", field="prefix")
            return cls(start=prefix, stop=after_prefix(prefix), limit=limit)
        return cls(start=_bound(codec, "start", start), stop=_bound(codec, "stop", stop), limit=limit)


def _bound(codec: Codec[Any], name: str, value: Any) -> HotKey | None:
    if value is None:
        return None
    kind = codec.plan.key_kind
    if value.__class__ is not {"str": str, "bytes": bytes, "int": int, "uuid": UUID}[kind]:
        raise ValidationError(f"{name}={value!r}: the keys are {kind}", field=name)
    return as_hot(value)


def as_hot(key: Any) -> HotKey | None:
    """Return a key as the hot tier holds it."""
    return key.bytes if isinstance(key, UUID) else key


def after_prefix(prefix: str | bytes) -> HotKey | None:
    """Return the least key that is greater than every key with this prefix, or None if there is none."""
    if isinstance(prefix, bytes):
        trimmed = prefix.rstrip(b"\xff")
        return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else None
    text = prefix.rstrip(_HIGHEST)
    if not text:
        return None
    following = ord(text[-1]) + 1
    return text[:-1] + chr(0xE000 if 0xD800 <= following <= 0xDFFF else following)


class _Part:
    """One shard's part of a scan: records that are ready, in the order of the scan, and how far they reach.

    Attributes:
        records: Ready records that were not handed out yet.
        keys: Their keys.
        reach: Every record before this key (from it on, in reverse) is ready; meaningless once ``done``.
        done: All are ready.
    """

    def __init__(self, snapshot: Snapshot, scan: _Scan) -> None:
        self.records: list[Any] = []
        self.keys: list[Any] = []
        self.reach: Any = None
        self.done = False
        self.snapshot = snapshot
        self._scan = scan
        self._numbers: range | None = None  # the blocks to read; None without a checkpoint
        self._next = 0
        self._ahead: list[Block] = []  # blocks read, in the order of the scan
        self._rows: tuple[Block, int, int] | None = None  # what is left of a block that nothing newer overlays
        self._edge = scan.bounds.stop if scan.reverse else scan.bounds.start

    async def open(self) -> None:
        scan, cold = self._scan, self.snapshot.cold
        for generation in self.snapshot.generations:
            await generation.order.refresh(scan.context.pause)
        if cold is not None and cold.n_records:
            if not cold.roots_loaded:
                await scan.context.run(lambda: cold.block_numbers(None, None))
            self._numbers = cold.block_numbers(scan.bounds.start, scan.bounds.stop)

    async def fill(self, wanted: int) -> None:
        """Make more records ready: about ``wanted``, at least one range."""
        if self._numbers is None:
            rows = self._next_in_memory()
        elif self._rows is not None:
            rows = self._next_rows(wanted)
        elif self._next < len(self._numbers):
            rows = await self._next_block(wanted)
        else:
            rows = self._between(self._scan.bounds.start, self._scan.bounds.stop)
            self.done = True
        self.records += rows
        self.keys += map(self._scan.key_of_record, rows)
        if self._rows is not None:
            self.reach = self.keys[-1]

    async def _next_block(self, wanted: int) -> list[Any]:
        scan, cold, numbers = self._scan, self.snapshot.cold, self._numbers
        assert cold is not None
        assert numbers is not None
        if not self._ahead:
            await self._read_ahead(wanted)
        number = numbers[-1 - self._next] if scan.reverse else numbers[self._next]
        block = self._ahead.pop(0)
        self._next += 1
        first, last = number == numbers[0], number == numbers[-1]
        low = scan.bounds.start if first else cold.first_key(number)
        high = scan.bounds.stop if last else cold.first_key(number + 1)
        self.done = first if scan.reverse else last
        self.reach = scan.as_key(low if scan.reverse else high)
        start = 0 if not first or low is None else block.first_not_before(low)
        stop = len(block) if not last or high is None else block.first_not_before(high)
        newer = self._newer(low, high)
        if newer:
            rows = {split_payload(payload)[1]: payload for payload in map(block.payload, range(start, stop))}
            rows.update(newer)
            return scan.decoded([rows[key] for key in sorted(rows, reverse=scan.reverse)])
        if start < stop:
            self._rows = (block, start, stop)
            self.done = False
            return self._next_rows(wanted)
        return []

    def _next_rows(self, wanted: int) -> list[Any]:
        """Decode some more of a block that nothing newer overlays."""
        assert self._rows is not None
        scan = self._scan
        block, start, stop = self._rows
        if scan.reverse:
            first, last = max(start, stop - wanted), stop
            self._rows = (block, start, first) if first > start else None
        else:
            first, last = start, min(stop, start + wanted)
            self._rows = (block, last, stop) if last < stop else None
        if self._rows is None:
            self._finish_block()
        return scan.decoded_rows(block, first, last)

    def _finish_block(self) -> None:
        scan, cold, numbers = self._scan, self.snapshot.cold, self._numbers
        assert cold is not None
        assert numbers is not None
        self.done = self._next == len(numbers)
        if not self.done:
            number = numbers[-self._next] if scan.reverse else numbers[self._next]
            self.reach = scan.as_key(cold.first_key(number))
        else:
            self.reach = None

    async def _read_ahead(self, wanted: int) -> None:
        """Read the next blocks: as many as the records wanted will fill, and at most `BLOCKS_PER_READ`."""
        scan, cold, numbers = self._scan, self.snapshot.cold, self._numbers
        assert cold is not None
        assert numbers is not None
        n = max(1, min(BLOCKS_PER_READ, len(numbers) - self._next, round(wanted * cold.n_blocks / cold.n_records)))
        first = numbers[-self._next - n] if scan.reverse else numbers[self._next]
        blocks = cold.read_blocks(first, n, blocking=False)
        if isinstance(blocks, WouldBlock):
            blocks = await scan.context.run(lambda: cold.read_blocks(first, n, blocking=True))
        assert not isinstance(blocks, WouldBlock)
        self._ahead = blocks[::-1] if scan.reverse else blocks

    def _next_in_memory(self) -> list[Any]:
        """Return the next `KEYS_PER_RANGE` keys of a shard without a checkpoint, or a few more."""
        scan = self._scan
        orders = [generation.order for generation in self.snapshot.generations]
        low, high = (scan.bounds.start, self._edge) if scan.reverse else (self._edge, scan.bounds.stop)
        edge: Any
        if scan.reverse:
            heads = [order.last(KEYS_PER_RANGE, low, high) for order in orders]
            edge = max((keys[0] for keys in heads if len(keys) == KEYS_PER_RANGE), default=None)
            low = low if edge is None else edge
        else:
            heads = [order.first(KEYS_PER_RANGE, low, high) for order in orders]
            edge = min((keys[-1] for keys in heads if len(keys) == KEYS_PER_RANGE), default=None)
            high = high if edge is None else edge
        self._edge, self.done, self.reach = edge, edge is None, scan.as_key(edge)
        return self._between(low, high)

    def _between(self, low: HotKey | None, high: HotKey | None) -> list[Any]:
        rows = self._newer(low, high)
        return self._scan.decoded([rows[key] for key in sorted(rows, reverse=self._scan.reverse)])

    def _newer(self, low: HotKey | None, high: HotKey | None) -> dict[Any, bytes]:
        """Return what was written since the checkpoint with low <= key < high, tombstones included."""
        newer: dict[Any, bytes] = {}
        first = self.snapshot.tier.first_slot
        for generation in reversed(self.snapshot.generations):
            maps = generation.maps
            for key in generation.order.between(low, high):
                value = maps[slot_of(key) - first].get(key)
                assert value is not None
                newer[key] = value
        return newer

    def take(self, bound: Any) -> list[Any]:
        """Hand out the records that come before ``bound``; None: all."""
        n = len(self.keys)
        if bound is not None:
            n = sum(1 for key in self.keys if key >= bound) if self._scan.reverse else bisect_left(self.keys, bound)
        taken = self.records[:n]
        del self.records[:n]
        del self.keys[:n]
        return taken


class _Scan:
    """What the parts of a scan share."""

    def __init__(
        self,
        bounds: ScanBounds,
        context: StoreContext,
        codec: Codec[Any],
        whole: Callable[[bytes], Any],
        decode: Callable[[bytes], Any] | None,
        *,
        reverse: bool,
    ) -> None:
        self.bounds = bounds
        self.context = context
        self.reverse = reverse
        self.key_of_record = attrgetter(codec.plan.key_field)
        self._decode = decode if decode is not None else whole
        self._decode_many = codec.decode_many if decode is None else None
        self._is_uuid = codec.plan.key_kind == "uuid"

    def as_key(self, key: HotKey | None) -> Any:
        """Return a hot key as records have it."""
        return UUID(bytes=key) if self._is_uuid and isinstance(key, bytes) else key

    def decoded_rows(self, block: Block, start: int, stop: int) -> list[Any]:
        """Return the live records of some payloads of a block, decoded in one call if they are all ordinary."""
        if self._decode_many is not None:
            try:
                records = self._decode_many(block.payloads(start, stop), stop - start)
            except msgspec.DecodeError:
                pass  # deadlines or older schemas among them
            else:
                return records[::-1] if self.reverse else records
        values = [block.payload(i) for i in range(start, stop)]
        return self.decoded(values[::-1] if self.reverse else values)

    def decoded(self, values: list[bytes]) -> list[Any]:
        """Return the records of the values that are live now."""
        decode = self._decode
        records = []
        now_ms = 0
        for value in values:
            if not value:
                continue
            if value[0] == DEADLINE_BYTE:
                now_ms = now_ms or int(self.context.clock.wall() * 1000)
                if deadline_of(value) <= now_ms:
                    continue
                records.append(decode(value[DEADLINE_BYTES:]))
            else:
                records.append(decode(value))
        return records


async def scan_records(
    tiers: Sequence[HotTier],
    bounds: ScanBounds,
    context: StoreContext,
    codec: Codec[Any],
    whole: Callable[[bytes], Any],
    part: Callable[[bytes], Any] | None,
    *,
    reverse: bool,
) -> AsyncGenerator[list[Any], None]:
    """Yield lists of records in key order, as of the moment of the first.

    Args:
        tiers: The table's hot tiers.
        bounds: What to cover.
        context: The store's.
        codec: The table's.
        whole: Decodes a value to a record.
        part: Decodes a value to some of its fields; None for whole records.
        reverse: In descending order.
    """
    left = bounds.limit
    if left == 0:
        return
    scan = _Scan(bounds, context, codec, whole, part, reverse=reverse)
    parts = [_Part(tier.snapshot(), scan) for tier in tiers]
    try:
        for some in parts:
            await some.open()
        n_since_pause = 0
        while True:
            wanted = CHUNK_MAX if left is None else max(READY_MIN, min(CHUNK_MAX, left // len(parts) + 1))
            for some in parts:
                while not some.done and len(some.keys) < READY_MIN:
                    await some.fill(wanted)
            reaches = [some.reach for some in parts if not some.done]
            bound = (max if reverse else min)(reaches) if reaches else None
            runs = [run for some in parts if (run := some.take(bound))]
            records = runs[0] if len(runs) == 1 else list(chain.from_iterable(runs))
            if len(runs) > 1:
                records.sort(key=scan.key_of_record, reverse=reverse)
            if left is not None:
                records = records[:left]
                left -= len(records)
            if records:
                yield records
            if left == 0 or not reaches:
                return
            n_since_pause += len(records)
            if n_since_pause > RECORDS_PER_PAUSE:
                n_since_pause = 0
                await context.pause()
    finally:
        for some in parts:
            some.snapshot.release()


async def count_live(tiers: Sequence[HotTier], context: StoreContext) -> int:
    """Return how many live records the tiers hold."""
    n = 0
    for tier in tiers:
        snapshot = tier.snapshot()
        try:
            n += await _count(snapshot, context)
        finally:
            snapshot.release()
    return n


async def _count(snapshot: Snapshot, context: StoreContext) -> int:
    cold = snapshot.cold
    now_ms = int(context.clock.wall() * 1000)
    newest: dict[HotKey, bytes] = {}
    for generation in reversed(snapshot.generations):
        for some in generation.maps:
            newest.update(some.items())
        await context.pause()
    n = 0
    for start in range(0, len(newest), COUNTED_PER_PAUSE):
        values = list(islice(newest.values(), start, start + COUNTED_PER_PAUSE))
        n += sum(1 for value in values if value and not (value[0] == DEADLINE_BYTE and deadline_of(value) <= now_ms))
        await context.pause()
    if cold is None or not cold.n_records:
        return n
    if cold.n_expiring:
        return n + await context.run(lambda: _count_cold(cold, newest, now_ms))
    return n + cold.n_records - await context.run(lambda: _count_shadowed(cold, newest))


def _count_cold(cold: CheckpointTable, newest: dict[HotKey, bytes], now_ms: int) -> int:
    """Count the checkpoint's live records that nothing newer replaces; blocks."""
    return sum(
        1
        for key, value in cold.records()
        if key not in newest and not (value[0] == DEADLINE_BYTE and deadline_of(value) <= now_ms)
    )


def _count_shadowed(cold: CheckpointTable, newest: dict[HotKey, bytes]) -> int:
    """Count the keys that the checkpoint holds as well; blocks."""
    return sum(1 for key in newest if cold.find(key_hash(key), key, blocking=True) is not None)
