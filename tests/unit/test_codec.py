"""The way to bytes and back."""

import datetime as dt
import traceback
import types
import uuid
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from warpstore._native import Encoder
from warpstore.annotations import Computed, Disk, Ephemeral, Gpu, Key, Memory, Temporal, derived
from warpstore.codec import Codec
from warpstore.errors import LimitError, ValidationError
from warpstore.record import Record, plan_of


class Event(msgspec.Struct, order=True):
    at: float
    tags: list[str] = []


class Frozen(msgspec.Struct, frozen=True):
    n: int


class Colour(Enum):
    RED = "r"
    BLUE = "b"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class User(Record):
    id: Annotated[str, Key(), Memory()]
    score: Annotated[float, Gpu(dtype="f4", mass=True)]
    friends: Annotated[list[str], Disk()]
    degree: Annotated[int, Computed(lambda u: len(u.friends), of=("friends",)), Memory()] = derived()
    double: Annotated[int, Computed(lambda u: 2 * u.degree, of=("degree",))] = derived()
    activity: Annotated[list[Event], Temporal(time="at")] = []
    vector: Annotated[list[float], Gpu("2f4")] = msgspec.field(default_factory=lambda: [0.0, 0.0])
    session: Annotated[dict[str, str], Ephemeral(ttl="1h")] = {}
    seen: Annotated[int, Ephemeral()] = 0
    note: str = ""


def user(**fields: Any) -> User:
    given: dict[str, Any] = {"id": "ann", "score": 0.5, "friends": ["bob"]}
    return User(**(given | fields))


@pytest.fixture(scope="module")
def codec() -> Codec[User]:
    return plan_of(User).bind(7)


def declare(annotations: dict[str, Any], options: dict[str, Any] | None = None, **defaults: Any) -> Any:
    body = {"__annotations__": annotations, "__module__": __name__, **defaults}
    return types.new_class("Made", (Record,), options or {}, lambda namespace: namespace.update(body))


def test_a_value_is_an_array_of_tag_key_fixed_width_other_and_disk_fields(codec: Codec[User]) -> None:
    slot, key, value = codec.encode(user())
    assert (slot, key) == (xxh3_64_intdigest(b"ann") & 255, "ann")
    assert msgspec.msgpack.decode(value) == [7, "ann", 0.5, 1, 2, [0.0, 0.0], [], "", ["bob"]]
    assert codec.stored_names == ("id", "score", "degree", "double", "vector", "activity", "note", "friends")


def test_a_put_record_equals_what_is_read(codec: Codec[User]) -> None:
    given_record = user(score=0.1, vector=[1, 0.1], activity=[Event(2.0), Event(1.0), Event(1.0, ["x"])])
    value = codec.encode(given_record)[2]
    read = codec.decode(value)
    assert type(read) is User
    assert read == given_record
    assert codec.decode(memoryview(value)) == read
    assert read.score == float(np.float32(0.1))
    assert read.vector == [1.0, float(np.float32(0.1))]
    assert [event.at for event in read.activity] == [1.0, 1.0, 2.0]
    assert read.activity[1].tags == ["x"]
    assert codec.encode(read)[2] == value


def test_an_ephemeral_field_reaches_no_value(codec: Codec[User]) -> None:
    value = codec.encode(user(session={"secret": "s"}))[2]
    assert b"secret" not in value
    assert codec.decode(value).session == {}


def test_an_ephemeral_field_has_a_codec_of_its_own(codec: Codec[User]) -> None:
    session, seen = codec.ephemeral
    assert (session.name, session.ttl_s, seen.name, seen.ttl_s) == ("session", 3600.0, "seen", None)
    assert session.encode(user()) is None
    data = session.encode(user(session={"a": "b"}))
    assert data is not None
    assert session.decode(data) == {"a": "b"}
    assert (seen.encode(user()), seen.encode(user(seen=1))) == (None, b"\x01")
    with pytest.raises(ValidationError, match=r"User\.session\['a'\]: expected str, got int"):
        session.encode(user(session={"a": 1}))
    with pytest.raises(ValidationError, match=r"User\.seen: expected int, got bool"):
        seen.encode(user(seen=False))


def test_computed_fields_are_renewed_only_if_something_they_depend_on_changed(codec: Codec[User]) -> None:
    record = user()
    codec.encode(record)
    record.friends = ["a", "b", "c"]
    codec.encode_changed(record, frozenset({"score"}))
    assert (record.degree, record.double) == (1, 2)
    codec.encode_changed(record, frozenset({"friends"}))
    assert (record.degree, record.double) == (3, 6)
    fresh = user()
    codec.encode_changed(fresh, frozenset())
    assert (fresh.degree, fresh.double) == (1, 2)
    record.degree = "x"  # type: ignore[assignment]
    with pytest.raises(ValidationError, match=r"User\.degree: expected int, got str"):
        codec.encode_changed(record, frozenset())


def test_an_error_of_a_computed_function_goes_through_and_shows_the_generated_source() -> None:
    def fail(_: Any) -> int:
        raise ZeroDivisionError

    made = declare({"a": Annotated[str, Key()], "b": Annotated[int, Computed(fail, of=("a",))]}, b=derived())
    with pytest.raises(ZeroDivisionError) as caught:
        plan_of(made).bind(1).encode(made(a="x"))
    assert any(line.line and "(r)" in line.line for line in traceback.extract_tb(caught.value.__traceback__))


def test_a_wrong_computed_value_is_refused() -> None:
    made = declare({"a": Annotated[str, Key()], "b": Annotated[int, Computed(lambda r: r.a, of=("a",))]}, b=derived())
    with pytest.raises(ValidationError, match=r"Made\.b: expected int, got str"):
        plan_of(made).bind(1).encode(made(a="x"))


def test_a_batch_function_gets_columns_and_gives_a_column() -> None:
    annotations = {
        "a": Annotated[str, Key()],
        "x": Annotated[float, Gpu("f4")],
        "n": int,
        "y": Annotated[float, Computed(lambda c: c.x * c.n, of=("x", "n"), batch=True)],
        "bad": Annotated[float, Computed(lambda c: np.zeros(2), of=("x",), batch=True)],
    }
    made = declare({name: annotations[name] for name in "axny"}, y=derived())
    record = made(a="k", x=0.5, n=3)
    plan_of(made).bind(1).encode(record)
    assert record.y == 1.5
    bad = declare({name: annotations[name] for name in ("a", "x", "bad")}, bad=derived())
    with pytest.raises(ValidationError, match=r"Made\.bad: Computed\(batch=True\) returned 2 values for 1 record"):
        plan_of(bad).bind(1).encode(bad(a="k", x=0.5))
    with pytest.raises(ValidationError, match=r"Made\.n: is out of the range of its column"):
        plan_of(made).bind(1).encode(made(a="k", x=0.5, n=2**63))


@pytest.mark.parametrize("key", ["", "ann", "é" * 2048, b"", b"\x00k", 0, -1, 2**63 - 1, -(2**63), uuid.UUID(int=5)])
def test_a_key_routes_the_same_everywhere(key: Any) -> None:
    made = declare({"k": Annotated[type(key), Key()], "n": int})
    codec = plan_of(made).bind(5)
    slot, hot, value = codec.encode(made(k=key, n=1))
    assert codec.route(key) == (slot, hot)
    assert codec.routes(iter([key, key])) == [(slot, hot)] * 2
    assert codec.key_of(value) == codec.key_of(memoryview(value)) == hot
    assert codec.key_of(msgspec.msgpack.encode([5, hot])) == hot
    assert codec.decode(value) == made(k=key, n=1)
    assert hot == (key.bytes if isinstance(key, uuid.UUID) else key)


@pytest.mark.parametrize(
    ("key_type", "key", "words"),
    [
        (str, 3, r"Made\.k: expected str, got int"),
        (str, "\ud800", "lone surrogate"),
        (bytes, "a", "expected bytes, got str"),
        (int, True, "expected int, got bool"),
        (int, 2**63, "signed 64-bit int"),
        (int, 2**70, "64 bit"),
        (uuid.UUID, "a", "expected UUID, got str"),
        (str, None, "expected str, got NoneType"),
    ],
)
def test_a_wrong_key_is_refused_with_the_name_of_the_key(key_type: type, key: Any, words: str) -> None:
    made = declare({"k": Annotated[key_type, Key()], "n": int})
    codec = plan_of(made).bind(5)
    for call in (lambda: codec.route(key), lambda: codec.routes([key]), lambda: codec.encode(made(k=key, n=1))):
        with pytest.raises(ValidationError, match=words) as caught:
            call()
        assert caught.value.field == "k"


def test_a_key_over_4_kib_is_over_the_limit(codec: Codec[User]) -> None:
    codec.encode(user(id="x" * 4096))
    for call in (codec.route, lambda key: codec.routes([key]), lambda key: codec.encode(user(id=key))):
        with pytest.raises(LimitError, match="limit of a key is 4,096"):
            call("é" * 2049)


def test_a_single_key_where_several_belong_is_refused(codec: Codec[User]) -> None:
    assert codec.routes([]) == []
    with pytest.raises(ValidationError, match="put it into a list"):
        codec.routes("ann")


def test_a_record_over_16_mib_is_over_the_limit(codec: Codec[User]) -> None:
    with pytest.raises(LimitError, match="limit of a record is 16,777,215"):
        codec.encode(user(note="x" * (16 << 20)))


def test_what_is_no_record_of_the_class_is_refused(codec: Codec[User]) -> None:
    part = codec.project(("note",))(codec.encode(user())[2])
    for other, words in ((part, "read with fields="), (3, "got int"), (User, "got the class"), (None, "got NoneType")):
        with pytest.raises(ValidationError, match=words):
            codec.encode(other)  # type: ignore[arg-type]


def test_a_missing_attribute_is_refused(codec: Codec[User]) -> None:
    record = user()
    del record.note
    with pytest.raises(ValidationError, match=r"User\.note: is missing"):
        codec.encode(record)


def test_bytes_of_another_schema_are_no_record(codec: Codec[User]) -> None:
    value = codec.encode(user())[2]
    for wrong in (plan_of(User).bind(8).encode(user())[2], value[:-1], b"", b"\xc0", value + b"\x00"):
        with pytest.raises(msgspec.DecodeError):
            codec.decode(wrong)


def test_a_copy_shares_nothing_mutable(codec: Codec[User]) -> None:
    assert codec.copy is not None
    record = user(activity=[Event(1.0, ["a"])], session={"a": "b"})
    codec.encode(record)
    copied = codec.copy(record)
    assert copied == record
    copied.friends.append("x")
    copied.activity[0].tags.append("x")
    copied.session["x"] = "y"
    copied.vector[0] = 9.0
    assert (record.friends, record.activity[0].tags, record.session, record.vector) == (
        ["bob"],
        ["a"],
        {"a": "b"},
        [0.0, 0.0],
    )


@pytest.mark.parametrize(
    ("hint", "value", "has_copy"),
    [
        (list[list[int]], [[1], [2]], True),
        (dict[str, list[int] | None], {"a": [1], "b": None}, True),
        (tuple[list[int], str], ([1], "a"), True),
        (tuple[list[int], ...], ([1], [2]), True),
        (list[Event] | None, [Event(1.0, ["a"])], True),
        (Frozen, Frozen(1), True),
        (set[int], {1}, True),
        (Any, [1], False),
    ],
)
def test_deeper_values_are_copied_or_the_type_has_no_copy(hint: Any, value: Any, has_copy: bool) -> None:
    made = declare({"k": Annotated[str, Key()], "x": hint})
    codec = plan_of(made).bind(1)
    if not has_copy:
        assert codec.copy is None
        return
    assert codec.copy is not None
    record = made(k="a", x=value)
    copied = codec.copy(record)
    assert copied == record
    assert copied.x is not record.x or isinstance(value, Frozen)


def test_a_projection_has_just_the_fields_asked_for_and_the_key(codec: Codec[User]) -> None:
    value = codec.encode(user(note="hi"))[2]
    part = codec.project(("note", "score"))(memoryview(value))
    assert repr(part) == "UserFields(id='ann', note='hi', score=0.5)"
    assert (part.id, part.score, part.note) == ("ann", 0.5, "hi")
    assert not isinstance(part, User)
    for absent in ("friends", "degree", "session"):
        with pytest.raises(AttributeError):
            getattr(part, absent)
    other = codec.project(("note", "score"))(codec.encode(user(note="hi", friends=["x", "y"]))[2])
    assert part == other
    assert part != codec.project(("note",))(value)
    assert codec.project(("note", "score")) is codec.project(("note", "score"))


def test_an_ephemeral_field_of_a_projection_can_be_set(codec: Codec[User]) -> None:
    part = codec.project(("session",))(codec.encode(user())[2])
    assert part.session == {}
    part.session = {"a": "b"}
    assert repr(part) == "UserFields(id='ann', session={'a': 'b'})"
    assert codec.project(())(codec.encode(user())[2]).id == "ann"


def test_an_unknown_field_of_a_projection_suggests_the_nearest(codec: Codec[User]) -> None:
    with pytest.raises(ValidationError, match=r"User has no field 'scor'; did you mean 'score'\?"):
        codec.project(("scor",))


def test_set_fields_takes_only_what_may_change(codec: Codec[User]) -> None:
    record = user()
    codec.set_fields(record, {"score": 1.0, "session": {"a": "b"}})
    assert (record.score, record.session) == (1.0, {"a": "b"})
    for name, words in (("id", "is the key"), ("degree", "is computed"), ("nota", "did you mean 'note'")):
        with pytest.raises(ValidationError, match=words):
            codec.set_fields(record, {"score": 2.0, name: 1})
    assert record.score == 1.0


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"frozen": True},
        {"gc": True, "weakref": True},
        {"frozen": True, "cache_hash": True},
        {"gc": True, "dict": True},
    ],
)
def test_every_class_configuration_reads_back(options: dict[str, Any]) -> None:
    annotations = {
        "k": Annotated[str, Key()],
        "n": Annotated[int, Computed(lambda r: len(r.k), of=("k",))],
        "x": list[int],
    }
    made = declare({**annotations, "f": Annotated[float, Gpu("f4")]}, options, n=derived())
    codec = plan_of(made).bind(1)
    record = made(k="abc", x=[1], f=0.1)
    read = codec.decode(codec.encode(record)[2])
    assert type(read) is made
    assert read == record
    assert read.n == 3
    assert codec.copy is not None
    assert codec.copy(read) == read
    codec.set_fields(read, {"x": []})
    assert read.x == []


def test_a_record_that_inherits_fields_reads_back() -> None:
    class Admin(User):
        level: int = 0

    codec = plan_of(Admin).bind(1)
    record = Admin(id="a", score=1.0, friends=[], level=3)
    read = codec.decode(codec.encode(record)[2])
    assert type(read) is Admin
    assert read == record


def test_annotated_with_memory_only_compiles_to_the_same_code() -> None:
    plain = declare({"k": Annotated[str, Key()], "n": int, "x": list[str]})
    memory = declare(
        {"k": Annotated[str, Key(), Memory()], "n": Annotated[int, Memory()], "x": Annotated[list[str], Memory()]}
    )
    codecs = [plan_of(made).bind(1) for made in (plain, memory)]
    assert {type(codec.encode) for codec in codecs} == {Encoder}
    codes = [codec.encode_changed.__code__ for codec in codecs]
    assert codes[0].co_code == codes[1].co_code


def test_msgspec_options_of_the_class_do_not_change_what_is_stored() -> None:
    made = declare(
        {"k": Annotated[str, Key()], "x": int}, {"rename": "camel", "tag": "made", "omit_defaults": True}, x=0
    )
    codec = plan_of(made).bind(1)
    assert codec.encode(made(k="a"))[2] == msgspec.msgpack.encode([1, "a", 0])
    assert codec.decode(codec.encode(made(k="a"))[2]) == made(k="a")


# Declarations and values of every kind, and what comes back.

WITHOUT_TIME = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
_OFFSETS = st.integers(-14 * 60, 14 * 60).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_INTS = st.integers(-(2**63), 2**64 - 1)
_FLOATS = st.floats(allow_nan=False) | st.integers(-(2**53), 2**53)
_HASHABLE: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (str, _TEXT),
    (bytes, st.binary(max_size=8)),
    (int, _INTS),
    (float, _FLOATS),
    (bool, st.booleans()),
    (uuid.UUID, st.uuids()),
    (dt.date, st.dates()),
    (dt.timedelta, st.timedeltas()),
    (dt.datetime, st.datetimes() | st.datetimes(dt.datetime(2, 1, 1), dt.datetime(9998, 1, 1), timezones=_OFFSETS)),  # noqa: DTZ001
    (dt.time, st.times() | st.times(timezones=_OFFSETS)),
    (Decimal, st.decimals(allow_nan=False)),
    (Colour, st.sampled_from(Colour)),
    (Level, st.sampled_from(Level)),
    (Literal["a", 1] | None, st.sampled_from(["a", 1, None])),
]
_ANY = st.recursive(
    st.none() | st.booleans() | _INTS | st.floats(allow_nan=False) | _TEXT | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT | st.integers(2, 9), inner, max_size=3),
    max_leaves=6,
)
_LEAVES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    *_HASHABLE,
    (Any, _ANY),
    (Event, st.builds(Event, at=_FLOATS, tags=st.lists(_TEXT, max_size=3))),
    (Frozen, st.builds(Frozen, n=_INTS)),
]


@st.composite
def typed(draw: st.DrawFn, depth: int = 2) -> Any:
    hint: Any
    other: Any
    form = draw(st.sampled_from(["leaf", "list", "set", "frozenset", "tuple", "pair", "dict", "optional", "union"]))
    if depth == 0 or form == "leaf":
        return draw(st.sampled_from(_LEAVES))
    if form in ("set", "frozenset"):
        hint, values = draw(st.sampled_from(_HASHABLE))
        if form == "set":
            return set[hint], st.sets(values, max_size=4)
        return frozenset[hint], st.frozensets(values, max_size=4)
    hint, values = draw(typed(depth - 1))
    if form == "list":
        return list[hint], st.lists(values, max_size=4)
    if form == "tuple":
        return tuple[hint, ...], st.lists(values, max_size=4).map(tuple)
    if form == "optional":
        return hint | None if hint is not Any else Any, st.none() | values
    if form == "union":
        return int | None | list[hint], _INTS | st.none() | st.lists(values, max_size=3)
    other, others = draw(st.sampled_from(_HASHABLE))
    if form == "pair":
        return tuple[other, hint], st.tuples(others, values)
    return dict[other, hint], st.dictionaries(others, values, max_size=4)


def made_with(*hints: Any) -> Any:
    return declare({"k": Annotated[str, Key()]} | {f"x{index}": hint for index, hint in enumerate(hints)})


@WITHOUT_TIME
@given(st.data())
def test_what_is_put_is_what_is_read(data: st.DataObject) -> None:
    drawn = data.draw(st.lists(typed(), min_size=1, max_size=3))
    made = made_with(*(hint for hint, _ in drawn))
    codec = plan_of(made).bind(3)
    fields = {f"x{index}": data.draw(values) for index, (_, values) in enumerate(drawn)}
    record = made(k=data.draw(_TEXT), **fields)
    slot, key, value = codec.encode(record)
    assert codec.decode(value) == record
    assert codec.decode(codec.encode(codec.decode(value))[2]) == record
    assert (slot, key) == codec.route(record.k)
    for name, field in fields.items():
        assert getattr(codec.project((name,))(value), name) == field
    if codec.copy is not None:
        assert codec.copy(record) == record


class Odd:
    pass


@WITHOUT_TIME
@given(st.data())
def test_a_value_is_stored_or_refused_as_a_validation_error(data: st.DataObject) -> None:
    hint, _ = data.draw(typed())
    _, values = data.draw(typed())
    odd = st.sampled_from([Odd(), "\ud800", 2**64, float("nan"), Decimal("sNaN"), object, [[["\udfff"]]], {1: Odd()}])
    made = made_with(hint)
    codec = plan_of(made).bind(3)
    record = made(k="a", x0=data.draw(values | odd))
    try:
        value = codec.encode(record)[2]
    except ValidationError as error:
        assert str(error).startswith("Made.x0")  # noqa: PT017
    else:
        if record.x0 == record.x0:
            assert codec.decode(value) == record


class Visit(msgspec.Struct):
    at: dt.datetime


def test_times_with_and_without_a_timezone_have_no_order() -> None:
    made = declare({"k": Annotated[str, Key()], "x": Annotated[list[Visit], Temporal(time="at")]})
    aware = Visit(dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
    with pytest.raises(ValidationError, match=r"Made\.x: times with and without a timezone"):
        plan_of(made).bind(1).encode(made(k="a", x=[aware, Visit(dt.datetime(2020, 1, 1))]))  # noqa: DTZ001
