"""Why a record or a key was refused, in words.

One concept: the slow answer after a generated function said no. Each function returns the error to raise; it looks at
every field with the kind's ``explain`` and names the first that is wrong.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from warpstore.annotations import Temporal
from warpstore.errors import LimitError, ValidationError
from warpstore.plan import FieldPlan, Plan

KEY_BYTES_MAX = 4096
RECORD_BYTES_MAX = (16 << 20) - 1


class Projection:
    """The mark of objects that were read with ``fields=``."""

    __slots__ = ()


def explain_record(plan: Plan[Any], fields: Sequence[FieldPlan], record: Any, error: Exception) -> Exception:
    """Return why ``record`` was refused, looking at ``fields``; ``error`` is what the generated code raised."""
    for field in fields:
        where = f"{plan.record_type.__name__}.{field.name}"
        try:
            value = getattr(record, field.name)
        except AttributeError:
            return ValidationError(f"{where}: is missing", field=field.name)
        found = _problem(where, plan, field, value)
        if found is not None:
            return found
    return _unexplained(plan.record_type.__name__, None, error)


def explain_value(plan: Plan[Any], field: FieldPlan, value: Any, error: Exception) -> Exception:
    """Return why ``value`` was refused for ``field``."""
    where = f"{plan.record_type.__name__}.{field.name}"
    return _problem(where, plan, field, value) or _unexplained(where, field.name, error)


def explain_key(plan: Plan[Any], key: Any, error: Exception) -> Exception:
    """Return why ``key`` was refused as an argument."""
    return explain_value(plan, plan.fields[plan.key_field], key, error)


def wrong_type(plan: Plan[Any], record: Any) -> ValidationError:
    """Return the error for an object that is no record of the plan's class."""
    name = plan.record_type.__name__
    if isinstance(record, Projection):
        return ValidationError(
            f"expected a whole {name}, got one read with fields=; read it without, or change fields with update()"
        )
    if isinstance(record, type):
        return ValidationError(f"expected a {name}, got the class {record.__name__}")
    return ValidationError(f"expected a {name}, got {type(record).__name__}")


def too_long(plan: Plan[Any], size: int) -> LimitError:
    """Return the error for an encoded record of ``size`` bytes."""
    return LimitError(
        f"{plan.record_type.__name__}: {size:,} bytes encoded; "
        f"the limit of a record is {RECORD_BYTES_MAX:,} (16 MiB - 1)"
    )


def not_keys(plan: Plan[Any], keys: Any) -> ValidationError:
    """Return the error for a single key where several are expected."""
    return ValidationError(
        f"{plan.record_type.__name__}.{plan.key_field}: expected several keys, got one {type(keys).__name__}; "
        "put it into a list",
        field=plan.key_field,
    )


def _problem(where: str, plan: Plan[Any], field: FieldPlan, value: Any) -> ValidationError | None:
    try:
        field.kind.explain(value, where, 0)
        if field.name == plan.key_field:
            return _key_problem(where, plan, value)
        if isinstance(field.tier, Temporal) and field.tier.time is not None:
            sorted(value, key=operator.attrgetter(field.tier.time))
    except ValidationError as found:
        return found
    except TypeError:
        return ValidationError(f"{where}: times with and without a timezone have no order", field=field.name)
    return None


def _key_problem(where: str, plan: Plan[Any], key: Any) -> ValidationError | None:
    if plan.key_kind == "int" and not -(2**63) <= key < 2**63:
        return ValidationError(f"{where}: a key is limited to a signed 64-bit int", field=plan.key_field)
    if plan.key_kind in ("str", "bytes"):
        size = len(key.encode() if plan.key_kind == "str" else key)
        if size > KEY_BYTES_MAX:
            return LimitError(f"{where}: {size:,} bytes; the limit of a key is {KEY_BYTES_MAX:,}", field=plan.key_field)
    return None


def _unexplained(where: str, field: str | None, error: Exception) -> Exception:
    if isinstance(error, MemoryError):
        return error
    return ValidationError(f"{where}: cannot be stored: {str(error) or type(error).__name__}", field=field)
