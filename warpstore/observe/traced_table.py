"""A table whose calls make spans, for ``trace_calls=True``.

The choice is made once, when the store is opened: its tables are of this class or of `Table`, so `Table` itself has
nothing to ask. A traced call does its work when it is awaited, in its span, and costs some 20 us more where spans are
recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from warpstore.column import Column
from warpstore.record import Record
from warpstore.scan import Scan
from warpstore.table import TTL, Key, Table, Time

if TYPE_CHECKING:
    import asyncio
    from contextlib import AbstractContextManager

    import numpy as np
    from numpy.typing import NDArray

    from gpu_kernels.keys import Keys
    from warpstore.observe.tracing import OpenSpan, Tracing

R = TypeVar("R", bound=Record)
T = TypeVar("T")

_BATCH_SIZE = "db.operation.batch.size"
_RETURNED = "db.response.returned_rows"


class TracedTable(Table[R]):
    """A `Table` with a span around each call, and around each piece that a scan reads."""

    __slots__ = ()

    def _span(self, operation: str) -> AbstractContextManager[OpenSpan]:
        return self._context.tracing.span(operation, table=self.name)

    # The ways of C are coroutines here: what they do at once is done in the span.

    async def get(self, key: Key, /) -> R | None:
        with self._span("get") as span:
            record = await super().get(key)
            span.set(_RETURNED, int(record is not None))
            return record

    async def put(self, record: R, /, *, ttl: TTL | None = None, if_version: int | None = None) -> None:
        with self._span("put"):
            await super().put(record, ttl=ttl, if_version=if_version)

    def put_nowait(self, record: R, *, ttl: TTL | None = None) -> asyncio.Future[None]:
        with self._span("put_nowait"):
            return super().put_nowait(record, ttl=ttl)

    async def insert(self, record: R, *, ttl: TTL | None = None) -> None:
        with self._span("insert"):
            await super().insert(record, ttl=ttl)

    async def update(self, key: Key, /, **changes: Any) -> None:
        with self._span("update"):
            await super().update(key, **changes)

    async def modify(self, key: Key, change: Callable[[R], object], /) -> None:
        with self._span("modify"):
            await super().modify(key, change)

    async def append(self, key: Key, field: str, item: Any, /) -> None:
        with self._span("append"):
            await super().append(key, field, item)

    async def window(self, key: Key, field: str, since: Time | None = None, until: Time | None = None, /) -> list[Any]:
        with self._span("window") as span:
            items = await super().window(key, field, since, until)
            span.set(_RETURNED, len(items))
            return items

    async def delete(self, key: Key) -> bool:
        with self._span("delete"):
            return await super().delete(key)

    async def put_many(self, records: Iterable[R], *, ttl: TTL | None = None) -> int:
        with self._span("put_many") as span:
            n = await super().put_many(records, ttl=ttl)
            span.set(_BATCH_SIZE, n)
            return n

    async def delete_many(self, keys: Iterable[Key]) -> int:
        with self._span("delete_many") as span:
            if not isinstance(keys, str | bytes):
                keys = list(keys)
                span.set(_BATCH_SIZE, len(keys))
            return await super().delete_many(keys)

    async def get_with_version(self, key: Key) -> tuple[R | None, int]:
        with self._span("get_with_version") as span:
            found = await super().get_with_version(key)
            span.set(_RETURNED, int(found[0] is not None))
            return found

    async def get_many(self, keys: Iterable[Key], *, fields: Sequence[str] | None = None) -> list[R | None]:
        with self._span("get_many") as span:
            found = await super().get_many(keys, fields=fields)
            span.set(_BATCH_SIZE, len(found))
            span.set(_RETURNED, len(found) - found.count(None))
            return found

    async def contains(self, key: Key) -> bool:
        with self._span("contains"):
            return await super().contains(key)

    async def count(self) -> int:
        with self._span("count"):
            return await super().count()

    def column(self, name: str) -> Column:
        super().column(name)  # refuses a wrong name
        assert self._gpu is not None
        return TracedColumn(name, self._gpu, self._context.check, self._context.tracing, self.name)

    def _new_scan(self, *arguments: Any, **options: Any) -> Scan[R]:
        found: TracedScan[R] = TracedScan(*arguments, **options)
        found.table = self.name
        return found


class TracedColumn(Column):
    """A `Column` with a span around each lookup."""

    def __init__(self, name: str, tier: Any, check: Callable[[], None], tracing: Tracing, table: str) -> None:
        super().__init__(name, tier, check)
        self._tracing = tracing
        self._table = table

    async def lookup(self, keys: Keys) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        with self._tracing.span("lookup", table=self._table, attributes={"warpstore.column": self.name}) as span:
            values, found = await super().lookup(keys)
            span.set(_BATCH_SIZE, len(found))
            span.set(_RETURNED, int(found.sum()))
            return values, found


class TracedScan(Scan[T]):
    """A `Scan` with a span around each piece that it reads.

    Attributes:
        table: The table's name.
    """

    table = ""

    async def _chunk(self) -> list[T]:
        with self.context.tracing.span("scan", table=self.table) as span:
            records = await super()._chunk()
            span.set(_RETURNED, len(records))
            return records
