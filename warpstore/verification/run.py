"""Goes through the kinds of files: how many there are, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from warpstore import manifest as manifests
from warpstore.errors import CorruptionError
from warpstore.stored import StoredReader
from warpstore.verification.block_files import BlockFileKind
from warpstore.verification.checkpoint_files import CheckpointFiles
from warpstore.verification.file_kind import Advance, FileKind, Finding, finding_of
from warpstore.verification.kept_files import QuarantineFiles, SpareFiles
from warpstore.verification.log_files import LogFiles
from warpstore.verification.manifest_file import ManifestFile
from warpstore.verification.rollback_files import RollbackFiles
from warpstore.verification.series_files import SeriesFileKind

FILE_KINDS: tuple[FileKind, ...] = (
    ManifestFile(),
    LogFiles(),
    CheckpointFiles(),
    BlockFileKind(),
    SeriesFileKind(),
    RollbackFiles(),
    SpareFiles(),
    QuarantineFiles(),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileUse:
    """How many files of a kind a store has, and their bytes."""

    kind: str
    n_files: int
    n_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KindReport:
    """What verifying a kind of file came to.

    Attributes:
        use: Its files.
        is_verified: Whether they were looked at.
        n_defects: The defects found.
    """

    use: FileUse
    is_verified: bool
    n_defects: int


def file_use(stored: StoredReader, kind: FileKind) -> FileUse:
    """Return the use of one kind; a file that is gone meanwhile, or missing, counts nothing.

    Raises:
        OSError: a folder cannot be read.
    """
    n_files = n_bytes = 0
    for path in kind.paths(stored):
        try:
            file = stored.files.open(path)
        except OSError:
            continue
        try:
            n_files, n_bytes = n_files + 1, n_bytes + file.size()
        finally:
            file.close()
    return FileUse(kind=kind.name, n_files=n_files, n_bytes=n_bytes)


def verify(stored: StoredReader, tell: Callable[[Finding], None], advance: Advance) -> list[KindReport]:
    """Verify every kind of file, and return a report on each that can be verified.

    Args:
        stored: The store. Of one that was opened without its lock, files that its owner changes are left out; of one
            whose manifest contradicts itself, all others.
        tell: Called with each finding at once.
        advance: Called with the bytes verified since the last call.

    Cost:
        All files are read, checkpoints and block files twice; memory for two log segments, 8 bytes an index page of one
        shard, and of its block files 16 bytes a block, a bit an item, and blocks of 80 MiB at most.
    """
    reports: list[KindReport] = []
    for kind in FILE_KINDS:
        if not kind.is_verified:
            continue
        use = file_use(stored, kind)
        n_defects = 0
        contradicted = any(report.n_defects for report in reports if report.use.kind == ManifestFile.name)
        is_verified = (kind.stands_still or not stored.is_live) and not contradicted
        for finding in kind.verify(stored, advance) if is_verified else ():
            tell(finding)
            n_defects += finding.is_defect
        reports.append(KindReport(use=use, is_verified=is_verified, n_defects=n_defects))
    return reports


def manifest_finding(error: CorruptionError) -> Finding:
    """Return what kept a store from being opened for reading as a finding: its manifest is damaged."""
    return finding_of(ManifestFile.name, error, f"{error.path}/{manifests.NAME}")
