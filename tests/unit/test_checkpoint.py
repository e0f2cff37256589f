"""A checkpoint file gives back what was written, and any damage to it is refused."""

import asyncio
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import warpstore as ws
from tests.support import stores
from tests.support.worlds import FaultyFiles, Reading, User, turns, until
from wal import OsFileSystem
from warpstore._native import Rows
from warpstore.checkpoint import WOULD_BLOCK, Checkpoint, CheckpointJob, ShardJob, TableJob, reader, run_in_child
from warpstore.checkpoint.format import pack_footer, unpack_footer
from warpstore.checkpoint.job import run_job
from warpstore.checkpoint.writer import CheckpointWriter
from warpstore.keys import HotKey, key_hash
from warpstore.record import plan_of
from warpstore.values import with_deadline

STORE = bytes(range(16))
PAGE_ENTRIES = 340
"""More than a page has of any table here."""
USERS, READINGS = plan_of(User).bind(1), plan_of(Reading).bind(2)


def user_values(n: int, note: str = "") -> list[tuple[HotKey, bytes]]:
    return [USERS.encode(User(id=f"u{i:05d}", n=i, note=note))[1:] for i in range(n)]


def write(path: Path, *tables: list[tuple[HotKey, bytes]], shard: int = 0, packed: bool = False) -> Path:
    files = OsFileSystem()
    file = files.create(str(path))
    writer = CheckpointWriter(file, store_id=STORE, shard=shard, salt=1234)
    for number, records in enumerate(tables, 1):
        assert writer.write_table(number, records, packed=packed) == len(records)
    writer.finish(99)
    file.close()
    return path


def opened(path: Path, files: Any = None) -> Checkpoint:
    return Checkpoint.open(files or OsFileSystem(), str(path), store_id=STORE, shard=0)


packed_or_not = pytest.mark.parametrize("packed", [False, True])


@packed_or_not
def test_every_record_is_found_by_its_hash_and_in_order(tmp_path: Path, packed: bool) -> None:
    users = user_values(5 * PAGE_ENTRIES, "x" * 40)
    readings = [READINGS.encode(Reading(id=i))[1:] for i in range(-50, 50)]
    checkpoint = opened(write(tmp_path / "c", users, readings, [], packed=packed))
    assert (checkpoint.shard, checkpoint.lsn, sorted(checkpoint.tables)) == (0, 99, [1, 2, 3])
    for number, records in ((1, users), (2, readings), (3, [])):
        table = checkpoint.tables[number]
        assert list(table.records()) == records
        assert table.n_records == len(records)
        assert table.n_bytes == sum(len(value) for _, value in records)
        for key, value in records:
            assert table.find(key_hash(key), key, blocking=True) == value
            other: HotKey = "other" if isinstance(key, str) else 99
            assert table.find(key_hash(key), other, blocking=True) is None
        assert table.find(0, "absent", blocking=True) is None
        assert table.find(2**64 - 1, "absent", blocking=True) is None
        wanted = [(key_hash(key), key) for key, _ in reversed(records)]
        absent = [(0, "absent"), (2**64 - 1, "absent"), *((digest, "other") for digest, _ in wanted)]
        assert table.find_many(wanted + absent) == [value for _, value in reversed(records)] + [None] * len(absent)
        assert table.find_many(wanted[:1]) == [value for _, value in records[-1:]]
    checkpoint.release()


@packed_or_not
def test_keys_of_one_hash_are_told_apart_also_across_pages(
    packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warpstore.checkpoint.writer.xxh3_64_intdigest", lambda data: 7 if data != b"u00000" else 3)
    records = user_values(3 * PAGE_ENTRIES)
    table = (checkpoint := opened(write(tmp_path / "c", records, packed=packed))).tables[1]
    for key, value in records[1:]:
        assert table.find(7, key, blocking=True) == value
    assert table.find(3, "u00000", blocking=True) == records[0][1]
    assert table.find(7, "absent", blocking=True) is None
    wanted = [(7, key) for key, _ in records[1:]]
    assert table.find_many([*wanted, (7, "absent"), (3, "u00000")]) == [
        *(value for _, value in records[1:]),
        None,
        records[0][1],
    ]
    checkpoint.release()


def test_the_pages_kept_in_memory_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "PAGES_CACHED_MAX", 3)
    records = user_values(10 * PAGE_ENTRIES)
    table = (checkpoint := opened(write(tmp_path / "c", records))).tables[1]
    for key, value in random.Random(0).sample(records, 300):
        assert table.find(key_hash(key), key, blocking=True) == value
        assert len(table._pages) <= 3
    checkpoint.release()


@packed_or_not
def test_a_read_that_is_not_cached_would_block(tmp_path: Path, packed: bool) -> None:
    files = FaultyFiles()
    records = user_values(10)
    checkpoint = opened(write(tmp_path / "c", records, packed=packed), files)
    table = checkpoint.tables[1]
    files.nothing_cached = True
    key, value = records[3]
    assert table.find(key_hash(key), key, blocking=False) is WOULD_BLOCK
    assert table.find(key_hash(key), key, blocking=True) == value
    assert table.find(key_hash(key), key, blocking=False) is WOULD_BLOCK  # the page is kept, the record is not
    table.block_numbers(None, None)
    assert table.read_blocks(0, 1, blocking=False) is WOULD_BLOCK
    assert repr(WOULD_BLOCK) == "WOULD_BLOCK"
    files.nothing_cached = False
    assert table.find(key_hash(key), key, blocking=False) == value
    files.fail("read")
    with pytest.raises(ws.UnavailableError, match="offset"):
        table.find(key_hash(key), key, blocking=True)
    checkpoint.release()


@packed_or_not
def test_blocks_cover_the_keys_between_two_bounds(tmp_path: Path, packed: bool) -> None:
    records = user_values(3000, "x" * 60)
    table = (checkpoint := opened(write(tmp_path / "c", records, packed=packed))).tables[1]
    numbers = table.block_numbers(None, None)
    assert len(numbers) == table.n_blocks > 4
    for start, stop in ((None, "u00000"), ("u01000", "u01001"), ("a", "z"), ("u02999", None), ("z", "a")):
        inside = [key for key, _ in records if (start is None or start <= key) and (stop is None or key < stop)]  # type: ignore[operator]
        found: list[bytes] = []
        for number in table.block_numbers(start, stop):
            block = table.read_blocks(number, 1, blocking=True)
            assert isinstance(block, Rows)
            block.between(start, stop)
            found += block
        assert found == [value for key, value in records if key in set(inside)]
    checkpoint.release()


def everything(checkpoint: Checkpoint, keys: list[HotKey]) -> list[Any]:
    table = checkpoint.tables[1]
    return [list(table.records()), [table.find(key_hash(key), key, blocking=True) for key in keys]]


@packed_or_not
def test_every_flipped_bit_is_refused_or_without_effect(tmp_path: Path, packed: bool) -> None:
    records = user_values(40)
    path = write(tmp_path / "c", records, packed=packed)
    good = path.read_bytes()
    keys = [key for key, _ in records]
    expected = everything(checkpoint := opened(path), keys)
    checkpoint.release()
    n_refused = 0
    rng = random.Random(1)
    for byte in range(len(good)):
        data = bytearray(good)
        data[byte] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        try:
            checkpoint = opened(path)
            try:
                assert everything(checkpoint, keys) == expected
            finally:
                checkpoint.release()
        except ws.CorruptionError as error:
            assert str(path) in str(error)  # noqa: PT017
            n_refused += 1
    assert n_refused == len(good)


@pytest.mark.parametrize("n", [0, 1, 63, 64, 100, -1, -64])
def test_every_other_length_is_refused(n: int, tmp_path: Path) -> None:
    path = write(tmp_path / "c", user_values(40))
    path.write_bytes(path.read_bytes()[:n])
    with pytest.raises(ws.CorruptionError):
        opened(path)


def test_a_checkpoint_of_another_store_shard_or_version_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "c", user_values(3), shard=1)
    with pytest.raises(ws.CorruptionError, match="belongs to shard 1"):
        opened(path)
    with pytest.raises(ws.CorruptionError, match="another store"):
        Checkpoint.open(OsFileSystem(), str(path), store_id=bytes(16))
    with pytest.raises(ws.CorruptionError, match="missing"):
        opened(tmp_path / "absent")
    data = path.read_bytes()
    offset, size, _, salt, store_id = unpack_footer(data[-64:])
    directory: list[Any] = msgspec.msgpack.decode(data[offset : offset + size])
    directory[0] = 99
    changed = msgspec.msgpack.encode(directory)
    path.write_bytes(data[:offset] + changed + pack_footer(offset, changed, salt, store_id))
    with pytest.raises(ws.FormatVersionError, match="version 99"):
        Checkpoint.open(OsFileSystem(), str(path), store_id=STORE)


@pytest.mark.parametrize("body", [b"\xc1", b"\x91\x91\x01", b"\x80", b"\x91\x94\xa1\xff\x00\x00\x00"])
def test_a_block_root_that_is_none_is_damage_though_its_checksum_holds(body: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "c", user_values(3))

    def edit(root: bytearray) -> None:
        root[:] = body.ljust(len(root), b"\xc0")

    offset = stores.rewrite_root(path, "block_root", edit)
    checkpoint = opened(path)
    for read in (checkpoint.tables[1].load_block_root, lambda: list(checkpoint.tables[1].records())):
        with pytest.raises(ws.CorruptionError, match="the block root cannot be decoded") as error:
            read()
        assert (error.value.path, error.value.offset) == (str(path), offset)
    checkpoint.release()


def forge(path: Path, change: Callable[[list[Any]], None]) -> None:
    """Change the directory of a checkpoint, with right checksums."""
    data = path.read_bytes()
    offset, size, _, salt, store_id = unpack_footer(data[-64:])
    directory: list[Any] = msgspec.msgpack.decode(data[offset : offset + size])
    change(directory[3][0])
    changed = msgspec.msgpack.encode(directory)
    path.write_bytes(data[:offset] + changed + pack_footer(offset, changed, salt, store_id))


@pytest.mark.parametrize(
    ("field", "forged"),
    [
        (4, 1 << 60),
        (5, 1 << 40),
        (6, [0, 1 << 60]),
        (6, [1 << 60, 16]),
        (7, [0, 1 << 60]),
        (7, [1 << 62, 16]),
        (6, [0, 8]),
    ],
)
def test_a_forged_directory_asks_for_no_memory(field: int, forged: Any, tmp_path: Path) -> None:
    records = user_values(40)
    path = write(tmp_path / "c", records)

    def change(entry: list[Any]) -> None:
        entry[field] = forged

    forge(path, change)
    checkpoint = opened(path)
    with pytest.raises(ws.CorruptionError):
        everything(checkpoint, [records[0][0]])
    checkpoint.release()


def test_a_large_record_lies_in_no_block_with_others(tmp_path: Path) -> None:
    values = user_values(20)
    values[7] = USERS.encode(User(id="u00007", note="x" * 100_000))[1:]
    for packed in (False, True):
        table = (checkpoint := opened(write(tmp_path / f"{packed}", values, packed=packed))).tables[1]
        sizes = [len(list(table.payloads(number))) for number in table.block_numbers(None, None)]
        assert sizes == [7, 1, 12]
        assert everything(checkpoint, ["u00007"]) == [values, [values[7][1]]]
        checkpoint.release()


@packed_or_not
@pytest.mark.parametrize("header", [(9, 9, 9, 0), (1, 1, 2, 0), (0, 8, 4, 0), (4, 4, 0, 60)])
def test_an_index_page_that_is_none_is_damage_though_its_checksum_holds(
    header: tuple[int, ...], packed: bool, tmp_path: Path
) -> None:
    records = user_values(400)
    path = write(tmp_path / "c", records, packed=packed)

    def edit(page: bytearray) -> None:
        page[6:10] = bytes(header)

    offset = stores.rewrite_page(path, 0, edit)
    checkpoint = opened(path)
    key = min((key for key, _ in records), key=key_hash)
    with pytest.raises(ws.CorruptionError, match="the header of an index page is wrong") as error:
        checkpoint.tables[1].find(key_hash(key), key, blocking=True)
    assert (error.value.path, error.value.offset) == (str(path), offset)
    checkpoint.release()


@packed_or_not
def test_a_place_that_is_none_is_damage_and_asks_for_no_memory(packed: bool, tmp_path: Path) -> None:
    path = write(tmp_path / "c", [user_values(1)[0]], packed=packed)
    good = path.read_bytes()
    key = "u00000"
    for column in (1, 2):
        path.write_bytes(good)

        def edit(page: bytearray, column: int = column) -> None:
            page[6:10] = bytes([8, 8, page[8], page[9]])  # wide offsets and lengths
            at, width = stores.columns_of(page)[1][column]
            page[at : at + width] = (1 << 62).to_bytes(width, "little")

        stores.rewrite_page(path, 0, edit)
        checkpoint = opened(path)
        with pytest.raises(ws.CorruptionError, match="a record lies behind the end of the file"):
            checkpoint.tables[1].find(key_hash(key), key, blocking=True)
        checkpoint.release()


def test_rows_of_a_packed_block_that_are_none_are_damage(tmp_path: Path) -> None:
    checkpoint = opened(write(tmp_path / "c", [("a", b"\xc1"), ("b", b"\xc1")], packed=True))
    with pytest.raises(ws.CorruptionError, match="a row is no stored value"):
        checkpoint.tables[1].find(key_hash("a"), "a", blocking=True)
    checkpoint.release()


# Jobs


def job(path: Path, sources: list[Path], **changes: Any) -> CheckpointJob:
    shard = ShardJob(0, [(str(p), 0) for p in sources], (0, 256), 99, str(path), 5)
    made = CheckpointJob(
        store_id=STORE,
        logs=[],
        after=[0],
        upto=[0],
        tables=[TableJob(1, [1])],
        shards=[shard],
        dealt_anew=False,
        now_ms=0,
    )
    return msgspec.structs.replace(made, **changes)


def test_a_job_leaves_out_what_has_ended_and_tables_that_are_gone(tmp_path: Path) -> None:
    ended = [(key, with_deadline(value, 1000 + i)) for i, (key, value) in enumerate(user_values(4))]
    readings = [READINGS.encode(Reading(id=i))[1:] for i in range(3)]
    source = write(tmp_path / "old", ended, readings)
    result = run_job(OsFileSystem(), job(tmp_path / "new", [source], now_ms=1001))
    assert result.n_records == [2]
    checkpoint = opened(tmp_path / "new")
    assert sorted(checkpoint.tables) == [1]
    assert list(checkpoint.tables[1].records()) == ended[2:]
    assert checkpoint.tables[1].n_expiring == 2
    checkpoint.release()


def test_a_job_that_fails_leaves_no_file(tmp_path: Path) -> None:
    source = write(tmp_path / "old", user_values(40))
    data = bytearray(source.read_bytes())
    data[100] ^= 1
    source.write_bytes(data)
    with pytest.raises(ws.CorruptionError):
        run_job(OsFileSystem(), job(tmp_path / "new", [source]))
    with pytest.raises(ws.CorruptionError, match="missing"):
        run_job(OsFileSystem(), job(tmp_path / "new", [tmp_path / "absent"]))
    assert [p.name for p in tmp_path.iterdir()] == ["old"]


def test_a_job_is_data_that_another_process_can_read() -> None:
    made = job(Path("a"), [Path("b")])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=CheckpointJob) == made


async def test_a_child_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(ws.UnavailableError, match=r"the checkpoint failed: .*absent: the checkpoint is missing"):
        await run_in_child(job(tmp_path / "new", [tmp_path / "absent"]))
    assert list(tmp_path.iterdir()) == []


async def test_a_child_whose_caller_is_cancelled_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[asyncio.subprocess.Process] = []
    create = asyncio.create_subprocess_exec

    async def remember(*words: Any, **options: Any) -> asyncio.subprocess.Process:
        made.append(await create(*words, **options))
        return made[0]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", remember)
    write(tmp_path / "old", user_values(1000))
    task = asyncio.ensure_future(run_in_child(job(tmp_path / "new", [tmp_path / "old"])))
    await until(lambda: bool(made))
    await turns(3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert made[0].returncode == -signal.SIGKILL
