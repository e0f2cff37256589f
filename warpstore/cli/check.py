"""``warpstore check``: whether every byte of a store is what was written."""

from __future__ import annotations

import os
from typing import Any

import typer

from warpstore.cli.arguments import Json, Live, StorePath
from warpstore.cli.failures import PROBLEM
from warpstore.cli.output import print_json, print_table, size
from warpstore.cli.progress import progress
from warpstore.errors import CorruptionError
from warpstore.stored import StoredReader
from warpstore.verification import FILE_KINDS, Finding, KindReport, file_use, manifest_finding, verify

LISTED_MAX = 10_000
"""Findings that are listed; more are only counted."""


def check(path: StorePath, *, json: Json = False, live: Live = False) -> None:
    """Verify every checksum and cross reference of a store. Writes nothing.

    Names each defect by file and offset, and ends with 1 if there is any. A torn tail is none: it is what a crash
    leaves, and opening cuts it off. With --live, files that the store's owner is writing (the log) are left out.
    """
    listing = _Listing(show=not json)
    try:
        with StoredReader.open(path, lock=not live) as stored:
            total = sum(file_use(stored, kind).n_bytes for kind in FILE_KINDS if kind.is_verified)
            with progress("verifying", total, hidden=json) as advance:
                reports = verify(stored, listing.add, advance)
    except CorruptionError as e:
        listing.add(manifest_finding(e))
        reports = []
    if json:
        print_json(listing.facts(path, reports))
    else:
        listing.conclude(reports)
    if listing.n_defects:
        raise typer.Exit(PROBLEM)


class _Listing:
    """The findings so far, printed as they come."""

    def __init__(self, *, show: bool) -> None:
        self.n_defects = 0
        self.findings: list[Finding] = []
        self._n_findings = 0
        self._show = show

    def add(self, finding: Finding) -> None:
        self.n_defects += finding.is_defect
        self._n_findings += 1
        if self._n_findings > LISTED_MAX:
            return
        self.findings.append(finding)
        if self._show:
            typer.echo(f"{'defect' if finding.is_defect else 'note'}: {finding}")

    def conclude(self, reports: list[KindReport]) -> None:
        if self._n_findings > LISTED_MAX:
            typer.echo(f"{self._n_findings - LISTED_MAX:,} more are not listed")
        if reports:
            print_table(
                ("files", "number", "size", "defects"),
                [
                    (r.use.kind, r.use.n_files, size(r.use.n_bytes), str(r.n_defects) if r.is_verified else "left out")
                    for r in reports
                ],
            )
        else:
            typer.echo("without its manifest nothing else of a store can be verified")
        typer.echo(f"{self.n_defects:,} defects" if self.n_defects else "no defects")

    def facts(self, path: os.PathLike[str], reports: list[KindReport]) -> dict[str, Any]:
        return {
            "path": os.path.abspath(path),
            "ok": not self.n_defects,
            "n_defects": self.n_defects,
            "files": {
                r.use.kind: {
                    "files": r.use.n_files,
                    "bytes": r.use.n_bytes,
                    "verified": r.is_verified,
                    "n_defects": r.n_defects,
                }
                for r in reports
            },
            "findings": [
                {
                    "kind": f.kind,
                    "path": f.path,
                    "offset": f.offset,
                    "message": f.message,
                    "is_defect": f.is_defect,
                }
                for f in self.findings
            ],
        }
