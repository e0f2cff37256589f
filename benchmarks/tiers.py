"""The tiers benchmark: what lies on disk and in RAM, reads from disk, the cap on RAM, and work in the background.

Every row measures in child processes. `cap` writes to a store that `cold-get` reads, so it comes after.
"""

from __future__ import annotations

from benchmarks.rows.arrow import arrow
from benchmarks.rows.background import background
from benchmarks.rows.backup import backup
from benchmarks.rows.cap import cap
from benchmarks.rows.cold_get import cold_get
from benchmarks.rows.disk_size import disk_size
from benchmarks.rows.wholly_disk import wholly_disk
from benchmarks.runner import Benchmark

TIERS = Benchmark(
    name="tiers",
    title="warpstore's tiers beside LMDB and RocksDB: size on disk, cold reads, the cap on RAM, backups, exports",
    rows={
        "disk-size": disk_size,
        "wholly-disk": wholly_disk,
        "cold-get": cold_get,
        "cap": cap,
        "background": background,
        "backup": backup,
        "arrow": arrow,
    },
    peers=("lmdb", "rocksdb"),
    in_process=False,
)
