"""Verifies one block file, and remembers what is in it: where blocks start and which items records have named.

Damage does not hide what comes behind it: after a block whose size cannot be believed the next whole one is looked for.
In memory are one block, 24 bytes for each block of the file, and a bit for each item.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator

from warpstore.blocks import BlockFile
from warpstore.blocks.format import (
    BLOCK_HEADER_BYTES,
    FILE_HEADER_BYTES,
    BlockHeader,
    lengths_of,
    size_in_file,
    unpack_block,
    unpack_block_header,
)
from warpstore.parts import Place, bytes_of_class

_WINDOW_BYTES = 1 << 20
_FOLLOWED_MAX = 16
_ZEROS = bytes(14)  # what ends the header of a block
_ZEROS_AT = BLOCK_HEADER_BYTES - len(_ZEROS)


class BlockIndex:
    """What a block file holds, once `defects` has gone through it.

    Attributes:
        n_items: The items of its whole blocks.
        n_placed: What they take of the file, by the places that records should name.
        is_whole: Whether it has no damage.
    """

    def __init__(self) -> None:
        self.n_items = 0
        self.n_placed = 0
        self._offsets = array("Q")
        self._n_stored = array("I")  # bytes of each block in the file
        self._n_raw = array("I")  # and decompressed
        self._firsts = array("Q")  # the items before each block
        self._bad_starts = array("Q")
        self._bad_stops = array("Q")
        self._named = bytearray()

    @property
    def is_whole(self) -> bool:
        return not self._bad_starts

    # Going through the file

    def defects(self, file: BlockFile, n_placed: int | None) -> Iterator[tuple[int, str]]:
        """Yield the offset of each defect and what it is.

        Args:
            file: The file.
            n_placed: What its items should take, if anybody says so.

        Raises:
            UnavailableError: reading failed.
        """
        at = FILE_HEADER_BYTES
        while at < file.n_bytes:
            found = _block(file, at)
            if not isinstance(found, str):
                header, lengths = found
                n_bytes = BLOCK_HEADER_BYTES + header.stored_bytes
                self._offsets.append(at)
                self._n_stored.append(n_bytes)
                self._n_raw.append(header.raw_bytes)
                self._firsts.append(self.n_items)
                self.n_items += len(lengths)
                sizes = (size_in_file(n_bytes, header.raw_bytes, length) for length in lengths)
                self.n_placed += sum(map(bytes_of_class, sizes))
                at += n_bytes
                continue
            stop = _next_whole(file, at)
            self._bad_starts.append(at)
            self._bad_stops.append(stop)
            if stop == file.n_bytes and self.n_placed == n_placed:
                found = f"{stop - at} bytes behind the last block"
            yield at, found
            at = stop
        self._named = bytearray((self.n_items + 7) // 8)

    # What records say of it

    def problem(self, place: Place) -> str | None:
        """Return what is wrong with the place of a part, or None; remember that a record has named it.

        What is wrong is "" where the place lies in damage, which `defects` has named.
        """
        block = self._block(place)
        if block is None:
            bad = bisect_right(self._bad_starts, place.offset) - 1
            is_bad = bad >= 0 and place.offset < self._bad_stops[bad]
            return "" if is_bad else f"no block begins at offset {place.offset}"
        first = self._firsts[block]
        n = (self._firsts[block + 1] if block + 1 < len(self._firsts) else self.n_items) - first
        if place.item >= n:
            return f"the block at offset {place.offset} has {n} items, and no item {place.item}"
        item = first + place.item
        if self._named[item >> 3] >> (item & 7) & 1:
            return f"item {place.item} of the block at offset {place.offset} is that of another record, too"
        self._named[item >> 3] |= 1 << (item & 7)
        return None

    def size(self, place: Place, n_bytes: int) -> int:
        """Return the class of size that a place without a `problem` should have, whose part has so many bytes."""
        block = self._block(place)
        assert block is not None
        return size_in_file(self._n_stored[block], self._n_raw[block], n_bytes)

    def _block(self, place: Place) -> int | None:
        block = bisect_right(self._offsets, place.offset) - 1
        return block if block >= 0 and self._offsets[block] == place.offset else None


def _block(file: BlockFile, at: int) -> tuple[BlockHeader, list[int]] | str:
    """Return the header of the whole block at an offset and the lengths of its items, or what is wrong."""
    try:
        header = unpack_block_header(_read(file, BLOCK_HEADER_BYTES, at))
        if at + BLOCK_HEADER_BYTES + header.stored_bytes > file.n_bytes:
            return "the file ends within the block"
        data = _read(file, header.stored_bytes, at + BLOCK_HEADER_BYTES)
        lengths = lengths_of(unpack_block(file._salt, at, header, data), header.n_items)
    except ValueError as e:
        return str(e)
    return header, lengths


def _next_whole(file: BlockFile, at: int) -> int:
    """Return where the next block begins behind a damaged one, as far as that can be known, or the end of the file."""
    stop = behind = _stop(file, at)
    for _ in range(_FOLLOWED_MAX):  # its size is right if others lead from there to a whole one, or to the end
        if stop is None or behind is None:
            break
        if behind == file.n_bytes or not isinstance(_block(file, behind), str):
            return stop
        behind = _stop(file, behind)
    for start in range(at + 1, file.n_bytes, _WINDOW_BYTES):
        window = _read(file, _WINDOW_BYTES + BLOCK_HEADER_BYTES, start)
        i = window.find(_ZEROS, _ZEROS_AT)
        while i >= 0:
            maybe = start + i - _ZEROS_AT
            head = window[i - _ZEROS_AT : i + len(_ZEROS)]
            if _stop(file, maybe, head) is not None and not isinstance(_block(file, maybe), str):
                return maybe
            i = window.find(_ZEROS, i + 1)
    return file.n_bytes


def _stop(file: BlockFile, at: int, head: bytes | None = None) -> int | None:
    """Return where a block says that it ends, or None if it says nothing that can be."""
    try:
        header = unpack_block_header(_read(file, BLOCK_HEADER_BYTES, at) if head is None else head)
    except ValueError:
        return None
    stop = at + BLOCK_HEADER_BYTES + header.stored_bytes
    return stop if header.n_items and stop <= file.n_bytes else None


def _read(file: BlockFile, n_bytes: int, offset: int) -> bytes:
    data = file._read(n_bytes, offset, blocking=True)
    assert data is not None
    return data
