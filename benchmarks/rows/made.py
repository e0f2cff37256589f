"""The stores that rows of the tiers benchmark read: made by the first row that wants one, kept for the others.

A store is loaded in batches in random key order, checkpointed or compacted, and closed cleanly. The row that writes to
such a store comes last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench
from benchmarks.child import ChildFailedError, run_child
from benchmarks.drive import put_batch
from benchmarks.kinds import KINDS
from benchmarks.measure import disk_bytes
from benchmarks.peers.peer import SyncStore, close_store, load_peer, settle_store


async def make_job(module: str, kind: str, folder: str, n: int) -> dict[str, Any]:
    """Make a store of ``n`` records."""
    records = KINDS[kind]
    store = await records.open(module, Path(folder))
    for chunk in records.chunks(module, n):
        await put_batch(store, chunk)
    await settle_store(store)
    if isinstance(store, SyncStore):
        store.compact()
    elif store.checkpoint is not None:
        await store.checkpoint()
    await close_store(store)
    return {}


def present(bench: Bench, modules: Sequence[str]) -> dict[str, str]:
    """Return module to display name of the contestants that take part in this run."""
    names = {module: load_peer(module).name for module in modules if module not in bench.missing}
    installed = {peer.name for peer in bench.found.peers}
    return {module: name for module, name in names.items() if name in installed}


async def made(bench: Bench, module: str, kind: str) -> Path:
    """Return the folder of a contestant's store of ``n_disk`` records of a kind.

    Raises:
        ChildFailedError: it could not be made, now or before.
    """
    folder = bench.folder / f"made-{module}-{kind}"
    outcome = bench.made.get((module, kind))
    if outcome is None:
        arguments = {"module": module, "kind": kind, "folder": str(folder), "n": bench.sizes.n_disk}
        try:
            await run_child("make", arguments, bench.folder)
            outcome = folder
        except ChildFailedError as error:
            outcome = error
        bench.made[module, kind] = outcome
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


async def made_all(
    bench: Bench, modules: Sequence[str], kind: str
) -> tuple[dict[str, Path], dict[str, ChildFailedError]]:
    """Return the folders of several contestants' stores by module, and why others have none."""
    outcomes = await asyncio.gather(*(made(bench, module, kind) for module in modules), return_exceptions=True)
    folders: dict[str, Path] = {}
    failures: dict[str, ChildFailedError] = {}
    for module, outcome in zip(modules, outcomes, strict=True):
        if isinstance(outcome, ChildFailedError):
            failures[module] = outcome
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            folders[module] = outcome
    return folders, failures


def parts(folder: Path) -> dict[str, int]:
    """Return what the folders inside warpstore's folder take on the device, and all of it together."""
    root = folder / "store"
    sizes = {path.name: disk_bytes(path) for path in root.iterdir() if path.is_dir()}
    return {**sizes, "all": disk_bytes(folder)}
