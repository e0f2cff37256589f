"""Verifies the checkpoints: the files that the manifest names, their parts, and what these say of each other."""

from __future__ import annotations

from collections.abc import Iterator

from warpstore.checkpoint import Checkpoint
from warpstore.errors import CorruptionError, OpenError, UnavailableError
from warpstore.stored import StoredReader
from warpstore.stored_state import open_checkpoint
from warpstore.verification.checkpoint_table import TableCheck
from warpstore.verification.file_kind import Advance, Finding, finding_of
from warpstore.verification.record_rules import RecordRules


class CheckpointFiles:
    """The checkpoints that count."""

    name = "checkpoint"
    is_verified = True
    stands_still = True

    def paths(self, stored: StoredReader) -> list[str]:
        directory = stored.layout.checkpoint_directory
        return [f"{directory}/{shard.name}" for shard in stored.manifest.shards if shard.name]

    def verify(self, stored: StoredReader, advance: Advance) -> Iterator[Finding]:
        for shard, entry in enumerate(stored.manifest.shards):
            path = f"{stored.layout.checkpoint_directory}/{entry.name}"
            try:
                checkpoint = opened_checkpoint(stored, shard)
            except (OpenError, OSError) as e:
                yield finding_of(self.name, e, path)
                continue
            if checkpoint is None:
                continue
            rules = RecordRules(stored)
            try:
                for number, table in checkpoint.tables.items():
                    if number >= stored.manifest.next_table:
                        message = f"it has records of table number {number}, which no table was given"
                        yield Finding(kind=self.name, path=checkpoint.path, offset=0, message=message)
                    yield from TableCheck(table, number, shard, rules, advance).findings(self.name)
            except UnavailableError as e:
                yield finding_of(self.name, e, checkpoint.path)
            finally:
                checkpoint.release()


def opened_checkpoint(stored: StoredReader, shard: int) -> Checkpoint | None:
    """Open the checkpoint of a shard; beside an owner, the one that has taken its place if it is gone."""
    while shard < len(stored.manifest.shards):
        entry = stored.manifest.shards[shard]
        try:
            return open_checkpoint(stored.layout, stored.files, shard)
        except CorruptionError:
            if not stored.is_live:
                raise
            stored.refresh()
            if stored.manifest.shards[shard : shard + 1] == [entry]:
                raise
    return None
