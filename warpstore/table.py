"""A table: the records of one type, read and written from coroutines.

`get` and `put` are those of `MemoryTable`, in ``native/memory_table.c``:

* a relaxed put checks and encodes the record, sets it in its slot's hot map, and appends it to what the log takes next;
* a get of a record in memory finds it in its slot's hot maps, and decodes it, or copies what was decoded before.

Whatever is not ordinary (a deadline, a version, a shard that restarts, a record on disk) goes the long way, through the
shard: `Table._get` and `Table._put`. A table belongs to the loop that opened its store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar
from uuid import UUID

import msgspec
from xxhash import xxh3_128_intdigest

from warpstore._native import LONG_WAY, PAUSE, MemoryTable, scatter
from warpstore.codec import Codec
from warpstore.column import Column
from warpstore.ephemeral import EphemeralFields
from warpstore.errors import (
    KeyExistsError,
    KeyNotFoundError,
    OverloadedError,
    ValidationError,
    VersionConflictError,
    WarpstoreError,
)
from warpstore.interchange import Interchange
from warpstore.keys import HotKey, slot_of
from warpstore.parts import head_of, is_split, is_split_value
from warpstore.record import Record
from warpstore.routes import TableRoutes
from warpstore.scan import Scan, ScanBounds, count_live
from warpstore.table_access import TableAccess
from warpstore.temporal.state import companion_of
from warpstore.temporal.table_series import TableSeries
from warpstore.units import parse_seconds
from warpstore.values import (
    DEADLINE_BYTES,
    TOMBSTONE,
    deadline_of,
    has_deadline,
    live_body,
    split_payload,
    tombstone,
    with_deadline,
)

if TYPE_CHECKING:
    from warpstore.catalog import Catalog
    from warpstore.context import StoreContext
    from warpstore.gpu_tier import GpuTier

R = TypeVar("R", bound=Record)
Key = str | bytes | int | UUID
TTL = str | float | timedelta
Time = datetime | float
"""A datetime, one without a timezone in UTC, or unix seconds."""

_CHUNK = 1024
_READS_OF_A_REWRITE = 4


class Table(MemoryTable[R], Interchange, Generic[R]):
    """The records of one type. Get it with ``store[User]``.

    Every call is a coroutine unless it says otherwise. After a failed call nothing was written, except where
    `OutcomeUnknownError` says that it may have been.

    Cancellation:
        A write that is cancelled while it waits for the disk is applied or not as if it had not been cancelled; the
        `asyncio.CancelledError` comes when its group has been written. A call cancelled before that changes nothing.
    """

    __slots__ = (
        "_access",
        "_codec",
        "_context",
        "_decode",
        "_decoders",
        "_encode",
        "_ephemeral",
        "_gpu",
        "_loop",
        "_route",
        "_series",
        "_ttl_s",
        "name",
        "record_type",
    )

    def __init__(
        self, context: StoreContext, codec: Codec[R], routes: TableRoutes, decoders: dict[int, Callable[[Any], R]]
    ) -> None:
        plan = codec.plan
        self.name = plan.table
        self.record_type: type[R] = plan.record_type
        self._context = context
        self._loop = context.loop
        self._codec = codec
        self._access = TableAccess(context, routes, plan.table)
        self._encode = codec.encode
        self._decode = codec.decode
        self._route = codec.route
        self._decoders = decoders
        self._ephemeral = EphemeralFields(codec.ephemeral, context.clock, context.loop)
        self._ttl_s = plan.strategy.seconds("ttl")
        super().__init__(
            **codec.memory_table(),
            n_known=context.caps.decoded_records(routes.table, context.config.record_cache_entries),
            puts_at_once=self._ttl_s is None and all(series.time is not None for series in plan.temporal_fields),
            ephemeral=self._ephemeral or None,
        )
        routes.attach(self)
        self._series: TableSeries | None = None
        self._gpu: GpuTier | None = context.gpu_tier(codec, decoders) if plan.gpu_fields else None

    def __repr__(self) -> str:
        return f"<Table {self.name!r} of {self.record_type.__name__}>"

    def _attach_series(self, catalog: Catalog) -> TableSeries:
        """Make and return what knows the series of this table, which has some."""
        tables = catalog.manifest.tables
        beside = tables.get(companion_of(self.name))
        place = None if beside is None else (beside.table, beside.schemas[-1].tag)
        self._series = TableSeries(
            self._context, self._codec, self._access, tables[self.name], place, partial(catalog.expires, self.name)
        )
        return self._series

    # One record in

    async def _put(self, record: R, /, *, ttl: TTL | None = None, if_version: int | None = None) -> None:
        self._context.check()
        fresh = self._ephemeral.encode(record)
        slot, key, value = self._encode(record)
        value = self._with_ttl(value, ttl)
        series = self._plain_series(ttl)
        if series is not None:
            await series.before_write([(slot, key)], ttl or self._ttl_s)
        if if_version is not None:
            await self._access.operate(slot, key, self._versioned(key, value, if_version))
        elif (outcome := self._write_now((slot, key, value))) == PAUSE:
            await asyncio.sleep(0)
        elif outcome == LONG_WAY:
            await self._write((slot, key, value))
        self._ephemeral.set(key, fresh)
        if series is not None:
            await series.after_write([(slot, key)])

    def _plain_series(self, ttl: TTL | None) -> TableSeries | None:
        """Return the table's series if a write needs more than itself because of them."""
        return None if self._series is None or self._series.is_plain(ttl or self._ttl_s) else self._series

    async def _pause(self) -> None:
        await asyncio.sleep(0)

    async def _write(self, encoded: tuple[int, HotKey, bytes]) -> None:
        slot, key, value = encoded
        await self._access.write((self._access.tier(slot), slot, key, value, value))

    def put_nowait(self, record: R, *, ttl: TTL | None = None) -> asyncio.Future[None]:
        """Store a record without waiting; return a future that is done when the store's promise holds.

        Raises:
            OverloadedError: `put` would have to wait.
            ValidationError, LimitError: as for `put`.
        """
        self._context.check()
        fresh = self._ephemeral.encode(record)
        slot, key, value = self._encode(record)
        value = self._with_ttl(value, ttl)
        if self._series is not None:
            self._series.refuse_nowait(slot, key, ttl or self._ttl_s)
        write = (self._access.tier(slot), slot, key, value, value)
        shard = self._access.writable(slot)
        if shard.takes_posts:
            done = asyncio.shield(shard.mailbox.post(write, len(value)))
        elif shard.is_open:
            shard.write_now(write)
            done = self._loop.create_future()
            done.set_result(None)
        else:
            raise OverloadedError(f"{shard.name}: writers wait for the disk, or for memory")
        self._ephemeral.set(key, fresh)
        return done

    async def insert(self, record: R, *, ttl: TTL | None = None) -> None:
        """Store a record whose key must be free.

        Raises:
            KeyExistsError: the key is taken.
            ValidationError, LimitError, OutcomeUnknownError, DiskFullError: as for `put`.
        """
        self._context.check()
        fresh = self._ephemeral.encode(record)
        slot, key, value = self._encode(record)
        value = self._with_ttl(value, ttl)

        def decide(current: bytes) -> tuple[bytes, bytes]:
            if self._is_live(current):
                raise KeyExistsError(f"{self.name}: the key {key!r} is taken", key=key)
            return value, value

        series = self._plain_series(ttl)
        if series is not None:
            await series.before_write([(slot, key)], ttl or self._ttl_s)
        await self._access.operate(slot, key, decide)
        self._ephemeral.set(key, fresh)
        if series is not None:
            await series.after_write([(slot, key)])

    async def update(self, key: Key, /, **changes: Any) -> None:
        """Set some fields of a stored record, atomically. Its deadline stays.

        Raises:
            KeyNotFoundError: there is no record.
            ValidationError: a field is unknown, the key, computed, or its value is wrong.
        """
        self._context.check()
        changed = frozenset(changes)

        def change(record: R) -> None:
            self._codec.set_fields(record, changes)

        def encode(record: R) -> tuple[int, HotKey, bytes]:
            return self._codec.encode_changed(record, changed)

        await self._change(key, change, encode)

    async def _change(
        self, key: Key, change: Callable[[R], object], encode: Callable[[R], tuple[int, HotKey, bytes]]
    ) -> None:
        if not self._rewritten(key, change, encode):
            await self._rewrite(key, change, encode)
        elif self._spend(_READS_OF_A_REWRITE):
            await asyncio.sleep(0)
        if self._series is not None:
            await self._series.after_write([self._route(key)])

    async def modify(self, key: Key, change: Callable[[R], object], /) -> None:
        """Let a function change a stored record, atomically: no other write comes between its read and its write.

        Args:
            key: The record's key.
            change: Called with a record of its own; what it returns is ignored. It must not await, nor change the key.
                What it raises goes to the caller, and nothing is written.

        Raises:
            KeyNotFoundError: there is no record.
            ValidationError: what the function left is wrong.
        """
        self._context.check()
        await self._change(key, change, self._encode)

    async def append(self, key: Key, field: str, item: Any, /) -> None:
        """Append an item to a `Temporal` series of a stored record, atomically.

        The series stays in the order of its items' times; of equal ones the first that came is first. An item that is
        older than its record may have joins the others of its time with the next round of ageing.

        Raises:
            KeyNotFoundError: there is no record.
            ValidationError: the field is no series, or the item is wrong.
        """
        self._context.check()
        plan = self._codec.plan
        if field not in plan.fields:
            raise plan.unknown_field(field)
        assert self._series is not None or not plan.temporal_fields
        if self._series is None:
            raise ValidationError(f"{self.record_type.__name__}.{field}: is no Temporal series", field=field)
        time = self._series.series_of(field).time

        def change(record: R) -> None:
            items = getattr(record, field)
            items.append(item)
            if time is not None and len(items) > 1 and getattr(item, time, 0) < getattr(items[-2], time):
                items.sort(key=lambda i: getattr(i, time))

        changed = frozenset((field,))
        await self._rewrite(
            key, change, lambda record: self._codec.encode_changed(record, changed), arrives=time is None
        )

    async def delete(self, key: Key) -> bool:
        """Delete a record; return whether there was one."""
        self._context.check()
        slot, hot = self._route(key)
        if self._series is not None and self._series.has_state:
            existed = await self._series.delete(slot, hot)
            self._ephemeral.drop(hot)
            return existed
        existed = False

        def decide(current: bytes) -> tuple[bytes, bytes] | None:
            nonlocal existed
            existed = self._is_live(current)
            return (TOMBSTONE, tombstone(self._codec.tag, hot)) if current else None

        await self._access.operate(slot, hot, decide, frees_memory=True)
        self._ephemeral.drop(hot)
        return existed

    # Many records in

    async def put_many(self, records: Iterable[R], *, ttl: TTL | None = None) -> int:
        """Store records as one batch; return how many.

        The batch is atomic within a shard, not across shards: after a crash each shard has all of its part or none.
        All records are checked before any is written. Of two with one key the later wins.

        Raises:
            ValidationError: a record is wrong; nothing was written.
            LimitError: the part of one shard is larger than 64 MiB; nothing was written. Split the batch.
            OutcomeUnknownError, DiskFullError: as for `put`; other shards' parts may have been written.
        """
        self._context.check()
        by_slot, parts = self._access.new_parts()
        fresh: list[tuple[HotKey, list[bytes | None]]] = []
        rest = iter(records)
        fill, encode = self._codec.fill, self._codec.encode_filled
        n = 0
        while chunk := list(islice(rest, _CHUNK)):
            n += len(chunk)
            if fill is not None:
                fill(chunk)
            if not self._ephemeral:
                scatter(encode, chunk, by_slot)
            else:
                for record in chunk:
                    values = self._ephemeral.encode(record)
                    slot, key, value = encode(record)
                    by_slot[slot].append(value)
                    fresh.append((key, values))
            if len(chunk) == _CHUNK:
                await asyncio.sleep(0)
        series = self._plain_series(ttl)
        if series is not None:
            routed = [(slot_of(k), k) for part in parts for k in {split_payload(value)[1] for value in part}]
            await series.before_write(routed, ttl or self._ttl_s)
        deadline = self._deadline(ttl)
        if deadline is not None:
            parts = [[with_deadline(value, deadline) for value in part] for part in parts]
        await self._access.write_batch(parts)
        for key, values in fresh:
            self._ephemeral.set(key, values)
        if series is not None:
            await series.after_write(routed)
        return n

    async def delete_many(self, keys: Iterable[Key]) -> int:
        """Delete records; return how many there were. Atomic key by key.

        Raises:
            ValidationError: a key has the wrong type; nothing was deleted.
        """
        keys = list(keys) if not isinstance(keys, str | bytes) else keys
        self._codec.routes(keys)
        n = 0
        for key in keys:
            n += await Table.delete(self, key)
        return n

    # Records out

    async def _get(self, key: Key, /) -> R | None:
        self._context.check()
        if self._spend(0):
            await asyncio.sleep(0)
        slot, hot = self._route(key)
        record = self._live(await self._access.load(slot, hot), self._now_ms())
        if record is not None:
            self._ephemeral.fill(hot, record)
        return record

    async def get_with_version(self, key: Key) -> tuple[R | None, int]:
        """Return the record under a key and its version; (None, 0) if there is none.

        The version is the xxh3-128 of the stored bytes: equal versions mean equal records, also after a restart.
        Ephemeral fields have no part in it.
        """
        self._context.check()
        slot, hot = self._route(key)
        value = await self._access.load(slot, hot)
        if not self._is_live(value):
            return None, 0
        record = self._decoded(value[DEADLINE_BYTES:] if has_deadline(value) else value)
        self._ephemeral.fill(hot, record)
        return record, xxh3_128_intdigest(value)

    async def get_many(self, keys: Iterable[Key], *, fields: Sequence[str] | None = None) -> list[R | None]:
        """Return the records under keys, in their order; None for the absent ones.

        Args:
            keys: The keys.
            fields: Read only these fields, and the key. The results then have just these attributes; they are no
                records and cannot be put.

        Raises:
            ValidationError: a key has the wrong type, or a field is unknown.
        """
        self._context.check()
        names = None if fields is None else tuple(fields)
        if names is not None:
            self._codec.project(names)  # refuses an unknown name also where there are no keys
        if type(keys) in (str, bytes):
            self._codec.routes(keys)  # refuses them
        wanted = list(keys)
        filled = self._ephemeral.named(self._codec.plan.fields if fields is None else fields)
        found: list[R | None] = []
        for start in range(0, len(wanted), _CHUNK):
            part = wanted[start : start + _CHUNK]
            found += self._records_in_memory(part, names) or await self._records_one_by_one(part, names)
            if filled:
                for (_, hot), record in zip(self._codec.routes(part), found[start:], strict=True):
                    for field in filled:
                        if record is not None:
                            field.fill(hot, record)
            if start + _CHUNK < len(wanted):
                await asyncio.sleep(0)
        return found

    async def window(self, key: Key, field: str, since: Time | None = None, until: Time | None = None, /) -> list[Any]:
        """Return the items of a `Temporal` series of a record with since <= time < until, by their times.

        It reads every place that items of these times may be in: the record, ssd, disk and archive. Of items with equal
        times those that came first are first. An absent record has none. Items past the last horizon are left out.

        Args:
            key: The record's key.
            field: The series.
            since: The first time, a datetime or unix seconds; None: from the first item on.
            until: The time after the last; None: to the last item. It is not less than ``since``.

        Raises:
            ValidationError: the field is unknown or no series, a bound is no time, or ``since`` lies behind ``until``.
            ArchiveUnavailableError: the archive may have such items, and does not answer.
            CorruptionError: a file is damaged.

        Cost:
            An index page and a block of each file whose times touch the window, in a thread; all items of the record's
            series in these files are decoded.
        """
        self._context.check()
        plan = self._codec.plan
        if self._series is None:
            if field not in plan.fields:
                raise plan.unknown_field(field)
            raise ValidationError(f"{self.record_type.__name__}.{field}: is no Temporal series", field=field)
        slot, hot = self._route(key)
        return await self._series.window(slot, hot, field, since, until)

    async def contains(self, key: Key) -> bool:
        """Return whether there is a record under a key."""
        self._context.check()
        (value,) = await self._access.values([self._route(key)], whole=False)
        return self._is_live(value)

    async def count(self) -> int:
        """Return how many records there are.

        Cost:
            A look at every key written since the last checkpoint; a scan where records have deadlines.
        """
        self._context.check()
        return await count_live(self._access.tiers(), self._context)

    def scan(
        self,
        start: Key | None = None,
        stop: Key | None = None,
        *,
        prefix: str | bytes | None = None,
        limit: int | None = None,
        reverse: bool = False,
        snapshot: bool = False,  # noqa: ARG002 - every scan of one process is one cut already
        fields: Sequence[str] | None = None,
    ) -> Scan[R]:
        """Return an asynchronous iterator over records in key order. Not a coroutine.

        Args:
            start: First key, included.
            stop: The key after the last, excluded.
            prefix: Only keys that begin with this; for str and bytes keys.
            limit: Yield at most this many.
            reverse: In descending order.
            snapshot: One cut over all shards, as of the first record: if a write began after another was acknowledged,
                a scan that gives the second gives the first. While all shards live on one loop every scan is such a
                cut, and this asks for what it gets; `warpstore.scan` has the proof.
            fields: As for `get_many`.

        Raises:
            ValidationError: a bound has the wrong type, or contradicts ``prefix``.
        """
        filled = self._ephemeral.named(self._codec.plan.fields if fields is None else fields)
        key_of = attrgetter(self._codec.plan.key_field)

        def fill(record: R) -> None:
            hot = self._route(key_of(record))[1]
            for field in filled:
                field.fill(hot, record)

        return self._new_scan(
            self._access.tiers,
            ScanBounds.of(self._codec, start, stop, prefix, limit),
            self._context,
            self._codec,
            whole=self._decoded,
            part=None if fields is None else self._projection(tuple(fields)),
            needs_whole=fields is None or self._codec.needs_whole(fields),
            finish=fill if filled else None,
            reverse=reverse,
        )

    def _new_scan(self, *arguments: Any, **options: Any) -> Scan[R]:
        return Scan(*arguments, **options)

    def column(self, name: str) -> Column:
        """Return the column of a `Gpu` field, for lookups in batches. Not a coroutine.

        Raises:
            ValidationError: the field is unknown, or no `Gpu` field.
        """
        if name not in self._codec.plan.fields:
            raise self._codec.plan.unknown_field(name)
        if self._gpu is None or all(field.name != name for field in self._codec.plan.gpu_fields):
            raise ValidationError(f"{self.record_type.__name__}.{name}: is no Gpu field", field=name)
        return Column(name, self._gpu, self._context.check)

    # The long ways

    def _now_ms(self) -> int:
        return int(self._context.clock.wall() * 1000)

    def _deadline(self, ttl: TTL | None) -> int | None:
        if ttl is None:
            ttl_s = self._ttl_s
        else:
            try:
                ttl_s = parse_seconds(ttl)
            except (ValueError, TypeError) as e:
                raise ValidationError(f"ttl={ttl!r}: {e}", field="ttl") from e
        if ttl_s is None:
            return None
        return -int(-(self._context.clock.wall() + ttl_s) * 1000 // 1)

    def _with_ttl(self, value: bytes, ttl: TTL | None) -> bytes:
        deadline = self._deadline(ttl)
        return value if deadline is None else with_deadline(value, deadline)

    def _is_live(self, value: bytes) -> bool:
        return bool(value) and not (has_deadline(value) and deadline_of(value) <= self._now_ms())

    def _decoded(self, value: bytes | memoryview) -> R:
        try:
            return self._decode(value)
        except msgspec.DecodeError as e:
            decoder = self._decoders.get(msgspec.msgpack.decode(value)[0])
            if decoder is None:
                raise WarpstoreError(f"{self.name}: a stored record cannot be read: {e}") from e
            return decoder(value)

    def _projection(self, fields: tuple[str, ...]) -> Callable[[bytes], Any]:
        project, pick = self._codec.project(fields), self._codec.pick(fields)

        def decode(value: bytes) -> Any:
            try:
                return project(head_of(value) if is_split(value) else value)
            except msgspec.DecodeError:
                return pick(self._decoded(value))  # of an older schema

        return decode

    def _records_in_memory(self, keys: list[Any], fields: tuple[str, ...] | None) -> list[R | None] | None:
        """Return the records under keys, or some fields of them, if all are ordinary ones in memory, else None."""
        if fields is None:
            return self._records(keys)
        values = self._values(keys)
        if values is None:
            return None
        try:
            return list(map(self._codec.project(fields), values))
        except msgspec.DecodeError:  # an older schema among them
            return None

    async def _records_one_by_one(self, keys: list[Any], fields: tuple[str, ...] | None) -> list[R | None]:
        """Return the records under keys, or some fields of them, one by one."""
        routed = self._codec.routes(keys)
        values = await self._access.values(routed, whole=fields is None or self._codec.needs_whole(fields))
        older = [i for i, value in enumerate(values) if self._is_split_of_older(value)]
        if older:
            for i, value in zip(older, await self._access.values([routed[i] for i in older], whole=True), strict=True):
                values[i] = value
        decode = self._decoded if fields is None else self._projection(fields)
        now_ms = self._now_ms()
        return [self._live(value, now_ms, decode) for value in values]

    def _is_split_of_older(self, value: bytes) -> bool:
        """Return whether a value is split and of an older schema, so that its head alone does not do."""
        return bool(value) and is_split_value(value) and split_payload(value)[0] != self._codec.tag

    def _live(self, value: bytes | None, now_ms: int, decode: Callable[[bytes], Any] | None = None) -> R | None:
        """Return the record of a value, or what else ``decode`` gives; None if it is absent or past its deadline."""
        body = live_body(value, now_ms) if value else None
        return None if body is None else (decode or self._decoded)(body)

    def _rewritten(
        self, key: Key, change: Callable[[R], object], encode: Callable[[R], tuple[int, HotKey, bytes]]
    ) -> bool:
        """Rewrite a record at once, if it is an ordinary one in memory and relaxed writes go straight in."""
        hot = self._route(key)[1]
        value = None if self._ephemeral else self._writable_value(hot)
        if value is None:
            return False
        record = self._decoded(value)
        change(record)
        encoded = encode(record)
        if encoded[1] != hot:
            self._refuse_new_key()
        return self._write_now(encoded) != LONG_WAY  # what `change` called may have closed the shard

    async def _rewrite(
        self,
        key: Key,
        change: Callable[[R], object],
        encode: Callable[[R], tuple[int, HotKey, bytes]],
        *,
        arrives: bool = False,
    ) -> None:
        slot, hot = self._route(key)
        fresh: list[bytes | None] = []

        def decide(current: bytes) -> tuple[bytes, bytes]:
            nonlocal fresh
            if not self._is_live(current):
                raise KeyNotFoundError(f"{self.name}: there is no record under {key!r}", key=key)
            deadline = deadline_of(current) if has_deadline(current) else None
            record = self._decoded(current if deadline is None else current[DEADLINE_BYTES:])
            self._ephemeral.fill(hot, record)
            change(record)
            if self._ephemeral:
                fresh = self._ephemeral.encode(record)
            _, changed_key, value = encode(record)
            if changed_key != hot:
                self._refuse_new_key()
            if deadline is not None:
                value = with_deadline(value, deadline)
            return value, value

        if arrives and self._series is not None:
            await self._series.append(slot, hot, decide)
        else:
            await self._access.operate(slot, hot, decide)
        if self._ephemeral:
            self._ephemeral.set(hot, fresh)

    def _refuse_new_key(self) -> NoReturn:
        name = self._codec.plan.key_field
        message = (
            f"{self.record_type.__name__}.{name}: is the key and may not change; delete the record and put a new one"
        )
        raise ValidationError(message, field=name)

    def _versioned(self, key: HotKey, value: bytes, if_version: int) -> Callable[[bytes], tuple[bytes, bytes]]:
        def decide(current: bytes) -> tuple[bytes, bytes]:
            version = xxh3_128_intdigest(current) if self._is_live(current) else 0
            if version != if_version:
                raise VersionConflictError(f"{self.name}: the record under {key!r} has another version", key=key)
            return value, value

        return decide

    def _close(self) -> None:
        self._ephemeral.close()
