"""Whatever is written, a slab answers as a dictionary with sorted keys does."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gpu_kernels import NumpyBackend, Slab, Snapshot

# Few distinct keys of each kind, so that batches meet; prefixes, NULs and lengths about the limit are among them.
_TAIL = st.sampled_from(["", "\0", "\0\0", "a", "b", "é", "a\0b", "x" * 24, "x" * 25, "y" * 24, "z" * 90])
_TEXT = st.builds(lambda head, tail: head + tail, st.sampled_from(["", "prefix-1", "prefix-2"]), _TAIL)
KEYS: dict[str, st.SearchStrategy[Any]] = {
    "int": st.one_of(st.integers(-20, 20), st.sampled_from([-(2**63), 2**63 - 1, 2**40, 2**40 + 1])),
    "uint": st.one_of(st.integers(0, 40), st.sampled_from([2**63, 2**64 - 1])),
    "float": st.one_of(st.integers(-9, 9).map(lambda i: i / 4), st.sampled_from([-np.inf, np.inf, 5e-324])).map(float),
    "str": _TEXT,
    "bytes": _TEXT.map(str.encode),
    "uuid": st.integers(0, 30).map(lambda i: uuid.UUID(int=i << (i * 4))),
}


class SlabMachine(RuleBasedStateMachine):
    """The same writes to a slab and a dictionary."""

    kind: Any
    slab: Slab
    model: dict[Any, int]

    @initialize(data=st.data(), kind=st.sampled_from(sorted(KEYS)), auto_merge=st.booleans())
    def make(self, data: st.DataObject, kind: Any, auto_merge: bool) -> None:
        self.kind = kind
        keys = self.batch(data)
        self.model = {key: i for i, key in enumerate(keys)}
        columns = {"v": np.arange(len(keys)), "w": -np.arange(len(keys), dtype="f4")}
        self.slab = Slab.build(kind, keys, columns, backend=NumpyBackend(threads=1), auto_merge=auto_merge)
        self.counter = len(keys)
        self.old: tuple[Snapshot, dict[Any, int]] = (self.slab.snapshot(), dict(self.model))

    def batch(self, data: st.DataObject) -> list[Any]:
        return data.draw(st.lists(KEYS[self.kind], max_size=33))

    @rule(data=st.data())
    def upsert(self, data: st.DataObject) -> None:
        keys = self.batch(data)
        values = np.arange(self.counter, self.counter + len(keys))
        self.counter += len(keys)
        new = set(keys) - set(self.model)
        counts = self.slab.upsert(keys, {"v": values, "w": -values.astype("f4")})
        assert counts == (len(new), len(set(keys)) - len(new))
        self.model.update(zip(keys, values.tolist(), strict=True))

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        keys = self.batch(data)
        assert self.slab.delete(keys) == len(set(keys) & set(self.model))
        for key in keys:
            self.model.pop(key, None)

    @rule()
    def merge(self) -> None:
        due = self.slab.merge_due
        assert self.slab.merge() == due

    @rule()
    def compact(self) -> None:
        self.slab.compact()
        assert self.slab.statistics().run_rows == ((len(self.model),) if self.model else ())

    @rule()
    def keep_snapshot(self) -> None:
        self.check(*self.old)
        self.old = (self.slab.snapshot(), dict(self.model))

    @rule(data=st.data())
    def look_up(self, data: st.DataObject) -> None:
        keys = self.batch(data)
        values, narrow, found = self.slab.lookup(keys)
        assert found.tolist() == [key in self.model for key in keys]
        assert values.tolist() == [self.model.get(key, 0) for key in keys]
        assert narrow.tolist() == [-self.model.get(key, 0) for key in keys]
        assert self.slab.contains(keys).tolist() == found.tolist()
        rows = self.slab.rows(keys)
        assert len(set(rows[found].tolist())) == len({key for key in keys if key in self.model})

    @rule(data=st.data())
    def read_range(self, data: st.DataObject) -> None:
        start, stop = data.draw(st.none() | KEYS[self.kind]), data.draw(st.none() | KEYS[self.kind])
        keys, values = self.slab.range(start, stop, "v")
        inside = [key for key in sorted(self.model) if (start is None or key >= start) and (stop is None or key < stop)]
        assert keys.tolist() == inside
        assert values.tolist() == [self.model[key] for key in inside]
        if start is not None:
            assert self.slab.lower_bound([start]).tolist() == [sum(key < start for key in self.model)]

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "slab"):
            self.check(self.slab.snapshot(), self.model)

    @staticmethod
    def check(view: Snapshot, model: dict[Any, int]) -> None:
        assert len(view) == len(model)
        keys, values = view.items("v")
        assert dict(zip(keys.tolist(), values.tolist(), strict=True)) == model
        assert keys.tolist() == sorted(model)


TestSlab = SlabMachine.TestCase
TestSlab.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
