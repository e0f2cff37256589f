"""A slab answers as a dictionary would, keeps its snapshots, and loses nothing while it merges."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpu_kernels import (
    CapacityError,
    ColumnError,
    DtypeError,
    GpuKernelsError,
    KeyCollisionError,
    KeyTypeError,
    NumpyBackend,
    Slab,
    SlabClosedError,
    UnsortedKeysError,
)
from gpu_kernels import keys as keys_module
from gpu_kernels import slab as slab_module
from gpu_kernels.merge_policy import RUNS_MAX, merge_start
from gpu_kernels.run import Run

SIZES = [0, 1, 31, 32, 33, 1_001]

EXTREMES: dict[str, list[Any]] = {
    "int": [-(2**63), -1, 0, 1, 2**63 - 1],
    "uint": [0, 1, 2**63, 2**64 - 1],
    "float": [float("-inf"), -1.0, 0.0, 1e-300, float("inf")],
    "bytes": [b"", b"\0", b"a", b"a\0", b"a\0\0", b"p" * 31, b"p" * 32, b"p" * 33, b"p" * 32 + b"\0", b"\xff" * 32],
    "str": [
        "",
        "\0",
        "a",
        "a\0",
        "prefix-1",
        "prefix-2",
        "é" * 16,
        "é" * 17,
        "p" * 32,
        "p" * 33,
        "p" * 34,
        "\U0001f600",
    ],
    "uuid": [uuid.UUID(int=0), uuid.UUID(int=1), uuid.UUID(int=2**127), uuid.UUID(int=2**128 - 1)],
}


def slab_of(keys: Sequence[int] | NDArray[Any], **arguments: Any) -> Slab:
    return Slab.build("int", np.array(keys, np.int64), {"v": np.arange(len(keys), dtype=float)}, **arguments)


@pytest.mark.parametrize("n", SIZES)
def test_build_upsert_and_delete_count_what_they_did(n: int) -> None:
    keys = np.random.default_rng(n).permutation(n) * 3
    slab = slab_of(keys)
    assert len(slab) == n
    assert slab.upsert(keys + (np.arange(n) % 2), {"v": np.ones(n)}) == (n // 2, n - n // 2)
    assert slab.upsert([], {"v": []}) == (0, 0)
    assert slab.delete(np.concatenate([keys, keys, keys + 2])) == n
    assert slab.delete(keys) == 0
    assert len(slab) == n // 2
    assert slab.contains(keys).sum() == 0
    values, found = slab.lookup(keys + 1)
    assert found.sum() == n // 2
    assert (values == found).all()


@pytest.mark.parametrize("kind", EXTREMES)
def test_extreme_keys_of_every_kind_are_kept_ordered_and_deleted(kind: Any) -> None:
    keys = EXTREMES[kind]
    ordered = sorted(keys)
    for repeat in (1, 40):  # 40: with enough runs that merges happen
        slab = Slab(kind, {"v": "i8"})
        for step in range(repeat):
            inserted, replaced = slab.upsert(keys[::-1], {"v": [step * 100 + keys.index(key) for key in keys[::-1]]})
            assert inserted + replaced == len(keys)
        values, found = slab.lookup(keys)
        assert found.all()
        assert values.tolist() == [(repeat - 1) * 100 + i for i in range(len(keys))]
        assert slab.items()[0].tolist() == ordered
        assert slab.lower_bound(ordered).tolist() == list(range(len(keys)))
        for i, start in enumerate(ordered):
            for j, stop in enumerate(ordered):
                assert slab.range(start, stop)[0].tolist() == ordered[i:j]
        assert slab.delete(keys[::2]) == len(keys[::2])
        assert slab.contains(keys).tolist() == [i % 2 == 1 for i in range(len(keys))]
        assert slab.items()[0].tolist() == sorted(keys[1::2])
        assert slab.lower_bound(ordered).tolist() == [sum(k < key for k in keys[1::2]) for key in ordered]
        slab.compact()
        assert slab.statistics().tombstones == 0
        assert slab.items()[0].tolist() == sorted(keys[1::2])
        slab.close()


def test_of_repeated_keys_in_a_batch_the_last_wins() -> None:
    keys = np.random.default_rng(0).integers(0, 50, 1_000)
    values = np.arange(1_000.0)
    last = {int(key): value for key, value in zip(keys, values, strict=True)}
    slab = Slab("int", {"v": "f8"})
    assert slab.upsert(keys, {"v": values}) == (50, 0)
    assert slab.upsert(keys, {"v": values}) == (0, 50)
    assert slab.lookup(np.arange(50))[0].tolist() == [last[key] for key in range(50)]
    assert slab.upsert([7] * 33, {"v": range(33)}) == (0, 1)
    assert slab.lookup([7])[0].tolist() == [32]


def test_repeated_long_keys_in_a_batch_the_last_wins() -> None:
    slab = Slab("str", {"v": "i8"})
    assert slab.upsert(["k" * 40, "a", "k" * 40], {"v": [1, 2, 3]}) == (2, 0)
    assert slab.lookup(["k" * 40, "k" * 41, "a"], "v")[0].tolist() == [3, 0, 2]


def test_no_value_is_reserved() -> None:
    slab = Slab("int", {"f": "f4", "i": "u1"})
    slab.upsert([1, 2, 3], {"f": [0.0, np.nan, -np.inf], "i": [0, 255, 7]})
    floats, integers, found = slab.lookup([3, 2, 1])
    assert found.all()
    assert np.isnan(floats[1])
    assert floats[0] == -np.inf
    assert integers.tolist() == [7, 255, 0]


def test_columns_of_any_fixed_dtype_come_back_with_zeros_for_the_absent() -> None:
    pair = np.dtype([("x", "i4"), ("y", "f8")])
    dtypes: dict[str, Any] = {"vector": "(3,)f4", "raw": "S256", "pair": pair, "flag": "?", "time": "M8[s]"}
    slab = Slab("int", dtypes)
    rows: dict[str, Any] = {
        "vector": np.arange(6, dtype="f4").reshape(2, 3),
        "raw": [b"x" * 256, b"short"],
        "pair": np.array([(1, 2.0), (3, 4.0)], pair),
        "flag": [True, True],
        "time": np.array(["2013-01-01", "2013-01-02"], "M8[s]"),
    }
    slab.upsert([5, 6], rows)
    slab.upsert([9], {name: values[:1] for name, values in rows.items()})
    slab.delete([9])
    *values, found = slab.lookup([6, 9, 7, 5])
    assert found.tolist() == [True, False, False, True]
    for name, column in zip(dtypes, values, strict=True):
        expected = np.asarray(rows[name])
        assert column.shape == (4, *expected.shape[1:])
        assert column[0].tolist() == expected[1].tolist()
        assert column[3].tolist() == expected[0].tolist()
        assert (column[1:3] == np.zeros((), column.dtype)).all()


def test_columns_are_chosen_by_name_in_the_order_asked() -> None:
    slab = Slab("int", {"a": "i8", "b": "i8"})
    slab.upsert([1], {"b": [2], "a": [1]})
    assert [column.tolist() for column in slab.lookup([1])] == [[1], [2], [True]]
    assert [column.tolist() for column in slab.lookup([1], ["b", "a"])] == [[2], [1], [True]]
    assert [column.tolist() for column in slab.lookup([1], "b")] == [[2], [True]]
    assert [column.tolist() for column in slab.lookup([1], [])] == [[True]]
    assert [column.tolist() for column in slab.range(columns="b")] == [[1], [2]]


def test_integers_beyond_int64_are_absent_not_wrong() -> None:
    slab = slab_of([-1, 0, 2**63 - 1])
    queries = np.array([2**64 - 1, 2**63, 2**63 - 1, 0], np.uint64)
    assert slab.contains(queries).tolist() == [False, False, True, True]
    assert slab.lower_bound(queries).tolist() == [3, 3, 2, 1]
    assert slab.lower_bound([-(2**70), 2**70]).tolist() == [0, 3]
    assert slab.delete(queries[:2]) == 0
    assert slab.delete(queries) == 2
    with pytest.raises(KeyTypeError):
        slab.upsert(queries, {"v": np.zeros(4)})


def test_an_empty_slab_answers() -> None:
    slab = Slab("str", {"v": "f4"})
    values, found = slab.lookup(["a", "b"])
    assert values.tolist() == [0, 0]
    assert not found.any()
    assert slab.rows(["a"]).tolist() == [-1]
    assert slab.lower_bound(["a"]).tolist() == [0]
    assert slab.delete(["a"]) == 0
    assert [len(column) for column in slab.items()] == [0, 0]
    slab.compact()
    assert not slab.merge()
    assert slab.statistics().bytes_per_key == 0


def test_a_snapshot_stays_as_it_was() -> None:
    slab = slab_of(range(100))
    before = slab.snapshot()
    slab.upsert([5, 200], {"v": [-1.0, -2.0]})
    slab.delete([6])
    slab.compact()
    slab.close()
    values, found = before.lookup([5, 6, 200])
    assert values.tolist() == [5, 6, 0]
    assert found.tolist() == [True, True, False]
    assert len(before) == 100
    assert before.items()[0].tolist() == list(range(100))


def test_values_given_and_got_are_the_callers_own() -> None:
    keys, values = np.arange(4), np.arange(4.0)
    for slab in (Slab.build("int", keys, {"v": values}, assume_sorted=True), slab_of(range(4))):
        values[:] = keys[:] = 9
        got, _ = slab.lookup([0, 1, 2, 3])
        assert got.tolist() == [0, 1, 2, 3]
        got[:] = 7
        assert slab.lookup([0])[0].tolist() == [0]
        keys, values = np.arange(4), np.arange(4.0)


def test_sorted_input_is_taken_as_it_is_and_checked() -> None:
    slab = slab_of([1, 5, 9], assume_sorted=True)
    assert slab.lookup([9, 5, 1])[0].tolist() == [2, 1, 0]
    for keys in ([1, 1], [2, 1]):
        with pytest.raises(UnsortedKeysError) as caught:
            slab_of(keys, assume_sorted=True)
        assert caught.value.index == 1


def test_build_takes_the_dtypes_given() -> None:
    slab = Slab.build("int", [2, 1], {"v": [0.5, 1.5]}, {"v": "f4"})
    values, _ = slab.lookup([1, 2])
    assert values.dtype == np.float32
    assert values.tolist() == [1.5, 0.5]


def test_the_number_of_runs_stays_small_and_rows_are_copied_few_times() -> None:
    sizes = [1_000_000]
    copied = 0
    for _ in range(5_000):
        sizes.append(10)
        start = merge_start(sizes)
        if start is not None:
            copied += sum(sizes[start:])
            sizes[start:] = [sum(sizes[start:])]
        assert len(sizes) <= RUNS_MAX
    assert copied / 50_000 < 12  # a single small run would have been copied 2,500 times


def test_without_auto_merge_the_caller_merges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slab_module, "INLINE_MERGE_ROWS_MAX", 0)
    slab = slab_of(range(10_000), auto_merge=False)
    for i in range(RUNS_MAX):
        slab.upsert([i], {"v": [-1.0]})
    assert slab.statistics().runs == RUNS_MAX + 1
    assert [slab.merge_due, slab.merge(), slab.merge_due, slab.merge()] == [True, True, False, False]
    assert slab.statistics().runs <= RUNS_MAX
    for i in range(10 * RUNS_MAX):
        slab.upsert([i], {"v": [-2.0]})
    assert slab.statistics().runs <= 2 * RUNS_MAX + 1
    assert len(slab) == 10_000
    slab.compact()
    statistics = slab.statistics()
    assert statistics.run_rows == (10_000,)
    assert statistics.n_merges >= 2
    assert statistics.bytes_total == statistics.bytes_keys + statistics.bytes_columns + statistics.bytes_index
    assert 16 < statistics.bytes_per_key < 25


class HeldBackend(NumpyBackend):
    """A backend whose merges stop half way until they are let go."""

    def __init__(self) -> None:
        super().__init__(threads=1)
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def merge(self, older: Run, newer: Run, *, drop_tombstones: bool) -> Run | None:
        merged = super().merge(older, newer, drop_tombstones=drop_tombstones)
        self.reached.set()
        assert self.go_on.wait(30)
        return merged


def test_writes_during_a_merge_in_another_thread_are_not_lost() -> None:
    backend = HeldBackend()
    slab = slab_of(range(1_000), backend=backend, auto_merge=False)
    slab.upsert([1, 2, 5_000], {"v": [-1.0, -2.0, -3.0]})
    slab.delete([3, 4])
    worker = threading.Thread(target=slab.compact)
    worker.start()
    assert backend.reached.wait(30)
    assert slab.upsert([2, 3, 6_000], {"v": [-20.0, -30.0, -40.0]}) == (2, 1)
    assert slab.delete([1, 7, 5_000]) == 3
    assert not slab.merge(wait=False)
    expected_keys = [1, 2, 3, 4, 7, 5_000, 6_000]
    during = [column.tolist() for column in slab.lookup(expected_keys)]
    held = slab.snapshot()
    backend.go_on.set()
    worker.join(30)
    for view in (slab.snapshot(), held):
        assert [column.tolist() for column in view.lookup(expected_keys)] == during
        assert len(view) == 1_000 + 1 - 2 + 2 - 3
    assert during == [[0, -20, -30, 0, 0, 0, -40], [False, True, True, False, False, False, True]]
    assert slab.statistics().runs == 3  # the merged one and the two written meanwhile
    slab.compact()
    assert [column.tolist() for column in slab.lookup(expected_keys)] == during
    assert len(slab.items()[0]) == len(slab)


def test_readers_see_whole_batches_while_the_owner_writes_and_merges() -> None:
    slab = Slab.build(
        "int", np.arange(2_000), {"v": np.zeros(2_000)}, backend=NumpyBackend(threads=1), auto_merge=False
    )
    keys = np.arange(0, 2_000, 7)
    done = threading.Event()
    torn: list[NDArray[Any]] = []

    def read() -> None:
        while not done.is_set():
            values, found = slab.snapshot().lookup(keys)
            if not found.all() or len(set(values.tolist())) != 1:
                torn.append(values)

    def merge() -> None:
        while not done.is_set():
            slab.merge()

    workers = [threading.Thread(target=work) for work in (read, read, merge)]
    for worker in workers:
        worker.start()
    for step in range(200):
        slab.upsert(keys, {"v": np.full(len(keys), float(step))})
    done.set()
    for worker in workers:
        worker.join(30)
    assert not torn
    assert set(slab.lookup(keys)[0].tolist()) == {199.0}
    assert len(slab) == 2_000


def test_two_long_keys_with_one_digest_are_never_confused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "_long_word", lambda key: key[:1].ljust(32, b"\0") + b"\xff")
    slab = Slab("bytes", {"v": "i8"})
    first, second, other = b"a" * 40, b"a" * 41, b"b" * 40
    slab.upsert([first, b"a"], {"v": [1, 2]})
    assert slab.lookup([second, first, other])[1].tolist() == [False, True, False]
    assert slab.delete([second]) == 0
    for keys in ([second], [other, b"b" * 41]):
        with pytest.raises(KeyCollisionError):
            slab.upsert(keys, {"v": [3] * len(keys)})
    assert slab.items()[0].tolist() == [b"a", first]
    assert slab.upsert([other], {"v": [4]}) == (1, 0)


@pytest.mark.parametrize(
    ("columns", "error"),
    [
        ({}, ColumnError),
        ({"v": [1.0], "x": [1.0]}, ColumnError),
        ({"v": [1.0, 2.0]}, ColumnError),
        ({"v": 1.0}, ColumnError),
        ({"v": ["a"]}, DtypeError),
        ({"v": [1j]}, DtypeError),
        ({"v": [[1.0]]}, DtypeError),
        ({"v": [[1.0], [1.0, 2.0]]}, DtypeError),
        ({"v": [None]}, DtypeError),
    ],
)
def test_columns_that_do_not_fit_change_nothing(columns: dict[str, Any], error: type[GpuKernelsError]) -> None:
    slab = slab_of([1, 2])
    with pytest.raises(error):
        slab.upsert([1], columns)
    assert slab.lookup([1, 2])[0].tolist() == [0, 1]
    assert slab.statistics().runs == 1


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("i1", [128]),
        ("u1", [-1]),
        ("i4", np.array([1], np.int64)),
        ("i4", [1.5]),
        ("S2", [b"abc"]),
        ("f4", np.array([1])),
        ("(2,)f4", np.zeros((1, 3), "f4")),
    ],
)
def test_values_that_would_change_are_refused(dtype: str, values: Any) -> None:
    slab = Slab("int", {"v": dtype})
    with pytest.raises(DtypeError) as caught:
        slab.upsert([1], {"v": values})
    assert caught.value.column == "v"
    assert len(slab) == 0


def test_floats_are_rounded_and_small_integers_widened() -> None:
    slab = Slab("int", {"f": "f4", "i": "i4"})
    slab.upsert([1], {"f": np.array([0.1]), "i": np.array([7], np.int16)})
    floats, integers, _ = slab.lookup([1])
    assert floats[0] == np.float32(0.1)
    assert integers[0] == 7


@pytest.mark.parametrize("dtype", ["O", "S", "nonsense", [("x", "O")]])
def test_a_column_without_fixed_width_is_refused(dtype: Any) -> None:
    with pytest.raises(DtypeError):
        Slab("int", {"v": dtype})


def test_unknown_kinds_and_columns_are_named() -> None:
    with pytest.raises(KeyTypeError, match="complex"):
        Slab("complex", {})  # type: ignore[arg-type]
    with pytest.raises(ColumnError, match="there are v") as caught:
        slab_of([1]).lookup([1], "x")
    assert caught.value.column == "x"


def test_too_many_rows_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slab_module, "ROWS_MAX", 10)
    slab = slab_of(range(9))
    with pytest.raises(CapacityError) as caught:
        slab.upsert([100, 101], {"v": [0.0, 0.0]})
    assert caught.value.limit == 10
    assert len(slab) == 9


def test_a_closed_slab_refuses_every_call() -> None:
    slab = slab_of([1])
    slab.close()
    slab.close()
    calls: list[Any] = [
        lambda: slab.lookup([1]),
        lambda: slab.rows([1]),
        lambda: slab.contains([1]),
        lambda: slab.lower_bound([1]),
        slab.range,
        slab.items,
        slab.snapshot,
        slab.statistics,
        slab.merge,
        slab.compact,
        lambda: len(slab),
        lambda: slab.merge_due,
        lambda: slab.upsert([1], {"v": [1.0]}),
        lambda: slab.delete([1]),
    ]
    for call in calls:
        with pytest.raises(SlabClosedError):
            call()
