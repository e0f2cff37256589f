"""The ager: the actor that takes items that are too old out of their records, and files from place to place.

A round goes in steps, each of which leaves a whole store behind wherever it ends:

1. What an interrupted move left is settled.
2. Files whose items are all past the last horizon leave the manifest, and are removed.
3. Moves: items are written into files, by place and time partition; the manifest names the files with the number of
   the move; the items leave their records, each record's as one write that sets its ``last_move``; when that is
   durable, the move is settled: its files count without a look at ``last_move``, and lose what did not leave its
   record.
4. Files whose items are all too old for ssd are merged into files on disk; many small ones of a partition into one.
5. Files whose items are all too old for disk are uploaded, read back, named in the manifest as archived, and removed.

At any time at most one move is not settled, so one number in a record's state tells which of its items count.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING

import msgspec

from wal import WalError, log_event
from warpstore.actor import Actor, Call
from warpstore.errors import ArchiveUnavailableError, ClosedStoreError, UnavailableError, WarpstoreError
from warpstore.keys import HotKey, slot_of
from warpstore.manifest import SeriesFileManifest, TableManifest
from warpstore.scan import Scan, ScanBounds
from warpstore.schema import Schema
from warpstore.temporal.format import Run, sort_key
from warpstore.temporal.horizons import PLACES, Horizons, Place, horizons_of
from warpstore.temporal.rewriting import Rewriting
from warpstore.temporal.series_files import SeriesFile
from warpstore.temporal.states import Owners
from warpstore.temporal.table_series import Due, TableSeries
from warpstore.temporal.times import NS
from warpstore.values import split_payload

if TYPE_CHECKING:
    from warpstore.catalog import Catalog
    from warpstore.context import StoreContext

logger = logging.getLogger(__name__)

KEYS_PER_MOVE = 4_096
BYTES_PER_MOVE = 16 << 20
KEYS_AT_ONCE = 8
"""Records looked at, or written, between two turns of the loop."""

MERGED_FILES = 8
"""So many files of a partition become one."""

MERGED_BYTES_MAX = 256 << 20
"""Files that together are larger are left alone."""

INTERVAL_S_MIN, INTERVAL_S_MAX = 10.0, 3600.0
RETRY_S_MIN = 1.0
ROUNDS_PER_HORIZON = 16

_Partition = tuple[str, int, int]


class Ager(Actor[str, None]):
    """Ages the items of a store's series, at an interval and on request.

    Attributes:
        n_rounds: Rounds done since the store was opened.
        n_items_moved: Items that left their records in them.
        last_error: Why the last round was not complete, or None.
    """

    def __init__(self, context: StoreContext, catalog: Catalog) -> None:
        super().__init__("ager", loop=context.loop, clock=context.clock)
        self.n_rounds = 0
        self.n_items_moved = 0
        self.last_error: WarpstoreError | None = None
        self._context = context
        self._catalog = catalog
        self._timer: asyncio.TimerHandle | None = None
        self._n_failed = 0
        self._is_halted = False
        self._ended: asyncio.Future[None] | None = None
        self._doubtful: list[SeriesFile] = []
        self._known: tuple[dict[str, TableManifest], dict[tuple[int, int], Horizons]] | None = None

    async def on_start(self) -> None:
        self._arm()

    async def on_stop(self) -> None:
        self._disarm()

    def on_crash(self, error: BaseException) -> None:  # noqa: ARG002
        self._disarm()

    def halt(self) -> None:
        """Begin no step any more; the one under way ends first."""
        self._is_halted = True
        self._disarm()

    async def rest(self) -> None:
        """Return when no round is under way; after `halt`."""
        while not self.is_idle and self.is_alive:
            await asyncio.shield(self._round_ended())

    def _round_ended(self) -> asyncio.Future[None]:
        if self._ended is None or self._ended.done():
            self._ended = self.loop.create_future()
        return self._ended

    # When

    @property
    def interval_s(self) -> float | None:
        """Seconds between two rounds, or None where nothing ages."""
        if self._context.config.ageing_interval_s is not None:
            return self._context.config.ageing_interval_s
        shortest: float | None = None
        for table in self._context.series_tables:
            for series in table.records.series:
                if series.horizons.ages:
                    first = min((ns for ns in series.horizons[:3] if ns is not None), default=0) / NS
                    shortest = first if shortest is None else min(shortest, first)
        if shortest is None:
            return None
        return min(max(shortest / ROUNDS_PER_HORIZON, INTERVAL_S_MIN), INTERVAL_S_MAX)

    def _arm(self) -> None:
        self._disarm()
        interval = self.interval_s
        if interval is None or self._is_halted:
            return
        if self._n_failed:
            interval = min(interval, RETRY_S_MIN * 2 ** min(self._n_failed, 20))
        self._timer = self.loop.call_later(interval, self._tick)

    def rearm(self) -> None:
        """Take in that the tables are known now."""
        self._arm()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        if self.is_alive and self.is_idle:
            self.cast_nowait("time has passed")
        elif self.is_alive:
            self._arm()

    def handle_batch(self, messages: list[str | Call[str, None]]) -> Awaitable[None]:
        return self._answer(messages)

    async def _answer(self, messages: list[str | Call[str, None]]) -> None:
        """One round answers all who asked."""
        error: WarpstoreError | None = None
        clock, n_before = self._context.clock, self.n_items_moved
        began_s = clock.monotonic()
        try:
            with self._context.tracing.span("age", under=self._context.tracing.apart()) as span:
                error = await self._round()
                span.set("warpstore.moved_items", self.n_items_moved - n_before)
        except (WarpstoreError, WalError, OSError) as e:
            error = e if isinstance(e, WarpstoreError) else UnavailableError(f"ageing failed: {e}")
            error.__cause__ = None if error is e else e
        if error is None:
            self._n_failed = 0
            self.n_rounds += 1
            n, path, seconds = self.n_items_moved - n_before, self._context.path, clock.monotonic() - began_s
            log_event(logger, logging.DEBUG, "items_aged", path=path, items=n, seconds=seconds)
        else:
            self._n_failed += 1
            log_event(logger, logging.WARNING, "ageing_failed", path=self._context.path, error=error)
        self.last_error = error
        for message in messages:
            if isinstance(message, Call):
                message.reply(None) if error is None else message.fail(error)
        self._arm()
        self.loop.call_soon(self._wake_resting)

    def _wake_resting(self) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def _check(self) -> None:
        """Raise where no further step may begin."""
        if self._is_halted:
            raise ClosedStoreError(f"the store {self._context.path!r} is being closed")
        self._context.check()
        if self._context.read_only is not None:
            raise self._context.read_only.with_traceback(None)

    async def _round(self) -> WarpstoreError | None:
        """Do every step that can be done; return what kept the others from being done."""
        self._check()
        error: WarpstoreError | None = None
        await self._settle()
        await self._drop_past_files()
        for table in self._context.series_tables:
            if table.ages:
                try:
                    await self._take_out(table)
                except ClosedStoreError:
                    raise
                except UnavailableError as e:
                    error = error or e
                    break  # what it left is settled before the next move
        for step in (self._to_disk, self._compact, self._to_archive, self._remove_gone):
            try:
                await step()
            except ClosedStoreError:
                raise
            except UnavailableError as e:
                error = error or e
        return error

    # Moves

    async def _take_out(self, table: TableSeries) -> None:
        """Take what is too old out of a table's records."""
        context, codec = self._context, table.codec
        now_ns = table.now_ns()
        scan: Scan[bytes] = Scan(
            lambda: context.tiers(codec.plan.table),
            ScanBounds(start=None, stop=None, limit=None),
            context,
            codec,
            whole=bytes,
            part=bytes,
            needs_whole=False,
            finish=None,
            reverse=False,
        )
        keys: list[HotKey] = []
        try:
            async for body in scan:
                try:
                    if table.records.is_due(body, now_ns):
                        keys.append(split_payload(body)[1])
                except msgspec.MsgspecError as e:
                    log_event(logger, logging.WARNING, "series_unreadable", table=codec.plan.table, error=e)
                if len(keys) >= KEYS_PER_MOVE:
                    await self._move_all(table, keys)
                    keys = []
        finally:
            await scan.aclose()
        await self._move_all(table, keys)

    async def _move_all(self, table: TableSeries, keys: Sequence[HotKey]) -> None:
        some: list[Due] = []
        n_bytes = 0
        for i, key in enumerate(keys):
            due = await table.due(slot_of(key), key)
            if due is not None:
                some.append(due)
                n_bytes += due.n_bytes
            if n_bytes >= BYTES_PER_MOVE:
                await self._move(table, some)
                some, n_bytes = [], 0
            elif i % KEYS_AT_ONCE == KEYS_AT_ONCE - 1:
                await self._context.pause()
        if some:
            await self._move(table, some)

    async def _move(self, table: TableSeries, dues: Sequence[Due]) -> None:
        """Move items of some records of one table into files, and settle the move."""
        self._check()
        move = self._catalog.take_series_number()
        by_partition: dict[_Partition, list[Run]] = {}
        for i, due in enumerate(dues):
            for run, partition in _runs(table, due, move):
                by_partition.setdefault(partition, []).append(run)
            if i % KEYS_AT_ONCE == KEYS_AT_ONCE - 1:
                await self._context.pause()
        if by_partition:
            entries = await self._context.run(lambda: self._write(by_partition, move))
            self._context.series.install(entries, [])
        all_left = True
        for start in range(0, len(dues), KEYS_AT_ONCE):
            part = dues[start : start + KEYS_AT_ONCE]
            left = await _all_of([table.take_out(due, move) for due in part])
            all_left = all_left and all(left)
            for due, is_out in zip(part, left, strict=True):
                self.n_items_moved += sum(len(items) for _, _, items in due.outgoing) if is_out else 0
            await self._context.pause()
        if by_partition:
            await self._settle(whole=all_left)

    def _write(self, by_partition: dict[_Partition, list[Run]], move: int) -> list[SeriesFileManifest]:
        """Write the files of a move, and have the manifest name them; blocks."""
        files, entries = self._context.series, []
        try:
            for partition, runs in sorted(by_partition.items(), key=lambda pair: pair[0]):
                runs.sort(key=sort_key)
                target = files.new_file(*partition, move)
                for run in runs:
                    target.add(run)
                entries.append(target.finish())
        except BaseException:
            files.remove(SeriesFile(entry) for entry in entries)
            raise
        self._record(entries, [])
        return entries

    def _record(self, add: Sequence[SeriesFileManifest], remove: Sequence[int]) -> None:
        """Change the manifest; blocks.

        A manifest whose replacement failed may be on disk all the same, so the new files stay until another one is.
        """
        known = {entry.number for entry in self._catalog.manifest.series}
        try:
            self._catalog.series_changed(add, remove)
        except OSError as e:
            self._doubtful += [SeriesFile(entry) for entry in add if entry.number not in known]
            raise UnavailableError(f"the manifest cannot be written: {e}") from e
        doubtful, self._doubtful = self._doubtful, []
        self._context.series.remove(doubtful)

    async def _settle(self, *, whole: bool = False) -> None:
        """Settle the move that is not settled, if there is one.

        Args:
            whole: Whether all of its items are known to have left their records.
        """
        files = self._context.series
        pending = [file for file in files.files if file.entry.move]
        if not pending:
            return
        self._check()
        owners = Owners(self._context, self._catalog.manifest)
        add: list[SeriesFileManifest] = []
        remove: list[int] = []
        try:
            for file in pending:
                entry = file.entry
                if whole or await self._counts_whole(owners, file):
                    add.append(msgspec.structs.replace(entry, move=0))
                    continue
                place = entry.tier, entry.width_s, entry.partition
                rewritten = await self._rewrite(owners, [file], place, entry.move)
                add += [rewritten] if rewritten is not None else []
                remove.append(entry.number)
            await self._durable()
        except BaseException:
            await self._forget(add)
            raise
        await self._change(add, remove)

    async def _forget(self, entries: Sequence[SeriesFileManifest]) -> None:
        """Remove new files that no manifest names."""
        files = self._context.series
        known = {file.entry.number for file in files.files}
        new = [SeriesFile(entry) for entry in entries if entry.number not in known]
        if new:
            await self._context.run(lambda: files.remove(new))

    async def _counts_whole(self, owners: Owners, file: SeriesFile) -> bool:
        """Return whether every run of a file counts."""
        files = self._context.series
        reading = Rewriting(files, [file], file.entry.tier, file.entry.width_s, file.entry.partition)
        while runs := await self._context.run(reading.read):
            self._check()
            if not all(await owners.counting(runs, file.entry.move)):
                return False
        return True

    # Files

    async def _rewrite(
        self, owners: Owners, sources: Sequence[SeriesFile], place: _Partition, move: int
    ) -> SeriesFileManifest | None:
        """Write what counts of some files into a new one, and return what the manifest is to say of that."""
        run = self._context.run
        rewriting = Rewriting(self._context.series, sources, *place)
        try:
            while runs := await run(rewriting.read):
                self._check()
                counting = await owners.counting(runs, move)
                kept = [r for r, counts in zip(runs, counting, strict=True) if counts]
                await run(lambda kept=kept: rewriting.write(kept))  # type: ignore[misc]
            return await run(rewriting.finish)
        except BaseException:
            await run(rewriting.abandon)
            raise

    async def _merge(self, sources: Sequence[SeriesFile], place: _Partition) -> None:
        """Replace some settled files by one."""
        self._check()
        owners = Owners(self._context, self._catalog.manifest)
        merged = await self._rewrite(owners, sources, place, 0)
        add = [] if merged is None else [merged]
        try:
            await self._durable()
        except BaseException:
            await self._forget(add)
            raise
        await self._change(add, [file.entry.number for file in sources])

    async def _change(self, add: Sequence[SeriesFileManifest], remove: Sequence[int]) -> None:
        """Change the manifest, then the set of files."""
        await self._context.run(lambda: self._record(add, remove))
        self._context.series.install(add, remove)
        await self._remove_gone()

    async def _remove_gone(self) -> None:
        files = self._context.series
        gone = files.take_gone()
        if gone:
            left = await self._context.run(lambda: files.remove(gone))
            files.put_back(left)

    async def _durable(self) -> None:
        """Return when what records say now is durable, so that files may be let go because of it.

        Raises:
            UnavailableError: it failed.
        """
        context = self._context
        if context.config.durability == "memory":
            assert context.checkpointer is not None
            await context.checkpointer.call("items have left their records", timeout=None)
        elif context.config.durability == "interval":
            for keeper in context.lanes:
                if keeper.lane is None:
                    raise UnavailableError("the log failed, and is being recovered")
                await keeper.lane.sync()

    def _place(self, file: SeriesFile) -> Place:
        """Return where a file belongs: where its youngest item does."""
        now_ns = round(self._context.clock.wall() * NS)
        known = self._horizons()
        places: list[Place] = ["gone"]
        for found in file.entry.ranges:
            horizons = known.get((found.table, found.series))
            if horizons is not None:  # else the series was dropped
                places.append(horizons.place(now_ns - found.last_ns))
        return min(places, key=PLACES.index)

    def _horizons(self) -> dict[tuple[int, int], Horizons]:
        """Return the horizons of every series; of a field that is no series any more, those that keep its items."""
        tables = self._catalog.manifest.tables
        if self._known is None or self._known[0] is not tables:
            found: dict[tuple[int, int], Horizons] = {}
            for table in tables.values():
                fields = {f.name: f for f in Schema.from_builtins(table.schemas[-1].schema).fields}
                for name, number in table.series.items():
                    if name in fields:
                        found[table.table, number] = horizons_of(fields[name]) or Horizons(None, None, None, False)
            self._known = tables, found
        return self._known[1]

    async def _drop_past_files(self) -> None:
        """Let go of the files whose items are all past the last horizon."""
        past = [file.entry.number for file in self._context.series.files if self._place(file) == "gone"]
        if past:
            await self._change([], past)

    async def _to_disk(self) -> None:
        """Merge the files whose items are all too old for ssd into files on disk."""
        groups: dict[_Partition, list[SeriesFile]] = {}
        for file in self._context.series.files:
            entry = file.entry
            if entry.tier == "ssd" and not entry.move and self._place(file) in ("disk", "archive"):
                groups.setdefault(self._partition(entry, "disk"), []).append(file)
        for place, files in sorted(groups.items()):
            await self._merge(files, place)

    async def _compact(self) -> None:
        """Merge many small files of a partition into one."""
        groups: dict[_Partition, list[SeriesFile]] = {}
        for file in self._context.series.files:
            entry = file.entry
            if entry.tier != "archive" and not entry.move and not entry.outbound:
                groups.setdefault((entry.tier, entry.width_s, entry.partition), []).append(file)
        for place, files in sorted(groups.items()):
            files.sort(key=lambda file: file.entry.n_bytes)
            while len(files) >= MERGED_FILES:
                some, files = files[:MERGED_FILES], files[MERGED_FILES:]
                if sum(file.entry.n_bytes for file in some) > MERGED_BYTES_MAX:
                    break
                await self._merge(some, place)

    async def _to_archive(self) -> None:
        """Upload the files whose items are all too old for disk."""
        groups: dict[_Partition, list[SeriesFile]] = {}
        for file in self._context.series.files:
            entry = file.entry
            is_free = not entry.move and not entry.outbound
            if entry.tier == "disk" and is_free and self._place(file) == "archive":
                groups.setdefault((entry.tier, entry.width_s, entry.partition), []).append(file)
        for place, files in sorted(groups.items()):
            if len(files) > 1:
                await self._merge(files, place)
        for file in self._context.series.files:
            if file.entry.tier == "disk" and not file.entry.move and self._place(file) == "archive":
                self._check()
                await self._upload(file)

    async def _upload(self, file: SeriesFile) -> None:
        files = self._context.series
        if not file.entry.outbound:  # so that whatever comes between, what the archive has is not forgotten
            await self._change([msgspec.structs.replace(file.entry, outbound=True)], [])
        file.n_pins += 1
        try:
            await self._context.run(lambda: files.upload(file))
        except ArchiveUnavailableError as e:
            log_event(logger, logging.WARNING, "archive_unavailable", path=self._context.path, error=e)
            raise
        finally:
            file.n_pins -= 1
        await self._change([msgspec.structs.replace(file.entry, tier="archive", outbound=False)], [])

    def _partition(self, entry: SeriesFileManifest, tier: str) -> _Partition:
        """Return the partition of a tier that a file falls into."""
        known = self._horizons()
        widths = [h.width_s(tier) for r in entry.ranges if (h := known.get((r.table, r.series))) is not None]
        width_s = max(widths, default=entry.width_s)
        return tier, width_s, min(r.first_ns for r in entry.ranges) // (width_s * NS)


def _runs(table: TableSeries, due: Due, move: int) -> list[tuple[Run, _Partition]]:
    """Return what leaves a record as runs, each with the partition that it goes to."""
    runs: dict[tuple[int, _Partition], Run] = {}
    for series, place, items in due.outgoing:
        if place == "gone":
            continue
        tier = "ssd" if place == "ssd" else "disk"  # what is too old for the disk waits there for its upload
        width_s = series.horizons.width_s(tier)
        for time, raw in items:
            partition = tier, width_s, time // (width_s * NS)
            run = runs.get((series.number, partition))
            if run is None:
                incarnation = due.before.incarnation or move
                run = runs[series.number, partition] = Run(table.number, due.key, series.number, incarnation, [])
            run.items.append((time, move, raw))
    return [(run, partition) for (_, partition), run in runs.items()]


async def _all_of(calls: Sequence[Awaitable[bool]]) -> list[bool]:
    """Return the results of all calls; raise the first error only when every call has ended."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if isinstance(result, bool)]
