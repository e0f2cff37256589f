"""Every logging call keeps to the vocabulary of ``warpstore/observe/README.md``."""

import ast
import errno
import logging
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import warpstore as ws
from tests.support.worlds import User, World, users, world_in
from wal import LogFullError, error_words, log_event

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("warpstore", "wal", "gpu_kernels", "benchmarks")
LEVELS = {"debug", "info", "warning", "warn", "error", "exception", "critical", "log"}
ROW = re.compile(r"\| `(\w+)` \| (\w+) \| `([\w ]+)` \| .+ \|")
OF_RECORDS = re.compile(r"(?i)\b(key|keys|hot|value|values|record|payload|payloads|fields|message)\b")


class Event(NamedTuple):
    """An event's level and keys."""

    level: str
    keys: list[str]


def vocabulary() -> dict[str, Event]:
    text = (ROOT / "warpstore/observe/README.md").read_text("utf-8")
    return {name: Event(level, keys.split()) for name, level, keys in ROW.findall(text)}


def sources() -> Iterator[tuple[str, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text("utf-8"))


def bare_calls(path: str, tree: ast.Module) -> list[str]:
    """Return the calls of a logger, or of logging itself, that do not go through `log_event`."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS:
            owner = ast.unparse(node.func.value)
            if re.search(r"(?i)(^|\.|_)(log|logger|logging)$", owner):
                found.append(f"{path}:{node.lineno}: {ast.unparse(node.func)}")
    return found


def event_calls(tree: ast.Module) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "log_event"]


def problems(call: ast.Call, known: dict[str, Event]) -> list[str]:
    """Return what is wrong with a call of `log_event`."""
    if len(call.args) != 3 or any(keyword.arg is None for keyword in call.keywords):
        return ["takes a logger, a level, an event and keys by name"]
    logger, level, event = call.args
    found = [] if ast.unparse(logger) == "logger" else ["logs to another logger than its module's"]
    name = event.value if isinstance(event, ast.Constant) else None
    if name not in known:
        return [*found, f"{ast.unparse(event)} is not in the vocabulary"]
    if ast.unparse(level) != f"logging.{known[name].level}":
        found.append(f"{name} has the level {known[name].level}")
    if [keyword.arg for keyword in call.keywords] != known[name].keys:
        found.append(f"{name} has the keys {known[name].keys}")
    found += [
        f"{name}: {keyword.arg} may hold what is in a record"
        for keyword in call.keywords
        if OF_RECORDS.search(ast.unparse(keyword.value).replace("_", " "))
    ]
    return found


def test_every_logging_call_keeps_to_the_vocabulary_and_every_event_is_logged_somewhere() -> None:
    known = vocabulary()
    wrong, used = [], set()
    for path, tree in sources():
        if path != "wal/events.py":
            wrong += bare_calls(path, tree)
        for call in event_calls(tree):
            wrong += [f"{path}:{call.lineno}: {words}" for words in problems(call, known)]
            used.add(ast.unparse(call.args[2]).strip("'"))
    assert wrong == []
    assert used == set(known)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("log_event(logger, logging.INFO, 'cast_refused', actor=a, error=e)", "the level WARNING"),
        ("log_event(logger, logging.WARNING, 'cast_refused', actor=a)", "the keys"),
        ("log_event(logger, logging.WARNING, 'cast_refused', actor=key, error=e)", "what is in a record"),
        ("log_event(logger, logging.WARNING, name, actor=a, error=e)", "not in the vocabulary"),
        ("log_event(other, logging.WARNING, 'cast_refused', actor=a, error=e)", "another logger"),
        ("log_event(logger, logging.WARNING, 'cast_refused', **fields)", "by name"),
    ],
)
def test_each_rule_sees_its_bad_example(text: str, words: str) -> None:
    (call,) = event_calls(ast.parse(text))
    assert any(words in problem for problem in problems(call, vocabulary()))


@pytest.mark.parametrize("text", ["logger.info('x')", "logging.warning('x')", "self._log.error('x')"])
def test_a_call_past_the_vocabulary_is_seen(text: str) -> None:
    assert bare_calls("x.py", ast.parse(text))


def test_an_error_is_told_by_its_type_unless_its_class_promises_more() -> None:
    assert error_words(ws.KeyNotFoundError("no record under 'ann'", key="ann")) == "KeyNotFoundError"
    assert error_words(KeyError("ann")) == "KeyError"
    assert error_words(OSError(errno.ENOSPC, "No space", "users/ann")) == "OSError:ENOSPC"
    assert error_words(OSError("odd")) == "OSError"
    assert error_words(LogFullError("no space in log/000")) == "LogFullError: no space in log/000"
    corrupt = ws.CorruptionError("MANIFEST: offset 0", path="MANIFEST", offset=0)
    assert error_words(corrupt) == "CorruptionError: MANIFEST: offset 0"


def test_a_value_of_several_words_is_quoted_and_no_value_breaks_the_line(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("tests.events")
    log_event(
        logger, logging.ERROR, "e", path="a b", text='x="1"\n', empty="", n=3, s=0.123456789, flag=True, none=None
    )
    assert caplog.messages == ['event=e path="a b" text="x=\\"1\\"\\n" empty="" n=3 s=0.123457 flag=true none=null']
    record = caplog.records[0]
    assert (record.event, record.fields["n"]) == ("e", 3)  # type: ignore[attr-defined]
    assert record.funcName == "test_a_value_of_several_words_is_quoted_and_no_value_breaks_the_line"


def test_nothing_is_made_of_an_event_that_nobody_takes() -> None:
    class Loud:
        def __str__(self) -> str:
            raise AssertionError

    log_event(logging.getLogger("tests.events"), logging.DEBUG, "e", x=Loud())  # type: ignore[arg-type]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_in(tmp_path) as made:
        yield made


async def test_the_life_of_a_store_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with world.open(User, durability="interval", shards=2) as store:
        await store[User].put_many(users(0, 5))
        await store.checkpoint()
        fault = world.files.fail("create", ".ckpt")
        with pytest.raises(ws.UnavailableError):
            await store.checkpoint()
        assert fault.n_failed == 1
    events = [record.event for record in caplog.records if hasattr(record, "event")]
    assert events == ["lane_recovered", "store_opened", "checkpoint_written", "checkpoint_failed", "store_closed"]
    assert f"event=store_opened path={world.path} epoch=1 durability=interval shards=2 lanes=1 seconds=0" in caplog.text
    assert 'event=checkpoint_failed reason="asked for" error=OSError:EIO' in caplog.text
    assert "u000" not in caplog.text


async def test_backups_restores_and_refreshes_are_logged(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy, new = tmp_path / "copy", tmp_path / "new"
    async with world.open(User, shards=1) as store:
        await store[User].put_many(users(0, 5))
        await store.checkpoint()
        async with world.open(User, read_only=True) as reader:
            caplog.set_level(logging.INFO)
            await store.backup(copy)
            with pytest.raises(ws.BackupTargetError):
                await store.backup(world.path)
            await reader.refresh()
            world.files.fail("open", "MANIFEST")
            with pytest.raises(ws.UnavailableError):
                await reader.refresh()
            ws.restore(copy, new)
            with pytest.raises(ws.BackupTargetError):
                ws.restore(copy, new)
            caplog.set_level(logging.CRITICAL)
    logged = [(record.event, record.fields) for record in caplog.records]  # type: ignore[attr-defined]
    assert [event for event, _ in logged] == [
        "backup_written",
        "backup_failed",
        "store_refreshed",
        "refresh_failed",
        "store_restored",
        "restore_failed",
    ]
    n_bytes = sum(path.stat().st_size for path in copy.rglob("*.ckpt"))
    assert logged[0][1] | {"seconds": 0} == {
        "path": world.path,
        "target": str(copy),
        "files": 1,
        "bytes": n_bytes,
        "copied_bytes": n_bytes,
        "seconds": 0,
    }
    assert "lies inside the store" in logged[1][1]["error"]
    assert logged[3][1] == {"path": world.path, "error": "OSError:EIO"}
    assert (logged[4][1]["source"], logged[4][1]["path"], logged[4][1]["bytes"]) == (str(copy), str(new), n_bytes)
    assert "holds a store" in logged[5][1]["error"]
    assert "u000" not in caplog.text
