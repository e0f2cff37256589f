"""Merges files of items into one, step by step, so that the loop stays free and says which items still count."""

from __future__ import annotations

import heapq
import operator
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from warpstore.temporal.format import Run, sort_key

if TYPE_CHECKING:
    from warpstore.manifest import SeriesFileManifest
    from warpstore.temporal.series_files import NewSeriesFile, SeriesFile, SeriesFiles

STEP_ITEMS = 2_048
"""Items of a step; between two steps the loop is asked which count."""


class Rewriting:
    """The rewriting of some files into one.

    Args:
        files: The store's files.
        sources: Those to read; pinned until it ends.
        tier: Where the new file goes.
        width_s: Seconds of its partition.
        partition: Number of that.
    """

    def __init__(
        self, files: SeriesFiles, sources: Sequence[SeriesFile], tier: str, width_s: int, partition: int
    ) -> None:
        self._files = files
        self._sources = sources
        self._place = tier, width_s, partition
        self._runs: Iterator[Run] | None = None
        self._target: NewSeriesFile | None = None

    def read(self) -> list[Run]:
        """Return the next runs, in order, none at the end; blocks."""
        if self._runs is None:
            self._runs = self._merged()
        step: list[Run] = []
        n = 0
        for run in self._runs:
            step.append(run)
            n += len(run.items)
            if n >= STEP_ITEMS:
                break
        return step

    def _merged(self) -> Iterator[Run]:
        runs = heapq.merge(*(self._files.reader(file).runs() for file in self._sources), key=sort_key)
        for _, same in groupby(runs, key=sort_key):
            by_incarnation: dict[int, Run] = {}
            for run in same:
                first = by_incarnation.setdefault(run.incarnation, run)
                if first is not run:
                    first.items += run.items
            for run in by_incarnation.values():
                run.items.sort(key=operator.itemgetter(0, 1))
                yield run

    def write(self, runs: Sequence[Run]) -> None:
        """Write runs that count; blocks.

        Raises:
            DiskFullError, UnavailableError: it failed, and the new file is removed.
        """
        for run in runs:
            if self._target is None:
                self._target = self._files.new_file(*self._place, 0)
            self._target.add(run)

    def finish(self) -> SeriesFileManifest | None:
        """Make the new file durable; return what the manifest is to say of it, None where nothing counted; blocks.

        Raises:
            DiskFullError, UnavailableError: it failed, and the new file is removed.
        """
        return None if self._target is None else self._target.finish()

    def abandon(self) -> None:
        """Remove what was written; blocks."""
        if self._target is not None:
            self._target.abandon()
