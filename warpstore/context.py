"""What the parts of one open store share: its loop, clock, files and threads, and what is true of all of them."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVar

from gpu_kernels import Backend, NumpyBackend
from wal import FileSystem, Lock
from warpstore._native import MemoryPool
from warpstore.blocks import BlockFiles
from warpstore.clock import Clock
from warpstore.codec import Codec
from warpstore.config import Config
from warpstore.environment import Environment, Runner
from warpstore.errors import WRONG_THREAD, ForkedError, WarpstoreError, WrongThreadError
from warpstore.gpu_tier import GpuTier
from warpstore.hot_tier import HotTier, Loaded, Snapshot
from warpstore.keys import HotKey, key_hash
from warpstore.lane_keeper import LaneKeeper
from warpstore.memory_cap import MemoryCaps
from warpstore.observe.checkpoint_history import CheckpointHistory
from warpstore.observe.tracing import Tracing
from warpstore.parts import is_split_value
from warpstore.routes import TableRoutes
from warpstore.shard import Shard
from warpstore.strategy import Strategy
from warpstore.values import TOMBSTONE

if TYPE_CHECKING:
    from warpstore.checkpoint import CheckpointTable
    from warpstore.checkpointer import Checkpointer
    from warpstore.temporal import Ager, SeriesFiles, TableSeries

T = TypeVar("T")

_open_contexts: weakref.WeakSet[StoreContext] = weakref.WeakSet()


class StoreContext:
    """The shared state of one open store.

    Attributes:
        path: The store's folder.
        loop: The loop it belongs to.
        thread: The thread of that loop.
        config: Its settings.
        files: The file system.
        clock: Monotonic and wall time.
        tables: The ways into the shards, by table number.
        shards: The shards, by index; a restarted one takes the place of the one before.
        lanes: What keeps the lanes.
        checkpointer: What writes the checkpoints.
        closed: Why no call is served any more, or None.
        read_only: Why no write is served any more, or None.
        checkpoints: What became of the checkpoints.
        tracing: Makes spans.
        opened_s: When it was opened, on the monotonic clock.
        caps: The caps on memory.
        blocks: The block files that checkpoints use.
        series: The files of items that left their records.
        series_tables: The tables that have series and a class.
        ager: What takes items out of their records.
        strategies: The policies of the tables that have a class, by name.
        pools: What counts the memory of each table, by its number.
        on_growth: What to call when a hot tier has grown, or None where there is no cap.
        installing: Held while a checkpoint takes the place of the one before, and while a shard reads one back.
    """

    def __init__(
        self,
        path: str,
        loop: asyncio.AbstractEventLoop,
        config: Config,
        environment: Environment,
        lock: Lock,
        tracing: Tracing,
    ) -> None:
        self.path = path
        self.loop = loop
        self.thread = get_ident()
        self.config = config
        self.environment = environment
        self.files: FileSystem = environment.files
        self.clock: Clock = environment.clock
        self.tables: dict[int, TableRoutes] = {}
        self.table_numbers: dict[str, int] = {}
        self.shards: dict[int, Shard] = {}
        self.lanes: list[LaneKeeper] = []
        self.checkpointer: Checkpointer | None = None
        self.gpu_tiers: list[GpuTier] = []
        self.closed: WarpstoreError | None = None
        self.read_only: WarpstoreError | None = None
        self.lock = lock
        self.checkpoints = CheckpointHistory(environment.clock)
        self.tracing = tracing
        self.opened_s = environment.clock.monotonic()
        self.caps = MemoryCaps(self, config.ram, config.block_cache_bytes)
        self.blocks: BlockFiles
        self.series: SeriesFiles
        self.series_tables: list[TableSeries] = []
        self.ager: Ager | None = None
        self.strategies: dict[str, Strategy] = {}
        self.pools: dict[int, MemoryPool] = {}
        self.on_growth: Callable[[], None] | None = None
        self.installing = asyncio.Lock()
        self._fed: list[GpuTier] = []
        self._backend: Backend | None = None
        self._runner: Runner = environment.runner(loop)
        _open_contexts.add(self)

    # What every call asks first

    def check(self) -> None:
        """Raise if a call may not be served.

        Raises:
            ClosedStoreError, ForkedError: the store is gone for this process.
            WrongThreadError: the call comes from another thread. (Another loop of the same thread is noticed where
                something is scheduled: asking for the running loop costs a system call each time.)
        """
        if self.closed is not None:
            raise self.closed.with_traceback(None)
        if get_ident() != self.thread:
            raise WrongThreadError(WRONG_THREAD)

    def close_ways(self, error: WarpstoreError) -> None:
        """Let no call in any more; they raise ``error``."""
        self.closed = error
        for routes in self.tables.values():
            routes.close()

    def follow(self, shard: Shard) -> None:
        """Take in that the fast paths into a shard changed."""
        if self.closed is None:
            for number in shard.tiers:
                if number in self.tables:
                    self.tables[number].follow(shard)

    # Blocking work

    def run(self, call: Callable[[], T]) -> Awaitable[T]:
        """Run a blocking call in a thread.

        Raises:
            ClosedStoreError: the threads are gone, because the store was closed meanwhile.
        """
        try:
            return self._runner(call)
        except RuntimeError:
            if self.closed is None:
                raise
            raise self.closed.with_traceback(None) from None

    async def pause(self) -> None:
        """Let the loop turn."""
        await asyncio.sleep(0)

    async def load(self, wanted: Sequence[tuple[HotTier, int, HotKey]]) -> list[Loaded]:
        """Read records from disk, with one thread hop for all, and promote what memory may keep of them.

        Raises:
            CorruptionError: a checkpoint or a block file is damaged.
        """
        states = [(tier, slot, key, tier.cold, tier.checkpoint, tier.revision) for tier, slot, key in wanted]
        for _, _, _, _, checkpoint, _ in states:
            if checkpoint is not None:
                checkpoint.acquire()
        heads: list[bytes | None] = []
        for tier, slot, key in wanted:
            head = tier.in_memory(slot, key)
            heads.append(head if head and is_split_value(head) else None)  # what is split is as the checkpoint has it

        def read() -> list[tuple[bytes | None, bytes | None]]:
            found = list(heads)
            by_table: dict[CheckpointTable, list[int]] = {}
            for i, (_, _, _, cold, _, _) in enumerate(states):
                if cold is not None and found[i] is None:
                    by_table.setdefault(cold, []).append(i)
            for cold, some in by_table.items():
                keys = [states[i][2] for i in some]
                for i, value in zip(some, cold.find_many([(key_hash(key), key) for key in keys]), strict=True):
                    found[i] = value
            return list(zip(found, self.blocks.whole_many(found), strict=True))

        try:
            found = await self.run(read)
        finally:
            for _, _, _, _, checkpoint, _ in states:
                if checkpoint is not None:
                    checkpoint.release()
        loaded: list[Loaded] = []
        for (tier, slot, key, cold, _, revision), (value, whole) in zip(states, found, strict=True):
            if tier.revision == revision and tier.in_memory(slot, key) is None:
                tier.promote(slot, key, value)
            loaded.append(Loaded(cold, TOMBSTONE if value is None else value, TOMBSTONE if whole is None else whole))
        return loaded

    # Columns

    @property
    def backend(self) -> Backend:
        """What works on columns: of the slabs, and of fields that are computed in batches."""
        if self._backend is None:
            self._backend = NumpyBackend()
        return self._backend

    def gpu_tier(self, codec: Codec[Any], older: Mapping[int, Callable[[Any], Any]]) -> GpuTier:
        """Return a new GPU tier for a table, with the decoders of its older schemas by tag."""
        tier = GpuTier(self, codec, self.backend, older)
        self.gpu_tiers.append(tier)
        return tier

    def start_feeding(self, tier: GpuTier) -> None:
        """Give a GPU tier every payload that is acknowledged from now on."""
        if tier not in self._fed:
            self._fed.append(tier)
        for shard in self.shards.values():
            shard.is_fed = True

    def forget_columns(self) -> None:
        """Have the columns built anew: a shard came back, and what was fed to them need not be what it holds."""
        for tier in self.gpu_tiers:
            tier.forget()

    def feed(self, shard: Shard, payloads: Sequence[bytes]) -> None:  # noqa: ARG002
        """Hand acknowledged payloads to the GPU tiers."""
        for tier in self._fed:
            tier.feed(payloads)

    @property
    def is_feeding(self) -> bool:
        """Whether some GPU tier wants what is acknowledged."""
        return bool(self._fed)

    def flush_pending(self, tier: GpuTier) -> None:
        """Feed what is acknowledged but has not been written yet."""
        for keeper in self.lanes:
            if keeper.lane is not None:
                keeper.lane.flush()
        for shard in self.shards.values():
            if not shard.durable and shard.pending:
                tier.feed(list(shard.pending))

    def tiers(self, table: str) -> list[HotTier]:
        """Return a table's hot tiers, by shard."""
        number = self.table_numbers[table]
        return [shard.tiers[number] for _, shard in sorted(self.shards.items())]

    def snapshots(self, table: str) -> list[Snapshot]:
        """Return one state of a table over all shards; release each."""
        return [tier.snapshot() for tier in self.tiers(table)]

    def release(self) -> None:
        """Release threads, columns and the lock; the last step of closing."""
        for shard in self.shards.values():
            shard.release_state()
        for tier in self.gpu_tiers:
            tier.close()
        if hasattr(self, "series"):  # opening may have failed before
            self.series.close()
        if self._backend is not None:
            self._backend.close()
        self._runner.close()
        self.lock.close()
        _open_contexts.discard(self)


def _after_fork_in_child() -> None:
    """A forked child owns nothing: close its copy of the lock, and let every call say so."""
    for context in list(_open_contexts):
        context.close_ways(ForkedError(f"the store {context.path!r} was opened before this process forked"))
        context.lock.close()


os.register_at_fork(after_in_child=_after_fork_in_child)
