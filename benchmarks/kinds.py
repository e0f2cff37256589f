"""The kinds of record of the tiers benchmark, each as peers and as warpstore store it, and made by the million.

A record is known by its number: its key is `workloads.key_of` of it, and its values follow from it, so that any answer
can be checked without keeping what was put. Texts come from a vocabulary with the frequencies of a language, so that
they compress as such texts do; neighbours in key order never share one.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import workloads
from benchmarks.measure import WrongAnswerError
from benchmarks.peers.codec import USERS, Codec, UserRow
from benchmarks.peers.peer import Store, load_peer

N_BODIES = 4_096
N_WORDS = 3_000
CHUNK = 10_000


class ProfileRow(msgspec.Struct, array_like=True, gc=False):
    """A profile of about 490 encoded bytes."""

    id: str
    score: float
    age: int
    email: str
    bio: str
    friends: list[str]
    settings: dict[str, str]


class NoteRow(msgspec.Struct, array_like=True, gc=False):
    """A text under a key."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of record.

    Attributes:
        name: Of its class in `benchmarks.models`.
        codec: What peers encode and decode it with.
        numbered: Makes the record of a number.
    """

    name: str
    codec: Codec
    numbered: Callable[[int], Any]

    async def open(self, module: str, folder: Path, **settings: Any) -> Store:
        """Return the contestant of a module opened at ``folder`` for records of this kind."""
        own = {"record": self._model} if module == "warpstore" else {"codec": self.codec}
        return await load_peer(module).open(folder, **own, **settings)

    def records(self, module: str, numbers: Sequence[int]) -> list[Any]:
        """Return the records of some numbers as a module stores them."""
        rows = [self.numbered(number) for number in numbers]
        if module != "warpstore":
            return rows
        make, names = self._model, rows[0].__struct_fields__ if rows else ()
        return [make(**{name: getattr(row, name) for name in names}) for row in rows]

    def chunks(self, module: str, n: int) -> Iterator[list[Any]]:
        """Yield the records of 0 to ``n - 1`` in random order, without holding them."""
        order = workloads.shuffled(n, seed=1).tolist()
        for start in range(0, n, CHUNK):
            yield self.records(module, order[start : start + CHUNK])

    def check(self, number: int, answer: Any, *, but_for: str = "") -> None:
        """Check an answer, but for a field that was changed.

        Raises:
            WrongAnswerError: it is missing or differs.
        """
        row = self.numbered(number)
        for name in row.__struct_fields__:
            if name != but_for and (answer is None or getattr(answer, name) != getattr(row, name)):
                raise WrongAnswerError(f"record {number} is missing or its {name} differs")

    def encoded_bytes(self, n: int) -> float:
        """Return the mean encoded size of 0 to ``n - 1``, from a sample."""
        sample = range(0, n, max(1, n // 1_000))
        return sum(len(self.codec.encode(self.numbered(number))) for number in sample) / len(sample)

    @property
    def _model(self) -> Any:
        return getattr(importlib.import_module("benchmarks.models"), self.name)


@cache
def user_bodies() -> list[UserRow]:
    """Return what users of the same number modulo `N_BODIES` share."""
    return workloads.rows(N_BODIES)


@cache
def words() -> list[str]:
    """Return a long text as its words: a vocabulary with Zipf's frequencies."""
    draw = random.Random(workloads.SEED)
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = ["".join(draw.choices(letters, k=draw.randrange(2, 10))) for _ in range(N_WORDS)]
    return draw.choices(vocabulary, [1 / (i + 1) for i in range(N_WORDS)], k=400_000)


@cache
def profile_bodies() -> list[ProfileRow]:
    """Return what profiles of the same number modulo `N_BODIES` share."""
    draw = random.Random(workloads.SEED + 1)
    text = words()
    found = []
    for _ in range(N_BODIES):
        start, n = draw.randrange(len(text) - 100), draw.randrange(20, 80)
        settings = {
            "theme": draw.choice(["dark", "light"]),
            "lang": draw.choice(["en", "de", "fr"]),
            "tz": draw.choice(["UTC", "CET", "PST"]),
        }
        friends = [workloads.key_of(draw.randrange(1_000_000)) for _ in range(draw.randrange(12))]
        email = f"{text[start]}.{text[start + 1]}"
        bio = " ".join(text[start : start + n])
        found.append(ProfileRow("", draw.random(), 0, email, bio, friends, settings))
    return found


def user(number: int) -> UserRow:
    """Return a user."""
    return workloads.numbered_row(number, user_bodies())


def profile(number: int) -> ProfileRow:
    """Return a profile."""
    bodies = profile_bodies()
    body = bodies[number % len(bodies)]
    email = f"{body.email}{number}@example.com"
    return ProfileRow(
        workloads.key_of(number), body.score + number, number, email, body.bio, body.friends, body.settings
    )


def note(number: int) -> NoteRow:
    """Return a note."""
    return NoteRow(workloads.key_of(number), f"{number} {profile_bodies()[number % N_BODIES].bio}")


def _codec(row: type[msgspec.Struct]) -> Codec:
    decode = msgspec.msgpack.Decoder(row).decode
    return Codec(msgspec.msgpack.Encoder().encode, decode, decode)


KINDS = {
    "User": Kind("User", USERS, user),
    "Profile": Kind("Profile", _codec(ProfileRow), profile),
    "Note": Kind("Note", _codec(NoteRow), note),
}


def numbers(n: int, size: int, *, seed: int) -> list[int]:
    """Return ``size`` different numbers below ``n`` in random order, or all there are."""
    found: list[int] = workloads.shuffled(n, seed=seed)[:size].tolist()
    return found
