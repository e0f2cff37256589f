"""Verifies the files of items: every byte, and that blocks, index, directory and manifest say the same of each other.

Those in an object store are not read: whoever asks whether a folder is whole does not ask for a download of what is
elsewhere. They are named in a note.
"""

from __future__ import annotations

from collections.abc import Iterator

from google_crc32c import extend

from warpstore.catalog import Catalog
from warpstore.errors import CorruptionError, OpenError, UnavailableError
from warpstore.manifest import SERIES_SUFFIX, SeriesFileManifest, SeriesRange
from warpstore.stored import StoredReader
from warpstore.temporal.format import Run, SortKey, sort_key
from warpstore.temporal.reader import SeriesReader
from warpstore.verification.file_kind import Advance, Finding, finding_of

_NAME = "series"
_READ_BYTES = 1 << 20


class SeriesFileKind:
    """The files of items that the manifest names, without those in an object store."""

    name = _NAME
    is_verified = True
    stands_still = True

    def paths(self, stored: StoredReader) -> list[str]:
        layout = stored.layout
        return [layout.series_path(entry) for entry in stored.manifest.series if is_here(layout, entry)]

    def verify(self, stored: StoredReader, advance: Advance) -> Iterator[Finding]:
        layout = stored.layout
        for entry in stored.manifest.series:
            if is_here(layout, entry):
                yield from _verified(stored, layout, entry)
                advance(entry.n_bytes)
        away = [entry for entry in stored.manifest.series if not is_here(layout, entry)]
        if away:
            place = layout.series_folder("archive")
            message = f"{len(away)} files of items are in this archive; they were not verified"
            yield Finding(kind=_NAME, path=place, offset=0, message=message, is_defect=False)
        if not stored.is_live:  # an owner may be writing one that the manifest will name
            for path in stray_series_files(stored):
                message = "the manifest does not name this file of items; opening removes it"
                yield Finding(kind=_NAME, path=path, offset=0, message=message, is_defect=False)


def is_here(layout: Catalog, entry: SeriesFileManifest) -> bool:
    """Return whether a file of items is in a folder."""
    return "://" not in layout.series_folder(entry.tier)


def stray_series_files(stored: StoredReader) -> list[str]:
    """Return the local files of items of this store that the manifest does not name."""
    layout, found = stored.layout, []
    named = set(SeriesFileKind().paths(stored))
    for tier in ("ssd", "disk"):
        folder = layout.series_folder(tier)
        if stored.files.is_directory(folder):
            own = f"{stored.manifest.store_id}-"
            names = sorted(n for n in stored.files.list_directory(folder) if n.startswith(own) and SERIES_SUFFIX in n)
            found += [path for name in names if (path := f"{folder}/{name}") not in named]
    return found


def _verified(stored: StoredReader, layout: Catalog, entry: SeriesFileManifest) -> Iterator[Finding]:
    path = layout.series_path(entry)
    try:
        messages = list(_defects(stored, path, entry))
    except (OpenError, UnavailableError, OSError) as e:
        if stored.is_live:  # its owner may have let go of it
            stored.refresh()
            if entry not in stored.manifest.series:
                return
        yield finding_of(_NAME, e, path)
        return
    for message in messages:
        yield Finding(kind=_NAME, path=path, offset=0, message=message)


def _defects(stored: StoredReader, path: str, entry: SeriesFileManifest) -> Iterator[str]:
    try:
        file = stored.files.open(path)
    except FileNotFoundError as e:
        raise CorruptionError(f"{path}: offset 0: the file is missing", path=path, offset=0) from e
    try:
        size, crc = file.size(), 0
        for start in range(0, size, _READ_BYTES):
            crc = int(extend(crc, file.read(min(_READ_BYTES, size - start), start)))
        if size != entry.n_bytes:
            yield f"the file has {size} bytes, the manifest says {entry.n_bytes}"
            return
        store_id = bytes.fromhex(entry.origin) if entry.origin else stored.manifest.id_bytes
        reader = SeriesReader(file, entry, store_id, None)
        yield from _contents(reader, entry)
        if crc != entry.crc:
            yield "the checksum of the file is not the one in the manifest"
    finally:
        file.close()


def _contents(reader: SeriesReader, entry: SeriesFileManifest) -> Iterator[str]:
    """Compare the runs with the index, and what they hold with the directory and the manifest."""
    found: dict[tuple[int, int], list[int]] = {}
    before: SortKey | None = None
    index = reader.index()
    is_indexed = in_order = True
    for place, run in reader.placed_runs():
        key = sort_key(run)
        in_order = in_order and (before is None or before <= key)
        before = key
        is_indexed = is_indexed and next(index, None) == (key.digest, place)
        _count(found, run)
    if not in_order:
        yield "the runs are not in order"
    if not is_indexed or next(index, None) is not None:
        yield "the index does not list the runs as they are"
    ranges = [SeriesRange(*series, *times) for series, times in sorted(found.items())]
    if ranges != reader.ranges:
        yield "the directory says otherwise what the runs hold"
    if reader.ranges != entry.ranges:
        yield "the manifest says otherwise what the file holds"


def _count(found: dict[tuple[int, int], list[int]], run: Run) -> None:
    for time, _, _ in run.items:
        times = found.setdefault((run.table, run.series), [0, time, time])
        times[0] += 1
        times[1], times[2] = min(times[1], time), max(times[2], time)
