"""The declaration as plain data. Annotations are real here."""

import types
import uuid
from typing import Annotated, Any

import msgspec
import pytest

from warpstore.annotations import Computed, Disk, Ephemeral, Gpu, Key, Renamed, derived
from warpstore.errors import IncompatibleSchemaError
from warpstore.evolution import difference, incompatibilities
from warpstore.record import Record, plan_of
from warpstore.schema import Schema

KEY = Annotated[str, Key()]


class First(Record, name="t"):
    id: KEY
    score: float
    name: str
    dropped: list[int] = []
    session: Annotated[dict[str, str], Ephemeral("1h")] = {}


class Second(Record, name="t"):
    id: KEY
    added: dict[str, int] = {}
    size: Annotated[int, Computed(lambda r: len(r.title), of=("title",))] = derived()
    title: Annotated[str, Renamed("name"), Disk(compression="max")]
    score: Annotated[float, Gpu("f8")]


def test_a_schema_survives_plain_data_and_has_a_stable_digest() -> None:
    schema = plan_of(First).schema
    again = Schema.from_builtins(msgspec.json.decode(msgspec.json.encode(schema.to_builtins())))
    assert again == schema
    assert again.digest == schema.digest
    assert again.digest != plan_of(Second).schema.digest
    assert difference(schema, again) == []


def test_a_schema_names_the_elements_of_a_stored_array() -> None:
    record = First(id="a", score=1.0, name="n")
    array = msgspec.msgpack.decode(plan_of(First).bind(7).encode(record)[2])
    assert dict(zip(plan_of(First).schema.array_names, array, strict=True)) == {
        "(schema)": 7,
        "id": "a",
        "score": 1.0,
        "name": "n",
        "dropped": [],
    }


def test_a_difference_is_told_in_words() -> None:
    words = difference(plan_of(Second).schema, plan_of(First).schema)
    assert "field 'name' was renamed to 'title'" in words
    assert "field 'title' lived in auto(), now in disk(compression='max', cache=True)" in words
    assert "field 'added' (dict[str, int]) was added" in words
    assert "field 'dropped' (list[int]) was dropped" in words
    assert "the ephemeral fields changed" in words


def test_old_arrays_are_read_after_fields_were_added_dropped_renamed_and_computed() -> None:
    old = plan_of(First).bind(3).encode(First(id="a", score=2, name="abc", dropped=[1]))[2]
    decode = plan_of(Second).bind(4).decoder_of(3, plan_of(First).schema)
    assert decode(old) == Second(id="a", added={}, size=3, title="abc", score=2.0)
    with pytest.raises(msgspec.DecodeError):
        plan_of(Second).bind(4).decode(old)


def test_what_cannot_be_read_is_refused_in_words() -> None:
    class Wrong(Record, name="t"):
        id: KEY
        score: str
        name: str
        more: int

    class OtherKey(Record, name="t"):
        id: Annotated[uuid.UUID, Key()]
        score: float
        name: str

    with pytest.raises(IncompatibleSchemaError, match=r"'more' \(int\) was added without.*'score' was float, now str"):
        plan_of(Wrong).bind(4).decoder_of(3, plan_of(First).schema)
    with pytest.raises(IncompatibleSchemaError, match="the key was of type str, now uuid"):
        plan_of(OtherKey).bind(4).decoder_of(3, plan_of(First).schema)


@pytest.mark.parametrize(
    ("old", "new", "readable"),
    [
        (int, float, True),
        (float, int, False),
        (int, int | None, True),
        (int | None, int, False),
        (list[int], list[int] | None, True),
        (list[int], list[float], False),
        (str, Any, True),
        (int | str, str | int, True),
        (set[int], list[int], False),
    ],
)
def test_a_type_may_widen_but_not_narrow(old: Any, new: Any, readable: bool) -> None:
    def schema(hint: Any) -> Schema:
        body = {"__annotations__": {"id": KEY, "x": hint}, "__module__": __name__}
        return plan_of(types.new_class("T", (Record,), {}, lambda names: names.update(body))).schema

    assert (incompatibilities(schema(new), schema(old)) == []) is readable
