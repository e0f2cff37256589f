"""The tools know series: files of items are verified and counted, and the tables beside tables are not shown."""

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from tests.support.series import Person
from tests.support.worlds import world_in
from tests.unit.test_temporal_archive import filled
from wal import OsFileSystem
from warpstore import manifest as manifests
from warpstore.cli.app import app
from warpstore.manifest import SERIES_SUFFIX


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def check(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("check", str(path), "--json").stdout)
    return found


def messages(path: Path, *, defects: bool = True) -> list[str]:
    return [f["message"] for f in check(path)["findings"] if f["is_defect"] is defects and f["kind"] == "series"]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    async def make() -> None:
        async with world_in(tmp_path) as world:
            store = await filled(world)
            await store[Person].append("ann", "seen", 1)
            await store.age()
            await store.close()

    asyncio.run(make())
    return tmp_path / "store"


def test_whole_files_of_items_have_no_findings_and_are_counted(store: Path) -> None:
    report = check(store)
    files = list(store.rglob(f"*{SERIES_SUFFIX}"))
    assert report["ok"]
    assert report["findings"] == []
    assert report["files"]["series"]["files"] == len(files)
    facts = json.loads(run("info", str(store), "--json").stdout)
    assert sum(tier["files"] for tier in facts["series"].values()) == len(files)
    assert sum(tier["items"] for tier in facts["series"].values()) == 13
    assert [table["name"] for table in facts["tables"]] == ["person"]
    assert facts["files"]["spare"]["files"] >= 0
    assert "items of series" in run("info", str(store)).stdout
    lines = [json.loads(line) for line in run("dump", str(store)).stdout.splitlines()]
    assert {line["table"] for line in lines} == {"person"}
    assert "person+series" not in run("dump", str(store), "absent").output


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.97, 1.0])
def test_any_damaged_byte_of_a_file_of_items_is_found(store: Path, share: float) -> None:
    file = next(store.rglob(f"*{SERIES_SUFFIX}"))
    data = bytearray(file.read_bytes())
    data[min(int(len(data) * share), len(data) - 1)] ^= 1
    file.write_bytes(data)
    assert messages(store)
    file.write_bytes(data[:-10])
    assert any("bytes, the manifest says" in message for message in messages(store))
    file.unlink()
    assert messages(store) == ["the file is missing"]


def test_strays_are_notes_and_a_manifest_that_contradicts_itself_is_a_defect(store: Path) -> None:
    files = OsFileSystem()
    manifest = manifests.read(files, str(store))
    (store / "series" / "ssd" / manifest.series_name(999)).write_bytes(b"x")
    assert messages(store, defects=False) == ["the manifest does not name this file of items; opening removes it"]
    assert check(store)["ok"]
    swapped = [
        msgspec.structs.replace(entry, ranges=[msgspec.structs.replace(r, n_items=99) for r in entry.ranges])
        for entry in manifest.series
    ]
    manifests.write(files, str(store), msgspec.structs.replace(manifest, series=swapped))
    assert set(messages(store)) == {"the manifest says otherwise what the file holds"}
    manifests.write(files, str(store), msgspec.structs.replace(manifest, next_series=1))
    assert not check(store)["ok"]
