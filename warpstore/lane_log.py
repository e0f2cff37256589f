"""Reads a lane's log back, as the manifest says where it begins and ends: the boundary to the log and to its errors."""

from __future__ import annotations

import msgspec

from wal import FileSystem, OnCorruption, Replay, WalError, replay
from wal.format import NewerFormatError
from wal.replay import Deliver
from warpstore.catalog import Catalog
from warpstore.errors import CorruptionError, FormatVersionError, OpenError


def replay_lane(
    files: FileSystem,
    catalog: Catalog,
    lane: int,
    deliver: Deliver,
    *,
    until: int | None = None,
    streams: frozenset[int] | None = None,
    with_tail: bool = True,
    on_corruption: OnCorruption = "refuse",
) -> Replay:
    """Hand every record of a lane that no checkpoint holds to ``deliver``, and return what was found; blocks.

    Args:
        files: The file system.
        catalog: The manifest, and where its files are.
        lane: The lane.
        deliver: Called with a stream, the first LSN and the payloads of each group.
        until: The last segment to read; None: all.
        streams: Only these; None: all.
        with_tail: Whether also the groups behind the last position that the log names as durable are delivered.
        on_corruption: As for `replay`.

    Raises:
        CorruptionError: the log is damaged, or ``deliver`` could not read a payload.
        FormatVersionError: a newer warpstore wrote it.
        OSError: reading failed.
    """
    held: list[tuple[int, int, list[bytes]]] = []

    def hold(stream: int, lsn: int, payloads: list[bytes]) -> None:
        held.append((stream, lsn, payloads))

    manifest, directory = catalog.manifest, catalog.lane_directory(lane)
    entry = manifest.lanes[lane]
    try:
        found = replay(
            files,
            directory,
            store_id=manifest.id_bytes,
            lane=lane,
            first=entry.first,
            last=entry.active or None,
            until=until,
            after=[shard.lsn for shard in manifest.shards],
            deliver=deliver if with_tail else hold,
            clean_end=entry.clean_end,
            streams=streams,
            on_corruption=on_corruption,
        )
        tail = {(stream, lsn) for stream, lsn, _ in found.tail}
        for group in held:
            if group[:2] not in tail:
                deliver(*group)
    except (WalError, msgspec.MsgspecError, KeyError) as e:
        raise log_error(e, directory) from e
    return found


def log_error(error: Exception, directory: str) -> OpenError:
    """Return the error of warpstore for one of the log.

    Args:
        error: A `WalError`, or what a payload raised that is none.
        directory: The lane's folder, named where the error names no file.
    """
    path = getattr(error, "path", directory)
    if isinstance(error.__cause__, NewerFormatError):
        return FormatVersionError(str(error), path=path)
    text = str(error) if path in str(error) else f"{path}: {error}"
    return CorruptionError(text, path=path, offset=getattr(error, "offset", 0))
