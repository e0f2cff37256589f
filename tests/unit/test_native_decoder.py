"""The decoder in C gives what msgspec's gives, for any bytes at all, or hands over to the slow way."""

import gc
import math
import random
import struct
import sys
import tracemalloc
import typing
import weakref
from typing import Annotated, Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warpstore._native import Decoder
from warpstore.annotations import Disk, Ephemeral, Gpu, Key
from warpstore.record import Record, plan_of

TAG = 7


class TakenSlowlyError(Exception):
    pass


class Scalars(msgspec.Struct, array_like=True, tag=TAG, gc=False):
    id: str
    whole: int
    real: float
    flag: bool
    data: bytes
    text: str


class Lists(msgspec.Struct, array_like=True, tag=TAG, gc=False):
    id: int
    texts: list[str]
    wholes: list[int]
    reals: list[float]
    flags: list[bool]
    datas: list[bytes]


class Texts(msgspec.Struct, array_like=True, tag=TAG, gc=False):
    id: str
    wholes: dict[str, int]
    texts: dict[str, str]
    flags: dict[str, bool]


class Mappings(msgspec.Struct, array_like=True, tag=TAG, gc=False):
    id: bytes
    texts: dict[int, str]
    reals: dict[bytes, float]
    datas: dict[bool, bytes]
    wholes: dict[float, int]


class KeyOnly(msgspec.Struct, array_like=True, tag=TAG, gc=False):
    id: str


Wide: Any = msgspec.defstruct(
    "Wide", [(f"field_{19 - i}", (int, str, list[int])[i % 3]) for i in range(20)], array_like=True, tag=TAG, gc=False
)
CLASSES: list[Any] = [Scalars, Lists, Texts, Mappings, KeyOnly, Wide]
RECORDS = [
    Scalars("key", -70_000, 1.5, True, b"\x00\xff", "räksmörgås"),
    Lists(2**64 - 1, ["", "a", "longer than eight", "é"], [0, -1, 2**40], [0.5, -0.0], [True, False], [b"", b"xy"]),
    Texts(
        "k", {"a": 1, "": 300, "a key of more than thirty-two characters": -(2**63)}, {"é": "", "b": "c"}, {"x": True}
    ),
    Mappings(b"k", {1: "a", -200: "b"}, {b"": 2.5, b"xx": math.inf}, {True: b"t", False: b""}, {0.5: 1}),
    KeyOnly("only"),
    Wide(*((1, "two", [3, 4])[i % 3] for i in range(20))),
]


def described(cls: Any) -> tuple[tuple[Any, ...], ...]:
    hints = typing.get_type_hints(cls)
    return tuple(
        (name, typing.get_origin(hints[name]) or hints[name], *typing.get_args(hints[name]))
        for name in cls.__struct_fields__
    )


def refuse(value: Any) -> Any:
    raise TakenSlowlyError


def decoder_of(cls: Any, slow: Any = refuse) -> Decoder:
    n = len(cls.__struct_fields__)
    prefix = msgspec.msgpack.encode([TAG, *([None] * n)])[:-n]
    return Decoder(record_type=cls, prefix=prefix, fields=described(cls), slow=slow)


FAST = {cls: decoder_of(cls) for cls in CLASSES}
REFERENCE: dict[Any, Any] = {cls: msgspec.msgpack.Decoder(cls).decode for cls in CLASSES}
BOTH = {cls: decoder_of(cls, REFERENCE[cls]) for cls in CLASSES}


def outcome(decode: Any, value: Any) -> Any:
    """Return the record as text, which tells -0.0 from 0.0 and NaN from none, or the error."""
    try:
        return repr(decode(value))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return type(error), str(error)


def assert_same(cls: Any, value: Any) -> None:
    assert outcome(BOTH[cls], value) == outcome(REFERENCE[cls], value), bytes(value).hex()


def one(hint: Any) -> tuple[Any, Any, Any]:
    """Return for a class with one field of this type: the decoder, without and with a slow way, and msgspec's."""
    cls = msgspec.defstruct("One", [("x", hint)], array_like=True, tag=TAG, gc=False)
    reference = msgspec.msgpack.Decoder(cls).decode
    return decoder_of(cls), decoder_of(cls, reference), reference


def taken(hint: Any, body: bytes) -> Any:
    """Return the field's value, which the decoder has to take itself, and as msgspec does."""
    fast, _, reference = one(hint)
    value = b"\x92\x07" + body
    assert repr(fast(value)) == repr(reference(value))
    return fast(value).x


def left_to_the_slow_way(hint: Any, body: bytes) -> Any:
    """Return the outcome, which msgspec has to give."""
    fast, both, reference = one(hint)
    value = b"\x92\x07" + body
    with pytest.raises(TakenSlowlyError):
        fast(value)
    assert outcome(both, value) == outcome(reference, value)
    return outcome(both, value)


def heads(n: int, fixed: tuple[int, int] | None, wider: list[int]) -> list[bytes]:
    """Return every head for n items; ``fixed`` is (format, most items), ``wider`` those with 1, 2 and 4 bytes."""
    found = [bytes([fixed[0] + n])] if fixed is not None and n <= fixed[1] else []
    for width, code in zip((4, 2, 1), reversed(wider), strict=False):
        if n < 1 << 8 * width:
            found.append(bytes([code]) + n.to_bytes(width, "big"))
    return found


def text_heads(n: int) -> list[bytes]:
    return heads(n, (0xA0, 31), [0xD9, 0xDA, 0xDB])


# Scalars


@pytest.mark.parametrize(
    ("body", "number"),
    [
        (b"\x00", 0),
        (b"\x7f", 127),
        (b"\xe0", -32),
        (b"\xff", -1),
        *[(b"\xcc" + struct.pack(">B", n), n) for n in (0, 5, 127, 128, 255)],
        *[(b"\xcd" + struct.pack(">H", n), n) for n in (0, 255, 2**15, 2**16 - 1)],
        *[(b"\xce" + struct.pack(">I", n), n) for n in (0, 2**31, 2**32 - 1)],
        *[(b"\xcf" + struct.pack(">Q", n), n) for n in (0, 2**63 - 1, 2**63, 2**64 - 1)],
        *[(b"\xd0" + struct.pack(">b", n), n) for n in (0, 127, -1, -33, -128)],
        *[(b"\xd1" + struct.pack(">h", n), n) for n in (0, 2**15 - 1, -1, -(2**15))],
        *[(b"\xd2" + struct.pack(">i", n), n) for n in (0, 2**31 - 1, -1, -(2**31))],
        *[(b"\xd3" + struct.pack(">q", n), n) for n in (0, 2**63 - 1, -1, -(2**63))],
    ],
)
def test_an_int_of_any_width_is_taken(body: bytes, number: int) -> None:
    assert taken(int, body) == number
    assert taken(list[int], b"\x92" + body * 2) == [number] * 2
    assert taken(dict[int, int], b"\x81" + body * 2) == {number: number}
    assert left_to_the_slow_way(float, body) == f"One(x={float(number)})"


@pytest.mark.parametrize("number", [0.0, -0.0, 1.5, -1e300, 5e-324, math.inf, -math.inf, math.nan])
def test_a_float_of_64_bits_is_taken(number: float) -> None:
    assert repr(taken(float, b"\xcb" + struct.pack(">d", number))) == repr(number)
    if math.isfinite(number) and abs(number) < 1e38:
        left_to_the_slow_way(float, b"\xca" + struct.pack(">f", number))
    left_to_the_slow_way(int, b"\xcb" + struct.pack(">d", number))


def test_a_bool_is_taken() -> None:
    assert taken(bool, b"\xc2") is False
    assert taken(bool, b"\xc3") is True
    assert taken(list[bool], b"\x92\xc3\xc2") == [True, False]


SIZES = [0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 255, 256, 257, 65_535, 65_536]


@pytest.mark.parametrize("size", SIZES)
def test_text_of_any_head_and_length_is_taken(size: int) -> None:
    text = "".join(chr(32 + i % 90) for i in range(size))
    for head in text_heads(size):
        body = head + text.encode()
        assert taken(str, body) == text
        assert taken(list[str], b"\x92" + body * 2) == [text] * 2
        assert taken(dict[str, str], b"\x81" + body * 2) == {text: text}
        left_to_the_slow_way(bytes, body)


@pytest.mark.parametrize("size", SIZES)
def test_bytes_of_any_head_and_length_are_taken(size: int) -> None:
    data = bytes(i % 256 for i in range(size))
    for head in heads(size, None, [0xC4, 0xC5, 0xC6]):
        assert taken(bytes, head + data) == data
        assert taken(dict[bytes, bytes], b"\x81" + (head + data) * 2) == {data: data}
        left_to_the_slow_way(str, head + data)


TEXTS = [
    "\0",
    "\x7f",
    "\x80",
    "é",
    "ÿ",
    "Ā",
    "€",
    "😀",
    "aé",
    "abcdefgé",
    "éabcdefgh",
    "abcdefgh€",
    "a" * 30 + "😀",
    "é" * 20,
]


@pytest.mark.parametrize("text", [*TEXTS, *(chr(i) for i in range(0, 256, 15))], ids=ascii)
def test_text_beyond_ascii_is_taken(text: str) -> None:
    body = msgspec.msgpack.encode(text)
    assert taken(str, body) == text
    assert taken(dict[str, str], b"\x81" + body * 2) == {text: text}


NO_TEXT = [
    b"\x80",
    b"\xff",
    b"\xc3",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xe2\x82",
    b"abcdefgh\xff",
    b"a\xc3",
]


@pytest.mark.parametrize("data", NO_TEXT)
def test_text_that_is_no_utf8_is_refused_as_msgspec_refuses_it(data: bytes) -> None:
    for head in text_heads(len(data)):
        assert left_to_the_slow_way(str, head + data)[0] is UnicodeDecodeError
        assert left_to_the_slow_way(list[str], b"\x92\xa1a" + head + data)[0] is UnicodeDecodeError
        assert left_to_the_slow_way(dict[str, int], b"\x81" + head + data + b"\x01")[0] is UnicodeDecodeError


@pytest.mark.parametrize("hint", [int, float, bool, bytes, str, list[int], dict[str, int]], ids=str)
def test_each_format_is_taken_or_left_as_msgspec_has_it(hint: Any) -> None:
    _, both, reference = one(hint)
    for code in range(256):
        for rest in (b"", b"\x00", b"\x01" * 4, bytes(20), b"\x00" * 3 + b"\x02" + b"\xa1a\x01" * 2):
            value = b"\x92\x07" + bytes([code]) + rest
            assert outcome(both, value) == outcome(reference, value), value.hex()


# Containers


@pytest.mark.parametrize("n", [*range(41), 255, 256, 65_535, 65_536])
def test_containers_of_any_head_and_length_are_taken(n: int) -> None:
    numbers = [msgspec.msgpack.encode(i) for i in range(n)]
    for head in heads(n, (0x90, 15), [0xDC, 0xDD])[-1 if n > 256 else 0 :]:
        assert taken(list[int], head + b"".join(numbers)) == list(range(n))
    for head in heads(n, (0x80, 15), [0xDE, 0xDF])[-1 if n > 256 else 0 :]:
        found = taken(dict[str, int], head + b"".join(msgspec.msgpack.encode(str(i)) + numbers[i] for i in range(n)))
        assert list(found.items()) == [(str(i), i) for i in range(n)]
        assert taken(dict[int, int], head + b"".join(2 * number for number in numbers)) == {i: i for i in range(n)}


def test_of_equal_keys_the_last_value_counts_at_the_first_place() -> None:
    assert list(taken(dict[str, int], b"\x83\xa1a\x01\xa1b\x02\xa1a\x03").items()) == [("a", 3), ("b", 2)]
    assert taken(dict[int, int], b"\x82\x01\x01\xcc\x01\x02") == {1: 2}
    assert taken(
        dict[float, int], b"\x82" + b"\xcb" + struct.pack(">d", 0.0) + b"\x01\xcb" + struct.pack(">d", -0.0) + b"\x02"
    )
    long = msgspec.msgpack.encode("k" * 100)
    assert taken(dict[str, int], b"\x82" + long + b"\x01" + long + b"\x02") == {"k" * 100: 2}


def test_many_keys_are_not_taken_for_one_another() -> None:
    fast, _, _ = one(dict[str, int])
    rng = random.Random(3)
    words = ["".join(rng.choice("abé") for _ in range(rng.randrange(40))) for _ in range(3000)]
    for word in words + words[::-1]:
        assert fast(msgspec.msgpack.encode([TAG, {word: 1}])).x == {word: 1}


def test_a_short_key_that_comes_again_is_the_same_object() -> None:
    fast, _, _ = one(dict[str, int])
    value = msgspec.msgpack.encode([TAG, {"a key of eleven": 1}])
    (first,), (second,) = fast(value).x, fast(value).x
    assert first is second


def test_containers_are_the_record_s_own() -> None:
    fast = FAST[Lists]
    value = msgspec.msgpack.encode(RECORDS[1])
    first = fast(value)
    first.texts.append("more")
    assert fast(value) == RECORDS[1] != first


@pytest.mark.parametrize("count", [b"\xdd\xff\xff\xff\xff", b"\xdc\xff\xff", b"\x9f"])
def test_a_count_beyond_the_end_takes_no_memory(count: bytes) -> None:
    for hint in (list[int], list[str]):
        assert issubclass(left_to_the_slow_way(hint, count + b"\x01")[0], msgspec.DecodeError)
    assert left_to_the_slow_way(dict[int, int], bytes([count[0] + 2 if len(count) > 1 else 0x8F]) + count[1:] + b"\x01")


# Whole records


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_is_taken_and_is_of_its_class(record: Any) -> None:
    value = msgspec.msgpack.encode(record)
    found = FAST[type(record)](value)
    assert type(found) is type(record)
    assert repr(found) == repr(record) == repr(REFERENCE[type(record)](value))
    assert not gc.is_tracked(found)
    assert msgspec.msgpack.encode(found) == value


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_cut_off_anywhere_is_refused_as_msgspec_refuses_it(record: Any) -> None:
    value = msgspec.msgpack.encode(record)
    for n in range(len(value)):
        with pytest.raises(TakenSlowlyError):
            FAST[type(record)](value[:n])
        assert_same(type(record), value[:n])


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_with_a_changed_bit_is_what_msgspec_makes_of_it(record: Any) -> None:
    value = msgspec.msgpack.encode(record)
    for i in range(8 * len(value)):
        changed = bytearray(value)
        changed[i // 8] ^= 1 << i % 8
        assert_same(type(record), bytes(changed))


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_what_stands_around_a_record_is_left_to_the_slow_way(record: Any) -> None:
    value = msgspec.msgpack.encode(record)
    head = len(value) - len(value.lstrip(value[:1]))
    n = len(record.__struct_fields__) + 1
    tagged = value[3 if n > 15 else 1 :]
    wider = [b"\xdc" + n.to_bytes(2, "big") + tagged] if n <= 15 else []
    longer = (b"\xdc" + (n + 1).to_bytes(2, "big")) + tagged + b"\x01"
    assert head
    for other in (
        value + b"\x00",
        value + value,
        b"\x00" + value,
        value.replace(b"\x07", b"\x08", 1),
        b"",
        b"\xc0" + value,
        b"\xc1" + value,
        longer,
        b"\xdd" + n.to_bytes(4, "big") + tagged,
        *wider,
    ):
        with pytest.raises(TakenSlowlyError):
            FAST[type(record)](other)
        assert_same(type(record), other)


class OwnBytes(bytes):
    pass


@pytest.mark.parametrize("kind", [memoryview, bytearray, OwnBytes])
def test_another_buffer_is_left_to_the_slow_way(kind: Any) -> None:
    for record in RECORDS:
        value = kind(msgspec.msgpack.encode(record))
        with pytest.raises(TakenSlowlyError):
            FAST[type(record)](value)
        assert BOTH[type(record)](value) == record


def test_random_bytes_are_what_msgspec_makes_of_them() -> None:
    rng = random.Random(11)
    codes = b"\x00\x01\x80\x81\x82\x90\x91\x93\x9f\xa0\xa1\xa2\xbf\xc0\xc1\xc2\xc3\xc4\xca\xcb\xcc\xd0\xd9\xdc\xde\xff"
    for _ in range(12_000):
        cls = rng.choice(CLASSES[:5])
        n = len(cls.__struct_fields__)
        body = bytes(rng.choice(codes) if rng.random() < 0.8 else rng.randrange(256) for _ in range(rng.randrange(30)))
        assert_same(cls, bytes([0x91 + n, TAG]) + body)


texts = st.text(max_size=40)
wholes = st.integers(-(2**63), 2**64 - 1)
datas = st.binary(max_size=40)
reals = st.floats()
flags = st.booleans()
MADE: list[Any] = [
    st.builds(Scalars, texts, wholes, reals, flags, datas, texts),
    st.builds(Lists, wholes, *(st.lists(x, max_size=20) for x in (texts, wholes, reals, flags, datas))),
    st.builds(Texts, texts, *(st.dictionaries(texts, x, max_size=20) for x in (wholes, texts, flags))),
    st.builds(
        Mappings,
        datas,
        st.dictionaries(wholes, texts, max_size=9),
        st.dictionaries(datas, reals, max_size=9),
        st.dictionaries(flags, datas),
        st.dictionaries(reals, wholes, max_size=9),
    ),
    st.builds(KeyOnly, texts),
    st.tuples(*((wholes, texts, st.lists(wholes, max_size=3))[i % 3] for i in range(20))).map(lambda x: Wide(*x)),
]


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.one_of(MADE))
def test_any_record_is_taken_as_msgspec_takes_it(record: Any) -> None:
    value = msgspec.msgpack.encode(record)
    assert repr(FAST[type(record)](value)) == repr(REFERENCE[type(record)](value))


# Memory


def refused(value: bytes) -> None:
    return None


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_no_memory_is_kept(record: Any) -> None:
    cls = type(record)
    value = msgspec.msgpack.encode(record)
    bad = [value[:n] for n in range(len(value))] + [value + b"\x00", value[:2] + b"\xa1\xff" + value[4:]]
    decode = decoder_of(cls, refused)

    def run() -> None:
        for _ in range(20):
            decode(value)
            for one_bad in bad:
                decode(one_bad)

    run()
    references = sys.getrefcount(cls), sys.getrefcount(value), sys.getrefcount(refused), sys.getrefcount(decode)
    tracemalloc.start()
    try:
        run()
        before = tracemalloc.get_traced_memory()[0]
        run()
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert after - before < 1000
    assert references == (
        sys.getrefcount(cls),
        sys.getrefcount(value),
        sys.getrefcount(refused),
        sys.getrefcount(decode),
    )


def test_a_record_holds_one_reference_to_its_class_and_its_values() -> None:
    value = msgspec.msgpack.encode(RECORDS[0])
    before = sys.getrefcount(Scalars)
    found = [FAST[Scalars](value) for _ in range(10)]
    assert sys.getrefcount(Scalars) == before + 10
    assert sys.getrefcount(found[0].data) == sys.getrefcount(REFERENCE[Scalars](value).data)
    assert sys.getrefcount(found[0].whole) == sys.getrefcount(REFERENCE[Scalars](value).whole)
    del found
    assert sys.getrefcount(Scalars) == before


def test_a_decoder_in_a_cycle_is_collected() -> None:
    class Slow:
        decoder: Any

        def __call__(self, value: Any) -> Any:
            return value

    slow = Slow()
    slow.decoder = decoder_of(KeyOnly, slow)
    assert slow.decoder(b"none") == b"none"
    seen = weakref.ref(slow)
    del slow
    gc.collect()
    assert seen() is None


# The slow way, and what a decoder is made of


def test_the_slow_way_s_answer_is_the_answer() -> None:
    def fail(value: Any) -> Any:
        raise ZeroDivisionError(value)

    undecodable = b"\x92\x07\xa2a\xff"
    assert decoder_of(KeyOnly, lambda value: (sys.exc_info(), value))(undecodable) == ((None, None, None), undecodable)
    with pytest.raises(ZeroDivisionError) as raised:
        decoder_of(KeyOnly, fail)(undecodable)
    assert raised.value.__context__ is None
    assert raised.value.args == (undecodable,)


def test_a_decoder_takes_one_value_by_position() -> None:
    decode: Any = FAST[KeyOnly]
    for arguments, names in (((), {}), ((b"", b""), {}), ((), {"value": b""}), ((b"",), {"x": 1})):
        with pytest.raises(TypeError, match="takes a value"):
            decode(*arguments, **names)


class Tracked(msgspec.Struct):
    x: int


class Slotted:
    __slots__ = ("x",)


class Shared(msgspec.Struct, gc=False):
    x: int
    other: typing.ClassVar[int] = 3


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"record_type": Tracked}, TypeError),
        ({"record_type": Slotted}, TypeError),
        ({"record_type": int}, AttributeError),
        ({"record_type": "Shared"}, TypeError),
        ({"prefix": "text"}, TypeError),
        ({"prefix": bytearray()}, TypeError),
        ({"fields": ()}, ValueError),
        ({"fields": [("x", int)]}, TypeError),
        ({"fields": ("x",)}, TypeError),
        ({"fields": (("x",),)}, TypeError),
        ({"fields": (["x", int],)}, TypeError),
        ({"fields": (("y", int),)}, AttributeError),
        ({"fields": (("other", int),)}, TypeError),
        ({"fields": ((1, int),)}, TypeError),
        ({"fields": (("x", list),)}, TypeError),
        ({"fields": (("x", dict),)}, TypeError),
        ({"fields": (("x", set, int),)}, TypeError),
        ({"fields": (("x", dict, int),)}, TypeError),
        ({"fields": (("x", dict, int, set),)}, TypeError),
        ({"fields": (("x", dict, list, int),)}, TypeError),
        ({"fields": (("x", list, list),)}, TypeError),
        ({"fields": (("x", UUID),)}, TypeError),
        ({"fields": (("x", int, int, int, int),)}, TypeError),
        ({"unknown": 1}, TypeError),
    ],
    ids=repr,
)
def test_a_decoder_of_wrong_parts_is_refused(changes: Any, error: type[Exception]) -> None:
    parts: dict[str, Any] = {"record_type": Shared, "prefix": b"\x92\x07", "fields": (("x", int),), "slow": refuse}
    assert Decoder(**parts)(b"\x92\x07\x05") == Shared(5)
    with pytest.raises(error):
        Decoder(**{**parts, **changes})
    for name in parts:
        with pytest.raises(TypeError):
            Decoder(**{other: part for other, part in parts.items() if other != name})
    with pytest.raises(TypeError):
        Decoder(*parts.values())  # type: ignore[call-arg]


# Record types


class Mixin:
    __slots__ = ("extra",)


class Plain(Record):
    id: Annotated[str, Key()]
    n: int = 0
    tags: list[str] = []
    counts: dict[str, int] = {}


class Frozen(Record, frozen=True):
    id: Annotated[str, Key()]
    n: int = 0


class Ordered(Record, order=True, rename="camel"):
    id: Annotated[int, Key()]
    some_number: float = 0.0


class Mixed(Mixin, Record):
    id: Annotated[bytes, Key()]
    n: bool = False


class Finished(Record):
    id: Annotated[str, Key()]

    def __del__(self) -> None:
        ENDED.append(self.id)


class Collected(Record, gc=True):
    id: Annotated[str, Key()]


class Hashed(Record, frozen=True, cache_hash=True):
    id: Annotated[str, Key()]


class Checked(Record):
    id: Annotated[str, Key()]

    def __post_init__(self) -> None:
        ENDED.append(f"checked {self.id}")


class Child(Plain):
    real: float = 0.0


class Keyed(Record):
    id: Annotated[UUID, Key()]


class Column(Record):
    id: Annotated[str, Key()]
    score: Annotated[float, Gpu(dtype="f4")] = 0.0


class Elsewhere(Record):
    id: Annotated[str, Key()]
    note: Annotated[str, Ephemeral()] = ""
    blob: Annotated[bytes, Disk()] = b""


class Chosen(Record):
    id: Annotated[str, Key()]
    n: int | None = None
    pair: tuple[int, int] = (0, 0)


ENDED: list[str] = []
STORED: list[tuple[Any, bool]] = [
    (Plain(id="a", n=3, tags=["x"], counts={"y": 1}), True),
    (Frozen(id="a", n=3), True),
    (Ordered(id=5, some_number=1.5), True),
    (Mixed(id=b"a", n=True), True),
    (Finished(id="a"), False),
    (Collected(id="a"), False),
    (Hashed(id="a"), False),
    (Checked(id="a"), False),
    (Child(id="a", n=1, real=2.5), False),
    (Keyed(id=UUID(int=5)), False),
    (Column(id="a", score=0.5), False),
    (Elsewhere(id="a"), False),
    (Chosen(id="a", n=1), False),
]


@pytest.mark.parametrize(("record", "plain"), STORED, ids=lambda x: type(x).__name__ if isinstance(x, Record) else "")
def test_a_record_type_is_decoded_in_c_if_it_is_plain(record: Any, plain: bool) -> None:
    codec = plan_of(type(record)).bind(TAG)
    value = codec.encode(record)[2]
    assert isinstance(codec.decode, Decoder) == plain
    for given_as in (value, memoryview(value)):
        found = codec.decode(given_as)
        assert found == record
        assert type(found) is type(record)
        assert repr(found) == repr(record)
        assert codec.copy is None or codec.copy(found) == record
    with pytest.raises(msgspec.DecodeError):
        codec.decode(value[:-1])


def test_the_type_s_own_slots_begin_empty_and_can_be_used() -> None:
    codec = plan_of(Mixed).bind(TAG)
    found: Any = codec.decode(codec.encode(Mixed(id=b"a"))[2])
    assert not hasattr(found, "extra")
    found.extra = [found]
    assert found.extra == [found]
    found.extra = None


def test_a_frozen_record_stays_frozen_and_has_its_hash() -> None:
    codec = plan_of(Frozen).bind(TAG)
    found = codec.decode(codec.encode(Frozen(id="a", n=2))[2])
    assert hash(found) == hash(Frozen(id="a", n=2))
    with pytest.raises(AttributeError):
        found.n = 3  # type: ignore[misc]


def test_a_type_that_wants_to_know_of_its_end_sees_whole_records_only() -> None:
    codec = plan_of(Finished).bind(TAG)
    value = codec.encode(Finished(id="b"))[2]
    ENDED.clear()
    codec.decode(value)
    for n in range(len(value)):
        with pytest.raises(msgspec.DecodeError):
            codec.decode(value[:n])
    assert ENDED == ["b"]
