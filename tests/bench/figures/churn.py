"""Whether the engine gets slower, or its tables larger, while millions of runs pass through."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping

from howdah.sql.pool import Connection
from tests.bench.database import fresh_database, settle
from tests.bench.engine import create_tenants, engine_connection, enqueue_among
from tests.bench.figure import DEEP, Figure, Measure, Target
from tests.bench.process import started_module
from tests.bench.system import System

RUNS = 10_000_000 if DEEP else 2_000_000
TENANTS = 100
BATCH = 1_000
BACKLOG = 20_000  # runs in the queue at most: enough for a worker to be always busy
SIZES_EVERY = 1.0  # seconds
PAUSE = 0.02  # seconds between looks whether there is room again
SECONDS_FOR_A_RUN = 1 / 1_000  # a worker that is slower than this is given up


def take(server_url: str, figure: Figure, system: System, runs: int) -> Mapping[str, float]:
    """One worker process works while this one keeps its queue filled.

    Raises
    ------
    RuntimeError
        If not every run finished.
    """
    seconds = runs * SECONDS_FOR_A_RUN + 60
    with fresh_database(server_url, f"bench_{system.name}") as url:
        asyncio.run(system.install(url))
        asyncio.run(_first(url))
        settle(url)
        with started_module("worker", system.name, figure.name, url, runs, seconds) as worker:
            sizes = asyncio.run(_feed(url, runs))
            result = json.loads(worker.result(seconds))
    if result["finished"] != runs:
        raise RuntimeError(f"{system.name} finished {result['finished']} of {runs} runs of {figure.name}")
    first, last = result["fifths"]
    return {"churn": runs / result["seconds"], "churn_last_fifth": last / first, **sizes}


async def _first(url: str) -> None:
    async with engine_connection(url) as connection:
        await create_tenants(connection, TENANTS)
        await enqueue_among(connection, "churn", TENANTS, 0, BATCH)


async def _feed(url: str, runs: int) -> dict[str, float]:
    """Enqueue the rest while there is room; the largest sizes in the first half of the runs, and in the second."""
    first, second = dict[str, float](), dict[str, float]()
    queued = enqueued = BATCH
    look_at = 0.0
    async with engine_connection(url) as connection:
        while enqueued < runs:
            if queued + BATCH > BACKLOG:
                await asyncio.sleep(PAUSE)
                queued = await _queued(connection)
                continue
            size = min(BATCH, runs - enqueued)
            await enqueue_among(connection, "churn", TENANTS, enqueued, size)
            queued, enqueued = queued + size, enqueued + size
            if (now := time.monotonic()) > look_at:
                look_at = now + SIZES_EVERY
                await _grow(first if enqueued < runs // 2 else second, connection)
        await _grow(second, connection)
    return {f"{name}_first": size for name, size in first.items()} | second


async def _queued(connection: Connection) -> int:
    row = await (await connection.execute("select count(*) from run")).fetchone()
    assert row is not None
    number: int = row[0]
    return number


async def _grow(largest: dict[str, float], connection: Connection) -> None:
    """Note the sizes of the tables with their indexes, in MB, where they are larger than before."""
    for table in ("run", "lane"):
        row = await (await connection.execute("select pg_total_relation_size(%s) / 1e6", [table])).fetchone()
        assert row is not None
        name = f"churn_{table}_size"
        largest[name] = max(largest.get(name, 0.0), float(row[0]))


SIZES = ("churn_run_size", "churn_run_size_first", "churn_lane_size", "churn_lane_size_first")
FIGURE = Figure(
    "churn",
    f"{RUNS:,} runs for {TENANTS} tenants through one worker while the queue is kept at {BACKLOG:,} at most; and the"
    " largest sizes of run and lane with their indexes, in the second half (first: in the first)",
    (
        Measure("churn", "runs/s"),
        Measure("churn_last_fifth", "of the first"),
        *(Measure(name, "MB", higher_is_better=False) for name in SIZES),
    ),
    take,
    (
        Target("churn_last_fifth", 0.9),
        Target("churn_run_size", 1.5, of="churn_run_size_first"),
        Target("churn_lane_size", 1.5, of="churn_lane_size_first"),
    ),
    rounds=1,
)
