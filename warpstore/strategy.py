"""``Strategy``: the policy of one record type, given with its class.

One concept: settings that belong to a type and not to a field or to the store. All are optional; the store's
configuration fills what is None. Checked when it is made (``SchemaError``), never looked at on the hot path.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from warpstore.errors import SchemaError
from warpstore.units import parse_bytes, parse_rate, parse_seconds

_SIZES = ("memory_pool_bytes", "memory_per_record_bytes", "compression_threshold", "write_buffer")
_RATES = ("hot_to_warm", "warm_to_cold")
_TIMES = ("ttl", "cold_to_archive")


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """The policy of one record type.

    Attributes:
        ttl: Time to live of a record put without its own ``ttl``: seconds or a string. Default None: for ever.
        memory_pool: Name of the RAM pool its records share. Default ``"default"``.
        memory_pool_bytes: Cap of that pool: bytes or a string. Default None: the store's ``ram``.
        memory_per_record_bytes: RAM a single record may hold, bytes or a string; what exceeds it is placed on disk.
            Default None: no bound.
        gpu_pool: Name of the GPU pool its columns share. Default ``"default"``.
        gpu_batch: Rows of one upload to the GPU, 1 to 16,777,216. Default 65,536.
        compression_threshold: Values smaller than this are not compressed: bytes or a string. Default 1,024.
        write_buffer: Bytes gathered before a block is written: bytes or a string, 4 KiB to 64 MiB. Default 4 MiB.
        learning: Whether placement learns from accesses. Default True.
        auto_migration: Whether the migrator may move its records by itself. Default True.
        hot_to_warm: A record read less often than this leaves the hot tier: a rate. Default ``"10/h"``.
        warm_to_cold: One read less often than this leaves the warm tier: a rate. Default ``"1/day"``.
        cold_to_archive: One not read for this long may be archived: seconds or a string. Default ``"90d"``.

    Raises:
        SchemaError: a value is of the wrong type or out of its limits; it names the setting.

    Example:
        >>> Strategy(ttl="30m", memory_pool_bytes="64MiB").seconds("ttl")
        1800.0
    """

    ttl: str | float | timedelta | None = None
    memory_pool: str = "default"
    memory_pool_bytes: str | int | None = None
    memory_per_record_bytes: str | int | None = None
    gpu_pool: str = "default"
    gpu_batch: int = 65_536
    compression_threshold: str | int = 1_024
    write_buffer: str | int = "4MiB"
    learning: bool = True
    auto_migration: bool = True
    hot_to_warm: str | float = "10/h"
    warm_to_cold: str | float = "1/day"
    cold_to_archive: str | float | timedelta = "90d"

    def __post_init__(self) -> None:
        for name in ("learning", "auto_migration"):
            _require(type(getattr(self, name)) is bool, name, getattr(self, name), "use True or False")
        for name in ("memory_pool", "gpu_pool"):
            value = getattr(self, name)
            _require(type(value) is str and bool(value), name, value, "give the pool's name")
        batch = self.gpu_batch
        _require(type(batch) is int and 1 <= batch <= 1 << 24, "gpu_batch", batch, "use 1 to 16,777,216 rows")
        for name in (*_SIZES, *_RATES, *_TIMES):
            self._number(name)
        buffer = self.bytes("write_buffer")
        _require(
            buffer is not None and 4096 <= buffer <= 1 << 26, "write_buffer", self.write_buffer, "use 4 KiB to 64 MiB"
        )
        _require(self.seconds("ttl") != 0, "ttl", self.ttl, "must be more than 0")
        _require(
            self.rate("warm_to_cold") <= self.rate("hot_to_warm"),
            "warm_to_cold",
            self.warm_to_cold,
            f"must not exceed hot_to_warm={self.hot_to_warm!r}",
        )

    def bytes(self, name: str) -> int | None:
        """Return the setting ``name`` in bytes, or None where it is not set."""
        number = self._number(name)
        return None if number is None else int(number)

    def seconds(self, name: str) -> float | None:
        """Return the setting ``name`` in seconds, or None where it is not set."""
        return self._number(name)

    def rate(self, name: str) -> float:
        """Return the setting ``name`` in events per second."""
        return self._number(name) or 0.0

    def _number(self, name: str) -> float | None:
        value = getattr(self, name)
        if value is None and name in ("ttl", "memory_pool_bytes", "memory_per_record_bytes"):
            return None
        try:
            if name in _SIZES:
                return parse_bytes(value)
            return parse_rate(value) if name in _RATES else parse_seconds(value)
        except ValueError as error:
            raise SchemaError(f"Strategy({name}={value!r}): {error}") from None


def _require(holds: object, name: str, value: object, advice: str) -> None:
    if not holds:
        raise SchemaError(f"Strategy({name}={value!r}): {advice}")
