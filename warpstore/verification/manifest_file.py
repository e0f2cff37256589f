"""Verifies that the manifest agrees with itself. Its checksum was verified when the store was opened for reading."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from warpstore import manifest as manifests
from warpstore.keys import SLOTS
from warpstore.manifest import KeptState, Manifest
from warpstore.stored import StoredReader
from warpstore.verification.file_kind import Advance, Finding


class ManifestFile:
    """The manifest."""

    name = "manifest"
    is_verified = True
    stands_still = True

    def paths(self, stored: StoredReader) -> list[str]:
        return [f"{stored.path}/{manifests.NAME}"]

    def verify(self, stored: StoredReader, advance: Advance) -> Iterator[Finding]:
        for message in _contradictions(stored.manifest):
            yield Finding(kind=self.name, path=self.paths(stored)[0], offset=0, message=message)
        advance(1)


def _contradictions(manifest: Manifest) -> Iterator[str]:
    tables = manifest.tables
    tags = Counter(entry.tag for table in tables.values() for entry in table.schemas)
    numbers = Counter(table.table for table in tables.values())
    for tag, n in sorted(tags.items()):
        if n > 1 or not 0 < tag < manifest.next_tag:
            yield f"the tag {tag} is given {n} times, and the next to be given is {manifest.next_tag}"
    for number, n in sorted(numbers.items()):
        if n > 1 or not 0 < number < manifest.next_table:
            yield f"the table number {number} is given {n} times, and the next to be given is {manifest.next_table}"
    for file in manifest.series:
        if file.tier not in {"ssd", "disk", "archive"} or not 0 < file.number < manifest.next_series:
            yield f"the file of items {file.number} in {file.tier!r}: the next number is {manifest.next_series}"
    if len({entry.number for entry in manifest.series}) < len(manifest.series):
        yield "two files of items have one number"
    if len({entry.move for entry in manifest.series} - {0}) > 1:
        yield "more than one move of items is not settled"
    n_shards = len(manifest.shards)
    if not 1 <= n_shards <= SLOTS:
        yield f"there are {n_shards} shards, the limit is {SLOTS}"
    if not 1 <= len(manifest.lanes) <= n_shards:
        yield f"there are {len(manifest.lanes)} lanes for {n_shards} shards"
    if len(manifest.clean_lsns) not in {0, n_shards}:
        yield f"a clean close is recorded for {len(manifest.clean_lsns)} shards of {n_shards}"
    for shard, entry in enumerate(manifest.shards):
        if "/" in entry.name:
            yield f"the checkpoint of shard {shard} lies in another folder"
    if manifest.rollback is not None:
        yield from _contradictions_of_kept(manifest, manifest.rollback)


def _contradictions_of_kept(manifest: Manifest, kept: KeptState) -> Iterator[str]:
    if not 1 <= len(kept.shards) <= SLOTS:
        yield f"the state before the migration has {len(kept.shards)} shards, the limit is {SLOTS}"
    for name, table in kept.tables.items():
        if not 0 < table.table < manifest.next_table:
            yield f"the state before the migration has {name!r} under the table number {table.table}"
        if not all(0 < entry.tag < manifest.next_tag for entry in table.schemas):
            yield f"the state before the migration has {name!r} with a tag that was never given"
    if any("/" in name for name in (*kept.written, *(entry.name for entry in kept.shards))):
        yield "a checkpoint of the state before the migration lies in another folder"
