"""An index page gives back the entries that were packed, and a header that cannot be one is refused."""

import random
from collections.abc import Iterator

import numpy as np
import pytest

from warpstore.checkpoint.format import PAGE_BYTES, PAGE_HEADER
from warpstore.checkpoint.index_page import IndexPage, pack_pages

Entry = tuple[int, int, int, int]  # hash, offset, length, crc


def pages_of(entries: list[Entry], *, crcs: bool = True) -> Iterator[IndexPage]:
    columns = [np.array(column, np.uint64) for column in zip(*entries, strict=True)] or [np.array([], np.uint64)] * 4
    hashes, offsets, lengths, sums = columns
    for first, body in pack_pages(hashes, offsets, lengths.astype(np.uint32), sums.astype(np.uint32) if crcs else None):
        assert len(body) == PAGE_BYTES - 4
        page = IndexPage(bytes(4) + body)
        assert page.first == first
        yield page


def entries(n: int, hash_max: int, offset_max: int, length_max: int) -> list[Entry]:
    rng = random.Random(n)
    made = [
        (rng.randint(0, hash_max), rng.randint(0, offset_max), rng.randint(0, length_max), rng.randrange(1 << 32))
        for _ in range(n)
    ]
    return sorted(made)


@pytest.mark.parametrize("crcs", [True, False])
@pytest.mark.parametrize(
    ("n", "hash_max", "offset_max", "length_max"),
    [
        (0, 0, 0, 0),
        (1, 0, 0, 0),
        (1, 2**64 - 1, 2**64 - 1, 2**32 - 1),
        (2000, 2**64 - 1, 2**64 - 1, 2**32 - 1),
        (5000, 2**64 - 1, 1 << 22, 255),
        (5000, 2**64 - 1, 1 << 24, 256),
        (3000, 300, 65_535, 0),
        (3000, 7, 65_536, 1 << 24),
        (3000, 0, 0, 0),
    ],
)
def test_entries_are_found_by_their_hash(n: int, hash_max: int, offset_max: int, length_max: int, crcs: bool) -> None:
    wanted = entries(n, hash_max, offset_max, length_max)
    found: list[Entry] = []
    for page in pages_of(wanted, crcs=crcs):
        mine = wanted[len(found) : len(found) + len(page)]
        for i, (digest, offset, length, crc) in enumerate(mine):
            assert i in page.entries_of(digest)
            assert all(page.rank(mine[j][0]) == page.rank(digest) for j in page.entries_of(digest))
            assert page.place(i) == (offset, length)
            assert page.crc(i) == (crc if crcs else None)
        assert page.first == mine[0][0] <= page.last <= mine[-1][0]
        found += mine
    assert found == wanted


def test_a_hash_of_no_entry_is_not_taken_for_one() -> None:
    (page,) = pages_of([(1 << 40, 1, 1, 1), ((1 << 40) + 2, 2, 2, 2), (1 << 63, 3, 3, 3)])
    for digest in (0, (1 << 40) - 1, 1 << 41, (1 << 63) + (1 << 62), 2**64 - 1):
        assert not page.entries_of(digest)
    assert list(page.entries_of((1 << 40) + 2)) == [0, 1]  # a rank has 32 bits: the record's key decides
    (near,) = pages_of([(1 << 40, 1, 1, 1), ((1 << 40) + 2, 2, 2, 2)])
    assert [list(near.entries_of((1 << 40) + i)) for i in range(4)] == [[0], [], [1], []]


def test_as_many_entries_as_fit_are_on_a_page() -> None:
    sizes = [len(page) for page in pages_of(entries(1000, 2**64 - 1, 1 << 22, 200))]
    assert sizes == [339, 339, 322]  # of 12 bytes
    sizes = [len(page) for page in pages_of(entries(1000, 2**64 - 1, 1 << 22, 2000), crcs=False)]
    assert sizes == [452, 452, 96]  # of 9


@pytest.mark.parametrize(
    "header",
    [
        (0, 340, 3, 1, 4, 0, 0, 0),
        (0, 0xFFFF, 0, 0, 0, 0, 0, 0),
        (0, 1, 9, 1, 4, 0, 0, 0),
        (0, 1, 1, 9, 4, 0, 0, 0),
        (0, 1, 1, 1, 3, 0, 0, 0),
        (0, 1, 1, 1, 255, 0, 0, 0),
        (0, 1, 1, 1, 4, 33, 0, 0),
        (0, 1, 1, 1, 4, 0, 1, 0),
    ],
)
def test_a_header_that_cannot_be_one_is_refused(header: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="the header of an index page is wrong"):
        IndexPage(PAGE_HEADER.pack(*header).ljust(PAGE_BYTES, b"\0"))
