"""Reads the log of a store that nobody has open, without opening the store."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from wal import FileSystem, WalError, replay
from warpstore.catalog import Catalog
from warpstore.errors import CorruptionError


def read_log(files: FileSystem, catalog: Catalog, take: Callable[[bytes], None]) -> None:
    """Hand every payload of the log that no checkpoint holds to ``take``, in the order of each stream; blocks.

    Raises:
        CorruptionError: the log is damaged.
        OSError: reading failed.
    """

    def deliver(stream: int, lsn: int, payloads: list[bytes]) -> None:  # noqa: ARG001
        for payload in payloads:
            take(payload)

    for lane, entry in enumerate(catalog.manifest.lanes):
        if catalog.is_covered(lane):
            continue
        directory = catalog.lane_directory(lane)
        if not files.exists(directory):
            continue
        try:
            replay(
                files,
                directory,
                store_id=catalog.manifest.id_bytes,
                lane=lane,
                first=entry.first,
                last=entry.active or None,
                after=[shard.lsn for shard in catalog.manifest.shards],
                deliver=deliver,
                clean_end=entry.clean_end,
            )
        except (WalError, msgspec.MsgspecError) as e:
            path = getattr(e, "path", directory)
            raise CorruptionError(str(e), path=path, offset=getattr(e, "offset", 0)) from e
