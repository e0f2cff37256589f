"""``StoredReader``: a store directory read as data, without its record classes and without taking it over.

For tools: it reads the manifest, the checkpoints and the log, and writes nothing. With ``lock=True`` it shares the
store's lock, so that what it reads stands still; a store in use is refused. With ``lock=False`` it reads beside the
owner: it loads one state of the files, and loads it again if the owner replaced a file meanwhile. What it then shows
may include writes that are not durable yet, and of shards in several lanes each has its own moment.

A state is the checkpoints, open, and what the log changed since, in memory: that is what bounds the memory used.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import msgspec

from wal import FileSystem, Lock, OsFileSystem, WalError, replay
from wal.format import NewerFormatError
from wal.replay import segment_numbers
from warpstore import manifest as manifests
from warpstore.catalog import Catalog
from warpstore.checkpoint import Checkpoint, CheckpointTable, WouldBlock
from warpstore.clock import Clock, SystemClock
from warpstore.errors import (
    CorruptionError,
    FormatVersionError,
    NotAStoreError,
    OpenError,
    UnavailableError,
    UnknownTableError,
)
from warpstore.keys import HotKey, key_hash, slot_of, slot_range
from warpstore.locking import share
from warpstore.manifest import Manifest
from warpstore.plan import nearest
from warpstore.scan import after_prefix
from warpstore.stored_table import StoredRecord, StoredTable
from warpstore.values import TOMBSTONE, deadline_of, has_deadline, split_payload

LOADS_MAX = 8
"""How often a state is loaded again before a store is called too busy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableCount:
    """How much a table holds.

    Attributes:
        records: Its records; those whose deadline has passed count until a checkpoint drops them.
        expiring: Those of them that have a deadline.
        checkpointed: Records in the checkpoints.
        checkpointed_bytes: Bytes of their values.
        changed: Keys that the log changed since.
    """

    records: int
    expiring: int
    checkpointed: int
    checkpointed_bytes: int
    changed: int


@dataclass(slots=True)
class _ShardState:
    """One shard: its checkpoint, and the newest values of the log by table number and key."""

    checkpoint: Checkpoint | None
    changes: dict[int, dict[HotKey, bytes]]

    def cold(self, table: StoredTable) -> CheckpointTable | None:
        return None if self.checkpoint is None else self.checkpoint.tables.get(table.number)


class StoredReader:
    """A store directory, opened for reading. Get one with ``with StoredReader.open(path, lock=True) as stored``.

    Attributes:
        path: The store's folder.
        files: The file system.
        manifest: Its manifest, as it was last read.
        tables: Its tables by name.
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

    @property
    def is_clean(self) -> bool:
        """Whether it was closed cleanly. False while it is in use."""
        return bool(self.manifest.clean_lsns)

    def table(self, name: str) -> StoredTable:
        """Return a table.

        Raises:
            UnknownTableError: there is none of that name; the nearest is suggested.
        """
        table = self.tables.get(name)
        if table is None:
            has = "; ".join(self.tables) or "none"
            hint = nearest(name, self.tables) or f"; it has {has}"
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
            runs = [
                _newest(shard.cold(table), shard.changes.get(table.number, {}), start, stop) for shard in state.values()
            ]
            for _, value in heapq.merge(*runs):
                if value is not TOMBSTONE and not _has_ended(value, now_ms):
                    yield self._record(table, value)
        finally:
            _release(state)

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
            (shard,) = state.values()
            value = shard.changes.get(table.number, {}).get(key)
            if value is None:
                value = _find(shard.cold(table), key)
            if not value or _has_ended(value, now_ms):
                return None
            return self._record(table, value)
        finally:
            _release(state)

    def counts(self) -> dict[str, TableCount]:
        """Return how much each table holds.

        Raises:
            CorruptionError, UnavailableError: as for `records`.

        Cost:
            The log is replayed, and each key in it looked up in its checkpoint.
        """
        numbers = {table.number for table in self.tables.values()}
        state = self._load(numbers)
        try:
            return {name: _count(table, list(state.values())) for name, table in self.tables.items()}
        finally:
            _release(state)

    def _record(self, table: StoredTable, value: bytes) -> StoredRecord:
        try:
            return table.record(value)
        except ValueError as e:
            raise CorruptionError(f"{self.path}: table {table.name!r}: {e}", path=self.path, offset=0) from e

    # Loading a state

    def _load(self, tables: set[int], key: HotKey | None = None) -> dict[int, _ShardState]:
        """Return a state of all shards, or of that of a key; on a live store, one that no change of files cut."""
        for attempt in range(LOADS_MAX):
            if self.is_live:
                self.refresh()
            before = self.manifest
            n = len(before.shards)
            state: dict[int, _ShardState] = {}
            try:
                wanted = [i for i in range(n) if key is None or slot_of(key) in slot_range(i, n)]
                self._load_into(state, tables, wanted, key)
                if not self.is_live or _same_files(before, manifests.read(self.files, self.path)):
                    return state
            except (CorruptionError, FileNotFoundError) as e:
                if not self.is_live or attempt == LOADS_MAX - 1:
                    _release(state)
                    if isinstance(e, CorruptionError):
                        raise
                    missing = e.filename or self.path
                    raise CorruptionError(f"{missing}: the file is missing", path=missing, offset=0) from e
            except OSError as e:
                _release(state)
                raise UnavailableError(f"{self.path}: {e}") from e
            except BaseException:
                _release(state)
                raise
            _release(state)
        raise UnavailableError(f"{self.path}: its owner changes the files faster than they are read; try again")

    def refresh(self) -> None:
        """Read the manifest again: its owner may have replaced it.

        Raises:
            CorruptionError, FormatVersionError, OSError: as for `open`.
        """
        manifest = manifests.read(self.files, self.path)
        if manifest != self.manifest:
            self.manifest, self.tables = manifest, _tables(self.path, manifest)

    def _load_into(
        self, state: dict[int, _ShardState], tables: set[int], shards: list[int], key: HotKey | None
    ) -> None:
        layout = self.layout
        for shard in shards:
            state[shard] = _ShardState(open_checkpoint(layout, self.files, shard), {})
        for lane in range(len(self.manifest.lanes)):
            mine = frozenset(shards).intersection(layout.shards_of_lane(lane))
            if mine and not layout.is_covered(lane):
                self._replay(layout, lane, mine, state, tables, key)

    def _replay(
        self,
        layout: Catalog,
        lane: int,
        shards: frozenset[int],
        state: dict[int, _ShardState],
        tables: set[int],
        key: HotKey | None,
    ) -> None:
        table_of = layout.table_of_tag()
        entry = self.manifest.lanes[lane]
        directory = layout.lane_directory(lane)

        def deliver(stream: int, lsn: int, payloads: list[bytes]) -> None:  # noqa: ARG001
            changes = state[stream].changes
            for payload in payloads:
                tag, found, value = split_payload(payload)
                table = table_of.get(tag)
                if table is not None and table in tables and (key is None or found == key):
                    changes.setdefault(table, {})[found] = value

        try:
            # Beside an owner the log goes on: what it has now is read, also if another segment follows by then.
            until = max(segment_numbers(self.files, directory), default=None) if self.is_live else None
            replay(
                self.files,
                directory,
                store_id=self.manifest.id_bytes,
                lane=lane,
                first=entry.first,
                last=entry.active or None,
                until=until,
                after=[shard.lsn for shard in self.manifest.shards],
                deliver=deliver,
                clean_end=entry.clean_end,
                streams=shards,
            )
        except (WalError, msgspec.MsgspecError) as e:
            raise log_error(e, directory) from e


def log_error(error: Exception, directory: str) -> OpenError:
    """Return the error of warpstore for one of the log.

    Args:
        error: A `WalError`, or what a payload raised that is none.
        directory: The lane's folder, named where the error names no file.
    """
    path = getattr(error, "path", directory)
    if isinstance(error.__cause__, NewerFormatError):
        return FormatVersionError(str(error), path=path)
    text = str(error) if path in str(error) else f"{path}: {error}"
    return CorruptionError(text, path=path, offset=getattr(error, "offset", 0))


def open_checkpoint(layout: Catalog, files: FileSystem, shard: int) -> Checkpoint | None:
    """Return the checkpoint of a shard that the manifest names, or None if it names none.

    Raises:
        CorruptionError: it is missing, damaged, or another one than the manifest says.
        FormatVersionError: it was written by a newer warpstore.
    """
    entry = layout.manifest.shards[shard]
    if not entry.name:
        return None
    path = f"{layout.checkpoint_directory}/{entry.name}"
    checkpoint = Checkpoint.open(files, path, store_id=layout.manifest.id_bytes, shard=shard)
    if checkpoint.lsn != entry.lsn:
        checkpoint.release()
        message = f"{path}: offset 0: it ends at LSN {checkpoint.lsn}, the manifest says {entry.lsn}"
        raise CorruptionError(message, path=path, offset=0)
    return checkpoint


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


def _same_files(a: Manifest, b: Manifest) -> bool:
    return a.shards == b.shards and [lane.first for lane in a.lanes] == [lane.first for lane in b.lanes]


def _release(state: dict[int, _ShardState]) -> None:
    for shard in state.values():
        if shard.checkpoint is not None:
            shard.checkpoint.release()


def _has_ended(value: bytes, now_ms: int) -> bool:
    return has_deadline(value) and deadline_of(value) <= now_ms


def _find(cold: CheckpointTable | None, key: HotKey) -> bytes | None:
    found = None if cold is None else cold.find(key_hash(key), key, blocking=True)
    assert not isinstance(found, WouldBlock)
    return found


def _count(table: StoredTable, shards: list[_ShardState]) -> TableCount:
    records = expiring = checkpointed = n_bytes = changed = 0
    for shard in shards:
        cold = shard.cold(table)
        if cold is not None:
            checkpointed += cold.n_records
            expiring += cold.n_expiring
            n_bytes += cold.n_bytes
        for key, value in shard.changes.get(table.number, {}).items():
            before = _find(cold, key)
            records += (value is not TOMBSTONE) - (before is not None)
            expiring += bool(value and has_deadline(value)) - bool(before and has_deadline(before))
            changed += 1
    return TableCount(
        records=checkpointed + records,
        expiring=expiring,
        checkpointed=checkpointed,
        checkpointed_bytes=n_bytes,
        changed=changed,
    )


def _newest(
    cold: CheckpointTable | None, changes: dict[HotKey, bytes], start: HotKey | None, stop: HotKey | None
) -> Iterator[tuple[HotKey, bytes]]:
    """Yield the newest values of the keys k with start <= k < stop in key order, tombstones among them."""

    def is_inside(key: Any) -> bool:
        return (start is None or key >= start) and (stop is None or key < stop)

    newer: Iterator[Any] = iter(sorted(key for key in changes if is_inside(key)))
    pending = next(newer, None)
    for key, value in () if cold is None else _checkpointed(cold, start, stop):
        while pending is not None and pending < key:
            yield pending, changes[pending]
            pending = next(newer, None)
        if pending is not None and pending == key:
            continue
        yield key, value
    while pending is not None:
        yield pending, changes[pending]
        pending = next(newer, None)


def _checkpointed(cold: CheckpointTable, start: HotKey | None, stop: HotKey | None) -> Iterator[tuple[HotKey, bytes]]:
    for number in cold.block_numbers(start, stop):
        rows = cold.read_blocks(number, 1, blocking=True)
        assert not isinstance(rows, WouldBlock)
        rows.between(start, stop)
        for value in rows:
            yield split_payload(value)[1], value
