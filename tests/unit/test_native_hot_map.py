"""A hot map answers as a dictionary does, and takes no value whose key is another one or none."""

import gc
import random
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.ids import shown
from warpstore._native import HotMap, MemoryPool, scatter, set_values, slot_of
from warpstore.values import TOMBSTONE, tombstone, with_deadline

QUICK = settings(max_examples=60, derandomize=True, deadline=None)
EDGES = sorted(
    {s * (1 << bits) + by for bits in (0, 5, 7, 8, 15, 16, 31, 32, 62) for by in (-1, 0, 1) for s in (1, -1)}
)
LENGTHS = (0, 1, 7, 15, 16, 31, 32, 33, 127, 128, 129, 254, 255, 256, 257, 4095, 4096)
TAGS = (0, 1, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**63 - 1)
KEYS: list[Any] = [
    *EDGES,
    2**63 - 1,
    -(2**63),
    *("k" * n for n in LENGTHS),
    *("é" * (n // 2) for n in LENGTHS if n > 1),
    *(b"\xc0" * n for n in LENGTHS),
]


def value(key: Any, *, tag: int = 1, n: int = 0, deadline: int | None = None) -> bytes:
    array: bytes = msgspec.msgpack.encode([tag, key, n])
    return array if deadline is None else with_deadline(array, deadline)


keys = st.one_of(
    st.sampled_from(KEYS),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-40, 140),
    st.text(max_size=40),
    st.binary(max_size=40),
)
values = st.one_of(
    st.builds(
        lambda tag, n, deadline: lambda key: value(key, tag=tag, n=n, deadline=deadline),
        st.sampled_from(TAGS),
        st.sampled_from([0, 1, 300]),
        st.sampled_from([None, 0, 2**40, -1, -(2**63)]),
    ),
    st.just(lambda key: TOMBSTONE),
    st.just(lambda key: tombstone(3, key)),
)
writes = st.lists(st.tuples(keys, values), max_size=60)


def seen(written: bytes) -> bytes:
    return TOMBSTONE if written[:1] == b"\xc0" else written


def filled(pairs: list[Any]) -> tuple[HotMap, dict[Any, bytes]]:
    found, expected = HotMap(), {}
    for key, make in pairs:
        found.set(key, make(key))
        expected[key] = seen(make(key))
    return found, expected


def assert_same(found: HotMap, expected: dict[Any, bytes]) -> None:
    assert len(found) == len(expected)
    items = found.items()
    assert len(items) == len(expected)
    assert dict(items) == expected
    assert {type(key) for key, _ in items} == {type(key) for key in expected}
    for key, known in expected.items():
        assert found.get(key) == known


def test_a_new_map_is_empty() -> None:
    found = HotMap()
    assert (len(found), found.items(), found.get("a"), found.new_keys(), found.new_keys()) == (0, [], None, [], [])
    found.drop_tombstones()
    found.update(HotMap())
    assert len(found) == 0
    with pytest.raises(TypeError):
        HotMap(1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        HotMap(size=1)  # type: ignore[call-arg]


@given(writes, st.lists(keys, max_size=10))
@QUICK
def test_a_map_answers_as_a_dictionary(pairs: list[Any], others: list[Any]) -> None:
    found, expected = filled(pairs)
    assert_same(found, expected)
    for key in others:
        assert found.get(key) == expected.get(key)


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("deadline", [None, 5])
def test_a_key_of_every_form_is_found_behind_a_tag_of_every_width(tag: int, deadline: int | None) -> None:
    found = HotMap()
    expected = {key: value(key, tag=tag, deadline=deadline) for key in KEYS}
    for key, known in expected.items():
        found.set(key, known)
    assert_same(found, expected)


def test_a_record_of_any_number_of_fields_is_known_by_its_key() -> None:
    found = HotMap()
    for n in (0, 1, 13, 14, 15, 65_533, 65_534, 70_000):
        known = msgspec.msgpack.encode([1, f"k{n}", *range(n)])
        found.set(f"k{n}", known)
        assert found.get(f"k{n}") is known
    assert len(found) == 8


@given(writes, writes)
@QUICK
def test_an_update_sets_what_the_newer_map_holds(older: list[Any], newer: list[Any]) -> None:
    found, expected = filled(older)
    second, changes = filled(newer)
    found.update(second)
    assert_same(found, expected | changes)
    assert_same(second, changes)


@QUICK
@given(writes, writes)
def test_a_map_forgets_what_another_one_holds(pairs: list[Any], others: list[Any]) -> None:
    pool = MemoryPool()
    found, expected = HotMap(pool), {}
    for key, make in pairs:
        found.set(key, make(key))
        expected[key] = seen(make(key))
    newer, keys_of_newer = filled(others)
    n_bytes = pool.n_bytes
    found.forget(newer)
    left = {key: one for key, one in expected.items() if key not in keys_of_newer}
    assert_same(found, left)
    assert_same(newer, keys_of_newer)
    assert pool.n_bytes <= n_bytes
    for key, make in pairs:  # what was forgotten comes back
        found.set(key, make(key))
    assert_same(found, expected)
    del found
    assert pool.n_bytes == 0


def test_a_map_forgets_tens_of_thousands_of_keys() -> None:
    found, newer = HotMap(), HotMap()
    for i in range(20_000):
        found.set(i, value(i))
        if i % 3:
            newer.set(i, TOMBSTONE if i % 2 else value(i, n=1))
    found.forget(newer)
    assert sorted(found.items()) == [(i, value(i)) for i in range(0, 20_000, 3)]
    assert [found.get(i) for i in range(20_000)] == [None if i % 3 else value(i) for i in range(20_000)]
    newer.forget(found)
    assert len(newer) == 13_333


@pytest.mark.parametrize("bad", [None, {}, 1, "itself"])
def test_a_map_forgets_only_what_another_map_holds(bad: Any) -> None:
    found = HotMap()
    with pytest.raises(TypeError, match="another HotMap"):
        found.forget(found if bad == "itself" else bad)


@pytest.mark.parametrize("deadline", [None, 2**40])
@pytest.mark.parametrize("n_places", [1, 6, 21])
def test_a_key_of_every_form_is_found_behind_a_note_of_parts(n_places: int, deadline: int | None) -> None:
    note = b"\xc1" + bytes([2 + 12 * n_places]) + b"\x00\x05" + b"\xd3\xdc\xc0\x92" * (3 * n_places)
    for tag in TAGS:
        found = HotMap()
        split = {key: note + value(key, tag=tag) for key in KEYS}
        if deadline is not None:
            split = {key: with_deadline(one, deadline) for key, one in split.items()}
        for key, one in split.items():
            found.set(key, one)
        assert_same(found, split)


@pytest.mark.parametrize(
    "data", [b"\xc1", b"\xc1\x00", b"\xc1\xff\x92\x01\x05", b"\xc1\x02\x00\x05", b"\xd3" * 9 + b"\xc1"]
)
def test_a_note_with_no_key_behind_it_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        HotMap().set(5, data)


@given(writes)
@QUICK
def test_dropped_tombstones_leave_everything_else(pairs: list[Any]) -> None:
    found, expected = filled(pairs)
    found.drop_tombstones()
    assert_same(found, {key: known for key, known in expected.items() if known})
    found.set("again", value("again"))
    assert found.get("again") == value("again")


@given(writes, writes)
@QUICK
def test_new_keys_come_once_and_in_the_order_they_came(first: list[Any], second: list[Any]) -> None:
    found, expected = filled(first)
    assert set(found.new_keys()) == set(expected)
    assert found.new_keys() == []
    came = []
    for key, make in second:
        if key not in expected:
            came.append(key)
        found.set(key, make(key))
        expected[key] = seen(make(key))
    assert found.new_keys() == came
    assert found.new_keys() == []


def test_a_map_grows_to_tens_of_thousands_of_keys_and_shrinks_by_its_tombstones() -> None:
    rng = random.Random(1)
    found, expected = HotMap(), {}
    small = sys.getsizeof(found)
    for i in range(30_000):
        key = rng.choice((f"key{i}", i, b"%d" % i))
        found.set(key, value(key, n=i))
        expected[key] = value(key, n=i)
    assert_same(found, expected)
    assert sys.getsizeof(found) > small + 16 * 30_000
    for key in rng.sample(list(expected), 10_000):
        found.set(key, TOMBSTONE)
        expected[key] = TOMBSTONE
    assert_same(found, expected)
    found.drop_tombstones()
    expected = {key: known for key, known in expected.items() if known}
    assert_same(found, expected)
    other = HotMap()
    other.update(found)
    assert_same(other, expected)


# What is refused


@pytest.mark.parametrize(
    ("key", "other"),
    [
        ("a", "b"),
        ("a", b"a"),
        (b"a", "a"),
        ("a", "ab"),
        ("ab", "a"),
        (1, 2),
        (1, "1"),
        (-1, 255),
        (255, -1),
        (128, -128),
        ("", b""),
        ("x" * 31, "x" * 32),
        ("x" * 255, "x" * 256),
        (2**32 - 1, -1),
    ],
)
def test_a_value_of_another_key_is_refused(key: Any, other: Any) -> None:
    found = HotMap()
    for made in (value(other), value(other, deadline=9), tombstone(1, other)):
        with pytest.raises(ValueError, match="of another key"):
            found.set(key, made)
    assert (len(found), found.get(key)) == (0, None)


@given(keys, st.sampled_from(TAGS), st.sampled_from([None, 7]))
@QUICK
def test_a_value_cut_off_within_its_key_is_refused(key: Any, tag: int, deadline: int | None) -> None:
    whole = value(key, tag=tag, deadline=deadline)[:-1]  # without its last field
    found = HotMap()
    slot = slot_of(key)
    for n in {*range(1, min(len(whole), 40)), *range(max(1, len(whole) - 20), len(whole))}:
        with pytest.raises(ValueError):
            found.set(key, whole[:n])
        with pytest.raises(ValueError):
            set_values([HotMap()], slot, [whole[:n]])
    found.set(key, whole)
    set_values([found], slot, [whole])
    assert len(found) == 1


@given(st.binary(max_size=40) | st.binary(min_size=1, max_size=30).map(lambda tail: b"\x93\x01" + tail))
@settings(max_examples=400, derandomize=True, deadline=None)
def test_random_bytes_are_a_value_or_a_value_error(data: bytes) -> None:
    maps = [HotMap() for _ in range(256)]
    try:
        set_values(maps, 0, [data])
    except ValueError:
        assert sum(map(len, maps)) == 0
        return
    assert sum(map(len, maps)) == 1
    [found] = [some for some in maps if len(some)]
    other = HotMap()
    other.update(found)
    other.update(found)
    assert len(other) == 1
    try:
        [(key, known)] = found.items()
    except ValueError:  # its key is no text
        return
    assert known == seen(data)
    assert isinstance(key, str | bytes | int)


@pytest.mark.parametrize("bad", ["text", None, bytearray(b"\x92\x01\xa1a"), 5, memoryview(b"\x92\x01\xa1a")], ids=shown)
def test_a_value_is_exactly_bytes(bad: Any) -> None:
    with pytest.raises(TypeError):
        HotMap().set("a", bad)
    with pytest.raises(TypeError):
        set_values([HotMap()], slot_of("a"), [bad])


@pytest.mark.parametrize(
    ("key", "error"),
    [
        (True, TypeError),
        (None, TypeError),
        (2**63, OverflowError),
        ("x" * 4097, ValueError),
        ("\ud800", UnicodeEncodeError),
    ],
    ids=["bool", "None", "2^63", "4097 bytes", "surrogate"],
)
def test_a_wrong_key_is_refused(key: Any, error: type[Exception]) -> None:
    found = HotMap()
    with pytest.raises(error):
        found.get(key)
    with pytest.raises(error):
        found.set(key, value("a"))
    assert len(found) == 0


def test_a_map_is_updated_from_another_map_only() -> None:
    found = HotMap()
    for bad in (found, {}, None, HotMap):
        with pytest.raises(TypeError, match="another HotMap"):
            found.update(bad)  # type: ignore[arg-type]


# References


@pytest.mark.parametrize("key", ["k", "é" * 100, b"k" * 300, 5, 2**40])
def test_a_map_holds_one_reference_to_a_value(key: Any) -> None:
    first, second = value(key, n=1000), value(key, n=1001)
    before = sys.getrefcount(first)
    found = HotMap()
    found.set(key, first)
    assert sys.getrefcount(first) == before + 1
    found.set(key, first)
    assert sys.getrefcount(first) == before + 1
    got = found.get(key)
    assert got is first
    assert sys.getrefcount(first) == before + 2
    del got
    found.set(key, second)
    assert (sys.getrefcount(first), sys.getrefcount(second)) == (before, before + 1)
    other = HotMap()
    other.update(found)
    other.update(found)
    assert sys.getrefcount(second) == before + 2
    items = other.items()
    assert sys.getrefcount(second) == before + 3
    del items
    other.set(key, TOMBSTONE)
    assert sys.getrefcount(second) == before + 1
    other.drop_tombstones()
    del found, other
    gc.collect()
    assert (sys.getrefcount(first), sys.getrefcount(second)) == (before, before)


def test_a_refused_value_is_not_held() -> None:
    made = value("other")
    key = "x" * 40 + "é"
    before = (sys.getrefcount(made), sys.getrefcount(key))
    for _ in range(10):
        with pytest.raises(ValueError):
            HotMap().set(key, made)
    assert (sys.getrefcount(made), sys.getrefcount(key)) == before


def test_growth_and_dropped_tombstones_keep_the_reference_counts() -> None:
    made = [value(i, n=i) for i in range(3000)]
    before = [sys.getrefcount(one) for one in made]
    found = HotMap()
    for i, one in enumerate(made):
        found.set(i, one)
    dead = [tombstone(1, i) for i in range(0, 3000, 2)]
    held = [sys.getrefcount(one) for one in dead]
    for i in range(0, 3000, 2):
        found.set(i, dead[i // 2])
    del one
    assert [sys.getrefcount(one) for one in made] == [n + i % 2 for i, n in enumerate(before)]
    found.drop_tombstones()
    assert len(found) == 1500
    del found
    assert [sys.getrefcount(one) for one in made] == before
    assert [sys.getrefcount(one) for one in dead] == held


# Many at a time


@given(st.lists(st.tuples(keys, st.sampled_from(TAGS), st.sampled_from([None, 4])), max_size=60))
@QUICK
def test_values_set_together_reach_the_maps_of_their_slots(drawn: list[Any]) -> None:
    maps = [HotMap() for _ in range(256)]
    expected = {key: value(key, tag=tag, deadline=deadline) for key, tag, deadline in drawn}
    made = [value(key, tag=tag, deadline=deadline) for key, tag, deadline in drawn]
    set_values(maps, 0, made)
    assert sum(map(len, maps)) == len(expected)
    for key, known in expected.items():
        assert maps[slot_of(key)].get(key) == known


def test_the_values_of_a_shard_are_set_from_its_first_slot_on() -> None:
    near = [f"k{i}" for i in range(2000) if 64 <= slot_of(f"k{i}") < 128]
    maps = [HotMap() for _ in range(64)]
    set_values(maps, 64, [value(key) for key in near])
    assert all(maps[slot_of(key) - 64].get(key) == value(key) for key in near)
    set_values(maps, 64, [tombstone(1, key) for key in near])
    assert all(maps[slot_of(key) - 64].get(key) == TOMBSTONE for key in near)
    assert sum(map(len, maps)) == len(near)


def test_a_value_of_another_slot_is_refused() -> None:
    far = next(f"k{i}" for i in range(2000) if not 64 <= slot_of(f"k{i}") < 128)
    for first in (64, -1000, 1000, sys.maxsize, -sys.maxsize - 1):
        with pytest.raises(ValueError, match="another slot"):
            set_values([HotMap() for _ in range(64)], first, [value(far)])
    with pytest.raises(ValueError):
        set_values([{} for _ in range(256)], 0, [value("a")])  # type: ignore[list-item]


@pytest.mark.parametrize("data", [b"", b"\x90", b"\x92\x01", b"\x92\x01\xc2", b"\xc0\x92\x00", b"\x92\x01\xda\xff\xff"])
def test_a_value_without_a_key_is_refused(data: bytes) -> None:
    maps = [HotMap() for _ in range(256)]
    with pytest.raises(ValueError, match="no key"):
        set_values(maps, 0, [data])


def test_a_value_whose_key_is_over_4_kib_is_refused() -> None:
    with pytest.raises(ValueError, match="the limit is 4096"):
        set_values([HotMap() for _ in range(256)], 0, [value("x" * 4097)])


@pytest.mark.parametrize("arguments", [((), 0, []), ([], 0, ()), ([], "0", []), ([], 0), ([], 2**70, [])], ids=shown)
def test_set_values_takes_maps_a_slot_and_values(arguments: Any) -> None:
    with pytest.raises(TypeError):
        set_values(*arguments)


def test_records_are_scattered_by_slot() -> None:
    by_slot: list[list[bytes]] = [[] for _ in range(256)]
    made = [value(f"k{i}", n=i) for i in range(500)]
    before = [sys.getrefcount(one) for one in made]
    scatter(lambda i: (slot_of(f"k{i}"), f"k{i}", made[i]), list(range(500)), by_slot)
    for slot, found in enumerate(by_slot):
        assert found == [made[i] for i in range(500) if slot_of(f"k{i}") == slot]
    assert [sys.getrefcount(one) for one in made] == [n + 1 for n in before]


@pytest.mark.parametrize(
    "encoded", [None, (1, "a"), [1, "a", b""], (256, "a", b""), (-1, "a", b""), ("1", "a", b"")], ids=shown
)
def test_an_encoder_that_gives_no_slot_key_and_value_is_refused(encoded: Any) -> None:
    with pytest.raises(TypeError):
        scatter(lambda record: encoded, [1], [[] for _ in range(256)])


def test_what_an_encoder_raises_ends_the_scattering() -> None:
    by_slot: list[list[bytes]] = [[] for _ in range(256)]

    def encode(record: int) -> tuple[int, str, bytes]:
        if record == 2:
            raise KeyError(record)
        return record, "k", b"v"

    with pytest.raises(KeyError, match="2"):
        scatter(encode, [0, 1, 2, 3], by_slot)
    assert by_slot[:4] == [[b"v"], [b"v"], [], []]


@pytest.mark.parametrize("n_slots", [0, 255, 257])
def test_scatter_takes_a_list_for_each_slot(n_slots: int) -> None:
    with pytest.raises(TypeError, match="a list a slot"):
        scatter(lambda record: (0, "k", b"v"), [1], [[] for _ in range(n_slots)])
    with pytest.raises(TypeError):
        scatter(lambda record: (0, "k", b"v"), [1], [()] * 256)  # type: ignore[list-item]
