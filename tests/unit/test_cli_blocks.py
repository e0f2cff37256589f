"""The tools know the disk tier: records are shown whole, block files verified byte by byte, their use is told."""

import asyncio
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from typer.testing import CliRunner

import warpstore as ws
from tests.support import stores
from tests.support.worlds import User, World, collected, users
from wal import OsFileSystem
from warpstore import manifest as manifests
from warpstore.blocks.format import pack_block, pack_file_header, unpack_block_header, unpack_file_header
from warpstore.checkpoint import Checkpoint
from warpstore.checkpoint.format import BlockUse
from warpstore.cli.app import app
from warpstore.parts import Place, head_of, places_of, split_value
from warpstore.stored import LOADS_MAX, StoredReader
from warpstore.verification import Finding, verify

FILES = OsFileSystem()


class Doc(ws.Record):
    """A record with parts of three kinds."""

    id: Annotated[str, ws.Key()]
    n: int = 0
    text: Annotated[str, ws.Disk()] = ""
    raw: Annotated[bytes, ws.Disk(compression="none", cache=False)] = b""
    dense: Annotated[list[int], ws.Disk(compression="max")] = []


def doc(i: int, salt: int = 0) -> Doc:
    rng = random.Random(i + 1000 * salt)
    return Doc(
        id=f"d{i:04d}",
        n=i,
        text=f"{i} {salt} " * rng.randrange(20, 200),
        raw=rng.randbytes(rng.randrange(50, 900)),
        dense=[rng.randrange(1000) for _ in range(rng.randrange(60))],
    )


def docs(start: int, stop: int, salt: int = 0) -> list[Doc]:
    return [doc(i, salt) for i in range(start, stop)]


def fields(record: ws.Record) -> dict[str, Any]:
    return msgspec.structs.asdict(record)


def make_docs(path: Path, n: int = 300, **settings: Any) -> World:
    """Make a store with ``n`` records in a checkpoint, and their parts in block files."""

    async def fill(store: ws.Store) -> None:
        await store[Doc].put_many(docs(0, n))
        await store.checkpoint()

    return stores.make(path, fill, Doc, User, **settings)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of one shard with one block file."""
    make_docs(tmp_path / "store", shards=1)
    return tmp_path / "store"


def block_files(path: Path) -> list[Path]:
    return sorted((path / "blocks").glob("*.blk"))


def block_offsets(file: Path) -> list[int]:
    data, at, found = file.read_bytes(), 64, []
    while at < len(data):
        found.append(at)
        at += 32 + unpack_block_header(data[at : at + 32]).stored_bytes
    return found


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def check(path: Path, *options: str) -> dict[str, Any]:
    result = run("check", str(path), "--json", *options)
    report: dict[str, Any] = json.loads(result.stdout)
    assert result.exit_code == (1 if report["n_defects"] else 0)
    assert report["n_defects"] == sum(kind["n_defects"] for kind in report["files"].values())
    return report


def defects(path: Path) -> list[tuple[str, int, str]]:
    return [(Path(f["path"]).name, f["offset"], f["message"]) for f in check(path)["findings"] if f["is_defect"]]


class HookedFiles(OsFileSystem):
    """The real file system, with a call before each file that is opened."""

    def __init__(self, before: Callable[[str], None]) -> None:
        self._before = before

    def open(self, path: str) -> Any:
        self._before(path)
        return super().open(path)


class HookedReads(OsFileSystem):
    """The real file system, with a call before each read of a block file: the offset, and how many bytes."""

    def __init__(self, before: Callable[[int, int], None]) -> None:
        self._before = before

    def open(self, path: str) -> Any:
        file, before = super().open(path), self._before
        if not path.endswith(".blk"):
            return file

        class Hooked:
            path = file.path
            size, close = file.size, file.close

            def read(self, n_bytes: int, offset: int) -> bytes:
                before(offset, n_bytes)
                return file.read(n_bytes, offset)

        return Hooked()


# Reading


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("durability", ["fsync", "interval", "memory"])
def test_records_are_read_whole(shards: int, durability: Any, tmp_path: Path) -> None:
    rng = random.Random(shards)
    world = World(tmp_path / "store")
    expected: list[Doc] = []

    async def fill() -> None:
        async with world.open(Doc, User, shards=shards, durability=durability) as opened:
            for step in range(400):
                i = rng.randrange(120)
                if rng.random() < 0.2:
                    await opened[Doc].delete(doc(i).id)
                elif rng.random() < 0.2:
                    await opened[Doc].put(doc(i), ttl=rng.choice([50, 500]))
                else:
                    await opened[Doc].put(doc(i, step))
                if step in {150, 250}:
                    await opened.checkpoint()
            world.clock.advance(100)
            expected.extend(await collected(opened[Doc].scan()))

    asyncio.run(fill())
    assert block_files(Path(world.path))
    with StoredReader.open(world.path, lock=True, clock=world.clock) as stored:
        assert [record.fields for record in stored.records("doc")] == list(map(fields, expected))
        for record in expected:
            found = stored.get("doc", record.id)
            assert found is not None
            assert found.fields == fields(record)
        assert stored.get("doc", "absent") is None
        prefixed = [record.fields for record in stored.records("doc", prefix="d001")]
        assert prefixed == [fields(record) for record in expected if record.id.startswith("d001")]
    world.assert_nothing_left()
    assert defects(Path(world.path)) == []


def test_what_dump_and_get_print_has_the_parts(store: Path) -> None:
    lines = run("dump", str(store), "doc").stdout.splitlines()
    assert [json.loads(line)["text"] for line in lines] == [d.text for d in docs(0, 300)]
    assert json.loads(run("get", str(store), "doc", "d0007").stdout)["dense"] == doc(7).dense
    assert run("compact", str(store)).exit_code == 0
    assert run("dump", str(store), "doc").stdout.splitlines() == lines


def test_a_read_by_key_reads_the_blocks_of_that_record_alone(store: Path) -> None:
    read: list[tuple[int, int]] = []

    (file,) = block_files(store)
    offsets = block_offsets(file)
    assert len(offsets) > 10
    files = HookedReads(lambda offset, n_bytes: read.append((offset, n_bytes)))
    with StoredReader.open(store, lock=True, files=files) as stored:
        found = stored.get("doc", doc(150).id)
    assert found is not None
    assert found.fields == fields(doc(150))
    begun = [offset for offset, _ in read if offset in offsets]
    assert len(begun) == len(set(begun)) == 3
    ends = dict(zip(offsets, [*offsets[1:], file.stat().st_size], strict=True))
    inside = [range(offset, ends[offset]) for offset in begun]
    rest = [offset for offset, _ in read if offset not in {0, *begun}]
    assert all(any(offset in block for block in inside) for offset in rest)
    assert len(rest) <= len(begun)


def test_a_pass_over_all_reads_each_block_once_also_of_fields_that_are_not_cached(store: Path) -> None:
    offsets: list[int] = []

    files = HookedReads(lambda offset, _: offsets.append(offset))
    with StoredReader.open(store, lock=True, files=files) as stored:
        assert len(list(stored.records("doc"))) == 300
    blocks = block_offsets(block_files(store)[0])
    assert len(offsets) == len(set(offsets))
    assert set(blocks) <= set(offsets)
    assert len(offsets) <= 1 + 2 * len(blocks)


def test_block_files_that_the_owner_replaces_meanwhile_have_the_state_loaded_again(tmp_path: Path) -> None:
    old, new, path = tmp_path / "old", tmp_path / "new", tmp_path / "store"
    make_docs(old, shards=1)
    shutil.copytree(old, new)

    async def more(opened: ws.Store) -> None:
        await opened[Doc].put_many(docs(0, 280, salt=1))
        await opened.checkpoint()
        await opened.checkpoint()

    stores.make(new, more, Doc, User)
    assert block_files(old)[0].name not in {file.name for file in block_files(new)}
    shutil.copytree(old, path)
    swap_at = 1
    n_opened = 0

    def swap(opened: str) -> None:
        nonlocal n_opened
        n_opened += opened.endswith(".blk")
        if opened.endswith(".blk") and n_opened == swap_at:
            shutil.rmtree(path)
            shutil.copytree(new, path)

    with StoredReader.open(path, lock=False, files=HookedFiles(swap)) as stored:
        found = [record.fields for record in stored.records("doc")]
        assert found == list(map(fields, [*docs(0, 280, salt=1), *docs(280, 300)]))
    findings: list[Finding] = []
    for swap_at in (1, 2):  # when the files are counted, and when the checkpoint is open
        shutil.rmtree(path)
        shutil.copytree(old, path)
        n_opened = 0
        with StoredReader.open(path, lock=False, files=HookedFiles(swap)) as stored:
            verify(stored, findings.append, lambda _: None)
        assert findings == []
        assert n_opened > swap_at
    shutil.rmtree(path)
    shutil.copytree(old, path)
    with StoredReader.open(path, lock=False) as stored:
        records = stored.records("doc")
        first = next(records)
        for file in block_files(path):  # as an owner removes them; who holds them reads on
            file.unlink()
        assert [first.fields, *(record.fields for record in records)] == list(map(fields, docs(0, 300)))


def test_an_owner_that_has_fewer_shards_meanwhile_is_no_defect(tmp_path: Path) -> None:
    old, new, path = tmp_path / "old", tmp_path / "new", tmp_path / "store"
    make_docs(old, shards=3)
    make_docs(new, shards=1)
    findings: list[Finding] = []
    for swap_at in range(1, 7):
        shutil.copytree(old, path)
        n_opened = 0

        def swap(opened: str, at: int = swap_at) -> None:
            nonlocal n_opened
            n_opened += opened.endswith(".blk")
            if opened.endswith(".blk") and n_opened == at:
                shutil.rmtree(path)
                shutil.copytree(new, path)

        with StoredReader.open(path, lock=False, files=HookedFiles(swap)) as stored:
            verify(stored, findings.append, lambda _: None)
        assert findings == []
        shutil.rmtree(path)


def test_a_missing_block_file_is_named_by_every_command(store: Path) -> None:
    (file,) = block_files(store)
    file.unlink()
    for command in (["dump", str(store), "doc"], ["get", str(store), "doc", "d0001"], ["info", str(store)]):
        result = run(*command)
        assert result.exit_code == 1
        assert f"{file}: the block file is missing" in result.stderr
    assert defects(store) == [(file.name, 0, "the block file is missing")]
    assert check(store, "--live")["n_defects"] == 1
    n_opened = 0

    def count(opened: str) -> None:
        nonlocal n_opened
        n_opened += opened == str(file)

    with (
        StoredReader.open(store, lock=False, files=HookedFiles(count)) as stored,
        pytest.raises(ws.CorruptionError, match="the block file is missing"),
    ):
        list(stored.records("doc"))
    assert n_opened == LOADS_MAX


# Verification of the bytes


def test_an_intact_store_with_block_files_has_no_defect(store: Path) -> None:
    before = stores.files_of(store)
    report = check(store)
    assert (report["ok"], report["findings"]) == (True, [])
    assert report["files"]["block"]["files"] == 1
    assert report["files"]["block"]["verified"]
    assert stores.files_of(store) == before


def test_every_byte_of_a_block_files_headers_is_covered(store: Path) -> None:
    (file,) = block_files(store)
    good = file.read_bytes()
    block = block_offsets(file)[2]
    for offset in (*range(0, 64, 3), *range(block, block + 32)):
        stores.flip(file, offset)
        ((name, at, message),) = defects(store)
        assert (name, at) == (file.name, 0 if offset < 64 else block), offset
        assert message
        file.write_bytes(good)


def test_every_block_is_covered_and_named_by_its_offset(store: Path) -> None:
    (file,) = block_files(store)
    good = file.read_bytes()
    for block in block_offsets(file):
        length = unpack_block_header(good[block : block + 32]).stored_bytes
        for offset in (block + 32, block + 31 + length):
            stores.flip(file, offset)
            assert defects(store) == [(file.name, block, "the checksum of the block is wrong")]
            file.write_bytes(good)
    result = run("dump", str(store), "doc")
    assert result.exit_code == 0
    stores.flip(file, block_offsets(file)[0] + 40)
    result = run("dump", str(store), "doc")
    assert result.exit_code == 1
    assert f"{file}: offset 64: the checksum of the block is wrong" in result.stderr
    result = run("check", str(store))
    assert result.exit_code == 1
    assert f"defect: {file}: offset 64: the checksum of the block is wrong\n" in result.stdout


def test_damaged_blocks_are_all_named_and_hide_nothing_behind_them(store: Path) -> None:
    (file,) = block_files(store)
    blocks = block_offsets(file)
    stores.flip(file, blocks[0] + 50)
    stores.flip(file, blocks[2] + 5)  # how many bytes are stored
    stores.flip(file, blocks[3] + 20)  # what has to be zero
    stores.flip(file, blocks[-2] + 50)
    stores.flip(file, blocks[-1] + 50)
    assert [(at, message) for _, at, message in defects(store)] == [
        (blocks[0], "the checksum of the block is wrong"),
        (blocks[2], "the checksum of the block is wrong"),
        (blocks[-2], "the checksum of the block is wrong"),
        (blocks[-1], "the checksum of the block is wrong"),
    ]
    stores.flip(file, blocks[2] + 5)
    assert (file.name, blocks[3], "the block's header is damaged") in defects(store)


def test_bytes_behind_the_last_block_and_a_torn_end_are_named(store: Path) -> None:
    (file,) = block_files(store)
    good = file.read_bytes()
    last = block_offsets(file)[-1]
    for extra in (b"x", b"\0" * 500, good[64:300], b"y" * 40):
        file.write_bytes(good + extra)
        assert defects(store) == [(file.name, len(good), f"{len(extra)} bytes behind the last block")]
    for cut, message in (
        (last + 10, "the block's header is cut off"),
        (last + 40, "the file ends within the block"),
        (len(good) - 1, "the file ends within the block"),
    ):
        file.write_bytes(good[:cut])
        assert defects(store) == [(file.name, last, message)]
    file.write_bytes(good[:last])
    found = defects(store)
    checkpoint = stores.checkpoint_file(store).name
    assert {name for name, _, _ in found} == {checkpoint}
    assert any(f"no block begins at offset {last}" in message for _, _, message in found)
    assert any("bytes, the directory says" in message for _, _, message in found)
    file.write_bytes(good[:30])
    assert defects(store) == [(file.name, 0, "this is no header of a block file")]
    file.write_bytes(b"")
    assert defects(store) == [(file.name, 0, "this is no header of a block file")]


def test_a_header_of_another_store_number_or_version_is_named(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file,) = block_files(store)
    good = file.read_bytes()
    _, number, salt, store_id = unpack_file_header(good[:64])
    for header in (pack_file_header(number + 1, salt, store_id), pack_file_header(number, salt, bytes(16))):
        file.write_bytes(header + good[64:])
        assert defects(store) == [(file.name, 0, "the block file belongs to another store, or has another's name")]
    file.write_bytes(pack_file_header(number, salt + 1, store_id) + good[64:])
    assert defects(store) == [(file.name, 64, "the checksum of the block is wrong")]
    monkeypatch.setattr("warpstore.blocks.format.FORMAT_VERSION", 2)
    newer = pack_file_header(number, salt, store_id)
    monkeypatch.undo()
    file.write_bytes(newer + good[64:])
    ((_, _, message),) = defects(store)
    assert message.startswith("format version 2, ")


def forge_block(file: Path, items: list[bytes]) -> int:
    """Write the last block anew with other items; return its offset."""
    data = file.read_bytes()
    offset = block_offsets(file)[-1]
    salt = unpack_file_header(data[:64])[2]
    file.write_bytes(data[:offset] + pack_block(salt, offset, items, "none", 0, cache=True))
    return offset


def test_items_that_are_not_all_that_a_block_holds_are_named(store: Path) -> None:
    class Long(bytes):
        def __len__(self) -> int:
            return super().__len__() + 1

    (file,) = block_files(store)
    offset = forge_block(file, [b"a", Long(b"b")])
    assert (file.name, offset, "the ends of the block's items are wrong") in defects(store)
    forge_block(file, [])
    assert (file.name, offset, "the block has no items") in defects(store)


def test_a_file_that_cannot_be_read_is_a_finding(store: Path) -> None:
    def refuse(offset: int, _: int) -> None:
        if offset > 0:
            raise OSError(5, "Input/output error")

    found: list[Finding] = []
    with StoredReader.open(store, lock=True, files=HookedReads(refuse)) as stored:
        verify(stored, found.append, lambda _: None)
    (finding,) = found
    assert finding.path == str(block_files(store)[0])
    assert "Input/output error" in finding.message
    n_reads = 0

    def refuse_later(offset: int, _: int) -> None:
        nonlocal n_reads
        n_reads += 1
        if n_reads > 2 + 2 * len(block_offsets(block_files(store)[0])):  # the second pass, by the records' places
            raise OSError(5, "Input/output error")

    found.clear()
    with StoredReader.open(store, lock=True, files=HookedReads(refuse_later)) as stored:
        verify(stored, found.append, lambda _: None)
    (finding,) = found
    assert "Input/output error" in finding.message
    (file,) = block_files(store)
    file.unlink()
    file.mkdir()
    assert [name for name, _, _ in defects(store)] == [file.name]


# Verification of what they say of each other


def rows_and_uses(path: Path) -> tuple[list[tuple[Any, bytes]], list[BlockUse]]:
    checkpoint = Checkpoint.open(
        FILES, str(stores.checkpoint_file(path)), store_id=manifests.read(FILES, str(path)).id_bytes
    )
    try:
        return list(checkpoint.tables[1].records()), list(checkpoint.blocks)
    finally:
        checkpoint.release()


def with_places(value: bytes, change: Callable[[list[Place]], list[Place]]) -> bytes:
    """Return a split value with other places."""
    n_elements = int.from_bytes(value[2:4], "little")
    head = bytearray(head_of(value))
    first = head[0] & 0x0F
    head[0] = 0x90 | n_elements
    return split_value(bytes(head), first, change(places_of(value)))


def moved(**changes: int) -> Callable[[list[Place]], list[Place]]:
    return lambda places: [places[0]._replace(**changes), *places[1:]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (moved(file=7), "the record has a part in the block file 00000007.blk, which the directory lacks"),
        (moved(offset=65), "no block begins at offset 65"),
        (moved(offset=1 << 39), f"no block begins at offset {1 << 39}"),
        (moved(offset=0), "no block begins at offset 0"),
        (moved(item=5000), "items, and no item 5000"),
        (lambda places: [places[0]._replace(size=places[0].size + 1), *places[1:]], "its size is wrong"),
        (lambda places: places[:2], "the record has 2 parts, its schema has 3"),
        (lambda places: [places[0], places[1], places[0]], "is that of another record, too"),
    ],
)
def test_a_place_that_names_nothing_or_another_part_is_named(change: Any, message: str, store: Path) -> None:
    rows, uses = rows_and_uses(store)
    key, value = rows[5]
    rows[5] = key, with_places(value, change)
    stores.replace_checkpoint(store, 1, rows, blocks=uses)
    found = defects(store)
    checkpoint = stores.checkpoint_file(store)
    assert any(name == checkpoint.name and message in text for name, _, text in found), found
    at = next(at for _, at, text in found if message in text)
    assert checkpoint.read_bytes()[at : at + len(rows[5][1])] == rows[5][1]


def test_a_part_of_another_record_is_named(store: Path) -> None:
    rows, uses = rows_and_uses(store)
    (_, other), (key, value) = rows[5], rows[6]
    theirs = places_of(other)
    rows[6] = key, with_places(value, lambda _: theirs)
    more = sum(place.n_bytes for place in theirs) - sum(place.n_bytes for place in places_of(value))
    uses = [msgspec.structs.replace(use, n_live=use.n_live + more) for use in uses]
    stores.replace_checkpoint(store, 1, rows, blocks=uses)
    messages = [message for _, _, message in defects(store)]
    assert len(messages) == 3
    assert all("is that of another record, too" in message for message in messages)


def test_a_record_that_is_none_with_its_parts_is_named(store: Path) -> None:
    rows, uses = rows_and_uses(store)
    key, value = rows[5]
    note = bytearray(value)
    note[2] += 1  # the elements of the whole array
    rows[5] = key, bytes(note)
    stores.replace_checkpoint(store, 1, rows, blocks=uses)
    ((_, _, message),) = defects(store)
    assert message.startswith("with its parts: the record is no MessagePack")


def test_numbers_of_the_directory_and_lists_that_differ_are_named(store: Path) -> None:
    rows, (use,) = rows_and_uses(store)
    assert use.n_live == use.n_bytes
    n = use.n_bytes
    checkpoint = stores.checkpoint_file(store)
    name = block_files(store)[0].name
    for other, message in (
        (
            BlockUse(use.number, n + 1, n),
            f"the parts in the block file {name} take {n} bytes, the directory says {n + 1}",
        ),
        (
            BlockUse(use.number, n, n - 1),
            f"the records' parts in the block file {name} take {n} bytes, the directory says {n - 1}",
        ),
    ):
        stores.replace_checkpoint(store, 1, rows, blocks=[other])
        assert defects(store) == [(checkpoint.name, 0, message)]
    stores.replace_checkpoint(store, 1, rows[1:], blocks=[use])
    left = n - sum(place.n_bytes for place in places_of(rows[0][1]))
    message = f"the records' parts in the block file {name} take {left} bytes, the directory says {n}"
    assert defects(store) == [(checkpoint.name, 0, message)]
    stores.replace_checkpoint(store, 1, rows, blocks=[BlockUse(use.number, n - 1, n)])
    stores.flip(block_files(store)[0], 100)  # a file that is damaged leaves a bound
    message = f"the directory says that of {n - 1} bytes in the block file {name} {n} are of use"
    assert (checkpoint.name, 0, message) in defects(store)
    stores.flip(block_files(store)[0], 100)
    stores.replace_checkpoint(store, 1, rows, blocks=[use, use])
    messages = {message for _, _, message in defects(store)}
    assert messages == {
        "the directory lists other block files than the manifest",
        "the directory lists a block file twice",
    }
    stores.replace_checkpoint(store, 1, rows, blocks=[use])
    entry = manifests.read(FILES, str(store)).shards[0]
    stores.change_manifest(store, shards=[msgspec.structs.replace(entry, blocks=[])])
    report = check(store)
    assert [(f["message"], f["is_defect"]) for f in report["findings"]] == [
        ("the directory lists other block files than the manifest", True),
        ("no checkpoint uses this file; opening removes it", False),
    ]
    stores.change_manifest(store, shards=[msgspec.structs.replace(entry, blocks=[use.number, 9])])
    assert ("00000009.blk", 0, "the block file is missing") in defects(store)


def test_a_split_record_in_a_table_without_parts_is_named(store: Path) -> None:
    rows, uses = rows_and_uses(store)
    key, value = rows[0]
    head = bytearray(head_of(value))
    assert head[1] == 1
    head[1] = 2  # the tag of users
    split = value[: 2 + value[1]] + bytes(head)
    stores.replace_checkpoint(store, 2, [(key, split)], blocks=uses)
    assert "the record has 3 parts, its schema has 0" in {message for _, _, message in defects(store)}


def test_a_head_or_a_note_that_is_damaged_is_named(store: Path) -> None:
    rows, uses = rows_and_uses(store)
    (first, value), (second, other), (third, another) = rows[:3]
    note = bytearray(value)
    note[1] -= 1  # how long it is
    rows[0] = first, bytes(note[: 2 + note[1]]) + head_of(value)
    rows[1] = second, other[:-1] + b"\xa1\xff"  # n is no text
    head = bytearray(head_of(another))
    head[0] += 1
    rows[2] = third, another[: 2 + another[1]] + bytes(head) + b"\x05"
    stores.replace_checkpoint(store, 1, rows, blocks=uses)
    messages = {message for _, _, message in defects(store)}
    assert any(m.startswith("the head of the record is damaged: the places") for m in messages)
    assert sum(m.startswith("the head of the record is damaged: ") for m in messages) == 2
    assert "the head of the record has 4 elements, its schema has 3" in messages


def test_damage_of_a_checkpoint_does_not_keep_its_block_files_from_being_verified(store: Path) -> None:
    checkpoint = stores.checkpoint_file(store)
    (file,) = block_files(store)
    last = block_offsets(file)[-1]
    stores.flip(file, last + 40)
    good = checkpoint.read_bytes()
    damage = file.name, last, "the checksum of the block is wrong"
    entry = stores.directory_of(checkpoint)[0].tables[0]
    for offset in (10, entry.block_root[0] + 9, len(good) - 10):
        stores.flip(checkpoint, offset)
        found = defects(store)
        assert damage in found
        assert len(found) == 2
        checkpoint.write_bytes(good)


def test_stray_block_files_are_notes_and_spare(store: Path) -> None:
    stray = store / "blocks/00abcdef.blk"
    stray.write_bytes(b"x" * 100)
    (store / "blocks/README").write_bytes(b"")
    report = check(store)
    (finding,) = report["findings"]
    assert (report["ok"], finding["path"], finding["is_defect"]) == (True, str(stray), False)
    assert check(store, "--live")["findings"] == []
    facts = json.loads(run("info", str(store), "--json").stdout)
    assert facts["files"]["block"]["files"] == 1
    assert facts["files"]["spare"]["bytes"] >= 100
    stray.unlink()
    shutil.rmtree(store / "blocks")
    assert [message for _, _, message in defects(store)] == ["the block file is missing"]


def test_a_live_check_beside_an_owner_verifies_block_files(store: Path) -> None:
    async def beside() -> None:
        async with World(store).open(Doc) as opened:
            await opened[Doc].put_many(docs(0, 10, salt=3))
            await opened.checkpoint()
            report = check(store, "--live")
            assert (report["ok"], report["files"]["block"]["verified"]) == (True, True)
            assert report["files"]["block"]["files"] == 2
            stores.flip(block_files(store)[1], 100)
            assert check(store, "--live")["n_defects"] == 1
            stores.flip(block_files(store)[1], 100)

    asyncio.run(beside())


def test_files_that_several_shards_share_are_gone_through_once(tmp_path: Path) -> None:
    path = tmp_path / "store"
    make_docs(path, shards=2)

    async def nothing(opened: ws.Store) -> None:
        assert await opened[Doc].count() == 300

    stores.make(path, nothing, Doc, shards=8)
    uses = [entry.blocks for entry in manifests.read(FILES, str(path)).shards]
    assert len(uses) > len({number for numbers in uses for number in numbers})
    assert defects(path) == []
    with StoredReader.open(path, lock=True) as stored:
        assert [record.fields for record in stored.records("doc")] == list(map(fields, docs(0, 300)))
        assert all(count.useless == 0 for count in stored.block_counts().values())
    file = block_files(path)[0]
    stores.flip(file, 100)
    assert defects(path) == [(file.name, 64, "the checksum of the block is wrong")]
    file.unlink()
    assert defects(path) == [(file.name, 0, "the block file is missing")]


# What block files take


def test_info_shows_files_bytes_and_what_is_useless(store: Path) -> None:
    (file,) = block_files(store)
    rows, (use,) = rows_and_uses(store)
    parts = sum(place.n_bytes for _, value in rows for place in places_of(value))
    assert 0.95 * file.stat().st_size < parts == use.n_bytes <= file.stat().st_size
    replaced = sum(place.n_bytes for _, value in [*rows[:30], rows[40]] for place in places_of(value))
    for options in ([], ["--quick"]):
        facts = json.loads(run("info", str(store), "--json", *options).stdout)
        assert facts["shards"][0]["blocks"] == {
            "files": 1,
            "bytes": file.stat().st_size,
            "part_bytes": parts,
            "live_bytes": parts,
            "useless": 0.0,
        }
        assert facts["files"]["block"] == {"files": 1, "bytes": file.stat().st_size}

    async def change(opened: ws.Store) -> None:
        await opened[Doc].put_many(docs(0, 30, salt=1))
        await opened[Doc].delete(doc(40).id)
        await opened.checkpoint()

    stores.make(store, change, Doc)
    (blocks,) = (shard["blocks"] for shard in json.loads(run("info", str(store), "--json").stdout)["shards"])
    assert blocks["files"] == 2
    assert blocks["bytes"] == sum(file.stat().st_size for file in block_files(store))
    assert blocks["part_bytes"] - blocks["live_bytes"] == replaced
    assert blocks["useless"] == pytest.approx(replaced / blocks["part_bytes"], abs=1e-4)
    shown = run("info", str(store)).stdout
    assert "block files" in shown
    assert f"{blocks['useless']:.1%}" in shown


def test_info_of_a_store_without_block_files_does_not_mention_them(tmp_path: Path) -> None:
    stores.make_users(tmp_path / "store", 5)
    assert "block files" not in run("info", str(tmp_path / "store")).stdout
    facts = json.loads(run("info", str(tmp_path / "store"), "--json").stdout)
    assert all(shard["blocks"]["files"] == 0 for shard in facts["shards"])

    async def more(opened: ws.Store) -> None:
        await opened[User].put_many(users(0, 5))

    stores.make(tmp_path / "other", more, Doc, User)
    assert defects(tmp_path / "other") == []
