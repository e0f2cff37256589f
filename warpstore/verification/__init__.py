"""Verifies what a store directory holds, one kind of file after another; writes nothing."""

from warpstore.verification.file_kind import Advance, FileKind, Finding
from warpstore.verification.run import FILE_KINDS, FileUse, KindReport, file_use, manifest_finding, verify

__all__ = [
    "FILE_KINDS",
    "Advance",
    "FileKind",
    "FileUse",
    "Finding",
    "KindReport",
    "file_use",
    "manifest_finding",
    "verify",
]
