"""What a checkpoint has to do, as data, and the function that does it.

A job names sealed segments of the log, the checkpoints before it, and the files to write. It knows tables only by
number and tags: no record type, no user code. So it can run in another process, where it costs the event loop nothing;
1,000,000 records take that process a few seconds, in which a thread would hold the interpreter for 30 ms at a time.

With several sources for one shard, or a range of slots, the same job deals the slots to another number of shards.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Protocol

import msgspec
from xxhash import xxh3_64_intdigest

from wal import File, FileSystem, OnCorruption, replay
from warpstore._native import MemoryPool
from warpstore.blocks import BlockCache, BlockFiles, block_path
from warpstore.checkpoint.apart import SetApart
from warpstore.checkpoint.reader import Checkpoint
from warpstore.checkpoint.writer import CheckpointWriter
from warpstore.keys import SLOTS, HotKey, key_bytes
from warpstore.parts import PartPlan, is_split_value, places_of
from warpstore.values import DEADLINE_BYTES, TOMBSTONE, deadline_of, has_deadline, split_payload


class LogJob(msgspec.Struct, frozen=True):
    """A lane's segments to read: ``first`` through ``last``, all sealed or final."""

    directory: str
    lane: int
    first: int
    last: int


class TableJob(msgspec.Struct, frozen=True):
    """A table.

    Attributes:
        table: Its number.
        tags: The tags of its schemas. Records of other tags are dropped.
        parts: The parts of its records, by tag; those of other tags have none.
        threshold: Blocks of fewer bytes are not compressed.
    """

    table: int
    tags: list[int]
    parts: dict[int, list[PartPlan]] = {}
    threshold: int = 0


class ShardJob(msgspec.Struct, frozen=True):
    """One file to write.

    Attributes:
        shard: The shard.
        sources: The checkpoints whose records it starts from, as (path, shard).
        slots: First slot and slot after the last that go into it.
        lsn: Everything up to this LSN will be in it.
        target: The file.
        salt: A random 64-bit number.
        blocks: Number of the block file for the parts of its records.
    """

    shard: int
    sources: list[tuple[str, int]]
    slots: tuple[int, int]
    lsn: int
    target: str
    salt: int
    blocks: int = 0


class CheckpointJob(msgspec.Struct, frozen=True):
    """A checkpoint of some shards.

    Attributes:
        store_id: 16 bytes that name the store.
        logs: The log to read.
        after: Per stream of the log, the LSN that the sources hold already.
        upto: Per stream of the log, the last LSN to read.
        tables: The tables to keep.
        shards: The files to write.
        dealt_anew: Whether the sources hold other slots than the files to write.
        block_directory: The folder of the block files.
        now_ms: Records whose deadline has passed by then are left out.
        on_corruption: As for `replay`.
    """

    store_id: bytes
    logs: list[LogJob]
    after: list[int]
    upto: list[int]
    tables: list[TableJob]
    shards: list[ShardJob]
    dealt_anew: bool
    now_ms: int
    block_directory: str = ""
    on_corruption: OnCorruption = "refuse"


class CheckpointResult(msgspec.Struct, frozen=True):
    """What was written: the records of each file, in the order of the job's shards."""

    n_records: list[int]


Records = Iterable[tuple[HotKey, bytes]]
_BLOCKS_CACHED_BYTES = 4 << 20


class Rewrite(Protocol):
    """Changes the records of a checkpoint on their way."""

    def __call__(self, table: int, records: Records, /, *, blocks: BlockFiles) -> Records:
        """Return the records to write: the same keys in the same order, each value whole or as it was.

        Args:
            table: The table's number.
            records: Its live records in key order.
            blocks: The files of their parts.
        """


_Fresh = dict[int, list[dict[HotKey, bytes]]]


def run_job(files: FileSystem, job: CheckpointJob, rewrite: Rewrite | None = None) -> CheckpointResult:
    """Write the files of a job and make them durable.

    Args:
        files: The file system.
        job: What to do.
        rewrite: Changes records on their way, or None. It may run user code; so a job with one runs in the process
            that has the record types.

    Raises:
        wal.WalError: the log is damaged.
        CorruptionError: a source is damaged.
        OSError: reading or writing failed; files written so far are removed.
    """
    by_slot = [-1] * SLOTS
    for i, shard in enumerate(job.shards):
        by_slot[shard.slots[0] : shard.slots[1]] = [i] * (shard.slots[1] - shard.slots[0])
    fresh = _read_logs(files, job, by_slot)
    written: list[str] = []
    try:
        n_records = []
        for i, shard in enumerate(job.shards):
            written += shard.target, block_path(job.block_directory, shard.blocks)
            mine = {table: dicts[i] for table, dicts in fresh.items()}
            n_records.append(_write_shard(files, job, shard, mine, rewrite))
    except BaseException:
        for path in written:
            files.remove(path)
        raise
    return CheckpointResult(n_records)


def _read_logs(files: FileSystem, job: CheckpointJob, by_slot: list[int]) -> _Fresh:
    """Return, per table and file, the newest value of every key that the log changed."""
    table_of = {tag: table.table for table in job.tables for tag in table.tags}
    fresh: _Fresh = {table.table: [{} for _ in job.shards] for table in job.tables}
    upto = job.upto

    def deliver(stream: int, lsn: int, payloads: list[bytes]) -> None:
        for payload in payloads[: max(0, upto[stream] + 1 - lsn)]:
            tag, key, value = split_payload(payload)
            table = table_of.get(tag)
            i = by_slot[xxh3_64_intdigest(key_bytes(key)) & (SLOTS - 1)]
            if table is not None and i >= 0:
                fresh[table][i][key] = value

    for log in job.logs:
        replay(
            files,
            log.directory,
            store_id=job.store_id,
            lane=log.lane,
            first=log.first,
            until=log.last,
            after=job.after,
            deliver=deliver,
            on_corruption=job.on_corruption,
        )
    return fresh


def _write_shard(
    files: FileSystem,
    job: CheckpointJob,
    shard: ShardJob,
    fresh: dict[int, dict[HotKey, bytes]],
    rewrite: Rewrite | None,
) -> int:
    # The records of one block come one after another: so every block is kept for a while, whatever its fields say.
    cache = BlockCache(_BLOCKS_CACHED_BYTES, MemoryPool())
    before = BlockFiles(files, job.block_directory, store_id=job.store_id, cache=cache, keeps_all=True)
    sources: list[Checkpoint] = []
    try:
        for path, n in shard.sources:
            sources.append(Checkpoint.open(files, path, store_id=job.store_id, shard=n, blocks=before))
        uses = [use for source in sources for use in source.blocks]
        apart = SetApart(files, job, shard, before, uses, _replaced(job, sources, fresh))
        files.remove(shard.target)
        file = files.create(shard.target)
        try:
            return _write_file(
                file, job, shard, sources, fresh, apart, partial(rewrite, blocks=before) if rewrite else None
            )
        finally:
            file.close()
            apart.close()
    finally:
        for source in sources:
            source.release()


def _write_file(
    file: File,
    job: CheckpointJob,
    shard: ShardJob,
    sources: list[Checkpoint],
    fresh: dict[int, dict[HotKey, bytes]],
    apart: SetApart,
    rewrite: Callable[[int, Records], Records] | None,
) -> int:
    writer = CheckpointWriter(file, store_id=job.store_id, shard=shard.shard, salt=shard.salt)
    n_records = 0
    for table in job.tables:
        records: Iterable[tuple[HotKey, bytes]]
        older = [source.tables[table.table].records() for source in sources if table.table in source.tables]
        records = heapq.merge(*older)
        if job.dealt_anew:
            records = _in_slots(records, shard.slots)
        live: Records = _live(_merged(records, fresh.get(table.table, {})), job.now_ms)
        if rewrite is not None:
            live = rewrite(table.table, live)
        if table.parts:
            n_records += writer.write_table(table.table, apart.of_table(table, live), packed=True)
        else:
            n_records += writer.write_table(table.table, live)
    writer.finish(shard.lsn, apart.finish())
    return n_records


def _replaced(job: CheckpointJob, sources: list[Checkpoint], fresh: dict[int, dict[HotKey, bytes]]) -> Counter[int]:
    """Return by block file what the parts take of the records that newer ones replace."""
    n_bytes = Counter[int]()
    for table in job.tables:
        newer = fresh.get(table.table)
        if not newer or not table.parts:
            continue
        for source in sources:
            if source.blocks and table.table in source.tables:
                for key, value in source.tables[table.table].records():
                    if key in newer and is_split_value(value):
                        for place in places_of(value[DEADLINE_BYTES:] if has_deadline(value) else value):
                            n_bytes[place.file] += place.n_bytes
    return n_bytes


def _in_slots(records: Iterable[tuple[HotKey, bytes]], slots: tuple[int, int]) -> Iterator[tuple[HotKey, bytes]]:
    first, stop = slots
    for key, value in records:
        if first <= xxh3_64_intdigest(key_bytes(key)) & (SLOTS - 1) < stop:
            yield key, value


def _merged(older: Iterable[tuple[HotKey, bytes]], newer: dict[HotKey, bytes]) -> Iterator[tuple[HotKey, bytes]]:
    """Yield both in key order; where both have a key, the newer value. Consumes ``newer``."""
    keys: Iterator[Any] = iter(sorted(newer))
    pending = next(keys, None)
    for key, value in older:
        while pending is not None and pending < key:
            yield pending, newer[pending]
            pending = next(keys, None)
        if pending is not None and pending == key:
            yield key, newer[key]
            pending = next(keys, None)
        else:
            yield key, value
    while pending is not None:
        yield pending, newer[pending]
        pending = next(keys, None)


def _live(records: Iterable[tuple[HotKey, bytes]], now_ms: int) -> Iterator[tuple[HotKey, bytes]]:
    for key, value in records:
        if value is not TOMBSTONE and not (has_deadline(value) and deadline_of(value) <= now_ms):
            yield key, value
