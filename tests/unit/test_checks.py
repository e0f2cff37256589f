"""What a field's type admits, and how a refusal is worded."""

import datetime as dt
import types
import uuid
from collections.abc import Callable
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal

import msgspec
import pytest

from warpstore.annotations import Gpu, Key
from warpstore.errors import LimitError, ValidationError
from warpstore.record import Record, plan_of


class Colour(Enum):
    RED = "r"
    BLUE = "b"


class Event(msgspec.Struct):
    at: dt.datetime
    tags: list[str] = []


class Node(msgspec.Struct):
    children: list["Node"] = []


class Text(str):
    __slots__ = ()


def record_type(hint: Any) -> Callable[..., Any]:
    body = {"__annotations__": {"id": Annotated[str, Key()], "x": hint}, "__module__": __name__}
    return types.new_class("User", (Record,), {}, lambda namespace: namespace.update(body))


def tree(depth: int) -> Node:
    node = Node()
    for _ in range(depth):
        node = Node(children=[node])
    return node


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


UTC_PLUS_3 = dt.timezone(dt.timedelta(hours=3))
REFUSED: list[tuple[Any, Any, str]] = [
    (list[str], {"a"}, r"User\.x: expected list\[str\], got set"),
    (list[str], ("a",), r"User\.x: expected list\[str\], got tuple"),
    (list[str], ["a", 1], r"User\.x\[1\]: expected str, got int"),
    (list[str], ["a", Text("b")], r"User\.x\[1\]: expected str, got Text"),
    (list[str], ["\ud800"], r"User\.x\[0\]: no valid Unicode: lone surrogate at index 0"),
    (dict[str, str], {"k3": 1}, r"User\.x\['k3'\]: expected str, got int"),
    (dict[str, str], {3: "a"}, r"User\.x key 3: expected str, got int"),
    (dict[str, int], {3: 1}, r"User\.x key 3: expected str, got int"),
    (dict[str, int], {"a": True}, r"User\.x\['a'\]: expected int, got bool"),
    (dict[int, list[int]], {1: [2, "3"]}, r"User\.x\[1\]\[1\]: expected int, got str"),
    (set[str], {"a", 1}, r"User\.x item 1: expected str, got int"),
    (frozenset[int], {1}, "expected frozenset"),
    (tuple[int, ...], [1], "expected tuple"),
    (tuple[int, str], (1,), "got a tuple of 1"),
    (tuple[int, str], (1, 2), r"User\.x\[1\]: expected str, got int"),
    (int, True, r"User\.x: expected int, got bool"),
    (int, 1.0, "expected int, got float"),
    (int, 2**64, "an int is limited to 64 bits"),
    (int, -(2**63) - 1, "an int is limited to 64 bits"),
    (float, True, "expected float, got bool"),
    (float, "1", "expected float, got str"),
    (float, 2**64, "an int is limited to 64 bits"),
    (bool, 1, "expected bool, got int"),
    (str, b"a", "expected str, got bytes"),
    (str, Text("a"), "expected str, got Text"),
    (str, "a\udfff", "lone surrogate at index 1"),
    (bytes, bytearray(b"a"), "expected bytes, got bytearray"),
    (int | None, "a", r"expected int \| None, got str"),
    (list[int] | dict[str, int] | None, {"a": "b"}, r"User\.x\['a'\]: expected int, got str"),
    (Literal["a", 1], True, "expected Literal"),
    (Literal["a", 1], "b", "got 'b'"),
    (Literal["a"] | int, "b", "got str"),
    (Colour, "r", "expected Colour, got str"),
    (uuid.UUID, "r", "expected UUID, got str"),
    (dt.date, dt.datetime(2020, 1, 1), "expected date, got datetime"),  # noqa: DTZ001
    (dt.datetime, dt.datetime(1, 1, 1, tzinfo=UTC_PLUS_3), "out of range in UTC"),
    (dt.time, dt.time(1, tzinfo=dt.timezone(dt.timedelta(seconds=30))), "fraction of a minute"),
    (Decimal, Decimal("sNaN"), "signalling NaN"),
    (Event, {"at": 1}, "expected Event, got dict"),
    (list[Event], [Event(at=3)], r"User\.x\[0\]\.at: expected datetime, got int"),  # type: ignore[arg-type]
    (Any, {1: (2,)}, r"User\.x\[1\]: expected None, bool, .*, got tuple"),
    (Any, [{(1,): 2}], r"User\.x\[0\]: expected dict keys of .*, got tuple"),
    (Any, ["\ud800"], r"User\.x\[0\]: no valid Unicode"),
    (Annotated[int, msgspec.Meta(ge=0)], -1, r"User\.x: Expected `int` >= 0"),
    (list[Annotated[str, msgspec.Meta(max_length=2)]], ["abc"], r"length <= 2"),
    (Annotated[float, Gpu("f4")], 1e300, r"User\.x: out of range of f4"),
    (Annotated[int, Gpu("i2")], 40000, "out of range of i2"),
    (Annotated[int, Gpu("u1")], -1, "out of range of u1"),
    (Annotated[int, Gpu()], 2**63, "out of range of i8"),
    (Annotated[bytes, Gpu("S4")], b"12345", "does not fit S4"),
    (Annotated[bytes, Gpu("S4")], b"a\0", "last not zero"),
    (Annotated[list[float], Gpu("3f4")], [1.0], "expected 3 items for 3f4, got 1"),
    (Annotated[list[int], Gpu("2i1")], [1, 200], "out of range of i1"),
    (Annotated[tuple[float, float], Gpu("2f4")], (1.0, "a"), r"User\.x\[1\]: expected float"),
]


@pytest.mark.parametrize(("hint", "value", "words"), REFUSED)
def test_a_wrong_value_is_refused_with_its_place(hint: Any, value: Any, words: str) -> None:
    user = record_type(hint)
    with pytest.raises(ValidationError, match=words) as caught:
        plan_of(user).bind(1).encode(user(id="a", x=value))  # type: ignore[arg-type]
    assert caught.value.field is not None
    assert caught.value.field.startswith("x")


def test_a_nested_struct_with_a_missing_attribute_is_refused() -> None:
    user = record_type(Event)
    event = Event(at=dt.datetime.now(dt.UTC))
    del event.at
    with pytest.raises(ValidationError, match=r"User\.x\.at: is missing"):
        plan_of(user).bind(1).encode(user(id="a", x=event))  # type: ignore[arg-type]


@pytest.mark.parametrize(("hint", "make"), [(Any, nested), (dict[str, Any], lambda n: {"a": nested(n - 1)})])
def test_64_levels_are_stored_and_65_are_over_the_limit(hint: Any, make: Callable[[int], Any]) -> None:
    user = record_type(hint)
    codec = plan_of(user).bind(1)  # type: ignore[arg-type]
    record = user(id="a", x=make(64))
    assert codec.decode(codec.encode(record)[2]) == record
    with pytest.raises(LimitError, match="deeper than the limit of 64"):
        codec.encode(user(id="a", x=make(65)))


def test_a_recursive_struct_is_stored_up_to_64_levels() -> None:
    user = record_type(Node)
    codec = plan_of(user).bind(1)  # type: ignore[arg-type]
    assert codec.copy is None
    record = user(id="a", x=tree(31))
    assert codec.decode(codec.encode(record)[2]) == record
    for depth in (33, 5000):
        with pytest.raises(LimitError, match="64 levels"):
            codec.encode(user(id="a", x=tree(depth)))
    endless = Node()
    endless.children.append(endless)
    with pytest.raises(LimitError, match="64 levels"):
        codec.encode(user(id="a", x=endless))


def test_an_error_shows_no_endless_key() -> None:
    user = record_type(dict[str, int])
    with pytest.raises(ValidationError) as caught:
        plan_of(user).bind(1).encode(user(id="a", x={"k" * 10_000: "a"}))  # type: ignore[arg-type]
    assert len(str(caught.value)) < 200
