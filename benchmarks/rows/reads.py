"""Rows that read a loaded store: gets, multi-gets whole and in part, scans. Nothing in them changes a record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import drive, workloads
from benchmarks.bench import Bench, Contestant
from benchmarks.measure import Trial, WrongAnswerError, interleaved, timed_chunks
from benchmarks.peers.peer import Store, SyncStore
from benchmarks.row import Row, Verdict

CHUNK = 100
"""Gets between two checks: so few that the answers, which are kept for the check, stay in the processor's cache."""
SCAN = 1_000
LATENCY_SAMPLE = 5_000
SLOW_SAMPLE = 200
PREFIX = " (prefix decode)"


async def gets(bench: Bench, name: str, title: str, choose: Callable[[int, int], workloads.Indices]) -> Row:
    """Return a row of single gets; ``choose(size, seed)`` gives the numbers of the records."""
    sizes = bench.sizes
    latencies: dict[str, list[int]] = {}

    async def run(contestant: Contestant, trial: int) -> Trial:
        store = await bench.loaded(contestant)
        chunk_size = CHUNK if not contestant.peer.slow else 100
        numbers = choose(sizes.n, 60 + trial).tolist()
        chunks = [numbers[start : start + chunk_size] for start in range(0, len(numbers), chunk_size)]
        keyed = [(chunk, [bench.keys[number] for number in chunk]) for chunk in chunks]
        if trial < 0:  # the times of single calls are taken here, so that taking them costs no trial
            n = min(len(numbers), LATENCY_SAMPLE if not contestant.peer.slow else SLOW_SAMPLE)
            keys = [bench.keys[number] for number in numbers[:n]]
            await drive.get_each(store, keys)
            latencies[contestant.name] = await drive.get_timed(store, keys)
            return Trial(n, 0.0)
        return await timed_chunks(
            keyed,
            lambda pair: drive.get_each(store, pair[1]),
            seconds_max=sizes.short_s,
            size=lambda pair: len(pair[0]),
            check=lambda pair, answers: bench.check(pair[0], answers),
        )

    row = Row(name, title, "get/s")
    row.cells = await interleaved(bench.named, run, n_trials=sizes.n_trials_short, fewer=bench.fewer, warm_fewer=True)
    for contestant_name, taken in latencies.items():
        row.cells[contestant_name].latencies_ns = taken
    return row


async def get_uniform(bench: Bench) -> Row:
    """Single gets, every key equally likely."""
    row = await gets(
        bench,
        "get-uniform",
        "get, uniform keys, one caller",
        lambda size, seed: workloads.uniform(bench.sizes.n, size, seed=seed),
    )
    row.verdicts = [Verdict("gets/s over LMDB", row.ratio("LMDB"), 1.25)]
    return row


async def get_zipfian(bench: Bench) -> Row:
    """Single gets, scrambled zipfian."""
    row = await gets(
        bench,
        "get-zipfian",
        f"get, zipfian keys ({workloads.ZIPF_THETA}, scrambled), one caller",
        lambda size, seed: workloads.zipfian(bench.sizes.n, size, seed=seed),
    )
    row.verdicts = [Verdict("gets/s over LMDB", row.ratio("LMDB"), 2.0)]
    return row


async def call(store: Store, sync_call: Any, async_call: Any, *arguments: Any) -> Any:
    """Call whichever of the two the store's shape has."""
    if isinstance(store, SyncStore):
        return sync_call(*arguments)
    return await async_call(*arguments)


async def many(
    bench: Bench,
    entries: Sequence[tuple[str, tuple[Contestant, str]]],
    check: Callable[[Sequence[int], Sequence[Any]], None],
    row: Row,
) -> None:
    """Fill a row of multi-gets; an entry names the contestant and which call of its store is taken."""
    sizes = bench.sizes

    async def run(entry: tuple[Contestant, str], trial: int) -> Trial:
        contestant, attribute = entry
        store = await bench.loaded(contestant)
        function = getattr(store, attribute)
        batches = []
        for batch in range(50):
            order = workloads.shuffled(sizes.n, seed=1_000 * (trial + 2) + batch)[: sizes.batch].tolist()
            batches.append((order, [bench.keys[number] for number in order]))
            if len(batches) * sizes.batch >= 2_000_000 * sizes.cap_s or trial < 0:
                break
        return await timed_chunks(
            batches,
            lambda pair: call(store, function, function, pair[1]),
            seconds_max=sizes.cap_s,
            size=lambda pair: len(pair[0]),
            check=lambda pair, answers: check(pair[0], answers),
        )

    row.cells = await interleaved(entries, run, n_trials=sizes.n_trials, fewer=bench.fewer)


async def get_many(bench: Bench) -> Row:
    """Batches of 10,000 random keys, whole records, answers in the order of the keys."""
    row = Row("get-many", f"get_many of {bench.sizes.batch:,}, whole records", "record/s")
    entries = [(name, (contestant, "get_many")) for name, contestant in bench.named]
    await many(bench, entries, bench.check, row)
    row.verdicts = [Verdict("records/s over LMDB", row.ratio("LMDB"), 1.3)]
    return row


async def get_fields(bench: Bench) -> Row:
    """The same for two fields: peers decode the whole record, LMDB as an entry of its own a prefix of three fields.

    The slow peers are left out: what they would do here is the row get-many once more.
    """
    entries: list[tuple[str, tuple[Contestant, str]]] = []
    for name, contestant in bench.named:
        if contestant.peer.slow:
            continue
        store = await bench.loaded(contestant)
        part = None if isinstance(store, SyncStore) else store.fields_many
        entries.append((name, (contestant, "get_many" if part is None else "fields_many")))
        if isinstance(store, SyncStore) and store.prefix_many is not None:
            entries.append((name + PREFIX, (contestant, "prefix_many")))

    def check(numbers: Sequence[int], answers: Sequence[Any]) -> None:
        if len(answers) != len(numbers):
            raise WrongAnswerError(f"{len(answers)} answers to {len(numbers)} keys")
        for number, answer in zip(numbers, answers, strict=True):
            row = bench.rows[number]
            if answer is None or answer.score != row.score or answer.age != row.age:
                raise WrongAnswerError(f"the fields of record {number} differ from what was put")

    row = Row("get-fields", f"get_many of {bench.sizes.batch:,}, two fields of six", "record/s")
    await many(bench, entries, check, row)
    row.verdicts = [Verdict("records/s over LMDB, whole decode", row.ratio("LMDB"), 2.5)]
    prefix = row.ratio("LMDB" + PREFIX)
    if prefix is not None:
        row.remarks.append(f"over LMDB with a decode of a three-field prefix: {prefix:.2f}x (stated, no target)")
    return row


async def scan(bench: Bench) -> Row:
    """Scans of 1,000 keys from random starts, after a checkpoint (peers: compacted where they can be)."""
    sizes = bench.sizes
    length = min(SCAN, sizes.n // 2)
    prepared: set[str] = set()

    async def run(contestant: Contestant, trial: int) -> Trial:
        store = await bench.loaded(contestant)
        if contestant.name not in prepared:
            if not isinstance(store, SyncStore) and store.checkpoint is not None:
                await store.checkpoint()
            prepared.add(contestant.name)
        starts = workloads.uniform(sizes.n - length, 64, seed=80 + trial).tolist()

        def check(start: int, answers: Sequence[Any]) -> None:
            bench.check(range(start, start + length), answers)

        return await timed_chunks(
            starts,
            lambda start: call(store, store.scan, store.scan, bench.keys[start], length),
            seconds_max=sizes.cap_s if trial >= 0 else sizes.cap_s / 4,
            size=lambda _: length,
            check=check,
        )

    entries = []
    for name, contestant in bench.named:
        if contestant.peer.stores and (await bench.loaded(contestant)).scan is not None:
            entries.append((name, contestant))
    row = Row("scan", f"scan of {length:,} keys in key order, after a checkpoint", "record/s")
    row.cells = await interleaved(entries, run, n_trials=sizes.n_trials, fewer=bench.fewer)
    row.verdicts = [Verdict("records/s over LMDB", row.ratio("LMDB"), 1.0)]
    return row
