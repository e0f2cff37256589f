"""The store benchmark: single calls, batches and mixes beside the peers, reopening, memory, stalls.

Rows that read come before those that change the loaded stores (put-many writes the values that are there, YCSB others).
"""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.row import Row
from benchmarks.rows.column import column
from benchmarks.rows.durable import durable_1, durable_64
from benchmarks.rows.footprint import footprint
from benchmarks.rows.markers import markers
from benchmarks.rows.mixed import ycsb_row
from benchmarks.rows.reads import get_fields, get_many, get_uniform, get_zipfian, scan
from benchmarks.rows.reopen import reopen
from benchmarks.rows.stall import stall
from benchmarks.rows.writes import load, put, put_many
from benchmarks.runner import Benchmark, RowFunction


def ycsb(workload: str, n_clients: int) -> RowFunction:
    """Return the row function of a YCSB workload."""

    async def run(bench: Bench) -> Row:
        return await ycsb_row(bench, workload, n_clients)

    return run


STORE = Benchmark(
    name="store",
    title="warpstore beside dict, LMDB, LevelDB, RocksDB, SQLite, aiosqlite, diskcache and Redis",
    rows={
        "put": put,
        "durable-1": durable_1,
        "durable-64": durable_64,
        "load": load,
        "get-uniform": get_uniform,
        "get-zipfian": get_zipfian,
        "get-many": get_many,
        "get-fields": get_fields,
        "scan": scan,
        "put-many": put_many,
        **{f"ycsb-{workload.lower()}-{n}": ycsb(workload, n) for workload in "ABCF" for n in (1, 16)},
        "column": column,
        "reopen": reopen,
        "memory": footprint,
        "stall": stall,
        "markers": markers,
    },
)
