"""Columns extracted from rows are what plain Python makes of the same values; broken values are errors, not reads."""

import datetime as dt
from contextlib import suppress
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warpstore._native import Rows, columns, first_keys, merge
from warpstore.values import with_deadline

TAG = 300
encode = msgspec.msgpack.Encoder(uuid_format="bytes").encode
QUICK = settings(max_examples=60, derandomize=True, deadline=None)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
SIZES = (1, 2, 4, 8)
WORDS: dict[str, tuple[st.SearchStrategy[Any], str]] = {
    "e": (st.floats(width=16, allow_nan=False), "f2"),
    "f": (st.floats(width=32, allow_nan=False), "f4"),
    "d": (st.floats(allow_nan=False) | st.integers(-100, 300), "f8"),
}
for signed, unsigned, size in zip("bhiq", "BHIQ", SIZES, strict=True):
    WORDS[signed] = (st.integers(-(2 ** (8 * size - 1)), 2 ** (8 * size - 1) - 1), f"i{size}")
    WORDS[unsigned] = (st.integers(0, 2 ** (8 * size) - 1), f"u{size}")


def rows_of(values: list[bytes]) -> Rows:
    sizes = np.array([len(values), *map(len, values)], "<u4").tobytes()
    block = sizes + b"".join(values)
    run = Rows.of_blocks(block, [len(block)])
    run.is_last = True
    return merge([run], len(values) + 1, False)


def value(key: Any, *fields: Any, tag: int = TAG) -> bytes:
    return encode([tag, key, *fields])


def never(_: bytes) -> bytes:
    raise AssertionError


@QUICK
@given(st.data())
def test_numbers_and_vectors_are_those_of_numpy(data: st.DataObject) -> None:
    word = data.draw(st.sampled_from(sorted(WORDS)))
    draw, dtype = WORDS[word]
    numbers = data.draw(st.lists(st.none() | draw, max_size=20))
    n, (_, column) = columns(rows_of([value(i, x) for i, x in enumerate(numbers)]), f"q {word}?", TAG, 0, never)
    n_null, validity, offsets, found = column
    assert (n, n_null, offsets) == (len(numbers), numbers.count(None), None)
    expected = np.array([0 if x is None else x for x in numbers], dtype)
    assert found == expected.tobytes()
    if validity is not None:
        bits = np.unpackbits(np.frombuffer(validity, np.uint8), bitorder="little")[:n]
        assert bits.tolist() == [x is not None for x in numbers]
    vectors = data.draw(st.lists(st.lists(draw, min_size=17, max_size=17), max_size=4))
    rows = rows_of([value(i, x) for i, x in enumerate(vectors)])
    _, (_, (_, _, _, found)) = columns(rows, f"q 17{word}", TAG, 0, never)
    assert found == np.array(vectors, dtype).tobytes()


@QUICK
@given(st.lists(st.tuples(text, st.none() | st.binary(max_size=300), st.booleans(), st.datetimes(), st.uuids())))
def test_text_bytes_bits_moments_and_the_rest(drawn: list[Any]) -> None:
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    some = sorted({row[0].encode(): row for row in drawn}.items())
    rows = [(k.decode(), b, o, m.replace(tzinfo=dt.UTC), u.bytes) for k, (_, b, o, m, u) in some]
    values = [value(k, 1, {"x": [b, k]}, b, o, m, u, "beyond") for k, b, o, m, u in rows]
    n, (keys, raw, blobs, bits, moments, uuids) = columns(rows_of(values), "s - r y? o t u", TAG, 0, never)
    assert n == len(rows)
    places = np.frombuffer(keys[2] or b"", np.int32)
    assert [keys[3][a:b].decode() for a, b in pairwise(places)] == [row[0] for row in rows]
    assert msgspec.msgpack.decode(raw[3]) == [{"x": [row[1], row[0]]} for row in rows]
    assert blobs[0] == sum(row[1] is None for row in rows)
    assert blobs[3] == b"".join(row[1] or b"" for row in rows)
    assert np.unpackbits(np.frombuffer(bits[3], np.uint8), bitorder="little")[:n].tolist() == [row[2] for row in rows]
    ticks = [(row[3] - epoch) // dt.timedelta(microseconds=1) for row in rows]
    assert np.frombuffer(moments[3], np.int64).tolist() == ticks
    assert uuids[3] == b"".join(row[4] for row in rows)


def test_deadlines_and_older_tags() -> None:
    values = [with_deadline(value(i, i), i) if i % 2 else value(i, i, tag=TAG + i % 4) for i in range(20)]
    n, (keys, _) = columns(rows_of(values), "q q", TAG, 10, lambda old: value(*msgspec.msgpack.decode(old)[1:]))
    expected = [i for i in range(20) if i % 2 == 0 or i > 10]
    assert n == len(expected)
    assert np.frombuffer(keys[3], np.int64).tolist() == expected
    with pytest.raises(KeyError, match="no such"):
        columns(rows_of(values), "q q", TAG, 10, lambda _: {}["no such"])
    with pytest.raises(ValueError, match="no value of this layout"):
        columns(rows_of([value(1, 1, tag=1)]), "q q", TAG, 0, lambda _: b"")


def test_heads_of_split_values_are_taken_as_far_as_they_go() -> None:
    def split(i: int) -> bytes:
        body = b"\xc1\x0e" + bytes(14) + value(i, 2 * i)
        return with_deadline(body, i) if i % 2 else body

    values = tuple(split(i) if i % 3 else value(i, 2 * i, "whole") for i in range(20))
    for rows in (rows_of(list(values)), values):
        n, (keys, found) = columns(rows, "q q", TAG, 4, never)
        expected = [i for i in range(20) if i % 2 == 0 or i % 3 == 0 or i > 4]
        assert n == len(expected)
        assert np.frombuffer(keys[3], np.int64).tolist() == expected
        assert np.frombuffer(found[3], np.int64).tolist() == [2 * i for i in expected]
        with pytest.raises(ValueError, match="layout") as caught:
            columns(rows, "q q r", TAG, 4, never)
        assert caught.value.args[1:] == (-1, 2)
    whole = split(2)
    for cut in range(1, len(whole)):
        with pytest.raises(ValueError, match="layout"):
            columns((whole[:cut],), "q q", TAG, 0, never)
    for wrong in (("text",), [whole]):
        with pytest.raises(TypeError):
            columns(wrong, "q q", TAG, 0, never)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("word", "wrong", "error"),
    [("b", 128, OverflowError), ("B", -1, OverflowError), ("q", 2**63, OverflowError), ("q", 1.0, ValueError),
     ("q", None, ValueError), ("o", 1, ValueError), ("s", b"", ValueError), ("y", "", ValueError),
     ("u", b"short", ValueError), ("t", "2026-01-01T00:00:00", LookupError), ("2d", [1.0], ValueError),
     ("2d", [1.0, None], ValueError), ("f", 1e300, OverflowError), ("e", 1e6, OverflowError)],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_named_by_its_place(word: str, wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        columns(rows_of([value(1, wrong)]), f"q {word}", TAG, 0, never)
    assert caught.value.args[1:] == (1, 0)


@QUICK
@given(st.binary(max_size=60), st.integers(0, 60))
def test_no_bytes_make_it_read_beyond_a_row(body: bytes, cut: int) -> None:
    for layout in ("q r r", "q s y", "q 3d t?", "q - u", "q o? Q"):
        whole = value(1, [{"a": b"xyz"}], "text", [1.0, 2.0, 3.0])
        for row in (b"\x94\xcd\x01\x2c\x01" + body, whole[: max(5, cut)]):
            with suppress(ValueError, OverflowError, LookupError):
                columns(rows_of([row]), layout, TAG, 0, never)


@pytest.mark.parametrize("layout", ["z", "q  q", "3s", "q,q", "99999d", "é"])
def test_a_layout_that_is_none_is_refused(layout: str) -> None:
    with pytest.raises(ValueError, match="layout"):
        columns(rows_of([value(1, 2)]), layout, TAG, 0, never)


@pytest.mark.parametrize("keys", [st.integers(-(2**63), 2**63 - 1), text, st.binary(max_size=4)])
@QUICK
@given(data=st.data())
def test_the_first_keys_of_sorted_lists_are_those_of_sorted(keys: st.SearchStrategy[Any], data: st.DataObject) -> None:
    lists = [sorted(run) for run in data.draw(st.lists(st.lists(keys, max_size=12), max_size=6))]
    starts = [data.draw(st.integers(0, len(run))) for run in lists]
    stops = [data.draw(st.integers(0, len(run))) for run in lists]
    limit = data.draw(st.integers(0, 20))
    expected = sorted(key for run, a, b in zip(lists, starts, stops, strict=True) for key in run[a:b])
    assert first_keys(lists, starts, stops, limit) == expected[:limit]
    with pytest.raises((ValueError, TypeError)):
        first_keys([[1]], [0], [2], 3)
