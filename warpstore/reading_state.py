"""Reads the synced state of a store that another process may own and write meanwhile. Takes no lock, writes nothing.

The owner changes its manifest before it lets go of a checkpoint or recycles a segment. So what was read between two
looks at the manifest, which found the same checkpoints and the same first segments, is one state of each shard, and
no file of it was recycled before it was read. If they differ, or a file was not what the first look said, it is read
again.

The log goes up to the last position that it names as durable. Where the owner acknowledges only what is durable
("fsync" mode), intact groups behind that count as well, once this process has synced the segments that hold them:
those may be acknowledged, and be in the page cache only as far as anybody can tell. A sync changes no byte.

What is read is of each shard all up to some LSN. In "fsync" mode with one lane, which is the default, that is one
cut: a write that began after another was acknowledged stands behind it in the log. Several lanes are read one after
another, and in "interval" mode the groups of one turn of the loop may stand in the log in another order than they
were made.
"""

from __future__ import annotations

import logging
from time import sleep
from typing import TYPE_CHECKING

from wal import log_event
from wal.format import split_position
from wal.replay import segment_path
from warpstore import manifest as manifests
from warpstore.catalog import Catalog
from warpstore.errors import CorruptionError, NotAStoreError, OpenError, UnavailableError
from warpstore.lane_keeper import Prepared, Tiers, load_tiers, release_all, replay_into
from warpstore.manifest import Manifest
from warpstore.temporal import SeriesFiles

if TYPE_CHECKING:
    from warpstore.context import StoreContext

logger = logging.getLogger(__name__)

READS_MAX = 100
READS_OF_DAMAGE_MAX = 5
"""The same damage in so many reads under one manifest is no write that came between: that would stand elsewhere."""
PAUSE_S = 0.01


def read_manifest(context: StoreContext) -> Manifest:
    """Return the manifest that the store has now; blocks.

    Raises:
        NotAStoreError: there is none.
        CorruptionError, FormatVersionError: it cannot be read.
    """
    try:
        return manifests.read(context.files, context.path)
    except (FileNotFoundError, NotADirectoryError) as e:
        raise NotAStoreError(f"{context.path}: holds no store", path=context.path) from e


def read_state(context: StoreContext) -> tuple[Manifest, list[Prepared], SeriesFiles]:
    """Return a manifest, the state of each shard under it, and the files of items that it names, open; blocks.

    Raises:
        NotAStoreError: there is no store.
        CorruptionError, FormatVersionError: it is damaged, or newer.
        OpenError: it is another store than the one whose block files the context has.
        UnavailableError: the owner changes it faster than it can be read, or its log cannot be synced.
        OSError: reading failed.
    """
    before = read_manifest(context)
    n_same = 0
    damage = ""
    for _ in range(READS_MAX):
        if before.id_bytes != context.blocks.store_id:
            raise OpenError(f"{context.path}: holds another store than before; open it anew", path=context.path)
        failure: Exception | None = None
        states: list[Prepared] = []
        series: SeriesFiles | None = None
        try:
            states = _load(context, before)
            series = _series(context, before)
        except (OpenError, OSError) as e:
            failure = e
            release_all(state.checkpoint for state in states)  # where only a file of items failed
            states = []
        except BaseException:
            release_all(state.checkpoint for state in states)
            raise
        try:
            after = read_manifest(context)
        except BaseException:
            _let_go(states, series)
            raise
        if _same_files(before, after):
            if failure is None:
                assert series is not None
                return before, states, series
            n_same, damage = 1 if str(failure) != damage else n_same + 1, str(failure)
            if n_same == READS_OF_DAMAGE_MAX:
                raise failure
            sleep(PAUSE_S)  # a group was being written where the log was read
        else:
            _let_go(states, series)
            log_event(logger, logging.INFO, "read_again", path=context.path)
        before = after
    raise UnavailableError(f"{context.path}: changes faster than it can be read")


def _same_files(before: Manifest, after: Manifest) -> bool:
    """Return whether no file that the first manifest names can have been let go of by the time of the second."""
    first, then = ([(lane.directory, lane.first) for lane in manifest.lanes] for manifest in (before, after))
    same = before.store_id == after.store_id and before.shards == after.shards and first == then
    # An item leaves its record behind the manifest that names its file: so with the same files of items, the records
    # that were read between the two manifests are those to which these files belong.
    return same and before.series == after.series


def _series(context: StoreContext, manifest: Manifest) -> SeriesFiles:
    catalog = Catalog(context.files, context.path, manifest)
    options, salt = context.config.archive_options, context.environment.random_u64
    series = SeriesFiles(context.files, catalog, context.caps.block_cache, options, salt)
    series.open_local()
    return series


def _let_go(states: list[Prepared], series: SeriesFiles | None) -> None:
    release_all(state.checkpoint for state in states)
    if series is not None:
        series.close()


def _load(context: StoreContext, manifest: Manifest) -> list[Prepared]:
    catalog = Catalog(context.files, context.path, manifest)
    loaded: list[Prepared] = []
    try:
        for shard, entry in enumerate(manifest.shards):
            loaded.append(Prepared(*load_tiers(context, catalog, shard), entry.lsn + 1))
        for lane in range(len(manifest.lanes)):
            if not catalog.is_covered(lane):
                tiers = {shard: loaded[shard].tiers for shard in catalog.shards_of_lane(lane)}
                _take_in(context, catalog, lane, tiers)
    except BaseException:
        release_all(state.checkpoint for state in loaded)
        raise
    return loaded


def _take_in(context: StoreContext, catalog: Catalog, lane: int, tiers: dict[int, Tiers]) -> None:
    """Replay a lane's log into hot tiers, up to what is durable."""
    with_tail = catalog.manifest.durability == "fsync"
    found = replay_into(context, catalog, lane, tiers, with_tail=with_tail)
    if not found.tail or not with_tail:
        return
    for number in found.numbers:
        if number >= split_position(found.durable)[0]:
            path = segment_path(catalog.lane_directory(lane), number)
            try:
                file = context.files.open(path)
            except FileNotFoundError as e:
                raise CorruptionError(f"{path}: is missing", path=path, offset=0) from e
            try:
                file.sync()
            except OSError as e:
                raise UnavailableError(f"{path}: cannot be synced: {e}") from e
            finally:
                file.close()
