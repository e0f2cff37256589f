"""One state of a stored store: its checkpoints and their block files, open, and what the log changed since, in memory.

It is loaded once, from one manifest, by whoever reads a store without opening it; it writes nothing. Whether the files
stayed as they were while it was loaded is for the caller to ask (see `warpstore.stored`).
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from wal import FileSystem
from wal.replay import segment_numbers
from warpstore._native import MemoryPool
from warpstore.blocks import BlockCache, BlockFiles
from warpstore.blocks.format import RAW_BYTES_MAX
from warpstore.catalog import Catalog
from warpstore.checkpoint import Checkpoint, CheckpointTable, WouldBlock
from warpstore.errors import CorruptionError
from warpstore.keys import HotKey, key_hash, slot_of, slot_range
from warpstore.lane_log import replay_lane
from warpstore.stored_table import StoredTable
from warpstore.values import TOMBSTONE, has_deadline, split_payload


@dataclass(frozen=True, slots=True, kw_only=True)
class TableCount:
    """How much a table holds.

    Attributes:
        records: Its records; those whose deadline has passed count until a checkpoint drops them.
        expiring: Those of them that have a deadline.
        checkpointed: Records in the checkpoints.
        checkpointed_bytes: Bytes of their values, without the parts that are in block files.
        changed: Keys that the log changed since.
    """

    records: int
    expiring: int
    checkpointed: int
    checkpointed_bytes: int
    changed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockCount:
    """What the block files of a shard hold; they have the parts of all of its tables.

    Attributes:
        files: The files.
        n_bytes: Their bytes.
        part_bytes: What the parts in them take, about.
        live_bytes: What those take that are of a record in any shard's checkpoint.
    """

    files: int
    n_bytes: int
    part_bytes: int
    live_bytes: int

    @property
    def useless(self) -> float:
        """Share of their bytes that no record has any more."""
        return 1 - self.live_bytes / self.part_bytes if self.part_bytes else 0.0


@dataclass(slots=True)
class _ShardState:
    """One shard: its checkpoint, and the newest values of the log by table number and key."""

    checkpoint: Checkpoint | None
    changes: dict[int, dict[HotKey, bytes]]

    def cold(self, table: StoredTable) -> CheckpointTable | None:
        return None if self.checkpoint is None else self.checkpoint.tables.get(table.number)


BLOCKS_CACHED_BYTES = 4 * RAW_BYTES_MAX
"""What decompressed blocks may take: as much as any block needs to be kept (see `BlockCache.put`)."""


class StoredState:
    """What some tables of a store hold. Release it."""

    def __init__(self, files: FileSystem, layout: Catalog) -> None:
        self._n_shards = len(layout.manifest.shards)
        self._shards: dict[int, _ShardState] = {}
        self._blocks = BlockFiles(
            files,
            layout.block_directory,
            store_id=layout.manifest.id_bytes,
            cache=BlockCache(BLOCKS_CACHED_BYTES, MemoryPool()),
            keeps_all=True,
        )

    @classmethod
    def load(
        cls, files: FileSystem, layout: Catalog, tables: set[int], key: HotKey | None = None, *, is_live: bool
    ) -> StoredState:
        """Return the state that a manifest names.

        Args:
            files: The file system.
            layout: The manifest, and where its files are.
            tables: The numbers of the tables whose changes are wanted; if there are none, the log is not read.
            key: Load only the shard of this key, and of the log only this key; None: all.
            is_live: Whether an owner may be writing the log.

        Raises:
            CorruptionError: a file is damaged or missing.
            FormatVersionError: a newer warpstore wrote it.
            OSError: reading failed.
        """
        n_shards = len(layout.manifest.shards)
        wanted = [shard for shard in range(n_shards) if key is None or slot_of(key) in slot_range(shard, n_shards)]
        state = cls(files, layout)
        try:
            for shard in wanted:
                state._shards[shard] = _ShardState(open_checkpoint(layout, files, shard, state._blocks), {})
            for lane in range(len(layout.manifest.lanes)):
                mine = frozenset(wanted).intersection(layout.shards_of_lane(lane))
                if mine and tables and not layout.is_covered(lane):
                    state._replay(files, layout, lane, mine, tables, key, is_live=is_live)
        except BaseException:
            state.release()
            raise
        return state

    def _replay(
        self,
        files: FileSystem,
        layout: Catalog,
        lane: int,
        shards: frozenset[int],
        tables: set[int],
        key: HotKey | None,
        *,
        is_live: bool,
    ) -> None:
        table_of = layout.table_of_tag()

        def deliver(stream: int, lsn: int, payloads: list[bytes]) -> None:  # noqa: ARG001
            changes = self._shards[stream].changes
            for payload in payloads:
                tag, found, value = split_payload(payload)
                table = table_of.get(tag)
                if table is not None and table in tables and (key is None or found == key):
                    changes.setdefault(table, {})[found] = value

        # Beside an owner the log goes on: what it has now is read, also if another segment follows by then.
        until = max(segment_numbers(files, layout.lane_directory(lane)), default=None) if is_live else None
        replay_lane(files, layout, lane, deliver, until=until, streams=shards)

    def release(self) -> None:
        """Close its checkpoints."""
        for shard in self._shards.values():
            if shard.checkpoint is not None:
                shard.checkpoint.release()

    def value(self, table: StoredTable, key: HotKey) -> bytes | None:
        """Return the newest value under a key, whole; `TOMBSTONE` if it was deleted, None if it was never there.

        Raises:
            CorruptionError, UnavailableError: what is read is damaged, or cannot be read.
        """
        slot = slot_of(key)
        shard = next(shard for i, shard in self._shards.items() if slot in slot_range(i, self._n_shards))
        value = shard.changes.get(table.number, {}).get(key)
        if value is None:
            value = _find(shard.cold(table), key)
        return self._whole(value) if value else value

    def _whole(self, value: bytes) -> bytes:
        whole = self._blocks.whole(value, blocking=True)
        assert not isinstance(whole, WouldBlock)
        return whole

    def values(self, table: StoredTable, start: HotKey | None, stop: HotKey | None) -> Iterator[bytes]:
        """Yield the newest values of the keys k with start <= k < stop in key order, whole, without tombstones.

        Raises:
            CorruptionError, UnavailableError: as for `value`.
        """
        runs = [
            _newest(shard.cold(table), shard.changes.get(table.number, {}), start, stop)
            for shard in self._shards.values()
        ]
        return (self._whole(value) for _, value in heapq.merge(*runs) if value is not TOMBSTONE)

    def block_counts(self) -> dict[int, BlockCount]:
        """Return what the block files of each shard hold."""
        uses = {
            shard: state.checkpoint.blocks if state.checkpoint else [] for shard, state in sorted(self._shards.items())
        }
        live: Counter[int] = Counter()
        for use in chain.from_iterable(uses.values()):  # after another number of shards was asked for they share files
            live[use.number] += use.n_live
        return {
            shard: BlockCount(
                files=len(mine),
                n_bytes=sum(self._blocks.n_bytes(use.number) for use in mine),
                part_bytes=sum(use.n_bytes for use in mine),
                live_bytes=sum(live[use.number] for use in mine),
            )
            for shard, mine in uses.items()
        }

    def count(self, table: StoredTable) -> TableCount:
        """Return how much a table holds; each key that the log changed is looked up in its checkpoint.

        Raises:
            CorruptionError, UnavailableError: as for `value`.
        """
        records = expiring = checkpointed = n_bytes = changed = 0
        for shard in self._shards.values():
            cold = shard.cold(table)
            if cold is not None:
                checkpointed += cold.n_records
                expiring += cold.n_expiring
                n_bytes += cold.n_bytes
            for key, value in shard.changes.get(table.number, {}).items():
                before = _find(cold, key)
                records += (value is not TOMBSTONE) - (before is not None)
                expiring += bool(value and has_deadline(value)) - bool(before and has_deadline(before))
                changed += 1
        return TableCount(
            records=checkpointed + records,
            expiring=expiring,
            checkpointed=checkpointed,
            checkpointed_bytes=n_bytes,
            changed=changed,
        )


def open_checkpoint(
    layout: Catalog, files: FileSystem, shard: int, blocks: BlockFiles | None = None
) -> Checkpoint | None:
    """Return the checkpoint of a shard that the manifest names, or None if it names none.

    Args:
        layout: The manifest, and where its files are.
        files: The file system.
        shard: The shard.
        blocks: Keeps its block files open with it, or None.

    Raises:
        CorruptionError: it is missing, damaged, or another one than the manifest says.
        FormatVersionError: it was written by a newer warpstore.
    """
    entry = layout.manifest.shards[shard]
    if not entry.name:
        return None
    path = f"{layout.checkpoint_directory}/{entry.name}"
    checkpoint = Checkpoint.open(files, path, store_id=layout.manifest.id_bytes, shard=shard, blocks=blocks)
    if checkpoint.lsn != entry.lsn:
        checkpoint.release()
        message = f"{path}: offset 0: it ends at LSN {checkpoint.lsn}, the manifest says {entry.lsn}"
        raise CorruptionError(message, path=path, offset=0)
    return checkpoint


def _find(cold: CheckpointTable | None, key: HotKey) -> bytes | None:
    found = None if cold is None else cold.find(key_hash(key), key, blocking=True)
    assert not isinstance(found, WouldBlock)
    return found


def _newest(
    cold: CheckpointTable | None, changes: dict[HotKey, bytes], start: HotKey | None, stop: HotKey | None
) -> Iterator[tuple[HotKey, bytes]]:
    """Yield one shard's newest values with their keys, tombstones among them."""

    def is_inside(key: Any) -> bool:
        return (start is None or key >= start) and (stop is None or key < stop)

    newer: Iterator[Any] = iter(sorted(key for key in changes if is_inside(key)))
    pending = next(newer, None)
    for key, value in () if cold is None else _checkpointed(cold, start, stop):
        while pending is not None and pending < key:
            yield pending, changes[pending]
            pending = next(newer, None)
        if pending is not None and pending == key:
            continue  # the newer value comes at the next turn
        yield key, value
    while pending is not None:
        yield pending, changes[pending]
        pending = next(newer, None)


def _checkpointed(cold: CheckpointTable, start: HotKey | None, stop: HotKey | None) -> Iterator[tuple[HotKey, bytes]]:
    for number in cold.block_numbers(start, stop):
        rows = cold.read_blocks(number, 1, blocking=True)
        assert not isinstance(rows, WouldBlock)
        rows.between(start, stop)
        for value in rows:
            yield split_payload(value)[1], value
