"""The checks, the copier and the encoder in C do what their Python counterparts do."""

import datetime as dt
import gc
import math
import random
import struct
import sys
from decimal import Decimal
from itertools import pairwise
from types import SimpleNamespace
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.ids import shown
from warpstore import codec as codec_module
from warpstore._native import Copier, Encoder, adopt, all_of, as_f4, in_order, pairs_of, slot_of
from warpstore.annotations import Key
from warpstore.record import Record, plan_of


class Text(str):
    __slots__ = ()


class Many(list[Any]):
    pass


class Number(int):
    pass


# all_of, pairs_of


@pytest.mark.parametrize("make", [list, tuple, set, frozenset, dict.fromkeys, iter], ids=lambda f: f.__name__)
def test_all_items_are_of_exactly_one_class(make: Any) -> None:
    all_of(make([]), int)
    all_of(make([1, 2, 3]), int)
    for items in ([True], [1, 2, Number(3)], ["1"], [None]):
        with pytest.raises(TypeError, match="an item is"):
            all_of(make(items), int)


def test_what_cannot_be_iterated_has_no_items() -> None:
    def failing() -> Any:
        yield 1
        raise ZeroDivisionError

    for bad in (None, 5):
        with pytest.raises(TypeError):
            all_of(bad, int)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        all_of([1])  # type: ignore[call-arg]
    with pytest.raises(ZeroDivisionError):
        all_of(failing(), int)


def test_all_pairs_are_of_two_classes() -> None:
    pairs_of({}, str, int)
    pairs_of({"a": 1, "b": 2}, str, int)
    for wrong in ({"a": True}, {"a": 1, "b": "2"}, {1: 1}, {Text("a"): 1}, {"a": Number(1)}):
        with pytest.raises(TypeError, match="an item is"):
            pairs_of(wrong, str, int)
    for no_dict in ([], None, [("a", 1)], SimpleNamespace()):
        with pytest.raises(TypeError, match="takes a dict"):
            pairs_of(no_dict, str, int)  # type: ignore[arg-type]


# as_f4


def packed(number: float) -> float:
    rounded: float = struct.unpack("<f", struct.pack("<f", number))[0]
    return rounded


def bits(number: float) -> bytes:
    return struct.pack("<d", number)


F4_MAX = packed(3.4028234663852886e38)
EDGES = [0.0, 1.0, 0.1, 1e-45, 7e-46, 7.006492321624086e-46, 1.1754943508222875e-38, 1e-310, 5e-324, F4_MAX, math.inf]
TIES = [1 + 2**-24, 1 + 3 * 2**-24, 1 + 2**-24 + 2**-50, 1 + 2**-24 - 2**-50, 2.0**24 + 1, 2.0**24 + 3]
OVER = 2.0**128 - 2.0**103  # the tie between the largest number of 32 bits and infinity


@pytest.mark.parametrize("number", [*EDGES, *TIES, math.nextafter(OVER, 0)])
def test_a_number_is_rounded_as_struct_rounds_it(number: float) -> None:
    assert bits(as_f4(number)) == bits(packed(number))
    assert bits(as_f4(-number)) == bits(packed(-number))


@given(st.floats(-F4_MAX, F4_MAX) | st.floats(width=32, allow_nan=False))
@settings(max_examples=300, derandomize=True, deadline=None)
def test_any_number_is_rounded_as_struct_rounds_it(number: float) -> None:
    assert bits(as_f4(number)) == bits(packed(number))


def test_no_number_stays_no_number() -> None:
    assert math.isnan(as_f4(math.nan))
    assert math.copysign(1, as_f4(-math.nan)) == math.copysign(1, -math.nan)


@pytest.mark.parametrize("number", [OVER, -OVER, 1e39, -1e39, sys.float_info.max, 10**400])
def test_a_number_out_of_the_range_of_32_bits_is_an_overflow(number: float) -> None:
    with pytest.raises(OverflowError):
        as_f4(number)
    with pytest.raises((OverflowError, struct.error)):
        struct.pack("<f", number)


@pytest.mark.parametrize("bad", ["1", None, [], 1j], ids=shown)
def test_what_is_no_number_is_not_rounded(bad: Any) -> None:
    with pytest.raises(TypeError):
        as_f4(bad)


# in_order


def at(*times: Any) -> list[Any]:
    return [SimpleNamespace(at=time) for time in times]


@given(st.lists(st.floats() | st.integers(-5, 5), max_size=8))
@settings(max_examples=150, derandomize=True, deadline=None)
def test_items_are_in_order_if_none_is_less_than_the_one_before(times: list[Any]) -> None:
    expected = all(not b < a for a, b in pairwise(times))
    assert in_order(at(*times), "at") is expected


def test_times_of_other_classes_are_compared_too() -> None:
    day = dt.date(2024, 1, 1)
    assert in_order(at(day, day, day + dt.timedelta(1)), "at")
    assert not in_order(at(day, day - dt.timedelta(1)), "at")
    assert in_order([], "at")
    assert in_order([object()], "at")  # a single item is not asked for its time


def test_times_that_cannot_be_compared_are_an_error() -> None:
    class Failing:
        def __lt__(self, other: object) -> bool:
            raise ZeroDivisionError

    with pytest.raises(TypeError):
        in_order(at(1, "a"), "at")
    with pytest.raises(ZeroDivisionError):
        in_order(at(Failing(), Failing()), "at")
    with pytest.raises(AttributeError):
        in_order([object(), object()], "at")
    with pytest.raises(TypeError):
        in_order((), "at")  # type: ignore[arg-type]


def test_an_item_list_that_shrinks_while_it_is_looked_at_ends_the_look() -> None:
    items: list[Any] = []

    class Shrinking:
        @property
        def at(self) -> float:
            items.clear()
            return 1.0

    items += [Shrinking() for _ in range(5)]
    assert in_order(items, "at") is True
    assert items == []


# adopt


def test_adopted_records_are_of_the_class_and_the_classes_keep_their_counts() -> None:
    first = type("First", (), {"__slots__": ("a",)})
    second = type("Second", (), {"__slots__": ("a",)})
    records = [first() for _ in range(100)]
    before = (sys.getrefcount(first), sys.getrefcount(second))
    adopt(records, second)
    adopt(records, second)
    assert {type(record) for record in records} == {second}
    assert (sys.getrefcount(first), sys.getrefcount(second)) == (before[0] - 100, before[1] + 100)
    records.clear()
    assert (sys.getrefcount(first), sys.getrefcount(second)) == (before[0] - 100, before[1])
    adopt([], second)
    for arguments in (((), second), ([], None), ([],)):
        with pytest.raises(TypeError):
            adopt(*arguments)


# Copier


class Held(msgspec.Struct):
    id: str
    items: list[Any]
    pairs: dict[str, Any]
    some: set[int]
    other: Any = None


def test_a_copy_shares_the_items_of_its_containers_but_not_the_containers() -> None:
    item = [1]
    held = Held("a", [item], {"k": item}, {1, 2}, item)
    before = sys.getrefcount(item)
    copied = Copier(Held, ("items", "pairs", "some"))(held)
    assert type(copied) is Held
    assert copied == held
    assert sys.getrefcount(item) == before + 3
    assert copied.items[0] is copied.pairs["k"] is copied.other is item
    copied.items.append(2)
    copied.pairs["x"] = 1
    copied.some.add(3)
    assert held == Held("a", [[1]], {"k": [1]}, {1, 2}, [1])
    del copied
    gc.collect()
    assert sys.getrefcount(item) == before


def test_only_the_named_fields_are_copied_and_only_exact_containers() -> None:
    held = Held("a", Many([1]), {}, {1})
    copied = Copier(Held, ("items", "pairs"))(held)
    assert copied.items is held.items
    assert copied.some is held.some
    assert copied.pairs is not held.pairs
    assert Copier(Held, ())(held) == held


def test_a_record_without_a_field_is_refused_as_its_own_copy_refuses_it() -> None:
    held = Held("a", [], {}, {1})
    del held.items
    with pytest.raises(AttributeError, match="unset"):
        Copier(Held, ("items", "some"))(held)


def test_a_copier_takes_records_of_its_class() -> None:
    class Sub(Held):
        pass

    copy = Copier(Held, ("items",))
    for bad in (Sub("a", [], {}, set()), None, Held):
        with pytest.raises(TypeError, match="a record of its class"):
            copy(bad)
    for arguments in ((), (Held("a", [], {}, set()),) * 2):
        with pytest.raises(TypeError):
            copy(*arguments)  # type: ignore[call-arg]


def test_a_copier_needs_at_most_64_fields_in_slots() -> None:
    wide = msgspec.defstruct("Wide", [(f"f{i}", list[int]) for i in range(65)])
    names = tuple(f"f{i}" for i in range(65))
    copied = Copier(wide, names[:64])(wide(*([i] for i in range(65))))
    assert [getattr(copied, name) for name in names] == [[i] for i in range(65)]
    with pytest.raises(ValueError, match="at most 64"):
        Copier(wide, names)
    with pytest.raises(AttributeError):
        Copier(Held, ("missing",))
    with pytest.raises(TypeError, match="in slots"):
        Copier(Held, ("__copy__",))
    with pytest.raises(TypeError):
        Copier(Held, ["items"])  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Copier("Held", ())  # type: ignore[arg-type]


# Encoder


class Words(Record):
    id: Annotated[str, Key()]
    score: float = 0.0
    n: int = 0
    flag: bool = False
    tags: list[str] = []


class Sets(Record):
    id: Annotated[bytes, Key()]
    some: set[int] = set()
    row: tuple[int, ...] = ()
    counts: dict[str, int] = {}
    data: bytes = b""


class Times(Record):
    id: Annotated[int, Key()]
    at: dt.datetime = dt.datetime(2024, 1, 1)  # noqa: DTZ001
    day: dt.date = dt.date(2024, 1, 1)
    took: dt.timedelta = dt.timedelta(0)
    price: Decimal = Decimal(0)
    frozen: frozenset[str] = frozenset()
    numbers: list[float] = []


FITTING: dict[str, st.SearchStrategy[Any]] = {
    "str": st.text(max_size=6) | st.sampled_from(["x" * 4096, "é" * 40]),
    "bytes": st.binary(max_size=6),
    "int": st.integers(-(2**63), 2**63 - 1) | st.integers(-5, 300),
    "float": st.floats() | st.integers(-(2**63), 2**63 - 1),
    "bool": st.booleans(),
    "list": st.lists(st.text(max_size=4), max_size=3),
    "set": st.sets(st.integers(-300, 300), max_size=4),
    "tuple": st.lists(st.integers(-300, 300), max_size=3).map(tuple),
    "dict": st.dictionaries(st.text(max_size=3), st.integers(-300, 300), max_size=3),
    "datetime": st.datetimes() | st.datetimes(timezones=st.just(dt.UTC)),
    "date": st.dates(),
    "timedelta": st.timedeltas(),
    "Decimal": st.decimals(),
    "frozenset": st.frozensets(st.text(max_size=3), max_size=3),
    "floats": st.lists(st.floats(), max_size=3),
}
WRONG: list[Any] = [
    True,
    None,
    1,
    1.5,
    2**63,
    -(2**63) - 1,
    2**64,
    2**64 - 1,
    10**400,
    "\ud800",
    Text("a"),
    Number(1),
    Many(["a"]),
    "x" * 4097,
    b"x" * 4097,
    ["a", 1],
    ["a", None],
    ["\udfff"],
    [Text("a")],
    {True},
    {1, "a"},
    {2**70},
    (1, True),
    (1, 2**64),
    {"a": True},
    {1: 1},
    {"\ud800": 1},
    {"a": 2**65},
    [1.0, True],
    [1, 2.0],
    [float("nan")],
    frozenset({1}),
    frozenset({"a"}),
    bytearray(b"a"),
    dt.datetime(1, 1, 1, tzinfo=dt.UTC),
    dt.date(1, 1, 1),
    dt.timedelta.max,
    Decimal("NaN"),
    Decimal("Infinity"),
    object,
    msgspec.UNSET,
]
KINDS: dict[type[Record], dict[str, str]] = {
    Words: {"id": "str", "score": "float", "n": "int", "flag": "bool", "tags": "list"},
    Sets: {"id": "bytes", "some": "set", "row": "tuple", "counts": "dict", "data": "bytes"},
    Times: {
        "id": "int",
        "at": "datetime",
        "day": "date",
        "took": "timedelta",
        "price": "Decimal",
        "frozen": "frozenset",
        "numbers": "floats",
    },
}


def both(model: type[Record], tag: int) -> tuple[Any, Any]:
    """Return what a codec encodes with, and the generated Python function behind it."""
    generated: list[Any] = []
    plain = codec_module.plain_encoder

    def kept(plan: Any, tag: int, encode: Any, slow: Any) -> Any:
        generated.append(slow)
        return plain(plan, tag, encode, slow)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec_module, "plain_encoder", kept)
        quick = plan_of(model).bind(tag).encode
    return quick, generated[0]


def outcome(encode: Any, record: Any) -> Any:
    try:
        return encode(record)
    except Exception as error:  # noqa: BLE001 - which one it is, is compared
        return type(error), str(error), vars(error)


@pytest.mark.parametrize("model", KINDS, ids=lambda model: model.__name__)
def test_an_encoder_encodes_or_refuses_as_the_generated_function_does(model: type[Record]) -> None:
    quick, slow = both(model, 3)
    if model is not Times:  # a list of floats is left to the generated function, whole
        assert type(quick) is Encoder
    fitting = st.fixed_dictionaries({name: FITTING[kind] for name, kind in KINDS[model].items()})
    wrong = st.dictionaries(st.sampled_from(list(KINDS[model])), st.sampled_from(WRONG), max_size=2)

    @given(fitting, wrong)
    @settings(max_examples=200, derandomize=True, deadline=None)
    def check(fields: dict[str, Any], changed: dict[str, Any]) -> None:
        expected = outcome(slow, model(**fields | changed))
        found = outcome(quick, model(**fields | changed))
        assert found == expected
        assert [type(part) for part in found] == [type(part) for part in expected]

    check()


class OnlyTimes(Record):
    id: Annotated[int, Key()]
    at: dt.datetime
    day: dt.date
    took: dt.timedelta
    price: Decimal
    frozen: frozenset[str]


@pytest.mark.parametrize("field", ["id", "at", "day", "took", "price", "frozen"])
def test_each_wrong_value_in_each_field_is_refused_as_the_generated_function_refuses_it(field: str) -> None:
    quick, slow = both(OnlyTimes, 4)
    good = {name: getattr(Times(id=1), name) for name in ("id", "at", "day", "took", "price", "frozen")}
    assert quick(OnlyTimes(**good)) == slow(OnlyTimes(**good))
    for bad in WRONG:
        record = OnlyTimes(**good | {field: bad})
        assert outcome(quick, record) == outcome(slow, record), bad


@pytest.mark.parametrize("model", [Words, Sets], ids=lambda model: model.__name__)
def test_each_wrong_value_alone_is_refused_in_the_same_words(model: Any) -> None:
    quick, slow = both(model, 5)
    key = "k" if model is Words else b"k"
    n_refused = 0
    for field in KINDS[model]:
        for bad in WRONG:
            record = model(**{"id": key} | {field: bad})
            expected = outcome(slow, record)
            assert outcome(quick, record) == expected, (field, bad)
            n_refused += isinstance(expected[0], type)
    assert n_refused > 100


def test_an_encoded_record_is_slot_key_and_value() -> None:
    quick, slow = both(Words, 2**63 - 1)
    record = Words(id="é", score=3, tags=["a"])
    slot, key, made = quick(record)
    assert (slot, key) == (slot_of("é"), "é")
    assert key is record.id
    assert msgspec.msgpack.decode(made)[:2] == [2**63 - 1, "é"]
    assert (slot, key, made) == slow(record)
    assert record.score == 3
    assert type(record.score) is int


def test_what_is_no_record_of_the_class_goes_to_the_slow_function() -> None:
    class Sub(Words):
        pass

    quick, slow = both(Words, 1)
    missing = Words(id="a")
    del missing.tags
    for bad in (None, 5, Words, Sub(id="a"), Sets(id=b"a"), missing):
        found = outcome(quick, bad)
        assert found == outcome(slow, bad)
        assert isinstance(found[0], type)
    with pytest.raises(TypeError, match="takes a record"):
        quick()
    with pytest.raises(TypeError, match="takes a record"):
        quick(Words(id="a"), Words(id="b"))
    with pytest.raises(TypeError, match="takes a record"):
        quick(record=Words(id="a"))


def made_encoder(**changes: Any) -> Encoder:
    given_: dict[str, Any] = {
        "record_type": Held,
        "tag": 1,
        "fields": (("id", str), ("items", list, str), ("pairs", dict, str, int), ("some", set, int)),
        "encode": msgspec.msgpack.encode,
        "slow": lambda record: ("slow", record),
        "bytes_max": 100,
    }
    return Encoder(**given_ | changes)


def test_what_is_not_as_declared_or_too_long_goes_to_the_slow_function() -> None:
    encode = made_encoder()
    good = Held("k", ["a"], {"b": 1}, {2})
    assert encode(good) == (slot_of("k"), "k", msgspec.msgpack.encode([1, "k", ["a"], {"b": 1}, {2}]))
    for bad in (
        Held("k" * 101, [], {}, set()),
        Held("\ud800", [], {}, set()),
        Held("k", [1], {}, set()),
        Held("k", [], {"a": "b"}, set()),
        Held("k", [], {1: 1}, set()),
        Held("k", [], {}, {"a"}),
        Held("k", [], {}, frozenset()),  # type: ignore[arg-type]
        Held("k", Many(), {}, set()),
    ):
        assert encode(bad) == ("slow", bad)
    with pytest.raises(ZeroDivisionError):
        made_encoder(slow=lambda record: 1 // 0)(None)
    assert made_encoder(encode=lambda values: None)(good) == ("slow", good)
    assert made_encoder(encode=lambda values: 1 // 0)(good) == ("slow", good)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"record_type": "Held"}, TypeError),
        ({"tag": "1"}, TypeError),
        ({"fields": []}, TypeError),
        ({"fields": (("id",),)}, TypeError),
        ({"fields": (["id", str],)}, TypeError),
        ({"fields": (("id", "str"),)}, TypeError),
        ({"fields": (("id", str), ("pairs", dict, str, 5))}, TypeError),
        ({"fields": (("missing", str),)}, AttributeError),
        ({"fields": (("__copy__", str),)}, TypeError),
        ({"fields": ((5, str),)}, TypeError),
        ({"bytes_max": None}, TypeError),
    ],
    ids=shown,
)
def test_an_encoder_of_wrong_parts_is_refused(changes: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        made_encoder(**changes)


def test_an_encoder_holds_nothing_of_what_it_encoded() -> None:
    rng = random.Random(1)
    record = Held(f"key{rng.random()}", [f"a{rng.random()}"], {"b": 1000}, {2000})
    parts = [record.id, record.items, record.items[0], record.pairs, record.some, record]
    encode = made_encoder()
    bad = Held(record.id, record.items, record.pairs, frozenset())  # type: ignore[arg-type]
    before = [sys.getrefcount(part) for part in parts]
    for _ in range(10):
        encode(record)
        encode(bad)
    assert [sys.getrefcount(part) for part in parts] == before
    encoders = [made_encoder() for _ in range(10)]
    encoders[0](record)
    counted = sys.getrefcount(Held)
    encoders.clear()
    assert sys.getrefcount(Held) == counted - 10
