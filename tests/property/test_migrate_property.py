"""Random chains of record types, with random places of the records, equal a model of what each field should read as.

The model knows a record as what its last writer put, and carries it from type to type by the rules that users are told:
a field keeps its values under its name, or under the name that says Renamed; a name that was dropped and comes back
finds its values if the type still reads them, and begins anew if not; what is added has its default.
"""

import asyncio
import itertools
import tempfile
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import warpstore as ws
from tests.support.worlds import World, collected
from warpstore import manifest as manifests

NAMES = ("a", "b", "c", "d")
HINTS: dict[str, Any] = {"int": int, "float": float, "str": str, "list": list[str], "maybe": int | None}
DEFAULTS: dict[str, Any] = {"int": -1, "float": -0.5, "str": "none", "list": [], "maybe": None}
READS = {("int", "float"), ("int", "maybe"), *((name, name) for name in HINTS)}
TIERS = {
    "auto": ws.Auto(),
    "disk": ws.Disk(),
    "max": ws.Disk(compression="max", cache=False),
    "memory": ws.Memory(),
    "gpu": ws.Gpu(),
}
LONG = "long " * 20
VALUES: dict[str, Any] = {"int": 5, "float": 2.5, "str": LONG, "list": [LONG, "x"], "maybe": 7}


@dataclass(frozen=True)
class Declared:
    """One field: its type, its tier, and the name that it had."""

    hint: str
    tier: str
    renamed: str | None = None


Shape = dict[str, Declared]


@st.composite
def declared(draw: st.DrawFn, hint: str | None = None, renamed: str | None = None) -> Declared:
    hint = hint or draw(st.sampled_from(sorted(HINTS)))
    tiers = [name for name in TIERS if name != "gpu" or hint in ("int", "float")]
    return Declared(hint, draw(st.sampled_from(tiers)), renamed)


@st.composite
def chains(draw: st.DrawFn) -> list[Shape]:
    """Return shapes of which each can be reached from the one before; widening is drawn, narrowing is not."""
    shape: Shape = {name: draw(declared()) for name in draw(st.sets(st.sampled_from(NAMES), min_size=1))}
    chain = [shape]
    history: list[Shape] = [shape]
    for _ in range(draw(st.integers(1, 4))):
        after: Shape = {}
        for name, field in shape.items():
            change = draw(st.sampled_from(["keep", "keep", "drop", "rename", "move", "widen"]))
            free = [n for n in NAMES if n not in shape and n not in after]
            if change == "drop":
                continue
            if change == "rename" and free:
                after[draw(st.sampled_from(free))] = draw(declared(field.hint, name))
            elif change == "widen":
                to = draw(st.sampled_from(sorted(new for old, new in READS if old == field.hint)))
                after[name] = draw(declared(to))
            else:
                after[name] = draw(declared(field.hint)) if change == "move" else Declared(field.hint, field.tier)
        taken = {field.renamed for field in after.values()}
        for name in NAMES:
            if name not in after and name not in taken and name not in shape and draw(st.booleans()):
                after[name] = draw(declared())
        shape = after
        chain.append(shape)
        history.append(shape)
    return chain


def record_type(shape: Shape) -> Any:
    body: dict[str, Any] = {"__annotations__": {"id": Annotated[str, ws.Key()]}, "__module__": __name__}
    for name, field in shape.items():
        markers = [TIERS[field.tier], *([ws.Renamed(field.renamed)] if field.renamed else [])]
        hint = HINTS[field.hint]
        for marker in markers:
            hint = Annotated[hint, marker]
        body["__annotations__"][name] = hint
        body[name] = DEFAULTS[field.hint]
    return types.new_class("Thing", (ws.Record,), {"name": "thing"}, lambda names: names.update(body))


def carried(values: dict[str, Any], chain: list[Shape]) -> dict[str, Any]:
    """Return what a record that was put under the first shape reads as under the last."""
    origin = {name: name for name in chain[0]}  # by today's name
    for before, after in itertools.pairwise(chain):
        step = {}
        for name, field in after.items():
            if field.renamed in origin and name not in before:
                step[name] = origin[field.renamed]
        moved = {after[name].renamed for name in step}
        for name, first in origin.items():
            back = before[name].renamed
            if name in moved:
                continue
            if name in after:
                step[name] = first
            elif back in after and back not in before and (before[name].hint, after[back].hint) in READS:
                step[back] = first
        origin = step
    last = chain[-1]
    for name, field in chain[0].items():
        is_free = name in last and name not in origin and name not in origin.values()
        if is_free and (field.hint, last[name].hint) in READS:
            origin[name] = name
    return {name: values[origin[name]] if name in origin else DEFAULTS[field.hint] for name, field in last.items()}


def is_readable(chain: list[Shape]) -> bool:
    """Return whether the types of the values that are carried all read: a name may come back as another's."""
    model = carried({name: ("of", field.hint) for name, field in chain[0].items()}, chain)
    return all((value[1], chain[-1][name].hint) in READS for name, value in model.items() if type(value) is tuple)


async def run(folder: Path, chain: list[Shape], checkpoints: list[bool], migrate_at: list[bool], shards: int) -> None:
    world = World(folder / "store")
    put: dict[str, tuple[int, dict[str, Any]]] = {}
    kinds = [record_type(shape) for shape in chain]
    for n, (shape, kind) in enumerate(zip(chain, kinds, strict=True)):
        expected = {
            key: kind(id=key, **carried(values, chain[at : n + 1])) for key, (at, values) in sorted(put.items())
        }
        if n and migrate_at[n]:
            await ws.migrate(world.path, [kind], environment=world.environment)
            for key, record in expected.items():
                put[key] = n, {name: getattr(record, name) for name in shape}
        async with world.open(kind, shards=shards) as store:
            table = store[kind]
            assert await collected(table.scan()) == list(expected.values())
            assert [await table.get(key) for key in expected] == list(expected.values())
            assert await table.get_many(list(expected)) == list(expected.values())
            for name, field in shape.items():
                parts = await table.get_many(list(expected), fields=[name])
                assert [getattr(part, name) for part in parts] == [getattr(r, name) for r in expected.values()]
                if field.tier == "gpu" and expected:
                    found = await table.column(name).lookup(list(expected))
                    assert found[0].tolist() == [getattr(r, name) for r in expected.values()]
            for key in (f"k{n}", f"m{n}"):
                values = {name: VALUES[field.hint] for name, field in shape.items() if key[0] == "k"}
                await table.put(kind(id=key, **values))
                put[key] = n, {name: values.get(name, DEFAULTS[field.hint]) for name, field in shape.items()}
            if n and put.get("k0", (n, {}))[0] != n and checkpoints[n - 1]:
                await table.modify("k0", lambda record: None)
                put["k0"] = n, carried(put["k0"][1], chain[put["k0"][0] : n + 1])
            if checkpoints[n]:
                await store.checkpoint()
    last = kinds[-1]
    async with world.open(last) as store:
        lazily = await collected(store[last].scan())
    before = manifests.read(world.files, world.path).rollback
    await ws.migrate(world.path, [last], environment=world.environment)
    [table_manifest] = manifests.read(world.files, world.path).tables.values()
    assert len(table_manifest.schemas) == 1
    async with world.open(last) as store:
        assert await collected(store[last].scan()) == lazily
    after = manifests.read(world.files, world.path).rollback
    if after != before:
        ws.roll_back(world.path, environment=world.environment)
        async with world.open(last) as store:
            assert await collected(store[last].scan()) == lazily


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(
    chain=chains(),
    checkpoints=st.lists(st.booleans(), min_size=5, max_size=5),
    migrate_at=st.lists(st.sampled_from([False, False, True]), min_size=5, max_size=5),
    shards=st.sampled_from([1, 3]),
)
def test_a_chain_of_types_reads_as_the_model_says(
    chain: list[Shape], checkpoints: list[bool], migrate_at: list[bool], shards: int
) -> None:
    with tempfile.TemporaryDirectory(prefix="warpstore-") as folder:
        start = 0
        for n in range(1, len(chain)):
            if not all(is_readable(chain[at : n + 1]) for at in range(start, n)):
                chain = chain[:n]
                break
            start = n if migrate_at[n] else start  # what a migration has dropped contradicts nothing any more
        asyncio.run(run(Path(folder), chain, checkpoints, migrate_at, shards))
