"""Verifies the log: every frame, the order of its records, and that every record in it decodes.

Two passes over each segment that counts. The first decodes the records of the frames that are intact. The second is
`wal.replay`, which alone can tell damage from a torn tail: once as opening does it, and where that finds damage once
more, passing over it, so that all of it is named. In memory at any time: two segments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from wal import WalError, replay
from wal.reader import SEGMENT_BYTES_MAX, SegmentReader, read_header
from wal.replay import Replay, segment_numbers, segment_path
from warpstore.lane_log import log_error
from warpstore.manifest import LaneManifest
from warpstore.stored import StoredReader
from warpstore.verification.file_kind import Advance, Finding, finding_of
from warpstore.verification.record_rules import RecordRules

_DAMAGE = re.compile(r"(?P<path>.*): offset (?P<offset>\d+): (?P<message>.*)", re.DOTALL)


class LogFiles:
    """The segments that count."""

    name = "log"
    is_verified = True
    stands_still = False

    def paths(self, stored: StoredReader) -> list[str]:
        return [
            segment_path(stored.layout.lane_directory(lane), number)
            for lane in range(len(stored.manifest.lanes))
            for number in self._numbers(stored, lane)
        ]

    def _numbers(self, stored: StoredReader, lane: int) -> list[int]:
        directory = stored.layout.lane_directory(lane)
        if not stored.files.exists(directory):
            return []
        first = stored.manifest.lanes[lane].first
        return [number for number in segment_numbers(stored.files, directory) if number >= first]

    def verify(self, stored: StoredReader, advance: Advance) -> Iterator[Finding]:
        rules = RecordRules(stored)
        for lane, entry in enumerate(stored.manifest.lanes):
            directory = stored.layout.lane_directory(lane)
            if not stored.files.exists(directory):
                if entry.active:
                    yield Finding(kind=self.name, path=directory, offset=0, message="the folder of the log is missing")
                continue
            try:
                for number in self._numbers(stored, lane):
                    yield from self._records(stored, lane, segment_path(directory, number), rules)
                    advance(_size(stored, segment_path(directory, number)))
                yield from self._judged(stored, lane, directory, entry)
            except OSError as e:
                yield Finding(kind=self.name, path=e.filename or directory, offset=0, message=f"cannot be read: {e}")

    def _records(self, stored: StoredReader, lane: int, path: str, rules: RecordRules) -> Iterator[Finding]:
        file = stored.files.open(path)
        try:
            reader = SegmentReader(
                read_header(file, store_id=stored.manifest.id_bytes, lane=lane), file.read(SEGMENT_BYTES_MAX, 0)
            )
        except WalError:
            return  # the second pass names it
        finally:
            file.close()
        n_shards = len(stored.manifest.shards)
        for frame in reader:
            try:
                payloads = frame.payloads() if frame.header.n_records else []
            except ValueError:
                continue  # as above
            if frame.header.stream >= n_shards:
                continue
            for i, payload in enumerate(payloads):
                problem = rules.problem(payload, frame.header.stream)
                if problem is not None:
                    message = f"record {i} of the group of LSN {frame.header.lsn}: {problem}"
                    yield Finding(kind=self.name, path=path, offset=frame.offset, message=message)

    def _judged(self, stored: StoredReader, lane: int, directory: str, entry: LaneManifest) -> Iterator[Finding]:
        try:
            torn = _replayed(stored, lane, entry.first, entry, refuse=True).torn
        except WalError as e:
            found = {(f.path, f.offset): f for f in self._all_damage(stored, lane, directory, entry)}
            first = finding_of(self.name, log_error(e, directory), directory)
            yield from ({(first.path, first.offset): first} | found).values()
            return
        if torn is not None:
            message = f"a torn tail: {torn.n_frames} whole frames behind it, none ever durable; opening cuts it off"
            yield Finding(kind=self.name, path=torn.path, offset=torn.offset, message=message, is_defect=False)

    def _all_damage(self, stored: StoredReader, lane: int, directory: str, entry: LaneManifest) -> Iterator[Finding]:
        """Yield the damage that salvaging passes over; where that ends in an error, go on with the next segment."""
        numbers = self._numbers(stored, lane)
        first = entry.first
        while True:
            try:
                words = _replayed(stored, lane, first, entry, refuse=False).damage
            except WalError as e:
                refused = finding_of(self.name, log_error(e, directory), directory)
                yield refused
                behind = [number for number in numbers if segment_path(directory, number) > refused.path]
                if not behind or behind[0] <= first:
                    return
                first = behind[0]
                continue
            for damage in words:
                match = _DAMAGE.fullmatch(damage)
                if match is not None:
                    path, offset = match["path"], int(match["offset"])
                    yield Finding(kind=self.name, path=path, offset=offset, message=match["message"])
            return


def _replayed(stored: StoredReader, lane: int, first: int, entry: LaneManifest, *, refuse: bool) -> Replay:
    return replay(
        stored.files,
        stored.layout.lane_directory(lane),
        store_id=stored.manifest.id_bytes,
        lane=lane,
        first=first,
        last=entry.active or None,
        after=[shard.lsn for shard in stored.manifest.shards],
        deliver=lambda *_: None,
        clean_end=entry.clean_end,
        on_corruption="refuse" if refuse else "salvage",
    )


def _size(stored: StoredReader, path: str) -> int:
    file = stored.files.open(path)
    try:
        return file.size()
    finally:
        file.close()
