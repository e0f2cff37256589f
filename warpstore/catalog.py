"""The catalog: the manifest of an open store, and where its files are. The only writer of the manifest.

Its methods block, and are called off the loop, one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from threading import Lock
from typing import Any, NamedTuple

import msgspec

from wal import FileSystem, TornTail
from warpstore import manifest as manifests
from warpstore.blocks import SUFFIX as BLOCK_SUFFIX
from warpstore.blocks import block_path
from warpstore.errors import ConfigError, IncompatibleSchemaError
from warpstore.evolution import became, changes
from warpstore.manifest import (
    CheckpointManifest,
    KeptState,
    LaneManifest,
    Manifest,
    SchemaEntry,
    SeriesFileManifest,
    TableManifest,
)
from warpstore.parts import PartPlan, parts_of
from warpstore.plan import Plan, TemporalField
from warpstore.schema import Schema
from warpstore.temporal.state import companion_of, companion_schema

CHECKPOINT_SUFFIX = ".ckpt"
QUARANTINE_BYTES_MAX = 16 << 20


class Catalog:
    """The manifest of an open store.

    Attributes:
        manifest: The manifest as it is on disk.
        on_rotated: Called when a lane began another segment.
    """

    def __init__(self, files: FileSystem, path: str, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self.on_rotated: Callable[[], None] = lambda: None
        self._files = files
        self._lock = Lock()
        self._pins: list[Manifest] = []
        self._pins_lock = Lock()  # never held while a file is waited for: `pin` is called on the loop

    # Where things are

    @property
    def checkpoint_directory(self) -> str:
        """The folder of the checkpoints."""
        return f"{self.path}/checkpoint"

    @property
    def block_directory(self) -> str:
        """The folder of the block files."""
        return f"{self.path}/blocks"

    def series_folder(self, tier: str) -> str:
        """Return the folder of the files of items of a tier; of the archive perhaps the URL."""
        return self.manifest.series_folder(self.path, tier)

    def series_name(self, number: int, origin: str = "") -> str:
        """Return the name of a file of items, in its folder or in the archive, which other stores may use too."""
        return self.manifest.series_name(number, origin)

    def series_files(self) -> list[str]:
        """Return where the files of items are that the manifest names: paths, and URLs of objects in the archive."""
        return [self.series_path(entry) for entry in self.manifest.series]

    def series_path(self, entry: SeriesFileManifest) -> str:
        """Return where a file of items is: its path, or the URL of an object in the archive."""
        return f"{self.series_folder(entry.tier)}/{self.series_name(entry.number, entry.origin)}"

    def lane_directory(self, lane: int) -> str:
        """Return the folder of a lane's log."""
        return self.manifest.lanes[lane].directory or f"{self.path}/log/{lane:03d}"

    def shards_of_lane(self, lane: int) -> range:
        """Return the shards whose streams share a lane."""
        return range(lane, len(self.manifest.shards), len(self.manifest.lanes))

    def table_of_tag(self) -> dict[int, int]:
        """Return the table number of each tag."""
        return {entry.tag: table.table for table in self.manifest.tables.values() for entry in table.schemas}

    def parts(self, table: TableManifest) -> dict[int, list[PartPlan]]:
        """Return the parts of a table's records by tag; only tags whose records have some."""
        plans = {entry.tag: parts_of(Schema.from_builtins(entry.schema)) for entry in table.schemas}
        return {tag: parts for tag, parts in plans.items() if parts}

    def is_covered(self, lane: int) -> bool:
        """Return whether the store was closed cleanly and the checkpoints hold all of a lane's log."""
        clean, shards = self.manifest.clean_lsns, self.manifest.shards
        return bool(clean) and all(shards[i].lsn == clean[i] for i in self.shards_of_lane(lane))

    def make_directories(self) -> None:
        """Create the folders that are missing."""
        lanes = [self.lane_directory(lane) for lane in range(len(self.manifest.lanes))]
        for path in (self.checkpoint_directory, self.block_directory, f"{self.path}/log", *lanes):
            if not self._files.exists(path):
                self._files.make_directory(path)
                self._files.sync_directory(path.rpartition("/")[0])

    # Changes

    def take_checkpoint_number(self) -> int:
        """Return a number for new checkpoint files that no others had: those of a failed one may be in the manifest.

        A manifest whose replacement failed may be on disk all the same.
        """
        with self._lock:
            number = self.manifest.next_checkpoint
            self.manifest = msgspec.structs.replace(self.manifest, next_checkpoint=number + 1)
        return number

    def take_series_number(self) -> int:
        """Return a number for a new file of items, or a move of items, that no other had."""
        with self._lock:
            number = self.manifest.next_series
            self.manifest = msgspec.structs.replace(self.manifest, next_series=number + 1)
        return number

    def series_changed(self, add: Iterable[SeriesFileManifest], remove: Iterable[int]) -> None:
        """Record files of items that are new, or say something else than before, and forget others."""
        with self._lock:
            entries = {entry.number: entry for entry in self.manifest.series}
            for number in remove:
                del entries[number]
            entries.update((entry.number, entry) for entry in add)
            changed = msgspec.structs.replace(self.manifest, series=[entries[number] for number in sorted(entries)])
            manifests.write(self._files, self.path, changed)
            self.manifest = changed

    def expires(self, name: str) -> None:
        """Record that records of a table, which has series, may have deadlines."""
        with self._lock:
            tables = dict(self.manifest.tables)
            tables[name] = msgspec.structs.replace(tables[name], expires=True)
            changed = msgspec.structs.replace(self.manifest, tables=tables)
            manifests.write(self._files, self.path, changed)
            self.manifest = changed

    def remove_series_strays(self) -> None:
        """Remove local files of items that the manifest does not name; nobody may be writing any."""
        own = f"{self.manifest.store_id}-"
        for tier in ("ssd", "disk"):
            folder = self.series_folder(tier)
            named = {self.series_name(entry.number) for entry in self.manifest.series if entry.tier == tier}
            if self._files.exists(folder):
                for name in self._files.list_directory(folder):
                    if name.startswith(own) and name not in named:
                        self._files.remove(f"{folder}/{name}")

    def _change(self, **changes: Any) -> None:
        with self._lock:
            changed = msgspec.structs.replace(self.manifest, **changes)
            manifests.write(self._files, self.path, changed)
            self.manifest = changed

    def begin_epoch(
        self,
        tables: dict[str, TableManifest],
        next_table: int,
        next_tag: int,
        durability: str = "",
        folders: dict[str, str] | None = None,
    ) -> None:
        """Record that the store was opened once more, with these tables, how, and these folders of items."""
        self._change(
            epoch=self.manifest.epoch + 1,
            tables=tables,
            next_table=next_table,
            next_tag=next_tag,
            durability=durability,
            folders=self.manifest.folders if folders is None else folders,
        )

    def lane_opened(self, lane: int, active: int) -> None:
        """Record the segment that a lane writes first; a clean end before it no longer counts."""
        lanes = list(self.manifest.lanes)
        entry = lanes[lane]
        first = active if self.is_covered(lane) else entry.first
        lanes[lane] = LaneManifest(entry.directory, first, active, 0)
        is_last = all(entry.clean_end == 0 for entry in lanes)
        self._change(lanes=lanes, clean_lsns=[] if is_last else self.manifest.clean_lsns)

    def checkpointed(self, shards: Sequence[CheckpointManifest], first: Sequence[int]) -> None:
        """Record new checkpoints, and the first segment of each lane that still counts."""
        lanes = [
            LaneManifest(entry.directory, number, max(entry.active, number), entry.clean_end)
            for entry, number in zip(self.manifest.lanes, first, strict=True)
        ]
        self._change(shards=list(shards), lanes=lanes)

    def closed(self, ends: Sequence[int], lsns: Sequence[int]) -> None:
        """Record a clean close: where each lane's log ends, and the last LSN of each shard."""
        lanes = [
            LaneManifest(entry.directory, entry.first, entry.active, end)
            for entry, end in zip(self.manifest.lanes, ends, strict=True)
        ]
        self._change(lanes=lanes, clean_lsns=list(lsns) if all(ends) else [])

    def redealt(self, shards: Sequence[CheckpointManifest], lanes: Sequence[LaneManifest]) -> None:
        """Record that the slots were dealt to another number of shards; no log counts any more."""
        self._change(shards=list(shards), lanes=list(lanes), clean_lsns=[])

    def dropped(self, name: str) -> None:
        """Record that a table is gone, and what is beside it."""
        with self._lock:
            kept = {k: t for k, t in self.manifest.tables.items() if k not in (name, companion_of(name))}
            changed = msgspec.structs.replace(self.manifest, tables=kept)
            manifests.write(self._files, self.path, changed)
            self.manifest = changed

    def migrated(
        self, tables: dict[str, TableManifest], shards: Sequence[CheckpointManifest], kept: KeptState | None
    ) -> None:
        """Record the tables and checkpoints that a migration made, and the state before it if there is a way back.

        The log must be covered by the checkpoints.
        """
        tags = [entry.tag for table in tables.values() for entry in table.schemas]
        self._change(
            tables=tables,
            shards=list(shards),
            rollback=kept,
            next_tag=max(self.manifest.next_tag, 1 + max(tags, default=0)),
        )

    def rolled_back(self, kept: KeptState, lanes: Sequence[LaneManifest]) -> None:
        """Record that a kept state is the store's again; no log counts any more.

        Numbers that were given since are not given again, and the epoch goes on: what is left of the discarded state
        can be taken for nothing else.
        """
        self._change(
            epoch=self.manifest.epoch + 1,
            tables=kept.tables,
            shards=kept.shards,
            lanes=list(lanes),
            clean_lsns=[],
            rollback=None,
        )

    def rollback_forgotten(self) -> None:
        """Record that there is no way back any more."""
        self._change(rollback=None)

    def quarantine(self, torn: TornTail) -> None:
        """Keep a copy of what was cut off a log."""
        directory = f"{self.path}/quarantine"
        self._files.make_directory(directory)
        source = self._files.open(torn.path)
        try:
            data = source.read(min(torn.n_bytes, QUARANTINE_BYTES_MAX), torn.offset).rstrip(b"\0")
        finally:
            source.close()
        name = torn.path.rpartition("/")[2]
        path = f"{directory}/epoch-{self.manifest.epoch:08d}-{name}-{torn.offset:08x}"
        self._files.remove(path)
        target = self._files.create(path)
        try:
            target.write([data], 0)
            target.sync()
        finally:
            target.close()
        self._files.sync_directory(directory)

    # Pins

    def pin(self) -> Manifest:
        """Return the manifest of this moment, and keep every file that it names until `unpin`. Does not block.

        What is let go is decided after the manifest that lets it go has been put in place, so a pin is either seen
        there or holds that manifest already.
        """
        with self._pins_lock:
            self._pins.append(self.manifest)
            return self._pins[-1]

    def unpin(self, pinned: Manifest) -> None:
        """Take back one `pin`; what only that one kept goes at the next `let_go`."""
        with self._pins_lock:
            del self._pins[next(i for i, manifest in enumerate(self._pins) if manifest is pinned)]

    def _kept(self) -> list[Manifest]:
        with self._pins_lock:
            return [self.manifest, *self._pins]

    def pinned_series(self) -> set[int]:
        """Return the numbers of the files of items that a pin keeps."""
        with self._pins_lock:
            return {entry.number for manifest in self._pins for entry in manifest.series}

    def first_kept(self, lane: int) -> int:
        """Return the number of the first segment of a lane that counts, or is pinned."""
        return min(manifest.lanes[lane].first for manifest in self._kept())

    def remove_strays(self) -> None:
        """Remove checkpoints and block files that neither the manifest names, nor its way back, nor a pin."""
        shards = [shard for manifest in self._kept() for shard in manifest.shards_named]
        named = {shard.name for shard in shards}
        blocks = {block_path("", number)[1:] for shard in shards for number in shard.blocks}
        for directory, suffix, keep in (
            (self.checkpoint_directory, CHECKPOINT_SUFFIX, named),
            (self.block_directory, BLOCK_SUFFIX, blocks),
        ):
            for name in self._files.list_directory(directory):
                if name.endswith(suffix) and name not in keep:
                    self._files.remove(f"{directory}/{name}")


def new_manifest(store_id: bytes, shards: int, lanes: Iterable[str]) -> Manifest:
    """Return the manifest of an empty store."""
    return Manifest(
        store_id=store_id.hex(),
        epoch=0,
        next_tag=1,
        next_table=1,
        next_checkpoint=1,
        shards=[CheckpointManifest("", 0) for _ in range(shards)],
        lanes=[LaneManifest(directory, 1, 0, 0) for directory in lanes],
        tables={},
        clean_lsns=[],
    )


def check_names(plans: Iterable[Plan[Any]]) -> None:
    """Raise if two record types have one table name.

    Raises:
        ConfigError: they have.
    """
    seen: set[str] = set()
    for name in (plan.table for plan in plans):
        if name in seen:
            raise ConfigError(
                f"models: two record types have the table name {name!r}; give one name=", setting="models"
            )
        seen.add(name)


class Lineage(NamedTuple):
    """An older schema of a table.

    Attributes:
        tag: The tag of the records written under it.
        schema: The schema.
        between: The schemas after it and before the current one, in the order in which they were current.
    """

    tag: int
    schema: Schema
    between: list[Schema]


def older_schemas(table: TableManifest) -> list[Lineage]:
    """Return the schemas of a table but the current one, the oldest first."""
    schemas = [Schema.from_builtins(entry.schema) for entry in table.schemas]
    return [
        Lineage(entry.tag, schemas[i], schemas[i + 1 : -1]) for i, entry in enumerate(table.schemas[: len(schemas) - 1])
    ]


def with_schemas(manifest: Manifest, plans: Iterable[Plan[Any]]) -> tuple[dict[str, TableManifest], int, int]:
    """Return the tables of a manifest with the schemas of these types, and the next table number and tag.

    A schema that the table had before becomes the current one again: a release that is taken back, and comes again,
    adds nothing.

    Raises:
        IncompatibleSchemaError: a type cannot read what is stored under its name.
    """
    tables, next_table, next_tag = dict(manifest.tables), manifest.next_table, manifest.next_tag
    for plan in plans:
        name = plan.table
        table = tables.get(name)
        if table is None:
            tables[name] = TableManifest(next_table, [SchemaEntry(next_tag, plan.schema.to_builtins())])
            next_table, next_tag = next_table + 1, next_tag + 1
            table = tables[name]
        others = [entry for entry in table.schemas if Schema.from_builtins(entry.schema) != plan.schema]
        same = [entry for entry in table.schemas if Schema.from_builtins(entry.schema) == plan.schema]
        if not same:
            same = [SchemaEntry(next_tag, plan.schema.to_builtins())]
            next_tag += 1
        tables[name] = msgspec.structs.replace(table, schemas=[*others, *same])
        for older in older_schemas(tables[name]):
            _check_readable(plan, older)
        if plan.temporal_fields:
            tables[name] = _with_series(tables[name], plan)
            beside = companion_of(name)
            if beside not in tables and any(needs_state(series) for series in plan.temporal_fields):
                schema = companion_schema(name, plan.key_kind).to_builtins()
                tables[beside] = TableManifest(next_table, [SchemaEntry(next_tag, schema)])
                next_table, next_tag = next_table + 1, next_tag + 1
    return tables, next_table, next_tag


def _check_readable(plan: Plan[Any], older: Lineage) -> None:
    problems = [change for change in changes(plan.schema, older.schema, older.between) if change.effect == "unreadable"]
    if problems:
        words = "; ".join(change.words for change in problems)
        raise IncompatibleSchemaError(
            f"{plan.record_type.__name__} cannot read what is stored in {plan.table!r}: {words}. Nothing was touched.",
            table=plan.table,
            field=problems[0].field,
        )


def needs_state(series: TemporalField) -> bool:
    """Return whether a series has something beside its record: a place in files, or times of append."""
    horizons = (series.memory_s, series.ssd_s, series.disk_s)
    return series.time is None or series.archive or any(seconds is not None for seconds in horizons)


def _with_series(table: TableManifest, plan: Plan[Any]) -> TableManifest:
    """Return a table with numbers for its series: a renamed one keeps its own, that of a dropped one stays taken."""
    numbers = dict(table.series)
    names = {series.name for series in plan.temporal_fields}
    for older in reversed(older_schemas(table)):
        for old, name in became(plan.schema, older.schema, older.between).items():
            if name in names and name not in numbers and old in numbers:
                numbers[name] = numbers.pop(old)
    for series in plan.temporal_fields:
        numbers.setdefault(series.name, max(numbers.values(), default=0) + 1)
    expires = table.expires or plan.strategy.seconds("ttl") is not None
    return msgspec.structs.replace(table, series=numbers, expires=expires)
