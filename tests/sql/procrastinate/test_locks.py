"""procrastinate's lock is an ordered session: its jobs run one at a time, in the order in which they were deferred."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import procrastinate
import psycopg
import pytest
from procrastinate.exceptions import AlreadyEnqueued, ConnectorException
from procrastinate.jobs import Job, Status

from howdah.sql.pool import Connection
from howdah.sql.queue.calls import NewRun, enqueue_runs
from tests.sql.engine import claim, connect, outcome, until_blocked, value, write

NOW = datetime.now(UTC)
TOMORROW = NOW + timedelta(days=1)
SUCCEEDED = Status.SUCCEEDED


async def fetch(app: procrastinate.App, worker: int, queue: str | None = None) -> int | None:
    job = await app.job_manager.fetch_job(None if queue is None else [queue], worker)
    return None if job is None else job.id


async def one(app: procrastinate.App, job_id: int | None) -> Job:
    (job,) = await app.job_manager.list_jobs_async(id=job_id)
    return job


async def finish(app: procrastinate.App, job_id: int, status: Status = SUCCEEDED) -> None:
    await app.job_manager.finish_job_by_id_async(job_id, status, delete_job=False)


async def defer(app: procrastinate.App, lock: str | None, count: int = 1, **options: object) -> list[int]:
    return await app.configure_task("t", lock=lock, **options).batch_defer_async(*({"n": n} for n in range(count)))  # type: ignore[arg-type]


async def fetch_all(app: procrastinate.App, worker: int) -> list[int]:
    """Jobs in the order in which they start, each finished before the next is fetched."""
    order = []
    while (job_id := await fetch(app, worker)) is not None:
        order.append(job_id)
        await finish(app, job_id)
    return order


async def test_of_a_lock_one_job_runs_at_a_time_and_others_beside_it(app: procrastinate.App) -> None:
    worker = await app.job_manager.register_worker()
    first, second = await defer(app, "customer 7", 2)
    (other,) = await defer(app, "customer 8")
    (free,) = await defer(app, None)
    assert {await fetch(app, worker) for _ in range(4)} == {first, other, free, None}
    await finish(app, first)
    assert await fetch(app, worker) == second


async def test_a_lock_holds_across_queues_and_tasks(app: procrastinate.App) -> None:
    worker = await app.job_manager.register_worker()
    (first,) = await defer(app, "l", queue="slow")
    (second,) = await defer(app, "l", queue="fast")
    assert await fetch(app, worker, "fast") is None
    assert await fetch(app, worker, "slow") == first
    assert await fetch(app, worker, "fast") is None
    await finish(app, first)
    assert await fetch(app, worker, "fast") == second


async def test_a_locks_order_is_that_of_deferring_whatever_the_priority(app: procrastinate.App) -> None:
    low, high = [*await defer(app, "l", priority=-5), *await defer(app, "l", priority=5)]
    assert await fetch_all(app, await app.job_manager.register_worker()) == [low, high]


async def test_a_scheduled_job_holds_those_behind_it_until_its_time(
    app: procrastinate.App, db: psycopg.Connection
) -> None:
    worker = await app.job_manager.register_worker()
    (later,) = await defer(app, "l", schedule_at=TOMORROW)
    (behind,) = await defer(app, "l")
    assert await fetch(app, worker) is None
    db.execute("update run set run_at = now() where state = 'scheduled'")
    assert await fetch_all(app, worker) == [later, behind]


@pytest.mark.parametrize("status", [Status.FAILED, Status.ABORTED])
async def test_a_job_that_failed_or_was_aborted_lets_its_lock_go_on(app: procrastinate.App, status: Status) -> None:
    worker = await app.job_manager.register_worker()
    first, second = await defer(app, "l", 2)
    assert await fetch(app, worker) == first
    await finish(app, first, status)
    assert await fetch(app, worker) == second


async def test_a_retry_keeps_the_lock_until_the_job_has_ended(app: procrastinate.App, db: psycopg.Connection) -> None:
    worker = await app.job_manager.register_worker()
    first, second = await defer(app, "l", 2)
    await fetch(app, worker)
    await app.job_manager.retry_job_by_id_async(first, TOMORROW, lock="l")
    assert await fetch(app, worker) is None
    db.execute("update run set run_at = now() where state = 'scheduled'")
    assert await fetch_all(app, worker) == [first, second]


@pytest.mark.parametrize(("old", "new"), [("a", "b"), ("b", "a")])
async def test_a_retry_with_another_lock_goes_to_its_end_and_leaves_its_own(
    app: procrastinate.App, old: str, new: str
) -> None:
    worker = await app.job_manager.register_worker()
    first, behind = await defer(app, old, 2)
    assert await fetch(app, worker) == first
    (waiting,) = await defer(app, new)
    await app.job_manager.retry_job_by_id_async(first, NOW, lock=new)
    assert {await fetch(app, worker) for _ in range(3)} == {behind, waiting, None}
    await finish(app, waiting)
    assert await fetch(app, worker) == first
    await finish(app, first)
    await finish(app, behind)
    assert await app.connector.execute_query_all_async("select * from ordered_session") == []


async def test_a_job_without_a_lock_takes_one_with_its_retry(app: procrastinate.App, db: psycopg.Connection) -> None:
    worker = await app.job_manager.register_worker()
    (first,) = await defer(app, None)
    await fetch(app, worker)
    await app.job_manager.retry_job_by_id_async(first, TOMORROW, lock="l")
    (behind,) = await defer(app, "l")
    assert (await one(app, first)).lock == "l"
    assert await fetch(app, worker) is None
    db.execute("update run set run_at = now() where state = 'scheduled'")
    assert await fetch_all(app, worker) == [first, behind]


async def test_a_retry_of_a_job_to_be_aborted_leaves_both_locks_free(app: procrastinate.App) -> None:
    worker = await app.job_manager.register_worker()
    first, behind = await defer(app, "a", 2)
    await fetch(app, worker)
    await app.job_manager.cancel_job_by_id_async(first, abort=True)
    await app.job_manager.retry_job_by_id_async(first, NOW, lock="b")
    assert (await one(app, first)).status == "failed"
    (other,) = await defer(app, "b")
    assert {await fetch(app, worker), await fetch(app, worker)} == {behind, other}


@pytest.mark.parametrize("lock", [None, "l", "another", "taken"])
async def test_a_failed_job_retried_by_hand_goes_to_its_locks_end(app: procrastinate.App, lock: str | None) -> None:
    worker = await app.job_manager.register_worker()
    first, second = await defer(app, "l", 2)
    (taken,) = await defer(app, "taken")
    await fetch(app, worker, "default")
    await finish(app, first, Status.FAILED)
    await app.job_manager.retry_job_by_id_async(first, NOW, lock=lock)
    job = await one(app, first)
    assert (job.status, job.lock, job.attempts) == ("todo", lock or "l", 1)
    before = {None: {second}, "l": {second}, "another": set(), "taken": {taken}}[lock]
    order = await fetch_all(app, worker)
    assert sorted(order) == sorted([first, second, taken])
    assert before <= set(order[: order.index(first)])


async def test_a_failed_run_that_its_session_waits_for_leaves_it_with_another_lock(
    app: procrastinate.App, connection: Connection
) -> None:
    worker = await app.job_manager.register_worker()
    runs = await enqueue_runs(connection, [NewRun("default", "t", session_id="s", order="block") for _ in range(2)])
    first, second = (run.run_id for run in runs)
    assert first is not None
    assert await fetch(app, worker) == first
    await finish(app, first, Status.FAILED)
    assert await fetch(app, worker) is None
    await app.job_manager.retry_job_by_id_async(first, NOW, lock="l")
    assert {await fetch(app, worker), await fetch(app, worker)} == {first, second}


async def test_a_failed_run_that_its_session_waits_for_is_not_deleted_from_under_it(
    app: procrastinate.App, connection: Connection
) -> None:
    worker = await app.job_manager.register_worker()
    runs = await enqueue_runs(connection, [NewRun("default", "t", session_id="s", order="block") for _ in range(2)])
    first, second = (run.run_id for run in runs)
    await fetch(app, worker)
    assert first is not None
    await app.job_manager.finish_job_by_id_async(first, Status.FAILED, delete_job=True)
    await app.job_manager.retry_job_by_id_async(first, NOW)
    assert await fetch_all(app, worker) == [first, second]


async def test_a_cancelled_job_lets_its_lock_go_on(app: procrastinate.App) -> None:
    worker = await app.job_manager.register_worker()
    first, second, third = await defer(app, "l", 3)
    assert await app.job_manager.cancel_job_by_id_async(first)
    assert await app.job_manager.cancel_job_by_id_async(third, delete_job=True)
    assert await fetch_all(app, worker) == [second]


async def test_a_dead_workers_job_keeps_its_place(app: procrastinate.App, db: psycopg.Connection) -> None:
    jobs = app.job_manager
    first, second = await defer(app, "l", 2)
    dead = await jobs.register_worker()
    await fetch(app, dead)
    db.execute("update worker set heartbeat_at = heartbeat_at - interval '1 hour'")
    assert await jobs.prune_stalled_workers(30) == [dead]
    assert await fetch_all(app, await jobs.register_worker()) == [first, second]


async def test_a_lock_is_any_text_and_listed_as_it_was_given(app: procrastinate.App) -> None:
    names = ["müller & söhne", "a b/c#d", "emoji 🐘", "'; drop table run; --", "x" * 1000, "howdah.run", " "]
    for name in names:
        await defer(app, name, 2)
    jobs = app.job_manager
    assert {row["name"]: (row["jobs_count"], row["todo"]) for row in await jobs.list_locks_async()} == dict.fromkeys(
        names, (2, 2)
    )
    assert [job.lock for job in await jobs.list_jobs_async(lock=names[0])] == [names[0]] * 2
    assert len(await fetch_all(app, await jobs.register_worker())) == 2 * len(names)


async def test_locks_are_listed_by_status(app: procrastinate.App, connection: Connection) -> None:
    jobs = app.job_manager
    worker = await jobs.register_worker()
    ids = await defer(app, "l", 5)
    await defer(app, "m", queue="other")
    await enqueue_runs(connection, [NewRun("default", "t", session_id="only a session")])
    for status in (Status.SUCCEEDED, Status.FAILED):
        await finish(app, await fetch(app, worker, "default") or 0, status)
    running = await fetch(app, worker, "default")
    assert running == ids[2]
    listed = {row["name"]: row for row in await jobs.list_locks_async()}
    assert set(listed) == {"l", "m"}
    assert {k: v for k, v in listed["l"].items() if v} == {
        "name": "l", "jobs_count": 5, "todo": 2, "doing": 1, "succeeded": 1, "failed": 1,
    }  # fmt: skip
    assert [row["name"] for row in await jobs.list_locks_async(queue="other")] == ["m"]
    assert [row["jobs_count"] for row in await jobs.list_locks_async(lock="l", status="doing")] == [1]
    assert [row["jobs_count"] for row in await jobs.list_queues_async(lock="l")] == [5]
    assert [row["jobs_count"] for row in await jobs.list_tasks_async(lock="l", status="todo")] == [2]
    assert (await one(app, ids[0])).lock == "l"


async def test_a_lock_and_a_queueing_lock_together_bound_both(app: procrastinate.App) -> None:
    worker = await app.job_manager.register_worker()
    both = app.configure_task("t", lock="l", queueing_lock="q")
    running = await both.defer_async()
    assert await fetch(app, worker) == running
    waiting = await both.defer_async()
    with pytest.raises(AlreadyEnqueued):
        await both.defer_async()
    assert await fetch(app, worker) is None
    await finish(app, running)
    assert await fetch_all(app, worker) == [waiting]


async def test_a_lock_is_a_session_of_the_tenant_default_and_holds_for_our_workers(
    app: procrastinate.App, connection: Connection
) -> None:
    first, second = await defer(app, "l", 2)
    (claimed,) = await claim(connection)
    assert (claimed.id, claimed.tenant_id, claimed.session_id) == (first, "default", "l")
    assert await claim(connection) == []
    await write(connection, outcome(claimed, "failed", "{}"))
    assert [run.id for run in await claim(connection)] == [second]


async def test_the_end_of_a_locked_job_is_not_lost_while_its_lock_is_held(
    app: procrastinate.App, connection: Connection, conninfo: str
) -> None:
    """Somebody defers to the same lock in a transaction that stays open: the worker waits, it does not give up."""
    (job_id,) = await defer(app, "l")
    worker = await app.job_manager.register_worker()
    await fetch(app, worker)
    async with await connect(conninfo) as ending:
        async with await psycopg.AsyncConnection.connect(conninfo) as deferring:
            await app.configure_task("t", lock="l", connection=deferring).defer_async()
            finished = asyncio.create_task(
                ending.execute("select procrastinate_finish_job_v1(%s, 'succeeded', false)", [job_id])
            )
            await until_blocked(connection, ending)
        await finished
    assert (await one(app, job_id)).status == "succeeded"
    assert await value(connection, "select state from run") == "queued"


async def test_a_cancel_beside_an_end_waits_for_the_lock_first(
    app: procrastinate.App, connection: Connection, conninfo: str
) -> None:
    first, second = await defer(app, "l", 2)
    worker = await app.job_manager.register_worker()
    await fetch(app, worker)
    async with await connect(conninfo) as cancelling:
        async with await psycopg.AsyncConnection.connect(conninfo) as ending:
            await ending.execute("select from lock_ordered_sessions(%s, true)", [[first]])
            cancelled = asyncio.create_task(
                cancelling.execute("select procrastinate_cancel_job_v1(%s, false, false)", [second])
            )
            await until_blocked(connection, cancelling)
            await ending.execute("select procrastinate_finish_job_v1(%s, 'succeeded', false)", [first])
        await cancelled
    assert (await one(app, second)).status == "cancelled"


async def test_the_end_of_a_locked_job_wakes_stock_workers_for_the_next(app: procrastinate.App, conninfo: str) -> None:
    job_id, _ = await defer(app, "l", 2)
    await fetch(app, await app.job_manager.register_worker())
    async with await connect(conninfo) as listener:
        await listener.execute('listen "procrastinate_queue_v1#default"')
        await finish(app, job_id)
        assert [n.channel async for n in listener.notifies(stop_after=1, timeout=10)]


async def test_a_full_queue_refuses_a_defer_by_its_name(app: procrastinate.App, db: psycopg.Connection) -> None:
    db.execute("""select set_queue_limits('default', '{"max_queued": 1}')""")
    await defer(app, "l")
    with pytest.raises(ConnectorException) as refused:
        await defer(app, "l")
    assert isinstance(refused.value.__cause__, psycopg.Error)
    assert refused.value.__cause__.sqlstate == "HW018"
