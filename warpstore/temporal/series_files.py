"""The files of items of an open store: which there are, open readers, and when a file may go.

The set changes on the loop, in one step, right after the manifest has. Who reads pins what it reads; a file that left
the set is closed and removed once nobody has it pinned, by `collect`. Everything else here blocks and is called off the
loop.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import msgspec

from warpstore.errors import (
    ArchiveUnavailableError,
    CorruptionError,
    DiskFullError,
    UnavailableError,
    WarpstoreError,
)
from warpstore.manifest import SeriesFileManifest
from warpstore.temporal.archive import Archive, open_archive
from warpstore.temporal.format import Run
from warpstore.temporal.reader import SeriesReader
from warpstore.temporal.writer import SeriesWriter

if TYPE_CHECKING:
    from wal import FileSystem
    from warpstore.blocks import BlockCache
    from warpstore.catalog import Catalog

COMPRESSION = {"ssd": "lz4", "disk": "max"}


class SeriesFile:
    """A file of the set.

    Attributes:
        entry: What the manifest says of it.
        n_pins: Who reads it.
    """

    __slots__ = ("entry", "n_pins", "reader")

    def __init__(self, entry: SeriesFileManifest) -> None:
        self.entry = entry
        self.n_pins = 0
        self.reader: SeriesReader | None = None


class SeriesFiles:
    """The files of items of an open store.

    Args:
        files: The file system.
        catalog: The store's.
        cache: Keeps blocks that were read.
        archive_options: As for `Config`.
        salt: Returns random 64-bit numbers.

    Raises:
        ConfigError: the archive's URL cannot be used.
    """

    def __init__(
        self,
        files: FileSystem,
        catalog: Catalog,
        cache: BlockCache | None,
        archive_options: Iterable[tuple[str, str]],
        salt: Callable[[], int],
    ) -> None:
        self._files = files
        self._catalog = catalog
        self._cache = cache
        self._salt = salt
        self._lock = threading.Lock()
        self._set = {entry.number: SeriesFile(entry) for entry in catalog.manifest.series}
        self._gone: list[SeriesFile] = []
        self._is_retired = False
        self.archive: Archive = open_archive(files, catalog.series_folder("archive"), dict(archive_options))

    # On the loop

    @property
    def files(self) -> list[SeriesFile]:
        """The files, by number."""
        return [self._set[number] for number in sorted(self._set)]

    def install(self, add: Iterable[SeriesFileManifest], remove: Iterable[int]) -> None:
        """Take in what the manifest says now; an entry replaces the one of its number."""
        for number in remove:
            self._gone.append(self._set.pop(number))
        for entry in add:
            before = self._set.get(entry.number)
            if before is not None and before.entry.tier == entry.tier:
                before.entry = entry
                continue
            if before is not None:
                before.entry = msgspec.structs.replace(before.entry, outbound=False)
                self._gone.append(before)  # the local file; what the archive has counts from now on
            self._set[entry.number] = SeriesFile(entry)

    def pinned(self, table: int, series: int, first_ns: int, last_ns: int) -> list[SeriesFile]:
        """Return the files that may have items of a series in a time, pinned, the least recently written first."""
        found = [
            file
            for file in self.files
            if any(
                r.table == table and r.series == series and r.first_ns <= last_ns and r.last_ns >= first_ns
                for r in file.entry.ranges
            )
        ]
        for file in found:
            file.n_pins += 1
        return found

    def unpin(self, files: Iterable[SeriesFile]) -> None:
        """Let go of files."""
        for file in files:
            file.n_pins -= 1
            if self._is_retired and not file.n_pins:
                _close(file)

    def retire(self) -> None:
        """Close every reader, but those of files that are pinned when these are let go of."""
        self._is_retired = True
        for file in (*self._set.values(), *self._gone):
            if not file.n_pins:
                _close(file)

    def take_gone(self) -> list[SeriesFile]:
        """Return the files that left the set, and that nobody reads and no backup copies, for `remove`."""
        kept = self._catalog.pinned_series()
        free = [file for file in self._gone if not file.n_pins and file.entry.number not in kept]
        self._gone = [file for file in self._gone if file not in free]
        return free

    # Off the loop

    def path(self, entry: SeriesFileManifest) -> str:
        """Return the path of a local file."""
        return self._catalog.series_path(entry)

    def reader(self, file: SeriesFile) -> SeriesReader:
        """Return the reader of a file, which is pinned.

        Raises:
            CorruptionError: it is missing or damaged.
            ArchiveUnavailableError: it is in the archive, which does not answer.
        """
        with self._lock:
            if file.reader is None:
                file.reader = self._opened(file.entry)
            return file.reader

    def open_local(self) -> None:
        """Open every file that is not in the archive, so that what an owner lets go of can still be read.

        Raises:
            CorruptionError: one is missing or damaged.
            UnavailableError: one cannot be opened.
        """
        try:
            for file in self._set.values():
                if file.entry.tier != "archive":
                    self.reader(file)
        except BaseException:
            self.close()
            raise

    def _opened(self, entry: SeriesFileManifest) -> SeriesReader:
        if entry.tier == "archive":
            source = self.archive.open(self._catalog.series_name(entry.number, entry.origin))
        else:
            path = self.path(entry)
            try:
                source = self._files.open(path)
            except FileNotFoundError as e:
                raise CorruptionError(f"{path}: the file of items is missing", path=path, offset=0) from e
            except OSError as e:
                raise UnavailableError(f"{path}: {e}") from e
        try:
            written_for = bytes.fromhex(entry.origin) if entry.origin else self._catalog.manifest.id_bytes
            return SeriesReader(source, entry, written_for, self._cache)
        except BaseException:
            source.close()
            raise

    def new_file(self, tier: str, width_s: int, partition: int, move: int) -> NewSeriesFile:
        """Return a new local file to write.

        Raises:
            DiskFullError: there is no space.
            UnavailableError: it cannot be created.
        """
        return NewSeriesFile(
            self._files,
            self._catalog.series_folder(tier),
            self._catalog,
            SeriesFileManifest(self._catalog.take_series_number(), tier, move, width_s, partition, 0, 0, []),
            self._salt(),
        )

    def upload(self, file: SeriesFile) -> None:
        """Store a file, which is pinned, in the archive.

        Raises:
            ArchiveUnavailableError: it failed.
            UnavailableError: the local file cannot be read.
        """
        entry = file.entry
        try:
            source = self._files.open(self.path(entry))
        except OSError as e:
            raise UnavailableError(f"{self.path(entry)}: {e}") from e
        try:
            self.archive.upload(self._catalog.series_name(entry.number), source, entry.n_bytes, entry.crc)
        finally:
            source.close()

    def remove(self, gone: Iterable[SeriesFile]) -> list[SeriesFile]:
        """Close and remove files that left the set; return those that could not be removed now."""
        left: list[SeriesFile] = []
        for file in gone:
            _close(file)
            try:
                if (file.entry.tier == "archive" and not file.entry.origin) or file.entry.outbound:
                    self.archive.remove(self._catalog.series_name(file.entry.number))
                if file.entry.tier != "archive":
                    self._files.remove(self.path(file.entry))
            except (OSError, ArchiveUnavailableError):
                left.append(file)
        return left

    def put_back(self, gone: Iterable[SeriesFile]) -> None:
        """Keep files in mind that are still to be removed; on the loop."""
        self._gone += gone

    def close(self) -> None:
        """Close every reader."""
        for file in (*self._set.values(), *self._gone):
            _close(file)


def _close(file: SeriesFile) -> None:
    reader, file.reader = file.reader, None
    if reader is not None:
        reader.close()


class NewSeriesFile:
    """A file of items that is being written. It has its name only when it is durable.

    Raises:
        DiskFullError, UnavailableError: from every method; the file is removed then.
    """

    def __init__(self, files: FileSystem, folder: str, catalog: Catalog, entry: SeriesFileManifest, salt: int) -> None:
        self._files = files
        self._folder = folder
        self._path = f"{folder}/{catalog.series_name(entry.number)}"
        self._entry = entry
        try:
            if not files.exists(folder):
                files.make_directory(folder)
                files.sync_directory(folder.rpartition("/")[0])
            files.remove(f"{self._path}.new")
            self._file = files.create(f"{self._path}.new")
        except OSError as e:
            raise _refused(self._path, e) from e
        self._writer = SeriesWriter(
            self._file,
            number=entry.number,
            salt=salt,
            store_id=catalog.manifest.id_bytes,
            compression=COMPRESSION[entry.tier],
        )

    def add(self, run: Run) -> None:
        """Add a run, in order."""
        try:
            self._writer.add(run)
        except OSError as e:
            self.abandon()
            raise _refused(self._path, e) from e

    def finish(self) -> SeriesFileManifest:
        """Make the file durable under its name, and return what the manifest is to say of it."""
        try:
            self._writer.finish()
            self._file.close()
            self._files.rename(f"{self._path}.new", self._path)
            self._files.sync_directory(self._folder)
        except OSError as e:
            self.abandon()
            raise _refused(self._path, e) from e
        entry, writer = self._entry, self._writer
        return SeriesFileManifest(
            entry.number,
            entry.tier,
            entry.move,
            entry.width_s,
            entry.partition,
            writer.n_bytes,
            writer.crc,
            writer.ranges,
        )

    def abandon(self) -> None:
        """Remove the file, whatever it is called by now."""
        self._file.close()
        for path in (f"{self._path}.new", self._path):
            try:
                self._files.remove(path)
            except OSError:
                continue  # it is a stray, which the next opening removes


def _refused(path: str, error: OSError) -> WarpstoreError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(f"{path}: no space for items that are too old for where they are; they stay there")
    return UnavailableError(f"{path}: {error}")
