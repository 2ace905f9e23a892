"""What history promises: code that contradicts it stops with a message that shows both, and versions keep it apart."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from howdah.jobs import App, RetryStrategy, Run
from howdah.sql.pool import Connection
from howdah.sql.workflow.calls import fork_run
from tests.jobs.conftest import Work
from tests.jobs.test_waiting import output, send, state
from tests.sql.engine import rows, value


def same(value: Any) -> Any:
    return value


@pytest.mark.parametrize(
    ("later", "message"),
    [
        ("swapped", "step 'b' finished after 'a', and the code now asks for it after 'the start'"),
        ("one between", "step 'b' finished after 'a', and the code now asks for it after 'c'"),
        ("one left out", "it finished 'b', and the code now ended without asking for it"),
        ("another kind", "step 'a' has kept 1, and the code now asks for another kind of step there"),
    ],
)
async def test_code_that_contradicts_its_history_stops_and_shows_both(
    app: App, work: Work, connection: Connection, later: str, message: str
) -> None:
    @app.workflow(name="w", retry=RetryStrategy(max_attempts=3))
    async def workflow(run: Run) -> None:
        if run.attempt == 1:
            await run.step("a", same, 1)
            await run.step("b", same, 2)
            raise ValueError
        match later:
            case "swapped":
                await run.step("b", same, 2)
            case "one between":
                await run.step("a", same, 1)
                await run.step("c", same, 3)
                await run.step("b", same, 2)
            case "one left out":
                await run.step("a", same, 1)
            case "another kind":
                await run.sleep("a", timedelta(seconds=0))

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    failed, kind, said = await output(connection, run_id)
    assert (failed, kind) == ("failed", "HistoryContradictedError"), "and it is not tried again"
    assert message in said
    assert await value(connection, "select failures from run_history") == 2


async def test_branches_may_finish_in_any_order(app: App, work: Work, connection: Connection) -> None:
    async def after(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    @app.workflow(name="w", retry=RetryStrategy(max_attempts=2))
    async def workflow(run: Run) -> list[float]:
        first = await run.step("first", after, 0)
        pause = 0.02 if run.attempt == 1 else 0
        both = await asyncio.gather(run.step("left", after, pause), run.step("right", after, 0.02 - pause))
        many = await run.map("many", after, [0.01 * (3 - n) for n in range(3)], limit=2)
        last = await run.step("last", after, 0)
        if run.attempt == 1:
            raise ValueError
        return [first, *both, *many, last]

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    assert await output(connection, run_id) == [0, 0.02, 0, 0.03, 0.02, 0.01, 0]
    assert await value(connection, "select count(*) from checkpoint where attempt = 2") == 0


async def test_a_version_is_what_was_named_and_the_plain_name_the_newest(
    app: App, work: Work, connection: Connection
) -> None:
    @app.workflow(name="w")
    async def first(run: Run, n: int) -> str:
        return "one"

    @app.workflow(name="w", version=2)
    async def second(run: Run, n: int) -> str:
        return "two"

    @app.workflow(name="parent")
    async def parent(run: Run) -> list[str]:
        return await run.children("old", first, [1]) + await run.children("new", second, [2])

    await work(app)
    sent = [await workflow.enqueue_in(connection, 1) for workflow in (first, second)]
    for name in ("w@1", "w@2", "w"):
        sent += await rows(connection, "select run_id from enqueue_run('default', %s, '{\"n\": 1}')", name)
    sent += [await fork_run(connection, None, sent[0], 0, task) for task in (None, "w@1", "w")]
    family = await parent.enqueue_in(connection)
    await work(app)
    query = "select output from run_history where id = any (%s) order by id"
    assert await rows(connection, query, sent) == ["one", "two", "one", "two", "two", "one", "one", "two"]
    assert await rows(connection, query, [family]) == [["one", "two"]]


async def test_no_task_takes_the_name_of_the_first_version(connection: Connection) -> None:
    with pytest.raises(psycopg.Error, match="no task can be named w@1") as refused:
        await connection.execute("select register_tasks('{w@1}', '{task}', '{q}', '{\"{}\"}', '{}')")
    assert refused.value.sqlstate == "HW016"


async def test_a_run_goes_on_with_the_version_it_began_with(app: App, work: Work, connection: Connection) -> None:
    old, new = App(), App()
    for some in (old, new):
        some.periodic_registry.periodic_tasks.clear()

    async def first(run: Run) -> str:
        await run.wait_for("go")
        return "one"

    old.workflow(name="w", queue="v")(first)
    new.workflow(name="w", queue="v")(first)

    @new.workflow(name="w", queue="v", version=2)
    async def second(run: Run) -> str:
        await run.wait_for("go")
        return "two"

    await work(old)
    (began,) = await rows(connection, "select run_id from enqueue_run('default', 'w', '{}')")
    await work(old)
    await work(new)
    (later,) = await rows(connection, "select run_id from enqueue_run('default', 'w', '{}')")
    assert await rows(connection, "select task, queue from run where id = %s", later) == [("w@2", "v")]
    await work(old)
    assert await state(connection, later) == "queued", "a worker never gets a version that it lacks"
    for run_id in (began, later):
        await send(connection, run_id, "go")
    await work(new)
    assert [await output(connection, run_id) for run_id in (began, later)] == ["one", "two"]


async def test_a_fork_goes_on_from_the_steps_it_keeps(app: App, work: Work, connection: Connection) -> None:
    executed: list[str] = []

    def step(name: str) -> str:
        executed.append(name)
        return f"{name} of {len(executed)}"

    @app.workflow(name="w")
    async def workflow(run: Run) -> list[str]:
        return [await run.step(name, step, name) for name in ("a", "b", "c")]

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    forked = await fork_run(connection, "default", run_id, 2)
    await work(app)
    assert executed == ["a", "b", "c", "c"]
    assert await output(connection, forked) == ["a of 1", "b of 2", "c of 4"]
    assert await output(connection, run_id) == ["a of 1", "b of 2", "c of 3"]


async def test_a_run_begins_at_its_own_start_whatever_ran_before_it_in_its_slot(
    app: App, work: Work, connection: Connection
) -> None:
    seen = ContextVar("seen", default="nothing")

    @app.workflow(name="w", retry=1)
    async def workflow(run: Run) -> str:
        found = seen.get()
        seen.set("what another run left")
        await run.step("a", same, 1)
        if run.failures == 0:
            raise ValueError
        return found

    for _ in range(5):
        await workflow.enqueue_in(connection)
    await work(app, concurrency=1)
    assert await rows(connection, "select distinct after from checkpoint") == [""]
    assert await rows(connection, "select output #>> '{}' from run_history") == ["nothing"] * 5
