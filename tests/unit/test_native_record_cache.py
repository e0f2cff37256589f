"""What a table keeps decoded is given out as a copy, and only for the value that is the key's newest."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import msgspec
import pytest

from tests.support.worlds import Token, User, users, world_in
from warpstore._native import DONE, Decoder, HotMap, MemoryTable
from warpstore.annotations import Key
from warpstore.record import Record, plan_of


class Memory(MemoryTable[Any]):
    async def _get(self, key: Any, /) -> Any:
        return ("get", key)


class Cached:
    """A table with one slot map for all its keys, which counts what is decoded."""

    def __init__(self, cls: Any = User, *, n_known: int = 1, **changes: Any) -> None:
        self.codec = plan_of(cls).bind(1)
        self.parse: Callable[[Any], Any] = self.codec.parse
        self.decoded: list[bytes] = []
        self.young, self.old = HotMap(), HotMap()
        parts: dict[str, Any] = {**self.codec.memory_table(), "parse": self._parse, "parse_many": None}
        parts |= {"n_known": n_known, "puts_at_once": True, "ephemeral": None}
        self.table: Any = Memory(**parts | changes)
        for slot in range(256):
            self.table._set_slot(slot, (self.young, self.old), [], lambda: None, None, None)

    def _parse(self, value: bytes) -> Any:
        self.decoded.append(value)
        return self.parse(value)

    def put(self, record: Any) -> None:
        assert self.table._write_now(self.codec.encode(record)) == DONE

    def read(self, key: Any) -> Any:
        return self.table._record(key)

    def keep(self, record: Any) -> None:
        self.put(record)
        for _ in range(20):
            assert self.read(record.id) == record
        n = len(self.decoded)
        assert self.read(record.id) == record
        assert len(self.decoded) == n


RECORD = User(id="a", n=1, tags=["x"])


def test_a_record_is_kept_when_it_is_decoded_for_the_second_time_in_a_row() -> None:
    cached = Cached()
    cached.put(RECORD)
    for n in (1, 2, 2, 2):
        assert cached.read("a") == RECORD
        assert len(cached.decoded) == n


def test_what_is_done_to_a_record_that_was_read_changes_none_that_is_read_later() -> None:
    cached = Cached()
    cached.put(RECORD)
    for _ in range(5):
        found = cached.read("a")
        assert found == RECORD
        found.tags.append("y")
        found.n, found.id = 9, "other"
    assert cached.read("other") is None


def test_a_record_that_is_replaced_is_read_anew_and_kept_again_at_its_second_read() -> None:
    cached = Cached()
    cached.keep(RECORD)
    for _ in range(100):
        cached.read("a")
    for n in range(2, 6):
        record = User(id="a", n=n)
        cached.put(record)
        before = len(cached.decoded)
        for decoded in (1, 2, 2, 2):
            assert cached.read("a") == record
            assert len(cached.decoded) == before + decoded


def test_a_record_that_is_replaced_by_an_equal_one_is_read() -> None:
    cached = Cached()
    cached.keep(RECORD)
    cached.keep(RECORD)


def test_a_record_that_is_deleted_or_forgotten_is_not_read() -> None:
    cached = Cached()
    cached.keep(RECORD)
    cached.young.set("a", b"")
    assert cached.read("a") is None
    cached.keep(RECORD)
    while len(cached.young):
        cached.young.evict(1 << 20)
    assert cached.read("a") is None
    cached.table._close_slots()
    assert cached.read("a") is None


def test_what_a_newer_map_has_hides_what_is_kept_of_an_older_one() -> None:
    cached = Cached()
    value = cached.codec.encode(RECORD)[2]
    cached.old.set("a", value)
    for _ in range(4):
        assert cached.read("a") == RECORD
    assert len(cached.decoded) == 2
    cached.young.set("a", b"")
    assert cached.read("a") is None
    cached.young.set("a", value)
    assert cached.read("a") == RECORD
    assert len(cached.decoded) == 2
    cached.young.set("a", cached.codec.encode(User(id="a", n=2))[2])
    assert cached.read("a") == User(id="a", n=2)


def test_a_value_with_a_deadline_is_never_kept() -> None:
    cached = Cached()
    cached.keep(RECORD)
    expiring = b"\xd3" + (2**62).to_bytes(8, "big") + cached.codec.encode(RECORD)[2]
    cached.young.set("a", expiring)
    for _ in range(4):
        assert cached.read("a") is None


def test_what_is_read_again_and_again_outlasts_some_reads_of_other_keys() -> None:
    cached = Cached()
    cached.keep(RECORD)
    for _ in range(100):
        cached.read("a")
    cached.put(User(id="b"))
    for _ in range(15):
        assert cached.read("b") == User(id="b")
    n = len(cached.decoded)
    assert cached.read("a") == RECORD
    assert len(cached.decoded) == n
    for _ in range(20):
        assert cached.read("b") == User(id="b")
    n = len(cached.decoded)
    assert cached.read("b") == User(id="b")
    assert len(cached.decoded) == n
    assert cached.read("a") == RECORD
    assert len(cached.decoded) == n + 1


@pytest.mark.parametrize("n_known", [0, 1, 8, 1000])
def test_reads_among_writes_and_deletes_give_what_a_dict_gives(n_known: int) -> None:
    rng = random.Random(n_known)
    cached, model = Cached(n_known=n_known), dict[str, Any]()
    cached.table._spend(-1 << 20)
    for step in range(6000):
        key = f"key {rng.randrange(12)}"
        action = rng.random()
        if action < 0.08:
            model[key] = User(id=key, n=step, tags=[str(step)])
            cached.put(model[key])
        elif action < 0.11:
            model.pop(key, None)
            cached.young.set(key, b"")
        elif action < 0.12:
            cached.old.update(cached.young)
        else:
            found = cached.read(key)
            assert found == model.get(key)
            if found is not None:
                found.tags.clear()


def test_uuid_keys_are_told_from_one_another() -> None:
    cached = Cached(Token, n_known=1)
    tokens = [Token(id=UUID(int=n << 64 | n), value=float(n)) for n in range(1, 30)]
    for token in tokens:
        cached.keep(token)
        assert cached.read(UUID(str(token.id))) == token
    for token in tokens * 3:
        assert cached.read(token.id) == token
    assert cached.read(UUID(int=5)) is None
    assert cached.read(str(tokens[0].id)) is None


@pytest.mark.parametrize("key", [1.0, True, b"a", None, type("Text", (str,), {})("a")], ids=repr)
def test_a_key_that_only_equals_another_one_is_none(key: Any) -> None:
    cached = Cached()
    cached.keep(RECORD)
    assert cached.read(key) is None

    class Counted(Record):
        id: Annotated[int, Key()]

    numbers = Cached(Counted)
    numbers.keep(Counted(id=1))
    assert numbers.read(key) is None


def test_a_record_s_end_may_read_the_table() -> None:
    class Ended(Record):
        id: Annotated[str, Key()]
        is_kept: bool = False

        def __del__(self) -> None:
            if self.is_kept and open_ends:
                open_ends.clear()
                read.extend(cached.read("c").id for _ in range(20))
                open_ends.append(True)

    open_ends, read = [True], list[str]()
    cached = Cached(Ended, copy=lambda record: Ended(id=record.id, is_kept=True))
    cached.table._spend(-1 << 20)
    for key in "abc":
        cached.young.set(key, cached.codec.encode(Ended(id=key))[2])
    for key in "aaaabbbbbbbbaaaaaaaaccccbbbb":
        assert cached.read(key).id == key
    open_ends.clear()
    assert set(read) == {"c"}


def test_what_a_copy_raises_is_raised_and_nothing_wrong_is_kept() -> None:
    def copied(record: Any) -> Any:
        if failing:
            raise ZeroDivisionError
        return cached.codec.copy(record)  # type: ignore[misc]

    failing = True
    cached = Cached(copy=copied)
    cached.put(RECORD)
    assert cached.read("a") == RECORD
    with pytest.raises(ZeroDivisionError):
        cached.read("a")
    failing = False
    for _ in range(3):
        assert cached.read("a") == RECORD
    failing = True
    with pytest.raises(ZeroDivisionError):
        cached.read("a")


# Many at once, by a decoder


def decoding(slow: Callable[[Any], Any]) -> Decoder:
    return Decoder(
        record_type=User,
        prefix=b"\x95\x01",
        fields=(("id", str), ("n", int), ("note", str), ("tags", list, str)),
        slow=slow,
    )


def many(slow: Callable[[Any], Any]) -> Cached:
    return Cached(parse=decoding(slow), parse_many=lambda values: None)


def slow_value(record: User) -> bytes:
    """Return the record's value in a form that a decoder does not take."""
    return b"\xdc\x00" + bytes([0x05]) + msgspec.msgpack.encode([1, record.id, record.n, record.note, record.tags])[1:]


def test_records_are_decoded_in_order_and_each_is_the_caller_s_own() -> None:
    def slow(value: bytes) -> Any:
        taken.append(value)
        return cached.codec.decode(value)

    taken: list[bytes] = []
    cached = many(slow)
    for user in users(0, 100):
        cached.put(user)
    keys = [user.id for user in users(0, 100)]
    assert cached.table._records(keys) == users(0, 100)
    for user in cached.table._records(keys):
        user.tags.append("x")
    assert cached.table._records(keys) == users(0, 100)
    assert cached.table._records([*keys[:50], *keys[:50]]) == users(0, 50) * 2
    assert cached.table._records([]) == []
    assert taken == []
    cached.young.set(keys[20], slow_value(users(20, 21)[0]))
    assert cached.table._records(keys) == users(0, 100)
    assert len(taken) == 1
    for absent in (0, 15, 16, 99):
        assert cached.table._records([*keys[:absent], "none", *keys[absent:]]) is None
    cached.young.set(keys[40], b"")
    assert cached.table._records(keys) is None


def test_values_that_are_replaced_while_records_are_decoded_stay_whole() -> None:
    def slow(value: bytes) -> Any:
        for user in before:
            cached.young.set(user.id, cached.codec.encode(User(id=user.id, n=-1))[2])
        kept.extend(bytes([n]) * (len(value) - n % 5) for n in range(200))
        return cached.codec.decode(value)

    before = [User(id=f"user {i}", n=i, note="a note of some length", tags=["tag"]) for i in range(40)]
    kept: list[bytes] = []
    cached = many(slow)
    for user in before:
        value = slow_value(user) if user.n == 0 else cached.codec.encode(user)[2]
        cached.young.set(user.id, bytes(memoryview(value)))  # of the interpreter's allocator, as `kept` is
        del value
    found = cached.table._records([user.id for user in before])
    assert found[:16] == before[:16]
    assert [user.n for user in found[16:]] == [-1] * 24


@pytest.mark.parametrize("at", [0, 7, 15, 16, 39])
def test_a_value_that_cannot_be_decoded_ends_it(at: int) -> None:
    def slow(value: bytes) -> Any:
        raise error

    cached = many(slow)
    keys = [user.id for user in users(0, 40)]
    for user in users(0, 40):
        cached.put(user)
    cached.young.set(keys[at], slow_value(users(at, at + 1)[0]))
    error: Exception = msgspec.ValidationError("none")
    assert cached.table._records(keys) is None
    error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        cached.table._records(keys)
    cached.put(users(at, at + 1)[0])
    assert cached.table._records(keys) == users(0, 40)


async def test_a_table_of_a_store_keeps_up_with_all_that_changes(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world, world.open(User, durability="memory") as store:
        table = store[User]
        for n in range(4):
            await table.put(User(id="a", n=n))
            for _ in range(4):
                found = await table.get("a")
                assert found == User(id="a", n=n)
                found.tags.append("x")
        await store.checkpoint()
        for _ in range(4):
            assert await table.get("a") == User(id="a", n=3)
        await table.put(User(id="a", n=5), ttl=5)
        for _ in range(4):
            assert await table.get("a") == User(id="a", n=5)
        world.clock.wall_s += 6
        assert await table.get("a") is None
        await table.put(User(id="a", n=6))
        for _ in range(4):
            assert await table.get("a") == User(id="a", n=6)
        await table.delete("a")
        assert await table.get("a") is None
