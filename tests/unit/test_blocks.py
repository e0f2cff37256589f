"""A block file gives back what was written, and any damage to it is refused, by file and offset."""

import random
import struct
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google_crc32c import extend
from google_crc32c import value as crc32c

import warpstore as ws
from tests.support.worlds import FaultyFiles
from warpstore._native import MemoryPool
from warpstore.blocks import BlockCache, BlockFile, BlockFiles, BlockWriter, block_path
from warpstore.blocks.format import (
    BLOCK_HEADER_BYTES,
    FILE_HEADER_BYTES,
    FORMAT_VERSION,
    MAGIC,
    RAW_BYTES_MAX,
    item_of,
    lengths_of,
    pack_block,
    pack_file_header,
    raw_size,
    unpack_block,
    unpack_block_header,
)
from warpstore.blocks.reader import BLOCKS_ON_LOOP_MAX
from warpstore.blocks.writer import BLOCK_BYTES
from warpstore.parts import ITEMS_MAX, PartPlan, Place, split_value
from warpstore.would_block import WOULD_BLOCK, WouldBlock

STORE = bytes(range(16))
NUMBER = 7
COMPRESSIONS = ("none", "lz4", "max")
HEAD = b"\x93\x01\xa1k"


def noise(n: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(n)


class Case:
    """A folder with block files."""

    def __init__(self, folder: Path, cache_bytes: int = 1 << 20) -> None:
        self.folder = str(folder)
        self.files = FaultyFiles()
        self.pool = MemoryPool()
        self.cache = BlockCache(cache_bytes, self.pool)
        self.blocks = BlockFiles(self.files, self.folder, store_id=STORE, cache=self.cache)

    def path(self, number: int = NUMBER) -> Path:
        return Path(block_path(self.folder, number))

    def write(
        self,
        parts: list[bytes],
        compression: str = "lz4",
        *,
        number: int = NUMBER,
        cache: bool = True,
        threshold: int = 0,
        salt: int = 99,
        store: bytes = STORE,
    ) -> list[bytes]:
        """Write a file of parts; return values of one part each."""
        places: dict[int, Place] = {}
        path = str(self.path(number))
        writer = BlockWriter(lambda: self.files.create(path), number=number, salt=salt, store_id=store)
        plan = PartPlan(2, compression, cache)
        for i, part in enumerate(parts):
            writer.add(part, plan, threshold, lambda place, i=i: places.__setitem__(i, place))  # type: ignore[misc]
        assert writer.finish() == bool(parts)
        writer.close()
        assert writer.n_items == len(parts)
        assert not parts or self.path(number).stat().st_size == writer.n_bytes
        assert writer.n_placed == sum(place.n_bytes for place in places.values())
        return [split_value(HEAD, 2, [places[i]]) for i in range(len(parts))]

    def read_anew(self, values: list[bytes]) -> None:
        """Open the file, read values and close it."""
        self.blocks.acquire([NUMBER])
        try:
            self.blocks.whole_many(values)
        finally:
            self.blocks.release([NUMBER])

    def open(self, number: int = NUMBER) -> BlockFile:
        return BlockFile.open(self.files, self.folder, number, store_id=STORE)


def whole(part: bytes) -> bytes:
    return HEAD + part


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    made = Case(tmp_path)
    yield made
    made.blocks.release(made.blocks.numbers)
    assert made.blocks.numbers == set()
    assert made.pool.n_bytes == made.cache.n_bytes == 0


# Round trips


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("cache", [False, True])
def test_every_part_is_read_back(compression: str, cache: bool, case: Case) -> None:
    parts = [noise(n % 300, n) if n % 3 else bytes([n % 256]) * (n % 500) for n in range(2000)]
    values = case.write(parts, compression, cache=cache)
    case.blocks.acquire([NUMBER])
    for i in random.Random(1).sample(range(2000), 200):
        assert case.blocks.whole(values[i], blocking=i % 2 == 0) == whole(parts[i])
    assert case.blocks.whole_many(values) == [whole(part) for part in parts]
    assert case.blocks.whole_many_nowait(values) == [whole(part) for part in parts]
    assert bool(case.cache.n_bytes) == cache


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("n", [0, 1, 1023, 1024, BLOCK_BYTES["lz4"], BLOCK_BYTES["max"], 1 << 20, 16 << 20])
def test_a_part_of_any_size_is_read_back(n: int, compression: str, case: Case) -> None:
    parts = [b"a", noise(n // 2) + bytes(n - n // 2), b"b"]
    values = case.write(parts, compression)
    case.blocks.acquire([NUMBER])
    assert case.blocks.whole_many(values) == [whole(part) for part in parts]


def test_what_does_not_shrink_is_stored_as_it_is(case: Case) -> None:
    for compression, codec in (("none", 0), ("lz4", 1), ("max", 2)):
        for data, expected in ((noise(5000), 0), (bytes(5000), codec)):
            block = pack_block(1, 64, [data], compression, 0, cache=True)
            header = unpack_block_header(block[:BLOCK_HEADER_BYTES])
            assert header.codec == expected
            assert (header.stored_bytes == header.raw_bytes) == (expected == 0)
            assert unpack_block(1, 64, header, block[BLOCK_HEADER_BYTES:]) == struct.pack("<H", 5000) + data


@pytest.mark.parametrize(("threshold", "is_compressed"), [(0, True), (2002, True), (2003, False), (1 << 30, False)])
def test_fewer_bytes_than_the_threshold_are_not_compressed(threshold: int, is_compressed: bool) -> None:
    for compression in ("lz4", "max"):
        block = pack_block(1, 64, [bytes(2000)], compression, threshold, cache=True)
        assert (unpack_block_header(block[:BLOCK_HEADER_BYTES]).codec != 0) == is_compressed


@pytest.mark.parametrize("n_bytes", [65_529, 65_530, 65_531, 65_532, 65_536, 70_000])
def test_ends_are_wider_where_they_may_have_to_be(n_bytes: int) -> None:
    """Items of 65,529 bytes and three ends of 2 bytes are the most that is less than 64 KiB."""
    items = [noise(100), b"", noise(n_bytes - 100, 2)]
    block = pack_block(1, 64, items, "none", 0, cache=True)
    header = unpack_block_header(block[:BLOCK_HEADER_BYTES])
    width = 2 if n_bytes == 65_529 else 4
    assert header.raw_bytes == raw_size(3, n_bytes) == n_bytes + 3 * width
    raw = unpack_block(1, 64, header, block[BLOCK_HEADER_BYTES:])
    assert [item_of(raw, 3, i) for i in range(3)] == items
    assert lengths_of(raw, 3) == [100, 0, n_bytes - 100]
    for i in (3, ITEMS_MAX - 1):
        with pytest.raises(ValueError, match=f"no item {i}"):
            item_of(raw, 3, i)


def test_high_compression_is_smaller_than_the_quick_one() -> None:
    words = [f"{w:03d} " for w in range(400)]
    text = "".join(random.Random(2).choices(words, k=20_000)).encode()
    quick, high = (len(pack_block(1, 64, [text], compression, 0, cache=True)) for compression in ("lz4", "max"))
    assert high < quick < len(text)


def test_a_file_without_parts_is_not_made(case: Case) -> None:
    assert case.write([]) == []
    assert not case.path().exists()


def test_blocks_have_about_their_size_and_a_large_part_has_its_own(case: Case) -> None:
    parts = [noise(100, i) for i in range(1000)]
    parts[100:100] = [noise(40_000)]
    values = case.write(parts, "lz4", cache=False)
    case.blocks.acquire([NUMBER])
    file = case.open()
    offset, sizes, n_items = FILE_HEADER_BYTES, [], []
    while offset < file.n_bytes:
        read = file.read(offset, blocking=True)
        assert not isinstance(read, WouldBlock)
        sizes.append(read[1].raw_bytes)
        n_items.append(read[1].n_items)
        offset += BLOCK_HEADER_BYTES + read[1].stored_bytes
    file.close()
    assert sizes.pop(n_items.index(1)) == 40_002
    assert all(16_384 <= size <= 17_500 for size in sizes[:-1])
    assert case.blocks.whole_many(values) == [whole(part) for part in parts]


def test_tiny_parts_do_not_outrun_the_bits_of_a_place(case: Case) -> None:
    parts = [b"", b"\x01"] * (ITEMS_MAX + 10)
    values = case.write(parts, "max")
    case.blocks.acquire([NUMBER])
    assert case.blocks.whole_many(values) == [whole(part) for part in parts]


def test_places_say_what_their_parts_take_of_the_file(case: Case) -> None:
    """Half of the file is noise that does not shrink, though it is a tenth of what was put in."""
    sizes: dict[str, int] = {"noise": 0, "zeros": 0}
    path = str(case.path())
    writer = BlockWriter(lambda: case.files.create(path), number=NUMBER, salt=1, store_id=STORE)

    def count(name: str) -> Any:
        def placed(place: Place) -> None:
            sizes[name] += place.n_bytes

        return placed

    for i in range(300):
        writer.add(noise(150, i), PartPlan(2, "none", cache=True), 0, count("noise"))
        writer.add(bytes(1350), PartPlan(2, "lz4", cache=True), 0, count("zeros"))
    writer.finish()
    writer.close()
    assert sizes["noise"] > 10 * sizes["zeros"] > 0
    assert 0.9 * writer.n_bytes < sum(sizes.values()) == writer.n_placed <= writer.n_bytes


# Damage


def small(case: Case) -> tuple[list[bytes], list[bytes]]:
    """Write three blocks: compressed, stored, highly compressed and not to be cached."""
    path = str(case.path())
    places: dict[int, Place] = {}
    parts = [b"abcabcabcabc" * 9, b"", noise(40), b"x" * 60, b"yz" * 40]
    plans = [PartPlan(2, "lz4", cache=True)] * 2 + [PartPlan(2, "none", cache=True)] + [
        PartPlan(2, "max", cache=False)
    ] * 2  # fmt: skip
    writer = BlockWriter(lambda: case.files.create(path), number=NUMBER, salt=5, store_id=STORE)
    for i, (part, plan) in enumerate(zip(parts, plans, strict=True)):
        writer.add(part, plan, 0, lambda place, i=i: places.__setitem__(i, place))  # type: ignore[misc]
    writer.finish()
    writer.close()
    return parts, [split_value(HEAD, 2, [places[i]]) for i in range(len(parts))]


def test_every_flipped_bit_is_refused_with_its_file_and_offset(case: Case) -> None:
    _, values = small(case)
    good = case.path().read_bytes()
    assert len(good) < 500
    for at in range(len(good)):
        for bit in (at % 8, (at + 5) % 8):
            data = bytearray(good)
            data[at] ^= 1 << bit
            case.path().write_bytes(data)
            with pytest.raises(ws.CorruptionError) as error:
                case.read_anew(values)
            assert str(case.path()) in str(error.value)
            assert error.value.path == str(case.path())
            assert 0 <= error.value.offset <= at
            assert at - error.value.offset < 150
    case.path().write_bytes(good)


def test_damage_in_one_block_leaves_the_others_readable(case: Case) -> None:
    parts, values = small(case)
    data = bytearray(case.path().read_bytes())
    data[-1] ^= 1
    case.path().write_bytes(data)
    case.blocks.acquire([NUMBER])
    assert case.blocks.whole_many(values[:3]) == [whole(part) for part in parts[:3]]
    for value in values[3:]:
        with pytest.raises(ws.CorruptionError, match="checksum"):
            case.blocks.whole(value, blocking=True)
        with pytest.raises(ws.CorruptionError, match="checksum"):
            case.blocks.whole(value, blocking=False)


def test_a_file_cut_at_any_byte_is_refused(case: Case) -> None:
    _, values = small(case)
    good = case.path().read_bytes()
    for n in range(len(good)):
        case.path().write_bytes(good[:n])
        with pytest.raises(ws.CorruptionError, match=NUMBER.__format__("08x")):
            case.read_anew(values)


def test_a_file_that_was_cut_while_open_is_refused(case: Case) -> None:
    _, values = small(case)
    case.blocks.acquire([NUMBER])
    case.path().write_bytes(case.path().read_bytes()[:100])
    with pytest.raises(ws.CorruptionError):
        case.blocks.whole_many(values)
    read = case.blocks.whole(
        values[0], blocking=False
    )  # what the page cache cannot give in full, a thread must look at
    assert read is WOULD_BLOCK


def test_blocks_that_were_moved_are_refused(case: Case) -> None:
    case.write([noise(20_000, i) for i in range(4)], "none")
    values = case.write([noise(20_000, i) for i in range(4)], "none", number=8, salt=98)
    first, second = case.path().read_bytes(), case.path(8).read_bytes()
    size = BLOCK_HEADER_BYTES + 20_002
    swapped = second[:64] + second[64 + size : 64 + 2 * size] + second[64 : 64 + size] + second[64 + 2 * size :]
    for data in (swapped, second[:64] + first[64:]):
        case.path(8).write_bytes(data)
        case.blocks.acquire([8])
        with pytest.raises(ws.CorruptionError, match="checksum"):
            case.blocks.whole(values[0], blocking=True)
        case.blocks.release([8])


def test_a_file_that_is_missing_is_named(case: Case) -> None:
    case.write([b"a"], number=1)
    with pytest.raises(ws.CorruptionError, match=r"00000007\.blk: the block file is missing") as error:
        case.blocks.acquire([1, NUMBER])
    assert error.value.path == str(case.path())
    assert case.blocks.numbers == set()  # none is kept


@pytest.mark.parametrize("header", [(8, 5, STORE), (NUMBER, 5, bytes(16))])
def test_a_file_of_another_store_or_name_is_refused(header: tuple[int, int, bytes], case: Case) -> None:
    case.path().write_bytes(pack_file_header(*header))
    with pytest.raises(ws.CorruptionError, match=r"00000007\.blk: offset 0: .* another"):
        case.open()


def test_a_file_of_a_newer_version_is_refused_by_name(case: Case) -> None:
    body = bytearray(pack_file_header(NUMBER, 5, STORE)[:-4])
    body[8] = FORMAT_VERSION + 1
    case.path().write_bytes(bytes(body) + struct.pack("<I", crc32c(bytes(body))))
    with pytest.raises(ws.FormatVersionError, match=r"00000007\.blk: format version 2, this warpstore reads up to 1"):
        case.open()
    assert MAGIC == b"WARPBLK1"


def forged(stored: bytes, *, salt: int, offset: int, raw: int, items: int, codec: int, claims: int | None) -> bytes:
    """Return a block with a right checksum that says what it likes."""
    checked = struct.pack("<IIIBB", len(stored) if claims is None else claims, raw, items, codec, 0) + bytes(14)
    return (
        struct.pack("<I", extend(extend(crc32c(struct.pack("<QQ", salt, offset)), checked), stored)) + checked + stored
    )


@pytest.mark.parametrize(
    ("raw", "items", "codec", "claims"),
    [
        (0xFFFFFFFF, 1, 1, None),
        (RAW_BYTES_MAX + 1, 1, 1, None),
        (100, 1, 1, 0xFFFFFFFF),
        (100, 1, 1, RAW_BYTES_MAX),
        (100, 51, 0, None),
        (100, 0xFFFFFFFF, 0, None),
        (100, 1, 3, None),
        (100, 1, 255, None),
        (99, 1, 0, None),
        (101, 1, 0, None),
        (16 << 20, 1, 1, None),
    ],
)
def test_a_forged_block_is_refused_and_asks_for_no_memory(
    raw: int, items: int, codec: int, claims: int | None, case: Case
) -> None:
    block = forged(bytes(100), salt=5, offset=64, raw=raw, items=items, codec=codec, claims=claims)
    case.path().write_bytes(pack_file_header(NUMBER, 5, STORE) + block)
    case.blocks.acquire([NUMBER])
    tracemalloc.start()
    try:
        for blocking in (True, False):
            with pytest.raises(ws.CorruptionError, match="offset 64"):
                case.blocks.whole(split_value(HEAD, 2, [Place(NUMBER, 64, 0)]), blocking=blocking)
        if raw != 16 << 20:  # within the limit it is tried, as a record may have that size
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_lengths_of_items_that_do_not_add_up_are_refused(case: Case) -> None:
    raw = struct.pack("<3H", 2, 0xFFFF, 1) + bytes(20)
    block = forged(raw, salt=5, offset=64, raw=len(raw), items=3, codec=0, claims=None)
    case.path().write_bytes(pack_file_header(NUMBER, 5, STORE) + block)
    case.blocks.acquire([NUMBER])
    assert case.blocks.whole(split_value(HEAD, 2, [Place(NUMBER, 64, 0)]), blocking=True) == whole(bytes(2))
    for item in (1, 2, 3, ITEMS_MAX - 1):
        with pytest.raises(ws.CorruptionError, match=r"offset 64: .*item"):
            case.blocks.whole(split_value(HEAD, 2, [Place(NUMBER, 64, item)]), blocking=True)
    assert item_of(struct.pack("<H", 0), 1, 0) == b""
    with pytest.raises(ValueError, match="no item 1"):
        item_of(struct.pack("<H", 0), 1, 1)
    with pytest.raises(ValueError, match="no item 0"):
        item_of(b"", 0, 0)


@pytest.mark.parametrize("offset", [0, 1, 63, 65, 200, 1 << 20, (1 << 40) - 1])
def test_a_place_that_is_none_is_refused(offset: int, case: Case) -> None:
    case.write([b"abc" * 9])
    case.blocks.acquire([NUMBER])
    with pytest.raises(ws.CorruptionError, match=f"offset {offset}"):
        case.blocks.whole(split_value(HEAD, 2, [Place(NUMBER, offset, 0)]), blocking=True)


def test_a_place_in_a_file_that_no_checkpoint_names_is_refused(case: Case) -> None:
    (value,) = case.write([b"abc"])
    with pytest.raises(ws.CorruptionError, match=r"00000007\.blk: a record names this file"):
        case.blocks.whole(value, blocking=True)


def test_a_damaged_note_is_refused(case: Case) -> None:
    for value in (b"\xc1\x0d\x00\x03" + bytes(30), b"\xc1", b"\xd3" + bytes(8) + b"\xc1\x0e", b"\xc1\x0e" + bytes(14)):
        with pytest.raises(ws.CorruptionError, match="damaged"):
            case.blocks.whole(value, blocking=True)
        with pytest.raises(ws.CorruptionError, match="damaged"):
            case.blocks.whole_many([None, value])


def test_random_bytes_are_refused(case: Case) -> None:
    rng = random.Random(3)
    good = pack_block(5, 64, [b"abc" * 30], "lz4", 0, cache=True)
    case.path().write_bytes(pack_file_header(NUMBER, 5, STORE) + good + bytes(200))
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if data == good:
            continue
        with pytest.raises(ValueError, match="block"):
            unpack_block(5, 64, unpack_block_header(bytes(data[:32])), bytes(data[32:]))


# Files


def test_a_file_stays_open_as_long_as_somebody_uses_it(case: Case) -> None:
    (value,) = case.write([b"abc" * 40])
    case.blocks.acquire([NUMBER])
    case.blocks.acquire([NUMBER])
    case.path().unlink()
    case.blocks.release([NUMBER])
    assert case.blocks.numbers == {NUMBER}
    assert case.blocks.whole(value, blocking=True) == whole(b"abc" * 40)
    assert case.cache.n_bytes
    case.blocks.release([NUMBER])
    assert case.blocks.numbers == set()
    assert case.cache.n_bytes == 0


def test_a_read_that_is_not_cached_would_block(case: Case) -> None:
    values = case.write([noise(20_000, i) for i in range(3)], "lz4")
    case.blocks.acquire([NUMBER])
    assert case.blocks.whole(values[1], blocking=True) == whole(noise(20_000, 1))
    case.files.nothing_cached = True
    assert case.blocks.whole(values[0], blocking=False) is WOULD_BLOCK
    assert case.blocks.whole(values[1], blocking=False) == whole(noise(20_000, 1))  # the block is kept
    assert case.blocks.whole(HEAD, blocking=False) == HEAD
    found = case.blocks.whole_many_nowait([None, values[0], HEAD, values[1], values[2], b""])
    assert found == [None, WOULD_BLOCK, HEAD, whole(noise(20_000, 1)), WOULD_BLOCK, b""]
    assert case.blocks.whole_many([values[0], None])[0] == whole(noise(20_000, 0))
    assert case.blocks.whole(values[0], blocking=False) == whole(noise(20_000, 0))


def test_a_block_whose_header_alone_is_cached_would_block(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    (value,) = case.write([noise(20_000)], "lz4")
    case.blocks.acquire([NUMBER])
    file = case.blocks._open[NUMBER]._file
    read = type(file).read_cached
    monkeypatch.setattr(type(file), "read_cached", lambda self, n, at: read(self, n, at) if n == 32 else None)
    assert case.blocks.whole(value, blocking=False) is WOULD_BLOCK


def test_a_read_that_fails_says_where(case: Case) -> None:
    (value,) = case.write([b"abc" * 40])
    case.blocks.acquire([NUMBER])
    case.files.fail("read", ".blk")
    with pytest.raises(ws.UnavailableError, match=r"00000007\.blk: offset 64: "):
        case.blocks.whole(value, blocking=True)
    assert case.blocks.whole(value, blocking=True) == whole(b"abc" * 40)


def test_a_header_that_cannot_be_read_leaves_no_open_file(case: Case) -> None:
    case.write([b"abc" * 40])
    case.files.fail("read", ".blk")
    with pytest.raises(OSError, match="Input/output"):
        case.blocks.acquire([NUMBER])
    assert case.blocks.numbers == set()


def test_a_batch_reads_each_block_once(case: Case) -> None:
    values = case.write([noise(100, i) for i in range(1000)], "max", cache=False)
    case.blocks.acquire([NUMBER])
    reads: list[int] = []
    file = case.blocks._open[NUMBER]
    read_block = file.read

    def read(offset: int, *, blocking: bool) -> Any:
        reads.append(offset)
        return read_block(offset, blocking=blocking)

    file.read = read  # type: ignore[method-assign]
    shuffled = random.Random(1).sample(range(1000), 1000)
    for found in (
        case.blocks.whole_many([values[i] for i in shuffled]),
        case.blocks.whole_many_nowait([values[i] for i in shuffled]),
    ):
        assert found == [whole(noise(100, i)) for i in shuffled]
    assert len(reads) == 2 * len(set(reads)) == 4
    assert reads[:2] == sorted(reads[:2])


def test_a_batch_of_many_blocks_is_left_to_a_thread(case: Case) -> None:
    parts = [noise(20_000, i) for i in range(BLOCKS_ON_LOOP_MAX + 9)]
    values = case.write(parts, "none", cache=False)
    case.blocks.acquire([NUMBER])
    found = case.blocks.whole_many_nowait(values)
    assert found[:BLOCKS_ON_LOOP_MAX] == [whole(part) for part in parts[:BLOCKS_ON_LOOP_MAX]]
    assert found[BLOCKS_ON_LOOP_MAX:] == [WOULD_BLOCK] * 9
    assert case.blocks.whole_many(values) == [whole(part) for part in parts]


def test_fields_that_are_not_to_be_cached_are_kept_where_it_is_asked_for(case: Case) -> None:
    (value,) = case.write([b"abc" * 40], cache=False)
    for keeps_all in (False, True):
        cache = BlockCache(1 << 20, case.pool)
        blocks = BlockFiles(case.files, case.folder, store_id=STORE, cache=cache, keeps_all=keeps_all)
        blocks.acquire([NUMBER])
        assert blocks.whole(value, blocking=True) == whole(b"abc" * 40)
        assert bool(cache.n_bytes) == keeps_all
        blocks.release([NUMBER])


def test_many_threads_read_the_same_blocks(tmp_path: Path) -> None:
    case = Case(tmp_path, cache_bytes=100_000)
    parts = [noise(300, i) for i in range(1000)]
    values = case.write(parts, "lz4")
    case.blocks.acquire([NUMBER])
    wrong: list[Any] = []

    def read(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(20):
            case.blocks.acquire([NUMBER])
            some = rng.sample(range(1000), 20)
            if case.blocks.whole_many([values[i] for i in some]) != [whole(parts[i]) for i in some]:
                wrong.append(some)
            if case.blocks.whole(values[some[0]], blocking=False) != whole(parts[some[0]]):
                wrong.append(some[0])
            case.cache.evict(rng.randrange(50_000))
            case.blocks.release([NUMBER])

    threads = [threading.Thread(target=read, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert case.cache.n_bytes == case.pool.n_bytes <= 100_000
    case.blocks.release([NUMBER])
    assert case.pool.n_bytes == 0


# The cache


def kept(cache: BlockCache, n: int = 40) -> list[int]:
    """Return which blocks are in the cache, leaving their order as it is."""
    return [offset for offset in range(n) if (1, offset) in cache._blocks]


def test_the_cache_holds_no_more_than_its_bound_and_charges_what_it_holds() -> None:
    pool = MemoryPool()
    cache = BlockCache(10_000, pool)
    for i in range(40):
        cache.put(1, i, bytes(1000), 1)
        assert 0 < cache.n_bytes <= 10_000
        assert pool.n_bytes == cache.n_bytes >= 1000 * len(kept(cache))
    assert kept(cache) == list(range(33, 40))


def test_the_block_used_least_recently_leaves_first() -> None:
    cache = BlockCache(10_000, MemoryPool())
    for i in range(7):
        cache.put(1, i, bytes(1000), i)
    assert cache.get(1, 0) == (bytes(1000), 0)
    cache.put(1, 7, bytes(1000), 7)
    assert kept(cache) == [0, 2, 3, 4, 5, 6, 7]
    assert cache.get(1, 1) is None
    assert cache.get(2, 0) is None


def test_a_block_that_is_put_twice_counts_once() -> None:
    cache = BlockCache(10_000, pool := MemoryPool())
    cache.put(1, 1, bytes(1000), 1)
    n_bytes = cache.n_bytes
    cache.put(1, 1, bytes(1000), 1)
    assert cache.n_bytes == pool.n_bytes == n_bytes


def test_a_block_of_more_than_a_quarter_is_not_kept() -> None:
    cache = BlockCache(10_000, MemoryPool())
    cache.put(1, 1, bytes(2501), 1)
    assert cache.get(1, 1) is None
    cache.put(1, 1, bytes(2500), 1)
    assert cache.get(1, 1) is not None


def test_a_cache_of_no_bytes_keeps_nothing() -> None:
    cache = BlockCache(0, pool := MemoryPool())
    for raw in (b"", b"abc"):
        cache.put(1, 1, raw, 1)
        assert cache.get(1, 1) is None
    assert cache.n_bytes == pool.n_bytes == 0


def test_the_cache_lets_go_on_demand_and_of_whole_files() -> None:
    cache = BlockCache(100_000, pool := MemoryPool())
    for i in range(10):
        cache.put(1 + i % 2, i, bytes(1000), 1)
    before = cache.n_bytes
    freed = cache.evict(1500)
    assert 1500 <= freed == before - cache.n_bytes < 3000
    cache.forget(2)
    assert [offset for offset in range(10) if cache.get(2, offset)] == []
    assert [offset for offset in range(10) if cache.get(1, offset)] == [2, 4, 6, 8]
    assert pool.n_bytes == cache.n_bytes
    assert cache.evict(1 << 30) > 0
    assert cache.evict(1) == 0
    assert pool.n_bytes == cache.n_bytes == 0
