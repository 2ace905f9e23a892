"""What an operator does in psql, with no search_path but the usual one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg.rows import DictRow, dict_row

from howdah.sql.pool import Connection
from howdah.sql.queue.calls import TaskEntry, cancel_runs, heartbeat, register_tasks
from tests.sql.engine import (
    checkpoint,
    claim,
    connect,
    enqueue,
    event,
    new_worker,
    outcome,
    running,
    until_blocked,
    value,
    write,
)

FAR = datetime(2100, 1, 1, tzinfo=UTC)
ERROR = '{"type": "ValueError", "message": "bad", "traceback": "line 1"}'


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
    await write(connection, checkpoint(run), outcome(run, "failed", ERROR))
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


async def test_queues_shows_depths_and_limits(connection: Connection, operator: psycopg.Connection[DictRow]) -> None:
    await enqueue(connection, 3, queue="mail")
    await claim(connection, 1, queue="mail")
    await enqueue(connection, 1, queue="mail", run_at=FAR)
    await enqueue(connection, 3, queue="mail", session_id="s", order="skip")
    await connection.execute("""select set_queue_limits('mail', '{"max_running": 5}')""")
    (mail,) = operator.execute("select * from ops.queues").fetchall()
    assert mail["oldest"] is not None
    states = ("queued", "scheduled", "blocked", "running", "lanes", "parked", "max_running", "paused", "more")
    assert [mail[name] for name in states] == [3, 1, 2, 1, 1, 0, 5, False, False]


async def test_queues_tells_when_it_will_be_empty(
    connection: Connection, operator: psycopg.Connection[DictRow]
) -> None:
    await write(connection, *(outcome(run) for run in await running(connection, 10)))
    await connection.execute(
        "update run_history set finished_at = finished_at - interval '1 hour'"
        " where id = (select min(id) from run_history)"
    )
    await enqueue(connection, 18)
    (found,) = operator.execute("select finished_per_minute, empty_in from ops.queues").fetchall()
    # Nine in five minutes: those of an hour ago are no sign of today's speed.
    assert found == {"finished_per_minute": Decimal("1.8"), "empty_in": timedelta(minutes=10)}


async def test_lanes_shows_who_is_next_and_who_is_parked(
    connection: Connection, operator: psycopg.Connection[DictRow]
) -> None:
    await connection.execute("insert into tenant (id, name) values ('busy', 'b'), ('idle', 'i')")
    await connection.execute("""select set_queue_limits('default', '{"max_running_per_tenant": 1}')""")
    await enqueue(connection, 2, tenant="busy")
    await claim(connection)
    await claim(connection)
    _, second = await enqueue(connection, tenant="idle"), await enqueue(connection, tenant="idle", priority=1)
    lanes = operator.execute("select tenant_id, task, state, head from ops.lanes").fetchall()
    busy = operator.execute("select id from ops.runs where tenant_id = 'busy' and state = 'queued'").fetchone()
    assert busy is not None
    assert lanes == [
        {"tenant_id": "idle", "task": "t", "state": "active", "head": second[0]},
        {"tenant_id": "busy", "task": "t", "state": "parked", "head": busy["id"]},
    ]


async def test_an_ordered_session_shows_what_it_waits_for(
    connection: Connection, operator: psycopg.Connection[DictRow]
) -> None:
    (run,) = await running(connection, session_id="s", order="block")
    await enqueue(connection, 3, session_id="s", order="block")
    query = "select session_id, head, task, state, blocked from ops.ordered_sessions"
    waits = {"session_id": "s", "head": run.id, "task": "t", "state": "running", "blocked": 3}
    assert operator.execute(query).fetchall() == [waits]
    await write(connection, outcome(run, "failed", ERROR))
    assert operator.execute(query).fetchall() == [{**waits, "state": "failed"}]
    assert operator.execute("select status from ops.discard_run(%s)", [run.id]).fetchall() == [{"status": "discarded"}]
    (now,) = operator.execute(query).fetchall()
    assert (now["state"], now["blocked"]) == ("queued", 2)


async def test_locks_says_who_waits_for_whom(
    connection: Connection, conninfo: str, operator: psycopg.Connection[DictRow]
) -> None:
    await enqueue(connection)
    await connection.execute("begin")
    await connection.execute("update tenant set name = 'x'")
    async with await connect(conninfo) as waiting:
        await waiting.execute("set application_name = 'impatient'")
        pids = (waiting.info.backend_pid, connection.info.backend_pid)
        blocked = asyncio.create_task(waiting.execute("update tenant set name = 'y'"))
        await until_blocked_by(connection, conninfo, waiting)
        (found,) = operator.execute("select * from ops.locks").fetchall()
        await connection.execute("rollback")
        await blocked
    assert (found["waiting_pid"], found["blocking_pid"]) == pids
    assert found["waits_for"] == "a row of table tenant"
    assert found["sentence"].startswith(f"impatient (pid {pids[0]}) has waited ")
    assert found["sentence"].endswith(f"(pid {pids[1]}, idle in transaction) holds")
    assert found["blocking_query"] == "update tenant set name = 'x'"


async def until_blocked_by(connection: Connection, conninfo: str, waiting: Connection) -> None:
    async with await connect(conninfo) as watcher:
        await until_blocked(watcher, waiting)


async def test_steps_and_workers_are_listed(connection: Connection, operator: psycopg.Connection[DictRow]) -> None:
    (run,) = await running(connection)
    await write(connection, checkpoint(run, "extract", '{"pages": 3}'))
    (step,) = operator.execute("select run_id, step, attempt, repeats, output from ops.steps").fetchall()
    assert step == {"run_id": run.id, "step": "extract", "attempt": 1, "repeats": 0, "output": {"pages": 3}}
    (worker,) = operator.execute("select name, running from ops.workers").fetchall()
    assert worker == {"name": "worker", "running": 1}


async def test_a_sessions_events_are_read(connection: Connection, operator: psycopg.Connection[DictRow]) -> None:
    (run,) = await running(connection)
    await write(connection, event(run, "noted", '{"a": 1}'))
    session = f"run:{run.id}"
    found = operator.execute("select seq, type, data from ops.events('default', %s)", [session]).fetchall()
    assert found == [{"seq": 1, "type": "noted", "data": {"a": 1}}]
    assert operator.execute("select * from ops.events('default', %s, 1)", [session]).fetchall() == []


@pytest.mark.parametrize("what", ["queue", "tenant", "task"])
async def test_what_is_paused_is_shown_and_resumed(
    connection: Connection, operator: psycopg.Connection[DictRow], what: str
) -> None:
    await register_tasks(connection, [TaskEntry("t", "task", "default", "{}", "")])
    await enqueue(connection)
    name = "t" if what == "task" else "default"
    for verb, paused in (("pause", True), ("resume", False)):
        (row,) = operator.execute(f"select * from ops.{verb}_{what}(%s)".encode(), [name]).fetchall()
        assert list(row.values()) == [name, paused]
        (shown,) = operator.execute(f"select paused from ops.{what}s".encode()).fetchall()
        assert shown == {"paused": paused}
        assert len(await claim(connection)) == (0 if paused else 1)


async def test_a_limit_and_a_weight_are_set(connection: Connection, operator: psycopg.Connection[DictRow]) -> None:
    def limits() -> list[Any]:
        return list(
            operator.execute("select max_running, starts_per_period, period from ops.queues").fetchone().values()
        )  # type: ignore[union-attr]

    operator.execute("select * from ops.set_limit('mail', 'max_running', 20)")
    operator.execute("select * from ops.set_limit('mail', 'starts_per_period', 100, 60)")
    assert limits() == [20, 100, timedelta(minutes=1)]
    operator.execute("select * from ops.set_limit('mail', 'starts_per_period', 50.0)")
    assert limits() == [20, 50, timedelta(minutes=1)]
    operator.execute("select * from ops.set_limit('mail', 'starts_per_period', null)")
    operator.execute("select * from ops.set_limit('mail', 'max_running', null)")
    assert limits() == [None, None, None]
    with pytest.raises(psycopg.Error, match="there is no limit 'max_runing'"):
        operator.execute("select * from ops.set_limit('mail', 'max_runing', 20)")
    operator.execute("select * from ops.set_weight('default', 3)")
    assert operator.execute("select weight from ops.tenants").fetchall() == [{"weight": 3.0}]


async def test_a_worker_is_asked_to_drain(connection: Connection, operator: psycopg.Connection[DictRow]) -> None:
    worker = await new_worker(connection)
    stock = await value(connection, "select procrastinate_register_worker_v1()")
    asked = [
        operator.execute("select status from ops.drain_worker(%s)", [w]).fetchone() for w in (worker, stock, 10**9)
    ]
    assert asked == [{"status": "asked"}, {"status": "stock"}, {"status": "unknown"}]
    assert (await heartbeat(connection, worker)).draining
    shown = operator.execute("select id, draining from ops.workers order by id").fetchall()
    assert shown == [{"id": worker, "draining": True}, {"id": stock, "draining": False}]


async def test_what_an_operator_does_is_heard_by_workers(
    connection: Connection, operator: psycopg.Connection[DictRow]
) -> None:
    """Their channels bear the cell's name, whatever the path on which its functions were found."""
    (run,) = await running(connection)
    await connection.execute('listen "howdah.runs"; listen "howdah.cancels"')
    operator.execute("select * from ops.cancel_run(%s)", [run.id])
    await write(connection, outcome(run, "failed", ERROR))
    operator.execute("select * from ops.requeue_run(%s)", [run.id])
    heard = [(n.channel, n.payload) async for n in connection.notifies(timeout=5, stop_after=2)]
    assert heard == [("howdah.cancels", ""), ("howdah.runs", "default")]
