"""The benchmark's harness, run at its smallest size with fakes; peers and warpstore are not needed."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from benchmarks import report, row, runner, workloads
from benchmarks.child import JOBS
from benchmarks.environment import header
from benchmarks.kinds import KINDS, Kind
from benchmarks.measure import (
    Cell,
    Trial,
    WrongAnswerError,
    disk_bytes,
    interleaved,
    keep_best,
    memory,
    percentiles_us,
    stall_probe,
)
from benchmarks.peers.codec import UserRow, decode, decode_prefix, encode
from benchmarks.peers.peer import PEER_MODULES, AsyncStore, Loaded, Peer, SyncStore, load_peers
from benchmarks.rows.column import baseline, column_job
from benchmarks.store import STORE
from benchmarks.tiers import TIERS

if TYPE_CHECKING:
    from collections.abc import Sequence

IN_PROCESS = ["put", "durable-1", "durable-64", "load", "get-uniform", "get-zipfian", "get-many", "get-fields", "scan"]
IN_PROCESS += ["put-many", "ycsb-a", "ycsb-f"]


class Fake:
    """A dictionary of encoded records, with the calls of both shapes."""

    def __init__(self, *, loses: bool = False, lies: bool = False) -> None:
        self.table: dict[str, bytes] = {}
        self.loses = loses
        self.lies = lies

    def put(self, record: UserRow) -> None:
        self.table[record.id] = encode(record)

    def get(self, key: str) -> UserRow | None:
        found = self.table.get(key)
        if found is None:
            return None
        record = decode(found)
        if self.lies:
            record.blob = b"another"
        return record

    def increment(self, key: str) -> None:
        record = decode(self.table[key])
        record.age += 1
        self.put(record)

    def put_many(self, records: Sequence[UserRow]) -> None:
        for record in records:
            self.put(record)

    def get_many(self, keys: Sequence[str]) -> list[Any]:
        return [self.get(key) for key in keys]

    def scan(self, start: str, n: int) -> list[Any]:
        return self.get_many(sorted(key for key in self.table if key >= start)[:n])

    async def put_async(self, record: UserRow) -> None:
        await asyncio.sleep(0)
        self.put(record)

    async def get_async(self, key: str) -> UserRow | None:
        return self.get(key)

    async def increment_async(self, key: str) -> None:
        record = decode(self.table[key])
        if self.loses:
            await asyncio.sleep(0)
        record.age += 1
        self.put(record)

    async def put_many_async(self, records: Sequence[UserRow]) -> None:
        self.put_many(records)

    async def get_many_async(self, keys: Sequence[str]) -> list[Any]:
        return self.get_many(keys)

    async def fields_async(self, keys: Sequence[str]) -> list[Any]:
        return [decode_prefix(self.table[key]) for key in keys]

    async def scan_async(self, start: str, n: int) -> list[Any]:
        return self.scan(start, n)

    async def nothing(self) -> None:
        """Be closed, settled or checkpointed."""


def fake_sync(name: str, **faults: bool) -> Peer:
    def open_fake(folder: Path, *, durable: bool) -> SyncStore:
        fake = Fake(**faults)
        return SyncStore(
            settings={"folder": str(folder), "durable": durable},
            put=fake.put,
            get=fake.get,
            increment=fake.increment,
            put_many=fake.put_many,
            get_many=fake.get_many,
            scan=fake.scan,
            close=fake.table.clear,
        )

    return Peer(name=name, open_sync=open_fake, has_log=True, threads=True, commits_in_groups=True)


def fake_async(name: str, **faults: bool) -> Peer:
    async def open_fake(folder: Path, *, durable: bool) -> AsyncStore:
        fake = Fake(**faults)
        return AsyncStore(
            settings={"folder": str(folder), "durable": durable},
            put=fake.put_async,
            get=fake.get_async,
            increment=fake.increment_async,
            put_many=fake.put_many_async,
            get_many=fake.get_many_async,
            fields_many=fake.fields_async,
            scan=fake.scan_async,
            checkpoint=fake.nothing,
            close=fake.nothing,
        )

    return Peer(name=name, open_async=open_fake, has_log=True)


async def run_tiny(peers: list[Peer], only: list[str], folder: Path) -> tuple[dict[str, Any], list[str]]:
    said: list[str] = []
    found = await runner.run(
        STORE, sizes=row.TINY, only=only, found=Loaded(peers, {"warpstore": "a fake"}), say=said.append, folder=folder
    )
    return found, said


async def test_every_row_that_runs_in_this_process_gives_a_rate_for_every_contestant(tmp_path: Path) -> None:
    peers = [fake_async("warpstore"), fake_sync("LMDB"), fake_sync("RocksDB")]
    found, said = await run_tiny(peers, IN_PROCESS, tmp_path)
    assert report.broken(found["rows"]) == []
    for name, outcome in found["rows"].items():
        assert {"warpstore", "LMDB", "RocksDB"} <= set(outcome.cells), name
        assert all(cell.rate for cell in outcome.cells.values()), name
    verdicts = [verdict for outcome in found["rows"].values() for verdict in outcome.verdicts]
    assert len(verdicts) >= 10
    assert json.loads(said[0])["settings"]["LMDB"]["durable"]["durable"] is True
    assert os.listdir(tmp_path) == []


async def test_updates_lost_by_a_contestant_are_counted_and_others_lose_none(tmp_path: Path) -> None:
    peers = [fake_async("warpstore"), fake_async("careless", loses=True), fake_sync("LMDB")]
    found, _ = await run_tiny(peers, ["ycsb-f-16"], tmp_path)
    outcome = found["rows"]["ycsb-f-16"]
    lost = {name: sum(trial.notes["lost updates"] for trial in cell.trials) for name, cell in outcome.cells.items()}
    assert lost["warpstore"] == lost["LMDB"] == 0
    assert lost["careless"] > 0


async def test_a_contestant_with_a_wrong_answer_has_no_figure_and_the_others_go_on(tmp_path: Path) -> None:
    found, _ = await run_tiny([fake_async("warpstore", lies=True), fake_sync("LMDB")], ["get-uniform"], tmp_path)
    cells = found["rows"]["get-uniform"].cells
    assert "WrongAnswerError" in cells["warpstore"].error
    assert cells["warpstore"].rate is None
    assert cells["LMDB"].rate
    assert found["rows"]["get-uniform"].verdicts[0].passed is None
    assert len(report.broken(found["rows"])) == 1


async def test_the_first_key_of_the_results_holds_commit_machine_and_settings(tmp_path: Path) -> None:
    found, _ = await run_tiny([fake_sync("LMDB")], ["put"], tmp_path)
    written = json.loads(report.write_json(found, tmp_path).read_text())
    assert next(iter(written)) == "run"
    assert list(written["run"])[:2] == ["commit", "machine"]
    assert written["run"]["settings"]["LMDB"]["relaxed"]["durable"] is False
    assert written["rows"]["put"]["cells"]["LMDB"]["rate"] > 0


async def test_each_trial_runs_every_contestant_once_before_the_next_begins() -> None:
    ran: list[tuple[int, str]] = []

    async def run(contestant: str, trial: int) -> Trial:
        ran.append((trial, contestant))
        return Trial(1, 1.0)

    cells = await interleaved([(name, name) for name in "abc"], run, n_trials=3)
    assert [trial for trial, _ in ran] == [-1] * 3 + [0] * 3 + [1] * 3 + [2] * 3
    assert all(Counter(ran)[trial, name] == 1 for trial in range(-1, 3) for name in "abc")
    assert all(len(cell.trials) == 3 for cell in cells.values())


async def test_the_probe_ticks_while_the_loop_is_free() -> None:
    async with stall_probe(tick_ms=0.0) as stalls:
        for _ in range(100):
            await asyncio.sleep(0)
    assert stalls.n_ticks > 10
    assert stalls.longest_ms > 0


def test_a_record_has_about_400_encoded_bytes_and_decodes_to_itself() -> None:
    rows = workloads.rows(100)
    sizes = [len(encode(user)) for user in rows]
    assert 350 < min(sizes) <= max(sizes) < 450
    assert all(workloads.same(decode(encode(user)), user) for user in rows)
    assert decode_prefix(encode(rows[3])).age == rows[3].age
    assert not workloads.same(workloads.changed(rows[0]), rows[0])


def test_many_rows_gives_each_key_once_in_random_order_and_numbers_them() -> None:
    users = [user for chunk in workloads.many_rows(1_000, chunk=300) for user in chunk]
    assert sorted(user.id for user in users) == [workloads.key_of(number) for number in range(1_000)]
    assert [user.id for user in users] != sorted(user.id for user in users)
    assert all(user.id == workloads.key_of(user.age) for user in users)


def test_zipfian_keys_follow_the_power_law_and_the_same_seed_gives_the_same_keys() -> None:
    n, size = 1_000, 200_000
    drawn = workloads.zipfian(n, size, seed=1)
    assert np.array_equal(drawn, workloads.zipfian(n, size, seed=1))
    weights = np.arange(1, n + 1) ** -workloads.ZIPF_THETA
    counts = np.sort(np.bincount(drawn, minlength=n))[::-1]
    assert counts[0] / size == pytest.approx(weights[0] / weights.sum(), rel=0.05)
    assert counts[:100].sum() / size == pytest.approx(weights[:100].sum() / weights.sum(), rel=0.05)
    assert np.argmax(np.bincount(drawn, minlength=n)) != 0


@pytest.mark.parametrize(("workload", "share"), workloads.YCSB_READ_SHARE.items())
def test_a_ycsb_workload_has_its_share_of_reads(workload: str, share: float) -> None:
    parts = workloads.ycsb(workload, 1_000, 16_000, n_clients=16, seed=3)
    assert len(parts) == 16
    assert sum(len(part.number) for part in parts) == 16_000
    assert np.mean([read for part in parts for read in part.read]) == pytest.approx(share, abs=0.02)
    assert all(part.modify == (workload == "F") for part in parts)


def test_the_baseline_of_the_column_row_answers_as_a_dictionary_does() -> None:
    keys = np.array([3, 7, 9, 20], np.int64)
    values = np.array([0.5, 1.5, 2.5, 3.5], np.float32)
    queries = np.array([9, 4, 20, 3, 99, 9, -1], np.int64)
    answers, found = baseline(keys, values, queries)
    truth = dict(zip(keys.tolist(), values.tolist(), strict=True))
    assert found.tolist() == [key in truth for key in queries.tolist()]
    assert answers.tolist() == [truth.get(key, 0.0) for key in queries.tolist()]


async def test_the_column_row_measures_its_baseline_without_warpstore() -> None:
    found = await column_job(folder="unused", n=1_000, n_lookup=100, n_trials=2, peer="")
    assert len(found["baseline"]) == len(found["baseline small"]) == 2
    assert found["ours"] == []


async def test_the_rows_of_the_tiers_run_with_the_peers_that_are_installed(tmp_path: Path) -> None:
    found = load_peers(["warpstore", *TIERS.peers])
    said: list[str] = []
    only = ["disk-size", "wholly-disk", "cap", "background"]
    result = await runner.run(TIERS, sizes=row.TINY, only=only, found=found, say=said.append, folder=tmp_path)
    assert report.broken(result["rows"]) == []
    verdicts = {name: [verdict.measured for verdict in found.verdicts] for name, found in result["rows"].items()}
    assert len(verdicts["background"]) == 3
    assert None not in verdicts["background"] + verdicts["wholly-disk"]
    assert report.results_name(result["run"]).startswith("tiers-")


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_record_of_a_kind_follows_from_its_number_and_a_wrong_answer_is_refused(kind: Kind) -> None:
    rows = [row for chunk in kind.chunks("lmdb", 100) for row in chunk]
    assert sorted(row.id for row in rows) == [workloads.key_of(number) for number in range(100)]
    ours = kind.records("warpstore", [7])[0]
    kind.check(7, ours)
    kind.check(7, kind.codec.decode(kind.codec.encode(kind.numbered(7))))
    for answer in (None, kind.numbered(8)):
        with pytest.raises(WrongAnswerError):
            kind.check(7, answer)


def test_no_row_is_in_two_benchmarks() -> None:
    assert not STORE.rows.keys() & TIERS.rows.keys()


def test_percentiles_are_those_of_the_sorted_times() -> None:
    assert percentiles_us([]) == {}
    assert percentiles_us(list(range(1_000_000, 0, -1_000))) == {"p50": 501.0, "p99": 991.0, "p99.9": 1000.0}


def test_a_cells_rate_is_the_median_of_its_trials() -> None:
    cell = Cell([Trial(100, 1.0), Trial(100, 2.0), Trial(100, 4.0)])
    assert cell.rate == 50.0
    assert Cell().rate is None


def test_of_a_contestants_variants_the_quickest_is_kept_with_its_number_of_threads() -> None:
    cells = {"bare": Cell([Trial(1, 1.0)]), "a, 1": Cell([Trial(10, 1.0)]), "a, 64": Cell([Trial(30, 1.0)])}
    kept = keep_best(cells, {"a, 1": ("a", 1), "a, 64": ("a", 64)})
    assert list(kept) == ["bare", "a"]
    assert kept["a"].rate == 30.0
    assert kept["a"].settings == {"threads": 64}


def test_a_target_is_reached_missed_or_not_run() -> None:
    assert row.Verdict("", 1.3, 1.25).passed is True
    assert row.Verdict("", 1.3, 1.25, at_most=True).passed is False
    assert row.Verdict("", None, 1.25).passed is None


def test_only_takes_rows_by_name_or_by_the_beginning_of_their_names() -> None:
    assert runner.chosen(STORE, []) == list(STORE.rows)
    assert runner.chosen(STORE, ["scan", "put"]) == ["put", "scan"]
    assert len(runner.chosen(STORE, ["ycsb"])) == 8
    with pytest.raises(runner.UnknownRowError, match="no row 'pu'"):
        runner.chosen(STORE, ["pu"])


def test_peers_that_are_not_installed_are_named_with_their_reason() -> None:
    found = load_peers(["floor", "no_such_peer"])
    assert [peer.name for peer in found.peers] == ["floor (dict)"]
    assert "no_such_peer" in found.missing["no_such_peer"]


@pytest.mark.parametrize("name", PEER_MODULES)
async def test_a_peer_that_is_installed_stores_reads_and_scans(name: str, tmp_path: Path) -> None:
    found = load_peers([name])
    if not found.peers:
        pytest.skip(found.missing[name])
    result, _ = await run_tiny(found.peers, ["load", "get-many", "get-uniform", "scan", "ycsb-f-1"], tmp_path)
    assert report.broken(result["rows"]) == []
    assert all(
        trial.notes["lost updates"] == 0 for trial in result["rows"]["ycsb-f-1"].cells[found.peers[0].name].trials
    )


def test_every_job_of_a_child_process_exists() -> None:
    for name, module in JOBS.items():
        assert callable(getattr(importlib.import_module(module), f"{name}_job"))


def test_memory_and_disk_are_read_from_the_system(tmp_path: Path) -> None:
    used = memory()
    assert 0 < used.anonymous <= used.resident
    (tmp_path / "file").write_bytes(b"x" * 10_000)
    assert disk_bytes(tmp_path) >= 10_000


def test_the_header_is_one_line_of_json_that_begins_with_the_commit(tmp_path: Path) -> None:
    found = header("store", row.TINY, {"fake": {"relaxed": {"sync": False}}}, {}, tmp_path)
    assert "\n" not in found["line"]
    assert next(iter(msgspec.json.decode(found["line"]))) == "commit"
