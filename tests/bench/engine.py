"""The engine alone, without a worker process: claims and finishes over one connection, by the database's clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg

from howdah.sql.pool import Connection, cell_conninfo
from howdah.sql.queue.calls import claim_runs, register_worker
from howdah.sql.workflow.calls import RunItem, flush
from tests.bench.database import database_time

QUEUE = "bench"


@asynccontextmanager
async def engine_connection(url: str) -> AsyncIterator[Connection]:
    """A connection in autocommit whose search_path is the cell's."""
    async with await psycopg.AsyncConnection.connect(cell_conninfo(url), autocommit=True) as connection:
        yield connection


async def lasting_worker(connection: Connection) -> int:
    """A registered worker whose heart beats for a day without being asked."""
    worker = await register_worker(connection, "bench", [QUEUE])
    await connection.execute("update worker set heartbeat_at = now() + interval '1 day' where id = %s", [worker])
    return worker


async def work_off(connection: Connection, worker: int, limit: int) -> int:
    """Claim up to `limit` runs and finish them: how many.

    Raises
    ------
    RuntimeError
        If a finish is refused.
    """
    claimed = await claim_runs(connection, worker, [QUEUE], limit)
    items = [RunItem(run.id, run.attempt, "outcome", "succeeded") for run in claimed]
    statuses = await flush(connection, items, notify=False) if items else []
    if any(status != "ok" for status in statuses):
        raise RuntimeError(f"of {len(items)} outcomes not all were written: {sorted(set(statuses))}")
    return len(items)


async def timed_work_off(connection: Connection, worker: int, limit: int) -> tuple[int, float]:
    """The same: (how many, the seconds it took)."""
    started_at = await database_time(connection)
    finished = await work_off(connection, worker, limit)
    return finished, (await database_time(connection) - started_at).total_seconds()


async def create_tenants(connection: Connection, tenants: int) -> None:
    """Tenants `t1` to `t<tenants>`."""
    await connection.execute("select create_tenant('t' || n) from generate_series(1, %s::int) as n", [tenants])


async def enqueue_among(connection: Connection, task: str, tenants: int, first: int, runs: int) -> None:
    """Enqueue `runs` runs, one for each tenant in turn, beginning with the one whose turn number `first` is."""
    await connection.execute(
        "select count(*) from enqueue_runs("
        "array(select 't' || 1 + n %% %(tenants)s from generate_series(%(first)s::bigint, %(last)s) as n),"
        " array_fill(%(task)s::text, array[%(runs)s::int]), array_fill('{}'::text, array[%(runs)s::int]),"
        " array_fill(%(queue)s::text, array[%(runs)s::int]), p_notify => false)",
        {
            "tenants": tenants,
            "first": first,
            "last": first + runs - 1,
            "runs": runs,
            "task": task,
            "queue": QUEUE,
        },
    )
