"""Verifies the state before a migration, which is kept for the way back, by the rules of the current one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from warpstore import manifest as manifests
from warpstore.blocks import block_path
from warpstore.errors import CorruptionError
from warpstore.stored import StoredReader
from warpstore.verification.block_files import BlockFileKind
from warpstore.verification.checkpoint_files import CheckpointFiles
from warpstore.verification.file_kind import Advance, Finding, finding_of


class RollbackFiles:
    """The checkpoints and block files that only the state before a migration needs."""

    name = "rollback"
    is_verified = True
    stands_still = True

    def paths(self, stored: StoredReader) -> list[str]:
        kept, layout = stored.manifest.rollback, stored.layout
        if kept is None:
            return []
        used = {*CheckpointFiles().paths(stored), *BlockFileKind().paths(stored)}
        checkpoints = [f"{layout.checkpoint_directory}/{shard.name}" for shard in kept.shards if shard.name]
        numbers = sorted({number for shard in kept.shards for number in shard.blocks})
        blocks = [block_path(layout.block_directory, number) for number in numbers]
        return [path for path in (*checkpoints, *blocks) if path not in used]

    def verify(self, stored: StoredReader, advance: Advance) -> Iterator[Finding]:
        kept, mine = stored.manifest.rollback, set(self.paths(stored))
        try:
            before = stored.before_migration()
        except CorruptionError as e:
            yield finding_of(self.name, e, f"{stored.path}/{manifests.NAME}")
            return
        if before is None:
            return
        for kind in (CheckpointFiles(), BlockFileKind()):
            for finding in kind.verify(before, advance):
                if finding.path not in mine:
                    continue  # it is a file of the current state, too
                if stored.is_live:
                    stored.refresh()
                    if stored.manifest.rollback != kept:
                        return  # it was restored or forgotten meanwhile
                yield replace(finding, kind=self.name)
