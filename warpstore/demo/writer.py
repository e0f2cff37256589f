"""The process that is killed in mid-load: it stores flights and says on its standard output what was acknowledged.

Run as ``python -m warpstore.demo.writer PATH``. Several tasks each store a batch and await it; once the store has
acknowledged the batch as durable, its number goes out as a line. Batch i holds the flights i * BATCH up to
(i + 1) * BATCH in the order of the data set.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from itertools import count, islice

import warpstore as ws
from warpstore.demo.data import flights_of
from warpstore.demo.models import MODELS, Flight

BATCH = 250
N_TASKS = 8


async def write(path: str) -> None:
    """Store all flights, reporting each acknowledged batch."""
    async with ws.open(path, models=MODELS, durability="fsync") as store:
        table = store[Flight]
        flights = flights_of()
        numbers = count()

        async def worker() -> None:
            for batch, number in _numbered(flights, numbers):
                await table.put_many(batch)
                os.write(1, b"%d\n" % number)  # one system call a line: a line is whole or absent

        await asyncio.gather(*(worker() for _ in range(N_TASKS)))


def _numbered(flights: Iterator[Flight], numbers: Iterator[int]) -> Iterator[tuple[list[Flight], int]]:
    """Yield the next batch of the shared flights, with its number, until they end."""
    while batch := list(islice(flights, BATCH)):
        yield batch, next(numbers)


if __name__ == "__main__":
    asyncio.run(write(sys.argv[1]))
