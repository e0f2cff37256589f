"""R19, R17: concurrent calls on one key, some of them cancelled at any await, have an order that explains them.

Clients of a store in a simulated machine put, get, insert, update, modify and delete a few keys at random; the order of
tasks is shuffled by the seed, checkpoints go on beside them, and a call in four is cancelled at one of its awaits.
"""

import asyncio
import itertools
import os
import random
from typing import Annotated, Any

import pytest

import warpstore as ws
from tests.support.history import Call, Step, is_linearizable
from tests.support.simulated_store import Machine
from tests.support.virtual_loop import cancelled_at, run_virtual

HISTORIES = int(os.environ.get("WARPSTORE_HISTORIES", "25"))
N_CLIENTS = 4
N_CALLS = 14


class Cell(ws.Record, name="cell"):
    id: Annotated[str, ws.Key()]
    n: int = 0


def put(n: int) -> Step:
    return lambda value: (None, n)


def get(value: Any) -> tuple[Any, Any]:
    return value, value


def insert(n: int) -> Step:
    return lambda value: (None, n) if value is None else (ws.KeyExistsError, value)


def update(n: int) -> Step:
    return lambda value: (ws.KeyNotFoundError, None) if value is None else (None, n)


def add(n: int) -> Step:
    return lambda value: (ws.KeyNotFoundError, None) if value is None else (None, value + n)


def delete(value: Any) -> tuple[Any, Any]:
    return value is not None, None


class Clients:
    """What the clients of one store did, by key."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.moments = itertools.count()
        self.numbers = itertools.count(1)
        self.calls: dict[str, list[Call]] = {"a": [], "b": []}

    def choose(self, cells: ws.Table[Cell], key: str) -> tuple[Step, Any]:
        """Return a random call, as a step and as what to await."""
        n = next(self.numbers)
        match self.random.randrange(8):
            case 0 | 1:
                return put(n), cells.put(Cell(id=key, n=n))
            case 2:
                return insert(n), cells.insert(Cell(id=key, n=n))
            case 3:
                return update(n), cells.update(key, n=n)
            case 4:
                return add(1000), cells.modify(key, lambda cell: setattr(cell, "n", cell.n + 1000))
            case 5:
                return delete, cells.delete(key)
            case _:
                return get, self.value(cells, key)

    @staticmethod
    async def value(cells: ws.Table[Cell], key: str) -> int | None:
        cell = await cells.get(key)
        return None if cell is None else cell.n

    async def one(self, cells: ws.Table[Cell], key: str) -> None:
        step, awaitable = self.choose(cells, key)
        call = Call(step, next(self.moments))
        self.calls[key].append(call)
        try:
            if self.random.randrange(4):
                call.outcome = await awaitable
            else:
                call.outcome = await cancelled_at(awaitable, self.random.randrange(3), [])
        except (ws.KeyExistsError, ws.KeyNotFoundError) as error:
            call.outcome = type(error)
        except asyncio.CancelledError:
            return
        call.ended = next(self.moments)

    async def client(self, cells: ws.Table[Cell]) -> None:
        for _ in range(N_CALLS):
            # A task of its own: a call that is over before its cancellation comes is cancelled at its end.
            task = asyncio.ensure_future(self.one(cells, self.random.choice("ab")))
            await asyncio.wait([task])
            assert task.cancelled() or task.exception() is None, task.exception()
            if not self.random.randrange(3):
                await asyncio.sleep(0)

    async def run(self, machine: Machine, mode: str) -> None:
        async with machine.open(Cell, durability=mode, shards=2, gpu="off", segment_bytes="64KiB") as store:
            cells = store[Cell]
            async with asyncio.TaskGroup() as group:
                for _ in range(N_CLIENTS):
                    group.create_task(self.client(cells))
                for _ in range(3):
                    await asyncio.sleep(0)
                    await store.checkpoint()
            for key, calls in self.calls.items():
                last = Call(get, next(self.moments))
                last.outcome, last.ended = await self.value(cells, key), next(self.moments)
                calls.append(last)


@pytest.mark.parametrize("mode", ["fsync", "interval", "memory"])
def test_r19_calls_on_one_key_are_linearizable(mode: str) -> None:
    for seed in range(HISTORIES):
        clients = Clients(seed)
        run_virtual(clients.run(Machine(seed=seed), mode), seed=seed)
        for key, calls in clients.calls.items():
            assert is_linearizable(calls), f"seed {seed}, key {key}: {calls}"


def test_the_checker_finds_what_no_order_explains() -> None:
    stale = [Call(put(1), 0, 1), Call(put(2), 2, 3), Call(get, 4, 5, outcome=1)]
    assert not is_linearizable(stale)
    assert is_linearizable([Call(put(1), 0, 1), Call(put(2), 2, 6), Call(get, 4, 5, outcome=1)])
    lost = [Call(put(1), 0, 1), Call(add(5), 2, 4), Call(add(5), 3, 5), Call(get, 6, 7, outcome=6)]
    assert not is_linearizable(lost)
    cancelled = [Call(put(1), 0, 1), Call(put(2), 2), Call(get, 3, 4, outcome=2), Call(get, 5, 6, outcome=1)]
    assert not is_linearizable(cancelled)
    assert is_linearizable(cancelled[:3])
    assert is_linearizable([cancelled[0], cancelled[1], cancelled[3]])
