"""Column lookups in 10,000,000 rows: an int key and one float column, answers checked with pending writes.

The baseline is what a NumPy program does with a batch: sort it, search the sorted keys, gather the values, scatter them
back to the batch's order, fill ``found``. It has no writes to see. warpstore gets 1,000 writes before each timed batch,
one in ten of a new key, and must answer with them.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import workloads
from benchmarks.bench import Bench
from benchmarks.child import pause, run_child
from benchmarks.measure import Cell, Trial, WrongAnswerError, freeze
from benchmarks.peers.peer import AsyncStore, close_store, load_peer
from benchmarks.row import OURS, Row, Verdict

BASELINE = "NumPy baseline"
LOAD_CHUNK = 20_000
N_PENDING = 1_000
SMALL = 1_000
N_SMALL = 50

Keys = npt.NDArray[np.int64]
Values = npt.NDArray[np.float32]
Found = npt.NDArray[np.bool_]


def baseline(keys: Keys, values: Values, queries: Keys) -> tuple[Values, Found]:
    """Return the value of each query, 0 where it is absent, and whether it was found."""
    order = np.argsort(queries)
    ordered = queries[order]
    places = np.searchsorted(keys, ordered)
    np.minimum(places, len(keys) - 1, out=places)
    hits = keys[places] == ordered
    answers = np.empty(len(queries), np.float32)
    found = np.empty(len(queries), np.bool_)
    answers[order] = np.where(hits, values[places], np.float32(0))
    found[order] = hits
    return answers, found


class Truth:
    """Sorted keys and their values as they should be, beside the store; and queries drawn from them."""

    def __init__(self, n: int) -> None:
        self.random = np.random.default_rng(workloads.SEED)
        drawn = np.unique(self.random.integers(0, 1 << 62, n + n // 50 + 10))
        self.keys: Keys = np.sort(self.random.permutation(drawn)[:n])
        self.values: Values = self.random.random(n, dtype=np.float32)
        self.new: dict[int, np.float32] = {}

    def queries(self, size: int) -> Keys:
        """Return keys in random order, one in ten absent."""
        chosen = self.keys[self.random.integers(0, len(self.keys), size)]
        absent = self.random.random(size) < 0.1
        return np.where(absent, chosen ^ 1, chosen)

    def write(self) -> tuple[Keys, Values]:
        """Return keys and values to write, nine in ten present, and know them from now on."""
        places = self.random.integers(0, len(self.keys), N_PENDING * 9 // 10)
        values = self.random.random(N_PENDING, dtype=np.float32)
        fresh = self.random.integers(1 << 62, 1 << 63, N_PENDING - len(places), dtype=np.int64)
        self.values[places] = values[: len(places)]
        self.new.update(zip(fresh.tolist(), values[len(places) :], strict=True))
        return np.concatenate([self.keys[places], fresh]), np.concatenate([self.values[places], values[len(places) :]])

    def check(self, queries: Keys, answers: Any, found: Any) -> None:
        """Check a whole batch of answers.

        Raises:
            WrongAnswerError: one differs.
        """
        values, hits = baseline(self.keys, self.values, queries)
        for place in np.flatnonzero(queries >= 1 << 62).tolist():
            value = self.new.get(int(queries[place]))
            hits[place] = value is not None
            values[place] = 0 if value is None else value
        if not np.array_equal(np.asarray(found), hits):
            raise WrongAnswerError(f"found differs at {int(np.sum(np.asarray(found) != hits))} keys")
        wrong = int(np.sum(np.asarray(answers)[hits] != values[hits]))
        if wrong:
            raise WrongAnswerError(f"{wrong} values differ")


async def column_job(folder: str, n: int, n_lookup: int, n_trials: int, peer: str) -> dict[str, Any]:
    """Load the points, then measure both contestants in turn; return the times of each trial in s."""
    truth = Truth(n)
    result: dict[str, Any] = {"baseline": [], "ours": [], "baseline small": [], "ours small": []}
    store = None
    if peer:
        from benchmarks.models import Point

        store = await load_peer(peer).open(Path(folder))
        if not isinstance(store, AsyncStore):
            raise TypeError(f"{peer} is synchronous")
        table = store.native[Point]
        column = table.column("score")
        start = perf_counter()
        order = truth.random.permutation(n)
        for first in range(0, n, LOAD_CHUNK):
            part = order[first : first + LOAD_CHUNK]
            pairs = zip(truth.keys[part].tolist(), truth.values[part].tolist(), strict=True)
            await table.put_many([Point(id=key, score=value) for key, value in pairs])
        result["load s"] = perf_counter() - start
        del order
        start = perf_counter()
        await column.lookup(truth.queries(n_lookup))
        result["first lookup s"] = perf_counter() - start
    baseline(truth.keys, truth.values, truth.queries(n_lookup))
    freeze()
    for _ in range(n_trials):
        queries = truth.queries(n_lookup)
        start = perf_counter()
        baseline(truth.keys, truth.values, queries)
        taken = {"baseline": perf_counter() - start}
        small = [truth.queries(SMALL) for _ in range(N_SMALL)]
        start = perf_counter()
        for batch in small:
            baseline(truth.keys, truth.values, batch)
        taken["baseline small"] = perf_counter() - start
        if store is not None:
            for name, batches in (("ours", [queries]), ("ours small", small)):
                keys, values = truth.write()
                await table.put_many(
                    [Point(id=k, score=v) for k, v in zip(keys.tolist(), values.tolist(), strict=True)]
                )
                batches[0][: min(len(keys), len(batches[0]))] = keys[: len(batches[0])]
                batches[-1][-100:] = keys[-100:]
                start = perf_counter()
                answers = [await column.lookup(batch) for batch in batches]
                taken[name] = perf_counter() - start
                for batch, (scores, found) in zip(batches, answers, strict=True):
                    truth.check(batch, scores, found)
        for name, seconds in taken.items():
            result[name].append(seconds)
    if store is not None:
        pause(**result)  # closing would write a checkpoint, which is no part of the row: the parent kills
        await close_store(store)
    return result


async def column(bench: Bench) -> Row:
    """One large batch and batches of 1,000 keys against the baseline."""
    sizes = bench.sizes
    row = Row("column", f"column lookup in {sizes.n_column:,} rows, NumPy, 1,000 writes pending", "key/s")
    arguments = {
        "folder": str(bench.folder / "column"),
        "n": sizes.n_column,
        "n_lookup": sizes.n_lookup,
        "n_trials": sizes.n_trials,
        "peer": "" if "warpstore" in bench.missing else "warpstore",
    }
    small = f" ({SMALL:,} keys a batch)"
    found = await run_child("column", arguments, bench.folder)
    for name, key in ((OURS, "ours"), (BASELINE, "baseline")):
        if found[key]:
            row.cells[name] = Cell([Trial(sizes.n_lookup, seconds) for seconds in found[key]])
            row.cells[name + small] = Cell([Trial(SMALL * N_SMALL, seconds) for seconds in found[key + " small"]])
    if found["ours"]:
        row.remarks.append(f"loaded in {found['load s']:.1f} s, first lookup {found['first lookup s']:.2f} s")
        paired = [theirs / ours for ours, theirs in zip(found["ours"], found["baseline"], strict=True)]
        row.remarks.append(f"paired per trial: median {statistics.median(paired):.2f}x of the baseline")
    rate = row.rate(OURS + small)
    row.verdicts = [
        Verdict(f"{sizes.n_lookup:,} keys: keys/s over the baseline", row.ratio(BASELINE), 0.95),
        Verdict(f"{SMALL:,} keys", rate / 1e6 if rate else None, 3.0, unit="M/s"),
    ]
    return row
