"""Load and torment, side by side: runs are enqueued all the time while workers die at random moments."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

from howdah.sql.pool import Connection, Pool
from howdah.sql.queue.calls import enqueue_runs
from tests.chaos.crew import Crew
from tests.chaos.load import some_run

KILLS_A_MINUTE = 10  # fewer would prove little
PAUSE = (0.8, 4.0)  # seconds between two kills, at random: some 25 a minute
BACKLOG = 300  # runs unfinished at most: enough to keep three workers busy, and drained in seconds
BATCH = 40
ENQUEUE_EVERY = 0.1  # seconds
DRAIN_SECONDS = 120.0  # for what is left at the end, one rescue and one retry included
LOOK_EVERY = 0.25  # seconds


@dataclass(slots=True)
class Tally:
    """What was done to the system."""

    enqueued: int = 0
    interrupted: int = 0


async def torment(pool: Pool, crew: Crew, seconds: float, tell: Callable[[str], None]) -> Tally:
    """Enqueue and kill for so many seconds, then wait until every run has ended, for 120 s at most."""
    tally = Tally()
    crew.fill()
    enqueuing = asyncio.create_task(_enqueue(pool, tally))
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end and not enqueuing.done():
        await asyncio.sleep(random.uniform(*PAUSE))
        crew.fill()
        async with pool.connection() as connection:
            busy = await _busy(connection)
        names = crew.names()
        # One that runs nothing at the moment has nothing to lose.
        if victims := [(names[name], runs) for name, runs in busy.items() if name in names]:
            pid, runs = random.choice(victims)
            crew.kill(pid)
            tally.interrupted += runs
            tell(
                f"{max(0.0, end - loop.time()):4.0f} s left: kill {crew.kills}, of a worker with {runs} runs under way"
            )
    if enqueuing.done():
        enqueuing.result()
    enqueuing.cancel()
    await asyncio.wait([enqueuing])
    tell(f"{tally.enqueued:,} runs enqueued; waiting for the last of them")
    await _drain(pool, crew)
    return tally


async def _enqueue(pool: Pool, tally: Tally) -> None:
    while True:
        async with pool.connection() as connection, connection.transaction():
            cursor = await connection.execute("select count(*) from run")
            (live,) = await cursor.fetchone() or (0,)
            if live < BACKLOG:
                batch = [some_run() for _ in range(BATCH)]
                enqueued = await enqueue_runs(connection, [run for run, _ in batch])
                # In one transaction: a run that is enqueued is expected, and the other way round.
                async with connection.cursor() as writing:
                    await writing.executemany(
                        "insert into chaos.chaos_enqueued (run_id, task, fails) values (%s, %s, %s)",
                        [(e.run_id, run.task, fails) for e, (run, fails) in zip(enqueued, batch, strict=True)],
                    )
                tally.enqueued += len(batch)
        await asyncio.sleep(ENQUEUE_EVERY)


async def _busy(connection: Connection) -> dict[str, int]:
    """Runs under way by the name of the worker that has them."""
    cursor = await connection.execute(
        "select w.name, count(*) from worker as w join run as r on r.worker_id = w.id"
        " where r.state = 'running' group by w.name"
    )
    return dict(await cursor.fetchall())


async def _drain(pool: Pool, crew: Crew) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + DRAIN_SECONDS
    live = 1
    while live and loop.time() < end:
        await asyncio.sleep(LOOK_EVERY)
        crew.fill()
        async with pool.connection() as connection:
            (live,) = await (await connection.execute("select count(*) from run")).fetchone() or (0,)
