"""Which runs of files still belong to a live record: the question of every rewriting of files.

It needs no record types, so it answers for tables that were opened without one, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from warpstore.keys import HotKey, slot_of
from warpstore.table_access import TableAccess
from warpstore.temporal.format import Run
from warpstore.temporal.state import companion_of, unpack_state
from warpstore.values import live_body

if TYPE_CHECKING:
    from warpstore.context import StoreContext
    from warpstore.manifest import Manifest

_Owner = tuple[int, HotKey]


class Owners:
    """Tells which runs count.

    Args:
        context: The store's.
        manifest: Its manifest of now.
    """

    def __init__(self, context: StoreContext, manifest: Manifest) -> None:
        self._context = context
        self._tables: dict[int, tuple[TableAccess, TableAccess]] = {}
        self._kept_series: set[tuple[int, int]] = set()
        for name, table in manifest.tables.items():
            beside = manifest.tables.get(companion_of(name))
            if beside is None:
                continue
            self._tables[table.table] = (
                TableAccess(context, context.tables[table.table], name),
                TableAccess(context, context.tables[beside.table], companion_of(name)),
            )
            names = {field["name"] for field in table.schemas[-1].schema["fields"]}
            self._kept_series |= {(table.table, n) for series, n in table.series.items() if series in names}

    def has(self, table: int, series: int) -> bool:
        """Return whether there still is a series."""
        return (table, series) in self._kept_series

    async def counting(self, runs: Sequence[Run], move: int) -> list[bool]:
        """Return, for each run, whether it counts.

        Args:
            runs: The runs.
            move: The move that wrote them, or 0 if that is settled.
        """
        wanted: dict[int, list[HotKey]] = {}
        for run in runs:
            if self.has(run.table, run.series):
                keys = wanted.setdefault(run.table, [])
                if not keys or keys[-1] != run.key:
                    keys.append(run.key)
        known: dict[_Owner, tuple[int, int]] = {}
        now_ms = int(self._context.clock.wall() * 1000)
        for table, keys in wanted.items():
            access, beside = self._tables[table]
            routed = [(slot_of(key), key) for key in keys]
            values = await access.values(routed, whole=False)
            states = await beside.values(routed, whole=True)
            for key, value, state in zip(keys, values, states, strict=True):
                if value and live_body(value, now_ms) is not None:
                    known[table, key] = unpack_state(state)[:2]
        found = []
        for run in runs:
            incarnation, last_move = known.get((run.table, run.key), (0, 0))
            is_there = self.has(run.table, run.series) and incarnation == run.incarnation
            found.append(is_there and incarnation != 0 and move in (0, last_move))
        return found
