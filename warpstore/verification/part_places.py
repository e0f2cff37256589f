"""Verifies what the records of one checkpoint say of block files: each place, each whole record, and the counts.

Damage of a block or of the checkpoint's own parts is named where those are verified, not once more for each record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from warpstore._native import MemoryPool
from warpstore.blocks import BlockCache, BlockFile, block_path
from warpstore.blocks.format import item_of
from warpstore.checkpoint import Checkpoint, CheckpointTable, WouldBlock
from warpstore.errors import CorruptionError
from warpstore.parts import Place, is_split, join, places_of
from warpstore.stored_state import BLOCKS_CACHED_BYTES
from warpstore.stored_table import StoredTable
from warpstore.values import DEADLINE_BYTES, has_deadline
from warpstore.verification.block_index import BlockIndex
from warpstore.verification.record_rules import RecordRules


class PartPlaces:
    """One run over the records of a checkpoint.

    Args:
        checkpoint: The checkpoint.
        shard: Its shard.
        rules: What records have to satisfy.
        tables: The tables by number.
        files: Its block files, as far as they could be opened.
        indexes: What is in them, as far as they could be read.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        shard: int,
        rules: RecordRules,
        tables: Mapping[int, StoredTable],
        files: Mapping[int, BlockFile],
        indexes: Mapping[int, BlockIndex],
    ) -> None:
        self._checkpoint = checkpoint
        self._shard = shard
        self._rules = rules
        self._tables = tables
        self._files = files
        self._indexes = indexes
        self._listed = set(checkpoint.block_numbers)
        self._n_live: Counter[int] = Counter()
        self._is_complete = True
        self._cache = BlockCache(BLOCKS_CACHED_BYTES, MemoryPool())

    def defects(self) -> Iterator[tuple[int, str]]:
        """Yield the offset in the checkpoint of each defect and what it is.

        Raises:
            UnavailableError: reading failed.
        """
        for number, table in self._checkpoint.tables.items():
            for at, payload in self._records(table):
                if self._rules.problem(payload, self._shard, number) is None:
                    yield from self._of_record(at, payload, self._tables.get(number))
                else:
                    self._is_complete = False
        for use in self._checkpoint.blocks:
            index = self._indexes.get(use.number)
            name = _name(use.number)
            if index is not None and index.is_whole and index.n_placed != use.n_bytes:
                yield (
                    0,
                    f"the parts in the block file {name} take {index.n_placed} bytes, the directory says {use.n_bytes}",
                )
            n_live = self._n_live[use.number]
            if self._is_complete and n_live != use.n_live:
                message = f"the records' parts in the block file {name} take {n_live} bytes"
                yield 0, f"{message}, the directory says {use.n_live}"
            elif use.n_live > use.n_bytes:  # all that can be said where the file is damaged
                yield (
                    0,
                    f"the directory says that of {use.n_bytes} bytes in the block file {name} {use.n_live} are of use",
                )

    def _records(self, table: CheckpointTable) -> Iterator[tuple[int, bytes]]:
        try:
            table.load_block_root()
        except CorruptionError:
            self._is_complete = False
            return
        for number in range(table.n_blocks):
            try:
                yield from ((at, payload) for at, _, payload in table.payloads(number))
            except CorruptionError:
                self._is_complete = False

    def _of_record(self, at: int, payload: bytes, table: StoredTable | None) -> Iterator[tuple[int, str]]:
        body = payload[DEADLINE_BYTES:] if has_deadline(payload) else payload
        if not is_split(body):
            return
        parts: list[bytes] = []
        places = places_of(body)
        for place in places:
            if place.file not in self._listed:
                yield at, f"the record has a part in the block file {_name(place.file)}, which the directory lacks"
                continue
            self._n_live[place.file] += place.n_bytes
            index = self._indexes.get(place.file)
            problem = "" if index is None else index.problem(place)
            if index is not None and problem is None:
                parts.append(self._part(place))
                if place.size != index.size(place, len(parts[-1])):
                    yield at, f"the record has a part in the block file {_name(place.file)}: its size is wrong"
            elif problem:
                yield at, f"the record has a part in the block file {_name(place.file)}: {problem}"
        if table is not None and len(parts) == len(places):
            try:
                table.record(join(payload, parts))
            except ValueError as e:
                yield at, f"with its parts: {e}"

    def _part(self, place: Place) -> bytes:
        block = self._cache.get(place.file, place.offset)
        if block is None:
            read = self._files[place.file].read(place.offset, blocking=True)
            assert not isinstance(read, WouldBlock)
            block = read[0], read[1].n_items
            self._cache.put(place.file, place.offset, *block)
        return item_of(*block, place.item)


def _name(number: int) -> str:
    return block_path("", number)[1:]
