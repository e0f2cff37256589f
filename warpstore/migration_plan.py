"""The plan of a migration: what it would change, before anything is changed.

One concept: `migration_plan`, which compares the record types of today with the schemas of a store's records, counts
the records of each, and gives it all as one frozen object. It reads, and changes nothing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from wal import FileSystem
from warpstore import manifest as manifests
from warpstore.catalog import Catalog, Lineage, check_names, older_schemas, with_schemas
from warpstore.checkpoint import Checkpoint
from warpstore.environment import Environment
from warpstore.errors import OpenError
from warpstore.evolution import changes, incompatibilities
from warpstore.keys import HotKey
from warpstore.log_at_rest import read_log
from warpstore.manifest import Manifest, TableManifest
from warpstore.opening import take_lock
from warpstore.parts import is_split_value, places_of
from warpstore.plan import Plan
from warpstore.record import Record, plan_of
from warpstore.values import DEADLINE_BYTES, deadline_of, has_deadline, split_payload


class VersionPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The records of one older schema of a table.

    Attributes:
        version: The schema's id.
        n_records: Live records that were written under it.
        n_bytes: What they take on disk, estimated.
        changes: What changed since, a sentence each.
        lost: The changes among these that lose stored values, a sentence each.
        rounded: Those that round stored values.
        checked: Those under which each stored value has to fit.
        unreadable: Why a program with the record type of this schema can no longer open the store afterwards, a
            sentence each; empty if it can.
    """

    version: int
    n_records: int
    n_bytes: int
    changes: tuple[str, ...]
    lost: tuple[str, ...]
    rounded: tuple[str, ...]
    checked: tuple[str, ...]
    unreadable: tuple[str, ...]


class TablePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done for one table.

    Attributes:
        table: Its name.
        record_type: The name of its record type.
        is_stored: Whether the store has the table.
        version: The id of the schema that its records will have.
        is_new_version: Whether the store was never opened with that schema.
        versions: Its older schemas.
    """

    table: str
    record_type: str
    is_stored: bool
    version: int
    is_new_version: bool
    versions: tuple[VersionPlan, ...]


class MigrationPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a migration would do.

    Attributes:
        path: The store.
        tables: Its tables that have a record type, in the order of the models.
        digest: Names the schemas of the store and the models; `migrate` refuses a plan whose digest is not its own.
    """

    path: str
    tables: tuple[TablePlan, ...]
    digest: str

    @property
    def n_records(self) -> int:
        """Records to rewrite."""
        return sum(version.n_records for table in self.tables for version in table.versions)

    @property
    def n_bytes(self) -> int:
        """Bytes on disk of the records to rewrite, estimated."""
        return sum(version.n_bytes for table in self.tables for version in table.versions)

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to do: an older schema, with records or without."""
        return any(table.versions for table in self.tables)

    @property
    def is_lossless(self) -> bool:
        """Whether every stored value that has a place in today's types stays exactly as it is, and none is lost.

        Only schemas that have records count.
        """
        return not any(
            version.n_records and (version.lost or version.rounded)
            for table in self.tables
            for version in table.versions
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as dicts, lists and scalars, with its totals."""
        data: dict[str, Any] = msgspec.to_builtins(self)
        totals = {name: getattr(self, name) for name in ("n_records", "n_bytes", "is_needed", "is_lossless")}
        return data | totals

    def text(self) -> str:
        """Return the plan as text for a person."""
        return "\n".join(_lines(self))


def migration_plan(
    path: str | os.PathLike[str], models: Sequence[type[Record]], *, environment: Environment | None = None
) -> MigrationPlan:
    """Return what migrating the store at ``path`` to these record types would do. Nothing is changed.

    Args:
        path: The store; nobody may have it open.
        models: The record types. Tables without one stay as they are.
        environment: The world the store lives in, for tests.

    Raises:
        NotAStoreError: there is no store.
        StoreInUseError: somebody has it open.
        IncompatibleSchemaError: a record type cannot read what is stored; table and field are named.
        CorruptionError: bytes on disk are damaged.
        ConfigError: two record types have one table name.

    Cost:
        Blocks. Where there is an older schema, one pass over the heads of all records, and over the log; memory for
        the keys in the log.
    """
    files = (environment or Environment()).files
    clock = (environment or Environment()).clock
    where = os.path.abspath(os.fspath(path))
    plans = [plan_of(model) for model in models]
    check_names(plans)
    try:
        lock = take_lock(files, where, must_exist=True)
        try:
            return plan_for(files, Catalog(files, where, manifests.read(files, where)), plans, clock.wall())
        finally:
            lock.close()
    except OSError as e:
        raise OpenError(f"{where}: cannot be read: {e}", path=where) from e


def plan_for(files: FileSystem, catalog: Catalog, plans: Sequence[Plan[Any]], now_s: float) -> MigrationPlan:
    """Return the plan for a store whose lock is held; blocks. Raises as `migration_plan`."""
    manifest = catalog.manifest
    tables = target_tables(manifest, plans)
    older = {name: older_schemas(table) for name, table in tables.items()}
    tags = {version.tag for versions in older.values() for version in versions}
    counted = _counted(files, catalog, tags, int(now_s * 1000)) if tags else {}
    found: list[TablePlan] = []
    for plan in plans:
        name = plan.table
        table = tables.get(name)
        stored = [entry.tag for entry in manifest.tables[name].schemas] if table is not None else []
        found.append(
            TablePlan(
                table=name,
                record_type=plan.record_type.__name__,
                is_stored=table is not None,
                version=0 if table is None else table.schemas[-1].tag,
                is_new_version=table is not None and table.schemas[-1].tag not in stored,
                versions=tuple(
                    _version(plan, version, *counted.get(version.tag, (0, 0))) for version in older.get(name, ())
                ),
            )
        )
    return MigrationPlan(path=catalog.path, tables=tuple(found), digest=digest_of(manifest, plans))


def target_tables(manifest: Manifest, plans: Iterable[Plan[Any]]) -> dict[str, TableManifest]:
    """Return the stored tables that have a record type, with its schema as the current one.

    Raises:
        IncompatibleSchemaError: a type cannot read what is stored under its name.
    """
    mine = [plan for plan in plans if plan.table in manifest.tables]
    tables = with_schemas(manifest, mine)[0]
    return {plan.table: tables[plan.table] for plan in mine}


def digest_of(manifest: Manifest, plans: Iterable[Plan[Any]]) -> str:
    """Return a text that changes with the store's schemas and the models'."""
    data = [manifest.store_id, manifest.tables, [plan.schema for plan in plans]]
    return hashlib.blake2b(msgspec.json.encode(data, order="deterministic"), digest_size=16).hexdigest()


def _version(plan: Plan[Any], older: Lineage, n_records: int, n_bytes: int) -> VersionPlan:
    found = changes(plan.schema, older.schema, older.between)
    lost, rounded, checked = (
        tuple(change.words for change in found if change.effect == effect) for effect in ("lost", "rounded", "checked")
    )
    return VersionPlan(
        version=older.tag,
        n_records=n_records,
        n_bytes=n_bytes,
        changes=tuple(change.words for change in found),
        lost=lost,
        rounded=rounded,
        checked=checked,
        unreadable=tuple(incompatibilities(older.schema, plan.schema)),
    )


# Counting


def _counted(files: FileSystem, catalog: Catalog, tags: set[int], now_ms: int) -> dict[int, tuple[int, int]]:
    """Return, by tag, how many live records there are and what they take on disk."""
    newest = _newest_of_log(files, catalog)
    table_of = catalog.table_of_tag()
    found = dict.fromkeys(tags, (0, 0))

    def count(value: bytes) -> None:
        tag = split_payload(value)[0]
        if tag in tags and not (has_deadline(value) and deadline_of(value) <= now_ms):
            n, n_bytes = found[tag]
            found[tag] = n + 1, n_bytes + len(value) + _bytes_elsewhere(value)

    for index, shard in enumerate(catalog.manifest.shards):
        if not shard.name:
            continue
        path = f"{catalog.checkpoint_directory}/{shard.name}"
        checkpoint = Checkpoint.open(files, path, store_id=catalog.manifest.id_bytes, shard=index)
        try:
            for number, table in checkpoint.tables.items():
                if any(table_of.get(tag) == number for tag in tags):
                    for key, value in table.records():
                        if (number, key) not in newest:
                            count(value)
        finally:
            checkpoint.release()
    for value in newest.values():
        if value:
            count(value)
    return found


def _newest_of_log(files: FileSystem, catalog: Catalog) -> dict[tuple[int, HotKey], bytes]:
    """Return the newest value of every key that the log changed since the checkpoints, by table and key."""
    newest: dict[tuple[int, HotKey], bytes] = {}
    table_of = catalog.table_of_tag()

    def take(payload: bytes) -> None:
        tag, key, value = split_payload(payload)
        if tag in table_of:
            newest[table_of[tag], key] = value

    read_log(files, catalog, take)
    return newest


def _bytes_elsewhere(value: bytes) -> int:
    """Return what the parts of a split value take of block files."""
    if not is_split_value(value):
        return 0
    body = value[DEADLINE_BYTES:] if has_deadline(value) else value
    return sum(place.n_bytes for place in places_of(body))


# Text


def _lines(plan: MigrationPlan) -> list[str]:
    if not plan.is_needed:
        lines = [f"{plan.path}: nothing to migrate"]
        return lines + [f"  there is no table {t.table!r}" for t in plan.tables if not t.is_stored]
    lines = [
        f"{plan.path}: {_count(plan.n_records, 'record')} to rewrite, about {_size(plan.n_bytes)}",
        "no stored value is lost or rounded" if plan.is_lossless else "stored values are LOST or ROUNDED, see below",
    ]
    for table in plan.tables:
        if not table.is_stored:
            lines.append(f"{table.table} ({table.record_type}): the store has no such table")
        elif not table.versions:
            lines.append(f"{table.table} ({table.record_type}): up to date")
        for version in table.versions:
            records = f"{_count(version.n_records, 'record')}, about {_size(version.n_bytes)}"
            lines.append(f"{table.table} ({table.record_type}): schema {version.version} to {table.version}, {records}")
            for words in version.changes or ("nothing but the schema's number changed",):
                lines.append(f"  {'- LOST: ' if words in version.lost else '- '}{words}")
            if version.unreadable:
                lines.append("  afterwards a program with this schema cannot open the store:")
                lines += [f"    {words}" for words in version.unreadable]
    return lines


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _size(n_bytes: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "B" or n_bytes >= 10 else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"
