"""What waiting promises: a row and no worker; nothing lost that was sent; time, signals, children, events wake it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from howdah.jobs import App, NonRetryableError, Run, SignalTimeoutError
from howdah.sql.pool import Connection
from howdah.sql.queue.calls import cancel_runs, claim_runs, explain_run, requeue_runs
from howdah.sql.stream.calls import NewEvent, append_events
from howdah.sql.workflow.calls import NewSignal, RunItem, SignalStatus, flush, send_signals
from tests.jobs.conftest import Work
from tests.sql.engine import new_worker, rows, value

_seen: list[Any] = []


@pytest.fixture(autouse=True)
def seen() -> list[Any]:
    _seen.clear()
    return _seen


async def note(what: Any) -> Any:
    """A step that shows when it is really executed."""
    _seen.append(what)
    return what


@dataclass
class Decision:
    choice: str
    by: str


async def state(connection: Connection, run_id: int) -> str:
    return str(await value(connection, "select state from ops.runs where id = %s", run_id))


async def output(connection: Connection, run_id: int) -> Any:
    ((state, output, error),) = await rows(
        connection, "select state, output, error from run_history where id = %s", run_id
    )
    return output if state == "succeeded" else (state, error["type"], error["message"])


async def send(connection: Connection, run_id: int, name: str, payload: Any = None, key: str | None = None) -> str:
    body = msgspec.json.encode(payload).decode()
    (status,) = await send_signals(connection, None, [NewSignal(run_id, name, body, key)])
    return status


async def pass_time(connection: Connection, run_id: int) -> None:
    """Let what a waiting run waits for be due now, as its clock and the server's would say."""
    await connection.execute("update run set run_at = now() where id = %s", [run_id])
    await connection.execute(
        "update checkpoint set output = to_jsonb(now()) where run_id = %s and jsonb_typeof(output) = 'string'"
        " and output #>> '{}' ~ '^\\d{4}-\\d\\d-\\d\\dT'",
        [run_id],
    )
    # A worker that works until it is idle does not stay for what becomes due.
    await connection.execute("select from wake_due_runs()")


async def test_a_sleep_holds_no_worker_and_goes_on_where_it_was(
    app: App, work: Work, connection: Connection, seen: list[Any]
) -> None:
    @app.workflow(name="w")
    async def workflow(run: Run) -> list[int]:
        await run.step("before", note, "before")
        await run.sleep("night", timedelta(hours=8))
        await run.step("after", note, "after")
        return [run.attempt, run.failures]

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    assert await rows(connection, "select state, worker_id, awaits->0->>'sleep' from run") == [
        ("waiting", None, "night")
    ]
    assert "waits for the end of step night, until" in await explain_run(connection, None, run_id)
    await work(app)
    assert await state(connection, run_id) == "waiting", "it is not due"
    await pass_time(connection, run_id)
    await work(app)
    assert await output(connection, run_id) == [2, 0]
    assert seen == ["before", "after"]


async def test_a_short_sleep_is_spent_in_the_worker(app: App, work: Work, connection: Connection) -> None:
    @app.workflow(name="w")
    async def workflow(run: Run) -> int:
        await run.sleep("moment", timedelta(milliseconds=20))
        return run.attempt

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    assert await output(connection, run_id) == 1


@pytest.mark.parametrize("when", ["before the run", "while it waits"])
async def test_a_signal_is_not_lost_whenever_it_is_sent(
    app: App, work: Work, connection: Connection, when: str
) -> None:
    @app.workflow(name="w")
    async def workflow(run: Run) -> list[str]:
        decision = await run.wait_for("approval", Decision)
        return [decision.choice, decision.by]

    run_id = await workflow.enqueue_in(connection)
    if when == "while it waits":
        await work(app)
        assert await state(connection, run_id) == "waiting"
        assert await explain_run(connection, None, run_id) == f"run {run_id} waits for the signal approval"
    decision = {"choice": "yes", "by": "ann"}
    assert await send(connection, run_id, "approval", decision, key="ann-1") == "sent"
    await work(app)
    assert await output(connection, run_id) == ["yes", "ann"]
    assert await send(connection, run_id, "approval") == "finished"
    assert await send(connection, run_id, "approval", decision, key="ann-1") == "existing", "its answer may be lost"
    assert await send(connection, run_id, "approval", {"choice": "no"}, key="ann-1") == "conflict"


async def test_each_signal_goes_to_one_wait_in_the_order_of_arrival(
    app: App, work: Work, connection: Connection
) -> None:
    @app.workflow(name="w")
    async def workflow(run: Run) -> list[int]:
        got = [await run.wait_for("n", int)]
        got += await asyncio.gather(run.wait_for("n", int), run.wait_for("n", int))
        await run.wait_for("end")
        return got

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    for number in (1, 2):
        await send(connection, run_id, "n", number)
    assert await send(connection, run_id, "n", 3, key="k") == "sent"
    assert await send(connection, run_id, "n", 3, key="k") == "existing"
    assert await send(connection, run_id, "n", 4, key="k") == "conflict"
    await work(app)
    await send(connection, run_id, "end")
    await work(app)
    assert await output(connection, run_id) == [1, 2, 3]


async def test_a_signal_that_comes_as_the_run_goes_to_rest_wakes_it(connection: Connection) -> None:
    await connection.execute("select enqueue_run('default', 't', '{}')")
    worker = await new_worker(connection)
    (run,) = await claim_runs(connection, worker, ["default"], 1)
    assert await send(connection, run.id, "late") == "sent"
    rest = RunItem(run.id, run.attempt, "outcome", "wait", '[{"signal": "late", "after": 0}]')
    assert await flush(connection, [rest]) == ["ready"]
    assert await state(connection, run.id) == "running"
    rest.body = '[{"signal": "late", "after": 1}]'
    assert await flush(connection, [rest]) == ["ok"]
    assert await flush(connection, [rest]) == ["stale"]
    assert await send(connection, run.id, "other") == "sent"
    assert await state(connection, run.id) == "waiting", "it does not wait for that one"
    assert await send(connection, run.id, "late") == "sent"
    assert await state(connection, run.id) == "queued"


async def test_a_wait_that_times_out_has_timed_out_for_good(app: App, work: Work, connection: Connection) -> None:
    @app.workflow(name="w", retry=1)
    async def workflow(run: Run) -> str:
        try:
            await run.wait_for("approval", timeout=timedelta(days=2))
        except SignalTimeoutError as error:
            await run.step("told", note, "late")
            if run.failures == 0:
                raise ValueError from error
            return str(error)
        return "came"

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    await pass_time(connection, run_id)
    await work(app)
    await send(connection, run_id, "approval")
    await work(app)
    assert "waited 2 days, 0:00:00 for the signal 'approval'" in await output(connection, run_id)


async def test_an_approval_takes_its_choices_only(app: App, work: Work, connection: Connection) -> None:
    @app.workflow(name="w")
    async def workflow(run: Run) -> str:
        decision: str = await run.wait_for("approval", str, choices=["approve", "reject"])
        return decision

    early = await workflow.enqueue_in(connection)
    assert await send(connection, early, "approval", "perhaps") == "sent"
    await work(app)
    assert await send(connection, early, "approval", "maybe") == "not_a_choice"
    assert "the signal approval (approve, reject)" in await explain_run(connection, None, early)
    assert await send(connection, early, "approval", "reject") == "sent"
    await work(app)
    assert await output(connection, early) == "reject"


async def test_children_run_on_their_own_queue_and_answer_in_order(
    app: App, work: Work, connection: Connection, seen: list[Any]
) -> None:
    @app.workflow(name="child", queue="small")
    async def child(run: Run, n: int) -> int:
        return await run.step("square", square, n)

    async def square(n: int) -> int:
        seen.append(n)
        await asyncio.sleep(0.001 * (5 - n))
        return n * n

    @app.workflow(name="parent")
    async def parent(run: Run) -> list[int]:
        squares = await run.children("squares", child, range(5))
        return [run.attempt, *squares, *await run.children("none", child, [])]

    run_id = await parent.enqueue_in(connection)
    await work(app, queues=("default",))
    assert await state(connection, run_id) == "waiting"
    assert await rows(
        connection, "select distinct queue, state, parent_id, parent_step from run where id <> %s", run_id
    ) == [("small", "queued", run_id, "squares")]
    assert "waits for 5 children of step squares" in await explain_run(connection, None, run_id)
    await work(app)
    assert await output(connection, run_id) == [2, 0, 1, 4, 9, 16]
    assert sorted(seen) == [0, 1, 2, 3, 4]


async def test_failed_children_fail_the_step_when_all_have_ended_and_can_be_mended(
    app: App, work: Work, connection: Connection
) -> None:
    broken = True

    @app.workflow(name="child")
    async def child(run: Run, n: int) -> int:
        if n == 1 and broken:
            raise NonRetryableError("no good")
        return n

    @app.workflow(name="parent")
    async def parent(run: Run) -> list[int]:
        return await run.children("all", child, [0, 1, 2])

    run_id = await parent.enqueue_in(connection)
    await work(app)
    failed, kind, message = await output(connection, run_id)
    assert (failed, kind) == ("failed", "ChildrenFailedError")
    assert "1 of 3 children of step 'all' failed" in message
    assert "no good" in message
    broken = False
    (bad,) = await rows(connection, "select id from run_history where parent_id = %s and state = 'failed'", run_id)
    await requeue_runs(connection, None, [bad])
    await work(app)
    await requeue_runs(connection, None, [run_id])
    await work(app)
    assert await output(connection, run_id) == [0, 1, 2]


async def test_the_last_of_two_children_that_end_at_once_wakes_the_parent(
    connection: Connection, conninfo: str
) -> None:
    await connection.execute("select enqueue_run('default', 'parent', '{}')")
    worker = await new_worker(connection)
    (parent,) = await claim_runs(connection, worker, ["default"], 1)
    await connection.execute(
        "select spawn_children(%s, 1, 's#children-0', 's', '{c,c}', '{\"{}\",\"{}\"}')", [parent.id]
    )
    rest = RunItem(parent.id, 1, "outcome", "wait", '[{"children": "s"}]')
    assert await flush(connection, [rest]) == ["ok"]
    first, second = await claim_runs(connection, worker, ["default"], 2)
    async with await type(connection).connect(conninfo) as other:
        done = [RunItem(run.id, run.attempt, "outcome", "succeeded", "1") for run in (first, second)]
        assert await flush(other, [done[0]]) == ["ok"]
        # Not committed yet: the parent is held, so the second one is told to come again, and sees the first one gone.
        assert await flush(connection, [done[1]]) == ["busy"]
        await other.commit()
        assert await flush(connection, [done[1]]) == ["ok"]
    assert await state(connection, parent.id) == "queued"


async def test_a_parent_that_is_held_is_woken_a_moment_later(connection: Connection, conninfo: str) -> None:
    await connection.execute("select enqueue_run('default', 'parent', '{}')")
    worker = await new_worker(connection)
    (parent,) = await claim_runs(connection, worker, ["default"], 1)
    await connection.execute("select spawn_children(%s, 1, 's#children-0', 's', '{c}', '{\"{}\"}')", [parent.id])
    assert await flush(connection, [RunItem(parent.id, 1, "outcome", "wait", '[{"children": "s"}]')]) == ["ok"]
    child = await value(connection, "select id from run where parent_id = %s", parent.id)
    async with await type(connection).connect(conninfo) as other:
        await other.execute("select from run where id = %s for update", [parent.id])
        await cancel_runs(connection, None, [child])
        assert await state(connection, parent.id) == "waiting"
        assert await value(connection, "select tied from tie_loose_ends()") == 1
        assert await value(connection, "select count(*) from loose_end") == 1, "it is still held"
    await connection.execute("select from tie_loose_ends()")
    assert await state(connection, parent.id) == "queued"
    assert await value(connection, "select count(*) from loose_end") == 0


async def test_what_a_run_does_as_it_goes_to_rest_does_not_count(
    app: App, work: Work, connection: Connection, seen: list[Any]
) -> None:
    @app.workflow(name="w")
    async def workflow(run: Run) -> str:
        try:
            await run.wait_for("go")
        except asyncio.CancelledError:
            seen.append("told")
            await run.step("wrong", note, "durable")
            return "not this"
        return "this"

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    assert seen == ["told"]
    assert await state(connection, run_id) == "waiting"
    await send(connection, run_id, "go")
    await work(app)
    assert await output(connection, run_id) == "this"


async def test_a_run_does_not_rest_while_a_branch_of_it_works(
    app: App, work: Work, connection: Connection, seen: list[Any]
) -> None:
    async def slow(n: int) -> int:
        seen.append(n)
        await asyncio.sleep(0.05)
        return n

    @app.workflow(name="w")
    async def workflow(run: Run) -> list[Any]:
        async def steps() -> list[int]:
            return [await run.step("slow", slow, n) for n in range(3)]

        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(run.wait_for("go"))
            working = group.create_task(steps())
        return [run.attempt, waiting.result(), *working.result()]

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    assert await state(connection, run_id) == "waiting"
    await send(connection, run_id, "go", "went")
    await work(app)
    assert await output(connection, run_id) == [2, "went", 0, 1, 2]
    assert seen == [0, 1, 2]


async def test_two_agents_talk_through_a_session(app: App, work: Work, connection: Connection, seen: list[Any]) -> None:
    @app.workflow(name="agent")
    async def agent(run: Run, name: str, hears: str, turns: int) -> int:
        heard = 0
        async for event in run.events(types=[hears]):
            heard += 1
            text = await run.step("think", note, f"{name} heard {event.data}")
            await run.emit(f"said.{name}", len(text) and heard)
            if heard == turns:
                break
        return heard

    await connection.execute("select create_session('default', 'talk')")
    ids = [
        await agent.configure(session="talk").enqueue_in(connection, me, f"said.{other}", 10)
        for me, other in (("ann", "bob"), ("bob", "ann"))
    ]
    await work(app)
    assert await rows(connection, "select distinct state from run") == ["waiting"]
    await append_events(connection, [NewEvent("default", "talk", "noise", "0")])
    assert await rows(connection, "select distinct state from run") == ["waiting"]
    await append_events(connection, [NewEvent("default", "talk", "said.ann", "0")])
    await work(app)
    assert [await output(connection, run_id) for run_id in ids] == [10, 10]
    assert len(seen) == 20
    assert await value(connection, "select count(*) from event where type like 'said.%%'") == 21


async def test_a_run_signals_another_once(app: App, work: Work, connection: Connection) -> None:
    statuses: list[SignalStatus] = []

    @app.workflow(name="asks")
    async def asks(run: Run) -> str:
        answer: str = await run.wait_for("answer", str)
        return answer

    @app.workflow(name="answers", retry=1)
    async def answers(run: Run, to: int) -> None:
        statuses.append(await run.signal(to, "answer", "forty-two"))
        if run.failures == 0:
            raise ValueError

    asked = await asks.enqueue_in(connection)
    await answers.enqueue_in(connection, asked)
    await work(app)
    assert await output(connection, asked) == "forty-two"
    assert statuses == ["sent", "sent"]
    assert await value(connection, "select count(*) from signal") == 1


async def test_a_claim_wakes_nobody_before_its_time(connection: Connection) -> None:
    """A million may wait: no claim, no due look and no heartbeat reads them."""
    await connection.execute(
        "insert into run (id, tenant_id, queue, task, state, args, run_at, awaits)"
        " select next_run_id(), 'default', 'default', 't', 'waiting', '{}', now() + interval '1 day', '[]'"
        " from generate_series(1, 1000); insert into queue (name) values ('default') on conflict do nothing"
    )
    worker = await new_worker(connection)
    assert await claim_runs(connection, worker, ["default"], 100) == []
    assert await value(connection, "select woken from wake_due_runs()") == 0
