"""What a step's options promise: its own retries, its time-out, and SQL that commits with its checkpoint."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from howdah.jobs import App, NonRetryableError, RetryStrategy, Run
from howdah.sql.pool import Connection
from tests.jobs.conftest import Work
from tests.jobs.test_waiting import output, pass_time, state
from tests.sql.engine import rows, value


async def test_a_step_tries_again_by_itself(app: App, work: Work, connection: Connection) -> None:
    tries: list[str] = []

    async def flaky(name: str, times: int) -> int:
        tries.append(name)
        if tries.count(name) < times:
            raise ConnectionError(name)
        return tries.count(name)

    @app.workflow(name="w")
    async def workflow(run: Run) -> list[Any]:
        got: list[Any] = [await run.step("soon", flaky, "soon", 3, retry=5)]
        for name, error in (("never", NonRetryableError), ("out", ConnectionError)):
            try:
                await run.step(name, refuse if name == "never" else flaky, name, 9, retry=2)
            except error as caught:
                got.append(type(caught).__name__)
        return [*got, run.attempt]

    async def refuse(name: str, _: int) -> int:
        tries.append(name)
        raise NonRetryableError(name)

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    assert await output(connection, run_id) == [3, "NonRetryableError", "ConnectionError", 1]
    assert [tries.count(name) for name in ("soon", "never", "out")] == [3, 1, 3]


async def test_a_steps_long_pause_holds_no_worker_and_counts_on(app: App, work: Work, connection: Connection) -> None:
    tries: list[int] = []

    async def flaky() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError("away")
        return "there"

    @app.workflow(name="w")
    async def workflow(run: Run) -> str:
        return await run.step("s", flaky, retry=RetryStrategy(max_attempts=2, wait=3600))

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    assert await state(connection, run_id) == "waiting"
    assert "away" in await value(connection, "select output->>'error' from checkpoint where step = 's#failed-1'")
    for _ in range(2):
        await connection.execute(
            "update checkpoint set output = jsonb_set(output, '{until}', to_jsonb(now()))"
            " where output->>'until' is not null"
        )
        await pass_time(connection, run_id)
        await work(app)
    assert await output(connection, run_id) == "there"
    assert len(tries) == 3


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_a_step_that_takes_too_long_has_failed(app: App, work: Work, connection: Connection, kind: str) -> None:
    async def slow() -> None:
        await asyncio.sleep(10)

    def slow_thread() -> None:
        time.sleep(0.5)

    @app.workflow(name="w")
    async def workflow(run: Run) -> str:
        try:
            await run.step("s", slow if kind == "async" else slow_thread, timeout=timedelta(milliseconds=50))
        except TimeoutError:
            return "too long"
        return "in time"

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    assert await output(connection, run_id) == "too long"


@pytest.mark.parametrize("kind", ["psycopg", "sqlalchemy"])
async def test_a_transactions_sql_is_there_with_its_checkpoint_or_not_at_all(
    app: App, work: Work, connection: Connection, database_url: str, kind: str
) -> None:
    await connection.execute("create table public.paid (run_id bigint, amount integer)")
    engine = create_async_engine(database_url.replace("postgresql://", "postgresql+psycopg://"))

    async def pay(with_: Connection, run_id: int, amount: int) -> int:
        await with_.execute("insert into public.paid values (%s, %s)", [run_id, amount])
        return amount

    async def pay_by_sqlalchemy(with_: AsyncConnection, run_id: int, amount: int) -> int:
        await with_.execute(text("insert into public.paid values (:r, :a)"), {"r": run_id, "a": amount})
        return amount

    async def pay_and_fail(with_: Any, run_id: int, amount: int) -> int:
        await (pay if kind == "psycopg" else pay_by_sqlalchemy)(with_, run_id, amount)
        raise ConnectionError("after the insert")

    @app.workflow(name="w", retry=2)
    async def workflow(run: Run) -> int:
        if kind == "psycopg":
            if run.failures == 0:
                await run.transaction("pay", pay_and_fail, run.id, 7)
            paid = await run.transaction("pay", pay, run.id, 7)
        else:
            if run.failures == 0:
                await run.sqlalchemy_transaction("pay", engine, pay_and_fail, run.id, 7)
            paid = await run.sqlalchemy_transaction("pay", engine, pay_by_sqlalchemy, run.id, 7)
        if run.failures == 1:
            raise ValueError
        return paid

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    await engine.dispose()
    assert await output(connection, run_id) == 7
    assert await rows(connection, "select * from public.paid") == [(run_id, 7)]


async def test_a_stale_transaction_writes_nothing(app: App, work: Work, connection: Connection) -> None:
    await connection.execute("create table public.paid (run_id bigint)")

    async def pay(with_: Connection, run_id: int) -> None:
        await with_.execute("insert into public.paid values (%s)", [run_id])
        # As if peers had given this worker up meanwhile, and another one had the run.
        await connection.execute("update run set attempt = attempt + 1 where id = %s", [run_id])

    @app.workflow(name="w")
    async def workflow(run: Run) -> None:
        await run.transaction("pay", pay, run.id)

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    assert await state(connection, run_id) == "queued", "the worker gave it back as it left"
    assert await value(connection, "select count(*) from public.paid") == 0


async def test_a_map_is_bounded_and_repeats_only_what_was_not_finished(
    app: App, work: Work, connection: Connection
) -> None:
    executed: list[int] = []
    under_way = most = 0

    async def item(n: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            await asyncio.sleep(0.005)
        finally:
            under_way -= 1  # also where the map ends it
        if n == 13 and 13 not in executed:
            executed.append(n)
            raise ConnectionError
        executed.append(n)
        return -n

    @app.workflow(name="w", retry=1)
    async def workflow(run: Run) -> list[int]:
        return await run.map("m", item, range(20), limit=4)

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    assert await output(connection, run_id) == [-n for n in range(20)]
    assert most == 4
    assert sorted(n for n in executed if executed.count(n) > 1) in ([13, 13],)
