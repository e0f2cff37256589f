"""Makes a store of a backup.

The result is a store of its own: it gets another id, in its manifest and every other file, so that no segment, no
checkpoint and no block file of the original can ever count in it. Checkpoints are copied and get the new id in their
footer, block files in their header. The log is written anew, of the records in the cut only. The manifest comes last; a
folder without it that holds the file ``RESTORING`` is what an interrupted restore left, and the next one begins anew
there.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

import msgspec

from wal import File, FileSystem, OsFileSystem, Segments, WalError, log_event
from warpstore import manifest as manifests
from warpstore.backup import format as backups
from warpstore.backup.copying import copy_slices, crc_of, failure, no_progress
from warpstore.backup.cut_log import replay_cut
from warpstore.backup.format import (
    BACKUP_LOCK_NAME,
    BACKUP_NAME,
    RESTORING_NAME,
    SERIES_FOLDERS,
    BackupFile,
    BackupManifest,
    BackupResult,
)
from warpstore.blocks import whole as blocks
from warpstore.checkpoint import whole as checkpoints
from warpstore.errors import BackupDamagedError, BackupSourceError, BackupTargetError, CorruptionError
from warpstore.locking import LOCK_NAME
from warpstore.manifest import LaneManifest, SeriesFileManifest
from warpstore.observe.tracing import Tracing
from warpstore.temporal import format as series

logger = logging.getLogger(__name__)

SEGMENT_BYTES = 64 << 20
_Group = tuple[int, int, list[bytes]]


def restore(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    progress: Callable[[int, int], object] | None = None,
    files: FileSystem | None = None,
    random_u64: Callable[[], int] | None = None,
) -> BackupResult:
    """Make a store in ``target`` of the backup in ``source``. Not a coroutine: it blocks until the store is durable.

    The store holds what the original held at the cut, and opens like any other. It is a store of its own: the
    original's log and checkpoints do not count in it, and its backups need a folder of their own. Its log lies inside
    it, wherever the original's was, and so do the files of its series, except those in an archive outside the store:
    these stay where they are, under the original's name, and both stores read them. The new one never removes them; the
    original does when a series is dropped there.

    Args:
        source: The folder of a backup. Nothing is written there.
        target: A folder that does not exist, or is empty, or holds what an interrupted restore left.
        progress: Called with the bytes copied so far, and those to copy in all.
        files: The file system, for tests.
        random_u64: Returns random numbers, for tests.

    Raises:
        BackupSourceError: the source is no backup, or a file of it is missing.
        BackupTargetError: the target holds something else; nothing was changed.
        BackupDamagedError: a file of the backup is not what was written.
        BackupFullError: there is no space.
        BackupError: a file could not be read or written.
        FormatVersionError: the backup was made by a newer warpstore.

    Cost:
        Two passes over the checkpoints and block files (the copy, and its checksum), and a replay of the log.
    """
    system = OsFileSystem() if files is None else files
    random = _random_u64 if random_u64 is None else random_u64
    here, there = os.path.abspath(os.fspath(source)), os.path.abspath(os.fspath(target))
    began_s = monotonic()
    try:
        with Tracing(there).span("restore") as span:
            result = _restored(system, here, there, random, progress or no_progress)
            span.set("warpstore.backup_bytes", result.n_bytes)
    except Exception as e:
        log_event(logger, logging.WARNING, "restore_failed", source=here, path=there, error=e)
        raise
    n_files, n_bytes, seconds = result.n_files, result.n_bytes, monotonic() - began_s
    log_event(
        logger,
        logging.INFO,
        "store_restored",
        source=here,
        path=there,
        files=n_files,
        bytes=n_bytes,
        seconds=seconds,
    )
    return result


def _restored(
    files: FileSystem,
    source: str,
    target: str,
    random_u64: Callable[[], int],
    progress: Callable[[int, int], object],
) -> BackupResult:
    try:
        backup = _read(files, source)
        _check_target(files, source, target)
        lock = files.lock(f"{target}/{LOCK_NAME}", b"%d\n" % os.getpid())
        try:
            return _Restore(files, source, target, backup, random_u64, progress).run()
        finally:
            lock.close()
    except BlockingIOError as e:
        raise BackupTargetError(f"{target}: another restore into it is under way", path=target) from e
    except OSError as e:
        raise failure(e, target) from e


def _random_u64() -> int:
    return int.from_bytes(os.urandom(8), "little")


def _read(files: FileSystem, source: str) -> BackupManifest:
    try:
        return backups.read(files, source)
    except (FileNotFoundError, NotADirectoryError) as e:
        raise BackupSourceError(f"{source}: holds no backup: there is no file {BACKUP_NAME}", path=source) from e
    except CorruptionError as e:
        raise BackupDamagedError(str(e), path=e.path) from e


def _check_target(files: FileSystem, source: str, target: str) -> None:
    """Refuse a target that is not ours to write, and make it if there is none."""
    here, there = os.path.realpath(source), os.path.realpath(target)
    if here == there or here.startswith(f"{there}{os.sep}") or there.startswith(f"{here}{os.sep}"):
        raise BackupTargetError(f"{target}: source and target lie in one another", path=target)
    if not files.exists(target):
        files.make_directory(target)
        files.sync_directory(os.path.dirname(target) or ".")
        return
    if not files.is_directory(target):
        raise BackupTargetError(f"{target}: is a file; a store is a folder", path=target)
    names = files.list_directory(target)
    if manifests.NAME in names:
        raise BackupTargetError(f"{target}: holds a store; give an empty folder", path=target)
    if BACKUP_NAME in names or BACKUP_LOCK_NAME in names:
        raise BackupTargetError(f"{target}: holds a backup; give an empty folder", path=target)
    if set(names) - {LOCK_NAME} and RESTORING_NAME not in names:
        raise BackupTargetError(f"{target}: holds something else ({names[0]}); give an empty folder", path=target)


class _Restore:
    """One run of `restore`, under the lock of the target."""

    def __init__(
        self,
        files: FileSystem,
        source: str,
        target: str,
        backup: BackupManifest,
        random_u64: Callable[[], int],
        progress: Callable[[int, int], object],
    ) -> None:
        self._files = files
        self._source = source
        self._target = target
        self._backup = backup
        self._random = random_u64
        self._progress = progress
        self._store_id = b"".join(random_u64().to_bytes(8, "little") for _ in range(2))
        self._total = sum(file.n_bytes for file in backup.files)
        self._done = 0

    def run(self) -> BackupResult:
        files, target, before = self._files, self._target, self._backup.store
        self._begin()
        self._progress(0, self._total)
        for file in self._backup.files:
            self._check(file)
            if file.path.startswith("checkpoint/"):
                self._copy(file, checkpoints.give_to_store)
            elif file.path.startswith("blocks/"):
                self._copy(file, blocks.give_to_store)
        items = [self._series(entry) for entry in before.series]
        lanes = [self._write_log(lane) for lane in range(len(before.lanes))]
        for folder in (*self._folders(), target):
            files.sync_directory(folder)
        manifests.write(
            files,
            target,
            msgspec.structs.replace(
                before,
                store_id=self._store_id.hex(),
                epoch=before.epoch + 1,
                lanes=lanes,
                clean_lsns=self._backup.lsns,
                series=items,
                folders={tier: folder for tier, folder in before.folders.items() if tier == "archive"},
                rollback=None,
            ),
        )
        with suppress(OSError):  # the store is whole with it, too
            files.remove(f"{target}/{RESTORING_NAME}")
            files.sync_directory(target)
        n = len(self._backup.files)
        return BackupResult(path=target, n_files=n, n_bytes=self._total, n_copied=n, copied_bytes=self._total)

    def _folders(self) -> list[str]:
        lanes = [f"{self._target}/log/{lane:03d}" for lane in range(len(self._backup.store.lanes))]
        names = ("checkpoint", "blocks", "series", *SERIES_FOLDERS, "log")
        return [*(f"{self._target}/{name}" for name in names), *lanes]

    def _begin(self) -> None:
        """Mark the target as ours, and remove what an interrupted restore left in it."""
        files, target = self._files, self._target
        marker = f"{target}/{RESTORING_NAME}"
        if not files.exists(marker):
            files.create(marker).close()
            files.sync_directory(target)
        for folder in self._folders():
            if not files.exists(folder):
                files.make_directory(folder)
        for folder in self._folders():
            for name in files.list_directory(folder):
                if not files.is_directory(f"{folder}/{name}"):
                    files.remove(f"{folder}/{name}")

    def _check(self, file: BackupFile) -> None:
        """Refuse a file of the backup that is not what was written."""
        path = f"{self._source}/{file.path}"
        if not self._files.exists(path):
            raise BackupSourceError(f"{path}: is missing", path=path)
        if crc_of(self._files, path, file.n_bytes) != file.crc:
            raise BackupDamagedError(f"{path}: the checksum is wrong", path=path)

    def _series(self, entry: SeriesFileManifest) -> SeriesFileManifest:
        """Return a file of items as the new store has it: a copy of its own, or, in an archive outside, the original's.

        Raises:
            BackupSourceError: the backup lacks it.
        """
        before = self._backup.store
        if entry not in before.copied_series:
            return msgspec.structs.replace(entry, origin=entry.origin or before.store_id)
        folder = f"series/{entry.tier}"
        path = f"{folder}/{before.series_name(entry.number)}"
        file = next((file for file in self._backup.files if file.path == path), None)
        if file is None:
            raise BackupSourceError(f"{self._source}/{path}: is missing", path=f"{self._source}/{path}")
        target = f"{folder}/{before.series_name(entry.number, self._store_id.hex())}"
        self._copy(file, series.give_to_store, target)
        crc = crc_of(self._files, f"{self._target}/{target}", file.n_bytes)
        return msgspec.structs.replace(entry, crc=crc, outbound=False)  # what the archive may have is the original's

    def _copy(self, file: BackupFile, give_to_store: Callable[[File, bytes, bytes], None], target: str = "") -> None:
        """Copy a checkpoint, a block file or a file of items, check the copy, and give it to the new store."""
        files, path = self._files, f"{self._target}/{target or file.path}"
        copy_slices(files, f"{self._source}/{file.path}", path, file.n_bytes, self._said, rest=0.0)
        if crc_of(files, path, file.n_bytes) != file.crc:
            raise BackupDamagedError(f"{path}: the checksum of the copy is wrong", path=path)
        copy = files.open_write(path)
        try:
            give_to_store(copy, self._backup.store.id_bytes, self._store_id)
            copy.sync()
        except (ValueError, msgspec.MsgspecError) as e:
            raise BackupDamagedError(f"{path}: {e}", path=path) from e
        finally:
            copy.close()

    def _said(self, n_bytes: int) -> None:
        self._done += n_bytes
        self._progress(self._done, self._total)

    def _write_log(self, lane: int) -> LaneManifest:
        """Write the records of a lane that are in the cut, and in no checkpoint; return the lane's entry."""
        store, source = self._backup.store, f"{self._source}/log/{lane:03d}"
        first, last = store.lanes[lane].first, self._backup.sealed[lane]
        if last < first:
            return LaneManifest("", 1, 0, 0)
        log = _LogWriter(self._files, f"{self._target}/log/{lane:03d}", lane, self)
        upto = self._backup.lsns

        def deliver(stream: int, lsn: int, payloads: list[bytes]) -> None:
            within = payloads[: max(0, upto[stream] + 1 - lsn)]
            if within:
                log.add((stream, lsn, within))

        try:
            replay_cut(self._files, self._source, self._backup, lane, deliver)
        except WalError as e:
            raise BackupDamagedError(str(e), path=source) from e
        self._said(sum(file.n_bytes for file in self._backup.files if file.path.startswith(f"log/{lane:03d}/")))
        return log.finished()


class _LogWriter:
    """Writes groups into segments of bounded size, each of which takes over from the one before."""

    def __init__(self, files: FileSystem, directory: str, lane: int, run: _Restore) -> None:
        self._segments = Segments(
            files,
            directory,
            store_id=run._store_id,
            lane=lane,
            epoch=run._backup.store.epoch + 1,
            zero_fill=False,
            salt=run._random,
        )
        self._next = [entry.lsn + 1 for entry in run._backup.store.shards]
        self._groups: list[_Group] = []
        self._n_bytes = 0
        self._number = 0
        self._end = 0

    def add(self, group: _Group) -> None:
        self._groups.append(group)
        self._n_bytes += sum(map(len, group[2]))
        if self._n_bytes >= SEGMENT_BYTES:
            self._write()

    def _write(self) -> None:
        self._number += 1
        segment = self._segments.make(self._number, 0, durable=self._end, takeover=self._next, groups=self._groups)
        self._end = segment.end
        segment.file.close()
        for stream, lsn, payloads in self._groups:
            self._next[stream] = lsn + len(payloads)
        self._groups, self._n_bytes = [], 0

    def finished(self) -> LaneManifest:
        """Write what is left, and return the manifest's entry of a lane that was closed cleanly there."""
        if self._groups:
            self._write()
        return LaneManifest("", 1, self._number, self._end)
