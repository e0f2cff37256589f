"""The hot tier answers by its newest generation, and a snapshot stays what it was."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.worlds import User
from wal import OsFileSystem
from warpstore import hot_tier
from warpstore.checkpoint import WOULD_BLOCK, Checkpoint
from warpstore.checkpoint.writer import CheckpointWriter
from warpstore.hot_tier import HotTier
from warpstore.keys import slot_of
from warpstore.record import plan_of
from warpstore.values import TOMBSTONE

CODEC = plan_of(User).bind(1)
ALL = range(256)


def value(key: str, n: int = 0) -> bytes:
    return CODEC.encode(User(id=key, n=n))[2]


def checkpoint(path: Path, records: dict[str, bytes]) -> Checkpoint:
    files = OsFileSystem()
    files.remove(str(path))
    file = files.create(str(path))
    writer = CheckpointWriter(file, store_id=bytes(16), shard=0, salt=5)
    writer.write_table(1, sorted(records.items()))
    writer.finish(9)
    file.close()
    return Checkpoint.open(files, str(path), store_id=bytes(16), shard=0)


def put(tier: HotTier, key: str, n: int | None) -> None:
    tier.put(slot_of(key), key, TOMBSTONE if n is None else value(key, n))


def get(tier: HotTier, key: str) -> bytes:
    found = tier.current(slot_of(key), key, blocking=True)
    assert isinstance(found, bytes)
    return found


async def pause() -> None:
    """Stand for a turn of the loop."""


def test_without_a_checkpoint_memory_knows_everything() -> None:
    tier = HotTier(1, ALL, None)
    assert tier.in_memory(slot_of("a"), "a") == TOMBSTONE
    put(tier, "a", 1)
    assert get(tier, "a") == value("a", 1)
    put(tier, "a", None)
    assert get(tier, "a") == TOMBSTONE
    assert tier.n_resident() == 1


def test_what_the_checkpoint_says_is_read_once_and_kept(tmp_path: Path) -> None:
    below = checkpoint(tmp_path / "a.ckpt", {"a": value("a", 1)})
    tier = HotTier(1, ALL, below)
    assert tier.in_memory(slot_of("a"), "a") is None
    assert get(tier, "a") == value("a", 1)
    assert get(tier, "x") == TOMBSTONE
    assert tier.in_memory(slot_of("a"), "a") == value("a", 1)
    assert tier.in_memory(slot_of("x"), "x") == TOMBSTONE
    below.release()


def test_a_read_that_would_block_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = checkpoint(tmp_path / "a.ckpt", {"a": value("a", 1)})
    tier = HotTier(1, ALL, below)
    monkeypatch.setattr(type(below._file), "read_cached", lambda *_: None)
    assert tier.current(slot_of("a"), "a") is WOULD_BLOCK
    assert get(tier, "a") == value("a", 1)
    assert tier.current(slot_of("a"), "a") == value("a", 1)
    below.release()


def test_a_snapshot_stays_what_it_was() -> None:
    tier = HotTier(1, ALL, None)
    changes: list[HotTier] = []
    tier.on_change = changes.append
    put(tier, "a", 1)
    first = tier.snapshot()
    assert len(changes) == 1
    put(tier, "a", 2)
    second = tier.snapshot()
    put(tier, "a", None)
    third = tier.snapshot()
    values = [[g.maps[slot_of("a")].get("a") for g in s.generations] for s in (first, second, third)]
    assert values == [[value("a", 1)], [value("a", 2), value("a", 1)], [TOMBSTONE, value("a", 2), value("a", 1)]]
    assert get(tier, "a") == TOMBSTONE
    second.release()
    first.release()
    third.release()
    assert tier.frozen == []
    assert get(tier, "a") == TOMBSTONE
    assert tier.n_resident() == 1


def test_an_empty_generation_is_not_frozen() -> None:
    tier = HotTier(1, ALL, None)
    tier.snapshot().release()
    tier.begin_cut()
    assert tier.frozen == []


def test_a_long_merge_is_left_to_the_next_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot_tier, "MERGE_ON_LOOP_MAX", 2)
    tier = HotTier(1, ALL, None)
    put(tier, "a", 1)
    snapshot = tier.snapshot()
    for key in "bcd":
        put(tier, key, 1)
    snapshot.release()
    assert len(tier.frozen) == 1
    assert [get(tier, key) for key in "abcd"] == [value(key, 1) for key in "abcd"]


@pytest.mark.parametrize("write_after_cut", [False, True])
async def test_an_installed_checkpoint_replaces_what_was_cut(write_after_cut: bool, tmp_path: Path) -> None:
    old = checkpoint(tmp_path / "old.ckpt", {"a": value("a", 1), "b": value("b", 1), "c": value("c", 1)})
    tier = HotTier(1, ALL, old)
    assert get(tier, "c") == value("c", 1)
    put(tier, "a", 2)
    put(tier, "b", None)
    scan = tier.snapshot()
    tier.begin_cut()
    if write_after_cut:
        put(tier, "a", 3)
        put(tier, "c", None)
    new = checkpoint(tmp_path / "new.ckpt", {"a": value("a", 2), "c": value("c", 1)})
    await tier.install(new, pause)
    old.release()
    assert get(tier, "a") == value("a", 3 if write_after_cut else 2)
    assert get(tier, "b") == TOMBSTONE
    assert get(tier, "c") == (TOMBSTONE if write_after_cut else value("c", 1))
    assert tier.frozen == []
    assert scan.cold is not None
    assert scan.cold.find(0, "a", blocking=True) is None  # its file is still open
    scan.release()
    new.release()


async def test_an_abandoned_cut_leaves_everything_dirty(tmp_path: Path) -> None:
    tier = HotTier(1, ALL, None)
    put(tier, "a", 1)
    tier.begin_cut()
    put(tier, "a", 2)
    tier.abandon_cut()
    assert tier.frozen == []
    assert get(tier, "a") == value("a", 2)
    tier.begin_cut()
    new: Any = checkpoint(tmp_path / "a.ckpt", {"a": value("a", 2)})
    await tier.install(new, pause)
    assert len(tier.young) == 0
    assert get(tier, "a") == value("a", 2)
    new.release()
