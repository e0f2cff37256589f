"""The log against a model: whatever is written, damaged or cut by a crash, what was durable comes back, in order.

The crash tests stop a scripted run at every single call of the file system, let the file system lose what was not
synced, and open what is left; and they stop that opening, too. Hypothesis draws other runs, other damage, other losses.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.faulty_files import FaultyFiles
from tests.support.lanes import DIRECTORY, LaneWorld, both_modes
from tests.support.virtual_loop import virtual
from wal import Durability, LogCorruptError, Replay, WalError, replay
from wal.format import (
    FRAME_HEADER_BYTES,
    HEADER_BYTES,
    SECTOR_BYTES,
    Kind,
    SegmentHeader,
    body_is_intact,
    frame_bytes,
    pack_frame,
    pack_segment_header,
    position,
    unpack_frame_header,
    unpack_payloads,
    unpack_segment_header,
)
from wal.replay import segment_path

STORE_ID = bytes(16)
U32 = st.integers(0, (1 << 32) - 1)
U64 = st.integers(0, (1 << 64) - 1)

# Bytes

headers = st.builds(
    SegmentHeader,
    number=U32,
    lane=st.integers(0, (1 << 16) - 1),
    epoch=U64,
    salt=U64,
    segment_bytes=U32,
    store_id=st.binary(min_size=16, max_size=16),
    durable=U64,
    takeover=st.lists(U64, max_size=256).map(tuple),
)


@given(headers)
def test_segment_headers_are_read_back(header: SegmentHeader) -> None:
    assert unpack_segment_header(pack_segment_header(header)) == header


@given(headers, st.integers(8, 1 << 20), st.lists(st.binary(max_size=700), max_size=20), U64, st.integers(0, 255))
def test_frames_are_read_back(header: SegmentHeader, sector: int, payloads: list[bytes], lsn: int, stream: int) -> None:
    offset = sector * SECTOR_BYTES
    data = b"".join(pack_frame(header, offset, Kind.GROUP, stream=stream, lsn=lsn, durable=7, payloads=payloads))
    assert len(data) == frame_bytes(payloads)
    head = unpack_frame_header(header, data)
    assert head is not None
    assert (head.stream, head.lsn, head.durable, head.span) == (stream, lsn, 7, len(data))
    assert body_is_intact(header, head, offset, memoryview(data))
    assert not body_is_intact(header, head, offset + SECTOR_BYTES, memoryview(data))
    assert unpack_payloads(head, data[FRAME_HEADER_BYTES : FRAME_HEADER_BYTES + head.body_bytes]) == payloads


# Damage


def packed_log(rng: random.Random, n_groups: int) -> tuple[bytearray, list[bytes]]:
    """Return a segment of one stream, in which each frame names all before it, and its records."""
    header = SegmentHeader(
        number=1,
        lane=0,
        epoch=1,
        salt=rng.getrandbits(64),
        segment_bytes=64 << 10,
        store_id=STORE_ID,
        durable=0,
    )
    data = bytearray(pack_segment_header(header))
    records: list[bytes] = []
    for _ in range(n_groups):
        payloads = [rng.randbytes(rng.choice((1, 50, 600, 1500))) for _ in range(rng.randint(1, 3))]
        durable = position(1, len(data))
        lsn = len(records) + 1
        data += b"".join(pack_frame(header, len(data), Kind.GROUP, lsn=lsn, durable=durable, payloads=payloads))
        records += payloads
    return data.ljust(64 << 10, b"\0"), records


def read(data: bytes | bytearray) -> tuple[Replay, list[bytes]]:
    files = FaultyFiles()
    files.make_directory(DIRECTORY)
    files.put(segment_path(DIRECTORY, 1), bytes(data))
    records: list[bytes] = []

    def deliver(stream: int, lsn: int, payloads: list[bytes]) -> None:
        assert (stream, lsn) == (0, len(records) + 1)
        records.extend(payloads)

    return replay(files, DIRECTORY, store_id=STORE_ID, lane=0, first=1, after=[0], deliver=deliver), records


sector_changes = st.lists(
    st.tuples(st.sampled_from(["zero", "stale", "copy", "swap", "noise"]), st.integers(0, 40), st.integers(0, 40)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=120)
@given(st.integers(0, 1 << 32), st.integers(1, 12), sector_changes)
def test_damaged_sectors_never_give_a_wrong_record(
    seed: int, n_groups: int, changes: list[tuple[str, int, int]]
) -> None:
    rng = random.Random(seed)
    data, records = packed_log(rng, n_groups)
    stale, _ = packed_log(rng, 12)
    for change, a, b in changes:
        at, other = (HEADER_BYTES + sector * SECTOR_BYTES for sector in (a, b))
        here, there = bytes(data[at : at + SECTOR_BYTES]), bytes(data[other : other + SECTOR_BYTES])
        data[at : at + SECTOR_BYTES] = {
            "zero": bytes(SECTOR_BYTES),
            "stale": bytes(stale[at : at + SECTOR_BYTES]),
            "copy": there,
            "swap": there,
            "noise": rng.randbytes(SECTOR_BYTES),
        }[change]
        if change == "swap":
            data[other : other + SECTOR_BYTES] = here
    try:
        found, got = read(data)
    except LogCorruptError:
        return
    assert got == records[: len(got)]
    assert found.next_lsn == [len(got) + 1]


# Crashes


@dataclass
class Manifest:
    """What the store around a lane remembers: all that was written, what was heard of it, and its checkpoint."""

    written: list[list[bytes]] = field(default_factory=lambda: [[], []])
    heard: list[int] = field(default_factory=lambda: [0, 0])
    first: int = 1
    after: list[int] = field(default_factory=lambda: [0, 0])
    clean_end: int = 0
    last: int | None = None


Step = tuple[str, int, int]
"""What to do, to which stream, with how many bytes."""

SCRIPT: list[Step] = [
    ("write", 0, 10),
    ("write", 1, 700),
    ("turn", 0, 0),
    ("write", 0, 2500),
    ("sync", 0, 0),
    ("write", 1, 30),
    ("cut", 0, 0),
    ("write", 0, 3000),
    ("write", 1, 3000),
    ("turn", 0, 0),
    ("write", 1, 1),
    ("sync", 0, 0),
    ("idle", 0, 0),
    ("cut", 0, 0),
    ("write", 0, 5),
]


class CrashingLane:
    """Runs scripts on a lane that may lose its power at any call, and checks what each opening finds."""

    def __init__(self, durability: Durability, files: FaultyFiles, manifest: Manifest, seed: int) -> None:
        self.world = LaneWorld(durability, files=files, segment_bytes=8 << 10, seed=seed)
        self.manifest = manifest
        self.rng = random.Random(seed)

    async def run(self, script: list[Step]) -> None:
        """Open, run the script, close; stop wherever the power goes."""
        world, manifest = self.world, self.manifest
        try:
            lane = self.open()
        except OSError:
            return
        try:
            for step, stream, n_bytes in script:
                owner = world.owners[stream]
                if step == "write":
                    payload = b"%d:" % len(manifest.written[stream]) + bytes(n_bytes)
                    owner.write(payload, b"x")
                elif step == "turn":
                    lane.flush()
                elif step == "idle":
                    await world.run(lambda: None)
                    await self._pause()
                elif step == "sync":
                    await lane.sync()
                else:
                    await self._checkpoint()
            manifest.clean_end = await lane.close()
        except (WalError, OSError):
            lane.abandon()
            await self._pause()
        finally:
            await self._pause()
            self._note()
            assert world.files.open_files == []

    def open(self) -> Any:
        """Recover, and check that everything durable is there, in order, and nothing else."""
        world, manifest = self.world, self.manifest
        lane = world.recover(
            first=manifest.first,
            after=manifest.after,
            clean_end=manifest.clean_end,
            last=manifest.last,
            already=[records[:n] for records, n in zip(manifest.written, manifest.after, strict=True)],
        )
        for stream, records in enumerate(world.records):
            assert records == manifest.written[stream][: len(records)]
            assert len(records) >= manifest.heard[stream]
            assert world.found.next_lsn[stream] == len(records) + 1
        manifest.written = [list(records) for records in world.records]
        manifest.clean_end, manifest.last = 0, lane.active_number
        self._base = [list(records) for records in world.records]
        return lane

    async def _checkpoint(self) -> None:
        world, manifest = self.world, self.manifest
        lsns: list[int] = []
        sealed = await world.lane.cut(lambda: lsns.extend(o.stream.lsn_next - 1 for o in world.owners if o.stream))
        self._note()
        manifest.first, manifest.after, manifest.last = sealed + 1, lsns, None
        manifest.heard = [max(a, b) for a, b in zip(manifest.heard, lsns, strict=True)]
        await world.run(lambda: world.lane.release(sealed + 1))

    def _note(self) -> None:
        for stream, owner in enumerate(self.world.owners):
            self.manifest.written[stream] = self._base[stream] + owner.taken
            self.manifest.heard[stream] = max(self.manifest.heard[stream], owner.durable)

    async def _pause(self) -> None:
        for _ in range(5):
            await self.world.run(lambda: None)


async def run_until(
    durability: Durability, power_off: int | None, seed: int, script: list[Step]
) -> tuple[FaultyFiles, Manifest]:
    """Run a script up to a call of the file system; return what a machine finds after it, and what must be there."""
    files, manifest = FaultyFiles(), Manifest()
    files.make_directory(DIRECTORY)
    if power_off is not None:
        files.power_off_at(power_off + 1)
    await CrashingLane(durability, files, manifest, seed).run(script)
    return files, manifest


async def reopen(durability: Durability, files: FaultyFiles, manifest: Manifest, seed: int) -> None:
    """Open what a crash left, write on, close, and open once more."""
    for script in ([("write", 0, 9), ("write", 1, 9), ("sync", 0, 0)], []):
        await CrashingLane(durability, files, manifest, seed).run(script)
        assert manifest.clean_end > 0


@both_modes
@virtual
async def test_a_run_that_nothing_stops_keeps_everything(durability: Durability) -> None:
    files, manifest = await run_until(durability, None, 0, SCRIPT)
    assert manifest.heard == [len(records) for records in manifest.written] == [8, 8]
    await reopen(durability, files.crash(random.Random(1)), copy.deepcopy(manifest), 2)
    await reopen(durability, files, manifest, 1)


@both_modes
@virtual
async def test_a_crash_at_any_call_loses_nothing_that_was_durable(durability: Durability) -> None:
    files, _ = await run_until(durability, None, 0, SCRIPT)
    assert len(files.calls) > 80
    for n in range(len(files.calls)):
        for seed in range(5):
            files, manifest = await run_until(durability, n, seed, SCRIPT)
            await reopen(durability, files.crash(random.Random(seed)), manifest, seed)


@both_modes
@virtual
async def test_a_second_crash_while_opening_loses_nothing_either(durability: Durability) -> None:
    files, _ = await run_until(durability, None, 0, SCRIPT)
    for n in range(40, len(files.calls), 9):
        before, manifest = await run_until(durability, n, n, SCRIPT)
        for m in range(30):
            files = before.crash(random.Random(n))
            files.power_off_at(m)
            again = copy.deepcopy(manifest)
            await CrashingLane(durability, files, again, 1).run([("write", 0, 9)])
            await reopen(durability, files.crash(random.Random(m)), again, m)


steps = st.tuples(
    st.sampled_from(["write", "write", "write", "turn", "idle", "sync", "cut"]),
    st.integers(0, 1),
    st.sampled_from([0, 1, 400, 1100, 4000, 9000]),
)


@settings(max_examples=60)
@given(
    durability=st.sampled_from(["fsync", "interval"]),
    script=st.lists(steps, max_size=25),
    power_off=st.integers(0, 400),
    seed=st.integers(0, 1 << 32),
)
@virtual
async def test_any_run_that_crashes_anywhere_keeps_what_was_durable(
    durability: Durability, script: list[Step], power_off: int, seed: int
) -> None:
    files, manifest = await run_until(durability, power_off, seed, script)
    await reopen(durability, files.crash(random.Random(seed)), manifest, seed)
