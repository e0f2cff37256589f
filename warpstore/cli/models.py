"""``--models``: record classes named on the command line, imported as Python would from the current folder."""

from __future__ import annotations

import importlib
import os
import sys
from functools import reduce
from typing import Annotated, Any

import typer

from warpstore.cli.failures import USAGE, fail
from warpstore.plan import nearest
from warpstore.record import Record, plan_of

MODELS_HELP = "The record classes: package.module:Class,Other; found from the current folder as well."

Models = Annotated[str, typer.Option("--models", help=MODELS_HELP, show_default=False)]
ModelsOrNone = Annotated[str | None, typer.Option("--models", help=MODELS_HELP, show_default=False)]


def model_of(table: str, models: str) -> type[Record]:
    """Return the class among those named whose table this is.

    Args:
        table: The table's name.
        models: ``package.module:Class``, several with commas between; a name without a module is of the one before.

    Raises:
        typer.Exit: with code 2: one cannot be imported, or none has this table.
        UsageError: one is no record class.
    """
    classes = {plan_of(model).table: model for model in models_of(models)}
    if table not in classes:
        hint = nearest(table, classes) or f"; they have {'; '.join(classes)}"
        fail(f"--models: no class has the table {table!r}{hint}", USAGE)
    return classes[table]


def models_of(models: str) -> list[type[Record]]:
    """Return the classes named, in their order; the argument and what is raised are those of `model_of`."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    module = ""
    classes: list[type[Record]] = []
    for item in models.split(","):
        named, colon, name = item.strip().rpartition(":")
        module = named if colon else module
        if not module or not name:
            fail(f"--models: {item.strip()!r}: expected package.module:Class", USAGE)
        found = _imported(module, name)
        plan_of(found)
        classes.append(found)
    return classes


def _imported(module: str, name: str) -> Any:
    try:
        return reduce(getattr, name.split("."), importlib.import_module(module))
    except Exception as e:  # noqa: BLE001 - the module is the user's, and may raise anything
        fail(f"--models: {module}:{name} cannot be imported: {type(e).__name__}: {e}", USAGE)
