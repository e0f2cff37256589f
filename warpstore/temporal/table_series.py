"""The series of one open table: windows over them, what a write of a record means for them, and what a move takes out.

Rules that hold for every record of a table with a companion (see `warpstore.temporal.state`):

* An item counts in one place: in its record, or in one file. What is in a file counts if the record is live, its state
  has the incarnation of the run, and the file is settled or its move is the state's last one.
* A record that came to life has no state: a delete takes it away together with the record, and whoever may write over a
  record that has expired takes it away first (`before_write`).
"""

from __future__ import annotations

import datetime as dt
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec

from warpstore.errors import OverloadedError, ValidationError
from warpstore.keys import HotKey
from warpstore.table_access import TableAccess
from warpstore.temporal.format import Item
from warpstore.temporal.horizons import Place
from warpstore.temporal.record_series import RecordSeries, Series
from warpstore.temporal.state import NO_STATE, State, arrivals_now, companion_of, pack_state, unpack_state
from warpstore.temporal.times import NS, bound_of, ns_of, seconds_of
from warpstore.values import (
    DEADLINE_BYTES,
    TOMBSTONE,
    has_deadline,
    live_body,
    tombstone,
)

if TYPE_CHECKING:
    from warpstore.codec import Codec
    from warpstore.context import StoreContext
    from warpstore.manifest import TableManifest
    from warpstore.shard import Pair
    from warpstore.temporal.series_files import SeriesFile, SeriesFiles

_SLACK_NS = 2_000
"""A time that was a float may be so far off in nanoseconds; files are asked for so much more, and compared exactly."""

T = TypeVar("T")
Outgoing = tuple[Series, Place, list[tuple[int, msgspec.Raw]]]
"""Items of a series that leave their record for a place, each with its time."""


class Due(NamedTuple):
    """What is to leave one record.

    Attributes:
        slot: The key's slot.
        key: The key.
        before: The record's state.
        outgoing: The items.
    """

    slot: int
    key: HotKey
    before: State
    outgoing: list[Outgoing]

    @property
    def n_bytes(self) -> int:
        """Bytes of the items."""
        return sum(len(memoryview(raw)) for _, _, items in self.outgoing for _, raw in items)


class TableSeries:
    """The series of one table.

    Args:
        context: The store's.
        codec: The table's.
        access: The table's long ways.
        table: The table as the manifest has it.
        beside: The companion's number and tag, or None where no series needs one.
        mark_expires: Records in the manifest that records may have deadlines; blocks.

    Attributes:
        codec: The table's.
        number: The table's number.
        records: Finds the series in records.
        tracks_arrivals: Whether a series goes by the time of append.
        ages: Whether items of a series leave their record.
    """

    def __init__(
        self,
        context: StoreContext,
        codec: Codec[Any],
        access: TableAccess,
        table: TableManifest,
        beside: tuple[int, int] | None,
        mark_expires: Callable[[], None],
    ) -> None:
        self.codec = codec
        self.number = table.table
        self.records = RecordSeries(codec.plan, table.schemas, table.series)
        self.tracks_arrivals = any(series.time is None for series in self.records.series)
        self.ages = any(series.horizons.ages for series in self.records.series)
        self.has_state = beside is not None
        self._context = context
        self._access = access
        self._by_name = {series.name: series for series in self.records.series}
        self._where = codec.plan.record_type.__name__
        self._mark_expires = mark_expires
        self._expires = table.expires
        number, self._tag = beside or (0, 0)
        name = companion_of(codec.plan.table)
        self._beside = TableAccess(context, context.tables[number], name) if beside else access
        if self._expires and self.has_state:
            context.tables[self.number].close_quick_writes()

    def now_ns(self) -> int:
        """Return the time of the store's clock."""
        return round(self._context.clock.wall() * NS)

    def series_of(self, field: str) -> Series:
        """Return the series of a field.

        Raises:
            ValidationError: the field is unknown, or no series.
        """
        series = self._by_name.get(field)
        if series is None:
            if field not in self.codec.plan.fields:
                raise self.codec.plan.unknown_field(field)
            raise ValidationError(f"{self._where}.{field}: is no Temporal series", field=field)
        return series

    # Windows

    async def window(self, slot: int, key: HotKey, field: str, since: Any, until: Any) -> list[Any]:
        """Return the items of a series with since <= time < until; see `Table.window`."""
        series = self.series_of(field)
        since, until = bound_of("since", since), bound_of("until", until)
        low = None if since is None else ns_of(since)
        high = None if until is None else ns_of(until)
        if low is not None and high is not None and low > high:
            raise ValidationError(f"since={since!r} lies behind until={until!r}", field="since")
        if self.has_state:
            value, state_value = await self._access.load_pair(self._beside, slot, key)
        else:
            value, state_value = await self._access.load(slot, key), TOMBSTONE
        # From here to the pins the loop does not turn, so record, state and files are of one moment.
        now_ns = self.now_ns()
        body = live_body(value, now_ns // 1_000_000) if value else None
        if body is None:
            return []
        state = unpack_state(state_value)
        present = next((items for s, items in self.records.read(body) if s is series), [])
        times = series.times(present, state, now_ns) if series.time is None else []
        store_files = self._context.series  # a reader that moves to another state gets others
        files = store_files.pinned(
            self.number,
            series.number,
            -(1 << 63) if low is None else low - _SLACK_NS,
            (1 << 63) if high is None else high + _SLACK_NS,
        )
        counting = [f for f in files if state.incarnation and f.entry.move in (0, state.last_move)]

        def read() -> list[Any]:
            items = self._from_files(store_files, series, key, state, counting)
            here = [(time, 0, raw) for time, raw in zip(times or [0] * len(present), present, strict=True)]
            return _window(series, items, here, since, until, now_ns)

        try:
            return await self._context.run(read) if counting else read()
        finally:
            store_files.unpin(files)

    def _from_files(
        self, store_files: SeriesFiles, series: Series, key: HotKey, state: State, files: Sequence[SeriesFile]
    ) -> list[Item]:
        """Return the items of files that count, by time and then by the move that took them out; blocks."""
        items: list[Item] = []
        for file in files:
            for run in store_files.reader(file).find(self.number, series.number, key):
                if run.incarnation == state.incarnation:
                    items += run.items
        items.sort(key=operator.itemgetter(0, 1))
        return items

    # What a write means

    def is_plain(self, ttl: object) -> bool:
        """Return whether a write of a record needs no more than itself."""
        return not self.has_state or not (self._expires or self.tracks_arrivals or ttl is not None)

    async def before_write(self, keys: Iterable[tuple[int, HotKey]], ttl: object) -> None:
        """Make ready for writes over records: those that have expired leave nothing behind for the next."""
        if not self.has_state or self._context.read_only is not None:
            return
        if ttl is not None and not self._expires:
            await self.will_expire()
        if not self._expires:
            return
        routed = list(keys)
        states = await self._beside.values(routed, whole=True)
        for (slot, key), value in zip(routed, states, strict=True):
            if value:
                await self._access.operate_pair(self._beside, slot, key, self._without_dead_state)

    def refuse_nowait(self, slot: int, key: HotKey, ttl: object) -> None:
        """Raise where a write that does not wait cannot make ready.

        Raises:
            OverloadedError: it would have to wait.
        """
        if not self.has_state or not (self._expires or ttl is not None):
            return
        if not self._expires or self._beside.tier(slot).in_memory(slot, key) != TOMBSTONE:
            raise OverloadedError("a record with items in files is written over: put has to wait for the disk")

    async def after_write(self, keys: Iterable[tuple[int, HotKey]]) -> None:
        """Note the times of append of what writes brought, where a series goes by them."""
        if self.tracks_arrivals and self.has_state:
            for slot, key in keys:
                await self._access.operate_pair(self._beside, slot, key, self._noted(key))

    async def will_expire(self) -> None:
        """Take in that records may have deadlines from now on: no write over a record is made in haste any more."""
        if not self._expires:
            self._context.tables[self.number].close_quick_writes()
            await self._context.run(self._mark_expires)
            self._expires = True

    async def delete(self, slot: int, key: HotKey) -> bool:
        """Delete a record and its state; return whether there was a live one."""
        existed = False

        def decide(value: bytes, state: bytes) -> Pair:
            nonlocal existed
            existed = self._is_live(value)
            return (
                (TOMBSTONE, tombstone(self.codec.tag, key)) if value else None,
                (TOMBSTONE, tombstone(self._tag, key)) if state else None,
            )

        await self._access.operate_pair(self._beside, slot, key, decide, frees_memory=True)
        return existed

    async def append(self, slot: int, key: HotKey, rewrite: Callable[[bytes], tuple[bytes, bytes]]) -> None:
        """Write a record with an item more, and its times of append, as one.

        Args:
            slot: The key's slot.
            key: The key.
            rewrite: From the current value of the record to the new one and its payload; raises where there is none.
        """

        def decide(value: bytes, state: bytes) -> Pair:
            before = unpack_state(state) if self._is_live(value) else NO_STATE
            if self._is_live(value):
                before = self._with_arrivals(_body(value), before)
            written = rewrite(value)
            return written, self._changed(key, state, self._with_arrivals(_body(written[0]), before))

        await self._access.operate_pair(self._beside, slot, key, decide)

    def _is_live(self, value: bytes) -> bool:
        return bool(value) and live_body(value, self.now_ns() // 1_000_000) is not None

    def _without_dead_state(self, value: bytes, state: bytes) -> Pair:
        if not state or self._is_live(value):
            return None, None
        return None, (TOMBSTONE, tombstone(self._tag, self._key_of(state)))

    def _key_of(self, state: bytes) -> HotKey:
        key: HotKey = msgspec.msgpack.decode(state)[1]
        return key

    def _noted(self, key: HotKey) -> Callable[[bytes, bytes], Pair]:
        def decide(value: bytes, state: bytes) -> Pair:
            if not self._is_live(value):
                return None, None
            return None, self._changed(key, state, self._with_arrivals(_body(value), unpack_state(state)))

        return decide

    def _with_arrivals(self, body: bytes, state: State) -> State:
        arrivals: dict[int, bytes] = {}
        for series, items in self.records.read(body):
            if series.time is None and items:
                known = state.arrivals.get(series.number, b"")
                arrivals[series.number] = arrivals_now(known, [memoryview(item) for item in items], self.now_ns())
        return state._replace(arrivals=arrivals)

    def _changed(self, key: HotKey, before: bytes, state: State) -> tuple[bytes, bytes] | None:
        if state == NO_STATE:
            return (TOMBSTONE, tombstone(self._tag, key)) if before else None
        value = pack_state(self._tag, key, state)
        return None if value == before else (value, value)

    # Moves

    async def due(self, slot: int, key: HotKey) -> Due | None:
        """Return what is to leave a record now, or None."""
        value, state_value = await self._access.load_pair(self._beside, slot, key)
        if not self._is_live(value):
            return None
        if has_deadline(value) and not self._expires:
            await self.will_expire()
        state = unpack_state(state_value)
        outgoing = self._outgoing(_body(value), state)
        return Due(slot, key, state, outgoing) if outgoing else None

    def _outgoing(self, body: bytes, state: State) -> list[Outgoing]:
        now_ns = self.now_ns()
        outgoing: list[Outgoing] = []
        for series, items in self.records.read(body):
            if not items or not series.horizons.ages:
                continue
            places: dict[Place, list[tuple[int, msgspec.Raw]]] = {}
            for time, raw in zip(series.times(items, state, now_ns), items, strict=True):
                place = series.horizons.place(now_ns - time)
                if place != "record":
                    places.setdefault(place, []).append((time, raw))
            outgoing += [(series, place, some) for place, some in places.items()]
        return outgoing

    async def take_out(self, due: Due, move: int) -> bool:
        """Take items that are in the files of a move out of their record, and say so in its state, as one.

        Returns:
            False where nothing was done: the record, or its state, is not what it was.
        """
        done = False

        def decide(value: bytes, state: bytes) -> Pair:
            nonlocal done
            done = False
            before = unpack_state(state)
            same = (before.incarnation, before.last_move) == (due.before.incarnation, due.before.last_move)
            if not same or not self._is_live(value):
                return None, None
            body = _body(value)
            after = self._with_arrivals(body, before) if self.tracks_arrivals else before
            left: dict[int, list[msgspec.Raw]] = {}
            arrivals = dict(after.arrivals)
            for series, items in self.records.read(body):
                wanted = [raw for s, _, some in due.outgoing if s is series for _, raw in some]
                if wanted:
                    kept = _without(items, wanted)
                    if kept is None or _overtakes(series, items, kept, after, self.now_ns()):
                        return None, None
                    left[series.number] = [items[i] for i in kept]
                    if series.time is None:
                        _keep(arrivals, series.number, kept)
            done = True
            new = value[: len(value) - len(body)] + self.records.write(body, left)
            if all(place == "gone" for _, place, _ in due.outgoing):
                after = after._replace(arrivals=arrivals)
            else:
                after = State(before.incarnation or move, move, arrivals)
            return (new, new), self._changed(due.key, state, after)

        await self._access.operate_pair(self._beside, due.slot, due.key, decide, frees_memory=True)
        return done


def _body(value: bytes) -> bytes:
    return value[DEADLINE_BYTES:] if has_deadline(value) else value


def _without(items: Sequence[msgspec.Raw], wanted: Sequence[msgspec.Raw]) -> list[int] | None:
    """Return the places of the items that are left without those wanted; None if those are not all there, in order."""
    kept: list[int] = []
    at = 0
    for i, item in enumerate(items):
        if at < len(wanted) and memoryview(item) == memoryview(wanted[at]):
            at += 1
        else:
            kept.append(i)
    return kept if at == len(wanted) else None


def _overtakes(series: Series, items: Sequence[msgspec.Raw], kept: Sequence[int], state: State, now_ns: int) -> bool:
    """Return whether an item that stays is before one of its time that leaves: the two would change places."""
    leaving = sorted(set(range(len(items))).difference(kept))
    if not leaving or not kept or kept[0] > leaving[-1]:
        return False
    times = series.times(items, state, now_ns)
    first_of_time: dict[int, int] = {}
    for i in kept:
        first_of_time.setdefault(times[i], i)
    return any(first_of_time.get(times[i], i) < i for i in leaving)


def _keep(arrivals: dict[int, bytes], series: int, kept: Sequence[int]) -> None:
    before = arrivals.get(series, b"")
    after = b"".join(before[12 * i : 12 * i + 12] for i in kept)
    if after:
        arrivals[series] = after
    else:
        arrivals.pop(series, None)


def _window(
    series: Series,
    aged: Sequence[Item],
    here: Sequence[tuple[int, int, msgspec.Raw]],
    since: Any,
    until: Any,
    now_ns: int,
) -> list[Any]:
    """Return the items within the bounds, decoded, by their times; of equal ones those that came first are first."""
    if series.time is None:
        low = None if since is None else ns_of(since)
        high = None if until is None else ns_of(until)
        found = [
            (time, raw)
            for time, _, raw in (*aged, *here)
            if (low is None or time >= low)
            and (high is None or time < high)
            and not series.horizons.is_gone(now_ns - time)
        ]
        found.sort(key=operator.itemgetter(0))
        return [series.decode(raw) for _, raw in found]
    get = operator.attrgetter(series.time)
    items = [series.decode(raw) for _, _, raw in (*aged, *here)]
    is_datetime = bool(items) and isinstance(get(items[0]), dt.datetime)
    # Datetimes are whole nanoseconds. Numbers are compared as they are, so that no two of them become one.
    timed = [(ns_of(get(item)) if is_datetime else get(item), item) for item in items]
    low, high = (None if bound is None else (ns_of if is_datetime else seconds_of)(bound) for bound in (since, until))
    timed = [
        (time, item)
        for time, item in timed
        if (low is None or time >= low)
        and (high is None or time < high)
        and not series.horizons.is_gone(now_ns - (time if is_datetime else ns_of(time)))
    ]
    timed.sort(key=operator.itemgetter(0))
    return [item for _, item in timed]
