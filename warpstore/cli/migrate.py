"""``warpstore migrate`` and ``warpstore rollback``: all records under today's schemas, and the way back."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated

import msgspec
import typer

from warpstore.cli.arguments import Json, StorePath
from warpstore.cli.confirmation import Yes, confirm
from warpstore.cli.models import Models, models_of
from warpstore.cli.output import print_json
from warpstore.cli.progress import progress
from warpstore.errors import ConfigError
from warpstore.migration import MigrationReport
from warpstore.migration import migrate as migrate_store
from warpstore.migration_plan import MigrationPlan, migration_plan
from warpstore.record import Record
from warpstore.rollback import forget_rollback, roll_back
from warpstore.stored import StoredReader


def migrate(
    path: StorePath,
    *,
    models: Models,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the plan; nothing is changed.")] = False,
    no_rollback: Annotated[
        bool, typer.Option("--no-rollback", help="Do not keep the state before; it cannot be restored then.")
    ] = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Print what would change, ask, and write every record again under the schema that its type has today."""
    types = models_of(models)
    with StoredReader.open(path, lock=True) as stored:
        where = stored.path
    plan = migration_plan(where, types)
    report: MigrationReport | None = None
    if not json:
        typer.echo(plan.text())
    if plan.is_needed and not dry_run:
        if json and not yes:
            typer.echo(plan.text(), err=True)
        lossy = "" if plan.is_lossless else "; stored values are lost or rounded"
        confirm(f"{where}: {plan.n_records:,} records would be written again{lossy}", _name(where), yes=yes)
        report = _migrated(where, types, plan, keep=not no_rollback, hidden=json)
    if json:
        done = None if report is None else msgspec.to_builtins(report)
        print_json({"path": where, "plan": plan.to_dict(), "report": done})
    elif report is not None:
        kept = "the state before is kept: warpstore rollback" if report.has_rollback else "there is no way back"
        typer.echo(f"{where}: migrated, {report.n_rewritten:,} records written again; {kept}")


def rollback(
    path: StorePath,
    *,
    discard_writes: Annotated[
        bool, typer.Option("--discard-writes", help="Go back though the store was written to since, and lose that.")
    ] = False,
    forget: Annotated[
        bool, typer.Option("--forget", help="Do not go back: remove what is kept for it, and free its space.")
    ] = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Restore the state before the last migration, or remove what is kept of it."""
    if forget and discard_writes:
        raise ConfigError("--forget and --discard-writes exclude each other", setting="forget")
    with StoredReader.open(path, lock=True) as stored:
        where = stored.path
        is_kept = stored.manifest.rollback is not None
    if is_kept:
        what = "the state before the migration would be removed" if forget else "the migration would be undone"
        lossy = ", and what was written since lost" if discard_writes else ""
        confirm(f"{where}: {what}{lossy}", _name(where), yes=yes)
    if forget:
        done = forget_rollback(where)
    else:
        roll_back(where, discard_writes=discard_writes)
        done = True
    if json:
        print_json({"path": where, "rolled_back": not forget, "forgotten": forget and done})
    elif forget:
        typer.echo(f"{where}: {'removed what was kept' if done else 'nothing was kept'}")
    else:
        typer.echo(f"{where}: rolled back")


def _name(path: str) -> str:
    return os.path.basename(path)


def _migrated(
    path: str, types: list[type[Record]], plan: MigrationPlan, *, keep: bool, hidden: bool
) -> MigrationReport:
    n_told = 0
    with progress("migrating", hidden=hidden) as advance:

        def tell(done: int, total: int) -> None:  # noqa: ARG001 - the total holds what is only copied, too
            nonlocal n_told
            advance(done - n_told)
            n_told = done

        return asyncio.run(migrate_store(path, types, plan=plan, keep=keep, progress=tell))
