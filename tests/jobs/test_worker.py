"""What a worker promises: plain tasks as procrastinate's, cancelling, leaving in order, and a cut connection."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
from procrastinate import BaseRetryStrategy, JobContext, RetryDecision
from procrastinate.jobs import Job

from howdah.jobs import App, RetryStrategy, Run
from howdah.jobs.worker.worker import Worker, WorkerSettings
from howdah.sql.pool import Connection
from howdah.sql.queue.calls import cancel_runs, set_queue_limits
from tests.jobs.conftest import Work
from tests.sql.engine import connect, enqueue, rows, value

Query = Callable[..., Any]


@asynccontextmanager
async def at_work(app: App, conninfo: str, **settings: Any) -> AsyncIterator[Worker]:
    """A worker that goes on until the block ends."""
    worker = Worker(app, conninfo, WorkerSettings(**{"shutdown": 0.1, **settings}))
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        async with asyncio.timeout(20):
            await task


async def until(connection: Connection, query: str, *parameters: Any) -> None:
    async with asyncio.timeout(20):
        while not await value(connection, f"select exists ({query})", *parameters):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_plain_tasks_run_as_procrastinate_runs_them(app: App, work: Work, connection: Connection) -> None:
    seen: dict[str, Any] = {}

    @app.task(name="sync")
    def sync(a: int, b: int = 2) -> None:
        seen["sync"] = (a, b, threading.current_thread() is threading.main_thread())

    @app.task(name="async")
    async def async_(a: int) -> None:
        seen["async"] = a

    @app.task(name="context", pass_context=True)
    def context(ctx: JobContext, a: int) -> None:
        assert ctx.job is not None
        seen["context"] = (ctx.job.id, ctx.job.task_name, ctx.job.attempts, ctx.app is app, a)

    async def around(call_next: Callable[[], Any], ctx: JobContext, worker: Any) -> Any:
        seen["before"] = ctx.job.task_name
        result = await call_next()
        seen["after"] = result
        return result

    @app.task(name="wrapped", task_middleware=[around])
    async def wrapped() -> str:
        return "inner"

    await enqueue(connection, task="sync", args='{"a": 1}')
    await enqueue(connection, task="async", args='{"a": 3}')
    (context_id,) = await enqueue(connection, task="context", args='{"a": 4}')
    await enqueue(connection, task="wrapped")
    worker = await work(app)
    assert seen == {
        "sync": (1, 2, False),
        "async": 3,
        "context": (context_id, "context", 0, True, 4),
        "before": "wrapped",
        "after": "inner",
    }
    assert worker.finished == 4
    assert await rows(connection, "select distinct state from run_history") == ["succeeded"]


async def test_a_plain_task_may_return_what_is_no_json(app: App, work: Work, connection: Connection) -> None:
    @app.task(name="t")
    async def task() -> object:
        return object()

    await enqueue(connection)
    await work(app)
    assert await rows(connection, "select state, output from run_history") == [("succeeded", None)]


async def test_a_plain_task_is_retried_by_its_strategy(app: App, work: Work, connection: Connection) -> None:
    attempts: list[int] = []

    @app.task(name="t", retry=RetryStrategy(max_attempts=2), pass_context=True)
    async def task(ctx: JobContext) -> None:
        assert ctx.job is not None
        attempts.append(ctx.job.attempts)
        if len(attempts) < 3:
            raise ValueError

    await enqueue(connection)
    await work(app)
    assert attempts == [0, 1, 2]
    assert await rows(connection, "select state, failures from run_history") == [("succeeded", 2)]


class Decides(BaseRetryStrategy):
    """An author's own strategy: once, as `decide` says of the job."""

    def __init__(self, decide: Callable[[Job], RetryDecision]) -> None:
        self.decide = decide

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        return self.decide(job) if job.attempts == 0 else None


async def test_a_retry_follows_its_strategys_priority_and_queue(app: App, work: Work, connection: Connection) -> None:
    locks: list[str | None] = []

    def decide(job: Job) -> RetryDecision:
        locks.append(job.lock)
        return RetryDecision(priority=job.priority + 1, queue="another_queue", lock="another")

    @app.task(name="t", retry=Decides(decide))
    async def task() -> None:
        raise ValueError

    await enqueue(connection, priority=5, session_id="s", order="skip")
    await work(app)
    assert locks == ["s"]
    found = await rows(connection, "select queue, priority, session_id, failures, state from ops.runs")
    # A worker of the queue that it went to, this one is not.
    assert found == [("another_queue", 6, "s", 1, "queued")]
    await work(app, queues=["another_queue"])
    assert await rows(connection, "select state, failures from run_history") == [("failed", 2)]


@pytest.mark.parametrize(
    ("decision", "type_", "says"),
    [
        (RetryDecision(queue="a queue"), "BadValue", "'a queue'"),
        (RetryDecision(priority=2**31), "BadValue", "2147483648"),
        (None, "ZeroDivisionError", "by zero"),
    ],
)
async def test_a_strategy_that_makes_no_sense_fails_its_run(
    app: App, work: Work, connection: Connection, decision: RetryDecision | None, type_: str, says: str
) -> None:
    @app.task(name="t", retry=Decides(lambda job: decision or RetryDecision(priority=1 // 0)))
    async def task() -> None:
        raise ValueError("what was wrong at first")

    await enqueue(connection)
    await work(app)
    ((state, error),) = await rows(connection, "select state, error from run_history")
    assert (state, error["type"]) == ("failed", type_)
    assert says in error["message"]
    assert "what was wrong at first" in error["traceback"]


async def test_workers_of_one_app_follow_one_another_and_leave_it_as_it_was(
    app: App, work: Work, connection: Connection
) -> None:
    @app.task(name="second")
    async def second() -> None: ...

    @app.task(name="first")
    async def first() -> None:
        await second.defer_async()

    for finished in (2, 4):
        await enqueue(connection, task="first")
        await work(app)
        assert await rows(connection, "select state from run_history") == ["succeeded"] * finished
    async with app.open_async():
        await first.defer_async()
    assert await rows(connection, "select task, state from run") == [("first", "queued")]


async def test_a_task_that_no_worker_here_has_stays_queued(app: App, work: Work, connection: Connection) -> None:
    @app.task(name="known")
    async def known() -> None: ...

    await enqueue(connection, task="unknown")
    await enqueue(connection, task="known")
    await work(app)
    assert await rows(connection, "select task, state from ops.runs order by task") == [
        ("known", "succeeded"),
        ("unknown", "queued"),
    ]


async def test_a_worker_drains_more_than_it_can_hold_at_once(app: App, work: Work, connection: Connection) -> None:
    at_once = most = 0

    @app.workflow(name="w")
    async def workflow(run: Run) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await run.step("s", lambda: None)
        at_once -= 1

    await enqueue(connection, 100, task="w")
    worker = await work(app, concurrency=7)
    assert worker.finished == 100
    assert most == 7
    assert await value(connection, "select count(*) from run_history where state = 'succeeded'") == 100


async def test_a_run_enqueued_by_hand_wakes_an_idle_worker(app: App, conninfo: str, connection: Connection) -> None:
    @app.task(name="t")
    async def task() -> None: ...

    async with at_work(app, conninfo):
        await until(connection, "select from worker")
        await connection.execute("select * from enqueue_run('default', 't')")
        await until(connection, "select from run_history")


async def test_a_scheduled_run_starts_when_it_is_due(app: App, conninfo: str, connection: Connection) -> None:
    @app.task(name="t")
    async def task() -> None: ...

    async with at_work(app, conninfo):
        await connection.execute("select * from enqueue_run('default', 't', p_run_at => now() + interval '0.2 s')")
        await until(connection, "select from run_history where claimed_at >= run_created_at(id) + interval '0.15 s'")


async def test_a_running_run_is_cancelled_without_waiting_for_the_heartbeat(
    app: App, conninfo: str, connection: Connection
) -> None:
    cleaned = asyncio.Event()

    @app.workflow(name="w")
    async def workflow(run: Run) -> None:
        await run.emit("started")
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    run_id = await workflow.enqueue_in(connection)
    async with at_work(app, conninfo, heartbeat=3600.0):
        await until(connection, "select from event")
        assert await cancel_runs(connection, "default", [run_id]) == {run_id: "requested"}
        await until(connection, "select from run_history where state = 'cancelled'")
    assert cleaned.is_set()
    assert await rows(connection, "select type from event order by seq") == ["started", "howdah.run.cancelled"]


async def test_a_worker_asked_to_drain_finishes_its_runs_and_stops_by_itself(
    app: App, conninfo: str, connection: Connection
) -> None:
    started, go = asyncio.Event(), asyncio.Event()

    @app.workflow(name="w")
    async def workflow(run: Run) -> None:
        started.set()
        await go.wait()

    await workflow.enqueue_in(connection)
    worker = Worker(app, conninfo, WorkerSettings(heartbeat=3600.0, shutdown=20.0, concurrency=1))
    working = asyncio.create_task(worker.run())
    await started.wait()
    await connection.execute("select ops.drain_worker(id) from worker where 'w' = any (tasks)")
    # It has heard of it, and no heartbeat is due for an hour: it was told at once.
    async with asyncio.timeout(20):
        while not worker._stopping:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    later = await enqueue(connection, task="w")
    go.set()
    async with asyncio.timeout(20):
        await working
    assert await rows(connection, "select state from run_history") == ["succeeded"]
    assert await rows(connection, "select id from run where state = 'queued'") == later
    assert await rows(connection, "select id from worker") == []


async def test_a_worker_that_stops_lets_runs_finish(app: App, conninfo: str, connection: Connection) -> None:
    started, go = asyncio.Event(), asyncio.Event()

    @app.workflow(name="w")
    async def workflow(run: Run) -> None:
        started.set()
        await go.wait()

    await workflow.enqueue_in(connection)
    async with at_work(app, conninfo, shutdown=20.0, concurrency=1) as worker:
        await started.wait()
        worker.stop()
        await enqueue(connection, task="w")
        go.set()
    assert await rows(connection, "select state, attempt from ops.runs order by id") == [
        ("succeeded", 1),
        ("queued", 0),
    ]


@pytest.mark.parametrize("concurrency", [1, 10])
async def test_a_worker_that_stops_hands_back_what_takes_too_long(
    app: App, conninfo: str, connection: Connection, concurrency: int
) -> None:
    @app.workflow(name="w")
    async def workflow(run: Run) -> None:
        await run.step("done", lambda: None)
        await asyncio.Event().wait()

    await workflow.enqueue_in(connection)
    async with at_work(app, conninfo, concurrency=concurrency):
        await until(connection, "select from checkpoint")
    assert await rows(connection, "select state, failures, deaths from run") == [("queued", 0, 0)]
    assert await rows(connection, "select id from worker") == []


async def test_a_worker_given_up_by_its_peers_stops_its_runs_and_begins_anew(
    app: App, conninfo: str, connection: Connection
) -> None:
    attempts: list[int] = []

    @app.workflow(name="w")
    async def workflow(run: Run) -> int:
        attempts.append(run.attempt)
        if run.attempt == 1:
            await run.emit("first")
            await asyncio.Event().wait()
        return run.attempt

    await workflow.enqueue_in(connection)
    async with at_work(app, conninfo, heartbeat=0.05):
        await until(connection, "select from event")
        await connection.execute("set howdah.now = '2100-01-01'")
        # A worker that is just saying that it lives is skipped.
        while not await value(connection, "select workers from rescue_runs('15 s')"):
            pass
        await connection.execute("reset howdah.now")
        await until(connection, "select from run_history")
    assert attempts == [1, 2]
    assert await rows(connection, "select state, output, attempt, deaths from run_history") == [("succeeded", 2, 2, 1)]


async def test_a_claim_whose_answer_was_lost_is_handed_back(app: App, conninfo: str, connection: Connection) -> None:
    @app.workflow(name="w")
    async def workflow(run: Run) -> None: ...

    (run_id,) = await enqueue(connection, task="w")
    # A second attempt, so that the worker reads its checkpoints after the claim: there it can be held and cut.
    await connection.execute("update run set attempt = 1")
    blocked = "select pid from pg_stat_activity where cardinality(pg_blocking_pids(pid)) > 0"
    async with AsyncExitStack() as stack:
        holder = await stack.enter_async_context(await connect(conninfo))
        async with holder.transaction():
            await holder.execute("lock table checkpoint in access exclusive mode")
            await stack.enter_async_context(at_work(app, conninfo))
            await until(connection, blocked)
            assert await rows(connection, "select state, attempt from run") == [("running", 2)]
            await connection.execute(f"select pg_terminate_backend(pid, 5000) from ({blocked}) as b".encode())
        await until(connection, "select from run_history where id = %s", run_id)
    assert await rows(connection, "select state, failures from run_history") == [("succeeded", 0)]


async def test_tasks_are_registered_with_their_queues(app: App, work: Work, connection: Connection) -> None:
    @app.task(name="t", queue="mail")
    async def task(to: str) -> None:
        """Send a mail."""

    await work(app)
    assert await rows(connection, "select name, kind, queue, description from task where name = 't'") == [
        ("t", "task", "mail", "Send a mail.")
    ]
    await connection.execute("""select * from enqueue_run('default', 't', '{"to": "a"}')""")
    await work(app)
    assert await rows(connection, "select queue, state from run_history") == [("mail", "succeeded")]


async def test_a_worker_that_has_lost_its_heartbeat_stops_and_says_why(
    app: App, conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.task(name="any")
    async def any_task() -> None: ...

    async def broken(*_: object) -> None:
        raise TypeError("a defect in the heartbeat")

    monkeypatch.setattr("howdah.jobs.worker.heart.calls.heartbeat", broken)
    async with asyncio.timeout(20):
        with pytest.raises(TypeError, match="a defect in the heartbeat"):
            await Worker(app, conninfo, WorkerSettings(shutdown=0.1)).run()


async def test_a_run_that_has_ended_leaves_nothing_for_the_collector(
    app: App, work: Work, connection: Connection
) -> None:
    runs: list[weakref.ref[Run]] = []

    @app.workflow(name="ends")
    async def ends(run: Run, fails: bool) -> None:
        runs.append(weakref.ref(run))
        await run.step("step", asyncio.sleep, 0)
        if fails:
            raise ValueError("on purpose")

    await enqueue(connection, task="ends", args='{"fails": false}')
    await enqueue(connection, task="ends", args='{"fails": true}')
    gc.disable()
    try:
        await work(app)
        assert [run() for run in runs] == [None, None]
    finally:
        gc.enable()


async def test_a_claim_that_commits_after_its_connection_was_cut_is_handed_back(
    app: App, connection: Connection, conninfo: str
) -> None:
    @app.task(name="t")
    async def t() -> None: ...

    await enqueue(connection, task="t")
    await set_queue_limits(connection, "default", {"max_running": 10})
    claiming = (
        "select client_port from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        " and query like '%%claim_runs%%' and pid <> pg_backend_pid()"
    )
    async with AsyncExitStack() as stack, await connect(conninfo) as holder, asyncio.timeout(20):
        await holder.execute("begin; select from queue where name = 'default' for update")
        await stack.enter_async_context(at_work(app, conninfo))
        while not (waiting := await rows(connection, claiming)):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        cut(waiting[0])
        # The next claim waits behind it: what came of the first was looked at in vain.
        while len(await rows(connection, claiming)) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await holder.execute("rollback")
        while not await rows(connection, "select from run_history"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert await rows(connection, "select state, attempt, deaths from run_history") == [("succeeded", 2, 0)]


def cut(port: int) -> None:
    """Cut this process's connection from this port; the server does not notice while it waits for a lock."""
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError), socket.socket(fileno=os.dup(int(number))) as end:
            if end.getsockname()[1:2] == (port,):
                end.shutdown(socket.SHUT_RDWR)
