"""``warpstore info``: what a store is and holds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from warpstore import manifest as manifests
from warpstore.cli.arguments import Json, StorePath
from warpstore.cli.output import print_json, print_table, size
from warpstore.cli.progress import progress
from warpstore.locking import Owner, owner_of
from warpstore.stored import StoredReader
from warpstore.stored_state import BlockCount, TableCount
from warpstore.verification import FILE_KINDS, file_use


def info(
    path: StorePath,
    *,
    json: Json = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not replay the log to count: only what the checkpoints hold.")
    ] = False,
) -> None:
    """Show what a store is and holds; also of a store in use. Writes nothing."""
    with StoredReader.open(path, lock=False) as stored:
        owner = owner_of(stored.files, stored.path)
        with progress("counting records", hidden=json):
            counts = {} if quick else stored.counts()
            blocks = stored.block_counts()
        facts = _facts(stored, owner, counts, blocks)
    if json:
        print_json(facts)
    else:
        _show(facts)


def _facts(
    stored: StoredReader, owner: Owner | None, counts: dict[str, TableCount], blocks: dict[int, BlockCount]
) -> dict[str, Any]:
    manifest, layout = stored.manifest, stored.layout
    uses = [file_use(stored, kind) for kind in FILE_KINDS]
    return {
        "path": stored.path,
        "store_id": manifest.store_id,
        "format_version": manifests.FORMAT_VERSION,
        "in_use": owner is not None,
        "pid": None if owner is None else owner.pid,
        "clean": stored.is_clean and owner is None,
        "epoch": manifest.epoch,
        "shards": [
            {
                "shard": shard,
                "checkpoint": entry.name or None,
                "lsn": entry.lsn,
                "blocks": _blocks(blocks[shard]) if shard in blocks else None,
            }
            for shard, entry in enumerate(manifest.shards)
        ],
        "lanes": [
            {"lane": lane, "directory": layout.lane_directory(lane), "first_segment": entry.first}
            for lane, entry in enumerate(manifest.lanes)
        ],
        "rollback": None if manifest.rollback is None else {"kept_at_ms": manifest.rollback.kept_at_ms},
        "tables": [_table(stored, name, counts.get(name)) for name in stored.user_tables],
        "series": _series(stored),
        "files": {use.kind: {"files": use.n_files, "bytes": use.n_bytes} for use in uses},
        "bytes": sum(use.n_bytes for use in uses),
    }


def _blocks(count: BlockCount) -> dict[str, Any]:
    return {
        "files": count.files,
        "bytes": count.n_bytes,
        "part_bytes": count.part_bytes,
        "live_bytes": count.live_bytes,
        "useless": round(count.useless, 4),
    }


def _series(stored: StoredReader) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for entry in stored.manifest.series:
        tier = found.setdefault(
            entry.tier, {"folder": stored.layout.series_folder(entry.tier), "files": 0, "bytes": 0, "items": 0}
        )
        tier["files"] += 1
        tier["bytes"] += entry.n_bytes
        tier["items"] += sum(part.n_items for part in entry.ranges)
    return found


def _table(stored: StoredReader, name: str, count: TableCount | None) -> dict[str, Any]:
    table = stored.tables[name]
    return {
        "name": name,
        "key": {"field": table.key_field, "type": table.schema.key_kind},
        "fields": {field.name: field.type for field in table.schema.fields},
        "ephemeral": [field.name for field in table.schema.ephemeral],
        "schema_versions": len(table.schemas),
        "records": None if count is None else count.records,
        "expiring": None if count is None else count.expiring,
        "checkpointed": None if count is None else count.checkpointed,
        "checkpointed_bytes": None if count is None else count.checkpointed_bytes,
        "changed_in_log": None if count is None else count.changed,
    }


def _show(facts: dict[str, Any]) -> None:
    state = "closed cleanly" if facts["clean"] else "not closed cleanly: opening it replays its log"
    if facts["in_use"]:
        state = f"in use by process {facts['pid'] or 'unknown'}"
    typer.echo(f"{facts['path']}: {state}")
    typer.echo(
        f"format {facts['format_version']}, store {facts['store_id']}, opened {facts['epoch']} times, "
        f"{len(facts['shards'])} shards, {len(facts['lanes'])} lanes, {size(facts['bytes'])}\n"
    )
    if facts["rollback"] is not None:
        kept_at = datetime.fromtimestamp(facts["rollback"]["kept_at_ms"] / 1000, UTC)
        typer.echo(f"migrated {kept_at:%Y-%m-%d %H:%M} UTC; the state before is kept: see warpstore rollback\n")
    unknown = "?"
    print_table(
        ("table", "key", "fields", "schemas", "records", "expiring", "in checkpoints", "changed in log"),
        [
            (
                table["name"],
                f"{table['key']['field']}: {table['key']['type']}",
                len(table["fields"]),
                table["schema_versions"],
                *(
                    unknown if table[name] is None else table[name]
                    for name in ("records", "expiring", "checkpointed", "changed_in_log")
                ),
            )
            for table in facts["tables"]
        ],
    )
    typer.echo("")
    print_table(
        ("files", "number", "size"), [(k, use["files"], size(use["bytes"])) for k, use in facts["files"].items()]
    )
    if facts["series"]:
        typer.echo("")
        print_table(
            ("items of series", "files", "size", "items", "folder"),
            [(t, use["files"], size(use["bytes"]), use["items"], use["folder"]) for t, use in facts["series"].items()],
        )
    blocks = [(str(shard["shard"]), shard["blocks"]) for shard in facts["shards"]]
    if any(use and use["files"] for _, use in blocks):
        typer.echo("")
        print_table(
            ("shard", "block files", "size", "useless"),
            [(shard, use["files"], size(use["bytes"]), f"{use['useless']:.1%}") for shard, use in blocks if use],
        )
