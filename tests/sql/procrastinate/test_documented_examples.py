"""What procrastinate's how-tos show works as they show it: each test is one of them, told anew on our engine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import procrastinate
import psycopg
import pytest
from procrastinate import Blueprint, JobContext, RetryDecision, exceptions
from procrastinate.exceptions import AlreadyEnqueued
from procrastinate.jobs import Job, Status

DOOMSDAY = datetime(2038, 1, 19, 3, 14, 7, tzinfo=UTC)


async def work(app: procrastinate.App, **options: Any) -> None:
    """A stock worker that ends when there is nothing left to do."""
    await app.run_worker_async(wait=False, install_signal_handlers=False, listen_notify=False, **options)


async def one(app: procrastinate.App, job_id: int | None) -> Job:
    (job,) = await app.job_manager.list_jobs_async(id=job_id)
    return job


# Deferring


def test_everything_of_configure_is_kept_by_a_synchronous_client(sync_app: procrastinate.App) -> None:
    @sync_app.task(name="my_task", queue="some_queue")
    def my_task(a: int, b: int) -> None: ...

    pattern = my_task.configure(
        lock="the name of my lock",
        queueing_lock="arbitrary_string",
        queue="not_the_default_queue",
        schedule_at=DOOMSDAY,
        priority=5,
        task_kwargs={"a": 1},
    )
    job_id = pattern.defer(b=2)
    (job,) = sync_app.job_manager.list_jobs(id=job_id)
    assert (job.lock, job.queueing_lock, job.queue, job.scheduled_at, job.priority, job.task_kwargs, job.status) == (
        "the name of my lock", "arbitrary_string", "not_the_default_queue", DOOMSDAY, 5, {"a": 1, "b": 2}, "todo",
    )  # fmt: skip
    with pytest.raises(AlreadyEnqueued):
        pattern.defer(b=3)


def test_a_synchronous_batch_with_a_lock_is_in_order(sync_app: procrastinate.App) -> None:
    @sync_app.task(name="my_task", queue="some_queue")
    def my_task(a: int, b: int) -> None: ...

    ids = my_task.configure(lock="l", schedule_in={"hours": 1}).batch_defer(
        {"a": 1, "b": 2}, {"a": 3, "b": 4}, {"a": 5, "b": 6}
    )
    jobs = list(sync_app.job_manager.list_jobs(lock="l", queue="some_queue"))
    assert [(job.id, job.task_kwargs["a"]) for job in jobs] == list(zip(ids, (1, 3, 5), strict=True))
    assert {row["name"]: row["todo"] for row in sync_app.job_manager.list_locks()} == {"l": 3}
    assert {row["name"]: row["todo"] for row in sync_app.job_manager.list_queues(lock="l")} == {"some_queue": 3}
    assert {row["name"]: row["todo"] for row in sync_app.job_manager.list_tasks(lock="l")} == {"my_task": 3}


async def test_a_tasks_own_options_are_its_jobs_defaults(app: procrastinate.App) -> None:
    @app.task(name="my_task", queue="q", lock="l", queueing_lock="ql", priority=3)
    async def my_task() -> None: ...

    job = await one(app, await my_task.defer_async())
    assert (job.queue, job.lock, job.queueing_lock, job.priority) == ("q", "l", "ql", 3)


async def test_schedule_in_counts_from_now(app: procrastinate.App) -> None:
    job = await one(app, await app.configure_task("clean", schedule_in={"hours": 1, "minutes": 30}).defer_async())
    assert job.scheduled_at is not None
    wait = job.scheduled_at - datetime.now(UTC)
    assert timedelta(minutes=85) < wait <= timedelta(minutes=90)


async def test_a_job_and_a_business_row_commit_together(app: procrastinate.App, conninfo: str) -> None:
    async with await psycopg.AsyncConnection.connect(conninfo) as caller:
        await caller.execute("create table orders (id int)")
        await caller.execute("insert into orders values (42)")
        job_id = await app.configure_task("t", lock="order 42", connection=caller).defer_async(order_id=42)
        assert await app.job_manager.get_job_status_async(job_id, connection=caller) == Status.TODO
        await caller.commit()
        await app.job_manager.cancel_job_by_id_async(job_id, connection=caller)
        await caller.rollback()
    assert (await one(app, job_id)).status == "todo"


# Workers


async def test_a_worker_runs_locked_jobs_in_order_beside_others(app: procrastinate.App) -> None:
    order: list[int] = []
    together = 0

    @app.task(name="my_task")
    async def my_task(n: int) -> None:
        nonlocal together
        together += 1
        assert together == 1
        await asyncio.sleep(0.01)
        together -= 1
        order.append(n)

    await my_task.configure(lock="customer").batch_defer_async(*({"n": n} for n in range(10)))
    worker = asyncio.create_task(
        app.run_worker_async(concurrency=4, fetch_job_polling_interval=0.2, install_signal_handlers=False)
    )
    async with asyncio.timeout(60):
        while len(order) < 10:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    worker.cancel()
    with pytest.raises(asyncio.CancelledError):
        await worker
    assert order == list(range(10))


async def test_priority_decides_among_the_jobs_without_a_lock(app: procrastinate.App) -> None:
    order: list[int] = []

    @app.task(name="my_task")
    async def my_task(n: int) -> None:
        order.append(n)

    for n in (0, 5, -5, 3):
        await my_task.configure(priority=n).defer_async(n=n)
    await work(app, concurrency=1)
    assert order == [5, 3, 0, -5]


async def test_a_job_sees_its_context_and_the_workers(app: procrastinate.App) -> None:
    seen: list[tuple[Any, ...]] = []

    @app.task(name="my_task", pass_context=True, retry=10)
    async def my_task(context: JobContext, a: int) -> None:
        assert context.job is not None
        job = context.job
        seen.append((job.id, job.lock, job.queue, job.priority, job.attempts, a, context.additional_context["session"]))

    job_id = await my_task.configure(lock="l", queue="q", priority=2).defer_async(a=1)
    await work(app, additional_context={"session": "http"})
    assert seen == [(job_id, "l", "q", 2, 0, 1, "http")]


async def test_tasks_of_a_blueprint_run_under_its_namespace(app: procrastinate.App) -> None:
    done: list[int] = []
    blueprint = Blueprint()

    @blueprint.task(name="mytask", queue="blue", lock="l")
    async def mytask(argument: int) -> None:
        done.append(argument)

    app.add_tasks_from(blueprint, namespace="package")
    job = await one(app, await mytask.defer_async(argument=1))
    assert (job.task_name, job.lock) == ("package:mytask", "l")
    await app.configure_task("package:mytask").defer_async(argument=2)
    await work(app)
    assert done == [1, 2]


async def test_middleware_wraps_jobs_from_the_worker_inwards(app: procrastinate.App) -> None:
    calls: list[str] = []

    def noting(name: str) -> Callable[..., Awaitable[Any]]:
        async def middleware(call_next: Callable[[], Awaitable[Any]], context: JobContext, worker: Any) -> Any:
            calls.append(f"{name} before")
            try:
                return await call_next()
            finally:
                calls.append(f"{name} after")

        return middleware

    def in_thread(call_next: Callable[[], Any], context: JobContext, worker: Any) -> Any:
        calls.append(f"thread {threading.current_thread() is not threading.main_thread()}")
        return call_next()

    @app.task(name="a", task_middleware=[noting("task")])
    async def a() -> None:
        calls.append("run")

    @app.task(name="b", task_middleware=[in_thread])
    def b() -> None:
        raise ValueError

    await a.defer_async()
    await work(app, worker_middleware=[noting("worker")])
    assert calls == ["worker before", "task before", "run", "task after", "worker after"]
    calls.clear()
    job_id = await b.defer_async()
    await work(app, worker_middleware=[noting("worker")])
    assert calls == ["worker before", "thread True", "worker after"]
    assert (await one(app, job_id)).status == "failed"


async def test_a_middleware_stops_the_worker_after_one_job(app: procrastinate.App) -> None:
    async def stop_after_one(call_next: Callable[[], Awaitable[Any]], context: JobContext, worker: Any) -> Any:
        worker.stop()
        return await call_next()

    @app.task(name="t", task_middleware=[stop_after_one])
    async def t() -> None: ...

    await t.batch_defer_async({}, {})
    await app.run_worker_async(install_signal_handlers=False)
    assert {job.status for job in await app.job_manager.list_jobs_async()} == {"succeeded", "todo"}


# Retries


class RaisedPriority(procrastinate.BaseRetryStrategy):
    """Three attempts, each in another queue, more important, and under a lock."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        if job.attempts >= 2:
            return None
        return RetryDecision(retry_in={"seconds": 0}, priority=job.priority + 1, queue="another_queue", lock="l")


async def test_a_strategy_of_ones_own_changes_priority_queue_and_lock(app: procrastinate.App) -> None:
    seen: list[tuple[int, str, int, str | None]] = []

    @app.task(name="flaky", retry=RaisedPriority(), pass_context=True)
    async def flaky(context: JobContext) -> None:
        job = context.job
        assert job is not None
        seen.append((job.attempts, job.queue, job.priority, job.lock))
        raise ConnectionError

    job_id = await flaky.defer_async()
    await work(app)
    assert seen == [(0, "default", 0, None), (1, "another_queue", 1, "l"), (2, "another_queue", 2, "l")]
    assert (await one(app, job_id)).status == "failed"


async def test_only_the_exceptions_that_a_strategy_names_are_retried(app: procrastinate.App) -> None:
    raised: list[type[Exception]] = []

    @app.task(name="t", retry=procrastinate.RetryStrategy(max_attempts=2, retry_exceptions={ConnectionError}))
    async def t(n: int) -> None:
        raised.append(ConnectionError if n else ValueError)
        raise raised[-1]

    await t.batch_defer_async({"n": 0}, {"n": 1})
    await work(app)
    assert sorted(kind.__name__ for kind in raised) == ["ConnectionError"] * 3 + ["ValueError"]


async def test_a_job_knows_that_this_is_its_last_attempt(app: procrastinate.App) -> None:
    last: list[bool] = []

    @app.task(name="t", retry=2, pass_context=True)
    async def t(context: JobContext) -> None:
        assert context.task is not None
        assert context.job is not None
        assert isinstance(context.task.retry_strategy, procrastinate.BaseRetryStrategy)
        decision = context.task.retry_strategy.get_retry_decision(exception=Exception(), job=context.job)
        last.append(decision is None)
        raise ValueError

    await t.defer_async()
    await work(app)
    assert last == [False, False, True]


def test_a_failed_job_is_retried_by_hand_with_what_it_had(sync_app: procrastinate.App, db: psycopg.Connection) -> None:
    jobs = sync_app.job_manager
    job_id = sync_app.configure_task("t", lock="l", priority=4, queue="q").defer()
    db.execute("update run set state = 'running', claimed_at = now()")
    db.execute("select finish_runs(array[%s::bigint], array['failed'], null, null)", [job_id])
    (job,) = jobs.list_jobs(id=job_id)
    assert job.status == "failed"
    jobs.retry_job_by_id(job_id, datetime.now(UTC), job.priority, job.queue, job.lock)
    (job,) = jobs.list_jobs(id=job_id)
    assert (job.status, job.priority, job.queue, job.lock) == ("todo", 4, "q", "l")


async def test_stalled_jobs_are_retried_by_a_periodic_task(app: procrastinate.App, db: psycopg.Connection) -> None:
    ran: list[str] = []

    @app.task(name="t")
    async def t() -> None:
        ran.append("t")

    @app.task(name="retry_stalled_jobs", queue="maintenance", queueing_lock="retry_stalled_jobs")
    async def retry_stalled_jobs(timestamp: int) -> None:
        for job in await app.job_manager.get_stalled_jobs():
            await app.job_manager.retry_job(job)
            ran.append("retried")

    await t.defer_async()
    await app.job_manager.fetch_job(None, await app.job_manager.register_worker())
    await retry_stalled_jobs.defer_async(timestamp=0)
    # Silent for longer than a job may stall, not yet for as long as this worker waits to prune it.
    db.execute("update worker set heartbeat_at = heartbeat_at - interval '31 s'")
    await work(app, stalled_worker_timeout=600)
    assert ran == ["retried", "t"]


# Cancelling


def test_a_waiting_job_is_cancelled_and_deleted_by_a_synchronous_client(sync_app: procrastinate.App) -> None:
    jobs = sync_app.job_manager
    kept, deleted = sync_app.configure_task("t", lock="l").batch_defer({}, {})
    assert jobs.cancel_job_by_id(kept)
    assert jobs.get_job_status(kept) == Status.CANCELLED
    assert jobs.cancel_job_by_id(deleted, abort=True, delete_job=True)
    assert [job.id for job in jobs.list_jobs()] == [kept]


async def test_a_synchronous_job_asks_whether_to_abort(app: procrastinate.App) -> None:
    started = threading.Event()
    turns = 0

    @app.task(name="my_task", pass_context=True, retry=5)
    def my_task(context: JobContext) -> None:
        nonlocal turns
        started.set()
        while not context.should_abort():
            turns += 1
            assert not threading.Event().wait(0.01)
        raise exceptions.JobAborted

    job_id = await my_task.configure(lock="l").defer_async()
    after = await app.configure_task("after", lock="l").defer_async()
    worker = asyncio.create_task(
        app.run_worker_async(
            wait=False, install_signal_handlers=False, queues=["default"], abort_job_polling_interval=0.1
        )
    )
    await asyncio.to_thread(started.wait, 30)
    assert await app.job_manager.cancel_job_by_id_async(job_id, abort=True)
    await asyncio.wait_for(worker, 60)
    assert (await one(app, job_id)).status == "aborted"
    assert (await one(app, after)).status == "failed", "its lock went on, to a task that nobody has"


async def test_an_asynchronous_job_may_finish_what_matters_before_it_aborts(app: procrastinate.App) -> None:
    started, done = asyncio.Event(), asyncio.Event()

    async def something_important() -> None:
        started.set()
        await asyncio.sleep(0.2)
        done.set()

    @app.task(name="my_task")
    async def my_task(swallow: bool) -> None:
        important = asyncio.create_task(something_important())
        try:
            await asyncio.shield(important)
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await important
            if not swallow:
                raise

    for swallow, status in ((False, "aborted"), (True, "succeeded")):
        started.clear()
        done.clear()
        job_id = await my_task.defer_async(swallow=swallow)
        worker = asyncio.create_task(
            app.run_worker_async(wait=False, install_signal_handlers=False, abort_job_polling_interval=0.1)
        )
        await asyncio.wait_for(started.wait(), 30)
        await app.job_manager.cancel_job_by_id_async(job_id, abort=True)
        await asyncio.wait_for(worker, 60)
        assert done.is_set()
        assert (await one(app, job_id)).status == status


# Schedules


async def test_a_worker_defers_its_periodic_tasks_and_tells_them_their_time(app: procrastinate.App) -> None:
    ticks: list[tuple[int, str]] = []

    @app.task(name="do_something", lock="do_something_lock")
    async def do_something(timestamp: int, value: str) -> None:
        ticks.append((timestamp, value))

    for value in ("foo", "bar"):
        app.periodic(cron="* * * * * *", queue=value, task_kwargs={"value": value}, periodic_id=value)(do_something)
    workers = [
        asyncio.create_task(app.run_worker_async(install_signal_handlers=False, fetch_job_polling_interval=0.2))
        for _ in range(2)
    ]
    async with asyncio.timeout(60):
        while not {"foo", "bar"} <= {value for _, value in ticks} or len(ticks) < 4:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    assert len(ticks) == len(set(ticks)), "each moment of each schedule once, whichever worker deferred it"
    deferred = await app.job_manager.list_jobs_async(task="do_something")
    assert {(job.queue, job.lock) for job in deferred} == {("foo", "do_something_lock"), ("bar", "do_something_lock")}
