"""What a backup has to copy, as data, and the function that copies it.

A job names immutable files only, so it runs in another process, where reading a gigabyte back for its checksums costs
the event loop nothing. The order makes it safe to stop anywhere: files get their names when they are whole and durable;
the folders are synced; then the new manifest takes the place of the old one, in one rename; only then goes what the new
one does not name. So the manifest in the target always names files that are there, and whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

import msgspec

from wal import File, FileSystem, WalError
from wal.format import HEADER_BYTES, Kind, unpack_frame_header
from wal.reader import SEGMENT_BYTES_MAX, read_header
from wal.replay import segment_path
from warpstore.backup import format as backups
from warpstore.backup.copying import copy_slices, crc_of, failure
from warpstore.backup.cut_log import replay_cut
from warpstore.backup.format import (
    BACKUP_LOCK_NAME,
    BACKUP_NAME,
    NEW_SUFFIX,
    SERIES_FOLDERS,
    BackupFile,
    BackupManifest,
    BackupResult,
)
from warpstore.blocks import block_path
from warpstore.blocks import whole as blocks
from warpstore.blocks.format import FILE_HEADER_BYTES as BLOCK_FILE_HEADER_BYTES
from warpstore.checkpoint import whole as checkpoints
from warpstore.checkpoint.format import FOOTER_BYTES
from warpstore.errors import (
    BackupDamagedError,
    BackupTargetError,
    CorruptionError,
    FormatVersionError,
)
from warpstore.manifest import Manifest
from warpstore.temporal.format import HEADER_BYTES as SERIES_HEADER_BYTES

Progress = Callable[[int, int], object]
"""Called with the bytes copied so far, and the bytes to copy in all."""


class BackupJob(msgspec.Struct, frozen=True):
    """A backup.

    Attributes:
        path: The store's folder.
        target: The folder of the backup.
        store: The store's manifest at the cut.
        lsns: Per shard, the LSN of the last record in the cut.
        sealed: Per lane, the number of its last segment; below the lane's first if there is none.
        lanes: Per lane, the folder of its log.
        made_ms: Wall-clock milliseconds of the cut.
        rest: Time between two slices, as a share of the time that a slice takes.
    """

    path: str
    target: str
    store: Manifest
    lsns: list[int]
    sealed: list[int]
    lanes: list[str]
    made_ms: int
    rest: float


class CutFile(NamedTuple):
    """A file of a cut: where it is, its path in a backup, and of which shard or lane, or its number."""

    source: str
    path: str
    owner: int


def cut_files(job: BackupJob) -> list[CutFile]:
    """Return every file that makes the cut: what a backup copies is what stands here, and nothing else."""
    return [*_checkpoints(job), *_block_files(job), *_series_files(job), *_segments(job)]


def _checkpoints(job: BackupJob) -> Iterator[CutFile]:
    for shard, entry in enumerate(job.store.shards):
        if entry.name:
            yield CutFile(f"{job.path}/checkpoint/{entry.name}", f"checkpoint/{entry.name}", shard)


def _block_files(job: BackupJob) -> Iterator[CutFile]:
    for number in sorted({number for entry in job.store.shards for number in entry.blocks}):
        yield CutFile(block_path(f"{job.path}/blocks", number), block_path("blocks", number), number)


def _series_files(job: BackupJob) -> Iterator[CutFile]:
    for entry in job.store.copied_series:
        name = job.store.series_name(entry.number)
        folder = job.store.series_folder(job.path, entry.tier)
        yield CutFile(f"{folder}/{name}", f"series/{entry.tier}/{name}", entry.number)


def _segments(job: BackupJob) -> Iterator[CutFile]:
    for lane, entry in enumerate(job.store.lanes):
        for number in range(entry.first, job.sealed[lane] + 1):
            yield CutFile(segment_path(job.lanes[lane], number), segment_path(f"log/{lane:03d}", number), lane)


def run_backup(files: FileSystem, job: BackupJob, progress: Progress) -> BackupResult:
    """Make the backup, durably; blocks.

    Raises:
        BackupTargetError: the target holds something else, or another store's backup, or is being written.
        BackupDamagedError: a file to be copied, or its copy, is not what was written.
        BackupFullError: there is no space.
        BackupError: a file could not be read or written. After any of them the backup before is whole, and what was
            copied has been removed, if that was possible.
    """
    target = job.target
    try:
        _check_target(files, target)
        try:
            lock = files.lock(f"{target}/{BACKUP_LOCK_NAME}", b"%d\n" % os.getpid())
        except BlockingIOError as e:
            raise BackupTargetError(f"{target}: another backup into it is under way", path=target) from e
        try:
            return _Run(files, job, progress).run()
        finally:
            lock.close()
    except OSError as e:
        raise failure(e, target) from e


def _check_target(files: FileSystem, target: str) -> None:
    """Refuse a target that is not ours to write, and make it if there is none."""
    if not files.exists(target):
        files.make_directory(target)
        files.sync_directory(os.path.dirname(target) or ".")
        return
    if not files.is_directory(target):
        raise BackupTargetError(f"{target}: is a file; a backup is a folder", path=target)
    names = files.list_directory(target)
    if names and BACKUP_NAME not in names and BACKUP_LOCK_NAME not in names:
        raise BackupTargetError(f"{target}: holds something else ({names[0]}); give an empty folder", path=target)


class _Run:
    """One run of `run_backup`, under the lock of the target."""

    def __init__(self, files: FileSystem, job: BackupJob, progress: Progress) -> None:
        self._files = files
        self._job = job
        self._progress = progress
        self._copied = 0
        self._total = 0
        self._new: list[str] = []

    def run(self) -> BackupResult:
        files, job = self._files, self._job
        before = self._before()
        cut = cut_files(job)
        wanted: list[tuple[CutFile, int]] = []
        kept: dict[str, BackupFile] = {}
        known = {} if before is None else {file.path: file for file in before.files}
        for file in cut:
            n_bytes = self._cut_bytes(file)
            there = known.get(file.path)
            if there is not None and self._is_shared(file, there, n_bytes):
                kept[file.path] = there
            else:
                wanted.append((file, n_bytes))
        self._total = sum(n_bytes for _, n_bytes in wanted)
        self._make_folders()
        try:
            self._progress(0, self._total)
            with ThreadPoolExecutor(1) as checking:  # checks a file while the next is copied
                checks = [checking.submit(self._check, file, n_bytes) for file, n_bytes in self._copies(wanted)]
            for check in checks:
                there = check.result()
                kept[there.path] = there
            for lane in range(len(job.lanes)):
                self._check_log(lane)
            for folder in self._folders():
                files.sync_directory(folder)
        except BaseException:
            for path in self._new:
                if path not in known:
                    with suppress(OSError):
                        files.remove(f"{job.target}/{path}")
            raise
        number = 1 if before is None else before.number + 1
        ordered = [kept[file.path] for file in cut]
        # From here on nothing that was copied is removed again: the new manifest may be in place although this fails.
        backups.write(files, job.target, BackupManifest(job.store, job.lsns, job.sealed, number, job.made_ms, ordered))
        return BackupResult(
            path=job.target,
            n_files=len(ordered),
            n_bytes=sum(file.n_bytes for file in ordered),
            n_copied=len(wanted),
            copied_bytes=self._copied,
            n_removed=self._remove_unnamed(set(kept)),
        )

    def _before(self) -> BackupManifest | None:
        target = self._job.target
        try:
            before = backups.read(self._files, target)
        except FileNotFoundError:
            return None
        except (CorruptionError, FormatVersionError) as e:
            raise BackupTargetError(f"{target}: the backup there cannot be read: {e}", path=target) from e
        if before.store.store_id != self._job.store.store_id:
            raise BackupTargetError(f"{target}: holds the backup of another store; give another folder", path=target)
        return before

    def _folders(self) -> list[str]:
        target = self._job.target
        lanes = [f"{target}/log/{lane:03d}" for lane in range(len(self._job.lanes))]
        series = [*(f"{target}/{folder}" for folder in SERIES_FOLDERS), f"{target}/series"]
        return [*lanes, f"{target}/log", *series, f"{target}/blocks", f"{target}/checkpoint", target]

    def _make_folders(self) -> None:
        for folder in reversed(self._folders()):
            if not self._files.exists(folder):
                self._files.make_directory(folder)

    # One file

    def _cut_bytes(self, file: CutFile) -> int:
        """Return how much of a file there is to copy: of a segment, what it holds; its end was never written."""
        source = self._open(file)
        try:
            n_bytes = source.size()
            if file.path.startswith(("checkpoint/", "blocks/", "series/")):
                return n_bytes
            header = read_header(source, store_id=self._job.store.id_bytes, lane=file.owner)
            data = source.read(min(n_bytes, SEGMENT_BYTES_MAX), 0)
        except WalError as e:
            raise BackupDamagedError(f"the log to be copied is damaged: {e}", path=file.source) from e
        finally:
            source.close()
        at = HEADER_BYTES
        while (frame := unpack_frame_header(header, data, at)) is not None:
            at += frame.span
            if frame.kind is Kind.SEAL:
                return at
        return n_bytes  # one that a crash ended: what lies behind its last frame is for the replay to judge

    def _open(self, file: CutFile) -> File:
        try:
            return self._files.open(file.source)
        except FileNotFoundError as e:
            raise BackupDamagedError(f"{file.source}: is missing", path=file.source) from e

    def _is_shared(self, file: CutFile, there: BackupFile, n_bytes: int) -> bool:
        """Return whether the target has a file of the cut; by name, size and the part that bears its random salt."""
        path = f"{self._job.target}/{file.path}"
        if not self._files.exists(path):
            return False
        at, n = 0, HEADER_BYTES
        if file.path.startswith("blocks/"):
            n = BLOCK_FILE_HEADER_BYTES
        elif file.path.startswith("series/"):
            n = SERIES_HEADER_BYTES
        if file.path.startswith("checkpoint/"):
            at, n = n_bytes - FOOTER_BYTES, FOOTER_BYTES
        theirs = self._files.open(path)
        try:
            is_whole, part = theirs.size() == there.n_bytes, theirs.read(n, at)
        finally:
            theirs.close()
        if not is_whole:
            return False
        ours = self._open(file)
        try:
            same = there.n_bytes == n_bytes and ours.read(n, at) == part
        finally:
            ours.close()
        if not same:
            message = (
                f"{self._job.target}: holds the backup of a copy of this store that went its own way ({file.path})"
            )
            raise BackupTargetError(f"{message}; give another folder", path=path)
        return True

    def _copies(self, wanted: list[tuple[CutFile, int]]) -> Iterator[tuple[CutFile, int]]:
        """Copy the files, under names that do not count; yield each when that is done."""
        for file, n_bytes in wanted:
            temporary = f"{self._job.target}/{file.path}{NEW_SUFFIX}"
            copy_slices(self._files, file.source, temporary, n_bytes, self._said, rest=self._job.rest)
            yield file, n_bytes

    def _check(self, file: CutFile, n_bytes: int) -> BackupFile:
        """Check a copy, and give it its name."""
        files, path = self._files, f"{self._job.target}/{file.path}"
        temporary = f"{path}{NEW_SUFFIX}"
        try:
            if file.path.startswith("checkpoint/"):
                crc = checkpoints.verified_crc(files, temporary, store_id=self._job.store.id_bytes, shard=file.owner)
            elif file.path.startswith("blocks/"):
                crc = blocks.verified_crc(files, temporary, store_id=self._job.store.id_bytes, number=file.owner)
            elif file.path.startswith("series/"):
                crc = self._series_crc(file, temporary, n_bytes)
            else:
                crc = crc_of(files, temporary, n_bytes)  # its frames are checked with all of the log
            files.rename(temporary, path)
        except BaseException as e:
            with suppress(OSError):
                files.remove(temporary)
            if isinstance(e, CorruptionError):
                raise BackupDamagedError(f"{file.source}: is damaged: {e}", path=file.source) from e
            raise
        self._new.append(file.path)
        return BackupFile(file.path, n_bytes, crc)

    def _series_crc(self, file: CutFile, path: str, n_bytes: int) -> int:
        """Return the CRC32C of a copy of a file of items, which the manifest knows.

        Raises:
            BackupDamagedError: it is another one.
        """
        entry = next(entry for entry in self._job.store.series if entry.number == file.owner)
        crc = crc_of(self._files, path, n_bytes)
        if (n_bytes, crc) != (entry.n_bytes, entry.crc):
            raise BackupDamagedError(f"{file.source}: is damaged: the checksum is wrong", path=file.source)
        return crc

    def _said(self, n_bytes: int) -> None:
        self._copied += n_bytes
        self._progress(self._copied, self._total)

    def _check_log(self, lane: int) -> None:
        """Replay the copy of a lane's log into nothing; it must reach the cut."""
        job = self._job
        cut = BackupManifest(job.store, job.lsns, job.sealed, 0, job.made_ms, [])
        try:
            replay_cut(self._files, job.target, cut, lane, lambda stream, lsn, payloads: None)  # noqa: ARG005
        except WalError as e:
            raise BackupDamagedError(f"the log in {job.lanes[lane]} is damaged: {e}", path=job.lanes[lane]) from e

    def _remove_unnamed(self, named: set[str]) -> int:
        """Remove every file that no backup needs; what cannot be removed is tried again by the next backup."""
        n = 0
        target = self._job.target
        with suppress(OSError):
            for folder in self._unnamed_folders():
                for name in self._files.list_directory(f"{target}/{folder}"):
                    path = f"{folder}/{name}"
                    if path not in named and not self._files.is_directory(f"{target}/{path}"):
                        self._files.remove(f"{target}/{path}")
                        n += 1
        return n

    def _unnamed_folders(self) -> list[str]:
        lanes = [f"log/{name}" for name in self._files.list_directory(f"{self._job.target}/log")]
        return ["checkpoint", "blocks", *SERIES_FOLDERS, *lanes]
