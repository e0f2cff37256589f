"""Where the script ``warpstore`` enters: it says what to install where the extra is missing."""

from __future__ import annotations

import sys

EXTRA = frozenset({"typer", "rich"})


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: The command line without the program's name; None: that of this process.
    """
    try:
        from warpstore.cli.app import app
    except ModuleNotFoundError as missing:
        name = (missing.name or "").partition(".")[0]
        if name not in EXTRA:
            raise
        print(f"warpstore: {name} is not installed: pip install 'warpstore[cli]'", file=sys.stderr)
        return 2
    try:
        app(arguments, prog_name="warpstore")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
