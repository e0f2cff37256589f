"""``python -m warpstore.demo``: runs all steps in order and ends with 0 if every check held, 1 if one failed.

The folder given with ``--path`` receives two stores and the chart. It is emptied at the next run, so it must be new,
empty, or a folder of the demo's own, which a marker file says.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from warpstore.demo.errors import CannotRunError

QUICK_FLIGHTS = 60_000


def main(arguments: list[str] | None = None) -> int:
    """Run the demo and return its exit code: 0, 1 after a failed check, 2 if it cannot run here."""
    parser = argparse.ArgumentParser(prog="python -m warpstore.demo", description="warpstore on a year of flights.")
    parser.add_argument(
        "--path", type=Path, default=Path("demo_data"), help="folder for its files (default: %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help=f"only the first {QUICK_FLIGHTS:,} flights")
    options = parser.parse_args(arguments)
    try:
        from warpstore.demo.run import run

        return asyncio.run(run(options.path, QUICK_FLIGHTS if options.quick else None))
    except ModuleNotFoundError as missing:
        reason = f"{missing.name} is not installed: pip install 'warpstore[demo]'"
    except CannotRunError as error:
        reason = str(error)
    print(f"demo: {reason}", file=sys.stderr)  # noqa: T201 rich may be what is missing
    return 2


if __name__ == "__main__":
    sys.exit(main())
