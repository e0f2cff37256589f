"""``warpstore demo``: runs `warpstore.demo`."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from warpstore.cli.arguments import Json
from warpstore.cli.output import print_json
from warpstore.demo.__main__ import main as run_demo


def demo(
    *,
    path: Annotated[Path, typer.Option("--path", help="The folder for its files; the next run empties it.")] = Path(
        "demo_data"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="Only the first 60,000 flights.")] = False,
    json: Json = False,
) -> None:
    """Run the demo: a year of flights stored, a writer killed, everything acknowledged found again.

    Ends with 1 if a check failed, and with 2 if it cannot run here. With --json its report goes to stderr.
    """
    arguments = ["--path", str(path), *(["--quick"] if quick else [])]
    if not json:
        raise typer.Exit(run_demo(arguments))
    with contextlib.redirect_stdout(sys.stderr):
        code = run_demo(arguments)
    print_json({"path": os.path.abspath(path), "ok": code == 0, "exit_code": code})
    raise typer.Exit(code)
