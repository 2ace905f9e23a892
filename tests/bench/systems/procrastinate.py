"""procrastinate with its own worker and its own tables."""

from __future__ import annotations

from collections.abc import Callable

import procrastinate
from procrastinate.types import JSONDict

from tests.bench.system import System

CONCURRENCY = 50
CONNECTIONS = 20  # psycopg's pool; one of them listens
ENQUEUE_BATCH = 1_000


def _app(url: str) -> procrastinate.App:
    return procrastinate.App(
        connector=procrastinate.PsycopgConnector(conninfo=url, min_size=CONNECTIONS, max_size=CONNECTIONS)
    )


async def prepare(url: str, figure: str, runs: int) -> None:
    async with _app(url).open_async() as app:
        await app.schema_manager.apply_schema_async()
        for start in range(0, runs, ENQUEUE_BATCH):
            jobs: list[JSONDict] = [{} for _ in range(min(ENQUEUE_BATCH, runs - start))]
            await app.configure_task(figure, allow_unknown=True).batch_defer_async(*jobs)


async def work(url: str, figure: str, ran: Callable[[], None]) -> None:
    async with _app(url).open_async() as app:

        @app.task(name="drain_empty")
        async def empty() -> None:
            ran()

        await app.run_worker_async(concurrency=CONCURRENCY, install_signal_handlers=False)


SYSTEM = System(
    name="procrastinate",
    runs={"drain_empty": 3_000},
    asked={"concurrency": CONCURRENCY, "connections": CONNECTIONS, "driver": "psycopg"},
    prepare=prepare,
    work=work,
    unfinished="select from procrastinate_jobs where status in ('todo', 'doing')",
    record="select count(*) filter (where type = 'succeeded'), min(at) filter (where type = 'started')"
    " from procrastinate_events",
)
