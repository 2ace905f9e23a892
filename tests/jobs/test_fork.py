"""What a fork promises: it keeps whole steps, as many as were asked for, and goes on as a run of its own."""

from __future__ import annotations

from datetime import timedelta

import pytest

from howdah.jobs import App, Run
from howdah.sql.errors import BadValue, from_psycopg
from howdah.sql.pool import Connection
from howdah.sql.workflow.calls import fork_run
from tests.jobs.conftest import Work
from tests.jobs.test_history import same
from tests.jobs.test_waiting import output, send, state
from tests.sql.engine import rows, value


async def test_a_forks_signals_are_its_own_and_none_of_them_is_lost(
    app: App, work: Work, connection: Connection
) -> None:
    @app.workflow(name="w")
    async def workflow(run: Run) -> list[int]:
        return [await run.wait_for("n", int) for _ in range(3)]

    run_id = await workflow.enqueue_in(connection)
    for number in (1, 2):
        await send(connection, run_id, "n", number)
    await work(app)
    forked = await fork_run(connection, "default", run_id, 1)
    await work(app)
    assert await state(connection, forked) == "waiting", "the second one was for the other run"
    for number in (20, 30):
        await send(connection, forked, "n", number)
    await work(app)
    assert await output(connection, forked) == [1, 20, 30]


async def test_a_fork_of_a_run_that_waits_for_children_has_children_of_its_own(
    app: App, work: Work, connection: Connection
) -> None:
    @app.workflow(name="child")
    async def child(run: Run, n: int) -> int:
        return await run.wait_for("go", int)

    @app.workflow(name="parent")
    async def parent(run: Run) -> list[int]:
        await run.step("a", same, 1)
        return await run.children("all", child, [1])

    run_id = await parent.enqueue_in(connection)
    await work(app)
    forked = await fork_run(connection, "default", run_id, 1)
    await work(app)
    ((own, state_now),) = await rows(connection, "select id, state from run where parent_id = %s", forked)
    assert (await state(connection, forked), state_now) == ("waiting", "waiting")
    await send(connection, own, "go", 7)
    await work(app)
    assert await output(connection, forked) == [7]
    with pytest.raises(Exception, match="has finished 1 step, and 2 were asked for") as refused:
        await fork_run(connection, "default", run_id, 2)
    assert isinstance(from_psycopg(refused.value), BadValue)  # type: ignore[arg-type]
    assert await value(connection, "select count(*) from run where task = 'parent'") == 1, "nothing of it stays"


async def test_what_a_step_keeps_aside_is_no_step(app: App, work: Work, connection: Connection) -> None:
    @app.workflow(name="w")
    async def workflow(run: Run) -> str:
        answer = await run.wait_for("approval", str, timeout=timedelta(days=2))
        await run.wait_for("end", timeout=timedelta(days=2))
        return answer

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    await send(connection, run_id, "approval", "yes")
    await work(app)
    forked = await fork_run(connection, "default", run_id, 1)
    kept = await rows(connection, "select step from checkpoint where run_id = %s order by 1", forked)
    assert kept == ["approval", "approval#until"], "the other wait's time begins when the fork comes to it"
    await work(app)
    await send(connection, forked, "end")
    await work(app)
    assert await output(connection, forked) == "yes"


async def test_a_fork_keeps_the_version_of_the_code_that_its_steps_are_of(
    app: App, work: Work, connection: Connection
) -> None:
    async def first(run: Run) -> str:
        await run.step("a", same, 1)
        return "one"

    async def second(run: Run) -> str:
        return "two"

    app.workflow(name="w")(first)
    await work(app)
    (run_id,) = await rows(connection, "select run_id from enqueue_run('default', 'w', '{}')")
    await work(app)
    app.workflow(name="w", version=2)(second)
    await work(app)
    same_code = await fork_run(connection, "default", run_id, 1)
    newest = await fork_run(connection, "default", run_id, 0, "w@2")
    await work(app)
    assert [await output(connection, forked) for forked in (same_code, newest)] == ["one", "two"]
