"""``warpstore check`` names every damaged byte by file and offset, and changes none."""

import asyncio
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

import warpstore as ws
from tests.support import stores
from tests.support.worlds import Reading, User, World, users
from wal import OsFileSystem, Segments, replay
from wal.format import split_position
from wal.reader import SegmentReader, read_header
from warpstore import manifest as manifests
from warpstore.checkpoint.format import FOOTER_BYTES
from warpstore.cli.app import app
from warpstore.record import plan_of
from warpstore.stored import StoredReader
from warpstore.values import tombstone
from warpstore.verification import Finding, verify
from warpstore.verification.record_rules import RecordRules

FILES = OsFileSystem()


def check(path: Path, *options: str) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(app, ["check", str(path), "--json", *options], catch_exceptions=False)
    assert result.exit_code in {0, 1}, result.output
    return result.exit_code, json.loads(result.stdout)


def defects(path: Path) -> list[tuple[str, int, str]]:
    code, report = check(path)
    found = [(Path(f["path"]).name, f["offset"], f["message"]) for f in report["findings"] if f["is_defect"]]
    assert code == (1 if found else 0)
    assert report["ok"] is not bool(found)
    assert report["n_defects"] == len(found) == sum(kind["n_defects"] for kind in report["files"].values())
    return found


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of one shard whose users are in a checkpoint."""
    path = tmp_path / "store"
    stores.make_users(path, shards=1)
    return path


@pytest.fixture
def log_store(tmp_path: Path) -> Path:
    """A store whose records are in several segments of its log, and in no checkpoint."""

    async def fill(opened: ws.Store) -> None:
        for i in range(20):
            await opened[User].put_many(users(50 * i, 50 * i + 50, note="x" * 200))

    stores.make(tmp_path / "store", fill, shards=2)
    return tmp_path / "store"


def segments(path: Path) -> list[Path]:
    return sorted((path / "log/000").glob("*.wal"))


def frame_offsets(path: Path, segment: Path) -> list[int]:
    file = FILES.open(str(segment))
    header = read_header(file, store_id=manifests.read(FILES, str(path)).id_bytes, lane=0)
    found = [frame.offset for frame in SegmentReader(header, file.read(1 << 30, 0))]
    file.close()
    return found


def test_an_intact_store_has_no_defect_and_is_not_changed(store: Path, log_store: Path) -> None:
    for path in (store, log_store):
        before = stores.files_of(path)
        code, report = check(path)
        assert (code, report["ok"], report["findings"]) == (0, True, [])
        assert all(kind["verified"] for kind in report["files"].values())
        assert list(report["files"]) == ["manifest", "log", "checkpoint", "block", "series", "rollback"]
        assert stores.files_of(path) == before


def test_every_region_of_a_checkpoint_is_covered(store: Path) -> None:
    checkpoint = stores.checkpoint_file(store)
    good = checkpoint.read_bytes()
    for offset in range(0, len(good), 997):
        stores.flip(checkpoint, offset)
        assert defects(store)[0][0] == checkpoint.name, offset
        checkpoint.write_bytes(good)


def test_each_part_of_a_checkpoint_is_named_by_its_offset(store: Path) -> None:
    checkpoint = stores.checkpoint_file(store)
    directory, _ = stores.directory_of(checkpoint)
    entry = directory.tables[0]
    end = checkpoint.stat().st_size - FOOTER_BYTES
    name = checkpoint.name
    for offset, part, message in (
        (10, 0, "the checksum of a block is wrong"),
        (entry.pages_offset + 4096 + 50, entry.pages_offset + 4096, "the checksum of an index page is wrong"),
        (entry.page_root[0] + 9, entry.page_root[0], "the checksum of a root is wrong"),
        (entry.block_root[0] + 9, entry.block_root[0], "the checksum of a root is wrong"),
        (end - 2, end, "the checksum of the directory is wrong"),
        (end + 20, end, "the checksum of the footer is wrong"),
    ):
        stores.flip(checkpoint, offset)
        found = defects(store)
        assert found[0] == (name, part, message)
        assert len(found) == 1
        stores.flip(checkpoint, offset)


def test_all_damaged_parts_are_named_at_once(store: Path) -> None:
    checkpoint = stores.checkpoint_file(store)
    entry = stores.directory_of(checkpoint)[0].tables[0]
    for offset in (10, entry.pages_offset + 10, entry.page_root[0] + 9):
        stores.flip(checkpoint, offset)
    assert {offset for _, offset, _ in defects(store)} == {0, entry.pages_offset, entry.page_root[0]}


def test_an_index_entry_with_another_checksum_is_named(store: Path) -> None:
    def edit(page: bytearray) -> None:
        _, (*_, (crcs, _)) = stores.columns_of(page)
        page[crcs] ^= 1

    checkpoint = stores.checkpoint_file(store)
    stores.rewrite_page(checkpoint, 0, edit)
    ((_, _, message),) = defects(store)
    assert message == "the index has another checksum for the record"


def test_a_record_that_the_index_lacks_and_an_entry_without_a_record_are_named(store: Path) -> None:
    def edit(page: bytearray) -> None:
        _, (_, _, (lengths, _), _) = stores.columns_of(page)
        page[lengths] ^= 1  # of the first entry's record

    checkpoint = stores.checkpoint_file(store)
    page = stores.rewrite_page(checkpoint, 1, edit)
    messages = {message.split(" at offset")[0]: offset for _, offset, message in defects(store)}
    assert set(messages) == {"the record is not found through the index", "the index names a record"}
    _, (_, (offsets, _), *_) = stores.columns_of(checkpoint.read_bytes()[page:])
    assert messages["the index names a record"] == page + offsets


def test_an_index_out_of_order_is_named(store: Path) -> None:
    def edit(page: bytearray) -> None:
        _, ((ranks, _), *_) = stores.columns_of(page)
        page[ranks + 4 : ranks + 8], page[ranks + 8 : ranks + 12] = (
            page[ranks + 8 : ranks + 12],
            page[ranks + 4 : ranks + 8],
        )

    page = stores.rewrite_page(stores.checkpoint_file(store), 0, edit)
    found = defects(store)
    assert (stores.checkpoint_file(store).name, page, "the hashes of the index page are not in order") in found


def test_an_entry_twice_is_named(store: Path) -> None:
    def edit(page: bytearray) -> None:
        _, columns = stores.columns_of(page)
        for start, width in columns:
            page[start + width : start + 2 * width] = page[start : start + width]

    stores.rewrite_page(stores.checkpoint_file(store), 0, edit)
    messages = " ".join(message for _, _, message in defects(store))
    assert "the record is not found through the index" in messages
    assert "two index entries name the record" in messages


def user_values(tag: int, keys: list[str]) -> list[tuple[Any, bytes]]:
    codec = plan_of(User).bind(tag)
    return [codec.encode(User(id=key))[1:] for key in keys]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (user_values(1, ["b", "a"]), "the key of the record is not greater than that before it"),
        (user_values(1, ["a", "a"]), "the key of the record is not greater than that before it"),
        (user_values(99, ["a"]), "the record has the tag 99, which no schema was given"),
        (user_values(2, ["a"]), "the record is one of table 'reading'"),
        ([("a", b"\x93\x01\xa1a\x05")], "the record has 2 fields, its schema has 4"),
        ([("a", b"\x95\x01\xa1a\x05\xa1\xff\x90")], "the record is no MessagePack"),
        ([(5, b"\x95\x01\x05\x00\xa0\x90")], "the key is of another type than str"),
        ([("a", b"\xa1a")], "the record cannot be decoded"),
        ([("a", b"\x92\x01\x90")], "the key is none"),
        ([("b", user_values(1, ["a"])[0][1])], "the block root names another first key for the block"),
    ],
)
def test_what_is_wrong_with_a_record_is_named(records: list[tuple[Any, bytes]], message: str, store: Path) -> None:
    checkpoint = stores.replace_checkpoint(store, 1, records)
    found = defects(store)
    assert any(text.startswith(message) and name == checkpoint.name for name, _, text in found), found


def test_a_record_in_the_checkpoint_of_another_shard_is_named(tmp_path: Path) -> None:
    path = tmp_path / "store"
    stores.make_users(path, shards=4)
    stores.replace_checkpoint(path, 1, user_values(1, [f"u{i:04d}" for i in range(30)]), shard=2)
    assert {message for _, _, message in defects(path)} == {"the record does not belong to shard 2"}


def test_a_table_number_that_was_never_given_is_named(store: Path) -> None:
    stores.replace_checkpoint(store, 50, user_values(1, ["a"]))
    assert "it has records of table number 50, which no table was given" in {m for _, _, m in defects(store)}


def test_a_missing_checkpoint_and_one_of_another_lsn_are_named(store: Path) -> None:
    checkpoint = stores.checkpoint_file(store)
    shard = manifests.read(FILES, str(store)).shards[0]
    stores.change_manifest(store, shards=[manifests.CheckpointManifest(shard.name, shard.lsn + 1)], clean_lsns=[])
    assert any("the manifest says" in message for _, _, message in defects(store))
    checkpoint.unlink()
    assert (checkpoint.name, 0, "the checkpoint is missing") in defects(store)


def test_damage_in_several_segments_is_named_each_by_its_frame(log_store: Path) -> None:
    first, second, *_ = segments(log_store)
    offsets = [frame_offsets(log_store, segment)[1] for segment in (first, second)]
    stores.flip(first, offsets[0] + 60)
    stores.flip(second, offsets[1] + 60)
    damage = "what stood here was durable, and is damaged"
    assert defects(log_store) == [(first.name, offsets[0], damage), (second.name, offsets[1], damage)]


def test_a_damaged_header_does_not_hide_the_damage_behind_it(log_store: Path) -> None:
    first, second, third, *_ = segments(log_store)
    offset = frame_offsets(log_store, third)[0]
    stores.flip(second, 30)
    stores.flip(third, offset + 60)
    assert [(name, at) for name, at, _ in defects(log_store)] == [(second.name, 0), (third.name, offset)]
    assert first.exists()


def test_a_missing_segment_is_named(log_store: Path) -> None:
    _, second, *_ = segments(log_store)
    second.unlink()
    assert (second.name, 0, "the segment is missing") in defects(log_store)


def test_a_missing_folder_of_the_log_is_named(store: Path) -> None:
    for file in (store / "log/000").iterdir():
        file.unlink()
    assert [message for _, _, message in defects(store)] == ["the segment is missing"]
    (store / "log/000").rmdir()
    assert [message for _, _, message in defects(store)] == ["the folder of the log is missing"]


def test_a_record_in_the_log_that_cannot_be_decoded_is_named_by_its_frame(log_store: Path) -> None:
    manifest = manifests.read(FILES, str(log_store))
    number = manifest.lanes[0].first
    made = Segments(
        FILES, str(log_store / "log/000"), store_id=manifest.id_bytes, lane=0, epoch=1, zero_fill=False, salt=lambda: 5
    )
    good, bad = tombstone(1, "u0000"), b"\xc0nonsense"
    shard = next(s for s in (0, 1) if not _misplaced(log_store, good, s))
    made.make(number, 65536, durable=0, groups=[(shard, 1, [good, bad])]).file.close()
    found = defects(log_store)
    assert found[0][:2] == (f"{number:016x}.wal", 4096)
    assert found[0][2].startswith("record 1 of the group of LSN 1: the record cannot be decoded")


def _misplaced(path: Path, payload: bytes, shard: int) -> bool:
    with StoredReader.open(path, lock=False) as stored:
        return RecordRules(stored).problem(payload, shard) is not None


def test_a_torn_tail_is_a_note_and_no_defect(tmp_path: Path) -> None:
    async def crash() -> World:
        world = World(tmp_path / "store")
        async with world.open(User) as opened:
            await opened[User].put(User(id="a"))
            return world.crashed()

    path = Path(asyncio.run(crash()).path)
    manifest = manifests.read(FILES, str(path))
    end = replay(
        FILES,
        str(path / "log/000"),
        store_id=manifest.id_bytes,
        lane=0,
        first=1,
        after=[0] * 4,
        deliver=lambda *_: None,
    ).end
    number, offset = split_position(end)
    segment = path / f"log/000/{number:016x}.wal"
    data = bytearray(segment.read_bytes())
    data[offset : offset + 4] = data[4096:4100]  # the tag of a frame, and nothing of the frame
    segment.write_bytes(data)
    code, report = check(path)
    (finding,) = report["findings"]
    assert (code, report["ok"], finding["is_defect"], finding["offset"]) == (0, True, False, offset)
    result = CliRunner().invoke(app, ["check", str(path)])
    assert f"note: {segment}: offset {offset}: a torn tail" in result.stdout


def test_a_damaged_manifest_is_a_defect(store: Path) -> None:
    stores.flip(store / "MANIFEST", 100)
    code, report = check(store)
    assert (code, report["files"]) == (1, {})
    assert report["findings"] == [
        {
            "kind": "manifest",
            "path": str(store / "MANIFEST"),
            "offset": 0,
            "message": "the checksum is wrong",
            "is_defect": True,
        }
    ]
    result = CliRunner().invoke(app, ["check", str(store)])
    assert "without its manifest" in result.stdout
    (store / "MANIFEST").unlink()
    assert check(store)[1]["findings"][0]["message"] == "the manifest is missing"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"next_tag": 2}, "the tag 2 is given 1 times, and the next to be given is 2"),
        ({"next_table": 1}, "the table number 1 is given 1 times, and the next to be given is 1"),
        ({"clean_lsns": [1, 2]}, "a clean close is recorded for 2 shards of 1"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_a_defect(changes: dict[str, Any], message: str, store: Path) -> None:
    stores.change_manifest(store, **changes)
    assert message in {text for _, _, text in defects(store)}


def test_a_schema_that_is_none_is_a_defect(store: Path) -> None:
    tables = dict(manifests.read(FILES, str(store)).tables)
    tables["user"] = manifests.TableManifest(1, [manifests.SchemaEntry(1, {"table": 5})])
    stores.change_manifest(store, tables=tables)
    assert "the schema of tag 1 in table 'user'" in check(store)[1]["findings"][0]["message"]


def test_a_part_that_cannot_be_read_is_a_defect(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = stores.checkpoint_file(store)
    checkpoint.unlink()
    checkpoint.mkdir()
    (found,) = defects(store)
    assert found[0] == checkpoint.name
    segment = segments(store)[0]
    segment.unlink()
    segment.mkdir()
    assert any("cannot be read" in message for _, _, message in defects(store))


def test_what_a_person_reads_names_file_and_offset_too(store: Path) -> None:
    checkpoint = stores.checkpoint_file(store)
    stores.flip(checkpoint, 10)
    result = CliRunner().invoke(app, ["check", str(store)])
    assert result.exit_code == 1
    assert f"defect: {checkpoint}: offset 0: the checksum of a block is wrong\n" in result.stdout
    assert result.stdout.endswith("1 defects\n")


def test_findings_beyond_the_limit_are_counted(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warpstore.cli.check.LISTED_MAX", 2)
    stores.replace_checkpoint(store, 1, user_values(99, [f"k{i}" for i in range(5)]))
    code, report = check(store)
    assert (code, report["n_defects"], len(report["findings"])) == (1, 5, 2)
    assert "3 more are not listed" in CliRunner().invoke(app, ["check", str(store)]).stdout


def test_a_live_check_leaves_out_the_log_and_finds_the_rest(store: Path) -> None:
    async def run() -> None:
        async with World(store).open(User) as opened:
            await opened[User].put(User(id="a"))
            refused = CliRunner().invoke(app, ["check", str(store)])
            assert refused.exit_code == 3
            assert "is in use by process" in refused.stderr
            code, report = check(store, "--live")
            assert (code, report["files"]["log"]["verified"]) == (0, False)
            assert report["files"]["checkpoint"]["verified"]
            assert "left out" in CliRunner().invoke(app, ["check", str(store), "--live"]).stdout
            stores.flip(stores.checkpoint_file(store), 10)
            assert check(store, "--live")[0] == 1
            stores.flip(stores.checkpoint_file(store), 10)

    asyncio.run(run())


def test_a_store_of_a_newer_format_is_refused(store: Path) -> None:
    data = (store / "MANIFEST").read_bytes()
    (store / "MANIFEST").write_bytes(data.replace(b"warpstore-manifest 1 ", b"warpstore-manifest 2 ", 1))
    for command in (["check"], ["info"], ["dump"], ["compact"]):
        result = CliRunner().invoke(app, [*command, str(store)])
        assert result.exit_code == 3
        assert "format version 2" in result.stderr


def test_columns_and_other_tables_are_verified_too(tmp_path: Path) -> None:
    async def fill(opened: ws.Store) -> None:
        await opened[Reading].put_many([Reading(id=i) for i in range(-300, 300)])
        await opened[User].put_many(users(0, 300), ttl=60)
        await opened.checkpoint()
        await opened[User].delete_many([f"u{i:04d}" for i in range(0, 300, 2)])

    stores.make(tmp_path / "store", fill, shards=3)
    assert defects(tmp_path / "store") == []


def test_an_index_with_fewer_entries_than_records_is_named(store: Path) -> None:
    def edit(page: bytearray) -> None:
        n, columns = stores.columns_of(page)
        kept = b"".join(bytes(page[at : at + (n - 1) * width]) for at, width in columns)
        page[4:] = (struct.pack("<H", n - 1) + page[6 : columns[0][0]] + kept).ljust(4092, b"\0")

    checkpoint = stores.checkpoint_file(store)
    offset = stores.rewrite_page(checkpoint, 0, edit)
    found = defects(store)
    assert (checkpoint.name, offset, "the index has 399 entries, the directory says 400 records") in found
    assert [m for _, _, m in found].count("the record is not found through the index") == 1


def rows_of_users(n: int) -> list[tuple[Any, bytes]]:
    return user_values(1, [f"u{i:04d}" for i in range(n)])


def test_the_index_of_packed_blocks_is_held_against_them(store: Path) -> None:
    def copied(page: bytearray) -> None:
        for start, width in stores.columns_of(page)[1]:
            page[start + width : start + 2 * width] = page[start : start + width]

    def of_another_block(page: bytearray) -> None:
        n, (_, (at, width), _, _) = stores.columns_of(page)
        offsets = [bytes(page[at + i * width : at + (i + 1) * width]) for i in range(n)]
        page[at : at + width] = next(other for other in offsets if other != offsets[0])

    def of_no_block(page: bytearray) -> None:
        _, (_, _, (lengths, _), _) = stores.columns_of(page)
        page[lengths] ^= 1

    def of_another_hash(page: bytearray) -> None:
        _, ((ranks, _), *_) = stores.columns_of(page)
        page[ranks + 4] ^= 1

    checkpoint = stores.replace_checkpoint(store, 1, rows_of_users(400), packed=True)
    good = checkpoint.read_bytes()
    assert defects(store) == []
    missing = "the record is not found through the index"
    for edit, other in (
        (copied, "two index entries name the record"),
        (of_another_block, "the index names a record"),
        (of_no_block, "the index names a record"),
        (of_another_hash, "the index names a record"),
    ):
        checkpoint.write_bytes(good)
        page = stores.rewrite_page(checkpoint, 0, edit)
        found = {message.split(" at offset")[0]: offset for _, offset, message in defects(store)}
        assert set(found) == {missing, other}, edit
        assert page < found[other] < page + 4096
        assert found[missing] < page
    checkpoint.write_bytes(good)
    stores.flip(checkpoint, 100)
    assert defects(store) == [(checkpoint.name, 0, "the checksum of a block is wrong")]


def test_records_of_packed_blocks_whose_hashes_have_one_rank_are_told_apart(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warpstore.checkpoint.writer.xxh3_64_intdigest", lambda _: 7)
    monkeypatch.setattr("warpstore.verification.checkpoint_table.key_hash", lambda _: 7)
    checkpoint = stores.replace_checkpoint(store, 1, rows_of_users(300), packed=True)
    assert defects(store) == []

    def one_less(page: bytearray) -> None:
        n, columns = stores.columns_of(page)
        kept = b"".join(bytes(page[at : at + (n - 1) * width]) for at, width in columns)
        page[4:] = (struct.pack("<H", n - 1) + page[6 : columns[0][0]] + kept).ljust(4092, b"\0")

    stores.rewrite_page(checkpoint, 0, one_less)
    messages = {message for _, _, message in defects(store)}
    assert messages == {"the index has 299 entries, the directory says 300 records"}


def test_roots_that_contradict_their_parts_are_named(store: Path) -> None:
    checkpoint = stores.checkpoint_file(store)
    good = checkpoint.read_bytes()

    def another_hash(body: bytearray) -> None:
        body[8] ^= 1

    offset = stores.rewrite_root(checkpoint, "page_root", another_hash)
    message = "the page root names another first hash for page 1"
    assert (checkpoint.name, offset, message) in defects(store)
    checkpoint.write_bytes(good)

    def smaller_block(body: bytearray) -> None:
        blocks = msgspec.msgpack.decode(bytes(body))
        blocks[0][2] -= 1
        body[:] = msgspec.msgpack.encode(blocks)

    offset = stores.rewrite_root(checkpoint, "block_root", smaller_block)
    messages = [m for _, at, m in defects(store) if at == offset]
    assert any(m.startswith("a gap before the block at offset") for m in messages)
    checkpoint.write_bytes(good)

    def last_block(body: bytearray) -> None:
        blocks = msgspec.msgpack.decode(bytes(body))
        blocks[-1][2] -= 1
        body[:] = msgspec.msgpack.encode(blocks)

    stores.rewrite_root(checkpoint, "block_root", last_block)
    assert "the blocks do not end where the index begins" in {m for _, _, m in defects(store)}
    checkpoint.write_bytes(good)

    def nonsense(body: bytearray) -> None:
        body[0] = 0xC1

    stores.rewrite_root(checkpoint, "block_root", nonsense)
    assert any(m.startswith("the block root cannot be decoded") for _, _, m in defects(store))


def test_a_directory_with_other_numbers_is_named(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warpstore.checkpoint.writer.has_deadline", lambda _: True)
    stores.replace_checkpoint(store, 1, user_values(1, ["a", "b"]))
    ((_, _, message),) = defects(store)
    assert message.startswith("the blocks hold (records, bytes, expiring) (2, ")


def test_a_group_of_an_unknown_shard_and_one_of_wrong_lengths_are_named(log_store: Path) -> None:
    manifest = manifests.read(FILES, str(log_store))
    number = manifest.lanes[0].first
    made = Segments(
        FILES, str(log_store / "log/000"), store_id=manifest.id_bytes, lane=0, epoch=1, zero_fill=False, salt=lambda: 5
    )
    made.make(number, 65536, durable=0, groups=[(7, 1, [b"x"])]).file.close()
    assert (f"{number:016x}.wal", 4096, "a record of stream 7, the store has 2") in defects(log_store)


def test_a_checkpoint_that_the_owner_replaced_meanwhile_is_no_defect(tmp_path: Path) -> None:
    old, new, path = tmp_path / "old", tmp_path / "new", tmp_path / "store"
    stores.make_users(old, 50)
    shutil.copytree(old, new)

    async def more(opened: ws.Store) -> None:
        await opened[User].put_many(users(50, 60))
        await opened.checkpoint()

    stores.make(new, more)
    shutil.copytree(old, path)

    class Swapped(OsFileSystem):
        def open(self, opened: str) -> Any:
            if opened.endswith("00000001-001.ckpt"):
                shutil.rmtree(path)
                shutil.copytree(new, path)
            return super().open(opened)

    found: list[Finding] = []
    with StoredReader.open(path, lock=False) as stored:
        stored.files = Swapped()
        reports = verify(stored, found.append, lambda _: None)
    assert found == []
    assert [report.is_verified for report in reports] == [True, False, True, True, True, True]


def test_what_cannot_be_read_is_a_finding(store: Path) -> None:
    class Refusing(OsFileSystem):
        def open(self, path: str) -> Any:
            file = super().open(path)
            if path.endswith(".ckpt"):
                entry = stores.directory_of(Path(path))[0].tables[0]
                real = file.read

                class File:
                    path = file.path
                    size, close = file.size, file.close

                    def read(self, n_bytes: int, offset: int) -> bytes:
                        if offset == entry.pages_offset:
                            raise OSError(5, "Input/output error")
                        return real(n_bytes, offset)

                return File()
            return file

    found: list[Finding] = []
    with StoredReader.open(store, lock=True, files=Refusing()) as stored:
        verify(stored, found.append, lambda _: None)
    (finding,) = found
    assert "Input/output error" in finding.message
    assert finding.path == str(stores.checkpoint_file(store))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: {"shards": m.shards * 300}, "there are 300 shards, the limit is 256"),
        (lambda m: {"lanes": m.lanes * 2}, "there are 2 lanes for 1 shards"),
        (
            lambda m: {"shards": [manifests.CheckpointManifest("../x", 0)]},
            "the checkpoint of shard 0 lies in another folder",
        ),
    ],
)
def test_a_manifest_of_impossible_numbers_is_a_defect(change: Any, message: str, store: Path) -> None:
    stores.change_manifest(store, clean_lsns=[], **change(manifests.read(FILES, str(store))))
    code, report = check(store)
    assert code == 1
    assert message in {finding["message"] for finding in report["findings"]}
    assert not report["files"]["checkpoint"]["verified"]
