"""pgqueuer, as its guide to performance advises for short jobs.

A direct asyncpg connection for the worker, larger batches, its autovacuum settings applied, and the default durability,
whose tables survive a crash as the other systems' do.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from tests.bench.callers import in_figures_way
from tests.bench.system import Enqueue, Ran, System

BATCH = 100
ENQUEUE_BATCH = 5_000
CALLERS_POOL = 20  # connections for callers beside one another


async def install(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        queries = Queries(AsyncpgDriver(connection))
        await queries.install()
        await queries.optimize_autovacuum()
    finally:
        await connection.close()


async def fill(url: str, figure: str, runs: int) -> None:
    connection = await asyncpg.connect(url)
    try:
        queries = Queries(AsyncpgDriver(connection))
        for start in range(0, runs, ENQUEUE_BATCH):
            await _enqueue(queries, figure, min(ENQUEUE_BATCH, runs - start))
    finally:
        await connection.close()


async def _enqueue(queries: Queries, figure: str, runs: int) -> None:
    await queries.enqueue([figure] * runs, [None] * runs, [0] * runs)


async def work(url: str, figure: str, ran: Ran) -> None:
    connection = await asyncpg.connect(url)
    try:
        queuer = PgQueuer(AsyncpgDriver(connection))

        @queuer.entrypoint("drain_empty")
        async def empty(job: Job) -> None:
            ran()

        @queuer.entrypoint("drain_held")
        async def held(job: Job) -> None:
            ran()

        @queuer.entrypoint("pickup")
        async def pickup(job: Job) -> None:
            ran(time.time() - float(job.payload or 0))

        await queuer.run(batch_size=BATCH)
    finally:
        await connection.close()


@asynccontextmanager
async def enqueuer(url: str, figure: str) -> AsyncIterator[Enqueue]:
    async with asyncpg.create_pool(url, min_size=CALLERS_POOL, max_size=CALLERS_POOL) as pool:
        queries = Queries(AsyncpgPoolDriver(pool))
        yield in_figures_way(
            figure,
            batch=lambda runs: _enqueue(queries, figure, runs),
            one=lambda now: queries.enqueue(figure, repr(now).encode()),
        )


SYSTEM = System(
    name="pgqueuer",
    runs={
        "drain_empty": 50_000,
        "drain_held": 50_000,
        "enqueue_batch": 100_000,
        "enqueue_single": 10_000,
        "pickup": 10_000,
    },
    asked={"batch": BATCH, "connections to enqueue": CALLERS_POOL, "driver": "asyncpg"},
    install=install,
    fill=fill,
    work=work,
    enqueuer=enqueuer,
    unfinished="select from pgqueuer",
    record="select count(*) filter (where status = 'successful'), min(created) filter (where status = 'picked')"
    " from pgqueuer_log",
)
