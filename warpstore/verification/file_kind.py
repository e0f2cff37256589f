"""What a kind of file has to tell: which files it has, and what is wrong with them.

Another kind is a class with these members, and one line in `warpstore.verification.run`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from warpstore.errors import CorruptionError, OpenError
from warpstore.stored import StoredReader

Advance = Callable[[int], None]
"""Told how many bytes were verified since it was last told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was found.

    Attributes:
        kind: The kind of the file.
        path: The file.
        offset: Byte offset in it.
        message: What is there; no key and no value.
        is_defect: Whether bytes are not what they must be; False for what opening will put right by itself.
    """

    kind: str
    path: str
    offset: int
    message: str
    is_defect: bool = True

    def __str__(self) -> str:
        return f"{self.path}: offset {self.offset}: {self.message}"


class FileKind(Protocol):
    """A kind of file.

    Attributes:
        name: Its name in reports.
        is_verified: Whether `verify` looks at its files at all.
        stands_still: Whether its files stay as they are while a process owns the store.
    """

    name: str
    is_verified: bool
    stands_still: bool

    def paths(self, stored: StoredReader) -> list[str]:
        """Return the files of this kind that the store has or should have."""

    def verify(self, stored: StoredReader, advance: Advance) -> Iterator[Finding]:
        """Yield what is wrong with them. Damage and unreadable files are findings, not errors."""


def finding_of(kind: str, error: Exception, path: str) -> Finding:
    """Return an error that reading a file raised as a finding.

    Args:
        kind: The kind of the file.
        error: What was raised.
        path: The file, for errors that name none.
    """
    path = error.path if isinstance(error, OpenError) else path
    offset = error.offset if isinstance(error, CorruptionError) else 0
    text = str(error)
    for prefix in (f"{path}: ", f"offset {offset}: "):
        text = text.removeprefix(prefix)
    return Finding(kind=kind, path=path, offset=offset, message=text)
