"""The class statement. Annotations are real here: some tests need them as strings and say so."""

import datetime as dt
import subprocess
import sys
import types
import uuid
from enum import Enum, Flag
from pathlib import Path
from typing import Annotated, Any, NewType

import msgspec
import pytest

from warpstore.annotations import (
    Auto,
    Computed,
    Disk,
    Ephemeral,
    Gpu,
    Key,
    Memory,
    Renamed,
    Temporal,
    derived,
)
from warpstore.errors import SchemaError, UsageError
from warpstore.record import Record, plan_of
from warpstore.strategy import Strategy


class Event(msgspec.Struct, frozen=True):
    at: dt.datetime
    kind: str = "view"


class Colour(Enum):
    RED = "r"


class Bits(Flag):
    A = 1


class User(Record, strategy=Strategy(ttl="7d")):
    note: str = ""
    friends: Annotated[list[str], Disk(compression="lz4")]
    score: Annotated[float, Gpu(dtype="f4", mass=True)]
    degree: Annotated[int, Computed(lambda u: len(u.friends), of=("friends",)), Memory()] = derived()
    id: Annotated[str, Key(), Memory(priority="critical")]
    activity: Annotated[list[Event], Temporal(time="at", memory="24h", disk="365d", archive=True)] = []
    session: Annotated[dict[str, str], Ephemeral(ttl="1h")] = {}
    active: bool = True


def declare(annotations: dict[str, Any], **defaults: Any) -> type[Record]:
    body = {"__annotations__": annotations, "__module__": __name__, **defaults}
    return types.new_class("Bad", (Record,), {}, lambda namespace: namespace.update(body))


KEY = Annotated[str, Key()]


def test_a_declaration_is_compiled_into_a_plan() -> None:
    plan = plan_of(User)
    assert plan.table == "user"
    assert plan.record_type is User
    assert plan.strategy.seconds("ttl") == 604800
    assert (plan.key_field, plan.key_kind) == ("id", "str")
    assert plan.stored_fields == ("id", "score", "degree", "active", "note", "activity", "friends")
    assert plan.ephemeral_fields == ("session",)
    assert [(field.name, str(field.dtype), field.mass) for field in plan.gpu_fields] == [("score", "float32", True)]
    assert [(field.name, field.of, field.depends_on) for field in plan.computed_fields] == [
        ("degree", ("friends",), frozenset({"friends"}))
    ]
    (series,) = plan.temporal_fields
    assert (series.name, series.time, series.memory_s, series.ssd_s, series.disk_s, series.archive) == (
        "activity",
        "at",
        86400.0,
        None,
        365 * 86400.0,
        True,
    )


def test_a_record_is_keyword_only_untracked_and_keeps_its_own_defaults() -> None:
    with pytest.raises(TypeError):
        User("ann")  # type: ignore[call-arg]
    one, two = (User(id=name, score=1.0, friends=[]) for name in "ab")
    one.session["k"] = "v"
    assert two.session == {}
    assert not User.__struct_config__.gc  # type: ignore[attr-defined]
    assert one.degree is derived()


def test_the_table_is_named_after_the_class_or_by_name() -> None:
    class HTTPRequestLog(Record):
        id: KEY

    class Other(Record, name="people"):
        id: KEY

    assert plan_of(HTTPRequestLog).table == "http_request_log"
    assert plan_of(Other).table == "people"
    with pytest.raises(SchemaError, match="a table's name"):

        class Wrong(Record, name="No Such/Table"):
            id: KEY


def test_string_annotations_and_local_classes_are_resolved() -> None:
    class Item(msgspec.Struct):
        n: int

    class Text(Record):
        id: "Annotated[str, Key()]"
        items: "list[Item]" = []
        when: "dt.date | None" = None

    assert plan_of(Text).schema.fields[1].type == "list[Item{n!: int}]"


def test_a_name_that_is_not_known_yet_is_a_schema_error_that_says_so() -> None:
    with pytest.raises(SchemaError, match=r"Text\.items: 'Later'.*define it before"):

        class Text(Record):
            id: KEY
            items: "list[Later]" = []  # type: ignore[name-defined] # noqa: F821


@pytest.mark.parametrize(
    ("annotations", "defaults", "words"),
    [
        ({"a": str}, {}, "has no key"),
        ({"a": KEY, "b": KEY}, {}, r"2 keys \(a, b\)"),
        ({"a": Annotated[float, Key()]}, {}, r"Bad\.a: a key is str, bytes, int or UUID, not float"),
        ({"a": Annotated[bool, Key()]}, {}, r"a key is"),
        ({"a": Annotated[str, Key(), Ephemeral()]}, {}, r"Bad\.a: a key cannot be Ephemeral"),
        ({"a": Annotated[int, Key(), Gpu()]}, {}, "a key cannot be Gpu"),
        ({"a": KEY, "b": Annotated[int, Ephemeral()]}, {}, r"Bad\.b: an Ephemeral field needs a default"),
        ({"a": KEY, "b": Annotated[str, Gpu()]}, {}, r"Bad\.b: Gpu needs a type of fixed width"),
        ({"a": KEY, "b": Annotated[float | None, Gpu()]}, {}, r"Bad\.b: Gpu needs"),
        ({"a": KEY, "b": Annotated[bytes, Gpu()]}, {}, r"Bad\.b: bytes has no fixed width"),
        ({"a": KEY, "b": Annotated[list[float], Gpu()]}, {}, r"Bad\.b: list\[float\] has no fixed width"),
        ({"a": KEY, "b": Annotated[list[float], Gpu("f4")]}, {}, "needs a count"),
        ({"a": KEY, "b": Annotated[float, Gpu("4f4")]}, {}, "needs no count"),
        ({"a": KEY, "b": Annotated[float, Gpu("i4")]}, {}, "does not fit float"),
        ({"a": KEY, "b": Annotated[tuple[float, float], Gpu("3f4")]}, {}, "tuple of 2"),
        ({"a": KEY, "b": Annotated[list[float], Gpu("3f4", mass=True)]}, {}, "mass=True needs"),
        (
            {"a": KEY, "b": Annotated[float, Gpu(mass=True)], "c": Annotated[float, Gpu(mass=True)]},
            {},
            "mass=True on b and c",
        ),
        ({"a": KEY, "b": Annotated[str, Memory(), Disk()]}, {}, r"Bad\.b: lives in two tiers"),
        ({"a": KEY, "b": Annotated[str, Memory(), Auto()]}, {}, "two tiers"),
        ({"a": KEY, "b": Annotated[str, Memory]}, {}, r"Bad\.b: Memory is a class; write Memory\(...\)"),
        ({"a": KEY, "b": list[Annotated[str, Memory()]]}, {}, r"Bad\.b: a marker inside another type"),
        (
            {"a": KEY, "b": Annotated[int, Computed(len, of=("aa",))]},
            {"b": derived()},
            "unknown field 'aa'; did you mean",
        ),
        ({"a": KEY, "b": Annotated[int, Computed(len, of=("b",))]}, {"b": derived()}, "computed of itself: b -> b"),
        ({"a": KEY, "b": Annotated[int, Computed(len, of=("a",))]}, {}, "needs the default ws.derived"),
        ({"a": KEY, "b": int}, {"b": derived()}, "needs Computed"),
        (
            {"a": KEY, "b": Annotated[int, Computed(len, of=("a",)), Ephemeral()]},
            {"b": derived()},
            "cannot be Ephemeral",
        ),
        (
            {"a": KEY, "e": Annotated[int, Ephemeral()], "b": Annotated[int, Computed(len, of=("e",))]},
            {"b": derived(), "e": 0},
            "which is Ephemeral",
        ),
        ({"a": KEY, "b": Annotated[str, Temporal()]}, {}, r"Temporal needs a list\[T\]"),
        ({"a": KEY, "b": Annotated[list[int], Temporal(time="at")]}, {}, "items of a msgspec.Struct"),
        ({"a": KEY, "b": Annotated[list[Event], Temporal(time="att")]}, {}, "no such field; did you mean 'at'"),
        ({"a": KEY, "b": Annotated[list[Event], Temporal(time="kind")]}, {}, "must be a datetime, float or int"),
        ({"a": KEY, "b": Annotated[int, Renamed("a")]}, {}, "the name of another field"),
        ({"a": KEY, "b": object}, {}, "use Any"),
        ({"a": KEY, "b": list}, {}, r"use list\[T\]"),
        ({"a": KEY, "b": bytearray}, {}, "use bytes"),
        ({"a": KEY, "b": complex}, {}, "cannot be stored"),
        ({"a": KEY, "b": type}, {}, "cannot be stored"),
        ({"a": KEY, "b": str | bytes}, {}, "not contain more than one str-like"),
        ({"a": KEY, "b": list[int] | set[int]}, {}, "more than one array-like"),
        ({"a": KEY, "b": dict[list[int], int]}, {}, "keys of a dict must be scalars"),
        ({"a": KEY, "b": Bits}, {}, "no flags"),
        ({"a": KEY, "b": int | msgspec.UnsetType}, {}, "cannot be stored"),
        ({"a": KEY, "b": "Annotated[int, ws.Memory()"}, {}, "cannot be read"),
        ({"a": KEY, "b": int}, {"b": "x"}, r"Bad\.b: expected int, got str \(its default\)"),
        ({"a": KEY, "b": list[int]}, {"b": [1]}, "Bad"),
    ],
)
def test_a_contradiction_is_a_schema_error_that_names_class_and_field(
    annotations: dict[str, Any], defaults: dict[str, Any], words: str
) -> None:
    with pytest.raises(SchemaError, match=words):
        declare(annotations, **defaults)


def test_an_unknown_class_keyword_is_a_schema_error() -> None:
    with pytest.raises(SchemaError, match="Wrong"):

        class Wrong(Record, colour="red"):  # type: ignore[call-arg]
            id: KEY


def test_every_key_type_has_its_kind() -> None:
    kinds = [plan_of(declare({"a": Annotated[kind, Key()]})).key_kind for kind in (str, bytes, int, uuid.UUID)]
    assert kinds == ["str", "bytes", "int", "uuid"]


def test_computed_fields_come_after_those_they_depend_on() -> None:
    class Chain(Record):
        id: KEY
        c: Annotated[int, Computed(lambda r: r.b + 1, of=("b",))] = derived()
        b: Annotated[int, Computed(lambda r: r.a + 1, of=("a",))] = derived()
        a: int

    assert [(field.name, field.depends_on) for field in plan_of(Chain).computed_fields] == [
        ("b", frozenset("a")),
        ("c", frozenset("a")),
    ]


UserId = NewType("UserId", str)


def test_a_new_type_is_stored_as_what_it_stands_for() -> None:
    plan = plan_of(declare({"a": KEY, "b": UserId, "c": list[UserId]}))
    assert [field.type for field in plan.schema.fields] == ["str", "str", "list[str]"]


def test_what_is_no_record_type_has_no_plan() -> None:
    for other in (Record, int, Event, User(id="a", score=1.0, friends=[])):
        with pytest.raises(UsageError, match="no record type"):
            plan_of(other)  # type: ignore[arg-type,type-var]


def test_a_subclass_inherits_the_fields_of_its_base() -> None:
    class Admin(User):
        level: int = 0

    assert plan_of(Admin).table == "admin"
    assert set(plan_of(Admin).fields) == {*plan_of(User).fields, "level"}


TYPED = """
from typing import Annotated, Any

from warpstore.annotations import Computed, Ephemeral, Gpu, Key, derived
from warpstore.record import Record, plan_of
from warpstore.strategy import Strategy


def count(user: Any) -> int:
    return len(user.friends)


class User(Record, name="user", strategy=Strategy(ttl="1h")):
    id: Annotated[str, Key()]
    score: Annotated[float, Gpu(dtype="f4")]
    friends: list[str]
    degree: Annotated[int, Computed(count, of=("friends",))] = derived()
    session: Annotated[dict[str, str], Ephemeral()] = {}


user = User(id="ann", score=1.0, friends=[])
reveal_type(user.degree)
reveal_type(plan_of(User).bind(7).decode(b""))
User("ann")
User(id=3, score=1.0, friends=[])
"""


def test_a_type_checker_knows_fields_constructor_and_plan(tmp_path: Path) -> None:
    (tmp_path / "typed.py").write_text(TYPED)
    root = Path(__file__).parents[2]
    options = ["--strict", "--no-error-summary", "--explicit-package-bases", f"--cache-dir={tmp_path / 'cache'}"]
    command = [sys.executable, "-m", "mypy", *options, "--follow-imports=silent", str(tmp_path / "typed.py")]
    report = subprocess.run(
        command, cwd=tmp_path, env={"MYPYPATH": str(root)}, capture_output=True, text=True, check=False
    )
    lines = [line.partition("typed.py:")[2] for line in report.stdout.splitlines()]
    assert lines == [
        '22: note: Revealed type is "int"',
        '23: note: Revealed type is "typed.User"',
        '24: error: Too many positional arguments for "User"  [call-arg]',
        '24: error: Missing named argument "score" for "User"  [call-arg]',
        '24: error: Missing named argument "friends" for "User"  [call-arg]',
        '25: error: Argument "id" to "User" has incompatible type "int"; expected "str"  [arg-type]',
    ], report.stdout + report.stderr
