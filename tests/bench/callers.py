"""The ways in which callers enqueue, for every system that is called from Python: in batches, at once, by the clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from tests.bench.system import Enqueue

BATCH = 1_000
CALLERS = 64
PER_SECOND = 500  # of `by_the_clock`
WARM_UP = 200  # runs before those that count, so that connections are open and statements prepared

Batch = Callable[[int], Awaitable[object]]
One = Callable[[float], Awaitable[object]]


def in_figures_way(figure: str, batch: Batch, one: One) -> Enqueue:
    """How callers of `figure` enqueue.

    `batch` enqueues so many runs in one transaction. `one` enqueues one run, whose arguments tell the time it is given,
    and returns once that is committed.
    """
    if figure == "enqueue_batch":
        return lambda runs: in_batches(batch, runs)
    if figure == "enqueue_single":
        return lambda runs: at_once(one, runs)
    return lambda runs: by_the_clock(one, runs)


async def in_batches(batch: Batch, runs: int) -> None:
    """One caller, batch after batch."""
    for start in range(0, runs, BATCH):
        await batch(min(BATCH, runs - start))


async def at_once(one: One, runs: int) -> None:
    """Callers beside one another, each of which waits for its own commit before its next call."""
    left = iter(range(runs))

    async def call() -> None:
        for _ in left:
            await one(0.0)

    async with asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(call())


async def by_the_clock(one: One, runs: int) -> None:
    """A call every 1 / `PER_SECOND`, whether earlier ones have returned or not."""
    start = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(runs):
            await asyncio.sleep(max(0.0, start + number / PER_SECOND - time.monotonic()))
            group.create_task(_call_now(one))


async def _call_now(one: One) -> None:
    await one(time.time())
