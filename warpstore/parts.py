"""Parts: the `Disk` fields of a record, which a checkpoint keeps apart from the others.

In stored order the `Disk` fields come last, those of one kind (compression, cache) together. So each kind is a run of
bytes at the end of the record's array: a part. A checkpoint writes the parts into blocks (`warpstore.blocks`) and keeps
the *head*: the array without them, with a note that says where they are. Joining is concatenation.

A split value, which stands where a value may stand, in a checkpoint and in memory::

    deadline?  |  0xc1 | n u8 | elements u16 | place of each part, 12 bytes  |  head

``n`` counts the bytes after it up to the head; ``elements`` are those of the whole array. 0xc1 opens no MessagePack
value. A place is a block file's number (u32) and, in a u64, the block's offset (40 bits), the item in it (13 bits) and
about how many bytes of the file it takes (11 bits: an exponent and 6 bits).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from warpstore._native import element_offsets
from warpstore.schema import FieldSchema, Schema
from warpstore.values import DEADLINE_BYTE, DEADLINE_BYTES, SPLIT_BYTE

PARTS_MAX = 6

_HEAD = struct.Struct("<BBH")
_PLACE = struct.Struct("<IQ")
ITEMS_MAX = 1 << 13
"""Items of one block: a place has 13 bits for them."""

_ITEM_BITS, _SIZE_BITS = 13, 11
_MANTISSA_BITS = 6
_ITEM_MASK = (1 << _ITEM_BITS) - 1
_SIZE_MASK = (1 << _SIZE_BITS) - 1
_MANTISSA_MASK = (1 << _MANTISSA_BITS) - 1


def size_class(n_bytes: int) -> int:
    """Return the 11 bits that stand for about ``n_bytes``, at most 3 % less."""
    exponent = max(0, n_bytes.bit_length() - _MANTISSA_BITS)
    return exponent << _MANTISSA_BITS | n_bytes >> exponent


def bytes_of_class(size: int) -> int:
    """Return about how many bytes the class of a size stands for."""
    return (size & _MANTISSA_MASK) << (size >> _MANTISSA_BITS)


class Place(NamedTuple):
    """Where a part is: in which file, in the block at which offset, as which item; and the class of its size."""

    file: int
    offset: int
    item: int
    size: int = 0

    @property
    def n_bytes(self) -> int:
        """About how many bytes of the file it takes."""
        return bytes_of_class(self.size)


class PartPlan(msgspec.Struct, frozen=True, array_like=True):
    """A part of the arrays of one schema.

    Attributes:
        first: Index of its first element in the array.
        compression: "lz4", "max" or "none".
        cache: Whether its blocks may stay in memory after a read.
    """

    first: int
    compression: str
    cache: bool


def part_order(options: dict[str, Any]) -> tuple[bool, str]:
    """Return what `Disk` fields of the same part have in common, so that sorting by it brings them together."""
    return not options.get("cache", True), str(options.get("compression", "lz4"))


def parts_of(schema: Schema) -> list[PartPlan]:
    """Return the parts of a schema's arrays; none if its `Disk` fields do not come last."""
    plans: list[PartPlan] = []
    before: tuple[bool, str] | None = None
    for index, field in enumerate(schema.fields, start=1):
        if not _is_disk(field):
            if plans:
                return []
            continue
        order = part_order(dict(field.options))
        if order != before:
            plans.append(PartPlan(index, order[1], not order[0]))
            before = order
    return plans if len(plans) <= PARTS_MAX else []


def _is_disk(field: FieldSchema) -> bool:
    return field.tier == "disk"


def is_split(body: bytes) -> bool:
    """Return whether a value without its deadline is split."""
    return body[0] == SPLIT_BYTE


def is_split_value(value: bytes) -> bool:
    """Return whether a value, which is not empty, is split."""
    return value[DEADLINE_BYTES if value[0] == DEADLINE_BYTE else 0] == SPLIT_BYTE


def is_worth_it(parts: Sequence[bytes]) -> bool:
    """Return whether parts are longer than the note that says where they are."""
    return sum(map(len, parts)) > _HEAD.size + len(parts) * _PLACE.size


def split(value: bytes, plans: Sequence[PartPlan]) -> tuple[bytes, list[bytes]]:
    """Return a record's value without its parts, and the parts."""
    skip = DEADLINE_BYTES if value[0] == DEADLINE_BYTE else 0
    offsets = element_offsets(value, skip, [plan.first for plan in plans])
    ends = [*offsets[1:], len(value)]
    return value[: offsets[0]], [value[start:end] for start, end in zip(offsets, ends, strict=True)]


def split_value(head: bytes, first: int, places: Sequence[Place]) -> bytes:
    """Return a split value.

    Args:
        head: The value up to its first part, the array still with its own count of elements.
        first: Index of the first element that is not in it.
        places: Where its parts are.
    """
    skip = DEADLINE_BYTES if head[0] == DEADLINE_BYTE else 0
    n_elements, n_bytes = _count(head, skip)
    note = _HEAD.pack(SPLIT_BYTE, 2 + len(places) * _PLACE.size, n_elements)
    note += b"".join(_PLACE.pack(p.file, (p.offset << _ITEM_BITS | p.item) << _SIZE_BITS | p.size) for p in places)
    return head[:skip] + note + _counted(first, n_bytes) + head[skip + n_bytes :]


def places_of(body: bytes) -> list[Place]:
    """Return where the parts of a split value are; ``body`` is without its deadline.

    Raises:
        ValueError: the note is damaged.
    """
    n_bytes = body[1] if len(body) > 1 else 0
    if n_bytes < 2 + _PLACE.size or (n_bytes - 2) % _PLACE.size or len(body) <= 2 + n_bytes:
        raise ValueError("the places of a record's parts are damaged")
    return [
        Place(file, place >> _ITEM_BITS + _SIZE_BITS, place >> _SIZE_BITS & _ITEM_MASK, place & _SIZE_MASK)
        for file, place in _PLACE.iter_unpack(body[_HEAD.size : 2 + n_bytes])
    ]


def head_of(body: bytes) -> bytes:
    """Return the array of a split value, which ends before the parts; ``body`` is without its deadline."""
    return body[2 + body[1] :]


def join(value: bytes, parts: Sequence[bytes]) -> bytes:
    """Return the value that was split."""
    skip = DEADLINE_BYTES if value[0] == DEADLINE_BYTE else 0
    _, n_note, n_elements = _HEAD.unpack_from(value, skip)
    start = skip + 2 + n_note
    _, n_bytes = _count(value, start)
    return b"".join((value[:skip], _counted(n_elements, n_bytes), value[start + n_bytes :], *parts))


def _count(value: bytes, at: int) -> tuple[int, int]:
    """Return the elements of an array, and the bytes that say so."""
    first = value[at]
    if first & 0xF0 == 0x90:
        return first & 0x0F, 1
    return (int.from_bytes(value[at + 1 : at + 3], "big"), 3) if first == 0xDC else (0, 1)


def _counted(n_elements: int, n_bytes: int) -> bytes:
    return bytes([0x90 | n_elements]) if n_bytes == 1 else b"\xdc" + n_elements.to_bytes(2, "big")
