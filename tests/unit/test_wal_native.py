"""What the checksum of a frame covers is packed as the format says."""

import random
import struct
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.ids import shown
from wal._native import pack_checked
from wal.format import FRAME_HEADER_BYTES, Kind, SegmentHeader, pack_frame, unpack_frame_header, unpack_payloads

HEADER = SegmentHeader(number=3, lane=1, epoch=2, salt=0xFEED, segment_bytes=1 << 20, store_id=bytes(16), durable=9)


class Payload(bytes):
    pass


def reference(kind: int, stream: int, lsn: int, durable: int, payloads: Sequence[bytes]) -> bytes:
    lengths = struct.pack(f"<{len(payloads)}I", *map(len, payloads))
    body = lengths + b"".join(payloads)
    return struct.pack("<IIBBHIQQ", len(body), len(payloads), kind, 0, stream, 0, lsn, durable) + body


@given(
    st.integers(0, 255),
    st.integers(0, 65_535),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.lists(st.binary(max_size=200), max_size=40),
)
@settings(max_examples=200, derandomize=True, deadline=None)
def test_a_frame_is_packed_as_the_format_says(
    kind: int, stream: int, lsn: int, durable: int, payloads: list[bytes]
) -> None:
    expected = reference(kind, stream, lsn, durable, payloads)
    assert pack_checked(kind, stream, lsn, durable, payloads) == expected
    assert pack_checked(kind, stream, lsn, durable, tuple(payloads)) == expected


@pytest.mark.parametrize("n", [0, 1, 2, 7, 8, 9, 10, 100, 5000])
@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 511, 1000])
def test_any_number_of_payloads_of_any_size_is_packed(n: int, size: int) -> None:
    rng = random.Random(n * size)
    payloads = [rng.randbytes(rng.randrange(size + 1)) for _ in range(n)]
    assert pack_checked(Kind.GROUP, 5, 77, 88, payloads) == reference(1, 5, 77, 88, payloads)


def test_large_payloads_are_packed() -> None:
    payloads = [bytes([i]) * (3 << 20) for i in range(3)] + [b""]
    assert pack_checked(1, 0, 0, 0, payloads) == reference(1, 0, 0, 0, payloads)


def test_what_was_packed_is_read_back() -> None:
    payloads = [b"one", b"", b"three" * 100]
    frame = b"".join(pack_frame(HEADER, 4096, Kind.GROUP, stream=7, lsn=2**63, durable=2**64 - 1, payloads=payloads))
    found = unpack_frame_header(HEADER, frame)
    assert found is not None
    assert (found.kind, found.stream, found.lsn, found.durable) == (Kind.GROUP, 7, 2**63, 2**64 - 1)
    body = frame[FRAME_HEADER_BYTES : FRAME_HEADER_BYTES + found.body_bytes]
    assert unpack_payloads(found, body) == payloads


@pytest.mark.parametrize("bad", ["text", None, bytearray(b"x"), memoryview(b"x"), 5, Payload(b"x")], ids=shown)
@pytest.mark.parametrize("at", [0, 1, 20])
def test_a_payload_that_is_no_bytes_is_refused(bad: Any, at: int) -> None:
    payloads = [b"a"] * 20
    payloads.insert(at, bad)
    for several in (payloads, tuple(payloads)):
        with pytest.raises(TypeError, match="a payload is bytes, not"):
            pack_checked(1, 0, 0, 0, several)


@pytest.mark.parametrize("payloads", [None, b"abc", {b"a": 1}, iter([b"a"]), {b"a"}], ids=shown)
def test_payloads_come_in_a_list_or_tuple(payloads: Any) -> None:
    with pytest.raises(TypeError, match="payloads in a list"):
        pack_checked(1, 0, 0, 0, payloads)


@pytest.mark.parametrize(
    "numbers",
    [
        (256, 0, 0, 0),
        (0, 65_536, 0, 0),
        (-1, 0, 0, 0),
        (0, -1, 0, 0),
        (0, 0, -1, 0),
        (0, 0, 0, -1),
        (2**64, 0, 0, 0),
        (0, 2**70, 0, 0),
        (0, 0, 2**64, 0),
        (0, 0, 0, 2**64),
    ],
    ids=shown,
)
def test_a_number_that_does_not_fit_its_place_is_a_value_error(numbers: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError):
        pack_checked(*numbers, [b"a"])


@pytest.mark.parametrize("arguments", [(), (1, 2, 3, 4), (1, 2, 3, 4, [], 6), ("1", 0, 0, 0, []), (1, 0, 0.5, 0, [])])
def test_arguments_of_another_kind_are_refused(arguments: Any) -> None:
    with pytest.raises(TypeError):
        pack_checked(*arguments)


def test_packing_holds_no_reference_to_a_payload() -> None:
    payloads = [bytes(50), b"x" * 60]
    before = [sys.getrefcount(payload) for payload in payloads]
    for _ in range(5):
        pack_checked(1, 0, 0, 0, payloads)
        with pytest.raises(TypeError):
            pack_checked(1, 0, 0, 0, [*payloads, None])  # type: ignore[list-item]
    assert [sys.getrefcount(payload) for payload in payloads] == before
