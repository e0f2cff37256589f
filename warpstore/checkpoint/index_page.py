"""An index page of a checkpoint: by the hash of a key, where to read.

::

    page      4,096 bytes: header | rank u32[n] | offset u8[n][width] | length u8[n][width] | crc u8[n][width] | zeros
    header    crc u32 | n u16 | width of offsets u8, of lengths u8, of crcs u8 | shift u8 | 0 u16 | first u64

Entries are sorted by the hash. ``first`` is the hash of the page's first one; the rank of a hash is how far it lies
behind that, without its lowest ``shift`` bits: so 32 bits are as good as 40 or more, and keys of one rank in one page
are as rare as one in ten million. Who reads compares the keys. Numbers take as many bytes as the largest one of the
table needs; those of the crc are 4, or none where what the index names has its own checksum.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

import numpy as np

from warpstore.checkpoint.format import PAGE_BYTES, PAGE_HEADER

U64Array = np.ndarray[tuple[int], np.dtype[np.uint64]]
U32Array = np.ndarray[tuple[int], np.dtype[np.uint32]]

CRC_BYTES = 4
_RANK_BYTES = 4
_RANK_BITS = 32
_WIDTH_MAX = 8
_CHECKSUM_BYTES = 4


class IndexPage:
    """A page whose checksum is right.

    Raises:
        ValueError: its header cannot be one.

    Attributes:
        first: The hash of its first entry.
        ranks: The ranks of its entries.
    """

    __slots__ = (
        "_crc_bytes",
        "_crcs_at",
        "_data",
        "_length_bytes",
        "_lengths_at",
        "_offset_bytes",
        "_offsets_at",
        "_shift",
        "first",
        "ranks",
    )

    first: int
    ranks: memoryview[int]

    def __init__(self, data: bytes) -> None:
        header: tuple[int, ...] = PAGE_HEADER.unpack_from(data)
        _, n, offset_bytes, length_bytes, crc_bytes, shift, zero, self.first = header
        self._offsets_at = PAGE_HEADER.size + _RANK_BYTES * n
        self._lengths_at = self._offsets_at + offset_bytes * n
        self._crcs_at = self._lengths_at + length_bytes * n
        has_width = max(offset_bytes, length_bytes) <= _WIDTH_MAX and crc_bytes in (0, CRC_BYTES)
        if not has_width or zero or shift > _RANK_BITS or self._crcs_at + crc_bytes * n > PAGE_BYTES:
            raise ValueError("the header of an index page is wrong")
        self._offset_bytes, self._length_bytes, self._crc_bytes = offset_bytes, length_bytes, crc_bytes
        self._shift = shift
        self._data = data
        self.ranks = memoryview(data)[PAGE_HEADER.size : self._offsets_at].cast("I")

    def __len__(self) -> int:
        return len(self.ranks)

    @property
    def last(self) -> int:
        """The least hash that its last entry can have."""
        return self.first + (self.ranks[-1] << self._shift if self.ranks else 0)

    def rank(self, digest: int) -> int:
        """Return the rank of a hash; none of an entry where the hash is not in the page's range."""
        return digest - self.first >> self._shift

    def entries_of(self, digest: int) -> range:
        """Return the entries that may be that of a hash."""
        rank = self.rank(digest)
        first = bisect_left(self.ranks, rank)
        return range(first, bisect_right(self.ranks, rank, first))

    def place(self, i: int) -> tuple[int, int]:
        """Return the offset and the length of what an entry names."""
        at, length_at = self.offset_at(i), self._lengths_at + i * self._length_bytes
        offset = int.from_bytes(self._data[at : at + self._offset_bytes], "little")
        return offset, int.from_bytes(self._data[length_at : length_at + self._length_bytes], "little")

    def crc(self, i: int) -> int | None:
        """Return the CRC32C of what an entry names; None where that has its own."""
        at = self._crcs_at + i * self._crc_bytes
        return int.from_bytes(self._data[at : at + CRC_BYTES], "little") if self._crc_bytes else None

    def offset_at(self, i: int) -> int:
        """Return where in the page the offset of an entry's place is."""
        return self._offsets_at + i * self._offset_bytes


def pack_pages(
    hashes: U64Array, offsets: U64Array, lengths: U32Array, crcs: U32Array | None
) -> Iterator[tuple[int, bytes]]:
    """Yield for each page its first hash, and the page without the checksum that opens it.

    Args:
        hashes: ``uint64[n]`` in ascending order.
        offsets: ``uint64[n]``.
        lengths: ``uint32[n]``.
        crcs: ``uint32[n]``, or None if what the entries name has its own.
    """
    offset_bytes, length_bytes = _width(offsets), _width(lengths)
    crc_bytes = 0 if crcs is None else CRC_BYTES
    n_max = (PAGE_BYTES - PAGE_HEADER.size) // (_RANK_BYTES + offset_bytes + length_bytes + crc_bytes)
    for start in range(0, len(hashes), n_max):
        part = slice(start, start + n_max)
        mine = hashes[part]
        first = int(mine[0])
        shift = max(0, (int(mine[-1]) - first).bit_length() - _RANK_BITS)
        ranks = (mine - mine[0] >> np.uint64(shift)).astype("<u4")
        header = PAGE_HEADER.pack(0, len(mine), offset_bytes, length_bytes, crc_bytes, shift, 0, first)
        columns = [ranks.tobytes(), _narrow(offsets[part], offset_bytes), _narrow(lengths[part], length_bytes)]
        if crcs is not None:
            columns.append(_narrow(crcs[part], CRC_BYTES))
        page = b"".join((header, *columns)).ljust(PAGE_BYTES, b"\0")
        yield first, page[_CHECKSUM_BYTES:]


def _width(numbers: U64Array | U32Array) -> int:
    return (int(numbers.max()).bit_length() + 7) // 8 if len(numbers) else 0


def _narrow(numbers: U64Array | U32Array, width: int) -> bytes:
    little = np.ascontiguousarray(numbers, numbers.dtype.newbyteorder("<"))
    return little.view(np.uint8).reshape(len(numbers), numbers.itemsize)[:, :width].tobytes()
