"""``warpstore migrate`` and ``warpstore rollback``; what ``info`` and ``check`` know of a state that is kept."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import msgspec
import pytest
import typer
from typer.testing import CliRunner

import warpstore as ws
from tests.support import stores
from wal import OsFileSystem
from warpstore import manifest as manifests
from warpstore.cli.app import app

MODELS = f"{__name__}:New"


class Old(ws.Record, name="thing"):
    id: Annotated[str, ws.Key()]
    n: int = 0
    gone: str = "x"
    note: Annotated[str, ws.Disk()] = ""


class New(ws.Record, name="thing"):
    id: Annotated[str, ws.Key()]
    total: Annotated[int, ws.Renamed("n")] = 0
    note: Annotated[str, ws.Disk()] = ""


class Text(ws.Record, name="thing"):
    id: Annotated[str, ws.Key()]
    n: str = ""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store of old records, in a checkpoint and in a block file."""

    async def fill(store: ws.Store) -> None:
        await store[Old].put_many([Old(id=f"k{i:03d}", n=i, note=f"{i} " * 100) for i in range(50)])
        await store.checkpoint()

    stores.make(tmp_path / "store", fill, Old, shards=2)
    return tmp_path / "store"


def run(*arguments: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    if code:
        assert result.stdout == "" or "--json" not in arguments
        return result.stderr
    return json.loads(result.stdout) if "--json" in arguments else result.stdout


def kept_files(path: Path) -> list[Path]:
    kept = manifests.read(OsFileSystem(), str(path)).rollback
    assert kept is not None
    checkpoints = [path / "checkpoint" / shard.name for shard in kept.shards]
    return checkpoints + [next((path / "blocks").glob(f"{n:08x}*")) for shard in kept.shards for n in shard.blocks]


def test_a_migration_prints_its_plan_runs_and_is_taken_back(path: Path) -> None:
    before = stores.files_of(path)
    text = run("migrate", path, "--models", MODELS, "--dry-run")
    assert "50 records to rewrite" in text
    assert "LOST: field 'gone' (str) was dropped" in text
    assert stores.files_of(path).keys() == before.keys()
    text = run("migrate", path, "--models", MODELS, "--yes")
    assert text.index("50 records to rewrite") < text.index(
        "migrated, 50 records written again; the state before is kept"
    )
    assert "nothing to migrate" in run("migrate", path, "--models", MODELS)
    assert run("get", path, "thing", "k007", "--json")["record"]["total"] == 7
    assert "the state before is kept: see warpstore rollback" in run("info", path)
    assert run("rollback", path, "--yes") == f"{path}: rolled back\n"
    assert run("get", path, "thing", "k007", "--json")["record"]["n"] == 7
    assert "there is no state to go back to" in run("rollback", path, code=1)


def test_both_print_one_object(path: Path) -> None:
    told = run("migrate", path, "--models", MODELS, "--dry-run", "--json")
    assert (told["plan"]["n_records"], told["plan"]["is_lossless"], told["report"]) == (50, False, None)
    told = run("migrate", path, "--models", MODELS, "--yes", "--json")
    assert told["report"] == {"n_rewritten": 50, "n_untouched": 0, "has_rollback": True}
    assert run("rollback", path, "--yes", "--json") == {"path": str(path), "rolled_back": True, "forgotten": False}


def test_what_is_kept_is_forgotten_or_never_kept(path: Path) -> None:
    run("migrate", path, "--models", MODELS, "--yes")
    gone = kept_files(path)
    assert len(gone) == 4
    assert "removed what was kept" in run("rollback", path, "--forget", "--yes")
    assert not any(file.exists() for file in gone)
    assert "nothing was kept" in run("rollback", path, "--forget")
    text = run("migrate", path, "--models", f"{__name__}:Old", "--yes", "--no-rollback")
    assert "there is no way back" in text
    assert run("info", path, "--json")["rollback"] is None
    assert "exclude each other" in run("rollback", path, "--forget", "--discard-writes", code=2)


def test_writes_since_are_discarded_only_when_asked(path: Path) -> None:
    async def write(store: ws.Store) -> None:
        await store[New].put(New(id="later"))

    run("migrate", path, "--models", MODELS, "--yes")
    stores.make(path, write, New)
    assert "records were written since the migration" in run("rollback", path, "--yes", code=1)
    run("rollback", path, "--yes", "--discard-writes")
    run("get", path, "thing", "later", code=1)


def test_nothing_is_done_unasked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "50 records would be written again; stored values are lost or rounded" in run(
        "migrate", path, "--models", MODELS, code=2
    )
    terminal = SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("warpstore.cli.confirmation.sys", terminal)
    monkeypatch.setattr(typer, "prompt", lambda *_, **__: "other")
    assert "nothing was done" in run("migrate", path, "--models", MODELS, "--json", code=1)
    assert manifests.read(OsFileSystem(), str(path)).rollback is None


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ("nonsense", "expected package.module:Class"),
        ("no_such_module_anywhere:X", "ModuleNotFoundError"),
        (f"{__name__}:Absent", "AttributeError"),
        (f"{__name__}:run", "run"),
        (f"{__name__}:Old,New", "two record types have the table name"),
        (f"{__name__}:Text", "field 'n' was int, now str"),
    ],
)
def test_models_that_cannot_be_are_refused(models: str, words: str, path: Path) -> None:
    assert words in run("migrate", path, "--models", models, "--yes", code=2)


def test_what_is_kept_is_no_stray_and_is_verified(path: Path) -> None:
    run("migrate", path, "--models", MODELS, "--yes")
    files = kept_files(path)
    use = run("info", path, "--json")["files"]
    assert use["rollback"] == {"files": 4, "bytes": sum(file.stat().st_size for file in files)}
    report = run("check", path, "--json")
    assert (report["ok"], report["findings"]) == (True, [])
    assert report["files"]["rollback"]["verified"]
    for file in files:
        data = file.read_bytes()
        stores.flip(file, len(data) // 2)
        result = CliRunner().invoke(app, ["check", str(path), "--json"])
        found = json.loads(result.stdout)["findings"]
        assert result.exit_code == 1
        assert {(finding["kind"], finding["path"]) for finding in found} == {("rollback", str(file))}
        file.write_bytes(data)
    files[0].unlink()
    result = CliRunner().invoke(app, ["check", str(path), "--json"])
    assert {finding["path"] for finding in json.loads(result.stdout)["findings"]} == {str(files[0])}


def test_a_way_back_that_contradicts_the_manifest_is_a_defect(path: Path) -> None:
    run("migrate", path, "--models", MODELS, "--yes")
    system = OsFileSystem()
    manifest = manifests.read(system, str(path))
    manifests.write(system, str(path), msgspec.structs.replace(manifest, next_tag=1, next_table=1))
    result = CliRunner().invoke(app, ["check", str(path), "--json"])
    words = " ".join(finding["message"] for finding in json.loads(result.stdout)["findings"])
    assert "the state before the migration has 'thing' under the table number 1" in words
    assert "the state before the migration has 'thing' with a tag that was never given" in words
