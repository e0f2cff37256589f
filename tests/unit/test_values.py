"""Values, payloads and keys as the log, the checkpoints and the hot tier hold them."""

from uuid import UUID

import msgspec
import pytest

from tests.support.worlds import Token, User
from warpstore.keys import SLOTS, key_bytes, key_hash, slot_of, slot_range
from warpstore.record import plan_of
from warpstore.values import (
    DEADLINE_BYTES,
    TOMBSTONE,
    deadline_of,
    has_deadline,
    split_payload,
    tombstone,
    with_deadline,
)

CODEC = plan_of(User).bind(7)


def test_a_payload_gives_its_tag_key_and_value() -> None:
    _, key, value = CODEC.encode(User(id="ann", n=5))
    assert split_payload(value) == (7, "ann", value)
    ending = with_deadline(value, 1_700_000_000_000)
    assert split_payload(ending) == (7, "ann", ending)
    assert split_payload(tombstone(7, key)) == (7, "ann", TOMBSTONE)
    _, _, token = plan_of(Token).bind(300).encode(Token(id=UUID(int=5)))
    assert split_payload(token) == (300, UUID(int=5).bytes, token)


@pytest.mark.parametrize("deadline", [0, 1, -1, 2**63 - 1, -(2**63)])
def test_a_deadline_reads_back(deadline: int) -> None:
    _, _, value = CODEC.encode(User(id="a"))
    assert not has_deadline(value)
    ending = with_deadline(value, deadline)
    assert has_deadline(ending)
    assert deadline_of(ending) == deadline
    assert ending[DEADLINE_BYTES:] == value
    assert msgspec.msgpack.decode(ending[:DEADLINE_BYTES]) == deadline


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xc0", b"\xd3", b"\xd3" + bytes(8), b"\x90", b"\x91\x01", b"\x92\xa1a\x01", b"\x01", b"\x92\x01", b"\xff"],
    ids=bytes.hex,
)
def test_bytes_that_are_no_payload_are_a_decode_error(payload: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        split_payload(payload)


def test_key_bytes_and_slots_are_stable_for_ever() -> None:
    assert key_bytes("ä") == b"\xc3\xa4"
    assert key_bytes(b"\0") == b"\0"
    assert key_bytes(-2) == b"\xfe" + b"\xff" * 7
    assert key_hash("ann") == 0x482C89484CBD62C8
    keys = ("", "ann", b"ann", "ä", 0, 1, -1, UUID(int=0).bytes)
    assert [slot_of(key) for key in keys] == [194, 200, 200, 180, 217, 46, 19, 104]


@pytest.mark.parametrize("n_shards", [1, 2, 3, 4, 7, 16, 255, 256])
def test_the_slots_are_dealt_to_the_shards_without_a_gap(n_shards: int) -> None:
    ranges = [slot_range(i, n_shards) for i in range(n_shards)]
    assert [slot for slots in ranges for slot in slots] == list(range(SLOTS))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1
