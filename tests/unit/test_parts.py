"""What is split is joined again to the very same bytes, and a damaged note is refused."""

import random
from collections.abc import Callable
from typing import Annotated, Any

import msgpack
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import warpstore as ws
from warpstore._native import HotMap
from warpstore.parts import (
    ITEMS_MAX,
    PARTS_MAX,
    PartPlan,
    Place,
    head_of,
    is_split,
    is_split_value,
    is_worth_it,
    join,
    parts_of,
    places_of,
    size_class,
    split,
    split_value,
)
from warpstore.record import plan_of
from warpstore.schema import Schema
from warpstore.values import DEADLINE_BYTES, split_payload, with_deadline

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
    | st.binary(max_size=300)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=20))
)
nested = st.lists(scalars, max_size=18) | st.dictionaries(st.text(max_size=4), scalars, max_size=18)
things = scalars | nested | st.lists(nested, max_size=3)
places = st.builds(
    Place,
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**40 - 1),
    st.integers(0, ITEMS_MAX - 1),
    st.integers(0, 2**11 - 1),
)
OTHER_FORMS: dict[int, Callable[[int], bytes]] = {
    0xC4: lambda n: b"\xc4" + bytes([n]) + bytes(n),
    0xC5: lambda n: b"\xc5" + n.to_bytes(2, "big") + bytes(n),
    0xC6: lambda n: b"\xc6" + n.to_bytes(4, "big") + bytes(n),
    0xC7: lambda n: b"\xc7" + bytes([n, 5]) + bytes(n),
    0xC8: lambda n: b"\xc8" + n.to_bytes(2, "big") + b"\5" + bytes(n),
    0xC9: lambda n: b"\xc9" + n.to_bytes(4, "big") + b"\5" + bytes(n),
    0xD9: lambda n: b"\xd9" + bytes([n]) + b"a" * n,
    0xDA: lambda n: b"\xda" + n.to_bytes(2, "big") + b"a" * n,
    0xDB: lambda n: b"\xdb" + n.to_bytes(4, "big") + b"a" * n,
    0xDC: lambda n: b"\xdc" + n.to_bytes(2, "big") + b"\xc0" * n,
    0xDD: lambda n: b"\xdd" + n.to_bytes(4, "big") + b"\xc0" * n,
    0xDE: lambda n: b"\xde" + n.to_bytes(2, "big") + b"\xc0" * 2 * n,
    0xDF: lambda n: b"\xdf" + n.to_bytes(4, "big") + b"\xc0" * 2 * n,
}
FIXED = {
    0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8,
    0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17, 0x00: 0, 0x7F: 0, 0xE0: 0, 0xFF: 0,
}  # fmt: skip


def plans_at(*firsts: int) -> list[PartPlan]:
    return [PartPlan(first, "lz4", cache=True) for first in firsts]


def there_and_back(value: bytes, firsts: list[int], some: list[Place]) -> None:
    """Split and join, and look at everything that a split value says of itself."""
    head, parts = split(value, plans_at(*firsts))
    assert head + b"".join(parts) == value
    made = split_value(head, firsts[0], some)
    skip = DEADLINE_BYTES if value[0] == 0xD3 else 0
    body = made[skip:]
    assert is_split(body)
    assert is_split_value(made)
    assert not is_split_value(value)
    assert places_of(body) == some
    assert (
        msgpack.unpackb(head_of(body), strict_map_key=False)
        == msgpack.unpackb(value[skip:], strict_map_key=False)[: firsts[0]]
    )
    assert join(made, parts) == value
    tag, key, kept = split_payload(made)
    assert (tag, key) == split_payload(value)[:2]
    assert kept == made
    hot = HotMap()
    hot.set(key, made)  # finds the key inside
    assert hot.get(key) == made
    assert hot.items() == [(key, made)]


@settings(max_examples=60)
@given(
    st.lists(things, min_size=1, max_size=20),
    st.data(),
    st.none() | st.integers(0, 2**62),
    st.sampled_from(["key", 5, -(2**40), b"bytes", b"x" * 300, "y" * 4000]),
)
def test_a_record_that_is_split_and_joined_is_the_same(
    fields: list[Any], data: st.DataObject, deadline: int | None, key: Any
) -> None:
    value = msgpack.packb([7, key, *fields])
    if deadline is not None:
        value = with_deadline(value, deadline)
    firsts = sorted(
        data.draw(st.sets(st.integers(2, 1 + len(fields)), min_size=1, max_size=min(PARTS_MAX, len(fields))))
    )
    there_and_back(value, firsts, data.draw(st.lists(places, min_size=len(firsts), max_size=len(firsts))))


@pytest.mark.parametrize("n", [3, 14, 15, 16, 17, 255, 256, 65_535])
@pytest.mark.parametrize("tag", [1, 200, 300, 70_000, 2**40])
def test_arrays_of_every_size_are_split_and_joined(n: int, tag: int) -> None:
    value = msgpack.packb([tag, "key", *range(n - 2)])
    for first in {2, 3, min(14, n - 1), min(15, n - 1), min(16, n - 1), n - 1} - {n}:
        if first < n:
            there_and_back(value, [first], [Place(1, 2, 3)])
            there_and_back(with_deadline(value, 99), [first], [Place(1, 2, 3)])


@pytest.mark.parametrize("form", sorted(OTHER_FORMS))
@pytest.mark.parametrize("n", [0, 1, 200])
def test_every_form_with_a_length_is_passed_over(form: int, n: int) -> None:
    thing = OTHER_FORMS[form](n)
    value = b"\x95\x01\xa1k" + thing + thing + b"\x2a"
    head, parts = split(value, plans_at(3, 4))
    assert head == b"\x95\x01\xa1k" + thing
    assert parts == [thing, b"\x2a"]
    assert join(split_value(head, 3, [Place(1, 1, 1), Place(2, 2, 2)]), parts) == value


@pytest.mark.parametrize("form", sorted(FIXED))
def test_every_form_without_a_length_is_passed_over(form: int) -> None:
    thing = bytes([form]) + b"\xc1" * FIXED[form]
    value = b"\x94\x01\xa1k" + thing + b"\x2a"
    assert split(value, plans_at(2, 3)) == (b"\x94\x01\xa1k", [thing, b"\x2a"])


def test_an_array_in_the_form_of_16_elements_keeps_it_though_the_head_has_fewer() -> None:
    value = msgpack.packb([1, "key", *[None] * 14])
    assert value[0] == 0xDC
    head, parts = split(value, plans_at(2))
    made = split_value(head, 2, [Place(0, 0, 0)])
    assert head_of(made)[:3] == b"\xdc\x00\x02"
    assert msgpack.unpackb(head_of(made)) == [1, "key"]
    assert join(made, parts) == value


@given(st.integers(1, 20 << 20))
@example(63)
@example(64)
@example(20 << 20)
def test_the_class_of_a_size_says_it_within_3_percent_and_fits(n_bytes: int) -> None:
    size = size_class(n_bytes)
    assert 0 <= size < 2**11
    assert n_bytes * 0.968 <= Place(0, 0, 0, size).n_bytes <= n_bytes


def test_a_larger_size_has_no_smaller_class() -> None:
    sizes = sorted({random.Random(0).randrange(1, 1 << 24) for _ in range(2000)} | set(range(300)))
    classes = [Place(0, 0, 0, size_class(n)).n_bytes for n in sizes]
    assert classes == sorted(classes)


@settings(max_examples=60)
@given(st.lists(places, min_size=1, max_size=PARTS_MAX), st.data())
def test_a_damaged_note_is_refused_or_read_as_other_places_never_more(some: list[Place], data: st.DataObject) -> None:
    value = msgpack.packb([1, "key", *"abcdef"])
    made = bytearray(split_value(split(value, plans_at(2))[0], 2, some))
    for _ in range(data.draw(st.integers(1, 3))):
        made[data.draw(st.integers(1, 3 + 12 * len(some)))] = data.draw(st.integers(0, 255))
    cut = bytes(made[: data.draw(st.integers(0, len(made)))])
    for body in (bytes(made), cut):
        try:
            found = places_of(body)
        except ValueError:
            continue
        assert 1 <= len(found) <= (255 - 2) // 12


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 13, 15, 25, 27, 255])
def test_a_note_of_another_length_is_refused(n: int) -> None:
    made = bytearray(split_value(msgpack.packb([1, "key", 3])[:-1], 2, [Place(1, 2, 3)]))
    made[1] = n
    with pytest.raises(ValueError, match="damaged"):
        places_of(bytes(made))


@pytest.mark.parametrize("n", range(17))
def test_a_note_that_is_cut_off_or_has_nothing_behind_it_is_refused(n: int) -> None:
    made = split_value(msgpack.packb([1, "key", 3])[:-1], 2, [Place(1, 2, 3)])
    with pytest.raises(ValueError, match="damaged"):
        places_of(made[:n])


def test_parts_shorter_than_their_note_are_not_worth_it() -> None:
    assert not is_worth_it([b"", b""])
    assert not is_worth_it([bytes(16)])
    assert is_worth_it([bytes(17)])
    assert not is_worth_it([bytes(27), b"\x90"])
    assert is_worth_it([bytes(28), b"\x90"])


class Everything(ws.Record):
    a: Annotated[bytes, ws.Disk(compression="none", cache=False)] = b""
    b: Annotated[str, ws.Disk(compression="max")] = ""
    id: Annotated[int, ws.Key()]
    c: str = ""
    d: Annotated[int, ws.Disk()] = 0
    e: Annotated[list[str], ws.Disk(compression="lz4", cache=False)] = []
    f: Annotated[float, ws.Gpu(dtype="f4")] = 0.0
    g: Annotated[str, ws.Disk(compression="none")] = ""
    h: Annotated[str, ws.Disk(compression="max", cache=False)] = ""
    i: Annotated[int, ws.Computed(lambda r: len(r.c), of=("c",)), ws.Disk()] = ws.derived()
    j: Annotated[bool, ws.Memory()] = False


class Nothing(ws.Record):
    id: Annotated[int, ws.Key()]
    text: str = ""


def test_fields_of_one_kind_make_one_part_and_all_parts_come_last() -> None:
    schema = plan_of(Everything).schema
    plans = parts_of(schema)
    assert len(plans) == PARTS_MAX
    assert len({(plan.compression, plan.cache) for plan in plans}) == PARTS_MAX
    first = plans[0].first
    assert {field.tier for field in schema.fields[: first - 1]} == {"memory", "gpu", "auto"}
    assert {field.tier for field in schema.fields[first - 1 :]} == {"disk"}
    ends = [*[plan.first for plan in plans[1:]], 1 + len(schema.fields)]
    for plan, end in zip(plans, ends, strict=True):
        for field in schema.fields[plan.first - 1 : end - 1]:
            options = dict(field.options)
            assert (options.get("compression", "lz4"), options.get("cache", True)) == (plan.compression, plan.cache)
    assert {len(schema.fields[plan.first - 1 : end - 1]) for plan, end in zip(plans, ends, strict=True)} == {1, 2}


def test_a_type_without_disk_fields_has_no_parts() -> None:
    assert parts_of(plan_of(Nothing).schema) == []


def test_a_schema_whose_disk_fields_do_not_come_last_has_no_parts() -> None:
    schema = plan_of(Everything).schema
    data = schema.to_builtins()
    data["fields"] = [*data["fields"][:1], *reversed(data["fields"][1:])]
    assert parts_of(Schema.from_builtins(data)) == []


def test_a_record_of_every_kind_of_part_decodes_after_a_round_trip() -> None:
    codec = plan_of(Everything).bind(3)
    record = Everything(id=5, a=b"a" * 50, b="b" * 50, c="c", d=4, e=["e"] * 9, f=1.5, g="g", h="h" * 9, j=True)
    value = codec.encode(record)[2]
    plans = parts_of(plan_of(Everything).schema)
    head, parts = split(value, plans)
    assert len(parts) == PARTS_MAX
    some = [Place(9, i, i) for i in range(PARTS_MAX)]
    assert codec.decode(join(split_value(head, plans[0].first, some), parts)) == record
    fields = codec.project(("f", "j", "c"))(head_of(split_value(head, plans[0].first, some)))
    assert (fields.id, fields.f, fields.j, fields.c) == (5, 1.5, True, "c")
    assert codec.needs_whole(["i"])  # it is computed, and on disk
    assert not codec.needs_whole(["id", "f", "j", "c"])


def test_a_plan_is_data() -> None:
    plan = PartPlan(4, "max", cache=False)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(plan), type=PartPlan) == plan
