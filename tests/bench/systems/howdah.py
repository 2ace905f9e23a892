"""Howdah: its own worker."""

from __future__ import annotations

from collections.abc import Callable

import psycopg

from howdah.jobs.app import App
from howdah.jobs.run import Run
from howdah.jobs.worker import Worker, WorkerSettings
from howdah.sql.pool import cell_conninfo, make_pool
from howdah.sql.queue.calls import NewRun, enqueue_runs
from howdah.sql.schema import install
from tests.bench.system import System

CONCURRENCY = 500
ENQUEUE_BATCH = 5_000  # past this a larger statement is no faster


async def prepare(url: str, figure: str, runs: int) -> None:
    with psycopg.connect(url) as connection:
        install(connection)
    async with make_pool(cell_conninfo(url)) as pool, pool.connection() as connection:
        for start in range(0, runs, ENQUEUE_BATCH):
            batch = [NewRun("default", figure, queue="bench")] * min(ENQUEUE_BATCH, runs - start)
            await enqueue_runs(connection, batch, notify=False)


async def work(url: str, figure: str, ran: Callable[[], None]) -> None:
    app = App(database_url=url)

    @app.task(name="drain_empty", queue="bench")
    async def empty() -> None:
        ran()

    @app.workflow(name="drain_two_steps", queue="bench")
    async def two_steps(run: Run) -> None:
        await run.step("first", _step, 1)
        await run.step("second", _step, 2)
        ran()

    await Worker(app, cell_conninfo(url), WorkerSettings(concurrency=CONCURRENCY)).run()


async def _step(value: int) -> int:
    return value


SYSTEM = System(
    name="howdah",
    runs={"drain_empty": 50_000, "drain_two_steps": 40_000},
    asked={"concurrency": CONCURRENCY, "driver": "psycopg"},
    prepare=prepare,
    work=work,
    unfinished="select from howdah.run",
    record="select count(*), min(claimed_at) from howdah.run_history where state = 'succeeded'",
)
