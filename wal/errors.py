"""Errors of the log.

::

    WalError
    ├── LogCorruptError    bytes that were durable are not what was written
    ├── LogPoisonedError   a write or a sync failed; what was in flight may or may not be durable
    ├── LogFullError       no space; what was asked for was certainly not written
    ├── LogFormatError     a segment of a newer format, another store or another lane
    └── LogClosedError     the lane was closed
"""

from __future__ import annotations

from typing import ClassVar


class WalError(Exception):
    """The root of every error of the log.

    Attributes:
        is_loggable: Its messages name files, offsets and causes; what is in a payload the log does not know.
    """

    is_loggable: ClassVar[bool] = True


class LogCorruptError(WalError):
    """Bytes that were durable are not what was written.

    Attributes:
        path: The segment.
        offset: Byte offset of the damage in it.
    """

    def __init__(self, message: str, *, path: str, offset: int) -> None:
        super().__init__(f"{path}: offset {offset}: {message}")
        self.path = path
        self.offset = offset


class LogPoisonedError(WalError):
    """A write or a sync failed; what was in flight may or may not be durable."""


class LogFullError(WalError):
    """No space is left; what was asked for was certainly not written."""


class LogFormatError(WalError):
    """A segment that this code must not read: newer, of another store, or of another lane.

    Attributes:
        path: The segment.
    """

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path


class LogClosedError(WalError):
    """The lane was closed."""
