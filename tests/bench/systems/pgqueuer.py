"""pgqueuer, as its guide to performance advises for short jobs.

A direct asyncpg connection for the worker, larger batches, its autovacuum settings applied, and the default durability,
whose tables survive a crash as the other systems' do.
"""

from __future__ import annotations

from collections.abc import Callable

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from tests.bench.system import System

BATCH = 100
ENQUEUE_BATCH = 5_000


async def prepare(url: str, figure: str, runs: int) -> None:
    connection = await asyncpg.connect(url)
    try:
        queries = Queries(AsyncpgDriver(connection))
        await queries.install()
        await queries.optimize_autovacuum()
        for start in range(0, runs, ENQUEUE_BATCH):
            size = min(ENQUEUE_BATCH, runs - start)
            await queries.enqueue([figure] * size, [None] * size, [0] * size)
    finally:
        await connection.close()


async def work(url: str, figure: str, ran: Callable[[], None]) -> None:
    connection = await asyncpg.connect(url)
    try:
        queuer = PgQueuer(AsyncpgDriver(connection))

        @queuer.entrypoint("drain_empty")
        async def empty(job: Job) -> None:
            ran()

        await queuer.run(batch_size=BATCH)
    finally:
        await connection.close()


SYSTEM = System(
    name="pgqueuer",
    runs={"drain_empty": 50_000},
    asked={"batch": BATCH, "driver": "asyncpg"},
    prepare=prepare,
    work=work,
    unfinished="select from pgqueuer",
    record="select count(*) filter (where status = 'successful'), min(created) filter (where status = 'picked')"
    " from pgqueuer_log",
)
