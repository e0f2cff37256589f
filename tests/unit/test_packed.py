"""A packed block gives back the block that was packed, and any damage to it is refused."""

import random
import tracemalloc

import lz4.block
import pytest

from warpstore.blocks.format import RAW_BYTES_MAX
from warpstore.checkpoint.format import PACKED_HEADER, checksum
from warpstore.checkpoint.packed import pack, unpack

SALT, OFFSET = 77, 4096


def forged(raw_bytes: int, stored: bytes) -> bytes:
    """Return a packed block with a right checksum that says what it likes."""
    body = PACKED_HEADER.pack(0, raw_bytes)[4:] + stored
    return checksum(SALT, OFFSET, body).to_bytes(4, "little") + body


@pytest.mark.parametrize("raw", [b"", b"a", bytes(5000), b"key and place " * 300, random.Random(1).randbytes(4096)])
def test_a_block_is_read_back(raw: bytes) -> None:
    block = pack(SALT, OFFSET, raw)
    assert unpack(SALT, OFFSET, block) == raw
    assert len(block) <= PACKED_HEADER.size + len(raw)


@pytest.mark.parametrize("raw", [b"key and place " * 30, random.Random(2).randbytes(200)])
def test_every_flipped_bit_and_every_cut_is_refused(raw: bytes) -> None:
    block = pack(SALT, OFFSET, raw)
    for bit in range(8 * len(block)):
        data = bytearray(block)
        data[bit >> 3] ^= 1 << (bit & 7)
        with pytest.raises(ValueError, match="the checksum of a block is wrong"):
            unpack(SALT, OFFSET, bytes(data))
    for n in range(len(block)):
        with pytest.raises(ValueError, match="the checksum of a block is wrong"):
            unpack(SALT, OFFSET, block[:n])


def test_a_block_of_another_place_or_file_is_refused() -> None:
    block = pack(SALT, OFFSET, b"key and place " * 30)
    for salt, offset in ((SALT, OFFSET + 1), (SALT + 1, OFFSET)):
        with pytest.raises(ValueError, match="the checksum of a block is wrong"):
            unpack(salt, offset, block)


def test_a_forged_block_is_refused_and_asks_for_no_memory() -> None:
    good = lz4.block.compress(bytes(1000), store_size=False)
    tracemalloc.start()
    try:
        for n_bytes in (RAW_BYTES_MAX + 1, 0xFFFFFFFF):
            with pytest.raises(ValueError, match="larger than a block can be"):
                unpack(SALT, OFFSET, forged(n_bytes, good))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    with pytest.raises(ValueError, match="a block has another size than its header says"):
        unpack(SALT, OFFSET, forged(1001, good))
    for n_bytes, stored in ((999, good), (1000, b"\xff" * 20), (1000, good[:-3])):
        with pytest.raises(ValueError, match=r"a block (does not decompress|has another size)"):
            unpack(SALT, OFFSET, forged(n_bytes, stored))
