"""Source text of the functions that a codec runs for every record.

One concept: turning a plan into Python source and that into functions. Every function does its work with local
variables and no look at annotations. The text is registered with ``linecache``, so a traceback shows it. What a quick
check or the encoder refuses is explained afterwards by ``explain``, which may be slow.
"""

from __future__ import annotations

import itertools
import linecache
import operator
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import msgspec

from gpu_kernels import Backend
from warpstore import containers
from warpstore._native import Copier, Encoder, slot_of, snug
from warpstore.annotations import Temporal
from warpstore.batch_computed import BatchFunction, BulkFill, needed_by_batches
from warpstore.checks import Kind, Mismatch, Source, indented
from warpstore.explain import (
    RECORD_BYTES_MAX,
    explain_key,
    explain_record,
    explain_value,
    not_keys,
    too_long,
    wrong_type,
)
from warpstore.plan import ComputedField, FieldPlan, Plan
from warpstore.scalars import INT_MAX, INT_MIN, Float, Scalar
from warpstore.variants import Constrained

COPIER_FIELDS_MAX = 64
_numbers = itertools.count()


def compile_source(
    source: Source, label: str, functions: Sequence[str], names: Iterable[str]
) -> list[Callable[..., Any]]:
    """Return the functions ``names`` that the source text defines.

    Args:
        source: The names it refers to, and helper functions.
        label: What a traceback shows as the file, such as ``User codec``.
        functions: The text of its functions.
        names: Which of them to return, in this order.
    """
    text = "\n\n".join([*source.functions, *functions]) + "\n"
    filename = f"<warpstore {label} {next(_numbers)}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    namespace = dict(source.names)
    exec(compile(text, filename, "exec"), namespace)  # noqa: S102 - the text is made here, of names and numbers only
    return [namespace[name] for name in names]


def checked(field: FieldPlan, v: str, source: Source) -> list[str]:
    """Return the statements that check the local ``v``, and round it to the field's column, or raise."""
    column = field.column
    if isinstance(field.kind, Float) or (column is not None and isinstance(column.base, Float)):
        source.names["as_float"] = as_float
        check = [f"if type({v}) is not float: {v} = as_float({v})"]
    else:
        check = field.kind.check(v, "0", source)
    return check + (column.convert(v, source) if column is not None else [])


class EncodeWriter:
    """Writes ``encode`` and its kin of one plan and schema id."""

    def __init__(
        self, plan: Plan[Any], tag: int, encode: Callable[[Any], bytes], source: Source, backend: Backend
    ) -> None:
        self._plan = plan
        self._filled = needed_by_batches(plan)
        self._functions: dict[str, Callable[[Any], Any]] = {
            computed.name: BatchFunction(plan, computed, backend) if computed.batch else computed.f
            for computed in plan.computed_fields
        }
        self._tag = tag
        self._source = source
        self._stored = [plan.fields[name] for name in plan.stored_fields]
        self._local = {field.name: f"v{index}" for index, field in enumerate(self._stored)}
        self._frozen = bool(plan.record_type.__struct_config__.frozen)
        source.names |= {
            "cls": plan.record_type,
            "enc": encode,
            "snug": snug,
            "slot_of": slot_of,
            "force_setattr": msgspec.structs.force_setattr,
            "UNSET": msgspec.UNSET,
            "wrong_type": partial(wrong_type, plan),
            "explain_given": partial(explain_record, plan, [f for f in self._stored if f.computed is None]),
            "explain_all": partial(explain_record, plan, self._stored),
            "too_long": partial(too_long, plan),
        }

    def text(self, name: str, arguments: str, *, filled: bool = False) -> str:
        """Return the text of one of the functions that encode.

        Args:
            name: Its name.
            arguments: Its arguments; with ``changed`` among them it renews only what it must.
            filled: Whether the fields that `bulk_texts` sets are set and checked already.
        """
        given = [field for field in self._stored if field.computed is None]
        lines = ["if type(r) is not cls: raise wrong_type(r)", "try:", *indented(self._load(given))]
        writes = self._writes(given)
        finish = self._finish()
        explain = "explain_given"
        if writes or self._plan.computed_fields:
            lines += [f"except Exception as error: raise {explain}(r, error) from None", *writes]
            for computed in self._plan.computed_fields:
                if filled and computed.name in self._filled:
                    lines.append(f"{self._local[computed.name]} = r.{computed.name}")
                else:
                    lines += self._compute(computed, renew_all="changed" not in arguments)
            lines += ["try:"]
            explain = "explain_all"
        lines += [
            *indented(finish),
            f"except Exception as error: raise {explain}(r, error) from None",
            f"if len(b) > {RECORD_BYTES_MAX}: raise too_long(len(b))",
            f"return slot, {'k' if self._plan.key_kind == 'uuid' else 'v0'}, snug(b)",
        ]
        return "\n".join([f"def {name}({arguments}):", *indented(lines)])

    # Many records at once

    def bulk_names(self) -> list[str]:
        """Return the names of the functions that `bulk_texts` writes; none where no field takes columns."""
        if not self._filled:
            return []
        computed = [c.name for c in self._plan.computed_fields if c.name in self._filled]
        return ["encode_filled", "prepare", *(f"step_{self._local[name]}" for name in computed)]

    def bulk_texts(self) -> list[str]:
        """Return the text of the functions behind a `BulkFill`, and of the ``encode`` for what it has filled."""
        if not self._filled:
            return []
        computed = [c for c in self._plan.computed_fields if c.name in self._filled]
        needed = frozenset[str]().union(*(c.depends_on for c in computed))
        given = [field for field in self._stored if field.computed is None and field.name in needed]
        prepare = [
            "if type(r) is not cls: raise wrong_type(r)",
            "try:",
            *indented(self._load_checked(given) or ["pass"]),
        ]
        prepare += ["except Exception as error: raise explain_given(r, error) from None", *self._writes(given)]
        texts = [self.text("encode_filled", "r", filled=True), "\n".join(["def prepare(r):", *indented(prepare)])]
        for field in computed:
            v = self._local[field.name]
            if not field.batch:
                step = [f"def step_{v}(r):", *indented(self._compute(field, renew_all=True))]
            else:
                plan = self._plan.fields[field.name]
                check = ["try:", *indented(self._check(plan)), self._refuse(plan, v), f"return {v}"]
                step = [f"def step_{v}({v}):", *indented(check)]
            texts.append("\n".join(step))
        return texts

    def bulk_fill(self, prepare: Callable[[Any], None], steps: Sequence[Callable[[Any], Any]]) -> BulkFill:
        """Return the `BulkFill` of the compiled functions."""
        names = [c.name for c in self._plan.computed_fields if c.name in self._filled]
        made: list[tuple[str, BatchFunction, Callable[[Any], Any]] | Callable[[Any], None]] = []
        for name, step in zip(names, steps, strict=True):
            function = self._functions[name]
            made.append((name, function, step) if isinstance(function, BatchFunction) else step)
        return BulkFill(prepare, made)

    # The parts

    def _load(self, given: list[FieldPlan]) -> list[str]:
        lines = self._load_checked(given)
        lines += ["k = v0.bytes", "slot = slot_of(k)"] if self._plan.key_kind == "uuid" else ["slot = slot_of(v0)"]
        return lines

    def _load_checked(self, given: list[FieldPlan]) -> list[str]:
        source, lines = self._source, []
        lines += [f"{self._local[field.name]} = r.{field.name}" for field in given]
        for field in given:
            lines += self._check(field)
        for field in given:
            if isinstance(field.tier, Temporal) and field.tier.time is not None:
                v = self._local[field.name]
                by_time = source.bind(operator.attrgetter(field.tier.time), "time")
                lines.append(f"if not in_order({v}, {field.tier.time!r}): {v} = sorted({v}, key={by_time})")
        return lines

    def _check(self, field: FieldPlan) -> list[str]:
        return checked(field, self._local[field.name], self._source)

    def _writes(self, given: list[FieldPlan]) -> list[str]:
        """Return the statements that give the record the values that were stored in place of its own."""
        lines = []
        for field in given:
            v, name = self._local[field.name], field.name
            series = isinstance(field.tier, Temporal) and field.tier.time is not None
            if series or (field.column is not None and field.column.rounds):
                lines.append(f"if {v} {'is not' if series else '!='} r.{name}: {self._set(name, v)}")
        return lines

    def _set(self, name: str, v: str) -> str:
        return f"force_setattr(r, {name!r}, {v})" if self._frozen else f"r.{name} = {v}"

    def _compute(self, computed: ComputedField, *, renew_all: bool) -> list[str]:
        v, field = self._local[computed.name], self._plan.fields[computed.name]
        f = self._source.bind(self._functions[computed.name], "f")
        lines = [f"{v} = {f}(r)", "try:", *indented(self._check(field)), self._refuse(field, v)]
        lines.append(self._set(computed.name, v))
        if renew_all:
            return lines
        depends = self._source.bind(computed.depends_on, "depends")
        return [
            f"{v} = getattr(r, {computed.name!r}, UNSET)",
            f"if {v} is UNSET or not changed.isdisjoint({depends}):",
            *indented(lines),
            "else:",
            "    try:",
            *indented(indented(self._check(field))),
            *indented([self._refuse(field, v)]),
        ]

    def _refuse(self, field: FieldPlan, v: str) -> str:
        """Return the clause that says what is wrong with a computed value."""
        explain = self._source.bind(partial(explain_value, self._plan, field), "explain")
        return f"except Exception as error: raise {explain}({v}, error) from None"

    def _finish(self) -> list[str]:
        values = [self._local[field.name] for field in self._stored]
        if self._plan.key_kind == "uuid":
            values[0] = "k"
        return [f"b = enc(({self._tag}, {', '.join(values)}))"]


def plain_encoder(
    plan: Plan[Any], tag: int, encode: Callable[[Any], bytes], slow: Callable[[Any], Any]
) -> Callable[[Any], Any]:
    """Return an `Encoder` if all stored fields are plain, else ``slow``, the generated ``encode``."""
    fields: list[tuple[str | type, ...]] = []
    for name in plan.stored_fields:
        field = plan.fields[name]
        classes = plain_classes(field.kind)
        timed = isinstance(field.tier, Temporal) and field.tier.time is not None
        if classes is None or timed or field.computed is not None or field.column is not None:
            return slow
        fields.append((name, *classes))
    if plan.key_kind == "uuid":
        return slow
    return Encoder(
        record_type=plan.record_type,
        tag=tag,
        fields=tuple(fields),
        encode=encode,
        slow=slow,
        bytes_max=RECORD_BYTES_MAX,
    )


def plain_classes(kind: Kind) -> tuple[type, ...] | None:
    """Return the exact classes that a value of this kind consists of, or None if that does not describe it."""
    if type(kind) in (Scalar, Float):
        return (kind.cls,)  # type: ignore[attr-defined]
    if isinstance(kind, containers.Sequence) and type(kind.item) is Scalar:
        return (kind.cls, kind.item.cls)
    if isinstance(kind, containers.Mapping) and type(kind.key) is Scalar and type(kind.value) is Scalar:
        return (dict, kind.key.cls, kind.value.cls)
    return None


def route_text(plan: Plan[Any], source: Source) -> list[str]:
    """Return the text of ``route`` and ``routes``."""
    kind = plan.fields[plan.key_field].kind
    base = kind.base if isinstance(kind, Constrained) else kind
    explain = source.bind(partial(explain_key, plan), "explain_key")
    hot = "key.bytes" if plan.key_kind == "uuid" else "key"
    one = ["try:", *indented([f"if {base.reject('key', source)}: raise Mismatch", f"return slot_of({hot}), {hot}"])]
    one += [f"except Exception as error: raise {explain}(key, error) from None"]
    key_type = source.bind(frozenset((base.cls,)), "types") if hasattr(base, "cls") else "types"
    several = [
        "if type(keys) in (str, bytes): raise not_keys(keys)",
        "keys = keys if type(keys) is list else list(keys)",
        "try:",
        f"    if not {key_type}.issuperset(map(type, keys)): raise Mismatch",
        f"    return [(slot_of({hot}), {hot}) for key in keys]",
        "except Exception:",
        "    return [route(key) for key in keys]",
    ]
    source.names |= {"slot_of": slot_of, "not_keys": partial(not_keys, plan)}
    return ["\n".join(["def route(key):", *indented(one)]), "\n".join(["def routes(keys):", *indented(several)])]


def copier(plan: Plan[Any], label: str) -> Callable[[Any], Any] | None:
    """Return ``copy``, or None if a field has no quick isolated copy."""
    source = Source()
    names = {name for base in plan.record_type.__mro__[:-3] for name in vars(base)}
    copies = {name: field.kind.copy(f"c.{name}", source) for name, field in plan.fields.items()}
    if None in copies.values() or "__copy__" in names:
        return None
    changed = {name: copied for name, copied in copies.items() if copied != f"c.{name}"}
    if len(changed) <= COPIER_FIELDS_MAX and all(copied == f"c.{name}.copy()" for name, copied in changed.items()):
        return Copier(plan.record_type, tuple(changed))
    force = bool(plan.record_type.__struct_config__.frozen)
    source.names["force_setattr"] = msgspec.structs.force_setattr
    lines = ["c = r.__copy__()"]
    for name, copied in changed.items():
        lines.append(f"force_setattr(c, {name!r}, {copied})" if force else f"c.{name} = {copied}")
    text = "\n".join(["def copy(r):", *indented([*lines, "return c"])])
    return compile_source(source, label, [text], ["copy"])[0]


def as_float(value: Any) -> float:
    """Return an int of 64 bits as float; raise ``Mismatch`` for anything else."""
    if type(value) is not int or not INT_MIN <= value <= INT_MAX:
        raise Mismatch
    return float(value)
