"""R1, R6, R21: the power goes at any call of the file system, also during the recovery from that, and nothing is lost.

A whole store works in a simulated machine: loads, single and batched writes, series, rotations, checkpoints with fields
set apart to disk, compaction, ageing, backups. Each run ends at another call. The restarted machine finds of every
unsynced sector and name the one or the other; its store must open and hold what was promised, no batch of a shard in
part, one live version of every record, no file that nobody uses.
"""

import asyncio
import os
from typing import Annotated, Any

import msgspec
import pytest

import warpstore as ws
from tests.support.simulated_store import Ledger, Machine
from tests.support.virtual_loop import run_virtual
from warpstore.blocks.reader import block_path

N_KEYS = 6
SETTINGS: dict[str, Any] = {
    "shards": 2,
    "segment_bytes": "64KiB",
    "checkpoint_log_bytes": "64KiB",
    "gpu": "off",
    "sync_interval_ms": 5,
}
POINTS = int(os.environ.get("WARPSTORE_CRASH_POINTS", "12"))
"""Power cuts a mode; `make crash` asks for more."""


class Event(msgspec.Struct, gc=False):
    at: float
    what: str


class Doc(ws.Record, name="doc"):
    """A record with a part in every tier."""

    id: Annotated[str, ws.Key()]
    n: int = 0
    text: Annotated[str, ws.Disk()] = ""
    events: Annotated[list[Event], ws.Temporal(time="at", memory="1h", ssd="2h", disk="3h", archive=True)] = []


def doc(key: str, n: int) -> Doc:
    return Doc(id=key, n=n, text=f"{key} {n} " * (20 + n % 40))


class Work:
    """Clients that write keys of their own, and what goes on beside them, until the power goes."""

    def __init__(self, machine: Machine, ledger: Ledger, mode: str, *, first: int = 1) -> None:
        self.machine = machine
        self.ledger = ledger
        self.mode = mode
        self.first = first

    async def run(self, n_rounds: int) -> None:
        """Open the store, work, and close it; an `OSError` or an error of the store ends it where the power went."""
        try:
            async with self.machine.open(Doc, durability=self.mode, **SETTINGS) as store, asyncio.TaskGroup() as group:
                for client in "ab":
                    group.create_task(self.write(store, client, n_rounds))
                group.create_task(self.tend(store, n_rounds))
        except* (ws.WarpstoreError, OSError):
            pass
        else:
            self.ledger.synced(self.ledger.done)

    async def write(self, store: ws.Store, client: str, n_rounds: int) -> None:
        docs = store[Doc]
        for n in range(self.first, self.first + n_rounds):
            key = f"{client}{n % N_KEYS}"
            if n % 5 == 0:
                await self.note({key: None}, docs.delete(key))
            elif n % 3 == 0:
                batch = [doc(f"{client}{i}", n) for i in range(N_KEYS) if i % 2]
                await self.note({one.id: one.n for one in batch}, docs.put_many(batch), whole=False)
            else:
                await self.note({key: n}, docs.put(doc(key, n)))
            if self.mode != "fsync" and n % 4 == 0:
                done = self.ledger.done
                await store.sync()
                if self.mode == "interval":
                    self.ledger.synced(done)
            await asyncio.sleep(0)

    async def note(self, values: dict[str, Any], call: Any, *, whole: bool = True) -> None:
        writes = [self.ledger.begin(values)] if whole else [self.ledger.begin({k: v}) for k, v in values.items()]
        await call
        for write in writes:
            self.ledger.end(write, safe=self.mode == "fsync")

    async def tend(self, store: ws.Store, n_rounds: int) -> None:
        for n in range(n_rounds // 8):
            await asyncio.sleep(0.002)
            done = self.ledger.done
            await store.checkpoint()
            self.ledger.synced(done)
            if n % 2:
                await store.age()
            else:
                await store.backup("/copy")


async def held(store: ws.Store) -> dict[str, Any]:
    """Return what a store holds, each record read singly, in a batch and in a scan."""
    scanned = {one.id: one async for one in store[Doc].scan()}
    keys = sorted(scanned)
    assert await store[Doc].get_many(keys) == [scanned[key] for key in keys]
    for key in keys:
        one = await store[Doc].get(key)
        assert one == scanned[key] == doc(key, one.n)
    return {key: one.n for key, one in scanned.items()}


async def recover(machine: Machine, ledger: Ledger, mode: str) -> None:
    """Open what a power cut left and check it."""
    async with machine.open(Doc, durability=mode, **SETTINGS) as store:
        ledger.check(await held(store))
        await store.checkpoint()
        assert_no_strays(machine, store)
        ledger.check(await held(store))


def assert_no_strays(machine: Machine, store: ws.Store) -> None:
    shards = store._context.shards.values()
    checkpoints = {os.path.basename(shard.checkpoint.path) for shard in shards if shard.checkpoint}
    assert set(machine.files.list_directory("/store/checkpoint")) == checkpoints
    blocks = {block_path("", n)[1:] for shard in shards if shard.checkpoint for n in shard.checkpoint.block_numbers}
    assert set(machine.files.list_directory("/store/blocks")) == blocks
    assert not [name for name in machine.files.list_directory("/store") if name.endswith(".new")]


def n_calls(mode: str, seed: int, n_rounds: int) -> int:
    """Return how many calls a run makes that no power cut ends."""
    machine = Machine(seed=seed)
    run_virtual(Work(machine, Ledger(), mode).run(n_rounds), seed=seed)
    return len(machine.files.calls)


@pytest.mark.parametrize("mode", ["fsync", "interval", "memory"])
def test_r1_a_power_cut_at_any_call_loses_nothing_that_was_promised(mode: str) -> None:
    total = n_calls(mode, 1, 30)
    for point in range(POINTS):
        seed = 1 + point
        at = (point * 7919) % (total + total // 10)
        machine, ledger = Machine(seed=seed), Ledger()
        machine.files.power_off_at(at)
        run_virtual(Work(machine, ledger, mode).run(30), seed=seed)
        run_virtual(recover(machine.after_power_cut(), ledger, mode), seed=seed)


@pytest.mark.parametrize("mode", ["fsync", "interval"])
def test_r6_a_second_power_cut_during_recovery_loses_nothing_either(mode: str) -> None:
    total = n_calls(mode, 2, 20)
    for point in range(POINTS // 4):
        seed = 1_000 + point
        machine, ledger = Machine(seed=seed), Ledger()
        machine.files.power_off_at((point * 104_729) % total)
        run_virtual(Work(machine, ledger, mode).run(20), seed=seed)
        for again in range(3):
            machine = machine.after_power_cut()
            ledger.power_cut()
            machine.files.power_off_at(machine.chance.randrange(60))
            run_virtual(Work(machine, ledger, mode, first=100 * (again + 1)).run(6), seed=seed)
        run_virtual(recover(machine.after_power_cut(), ledger, mode), seed=seed)
