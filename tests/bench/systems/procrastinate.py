"""procrastinate with its own worker and its own tables."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import procrastinate
from procrastinate.types import JSONDict

from tests.bench.callers import in_figures_way
from tests.bench.system import Enqueue, Ran, System

CONCURRENCY = 50
CONNECTIONS = 20  # psycopg's pool; one of them listens
ENQUEUE_BATCH = 1_000


def _app(url: str) -> procrastinate.App:
    return procrastinate.App(
        connector=procrastinate.PsycopgConnector(conninfo=url, min_size=CONNECTIONS, max_size=CONNECTIONS)
    )


async def install(url: str) -> None:
    async with _app(url).open_async() as app:
        await app.schema_manager.apply_schema_async()


async def fill(url: str, figure: str, runs: int) -> None:
    async with _app(url).open_async() as app:
        for start in range(0, runs, ENQUEUE_BATCH):
            await _defer_batch(app, figure, min(ENQUEUE_BATCH, runs - start))


async def _defer_batch(app: procrastinate.App, figure: str, runs: int) -> None:
    jobs: list[JSONDict] = [{"sent_at": 0.0} for _ in range(runs)]
    await app.configure_task(figure, allow_unknown=True).batch_defer_async(*jobs)


async def work(url: str, figure: str, ran: Ran) -> None:
    async with _app(url).open_async() as app:

        @app.task(name="drain_empty")
        async def empty(sent_at: float) -> None:
            ran()

        await app.run_worker_async(concurrency=CONCURRENCY, install_signal_handlers=False)


@asynccontextmanager
async def enqueuer(url: str, figure: str) -> AsyncIterator[Enqueue]:
    async with _app(url).open_async() as app:
        task = app.configure_task(figure, allow_unknown=True)
        yield in_figures_way(
            figure,
            batch=lambda runs: _defer_batch(app, figure, runs),
            one=lambda now: task.defer_async(sent_at=now),
        )


SYSTEM = System(
    name="procrastinate",
    runs={"drain_empty": 3_000, "enqueue_batch": 40_000, "enqueue_single": 5_000},
    asked={"concurrency": CONCURRENCY, "connections": CONNECTIONS, "driver": "psycopg"},
    install=install,
    fill=fill,
    work=work,
    enqueuer=enqueuer,
    unfinished="select from procrastinate_jobs where status in ('todo', 'doing')",
    record="select count(*) filter (where type = 'succeeded'), min(at) filter (where type = 'started')"
    " from procrastinate_events",
)
