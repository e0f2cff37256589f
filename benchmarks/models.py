"""The record types of the benchmark, as a user of warpstore writes them.

`User` has the fields of `benchmarks.peers.codec.UserRow` and no annotation but its key. `UserMemory` is the same with
every field in `Memory`; `UserMixed` uses every marker and `UserUnmixed` has the same fields without any, so that their
difference is the markers' cost. `Point` is the record of the column lookup, `Sample` that of the Arrow export.
`Profile`, `Note` and `Journal` are those of the tiers benchmark, each for stores of its own.
"""

from typing import Annotated

import msgspec

import warpstore as ws


class Event(msgspec.Struct, gc=False):
    """One item of a series."""

    at: float
    what: str


class User(ws.Record):
    """A user; where its fields live is left to the store."""

    id: Annotated[str, ws.Key()]
    score: float
    age: int
    tags: list[str]
    attrs: dict[str, str]
    blob: bytes


class UserMemory(ws.Record):
    """A user with all fields in RAM."""

    id: Annotated[str, ws.Key(), ws.Memory()]
    score: Annotated[float, ws.Memory()]
    age: Annotated[int, ws.Memory()]
    tags: Annotated[list[str], ws.Memory()]
    attrs: Annotated[dict[str, str], ws.Memory()]
    blob: Annotated[bytes, ws.Memory()]


class UserMixed(ws.Record):
    """A user with every marker of the design."""

    id: Annotated[str, ws.Key(), ws.Memory(priority="critical")]
    score: Annotated[float, ws.Gpu(dtype="f4", mass=True)]
    age: int
    tags: Annotated[list[str], ws.Disk(compression="lz4")]
    attrs: Annotated[dict[str, str], ws.Disk(compression="max", cache=False)]
    blob: bytes
    degree: Annotated[int, ws.Computed(lambda user: len(user.tags), of=("tags",)), ws.Memory()] = ws.derived()
    activity: Annotated[list[Event], ws.Temporal(time="at", memory="24h", ssd="30d", disk="365d", archive=True)] = []
    session: Annotated[dict[str, str], ws.Ephemeral(ttl="1h")] = {}


class UserUnmixed(ws.Record):
    """The fields of `UserMixed` without a marker."""

    id: Annotated[str, ws.Key()]
    score: float
    age: int
    tags: list[str]
    attrs: dict[str, str]
    blob: bytes
    degree: int = 0
    activity: list[Event] = []
    session: dict[str, str] = {}


class Point(ws.Record):
    """An int key and one column."""

    id: Annotated[int, ws.Key()]
    score: Annotated[float, ws.Gpu(dtype="f4")]


class Sample(ws.Record):
    """A str key and fields of fixed width."""

    id: Annotated[str, ws.Key()]
    score: float
    level: int
    is_on: bool
    weight: Annotated[float, ws.Gpu(dtype="f4")]


class Profile(ws.Record):
    """A user of whom the key and two numbers stay in RAM and the rest lies in blocks on disk."""

    id: Annotated[str, ws.Key(), ws.Memory()]
    score: Annotated[float, ws.Memory()]
    age: Annotated[int, ws.Memory()]
    email: Annotated[str, ws.Disk()]
    bio: Annotated[str, ws.Disk()]
    friends: Annotated[list[str], ws.Disk()]
    settings: Annotated[dict[str, str], ws.Disk()]


class Note(ws.Record):
    """A record of which nothing but the key is wanted in RAM, not even for a while."""

    id: Annotated[str, ws.Key()]
    text: Annotated[str, ws.Disk(cache=False)]


class Journal(ws.Record):
    """A series of which items leave RAM after an hour."""

    id: Annotated[str, ws.Key()]
    events: Annotated[list[Event], ws.Temporal(time="at", memory="1h", ssd="30d", disk="365d")] = []


MODELS = [User, UserMemory, UserMixed, UserUnmixed, Point, Sample]
