"""Errors as a command line shows them: one line on stderr, and an exit code."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NoReturn

import typer

from warpstore.errors import (
    ConfigError,
    CorruptionError,
    OpenError,
    RowError,
    SchemaError,
    SchemaMismatchError,
    UsageError,
    ValidationError,
    WarpstoreError,
)

PROBLEM = 1
USAGE = 2
CANNOT_OPEN = 3


def exit_code(error: Exception) -> int:
    """Return the exit code for an error.

    Damage is a problem that was found, though it keeps a store from being opened; so is a file that does not fit.
    """
    if isinstance(error, RowError | SchemaMismatchError):
        return PROBLEM
    if isinstance(error, OpenError):
        return PROBLEM if isinstance(error, CorruptionError) else CANNOT_OPEN
    return USAGE if isinstance(error, UsageError | ValidationError | ConfigError | SchemaError) else PROBLEM


def fail(message: str, code: int) -> NoReturn:
    """End the command with one line on stderr."""
    typer.echo(f"warpstore: {' '.join(message.split())}", err=True)
    raise typer.Exit(code)


def reported(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that ends with a line and an exit code where ``command`` raises what a user can act on."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except WarpstoreError as e:
            fail(str(e), exit_code(e))
        except BrokenPipeError:
            raise  # whoever read stdout has enough; typer ends quietly
        except OSError as e:
            fail(str(e), PROBLEM)

    return run
