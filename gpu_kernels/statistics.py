"""What a slab tells about itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SlabStatistics:
    """One moment of a slab.

    Attributes:
        backend: Name of the backend that answers.
        rows: Live keys.
        run_rows: Rows of each run, oldest first, with replaced and deleted ones.
        tombstones: Rows that mark a deleted key.
        bytes_keys: Bytes of words, tombstones and full keys.
        bytes_columns: Bytes of the column values.
        bytes_index: Bytes of the bucket tables and mixed codes.
        n_merges: Merges since the slab was made.
    """

    backend: str
    rows: int
    run_rows: tuple[int, ...]
    tombstones: int
    bytes_keys: int
    bytes_columns: int
    bytes_index: int
    n_merges: int

    @property
    def runs(self) -> int:
        """Sorted runs a look-up searches."""
        return len(self.run_rows)

    @property
    def bytes_total(self) -> int:
        """Bytes of all arrays."""
        return self.bytes_keys + self.bytes_columns + self.bytes_index

    @property
    def bytes_per_key(self) -> float:
        """``bytes_total`` by live key; 0 for an empty slab."""
        return self.bytes_total / self.rows if self.rows else 0.0
