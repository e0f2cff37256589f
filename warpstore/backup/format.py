"""What a backup's folder holds.

::

    BACKUP               what the backup consists of: written last, replaced as a whole; without it there is no backup
    BACKUP.lock          held by whoever writes here
    checkpoint/          the checkpoints of the cut, under the names that they have in the store
    blocks/              the block files that those name, likewise
    series/TIER/         the files of items, likewise; those in an archive outside the store stay there, and are named
    log/NNN/             of each lane, the sealed segments from the first that counts through the one of the cut

Every file but ``BACKUP`` is immutable and named once in a store's life, so backups share it by name. A file that
``BACKUP`` does not name is what an interrupted backup left, and counts for nothing.

The cut is a vector: of each shard the LSN of its last record in the cut. The log reaches a little further, and a
restore stops there.
"""

from __future__ import annotations

import msgspec

from wal import FileSystem
from warpstore.manifest import Manifest, problem, read_whole, write_whole

BACKUP_NAME = "BACKUP"
BACKUP_LOCK_NAME = "BACKUP.lock"
RESTORING_NAME = "RESTORING"
NEW_SUFFIX = ".new"
SERIES_FOLDERS = ("series/ssd", "series/disk", "series/archive")
_MAGIC = b"warpstore-backup"


class BackupFile(msgspec.Struct, frozen=True):
    """A file of a backup: its path in the folder, its size, and the CRC32C of all of it."""

    path: str
    n_bytes: int
    crc: int


class BackupManifest(msgspec.Struct, frozen=True):
    """What a backup consists of.

    Attributes:
        store: The store's manifest at the cut, without the state before a migration: that is in no backup.
        lsns: Per shard, the LSN of the last record in the cut.
        sealed: Per lane, the number of the last segment; below the lane's first if there is none.
        number: Counts the backups into this folder.
        made_ms: Wall-clock milliseconds of the cut.
        files: Every file of it.
    """

    store: Manifest
    lsns: list[int]
    sealed: list[int]
    number: int
    made_ms: int
    files: list[BackupFile]


class BackupResult(msgspec.Struct, frozen=True):
    """What a backup or a restore did.

    Attributes:
        path: The target.
        n_files: Files of the backup.
        n_bytes: Their bytes.
        n_copied: Files that were copied: those which the backup before did not have.
        copied_bytes: Their bytes.
        n_removed: Files that no backup needs any more, and that were removed.
    """

    path: str
    n_files: int
    n_bytes: int
    n_copied: int
    copied_bytes: int
    n_removed: int = 0


def read(files: FileSystem, folder: str) -> BackupManifest:
    """Return what the backup in a folder consists of.

    Raises:
        FileNotFoundError: there is none.
        CorruptionError, FormatVersionError: as for the store's manifest.
    """
    return read_whole(files, f"{folder}/{BACKUP_NAME}", _MAGIC, BackupManifest, lambda backup: problem(backup.store))


def write(files: FileSystem, folder: str, manifest: BackupManifest) -> None:
    """Put a backup in place of the one before, durably.

    Raises:
        OSError: it failed; the one before stands, or, if only the last sync failed, either may.
    """
    write_whole(files, f"{folder}/{BACKUP_NAME}", _MAGIC, manifest)
