"""What became of a field, and what that does to its stored values."""

from typing import Any

import pytest

from warpstore.evolution import became, changes, incompatibilities
from warpstore.schema import FieldSchema, Schema

KEY = FieldSchema(name="id", type="str", tier="auto")


def field(name: str, kind: str = "int", tier: str = "auto", **more: Any) -> FieldSchema:
    return FieldSchema(name=name, type=kind, tier=tier, **{"has_default": True, **more})


def schema(*fields: FieldSchema, key: FieldSchema = KEY) -> Schema:
    return Schema(table="t", key_kind="str", fields=(key, *fields))


def column(kind: str, dtype: str | None) -> FieldSchema:
    return field("x", kind) if dtype is None else field("x", kind, "gpu", options={"dtype": dtype, "mass": False})


@pytest.mark.parametrize(
    ("kind", "old", "new", "effect"),
    [
        ("float", "f4", "f8", "kept"),
        ("float", "f8", "f4", "rounded"),
        ("float", "f4", "f2", "rounded"),
        ("float", None, "f8", "kept"),
        ("float", None, "f4", "rounded"),
        ("float", "f4", None, "kept"),
        ("int", "i2", "i8", "kept"),
        ("int", "i8", "i2", "checked"),
        ("int", "u2", "i4", "kept"),
        ("int", "u4", "i4", "checked"),
        ("int", "i4", "u8", "checked"),
        ("int", None, "i8", "checked"),
        ("bool", None, "bool", "kept"),
        ("bytes", "S8", "S16", "kept"),
        ("bytes", "S16", "S8", "checked"),
        ("list[float]", "4f4", "4f8", "kept"),
        ("list[float]", "4f4", "8f4", "unreadable"),
        ("list[float]", None, "4f4", "rounded"),
        ("list[int]", None, "4i4", "checked"),
        ("float", "f16", "f4", "checked"),
    ],
)
def test_a_column_keeps_rounds_checks_or_cannot_hold_what_was_stored(
    kind: str, old: str | None, new: str | None, effect: str
) -> None:
    [change] = changes(schema(column(kind, new)), schema(column(kind, old)))
    assert (change.field, change.effect) == ("x", effect)
    assert change.words.startswith("field 'x' lived in ")


def test_ints_become_floats_exactly_where_they_fit() -> None:
    def effect(dtype: str) -> list[str]:
        return [c.effect for c in changes(schema(column("float", "f4")), schema(column("int", dtype)))]

    assert effect("i2") == ["rounded", "kept"]
    assert effect("i8") == ["rounded", "rounded"]


def test_a_field_is_followed_through_every_schema_in_between() -> None:
    first, second = schema(field("a")), schema(field("b", renamed_from="a"))
    third = schema(field("b"), field("a", "str"))
    assert became(third, first, [second]) == {"id": "id", "a": "b"}
    assert incompatibilities(third, first) == ["field 'a' was int, now str"]  # without what was in between
    assert incompatibilities(third, first, [second]) == []


def test_a_field_that_comes_back_is_the_same_if_its_type_reads_the_old_values() -> None:
    first, second = schema(field("a")), schema()
    assert became(schema(field("a", "float")), first, [second])["a"] == "a"
    assert "a" not in became(schema(field("a", "str")), first, [second])
    words = [change.words for change in changes(schema(field("a", "str")), first, [second])]
    assert words == ["field 'a' (str) was added", "field 'a' (int) was dropped"]
    assert incompatibilities(schema(field("a", "str", has_default=False)), first, [second]) == [
        "field 'a' (str) was added without a default"
    ]


def test_a_rename_is_undone_when_the_former_class_comes_back() -> None:
    first, second = schema(field("a")), schema(field("b", renamed_from="a"))
    assert became(first, second) == {"id": "id", "b": "a"}
    assert became(schema(field("a"), field("b")), second) == {"id": "id", "b": "b"}
    assert became(schema(field("a", "str")), first, [second]) == {"id": "id"}  # another field of the former name


def test_two_fields_that_swap_their_names_through_a_third_are_told_apart() -> None:
    one = schema(field("a"), field("b"))
    two = schema(field("c", renamed_from="a"), field("b"))
    three = schema(field("c"), field("a", renamed_from="b"))
    four = schema(field("b", renamed_from="c"), field("a"))
    assert became(four, one, [two, three]) == {"id": "id", "a": "b", "b": "a"}


def test_a_constraint_may_go_but_not_come() -> None:
    free, bound = schema(field("a", "int")), schema(field("a", "int (ge=0)"))
    assert incompatibilities(free, bound) == []
    assert incompatibilities(bound, free) == ["field 'a' was int, now int (ge=0)"]
