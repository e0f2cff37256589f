"""Random use of a store, with checkpoints, crashes and reopenings, equals the same use of a dictionary.

The same steps run on stores of 1, 4 and 16 shards, which must agree with the dictionary and so with each other. A crash
is what a kill leaves: the folder is copied while the store is open, and the copy is opened.
"""

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import warpstore as ws
from tests.support.worlds import Named, User, World, collected, turns

SHARDS = (1, 4, 16)
keys = st.sampled_from([*"abcdefgh", "ab", "abc", "b\uffff", "\U0010ffff", ""])
numbers = st.integers(-5, 5)
ttls = st.sampled_from([None, None, None, 5, 50])


class Stored:
    """What the dictionary knows of one record."""

    def __init__(self, user: User, deadline: float | None) -> None:
        self.user = user
        self.deadline = deadline


class StoreMachine(RuleBasedStateMachine):
    mode = "fsync"

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="warpstore-"))
        self.worlds = [World(self.folder / f"store-{n}") for n in SHARDS]
        for world in self.worlds:
            world.clock = self.worlds[0].clock
        self.clock = self.worlds[0].clock
        self.stores: list[ws.Store] = []
        self.model: dict[str, Stored] = {}
        self.columns: dict[str, float] = {}

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    def everywhere(self, call: Any) -> list[Any]:
        """Return what a call of every store gives, or the type of the error that it raises."""

        async def one(store: ws.Store) -> Any:
            try:
                return await call(store)
            except ws.WarpstoreError as error:
                return type(error)

        return [self.run(one(store)) for store in self.stores]

    def all_give(self, expected: Any, call: Any) -> None:
        assert self.everywhere(call) == [expected] * len(SHARDS)

    def live(self) -> dict[str, User]:
        now = self.clock.wall()
        return {k: s.user for k, s in self.model.items() if s.deadline is None or s.deadline > now}

    def deadline(self, ttl: float | None) -> float | None:
        return None if ttl is None else self.clock.wall() + ttl

    async def _open(self) -> None:
        for world, n in zip(self.worlds, SHARDS, strict=True):
            self.stores.append(await world.open(User, Named, durability=self.mode, shards=n))

    async def _close(self) -> None:
        for store in self.stores:
            await store.close()
        self.stores.clear()

    @initialize()
    def begin(self) -> None:
        self.run(self._open())

    # Writes

    @rule(key=keys, n=numbers, ttl=ttls)
    def put(self, key: str, n: int, ttl: float | None) -> None:
        self.all_give(None, lambda s: s[User].put(User(id=key, n=n), ttl=ttl))
        self.model[key] = Stored(User(id=key, n=n), self.deadline(ttl))

    @rule(batch=st.lists(st.tuples(keys, numbers), max_size=8), ttl=ttls)
    def put_many(self, batch: list[tuple[str, int]], ttl: float | None) -> None:
        self.all_give(len(batch), lambda s: s[User].put_many([User(id=k, n=n) for k, n in batch], ttl=ttl))
        for key, n in batch:
            self.model[key] = Stored(User(id=key, n=n), self.deadline(ttl))

    @rule(key=keys, n=numbers, ttl=ttls)
    def insert(self, key: str, n: int, ttl: float | None) -> None:
        taken = key in self.live()
        self.all_give(ws.KeyExistsError if taken else None, lambda s: s[User].insert(User(id=key, n=n), ttl=ttl))
        if not taken:
            self.model[key] = Stored(User(id=key, n=n), self.deadline(ttl))

    @rule(key=keys, n=numbers)
    def update(self, key: str, n: int) -> None:
        absent = key not in self.live()
        self.all_give(ws.KeyNotFoundError if absent else None, lambda s: s[User].update(key, n=n))
        if not absent:
            old = self.model[key]
            self.model[key] = Stored(User(id=key, n=n, tags=list(old.user.tags)), old.deadline)

    @rule(key=keys, tag=st.sampled_from("xyz"))
    def modify(self, key: str, tag: str) -> None:
        absent = key not in self.live()
        self.all_give(
            ws.KeyNotFoundError if absent else None, lambda s: s[User].modify(key, lambda u: u.tags.append(tag))
        )
        if not absent:
            self.model[key].user.tags.append(tag)

    @rule(key=keys)
    def delete(self, key: str) -> None:
        self.all_give(key in self.live(), lambda s: s[User].delete(key))
        self.model.pop(key, None)

    @rule(key=keys, n=numbers)
    def put_if_unchanged(self, key: str, n: int) -> None:
        async def swap(store: ws.Store) -> Any:
            user, version = await store[User].get_with_version(key)
            await store[User].put(User(id=key, n=n), if_version=version)
            return user

        self.all_give(self.live().get(key), swap)
        self.model[key] = Stored(User(id=key, n=n), None)

    @rule(key=keys, value=st.sampled_from([0.5, 1.5, -2.0]))
    def put_column(self, key: str, value: float) -> None:
        self.all_give(None, lambda s: s[Named].put(Named(id=key, value=value)))
        self.columns[key] = value

    @rule(key=keys)
    def delete_column(self, key: str) -> None:
        self.all_give(self.columns.pop(key, None) is not None, lambda s: s[Named].delete(key))

    @rule(batch=st.lists(st.tuples(keys, numbers), min_size=2, max_size=6, unique_by=lambda pair: pair[0]))
    def put_at_once(self, batch: list[tuple[str, int]]) -> None:
        async def together(store: ws.Store) -> None:
            await asyncio.gather(*(store[User].put(User(id=k, n=n)) for k, n in batch))

        self.all_give(None, together)
        self.model.update({k: Stored(User(id=k, n=n), None) for k, n in batch})

    # Reads

    @rule(key=keys)
    def get(self, key: str) -> None:
        self.all_give(self.live().get(key), lambda s: s[User].get(key))
        self.all_give(key in self.live(), lambda s: s[User].contains(key))

    @rule(some=st.lists(keys, max_size=12))
    def get_many(self, some: list[str]) -> None:
        self.all_give([self.live().get(key) for key in some], lambda s: s[User].get_many(some))

    @rule(start=st.none() | keys, stop=st.none() | keys, limit=st.none() | st.integers(0, 5), reverse=st.booleans())
    def scan(self, start: str | None, stop: str | None, limit: int | None, reverse: bool) -> None:
        live = self.live()
        inside = [k for k in sorted(live) if (start is None or start <= k) and (stop is None or k < stop)]
        expected = [live[k] for k in (inside[::-1] if reverse else inside)][:limit]
        self.all_give(expected, lambda s: collected(s[User].scan(start, stop, limit=limit, reverse=reverse)))

    @rule(prefix=keys, reverse=st.booleans())
    def scan_prefix(self, prefix: str, reverse: bool) -> None:
        live = self.live()
        inside = sorted((k for k in live if k.startswith(prefix)), reverse=reverse)
        self.all_give([live[k] for k in inside], lambda s: collected(s[User].scan(prefix=prefix, reverse=reverse)))

    @rule()
    def count(self) -> None:
        self.all_give(len(self.live()), lambda s: s[User].count())

    @rule(some=st.lists(keys, max_size=12))
    def look_up_column(self, some: list[str]) -> None:
        async def look(store: ws.Store) -> Any:
            values, found = await store[Named].column("value").lookup(some)
            return [v if f else None for v, f in zip(values.tolist(), found.tolist(), strict=True)]

        self.all_give([self.columns.get(key) for key in some], look)

    # The world

    @rule(seconds=st.sampled_from([1.0, 4.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def checkpoint(self) -> None:
        self.all_give(None, lambda s: s.checkpoint())

    @rule()
    def checkpoint_under_an_open_scan(self) -> None:
        async def both(store: ws.Store) -> Any:
            scan = store[User].scan()
            first = [await anext(scan)] if self.live() else []
            await store.checkpoint()
            await store[User].put(User(id="zz"))
            return [*first, *(await collected(scan))] if first else []

        live = self.live()
        self.all_give([live[k] for k in sorted(live)], both)
        self.model["zz"] = Stored(User(id="zz"), None)

    @rule(cached=st.booleans())
    def files_are_cached_or_not(self, cached: bool) -> None:
        for world in self.worlds:
            world.files.nothing_cached = not cached

    @rule()
    def close_and_reopen(self) -> None:
        self.run(self._close())
        self.run(self._open())

    @rule(shift=st.sampled_from([1, 2]))
    def reopen_with_other_numbers_of_shards(self, shift: int) -> None:
        self.run(self._close())
        self.worlds = self.worlds[shift:] + self.worlds[:shift]
        self.run(self._open())

    @precondition(lambda self: self.mode == "fsync")
    @rule()
    def crash_and_reopen(self) -> None:
        after = [world.crashed() for world in self.worlds]
        self.run(self._close())
        for world in self.worlds:
            shutil.rmtree(world.path)
        self.worlds = after
        self.run(self._open())

    @precondition(lambda self: self.mode != "memory")
    @rule(number=st.integers(0, 255))
    def a_shard_crashes(self, number: int) -> None:
        async def crash(store: ws.Store) -> None:
            index = number % len(store._context.shards)
            before = store._context.shards[index]
            store._root.child("shards")._restarts.clear()  # type: ignore[union-attr]  # it is no fault of the store
            before.crash(RuntimeError("a fault of the test"))
            while (shard := store._context.shards[index]) is before or shard.state.name != "RUNNING":
                await asyncio.get_running_loop().run_in_executor(None, int)
            await turns(3)

        self.all_give(None, crash)

    def teardown(self) -> None:
        try:
            if self.stores:
                live = self.live()
                self.all_give([live[k] for k in sorted(live)], lambda s: collected(s[User].scan()))
            self.run(self._close())
            for world in self.worlds:
                world.assert_nothing_left()
        finally:
            self.run(self.loop.shutdown_default_executor())
            self.loop.close()
            shutil.rmtree(self.folder)


class IntervalMachine(StoreMachine):
    mode = "interval"


class MemoryMachine(StoreMachine):
    mode = "memory"


@pytest.mark.parametrize(
    ("machine", "n_examples"),
    [(StoreMachine, 8), (IntervalMachine, 5), (MemoryMachine, 4)],
    ids=["fsync", "interval", "memory"],
)
def test_random_use_equals_a_dictionary(machine: type[StoreMachine], n_examples: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=n_examples, stateful_step_count=35, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
