"""The manifest: what a store consists of. One small file, replaced as a whole.

The first line holds the format's name and version and the CRC32C of the rest, which is JSON. Every change is written
beside it, synced, renamed over it, and its directory synced; so there is always exactly one whole manifest.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from google_crc32c import value as crc32c

from wal import FileSystem
from warpstore.errors import CorruptionError, FormatVersionError

NAME = "MANIFEST"
FORMAT_VERSION = 1
SERIES_SUFFIX = ".ser"
_MAGIC = b"warpstore-manifest"
_BYTES_MAX = 256 << 20
_STORE_ID = re.compile(r"[0-9a-f]{32}")

T = TypeVar("T", bound=msgspec.Struct)


class SchemaEntry(msgspec.Struct, frozen=True):
    """One version of a table's schema and the tag of the records written under it."""

    tag: int
    schema: dict[str, Any]


class TableManifest(msgspec.Struct, frozen=True):
    """A table.

    Attributes:
        table: Its number for ever.
        schemas: Its schemas, the current one last.
        series: The number for ever of each `Temporal` field that it has or had.
        expires: Whether a record of it has, or had, a deadline while it had such fields.
    """

    table: int
    schemas: list[SchemaEntry]
    series: dict[str, int] = {}
    expires: bool = False


class LaneManifest(msgspec.Struct, frozen=True):
    """A lane's log.

    Attributes:
        directory: Its folder, or "" for the one inside the store.
        first: Number of the first segment that counts.
        active: Number of a segment that must exist.
        clean_end: Position where a clean close ended it, or 0.
    """

    directory: str
    first: int
    active: int
    clean_end: int


class CheckpointManifest(msgspec.Struct, frozen=True):
    """A shard's checkpoint.

    Attributes:
        name: Its file's name, or "" for none.
        lsn: The LSN up to which it holds everything.
        blocks: The numbers of the block files that its records have parts in.
    """

    name: str
    lsn: int
    blocks: list[int] = []


class SeriesRange(msgspec.Struct, frozen=True, array_like=True):
    """What a file holds of one series, over all records.

    Attributes:
        table: The table's number.
        series: The series' number.
        n_items: Items.
        first_ns: The least time among them, in nanoseconds since the epoch.
        last_ns: The greatest.
    """

    table: int
    series: int
    n_items: int
    first_ns: int
    last_ns: int


class SeriesFileManifest(msgspec.Struct, frozen=True):
    """A file of items that left their records.

    Attributes:
        number: Its number.
        tier: "ssd", "disk" or "archive".
        move: The move that wrote it, until it is settled; then 0.
        width_s: Seconds of its time partition.
        partition: Number of that.
        n_bytes: Its size.
        crc: Its CRC32C.
        ranges: What it holds.
        outbound: Whether the archive may have it already, although the local file counts.
        origin: The id of the store whose archive it is in, where that is not this one: a restored store reads such
            files where they are, and never removes them. Else "".
    """

    number: int
    tier: str
    move: int
    width_s: int
    partition: int
    n_bytes: int
    crc: int
    ranges: list[SeriesRange]
    outbound: bool = False
    origin: str = ""


class KeptState(msgspec.Struct, frozen=True):
    """The state before a migration, for the way back.

    Attributes:
        tables: The tables as they were.
        shards: The checkpoints as they were. Their files, and the block files that they name, stay as long as this is
            in the manifest.
        written: Names of the checkpoint files that the migration wrote in their place.
        kept_at_ms: When it was, in milliseconds since the epoch.
        series: The files of items as they were; there is a way back as long as they are the same.
    """

    tables: dict[str, TableManifest]
    shards: list[CheckpointManifest]
    written: list[str]
    kept_at_ms: int
    series: list[SeriesFileManifest] = []


class Manifest(msgspec.Struct, frozen=True):
    """What a store consists of.

    Attributes:
        store_id: 32 hexadecimal digits that name the store.
        epoch: Counts the openings.
        next_tag: The tag that the next schema gets.
        next_table: The number that the next table gets.
        next_checkpoint: The number that the next checkpoint's files get.
        shards: One checkpoint entry a shard.
        lanes: One entry a lane.
        tables: By table name.
        clean_lsns: Per shard, the last LSN at a clean close; empty while the store is open or after a crash.
        durability: How the store was last opened, for those who read it beside its owner; "" if nobody said.
        next_series: The number that the next file of items, or move of items, gets.
        series: The files of items that left their records.
        folders: By tier, the folder or URL of these files where it is not inside the store.
        rollback: The state before the last migration, or None.
    """

    store_id: str
    epoch: int
    next_tag: int
    next_table: int
    next_checkpoint: int
    shards: list[CheckpointManifest]
    lanes: list[LaneManifest]
    tables: dict[str, TableManifest]
    clean_lsns: list[int]
    durability: str = ""
    next_series: int = 1
    series: list[SeriesFileManifest] = []
    folders: dict[str, str] = {}
    rollback: KeptState | None = None

    @property
    def shards_named(self) -> list[CheckpointManifest]:
        """The checkpoint entries whose files have to be there: the current ones, and those of the way back."""
        return [*self.shards, *(self.rollback.shards if self.rollback is not None else ())]

    @property
    def id_bytes(self) -> bytes:
        """The store id as the 16 bytes that its files carry."""
        return bytes.fromhex(self.store_id)

    def series_folder(self, path: str, tier: str) -> str:
        """Return the folder of the files of items of a tier, for a store at a path; of the archive perhaps the URL."""
        return self.folders.get(tier) or f"{path}/series/{tier}"

    def series_name(self, number: int, origin: str = "") -> str:
        """Return the name of a file of items, in its folder or in the archive, which other stores may use too."""
        return f"{origin or self.store_id}-{number:08x}{SERIES_SUFFIX}"

    @property
    def copied_series(self) -> list[SeriesFileManifest]:
        """The files of items that a backup copies: all but those in an archive outside the store."""
        return [entry for entry in self.series if entry.tier != "archive" or not self.folders.get("archive")]


def read(files: FileSystem, directory: str) -> Manifest:
    """Return the manifest of a store; errors as for `read_whole`."""
    return read_whole(files, f"{directory}/{NAME}", _MAGIC, Manifest, problem)


def problem(manifest: Manifest) -> str:
    """Return what is wrong with a manifest that was decoded, "" for nothing."""
    return "" if _STORE_ID.fullmatch(manifest.store_id) else "the store id is not 32 hexadecimal digits"


def write(files: FileSystem, directory: str, manifest: Manifest) -> None:
    """Replace the manifest, durably.

    Raises:
        OSError: it failed; the manifest before it stands.
    """
    write_whole(files, f"{directory}/{NAME}", _MAGIC, manifest)


def read_whole(files: FileSystem, path: str, magic: bytes, kind: type[T], problem: Callable[[T], str]) -> T:
    """Return what `write_whole` wrote.

    Args:
        files: The file system.
        path: The file.
        magic: What opens it.
        kind: What it holds.
        problem: Returns what is wrong with it, "" for nothing.

    Raises:
        FileNotFoundError: there is none.
        CorruptionError: it is damaged.
        FormatVersionError: it was written by a newer warpstore.
    """
    file = files.open(path)
    try:
        data = file.read(min(file.size(), _BYTES_MAX), 0)
    finally:
        file.close()
    head, _, body = data.partition(b"\n")
    words = head.split(b" ")
    if len(words) != 3 or words[0] != magic or not words[1].isdigit() or int(words[1][:9]) < 1:
        raise CorruptionError.at(path, 0, f"this is no {magic.decode()}")
    version = int(words[1][:9])
    if version > FORMAT_VERSION:
        message = f"{path}: format version {version}, this warpstore reads up to {FORMAT_VERSION}: upgrade it"
        raise FormatVersionError(message, path=path)
    if words[2] != b"%08x" % crc32c(body):
        raise CorruptionError.at(path, 0, "the checksum is wrong")
    at = len(head) + 1
    try:
        content = msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as e:
        raise CorruptionError.at(path, at, e) from e
    if wrong := problem(content):
        raise CorruptionError.at(path, at, wrong)
    return content


def write_whole(files: FileSystem, path: str, magic: bytes, content: msgspec.Struct) -> None:
    """Replace a small file as a whole, durably: written beside it, synced, renamed over it, its folder synced.

    Raises:
        OSError: it failed; what was there stands, or, if only the last sync failed, the new one may.
    """
    body = msgspec.json.format(msgspec.json.encode(content), indent=1)
    temporary = f"{path}.new"
    files.remove(temporary)
    file = files.create(temporary)
    try:
        file.write([b"%s %d %08x\n" % (magic, FORMAT_VERSION, crc32c(body)), body], 0)
        file.sync()
    finally:
        file.close()
    files.rename(temporary, path)
    files.sync_directory(path.rpartition("/")[0])
