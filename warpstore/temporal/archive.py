"""Archives: where files of items go that are too old for the disk. A folder, or an object store.

Every call blocks. An upload is read back and compared by size and checksum before it counts; whatever goes wrong is an
`ArchiveUnavailableError`, and the local file stays. Object stores are spoken to through obstore (extra ``[archive]``),
which is imported when one is opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

from google_crc32c import extend

from wal import File, FileSystem
from warpstore.errors import ArchiveUnavailableError, ConfigError

if TYPE_CHECKING:
    from warpstore.temporal.reader import Bytes

_CHUNK_BYTES = 4 << 20
_RETRIES_MAX = 3
_RETRY_S = 10
_TIMEOUT = "30s"
_CONNECT_TIMEOUT = "5s"


class Archive(Protocol):
    """Keeps files by name."""

    place: str

    def upload(self, name: str, source: File, n_bytes: int, crc: int) -> None:
        """Store a file under a name, replacing one that is there, durably; return when it was read back and is right.

        Raises:
            ArchiveUnavailableError: it failed.
        """

    def open(self, name: str) -> Bytes:
        """Return the bytes of a file.

        Raises:
            ArchiveUnavailableError: it failed, or there is no such file.
        """

    def remove(self, name: str) -> None:
        """Remove a file; an absent one is no error.

        Raises:
            ArchiveUnavailableError: it failed.
        """


class FolderArchive:
    """An archive in a folder.

    Args:
        files: The file system.
        place: The folder; it is created with the first upload.
    """

    def __init__(self, files: FileSystem, place: str) -> None:
        self.place = place
        self._files = files

    def upload(self, name: str, source: File, n_bytes: int, crc: int) -> None:
        path = f"{self.place}/{name}"
        try:
            self._files.make_directory(self.place)
            self._files.remove(f"{path}.new")
            target = self._files.create(f"{path}.new")
            try:
                offset = 0
                for chunk in _chunks(source, n_bytes):
                    target.write([chunk], offset)
                    offset += len(chunk)
                target.sync()
                _verify(target, n_bytes, crc, path)
            finally:
                target.close()
            self._files.rename(f"{path}.new", path)
            self._files.sync_directory(self.place)
        except (OSError, ValueError) as e:
            raise _unavailable(self.place, "an upload", e) from e

    def open(self, name: str) -> Bytes:
        try:
            return _ArchivedFile(self._files.open(f"{self.place}/{name}"), self.place)
        except OSError as e:
            raise _unavailable(self.place, "a read", e) from e

    def remove(self, name: str) -> None:
        try:
            self._files.remove(f"{self.place}/{name}")
        except OSError as e:
            raise _unavailable(self.place, "a removal", e) from e


class _ArchivedFile:
    """A file of a folder archive."""

    def __init__(self, file: File, place: str) -> None:
        self.path = file.path
        self._file = file
        self._place = place

    def read(self, n_bytes: int, offset: int) -> bytes:
        try:
            return self._file.read(n_bytes, offset)
        except OSError as e:
            raise _unavailable(self._place, "a read", e) from e

    def close(self) -> None:
        self._file.close()


class ObjectArchive:
    """An archive in an object store.

    Args:
        place: Its URL, such as ``s3://bucket/prefix``.
        options: As obstore names them; what is not given comes from the environment.

    Raises:
        ConfigError: obstore is missing, or the URL or an option is wrong.
    """

    def __init__(self, place: str, options: Mapping[str, str]) -> None:
        self.place = place
        try:
            import obstore
            from obstore import exceptions
            from obstore.store import from_url
        except ImportError as e:
            words = f"archive={place!r}: an object store needs obstore; install warpstore[archive]"
            raise ConfigError(words, setting="archive") from e
        self._calls: Any = obstore
        self._error: type[Exception] = exceptions.BaseError
        self._absent: tuple[type[Exception], ...] = (exceptions.NotFoundError, FileNotFoundError)
        client: dict[str, Any] = {"timeout": _TIMEOUT, "connect_timeout": _CONNECT_TIMEOUT, "allow_http": True}
        retry: Any = {"max_retries": _RETRIES_MAX, "retry_timeout": timedelta(seconds=_RETRY_S)}
        try:
            if place.partition("://")[0] in ("memory", "file"):  # they take no options
                self._store: Any = from_url(place)
            else:
                self._store = from_url(
                    place,
                    config=dict(options) or None,
                    client_options=client,
                    retry_config=retry,  # type: ignore[call-overload]
                )
        except (exceptions.BaseError, ValueError) as e:
            raise ConfigError(f"archive={place!r}: {_words(e)}", setting="archive") from e

    def upload(self, name: str, source: File, n_bytes: int, crc: int) -> None:
        try:
            self._calls.put(self._store, name, _chunks(source, n_bytes))
            with_size = self._calls.head(self._store, name)
            if with_size["size"] != n_bytes:
                raise ValueError(f"{name} has {with_size['size']} bytes there, not {n_bytes}")
            _verify(_Object(self, name), n_bytes, crc, name)
        except (self._error, OSError, ValueError) as e:
            raise _unavailable(self.place, "an upload", e) from e

    def open(self, name: str) -> Bytes:
        return _Object(self, name)

    def remove(self, name: str) -> None:
        try:
            self._calls.delete(self._store, name)
        except self._absent:
            return
        except (self._error, OSError) as e:
            raise _unavailable(self.place, "a removal", e) from e

    def range(self, name: str, n_bytes: int, offset: int) -> bytes:
        """Return bytes of an object.

        Raises:
            ArchiveUnavailableError: it failed.
        """
        if not n_bytes:
            return b""
        try:
            return bytes(self._calls.get_range(self._store, name, start=offset, length=n_bytes))
        except (self._error, OSError) as e:
            raise _unavailable(self.place, "a read", e) from e


class _Object:
    """An object of an `ObjectArchive`, read range by range."""

    def __init__(self, archive: ObjectArchive, name: str) -> None:
        self.path = f"{archive.place}/{name}"
        self._archive = archive
        self._name = name

    def read(self, n_bytes: int, offset: int) -> bytes:
        return self._archive.range(self._name, n_bytes, offset)

    def close(self) -> None:
        return


def open_archive(files: FileSystem, place: str, options: Mapping[str, str]) -> Archive:
    """Return the archive at a folder or URL.

    Raises:
        ConfigError: obstore is missing, or the URL or an option is wrong.
    """
    return ObjectArchive(place, options) if "://" in place else FolderArchive(files, place)


def _chunks(source: Bytes | File, n_bytes: int) -> Iterator[bytes]:
    for offset in range(0, n_bytes, _CHUNK_BYTES):
        wanted = min(_CHUNK_BYTES, n_bytes - offset)
        chunk = source.read(wanted, offset)
        if len(chunk) != wanted:
            raise ValueError(f"{source.path} has fewer than {n_bytes} bytes")
        yield chunk


def _verify(stored: Bytes | File, n_bytes: int, crc: int, name: str) -> None:
    found = size = 0
    for chunk in _chunks(stored, n_bytes):
        found = int(extend(found, chunk))
        size += len(chunk)
    if found != crc or size != n_bytes:
        raise ValueError(f"{name} reads back with other bytes than were written")


def _unavailable(place: str, call: str, error: Exception) -> ArchiveUnavailableError:
    if isinstance(error, ArchiveUnavailableError):
        return error
    return ArchiveUnavailableError(f"the archive {place!r} failed {call}: {_words(error)}", place=place)


def _words(error: Exception) -> str:
    """Return the first line of an error's text, which in obstore goes on with a dump of its causes."""
    return (str(error) or type(error).__name__).partition("\n")[0][:500]
