"""``warpstore backup``: a copy of a store that `restore` makes a store of; the second one copies only what is new."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from warpstore.backup.format import BackupResult
from warpstore.cli.arguments import Json, StorePath
from warpstore.cli.output import print_json, size
from warpstore.cli.progress import reached
from warpstore.store import open as open_store
from warpstore.stored import StoredReader


def backup(
    path: StorePath,
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="A folder outside the store.", show_default=False)],
    *,
    json: Json = False,
) -> None:
    """Copy a store into a folder that does not exist, is empty, or holds a backup of this store.

    A backup there is brought up to date: only files that are new are copied, and it stays whole until the new one is.
    The store is opened for it, as by compact; a program that has it open makes its backups itself.
    """
    with StoredReader.open(path, lock=True) as stored:  # so that a path without a store does not get one
        pass
    with reached("copying", hidden=json) as reach:
        result = asyncio.run(_back_up(stored.path, os.path.abspath(target), reach))
    if json:
        facts = {**msgspec.structs.asdict(result), "path": stored.path, "target": result.path}
        print_json(facts)
    else:
        copied = f"{result.n_copied:,} copied, {size(result.copied_bytes)}"
        typer.echo(f"{result.path}: {result.n_files:,} files, {size(result.n_bytes)} ({copied})")


async def _back_up(path: str, target: str, reach: Callable[[int, int], object]) -> BackupResult:
    async with open_store(path) as store:
        return await store.backup(target, reach)
