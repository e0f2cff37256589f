"""Where the elements of a MessagePack array begin, for any bytes at all."""

import random
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warpstore._native import element_offsets

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=40)
    | st.binary(max_size=300)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=33))
)
nested = st.lists(scalars, max_size=18) | st.dictionaries(st.text(max_size=3), scalars, max_size=18)
things = scalars | nested | st.lists(nested, max_size=3)


@settings(max_examples=40)
@given(st.lists(things, min_size=1, max_size=20), st.binary(max_size=12), st.binary(max_size=12))
def test_elements_begin_where_msgpack_says(fields: list[Any], before: bytes, behind: bytes) -> None:
    value = msgpack.packb(fields)
    offsets = element_offsets(before + value + behind, len(before), list(range(len(fields))))
    ends = [*offsets[1:], len(before) + len(value)]
    packed = [msgpack.packb(field) for field in fields]
    assert [(before + value + behind)[start:end] for start, end in zip(offsets, ends, strict=True)] == packed


@settings(max_examples=40)
@given(st.lists(things, min_size=1, max_size=20), st.data())
def test_any_indices_in_order_give_the_same_offsets(fields: list[Any], data: st.DataObject) -> None:
    value = msgpack.packb(fields)
    every = element_offsets(value, 0, list(range(len(fields))))
    some = sorted(data.draw(st.lists(st.integers(0, len(fields) - 1), max_size=8)))
    assert element_offsets(value, 0, some) == [every[i] for i in some]


@settings(max_examples=40)
@given(st.lists(things, min_size=1, max_size=12))
def test_an_array_that_ends_before_the_last_element_is_refused(fields: list[Any]) -> None:
    value = msgpack.packb(fields)
    last = len(fields) - 1
    (offset,) = element_offsets(value, 0, [last])
    for n in range(offset + 1):
        with pytest.raises(ValueError, match=r"cut off|no MessagePack array"):
            element_offsets(value[:n], 0, [last])


@given(st.binary(max_size=200), st.integers(0, 220), st.lists(st.integers(0, 70_000), max_size=5))
def test_any_bytes_give_offsets_inside_them_or_an_error(value: bytes, skip: int, indices: list[int]) -> None:
    try:
        offsets = element_offsets(value, skip, indices)
    except ValueError:
        return
    assert offsets == sorted(offsets)
    assert all(skip < offset < len(value) for offset in offsets)
    assert len(offsets) == len(indices)


def test_hostile_arrays_give_offsets_inside_them_or_an_error() -> None:
    rng = random.Random(5)
    openings = b"\x9f\xdc\xdd\xde\xdf\xc6\xc9\xdb\x8f\xc4\xc7\xd8\xd9\xc1"
    for _ in range(10_000):
        n = rng.randrange(1, 40)
        body = bytes(rng.choice(openings) if rng.random() < 0.4 else rng.randrange(256) for _ in range(n))
        value = rng.choice([b"\x9f", b"\xdc\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xdc\x00\x08"]) + body
        indices = sorted(rng.randrange(20) for _ in range(rng.randrange(4)))
        try:
            offsets = element_offsets(value, 0, indices)
        except ValueError:
            continue
        assert all(0 < offset < len(value) for offset in offsets)


@pytest.mark.parametrize(
    "element",
    [
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x00",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdd\x00\x00\x00\x09",
        b"\xdf\x00\x00\x00\x05",
        b"\xd8",
        b"\xcf\x00",
        b"\xc1",
        b"\x9f",
        b"\x8f",
        b"\xbf",
        b"\xdd\xff\xff\xff\xff" * 4,
        b"\xdf\xff\xff\xff\xff" * 4,
    ],
)
def test_a_length_beyond_the_end_is_refused(element: bytes) -> None:
    with pytest.raises(ValueError, match="cut off"):
        element_offsets(b"\x94\x01" + element, 0, [2])
    with pytest.raises(ValueError, match="cut off"):
        element_offsets(b"\x94\x01" + element + b"\x01\x02", 0, [3])


def test_an_array_nested_very_deep_needs_no_stack() -> None:
    n = 1_000_000
    value = b"\x92" + b"\x91" * n + b"\xc0" + b"\x07"
    assert element_offsets(value, 0, [0, 1]) == [1, n + 2]


def test_a_large_array_of_small_elements_is_passed_once() -> None:
    value = msgpack.packb(list(range(200_000)))
    indices = list(range(0, 200_000, 1000))
    offsets = element_offsets(value, 0, indices)
    assert [value[offset] for offset in offsets] == [msgpack.packb(i)[0] for i in indices]


@pytest.mark.parametrize("value", [b"", b"\xc0", b"\x81\x01\x02", b"\xa1x", b"\xdc", b"\xdc\x00", b"\xdd\x00\x00\x00"])
def test_what_is_no_array_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match="no MessagePack array"):
        element_offsets(value, 0, [0])


def test_a_place_outside_the_bytes_is_refused() -> None:
    for skip in (2, 3, 2**40, 2**64 - 1):
        with pytest.raises(ValueError, match="no MessagePack array"):
            element_offsets(b"\x91\x01", skip, [0])


@pytest.mark.parametrize("indices", [[2], [5], [2**64 - 1], [1, 0]])
def test_indices_out_of_order_or_beyond_the_array_are_refused(indices: list[int]) -> None:
    with pytest.raises(ValueError, match="indices"):
        element_offsets(b"\x92\x01\x02", 0, indices)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((), TypeError),
        ((b"\x91\x01", 0), TypeError),
        ((bytearray(b"\x91\x01"), 0, [0]), TypeError),
        ((b"\x91\x01", 0, (0,)), TypeError),
        ((b"\x91\x01", "0", [0]), TypeError),
        ((b"\x91\x01", -1, [0]), OverflowError),
        ((b"\x91\x01", 2**64, [0]), OverflowError),
        ((b"\x91\x01", 0, ["0"]), TypeError),
        ((b"\x91\x01", 0, [-1]), OverflowError),
    ],
)
def test_wrong_arguments_are_refused(arguments: tuple[Any, ...], error: type[Exception]) -> None:
    with pytest.raises(error):
        element_offsets(*arguments)
