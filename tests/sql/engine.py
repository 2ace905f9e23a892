"""Short words for what the engine's tests do all the time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import psycopg

from howdah.sql.pool import Connection
from howdah.sql.queue import calls
from howdah.sql.queue.calls import ClaimedRun, NewRun
from howdah.sql.workflow.calls import ItemStatus, RunItem, flush


async def connect(conninfo: str) -> Connection:
    """A connection of its own, in autocommit."""
    return await psycopg.AsyncConnection.connect(conninfo, autocommit=True)


async def rows(connection: Connection, query: str, *parameters: Any) -> list[Any]:
    """All rows; bare values where there is one column."""
    cursor = await connection.execute(query.encode(), parameters or None)
    found = await cursor.fetchall()
    return [row[0] for row in found] if cursor.description and len(cursor.description) == 1 else list(found)


async def value(connection: Connection, query: str, *parameters: Any) -> Any:
    """The one row's one value."""
    (found,) = await rows(connection, query, *parameters)
    return found


async def enqueue(
    connection: Connection, count: int = 1, tenant: str = "default", task: str = "t", **fields: Any
) -> list[int]:
    """Ids of `count` runs just enqueued."""
    enqueued = await calls.enqueue_runs(connection, [NewRun(tenant, task, **fields) for _ in range(count)])
    assert {run.status for run in enqueued} == {"created"}
    return [run.run_id for run in enqueued if run.run_id is not None]


async def new_worker(connection: Connection, *queues: str) -> int:
    return await calls.register_worker(connection, "worker", queues or ("default",))


async def claim(
    connection: Connection, limit: int = 100, *, worker: int | None = None, queue: str = "default"
) -> list[ClaimedRun]:
    """Claim for `worker`, or for a new one."""
    return await calls.claim_runs(connection, worker or await new_worker(connection, queue), [queue], limit)


async def running(connection: Connection, count: int = 1, **fields: Any) -> list[ClaimedRun]:
    """Runs just enqueued and claimed, in order."""
    await enqueue(connection, count, **fields)
    return sorted(await claim(connection, count), key=lambda run: run.id)


def checkpoint(run: ClaimedRun, step: str = "s", body: str = "1") -> RunItem:
    return RunItem(run.id, run.attempt, "checkpoint", step, body)


def event(run: ClaimedRun, type_: str = "noted", body: str = "{}", key: str | None = None) -> RunItem:
    return RunItem(run.id, run.attempt, "event", type_, body, key=key)


def outcome(run: ClaimedRun, name: str = "succeeded", body: str = "null", at: Any = None) -> RunItem:
    return RunItem(run.id, run.attempt, "outcome", name, body, at=at)


async def write(connection: Connection, *items: RunItem) -> Sequence[ItemStatus]:
    return await flush(connection, items)


async def states(connection: Connection) -> list[tuple[int, str]]:
    """(id, state) of every run, live or in history, by id."""
    return await rows(connection, "select id, state from ops.runs order by id")


async def until_blocked(watcher: Connection, blocked: Connection) -> None:
    """Return once `blocked` waits for somebody's lock."""
    pid = blocked.info.backend_pid
    async with asyncio.timeout(10):
        while not await value(watcher, "select cardinality(pg_blocking_pids(%s)) > 0", pid):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
