"""Horizons: how old an item of a series may be in each place, and how files part the time there.

An item stays in its record up to the age ``memory``, then in files on ``ssd``, on ``disk``, in the archive. A place
without a horizon is left out. Past the last one the item is gone, unless the series is archived.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from warpstore.schema import FieldSchema
from warpstore.temporal.times import NS

Place = Literal["record", "ssd", "disk", "archive", "gone"]
PLACES: tuple[Place, ...] = ("record", "ssd", "disk", "archive", "gone")

PARTITIONS = 16
"""Into about so many partitions the time that items spend in a place is parted."""

WIDTH_S_MIN = 64
WIDTH_S_MAX = 1 << 26


class Horizons(NamedTuple):
    """The ages, in nanoseconds, up to which an item stays in a place; None where the place is left out."""

    memory_ns: int | None
    ssd_ns: int | None
    disk_ns: int | None
    archive: bool

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Horizons:
        """Return the horizons of a field's options in a schema."""
        memory, ssd, disk = (
            None if age is None else round(age * NS) for age in map(options.get, ("memory", "ssd", "disk"))
        )
        return cls(memory, ssd, disk, bool(options.get("archive")))

    @property
    def ages(self) -> bool:
        """Whether items leave their record at all: without any horizon, and without an archive, they stay."""
        return self.archive or self.last_ns is not None

    @property
    def last_ns(self) -> int | None:
        """The last horizon."""
        return max((ns for ns in self[:3] if ns is not None), default=None)

    def place(self, age_ns: int) -> Place:
        """Return where an item of an age belongs."""
        if not self.ages:
            return "record"
        for place, limit in zip(PLACES, self[:3], strict=False):
            if limit is not None and age_ns <= limit:
                return place
        return "archive" if self.archive else "gone"

    def is_gone(self, age_ns: int) -> bool:
        """Return whether an item of an age is not to be seen any more."""
        return self.place(age_ns) == "gone"

    def width_s(self, tier: str) -> int:
        """Return the seconds of a partition of a tier: a power of two."""
        start = 0
        for place, limit in zip(PLACES, self[:3], strict=False):
            if limit is not None:
                if place == tier:
                    return _width((limit - start) // NS)
                start = limit
        return _width(start // NS)


def horizons_of(field: FieldSchema) -> Horizons | None:
    """Return the horizons of a field whose items age, else None."""
    if field.tier != "temporal":
        return None
    horizons = Horizons.of(field.options)
    return horizons if horizons.ages else None


def _width(span_s: int) -> int:
    wanted = min(max(span_s // PARTITIONS, WIDTH_S_MIN), WIDTH_S_MAX)
    return 1 << (wanted.bit_length() - 1)
