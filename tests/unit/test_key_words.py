"""Keys become words that compare as the keys do."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
import pytest

from gpu_kernels.errors import KeyTypeError
from gpu_kernels.keys import key_words, keys_of

LONG = "x" * 33
SORTED: dict[str, list[Any]] = {
    "int": [-(2**63), -(2**63) + 1, -2, -1, 0, 1, 2**62, 2**63 - 1],
    "uint": [0, 1, 2**63 - 1, 2**63, 2**64 - 1],
    "float": [float("-inf"), -1e308, -1.5, -5e-324, 0.0, 5e-324, 1.5, 1e308, float("inf")],
    "bytes": [b"", b"\0", b"\0\0", b"\0a", b"a", b"a\0", b"a\0\0", b"a\0b", b"aa", b"b" * 31, b"b" * 32, b"\xff" * 32],
    "str": ["", "\0", "a", "a\0", "a\0b", "aa", "z", "\u00e9", "\u20ac", "\U0001f600", "\U0001f600" * 8],
    "uuid": [uuid.UUID(int=0), uuid.UUID(int=1), uuid.UUID(int=256), uuid.UUID(int=2**127), uuid.UUID(int=2**128 - 1)],
}


@pytest.mark.parametrize("kind", SORTED)
def test_words_order_as_their_keys_and_give_them_back(kind: Any) -> None:
    keys = SORTED[kind]
    batch = key_words(keys, kind)
    assert (batch.words[1:] > batch.words[:-1]).all()
    assert (np.argsort(batch.words[::-1]) == np.arange(len(keys))[::-1]).all()
    assert keys_of(batch.words, kind).tolist() == keys
    assert batch.full is None
    assert batch.absent is None


@pytest.mark.parametrize("kind", SORTED)
def test_object_arrays_tuples_and_lists_give_the_same_words(kind: Any) -> None:
    keys = SORTED[kind]
    array = np.empty(len(keys), object)
    array[:] = keys
    for form in (array, tuple(keys), array[::-1][::-1]):
        assert (key_words(form, kind).words == key_words(keys, kind).words).all()


@pytest.mark.parametrize("kind", SORTED)
def test_an_empty_batch_has_no_words(kind: Any) -> None:
    assert len(key_words([], kind)) == 0


def test_string_arrays_give_the_words_of_their_elements() -> None:
    ascii_keys = ["", "a", "a\0b", "shared-prefix-1", "shared-prefix-2", "x" * 32, LONG, "y" * 300]
    other_keys = ["é", "€uro", "ascii", "é" * 17]
    for keys in (ascii_keys, other_keys, ascii_keys + other_keys):
        expected = key_words(keys, "str")
        encoded = np.array([key.encode() for key in keys])
        for form in (np.array(keys), np.array(keys).astype(">U300"), encoded, np.repeat(encoded, 2)[::2]):
            batch = key_words(form, "str")
            assert (batch.words == expected.words).all()
            assert np.array_equal(np.asarray(batch.full), np.asarray(expected.full))
        as_bytes = key_words(encoded, "bytes")
        assert (as_bytes.words == key_words([key.encode() for key in keys], "bytes").words).all()


def test_string_arrays_lose_trailing_nuls_and_lists_keep_them() -> None:
    assert key_words(np.array([b"a\0"]), "bytes").words == key_words([b"a"], "bytes").words
    assert key_words([b"a\0"], "bytes").words != key_words([b"a"], "bytes").words


def test_a_key_of_33_bytes_becomes_a_digest_with_its_full_key_beside_it() -> None:
    batch = key_words(["x" * 32, LONG, "é" * 17], "str")
    assert batch.full is not None
    assert batch.full.tolist() == [None, LONG.encode(), ("é" * 17).encode()]
    assert [word[-1] for word in batch.words.tolist()] == [32, 255, 255]
    assert keys_of(batch.words, "str", batch.full).tolist() == ["x" * 32, LONG, "é" * 17]


@pytest.mark.parametrize("dtype", ["S16", "V16"])
def test_uuid_arrays_of_16_bytes_may_end_in_nuls(dtype: str) -> None:
    keys = [uuid.UUID(int=1 << 64), uuid.UUID(int=7), uuid.UUID(int=0)]
    array = np.frombuffer(b"".join(key.bytes for key in keys), dtype)
    assert (key_words(array, "uuid").words == key_words(keys, "uuid").words).all()


@pytest.mark.parametrize(
    ("keys", "absent"),
    [
        (np.array([1, 2**63, 2**64 - 1], np.uint64), [False, True, True]),
        ([1, 2**63, -(2**63) - 1], [False, True, True]),
        (np.array([1, 2**70], object), [False, True]),
        (np.array([2**63 - 1], np.uint64), None),
    ],
)
def test_an_integer_outside_int64_is_absent_in_a_query_and_refused_in_a_write(
    keys: Any, absent: list[bool] | None
) -> None:
    batch = key_words(keys, "int")
    assert (batch.absent.tolist() if batch.absent is not None else None) == absent
    if absent is not None:
        with pytest.raises(KeyTypeError) as caught:
            key_words(keys, "int", query=False)
        assert caught.value.index == absent.index(True)


def test_a_negative_integer_is_absent_among_unsigned_keys() -> None:
    for keys in (np.array([1, -1]), [1, -1]):
        batch = key_words(keys, "uint")
        assert batch.absent is not None
        assert batch.absent.tolist() == [False, True]


def test_narrow_and_foreign_integer_arrays_are_taken() -> None:
    expected = key_words([1, 2, 3], "int").words
    for dtype in ("i1", "u2", ">i4", ">i8", "u8"):
        assert (key_words(np.array([1, 2, 3], dtype), "int").words == expected).all()
    assert (key_words(np.array([1, 2, 3], "f4"), "float").words == key_words([1, 2.0, np.int8(3)], "float").words).all()


def test_negative_zero_is_zero() -> None:
    assert key_words([-0.0], "float").words == key_words([0.0], "float").words


@pytest.mark.parametrize(
    ("keys", "kind", "index"),
    [
        ([1, "a"], "int", 1),
        ([1, True], "int", 1),
        ([1, 2.0], "int", 1),
        ([1, None], "int", 1),
        (np.array([1.0]), "int", 0),
        (np.array([True]), "int", 0),
        (np.array(["a"]), "int", 0),
        ([1.0, float("nan")], "float", 1),
        (np.array([1.0, np.nan]), "float", 1),
        ([10**400], "float", None),
        (["a", b"b"], "str", 1),
        (["a", "\ud800"], "str", 1),
        (np.array([b"a", b"\xff"]), "str", 1),
        (np.array([1]), "str", 0),
        ([b"a", bytearray(b"b")], "bytes", 1),
        (np.array(["a"]), "bytes", 0),
        ([uuid.UUID(int=1), "1"], "uuid", 1),
        (np.array([b"a"]), "uuid", 0),
        (np.zeros((2, 2), np.int64), "int", None),
        ("abc", "str", None),
        (b"abc", "bytes", None),
        ({1, 2}, "int", None),
        ([1], "complex", None),
    ],
)
def test_keys_of_a_wrong_type_are_refused_by_element(keys: Any, kind: Any, index: int | None) -> None:
    with pytest.raises(KeyTypeError) as caught:
        key_words(keys, kind)
    assert caught.value.index == index
