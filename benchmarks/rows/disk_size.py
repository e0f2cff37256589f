"""Bytes on disk: of profiles, most of whose fields are `Disk`, beside LMDB and compacted RocksDB with lz4.

All that the files take on the device counts, as the store leaves them after a checkpoint and a clean close: log
segments, the manifest, and what was allocated in advance too. The log does not grow with the data, so the figure
without it is shown as well.
"""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.kinds import KINDS
from benchmarks.measure import disk_bytes
from benchmarks.row import OURS, Row, Verdict
from benchmarks.rows.made import made_all, parts, present


async def disk_size(bench: Bench) -> Row:
    """Bytes on disk per profile."""
    n = bench.sizes.n_disk
    encoded = KINDS["Profile"].encoded_bytes(n)
    title = f"{n:,} profiles of {encoded:.0f} encoded bytes, 4 of 7 fields Disk: on disk after a clean close"
    row = Row("disk-size", title, "B/record")
    names = present(bench, ("warpstore", "lmdb", "rocksdb"))
    folders, failures = await made_all(bench, list(names), "Profile")
    for module, error in failures.items():
        row.figures[names[module]] = {"error": str(error)}
    each: dict[str, float] = {}
    for module, folder in folders.items():
        name = names[module]
        each[name] = disk_bytes(folder) / n
        row.figures[name] = {"disk": each[name]}
        if module == "warpstore":
            found = parts(folder)
            row.figures[name] |= {
                "without log": (found["all"] - found.get("log", 0)) / n,
                "checkpoints": found.get("checkpoint", 0) / n,
                "block files": found.get("blocks", 0) / n,
            }
    ours = each.get(OURS)
    for peer, bound, text in (
        ("LMDB", 0.75, "bytes over LMDB's"),
        ("RocksDB", 1.1, "bytes over RocksDB's, lz4, compacted"),
    ):
        ratio = ours / each[peer] if ours is not None and peer in each else None
        row.verdicts.append(Verdict(text, ratio, bound, at_most=True))
    if OURS in each and "RocksDB" in each:
        ratio = float(row.figures[OURS]["without log"]) / each["RocksDB"]
        row.verdicts.append(Verdict("the same, our log left out", ratio, 1.1, at_most=True))
    row.remarks.append("unless they say else, targets are for all files, log segments allocated in advance included")
    return row
