"""Promises of durable workflows that were each broken once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from howdah.jobs import App, RetryStrategy, Run
from howdah.sql.pool import Connection
from howdah.sql.queue.calls import cancel_runs
from howdah.sql.workflow.calls import fork_run
from tests.jobs.conftest import Work
from tests.jobs.test_waiting import output, send, state
from tests.sql.engine import rows, value


def same(thing: Any) -> Any:
    return thing


async def test_a_run_that_waited_for_a_slot_has_its_own_history(app: App, work: Work, connection: Connection) -> None:
    @app.workflow(name="w", retry=RetryStrategy(max_attempts=1))
    async def workflow(run: Run, name: str) -> str:
        await run.step(name, same, 1)
        if run.failures == 0:
            raise ValueError
        return name

    ids = [await workflow.enqueue_in(connection, name) for name in "abc"]
    await work(app, concurrency=1)
    assert [await output(connection, run_id) for run_id in ids] == ["a", "b", "c"]
    assert await rows(connection, "select distinct after from checkpoint") == [""]


async def test_a_cancelled_run_may_wait_as_it_tidies_up(app: App, work: Work, connection: Connection) -> None:
    tries: list[int] = []

    async def refund() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError("away")
        return "refunded"

    @app.workflow(name="w")
    async def workflow(run: Run) -> None:
        try:
            await run.wait_for("never")
        finally:
            await run.step("refund", refund, retry=RetryStrategy(max_attempts=2, wait=1.05))
            await run.sleep("pause", timedelta(seconds=1.1))
            await run.step("told", same, "told")

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    await cancel_runs(connection, None, [run_id])
    async with asyncio.timeout(10):
        await work(app)
    assert await state(connection, run_id) == "cancelled"
    assert await value(connection, "select output from checkpoint where step = 'told'") == "told"


async def test_a_fork_hears_what_is_sent_to_it(app: App, work: Work, connection: Connection) -> None:
    @app.workflow(name="w")
    async def workflow(run: Run) -> list[str]:
        return [await run.wait_for("said", str) for _ in range(2)]

    run_id = await workflow.enqueue_in(connection)
    await send(connection, run_id, "said", "one")
    await work(app)
    forked = await fork_run(connection, "default", run_id, 1)
    await work(app)
    assert await state(connection, forked) == "waiting"
    await send(connection, forked, "said", "two")
    await work(app)
    assert await output(connection, forked) == ["one", "two"]


async def test_an_attempt_that_is_over_compensates_nothing(app: App, work: Work, connection: Connection) -> None:
    executed: list[str] = []

    async def charge(run_id: int) -> None:
        executed.append("charge")
        # As if peers had given this worker up meanwhile, and another one had the run.
        await connection.execute("update run set attempt = attempt + 1 where id = %s", [run_id])

    async def refund() -> None:
        executed.append("refund")

    @app.workflow(name="w")
    async def workflow(run: Run) -> None:
        try:
            await run.step("charge", charge, run.id, retry=3)
        except Exception:
            await run.step("refund", refund)
            executed.append("went on")

    await workflow.enqueue_in(connection)
    await work(app)
    assert executed == ["charge"]


async def test_a_steps_output_that_looks_like_a_signal_takes_none(app: App, work: Work, connection: Connection) -> None:
    @app.workflow(name="w")
    async def workflow(run: Run) -> Any:
        await run.step("decoy", same, {"signal": "go", "no": 1, "payload": "nothing"})
        await run.wait_for("first")
        return await run.wait_for("go")

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    await send(connection, run_id, "first")
    await send(connection, run_id, "go", "went")
    await work(app)
    assert await output(connection, run_id) == "went"


async def test_a_fork_whose_children_are_another_runs_sends_its_own(
    app: App, work: Work, connection: Connection
) -> None:
    @app.workflow(name="child", queue="small")
    async def child(run: Run, n: int) -> int:
        return n

    @app.workflow(name="w")
    async def workflow(run: Run) -> list[int]:
        await run.step("a", same, 1)
        return await run.children("all", child, [1, 2])

    run_id = await workflow.enqueue_in(connection)
    await work(app, queues=("default",))
    forked = await fork_run(connection, "default", run_id, 1)
    await work(app, queues=("default",))
    assert await state(connection, forked) == "waiting"
    await work(app)
    assert [await output(connection, r) for r in (run_id, forked)] == [[1, 2], [1, 2]]


class Declined(Exception):
    pass


@pytest.mark.parametrize("shape", ["except", "after", "map"])
async def test_a_failure_that_the_code_went_on_from_stays_a_failure(
    app: App, work: Work, connection: Connection, shape: str
) -> None:
    executed: list[str] = []

    def charge(_: Any = None) -> str:
        executed.append("charge")
        if executed.count("charge") == 1:
            raise Declined("no money", 7)
        return "charged"

    @app.workflow(name="w")
    async def workflow(run: Run) -> list[Any]:
        failed: Declined | None = None
        try:
            if shape == "map":
                await run.map("charge", charge, [1])
            else:
                await run.step("charge", charge)
        except Declined as error:
            failed = error
            if shape == "except":
                await run.step("release", same, "released")
        if failed and shape != "except":
            await run.step("release", same, "released")
        await run.wait_for("go")
        if failed is None:
            await run.step("ship", same, "shipped")
            return ["shipped"]
        return [*failed.args]

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    await send(connection, run_id, "go")
    await work(app)
    assert await output(connection, run_id) == ["no money", 7]
    assert executed == ["charge"]


async def test_a_failure_that_ends_an_attempt_is_tried_again_by_the_next(
    app: App, work: Work, connection: Connection
) -> None:
    executed: list[str] = []

    def charge() -> str:
        executed.append("charge")
        if executed.count("charge") < 3:
            raise Declined
        return "charged"

    @app.workflow(name="w", retry=RetryStrategy(max_attempts=3))
    async def workflow(run: Run) -> str:
        async def slow() -> int:
            await asyncio.sleep(0.01)
            return await run.step("beside", same, 1)

        charged, _ = await asyncio.gather(run.step("charge", charge), slow())
        return charged

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    assert await output(connection, run_id) == "charged"
