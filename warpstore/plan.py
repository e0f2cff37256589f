"""``Plan``: a record type's declaration, compiled.

One concept: the frozen description that everything else follows; ``declaration.py`` makes it when the class is created.
``Plan.bind`` gives the codec for one schema id. The stored order is: the key, the fixed-width scalars, the others, each
in declared order; ephemeral fields are left out.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec
import numpy as np

from warpstore.annotations import Computed, Gpu, Tier
from warpstore.checks import Kind
from warpstore.errors import ValidationError
from warpstore.gpu_fields import ColumnKind
from warpstore.scalars import Scalar
from warpstore.schema import KeyKind, Schema

if TYPE_CHECKING:
    from gpu_kernels import Backend
    from warpstore.codec import Codec
    from warpstore.strategy import Strategy

R = TypeVar("R")


@dataclass(frozen=True, slots=True, eq=False)
class FieldPlan:
    """One field of a record type, compiled.

    Attributes:
        name: Its name.
        hint: Its type without markers.
        kind: Its check, explanation and copy.
        tier: Its tier marker; ``Auto()`` if it has none.
        computed: Its ``Computed`` marker.
        renamed_from: Its former name.
        default: Its default, ``msgspec.NODEFAULT`` if it has none or a factory.
        factory: The function that makes its default, or None.
    """

    name: str
    hint: Any
    kind: Kind
    tier: Tier
    computed: Computed | None
    renamed_from: str | None
    default: Any
    factory: Callable[[], Any] | None

    @property
    def has_default(self) -> bool:
        """Whether the constructor can do without it."""
        return self.default is not msgspec.NODEFAULT or self.factory is not None

    @property
    def struct_default(self) -> Any:
        """Its default as ``msgspec.field(...)``."""
        if self.factory is not None:
            return msgspec.field(default_factory=self.factory)
        return msgspec.field(default=self.default)

    @property
    def stored_hint(self) -> Any:
        """Its type without constraints: what was stored satisfied those of its time."""
        return typing.get_args(self.hint)[0] if typing.get_origin(self.hint) is typing.Annotated else self.hint

    @property
    def column(self) -> ColumnKind | None:
        """Its column kind if it is a ``Gpu`` field."""
        return self.kind if isinstance(self.kind, ColumnKind) else None

    @property
    def fixed_width(self) -> bool:
        """Whether it is stored among the fixed-width scalars."""
        return isinstance(self.tier, Gpu) or (isinstance(self.kind, Scalar) and self.kind.cls in (int, float, bool))


@dataclass(frozen=True, slots=True)
class GpuField:
    """A ``Gpu`` field: its name, its column's NumPy type, and whether its value is its record's mass."""

    name: str
    dtype: np.dtype[Any]
    mass: bool


@dataclass(frozen=True, slots=True)
class ComputedField:
    """A ``Computed`` field.

    Attributes:
        name: Its name.
        f: Its function.
        of: The fields that the function reads.
        depends_on: The fields that are not computed that it hangs on in the end.
        batch: Whether the function takes columns.
    """

    name: str
    f: Callable[[Any], Any]
    of: tuple[str, ...]
    depends_on: frozenset[str]
    batch: bool


@dataclass(frozen=True, slots=True)
class TemporalField:
    """A ``Temporal`` field; horizons in seconds, None where a tier is left out."""

    name: str
    time: str | None
    archive: bool
    memory_s: float | None
    ssd_s: float | None
    disk_s: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Plan(Generic[R]):
    """A record type, compiled.

    Attributes:
        table: The table's name.
        record_type: The class.
        schema: The declaration as plain data.
        strategy: The type's policy.
        key_field: The name of its key.
        key_kind: The key's type.
        stored_fields: The names in stored order.
        gpu_fields: Its columns.
        ephemeral_fields: The names of the fields in no file.
        computed_fields: Its computed fields, each after those it depends on.
        temporal_fields: Its series.
        fields: Every field by name, stored ones first, in stored order.
    """

    table: str
    record_type: type[R]
    schema: Schema
    strategy: Strategy
    key_field: str
    key_kind: KeyKind
    stored_fields: tuple[str, ...]
    gpu_fields: tuple[GpuField, ...]
    ephemeral_fields: tuple[str, ...]
    computed_fields: tuple[ComputedField, ...]
    temporal_fields: tuple[TemporalField, ...]
    fields: Mapping[str, FieldPlan]

    def bind(self, tag: int, backend: Backend | None = None) -> Codec[R]:
        """Return the codec that writes and reads arrays under the schema id ``tag`` (0 to 2^63 - 1).

        ``backend`` calls the functions that take columns; NumPy by default.
        """
        from warpstore.codec import Codec

        return Codec(self, tag, backend)

    def unknown_field(self, name: object) -> ValidationError:
        """Return the error for a field name that the type does not have, with the nearest that it has."""
        words = f"{self.record_type.__name__} has no field {name!r}{nearest(name, self.fields)}"
        return ValidationError(words, field=str(name))


def nearest(name: object, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'score'?"``, or an empty text if nothing is near."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
