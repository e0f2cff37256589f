"""``StoredReader``: a store directory read as data, without its record classes and without taking it over.

For tools: it reads the manifest, the checkpoints and the log, and writes nothing. With ``lock=True`` it shares the
store's lock, so that what it reads stands still; a store in use is refused. With ``lock=False`` it reads beside the
owner: it loads one state of the files, and loads it again if the owner replaced a file meanwhile. What it then shows
may include writes that are not durable yet, and of shards in several lanes each has its own moment.

A state is the checkpoints and their block files, open, and what the log changed since, in memory: that, and blocks of
80 MiB at most, is what bounds the memory used.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import msgspec

from wal import FileSystem, Lock, OsFileSystem
from warpstore import manifest as manifests
from warpstore.catalog import Catalog
from warpstore.clock import Clock, SystemClock
from warpstore.errors import (
    CorruptionError,
    NotAStoreError,
    OpenError,
    UnavailableError,
    UnknownTableError,
)
from warpstore.keys import HotKey
from warpstore.locking import share
from warpstore.manifest import Manifest
from warpstore.plan import nearest
from warpstore.scan import after_prefix
from warpstore.stored_state import BlockCount, StoredState, TableCount
from warpstore.stored_table import StoredRecord, StoredTable
from warpstore.temporal.state import is_companion
from warpstore.values import deadline_of, has_deadline

LOADS_MAX = 8
"""How often a state is loaded again before a store is called too busy."""


class StoredReader:
    """A store directory, opened for reading. Get one with ``with StoredReader.open(path, lock=True) as stored``.

    Attributes:
        path: The store's folder.
        files: The file system.
        manifest: Its manifest, as it was last read.
        tables: Its tables by name, with those beside tables with series (see `user_tables`).
        is_live: Whether an owner may change the files meanwhile.
    """

    def __init__(
        self, files: FileSystem, path: str, manifest: Manifest, lock: Lock | None, clock: Clock, *, is_live: bool
    ) -> None:
        self.files = files
        self.path = path
        self.manifest = manifest
        self.tables = _tables(path, manifest)
        self.is_live = is_live
        self._lock = lock
        self._clock = clock

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        lock: bool,
        files: FileSystem | None = None,
        clock: Clock | None = None,
    ) -> Self:
        """Return a reader of the store at ``path``.

        Args:
            path: The store's folder.
            lock: Whether to share the store's lock until `close`.
            files: The file system; None for the real one.
            clock: What tells which records have expired; None for the machine's.

        Raises:
            NotAStoreError: there is no store.
            StoreInUseError: a process owns it, and ``lock`` was asked for.
            FormatVersionError: it was written by a newer warpstore.
            CorruptionError: its manifest is damaged, or gone.
            OpenError: it cannot be read.
        """
        files = files or OsFileSystem()
        path = os.path.abspath(os.fspath(path))
        try:
            _require_store(files, path)
            held = share(files, path) if lock else None
            try:
                manifest = manifests.read(files, path)
                reader = cls(files, path, manifest, held, clock or SystemClock(), is_live=not lock)
            except BaseException:
                if held is not None:
                    held.close()
                raise
        except OSError as e:
            raise OpenError(f"{path}: cannot be read: {e}", path=path) from e
        return reader

    def close(self) -> None:
        """Let the lock go. Idempotent."""
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def layout(self) -> Catalog:
        """Where the files of the manifest are. Only to be asked: its changes write."""
        return Catalog(self.files, self.path, self.manifest)

    def before_migration(self) -> StoredReader | None:
        """Return a reader of the state that is kept for the way back of a migration, or None. It has no log.

        Raises:
            CorruptionError: its tables are damaged.
        """
        kept = self.manifest.rollback
        if kept is None:
            return None
        manifest = msgspec.structs.replace(
            self.manifest,
            tables=kept.tables,
            shards=kept.shards,
            clean_lsns=[s.lsn for s in kept.shards],
            rollback=None,
        )
        return StoredReader(self.files, self.path, manifest, None, self._clock, is_live=False)

    @property
    def is_clean(self) -> bool:
        """Whether it was closed cleanly. False while it is in use."""
        return bool(self.manifest.clean_lsns)

    @property
    def user_tables(self) -> dict[str, StoredTable]:
        """The tables that somebody declared: not those that hold what a record's series have beside the record."""
        return {name: table for name, table in self.tables.items() if not is_companion(name)}

    def table(self, name: str) -> StoredTable:
        """Return a table.

        Raises:
            UnknownTableError: there is none of that name; the nearest is suggested.
        """
        table = self.tables.get(name)
        if table is None:
            has = "; ".join(self.user_tables) or "none"
            hint = nearest(name, self.user_tables) or f"; it has {has}"
            raise UnknownTableError(f"TABLE: {self.path} has no table {name!r}{hint}")
        return table

    # What is stored

    def records(self, name: str, *, prefix: str | bytes | None = None) -> Iterator[StoredRecord]:
        """Yield the live records of a table in key order, in one state.

        Args:
            name: The table.
            prefix: Only keys that begin with this; for str and bytes keys.

        Raises:
            UnknownTableError: there is no such table.
            CorruptionError: what was read is damaged.
            UnavailableError: reading failed, or the owner changes the files faster than they are read.
        """
        table = self.table(name)
        start, stop = prefix, None if prefix is None else after_prefix(prefix)
        now_ms = int(self._clock.wall() * 1000)
        state = self._load({table.number})
        table = self.table(name)  # it may have been read again
        try:
            for value in state.values(table, start, stop):
                if not _has_ended(value, now_ms):
                    yield self._record(table, value)
        finally:
            state.release()

    def get(self, name: str, key: HotKey) -> StoredRecord | None:
        """Return the live record under a hot key (a UUID's is its 16 bytes), or None.

        Raises:
            UnknownTableError, CorruptionError, UnavailableError: as for `records`.
        """
        table = self.table(name)
        now_ms = int(self._clock.wall() * 1000)
        state = self._load({table.number}, key)
        table = self.table(name)
        try:
            value = state.value(table, key)
        finally:
            state.release()
        if not value or _has_ended(value, now_ms):
            return None
        return self._record(table, value)

    def counts(self) -> dict[str, TableCount]:
        """Return how much each table holds.

        Raises:
            CorruptionError, UnavailableError: as for `records`.

        Cost:
            The log is replayed, and each key in it looked up in its checkpoint.
        """
        state = self._load({table.number for table in self.tables.values()})
        try:
            return {name: state.count(table) for name, table in self.tables.items()}
        finally:
            state.release()

    def block_counts(self) -> dict[int, BlockCount]:
        """Return what the block files of each shard hold. The log is not read.

        Raises:
            CorruptionError, UnavailableError: as for `records`.
        """
        state = self._load(set())
        try:
            return state.block_counts()
        finally:
            state.release()

    def _record(self, table: StoredTable, value: bytes) -> StoredRecord:
        try:
            return table.record(value)
        except ValueError as e:
            raise CorruptionError(f"{self.path}: table {table.name!r}: {e}", path=self.path, offset=0) from e

    # Loading a state

    def _load(self, tables: set[int], key: HotKey | None = None) -> StoredState:
        """Return a state of all shards, or of that of a key; on a live store, one that no change of files cut."""
        for attempt in range(LOADS_MAX):
            if self.is_live:
                self.refresh()
            before = self.manifest
            try:
                state = StoredState.load(self.files, self.layout, tables, key, is_live=self.is_live)
            except (CorruptionError, FileNotFoundError) as e:
                if self.is_live and attempt < LOADS_MAX - 1:
                    continue
                if isinstance(e, CorruptionError):
                    raise
                missing = e.filename or self.path
                raise CorruptionError(f"{missing}: the file is missing", path=missing, offset=0) from e
            except OSError as e:
                raise UnavailableError(f"{self.path}: {e}") from e
            try:
                stood_still = not self.is_live or self._names_the_files_of(before)
            except BaseException:
                state.release()
                raise
            if stood_still:
                return state
            state.release()
        raise UnavailableError(f"{self.path}: its owner changes the files faster than they are read; try again")

    def _names_the_files_of(self, before: Manifest) -> bool:
        """Return whether no file that the manifest named before can have been let go meanwhile."""
        now = manifests.read(self.files, self.path)
        firsts = [lane.first for lane in before.lanes]
        return now.shards == before.shards and [lane.first for lane in now.lanes] == firsts

    def refresh(self) -> None:
        """Read the manifest again: its owner may have replaced it.

        Raises:
            CorruptionError, FormatVersionError, OSError: as for `open`.
        """
        manifest = manifests.read(self.files, self.path)
        if manifest != self.manifest:
            self.manifest, self.tables = manifest, _tables(self.path, manifest)


def _require_store(files: FileSystem, path: str) -> None:
    if not files.exists(path):
        raise NotAStoreError(f"{path}: there is nothing", path=path)
    if not files.is_directory(path):
        raise NotAStoreError(f"{path}: is a file; a store is a folder", path=path)
    if not files.exists(f"{path}/{manifests.NAME}"):
        missing = f"{path}/{manifests.NAME}"
        if {"log", "checkpoint"} & set(files.list_directory(path)):
            raise CorruptionError(f"{missing}: offset 0: the manifest is missing", path=missing, offset=0)
        raise NotAStoreError(f"{path}: is no store: it has no {manifests.NAME}", path=path)


def _tables(path: str, manifest: Manifest) -> dict[str, StoredTable]:
    place = f"{path}/{manifests.NAME}"
    return {name: StoredTable(name, entry, place) for name, entry in sorted(manifest.tables.items())}


def _has_ended(value: bytes, now_ms: int) -> bool:
    return has_deadline(value) and deadline_of(value) <= now_ms
