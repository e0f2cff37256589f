"""The series in a record's stored bytes: read without the rest of the record, and written back without some items.

A record keeps the schema it was written under; items are never decoded but for their times.
"""

from __future__ import annotations

import operator
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from warpstore._native import element_offsets
from warpstore.evolution import became
from warpstore.manifest import SchemaEntry
from warpstore.parts import head_of, is_split
from warpstore.plan import Plan
from warpstore.schema import Schema
from warpstore.temporal.horizons import Horizons
from warpstore.temporal.state import State, arrival_times, arrivals_now
from warpstore.temporal.times import ns_of
from warpstore.values import split_payload

_decode_raws = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode


class Series(NamedTuple):
    """A series of a table.

    Attributes:
        name: The field.
        number: Its number for ever.
        horizons: Its horizons.
        time: The field of an item that has its time, or None.
        decode: From an item's bytes to the item.
    """

    name: str
    number: int
    horizons: Horizons
    time: str | None
    decode: Callable[[bytes | memoryview | msgspec.Raw], Any]

    def times(self, items: Sequence[msgspec.Raw], state: State, now_ns: int) -> list[int]:
        """Return the times of the items that a record has, in nanoseconds.

        Raises:
            msgspec.DecodeError: they are no items of this series.
        """
        if self.time is None:
            known = state.arrivals.get(self.number, b"")
            return arrival_times(arrivals_now(known, [memoryview(item) for item in items], now_ns))
        get = operator.attrgetter(self.time)
        return [ns_of(get(self.decode(item))) for item in items]


class RecordSeries:
    """Finds the series of one table in its records.

    Args:
        plan: The record type.
        schemas: The table's schemas.
        numbers: The numbers of its series by name.

    Attributes:
        series: The series.
    """

    def __init__(self, plan: Plan[Any], schemas: Iterable[SchemaEntry], numbers: Mapping[str, int]) -> None:
        self.series: list[Series] = []
        for field in plan.temporal_fields:
            options = {"memory": field.memory_s, "ssd": field.ssd_s, "disk": field.disk_s, "archive": field.archive}
            horizons = Horizons.of(options)
            (item,) = typing.get_args(plan.fields[field.name].stored_hint)
            decode = msgspec.msgpack.Decoder(item).decode
            self.series.append(Series(field.name, numbers[field.name], horizons, field.time, decode))
        self._places: dict[int, list[tuple[int, Series]]] = {}
        entries = list(schemas)
        chain = [Schema.from_builtins(entry.schema) for entry in entries]
        by_name = {series.name: series for series in self.series}
        for i, entry in enumerate(entries):
            today = became(plan.schema, chain[i], chain[i + 1 : -1])
            names = [today.get(element.name, "") for element in chain[i].fields]
            places = [(place, by_name[name]) for place, name in enumerate(names, 1) if name in by_name]
            self._places[entry.tag] = sorted(places, key=lambda place: place[0])

    def read(self, body: bytes) -> list[tuple[Series, list[msgspec.Raw]]]:
        """Return the items of each series of a record, from its value without a deadline, whole or split."""
        array = head_of(body) if is_split(body) else body
        return [(series, _decode_raws(memoryview(array)[a:b])) for series, a, b in self._spans(array)]

    def write(self, body: bytes, items: Mapping[int, Sequence[msgspec.Raw]]) -> bytes:
        """Return a whole value with other items in some of its series, which are given by their numbers."""
        parts: list[bytes | memoryview] = []
        at = 0
        for series, start, end in self._spans(body):
            if series.number in items:
                these = items[series.number]
                parts += [body[at:start], _array_header(len(these)), *(memoryview(raw) for raw in these)]
                at = end
        return b"".join([*parts, body[at:]])

    def _spans(self, array: bytes) -> list[tuple[Series, int, int]]:
        places = self._places.get(split_payload(array)[0], [])
        if not places:
            return []
        n_elements = array[0] & 0x0F if array[0] & 0xF0 == 0x90 else int.from_bytes(array[1:3], "big")
        wanted = sorted({j for i, _ in places for j in (i, i + 1) if j < n_elements})
        offsets = dict(zip(wanted, element_offsets(array, 0, wanted), strict=True))
        return [(series, offsets[i], offsets.get(i + 1, len(array))) for i, series in places]

    def is_due(self, body: bytes, now_ns: int) -> bool:
        """Return whether a record may have items that are too old for it."""
        for series, items in self.read(body):
            if not items or not series.horizons.ages:
                continue
            if series.time is None:
                return True  # its times are beside the record
            age = now_ns - ns_of(getattr(series.decode(items[0]), series.time))
            if series.horizons.place(age) != "record":
                return True
        return False


def _array_header(n: int) -> bytes:
    if n < 16:
        return bytes([0x90 | n])
    return b"\xdc" + n.to_bytes(2, "big") if n < 1 << 16 else b"\xdd" + n.to_bytes(4, "big")
