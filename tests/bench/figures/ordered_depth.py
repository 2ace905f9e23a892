"""Whether a run of an ordered session costs more when many follow it, or have gone before."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from howdah.sql.pool import Connection
from tests.bench.database import count, fresh_database, settle
from tests.bench.engine import QUEUE, engine_connection, lasting_worker, timed_work_off, work_off
from tests.bench.figure import Figure, Measure, Target
from tests.bench.system import System

RUNS = 100_000
FILL = 1_000
CLAIM = 10  # runs that a claim asks for; it must get one
SAMPLE = 50  # how many times fewer runs than there are: those measured at the beginning, and at the end


def take(server_url: str, figure: Figure, system: System, runs: int) -> Mapping[str, float]:
    """One session, worked off run by run; its first and its last runs are measured.

    Those between them are not, and do not wait for the disk.

    Raises
    ------
    RuntimeError
        If not every run finished, or another than the session's first was given out.
    """
    with fresh_database(server_url, f"bench_{system.name}") as url:
        asyncio.run(system.install(url))
        values = asyncio.run(_measure(url, runs))
        finished = count(url, "select from howdah.run_history where state = 'succeeded'")
    if finished != runs:
        raise RuntimeError(f"{finished} of {runs} runs of the ordered session finished")
    return values


async def _measure(url: str, runs: int) -> dict[str, float]:
    sample = max(1, runs // SAMPLE)
    async with engine_connection(url) as connection:
        for start in range(0, runs, FILL):
            await _enqueue(connection, min(FILL, runs - start))
        settle(url)
        worker = await lasting_worker(connection)
        first = await _milliseconds(connection, worker, sample)
        await connection.execute("set synchronous_commit = off")
        for _ in range(runs - 2 * sample):
            await work_off(connection, worker, CLAIM)
        await connection.execute("reset synchronous_commit")
        settle(url)
        last = await _milliseconds(connection, worker, sample)
    return {"ordered_depth_first": first, "ordered_depth": last}


async def _milliseconds(connection: Connection, worker: int, runs: int) -> float:
    """What a run takes."""
    total = 0.0
    for _ in range(runs):
        finished, seconds = await timed_work_off(connection, worker, CLAIM)
        if finished != 1:
            raise RuntimeError(f"a claim from one ordered session gave {finished} runs, not its first one")
        total += seconds
    return total / runs * 1000


async def _enqueue(connection: Connection, runs: int) -> None:
    await connection.execute(
        "select count(*) from enqueue_runs(array_fill('default'::text, array[%(runs)s::int]),"
        " array_fill('ordered_depth'::text, array[%(runs)s::int]), array_fill('{}'::text, array[%(runs)s::int]),"
        " array_fill(%(queue)s::text, array[%(runs)s::int]),"
        " p_sessions => array_fill('one'::text, array[%(runs)s::int]),"
        " p_orders => array_fill('skip'::text, array[%(runs)s::int]), p_notify => false)",
        {"runs": runs, "queue": QUEUE},
    )


FIGURE = Figure(
    "ordered_depth",
    f"claim and finish of a run in one ordered session of {RUNS:,}: of the last of them (first: of the first)",
    (
        Measure("ordered_depth", "ms", higher_is_better=False),
        Measure("ordered_depth_first", "ms", higher_is_better=False),
    ),
    take,
    (Target("ordered_depth", 1.25, of="ordered_depth_first"),),
    rounds=1,
)
