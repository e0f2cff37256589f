"""Verifies the block files: their blocks, and that checkpoints and block files say the same of each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from warpstore.blocks import SUFFIX, BlockFile, block_path
from warpstore.checkpoint import Checkpoint
from warpstore.errors import CorruptionError, OpenError, UnavailableError
from warpstore.manifest import CheckpointManifest
from warpstore.stored import StoredReader
from warpstore.verification.block_index import BlockIndex
from warpstore.verification.checkpoint_files import opened_checkpoint
from warpstore.verification.file_kind import Advance, Finding, finding_of
from warpstore.verification.part_places import PartPlaces
from warpstore.verification.record_rules import RecordRules

_NAME = "block"


class BlockFileKind:
    """The block files that count."""

    name = _NAME
    is_verified = True
    stands_still = True

    def paths(self, stored: StoredReader) -> list[str]:
        numbers = {number for shard in stored.manifest.shards for number in shard.blocks}
        return [block_path(stored.layout.block_directory, number) for number in sorted(numbers)]

    def verify(self, stored: StoredReader, advance: Advance) -> Iterator[Finding]:
        run = _Run(stored, advance)
        shard = 0
        while shard < len(stored.manifest.shards):  # beside an owner the manifest is read again on the way
            yield from run.shard(shard)
            shard += 1
        if not stored.is_live:  # an owner may be writing one that the manifest will name
            for path in stray_block_files(stored):
                message = "no checkpoint uses this file; opening removes it"
                yield Finding(kind=_NAME, path=path, offset=0, message=message, is_defect=False)


def stray_block_files(stored: StoredReader) -> list[str]:
    """Return the block files that the manifest does not name."""
    folder = stored.layout.block_directory
    named = {block_path(folder, number) for shard in stored.manifest.shards_named for number in shard.blocks}
    if not stored.files.is_directory(folder):
        return []
    paths = (f"{folder}/{name}" for name in sorted(stored.files.list_directory(folder)) if name.endswith(SUFFIX))
    return [path for path in paths if path not in named]


@dataclass(slots=True)
class _Held:
    """A shard's entry in the manifest, its checkpoint and its block files, open, and what could not be opened."""

    entry: CheckpointManifest
    checkpoint: Checkpoint | None
    files: dict[int, BlockFile] = field(default_factory=dict)
    errors: dict[int, Exception] = field(default_factory=dict)

    def close(self) -> None:
        for file in self.files.values():
            file.close()
        if self.checkpoint is not None:
            self.checkpoint.release()


class _Run:
    """One run over all shards; a file that several of them use is gone through once."""

    def __init__(self, stored: StoredReader, advance: Advance) -> None:
        self._stored = stored
        self._advance = advance
        self._indexes: dict[int, BlockIndex] = {}
        self._unreadable: set[int] = set()

    def shard(self, shard: int) -> Iterator[Finding]:
        held = self._held(shard)
        if held is None:
            return
        try:
            for number, error in held.errors.items():
                if number not in self._unreadable:
                    self._unreadable.add(number)
                    yield finding_of(_NAME, error, self._path(number))
            for file in held.files.values():
                if file.number not in self._indexes and file.number not in self._unreadable:
                    yield from self._file(file, held.checkpoint)
            if held.checkpoint is not None:
                yield from self._checkpoint(shard, held, held.checkpoint)
        finally:
            held.close()
        later = {number for entry in self._stored.manifest.shards[shard + 1 :] for number in entry.blocks}
        self._indexes = {number: index for number, index in self._indexes.items() if number in later}

    def _file(self, file: BlockFile, checkpoint: Checkpoint | None) -> Iterator[Finding]:
        said = {} if checkpoint is None else {use.number: use.n_bytes for use in checkpoint.blocks}
        index = BlockIndex()
        try:
            for offset, message in index.defects(file, said.get(file.number)):
                yield Finding(kind=_NAME, path=file.path, offset=offset, message=message)
        except UnavailableError as e:
            self._unreadable.add(file.number)
            yield finding_of(_NAME, e, file.path)
        else:
            self._indexes[file.number] = index
        self._advance(file.n_bytes)

    def _checkpoint(self, shard: int, held: _Held, checkpoint: Checkpoint) -> Iterator[Finding]:
        path, numbers = checkpoint.path, checkpoint.block_numbers
        if sorted(numbers) != sorted(held.entry.blocks):
            message = "the directory lists other block files than the manifest"
            yield Finding(kind=_NAME, path=path, offset=0, message=message)
        if len(set(numbers)) < len(numbers):
            yield Finding(kind=_NAME, path=path, offset=0, message="the directory lists a block file twice")
        rules = RecordRules(self._stored)
        tables = {table.number: table for table in self._stored.tables.values()}
        indexes = {number: self._indexes[number] for number in held.files if number in self._indexes}
        places = PartPlaces(checkpoint, shard, rules, tables, held.files, indexes)
        try:
            for offset, message in places.defects():
                yield Finding(kind=_NAME, path=path, offset=offset, message=message)
        except (UnavailableError, CorruptionError) as e:
            yield finding_of(_NAME, e, path)

    def _path(self, number: int) -> str:
        return block_path(self._stored.layout.block_directory, number)

    def _held(self, shard: int) -> _Held | None:
        """Open what a shard has; beside an owner, what has taken its place if any of it is gone."""
        stored = self._stored
        while True:
            checkpoint = None
            try:
                checkpoint = opened_checkpoint(stored, shard)
            except (OpenError, OSError):
                pass  # it is named with the checkpoints
            if shard >= len(stored.manifest.shards):
                return None
            held = _Held(stored.manifest.shards[shard], checkpoint)
            listed = set() if checkpoint is None else set(checkpoint.block_numbers)
            for number in sorted(listed.union(held.entry.blocks)):
                try:
                    held.files[number] = BlockFile.open(
                        stored.files, stored.layout.block_directory, number, store_id=stored.manifest.id_bytes
                    )
                except (OpenError, OSError) as e:
                    held.errors[number] = e
            if not held.errors or not stored.is_live:
                return held
            stored.refresh()
            if stored.manifest.shards[shard : shard + 1] == [held.entry]:
                return held
            held.close()
            if shard >= len(stored.manifest.shards):
                return None
