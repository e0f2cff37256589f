"""Sabotage: each safeguard is taken out, one at a time, and some test must then fail.

    python -m tests.sabotage             all sites; ends with 1 if one of them is missed by nobody
    python -m tests.sabotage --list      the sites, without running anything
    python -m tests.sabotage --only 3,7  some of them

The sites are found in the code, so a new one is covered the day it is written: every sync of a file or a directory,
every comparison of a checksum, every lock. Of each, a copy of the project is made in which a sync does nothing, a
checksum always agrees, a lock is always free; then the tests run in the copy until the first fails.
"""

from __future__ import annotations

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("wal", "warpstore")
SYNCS = frozenset({"sync", "sync_directory", "fsync", "fdatasync"})
LOCKS = frozenset({"flock"})
CHECKSUM = ("crc", "checksum", "xxh3")
NOT_SAFEGUARDS = frozenset({"warpstore/synchronous.py", "warpstore/store.py", "warpstore/demo"})
"""Their ``sync`` is the user's call of that name, not one on a file."""
TESTS = ("tests/unit/test_wal_files.py", "tests/crash", "tests/property", "tests/unit")
TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class Site:
    """A safeguard in the code.

    Attributes:
        path: The file, relative to the project.
        line: Its line, from 1.
        what: "sync", "checksum" or "lock".
        start: Offset in the file where the expression begins, in characters.
        end: Where it ends.
        instead: What stands there in the copy.
    """

    path: str
    line: int
    what: str
    start: int
    end: int
    instead: str

    def source(self) -> str:
        """Return the expression as it is."""
        return (ROOT / self.path).read_text("utf-8")[self.start : self.end]


def sites() -> list[Site]:
    """Return all safeguards, in the order of files and lines."""
    found: list[Site] = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if not any(name.startswith(other) for other in NOT_SAFEGUARDS):
                found += _sites_of(name, path.read_text("utf-8"))
    return found


def _sites_of(name: str, text: str) -> Iterator[Site]:
    lines = [0]
    for line in text.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    for node in ast.walk(ast.parse(text)):
        found = _safeguard(node)
        if found is not None:
            start = lines[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
            end = lines[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
            yield Site(name, node.lineno, *found[:1], start, end, found[1])  # type: ignore[attr-defined]


def _safeguard(node: ast.AST) -> tuple[str, str] | None:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr in SYNCS:
            return "sync", "None"
        if node.func.attr in LOCKS and "LOCK_UN" not in ast.unparse(node):
            return "lock", "None"
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ast.Eq | ast.NotEq):
        names = ast.unparse(node).lower()
        if any(word in names for word in CHECKSUM):
            return "checksum", str(isinstance(node.ops[0], ast.Eq))
    return None


def is_caught(site: Site) -> tuple[bool, str]:
    """Return whether a test fails without the safeguard, and its last line of output."""
    with tempfile.TemporaryDirectory(prefix="sabotage-") as folder:
        copy = Path(folder, "project")
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "results"))
        target = copy / site.path
        text = target.read_text("utf-8")
        target.write_text(text[: site.start] + site.instead + text[site.end :], "utf-8")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=no", "--show-capture=no"]
        command += ["-p", "no:cacheprovider", "-n", "auto", "-m", "not slow", *TESTS]
        environment = os.environ | {"PYTHONPATH": str(copy), "CI": "true"}
        try:
            done = subprocess.run(
                command, cwd=copy, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return True, "the tests hang"
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return done.returncode == 1, failed[0][:110] if failed else done.stdout.strip().splitlines()[-1]


def main() -> int:
    """Run what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.sabotage", description=__doc__.partition("\n")[0])
    parser.add_argument("--list", action="store_true", help="name the sites and stop")
    parser.add_argument("--only", metavar="N,...", help="numbers of the sites, as --list names them")
    options = parser.parse_args()
    chosen = None if options.only is None else {int(number) for number in options.only.split(",")}
    missed = 0
    for number, site in enumerate(sites()):
        if chosen is not None and number not in chosen:
            continue
        print(f"{number:3} {site.what:8} {site.path}:{site.line}  {' '.join(site.source().split())}", flush=True)
        if not options.list:
            caught, how = is_caught(site)
            missed += not caught
            print(f"    {'caught' if caught else 'MISSED'}: {how}", flush=True)
    if not options.list:
        print(f"{missed} missed")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
