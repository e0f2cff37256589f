"""A pool counts what its hot maps hold, to the byte, whatever was done to them; an evicted key takes no other along."""

import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warpstore._native import HotMap, MemoryPool, key_hash, set_values
from warpstore.hot_tier import HotTier
from warpstore.values import TOMBSTONE, tombstone

QUICK = settings(max_examples=40, derandomize=True, deadline=None)
EMPTY = sys.getsizeof(HotMap())
BUCKET_BYTES = 128
EVERYTHING = 1 << 40


def value(key: Any, n_bytes: int = 0, tag: int = 1) -> bytes:
    encoded: bytes = msgspec.msgpack.encode([tag, key, b"v" * n_bytes])
    return encoded


def allocated(data: bytes) -> int:
    """Return what the allocator takes: pymalloc's 16-byte classes, above 512 bytes malloc's with its header."""
    n = sys.getsizeof(data)
    return ((n + 8 if n > 512 else n) + 15) // 16 * 16


def tombstone_cost(key: Any) -> int:
    """Return what the map's own tombstone of a key costs."""
    alone = HotMap()
    alone.set(key, TOMBSTONE)
    return alone.n_bytes - BUCKET_BYTES


def table_bytes(found: HotMap) -> int:
    return sys.getsizeof(found) - EMPTY


class Modelled:
    """A hot map, and a dictionary with what each of its values must cost."""

    def __init__(self, pool: MemoryPool | None, *, dirty: bool = False) -> None:
        self.map = HotMap(pool, dirty)
        self.costs: dict[Any, int] = {}

    @property
    def n_bytes(self) -> int:
        return table_bytes(self.map) + sum(self.costs.values())

    def set(self, key: Any, written: bytes) -> None:
        self.map.set(key, written)
        self.costs[key] = allocated(written) if written else tombstone_cost(key)

    def forget_absent(self) -> None:
        kept = dict(self.map.items())
        self.costs = {key: cost for key, cost in self.costs.items() if key in kept}


keys = st.one_of(st.integers(0, 60), st.text(max_size=8), st.binary(min_size=1, max_size=24))
lengths = st.sampled_from([0, 1, 6, 7, 8, 15, 16, 200, 460, 461, 470, 480, 500, 2000])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("set"), keys, lengths),
        st.tuples(st.just("delete"), keys, st.booleans()),
        st.tuples(st.just("evict"), st.integers(0, 6000), st.none()),
        st.tuples(st.just("drop"), st.none(), st.none()),
        st.tuples(st.just("update"), st.lists(st.tuples(keys, lengths), max_size=20), st.booleans()),
    ),
    max_size=60,
)


@given(steps, st.booleans())
@QUICK
def test_every_pool_counts_what_a_model_counts_and_nothing_when_the_maps_are_gone(some: list[Any], dirty: bool) -> None:
    store = MemoryPool()
    pool = MemoryPool(store)
    other = MemoryPool(store)
    neighbour = Modelled(other)
    neighbour.set("neighbour", value("neighbour", 300))
    own = Modelled(pool, dirty=dirty)
    for what, first, second in some:
        if what == "set":
            own.set(first, value(first, second))
        elif what == "delete":
            own.set(first, tombstone(3, first) if second else TOMBSTONE)
        elif what == "evict":
            before = own.map.n_bytes
            freed = own.map.evict(first)
            assert before - own.map.n_bytes == freed >= 0
            own.forget_absent()
        elif what == "drop":
            own.map.drop_tombstones()
            own.forget_absent()
        else:
            newer = Modelled(pool, dirty=second)
            for key, length in first:
                newer.set(key, value(key, length))
            own.map.update(newer.map)
            own.costs |= newer.costs
            assert newer.map.n_bytes == 0
            assert len(newer.map) == len(newer.costs)
            del newer
        assert own.map.n_bytes == own.n_bytes == pool.n_bytes
        assert pool.dirty_bytes == (own.n_bytes if dirty else 0)
        assert store.n_bytes == own.n_bytes + neighbour.n_bytes
        assert store.dirty_bytes == pool.dirty_bytes
        assert len(own.map) == len(own.costs)
        for key in own.costs:
            assert own.map.get(key) is not None
    del own, neighbour
    assert (pool.n_bytes, pool.dirty_bytes, other.n_bytes, store.n_bytes, store.dirty_bytes) == (0, 0, 0, 0, 0)


def test_a_dirty_map_taken_into_a_clean_one_is_clean_and_counted_once() -> None:
    pool = MemoryPool(MemoryPool())
    young, clean = HotMap(pool, dirty=True), HotMap(pool)
    set_values([young], key_hash("a") & 255, [value("a", 400)])
    assert pool.dirty_bytes == pool.n_bytes == BUCKET_BYTES + allocated(value("a", 400))
    clean.update(young)
    assert pool.dirty_bytes == 0
    assert pool.n_bytes == BUCKET_BYTES + allocated(value("a", 400))
    assert young.get("a") == value("a", 400)
    young.set("b", value("b", 9))
    assert pool.n_bytes == clean.n_bytes
    young.evict(EVERYTHING)
    del young
    assert pool.n_bytes == clean.n_bytes


def test_an_update_of_many_generations_counts_the_newest_values() -> None:
    pool = MemoryPool()
    clean = HotMap(pool)
    for length in (100, 3000, 7):
        newer = HotMap(pool, dirty=True)
        for key in range(500):
            newer.set(key, value(key, length))
        clean.update(newer)
        assert pool.n_bytes == table_bytes(clean) + sum(allocated(value(key, length)) for key in range(500))
    assert pool.dirty_bytes == 0


def test_a_chain_of_pools_counts_in_all_of_them() -> None:
    pools = [MemoryPool()]
    for _ in range(20):
        pools.append(MemoryPool(pools[-1]))
    found = HotMap(pools[-1], True)
    found.set(1, value(1))
    pools[3].charge(5)
    assert {pool.n_bytes for pool in pools[4:]} == {found.n_bytes}
    assert {pool.n_bytes for pool in pools[:4]} == {found.n_bytes + 5}
    assert {pool.dirty_bytes for pool in pools} == {found.n_bytes}
    pools[3].charge(-5)
    del found
    assert {pool.n_bytes for pool in pools} == {0}


def test_a_map_keeps_its_pool_alive_and_a_pool_its_parent() -> None:
    found = HotMap(MemoryPool(MemoryPool()))
    for key in range(100):
        found.set(key, value(key))
    assert found.evict(EVERYTHING) > 0


def test_a_map_without_a_pool_counts_for_itself() -> None:
    found = HotMap()
    assert found.n_bytes == 0
    found.set("a", value("a", 5))
    assert found.n_bytes == BUCKET_BYTES + allocated(value("a", 5))


# Eviction


def test_an_empty_map_gives_nothing() -> None:
    found = HotMap(MemoryPool())
    for n_bytes in (0, 1, -1, EVERYTHING, -(1 << 63), (1 << 63) - 1):
        assert found.evict(n_bytes) == 0
    assert (len(found), found.n_bytes) == (0, 0)


def test_nothing_goes_where_nothing_is_wanted_and_everything_where_all_is() -> None:
    found = HotMap(MemoryPool())
    for key in range(300):
        found.set(key, value(key))
    for n_bytes in (0, -1, -(1 << 63)):
        assert found.evict(n_bytes) == 0
    assert len(found) == 300
    before = found.n_bytes
    assert found.evict((1 << 63) - 1) == before - BUCKET_BYTES
    assert (len(found), found.n_bytes, found.items()) == (0, BUCKET_BYTES, [])
    assert found.evict(1) == 0
    found.set("again", value("again"))
    assert found.get("again") == value("again")


def test_only_as_much_goes_as_is_wanted() -> None:
    found = HotMap()
    for key in range(1000):
        found.set(key, value(key, 50))
    one = allocated(value(999, 50))
    assert one <= found.evict(1) <= one + 16
    assert len(found) == 999
    assert 10 * one <= found.evict(10 * one) < 11 * one + 16


def test_a_value_that_was_looked_up_is_spared_once() -> None:
    found = HotMap()
    for key in range(64):
        found.set(key, value(key))
    for key in range(10):
        assert found.get(key) == value(key)
    found.evict(EVERYTHING)
    assert {key for key, _ in found.items()} == set(range(10))
    assert found.evict(EVERYTHING) > 0
    assert len(found) == 0


def test_the_clock_goes_on_where_it_stopped() -> None:
    found = HotMap()
    for key in range(600):
        found.set(key, value(key))
    for key in range(600):
        found.get(key)
    assert found.evict(1) == 0  # a look at every value takes all marks
    for _ in range(300):
        last = {key for key, _ in found.items()}
        assert found.evict(1) > 0
        assert {key for key, _ in found.items()} < last
    assert len(found) == 300


def test_a_mark_outlives_a_growing_and_a_shrinking_table() -> None:
    found = HotMap()
    for key in range(5):
        found.set(key, value(key))
    assert found.get(3) == value(3)
    for key in range(5, 2000):
        found.set(key, value(key))
    found.evict(EVERYTHING)
    assert found.items() == [(3, value(3))]
    assert table_bytes(found) == BUCKET_BYTES


def test_a_replaced_value_keeps_the_mark() -> None:
    found = HotMap()
    for key in range(6):
        found.set(key, value(key))
    found.get(2)
    found.set(2, value(2, 700))
    found.evict(EVERYTHING)
    assert found.items() == [(2, value(2, 700))]


def test_tombstones_are_evicted_too() -> None:
    found = HotMap()
    for key in range(100):
        found.set(key, TOMBSTONE if key % 2 else tombstone(2, key))
    found.evict(EVERYTHING)
    assert (len(found), found.get(1)) == (0, None)


def of_bucket(bucket: int, n_buckets: int, n: int, start: int = 0) -> list[int]:
    """Return int keys whose bucket, in a table of so many, is the given one."""
    found: list[int] = []
    key = start
    while len(found) < n:
        if (key_hash(key) >> 8) % n_buckets == bucket:
            found.append(key)
        key += 1
    return found


def test_a_lookup_of_an_absent_key_ends_where_both_buckets_were_full_once() -> None:
    found = HotMap()
    first = of_bucket(0, 2, 9)
    second = of_bucket(1, 2, 8)
    for key in first:
        found.set(key, value(key))  # the ninth goes into the other bucket
    found.get(first[-1])
    assert table_bytes(found) == 2 * BUCKET_BYTES
    for _ in range(7):
        assert found.evict(1) == allocated(value(1))
    assert (len(found), table_bytes(found)) == (2, 2 * BUCKET_BYTES)
    kept = [key for key, _ in found.items()]
    for key in second:
        found.set(key, value(key))
    assert found.get(10**9) is None
    assert all(found.get(key) == value(key) for key in (*kept, *second))


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 900)), max_size=200), st.integers(1, 12))
@QUICK
def test_every_key_that_is_kept_is_found_after_any_evictions(writes: list[tuple[int, int]], every: int) -> None:
    found = HotMap()
    known: dict[int, bytes] = {}
    for i, (key, wanted) in enumerate(writes):
        for near in range(key, key + 8):
            found.set(near, value(near))
            known[near] = value(near)
        if i % every == 0:
            found.evict(wanted)
            kept = dict(found.items())
            assert kept.items() <= known.items()
            known = kept  # type: ignore[assignment]
        for near, written in known.items():
            assert found.get(near) == written
        assert found.get(10**6 + i) is None


def test_the_table_shrinks_when_most_of_it_has_gone() -> None:
    pool = MemoryPool()
    found = HotMap(pool)
    for key in range(5000):
        found.set(key, value(key))
    large = table_bytes(found)
    for key in range(50):
        found.get(key)
    found.evict(EVERYTHING)
    assert table_bytes(found) <= large // 32
    assert pool.n_bytes == table_bytes(found) + sum(allocated(value(key)) for key in range(50))
    assert dict(found.items()) == {key: value(key) for key in range(50)}
    assert all(found.get(key) == value(key) for key in range(50))


# Bad arguments


@pytest.mark.parametrize("bad", ["1", 1.5, None, b""])
def test_what_is_no_number_of_bytes_is_refused(bad: Any) -> None:
    with pytest.raises(TypeError):
        HotMap().evict(bad)
    with pytest.raises(TypeError):
        MemoryPool().charge(bad)


def test_a_number_of_more_than_64_bits_is_refused() -> None:
    pool = MemoryPool()
    found = HotMap(pool)
    found.set(1, value(1))
    for n_bytes in (1 << 63, -(1 << 63) - 1):
        with pytest.raises(OverflowError):
            found.evict(n_bytes)
        with pytest.raises(OverflowError):
            pool.charge(n_bytes)
    assert pool.n_bytes == found.n_bytes


def test_only_a_pool_is_taken_for_one() -> None:
    for bad in (1, "pool", HotMap(), object()):
        with pytest.raises(TypeError):
            HotMap(bad)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            MemoryPool(bad)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        MemoryPool(None, None)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        HotMap(None, False, 1)  # type: ignore[call-arg]


def test_a_pool_is_initialised_once_and_its_counts_are_not_for_others_to_set() -> None:
    pool = MemoryPool(MemoryPool())
    with pytest.raises(RuntimeError):
        pool.__init__(MemoryPool())
    for name in ("n_bytes", "dirty_bytes"):
        with pytest.raises(AttributeError):
            setattr(pool, name, 1)
    with pytest.raises(AttributeError):
        HotMap().n_bytes = 1


def test_a_failed_set_and_a_failed_update_charge_nothing() -> None:
    pool = MemoryPool()
    found = HotMap(pool)
    for key, written in (("a", value("b")), ("a", b"\x00")):
        with pytest.raises(ValueError, match="key"):
            found.set(key, written)
    for bad in (found, 1, None):
        with pytest.raises(TypeError):
            found.update(bad)  # type: ignore[arg-type]
    assert (pool.n_bytes, len(found)) == (0, 0)


# A hot tier


def test_a_tier_gives_what_is_wanted_from_all_of_its_slots() -> None:
    pool = MemoryPool()
    tier = HotTier(1, range(256), None, pool)
    for key in range(2000):
        tier.promote(key_hash(key) & 255, key, value(key, 100))
    one = allocated(value(1999, 100))
    assert one <= tier.evict(1) < 16 * one
    before = pool.n_bytes
    freed = tier.evict(100 * one)
    assert before - pool.n_bytes == freed
    assert 100 * one <= freed < 120 * one
    assert tier.evict(EVERYTHING) > 0
    assert tier.n_resident() == 0
    assert tier.evict(EVERYTHING) == 0


def test_a_tier_takes_nothing_from_what_no_checkpoint_holds() -> None:
    pool = MemoryPool()
    tier = HotTier(1, range(256), None, pool)
    for key in range(100):
        tier.put(key_hash(key) & 255, key, value(key))
    tier.begin_cut()
    for key in range(100, 200):
        tier.put(key_hash(key) & 255, key, value(key))
    assert tier.evict(EVERYTHING) == 0
    assert pool.dirty_bytes == pool.n_bytes
    for key in range(200):
        assert tier.in_memory(key_hash(key) & 255, key) == value(key)
