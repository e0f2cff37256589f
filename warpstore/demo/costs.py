"""What lives where, by annotation, and what it costs in RAM and on disk."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

import warpstore as ws
from warpstore.demo.data import Dataset
from warpstore.demo.models import MODELS
from warpstore.demo.report import Report, size
from warpstore.statistics import TableStatistics

N_SAMPLE = 500
WHERE = {
    "Memory": "hot tier, checkpoint",
    "Gpu": "column, checkpoint",
    "Disk": "blocks",
    "Temporal": "hot tier, checkpoint",
    "Auto": "hot tier, checkpoint",
    "Ephemeral": "RAM, in no file",
}


def resident_bytes() -> int:
    """Return the resident memory of this process in bytes, as the kernel counts it."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def tier_of(annotation: object) -> str:
    """Return the name of the marker that says where a field lives; a field without one is Auto.

    Example:
        >>> from typing import Annotated
        >>> import warpstore as ws
        >>> tier_of(Annotated[float, ws.Gpu(dtype="f4")]), tier_of(int)
        ('Gpu', 'Auto')
    """
    names = [type(marker).__name__ for marker in getattr(annotation, "__metadata__", ())]
    return next((name for name in names if name in WHERE), "Auto")


def tiers(models: Sequence[type[ws.Record]]) -> dict[str, dict[type[ws.Record], list[str]]]:
    """Return the fields of each tier by record type, in the order of ``WHERE``."""
    found: dict[str, dict[type[ws.Record], list[str]]] = {tier: defaultdict(list) for tier in WHERE}
    for model in models:
        for name, annotation in get_type_hints(model, include_extras=True).items():
            found[tier_of(annotation)][model].append(name)
    return found


async def show_costs(report: Report, store: ws.Store, path: Path, data: Dataset, ram_bytes: int) -> None:
    """Print what lives where, the files of the store, and the RAM that it took."""
    report.section("What lives where, and what it costs", "by annotation; bytes as encoded, estimated from a sample")
    sources = {type(records[0]): records for records in data.tables.values()}
    samples = {model: await _sample(store[model], records) for model, records in sources.items()}
    by_tier = []
    for tier, fields in tiers(MODELS).items():
        n_bytes = sum(_mean_bytes(samples[model], names) * len(sources[model]) for model, names in fields.items())
        named = "\n".join(f"{model.__name__}: {', '.join(names)}" for model, names in fields.items())
        by_tier.append((tier, WHERE[tier], named, "-" if tier == "Ephemeral" else size(n_bytes)))
    report.table("annotation", "lives in", "fields", "bytes", rows=by_tier, right=3, folds=2)

    statistics = store.statistics()
    report.table(
        "table", "checkpointed", "each", "in RAM", "columns", "ephemeral",
        rows=[_table_row(table) for table in statistics.tables], right=1,
    )  # fmt: skip

    in_use = {"checkpoint/": statistics.checkpoint_bytes, "log/": statistics.log_bytes}
    rows = [
        (kind, f"{n_files:,}", size(in_use.get(kind, n_bytes)), size(n_bytes))
        for kind, (n_files, n_bytes) in files_by_kind(path).items()
    ]
    report.table("on disk", "files", "in use", "allocated", rows=rows, right=1)
    n_records = sum(map(len, sources.values()))
    report.figure("disk per record, in the checkpoint", f"{statistics.checkpoint_bytes / n_records:.0f} B")
    report.figure("RAM per record, right after the load, all hot", f"{ram_bytes / n_records:.0f} B")


def _table_row(table: TableStatistics) -> tuple[str, ...]:
    columns = "-" if table.columns is None else f"{size(table.columns.bytes_total)} {table.columns_backend}"
    bytes_each = f"{table.checkpointed_bytes / table.n_checkpointed:.0f} B" if table.n_checkpointed else "-"
    return (
        table.name,
        f"{table.n_checkpointed:,}",
        bytes_each,
        f"{table.n_resident:,}",
        columns,
        f"{table.n_ephemeral:,}",
    )


async def _sample(table: ws.Table[Any], records: Sequence[ws.Record]) -> list[ws.Record]:
    """Return some stored records, evenly spaced in the source; what was deleted meanwhile is left out."""
    key = records[0].__struct_fields__[0]
    chosen = records[:: max(1, len(records) // N_SAMPLE)]
    found = await table.get_many([getattr(record, key) for record in chosen])
    return [record for record in found if record is not None]


def _mean_bytes(records: Sequence[ws.Record], names: Sequence[str]) -> float:
    """Return the encoded bytes of some fields, a record."""
    encode = msgspec.msgpack.encode
    return sum(len(encode(getattr(record, name))) for record in records for name in names) / len(records)


def files_by_kind(path: Path) -> dict[str, tuple[int, int]]:
    """Return how many files, and bytes on disk, each folder directly in a store holds, and the files beside them."""
    found: dict[str, tuple[int, int]] = {}
    for file in sorted(path.rglob("*")):
        if file.is_file():
            parts = file.relative_to(path).parts
            kind = f"{parts[0]}/" if len(parts) > 1 else "manifest, lock"
            n_files, n_bytes = found.get(kind, (0, 0))
            found[kind] = (n_files + 1, n_bytes + file.stat().st_blocks * 512)
    return found
