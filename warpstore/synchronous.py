"""The store for synchronous programs, safe from any thread.

One thread runs an event loop for the store; every call is handed to it and waited for. A call costs two thread hops,
so programs that do much at once use the calls that take many records.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, Unpack

from numpy.typing import NDArray

from warpstore.backup import BackupResult
from warpstore.environment import Environment
from warpstore.errors import ClosedStoreError, ForkedError, UsageError, WrongThreadError
from warpstore.interchange import ArrowBatches
from warpstore.interchange.batches import BATCH_ROWS
from warpstore.interchange.formats import Format
from warpstore.interchange.intake import Existing
from warpstore.record import Record
from warpstore.statistics import StoreStatistics
from warpstore.store import Settings, Store
from warpstore.store import open as open_store
from warpstore.table import TTL, Key, Table, Time

if TYPE_CHECKING:
    import pyarrow as pa

R = TypeVar("R", bound=Record)
T = TypeVar("T")

SCAN_BATCH = 256


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="warpstore-loop", daemon=True)
        self._thread.start()
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._calls: set[Future[Any]] = set()
        self.stopped = False

    def check(self) -> None:
        """Raise if a call can never be answered here.

        Raises:
            ForkedError: this is a forked child, without the loop's thread.
            WrongThreadError: this is the loop's own thread.
        """
        if self._pid != os.getpid():
            raise ForkedError("the store was opened before this process forked")
        if threading.current_thread() is self._thread:
            raise WrongThreadError("a synchronous store cannot be used from its own loop, as in a modify function")

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            self.check()
        except UsageError:
            coroutine.close()
            raise
        with self._lock:
            if self.stopped:
                coroutine.close()
                raise ClosedStoreError("the store was closed")
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
            self._calls.add(future)
        future.add_done_callback(self._calls.discard)
        return future.result()

    def stop(self) -> None:
        """End the loop, after the calls of other threads: the closed store lets none of them wait."""
        with self._lock:
            self.stopped = True
        wait(list(self._calls))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()


class SyncColumn:
    """A `Column` for synchronous programs."""

    def __init__(self, table: Table[Any], name: str, loop: _Loop) -> None:
        self.name = name
        self._table = table
        self._loop = loop

    def lookup(self, keys: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        """As `Column.lookup`."""

        async def call() -> tuple[NDArray[Any], NDArray[Any]]:
            return await self._table.column(self.name).lookup(keys)

        return self._loop.call(call())


class SyncTable(Generic[R]):
    """A `Table` for synchronous programs: the same calls, without ``await``."""

    def __init__(self, table: Table[R], loop: _Loop) -> None:
        self._table = table
        self._loop = loop

    def put(self, record: R, *, ttl: TTL | None = None, if_version: int | None = None) -> None:
        """As `Table.put`."""
        self._loop.call(self._table.put(record, ttl=ttl, if_version=if_version))

    def put_many(self, records: Iterable[R], *, ttl: TTL | None = None) -> int:
        """As `Table.put_many`."""
        return self._loop.call(self._table.put_many(list(records), ttl=ttl))

    def insert(self, record: R, *, ttl: TTL | None = None) -> None:
        """As `Table.insert`."""
        self._loop.call(self._table.insert(record, ttl=ttl))

    def update(self, key: Key, /, **changes: Any) -> None:
        """As `Table.update`."""
        self._loop.call(self._table.update(key, **changes))

    def modify(self, key: Key, change: Callable[[R], object], /) -> None:
        """As `Table.modify`; the function runs in the store's thread."""
        self._loop.call(self._table.modify(key, change))

    def append(self, key: Key, field: str, item: Any, /) -> None:
        """As `Table.append`."""
        self._loop.call(self._table.append(key, field, item))

    def window(self, key: Key, field: str, since: Time | None = None, until: Time | None = None) -> list[Any]:
        """As `Table.window`."""
        return self._loop.call(self._table.window(key, field, since, until))

    def delete(self, key: Key) -> bool:
        """As `Table.delete`."""
        return self._loop.call(self._table.delete(key))

    def delete_many(self, keys: Iterable[Key]) -> int:
        """As `Table.delete_many`."""
        return self._loop.call(self._table.delete_many(list(keys)))

    def get(self, key: Key) -> R | None:
        """As `Table.get`."""
        return self._loop.call(self._table.get(key))

    def get_with_version(self, key: Key) -> tuple[R | None, int]:
        """As `Table.get_with_version`."""
        return self._loop.call(self._table.get_with_version(key))

    def get_many(self, keys: Iterable[Key], *, fields: Sequence[str] | None = None) -> list[R | None]:
        """As `Table.get_many`."""
        return self._loop.call(self._table.get_many(list(keys), fields=fields))

    def contains(self, key: Key) -> bool:
        """As `Table.contains`."""
        return self._loop.call(self._table.contains(key))

    def count(self) -> int:
        """As `Table.count`."""
        return self._loop.call(self._table.count())

    def scan(
        self,
        start: Key | None = None,
        stop: Key | None = None,
        *,
        prefix: str | bytes | None = None,
        limit: int | None = None,
        reverse: bool = False,
        snapshot: bool = False,
        fields: Sequence[str] | None = None,
    ) -> Iterator[R]:
        """As `Table.scan`."""
        found = self._table.scan(
            start, stop, prefix=prefix, limit=limit, reverse=reverse, snapshot=snapshot, fields=fields
        )
        try:
            while batch := self._loop.call(_take(found)):
                yield from batch
        finally:
            with suppress(UsageError):  # closed or forked: nothing is left to let go of
                self._loop.call(_close(found))

    def to_arrow_batches(
        self,
        fields: Sequence[str] | None = None,
        *,
        start: Key | None = None,
        stop: Key | None = None,
        prefix: str | bytes | None = None,
        batch_rows: int = BATCH_ROWS,
    ) -> Iterator[pa.RecordBatch]:
        """As `Table.to_arrow_batches`."""
        found = self._table.to_arrow_batches(fields, start=start, stop=stop, prefix=prefix, batch_rows=batch_rows)
        try:
            while (batch := self._loop.call(_next_batch(found))) is not None:
                yield batch
        finally:
            with suppress(UsageError):
                self._loop.call(_close(found))

    def to_arrow(
        self,
        fields: Sequence[str] | None = None,
        *,
        start: Key | None = None,
        stop: Key | None = None,
        prefix: str | bytes | None = None,
    ) -> pa.Table:
        """As `Table.to_arrow`."""
        return self._loop.call(self._table.to_arrow(fields, start=start, stop=stop, prefix=prefix))

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        format: Format | None = None,  # noqa: A002 - as `Table.export`
        fields: Sequence[str] | None = None,
        start: Key | None = None,
        stop: Key | None = None,
        prefix: str | bytes | None = None,
        overwrite: bool = False,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> int:
        """As `Table.export`; ``progress`` is called in the store's thread."""
        return self._loop.call(
            self._table.export(
                path,
                format=format,
                fields=fields,
                start=start,
                stop=stop,
                prefix=prefix,
                overwrite=overwrite,
                progress=progress,
            )
        )

    def import_(
        self,
        path: str | os.PathLike[str],
        *,
        format: Format | None = None,  # noqa: A002 - as `Table.import_`
        existing: Existing = "replace",
        ttl: TTL | None = None,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> int:
        """As `Table.import_`; ``progress`` is called in the store's thread."""
        return self._loop.call(self._table.import_(path, format=format, existing=existing, ttl=ttl, progress=progress))

    def put_arrow(
        self,
        data: Any,
        *,
        existing: Existing = "replace",
        ttl: TTL | None = None,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> int:
        """As `Table.put_arrow`; batches are drawn, and ``progress`` is called, in the store's thread."""
        return self._loop.call(self._table.put_arrow(data, existing=existing, ttl=ttl, progress=progress))

    def column(self, name: str) -> SyncColumn:
        """As `Table.column`."""
        return SyncColumn(self._table, name, self._loop)


async def _next_batch(found: ArrowBatches) -> pa.RecordBatch | None:
    return await anext(found, None)


async def _take(found: AsyncIterator[R]) -> list[R]:
    batch: list[R] = []
    async for record in found:
        batch.append(record)
        if len(batch) == SCAN_BATCH:
            break
    return batch


async def _close(found: Any) -> None:
    await found.aclose()


class SyncStore:
    """A `Store` for synchronous programs. Get one with ``with ws.open_sync(...) as store``."""

    def __init__(self, store: Store, loop: _Loop) -> None:
        self.path = store.path
        self._store = store
        self._loop = loop
        self._lock = threading.Lock()

    def __getitem__(self, record_type: type[R]) -> SyncTable[R]:
        """Return the table of a record type; as `Store`."""
        return SyncTable(self._store[record_type], self._loop)

    @property
    def tables(self) -> dict[str, type[Record] | None]:
        """As `Store.tables`."""
        return self._store.tables

    def sync(self) -> None:
        """As `Store.sync`."""
        self._loop.call(self._store.sync())

    def checkpoint(self) -> None:
        """As `Store.checkpoint`."""
        self._loop.call(self._store.checkpoint())

    def backup(
        self, target: str | os.PathLike[str], progress: Callable[[int, int], object] | None = None
    ) -> BackupResult:
        """As `Store.backup`; ``progress`` is called in the store's thread."""
        return self._loop.call(self._store.backup(target, progress))

    def refresh(self) -> None:
        """As `Store.refresh`."""
        self._loop.call(self._store.refresh())

    def age(self) -> None:
        """As `Store.age`."""
        self._loop.call(self._store.age())

    def drop(self, name: str) -> None:
        """As `Store.drop`."""
        self._loop.call(self._store.drop(name))

    def statistics(self) -> StoreStatistics:
        """As `Store.statistics`."""

        async def call() -> StoreStatistics:
            return self._store.statistics()

        return self._loop.call(call())

    def close(self) -> None:
        """As `Store.close`."""
        self._loop.check()
        with self._lock:
            if self._loop.stopped:
                return
            try:
                self._loop.call(self._store.close())
            finally:
                self._loop.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def open_sync(
    path: str | os.PathLike[str],
    *,
    models: Sequence[type[Record]] = (),
    read_only: bool = False,
    config: str | os.PathLike[str] | None = None,
    environment: Environment | None = None,
    **settings: Unpack[Settings],
) -> SyncStore:
    """Open a store for a synchronous program; as `open`, and safe from any thread.

    Raises:
        ConfigError, OpenError, IncompatibleSchemaError: as for `open`.
    """
    opening = open_store(path, models=models, read_only=read_only, config=config, environment=environment, **settings)
    loop = _Loop()

    async def enter() -> Store:
        return await opening

    try:
        return SyncStore(loop.call(enter()), loop)
    except BaseException:
        loop.stop()
        raise
