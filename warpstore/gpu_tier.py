"""The GPU tier: a table's `Gpu` fields as the columns of one slab.

The slab holds copies. It is built at the first lookup, from the checkpoints and what is newer; from then on each shard
feeds it the payloads of every group that was acknowledged, which are taken in, in order, before the next lookup. So a
table whose columns nobody looks up pays nothing, and a put never touches a column.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
import numpy as np
from numpy.typing import NDArray

from gpu_kernels import Backend, GpuKernelsError, KeyTypeError, Slab, SlabStatistics
from gpu_kernels.keys import Keys
from warpstore.codec import Codec
from warpstore.errors import ValidationError, WarpstoreError
from warpstore.hot_tier import Snapshot
from warpstore.keys import HotKey
from warpstore.parts import head_of, is_split
from warpstore.values import (
    DEADLINE_BYTE,
    DEADLINE_BYTES,
    TOMBSTONE,
    TOMBSTONE_BYTE,
    deadline_of,
    split_payload,
)
from warpstore.would_block import WouldBlock

if TYPE_CHECKING:
    from warpstore.context import StoreContext

LOOKUP_ON_LOOP_MAX = 8_192
TAKE_IN_ON_LOOP_MAX = 4_096
FED_MAX = 65_536
_DEADLINE_COLUMN = "deadline ms"  # no field can have a name with a space


class GpuTier:
    """The slab of one table and what was fed to it.

    Attributes:
        dtypes: The dtype of each column.
    """

    def __init__(
        self, context: StoreContext, codec: Codec[Any], backend: Backend, older: Mapping[int, Callable[[Any], Any]]
    ) -> None:
        self.dtypes = {field.name: field.dtype for field in codec.plan.gpu_fields}
        self._context = context
        self._backend = backend
        self._codec = codec
        self._names = tuple(self.dtypes)
        self._project = codec.project(self._names)
        self._values = [attrgetter(name) for name in self._names]
        self._key = attrgetter(codec.plan.key_field)
        self._plain = _prefix(1 + len(codec.stored_names), codec.tag)
        self._deleted = bytes([TOMBSTONE_BYTE]) + _prefix(2, codec.tag)
        self._slab: Slab | None = None
        self._expires = codec.plan.strategy.ttl is not None
        self._fed: list[Sequence[bytes]] = []
        self._n_fed = 0
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._revision = 0
        self._older = older

    # Feeding

    def feed(self, payloads: Sequence[bytes]) -> None:
        """Remember acknowledged payloads of any table for the next lookup."""
        self._fed.append(payloads)
        self._n_fed += len(payloads)
        if self._n_fed > FED_MAX and self._task is None:
            self._task = self._context.loop.create_task(self._take_in_later())

    async def _take_in_later(self) -> None:
        try:
            async with self._lock:
                await self._take_in()
        finally:
            self._task = None

    async def lookup(self, name: str, keys: Keys) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return a column's values and which were found; see `Column.lookup`."""
        async with self._lock:
            await self._take_in()
            while self._slab is None:  # also when the first record with a deadline came in, or a shard came back
                await self._build()
                await self._take_in()
            snapshot = self._slab.snapshot()
        columns = [name, _DEADLINE_COLUMN] if self._expires else [name]

        def search() -> tuple[NDArray[Any], ...]:
            return snapshot.lookup(keys, columns)

        try:
            if len(keys) <= LOOKUP_ON_LOOP_MAX:
                values, *deadlines, found = search()
            else:
                values, *deadlines, found = await self._context.run(search)
        except KeyTypeError as e:
            raise ValidationError(f"{self._codec.plan.table}: {e}", field=self._codec.plan.key_field) from e
        except GpuKernelsError as e:
            raise WarpstoreError(f"{self._codec.plan.table}.{name}: {e}") from e
        if deadlines:
            found &= deadlines[0] > int(self._context.clock.wall() * 1000)
            values[~found] = np.zeros((), self.dtypes[name].base)
        return values, found

    # Taking in

    async def _build(self) -> None:
        self._context.start_feeding(self)
        self._fed, self._n_fed = [], 0
        revision = self._revision
        snapshots = self._context.snapshots(self._codec.plan.table)
        try:
            slab = await self._context.run(lambda: self._built(snapshots))
        finally:
            for snapshot in snapshots:
                snapshot.release()
        if revision == self._revision:
            self._slab = slab

    def forget(self) -> None:
        """Drop the slab: the next lookup builds it anew."""
        self._slab = None
        self._revision += 1

    def _built(self, snapshots: list[Snapshot]) -> Slab:
        """Return a slab of everything in the snapshots; blocks."""
        values: list[bytes] = []
        for snapshot in snapshots:
            newest: dict[HotKey, bytes] = {}
            for generation in reversed(snapshot.generations):
                for some in generation.maps:
                    newest.update(some.items())
            if snapshot.cold is not None:
                values += [value for key, value in snapshot.cold.records() if key not in newest]
            values += [value for value in newest.values() if value]
        if any(value[0] == DEADLINE_BYTE for value in values):
            self._expires = True
        keys, columns = self._columns(values)
        return Slab.build(
            self._codec.plan.key_kind, keys, columns, self._slab_dtypes(), backend=self._backend, auto_merge=False
        )

    def _slab_dtypes(self) -> dict[str, Any]:
        return {**self.dtypes, _DEADLINE_COLUMN: np.dtype(np.int64)} if self._expires else dict(self.dtypes)

    async def _take_in(self) -> None:
        self._context.flush_pending(self)
        if not self._fed:
            return
        fed, self._fed = self._fed, []
        n_fed, self._n_fed = self._n_fed, 0
        try:
            if n_fed <= TAKE_IN_ON_LOOP_MAX:
                self._apply(fed)
            else:
                await self._context.run(lambda: self._apply(fed))
            slab = self._slab
            if slab is not None and slab.merge_due:
                await self._context.run(slab.merge)
        except BaseException:
            self.forget()  # also when cancelled: what was fed is taken in by halves, and a thread may go on with it
            raise

    def _apply(self, fed: list[Sequence[bytes]]) -> None:
        """Bring the slab up to what was fed."""
        newest: dict[HotKey, bytes] = {}
        plain, deleted = self._plain, self._deleted
        for payloads in fed:
            for payload in payloads:
                if payload.startswith(plain):
                    newest[self._codec.key_of(payload)] = payload
                elif payload.startswith(deleted):
                    newest[split_payload(payload)[1]] = TOMBSTONE
                elif payload[0] == DEADLINE_BYTE and payload.startswith(plain, DEADLINE_BYTES):
                    newest[split_payload(payload)[1]] = payload
        slab = self._slab
        if slab is None or not newest:
            return
        if not self._expires and any(value and value[0] == DEADLINE_BYTE for value in newest.values()):
            self._expires = True
            self._slab = None
            return
        gone: list[Any] = [key for key, value in newest.items() if not value]
        if self._codec.plan.key_kind == "uuid":
            gone = [UUID(bytes=key) for key in gone]
        live = [value for value in newest.values() if value]
        if live:
            slab.upsert(*self._columns(live))
        if gone:
            slab.delete(gone)

    def _columns(self, values: Iterable[bytes]) -> tuple[list[Any], dict[str, Any]]:
        """Return the keys and the columns of live values."""
        records = []
        deadlines = []
        for value in values:
            has_end = value[0] == DEADLINE_BYTE
            deadlines.append(deadline_of(value) if has_end else np.iinfo(np.int64).max)
            body = value[DEADLINE_BYTES:] if has_end else value
            if body.startswith(self._plain):
                records.append(self._project(body))
            elif is_split(body) and split_payload(body)[0] == self._codec.tag:
                records.append(self._project(head_of(body)))
            else:
                whole = self._context.blocks.whole(body, blocking=True)
                assert not isinstance(whole, WouldBlock)
                records.append(self._older[split_payload(body)[0]](whole))
        columns = {
            name: np.array(list(map(get, records)), dtype.base).reshape(len(records), *dtype.shape)
            for (name, dtype), get in zip(self.dtypes.items(), self._values, strict=True)
        }
        if self._expires:
            columns[_DEADLINE_COLUMN] = np.array(deadlines, np.int64)
        return list(map(self._key, records)), columns

    @property
    def n_fed(self) -> int:
        """Acknowledged writes that the next lookup takes in first."""
        return self._n_fed

    def statistics(self) -> SlabStatistics | None:
        """Return the slab's statistics, or None before the first lookup."""
        return None if self._slab is None else self._slab.statistics()

    def close(self) -> None:
        """Drop the slab."""
        if self._task is not None:
            self._task.cancel()
        if self._slab is not None:
            self._slab.close()
            self._slab = None


def _prefix(n_elements: int, tag: int) -> bytes:
    """Return the bytes that open every array of ``n_elements`` that begins with ``tag``."""
    return msgspec.msgpack.encode([tag, *([None] * (n_elements - 1))])[: -(n_elements - 1)]
