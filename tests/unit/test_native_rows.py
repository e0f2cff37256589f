"""Rows give a block's or a generation's values in key order, and merged runs are what plain Python makes of them."""

import gc
import random
import struct
import subprocess
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.ids import shown
from warpstore._native import HotMap, Rows, merge, slot_of
from warpstore.values import TOMBSTONE, tombstone, with_deadline

QUICK = settings(max_examples=80, derandomize=True, deadline=None)


def value(key: Any, *, tag: int = 1, n: Any = 0, deadline: int | None = None) -> bytes:
    array: bytes = msgspec.msgpack.encode([tag, key, n])
    return array if deadline is None else with_deadline(array, deadline)


def block(values: list[bytes]) -> bytes:
    return struct.pack(f"<I{len(values)}I", len(values), *map(len, values)) + b"".join(values)


def rows_of(values: list[bytes], *, is_last: bool = True, behind: bytes = b"") -> Rows:
    data = block(values)
    made = Rows.of_blocks(data + behind, [len(data)])
    made.is_last = is_last
    return made


def rank(key: Any) -> Any:
    return key.encode("utf-8", "surrogatepass") if isinstance(key, str) else key


KINDS: dict[str, st.SearchStrategy[Any]] = {
    "str": st.text(max_size=6) | st.sampled_from(["x" * n for n in (31, 32, 255, 256)]),
    "bytes": st.binary(max_size=6) | st.sampled_from([b"\xff" * n for n in (255, 256)]),
    "int": st.integers(-(2**63), 2**63 - 1) | st.integers(-300, 300),
}


# Blocks


@pytest.mark.parametrize("behind", [b"", b"more"])
def test_the_rows_of_a_block_are_its_values(behind: bytes) -> None:
    values = [value(f"k{i:03d}", n="x" * i) for i in range(100)]
    rows = rows_of(values, is_last=False, behind=behind)
    assert len(rows) == 100
    assert list(rows) == values
    assert [rows[i] for i in range(100)] == values
    assert (rows.is_last, rows.is_ordinary) == (False, False)
    assert list(rows_of([], behind=behind)) == []
    with pytest.raises(IndexError):
        rows[100]


def test_a_negative_index_counts_from_the_end_and_not_further() -> None:
    rows = rows_of([value("a"), value("b")])
    assert rows[-1] == value("b")
    for i in (-3, 2, 1000):
        with pytest.raises(IndexError):
            rows[i]


def test_a_block_keeps_its_data_and_lets_go_of_it() -> None:
    data = block([value("a")])
    before = sys.getrefcount(data)
    rows = Rows.of_blocks(data, [len(data)])
    assert sys.getrefcount(data) == before + 1
    del rows
    with pytest.raises(ValueError):
        Rows.of_blocks(data[1:], [len(data)])
    with pytest.raises(ValueError):
        Rows.of_blocks(data, [len(data) - 1])
    assert sys.getrefcount(data) == before


def test_a_block_cut_off_anywhere_is_refused() -> None:
    data = block([value("a"), value("bb"), b"", value("ccc")])
    for n in range(len(data)):
        with pytest.raises(ValueError, match="lengths of a block are wrong"):
            Rows.of_blocks(data[:n], [n])
        with pytest.raises(ValueError, match="lengths of a block are wrong"):
            Rows.of_blocks(data, [n])
        with pytest.raises(ValueError, match="lengths of a block are wrong"):
            Rows.of_blocks(data[:n], [len(data)])
    with pytest.raises(ValueError, match="lengths of a block are wrong"):
        Rows.of_blocks(data + b"x", [len(data) + 1])
    assert len(Rows.of_blocks(data, [len(data)])) == 4


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("forged", [0, 1, 2, 4, 255, 2**16, 2**30, 2**31 - 1, 2**31, 2**32 - 4, 2**32 - 1])
def test_a_forged_length_is_refused(at: int, forged: int) -> None:
    data = bytearray(block([value("a"), value("bb"), value("ccc")]))
    assert struct.unpack_from("<I", data, 4 * at)[0] != forged
    struct.pack_into("<I", data, 4 * at, forged)
    with pytest.raises(ValueError, match="lengths of a block are wrong"):
        Rows.of_blocks(bytes(data), [len(data)])


def test_lengths_that_add_up_only_modulo_2_32_are_refused() -> None:
    data = struct.pack("<III", 2, 2**32 - 1, 11) + bytes(10)
    with pytest.raises(ValueError, match="lengths of a block are wrong"):
        Rows.of_blocks(data, [len(data)])


@given(st.binary(max_size=60), st.lists(st.integers(0, 70), max_size=3))
@settings(max_examples=300, derandomize=True, deadline=None)
def test_random_bytes_are_blocks_or_a_value_error(data: bytes, sizes: list[int]) -> None:
    try:
        rows = Rows.of_blocks(data, sizes)
    except ValueError:
        return
    values, at = list(rows), 0
    for size in sizes:
        n = struct.unpack_from("<I", data, at)[0]
        assert block(values[:n]) == data[at : at + size]
        del values[:n]
        at += size
    assert values == []


def test_blocks_one_behind_another_are_one_run_of_rows() -> None:
    parts = [[value("a"), value("b")], [], [value("c")]]
    blocks = [block(part) for part in parts]
    rows = Rows.of_blocks(b"".join(blocks), [len(one) for one in blocks])
    assert list(rows) == [value("a"), value("b"), value("c")]
    rows.between("b", None)
    assert list(rows) == [value("b"), value("c")]


@pytest.mark.parametrize("sizes", [[sys.maxsize], [2**62, 2**62], [12, sys.maxsize], [12, 2**64 - 12]])
def test_a_block_beyond_the_address_space_is_refused(sizes: list[int]) -> None:
    program = f"""
from warpstore._native import Rows
try:
    Rows.of_blocks(bytes(100), {sizes})
except (ValueError, OverflowError):
    print("refused")
"""
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (child.returncode, child.stdout) == (0, "refused\n")


@pytest.mark.parametrize(
    "arguments",
    [(), (b"",), (bytearray(8), [8]), (memoryview(bytes(8)), [8]), (bytes(8), (8,)), (bytes(8), [-8]), (b"", [""])],
    ids=shown,
)
def test_of_blocks_takes_bytes_and_their_sizes(arguments: Any) -> None:
    with pytest.raises((TypeError, OverflowError)):
        Rows.of_blocks(*arguments)


def test_rows_are_made_by_their_static_methods_only() -> None:
    with pytest.raises(TypeError):
        Rows()


# Keys of maps


def maps_with(known: dict[Any, bytes]) -> list[HotMap]:
    maps = [HotMap() for _ in range(256)]
    for key, made in known.items():
        maps[slot_of(key)].set(key, made)
    return maps


@pytest.mark.parametrize("kind", KINDS)
def test_the_rows_of_keys_are_their_values_in_that_order(kind: str) -> None:
    @given(st.lists(KINDS[kind], max_size=40, unique=True), st.integers(0, 700))
    @QUICK
    def check(keys: list[Any], size: int) -> None:
        known = {key: value(key, n="x" * size) for key in keys}
        ordered = sorted(known, key=rank)
        rows = Rows.of_keys(maps_with(known), 0, ordered)
        assert list(rows) == [known[key] for key in ordered]

    check()


@pytest.mark.parametrize("reverse", [False, True])
def test_no_more_rows_of_keys_are_taken_than_so_many_bytes(reverse: bool) -> None:
    @given(st.lists(st.integers(0, 300), min_size=1, max_size=60), st.integers(0, 5_000))
    @QUICK
    def check(sizes: list[int], bytes_max: int) -> None:
        known = {i: value(i, n="x" * size) for i, size in enumerate(sizes)}
        maps = maps_with(known)
        keys = list(known)
        rows = Rows.of_keys(maps, 0, keys, bytes_max, reverse)
        taken: list[bytes] = []
        for key in keys[::-1] if reverse else keys:
            if not taken or sum(map(len, taken)) < bytes_max:
                taken.append(known[key])
        assert list(rows) == (taken[::-1] if reverse else taken)
        rows.is_last = len(rows) == len(keys)
        assert list(merge([rows], 100, reverse)) == taken

    check()
    assert len(Rows.of_keys([], 0, [], 10, reverse)) == 0


def test_rows_tell_whether_a_value_is_split() -> None:
    def split(tag: int, deadline: int | None = None) -> bytes:
        body = b"\xc1\x0e" + bytes(14) + value("k", tag=tag)
        return body if deadline is None else with_deadline(body, deadline)

    assert not rows_of([]).has_split(-1)
    assert not rows_of([value("k", deadline=5), value("l")]).has_split(-1)
    for tag in (0, 1, 127, 128, 300, 70_000, 2**40):
        for some in ([split(tag)], [value("a"), split(tag, 5)]):
            assert rows_of(some).has_split(-1)
            assert not rows_of(some).has_split(tag)
            assert rows_of(some).has_split(tag + 1)
    for cut in range(2, 17):
        assert rows_of([split(1)[:cut]]).has_split(1)  # for who reads it to refuse
    with pytest.raises(OverflowError):
        rows_of([]).has_split(2**64)


def test_a_deleted_key_has_a_row_too() -> None:
    rows = Rows.of_keys(maps_with({"a": value("a"), "b": TOMBSTONE}), 0, ["a", "b"])
    assert list(rows) == [value("a"), tombstone(0, "b")]


def test_a_key_that_is_in_no_map_is_a_key_error() -> None:
    maps = maps_with({"a": value("a")})
    for arguments in ((maps, 0, ["b"]), ([], 0, ["a"]), (maps, 256, ["a"]), (maps[:1], slot_of("a") + 1, ["a"])):
        with pytest.raises(KeyError):
            Rows.of_keys(*arguments)
    with pytest.raises(KeyError):
        Rows.of_keys([None] * 256, 0, ["a"])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("keys", "error"),
    [([True], TypeError), ([2**63], OverflowError), (["x" * 4097], ValueError), (["\ud800"], UnicodeEncodeError)],
    ids=["bool", "2^63", "4097", "surrogate"],
)
def test_a_wrong_key_among_them_is_refused(keys: list[Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Rows.of_keys(maps_with({}), 0, keys)
    for arguments in ((), ((), 0, []), ([], "0", []), ([], 0, ()), ([], 0, [], 1), ([], 0, [], "1", False)):
        with pytest.raises(TypeError):
            Rows.of_keys(*arguments)  # type: ignore[call-overload]


# Bounds


@pytest.mark.parametrize("kind", KINDS)
def test_between_keeps_what_lies_between(kind: str) -> None:
    bounds = {
        "str": st.text(max_size=6) | st.sampled_from(["", "\ud800", "x" * 5000, "x" * 31, "x" * 32, "\U0010ffff" * 9]),
        "bytes": st.binary(max_size=6) | st.sampled_from([b"", b"\xff" * 5000, b"\xff" * 256]),
        "int": st.integers(-(2**70), 2**70) | st.integers(-310, 310) | st.sampled_from([2**63, -(2**63) - 1, 2**200]),
    }[kind]

    @given(st.lists(KINDS[kind], max_size=30, unique=True), st.lists(st.tuples(st.none() | bounds, st.none() | bounds)))
    @QUICK
    def check(keys: list[Any], several: list[tuple[Any, Any]]) -> None:
        expected = sorted(keys, key=rank)
        rows = rows_of([value(key, deadline=5 if i % 3 else None) for i, key in enumerate(expected)])
        for start, stop in several:
            rows.between(start, stop)
            expected = [
                key
                for key in expected
                if (start is None or rank(start) <= rank(key)) and (stop is None or rank(key) < rank(stop))
            ]
            assert [msgspec.msgpack.decode(row[9:] if row[0] == 0xD3 else row)[1] for row in rows] == expected

    check()


@pytest.mark.parametrize("bound", [True, 1.5, bytearray(b"a"), [], HotMap], ids=shown)
def test_a_bound_is_a_key(bound: Any) -> None:
    rows = rows_of([value("a")])
    for start, stop in ((bound, None), (None, bound)):
        with pytest.raises(TypeError, match="a bound is"):
            rows.between(start, stop)
    with pytest.raises(TypeError):
        rows.between("a")  # type: ignore[call-arg]
    assert len(rows) == 1


# Merging


def plainly_merged(runs: list[list[tuple[Any, bytes]]]) -> list[bytes]:
    newest: dict[Any, bytes] = {}
    for run in reversed(runs):
        newest.update(run)
    return [newest[key] for key in sorted(newest, key=rank) if newest[key][0] != 0xC0]


def drained(pieces: list[list[list[bytes]]], limit: int, *, reverse: bool) -> tuple[list[bytes], list[bool]]:
    """Merge runs that come in pieces, as a scan does; return the rows and, of each merge, whether it was ordinary."""
    queues = [list(reversed(run)) if reverse else list(run) for run in pieces]
    runs = [rows_of([], is_last=not queue) for queue in queues]
    out: list[bytes] = []
    ordinary = []
    while True:
        for i, queue in enumerate(queues):
            while not runs[i] and not runs[i].is_last:
                runs[i] = rows_of(queue.pop(0), is_last=not queue)
        merged = merge(runs, limit, reverse)
        rows = list(merged)
        assert len(rows) <= limit
        if merged.is_ordinary:
            assert msgspec.msgpack.decode(merged.array()) == [msgspec.msgpack.decode(row) for row in rows]
        assert merged.is_ordinary == all(row[0] != 0xD3 for row in rows)
        ordinary.append(merged.is_ordinary)
        out += rows
        if merged.is_last:
            assert not any(map(len, runs))
            return out, ordinary


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_merged_runs_are_what_plain_python_makes_of_them(kind: str, reverse: bool) -> None:
    makers = st.sampled_from(["plain", "plain", "deadline", "tombstone"])

    @given(
        st.lists(st.dictionaries(KINDS[kind], makers, max_size=12), max_size=5),
        st.integers(1, 9),
        st.randoms(use_true_random=False),
    )
    @QUICK
    def check(drawn: list[dict[Any, str]], limit: int, rng: random.Random) -> None:
        runs = []
        for number, run in enumerate(drawn):
            make = {
                "plain": lambda key, n=number: value(key, n=n),
                "deadline": lambda key, n=number: value(key, n=n, deadline=n),
                "tombstone": lambda key: tombstone(1, key),
            }
            runs.append([(key, make[run[key]](key)) for key in sorted(run, key=rank)])
        expected = plainly_merged(runs)
        whole = merge([rows_of([made for _, made in run]) for run in runs], 1000, reverse)
        assert list(whole) == (expected[::-1] if reverse else expected)
        assert whole.is_last
        pieces = []
        for run in runs:
            cuts = sorted(rng.choices(range(len(run) + 1), k=2))
            ends = zip([0, *cuts], [*cuts, len(run)], strict=True)
            pieces.append([[made for _, made in run[start:stop]] for start, stop in ends])
        found, _ = drained(pieces, limit, reverse=reverse)
        assert found == (expected[::-1] if reverse else expected)

    check()


def test_the_first_run_counts_and_its_tombstone_hides_the_others() -> None:
    runs = [
        rows_of([value("a", n=1), tombstone(1, "b")]),
        rows_of([value("a", n=2), value("b", n=2), value("c", n=2, deadline=5)]),
        rows_of([value("a", n=3), value("b", n=3), value("c", n=3), value("d", n=3)]),
    ]
    merged = merge(runs, 10, False)
    assert list(merged) == [value("a", n=1), value("c", n=2, deadline=5), value("d", n=3)]
    assert (merged.is_last, merged.is_ordinary) == (True, False)


def test_a_merge_stops_where_a_run_may_go_on() -> None:
    runs = [rows_of([value("b")], is_last=False), rows_of([value("a"), value("c")])]
    merged = merge(runs, 10, False)
    assert (list(merged), merged.is_last) == ([value("a"), value("b")], False)
    assert list(map(len, runs)) == [0, 1]
    merged = merge(runs, 10, False)  # nothing can be said before its next rows are there
    assert (list(merged), merged.is_last, list(map(len, runs))) == ([], False, [0, 1])
    runs[0] = rows_of([value("bb")])
    merged = merge(runs, 10, False)
    assert (list(merged), merged.is_last) == ([value("bb"), value("c")], True)


def test_a_limit_leaves_the_rest_in_the_runs() -> None:
    runs = [rows_of([value(i) for i in range(0, 10, 2)]), rows_of([value(i) for i in range(1, 10, 2)])]
    first = merge(runs, 3, False)
    last = merge(runs, 3, True)
    assert (list(first), first.is_last) == ([value(0), value(1), value(2)], False)
    assert (list(last), last.is_last) == ([value(9), value(8), value(7)], False)
    assert list(merge(runs, 0, False)) == []
    rest = merge(runs, 4, False)
    assert (list(rest), rest.is_last) == ([value(i) for i in (3, 4, 5, 6)], True)


def test_nothing_merges_to_nothing() -> None:
    for runs in ([], [rows_of([])], [rows_of([]), rows_of([])]):
        merged = merge(runs, 5, False)
        assert (list(merged), merged.is_last, merged.is_ordinary, merged.array()) == (
            [],
            True,
            True,
            b"\xdd" + bytes(4),
        )


def test_large_values_are_merged() -> None:
    values = [value(i, n="x" * 5000) for i in range(50)]
    merged = merge([rows_of(values[::2]), rows_of(values[1::2])], 100, False)
    assert list(merged) == values
    assert msgspec.msgpack.decode(merged.array()) == [msgspec.msgpack.decode(one) for one in values]


def test_the_rows_of_maps_and_blocks_are_merged() -> None:
    newer = Rows.of_keys(maps_with({"a": TOMBSTONE, "c": value("c", n=2)}), 0, ["a", "c"])
    newer.is_last = True
    merged = merge([newer, rows_of([value("a"), value("b"), value("c")])], 10, False)
    assert list(merged) == [value("b"), value("c", n=2)]


def test_only_merged_rows_are_an_array() -> None:
    of_keys = Rows.of_keys(maps_with({"a": value("a")}), 0, ["a"])
    for rows in (rows_of([value("a")]), of_keys, rows_of([], behind=b"x"), rows_of([value("a")], behind=b"x")):
        with pytest.raises(ValueError, match="merge"):
            rows.array()


@pytest.mark.parametrize("bounds", [(None, "b"), ("b", None), (None, "")], ids=shown)
def test_merged_rows_that_were_narrowed_are_no_array_of_all(bounds: Any) -> None:
    merged = merge([rows_of([value("a"), value("b")])], 10, False)
    merged.between(*bounds)
    try:
        array = merged.array()
    except ValueError:
        return
    assert msgspec.msgpack.decode(array) == [msgspec.msgpack.decode(row) for row in merged]


# Rows that are no values

NO_VALUES = [
    b"",
    b"\x90",
    b"\xc0",
    b"\xd3" + bytes(8),
    b"\x92\x01",
    b"\x92\x01\xc2",
    b"\x92\x01\xa5ab",
    b"\x92\x01\xcf\0",
]
NO_VALUES += [b"\x92\x01\xda\xff", b"\x92\x01\xc4", b"\x92\x01\xdb\0\0\0\1a", b"\xdd\0\0\0\2", b"\x92\xcf" + bytes(8)]


@pytest.mark.parametrize("bad", NO_VALUES)
@pytest.mark.parametrize("reverse", [False, True])
def test_a_row_that_is_no_value_is_refused(bad: bytes, reverse: bool) -> None:
    for values in ([bad], [value("a"), bad, value("c")]):
        rows = rows_of(values)
        other = rows_of([value("b")])
        assert list(rows) == values
        with pytest.raises(ValueError, match="no stored value"):
            merge([other, rows], 10, reverse)
    with pytest.raises(ValueError, match="no stored value"):
        rows_of([bad]).between("a", None)
    with pytest.raises(ValueError, match="no stored value"):
        rows_of([bad]).between(None, "a")


@given(st.lists(st.binary(max_size=24), max_size=6), st.booleans())
@settings(max_examples=300, derandomize=True, deadline=None)
def test_random_rows_merge_or_are_a_value_error(values: list[bytes], reverse: bool) -> None:
    try:
        merged = merge([rows_of(values), rows_of([value("m")])], 10, reverse)
    except ValueError:
        return
    assert value("m") in list(merged)
    assert len(merged.array()) == 5 + sum(map(len, merged))


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ([], 1),
        ((), 1, False),
        ([], "1", False),
        ([None], 1, False),
        ([b""], 1, False),
        ([], -1, False),
        ([], 2**70, 0),
    ],
    ids=shown,
)
def test_merge_takes_rows_a_limit_and_a_direction(arguments: Any) -> None:
    with pytest.raises((TypeError, OverflowError)):
        merge(*arguments)


def test_one_run_given_twice_does_not_read_behind_its_rows() -> None:
    program = """
import struct
from warpstore._native import Rows, merge
data = struct.pack("<II", 1, 4) + bytes((0x92, 1, 0xA1, 97))
rows = Rows.of_blocks(data, [len(data)])
try:
    merged = list(merge([rows, rows], 10, False))
except (TypeError, ValueError):
    merged = [data[8:]]
print(merged == [data[8:]])
"""
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (child.returncode, child.stdout) == (0, "True\n")


def test_merged_rows_leave_no_reference_behind() -> None:
    data = block([value("a"), value("b")])
    before = sys.getrefcount(data)
    for reverse in (False, True):
        merged = merge([Rows.of_blocks(data, [len(data)]), Rows.of_blocks(data, [len(data)])], 10, reverse)
        assert len(merged) == 2
    gc.collect()
    assert sys.getrefcount(data) == before
