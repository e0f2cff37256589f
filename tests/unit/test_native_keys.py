"""The hash of a hot key is xxh3-64 of its bytes, whatever its length, and its limits are those of a key."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from warpstore._native import key_hash, slot_of

LENGTHS = [*range(301), 511, 512, 513, 1024, 2049, 4095, 4096]
INT_EDGES = sorted({sign * (1 << bits) + by for bits in range(64) for by in (-1, 0, 1) for sign in (1, -1)})
INTS = [number for number in INT_EDGES if -(2**63) <= number < 2**63]


class Text(str):
    __slots__ = ()


class Data(bytes):
    pass


class Number(int):
    pass


@pytest.mark.parametrize("seed", range(3))
def test_bytes_of_every_length_hash_as_the_xxhash_package_says(seed: int) -> None:
    rng = random.Random(seed)
    for length in LENGTHS:
        key = rng.randbytes(length)
        assert key_hash(key) == xxh3_64_intdigest(key), length
        assert slot_of(key) == xxh3_64_intdigest(key) & 255


def test_text_hashes_as_its_utf8_bytes() -> None:
    rng = random.Random(4)
    for alphabet in ("abc xyz", "aé", "aé\uffff", "a\U0001f600\x00"):
        for length in (*range(140), 255, 256, 1000):
            key = "".join(rng.choices(alphabet, k=length))
            assert key_hash(key) == xxh3_64_intdigest(key.encode()), (alphabet, length)
            assert slot_of(key) == xxh3_64_intdigest(key.encode()) & 255


@pytest.mark.parametrize("length", LENGTHS)
def test_ascii_text_and_its_bytes_have_one_hash(length: int) -> None:
    key = "".join(random.Random(length).choices("abcdefgh0189_-", k=length))
    assert key_hash(key) == key_hash(key.encode()) == xxh3_64_intdigest(key.encode())


@given(st.text(max_size=300))
@settings(max_examples=200, derandomize=True, deadline=None)
def test_any_text_hashes_as_its_utf8_bytes(key: str) -> None:
    assert key_hash(key) == xxh3_64_intdigest(key.encode())


def test_an_int_hashes_as_eight_little_endian_bytes() -> None:
    rng = random.Random(5)
    for key in [*INTS, *(rng.randrange(-(2**63), 2**63) for _ in range(500))]:
        expected = xxh3_64_intdigest(key.to_bytes(8, "little", signed=True))
        assert key_hash(key) == expected, key
        assert slot_of(key) == expected & 255


@pytest.mark.parametrize("hashed", [key_hash, slot_of])
class TestLimits:
    @pytest.mark.parametrize("key", ["x" * 4096, "é" * 2048, b"\xff" * 4096, 2**63 - 1, -(2**63), "", b""], ids=ascii)
    def test_a_key_at_its_limit_is_taken(self, hashed: Any, key: Any) -> None:
        assert isinstance(hashed(key), int)

    @pytest.mark.parametrize("key", ["x" * 4097, "é" * 2049, b"\xff" * 4097, "x" * 100_000])
    def test_a_key_over_4_kib_is_refused(self, hashed: Any, key: Any) -> None:
        with pytest.raises(ValueError, match="the limit is 4096"):
            hashed(key)

    @pytest.mark.parametrize("key", [2**63, -(2**63) - 1, 2**64, -(2**64), 2**200])
    def test_an_int_beyond_64_bits_is_refused(self, hashed: Any, key: Any) -> None:
        with pytest.raises(OverflowError):
            hashed(key)

    @pytest.mark.parametrize(
        "key", [True, False, None, 1.0, (), bytearray(b"a"), memoryview(b"a"), Text("a"), Data(b"a"), Number(1), str]
    )
    def test_what_is_not_exactly_str_bytes_or_int_is_refused(self, hashed: Any, key: Any) -> None:
        with pytest.raises(TypeError, match="a hot key is str, bytes or int, not"):
            hashed(key)

    @pytest.mark.parametrize("key", ["\ud800", "a\udfff", "\udc80" * 5000, "x" * 200 + "\ud800"], ids=ascii)
    def test_text_with_a_lone_surrogate_is_refused(self, hashed: Any, key: Any) -> None:
        with pytest.raises(UnicodeEncodeError):
            hashed(key)
