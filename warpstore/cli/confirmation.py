"""Asks before something is destroyed: the name of what goes has to be typed, or ``--yes`` given."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from warpstore.cli.failures import PROBLEM, USAGE, fail

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before something is destroyed.")]


def confirm(what: str, name: str, *, yes: bool) -> None:
    """Return if the user wants it.

    Args:
        what: What would happen, a sentence without its full stop.
        name: What has to be typed.
        yes: Whether ``--yes`` was given.

    Raises:
        typer.Exit: with code 2 where nobody can be asked, with 1 if something else was typed; nothing was done.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        fail(f"{what}; nobody can be asked here: give --yes", USAGE)
    typed = typer.prompt(f"{what}. Type {name!r} to go on", default="", show_default=False, err=True)
    if typed != name:
        fail("not confirmed; nothing was done", PROBLEM)
