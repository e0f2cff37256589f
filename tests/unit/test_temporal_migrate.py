"""Series under migrations: items and files keep to a renamed field, and the way back is right or refused."""

from pathlib import Path
from typing import Annotated, Any

import pytest

import warpstore as ws
from tests.support.series import DAY, Event
from tests.support.worlds import World, world_in

HORIZONS: Any = {"time": "at", "memory": "1h", "ssd": "1d", "archive": True}


class Old(ws.Record, name="person"):
    """As it was."""

    id: Annotated[str, ws.Key()]
    events: Annotated[list[Event], ws.Temporal(**HORIZONS)] = []
    seen: Annotated[list[int], ws.Temporal(memory="1h", disk="5d")] = []


class New(ws.Record, name="person"):
    """With a series renamed, and a field more."""

    id: Annotated[str, ws.Key()]
    happened: Annotated[list[Event], ws.Temporal(**HORIZONS), ws.Renamed("events")] = []
    seen: Annotated[list[int], ws.Temporal(memory="1h", disk="5d")] = []
    note: str = "new"


class Newer(ws.Record, name="person"):
    """With it renamed once more."""

    id: Annotated[str, ws.Key()]
    took_place: Annotated[list[Event], ws.Temporal(**HORIZONS), ws.Renamed("happened")] = []
    seen: Annotated[list[int], ws.Temporal(memory="1h", disk="5d")] = []


async def fill(world: World) -> None:
    async with world.open(Old) as store:
        await store[Old].put(Old(id="ann"))
        for n in range(5):
            await store[Old].append("ann", "events", Event(at=world.clock.wall(), what=str(n)))
            await store[Old].append("ann", "seen", n)
            if n == 3:
                await store.age()
            world.clock.advance(DAY / 4)


def whats(items: list[Any]) -> list[str]:
    return [item.what for item in items]


@pytest.mark.parametrize("migrated", [False, True])
async def test_items_follow_a_renamed_series(migrated: bool, tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await fill(world)
        async with world.open(New):
            pass
        async with world.open(Newer):
            pass
        if migrated:
            await ws.migrate(world.path, [Newer], environment=world.environment)
        async with world.open(Newer) as store:
            assert whats(await store[Newer].window("ann", "took_place")) == list("01234")
            assert await store[Newer].window("ann", "seen") == list(range(5))
            await store.age()
            assert whats(await store[Newer].window("ann", "took_place")) == list("01234")
            assert await store[Newer].get("ann") == Newer(id="ann")


async def test_the_way_back_has_every_item_and_a_renaming_is_undone(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await fill(world)
        await ws.migrate(world.path, [New], environment=world.environment)
        ws.roll_back(world.path, environment=world.environment)
        async with world.open(Old) as store:
            assert whats(await store[Old].window("ann", "events")) == list("01234")
            assert await store[Old].window("ann", "seen") == list(range(5))
        async with world.open(New) as store:
            assert whats(await store[New].window("ann", "happened")) == list("01234")
        async with world.open(Old) as store:  # the release is taken back
            await store.age()
            assert whats(await store[Old].window("ann", "events")) == list("01234")


@pytest.mark.parametrize("discard", [False, True])
async def test_no_way_back_when_items_moved_since(discard: bool, tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await fill(world)
        await ws.migrate(world.path, [New], environment=world.environment)
        async with world.open(New) as store:
            world.clock.advance(DAY)
            await store.age()
        with pytest.raises(ws.MigrationError, match="'person'") as caught:
            ws.roll_back(world.path, discard_writes=discard, environment=world.environment)
        assert caught.value.table == "person"
        async with world.open(New) as store:
            assert whats(await store[New].window("ann", "happened")) == list("01234")
