"""What a row is: how much work it does, what came of it, and its targets."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.measure import Cell

OURS = "warpstore"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much work a run does.

    Attributes:
        n: Records of the main rows.
        n_put: Records put in the row put, at least ``n``.
        n_trials: Trials a row.
        n_trials_slow: The same for peers of more than about 20 us a call.
        n_trials_short: Trials of the rows whose trials are short: single gets and durable puts.
        cap_s: Timed region a trial and contestant, for the rows of single calls.
        short_s: The same for single gets.
        durable_s: The same for durable puts.
        mixed_s: The same for a YCSB trial.
        batch: Keys of a multi-get or multi-put.
        n_column: Rows of the column lookup.
        n_lookup: Keys of its large batch.
        n_reopen: Records of the reopened store.
        log_bytes: Log to replay after the kill.
        n_memory: Records of the memory row's hot part.
        n_stall: Records loaded under the stall probe.
        n_backup: Records of the store that is backed up.
        n_markers: Puts of a record type in the row of markers.
        n_arrow: Rows of the Arrow export.
        n_disk: Records of the stores of the tiers.
        n_cold: Single gets of a cold trial.
        n_cap_ops: Operations of a trial under a cap.
        n_background: Profiles of the store with work in the background.
        background_s: Seconds of puts there, quiet and busy.
        reopened: Modules of the peers whose reopening and memory are measured too.
    """

    n: int = 200_000
    n_put: int = 200_000
    n_trials: int = 5
    n_trials_slow: int = 5
    n_trials_short: int = 15
    cap_s: float = 0.25
    short_s: float = 0.08
    durable_s: float = 0.10
    mixed_s: float = 0.15
    batch: int = 10_000
    n_column: int = 10_000_000
    n_lookup: int = 1_000_000
    n_reopen: int = 1_000_000
    log_bytes: int = 64 << 20
    n_memory: int = 200_000
    n_stall: int = 500_000
    n_backup: int = 2_500_000
    n_markers: int = 60_000
    n_arrow: int = 1_000_000
    n_disk: int = 1_000_000
    n_cold: int = 2_000
    n_cap_ops: int = 800_000
    n_background: int = 200_000
    background_s: float = 4.0
    reopened: tuple[str, ...] = ("lmdb", "leveldb", "rocksdb", "sqlite")


FULL = Sizes()
QUICK = Sizes(
    n=10_000,
    n_put=12_000,
    n_trials=2,
    n_trials_slow=1,
    n_trials_short=2,
    cap_s=0.025,
    short_s=0.025,
    durable_s=0.04,
    mixed_s=0.012,
    n_column=250_000,
    n_reopen=20_000,
    n_memory=20_000,
    n_stall=8_000,
    n_backup=100_000,
    n_markers=10_000,
    n_arrow=50_000,
    n_disk=20_000,
    n_cold=500,
    n_cap_ops=40_000,
    n_background=10_000,
    background_s=0.3,
    log_bytes=16 << 20,
    reopened=("lmdb",),
)
TINY = Sizes(
    n=200,
    n_put=300,
    n_trials=1,
    n_trials_slow=1,
    n_trials_short=1,
    cap_s=0.005,
    short_s=0.005,
    durable_s=0.005,
    mixed_s=0.005,
    batch=100,
    n_column=1_000,
    n_lookup=100,
    n_reopen=200,
    log_bytes=10_000,
    n_memory=200,
    n_stall=200,
    n_backup=2_000,
    n_markers=200,
    n_arrow=200,
    n_disk=200,
    n_cold=20,
    n_cap_ops=500,
    n_background=200,
    background_s=0.02,
    reopened=(),
)


@dataclass(slots=True)
class Verdict:
    """One target of the row and whether it was reached.

    Attributes:
        text: What is compared, as printed.
        measured: The figure; None if there is none.
        bound: The target.
        at_most: The target is an upper bound; else a lower one.
        unit: Printed after both.
    """

    text: str
    measured: float | None
    bound: float
    at_most: bool = False
    unit: str = "x"

    @property
    def passed(self) -> bool | None:
        """Whether the target is reached; None if nothing was measured."""
        if self.measured is None:
            return None
        return self.measured <= self.bound if self.at_most else self.measured >= self.bound


@dataclass(slots=True)
class Row:
    """The outcome of one row.

    Attributes:
        name: As given to ``--only``.
        title: What was done.
        unit: Of the rates, such as ``put/s``; for a row of figures, of these.
        cells: By contestant.
        figures: By contestant, for rows whose outcome is no rate; name to value.
        verdicts: The targets.
        remarks: Lines printed below.
        failure: The traceback, if the row as a whole failed.
    """

    name: str
    title: str
    unit: str
    cells: dict[str, Cell] = field(default_factory=dict)
    figures: dict[str, dict[str, float | str]] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    failure: str = ""

    def rate(self, name: str) -> float | None:
        """Return a contestant's median rate, or None."""
        cell = self.cells.get(name)
        return None if cell is None else cell.rate

    def ratio(self, name: str, *, of: str = OURS) -> float | None:
        """Return the rate of ``of`` over the rate of ``name``, or None if either is missing.

        It is the median over the trials of each trial's ratio, so that a slow minute of the machine counts for both;
        where the two had different numbers of trials, the ratio of their medians.
        """
        ours, theirs = self.rate(of), self.rate(name)
        if not ours or not theirs:
            return None
        pairs = list(zip(self.cells[of].rates, self.cells[name].rates, strict=False))
        if len({len(self.cells[some].rates) for some in (of, name)}) > 1:
            return ours / theirs
        return statistics.median(mine / other for mine, other in pairs)

    def best(self, names: Sequence[str]) -> str | None:
        """Return which of the names has the highest median rate."""
        rates = [(rate, name) for name in names if (rate := self.rate(name)) is not None]
        return max(rates)[1] if rates else None
