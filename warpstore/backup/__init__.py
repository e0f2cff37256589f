"""Backups: one cut of a store, copied while it is written; incremental after the first; and made a store again."""

from warpstore.backup.format import BackupResult
from warpstore.backup.restoring import restore

__all__ = ["BackupResult", "restore"]
