"""The inputs: records, orders of keys, YCSB mixes; the same for every contestant, from fixed seeds.

Records have about 390 encoded bytes: a key ``user:%09d``, a float, an int, 8 strings, a dictionary of 6 strings, 200
random bytes that no codec can shorten. Keys come in random order always; the sequential order of a loader is a gift to
B-trees and merge trees that no service gives them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.peers.codec import UserRow

SEED = 20_260_801
ZIPF_THETA = 0.99
BLOB_BYTES = 200
ATTRS = ("city", "lang", "plan", "tier", "unit", "zone")
N_WORDS = 4_096

Indices = npt.NDArray[np.int64]

YCSB_READ_SHARE = {"A": 0.50, "B": 0.95, "C": 1.00, "F": 0.50}


def key_of(number: int) -> str:
    """Return the key of record ``number``."""
    return f"user:{number:09d}"


def rows(n: int, *, seed: int = SEED) -> list[UserRow]:
    """Return records 0 to ``n - 1``, each with values of its own."""
    random = np.random.default_rng(seed)
    tags = [f"tag{i:05d}" for i in range(N_WORDS)]
    values = [f"v{i:07d}" for i in range(N_WORDS)]
    tag_picks = random.integers(0, N_WORDS, (n, 8)).tolist()
    value_picks = random.integers(0, N_WORDS, (n, len(ATTRS))).tolist()
    scores = random.random(n).tolist()
    ages = random.integers(0, 1 << 20, n).tolist()
    blobs = random.bytes(n * BLOB_BYTES)
    return [
        UserRow(
            key_of(i),
            scores[i],
            ages[i],
            [tags[pick] for pick in tag_picks[i]],
            dict(zip(ATTRS, [values[pick] for pick in value_picks[i]], strict=True)),
            blobs[i * BLOB_BYTES : (i + 1) * BLOB_BYTES],
        )
        for i in range(n)
    ]


def many_rows(n: int, *, chunk: int = 10_000, n_bodies: int = 4_096, seed: int = SEED) -> Iterator[list[UserRow]]:
    """Yield ``n`` records in random key order, ``chunk`` at a time, without holding them.

    Their values but key and ``age`` come from ``n_bodies`` records: for rows of millions, where making each record anew
    would take longer than storing it. ``age`` is the record's number, so that an answer can be checked.
    """
    bodies = rows(n_bodies, seed=seed)
    order = np.random.default_rng(seed + 1).permutation(n)
    for start in range(0, n, chunk):
        yield [numbered_row(number, bodies) for number in order[start : start + chunk].tolist()]


def numbered_row(number: int, bodies: list[UserRow]) -> UserRow:
    """Return the record of `many_rows` with this number."""
    body = bodies[number % len(bodies)]
    return UserRow(key_of(number), body.score, number, body.tags, body.attrs, body.blob)


def changed(row: UserRow) -> UserRow:
    """Return the record that an update of YCSB writes: same key, another score."""
    return UserRow(row.id, row.score + 1.0, row.age, row.tags, row.attrs, row.blob)


def same(answer: Any, row: UserRow) -> bool:
    """Return whether a contestant's record holds the values of ``row``."""
    return bool(
        answer is not None
        and answer.id == row.id
        and answer.score == row.score
        and answer.age == row.age
        and answer.tags == row.tags
        and answer.attrs == row.attrs
        and answer.blob == row.blob
    )


def shuffled(n: int, *, seed: int) -> Indices:
    """Return 0 to ``n - 1`` in random order."""
    return np.random.default_rng(SEED + seed).permutation(n)


def uniform(n: int, size: int, *, seed: int) -> Indices:
    """Return ``size`` numbers below ``n``, each equally likely."""
    return np.random.default_rng(SEED + seed).integers(0, n, size)


def zipfian(n: int, size: int, *, seed: int, theta: float = ZIPF_THETA) -> Indices:
    """Return ``size`` numbers below ``n``, the k-th most popular with probability proportional to ``k ** -theta``.

    Scrambled: the popular ones are spread over the key space by a permutation that depends on ``n`` alone.

    Source: J. Gray et al., "Quickly Generating Billion-Record Synthetic Databases" (1994), as YCSB uses it; here by
    inversion of the exact distribution.
    """
    random = np.random.default_rng(SEED + seed)
    weights = np.arange(1, n + 1, dtype=np.float64) ** -theta
    cumulative = np.cumsum(weights)
    ranks = np.searchsorted(cumulative, random.random(size) * cumulative[-1])
    scramble = np.random.default_rng(SEED + n).permutation(n)
    chosen: Indices = scramble[np.minimum(ranks, n - 1)]
    return chosen


@dataclass(frozen=True, slots=True)
class Operations:
    """One client's part of a YCSB run.

    Attributes:
        read: Whether each operation is a read; else it is an update (A, B) or a read-modify-write (F).
        number: The record of each operation.
        modify: The workload is F.
    """

    read: list[bool]
    number: list[int]
    modify: bool


def ycsb(workload: str, n: int, size: int, *, n_clients: int, seed: int) -> list[Operations]:
    """Return the operations of each client: ``size`` in all on ``n`` records, keys zipfian.

    Args:
        workload: A (half reads, half updates), B (95 % reads), C (reads), F (half reads, half read-modify-writes). An
            update writes a whole record (YCSB's ``writeallfields``).
        n: Records there are.
        size: Operations in all, a multiple of ``n_clients``.
        n_clients: Tasks or threads that share them.
        seed: Another seed gives other operations; the same seed the same.
    """
    random = np.random.default_rng(SEED + seed + 1)
    numbers = zipfian(n, size, seed=seed)
    reads = random.random(size) < YCSB_READ_SHARE[workload]
    each = size // n_clients
    return [
        Operations(
            reads[client * each : (client + 1) * each].tolist(),
            numbers[client * each : (client + 1) * each].tolist(),
            workload == "F",
        )
        for client in range(n_clients)
    ]
