"""What a figure was measured on: commit, machine, versions, and the settings of every contestant.

`header` is the first line that a run prints and the first key of its results.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.row import Sizes

PACKAGES = (
    "msgspec",
    "numpy",
    "google-crc32c",
    "xxhash",
    "lz4",
    "lmdb",
    "plyvel",
    "rocksdict",
    "aiosqlite",
    "diskcache",
    "redis",
    "hiredis",
)
ROOT = Path(__file__).resolve().parent.parent


def commit() -> str:
    """Return the short commit of the working tree, with ``-dirty`` if it differs from it; ``none`` without one."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        short = git("rev-parse", "--short=10", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
    except (OSError, subprocess.CalledProcessError):
        return "none"
    return f"{short}-dirty" if changed else short


def filesystem(folder: Path) -> str:
    """Return device and type of the file system that holds ``folder``, from ``/proc/mounts``."""
    best = ("", "unknown")
    real = os.path.realpath(folder)
    for line in Path("/proc/mounts").read_text().splitlines():
        device, mount, kind = line.split()[:3]
        if (real == mount or real.startswith(mount.rstrip("/") + "/")) and len(mount) >= len(best[0]):
            best = (mount, f"{kind} on {device}")
    return best[1]


def machine(folder: Path) -> dict[str, Any]:
    """Return CPU, cores, RAM, kernel and file system."""
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    total = re.search(r"^MemTotal:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return {
        "cpu": model.group(1) if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "ram_gib": round(int(total.group(1)) / (1 << 20), 1) if total else None,
        "kernel": platform.release(),
        "filesystem": filesystem(folder),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def header(
    benchmark: str, sizes: Sizes, settings: dict[str, dict[str, Any]], missing: dict[str, str], folder: Path
) -> dict[str, Any]:
    """Return the report's first part; its ``line`` is the first line printed."""
    found: dict[str, Any] = {
        "commit": commit(),
        "machine": machine(folder),
        "benchmark": benchmark,
        "versions": versions(),
        "sizes": asdict(sizes),
        "settings": settings,
        "missing": missing,
    }
    return {"line": json.dumps(found, default=str), **found}
