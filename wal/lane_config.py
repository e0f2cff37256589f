"""How a lane writes, and how it runs what blocks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

Durability = Literal["fsync", "interval"]

_T = TypeVar("_T")


class Runner(Protocol):
    """Runs a blocking call without blocking the loop."""

    def __call__(self, call: Callable[[], _T]) -> Awaitable[_T]:
        """Return an awaitable for the call's result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneConfig:
    """How a lane writes.

    Attributes:
        durability: When a record counts as durable.
        segment_bytes: Size of a segment.
        sync_interval_s: Longest time until a written record is synced, in ``interval`` mode.
        mark_delay_s: How long the log is idle, in ``fsync`` mode, before a mark confirms the last group.
    """

    durability: Durability
    segment_bytes: int
    sync_interval_s: float
    mark_delay_s: float
