"""The reader: the parts of a store that was opened with ``read_only=True``.

It has shards without a lane, on the state that `read_state` gave. A refresh reads the state anew, makes other shards
of it, and puts them in place of those before in one step; what is being read at that moment keeps what it began with.

The tables of the types that it was opened with may not be stored, or under other schemas: what would have to be added
to the manifest is added in memory, under numbers that no store reaches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from warpstore.blocks import BlockFiles
from warpstore.catalog import Catalog, check_names, new_manifest, older_schemas, with_schemas
from warpstore.config import Config
from warpstore.context import StoreContext
from warpstore.environment import Environment
from warpstore.errors import ConfigError, OpenError, ReadOnlyStoreError
from warpstore.hot_tier import HotTier
from warpstore.keys import slot_range
from warpstore.lane_keeper import Prepared, release_all
from warpstore.manifest import Manifest, SchemaEntry
from warpstore.memory_cap import check_pools, priority_of
from warpstore.observe.tracing import Tracing
from warpstore.plan import Plan
from warpstore.reading_state import read_manifest, read_state
from warpstore.routes import TableRoutes
from warpstore.shard import Shard
from warpstore.supervisor import ChildSpec, Supervisor
from warpstore.table import Table
from warpstore.temporal import SeriesFiles

_EMPTY = new_manifest(bytes(16), 1, [])

UNSTORED = 1 << 30
"""Tables and tags that are not stored have numbers from here on."""


class NoLock:
    """The lock of a store that is owned by somebody else."""

    def close(self) -> None:
        """Let nothing go."""


class Reader:
    """Keeps what a store reads, and renews it.

    Args:
        context: The store's, with nothing in it yet.
        plans: The record types.

    Attributes:
        catalog: What is stored, and the record types' own schemas.
        root: The actors: none but an empty supervisor.
    """

    def __init__(self, context: StoreContext, plans: Sequence[Plan[Any]]) -> None:
        self.catalog = Catalog(context.files, context.path, _EMPTY)
        self._context = context
        self._plans = plans
        self._bound: dict[str, SchemaEntry] = {}
        self._refreshing = asyncio.Lock()
        options: dict[str, Any] = {"clock": context.clock, "loop": context.loop}
        shards = ChildSpec("shards", lambda: Supervisor([], name="shards", strategy="one_for_one", **options))
        self.root = Supervisor([shards], name="store", strategy="rest_for_one", **options)

    async def open(self) -> None:
        """Read the state for the first time.

        Raises:
            OpenError, IncompatibleSchemaError, UnavailableError: as for `warpstore.open`.
            ConfigError: a setting contradicts the store.
        """
        context = self._context
        await self.root.start()
        first = await context.run(lambda: read_manifest(context))
        context.blocks = BlockFiles(
            context.files, self.catalog.block_directory, store_id=first.id_bytes, cache=context.caps.block_cache
        )
        manifest, states, series = await self._read(first)
        try:
            _check_config(context.config, manifest)
            merged = self._merged(manifest)
            self._bound = {plan.table: merged.tables[plan.table].schemas[-1] for plan in self._plans}
            shards = await self._shards(states)
        except BaseException:
            release_all(state.checkpoint for state in states)
            series.close()
            raise
        self._install(merged, shards, series)

    async def refresh(self, tables: Iterable[Table[Any]]) -> None:
        """Move to the newer state; see `Store.refresh`."""
        context = self._context
        async with self._refreshing:
            manifest, states, series = await self._read(await context.run(lambda: read_manifest(context)))
            try:
                context.check()
                merged = self._merged(manifest)
                shards = await self._shards(states)
            except BaseException:
                release_all(state.checkpoint for state in states)
                series.close()
                raise
            tables = list(tables)
            for table in tables:
                stored = merged.tables[table.name]
                if stored != self.catalog.manifest.tables[table.name]:
                    table._decoders.update(
                        {older.tag: table._codec.decoder_of(*older) for older in older_schemas(stored)}
                    )
            before = list(context.shards.values())
            before_series = context.series
            self._install(merged, shards, series)
            for table in tables:
                if table._series is not None:
                    table._attach_series(self.catalog)
            before_series.retire()
            for shard in before:
                shard.release_state()
                await shard.stop()

    async def _read(self, manifest: Manifest) -> tuple[Manifest, list[Prepared], SeriesFiles]:
        """Read a state, and count the memory of every table in it; the manifest was read before."""
        context = self._context
        while True:
            self._add_pools(manifest)
            manifest, states, series = await context.run(lambda: read_state(context))
            if context.pools.keys() >= {table.table for table in manifest.tables.values()}:
                return manifest, states, series
            series.close()
            release_all(state.checkpoint for state in states)  # a table came between

    def _add_pools(self, manifest: Manifest) -> None:
        context = self._context
        for name, table in manifest.tables.items():
            if table.table not in context.pools:
                context.pools[table.table] = context.caps.add_table(
                    table.table, priority_of(table), context.strategies.get(name)
                )
        if context.caps.is_active:
            context.on_growth = context.caps.check

    async def close(self) -> None:
        """End the shards; their checkpoints are the context's to release."""
        for shard in self._context.shards.values():
            await shard.stop()

    def _merged(self, manifest: Manifest) -> Manifest:
        """Return the manifest with the schemas that the record types have here.

        Raises:
            IncompatibleSchemaError: a type cannot read what is stored under its name.
        """
        unstored = msgspec.structs.replace(manifest, next_table=UNSTORED, next_tag=UNSTORED)
        tables, _, _ = with_schemas(unstored, self._plans)
        for name, bound in self._bound.items():  # a table's codec stays what it was made as
            others = [entry for entry in tables[name].schemas if entry.tag < UNSTORED and entry.tag != bound.tag]
            tables[name] = msgspec.structs.replace(tables[name], schemas=[*others, bound])
        return msgspec.structs.replace(manifest, tables=tables)

    async def _shards(self, states: list[Prepared]) -> list[Shard]:
        """Return started shards on these states, which nobody is led to yet."""
        context, config = self._context, self._context.config
        assert context.read_only is not None

        def follow(shard: Shard) -> None:
            if context.shards.get(shard.index) is shard:
                context.follow(shard)

        shards = []
        for index, state in enumerate(states):
            shard = Shard(
                index,
                slot_range(index, len(states)),
                state.tiers,
                state.checkpoint,
                durability="memory",
                loop=context.loop,
                clock=context.clock,
                on_routes=follow,
                feed=context.feed,
                mailbox_messages_max=config.mailbox_messages_max,
                mailbox_bytes_max=config.mailbox_bytes_max,
            )
            shard.refuse_writers(context.read_only)
            shard.attach(None, state.lsn_next)
            await shard.start()
            shards.append(shard)
        return shards

    def _install(self, manifest: Manifest, shards: list[Shard], series: SeriesFiles) -> None:
        """Put a state in place of the one before, in one step."""
        context = self._context
        self._add_pools(manifest)  # of tables that are not stored
        for name, table in manifest.tables.items():
            number = context.table_numbers.get(name)
            routes = TableRoutes(table.table) if number is None else context.tables.pop(number)
            routes.table = table.table
            routes.by_shard.clear()
            context.tables[table.table] = routes
            context.table_numbers[name] = table.table
            for shard in shards:
                if table.table not in shard.tiers:  # not stored: empty
                    pool = context.pools[table.table]
                    shard.tiers[table.table] = HotTier(
                        table.table, shard.slots, shard.checkpoint, pool, context.on_growth
                    )
        for name in set(context.table_numbers) - set(manifest.tables):  # the owner dropped it
            del context.tables[context.table_numbers.pop(name)]
        self.catalog.manifest = manifest
        context.series = series
        context.shards = {shard.index: shard for shard in shards}
        for shard in shards:
            context.follow(shard)
        context.forget_columns()
        context.caps.check()


def _check_config(config: Config, manifest: Manifest) -> None:
    """Refuse settings that contradict the store: a reader cannot deal it anew."""
    for name, value, has in (
        ("shards", config.shards, len(manifest.shards)),
        ("lanes", config.lanes, len(manifest.lanes)),
    ):
        if value not in {None, has}:
            raise ConfigError(f"{name}={value}: the store has {has}, and is opened read-only", setting=name)
    for tier in ("ssd", "disk", "archive"):
        folder, has_folder = getattr(config, tier), manifest.folders.get(tier)
        if folder not in {None, has_folder}:
            raise ConfigError(f"{tier}={folder!r}: the store has {has_folder or 'a folder inside it'}", setting=tier)
    directories = [lane.directory for lane in manifest.lanes]
    if config.log and list(config.log) != directories:
        raise ConfigError(f"log={list(config.log)}: the store was created with {directories}", setting="log")


async def open_reader(
    path: str, plans: Sequence[Plan[Any]], config: Config, environment: Environment, tracing: Tracing
) -> tuple[StoreContext, Reader]:
    """Return the parts of the store at ``path``, for reading.

    Raises:
        OpenError, IncompatibleSchemaError, UnavailableError: as for `warpstore.open`.
        ConfigError: a setting contradicts the store.
    """
    check_names(plans)
    check_pools(plan.strategy for plan in plans)
    context = StoreContext(path, asyncio.get_running_loop(), config, environment, NoLock(), tracing)
    context.read_only = ReadOnlyStoreError(f"the store {path!r} was opened with read_only=True: it takes no writes")
    context.strategies = {plan.table: plan.strategy for plan in plans}
    reader = Reader(context, plans)
    try:
        await reader.open()
    except BaseException as e:
        await reader.root.stop()
        context.release()
        if isinstance(e, OSError):
            raise OpenError(f"{path}: cannot be read: {e}", path=path) from e
        raise
    return context, reader
