"""A file of items gives back the runs that were written, and any damage to it is refused or without effect."""

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

import warpstore as ws
from wal import OsFileSystem
from warpstore.manifest import SeriesFileManifest, SeriesRange
from warpstore.temporal import format as layout
from warpstore.temporal.format import PAGE_ENTRIES, Run, sort_key
from warpstore.temporal.reader import SeriesReader
from warpstore.temporal.writer import SeriesWriter

STORE = bytes(range(16))
FILES = OsFileSystem()


def raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode(value))


def runs_of(n: int, n_items: int = 3) -> list[Run]:
    keys: list[Any] = [f"k{i}" if i % 3 else i if i % 2 else b"%d" % i for i in range(n)]
    runs = [
        Run(1 + i % 2, key, 1 + i % 3, 7, [(t, 5, raw(f"{i} {t}")) for t in range(n_items)])
        for i, key in enumerate(keys)
    ]
    return sorted(runs, key=sort_key)


def write(path: Path, runs: list[Run], compression: str = "lz4") -> SeriesFileManifest:
    file = FILES.create(str(path))
    writer = SeriesWriter(file, number=9, salt=77, store_id=STORE, compression=compression)
    for run in runs:
        writer.add(run)
    writer.finish()
    file.close()
    return SeriesFileManifest(9, "ssd", 0, 64, 0, writer.n_bytes, writer.crc, writer.ranges)


def opened(path: Path, entry: SeriesFileManifest) -> SeriesReader:
    file = FILES.open(str(path))
    try:
        return SeriesReader(file, entry, STORE, None)
    except BaseException:
        file.close()
        raise


def plain(runs: list[Run]) -> list[Any]:
    return [
        (r.table, r.key, r.series, r.incarnation, [(t, m, bytes(memoryview(x))) for t, m, x in r.items]) for r in runs
    ]


@pytest.mark.parametrize("compression", ["lz4", "max"])
def test_every_run_is_found_and_read_in_order(tmp_path: Path, compression: str) -> None:
    runs = runs_of(4 * PAGE_ENTRIES)
    entry = write(tmp_path / "f", runs, compression)
    assert entry.n_bytes == (tmp_path / "f").stat().st_size
    assert sum(found.n_items for found in entry.ranges) == 3 * len(runs)
    assert all((found.first_ns, found.last_ns) == (0, 2) for found in entry.ranges)
    reader = opened(tmp_path / "f", entry)
    assert plain(list(reader.runs())) == plain(runs)
    for run in runs:
        assert plain(reader.find(run.table, run.series, run.key)) == plain([run])
        assert reader.find(3, run.series, run.key) == []
    assert reader.find(1, 1, "absent") == []
    reader.close()


def test_a_long_run_is_parted_and_comes_back_in_order(tmp_path: Path) -> None:
    run = Run(1, "k", 1, 7, [(t, t, raw("x" * 1000)) for t in range(500)])
    entry = write(tmp_path / "f", [run])
    assert entry.ranges == [SeriesRange(1, 1, 500, 0, 499)]
    reader = opened(tmp_path / "f", entry)
    parts = reader.find(1, 1, "k")
    assert len(parts) > 5
    assert [item[0] for part in parts for item in part.items] == list(range(500))
    assert plain(list(reader.runs())) == plain(parts)
    reader.close()


def test_runs_of_one_hash_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warpstore.temporal.format.xxh3_64_intdigest", lambda _: 7)
    runs = runs_of(3 * PAGE_ENTRIES)
    reader = opened(tmp_path / "f", write(tmp_path / "f", runs))
    for run in runs[::50]:
        assert plain(reader.find(run.table, run.series, run.key)) == plain([run])
    reader.close()


def test_an_empty_file_holds_nothing(tmp_path: Path) -> None:
    reader = opened(tmp_path / "f", write(tmp_path / "f", []))
    assert list(reader.runs()) == reader.find(1, 1, "k") == []
    reader.close()


def everything(reader: SeriesReader, runs: list[Run]) -> list[Any]:
    return [plain(list(reader.runs())), [plain(reader.find(r.table, r.series, r.key)) for r in runs]]


def test_every_flipped_bit_is_refused_or_without_effect(tmp_path: Path) -> None:
    runs = runs_of(30, 2)
    path = tmp_path / "f"
    entry = write(path, runs)
    good = path.read_bytes()
    reader = opened(path, entry)
    expected = everything(reader, runs)
    reader.close()
    rng = random.Random(1)
    n_refused = 0
    refused: set[str] = set()
    for byte in range(len(good)):
        data = bytearray(good)
        data[byte] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        try:
            reader = opened(path, entry)
        except (ws.CorruptionError, ws.FormatVersionError):
            n_refused += 1
            continue
        try:
            assert everything(reader, runs) == expected
        except ws.CorruptionError as error:
            n_refused += 1
            refused.add(error.path)
        finally:
            reader.close()
    assert n_refused > len(good) // 2
    assert refused == {str(path)}


def test_a_file_that_is_cut_or_another_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f"
    entry = write(path, runs_of(10))
    good = path.read_bytes()
    for n in range(0, len(good), 13):
        path.write_bytes(good[:n])
        with pytest.raises(ws.CorruptionError):
            opened(path, entry)
    path.write_bytes(good)
    with pytest.raises(ws.CorruptionError, match="another store, or has another's name"):
        opened(path, msgspec.structs.replace(entry, number=8))
    newer = layout.pack_header(9, 77, STORE).replace(b"\x01\x00", b"\x02\x00", 1)
    body = newer[:-4]
    from google_crc32c import value

    path.write_bytes(body + value(body).to_bytes(4, "little") + good[64:])
    with pytest.raises(ws.FormatVersionError):
        opened(path, entry)
