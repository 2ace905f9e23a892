"""Limits, pauses and the care for suspect runs hold for stock procrastinate workers as for Howdah's own."""

from __future__ import annotations

from datetime import UTC, datetime

import procrastinate
import pytest
from procrastinate.jobs import Status

from howdah.sql.pool import Connection
from howdah.sql.queue.calls import TaskEntry, claim_suspects, register_tasks, register_worker
from tests.sql.engine import claim, enqueue, new_worker

NOW = datetime.now(UTC)


async def fetch(app: procrastinate.App, worker: int) -> int | None:
    job = await app.job_manager.fetch_job(None, worker)
    return None if job is None else job.id


async def finish(app: procrastinate.App, job_id: int | None) -> None:
    assert job_id is not None
    await app.job_manager.finish_job_by_id_async(job_id, Status.SUCCEEDED, delete_job=False)


@pytest.mark.parametrize("limit", ["max_running", "max_running_per_tenant"])
async def test_a_limit_holds_for_stock_and_howdah_workers_together(
    app: procrastinate.App, connection: Connection, limit: str
) -> None:
    await connection.execute("select set_queue_limits('default', jsonb_build_object(%s::text, 2))", [limit])
    await app.configure_task("t").batch_defer_async(*({"n": n} for n in range(4)))
    worker = await app.job_manager.register_worker()
    first = await fetch(app, worker)
    assert len(await claim(connection)) == 1
    assert await fetch(app, worker) is None
    await finish(app, first)
    assert await fetch(app, worker) is not None
    assert await fetch(app, worker) is None


async def test_a_retry_to_another_queue_frees_the_slot_of_the_one_it_leaves(
    app: procrastinate.App, connection: Connection
) -> None:
    await connection.execute("""select set_queue_limits('default', '{"max_running_per_tenant": 1}')""")
    first, second = await app.configure_task("t").batch_defer_async({"n": 0}, {"n": 1})
    worker = await app.job_manager.register_worker()
    assert await fetch(app, worker) == first
    assert await fetch(app, worker) is None
    await app.job_manager.retry_job_by_id_async(first, NOW, queue="other")
    assert {await fetch(app, worker), await fetch(app, worker)} == {first, second}


async def test_starts_in_a_period_are_counted_for_stock_workers(app: procrastinate.App, connection: Connection) -> None:
    await connection.execute("""select set_queue_limits('default', '{"starts_per_period": 2, "period_s": 3600}')""")
    await app.configure_task("t").batch_defer_async({}, {}, {})
    worker = await app.job_manager.register_worker()
    assert [await fetch(app, worker) is None for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize("what", ["pause_queue('default', %s)", "pause_tenant('default', %s)", "pause_task('t', %s)"])
async def test_what_is_paused_does_not_start_on_a_stock_worker(
    app: procrastinate.App, connection: Connection, what: str
) -> None:
    await register_tasks(connection, [TaskEntry("t", "task", "default", "{}", "")])
    job_id = await app.configure_task("t").defer_async()
    worker = await app.job_manager.register_worker()
    await connection.execute(f"select {what}".encode(), [True])
    assert await fetch(app, worker) is None
    await connection.execute(f"select {what}".encode(), [False])
    assert await fetch(app, worker) == job_id


async def suspect(connection: Connection, task: str = "t") -> int:
    """A run whose workers died twice."""
    (run_id,) = await enqueue(connection, task=task)
    for _ in range(2):
        worker = await new_worker(connection)
        await connection.execute(
            "update run set state = 'running', worker_id = %s, claimed_at = now() where id = %s", [worker, run_id]
        )
        await connection.execute("select requeue_workers_runs(array[%s::bigint], 10, false)", [worker])
    return run_id


async def test_a_suspect_run_is_alone_on_its_stock_worker(app: procrastinate.App, connection: Connection) -> None:
    (other,) = await enqueue(connection)
    idle, busy = await app.job_manager.register_worker(), await app.job_manager.register_worker()
    assert await fetch(app, busy) == other
    killer = await suspect(connection)
    behind = await enqueue(connection, 2)
    assert await fetch(app, busy) == behind[0], "a busy worker is not given it"
    assert await fetch(app, idle) == killer
    assert await fetch(app, idle) is None, "nothing runs beside it"
    await finish(app, killer)
    assert await fetch(app, idle) == behind[1]


async def test_a_suspect_run_that_kills_its_stock_workers_ends(app: procrastinate.App, connection: Connection) -> None:
    killer = await suspect(connection)
    for _ in range(5):
        worker = await app.job_manager.register_worker()
        assert await fetch(app, worker) == killer
        await connection.execute("update worker set heartbeat_at = heartbeat_at - interval '1 hour'")
        assert worker in await app.job_manager.prune_stalled_workers(30)
    assert await app.job_manager.get_job_status_async(killer) == Status.FAILED


async def test_a_suspect_workflow_is_left_to_howdahs_workers(app: procrastinate.App, connection: Connection) -> None:
    await register_tasks(connection, [TaskEntry("durable", "workflow", "default", "{}", "")])
    killer = await suspect(connection, "durable")
    assert await fetch(app, await app.job_manager.register_worker()) is None
    ours = await register_worker(connection, "w", ["default"])
    assert [run.id for run in await claim_suspects(connection, ours, ["default"], ["durable"])] == [killer]
