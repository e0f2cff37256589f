"""What the rows share: the work folder, the contestants with their inputs, the stores loaded once for all rows.

The inputs are made before anything is timed and frozen. `Bench.loaded` opens each contestant's store with all records
in it at first use and keeps it for the rows that read; rows that write a store of their own use `Bench.fresh`.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import workloads
from benchmarks.child import ChildFailedError
from benchmarks.drive import put_batch
from benchmarks.measure import WrongAnswerError
from benchmarks.peers.peer import Loaded, Peer, Store, close_store, settle_store
from benchmarks.row import OURS, Sizes


@dataclass(slots=True)
class Contestant:
    """A peer with the inputs in its own record type.

    Attributes:
        peer: How to open it.
        records: Record ``i`` has key ``i``.
        changed: What an update writes for it.
    """

    peer: Peer
    records: list[Any]
    changed: list[Any]

    @property
    def name(self) -> str:
        """The peer's name."""
        return self.peer.name


class Bench:
    """The shared state of a run.

    Args:
        sizes: How much to do.
        folder: An empty folder on the device to be measured; the caller deletes it.
        found: The peers.
        in_process: Whether rows run in this process, and need inputs.
    """

    def __init__(self, sizes: Sizes, folder: Path, found: Loaded, *, in_process: bool = True) -> None:
        self.sizes = sizes
        self.folder = folder
        self.found = found
        self.rows = workloads.rows(max(sizes.n, sizes.n_put) if in_process else 0)
        self.keys = [row.id for row in self.rows]
        changed = [workloads.changed(row) for row in self.rows]
        self.contestants = [
            Contestant(peer, [peer.record(row) for row in self.rows], [peer.record(row) for row in changed])
            for peer in found.peers
        ]
        self._loaded: dict[str, Store] = {}
        self._n_fresh = 0
        self.untouched: dict[str, float] = {}
        """Anonymous memory after opening a clean store and one get, by name: from the row `reopen` for `memory`."""
        self.made: dict[tuple[str, str], Path | ChildFailedError] = {}
        """Folders of closed stores that several rows read, by module and kind of record; or why there is none."""

    @property
    def missing(self) -> dict[str, str]:
        """Modules of peers that are not installed, and why."""
        return self.found.missing

    @property
    def named(self) -> list[tuple[str, Contestant]]:
        """Names and contestants, as `benchmarks.measure.interleaved` takes them."""
        return [(contestant.name, contestant) for contestant in self.contestants]

    @property
    def fewer(self) -> dict[str, int]:
        """Trials of the contestants that get fewer than the others."""
        n_trials = self.sizes.n_trials_slow
        return {
            found.name: n_trials for found in self.contestants if found.peer.slow and n_trials < self.sizes.n_trials
        }

    def names(self, *, log: bool | None = None, peers_only: bool = True) -> list[str]:
        """Return names of contestants, those with or without a log if asked, without warpstore and the floor."""
        return [
            contestant.name
            for contestant in self.contestants
            if (log is None or contestant.peer.has_log == log)
            and not (peers_only and (contestant.name == OURS or not contestant.peer.stores))
        ]

    @asynccontextmanager
    async def fresh(self, contestant: Contestant, *, durable: bool = False) -> AsyncIterator[Store]:
        """Open the contestant in an empty folder; close it and delete the folder afterwards."""
        self._n_fresh += 1
        folder = self.folder / f"fresh-{self._n_fresh}"
        store = await contestant.peer.open(folder, durable=durable)
        try:
            yield store
        finally:
            await close_store(store)
            shutil.rmtree(folder, ignore_errors=True)

    async def loaded(self, contestant: Contestant) -> Store:
        """Return the contestant's store with all records, put in batches in random order and settled."""
        store = self._loaded.get(contestant.name)
        if store is None:
            folder = self.folder / f"loaded-{len(self._loaded)}-{self._n_fresh}"
            store = await contestant.peer.open(folder)
            self._loaded[contestant.name] = store
            await self.load(store, contestant)
            await settle_store(store)
        return store

    async def load(self, store: Store, contestant: Contestant) -> None:
        """Put all records of the contestant into the store, in batches, in random key order."""
        for batch in self.batches(contestant.records[: self.sizes.n]):
            await put_batch(store, batch)

    def batches(self, records: Sequence[Any], *, seed: int = 0) -> list[list[Any]]:
        """Return the records in random order in batches."""
        order = workloads.shuffled(len(records), seed=seed).tolist()
        size = self.sizes.batch
        return [[records[i] for i in order[start : start + size]] for start in range(0, len(order), size)]

    async def close(self) -> None:
        """Close the loaded stores; all of them, whichever fails."""
        stores = list(self._loaded.values())
        self._loaded.clear()
        outcomes = await asyncio.gather(*map(close_store, stores), return_exceptions=True)
        failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        if failures:
            raise ExceptionGroup("stores that failed to close", failures)

    def check(self, numbers: Sequence[int], answers: Sequence[Any], *, every: int = 8) -> None:
        """Check the answers for unchanged records: every key, and every value of each ``every``-th.

        Raises:
            WrongAnswerError: an answer is missing or differs.
        """
        if len(answers) != len(numbers):
            raise WrongAnswerError(f"{len(answers)} answers to {len(numbers)} keys")
        for place, (number, answer) in enumerate(zip(numbers, answers, strict=True)):
            if answer is None or answer.id != self.keys[number]:
                raise WrongAnswerError(f"the answer for record {number} has another key or is missing")
            if place % every == 0 and not workloads.same(answer, self.rows[number]):
                raise WrongAnswerError(f"the answer for record {number} differs from what was put")
