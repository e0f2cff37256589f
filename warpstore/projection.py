"""Reading some fields of a stored record.

One concept: a decoder that stops after the last field asked for, and the same result made of a whole record, for
arrays of older schemas. The result is an instance of a generated class with
exactly these fields and the key; what lies between is skipped as ``msgspec.Raw`` under private names, and the rest of
the array is not looked at. Ephemeral fields are attributes with their default, for the caller to set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from warpstore.explain import Projection
from warpstore.plan import Plan


class Projector(NamedTuple):
    """The two ways to an object with some fields and the key.

    Attributes:
        decode: From a stored array.
        pick: From a record: its values as they are, nothing computed nor checked.
    """

    decode: Callable[[bytes | memoryview], Any]
    pick: Callable[[Any], Any]


def projector(plan: Plan[Any], tag: int, fields: tuple[str, ...]) -> Projector:
    """Return the ways to an object with ``fields`` and the key.

    Args:
        plan: The record type.
        tag: The schema id that the arrays carry.
        fields: Names of its fields, in any order.

    Raises:
        ValidationError: a name is unknown; the nearest one is suggested.
    """
    for name in fields:
        if name not in plan.fields:
            raise plan.unknown_field(name)
    wanted = {plan.key_field, *fields}
    last = max(index for index, name in enumerate(plan.stored_fields) if name in wanted)
    layout: list[Any] = []
    for index, name in enumerate(plan.stored_fields[: last + 1]):
        layout.append((name, plan.fields[name].stored_hint) if name in wanted else (f"_skipped_{index}", msgspec.Raw))
    for name in plan.ephemeral_fields:
        if name in wanted:
            field = plan.fields[name]
            layout += [(name, field.stored_hint, field.struct_default)]
    if len(layout) > last + 1:
        # Fields with a default are read by position too: the rest of the array must be named before them.
        rest = [(f"_skipped_{index}", msgspec.Raw) for index in range(last + 1, len(plan.stored_fields))]
        layout[last + 1 : last + 1] = rest
    shown = tuple(dict.fromkeys((plan.key_field, *fields)))

    class_name = f"{plan.record_type.__name__}Fields"

    def text(self: Any) -> str:
        return f"{class_name}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    def equal(self: Any, other: Any) -> Any:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in shown)

    struct = msgspec.defstruct(
        class_name,
        layout,
        bases=(Projection, msgspec.Struct),
        namespace={"__repr__": text, "__eq__": equal, "__hash__": None},
        module=plan.record_type.__module__,
        array_like=True,
        tag=tag,
        gc=False,
        eq=False,
    )
    skipped = {name: msgspec.Raw() for name, *_ in layout if name not in plan.fields}

    def pick(record: Any) -> Any:
        return struct(**{name: getattr(record, name) for name in shown}, **skipped)

    return Projector(msgspec.msgpack.Decoder(struct).decode, pick)
