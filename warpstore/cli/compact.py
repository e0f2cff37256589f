"""``warpstore compact``: a checkpoint, which drops what was replaced, deleted or has expired, and the log before it."""

from __future__ import annotations

import asyncio

import typer

from warpstore.cli.arguments import Json, StorePath
from warpstore.cli.output import print_json, print_table, size
from warpstore.cli.progress import progress
from warpstore.store import open as open_store
from warpstore.stored import StoredReader
from warpstore.verification import FILE_KINDS, FileUse, file_use


def compact(path: StorePath, *, json: Json = False) -> None:
    """Let go of what was replaced, deleted or has expired: opens the store, writes a checkpoint, closes it.

    Opening makes a new log segment, so a store of a few MiB may have more bytes afterwards.
    """
    with StoredReader.open(path, lock=True) as stored:  # so that a path without a store does not get one
        before = _uses(stored)
    with progress("compacting", hidden=json):
        asyncio.run(_checkpoint(stored.path))
    with StoredReader.open(path, lock=False) as stored:
        after = _uses(stored)
    total = sum(use.n_bytes for use in before), sum(use.n_bytes for use in after)
    if json:
        files = {
            a.kind: {"bytes_before": b.n_bytes, "bytes_after": a.n_bytes} for b, a in zip(before, after, strict=True)
        }
        print_json({"path": stored.path, "bytes_before": total[0], "bytes_after": total[1], "files": files})
        return
    rows = [(a.kind, size(b.n_bytes), size(a.n_bytes)) for b, a in zip(before, after, strict=True)]
    print_table(("files", "before", "after"), [*rows, ("all", size(total[0]), size(total[1]))])
    typer.echo(f"{stored.path}: compacted")


def _uses(stored: StoredReader) -> list[FileUse]:
    return [file_use(stored, kind) for kind in FILE_KINDS]


async def _checkpoint(path: str) -> None:
    async with open_store(path) as store:
        await store.checkpoint()
