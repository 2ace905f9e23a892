"""What an operator does in psql, with no search_path but the usual one."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.rows import DictRow, dict_row

from howdah.sql.pool import Connection
from howdah.sql.queue.calls import cancel_runs
from tests.sql.engine import checkpoint, claim, enqueue, outcome, running, write


@pytest.fixture
def operator(database_url: str) -> Iterator[psycopg.Connection[DictRow]]:
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as opened:
        opened.execute("set search_path = public")
        yield opened


async def test_runs_shows_live_and_finished_ones(connection: Connection, operator: psycopg.Connection[DictRow]) -> None:
    (done,) = await running(connection)
    await write(connection, outcome(done, body='{"answer": 42}'))
    (queued,) = await enqueue(connection, args='{"a": 1}')
    found = operator.execute("select id, state, args, output, finished_at from ops.runs order by id").fetchall()
    assert [(row["id"], row["state"], row["args"], row["output"]) for row in found] == [
        (done.id, "succeeded", {}, {"answer": 42}),
        (queued, "queued", {"a": 1}, None),
    ]
    assert found[0]["finished_at"] is not None


async def test_a_failed_run_is_seen_and_requeued(connection: Connection, operator: psycopg.Connection[DictRow]) -> None:
    (run,) = await running(connection)
    error = '{"type": "ValueError", "message": "bad", "traceback": "line 1"}'
    await write(connection, checkpoint(run), outcome(run, "failed", error))
    (failure,) = operator.execute("select id, error, message, traceback from ops.failures").fetchall()
    assert failure == {"id": run.id, "error": "ValueError", "message": "bad", "traceback": "line 1"}
    assert operator.execute("select * from ops.requeue_run(%s)", [run.id]).fetchall() == [
        {"run_id": run.id, "status": "requeued"}
    ]
    assert operator.execute("select * from ops.failures").fetchall() == []
    assert [(again.id, again.attempt) for again in await claim(connection)] == [(run.id, 2)]


async def test_a_run_is_cancelled(connection: Connection, operator: psycopg.Connection[DictRow]) -> None:
    (run_id,) = await enqueue(connection)
    assert operator.execute("select * from ops.cancel_run(%s)", [run_id]).fetchall() == [
        {"run_id": run_id, "status": "cancelled"}
    ]
    assert await cancel_runs(connection, "default", [run_id]) == {run_id: "finished"}


async def test_queues_counts_runs_by_state(connection: Connection, operator: psycopg.Connection[DictRow]) -> None:
    await enqueue(connection, 3, queue="mail")
    await claim(connection, 1, queue="mail")
    await enqueue(connection, 1, queue="mail", run_at="2100-01-01")
    (mail,) = operator.execute("select * from ops.queues").fetchall()
    assert mail.pop("oldest") is not None
    assert mail == {"queue": "mail", "queued": 2, "scheduled": 1, "running": 1, "lanes": 1}


async def test_steps_and_workers_are_listed(connection: Connection, operator: psycopg.Connection[DictRow]) -> None:
    (run,) = await running(connection)
    await write(connection, checkpoint(run, "extract", '{"pages": 3}'))
    (step,) = operator.execute("select run_id, step, attempt, repeats, output from ops.steps").fetchall()
    assert step == {"run_id": run.id, "step": "extract", "attempt": 1, "repeats": 0, "output": {"pages": 3}}
    (worker,) = operator.execute("select name, running from ops.workers").fetchall()
    assert worker == {"name": "worker", "running": 1}
