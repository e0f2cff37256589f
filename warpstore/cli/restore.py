"""``warpstore restore``: a store made of a backup."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from warpstore.backup import restore as restore_backup
from warpstore.cli.arguments import Json
from warpstore.cli.output import print_json, size
from warpstore.cli.progress import reached


def restore(
    source: Annotated[Path, typer.Argument(metavar="BACKUP", help="The folder of a backup.", show_default=False)],
    target: Annotated[Path, typer.Argument(metavar="PATH", help="Where the store shall be.", show_default=False)],
    *,
    json: Json = False,
) -> None:
    """Make a store of a backup, in a folder that does not exist or is empty. Nothing is ever replaced.

    The store holds what the original held when the backup was made. An interrupted restore is begun again.
    """
    with reached("copying", hidden=json) as reach:
        result = restore_backup(source, target, progress=reach)
    if json:
        print_json({**msgspec.structs.asdict(result), "backup": str(source.absolute())})
    else:
        typer.echo(f"{result.path}: restored, {result.n_files:,} files, {size(result.n_bytes)}")
