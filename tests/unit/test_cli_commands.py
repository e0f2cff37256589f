"""The commands that show and compact a store: what they print, what they refuse, and with which exit code."""

import asyncio
import json
import os
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import msgspec
import pytest
import typer
from typer.testing import CliRunner

import warpstore as ws
from tests.support import stores
from tests.support.worlds import Blob, Reading, Token, User, World, users
from warpstore.cli import confirmation, entry, progress
from warpstore.cli.app import COMMANDS, app
from warpstore.cli.failures import exit_code, reported

ID = UUID(int=0x1234)


class Colour(Enum):
    RED = "red"


class Point(msgspec.Struct):
    x: int
    owner: UUID


class Everything(ws.Record):
    """A record with one field of each kind that JSON has to wrap or name."""

    id: Annotated[str, ws.Key()]
    raw: bytes = b"\x00\xff"
    ratio: float = float("nan")
    far: float = float("-inf")
    at: datetime = datetime(2024, 5, 6, tzinfo=UTC)
    colour: Colour = Colour.RED
    numbered: dict[int, str] = {}
    owners: list[UUID] = []
    by_owner: dict[UUID, float] = {}
    point: Point | None = None
    big: int = 2**64 - 1
    nothing: None = None
    session: Annotated[str, ws.Ephemeral(ttl=60)] = "secret"


async def fill(store: ws.Store) -> None:
    await store[User].put_many(users(0, 10, note="[bold]x[/]"))
    await store[Token].put(Token(id=ID, value=1.5))
    await store[Blob].put(Blob(id=b"\x00\xff"))
    await store.checkpoint()
    await store[User].delete("u0003")
    await store[User].put(User(id="u0004", n=40))
    await store[User].put(User(id="v", n=1))
    await store[User].put(User(id="gone"), ttl=5)
    await store[Reading].put_many([Reading(id=i) for i in (-7, 0, 3)])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with records in its checkpoints and in its log, one expired long ago."""
    stores.make(tmp_path / "store", fill)
    return tmp_path / "store"


def run(*arguments: object, code: int = 0) -> str:
    """Run a command and return its stdout."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    assert code != 0 or result.stderr == ""
    return result.stdout


def refused(*arguments: object, code: int) -> str:
    """Run a command that must print nothing on stdout; return its line on stderr."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    return result.stderr.removeprefix("warpstore: ").strip()


def lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


# info


def test_info_tells_what_a_store_is_and_holds(path: Path) -> None:
    before = stores.files_of(path)
    facts = json.loads(run("info", path, "--json"))
    assert list(facts) == [
        "path",
        "store_id",
        "format_version",
        "in_use",
        "pid",
        "clean",
        "epoch",
        "shards",
        "lanes",
        "rollback",
        "tables",
        "series",
        "files",
        "bytes",
    ]
    assert (facts["path"], facts["in_use"], facts["pid"], facts["clean"]) == (str(path), False, None, True)
    assert (facts["epoch"], len(facts["shards"]), len(facts["lanes"])) == (1, 4, 1)
    tables = {table["name"]: table for table in facts["tables"]}
    assert list(tables) == ["blob", "reading", "token", "user"]
    assert tables["user"]["key"] == {"field": "id", "type": "str"}
    assert tables["user"]["fields"] == {"id": "str", "n": "int", "note": "str", "tags": "list[str]"}
    counted = ("records", "expiring", "checkpointed", "changed_in_log", "schema_versions")
    assert [tables["user"][name] for name in counted] == [11, 1, 10, 4, 1]
    assert [tables["reading"][name] for name in counted] == [3, 0, 0, 3, 1]
    kinds = ["manifest", "log", "checkpoint", "block", "series", "rollback", "spare", "quarantine"]
    assert list(facts["files"]) == kinds
    on_disk = {name: f.stat().st_size for f in path.rglob("*") if f.is_file() for name in [f.name]}
    assert facts["bytes"] == sum(size for name, size in on_disk.items() if name != "LOCK")
    assert stores.files_of(path) == before


def test_info_for_people_names_the_same(path: Path) -> None:
    text = run("info", path)
    assert f"{path}: closed cleanly" in text
    for word in ("reading", "id: uuid", "quarantine", "opened 1 times", "4 shards"):
        assert word in text


def test_a_quick_info_counts_nothing(path: Path) -> None:
    facts = json.loads(run("info", path, "--json", "--quick"))
    assert {table["records"] for table in facts["tables"]} == {None}
    assert "?" in run("info", path, "--quick")


def test_info_reads_beside_the_owner_and_names_it(path: Path) -> None:
    async def beside() -> None:
        async with World(path).open(User) as store:
            await store[User].put(User(id="w"))
            facts = json.loads(run("info", path, "--json"))
            assert (facts["in_use"], facts["pid"], facts["clean"]) == (True, os.getpid(), False)
            assert next(t for t in facts["tables"] if t["name"] == "user")["records"] == 12
            assert f"in use by process {os.getpid()}" in run("info", path)

    asyncio.run(beside())


def test_a_store_that_crashed_is_told_from_one_that_was_closed(tmp_path: Path) -> None:
    async def crash() -> str:
        world = World(tmp_path / "store")
        async with world.open(User) as store:
            await store[User].put(User(id="a"))
            return world.crashed().path

    crashed = asyncio.run(crash())
    assert "not closed cleanly" in run("info", crashed)
    assert json.loads(run("get", crashed, "user", "a"))["id"] == "a"


# dump


def test_dump_prints_the_newest_live_records_in_key_order(path: Path) -> None:
    found = lines(run("dump", path, "user"))
    assert [r["id"] for r in found] == ["u0000", "u0001", "u0002", *(f"u{i:04d}" for i in range(4, 10)), "v"]
    assert found[3] == {"id": "u0004", "n": 40, "note": "", "tags": []}
    assert found[0]["note"] == "[bold]x[/]"
    assert [r["id"] for r in lines(run("dump", path, "reading"))] == [-7, 0, 3]


def test_dump_without_a_table_names_the_table_of_each_line(path: Path) -> None:
    found = lines(run("dump", path))
    assert [line["table"] for line in found] == ["blob", *["reading"] * 3, "token", *["user"] * 10]
    assert found[0] == {"table": "blob", "expires_ms": None, "record": {"id": {"$base64": "AP8="}, "value": 0.0}}


def test_dump_takes_a_limit_and_a_prefix(path: Path) -> None:
    assert [r["id"] for r in lines(run("dump", path, "user", "--limit", 2))] == ["u0000", "u0001"]
    assert run("dump", path, "user", "--limit", 0) == ""
    assert [r["id"] for r in lines(run("dump", path, "user", "--prefix", "v"))] == ["v"]
    assert len(lines(run("dump", path, "user", "--prefix", "u"))) == 9
    assert len(lines(run("dump", path, "blob", "--prefix", "AA=="))) == 1
    assert run("dump", path, "blob", "--prefix", "AQ==") == ""


def test_dump_as_one_object(path: Path) -> None:
    whole = json.loads(run("dump", path, "reading", "--json"))
    assert (whole["path"], whole["table"], [r["id"] for r in whole["records"]]) == (str(path), "reading", [-7, 0, 3])
    assert json.loads(run("dump", path, "--json", "--limit", 0)) == {"path": str(path), "table": None, "records": []}


def test_dump_wraps_what_json_lacks(tmp_path: Path) -> None:
    async def put(store: ws.Store) -> None:
        await store[Everything].put(
            Everything(id="a", point=Point(1, ID), numbered={5: "x"}, owners=[ID], by_owner={ID: 1.5})
        )

    stores.make(tmp_path / "store", put, Everything)
    assert lines(run("dump", tmp_path / "store", "everything")) == [
        {
            "id": "a",
            "raw": {"$base64": "AP8="},
            "ratio": {"$float": "nan"},
            "far": {"$float": "-inf"},
            "at": "2024-05-06T00:00:00Z",
            "colour": "red",
            "numbered": {"5": "x"},
            "owners": [str(ID)],
            "by_owner": {str(ID): 1.5},
            "point": {"x": 1, "owner": str(ID)},
            "big": 2**64 - 1,
            "nothing": None,
        }
    ]


def test_a_record_with_a_deadline_tells_it(tmp_path: Path) -> None:
    async def put(store: ws.Store) -> None:
        await store[User].put(User(id="a"), ttl="3650d")

    world = stores.make(tmp_path / "store", put, User)
    expires = int((world.clock.wall() + 3650 * 86400) * 1000)
    assert lines(run("dump", world.path))[0]["expires_ms"] == expires
    assert json.loads(run("get", world.path, "user", "a", "--json"))["expires_ms"] == expires


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["usr"], "has no table 'usr'; did you mean 'user'?"),
        (["x"], "has no table 'x'; it has blob; reading; token; user"),
        (["reading", "--prefix", "1"], "--prefix: the keys of 'reading' are int"),
        (["blob", "--prefix", "?"], "--prefix: '?': a key of table 'blob' is bytes, given as base64"),
        (["--prefix", "u"], "--prefix: needs a TABLE"),
        (["user", "--limit", "-1"], "--limit"),
    ],
)
def test_dump_refuses_what_makes_no_sense(options: list[str], message: str, path: Path) -> None:
    assert message in refused("dump", path, *options, code=2)


# get


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("user", "u0004", "u0004"),
        ("reading", "-7", -7),
        ("token", str(ID), str(ID)),
        ("token", ID.hex.upper(), str(ID)),
        ("blob", "AP8=", {"$base64": "AP8="}),
    ],
)
def test_get_finds_a_record_by_a_key_of_each_kind(table: str, key: str, value: Any, path: Path) -> None:
    assert json.loads(run("get", path, table, "--", key))["id"] == value


def test_get_as_one_object(path: Path) -> None:
    assert json.loads(run("get", path, "token", str(ID), "--json")) == {
        "path": str(path),
        "table": "token",
        "found": True,
        "expires_ms": None,
        "record": {"id": str(ID), "value": 1.5},
    }
    absent = json.loads(run("get", path, "user", "nobody", "--json", code=1))
    assert (absent["found"], absent["record"]) == (False, None)


@pytest.mark.parametrize("key", ["nobody", "u0003", "gone"])
def test_an_absent_a_deleted_and_an_expired_record_end_with_one(key: str, path: Path) -> None:
    assert refused("get", path, "user", key, code=1) == f"{path}: table 'user' has no record under this key"


@pytest.mark.parametrize(
    ("table", "key", "message"),
    [
        ("reading", "seven", "KEY: 'seven': a key of table 'reading' is an int"),
        ("reading", str(2**63), "KEY: 9223372036854775808: an int key is limited to 64 bits"),
        ("token", "12", "KEY: '12': a key of table 'token' is a UUID"),
        ("blob", "a", "KEY: 'a': a key of table 'blob' is bytes, given as base64"),
        ("user", "\udc80", "KEY: '\\udc80': a key of table 'user' is valid text"),
        ("nope", "a", "has no table 'nope'"),
    ],
)
def test_a_wrong_key_is_refused(table: str, key: str, message: str, path: Path) -> None:
    assert message in refused("get", path, table, key, code=2)


# compact


def test_compact_lets_the_log_go(tmp_path: Path) -> None:
    async def put(store: ws.Store) -> None:
        for i in range(20):
            await store[User].put_many(users(0, 50, note=str(i) * 300))
        await store[User].delete_many([f"u{i:04d}" for i in range(10, 50)])

    path = Path(stores.make(tmp_path / "store", put, User).path)
    told = json.loads(run("compact", path, "--json"))
    assert list(told) == ["path", "bytes_before", "bytes_after", "files"]
    assert told["files"]["checkpoint"]["bytes_before"] == 0 < told["files"]["checkpoint"]["bytes_after"]
    assert [r["id"] for r in lines(run("dump", path, "user"))] == [f"u{i:04d}" for i in range(10)]
    (table,) = json.loads(run("info", path, "--json"))["tables"]
    assert (table["records"], table["checkpointed"], table["changed_in_log"]) == (10, 10, 0)
    text = run("compact", path)
    assert text.endswith(f"{path}: compacted\n")
    assert "before" in text
    assert json.loads(run("check", path, "--json"))["ok"]


def test_compact_makes_no_store_where_there_is_none(tmp_path: Path) -> None:
    assert refused("compact", tmp_path / "absent", code=3) == f"{tmp_path}/absent: there is nothing"
    (tmp_path / "other").mkdir()
    assert "is no store" in refused("compact", tmp_path / "other", code=3)
    assert list((tmp_path / "other").iterdir()) == []
    assert not (tmp_path / "absent").exists()


# what all of them refuse

COMMANDS_OF_A_STORE = (["info"], ["check"], ["dump"], ["get"], ["compact"], ["migrate"], ["rollback"])


def command_line(command: list[str], path: Path) -> list[object]:
    more = {
        "get": ["user", "u0001"],
        "migrate": ["--models", "tests.support.worlds:User", "--yes"],
        "rollback": ["--yes"],
    }
    return [*command, path, *more.get(command[0], [])]


@pytest.mark.parametrize("command", COMMANDS_OF_A_STORE, ids=lambda command: command[0])
def test_what_is_no_store_is_refused(command: list[str], path: Path, tmp_path: Path) -> None:
    assert "there is nothing" in refused(*command_line(command, tmp_path / "absent"), code=3)
    assert "is a file; a store is a folder" in refused(*command_line(command, path / "MANIFEST"), code=3)
    assert "is no store: it has no MANIFEST" in refused(*command_line(command, tmp_path), code=3)
    assert "Missing argument" in refused(*command, code=2)
    assert "No such option" in refused(*command_line(command, path), "--jsn", code=2)


@pytest.mark.parametrize(
    "command", [["dump"], ["get"], ["compact"], ["migrate"], ["rollback"], ["check"]], ids=lambda command: command[0]
)
def test_a_store_in_use_is_refused(command: list[str], path: Path) -> None:
    async def beside() -> str:
        async with World(path).open(User):
            return refused(*command_line(command, path), code=3)

    assert asyncio.run(beside()) == f"{path}: is in use by process {os.getpid()}"


def test_a_store_in_use_is_read_live(path: Path) -> None:
    async def beside() -> None:
        async with World(path).open(User) as store:
            await store[User].put(User(id="w"))
            await store[User].delete("v")
            assert lines(run("dump", path, "user", "--live"))[-1]["id"] == "w"
            assert json.loads(run("get", path, "user", "w", "--live"))["id"] == "w"
            run("get", path, "user", "v", "--live", "--json", code=1)

    asyncio.run(beside())


@pytest.mark.parametrize("command", [["info"], ["dump"], ["get"], ["compact"]], ids=lambda command: command[0])
def test_damage_is_one_line_that_names_the_file(command: list[str], path: Path) -> None:
    stores.flip(path / "MANIFEST", 60)
    assert refused(*command_line(command, path), code=1) == f"{path}/MANIFEST: offset 0: the checksum is wrong"


def test_a_damaged_log_and_a_damaged_checkpoint_are_refused(path: Path) -> None:
    segment = min((path / "log/000").glob("*.wal"))
    for file, offset in ((segment, 100), (stores.checkpoint_file(path), 20)):
        stores.flip(file, offset)
        assert refused("dump", path, "user", code=1).startswith(f"{file}: offset 0: ")
        stores.flip(file, offset)


def test_what_the_file_system_refuses_is_one_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied", "MANIFEST")

    monkeypatch.setattr("wal.files.OsFileSystem.open", refuses)
    assert "Permission denied" in refused("info", path, code=3)


def test_a_command_ends_by_what_it_met(capsys: pytest.CaptureFixture[str]) -> None:
    def raises(error: Exception) -> None:
        raise error

    with pytest.raises(BrokenPipeError):
        reported(raises)(BrokenPipeError())
    with pytest.raises(typer.Exit) as end:
        reported(raises)(OSError(28, "No space left\non device"))
    assert end.value.exit_code == 1
    assert capsys.readouterr().err == "warpstore: [Errno 28] No space left on device\n"


def test_every_error_has_an_exit_code() -> None:
    codes = {
        ws.NotAStoreError("", path=""): 3,
        ws.StoreInUseError("", path="", pid=1): 3,
        ws.FormatVersionError("", path=""): 3,
        ws.CorruptionError("", path="", offset=0): 1,
        ws.UnavailableError(""): 1,
        ws.UnknownTableError(""): 2,
        ws.ValidationError(""): 2,
        ws.ConfigError("", setting=""): 2,
        ws.IncompatibleSchemaError(""): 2,
        ws.MigrationError("", path=""): 1,
    }
    assert {error: exit_code(error) for error in codes} == codes


# help, completion, the parts around the commands


def test_the_help_names_every_command_and_the_exit_codes() -> None:
    text = run("--help")
    for command in COMMANDS:
        name = command.__name__.rstrip("_")
        assert f"\n  {name} " in text
        own = run(name, "--help")
        assert "--json" in own
        assert "Exit codes: 0 done; 1 a problem was found" in own
    assert "--install-completion" in text
    assert "Usage: " in refused(code=2)
    assert "No such command 'chek'" in refused("chek", code=2)


def completed(*words: str) -> list[str]:
    environment = {
        "_WARPSTORE_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["warpstore", *words]),
        "COMP_CWORD": str(len(words)),
    }
    result = CliRunner().invoke(app, [], env=environment, prog_name="warpstore")
    return result.stdout.split()


def test_a_shell_completes_commands_and_the_table_names_of_a_store(path: Path, tmp_path: Path) -> None:
    assert completed("ch") == ["check"]
    assert completed("dump", str(path), "re") == ["reading"]
    assert completed("get", str(path), "u") == ["user"]
    assert completed("get", str(tmp_path), "u") == []
    stores.flip(path / "MANIFEST", 60)
    assert completed("get", str(path), "u") == []


def test_without_the_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import builtins

    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "warpstore.cli.app":
            raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    missing = "typer"
    assert entry.main(["info"]) == 2
    assert capsys.readouterr().err == "warpstore: typer is not installed: pip install 'warpstore[cli]'\n"
    missing = "numpy"
    with pytest.raises(ModuleNotFoundError):
        entry.main(["info"])


def test_the_entry_returns_the_exit_code(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["info", str(path)]) == 0
    assert entry.main(["get", str(path), "user", "nobody"]) == 1
    assert entry.main(["info", str(path / "absent")]) == 3
    capsys.readouterr()


def test_the_demo_runs_with_its_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def fake(arguments: list[str]) -> int:
        calls.append(arguments)
        print("its report")
        return 1

    monkeypatch.setattr("warpstore.cli.demo.run_demo", fake)
    assert run("demo", "--quick", "--path", tmp_path, code=1) == "its report\n"
    told = CliRunner().invoke(app, ["demo", "--path", str(tmp_path), "--json"])
    assert json.loads(told.stdout) == {"path": str(tmp_path), "ok": False, "exit_code": 1}
    assert (told.exit_code, told.stderr) == (1, "its report\n")
    assert calls == [["--path", str(tmp_path), "--quick"], ["--path", str(tmp_path)]]


class Screen:
    """A console of a terminal, or of none, on a string."""

    def __new__(cls, *, is_terminal: bool) -> Any:
        import io

        from rich.console import Console

        return Console(file=io.StringIO(), force_terminal=is_terminal, width=80)


def test_a_bar_appears_only_on_a_terminal_and_for_long_work(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_terminal, hidden in ((False, False), (True, True)):
        screen = Screen(is_terminal=is_terminal)
        with progress.progress("work", 10, hidden=hidden, console=screen) as advance:
            advance(5)
        assert screen.file.getvalue() == ""
    screen = Screen(is_terminal=True)
    with progress.progress("quick work", 10, console=screen) as advance:
        advance(10)
    assert "quick work" not in screen.file.getvalue()
    bar = progress.Bar("long work", 10, screen := Screen(is_terminal=True))
    bar.show()
    bar.advance(5)
    bar.end()
    assert "long work" in screen.file.getvalue()
    bar.show()  # the timer may still come when the work is over
    assert not bar._progress.live.is_started


def test_what_destroys_asks_for_a_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    confirmation.confirm("all goes", "data", yes=True)
    with pytest.raises(typer.Exit) as end:
        confirmation.confirm("all goes", "data", yes=False)
    assert end.value.exit_code == 2
    assert "give --yes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(typer, "prompt", lambda *_, **__: "data")
    confirmation.confirm("all goes", "data", yes=False)
    monkeypatch.setattr(typer, "prompt", lambda *_, **__: "dat")
    with pytest.raises(typer.Exit) as end:
        confirmation.confirm("all goes", "data", yes=False)
    assert end.value.exit_code == 1
