"""The command line as a shell runs it: other processes, real pipes, a store that is being written."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import stores

ROOT = Path(__file__).resolve().parents[2]
WRITER = """
import asyncio, sys
import warpstore as ws
from tests.support.worlds import User

async def main():
    async with ws.open(sys.argv[1], models=[User], durability="interval", segment_bytes="64KiB",
                       checkpoint_log_bytes="128KiB") as store:
        print("open", flush=True)
        i = 0
        while True:
            await store[User].put_many([User(id=f"u{(i + k) % 3000:04d}", n=i, note="x" * 100) for k in range(100)])
            i += 100
            await asyncio.sleep(0)

asyncio.run(main())
"""


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "warpstore.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=100, check=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    stores.make_users(tmp_path / "store", 400)
    return tmp_path / "store"


def test_only_the_object_is_on_stdout(path: Path) -> None:
    for command in ("info", "check", "compact"):
        done = run(command, path, "--json")
        assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
        assert isinstance(json.loads(done.stdout), dict)


def test_errors_are_one_line_on_stderr(path: Path, tmp_path: Path) -> None:
    for arguments, code in (
        (("get", path, "user", "nobody"), 1),
        (("get", path, "nope", "a"), 2),
        (("info", tmp_path / "absent"), 3),
    ):
        done = run(*arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
        assert done.stderr.startswith("warpstore: ")


def test_a_reader_that_has_enough_ends_a_dump_quietly(path: Path) -> None:
    command = [sys.executable, "-m", "warpstore.cli", "dump", str(path), "user"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert json.loads(child.stdout.readline())["id"] == "u0000"
        child.stdout.close()
        assert child.stderr.read() == ""


def test_the_help_is_plain_text_in_a_pipe(path: Path) -> None:
    done = run("--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: warpstore")
    assert "\x1b" not in done.stdout


def test_a_store_that_another_process_writes_is_read_live(path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as writer:
        assert writer.stdout is not None
        try:
            assert writer.stdout.readline() == "open\n"
            done = run("dump", path, "user")
            assert (done.returncode, done.stderr) == (3, f"warpstore: {path}: is in use by process {writer.pid}\n")
            facts: dict[str, Any] = json.loads(run("info", path, "--json").stdout)
            assert (facts["in_use"], facts["pid"]) == (True, writer.pid)
            dumped = run("dump", path, "user", "--live")
            assert dumped.returncode == 0, dumped.stderr
            keys = [json.loads(line)["id"] for line in dumped.stdout.splitlines()]
            assert keys == sorted(set(keys))
            assert len(keys) >= 400
            assert run("get", path, "user", "u0001", "--live").returncode == 0
            assert run("check", path, "--live").returncode == 0
        finally:
            writer.kill()
    assert "not closed cleanly" in run("info", path).stdout
    assert run("check", path).returncode == 0
