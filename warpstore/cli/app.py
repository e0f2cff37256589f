"""The commands, in the order of the help text. A new one is its module and its line here."""

from __future__ import annotations

from collections.abc import Callable

import typer

from warpstore.cli.backup import backup
from warpstore.cli.check import check
from warpstore.cli.compact import compact
from warpstore.cli.demo import demo
from warpstore.cli.dump import dump
from warpstore.cli.export import export
from warpstore.cli.failures import reported
from warpstore.cli.get import get
from warpstore.cli.import_ import import_
from warpstore.cli.info import info
from warpstore.cli.migrate import migrate, rollback
from warpstore.cli.restore import restore

COMMANDS: tuple[Callable[..., None], ...] = (
    info,
    check,
    dump,
    get,
    export,
    import_,
    compact,
    migrate,
    rollback,
    backup,
    restore,
    demo,
)

EPILOG = (
    "Exit codes: 0 done; 1 a problem was found, or the operation failed; 2 the command line is wrong; "
    "3 the store is in use, or cannot be opened."
)

app = typer.Typer(
    name="warpstore",
    help="Look at warpstore stores, and look after them.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in COMMANDS:
    app.command(command.__name__.rstrip("_"), epilog=EPILOG)(reported(command))
