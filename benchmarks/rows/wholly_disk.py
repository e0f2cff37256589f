"""What a record costs whose fields are all `Disk`: bytes of RAM after an open, bytes of index on disk.

RAM is anonymous memory after the open of a clean store and one get, above that of the same process with an empty
store. Index is all of the checkpoint files, which hold each record's key, its place and what finds it, less the encoded
keys; the data, in the block files, is shown beside it.
"""

from __future__ import annotations

import asyncio
import statistics

from benchmarks.bench import Bench
from benchmarks.child import ChildFailedError
from benchmarks.kinds import KINDS, numbers
from benchmarks.row import OURS, Row, Verdict
from benchmarks.rows.made import made, parts, present
from benchmarks.rows.reopen import Opening, reopened

MODULE = "warpstore"
KIND = "Note"


async def wholly_disk(bench: Bench) -> Row:
    """RAM and index per record of a table whose fields are all `Disk`."""
    n, work = bench.sizes.n_disk, bench.folder
    row = Row("wholly-disk", f"{n:,} records with all fields Disk", "B/record")
    if not present(bench, [MODULE]):
        row.remarks.append("not run: warpstore is missing")
        return row
    kind = KINDS[KIND]
    key_bytes = len(kind.codec.encode(kind.numbered(0).id))
    try:
        folder = await made(bench, MODULE, KIND)
    except ChildFailedError as error:
        row.figures[OURS] = {"error": str(error)}
        return row
    found = parts(folder)
    index = found.get("checkpoint", 0) / n - key_bytes
    anonymous: list[float] = []
    for trial in range(min(3, bench.sizes.n_trials)):
        empty = work / f"empty-{KIND}-{trial}"
        empty.mkdir()
        openings = [
            Opening("empty", MODULE, empty, [], kind=KIND),
            Opening("full", MODULE, folder, numbers(n, 1, seed=trial), kind=KIND),
        ]
        used = await asyncio.to_thread(reopened, openings, work)
        both = used["full"], used["empty"]
        failures = [one for one in both if isinstance(one, ChildFailedError)]
        if failures:
            row.figures[OURS] = {"error": str(failures[0])}
            return row
        full_bytes, empty_bytes = (one["anonymous"] for one in both if not isinstance(one, ChildFailedError))
        anonymous.append((full_bytes - empty_bytes) / n)
    row.figures[OURS] = {
        "anonymous after open": statistics.median(anonymous),
        "index on disk": index,
        "keys": key_bytes,
        "checkpoints": found.get("checkpoint", 0) / n,
        "block files": found.get("blocks", 0) / n,
        "log": found.get("log", 0) / n,
    }
    row.verdicts = [
        Verdict("anonymous memory after open and one get", statistics.median(anonymous), 4, at_most=True, unit="B"),
        Verdict("index on disk beside keys and data", index, 24, at_most=True, unit="B"),
    ]
    return row
