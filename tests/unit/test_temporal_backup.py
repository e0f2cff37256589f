"""Series in backups: the files of a cut are kept while they are copied, and belong to the store that is made of it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

import warpstore as ws
from tests.support.series import DAY, Event, Person
from tests.support.worlds import MODES, World, turns, world_in
from tests.unit.test_temporal_archive import days, filled
from warpstore.backup.job import cut_files


async def restored(source: Path, target: Path, world: World) -> World:
    await asyncio.to_thread(ws.restore, source, target)
    made = World(target)
    made.clock = world.clock
    return made


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*.ser")}


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("mode", MODES)
async def test_a_restored_store_has_every_item_of_the_cut_and_ages_on(mode: str, outside: bool, tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        archive = str(tmp_path / "archive") if outside else None
        settings: dict[str, Any] = {"durability": mode, "archive": archive, "ssd": str(tmp_path / "fast")}
        store = await filled(world, **settings)
        await store.age()
        await store[Person].append("ann", "seen", 7)
        cut = await store[Person].window("ann", "events")
        tiers = {entry.tier for entry in store._catalog.manifest.series}
        assert tiers == {"ssd", "disk", "archive"}
        await store.backup(tmp_path / "copy")
        again = await store.backup(tmp_path / "copy")
        assert again.n_copied <= again.n_files - len(names(tmp_path / "copy"))
        await store[Person].append("ann", "events", Event(at=world.clock.wall(), what="99"))
        await store.close()
        assert bool(names(tmp_path / "copy" / "series" / "archive")) != outside

        made = await restored(tmp_path / "copy", tmp_path / "other", world)
        before = names(tmp_path / "archive") if outside else set()
        async with made.open(Person, durability=mode, archive=archive) as other:
            assert await other[Person].window("ann", "events") == cut
            assert await other[Person].window("ann", "seen") == [7]
            assert other._catalog.manifest.folders == ({"archive": archive} if outside else {})
            made.clock.advance(DAY)
            await other.age()
            assert days(await other[Person].window("ann", "events")) == list(range(13))
            await other[Person].delete("ann")
            await other.age()
            assert await other[Person].window("ann", "events") == []
            assert before <= (names(tmp_path / "archive") if outside else before)
            await other.backup(tmp_path / "copy of the other")
        async with world.open(Person, durability=mode) as store:
            assert days(await store[Person].window("ann", "events")) == [*range(13), 99]


async def test_files_of_a_cut_stay_until_they_are_copied(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        store = await filled(world)
        await store.age()
        under_way, go_on = asyncio.Event(), asyncio.Event()

        async def held() -> None:
            under_way.set()
            await go_on.wait()

        world.on_backup = held
        copying = asyncio.ensure_future(store.backup(tmp_path / "copy"))
        await under_way.wait()
        named = store._catalog.series_files()
        world.clock.advance(DAY)
        await store.age()  # all of ssd moves on to disk
        assert set(named) - set(store._catalog.series_files())
        assert all(Path(path).exists() for path in named)
        go_on.set()
        await copying
        await store.age()
        await turns()
        on_disk = {str(path) for path in Path(world.path).rglob("*.ser")}
        assert on_disk == set(store._catalog.series_files())
        cut = await store[Person].window("ann", "events")
        await store.close()
        made = await restored(tmp_path / "copy", tmp_path / "other", world)
        async with made.open(Person) as other:
            assert await other[Person].window("ann", "events") == cut


async def test_a_damaged_file_of_items_is_not_backed_up_and_a_missing_one_not_restored(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        store = await filled(world)
        await store.age()
        await store.backup(tmp_path / "copy")
        path = Path(store._catalog.series_files()[0])
        await store.close()
        data = bytearray(path.read_bytes())
        data[100] ^= 1
        path.write_bytes(data)
        store = await world.open(Person)
        with pytest.raises(ws.BackupDamagedError, match=path.name):
            await store.backup(tmp_path / "second")
        await store.close()
        next((tmp_path / "copy").rglob("*.ser")).unlink()
        with pytest.raises(ws.BackupSourceError, match="missing"):
            await asyncio.to_thread(ws.restore, tmp_path / "copy", tmp_path / "other")


async def test_a_backup_holds_what_stands_in_the_cut_files(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        jobs: list[Any] = []
        store = await filled(world)
        await store.age()
        run = world._backup

        async def noted(job: Any, progress: Any) -> Any:
            jobs.append(job)
            return await run(job, progress)

        world._backup = noted  # type: ignore[method-assign]
        store._context.environment = world.environment
        await store.backup(tmp_path / "copy")
        assert {file.source for file in cut_files(jobs[0])} >= set(store._catalog.series_files())
        with pytest.raises(ws.BackupTargetError, match="inside the store"):
            await store.backup(Path(world.path) / "series" / "ssd" / "copy")
        await store.close()
