"""The contract every backend keeps: same bits for the same calls, whatever the size of the batch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpu_kernels.backend import Backend, merge_runs
from gpu_kernels.index import BUCKET_ROWS_MAX
from gpu_kernels.keys import KeyBatch, key_words
from gpu_kernels.numpy_backend import NumpyBackend
from gpu_kernels.run import Run

SIZES = [1, 31, 32, 33, 1_001, 40_003]


@pytest.fixture(params=[1, 3], ids=["numpy-1-thread", "numpy-3-threads"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    made = NumpyBackend(threads=request.param)
    yield made
    made.close()


def distinct(n: int, spread: str) -> NDArray[np.uint64]:
    rng = np.random.default_rng(n)
    if spread == "uniform":
        words = rng.integers(0, 2**64 - 1, 2 * n, dtype=np.uint64, endpoint=True)
    elif spread == "sequence":
        words = np.arange(n, dtype=np.uint64) + np.uint64(2**63)
    elif spread == "ends":
        words = np.concatenate([np.arange(n, dtype=np.uint64), np.uint64(2**64 - 1) - np.arange(n, dtype=np.uint64)])
    else:
        words = np.exp(np.minimum(rng.normal(20, 8, 3 * n), 44)).astype(np.uint64)
        words = np.concatenate([words, np.arange(n, dtype=np.uint64)])
    words = np.unique(words)
    return np.sort(rng.permutation(words)[:n])


def run_of(backend: Backend, words: NDArray[Any], first: int = 0, dead: NDArray[np.bool_] | None = None) -> Run:
    values = np.arange(first, first + len(words), dtype=np.float64)
    vectors = np.stack([values, -values], axis=1).astype(np.float32)
    return backend.make_run(words.copy(), {"v": values, "w": vectors}, dead, None)


DTYPES: dict[str, np.dtype[Any]] = {"v": np.dtype("f8"), "w": np.dtype("(2,)f4")}


@pytest.mark.parametrize("spread", ["uniform", "sequence", "ends", "lognormal"])
@pytest.mark.parametrize("n", SIZES)
def test_lookup_finds_every_key_and_no_neighbour(backend: Backend, n: int, spread: str) -> None:
    words = distinct(n, spread)
    run = run_of(backend, words, first=1)
    one = np.uint64(1)
    ends = np.array([0, 2**63, 2**64 - 1], np.uint64)
    queries = np.random.default_rng(0).permutation(np.concatenate([words, words - one, words + one, words, ends]))
    (values, vectors), found = backend.lookup([run], KeyBatch(queries), DTYPES)
    at = np.minimum(np.searchsorted(words, queries), n - 1)
    hit = words[at] == queries
    expected = np.where(hit, at + 1.0, 0.0)
    assert (found == hit).all()
    assert (values == expected).all()
    assert vectors.dtype == np.float32
    assert (vectors == np.stack([expected, -expected], axis=1)).all()
    assert (backend.rows([run], KeyBatch(queries)) == np.where(hit, at, -1)).all()
    assert (backend.lower_bound(words, queries) == np.searchsorted(words, queries)).all()


def test_no_runs_and_no_queries_are_answered(backend: Backend) -> None:
    queries = KeyBatch(np.arange(3, dtype=np.uint64))
    (values, vectors), found = backend.lookup([], queries, DTYPES)
    assert values.tolist() == [0, 0, 0]
    assert vectors.shape == (3, 2)
    assert not found.any()
    assert backend.rows([], queries).tolist() == [-1, -1, -1]
    nothing = KeyBatch(np.empty(0, np.uint64))
    run = run_of(backend, distinct(5, "uniform"))
    (values, vectors), found = backend.lookup([run], nothing, DTYPES)
    assert values.shape == (0,)
    assert vectors.shape == (0, 2)
    assert found.shape == (0,)
    assert backend.rows([run], nothing).shape == (0,)


def test_unevenly_spread_keys_are_found_by_mixed_codes(backend: Backend) -> None:
    even = run_of(backend, distinct(1_000, "uniform"))
    uneven = run_of(backend, distinct(1_000, "ends"))
    assert len(even) > BUCKET_ROWS_MAX
    assert even.index.order is None
    assert uneven.index.order is not None


@pytest.mark.parametrize("n", SIZES)
def test_sorting_and_gathering_cover_every_row(backend: Backend, n: int) -> None:
    words = np.random.default_rng(n).integers(0, n, n, dtype=np.uint64)
    order = backend.sort_order(words)
    assert (np.sort(order) == np.arange(n)).all()
    assert (backend.gather(words, order) == np.sort(words)).all()


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("n_new", [1, 33, 1_001])
@pytest.mark.parametrize("n_old", [1, 32, 20_001])
@pytest.mark.parametrize("drop", [False, True])
def test_merge_keeps_the_newer_row_and_order(backend: Backend, n_old: int, n_new: int, drop: bool, wide: bool) -> None:
    rng = np.random.default_rng(n_old + n_new)
    universe = np.arange(2 * (n_old + n_new), dtype=np.uint64)
    if wide:
        universe = key_words([f"shared-prefix-{i:06}" for i in range(len(universe))], "str").words
    old = np.sort(rng.choice(universe, n_old, replace=False))
    new = np.sort(rng.choice(universe, n_new, replace=False))
    new[:1] = old[:1] if new[0] > old[0] else new[:1]
    dead = rng.random(n_new) < 0.3
    older, newer = run_of(backend, old), run_of(backend, new, first=10**6, dead=dead)
    merged = backend.merge(older, newer, drop_tombstones=drop)
    expected = {word: (float(i), False) for i, word in enumerate(old.tolist())}
    expected |= {word: (10.0**6 + i, bool(dead[i])) for i, word in enumerate(new.tolist())}
    if drop:
        expected = {word: row for word, row in expected.items() if not row[1]}
    if merged is None:
        assert not expected
        return
    assert merged.words.tolist() == sorted(expected)
    flags = merged.tombstones.tolist() if merged.tombstones is not None else [False] * len(merged)
    assert list(zip(merged.columns["v"].tolist(), flags, strict=True)) == [expected[key] for key in sorted(expected)]
    assert (merged.columns["w"][:, 1] == -merged.columns["v"].astype(np.float32)).all()
    rows = backend.rows([merged], KeyBatch(universe))
    live = {word for word, row in expected.items() if not row[1]}
    assert [row >= 0 for row in rows.tolist()] == [word in live for word in universe.tolist()]


def test_the_newest_of_several_runs_holds_and_the_oldest_may_have_tombstones(backend: Backend) -> None:
    words = distinct(33, "uniform")
    every_third = np.arange(33) % 3 == 0
    runs = [
        run_of(backend, words, first=1, dead=every_third),
        run_of(backend, words[::2], first=100, dead=every_third[::2]),
        run_of(backend, words[1:2], first=200),
        run_of(backend, np.array([5], np.uint64), first=300),
    ]
    asked = KeyBatch(words)
    (values, _), found = backend.lookup(runs, asked, DTYPES)
    expected = np.where(np.arange(33) % 2 == 0, 100.0 + np.arange(33) // 2, 1.0 + np.arange(33))
    expected[1] = 200
    assert (found == ~every_third).all()
    assert (values == np.where(every_third, 0, expected)).all()
    rows = backend.rows(runs, asked)
    assert ((rows == -1) == every_third).all()
    assert rows[1] == 33 + 17
    assert not backend.lookup(runs, KeyBatch(words + np.uint64(1)), DTYPES)[1].any()


def test_merging_only_tombstones_leaves_no_run(backend: Backend) -> None:
    words = distinct(40, "uniform")
    older, newer = run_of(backend, words), run_of(backend, words, dead=np.ones(40, bool))
    assert backend.merge(older, newer, drop_tombstones=True) is None
    kept = backend.merge(older, newer, drop_tombstones=False)
    assert kept is not None
    assert kept.tombstones is not None
    assert kept.tombstones.all()
    assert merge_runs(backend, [kept], drop_tombstones=True) is None
    assert merge_runs(backend, [kept], drop_tombstones=False) is kept


def test_words_that_share_a_code_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "gpu_kernels.index.mixed_codes", lambda words: (words.astype("S1").view(np.uint8) % 3).astype(np.uint64)
    )
    keys = [f"{i:03}" for i in range(300)]
    words = key_words(keys, "str").words
    backend = NumpyBackend(threads=1)
    run = run_of(backend, words)
    asked = key_words([*reversed(keys), "300", "0000", ""], "str")
    assert backend.rows([run], asked).tolist() == [*reversed(range(300)), -1, -1, -1]


def test_arguments_are_not_changed_and_runs_are_read_only(backend: Backend) -> None:
    run = run_of(backend, distinct(100, "uniform"))
    with pytest.raises(ValueError, match="read-only"):
        run.words[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        run.columns["v"][0] = 1
    queries = run.words.copy()
    backend.lookup([run], KeyBatch(queries), DTYPES)
    assert (queries == run.words).all()


def test_a_closed_backend_starts_its_threads_anew(backend: Backend) -> None:
    words = distinct(50_000, "uniform")
    run = run_of(backend, words)
    for _ in range(2):
        assert (backend.rows([run], KeyBatch(words)) == np.arange(50_000)).all()
        backend.close()
        backend.close()


def test_a_forked_child_does_not_wait_for_its_parents_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = NumpyBackend(threads=2)
    words = distinct(50_000, "uniform")
    run = run_of(backend, words)
    backend.rows([run], KeyBatch(words))
    parents_pool = backend._pool
    monkeypatch.setattr(os, "getpid", lambda: -1)  # as a forked child sees it
    backend.rows([run], KeyBatch(words))
    assert backend._pool is not parents_pool
    backend.close()
    monkeypatch.undo()
    assert parents_pool is not None
    parents_pool.shutdown()


def test_info_names_the_backend_and_its_threads() -> None:
    info = NumpyBackend(threads=2).info()
    assert (info.name, info.threads) == ("numpy", 2)
    assert 1 <= NumpyBackend().info().threads <= (os.cpu_count() or 1)
    with pytest.raises(ValueError, match="threads"):
        NumpyBackend(threads=0)
