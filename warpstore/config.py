"""Every setting of a store, in one frozen object.

`ws.open` takes them as keywords, and from a TOML file given as ``config=``; a keyword wins over the file.
`config/default.toml` names each setting with its default; a test holds the two together.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from warpstore.errors import ConfigError
from warpstore.units import parse_bytes, parse_seconds

Durability = Literal["fsync", "interval", "memory"]
GpuMode = Literal["auto", "off", "require", "inprocess"] | int
OnCorruption = Literal["refuse", "point_in_time", "salvage"]

SHARDS_DEFAULT = 4
SHARDS_MAX = 256
_SIZES = frozenset({"ram", "segment_bytes", "checkpoint_log_bytes", "mailbox_bytes_max", "block_cache_bytes"})
_DURATIONS = frozenset({"stop_timeout_s", "restart_period_s", "ageing_interval_s"})
_FOLDERS = frozenset({"ssd", "disk", "archive"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How a store is opened.

    Attributes:
        durability: When an awaited write returns. "fsync": when it is durable; "interval": at once, durable within
            ``sync_interval_ms``; "memory": at once, durable at the next checkpoint.
        sync_interval_ms: Milliseconds between syncs in "interval" mode; 1 to 60,000.
        mark_delay_ms: Milliseconds that the log is idle before a mark confirms its last group, in "fsync" mode;
            1 to 60,000.
        shards: Shards of the store, 1 to 256; None: as many as it has, 4 for a new one.
        lanes: Log files written side by side, 1 to 256; None: as many as it has, 1 for a new one. More pay off only
            with one device for each.
        log: Folders of the lanes, one for each; empty: inside the store.
        segment_bytes: Size of a log segment; 64 KiB to 1 GiB.
        checkpoint_log_bytes: A checkpoint starts when the log behind the last one is larger than this and than half of
            the last one; 64 KiB or more.
        ram: Cap on the bytes that records in memory, index pages and decoded records take together: so on the growth
            of RSS; None: no cap. What is in a checkpoint leaves memory first; then writers wait, then they get
            `MemoryLimitError`.
        gpu: Where GPU columns live. "auto" and "off" hold them in NumPy, the only backend so far.
        processes: Worker processes. 0, the only value so far: everything runs in this process.
        mailbox_messages_max: Messages that wait for one shard before callers wait; 1 or more.
        mailbox_bytes_max: Bytes that wait for one shard before callers wait; 16 to 128 MiB.
        record_cache_entries: Decoded records kept for repeated reads, per table; a power of two, or 0 for none. More
            than the processor's own cache holds cost more than they save.
        block_cache_bytes: Bytes of decompressed blocks of `Disk` fields that are kept, at most a sixteenth of ``ram``;
            0 or more.
        restart_intensity: Restarts within ``restart_period_s`` before the store goes read-only; 1 or more.
        restart_period_s: Seconds.
        stop_timeout_s: Seconds that closing waits for a shard.
        on_corruption: What to do about durable bytes that are damaged. "refuse": open fails; "point_in_time": the log
            ends before the damage; "salvage": what is damaged is left out.
        trace_calls: Whether every call of a table makes an OpenTelemetry span, some 20 us each, beside those for what
            takes long. It needs the extra ``[tracing]``.
        ssd: Folder for the items of `Temporal` fields that are too old for memory; None: inside the store.
        disk: Folder for those that are too old for ``ssd``.
        archive: Folder, or URL of an object store (``s3://bucket/prefix``, extra ``[archive]``), for those that are too
            old for ``disk``. A store that has files in one of the three keeps it for ever.
        archive_options: Options of the object store, as obstore names them, such as ``{"region": "eu-central-1"}``.
        ageing_interval_s: Seconds between two rounds of ageing, 0.1 or more; None: a sixteenth of the shortest horizon,
            from 10 seconds to 1 hour.
    """

    durability: Durability = "fsync"
    sync_interval_ms: int = 50
    mark_delay_ms: int = 20
    shards: int | None = None
    lanes: int | None = None
    log: tuple[str, ...] = ()
    segment_bytes: int = 64 << 20
    checkpoint_log_bytes: int = 64 << 20
    ram: int | None = None
    gpu: GpuMode = "auto"
    processes: int = 0
    mailbox_messages_max: int = 10_000
    mailbox_bytes_max: int = 64 << 20
    record_cache_entries: int = 1024
    block_cache_bytes: int = 16 << 20
    restart_intensity: int = 3
    restart_period_s: float = 5.0
    stop_timeout_s: float = 30.0
    on_corruption: OnCorruption = "refuse"
    trace_calls: bool = False
    ssd: str | None = None
    disk: str | None = None
    archive: str | None = None
    archive_options: tuple[tuple[str, str], ...] = ()
    ageing_interval_s: float | None = None

    def __post_init__(self) -> None:
        _one_of(self, "durability", ("fsync", "interval", "memory"))
        _one_of(self, "on_corruption", ("refuse", "point_in_time", "salvage"))
        _within(self, "sync_interval_ms", 1, 60_000)
        _within(self, "mark_delay_ms", 1, 60_000)
        _within(self, "shards", 1, SHARDS_MAX)
        _within(self, "lanes", 1, SHARDS_MAX)
        _within(self, "segment_bytes", 64 << 10, 1 << 30)
        _within(self, "checkpoint_log_bytes", 64 << 10, 1 << 50)
        _within(self, "ram", 1 << 20, 1 << 60)
        _within(self, "processes", 0, 0)
        _within(self, "mailbox_messages_max", 1, 1 << 30)
        _within(self, "mailbox_bytes_max", 16 << 20, 128 << 20)
        _within(self, "record_cache_entries", 0, 1 << 24)
        _within(self, "block_cache_bytes", 0, 1 << 60)
        _within(self, "restart_intensity", 1, 1 << 20)
        if type(self.trace_calls) is not bool:
            raise ConfigError(f"trace_calls={self.trace_calls!r}: must be True or False", setting="trace_calls")
        _within(self, "ageing_interval_s", 0.1, 1 << 40)
        entries = self.record_cache_entries
        if entries & (entries - 1):
            raise ConfigError(
                f"record_cache_entries={entries}: must be a power of two, or 0", setting="record_cache_entries"
            )
        if self.log and self.lanes not in {None, len(self.log)}:
            raise ConfigError(
                f"lanes={self.lanes} contradicts log=, which names {len(self.log)} folders", setting="lanes"
            )
        if self.gpu in ("require", "inprocess") or isinstance(self.gpu, int):
            raise ConfigError(f"gpu={self.gpu!r}: this version has no CUDA backend; use 'auto' or 'off'", setting="gpu")
        _one_of(self, "gpu", ("auto", "off"))


def load(path: str | os.PathLike[str] | None, settings: Mapping[str, Any]) -> Config:
    """Return the configuration of a TOML file and of keywords, which win.

    Raises:
        ConfigError: a name is unknown, or a value is out of its limits.
    """
    merged: dict[str, Any] = {}
    if path is not None:
        try:
            with open(path, "rb") as file:
                merged.update(tomllib.load(file))
        except OSError as e:
            raise ConfigError(f"config={os.fspath(path)!r}: {e.strerror}", setting="config") from e
        except tomllib.TOMLDecodeError as e:
            raise ConfigError(f"config={os.fspath(path)!r}: {e}", setting="config") from e
    merged.update(settings)
    known = {field.name: field for field in dataclasses.fields(Config)}
    for name in merged:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"unknown setting {name!r}{hint}", setting=name)
    return Config(**{name: _parsed(name, value) for name, value in merged.items()})


def _parsed(name: str, value: Any) -> Any:
    default = {f.name: f.default for f in dataclasses.fields(Config)}[name]
    try:
        if name in _SIZES and not (value is None and default is None):
            return parse_bytes(value)
        if name in _DURATIONS and not (value is None and default is None):
            return parse_seconds(value)
    except (ValueError, TypeError) as e:
        raise ConfigError(f"{name}={value!r}: {e}", setting=name) from e
    if name in _FOLDERS:
        return value if value is None else _folder(name, value)
    if name == "archive_options":
        if not isinstance(value, Mapping) or not all(type(v) is str for pair in value.items() for v in pair):
            raise ConfigError(f"{name}: must be a mapping of str to str", setting=name)
        return tuple(sorted(value.items()))
    if name == "log":
        if not isinstance(value, list | tuple) or not all(isinstance(v, str | os.PathLike) for v in value):
            raise ConfigError(f"log={value!r}: must be a list of folders", setting=name)
        return tuple(os.path.abspath(os.fspath(v)) for v in value)
    whole = default is None or type(default) is int
    if whole and not (value is None and default is None) and type(value) is not int:
        raise ConfigError(f"{name}={value!r}: must be a whole number", setting=name)
    return value


def _folder(name: str, value: Any) -> str:
    """Return a folder as an absolute path, or the URL of an archive as it is."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value) or type(os.fspath(value)) is not str:
        raise ConfigError(f"{name}={value!r}: must be a folder", setting=name)
    text = os.fspath(value)
    if "://" not in text:
        return os.path.abspath(text)
    if name != "archive":
        raise ConfigError(f"{name}={value!r}: must be a folder; only archive= takes a URL", setting=name)
    return text.rstrip("/")


def _one_of(config: Config, name: str, allowed: tuple[str, ...]) -> None:
    value = getattr(config, name)
    if value not in allowed:
        raise ConfigError(f"{name}={value!r}: must be one of {', '.join(map(repr, allowed))}", setting=name)


def _within(config: Config, name: str, least: float, most: float) -> None:
    value = getattr(config, name)
    if value is not None and not least <= value <= most:
        raise ConfigError(f"{name}={value!r}: must be from {least} to {most}", setting=name)
