"""A stock procrastinate worker runs plain tasks of our engine, and is kept from what is not its own."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import procrastinate
import psycopg
import pytest
from procrastinate import RetryStrategy
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Job, Status

from howdah.sql.pool import Connection
from howdah.sql.queue.calls import (
    NewRun,
    TaskEntry,
    claim_runs,
    enqueue_runs,
    register_tasks,
    register_worker,
    rescue_runs,
)


async def work(app: procrastinate.App, **options: Any) -> None:
    """A stock worker that ends when there is nothing left to do."""
    await app.run_worker_async(wait=False, install_signal_handlers=False, listen_notify=False, **options)


async def one(app: procrastinate.App, job_id: int | None) -> Job:
    (job,) = await app.job_manager.list_jobs_async(id=job_id)
    return job


def sqlstate(refused: pytest.ExceptionInfo[ConnectorException]) -> str | None:
    cause = refused.value.__cause__
    assert isinstance(cause, psycopg.Error)
    return cause.sqlstate


async def test_a_stock_worker_runs_what_was_deferred(app: procrastinate.App, db: psycopg.Connection) -> None:
    done: list[int] = []

    @app.task(name="asynchronous")
    async def asynchronous(n: int) -> None:
        done.append(n)

    @app.task(name="synchronous", queue="other")
    def synchronous(n: int) -> None:
        done.append(n)

    await asynchronous.batch_defer_async(*({"n": n} for n in range(20)))
    await synchronous.defer_async(n=20)
    await work(app, concurrency=5)
    assert sorted(done) == list(range(21))
    assert db.execute("select state, count(*) from run_history group by 1").fetchall() == [("succeeded", 21)]
    assert db.execute("select count(*) from worker").fetchone() == (0,)
    jobs = await app.job_manager.list_jobs_async()
    assert {(job.status, job.attempts, job.task_name) for job in jobs} == {
        ("succeeded", 1, "asynchronous"),
        ("succeeded", 1, "synchronous"),
    }


async def test_a_stock_worker_keeps_to_its_queues(app: procrastinate.App) -> None:
    done: list[str] = []

    @app.task(name="t")
    async def t(n: str) -> None:
        done.append(n)

    await t.configure(queue="mine").defer_async(n="mine")
    await t.configure(queue="other").defer_async(n="other")
    await work(app, queues=["mine", "a queue that never was"])
    assert done == ["mine"]


async def test_a_run_enqueued_by_the_engine_is_run_by_a_stock_worker(
    app: procrastinate.App, connection: Connection
) -> None:
    done: list[int] = []

    @app.task(name="t")
    async def t(n: int) -> None:
        done.append(n)

    await connection.execute("select create_tenant('acme', 'Acme')")
    await enqueue_runs(connection, [NewRun("acme", "t", '{"n": 7}', queue="any")])
    await work(app)
    assert done == [7]


async def test_a_stock_worker_is_never_given_a_workflow(app: procrastinate.App, connection: Connection) -> None:
    done: list[str] = []

    @app.task(name="plain")
    async def plain() -> None:
        done.append("plain")

    @app.task(name="durable")
    async def durable() -> None:
        done.append("durable")

    await register_tasks(connection, [TaskEntry("durable", "workflow", "default", "{}", "")])
    workflow = await durable.defer_async()
    await plain.defer_async()
    await work(app)
    assert done == ["plain"]
    assert (await one(app, workflow)).status == "todo"
    worker = await register_worker(connection, "w", ["default"])
    assert [run.id for run in await claim_runs(connection, worker, ["default"], 10)] == [workflow]


async def test_a_task_is_retried_as_its_strategy_says(app: procrastinate.App) -> None:
    seen: list[int] = []

    @app.task(name="t", retry=RetryStrategy(max_attempts=3), pass_context=True)
    async def t(context: procrastinate.JobContext) -> None:
        seen.append(context.job.attempts)
        raise ValueError

    job_id = await t.defer_async()
    await work(app)
    job = await one(app, job_id)
    assert (seen, job.status, job.attempts) == ([0, 1, 2, 3], "failed", 4)


async def test_a_retry_for_later_is_found_when_it_is_due(app: procrastinate.App, db: psycopg.Connection) -> None:
    seen: list[int] = []

    @app.task(name="t", retry=RetryStrategy(max_attempts=1, wait=3600), pass_context=True)
    async def t(context: procrastinate.JobContext) -> None:
        seen.append(context.job.attempts)
        if not context.job.attempts:
            raise ValueError

    job_id = await t.defer_async()
    await work(app)
    assert db.execute("select state from run").fetchall() == [("scheduled",)]
    db.execute("update run set run_at = now()")
    await work(app)
    assert (seen, (await one(app, job_id)).status) == ([0, 1], "succeeded")


async def test_a_retry_may_change_queue_and_priority(app: procrastinate.App) -> None:
    jobs = app.job_manager
    job_id = await app.configure_task("t", queueing_lock="k").defer_async()
    job = await jobs.fetch_job(None, await jobs.register_worker())
    assert job is not None
    again = await app.configure_task("t", queueing_lock="k").defer_async()
    await jobs.retry_job(job, queue="new", priority=9)
    retried = await one(app, job_id)
    assert (retried.status, retried.queue, retried.priority, retried.attempts) == ("todo", "new", 9, 1)
    assert {job.id for job in await jobs.list_jobs_async(status="todo")} == {job_id, again}
    found = await jobs.fetch_job(["new"], await jobs.register_worker())
    assert found is not None
    assert found.id == job_id


async def test_a_failed_job_can_be_retried_by_hand(app: procrastinate.App) -> None:
    @app.task(name="t")
    async def t() -> None:
        raise ValueError

    job_id = await t.defer_async()
    await work(app)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    await app.job_manager.retry_job_by_id_async(job_id, retry_at=tomorrow, queue="later")
    job = await one(app, job_id)
    assert (job.status, job.queue, job.scheduled_at, job.attempts) == ("todo", "later", tomorrow, 1)
    with pytest.raises(ConnectorException) as refused:
        await app.job_manager.retry_job_by_id_async(job_id, retry_at=tomorrow)
    assert sqlstate(refused) == "HW001"


async def test_a_running_job_is_aborted_at_its_worker(app: procrastinate.App) -> None:
    started, aborted = asyncio.Event(), asyncio.Event()

    @app.task(name="t")
    async def t() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            aborted.set()

    job_id = await t.defer_async()
    # No polling: only the notification can end this test.
    options: dict[str, Any] = {
        "abort_job_polling_interval": 3600,
        "fetch_job_polling_interval": 3600,
        "install_signal_handlers": False,
    }
    worker = asyncio.create_task(app.run_worker_async(**options))
    await started.wait()
    await listening(app)
    assert await app.job_manager.cancel_job_by_id_async(job_id, abort=True)
    await asyncio.wait_for(aborted.wait(), 30)
    worker.cancel()
    with pytest.raises(asyncio.CancelledError):
        await worker
    assert await app.job_manager.get_job_status_async(job_id) == Status.ABORTED


async def test_a_waiting_stock_worker_is_woken_by_a_defer(app: procrastinate.App) -> None:
    ran = asyncio.Event()

    @app.task(name="t", queue="mail")
    async def t() -> None:
        ran.set()

    options: dict[str, Any] = {"queues": ["mail"], "fetch_job_polling_interval": 3600, "install_signal_handlers": False}
    worker = asyncio.create_task(app.run_worker_async(**options))
    await listening(app)
    await t.defer_async()
    await asyncio.wait_for(ran.wait(), 30)
    worker.cancel()
    with pytest.raises(asyncio.CancelledError):
        await worker


async def listening(app: procrastinate.App) -> None:
    """Until the worker's own connection has asked for notifications, which nobody but Postgres can tell."""
    asked = "query ilike 'listen %%' and state = 'idle' and datname = current_database()"
    query = f"select count(*) as listeners from pg_stat_activity where {asked}"
    while not (await app.connector.execute_query_one_async(query))["listeners"]:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(("delete", "left"), [("never", 2), ("successful", 1), ("always", 0)])
async def test_a_worker_told_to_delete_jobs_deletes_them(app: procrastinate.App, delete: str, left: int) -> None:
    @app.task(name="t")
    async def t(n: int) -> None:
        assert n

    await t.batch_defer_async({"n": 0}, {"n": 1})
    await work(app, delete_jobs=delete)
    assert len(list(await app.job_manager.list_jobs_async())) == left


async def test_a_silent_stock_worker_loses_its_runs_and_cannot_finish_them(
    app: procrastinate.App, connection: Connection
) -> None:
    jobs = app.job_manager
    job_id = await app.configure_task("t").defer_async()
    silent = await jobs.register_worker()
    job = await jobs.fetch_job(None, silent)
    assert job is not None
    assert await jobs.prune_stalled_workers(3600) == []
    assert await jobs.get_stalled_jobs() == []
    await connection.execute("update worker set heartbeat_at = heartbeat_at - interval '1 hour'")
    assert [stalled.id for stalled in await jobs.get_stalled_jobs()] == [job_id]
    assert await jobs.prune_stalled_workers(30) == [silent]

    for late in (
        jobs.finish_job(job, Status.SUCCEEDED, delete_job=False),
        jobs.retry_job(job),
        jobs.update_heartbeat(silent),
        jobs.fetch_job(None, silent),
    ):
        with pytest.raises(ConnectorException) as refused:
            await late
        assert sqlstate(refused) == "HW001"
    ours = await register_worker(connection, "w", ["default"])
    assert [run.id for run in await claim_runs(connection, ours, ["default"], 1)] == [job_id]
    with pytest.raises(ConnectorException) as refused:
        await jobs.finish_job(job, Status.SUCCEEDED, delete_job=False)
    assert "running on a Howdah worker" in str(refused.value.__cause__)
    assert (await one(app, job_id)).status == "doing"


async def test_a_stock_workers_pruning_leaves_our_workers_alone(app: procrastinate.App, connection: Connection) -> None:
    await register_worker(connection, "w", ["default"])
    await connection.execute("update worker set heartbeat_at = heartbeat_at - interval '1 hour'")
    assert await app.job_manager.prune_stalled_workers(30) == []


async def test_a_workers_row_is_not_removed_under_an_unfinished_fetch(
    app: procrastinate.App, connection: Connection, conninfo: str
) -> None:
    worker = await app.job_manager.register_worker()
    await app.configure_task("t").defer_async()
    await connection.execute("update worker set heartbeat_at = heartbeat_at - interval '1 hour'")
    async with await psycopg.AsyncConnection.connect(conninfo) as fetching:
        await fetching.execute("select * from procrastinate_fetch_job_v2(null, %s)", [worker])
        await rescue_runs(connection, timedelta(minutes=1))
    await rescue_runs(connection, timedelta(minutes=1))
    rows = await connection.execute("select state, worker_id from run")
    assert await rows.fetchall() == [("queued", None)]


async def test_a_worker_that_leaves_gives_its_runs_back(app: procrastinate.App) -> None:
    jobs = app.job_manager
    job_id = await app.configure_task("t").defer_async()
    leaving = await jobs.register_worker()
    await jobs.fetch_job(None, leaving)
    await jobs.unregister_worker(leaving)
    assert (await one(app, job_id)).status == "todo"


async def test_finishing_an_unknown_job_says_so(app: procrastinate.App) -> None:
    with pytest.raises(ConnectorException) as refused:
        await app.job_manager.finish_job_by_id_async(404, Status.SUCCEEDED, delete_job=False)
    assert sqlstate(refused) == "HW002"


async def test_events_tell_a_jobs_times_under_ids_of_their_own(app: procrastinate.App, db: psycopg.Connection) -> None:
    @app.task(name="t")
    async def t() -> None:
        pass

    await t.batch_defer_async({}, {})
    await work(app)
    rows = db.execute(
        "select job_id, array_agg(type::text order by at), count(distinct id) from procrastinate_events e group by 1"
    )
    assert [row[1:] for row in rows] == [(["deferred", "started", "succeeded"], 3)] * 2


async def test_stock_workers_share_the_jobs_and_leave_none(app: procrastinate.App) -> None:
    jobs = app.job_manager
    await app.configure_task("t").batch_defer_async(*[{"n": n} for n in range(40)])
    workers = [await jobs.register_worker() for _ in range(4)]

    async def take(worker: int) -> list[int | None]:
        taken = []
        while job := await jobs.fetch_job(None, worker):
            taken.append(job.id)
        return taken

    taken = [job_id for ids in await asyncio.gather(*map(take, workers)) for job_id in ids]
    assert len(taken) == len(set(taken)) == 40


async def test_a_fetch_beside_another_does_not_find_the_queue_empty(app: procrastinate.App, conninfo: str) -> None:
    jobs = app.job_manager
    ids = await app.configure_task("t").batch_defer_async({}, {})
    first, second = await jobs.register_worker(), await jobs.register_worker()
    async with await psycopg.AsyncConnection.connect(conninfo) as fetching:
        await fetching.execute("select * from procrastinate_fetch_job_v2(null, %s)", [first])
        beside = asyncio.create_task(jobs.fetch_job(None, second))
        theirs = "wait_event = 'advisory' and datname = current_database()"
        waiting = f"select count(*) as waiting from pg_stat_activity where {theirs}"
        while not beside.done() and not (await app.connector.execute_query_one_async(waiting))["waiting"]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    job = await beside
    assert job is not None
    assert job.id == ids[1]
