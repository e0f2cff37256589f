"""Scans: a table's values in key order, over all its shards, as of one moment.

A scan merges runs: of each shard the generations of its hot tier, newest first, and its checkpoint. A run gives its
values as rows, a piece at a time: so many keys of a generation, or a block of the checkpoint. `merge` takes from all
runs what comes next, until one of them has to go on to its next piece.

One cut. The snapshots of all shards are taken in one step, in which no other code of the loop runs, at a time t. Let a
write B have begun after a write A was acknowledged, and let the scan hold B. Then B was applied before t. A was applied
before it was acknowledged (in "fsync" mode a group is applied when it is durable, and its writers wake after that; in
the other modes a write is applied by the very call that acknowledges it), so before B began, so before t: the scan
holds A, whatever shards, lanes and groups the two are in.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import msgspec

from warpstore._native import ChunkedIterator, Rows, merge
from warpstore.checkpoint import CheckpointTable, WouldBlock
from warpstore.errors import ValidationError
from warpstore.hot_tier import Generation, HotTier, Snapshot
from warpstore.keys import HotKey, key_hash
from warpstore.parts import is_split_value
from warpstore.values import DEADLINE_BYTE, deadline_of, live_body, split_payload

if TYPE_CHECKING:
    from warpstore.codec import Codec
    from warpstore.context import StoreContext

T = TypeVar("T")

KEYS_PER_RANGE = 512
RANGE_BYTES = 1 << 20
"""Of a generation, what is copied for a merge at a time: so many keys, or so many bytes, the last value more."""

JOINED_PER_STEP = 256
JOINED_FILE_BYTES = 1 << 20
"""What is joined at a time for `Scan.next_rows`: so many values, or so much of block files."""

CHUNK_MAX = 256
READ_AHEAD_MAX = 4_096
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


def following(key: Any) -> HotKey:
    """Return the least key that is greater than this one."""
    if isinstance(key, int):
        return key + 1
    return key + ("\0" if isinstance(key, str) else b"\0")  # type: ignore[no-any-return]


def _no_rows() -> Rows:
    return Rows.of_keys([], 0, [])


class _MemoryRun:
    """One generation of a shard, in the order of a scan."""

    def __init__(self, generation: Generation, first_slot: int, bounds: ScanBounds, *, reverse: bool) -> None:
        self.rows = _no_rows()
        self._generation = generation
        self._first_slot = first_slot
        self._low, self._high = bounds.start, bounds.stop
        self._reverse = reverse

    async def fill(self, wanted: int) -> None:  # noqa: ARG002 - as for `_CheckpointRun`
        """Make the next rows ready."""
        order = self._generation.order
        keys = (order.last if self._reverse else order.first)(KEYS_PER_RANGE, self._low, self._high)
        self.rows = Rows.of_keys(self._generation.maps, self._first_slot, keys, RANGE_BYTES, self._reverse)
        n = len(self.rows)
        if keys and self._reverse:
            self._high = keys[-n]
        elif keys:
            self._low = following(keys[n - 1])
        self.rows.is_last = n == len(keys) < KEYS_PER_RANGE


class _CheckpointRun:
    """The checkpoint of a shard, in the order of a scan."""

    def __init__(self, cold: CheckpointTable, numbers: range, scan: Scan[Any]) -> None:
        self.rows = _no_rows()
        self._cold = cold
        self._numbers = numbers
        self._scan = scan

    async def fill(self, wanted: int) -> None:
        """Make the next rows ready: about ``wanted``."""
        scan, cold, numbers = self._scan, self._cold, self._numbers
        if not numbers:
            self.rows.is_last = True
            return
        n = min(1 + wanted * cold.n_blocks // cold.n_records, BLOCKS_PER_READ, len(numbers))
        taken, self._numbers = (numbers[-n:], numbers[:-n]) if scan.reverse else (numbers[:n], numbers[n:])
        rows = cold.read_blocks(taken[0], n, blocking=False)
        if isinstance(rows, WouldBlock):
            rows = await scan.context.run(lambda: cold.read_blocks(taken[0], n, blocking=True))
        assert not isinstance(rows, WouldBlock)
        rows.between(scan.bounds.start, scan.bounds.stop)
        rows.is_last = not self._numbers
        self.rows = rows


class Scan(ChunkedIterator[T]):
    """The records of a table in key order, as of the moment of the first one. An asynchronous iterator.

    What it reads stays in memory until it ends, is closed by `aclose`, or is forgotten.

    Args:
        tiers: Gives the table's hot tiers, one a shard, when the scan begins: until then a shard may be replaced.
        bounds: What to cover.
        context: The store's.
        codec: The table's.
        whole: Decodes a value to a record.
        part: Decodes a value to some of its fields; None for whole records.
        needs_whole: Whether what is decoded needs the parts of records that are elsewhere.
        finish: Called with every record before it is given out, or None.
        reverse: In descending order.
    """

    def __init__(
        self,
        tiers: Callable[[], Sequence[HotTier]],
        bounds: ScanBounds,
        context: StoreContext,
        codec: Codec[Any],
        *,
        whole: Callable[[bytes], Any],
        part: Callable[[bytes], Any] | None,
        needs_whole: bool,
        finish: Callable[[Any], None] | None,
        reverse: bool,
    ) -> None:
        self.bounds = bounds
        self.context = context
        self.reverse = reverse
        self._tiers = tiers
        self._decode = part or whole
        self._decode_array = codec.decode_array if part is None else None
        self._needs_whole = needs_whole
        self._tag = codec.tag
        self._finish = finish
        self._left = sys.maxsize if bounds.limit is None else bounds.limit
        self._snapshots: list[Snapshot] = []
        self._runs: list[_MemoryRun | _CheckpointRun] | None = None
        self._n_since_pause = 0
        self._unjoined: deque[bytes] = deque()
        self._is_last = False
        self._is_busy = False

    async def aclose(self) -> None:
        """End the scan, and let go of what it reads."""
        self._left = 0
        self._release()

    def _release(self) -> None:
        snapshots, self._snapshots = self._snapshots, []
        for snapshot in snapshots:
            snapshot.release()

    def __del__(self) -> None:
        if self._snapshots:
            if get_ident() == self.context.thread:
                self._release()
            elif not self.context.loop.is_closed():
                for snapshot in self._snapshots:
                    self.context.loop.call_soon_threadsafe(snapshot.release)

    async def _next(self) -> T:
        with self._reading():
            while self._left:
                self.context.check()
                records = await self._chunk()
                if records:
                    self._left -= len(records)
                    return self._give(records)
        raise StopAsyncIteration

    async def next_rows(self, n: int) -> Rows | tuple[bytes, ...] | None:
        """Return at most ``n`` of the next rows, perhaps none, for a caller that decodes them itself; None at the end.

        Rows whose deadline has passed are among them. They are joined where what the scan is for needs their parts; of
        others the heads are among them. Not for a scan with a limit, nor between its records.
        """
        with self._reading():
            if not self._left:
                return None
            self.context.check()
            found: Rows | tuple[bytes, ...]
            if not self._unjoined:
                found = rows = await self._merged(n)
                self._is_last = rows.is_last
                if not rows.is_ordinary and rows.has_split(-1 if self._needs_whole else self._tag):
                    self._unjoined = deque(rows)
            if self._unjoined:
                found = tuple(await self._joined(self._next_unjoined()))
            if self._is_last and not self._unjoined:
                self._left = 0
            return found

    def _next_unjoined(self) -> list[bytes]:
        """Take values that do not become too large when they are joined."""
        values: list[bytes] = []
        size = 0
        while self._unjoined and len(values) < JOINED_PER_STEP and size < JOINED_FILE_BYTES:
            value = self._unjoined.popleft()
            values.append(value)
            size += self.context.blocks.n_bytes_of(value) if is_split_value(value) else len(value)
        return values

    def _needs_parts(self, value: bytes) -> bool:
        """Return whether decoding a value needs parts of it that are elsewhere."""
        return is_split_value(value) and (self._needs_whole or split_payload(value)[0] != self._tag)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Let one caller in at a time; end the scan if it fails, and let go of what it reads when it has ended."""
        if self._is_busy:
            raise RuntimeError("a scan gives one record at a time: the one before has not come yet")
        self._is_busy = True
        try:
            yield
        except BaseException:
            self._left = 0
            raise
        finally:
            self._is_busy = False
            if not self._left:
                self._release()

    async def _chunk(self) -> list[T]:
        """Return the next records, of which there may be none; when there are no more, none are left to give."""
        rows = await self._merged(min(self._left, CHUNK_MAX))
        records = self._decoded(rows, None if rows.is_ordinary else await self._joined(list(rows)))
        if rows.is_last:
            self._left = len(records)
        return records

    async def _merged(self, n: int) -> Rows:
        """Return at most ``n`` of the next rows, perhaps none."""
        if self._runs is None:
            self._runs = await self._opened()
        if self._n_since_pause > RECORDS_PER_PAUSE:
            self._n_since_pause = 0
            await self.context.pause()
        for run in self._runs:
            while not run.rows and not run.rows.is_last:
                await run.fill(min(self._left, READ_AHEAD_MAX) // len(self._snapshots))
        rows = merge([run.rows for run in self._runs], n, self.reverse)
        self._n_since_pause += len(rows)
        return rows

    async def _opened(self) -> list[_MemoryRun | _CheckpointRun]:
        """Return the runs of all shards, in each shard the newest first."""
        self._snapshots = [tier.snapshot() for tier in self._tiers()]  # one step, so one cut: no await between them
        runs: list[_MemoryRun | _CheckpointRun] = []
        for snapshot in self._snapshots:
            for generation in snapshot.generations:
                await generation.order.refresh(self.context.pause)
                runs.append(_MemoryRun(generation, snapshot.tier.first_slot, self.bounds, reverse=self.reverse))
            cold = snapshot.cold
            if cold is not None and cold.n_records:
                if not cold.roots_loaded:
                    await self.context.run(cold.load_block_root)
                runs.append(_CheckpointRun(cold, cold.block_numbers(self.bounds.start, self.bounds.stop), self))
        return runs

    async def _joined(self, values: list[bytes]) -> list[bytes]:
        """Return values with the parts that decoding them needs."""
        split = [i for i, value in enumerate(values) if self._needs_parts(value)]
        blocks = self.context.blocks
        missing: list[int] = []
        for i, whole in zip(split, blocks.whole_many_nowait([values[i] for i in split]), strict=True):
            if isinstance(whole, WouldBlock):
                missing.append(i)
            elif whole is not None:
                values[i] = whole
        if missing:
            found = await self.context.run(lambda: blocks.whole_many([values[i] for i in missing]))
            for i, value in zip(missing, found, strict=True):
                assert value is not None
                values[i] = value
        return values

    def _decoded(self, rows: Rows, values: list[bytes] | None) -> list[T]:
        """Return the live records of some rows, decoded in one call if they are all ordinary.

        Args:
            rows: The rows.
            values: They as values that can be decoded, if they are not all ordinary.
        """
        records: list[T]
        if values is None and self._decode_array is not None:
            try:
                records = self._decode_array(rows.array())
            except msgspec.DecodeError:  # an older schema among them
                records = [self._decode(value) for value in rows]
        else:
            now_ms = int(self.context.clock.wall() * 1000)
            some = rows if values is None else values
            records = [self._decode(body) for value in some if (body := live_body(value, now_ms)) is not None]
        if self._finish is not None:
            for record in records:
                self._finish(record)
        return records


async def count_live(tiers: Sequence[HotTier], context: StoreContext) -> int:
    """Return how many live records the tiers hold."""
    snapshots = [tier.snapshot() for tier in tiers]  # one step, so one cut, as for a scan
    try:
        return sum([await _count(snapshot, context) for snapshot in snapshots])
    finally:
        for snapshot in snapshots:
            snapshot.release()


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
