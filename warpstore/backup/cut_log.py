"""Reads the log of a backup, which must reach the cut."""

from __future__ import annotations

from wal import FileSystem, LogCorruptError, replay
from wal.replay import Deliver
from warpstore.backup.format import BackupManifest


def replay_cut(files: FileSystem, folder: str, backup: BackupManifest, lane: int, deliver: Deliver) -> None:
    """Hand every record of a lane that no checkpoint of the backup holds to ``deliver``; blocks.

    Records behind the cut are among them.

    Raises:
        LogCorruptError: durable bytes are damaged, a segment is missing, or the log ends before the cut.
        LogFormatError: a segment is not the store's.
        OSError: reading failed.
    """
    store = backup.store
    directory = f"{folder}/log/{lane:03d}"
    next_lsn = [entry.lsn + 1 for entry in store.shards]
    if backup.sealed[lane] >= store.lanes[lane].first:
        next_lsn = replay(
            files,
            directory,
            store_id=store.id_bytes,
            lane=lane,
            first=store.lanes[lane].first,
            until=backup.sealed[lane],
            after=[entry.lsn for entry in store.shards],
            deliver=deliver,
        ).next_lsn
    for shard in range(lane, len(store.shards), len(store.lanes)):
        if next_lsn[shard] <= backup.lsns[shard]:
            message = f"the log of shard {shard} ends at LSN {next_lsn[shard] - 1}, the cut at {backup.lsns[shard]}"
            raise LogCorruptError(message, path=directory, offset=0)
