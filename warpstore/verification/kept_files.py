"""The files that no reader depends on: they are counted, not verified."""

from __future__ import annotations

from collections.abc import Iterator

from warpstore import manifest as manifests
from warpstore.catalog import CHECKPOINT_SUFFIX
from warpstore.stored import StoredReader
from warpstore.verification.block_files import stray_block_files
from warpstore.verification.file_kind import Advance, Finding
from warpstore.verification.log_files import LogFiles
from warpstore.verification.series_files import stray_series_files


class SpareFiles:
    """Released segments that wait to be written again, and what an interrupted operation left."""

    name = "spare"
    is_verified = False
    stands_still = False

    def paths(self, stored: StoredReader) -> list[str]:
        layout = stored.layout
        used = set(LogFiles().paths(stored))
        used.update(
            f"{layout.checkpoint_directory}/{shard.name}" for shard in stored.manifest.shards_named if shard.name
        )
        found = []
        for lane in range(len(stored.manifest.lanes)):
            found += _in_folder(stored, layout.lane_directory(lane))
        found += [p for p in _in_folder(stored, layout.checkpoint_directory) if p.endswith(CHECKPOINT_SUFFIX)]
        found += stray_block_files(stored)
        found += stray_series_files(stored)
        found += _in_folder(stored, f"{stored.path}/dump")
        temporary = f"{stored.path}/{manifests.NAME}.new"
        found += [temporary] if stored.files.exists(temporary) else []
        return [path for path in found if path not in used]

    def verify(self, stored: StoredReader, advance: Advance) -> Iterator[Finding]:  # noqa: ARG002
        return iter(())


class QuarantineFiles:
    """Torn tails that opening cut off and kept for a person to look at."""

    name = "quarantine"
    is_verified = False
    stands_still = True

    def paths(self, stored: StoredReader) -> list[str]:
        return _in_folder(stored, f"{stored.path}/quarantine")

    def verify(self, stored: StoredReader, advance: Advance) -> Iterator[Finding]:  # noqa: ARG002
        return iter(())


def _in_folder(stored: StoredReader, folder: str) -> list[str]:
    if not stored.files.is_directory(folder):
        return []
    paths = [f"{folder}/{name}" for name in stored.files.list_directory(folder)]
    return [path for path in paths if not stored.files.is_directory(path)]
