"""Metrics are made at the scrape, from any thread, of any number of stores, also of closed ones."""

import asyncio
import re
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import warpstore as ws
from tests.support.worlds import Reading, User, World, users, world_in
from warpstore.observe.metrics import FAMILIES, UP
from warpstore.table import Table

UNITS = ("seconds", "bytes")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_in(tmp_path) as made:
        yield made


def samples(text: bytes) -> dict[tuple[str, frozenset[str]], float]:
    """Return the value of each sample by its name and its labels' values."""
    return {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def scraped(*stores: ws.Store | ws.SyncStore, **named: ws.Store) -> dict[tuple[str, frozenset[str]], float]:
    registry = CollectorRegistry()
    registry.register(ws.prometheus_collector(*stores, **named))
    return samples(generate_latest(registry))


def test_names_keep_the_conventions() -> None:
    names = [family.name for family in FAMILIES]
    assert len(set(names)) == len(names)
    for family in FAMILIES:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", family.name), family.name
        assert not family.name.endswith("_total"), "the client puts it behind a counter"
        assert family.words.endswith(".")
        for unit in UNITS:
            assert unit not in family.name or family.name.endswith(unit)
        assert family.value.rpartition(".")[2].endswith(("_s", "_at_s")) == family.name.endswith("_seconds")


async def test_a_scrape_from_another_thread_while_writing(world: World) -> None:
    async with world.open(User, durability="interval", shards=2) as store:
        registry = CollectorRegistry()
        registry.register(ws.prometheus_collector(store))
        texts: list[bytes] = []
        thread = threading.Thread(target=lambda: texts.extend(generate_latest(registry) for _ in range(20)))
        thread.start()
        n = 0
        while thread.is_alive():
            await store[User].put(User(id=f"u{n}"))
            n += 1
            await asyncio.sleep(0)
        thread.join()
        written = [samples(text)["warpstore_log_written_bytes_total", frozenset((world.path, "0"))] for text in texts]
        assert len(texts) == 20
        assert written == sorted(written)
        assert all(samples(text)[UP, frozenset((world.path,))] == 1 for text in texts)


async def test_a_scrape_in_the_thread_of_the_loop_answers_at_once(world: World) -> None:
    async with world.open(User, Reading, shards=2) as store:
        await store[User].put_many(users(0, 10))
        await store[Reading].put(Reading(id=1))
        await store[Reading].column("value").lookup([1])
        await store.checkpoint()
        found = scraped(users=store)
        assert found["warpstore_table_checkpointed_records", frozenset(("users", "user"))] == 10
        assert found["warpstore_columns_rows", frozenset(("users", "reading"))] == 1
        assert ("warpstore_columns_rows", frozenset(("users", "user"))) not in found
        assert found["warpstore_checkpoints_total", frozenset(("users",))] == 1
        assert found["warpstore_shard_up", frozenset(("users", "1"))] == 1
        assert ("warpstore_ram_limit_bytes", frozenset(("users",))) not in found
        every = {f"warpstore_{f.name}{'_total' * (f.kind == 'counter')}" for f in FAMILIES}
        assert every - {name for name, _ in found} == {"warpstore_ram_limit_bytes"}


async def test_a_closed_store_is_down_and_the_others_are_not(world: World, tmp_path: Path) -> None:
    async with ws.open(tmp_path / "other", models=[User]) as other:
        async with world.open(User) as store:
            collector = ws.prometheus_collector(store, other=other)
            registry = CollectorRegistry()
            registry.register(collector)
            assert samples(generate_latest(registry))[UP, frozenset((world.path,))] == 1
        found = samples(generate_latest(registry))
        assert found[UP, frozenset((world.path,))] == 0
        assert found[UP, frozenset(("other",))] == 1
        assert [labels for name, labels in found if name == "warpstore_open_seconds"] == [frozenset(("other",))]
        collector.remove(store)
        assert (UP, frozenset((world.path,))) not in samples(generate_latest(registry))
    assert samples(generate_latest(registry)) == {(UP, frozenset(("other",))): 0}


def test_a_synchronous_store_is_scraped_too_and_after_its_close(tmp_path: Path) -> None:
    with ws.open_sync(tmp_path / "store", models=[User], durability="interval") as store:
        store[User].put(User(id="a"))
        found = scraped(store)
        assert found["warpstore_table_resident_values", frozenset((store.path, "user"))] == 1
    assert scraped(store) == {(UP, frozenset((store.path,))): 0}


def test_a_store_whose_loop_does_not_answer_is_down_and_nothing_is_left_behind(tmp_path: Path) -> None:
    with ws.open_sync(tmp_path / "store", models=[User], durability="interval") as store:
        store[User].put(User(id="a"))
        held, scraped_once = threading.Event(), threading.Event()

        def hold(user: User) -> None:
            held.set()
            scraped_once.wait()

        writer = threading.Thread(target=store[User].modify, args=("a", hold))
        writer.start()
        held.wait()
        registry = CollectorRegistry()
        registry.register(ws.prometheus_collector(store, timeout_s=0.01))
        found = samples(generate_latest(registry))
        scraped_once.set()
        writer.join()
        assert found == {(UP, frozenset((store.path,))): 0}
        assert scraped(store)[UP, frozenset((store.path,))] == 1


def test_a_store_whose_loop_ended_without_it_is_down(tmp_path: Path) -> None:
    async def leave_open() -> ws.Store:
        return await ws.open(tmp_path / "store", models=[User])

    loop = asyncio.new_event_loop()
    store = loop.run_until_complete(leave_open())

    def scrape() -> None:
        found.update(scraped(store))

    found: dict[tuple[str, frozenset[str]], float] = {}
    loop.run_until_complete(store.close())
    loop.close()
    store._context.closed = None  # as if nobody had closed it
    thread = threading.Thread(target=scrape)
    thread.start()
    thread.join()
    assert found == {(UP, frozenset((store.path,))): 0}


async def test_two_stores_need_two_labels(world: World) -> None:
    async with world.open(User) as store:
        with pytest.raises(ws.UsageError, match="two stores have the label"):
            ws.prometheus_collector(store, store)
        collector = ws.prometheus_collector(store)
        collector.add(store, "again")
        with pytest.raises(ws.UsageError, match="two stores have the label 'again'"):
            collector.add(store, "again")
        with pytest.raises(ws.UsageError, match="timeout_s=0: must be more than 0"):
            ws.prometheus_collector(store, timeout_s=0)


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.setitem(sys.modules, "prometheus_client.metrics_core", None)
    with pytest.raises(ws.UsageError, match=r"pip install 'warpstore\[metrics\]'"):
        ws.prometheus_collector()


async def test_a_collector_leaves_the_calls_of_a_store_as_they_are(world: World) -> None:
    async with world.open(User) as store:
        calls = {name: getattr(Table, name) for name in dir(Table)}
        shard = vars(store._context.shards[0]).copy()
        scraped(store)
        assert type(store[User]) is Table
        assert {name: getattr(Table, name) for name in dir(Table)} == calls
        assert vars(store._context.shards[0]) == shard
