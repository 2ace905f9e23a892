"""DBOS Transact with its own queue, its own tables and durable steps of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from tests.bench.callers import in_figures_way
from tests.bench.system import Enqueue, Ran, System

if TYPE_CHECKING:
    import sqlalchemy
    from dbos import DBOSClient

QUEUE = "bench"
APPLICATION = "bench"
POLL_SECONDS = 0.1  # its default is a second
CONNECTIONS = 20  # its default
THREADS = 4  # by default it has no bound, and threads that take turns slow each other down


def missing() -> str:
    """What stands in the way, or nothing."""
    return "" if find_spec("dbos") else "the package dbos is not installed: pip install -e '.[bench]'"


async def install(url: str) -> None:
    await asyncio.to_thread(_install, url)


def _install(url: str) -> None:
    from dbos import run_dbos_database_migrations

    run_dbos_database_migrations(system_database_url=url)
    with _client(url) as (client, _):
        client.register_queue(QUEUE, polling_interval_sec=POLL_SECONDS)


@contextmanager
def _client(url: str) -> Iterator[tuple[DBOSClient, sqlalchemy.Engine]]:
    import sqlalchemy
    from dbos import DBOSClient

    engine = sqlalchemy.create_engine(
        url.replace("postgresql://", "postgresql+psycopg://", 1), pool_size=CONNECTIONS, max_overflow=0
    )
    client = DBOSClient(system_database_engine=engine, application_name=APPLICATION)
    try:
        yield client, engine
    finally:
        client.destroy()
        engine.dispose()


def _enqueue_batch(client: DBOSClient, engine: sqlalchemy.Engine, figure: str, runs: int) -> None:
    with engine.begin() as connection:
        for _ in range(runs):
            client.enqueue_in_transaction(connection, {"workflow_name": figure, "queue_name": QUEUE})


async def fill(url: str, figure: str, runs: int) -> None:
    with _client(url) as (client, engine):
        await asyncio.to_thread(_enqueue_batch, client, engine, figure, runs)


async def work(url: str, figure: str, ran: Ran) -> None:
    from dbos import DBOS

    loop = asyncio.get_running_loop()
    DBOS(
        config={
            "name": APPLICATION,
            "system_database_url": url,
            "sys_db_pool_size": CONNECTIONS,
            "max_executor_threads": THREADS,
            "console_log_level": "ERROR",
        }
    )

    @DBOS.step(name="first")
    def first(value: int) -> int:
        return value

    @DBOS.step(name="second")
    def second(value: int) -> int:
        return value

    @DBOS.workflow(name="drain_empty")
    def empty() -> None:
        loop.call_soon_threadsafe(ran)

    @DBOS.workflow(name="drain_two_steps")
    def two_steps() -> None:
        first(1)
        second(2)
        loop.call_soon_threadsafe(ran)

    try:
        await asyncio.to_thread(DBOS.launch)
        await asyncio.Event().wait()
    finally:
        await asyncio.to_thread(DBOS.destroy)


@asynccontextmanager
async def enqueuer(url: str, figure: str) -> AsyncIterator[Enqueue]:
    # Its asynchronous calls are threads of the loop's pool.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(CONNECTIONS))
    with _client(url) as (client, engine):
        yield in_figures_way(
            figure,
            batch=lambda runs: asyncio.to_thread(_enqueue_batch, client, engine, figure, runs),
            one=lambda now: client.enqueue_async({"workflow_name": figure, "queue_name": QUEUE}),
        )


SYSTEM = System(
    name="dbos",
    runs={"drain_empty": 5_000, "drain_two_steps": 1_000, "enqueue_batch": 5_000, "enqueue_single": 3_000},
    asked={
        "threads": THREADS,
        "connections": CONNECTIONS,
        "polling every": f"{POLL_SECONDS} s",
        "driver": "psycopg",
        "fewer runs": "as many would take minutes",
    },
    install=install,
    fill=fill,
    work=work,
    enqueuer=enqueuer,
    unfinished="select from dbos.workflow_status where status in ('ENQUEUED', 'PENDING')",
    record="select count(*) filter (where status = 'SUCCESS'), to_timestamp(min(started_at_epoch_ms) / 1000.0)"
    " from dbos.workflow_status",
    missing=missing,
)
