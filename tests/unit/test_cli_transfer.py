"""The commands that move records and stores: export, import, backup and restore."""

import asyncio
import datetime as dt
import json
import math
import os
import shutil
import sys
from decimal import Decimal
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from typer.testing import CliRunner

import warpstore as ws
from tests.support import stores
from tests.support.worlds import User, World, collected, users
from wal import OsFileSystem
from warpstore.cli import confirmation, progress
from warpstore.cli.app import app

FORMATS = ("parquet", "arrow", "jsonl")
HERE = f"{__name__}:Doc"
WORLDS = "tests.support.worlds:User,Reading,Blob,Token"
every_form = pytest.mark.parametrize("form", FORMATS)


class Doc(ws.Record):
    """A record with parts on disk, and values that JSON lacks."""

    id: Annotated[UUID, ws.Key()]
    n: int = 0
    at: dt.datetime = dt.datetime(2026, 1, 2, 3, tzinfo=dt.UTC)
    exact: Decimal = Decimal("1.10")
    far: float = math.inf
    maybe: str | None = None
    by_number: dict[int, list[float]] = {}
    text: Annotated[str, ws.Disk()] = ""
    raw: Annotated[bytes, ws.Disk(compression="none", cache=False)] = b""
    dense: Annotated[list[float | None], ws.Disk(compression="max")] = []
    size: Annotated[int, ws.Computed(lambda d: len(d.text), of=("text",))] = ws.derived()
    session: Annotated[str, ws.Ephemeral()] = ""


def doc(i: int) -> Doc:
    return Doc(
        id=UUID(int=i),
        n=i,
        maybe=None if i % 2 else "m",
        by_number={i: [0.5, math.inf]},
        text=f"{i} " * (i % 50),
        raw=bytes([i % 256]) * i,
        dense=[1.0, None, -math.inf],
    )


async def fill(store: ws.Store) -> None:
    await store[User].put_many(users(0, 10, note="null"))
    await store[Doc].put_many(map(doc, range(200)))
    await store.checkpoint()
    await store[User].delete("u0003")
    await store[User].put(User(id="gone"), ttl=5)
    await store[Doc].put(Doc(id=UUID(int=7), n=-7))


def made(path: Path) -> Path:
    return Path(stores.make(path, fill, User, Doc).path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with records in its checkpoints, its block files and its log, one expired long ago."""
    return made(tmp_path / "store")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A store with nothing in it."""

    async def nothing(_: ws.Store) -> None: ...

    return Path(stores.make(tmp_path / "other", nothing, User).path)


def run(*arguments: object, code: int = 0, stderr: str = "") -> str:
    """Run a command and return its stdout."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    assert code != 0 or result.stderr == stderr
    return result.stdout


def refused(*arguments: object, code: int) -> str:
    """Run a command that must print nothing on stdout; return its line on stderr."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    return result.stderr.removeprefix("warpstore: ").strip()


def records_of(path: Path, model: type[Any]) -> list[Any]:
    async def read() -> list[Any]:
        async with World(path).open(model, read_only=True) as store:
            return await collected(store[model].scan())

    return asyncio.run(read())


def partial(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.endswith(".partial")]


# export and import


@every_form
@pytest.mark.parametrize("models", [HERE, None], ids=["models", "stored"])
def test_a_table_goes_out_and_comes_in(form: str, models: str | None, path: Path, other: Path, tmp_path: Path) -> None:
    file = tmp_path / f"docs.{form}"
    named = [] if models is None else ["--models", models]
    before = stores.files_of(path)
    if form != "jsonl" and models is None:
        message = f"--models: {form} needs the record class of table 'doc'; jsonl does not"
        assert refused("export", path, "doc", file, code=2) == message
        return
    told = json.loads(run("export", path, "doc", file, "--json", *named))
    assert told == {"path": str(path), "table": "doc", "file": str(file), "format": form, "n_records": 200}
    assert stores.files_of(path) == before
    told = json.loads(run("import", other, "doc", file, "--json", "--models", HERE))
    assert told == {"path": str(other), "table": "doc", "file": str(file), "format": form, "n_stored": 200}
    assert records_of(other, Doc) == records_of(path, Doc)
    assert json.loads(run("check", other, "--json"))["ok"]


def test_lines_are_the_same_with_and_without_the_classes(path: Path, tmp_path: Path) -> None:
    files = [tmp_path / "a.jsonl", tmp_path / "b.ndjson"]
    assert run("export", path, "doc", files[0]) == f"{files[0]}: 200 records of table 'doc'\n"
    run("export", path, "doc", files[1], "--models", HERE)
    first, second = ([json.loads(line) for line in file.read_text().splitlines()] for file in files)
    assert first == second
    assert first[5]["far"] == "Infinity"
    assert first[5]["id"] == str(UUID(int=5))
    run("export", path, "user", files[0], "--yes")
    assert [json.loads(line)["id"] for line in files[0].read_text().splitlines()] == [
        f"u{i:04d}" for i in range(10) if i != 3
    ]


def test_the_format_may_be_named(path: Path, other: Path, tmp_path: Path) -> None:
    file = tmp_path / "docs.bin"
    assert "its suffix is none of" in refused("export", path, "doc", file, code=2)
    assert "Invalid value for '--format'" in refused("export", path, "doc", file, "--format", "csv", code=2)
    run("export", path, "doc", file, "--format", "parquet", "--models", HERE)
    assert pq.read_table(file).num_rows == 200
    assert "its suffix is none of" in refused("import", other, "doc", file, "--models", HERE, code=2)
    run("import", other, "doc", file, "--format", "parquet", "--models", HERE)
    assert "is no arrow file" in refused("import", other, "doc", file, "--format", "arrow", "--models", HERE, code=1)


@pytest.mark.parametrize("models", [[], ["--models", HERE]], ids=["stored", "models"])
def test_a_file_is_replaced_only_when_that_is_confirmed(
    models: list[str], path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "docs.jsonl"
    file.write_text("mine")
    command = ("export", path, "doc", file, *models)
    assert refused(*command, code=2) == f"{file} exists and would be replaced; nobody can be asked here: give --yes"
    terminal = SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(confirmation, "sys", terminal)
    typed = ["other", file.name]
    monkeypatch.setattr(confirmation.typer, "prompt", lambda *_, **__: typed.pop(0))
    assert refused(*command, code=1) == "not confirmed; nothing was done"
    assert file.read_text() == "mine"
    for options in ([], ["--yes"]):
        run(*command, *options)
        assert len(file.read_text().splitlines()) == 200
        file.write_text("mine")
    (tmp_path / "folder.jsonl").mkdir()
    folder = tmp_path / "folder.jsonl"
    assert refused("export", path, "doc", folder, "--yes", *models, code=1) == f"{folder}: is a folder"
    assert "No such file or directory" in refused("export", path, "doc", tmp_path / "no/a.jsonl", *models, code=1)
    assert partial(tmp_path) == []


@pytest.mark.parametrize("models", [[], ["--models", HERE]], ids=["stored", "models"])
def test_a_failed_export_leaves_nothing(models: list[str], path: Path, tmp_path: Path) -> None:
    block = next((path / "blocks").iterdir())
    stores.flip(block, block.stat().st_size // 2)
    file = tmp_path / "docs.jsonl"
    assert str(block) in refused("export", path, "doc", file, *models, code=1)
    assert not file.exists()
    assert partial(tmp_path) == []


def test_a_full_disk_is_one_line(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(OsFileSystem, "rename", full)
    assert "No space left on device" in refused("export", path, "doc", tmp_path / "a.jsonl", code=1)
    assert partial(tmp_path) == []


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ("no_such_module:Doc", "no_such_module:Doc cannot be imported: ModuleNotFoundError"),
        (f"{__name__}:Dox", "cannot be imported: AttributeError"),
        ("Doc", "'Doc': expected package.module:Class"),
        (f"{__name__}:", "expected package.module:Class"),
        (f"{__name__}:UUID", "is no record type"),
        ("tests.support.worlds:User,Reading", "--models: no class has the table 'doc'; they have user; reading"),
    ],
)
def test_models_that_are_none_are_refused(models: str, message: str, path: Path, tmp_path: Path) -> None:
    file = tmp_path / "docs.jsonl"
    before = stores.files_of(path)
    assert message in refused("export", path, "doc", file, "--models", models, code=2)
    file.write_text("")
    assert message in refused("import", path, "doc", file, "--models", models, code=2)
    assert stores.files_of(path) == before


def test_models_are_found_from_the_current_folder(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "app_models_here.py").write_text(
        "import warpstore as ws\nfrom typing import Annotated\n"
        "class Group:\n"
        "    class Person(ws.Record, name='user'):\n"
        "        id: Annotated[str, ws.Key()]\n        n: int = 0\n        added: str = 'x'\n"
    )
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "users.parquet"
    models = f"{HERE}, app_models_here:Group.Person"
    before = stores.files_of(path)
    run("export", path, "user", file, "--models", models)
    assert pq.read_table(file).column_names == ["id", "n", "added"]
    assert stores.files_of(path) == before  # also of a newer declaration nothing is noted down


def test_what_an_import_does_where_a_key_is_taken(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "users.jsonl"
    file.write_text('{"id":"u0001","n":100}\n{"id":"new","n":1}\n')
    command = ("import", path, "user", file, "--models", WORLDS)
    assert "the key 'u0001' is taken" in refused(*command, "--existing", "refuse", code=1)
    assert json.loads(run(*command, "--existing", "keep", "--json"))["n_stored"] <= 1
    assert {user.id: user.n for user in records_of(path, User)}["u0001"] == 1
    assert run(*command) == f"{path}: 2 records stored in table 'user'\n"
    assert {user.id: user.n for user in records_of(path, User)}["u0001"] == 100
    assert "--existing" in refused(*command, "--existing", "other", code=2)


def test_imported_records_may_have_an_end(other: Path, tmp_path: Path) -> None:
    file = tmp_path / "users.jsonl"
    file.write_text('{"id":"a"}\n')
    run("import", other, "user", file, "--models", WORLDS, "--ttl", "30d")
    assert json.loads(run("get", other, "user", "a", "--json"))["expires_ms"] > 0
    assert "--ttl" in refused("import", other, "user", file, "--models", WORLDS, "--ttl", "soon", code=2)


def test_what_does_not_fit_is_named_and_ends_with_one(other: Path, tmp_path: Path) -> None:
    file = tmp_path / "users.jsonl"
    file.write_text('{"id":"a","n":1}\n{"id":"b","n":"x"}\n')
    command = ("import", other, "user", file, "--models", WORLDS)
    assert refused(*command, code=1).startswith("line 2: User.n: ")
    columns = tmp_path / "users.parquet"
    pq.write_table(pa.table({"id": ["a"], "other": [1]}), columns)
    message = refused("import", other, "user", columns, "--models", WORLDS, code=1)
    assert "the column 'other' is no field of it" in message
    assert records_of(other, User) == []
    before = stores.files_of(other)
    assert "No such file" in refused("import", other, "user", tmp_path / "no.jsonl", "--models", WORLDS, code=1)
    assert stores.files_of(other) == before
    assert "Missing option '--models'" in refused("import", other, "user", file, code=2)


def test_a_table_that_is_none_is_named(path: Path, tmp_path: Path) -> None:
    message = refused("export", path, "dox", tmp_path / "a.jsonl", code=2)
    assert "has no table 'dox'; did you mean 'doc'?" in message
    assert "has no table 'reading'" in refused(
        "export", path, "reading", tmp_path / "a.arrow", "--models", WORLDS, code=2
    )


def test_a_store_in_use_is_exported_live(path: Path, tmp_path: Path) -> None:
    async def beside() -> None:
        async with World(path).open(User, Doc) as store:
            await store[User].put(User(id="w"))
            await store.sync()
            for number, models in enumerate(([], ["--models", WORLDS])):
                file = tmp_path / f"{number}.jsonl"
                command = ("export", path, "user", file, *models)
                refusal = await asyncio.to_thread(refused, *command, code=3)
                assert refusal == f"{path}: is in use by process {os.getpid()}"
                await asyncio.to_thread(run, *command, "--live")
                assert json.loads(file.read_text().splitlines()[-1])["id"] == "w"
            command = ("import", path, "user", file, "--models", WORLDS)
            assert "is in use" in await asyncio.to_thread(refused, *command, code=3)

    asyncio.run(beside())


def test_of_a_store_that_was_not_closed_a_note_is_made(tmp_path: Path) -> None:
    async def crashed() -> Path:
        world = World(tmp_path / "store")
        async with world.open(User) as store:
            await store[User].put_many(users(0, 5))
            return Path(world.crashed().path)

    path = asyncio.run(crashed())
    note = f"warpstore: {path}: was not closed cleanly; "
    note += "what may not be durable is left out, unless compact recovers it first\n"
    run("export", path, "user", tmp_path / "a.parquet", "--models", WORLDS, stderr=note)
    run("compact", path)
    run("export", path, "user", tmp_path / "a.parquet", "--models", WORLDS, "--yes")
    assert pq.read_table(tmp_path / "a.parquet").num_rows == 5


# backup and restore


def test_a_backup_is_made_a_store_again(path: Path, tmp_path: Path) -> None:
    target, again = tmp_path / "backup", tmp_path / "again"
    first = json.loads(run("backup", path, target, "--json"))
    assert list(first) == ["path", "n_files", "n_bytes", "n_copied", "copied_bytes", "n_removed", "target"]
    assert (first["path"], first["target"], first["n_copied"]) == (str(path), str(target), first["n_files"])
    second = json.loads(run("backup", path, target, "--json"))
    assert 0 < second["n_copied"] < second["n_files"]
    told = json.loads(run("restore", target, again, "--json"))
    assert (told["path"], told["backup"]) == (str(again), str(target))
    assert json.loads(run("check", again, "--json"))["ok"]
    for model in (User, Doc):
        assert records_of(again, model) == records_of(path, model)


def test_backup_and_restore_for_people(path: Path, tmp_path: Path) -> None:
    assert f"{tmp_path}/backup: " in run("backup", path, tmp_path / "backup")
    assert run("restore", tmp_path / "backup", tmp_path / "again").startswith(f"{tmp_path}/again: restored, ")


def test_a_backup_goes_nowhere_else(path: Path, other: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    run("backup", path, tmp_path / "backup")
    for target in (tmp_path / "full", path / "inside", other):
        assert str(target) in refused("backup", path, target, code=1)
    assert refused("backup", other, tmp_path / "backup", code=1)
    for target in (tmp_path / "full", path):
        before = stores.files_of(target)
        assert str(target) in refused("restore", tmp_path / "backup", target, code=1)
        assert stores.files_of(target) == before


def test_what_is_no_store_and_no_backup_is_refused(path: Path, tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    file = tmp_path / "a.jsonl"
    file.write_text("")
    for command in (
        ("export", absent, "user", file),
        ("import", absent, "user", file, "--models", WORLDS),
        ("backup", absent, tmp_path / "backup"),
    ):
        assert refused(*command, code=3) == f"{absent}: there is nothing"
        assert not absent.exists()
    refused("restore", absent, tmp_path / "again", code=1)
    run("backup", path, tmp_path / "backup")
    shutil.rmtree(tmp_path / "again", ignore_errors=True)
    largest = max((f for f in (tmp_path / "backup").rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    stores.flip(largest, largest.stat().st_size // 2)
    refused("restore", tmp_path / "backup", tmp_path / "again", code=1)


def test_a_store_in_use_is_not_backed_up_from_outside(path: Path, tmp_path: Path) -> None:
    async def beside() -> str:
        async with World(path).open(User):
            return await asyncio.to_thread(refused, "backup", path, tmp_path / "backup", code=3)

    assert asyncio.run(beside()) == f"{path}: is in use by process {os.getpid()}"


# how far it got


def test_a_bar_follows_what_is_done_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SHOWN_AFTER_S", 0.0)
    bars = []
    make = progress.Bar
    monkeypatch.setattr(progress, "Bar", lambda *a: bars.append(make(*a)) or bars[-1])
    console = Console(file=StringIO(), force_terminal=True)
    with progress.reached("copying", console=console) as reach:
        reach(3, None)
        reach(5, 10)
        (task,) = bars[0]._progress.tasks
        assert (task.completed, task.total) == (5, 10)
    with progress.reached("copying", hidden=True, console=console) as reach:
        reach(1, 2)
    assert len(bars) == 1
