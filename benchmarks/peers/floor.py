"""The floor: what any store with a log and a table must at least do, with no store around it.

`plain_loop` is the floor of the put row: encode, CRC32C, append to a buffer that is written per MiB, put into the
table, in one inlined loop. The same steps behind the calls of a `SyncStore` give the floor of the mixed rows. It
promises nothing: no group frames, no sync, no way to read the file back.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import google_crc32c

from benchmarks.peers.codec import UserRow, decode, encode
from benchmarks.peers.peer import Peer, SyncStore

WRITE_BYTES = 1 << 20


def plain_loop(records: Sequence[UserRow], fd: int, table: dict[str, bytes], buffer: bytearray) -> None:
    """Write ``records`` as the floor does: no call per record but those of the codec, the checksum and the buffer."""
    crc32c = google_crc32c.value
    append = buffer.extend
    for record in records:
        encoded = encode(record)
        append(crc32c(encoded).to_bytes(4, "little"))
        append(encoded)
        table[record.id] = encoded
        if len(buffer) >= WRITE_BYTES:
            os.write(fd, buffer)
            buffer.clear()


def open_floor(folder: Path, *, durable: bool) -> SyncStore:
    """Return a dictionary with a buffered log behind it; it promises the same, nothing, durable or not."""
    fd = os.open(folder / "floor.log", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    table: dict[str, bytes] = {}
    buffer = bytearray()
    crc32c = google_crc32c.value

    def put(record: UserRow) -> None:
        encoded = encode(record)
        buffer.extend(crc32c(encoded).to_bytes(4, "little"))
        buffer.extend(encoded)
        table[record.id] = encoded
        if len(buffer) >= WRITE_BYTES:
            os.write(fd, buffer)
            buffer.clear()

    def get(key: str) -> UserRow | None:
        encoded = table.get(key)
        return None if encoded is None else decode(encoded)

    def increment(key: str) -> None:
        record = decode(table[key])
        record.age += 1
        put(record)

    def scan(start: str, n: int) -> list[UserRow]:
        keys = sorted(key for key in table if key >= start)[:n]
        return [decode(table[key]) for key in keys]

    def close() -> None:
        os.write(fd, buffer)
        os.close(fd)

    return SyncStore(
        settings={
            "write_bytes": WRITE_BYTES,
            "durable": durable and "not kept",
            "crc32c": google_crc32c.implementation,
        },
        put=put,
        get=get,
        increment=increment,
        put_many=lambda records: plain_loop(records, fd, table, buffer),
        get_many=lambda keys: [decode(table[key]) for key in keys],
        scan=scan,
        close=close,
    )


PEER = Peer(name="floor (dict)", open_sync=open_floor, stores=False)
