"""What ageing shows of itself, what its values take of memory, and what tools carry of a record with series."""

import json
import logging
from pathlib import Path

import pytest

import warpstore as ws
from tests.support.series import DAY, HOUR, Event, Person
from tests.support.worlds import collected, world_in
from tests.unit.test_temporal_archive import days, filled
from warpstore.observe.metrics import FAMILIES
from warpstore.temporal.state import companion_of

pytest.importorskip("opentelemetry.sdk")


async def test_statistics_metrics_events_and_spans_of_ageing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with world_in(tmp_path) as world:
        caplog.set_level(logging.DEBUG, logger="warpstore.temporal.ager")
        store = await filled(world, trace_calls=True)
        await store.age()
        assert days(await store[Person].window("ann", "events")) == list(range(13))
        found = store.statistics()
        plain = found.to_dict()
        assert json.loads(json.dumps(plain)) == plain
        assert sum(plain["series"]["n_items"].values()) == 13 == plain["series"]["n_items_moved"]
        assert [table["name"] for table in plain["tables"]] == ["person"]
        samples = {family.name: dict(family.samples(found)) for family in FAMILIES}
        assert samples["series_items"] == {(tier.tier,): float(tier.n_items) for tier in found.series.tiers}
        assert samples["ageing_rounds"] == {(): 1.0}
        assert "event=items_aged" in caplog.text
        await store.close()


async def test_values_beside_a_table_count_against_the_cap(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        store = await world.open(Person, ram="64MiB")
        number = store._context.table_numbers[companion_of("person")]
        pool = store._context.pools[number]
        before, total = pool.n_bytes, store.statistics().resident_bytes
        for i in range(200):
            await store[Person].put(Person(id=f"p{i}", seen=list(range(20))))
        assert pool.n_bytes > before + 200 * 20 * 12
        assert store.statistics().resident_bytes >= total + pool.n_bytes - before
        await store.close()


async def test_an_export_has_what_the_records_hold_and_an_import_lets_it_age(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        store = await filled(world)
        await store[Person].append("ann", "events", Event(at=world.clock.wall() - HOUR / 2, what="13"))
        await store.age()
        await store[Person].export(tmp_path / "people.jsonl")
        (record,) = await collected(store[Person].scan())
        assert days(record.events) == [13]
        await store.close()
        other = await ws.open(str(tmp_path / "other"), models=[Person], environment=world.environment)
        assert await other[Person].import_(tmp_path / "people.jsonl") == 1
        world.clock.advance(DAY)
        await other.age()
        assert days(await other[Person].window("ann", "events")) == [13]
        await other.close()
