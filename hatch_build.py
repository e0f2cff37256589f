"""Compiles warpstore's C sources while the package is built.

The extension module is put beside the Python modules, also for an editable installation. Needs a C compiler and the
headers of the Python that builds.
"""

from __future__ import annotations

import shlex
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGES = ["wal", "warpstore"]
FLAGS = ["-O3", "-DNDEBUG", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra"]


class NativeBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Makes the extension module ``_native`` of a package from its folder ``native/``."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        headers = sysconfig.get_path("include")
        if not (Path(headers) / "Python.h").is_file():
            raise SystemExit(f"warpstore: {headers} has no Python.h; install Python's development headers")
        compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")
        for package in PACKAGES:
            name = f"{package}/_native{sysconfig.get_config_var('EXT_SUFFIX')}"
            sources = map(str, sorted(Path(self.root, package, "native").glob("*.c")))
            command = [*compiler, *FLAGS, f"-I{headers}", *sources, "-o", str(Path(self.root, name))]
            try:
                subprocess.run(command, check=True)  # noqa: S603 - the compiler that Python itself was built with
            except (OSError, subprocess.CalledProcessError) as e:
                raise SystemExit(f"warpstore: the C sources could not be compiled, {e}; gcc or clang is needed") from e
            build_data["artifacts"].append(f"/{name}")
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
