"""Series in a store that is opened read-only: windows over the synced state, whatever the owner does meanwhile."""

import asyncio
from pathlib import Path

import pytest

import warpstore as ws
from tests.support.series import DAY, HOUR, Event, Person
from tests.support.worlds import MODES, world_in
from tests.unit.test_temporal_archive import days, filled


@pytest.mark.parametrize("mode", MODES)
async def test_windows_beside_an_owner_show_the_synced_state(mode: str, tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        store = await filled(world, durability=mode)
        await store[Person].append("ann", "seen", 1)
        await store.age()
        await store.sync()
        async with world.open(Person, read_only=True) as reader:
            assert days(await reader[Person].window("ann", "events")) == list(range(13))
            assert await reader[Person].window("ann", "seen") == [1]
            series = reader.statistics().series
            assert series.n_files == store.statistics().series.n_files
            world.clock.advance(HOUR)
            await store[Person].append("ann", "events", Event(at=world.clock.wall(), what="13"))
            world.clock.advance(DAY)
            await store.age()  # what the reader has open is removed
            await store.sync()
            assert days(await reader[Person].window("ann", "events")) == list(range(13))
            await reader.refresh()
            assert days(await reader[Person].window("ann", "events")) == list(range(14))
            for call in (reader.age(), reader[Person].append("ann", "events", Event(at=1.0))):
                with pytest.raises(ws.ReadOnlyStoreError):
                    await call
            with pytest.raises(ws.ReadOnlyStoreError):
                await reader[Person].put(Person(id="bob"), ttl=5)
            with pytest.raises(ws.ReadOnlyStoreError):
                await reader[Person].delete("ann")
        await store.close()


async def test_a_reader_beside_an_owner_that_ages_sees_every_item_once(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        store = await filled(world)
        await store.age()
        async with world.open(Person, read_only=True) as reader:
            windows = [reader[Person].window("ann", "events") for _ in range(3)]

            async def owner() -> None:
                for n in range(13, 20):
                    await store[Person].append("ann", "events", Event(at=world.clock.wall(), what=str(n)))
                    world.clock.advance(DAY)
                    await store.age()

            aging = asyncio.ensure_future(owner())
            assert [days(found) for found in await asyncio.gather(*windows)] == [list(range(13))] * 3
            seen = 13
            while not aging.done():
                await reader.refresh()
                found = days(await reader[Person].window("ann", "events"))
                assert found == list(range(len(found)))
                assert len(found) >= seen
                seen = len(found)
            await aging
            await reader.refresh()
            assert days(await reader[Person].window("ann", "events")) == list(range(20))
        await store.close()


async def test_a_reader_of_a_store_without_series_and_of_other_folders(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        async with world.open():
            pass
        async with world.open(Person, read_only=True) as reader:
            assert await reader[Person].window("ann", "events") == []
            store_dir = Path(world.path)
            assert not (store_dir / "series").exists()
        with pytest.raises(ws.ConfigError, match="archive="):
            await world.open(Person, read_only=True, archive=str(tmp_path / "elsewhere"))


async def test_a_missing_file_of_items_is_damage_to_a_reader(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        store = await filled(world)
        await store.age()
        path = next(Path(world.path, "series", "ssd").iterdir())
        await store.close()
        path.unlink()
        with pytest.raises(ws.OpenError):
            await world.open(Person, read_only=True)
