"""Makes segments: creates, preallocates, recycles and names them.

A segment gets its name only when its header, and whatever records it takes over, are durable: it is prepared under a
temporary name, synced, renamed, and its directory synced. So a file that carries a segment's name has an intact header,
or it is damaged.

In fsync mode a new segment is filled with zeros first: a sync into blocks that were written before costs no change of
metadata (8.5k syncs/s against 5.3k when appending, measured on ext4). A recycled segment keeps its old bytes, which its
new salt turns into noise. In interval mode none is recycled: a write to the page cache that covers a part of an old
block has the block read first, on the loop, if it is not cached; of a block never written nothing is read.

These calls block; the lane runs them off the loop, before the segment is needed.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Sequence

from wal.files import File, FileSystem
from wal.format import (
    HEADER_BYTES,
    OFFSET_BITS,
    Kind,
    SegmentHeader,
    frame_bytes,
    pack_frame,
    pack_segment_header,
    sectors,
)
from wal.replay import SEGMENT_SUFFIX, segment_numbers, segment_path

TEMPORARY_SUFFIX = ".new"
SPARE_SUFFIX = ".spare"
SPARES_MAX = 2

BLOCK_BYTES = 4096
_FILL_BYTES = 1 << 20


class Segment:
    """A segment that is ready to be written.

    Attributes:
        header: Its header, durable in the file.
        file: The open file.
        offset: Where the next frame goes.
    """

    __slots__ = ("file", "header", "offset")

    def __init__(self, header: SegmentHeader, file: File, offset: int) -> None:
        self.header = header
        self.file = file
        self.offset = offset

    @property
    def end(self) -> int:
        """The position where the next frame goes."""
        return self.header.number << OFFSET_BITS | self.offset

    def room(self) -> int:
        """Bytes that are left."""
        return self.header.segment_bytes - self.offset


class Segments:
    """The segment files of one lane in one directory.

    Args:
        files: The file system.
        directory: The lane's folder; it must exist.
        store_id: 16 bytes that name the store.
        lane: The lane's number.
        epoch: Counts the openings of the store.
        zero_fill: Whether new segments are filled with zeros, and released ones recycled: the page cache is bypassed.
        salt: Returns a random 64-bit number.
    """

    def __init__(
        self,
        files: FileSystem,
        directory: str,
        *,
        store_id: bytes,
        lane: int,
        epoch: int,
        zero_fill: bool,
        salt: Callable[[], int],
    ) -> None:
        self.files = files
        self.directory = directory
        self._store_id = store_id
        self._lane = lane
        self._epoch = epoch
        self._zero_fill = zero_fill
        self._salt = salt
        self._naming = threading.Lock()
        self._retired = False
        self._made_first: int | None = None

    def make(
        self,
        number: int,
        segment_bytes: int,
        *,
        durable: int,
        takeover: Sequence[int] = (),
        groups: Sequence[tuple[int, int, list[bytes]]] = (),
    ) -> Segment:
        """Return segment ``number``, durable under its name, holding ``groups`` as its first frames.

        Args:
            number: The segment's number; a file of that number is replaced.
            segment_bytes: Its size; larger if the groups need it.
            durable: The position below which the log is durable now.
            takeover: Per stream, the first LSN for which this segment counts; empty if it just follows.
            groups: Groups to carry over: (stream, first LSN, payloads).

        Raises:
            OSError: it could not be made. If it was the sync of the directory that failed, the name may be there, and
                what it names is whole.
        """
        needed = HEADER_BYTES + sum(frame_bytes(payloads) for _, _, payloads in groups)
        segment_bytes = sectors(max(segment_bytes, 2 * needed))
        header = SegmentHeader(
            number=number,
            lane=self._lane,
            epoch=self._epoch,
            salt=self._salt(),
            segment_bytes=segment_bytes,
            store_id=self._store_id,
            durable=durable,
            takeover=tuple(takeover),
        )
        self._made_first = number if self._made_first is None else self._made_first
        path = segment_path(self.directory, number)
        temporary = f"{path}.{header.salt:016x}{TEMPORARY_SUFFIX}"
        file = self._recycled(temporary, segment_bytes) or self._fresh(temporary, segment_bytes)
        segment = Segment(header, file, HEADER_BYTES)
        try:
            file.write([pack_segment_header(header)], 0)
            for stream, lsn, payloads in groups:
                buffers = pack_frame(
                    header, segment.offset, Kind.GROUP, stream=stream, lsn=lsn, durable=durable, payloads=payloads
                )
                segment.offset += file.write(buffers, segment.offset)
            file.sync()
            with self._naming:
                if self._retired:
                    raise OSError(errno.ECANCELED, "the lane was given up", path)
                self.files.rename(temporary, path)
            self.files.sync_directory(self.directory)
        except OSError:
            file.close()
            self.files.remove(temporary)
            raise
        file.path = path
        return segment

    def retire(self) -> None:
        """Let no segment get its name any more: somebody else is about to number them. One being made fails."""
        with self._naming:
            self._retired = True

    def _fresh(self, path: str, segment_bytes: int) -> File:
        file = self.files.create(path)
        try:
            file.allocate(segment_bytes)
            if self._zero_fill:
                for start in range(0, segment_bytes, _FILL_BYTES):  # in steps, so that the log's syncs get between
                    file.zero_fill(start, min(start + _FILL_BYTES, segment_bytes))
                    file.sync()
        except OSError:
            file.close()
            self.files.remove(path)
            raise
        return file

    def _recycled(self, path: str, segment_bytes: int) -> File | None:
        if not self._zero_fill:
            return None
        for name in self._names(SPARE_SUFFIX):
            spare = f"{self.directory}/{name}"
            file = self.files.open_write(spare)
            try:
                if file.size() == segment_bytes:
                    self.files.rename(spare, path)
                    # Durable before the file is written: after a crash no older name may show the new header.
                    self.files.sync_directory(self.directory)
                    return file
            except OSError:
                file.close()
                raise
            file.close()
        return None

    def _names(self, suffix: str) -> list[str]:
        return [name for name in self.files.list_directory(self.directory) if name.endswith(suffix)]

    def release(self, before: int, *, spare_bytes: int) -> int:
        """Recycle or remove every segment whose number is below ``before``; return how many.

        One that was not made here is not recycled: a close may have given its blocks back.

        Args:
            before: Number of the first segment that stays.
            spare_bytes: The size that new segments will have; one of another size would never be used again.
        """
        numbers = [n for n in segment_numbers(self.files, self.directory) if n < before]
        n_spares = len(self._names(SPARE_SUFFIX))
        for number in numbers:
            path = segment_path(self.directory, number)
            is_whole = self._zero_fill and self._made_first is not None and number >= self._made_first
            if is_whole and n_spares < SPARES_MAX and self._size(path) == spare_bytes:
                self.files.rename(path, path.removesuffix(SEGMENT_SUFFIX) + SPARE_SUFFIX)
                n_spares += 1
            else:
                self.files.remove(path)
        if numbers:
            self.files.sync_directory(self.directory)
        return len(numbers)

    def remove_unused(self, after: int) -> None:
        """Remove the spares, and the segments behind number ``after``, which were made ready and never written."""
        unused = [f"{self.directory}/{name}" for name in self._names(SPARE_SUFFIX)]
        unused += [segment_path(self.directory, n) for n in segment_numbers(self.files, self.directory) if n > after]
        for path in unused:
            self.files.remove(path)
        if unused:
            self.files.sync_directory(self.directory)

    def give_back(self, number: int, offset: int) -> None:
        """Give back the blocks behind the end of a segment that is written no more.

        What is there was never acknowledged, or zeros. The block of the end is not touched, so nothing needs a sync:
        whatever a crash leaves of this, the log ends where it did.
        """
        file = self.files.open_write(segment_path(self.directory, number))
        try:
            file.give_back(offset + -offset % BLOCK_BYTES)
        finally:
            file.close()

    def _size(self, path: str) -> int:
        file = self.files.open(path)
        try:
            return file.size()
        finally:
            file.close()

    def remove_temporaries(self) -> None:
        """Remove what an interrupted `make` left."""
        for name in self._names(TEMPORARY_SUFFIX):
            self.files.remove(f"{self.directory}/{name}")
