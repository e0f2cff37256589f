"""The store: `open` it, take its tables, close it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypedDict, TypeVar, Unpack

from wal import LogFullError, WalError, log_event
from warpstore.backup import BackupResult
from warpstore.backup.copying import no_progress
from warpstore.backup.cutting import back_up
from warpstore.catalog import older_schemas
from warpstore.codec import Codec
from warpstore.config import Config, Durability, GpuMode, OnCorruption, load
from warpstore.context import StoreContext
from warpstore.environment import Environment
from warpstore.errors import (
    ClosedStoreError,
    DiskFullError,
    OutcomeUnknownError,
    UnavailableError,
    UnknownTableError,
    WarpstoreError,
)
from warpstore.observe.gathering import gather
from warpstore.observe.traced_table import TracedTable
from warpstore.observe.tracing import Tracing, require_api
from warpstore.opening import OpenParts, open_parts
from warpstore.reader import Reader, open_reader
from warpstore.record import Record, plan_of
from warpstore.statistics import StoreStatistics
from warpstore.table import Table
from warpstore.temporal.state import is_companion

R = TypeVar("R", bound=Record)

logger = logging.getLogger(__name__)

CHECKPOINT_ON_CLOSE_BYTES = 1 << 20


class Settings(TypedDict, total=False):
    """The settings that `open` takes as keywords; see `Config` for what each means."""

    durability: Durability
    sync_interval_ms: int
    mark_delay_ms: int
    shards: int | None
    lanes: int | None
    log: Sequence[str | os.PathLike[str]]
    segment_bytes: int | str
    checkpoint_log_bytes: int | str
    ram: int | str | None
    gpu: GpuMode
    processes: int
    mailbox_messages_max: int
    mailbox_bytes_max: int | str
    record_cache_entries: int
    block_cache_bytes: int | str
    restart_intensity: int
    restart_period_s: float | str
    stop_timeout_s: float | str
    on_corruption: OnCorruption
    trace_calls: bool
    ssd: str | os.PathLike[str] | None
    disk: str | os.PathLike[str] | None
    archive: str | os.PathLike[str] | None
    archive_options: Mapping[str, str]
    ageing_interval_s: float | str | None


class Store:
    """An open store. Get one with ``async with ws.open(...) as store``.

    Attributes:
        path: Its folder.
        config: Its settings.
    """

    def __init__(self, parts: OpenParts, tables: dict[type[Record], Table[Any]], reader: Reader | None = None) -> None:
        self.path = parts.context.path
        self.config = parts.context.config
        self._context: StoreContext = parts.context
        self._catalog = parts.catalog
        self._root = parts.root
        self._tables = tables
        self._reader = reader
        self._closing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Store {self.path!r}>"

    def __getitem__(self, record_type: type[R]) -> Table[R]:
        """Return the table of a record type.

        Raises:
            UnknownTableError: the type was not among the ``models`` of `open`.
        """
        table = self._tables.get(record_type)
        if table is None:
            name = getattr(record_type, "__name__", record_type)
            raise UnknownTableError(f"{name} was not among the models that the store was opened with")
        return table

    @property
    def tables(self) -> dict[str, type[Record] | None]:
        """The stored tables by name, each with its record type, or None for one opened without."""
        types = {table.name: record_type for record_type, table in self._tables.items()}
        return {name: types.get(name) for name in self._catalog.manifest.tables if not is_companion(name)}

    async def sync(self) -> None:
        """Return when every write acknowledged before the call is durable. In "memory" mode that takes a checkpoint.

        A store that was opened with ``read_only=True`` has none.

        Raises:
            OutcomeUnknownError: the log failed.
        """
        self._context.check()
        if self._reader is not None:
            return
        if self.config.durability == "memory":
            await self.checkpoint()
            return
        try:
            for keeper in self._context.lanes:
                if keeper.lane is None:
                    raise OutcomeUnknownError("the log failed, and is being recovered")
                await keeper.lane.sync()
        except LogFullError as e:
            raise DiskFullError(f"nothing can be synced: {e}") from e
        except WalError as e:
            raise OutcomeUnknownError(f"the log failed: {e}") from e

    async def checkpoint(self) -> None:
        """Write a checkpoint of every shard; return when it is durable and the log before it is let go.

        Raises:
            UnavailableError: it failed; nothing is lost, the log stays.
            ReadOnlyStoreError: the store was opened with ``read_only=True``.
        """
        self._check_owner()
        assert self._context.checkpointer is not None
        with self._context.tracing.asking():
            await self._context.checkpointer.call("asked for", timeout=None)

    async def backup(
        self, target: str | os.PathLike[str], progress: Callable[[int, int], object] | None = None
    ) -> BackupResult:
        """Copy the store into a folder while it is written; return when the copy is durable.

        The copy is one cut over all shards and tables: if a write began after another was acknowledged, a backup that
        holds the second holds the first. It holds what was acknowledged before the call. A second backup into the same
        folder copies only the files that are new, and takes the place of the first in one step; so one that fails, or
        is killed, leaves the one before whole. `ws.restore` makes a store of it.

        Args:
            target: A folder outside the store that does not exist, is empty, or holds a backup of this store.
            progress: Called on the loop with the bytes copied so far, and those to copy in all.

        Raises:
            BackupTargetError: the target holds something else, another store's backup, or lies inside the store.
            BackupDamagedError: a file of the store, or its copy, is not what was written.
            BackupFullError: there is no space for the copy.
            BackupError: a file could not be read or written.
            ReadOnlyStoreError: the store was opened with ``read_only=True``.
            UnavailableError: in "memory" mode: the checkpoint that the backup begins with failed.

        Cancellation:
            The copying ends. The backup before is whole; what was copied is removed by the next backup.

        Cost:
            Copying and one read of the copy for its checksums, in a child process, in slices that are synced one by
            one and with rests between them. The log begins another segment. Checkpoints and log that the cut names
            are kept until the copy is done. In "memory" mode, a checkpoint first.
        """
        self._check_owner()
        clock, folder = self._context.clock, os.fspath(target)
        began_s = clock.monotonic()
        try:
            with self._context.tracing.span("backup") as span:
                result = await back_up(self._context, self._catalog, folder, progress or no_progress)
                span.set("warpstore.backup_bytes", result.n_bytes)
                span.set("warpstore.copied_bytes", result.copied_bytes)
        except Exception as e:
            log_event(logger, logging.WARNING, "backup_failed", path=self.path, target=folder, error=e)
            raise
        log_event(
            logger,
            logging.INFO,
            "backup_written",
            path=self.path,
            target=result.path,
            files=result.n_files,
            bytes=result.n_bytes,
            copied_bytes=result.copied_bytes,
            seconds=clock.monotonic() - began_s,
        )
        return result

    async def age(self) -> None:
        """Do a round of ageing now: every item of a `Temporal` field goes to where its age belongs.

        Raises:
            DiskFullError: a folder has no space; its items stay where they are, and the next round tries again.
            ArchiveUnavailableError: the archive does not take what is to go there; it stays on disk. All else was done.
            UnavailableError: it failed otherwise; no item is lost, and none is there twice.
            ReadOnlyStoreError: the store was opened with ``read_only=True``.

        Cancellation:
            The round goes on.

        Cost:
            A look at every record that has a series, a few at a time; two writes of the manifest for each 4,096
            records or 16 MiB of items that move.
        """
        self._check_owner()
        assert self._context.ager is not None
        await self._context.ager.call("asked for", timeout=None)

    async def drop(self, name: str) -> None:
        """Remove a stored table that was opened without a record type. Its bytes go with the next checkpoint.

        Raises:
            UnknownTableError: there is no such table, or it is open.
            ReadOnlyStoreError: the store was opened with ``read_only=True``.
        """
        self._check_owner()
        if name not in self.tables:
            raise UnknownTableError(f"there is no table {name!r}")
        if self.tables[name] is not None:
            raise UnknownTableError(f"{name!r} is open; leave its type out of models to drop it")
        await self._context.run(lambda: self._catalog.dropped(name))

    async def refresh(self) -> None:
        """Move to the newest synced state of a store that was opened with ``read_only=True``.

        Scans under way, and columns being looked up, end with the state that they began with. The owner's own store is
        always at its newest state: there it does nothing.

        Raises:
            IncompatibleSchemaError: a record type can no longer read what is stored; the state stays.
            OpenError: the store is damaged, or another one is there; the state stays.
            UnavailableError: the owner changes it faster than it can be read; the state stays.

        Cancellation:
            The state stays, or is the newer one.

        Cost:
            As opening: the checkpoints' roots, and a replay of the log behind them. What was read from checkpoints
            before is read again.
        """
        self._context.check()
        if self._reader is None:
            return
        clock = self._context.clock
        began_s = clock.monotonic()
        try:
            with self._context.tracing.span("refresh"):
                await self._reader.refresh(self._tables.values())
        except Exception as e:
            log_event(logger, logging.WARNING, "refresh_failed", path=self.path, error=e)
            if isinstance(e, OSError):
                raise UnavailableError(f"{self.path}: cannot be read: {e}") from e
            raise
        log_event(logger, logging.INFO, "store_refreshed", path=self.path, seconds=clock.monotonic() - began_s)

    def _check_owner(self) -> None:
        """Raise if a call may not be served that changes the store.

        Raises:
            UsageError: it may not be served at all.
            ReadOnlyStoreError: the store was opened with ``read_only=True``.
        """
        self._context.check()
        if self._reader is not None:
            assert self._context.read_only is not None
            raise self._context.read_only.with_traceback(None)

    def statistics(self) -> StoreStatistics:
        """Return the store's numbers of this moment; it costs some 10 us a table and shard, whatever they hold."""
        self._context.check()
        return gather(self._context, self._catalog, self._root, self._tables)

    async def close(self) -> None:
        """Write and sync everything, write a checkpoint if the log is long, and let the store go. Idempotent.

        Raises:
            WarpstoreError: the last bytes could not be made durable; the next open replays what is.
        """
        if self._closing is None:
            self._context.check()
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        context = self._context
        began_s = context.clock.monotonic()
        try:
            with context.tracing.span("close"):
                await self._close_all()
        except BaseException as e:
            log_event(logger, logging.ERROR, "store_close_failed", path=self.path, error=e)
            raise
        seconds = context.clock.monotonic() - began_s
        log_event(logger, logging.INFO, "store_closed", path=self.path, seconds=seconds)

    async def _close_all(self) -> None:
        context, catalog = self._context, self._catalog
        error: WarpstoreError | None = None
        try:
            checkpointer = context.checkpointer
            in_memory = self.config.durability == "memory"
            if context.read_only is None and checkpointer is not None and checkpointer.is_alive:
                try:
                    if in_memory or self._log_is_long():
                        with context.tracing.asking():
                            await checkpointer.call("closing", timeout=None)
                except WarpstoreError as e:
                    error = e if in_memory else None
            if context.ager is not None and context.ager.is_alive:
                context.ager.halt()
                await context.ager.rest()
            context.close_ways(ClosedStoreError(f"the store {self.path!r} was closed"))
            for keeper in context.lanes:
                if keeper.lane is not None:
                    await keeper.lane.settled()
            lsns = [self._last_lsn(i) for i in sorted(context.shards)]
            ends = [await keeper.close() for keeper in context.lanes]
            if self._reader is not None:
                await self._reader.close()
            await self._root.stop()
            if context.read_only is None:
                try:
                    await context.run(lambda: catalog.closed(ends, lsns))
                except OSError as e:
                    raise UnavailableError(f"the clean end could not be recorded: {e}; the log will be replayed") from e
                if not all(ends) and not in_memory:
                    error = OutcomeUnknownError("the last bytes of the log could not be made durable")
        finally:
            for table in self._tables.values():
                table._close()
            context.release()
        if error is not None:
            raise error

    def _log_is_long(self) -> bool:
        """Return whether replaying the log would take longer than reading a checkpoint's roots."""
        manifest = self._catalog.manifest
        replayed = sum(keeper.report.n_bytes for keeper in self._context.lanes if keeper.report is not None)
        checkpointer = self._context.checkpointer
        n_done = 0 if checkpointer is None else checkpointer.n_done
        written = 0 if checkpointer is None else checkpointer.log_bytes()
        return bool(manifest.tables) and written + (0 if n_done else replayed) > CHECKPOINT_ON_CLOSE_BYTES

    def _last_lsn(self, index: int) -> int:
        stream = self._context.shards[index].stream
        return self._context.shards[index].lsn_recovered if stream is None else stream.lsn_next - 1


class Opening:
    """What `open` returns: ``async with`` it, or await it and close the store yourself."""

    def __init__(
        self,
        path: str,
        models: Sequence[type[Record]],
        config: Config,
        environment: Environment,
        *,
        read_only: bool = False,
    ) -> None:
        self._read_only = read_only
        self._path = path
        self._models = models
        self._config = config
        self._environment = environment
        self._store: Store | None = None

    async def _open(self) -> Store:
        if self._config.trace_calls:
            require_api()
        tracing = Tracing(self._path)
        clock = self._environment.clock
        began_s = clock.monotonic()
        with tracing.span("open"):
            store = await self._opened(tracing)
        tracing.opening = False
        manifest, config = store._catalog.manifest, self._config
        log_event(
            logger,
            logging.INFO,
            "store_opened",
            path=self._path,
            epoch=manifest.epoch,
            durability=config.durability,
            shards=len(manifest.shards),
            lanes=len(manifest.lanes),
            seconds=clock.monotonic() - began_s,
        )
        return store

    async def _opened(self, tracing: Tracing) -> Store:
        plans = [plan_of(model) for model in self._models]
        reader: Reader | None = None
        if self._read_only:
            context, reader = await open_reader(self._path, plans, self._config, self._environment, tracing)
            parts = OpenParts(context, reader.catalog, reader.root)
        else:
            parts = await open_parts(self._path, plans, self._config, self._environment, tracing)
        table_type: type[Table[Any]] = TracedTable if self._config.trace_calls else Table
        tables: dict[type[Record], Table[Any]] = {}
        for model, plan in zip(self._models, plans, strict=True):
            stored = parts.catalog.manifest.tables[plan.table]
            codec: Codec[Any] = plan.bind(stored.schemas[-1].tag, parts.context.backend)
            decoders = {older.tag: codec.decoder_of(*older) for older in older_schemas(stored)}
            tables[model] = table_type(parts.context, codec, parts.context.tables[stored.table], decoders)
            if plan.temporal_fields:
                parts.context.series_tables.append(tables[model]._attach_series(parts.catalog))
        if parts.context.ager is not None:
            parts.context.ager.rearm()
        return Store(parts, tables, reader)

    def __await__(self) -> Generator[Any, None, Store]:
        return self._open().__await__()

    async def __aenter__(self) -> Store:
        self._store = await self._open()
        return self._store

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._store is not None
        await self._store.close()


def open(  # noqa: A001 - the module is used as ws.open
    path: str | os.PathLike[str],
    *,
    models: Sequence[type[Record]] = (),
    read_only: bool = False,
    config: str | os.PathLike[str] | None = None,
    environment: Environment | None = None,
    **settings: Unpack[Settings],
) -> Opening:
    """Open the store at ``path``, or create one.

    Args:
        path: A folder; it is created if there is none.
        models: The record types to work with. Tables stored without one are kept.
        read_only: Read the synced state of a store that another process may own and write: without its lock, and
            without writing anything. Every write raises `ReadOnlyStoreError`; `Store.refresh` moves to a newer state.
        config: A TOML file of settings; keywords win over it.
        environment: The world the store lives in, for tests.
        **settings: See `Config`.

    Returns:
        ``async with ws.open(...) as store`` closes it at the end; ``store = await ws.open(...)`` leaves that to you.

    Raises:
        ConfigError: a setting is unknown or out of its limits (at once).
        OpenError: the path cannot be opened as a store (when entered or awaited).
        IncompatibleSchemaError: a model cannot read what is stored (when entered or awaited).
    """
    loaded = load(config, settings)
    where = os.path.abspath(os.fspath(path))
    return Opening(where, list(models), loaded, environment or Environment(), read_only=read_only)
