"""Cancelling and bringing back, by state; and another tenant's run is as good as none."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from howdah.sql.pool import Connection
from howdah.sql.queue.calls import cancel_runs, heartbeat, requeue_runs, rescue_runs, unregister_worker
from howdah.sql.workflow.calls import read_checkpoints
from tests.sql.engine import (
    checkpoint,
    claim,
    connect,
    enqueue,
    new_worker,
    outcome,
    rows,
    running,
    states,
    until_blocked,
    value,
    write,
)


async def test_a_cancel_does_what_each_state_allows(connection: Connection) -> None:
    (busy,) = await running(connection)
    (done,) = await running(connection)
    await write(connection, outcome(done))
    (queued,) = await enqueue(connection)
    (scheduled,) = await enqueue(connection, run_at=datetime.now(UTC) + timedelta(hours=1))
    asked = [queued, scheduled, busy.id, done.id, 12345]
    assert await cancel_runs(connection, "default", asked, "not needed") == {
        queued: "cancelled",
        scheduled: "cancelled",
        busy.id: "requested",
        done.id: "finished",
        12345: "unknown",
    }
    assert dict(await states(connection)) == {
        queued: "cancelled",
        scheduled: "cancelled",
        busy.id: "running",
        done.id: "succeeded",
    }
    assert await value(connection, "select error ->> 'message' from run_history where id = %s", queued) == "not needed"


async def test_a_running_runs_worker_is_told_at_its_next_heartbeat(connection: Connection) -> None:
    worker = await new_worker(connection)
    await enqueue(connection, 2)
    run, _ = await claim(connection, worker=worker)
    await cancel_runs(connection, "default", [run.id])
    assert (await heartbeat(connection, worker)).cancelled == [run.id]


async def test_a_cancel_of_a_running_run_wakes_listeners(connection: Connection, conninfo: str) -> None:
    (run,) = await running(connection)
    async with await connect(conninfo) as listening:
        await listening.execute('listen "howdah.cancels"')
        await cancel_runs(connection, "default", [run.id])
        assert [n.channel async for n in listening.notifies(timeout=10, stop_after=1)] == ["howdah.cancels"]


async def test_a_cancelled_run_is_never_claimed(connection: Connection, conninfo: str) -> None:
    (run_id,) = await enqueue(connection)
    async with await connect(conninfo) as operator, operator.transaction():
        await cancel_runs(operator, None, [run_id])
        assert await claim(connection) == []
    assert await claim(connection) == []


async def test_a_cancel_that_meets_a_claim_asks_its_worker(connection: Connection, conninfo: str) -> None:
    (run_id,) = await enqueue(connection)
    async with await connect(conninfo) as claimer, await connect(conninfo) as operator:
        async with claimer.transaction():
            await claim(claimer)
            asking = asyncio.create_task(cancel_runs(operator, "default", [run_id]))
            await until_blocked(connection, operator)
        assert await asking == {run_id: "requested"}


async def test_another_tenants_run_is_unknown(connection: Connection) -> None:
    await connection.execute("select * from create_tenant('acme')")
    (run_id,) = await enqueue(connection)
    assert await cancel_runs(connection, "acme", [run_id]) == {run_id: "unknown"}
    assert await requeue_runs(connection, "acme", [run_id]) == {run_id: "unknown"}
    await cancel_runs(connection, "default", [run_id])
    assert await cancel_runs(connection, "acme", [run_id]) == {run_id: "unknown"}
    assert await requeue_runs(connection, "acme", [run_id]) == {run_id: "unknown"}
    assert await states(connection) == [(run_id, "cancelled")]


async def test_a_requeue_does_what_each_state_allows(connection: Connection) -> None:
    failed, cancelled, succeeded, live = await running(connection, 4)
    await write(
        connection, outcome(failed, "failed", '{"message": "bad"}'), outcome(cancelled, "cancelled"), outcome(succeeded)
    )
    asked = [failed.id, cancelled.id, succeeded.id, live.id, 12345]
    assert await requeue_runs(connection, "default", asked) == {
        failed.id: "requeued",
        cancelled.id: "requeued",
        succeeded.id: "succeeded",
        live.id: "live",
        12345: "unknown",
    }
    assert await requeue_runs(connection, "default", [failed.id]) == {failed.id: "live"}


async def test_a_requeued_run_keeps_its_steps_and_fences_its_past(connection: Connection) -> None:
    (old,) = await running(connection, args='{"a": 1}', session_id="case", priority=5)
    await write(connection, checkpoint(old, "first"), outcome(old, "failed"))
    await requeue_runs(connection, "default", [old.id])
    (new,) = await claim(connection)
    assert (new.id, new.attempt, new.failures, new.args, new.session_id) == (old.id, 2, 0, '{"a": 1}', "case")
    assert [c.step for c in await read_checkpoints(connection, [new.id])] == ["first"]
    assert await write(connection, outcome(old)) == ["stale"]
    assert await write(connection, checkpoint(new, "second"), outcome(new)) == ["ok", "ok"]
    assert await states(connection) == [(old.id, "succeeded")]


async def test_two_requeues_at_once_bring_one_run_back(connection: Connection, conninfo: str) -> None:
    (run,) = await running(connection)
    await write(connection, outcome(run, "failed"))
    async with await connect(conninfo) as one, await connect(conninfo) as two:
        async with one.transaction():
            first = await requeue_runs(one, None, [run.id])
            racing = asyncio.create_task(requeue_runs(two, None, [run.id]))
            await until_blocked(connection, two)
        assert (first[run.id], (await racing)[run.id]) == ("requeued", "live")
    assert await rows(connection, "select id from run") == [run.id]


@pytest.mark.parametrize("ending", ["retry", "release", "reschedule", "rescued", "unregistered"])
async def test_a_run_that_was_to_be_cancelled_never_starts_again(connection: Connection, ending: str) -> None:
    (run,) = await running(connection)
    assert await cancel_runs(connection, None, [run.id]) == {run.id: "requested"}
    worker: int = await value(connection, "select worker_id from run")
    if ending == "rescued":
        await connection.execute("set howdah.now = '2100-01-01'")
        assert await rescue_runs(connection, timedelta(seconds=15)) == (1, 1)
    elif ending == "unregistered":
        assert await unregister_worker(connection, worker) == 1
    else:
        at = datetime(2100, 1, 1, tzinfo=UTC) if ending != "release" else None
        assert await write(connection, outcome(run, ending, "{}", at=at)) == ["ok"]
    assert await rows(connection, "select id, state from run_history") == [(run.id, "cancelled")]
    assert await rows(connection, "select id from run") == []
