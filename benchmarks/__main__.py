"""``python -m benchmarks NAME [--quick] [--json FILE] [--only ROW,...] [--png FILE]``; without NAME, a list of them."""

from __future__ import annotations

import argparse
import asyncio
import io
import signal
import sys
from pathlib import Path

from benchmarks import chart, report, runner
from benchmarks.store import STORE
from benchmarks.tiers import TIERS

BENCHMARKS = {benchmark.name: benchmark for benchmark in (STORE, TIERS)}


def parser() -> argparse.ArgumentParser:
    """Return the command line's grammar."""
    found = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure warpstore beside its peers.")
    found.add_argument("name", nargs="?", choices=sorted(BENCHMARKS), help="the benchmark; none: list them")
    found.add_argument("--quick", action="store_true", help="fewer records, 3 trials")
    found.add_argument("--only", default="", metavar="ROW,...", help="rows to run, such as put,ycsb,column")
    found.add_argument("--json", type=Path, metavar="FILE", help="write the results; a folder gets a named file")
    found.add_argument("--png", type=Path, metavar="FILE", help="draw the results (needs matplotlib)")
    found.add_argument("--folder", type=Path, help="where to make the work folder: on the device to be measured")
    return found


def main() -> int:
    """Run the benchmark; return 1 if a contestant broke or answered wrongly, 2 for a wrong command line."""
    arguments = parser().parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that servers are stopped and files deleted
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # so that a run into a file can be followed
    if arguments.name is None:
        for benchmark in BENCHMARKS.values():
            print(f"{benchmark.name}: {benchmark.title}; rows: {', '.join(benchmark.rows)}")
        return 0
    benchmark = BENCHMARKS[arguments.name]
    only = [name for name in arguments.only.split(",") if name]
    try:
        runner.chosen(benchmark, only)
    except runner.UnknownRowError as error:
        print(error, file=sys.stderr)
        return 2
    sizes = runner.sizes_of(quick=arguments.quick)
    found = asyncio.run(runner.run(benchmark, sizes=sizes, only=only, folder=arguments.folder))
    report.print_targets(found["rows"], print)
    if arguments.json is not None:
        print(f"results: {report.write_json(found, arguments.json)}")
    if arguments.png is not None:
        chart.write_png(found, arguments.png)
        print(f"chart: {arguments.png}")
    failures = report.broken(found["rows"])
    for line in failures:
        print(f"failed: {line}", file=sys.stderr)
    print(f"{found['run']['seconds']:.1f} s in all")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
