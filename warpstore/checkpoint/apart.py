"""Sets the parts of records apart while a checkpoint is written: into a new block file, or leaves them where they are.

Records come in key order and go on in key order, but the place of a part is known only when its block is full. So
records queue until all of their parts have places.

What is of no use any more stays in its block file, which is immutable. When more than a fifth of a file is, what is
left of it is written again by the same checkpoint, as much as `MOVED_BYTES_MAX`; a file that no record names is
removed. So no more than a fifth of a file is wasted, except for what that bound leaves to the next checkpoint.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from wal import File, FileSystem
from warpstore.blocks import BlockFiles, BlockWriter, Placed, block_path
from warpstore.checkpoint.format import BlockUse
from warpstore.keys import HotKey
from warpstore.parts import PartPlan, Place, is_split, is_worth_it, places_of, split, split_value
from warpstore.values import DEADLINE_BYTE, DEADLINE_BYTES, split_payload
from warpstore.would_block import WouldBlock

if TYPE_CHECKING:
    from warpstore.checkpoint.job import CheckpointJob, ShardJob, TableJob

USELESS_MAX = 0.2
"""Share of a block file that may be of no use before the rest is written again."""

MOVED_BYTES_MAX = 256 << 20
"""Bytes of parts that one checkpoint of a shard writes again at most."""

QUEUED_BYTES_MAX = 16 << 20
"""Bytes of records that wait for a place of their parts; with more, blocks are written before they are full."""

_QUEUED_BYTES = 512  # beside its head


class _Queued:
    """A record whose parts get their places; ``head`` without them, or all of it if none is to be set apart."""

    __slots__ = ("first", "head", "key", "places", "waits")

    def __init__(self, key: HotKey, head: bytes, first: int, n_parts: int) -> None:
        self.key = key
        self.head = head
        self.first = first
        self.places: list[Place | None] = [None] * n_parts
        self.waits = n_parts

    def value(self) -> bytes:
        return split_value(self.head, self.first, self.places) if self.places else self.head  # type: ignore[arg-type]


class SetApart:
    """The parts of one shard's records.

    Args:
        files: The file system.
        job: The checkpoint.
        shard: The shard.
        before: The block files that the checkpoints before use.
        uses: What they use.
        replaced: By file, what those of their parts take that this checkpoint has no use for.
    """

    def __init__(
        self,
        files: FileSystem,
        job: CheckpointJob,
        shard: ShardJob,
        before: BlockFiles,
        uses: Sequence[BlockUse],
        replaced: Mapping[int, int],
    ) -> None:
        path = block_path(job.block_directory, shard.blocks)

        def create() -> File:
            files.remove(path)
            return files.create(path)

        self._writer = BlockWriter(create, number=shard.blocks, salt=shard.salt, store_id=job.store_id)
        self._before = before
        self._n_bytes = {use.number: use.n_bytes for use in uses}
        self._n_live: Counter[int] = Counter()
        left = Counter[int]()
        for use in uses:
            left[use.number] += use.n_live
        left.subtract(replaced)
        self._to_empty = {number for number, n in self._n_bytes.items() if left[number] < (1 - USELESS_MAX) * n}
        self._n_moved = 0

    def of_table(self, table: TableJob, records: Iterable[tuple[HotKey, bytes]]) -> Iterator[tuple[HotKey, bytes]]:
        """Yield the records of a table with their parts set apart, in their order."""
        queue: deque[_Queued] = deque()
        n_bytes = 0
        for key, value in records:
            queue.append(self._queued(table, key, value))
            n_bytes += len(queue[-1].head) + _QUEUED_BYTES
            if n_bytes > QUEUED_BYTES_MAX:
                self._writer.flush()
            while queue and not queue[0].waits:
                done = queue.popleft()
                n_bytes -= len(done.head) + _QUEUED_BYTES
                yield done.key, done.value()
        self._writer.flush()
        for done in queue:
            yield done.key, done.value()

    def _queued(self, table: TableJob, key: HotKey, value: bytes) -> _Queued:
        body = value[DEADLINE_BYTES:] if value[0] == DEADLINE_BYTE else value
        if is_split(body):
            places = places_of(body)
            if self._n_moved >= MOVED_BYTES_MAX or all(place.file not in self._to_empty for place in places):
                for place in places:
                    self._n_live[place.file] += place.n_bytes
                return _Queued(key, value, 0, 0)
            whole = self._before.whole(value, blocking=True)
            assert not isinstance(whole, WouldBlock)
            self._n_moved += len(whole) - len(value)
            value = whole
        plans = table.parts.get(split_payload(value)[0])
        if plans:
            head, parts = split(value, plans)
            if is_worth_it(parts):
                return self._placed(_Queued(key, head, plans[0].first, len(parts)), parts, plans, table.threshold)
        return _Queued(key, value, 0, 0)

    def _placed(self, queued: _Queued, parts: list[bytes], plans: list[PartPlan], threshold: int) -> _Queued:
        def take(index: int) -> Placed:
            def placed(place: Place) -> None:
                queued.places[index] = place
                queued.waits -= 1

            return placed

        for index, (part, plan) in enumerate(zip(parts, plans, strict=True)):
            self._writer.add(part, plan, threshold, take(index))
        return queued

    def finish(self) -> list[BlockUse]:
        """Make the new block file durable; return the files that the records use."""
        uses = [BlockUse(number, self._n_bytes[number], n) for number, n in sorted(self._n_live.items())]
        if self._writer.finish():
            uses.append(BlockUse(self._writer.number, self._writer.n_placed, self._writer.n_placed))
        return uses

    def close(self) -> None:
        """Close the new block file."""
        self._writer.close()
