"""What a single run carries: its own retry strategy, its deadline, its place in an ordered session."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from procrastinate.jobs import Job

from howdah.jobs import App, NonRetryableError, RetryStrategy, Run
from howdah.jobs.retry import override_json, read_override
from howdah.sql.errors import BadValue
from howdah.sql.pool import Connection
from howdah.sql.queue.calls import requeue_runs
from tests.jobs.conftest import Work
from tests.sql.engine import enqueue, rows

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_a_runs_own_retry_strategy_goes_before_its_tasks(app: App, work: Work, connection: Connection) -> None:
    @app.task(name="fails", retry=1)
    async def fails() -> None:
        raise ValueError

    await enqueue(connection, task="fails")
    await enqueue(connection, task="fails", retry=override_json(3))
    await enqueue(connection, task="fails", retry=override_json(RetryStrategy(max_attempts=0)))
    await work(app)
    assert await rows(connection, "select failures from run_history order by id") == [2, 4, 1]


async def test_a_workflow_is_sent_with_options(app: App, connection: Connection) -> None:
    @app.workflow(name="w")
    async def w(run: Run) -> None: ...

    deadline = datetime(2030, 1, 1, tzinfo=UTC)
    async with app.open_async():
        await w.configure(session="s", order="block", deadline=deadline, retry=2, unique_key="u").enqueue()
    assert await rows(
        connection, "select session_id, order_no, on_failure, deadline, retry ->> 'max_attempts', unique_key from run"
    ) == [("s", 1, "block", deadline, "2", "u")]


@pytest.mark.parametrize("trace", [TRACE, None])
async def test_the_events_of_a_run_and_of_its_children_bear_its_trace(
    app: App, work: Work, connection: Connection, trace: str | None
) -> None:
    @app.workflow(name="child")
    async def child(run: Run, fail: bool) -> None:
        await run.emit("child.told")
        if fail:
            raise NonRetryableError("on purpose")

    @app.workflow(name="parent")
    async def parent(run: Run) -> None:
        await run.emit("parent.told")
        await run.children("all", child, [False])

    async with app.open_async():
        await parent.configure(traceparent=trace).enqueue()
        failed = await child.configure(traceparent=trace, session="s").enqueue(fail=True)
        # As W3C asks, what is no trace context is ignored: an event of the run could not bear it.
        other = await child.configure(traceparent="nonsense").enqueue(fail=False)
    await work(app)
    async with app.open_async():
        assert await requeue_runs(connection, None, [failed]) == {failed: "requeued"}
    await work(app)
    told = await rows(connection, "select type, traceparent from event where run_id <> %s", other)
    assert {kind for kind, _ in told} >= {"parent.told", "child.told", "howdah.run.succeeded", "howdah.run.failed"}
    assert sum(kind == "howdah.run.failed" for kind, _ in told) == 2
    assert {borne for _, borne in told} == {trace}
    assert await rows(connection, "select traceparent from event where run_id = %s", other) == [None] * 2


async def test_a_deadline_ends_a_run_that_runs_and_is_not_retried(app: App, work: Work, connection: Connection) -> None:
    @app.task(name="slow", retry=5)
    async def slow() -> None:
        await asyncio.sleep(60)

    await enqueue(connection, task="slow", deadline=datetime.now(UTC) + timedelta(seconds=0.3))
    await work(app)
    assert await rows(connection, "select state, error ->> 'type' from run_history") == [("failed", "DeadlineExceeded")]


async def test_a_time_out_of_the_authors_own_is_no_deadline(app: App, work: Work, connection: Connection) -> None:
    @app.task(name="impatient")
    async def impatient() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)

    await enqueue(connection, task="impatient", deadline=datetime.now(UTC) + timedelta(minutes=1))
    await work(app)
    assert await rows(connection, "select error ->> 'type' from run_history") == ["TimeoutError"]


def test_waits_are_bounded_and_spread() -> None:
    strategy = RetryStrategy(max_attempts=10, exponential_wait=2, max_wait=5, jitter=0.5)
    job = Job(id=1, queue="q", lock=None, queueing_lock=None, task_name="t", attempts=6)
    waits = []
    for _ in range(50):
        decision = strategy.get_retry_decision(exception=ValueError(), job=job)
        assert decision is not None
        assert decision.retry_at is not None
        waits.append((decision.retry_at - datetime.now(UTC)).total_seconds())
    assert 4.9 < min(waits) < max(waits) <= 7.5
    assert max(waits) - min(waits) > 0.5


def test_a_strategy_comes_back_from_json_as_it_went() -> None:
    strategy = RetryStrategy(max_attempts=3, wait=1, linear_wait=2, exponential_wait=3, max_wait=9.5, jitter=0.25)
    text = override_json(strategy)
    assert text is not None
    assert read_override(text) == strategy


@pytest.mark.parametrize("text", ["[]", '{"max_attempts": "x"}', '{"retries": 3}'])
def test_what_is_no_strategy_is_refused(text: str) -> None:
    with pytest.raises(BadValue, match="no retry strategy"):
        read_override(text)


def test_exceptions_cannot_go_with_a_run() -> None:
    with pytest.raises(BadValue, match="retry_exceptions"):
        override_json(RetryStrategy(max_attempts=3, retry_exceptions=[ValueError]))
