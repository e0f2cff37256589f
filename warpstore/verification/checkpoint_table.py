"""Verifies one table of a checkpoint: pages, roots, blocks, records, and that index and blocks name the same records.

Every record of a block is looked for in the index, by its hash and its place. Records differ in these, so each finds an
entry of its own; if the index has as many entries as there are records, every entry is found, too. Only where the
numbers differ is each entry looked at. So the memory is that of the block root and of a bounded number of pages.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import msgspec
from google_crc32c import value as crc32c

from warpstore.checkpoint import CheckpointTable, WouldBlock
from warpstore.checkpoint.format import PAGE_BYTES, BlockEntry
from warpstore.checkpoint.index_page import IndexPage
from warpstore.errors import CorruptionError
from warpstore.keys import HotKey, key_hash
from warpstore.values import has_deadline, split_payload
from warpstore.verification.file_kind import Advance, Finding, finding_of
from warpstore.verification.record_rules import RecordRules


class TableCheck:
    """One run over one table."""

    def __init__(self, table: CheckpointTable, number: int, shard: int, rules: RecordRules, advance: Advance) -> None:
        self._table = table
        self._entry = table._entry
        self._path = table._file.path
        self._number = number
        self._shard = shard
        self._rules = rules
        self._advance = advance
        self._first_hashes = array("Q")
        self._bad_pages: set[int] = set()
        self._bad_blocks: set[int] = set()
        self._blocks: list[BlockEntry] = []
        self._n_entries = 0
        self._n_records = 0
        self._n_found = 0
        self._kind = ""

    def findings(self, kind: str) -> Iterator[Finding]:
        """Yield what is wrong.

        Raises:
            UnavailableError: reading failed.
        """
        self._kind = kind
        yield from self._pages()
        yield from self._page_root()
        yield from self._block_root()
        yield from self._records()
        if self._n_found != self._n_entries:
            yield from self._entries()

    def _finding(self, offset: int, message: str) -> Finding:
        return Finding(kind=self._kind, path=self._path, offset=offset, message=message)

    # The index

    def _page_offset(self, number: int) -> int:
        return self._entry.pages_offset + number * PAGE_BYTES

    def _page(self, number: int) -> IndexPage:
        page = self._table._page(number, blocking=True)
        assert not isinstance(page, WouldBlock)
        return page

    def _pages(self) -> Iterator[Finding]:
        before = 0
        for number in range(self._entry.n_pages):
            try:
                page = self._page(number)
            except CorruptionError as e:
                self._bad_pages.add(number)
                self._first_hashes.append(before)
                yield finding_of(self._kind, e, self._path)
                continue
            self._advance(PAGE_BYTES)
            n = len(page)
            self._n_entries += n
            self._first_hashes.append(page.first)
            if not n or page.first < before or page.ranks[0] or any(a > b for a, b in pairwise(page.ranks)):
                yield self._finding(self._page_offset(number), "the hashes of the index page are not in order")
            before = max(before, page.last)
        if not self._bad_pages and self._n_entries != self._table.n_records:
            message = f"the index has {self._n_entries} entries, the directory says {self._table.n_records} records"
            yield self._finding(self._entry.pages_offset, message)

    def _page_root(self) -> Iterator[Finding]:
        try:
            root = self._table._read_page_root()
        except CorruptionError as e:
            yield finding_of(self._kind, e, self._path)
            return
        for number, (stored, first) in enumerate(zip(root, self._first_hashes, strict=True)):
            if number in self._bad_pages:
                self._first_hashes[number] = stored
            elif stored != first:
                message = f"the page root names another first hash for page {number}"
                yield self._finding(self._entry.page_root[0], message)

    def _is_indexed(self, digest: int, place: tuple[int, int], payload: bytes) -> str | None:
        """Return None if the record is found through the index, else what is wrong."""
        firsts = self._first_hashes
        number = max(0, bisect_left(firsts, digest) - 1)
        while number < len(firsts) and firsts[number] <= digest:
            if number in self._bad_pages:
                return ""  # it may be there; the page was named
            page = self._page(number)
            for i in page.entries_of(digest):
                if page.place(i) == place:
                    self._n_found += 1
                    same = page.crc(i) == (None if self._entry.packed else crc32c(payload))
                    return None if same else "the index has another checksum for the record"
            number += 1
        return "the record is not found through the index"

    # The blocks

    def _block_root(self) -> Iterator[Finding]:
        try:
            self._table.load_block_root()
        except CorruptionError as e:
            yield finding_of(self._kind, e, self._path)
            return
        self._blocks = self._table._block_root or []
        for before, block in pairwise(self._blocks):
            if before.offset + before.n_bytes != block.offset:
                yield self._finding(self._entry.block_root[0], f"a gap before the block at offset {block.offset}")
        if self._blocks and self._blocks[-1].offset + self._blocks[-1].n_bytes != self._entry.pages_offset:
            yield self._finding(self._entry.block_root[0], "the blocks do not end where the index begins")

    def _records(self) -> Iterator[Finding]:
        before: HotKey | None = None
        n_bytes = n_expiring = 0
        for number, block in enumerate(self._blocks):
            try:
                payloads = list(self._table.payloads(number))
            except CorruptionError as e:
                self._bad_blocks.add(number)
                yield finding_of(self._kind, e, self._path)
                continue
            self._advance(block.n_bytes)
            for i, (at, length, payload) in enumerate(payloads):
                self._n_records += 1
                n_bytes += len(payload)
                problem = self._rules.problem(payload, self._shard, self._number)
                if problem is None:
                    key = split_payload(payload)[1]
                    n_expiring += has_deadline(payload)
                    problem = self._is_indexed(key_hash(key), (at, length), payload)
                    if i == 0 and key != block.first:
                        yield self._finding(at, "the block root names another first key for the block")
                    if before is not None and not before < key:
                        yield self._finding(at, "the key of the record is not greater than that before it")
                    before = key
                if problem:
                    yield self._finding(at, problem)
        found = (self._n_records, n_bytes, n_expiring)
        said = (self._table.n_records, self._table.n_bytes, self._table.n_expiring)
        if not self._bad_blocks and self._blocks and found != said:
            message = f"the blocks hold (records, bytes, expiring) {found}, the directory says {said}"
            yield self._finding(self._blocks[0].offset, message)

    # The index against the blocks

    def _entries(self) -> Iterator[Finding]:
        """Yield the entries that name no record of a block, or one of another hash, or the same as another entry."""
        offsets = [block.offset for block in self._blocks]
        for number in range(self._entry.n_pages):
            if number in self._bad_pages:
                continue
            page = self._page(number)
            named = Counter[tuple[int, int, int]]()
            for i, rank in enumerate(page.ranks):
                offset, length = page.place(i)
                where = self._page_offset(number) + page.offset_at(i)
                block = bisect_right(offsets, offset) - 1
                if block in self._bad_blocks or not self._blocks:
                    continue
                n_held = 0 if block < 0 else self._n_held(block, (offset, length), page, rank)
                named[rank, offset, length] += 1
                if not n_held:
                    yield self._finding(where, f"the index names a record at offset {offset} that no block holds")
                elif named[rank, offset, length] > n_held:
                    yield self._finding(where, f"two index entries name the record at offset {offset}")

    def _n_held(self, block: int, place: tuple[int, int], page: IndexPage, rank: int) -> int:
        """Return how many records of a block an entry with this place and this rank in its page can be for."""
        n_held = 0
        for at, length, payload in self._table.payloads(block):
            if (at, length) == place:
                try:
                    n_held += page.rank(key_hash(split_payload(payload)[1])) == rank
                except (msgspec.MsgspecError, TypeError, ValueError, OverflowError):
                    n_held += 1  # that the record is none was found already
        return n_held
