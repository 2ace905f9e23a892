"""Any stock procrastinate client defers to, reads and cancels in our engine unchanged."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import procrastinate
import psycopg
import pytest
from procrastinate.exceptions import AlreadyEnqueued, ConnectorException
from procrastinate.jobs import Status

from howdah.sql.pool import Connection
from howdah.sql.queue.calls import NewRun, claim_runs, enqueue_runs, register_worker

TOMORROW = datetime.now(UTC) + timedelta(days=1)


def sqlstate(refused: pytest.ExceptionInfo[ConnectorException]) -> str | None:
    cause = refused.value.__cause__
    assert isinstance(cause, psycopg.Error)
    return cause.sqlstate


async def test_a_job_deferred_by_a_stock_client_is_a_run_of_the_default_tenant(
    app: procrastinate.App, connection: Connection
) -> None:
    job_id = await app.configure_task("send", queue="mail", priority=3).defer_async(to="a@b", nested={"n": [1, None]})
    worker = await register_worker(connection, "w", ["mail"])
    (run,) = await claim_runs(connection, worker, ["mail"], 10)
    assert (run.id, run.tenant_id, run.queue, run.task) == (job_id, "default", "mail", "send")
    assert run.args == '{"to": "a@b", "nested": {"n": [1, null]}}'


def test_a_synchronous_client_defers_too(sync_app: procrastinate.App, db: psycopg.Connection) -> None:
    job_id = sync_app.configure_task("send").defer(to="a@b")
    assert db.execute("select id, state, queue from run").fetchall() == [(job_id, "queued", "default")]
    assert sync_app.check_connection()


async def test_a_batch_is_answered_in_the_order_given(app: procrastinate.App, db: psycopg.Connection) -> None:
    ids = await app.configure_task("count").batch_defer_async(*({"n": n} for n in range(100)))
    stored = db.execute("select id, (args ->> 'n')::int from run order by 2").fetchall()
    assert stored == [(job_id, n) for n, job_id in enumerate(ids)]


async def test_priority_orders_a_tenants_jobs(app: procrastinate.App, connection: Connection) -> None:
    low = await app.configure_task("t", priority=-1).defer_async()
    high = await app.configure_task("t", priority=5).defer_async()
    worker = await register_worker(connection, "w", ["default"])
    claimed = [(await claim_runs(connection, worker, ["default"], 1))[0].id for _ in range(2)]
    assert claimed == [high, low]


async def test_a_job_for_later_waits_for_its_time(app: procrastinate.App, connection: Connection) -> None:
    job_id = await app.configure_task("t", schedule_at=TOMORROW).defer_async()
    worker = await register_worker(connection, "w", ["default"])
    assert await claim_runs(connection, worker, ["default"], 1) == []
    (job,) = await app.job_manager.list_jobs_async(id=job_id)
    assert (job.status, job.scheduled_at) == ("todo", TOMORROW)


async def test_a_queueing_lock_admits_one_waiting_job(app: procrastinate.App, connection: Connection) -> None:
    once = app.configure_task("t", queueing_lock="only (one)")
    await once.defer_async()
    with pytest.raises(AlreadyEnqueued, match=r"only \(one"):
        await once.defer_async()
    worker = await register_worker(connection, "w", ["default"])
    assert len(await claim_runs(connection, worker, ["default"], 10)) == 1
    await once.defer_async()


def test_a_synchronous_client_learns_of_a_taken_queueing_lock(sync_app: procrastinate.App) -> None:
    sync_app.configure_task("t", queueing_lock="k").defer()
    with pytest.raises(AlreadyEnqueued):
        sync_app.configure_task("t", queueing_lock="k").defer()


async def test_a_batch_with_a_taken_queueing_lock_leaves_nothing(
    app: procrastinate.App, db: psycopg.Connection
) -> None:
    with pytest.raises(AlreadyEnqueued):
        await app.configure_task("t", queueing_lock="k").batch_defer_async({"n": 1}, {"n": 2})
    assert db.execute("select count(*) from run").fetchone() == (0,)


@pytest.mark.parametrize(
    ("queue", "args", "code"),
    [("über", {}, "HW016"), ("q" * 129, {}, "HW016"), ("q", {"x": "y" * (1 << 20)}, "HW015")],
)
async def test_what_the_engine_cannot_take_is_refused_by_name(
    app: procrastinate.App, queue: str, args: dict[str, str], code: str
) -> None:
    with pytest.raises(ConnectorException) as refused:
        await app.configure_task("t", queue=queue).defer_async(**args)
    assert sqlstate(refused) == code


async def test_a_queue_with_a_name_longer_than_a_channel_works(app: procrastinate.App) -> None:
    assert await app.configure_task("t", queue="q" * 128).defer_async()


async def test_a_waiting_job_is_cancelled_and_a_running_one_only_on_abort(
    app: procrastinate.App, connection: Connection
) -> None:
    jobs = app.job_manager
    waiting = await app.configure_task("t").defer_async()
    assert await jobs.cancel_job_by_id_async(waiting)
    assert await jobs.get_job_status_async(waiting) == Status.CANCELLED
    assert not await jobs.cancel_job_by_id_async(waiting)
    assert not await jobs.cancel_job_by_id_async(404)

    running = await app.configure_task("t").defer_async()
    worker = await register_worker(connection, "w", ["default"])
    await claim_runs(connection, worker, ["default"], 1)
    assert not await jobs.cancel_job_by_id_async(running)
    assert await jobs.list_jobs_to_abort_async() == []
    assert await jobs.cancel_job_by_id_async(running, abort=True)
    assert await jobs.list_jobs_to_abort_async() == [running]


async def test_a_cancelled_job_can_be_deleted_with_it(app: procrastinate.App, connection: Connection) -> None:
    job_id = await app.configure_task("t").defer_async()
    assert await app.job_manager.cancel_job_by_id_async(job_id, delete_job=True)
    assert list(await app.job_manager.list_jobs_async()) == []


async def test_lists_and_counts_show_the_engines_runs(app: procrastinate.App, connection: Connection) -> None:
    assert await app.check_connection_async()
    await app.configure_task("a", queue="one", queueing_lock="k").defer_async()
    await app.configure_task("b", queue="two").defer_async()
    await enqueue_runs(connection, [NewRun("default", "b", queue="two")])
    worker = await register_worker(connection, "w", ["two"])
    await claim_runs(connection, worker, ["two"], 1)
    jobs = app.job_manager
    assert [job.task_name for job in await jobs.list_jobs_async(status="todo", queue="one")] == ["a"]
    assert [job.task_name for job in await jobs.list_jobs_async(queueing_lock="k")] == ["a"]
    assert [job.worker_id for job in await jobs.list_jobs_async(worker_id=worker)] == [worker]
    queues = {row["name"]: (row["jobs_count"], row["todo"], row["doing"]) for row in await jobs.list_queues_async()}
    assert queues == {"one": (1, 1, 0), "two": (2, 1, 1)}
    assert {row["name"]: row["jobs_count"] for row in await jobs.list_tasks_async()} == {"a": 1, "b": 2}
    assert list(await jobs.list_locks_async()) == []


async def test_a_periodic_job_is_deferred_once_for_each_moment(app: procrastinate.App, db: psycopg.Connection) -> None:
    async def defer(timestamp: int, periodic_id: str = "") -> int | None:
        job = app.configure_task("tick", task_kwargs={"timestamp": timestamp}).job
        return await app.job_manager.defer_periodic_job(job, periodic_id, timestamp)

    first = await asyncio.gather(*(defer(60) for _ in range(8)))
    assert [job_id is None for job_id in first].count(False) == 1
    assert await defer(60) is None
    assert await defer(120) is not None
    assert await defer(60) is None
    assert await defer(60, "another schedule of the same task") is not None
    assert db.execute("select count(*) from run").fetchone() == (3,)


async def test_a_periodic_job_that_a_queueing_lock_refuses_can_come_later(app: procrastinate.App) -> None:
    def tick(timestamp: int) -> procrastinate.jobs.Job:
        return app.configure_task("tick", queueing_lock="k", task_kwargs={"timestamp": timestamp}).job

    jobs = app.job_manager
    first = await jobs.defer_periodic_job(tick(60), "", 60)
    assert first is not None
    with pytest.raises(AlreadyEnqueued):
        await jobs.defer_periodic_job(tick(120), "", 120)
    await jobs.cancel_job_by_id_async(first)
    assert await jobs.defer_periodic_job(tick(120), "", 120) is not None


async def test_a_defer_wakes_stock_workers_and_ours(app: procrastinate.App, conninfo: str) -> None:
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as listener:
        for channel in ("procrastinate_any_queue_v1", "procrastinate_queue_v1#mail", "howdah.runs"):
            await listener.execute(f'listen "{channel}"')
        await app.configure_task("t", queue="mail").defer_async()
        heard = {n.channel async for n in listener.notifies(stop_after=3, timeout=10)}
    assert heard == {"procrastinate_any_queue_v1", "procrastinate_queue_v1#mail", "howdah.runs"}


async def test_a_defer_in_the_callers_transaction_goes_with_it(app: procrastinate.App, conninfo: str) -> None:
    async with await psycopg.AsyncConnection.connect(conninfo) as caller:
        await app.configure_task("t", connection=caller).defer_async()
        await caller.rollback()
        assert list(await app.job_manager.list_jobs_async()) == []
        await app.configure_task("t", connection=caller).defer_async()
    assert len(list(await app.job_manager.list_jobs_async())) == 1


async def test_old_jobs_are_deleted_and_only_the_default_tenants(
    app: procrastinate.App, db: psycopg.Connection
) -> None:
    db.execute("select create_tenant('acme', 'Acme')")
    db.execute(
        "select enqueue_runs(array['default', 'default', 'acme'], array['t', 't', 't'], array['{}', '{}', '{}'])"
    )
    db.execute("select finish_runs(array_agg(id), array_agg('succeeded'::text), null, null) from run")
    await app.configure_task("t").defer_async()
    await app.job_manager.delete_old_jobs(nb_hours=1)
    assert db.execute("select count(*) from run_history").fetchone() == (3,)
    db.execute(
        "update run_history set id = id - (7200000::bigint << 20), finished_at = finished_at - interval '2 hours'"
    )
    await app.job_manager.delete_old_jobs(nb_hours=1)
    assert db.execute("select tenant_id from run_history").fetchall() == [("acme",)]
    assert db.execute("select count(*) from run").fetchone() == (1,)
