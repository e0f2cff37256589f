"""A stream: one shard's sequence of records in the log, numbered by LSN without a gap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from wal.errors import WalError


class StreamOwner(Protocol):
    """What a lane needs of the shard behind a stream. All calls come on the loop, none may raise."""

    def take_group(self) -> list[bytes]:
        """Return the payloads to write now, in order; they become one group. May be empty."""

    def on_durable(self, lsn: int) -> Callable[[], None] | None:
        """Everything up to ``lsn`` is durable.

        Returns:
            What wakes those who waited for it, or None. Called once, soon, where any code may run.
        """

    def on_refused(self, error: WalError) -> None:
        """The group of the last `take_group` was certainly not written. Only in fsync mode."""

    def on_failed(self, error: WalError) -> None:
        """The lane is poisoned: what was in flight may or may not be durable, and nothing more will be written."""


class Stream:
    """A stream's place in its lane.

    Attributes:
        index: The stream's number.
        owner: The shard behind it.
        lsn_next: The LSN that the next record gets.
        lsn_durable: Everything up to this LSN is durable.
        asked: Whether it waits for the lane's next turn.
    """

    __slots__ = ("asked", "index", "lsn_durable", "lsn_next", "owner")

    def __init__(self, index: int, owner: StreamOwner, lsn_next: int) -> None:
        self.index = index
        self.owner = owner
        self.lsn_next = lsn_next
        self.lsn_durable = lsn_next - 1
        self.asked = False
