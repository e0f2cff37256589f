"""Every error that leaves warpstore, in one tree.

::

    WarpstoreError
    ├── SchemaError                  a declaration contradicts itself (when the class is created)
    │   └── IncompatibleSchemaError  a declaration contradicts the stored schema (at open, or what is read)
    ├── MigrationError               a migration or its way back cannot be made; the records are as they were
    ├── ConfigError                  a setting is unknown or out of its limits
    ├── ValidationError              a record or an argument is wrong; nothing was written
    │   ├── LimitError               ... because it exceeds a limit; the limit and its setting are named
    │   ├── SchemaMismatchError      the columns of a file or an Arrow table do not fit the record type
    │   └── RowError                 a row of it is wrong; those of the batches before it were written
    ├── KeyExistsError               ``insert`` of a key that is there
    ├── KeyNotFoundError             ``update``, ``append`` or ``modify`` of a key that is not there
    ├── VersionConflictError         ``put(if_version=)`` came too late
    ├── UsageError                   the program used the store wrongly
    │   ├── ClosedStoreError         you closed it
    │   ├── WrongThreadError         a table was used outside its event loop
    │   ├── ForkedError              a store was used in a forked child
    │   ├── MissingExtraError        an optional package is not installed
    │   └── UnknownTableError        the record type was not among ``models``
    ├── OpenError                    the path cannot be opened as a store
    │   ├── NotAStoreError           it is a file, or a folder of something else
    │   ├── StoreInUseError          another process owns it
    │   ├── FormatVersionError       it was written by a newer warpstore
    │   └── CorruptionError          bytes on disk are not what was written
    ├── BackupError                  a backup or a restore failed; what its target held is as whole as before
    │   ├── BackupTargetError        the target holds something else, or may not be the target
    │   ├── BackupSourceError        what is to be restored is no backup, or not whole
    │   ├── BackupDamagedError       bytes to be copied, or copied, are not what was written
    │   └── BackupFullError          no space
    ├── FileError                    a file to import or export cannot be read or written
    │   ├── FileFormatError          it is cut off, damaged, or of another format
    │   └── TargetExistsError        an export would replace it
    └── UnavailableError             the world broke it; the call may succeed later
        ├── OverloadedError          a mailbox is full (only from ``X_nowait``)
        ├── CallTimeoutError         an actor did not answer in time
        ├── ActorStoppedError        the actor stopped before it handled the message
        ├── ShardUnavailableError    the shard is restarting
        ├── ReadOnlyStoreError       opened read-only, or restarts were exhausted; reads go on
        ├── OutcomeUnknownError      a write may or may not have become durable
        ├── DiskFullError            no space; the write was certainly not applied
        ├── MemoryLimitError         the RAM cap is reached and nothing may move
        └── ArchiveUnavailableError  the archive of old items does not answer, or refuses

Errors of wal and gpu_kernels are converted to these once, at the boundary, with ``raise ... from``.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self


class WarpstoreError(Exception):
    """The root of every error that leaves warpstore."""


class SchemaError(WarpstoreError):
    """A record type's declaration contradicts itself."""


class IncompatibleSchemaError(SchemaError):
    """A record type cannot read what is stored under its name; nothing was touched.

    Attributes:
        table: The table's name, or None.
        field: The first field at fault, or None if it is the whole.
    """

    def __init__(self, message: str, *, table: str | None = None, field: str | None = None) -> None:
        super().__init__(message)
        self.table = table
        self.field = field


class MigrationError(WarpstoreError):
    """A migration, or the way back, cannot be made; the store's records are as they were.

    Attributes:
        path: The store.
        table: The table at fault, or None.
        field: The field at fault, or None.
    """

    def __init__(self, message: str, *, path: str, table: str | None = None, field: str | None = None) -> None:
        super().__init__(message)
        self.path = path
        self.table = table
        self.field = field


class ConfigError(WarpstoreError):
    """A setting is unknown, or its value is out of its limits.

    Attributes:
        setting: The setting's name.
    """

    def __init__(self, message: str, *, setting: str) -> None:
        super().__init__(message)
        self.setting = setting


class ValidationError(WarpstoreError):
    """A record or an argument is wrong; nothing was written.

    Attributes:
        field: The field or argument at fault, dotted for nested ones; None if it is the whole.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class LimitError(ValidationError):
    """A key, record or batch exceeds a limit; nothing was written."""


class SchemaMismatchError(ValidationError):
    """The columns of a file or of Arrow data do not fit the record type; nothing was written."""


class RowError(ValidationError):
    """A row of a file or of Arrow data is wrong. Nothing of it was written; rows before it may have been.

    Attributes:
        row: Its number, from 1; of JSON Lines the number of its line.
    """

    def __init__(self, message: str, *, row: int, field: str | None = None) -> None:
        super().__init__(message, field=field)
        self.row = row


class KeyExistsError(WarpstoreError):
    """``insert`` found its key taken.

    Attributes:
        key: The key.
    """

    def __init__(self, message: str, *, key: Any) -> None:
        super().__init__(message)
        self.key = key


class KeyNotFoundError(WarpstoreError):
    """``update``, ``append`` or ``modify`` found no record under its key.

    Attributes:
        key: The key.
    """

    def __init__(self, message: str, *, key: Any) -> None:
        super().__init__(message)
        self.key = key


class VersionConflictError(WarpstoreError):
    """The record changed since its version was read; nothing was written.

    Attributes:
        key: The key.
    """

    def __init__(self, message: str, *, key: Any) -> None:
        super().__init__(message)
        self.key = key


class UsageError(WarpstoreError):
    """The program used the store wrongly."""


class ClosedStoreError(UsageError):
    """The store was closed by its owner."""


class WrongThreadError(UsageError):
    """An asynchronous table was used outside the event loop that opened it."""


WRONG_THREAD = "the store belongs to the event loop that opened it; use ws.open_sync for other threads"


class ForkedError(UsageError):
    """A store was used in a forked child; the parent keeps it."""


class MissingExtraError(UsageError):
    """An optional package is not installed.

    Attributes:
        extra: The extra of warpstore that brings it.
    """

    def __init__(self, message: str, *, extra: str) -> None:
        super().__init__(message)
        self.extra = extra


class UnknownTableError(UsageError):
    """The record type was not among the ``models`` of ``open``, or no such table is stored."""


class OpenError(WarpstoreError):
    """The path cannot be opened as a store.

    Attributes:
        path: The path at fault.
        is_loggable: Its messages name files and offsets, nothing stored.
    """

    is_loggable: ClassVar[bool] = True

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path


class NotAStoreError(OpenError):
    """The path is a file, or a folder that holds something else."""


class StoreInUseError(OpenError):
    """Another process owns the store.

    Attributes:
        pid: The owner's process id, or None if it left no readable one.
    """

    def __init__(self, message: str, *, path: str, pid: int | None) -> None:
        super().__init__(message, path=path)
        self.pid = pid


class FormatVersionError(OpenError):
    """The store was written by a newer warpstore."""


class CorruptionError(OpenError):
    """Bytes on disk are not what was written.

    Attributes:
        offset: Byte offset of the damage in ``path``.
    """

    def __init__(self, message: str, *, path: str, offset: int) -> None:
        super().__init__(message, path=path)
        self.offset = offset

    @classmethod
    def at(cls, path: str, offset: int, what: object) -> Self:
        """Return the error for damage at an offset of a file; its message names both."""
        return cls(f"{path}: offset {offset}: {what}", path=path, offset=offset)


class BackupError(WarpstoreError):
    """A backup or a restore failed; what its target held before is as whole as it was.

    Attributes:
        path: The path at fault.
        is_loggable: Its messages name files and what is wrong with them, nothing stored.
    """

    is_loggable: ClassVar[bool] = True

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path


class BackupTargetError(BackupError):
    """The target holds something else, or another store's backup, or lies inside the store, or is in use."""


class BackupSourceError(BackupError):
    """What is to be restored is no backup, or parts of it are missing."""


class BackupDamagedError(BackupError):
    """Bytes that were to be copied, or the copy of them, are not what was written."""


class BackupFullError(BackupError):
    """There is no space for the copy."""


class FileError(WarpstoreError):
    """A file to import or export cannot be read or written.

    Attributes:
        path: The file.
    """

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path


class FileFormatError(FileError):
    """The file is cut off, damaged, or of another format."""


class TargetExistsError(FileError):
    """An export would replace a file; it was left as it is."""


class UnavailableError(WarpstoreError):
    """The world broke it; the same call may succeed later."""

    @classmethod
    def at(cls, path: str, offset: int, what: object) -> Self:
        """Return the error for an offset of a file that could not be read; its message names both."""
        return cls(f"{path}: offset {offset}: {what}")


class OverloadedError(UnavailableError):
    """A mailbox is full and the call does not wait."""


class CallTimeoutError(UnavailableError):
    """An actor did not answer in time; its effect is unknown."""


class ActorStoppedError(UnavailableError):
    """The actor stopped before it handled the message."""


class ShardUnavailableError(UnavailableError):
    """The shard is restarting after a fault; nothing of this call was applied."""


class ReadOnlyStoreError(UnavailableError):
    """The store reads, but does not write: it was opened with ``read_only=True``, or restarts were exhausted.

    The message says which.
    """


class OutcomeUnknownError(UnavailableError):
    """A write failed in a way that leaves open whether it became durable."""


class DiskFullError(UnavailableError):
    """No space is left; the write was certainly not applied."""

    counts_as_restart: ClassVar[bool] = False
    """A full disk is no crash: supervisors do not count it."""


class MemoryLimitError(UnavailableError):
    """The RAM cap is reached and nothing may be demoted; the write was not applied."""


class ArchiveUnavailableError(UnavailableError):
    """The archive does not answer, refuses, or gave back other bytes than it was given; nothing is lost.

    Attributes:
        place: The archive's folder or URL.
    """

    def __init__(self, message: str, *, place: str) -> None:
        super().__init__(message)
        self.place = place
