"""What may wait, for how long, and how long a key is remembered."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from howdah.sql.errors import QueueFull, from_psycopg
from howdah.sql.pool import Connection
from howdah.sql.queue.calls import NewRun, change_runs, enqueue_runs
from tests.sql.engine import claim, connect, enqueue, outcome, rows, value, write


async def limit(connection: Connection, **limits: Any) -> None:
    await connection.execute("select set_queue_limits('default', %s)", [Jsonb(limits)])


async def statuses(connection: Connection, *tenants: str) -> list[str]:
    return [run.status for run in await enqueue_runs(connection, [NewRun(tenant, "t") for tenant in tenants])]


@pytest.mark.parametrize("counted", [True, False], ids=["counted by a process", "nobody counts"])
async def test_a_full_queue_refuses_and_takes_again_when_it_has_room(connection: Connection, counted: bool) -> None:
    await limit(connection, max_queued=3)
    await enqueue(connection, 3)
    if counted:
        await connection.execute("select count_depths()")
    assert await statuses(connection, "default") == ["queue_full"]
    with pytest.raises(psycopg.Error) as refused:
        await connection.execute("select * from enqueue_run('default', 't')")
    assert isinstance(from_psycopg(refused.value), QueueFull)
    await write(connection, *[outcome(run) for run in await claim(connection, 1)])
    if counted:
        await connection.execute("select count_depths()")
    assert await statuses(connection, "default") == ["created"]


@pytest.mark.parametrize("counted", [True, False], ids=["counted by a process", "nobody counts"])
async def test_a_full_tenant_does_not_keep_others_out(connection: Connection, counted: bool) -> None:
    await connection.execute("insert into tenant values ('acme', 'Acme')")
    await limit(connection, max_queued_per_tenant=2)
    await enqueue(connection, 2)
    if counted:
        await connection.execute("select count_depths()")
    assert await statuses(connection, "default", "acme") == ["queue_full", "created"]


async def test_counting_waits_for_nobody(connection: Connection, conninfo: str) -> None:
    await limit(connection, max_queued=3)
    async with await connect(conninfo) as other, other.transaction():
        await other.execute("select count_depths()")
        await connection.execute("set lock_timeout = '1s'")
        await connection.execute("select count_depths()")


async def test_a_deadline_ends_a_run_that_waits_and_asks_one_that_runs(connection: Connection) -> None:
    soon = datetime.now(UTC) + timedelta(minutes=1)
    waiting, running = await enqueue(connection, 2, deadline=soon)
    await change_runs(connection, None, [running], priority=1)
    (run,) = await claim(connection, 1)
    assert (run.id, run.deadline) == (running, soon)
    assert await value(connection, "select expired from expire_runs()") == 0
    await connection.execute("set howdah.now = '2100-01-01'")
    assert await value(connection, "select expired from expire_runs()") == 2
    assert await rows(connection, "select id, state, error ->> 'type' from run_history") == [
        (waiting, "failed", "DeadlineExceeded")
    ]
    assert await rows(connection, "select id from run where cancel_requested") == [running]


async def test_a_key_is_remembered_for_its_window(connection: Connection) -> None:
    async def send(window: timedelta | None) -> Any:
        return (await enqueue_runs(connection, [NewRun("default", "t", idempotency_key="k", key_window=window)]))[0]

    await connection.execute("set howdah.now = '2030-01-01 00:00:00+00'")
    first = await send(timedelta(minutes=10))
    await connection.execute("set howdah.now = '2030-01-01 00:09:59+00'")
    assert await send(None) == type(first)(first.run_id, "existing", "t")
    await connection.execute("set howdah.now = '2030-01-01 00:10:00+00'")
    second = await send(None)
    assert second.status == "created"
    assert second.run_id != first.run_id
    await connection.execute("set howdah.now = '2030-01-02 00:09:59+00'")
    assert (await send(None)).run_id == second.run_id


async def test_changes_reach_runs_that_have_not_started(connection: Connection) -> None:
    queued, other, running = await enqueue(connection, 3)
    await change_runs(connection, None, [running], priority=9)
    await claim(connection, 1)
    later = datetime.now(UTC) + timedelta(hours=1)
    assert await change_runs(connection, None, [queued, running, 5], run_at=later) == {
        queued: "changed", running: "started", 5: "unknown"
    }  # fmt: skip
    assert await claim(connection, 1, queue="mail") == []
    await change_runs(connection, None, [other], queue="mail")
    assert [run.id for run in await claim(connection, queue="mail")] == [other]
    await change_runs(connection, None, [queued], run_at=datetime.now(UTC) - timedelta(hours=1))
    assert [run.id for run in await claim(connection)] == [queued]
