"""A shard: the actor that owns a range of slots, its hot tiers, and its stream in the log.

Two ways lead into it, both on the loop of the store:

* A durable write is a message. The lane drains the mailbox once a turn; the messages of that turn become one group of
  the log, and when it is durable they are applied to the hot tiers and their senders wake. So readers see what is
  durable.
* A relaxed write ("interval", "memory") is a plain call: the value goes to the hot tier and to ``pending``, which the
  lane writes when the loop turns.

A conditional write (insert, update, modify, put with a version) is an `Operation`: a function of the current value,
called where the order of writes is decided, so that it sees the writes before it, also those not durable yet.

The shard knows values, keys and slots; record types are the table's business.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from wal import Lane, Stream, WalError
from warpstore.actor import UNDER_WAY, Actor, Call
from warpstore.checkpoint import Checkpoint, WouldBlock
from warpstore.errors import (
    WRONG_THREAD,
    DiskFullError,
    OutcomeUnknownError,
    ShardUnavailableError,
    WrongThreadError,
)
from warpstore.hot_tier import HotTier, Loaded
from warpstore.keys import HotKey
from warpstore.process import Reason, State
from warpstore.values import split_payload

Write = tuple[HotTier, int, HotKey, bytes, bytes]
"""One decided write: the tier, the slot, the hot key, the hot tier's value, and the payload for the log. A plain tuple,
because making a named one costs as much as the rest of posting it."""


Current = Callable[[HotTier, Loaded | None], bytes | WouldBlock]
"""Gives the value that an operation's key has in a tier."""


class Operation:
    """A conditional write.

    Attributes:
        decide: From the current value (`TOMBSTONE`: absent) to the new value and its payload, or None to write nothing.
            What it raises goes to the caller; nothing is written then.
        must_load: Set where the current value has to be read from disk first; the caller loads it and tries again.
        loaded: What was read from disk before it was tried again, or None.
        error: What ``decide`` raised.
    """

    __slots__ = ("decide", "error", "key", "loaded", "must_load", "slot", "tier")

    def __init__(
        self,
        tier: HotTier,
        slot: int,
        key: HotKey,
        decide: Callable[[bytes], tuple[bytes, bytes] | None],
        loaded: Loaded | None = None,
    ) -> None:
        self.tier = tier
        self.slot = slot
        self.key = key
        self.decide = decide
        self.loaded = loaded
        self.must_load = False
        self.error: BaseException | None = None

    def decided(self, current: Current) -> list[Write]:
        """Return what to write, after a look at what is there; set ``must_load`` where that takes the disk.

        Raises:
            Exception: what ``decide`` raised.
        """
        value = current(self.tier, self.loaded)
        if isinstance(value, WouldBlock):
            self.must_load = True
            return []
        write = self.decide(value)
        return [] if write is None else [(self.tier, self.slot, self.key, *write)]


Pair = tuple[tuple[bytes, bytes] | None, tuple[bytes, bytes] | None]
"""What to write under a key in two tables: in each the value and its payload, or None for nothing."""


class PairOperation(Operation):
    """A conditional write under one key in two tables, of both or of none.

    Attributes:
        beside: The other table's tier in this shard.
        decide_pair: From both current values to what to write.
        loaded_beside: As ``loaded``, of the other table.
    """

    __slots__ = ("beside", "decide_pair", "loaded_beside")

    def __init__(
        self,
        tier: HotTier,
        beside: HotTier,
        slot: int,
        key: HotKey,
        decide: Callable[[bytes, bytes], Pair],
        loaded: tuple[Loaded | None, Loaded | None] = (None, None),
    ) -> None:
        super().__init__(tier, slot, key, lambda _: None, loaded[0])
        self.beside = beside
        self.decide_pair = decide
        self.loaded_beside = loaded[1]

    def decided(self, current: Current) -> list[Write]:
        value, other = current(self.tier, self.loaded), current(self.beside, self.loaded_beside)
        if isinstance(value, WouldBlock) or isinstance(other, WouldBlock):
            self.must_load = True
            return []
        writes = zip((self.tier, self.beside), self.decide_pair(value, other), strict=True)
        return [(tier, self.slot, self.key, *write) for tier, write in writes if write is not None]


GROUP_BYTES_MAX = 128 << 20
"""A group of more bytes is split, but no batch (of 64 MiB at most) is."""


@dataclass(slots=True)
class Batch:
    """Values for one table that are written as one."""

    tier: HotTier
    values: list[bytes]


Message = Write | Batch | Operation


class _Seen:
    """What the writes of a group, not applied yet, say: for the conditional writes behind them."""

    __slots__ = ("_n", "n_bytes", "newest")

    def __init__(self) -> None:
        self.newest: dict[tuple[int, HotKey], bytes] = {}
        self.n_bytes = 0
        self._n = 0

    def take_in(self, writes: list[Write | Batch]) -> None:
        """Take in the writes added since the last call."""
        for write in writes[self._n :]:
            if isinstance(write, Batch):
                for value in write.values:
                    self.newest[(write.tier.table, split_payload(value)[1])] = value
                    self.n_bytes += len(value)
            else:
                tier, _, key, value, payload = write
                self.newest[(tier.table, key)] = value
                self.n_bytes += len(payload)
        self._n = len(writes)


class Shard(Actor[Message, None]):
    """One shard of a store.

    Args:
        index: Its number.
        slots: Its slots.
        tiers: Its hot tiers by table number.
        checkpoint: The checkpoint below them, or None.
        durability: When an awaited write returns.
        loop: The store's loop.
        on_routes: Called when fast paths into this shard open, move or close.
        on_growth: Called when a turn has put something into the hot tiers, or None.
        on_wait: Called when a writer begins to wait for room, or None.
        feed: Given the payloads of each group once they are acknowledged, or None while nobody wants them.
        mailbox_messages_max: Messages that wait before callers wait.
        mailbox_bytes_max: Bytes that wait before callers wait.

    Attributes:
        pending: Payloads of relaxed writes that the lane has not taken yet.
        is_open: Whether relaxed writes may go straight in.
        lsn_recovered: The last LSN that recovery found; in "memory" mode there is none after it.
    """

    def __init__(
        self,
        index: int,
        slots: range,
        tiers: dict[int, HotTier],
        checkpoint: Checkpoint | None,
        *,
        durability: str,
        loop: asyncio.AbstractEventLoop,
        on_routes: Callable[[Shard], None],
        feed: Callable[[Shard, Sequence[bytes]], None],
        on_growth: Callable[[], None] | None = None,
        on_wait: Callable[[], None] | None = None,
        mailbox_messages_max: int,
        mailbox_bytes_max: int,
        **actor_options: Any,
    ) -> None:
        super().__init__(
            f"shard {index}",
            loop=loop,
            messages_max=mailbox_messages_max,
            bytes_max=mailbox_bytes_max,
            wake=Shard._ask,
            **actor_options,
        )
        self.index = index
        self.slots = slots
        self.tiers = tiers
        self.checkpoint = checkpoint
        self.durable = durability == "fsync"
        self.pending: list[bytes] = []
        self._batches: list[tuple[int, int]] = []  # first index and end, in ``pending``, of what must not be split
        self.is_open = False
        self.is_fed = False
        self.stream: Stream | None = None
        self.lsn_recovered = 0
        self._lane: Lane | None = None
        self._on_routes = on_routes
        self._feed = feed
        self._on_growth = on_growth
        self._on_wait = on_wait
        self._opened = False
        self._held: set[str] = set()  # why writers wait
        self._group: list[bytes] = []
        self._writes: list[Write | Batch] = []
        self._rooms: dict[str, asyncio.Future[None]] = {}  # what writers wait for, by what they need not wait for
        self._refusal: Exception | None = None

    # Life

    def attach(self, lane: Lane | None, lsn_next: int) -> None:
        """Join a lane; None in "memory" mode. Before `start`."""
        self._lane = lane
        self.lsn_recovered = lsn_next - 1
        if lane is not None:
            self.stream = lane.open_stream(self.index, self, lsn_next)

    async def on_start(self) -> None:
        for tier in self.tiers.values():
            tier.on_change = self._tier_changed
        self._open_routes()

    async def on_stop(self) -> None:
        self._close_routes()

    def on_crash(self, error: BaseException) -> None:  # noqa: ARG002
        self._close_routes()

    def ended_error(self, reason: Reason, *, in_hand: bool) -> Exception:
        if isinstance(reason, BaseException):
            if in_hand:
                return OutcomeUnknownError(f"{self.name} crashed with {type(reason).__name__} during the write")
            return ShardUnavailableError(
                f"{self.name} is restarting after {type(reason).__name__}; nothing was applied"
            )
        return ShardUnavailableError(f"{self.name} was stopped; nothing was applied")

    def release_state(self) -> None:
        """Let go of the tiers and the checkpoint, when another shard has taken this one's place or the store is closed.

        Whoever remembers a shard that crashed, a traceback for one, does not keep its memory.
        """
        self.tiers, self._writes = {}, []
        checkpoint, self.checkpoint = self.checkpoint, None
        if checkpoint is not None:
            checkpoint.release()

    def is_held(self, *, but_for: str = "") -> bool:
        """Return whether a writer has to wait in `room`; there may be one reason that does not concern it."""
        return not self._opened or bool(self._held - {but_for})

    def hold_writers(self, reason: str) -> None:
        """Make writers wait in `room`, until the reason is released."""
        if reason not in self._held:
            self._held.add(reason)
            self._routes_changed()

    def release_writers(self, reason: str) -> None:
        """Let writers in again that no other reason holds."""
        if reason in self._held:
            self._held.remove(reason)
            self._routes_changed()
            self._wake_room()

    def refuse_waiting(self, error: Exception) -> None:
        """Raise ``error`` in the writers whom every reason concerns and who wait in `room`; later ones wait again."""
        room = self._rooms.pop("", None)
        if room is not None and not room.done():
            room.set_exception(error)
            room.exception()  # marks it retrieved: the waiters may have been cancelled

    @property
    def takes_posts(self) -> bool:
        """Whether durable writes may be posted without a further look."""
        return self.durable and self.is_alive and self._refusal is None and not self._held

    def refuse_writers(self, error: Exception) -> None:
        """Let no write in by a short way any more; those who wait in `room` get ``error``."""
        self._refusal = error
        self._close_routes()

    def _open_routes(self) -> None:
        self._opened = True
        self._routes_changed()
        self._wake_room()

    def _close_routes(self) -> None:
        self._opened = False
        self._routes_changed()
        self._wake_room()

    def _routes_changed(self) -> None:
        self.is_open = self._opened and not self.durable and not self._held and self._refusal is None
        self._on_routes(self)

    def _wake_room(self) -> None:
        rooms, self._rooms = self._rooms, {}
        for room in rooms.values():
            if not room.done():
                room.set_result(None)

    def _tier_changed(self, tier: HotTier) -> None:  # noqa: ARG002
        self._on_routes(self)

    @property
    def lsn_applied(self) -> int:
        """The LSN of the last record that the hot tiers hold: of the last durable one, or the one it will get."""
        if self.stream is None or self._lane is None:
            return self.lsn_recovered
        return self.stream.lsn_durable if self.durable else self._lane.lsn_taken(self.stream) + len(self.pending)

    # Relaxed writes

    async def room(self, *, but_for: str = "") -> None:
        """Return when a write may go in.

        Args:
            but_for: A reason to hold writers that does not concern this one.

        Raises:
            MemoryLimitError: there is no memory for it, and there will not be.
            UnavailableError: the shard has ended, or takes no writes any more.
        """
        while self.is_held(but_for=but_for):
            if self._refusal is not None:
                raise self._refusal.with_traceback(None)
            if not self.is_alive or self.state is State.STOPPING:
                raise self.ended_error(self.reason or "shutdown", in_hand=False)
            room = self._rooms.get(but_for)
            if room is None:
                room = self._rooms[but_for] = self.loop.create_future()
            if self._on_wait is not None:
                self._on_wait()
            await asyncio.shield(room)

    def ask(self) -> None:
        """Have ``pending`` written when the loop turns. Call it before the first append."""
        if asyncio.get_running_loop() is not self.loop:
            raise WrongThreadError(WRONG_THREAD)
        if self._lane is not None and self.stream is not None:
            self._lane.request_turn(self.stream)
        else:
            self.loop.call_soon(self.take_group)

    def write_now(self, write: Write) -> None:
        """Apply one relaxed write; ``is_open`` must hold."""
        tier, slot, key, value, payload = write
        if not self.pending:
            self.ask()
        tier.put(slot, key, value)
        self.pending.append(payload)

    def write_batch_now(self, batch: Batch) -> None:
        """Apply a relaxed batch; ``is_open`` must hold."""
        if not self.pending:
            self.ask()
        start = len(self.pending)
        self.pending.extend(batch.values)
        self._batches.append((start, len(self.pending)))
        batch.tier.put_values(batch.values)

    def operate_now(self, operation: Operation) -> None:
        """Decide and apply a relaxed conditional write.

        Raises:
            Exception: what its function raised; nothing was written.
        """

        def current(tier: HotTier, loaded: Loaded | None) -> bytes | WouldBlock:
            return tier.current(operation.slot, operation.key, loaded=loaded)

        writes = operation.decided(current)
        for i, write in enumerate(writes):
            self.write_now(write)
            if i:  # what belongs together is not split between two groups
                start = self._batches.pop()[0] if i > 1 else len(self.pending) - 2
                self._batches.append((start, len(self.pending)))

    # Durable writes

    def _ask(self) -> None:
        self.ask()

    def take_group(self) -> list[bytes]:
        """Give the lane what to write now (see `wal.StreamOwner`)."""
        if not self.durable:
            n = self._n_for_group()
            group = self.pending[:n]
            del self.pending[:n]
            self._batches = [(start - n, end - n) for start, end in self._batches if start >= n]
            if self.pending:
                self.ask()
            self._fed(group)
            if self._on_growth is not None:
                self._on_growth()
            return group
        self._group = []
        self.drain()
        return self._group

    def _n_for_group(self) -> int:
        """Return how many pending payloads make the next group: all, or as many as fit, and no batch in part."""
        pending = self.pending
        if sum(map(len, pending)) <= GROUP_BYTES_MAX:
            return len(pending)
        ends = list(accumulate(map(len, pending)))
        n = max(1, bisect_right(ends, GROUP_BYTES_MAX))
        for start, end in self._batches:
            if start < n < end:
                return start or end
        return n

    def handle_batch(self, messages: list[Message | Call[Message, None]]) -> Awaitable[None] | None:
        writes: list[Write | Batch] = []
        group: list[bytes] = []
        seen: _Seen | None = None
        for message in messages:
            if type(message) is tuple:
                writes.append(message)
                group.append(message[4])
            elif type(message) is Batch:
                writes.append(message)
                group += message.values
            else:
                seen = seen or _Seen()
                self._decide(message, writes, group, seen)  # type: ignore[arg-type]
        if not writes:
            return None
        self._writes = writes
        self._group = group
        return UNDER_WAY

    def _decide(self, operation: Operation, writes: list[Write | Batch], group: list[bytes], seen: _Seen) -> None:
        seen.take_in(writes)
        if seen.n_bytes > GROUP_BYTES_MAX:
            operation.must_load = True  # it waits for a group with room
            return

        def current(tier: HotTier, loaded: Loaded | None) -> bytes | WouldBlock:
            value = seen.newest.get((tier.table, operation.key))
            return tier.current(operation.slot, operation.key, loaded=loaded) if value is None else value

        try:
            decided = operation.decided(current)
        except Exception as e:  # noqa: BLE001 - it is the caller's, and goes to the caller
            operation.error = e
            return
        for write in decided:
            writes.append(write)
            group.append(write[4])

    def on_durable(self, lsn: int) -> Callable[[], None] | None:  # noqa: ARG002
        if not self.durable:
            return None
        writes, self._writes = self._writes, []
        group, self._group = self._group, []
        try:
            for write in writes:
                if isinstance(write, Batch):
                    write.tier.put_values(write.values)
                else:
                    tier, slot, key, value, _ = write
                    tier.young.maps[slot - tier.first_slot].set(key, value)
            self._fed(group)
            if self._on_growth is not None:
                self._on_growth()
        except Exception as e:  # noqa: BLE001 - the shard's fault alone: the lane and the others go on
            self.crash(e)
            return None
        return self.settle_batch()

    def on_refused(self, error: WalError) -> None:
        self._writes = []
        full = DiskFullError(f"{self.name}: {error}; the write was not applied")
        full.__cause__ = error
        self.finish_batch(full)

    def on_failed(self, error: WalError) -> None:
        """The lane is poisoned. Its keeper's supervisor replaces this shard after the lane."""
        self.hold_writers("the log failed")
        if self._writes or self._group:
            self._writes = []
            unknown = OutcomeUnknownError(f"{self.name}: {error}; the write may or may not be durable")
            unknown.__cause__ = error
            self.finish_batch(unknown)

    def _fed(self, payloads: Sequence[bytes]) -> None:
        if self.is_fed and payloads:
            self._feed(self, payloads)
