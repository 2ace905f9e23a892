"""`explain_run` names the one reason why a run does not run now."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from howdah.sql.pool import Connection
from howdah.sql.queue.calls import TaskEntry, register_tasks, register_worker, rescue_runs
from tests.sql.engine import claim, enqueue, new_worker, outcome, running, write

FAR = datetime(2100, 1, 1, tzinfo=UTC)
Explain = Callable[[int], str]


@pytest.fixture
def explain(database_url: str) -> Iterator[Explain]:
    with psycopg.connect(database_url, autocommit=True) as operator:
        operator.execute("set role howdah_operator; set timezone = 'UTC'")

        def ask(run_id: int) -> str:
            row = operator.execute("select ops.explain_run(%s)", [run_id]).fetchone()
            assert row is not None
            text: str = row[0]
            return text.replace(str(run_id), "R")

        yield ask


async def test_unknown_and_finished_runs(connection: Connection, explain: Explain) -> None:
    assert explain(7) == "run R is unknown: it never was, or its history has been removed"
    good, bad = await running(connection, 2)
    await write(connection, outcome(good), outcome(bad, "failed", '{"type": "ValueError", "message": "no"}'))
    assert explain(good.id).startswith("run R succeeded at 20")
    assert ": ValueError: no; requeue it to bring it back" in explain(bad.id)


async def test_a_running_run(connection: Connection, explain: Explain) -> None:
    (run,) = await running(connection)
    assert explain(run.id).startswith("run R is running, attempt 1, on worker ")
    await connection.execute("update worker set heartbeat_at = now() - interval '1 hour'")
    assert "; that worker is silent since " in explain(run.id)
    await connection.execute("select cancel_runs(null, array[%s::bigint])", [run.id])
    assert "; its worker has been asked to stop it" in explain(run.id)


async def test_a_run_for_later(connection: Connection, explain: Explain) -> None:
    (run,) = await enqueue(connection, run_at=FAR)
    assert explain(run) == "run R is scheduled for 2100-01-01 00:00:00+00"
    await connection.execute("update run set run_at = now() - interval '1 hour'")
    assert explain(run).endswith("which has passed: no worker is alive")


async def test_runs_behind_others_of_their_session(connection: Connection, explain: Explain) -> None:
    (head,) = await running(connection, session_id="s", order="block")
    second, third = await enqueue(connection, 2, session_id="s", order="block")
    assert explain(second) == f"run R waits in session s behind run {head.id}, which is running"
    assert explain(third) == f"run R waits in session s behind run {head.id}, which is running, and 1 more"
    await write(connection, outcome(head, "failed", "{}"))
    assert explain(second) == (
        f"run R waits in session s behind run {head.id}, which has failed: requeue that one, or discard it"
    )
    assert "or discard it: its session s waits for it" in explain(head.id)


@pytest.mark.parametrize(
    ("pause", "reason"),
    [
        ("pause_queue('default')", "its queue default is paused"),
        ("pause_tenant('default')", "its tenant default is paused"),
        ("pause_task('t')", "its task t is paused"),
    ],
)
async def test_a_pause(connection: Connection, explain: Explain, pause: str, reason: str) -> None:
    await register_tasks(connection, [TaskEntry("t", "task", "default", "{}", "")])
    (run,) = await enqueue(connection)
    await new_worker(connection)
    await connection.execute(f"select {pause}".encode())
    assert explain(run) == f"run R is queued, and {reason}"


async def test_no_worker_for_it(connection: Connection, explain: Explain) -> None:
    (run,) = await enqueue(connection)
    nobody = "run R is queued, and no live worker serves its queue default"
    assert explain(run) == nobody
    await register_worker(connection, "w", ["mail"], ["t"])
    assert explain(run) == nobody
    other = await register_worker(connection, "w", ["default"], ["other"])
    assert explain(run) == "run R is queued, and of the live workers that serve its queue default none has its task t"
    await register_worker(connection, "w", ["default"], ["t"])
    assert "as number 1" in explain(run)
    await connection.execute("update worker set heartbeat_at = now() - interval '1 hour' where id <> %s", [other])
    assert "none has its task t" in explain(run)
    await connection.execute("select drain_worker(%s)", [other])
    assert explain(run) == nobody


async def test_limits(connection: Connection, explain: Explain) -> None:
    async def limit(limits: str) -> None:
        await connection.execute("select set_queue_limits('default', %s)", [limits])

    await enqueue(connection, 3)
    (run,) = await enqueue(connection)
    await limit('{"max_running": 2}')
    await claim(connection)
    assert explain(run) == "run R is queued, and its queue default has 2 of 2 runs running"
    await limit('{"max_running": null, "max_running_per_tenant": 2}')
    assert explain(run) == "run R is queued, and its tenant default has 2 of 2 runs running in queue default"
    await limit('{"max_running_per_tenant": null, "starts_per_period": 1, "period_s": 3600}')
    await claim(connection)
    assert explain(run).startswith("run R is queued, and its queue default has used up its 1 starts until ")
    await limit('{"starts_per_period": 0}')
    assert explain(run) == "run R is queued, and its queue default may start none: starts_per_period is 0"


async def test_a_suspect_run(connection: Connection, explain: Explain) -> None:
    (run,) = await enqueue(connection)
    for _ in range(2):
        await claim(connection)
        await connection.execute("update worker set heartbeat_at = now() - interval '1 hour'")
        await rescue_runs(connection, timedelta(seconds=15))
    await new_worker(connection)
    assert explain(run) == "run R died with its worker 2 times, and waits for a worker that runs only such runs"


async def test_a_run_that_waits_its_turn(connection: Connection, explain: Explain) -> None:
    await connection.execute("insert into tenant (id, name) values ('acme', 'a')")
    await enqueue(connection, 2)
    await claim(connection, 1)
    (run,) = await enqueue(connection)
    (urgent,) = await enqueue(connection, priority=1)
    await enqueue(connection, tenant="acme")
    await connection.execute("update lane set virtual_time = virtual_time + 5 where tenant_id = 'default'")
    turn = (
        "run R is queued as number {} of its tenant's runs of task t in queue default, with 1 tenants ahead of its own"
    )
    assert explain(run) == turn.format(3)
    assert explain(urgent) == turn.format(1)


async def test_one_tenant_is_told_nothing_of_anothers_run(connection: Connection) -> None:
    (run,) = await enqueue(connection)
    cursor = await connection.execute("select explain_run('other', %s)", [run])
    assert await cursor.fetchone() == (f"run {run} is unknown: it never was, or its history has been removed",)
