"""Reads the log of a store that nobody has open, without opening the store."""

from __future__ import annotations

from collections.abc import Callable

from wal import FileSystem
from warpstore.catalog import Catalog
from warpstore.lane_log import replay_lane


def read_log(files: FileSystem, catalog: Catalog, take: Callable[[bytes], None]) -> None:
    """Hand every payload of the log that no checkpoint holds to ``take``, in the order of each stream; blocks.

    Raises:
        CorruptionError: the log is damaged.
        FormatVersionError: a newer warpstore wrote it.
        OSError: reading failed.
    """

    def deliver(stream: int, lsn: int, payloads: list[bytes]) -> None:  # noqa: ARG001
        for payload in payloads:
            take(payload)

    for lane in range(len(catalog.manifest.lanes)):
        if not catalog.is_covered(lane) and files.exists(catalog.lane_directory(lane)):
            replay_lane(files, catalog, lane, deliver)
