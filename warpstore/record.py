"""``Record``: the base of every stored type, and ``plan_of``.

One concept: the class statement. At run time ``Record`` is a ``msgspec.Struct`` whose metaclass takes ``name=`` and
``strategy=`` beside msgspec's own class keywords, compiles the plan when the class is created, and makes fields
keyword-only and instances invisible to the garbage collector (``gc=False``: a record refers to data, never back to
itself). For type checkers it is a base with the same interface that they understand.

Constructing a record does not validate it; putting it into a table does.
"""

from __future__ import annotations

import inspect
import re
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any, Self, TypeVar, dataclass_transform

import msgspec

from warpstore.declaration import compile_plan
from warpstore.errors import SchemaError, UsageError
from warpstore.plan import Plan
from warpstore.strategy import Strategy

R = TypeVar("R", bound="Record")
_TABLE = re.compile(r"[a-z_][a-z0-9_.-]{0,127}", re.ASCII)
_PLANS = "__warpstore_plan__"


class RecordMeta(msgspec.StructMeta):
    """Makes record classes; see ``Record``."""

    def __new__(  # noqa: PYI034 - a metaclass returns the class
        mcls,
        class_name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        name: str | None = None,
        strategy: Strategy | None = None,
        kw_only: bool = True,
        gc: bool = False,
        **options: Any,
    ) -> RecordMeta:
        try:
            cls = super().__new__(mcls, class_name, bases, namespace, kw_only=kw_only, gc=gc, **options)
        except (TypeError, ValueError) as error:
            raise SchemaError(f"{class_name}: {error}") from error
        if any(isinstance(base, RecordMeta) for base in bases):
            table = _table_name(class_name) if name is None else name
            if type(table) is not str or not _TABLE.fullmatch(table):
                raise SchemaError(
                    f"{class_name}: name={table!r}: a table's name has 1 to 128 of a-z, 0-9, _ . - "
                    "and starts with a letter or _"
                )
            if strategy is not None and not isinstance(strategy, Strategy):
                raise SchemaError(f"{class_name}: strategy={strategy!r}: give a ws.Strategy(...)")
            plan: Plan[Any] = compile_plan(cls, table, strategy or Strategy(), _caller_names())
            type.__setattr__(cls, _PLANS, plan)
        return cls


if TYPE_CHECKING:

    @dataclass_transform(kw_only_default=True, field_specifiers=(msgspec.field,))
    class Record:
        """The base of record types: ``class User(ws.Record, name="user", strategy=ws.Strategy(...))``."""

        __struct_fields__: tuple[str, ...]

        def __init_subclass__(
            cls,
            *,
            name: str | None = None,
            strategy: Strategy | None = None,
            frozen: bool = False,
            eq: bool = True,
            order: bool = False,
            kw_only: bool = True,
            repr_omit_defaults: bool = False,
            rename: Any = None,
            gc: bool = False,
            weakref: bool = False,
        ) -> None: ...

        def __copy__(self) -> Self: ...

else:

    class Record(msgspec.Struct, metaclass=RecordMeta):
        """The base of record types: ``class User(ws.Record, name="user", strategy=ws.Strategy(...))``."""


def plan_of(cls: type[R]) -> Plan[R]:
    """Return the compiled plan of a record type.

    Raises:
        UsageError: ``cls`` is no subclass of ``Record``.
    """
    plan = getattr(cls, "__dict__", {}).get(_PLANS)
    if plan is None:
        raise UsageError(
            f"{cls!r} is no record type; declare it as class {getattr(cls, '__name__', 'User')}(ws.Record)"
        )
    found: Plan[R] = plan
    return found


def _table_name(class_name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", class_name).lower()


def _caller_names() -> dict[str, Any]:
    """Return the local names at the class statement: of enclosing class bodies, then of the function around them."""
    names: dict[str, Any] = {}
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_locals is not frame.f_globals:
        names = {**frame.f_locals, **names}
        frame = None if frame.f_code.co_flags & inspect.CO_OPTIMIZED else frame.f_back
    return names
