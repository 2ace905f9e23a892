"""The engine keeps itself in order: its own periodic tasks, run by any worker like everybody's."""

from __future__ import annotations

from datetime import timedelta

import pytest
from procrastinate import App as StockApp
from procrastinate import PsycopgConnector

from howdah.jobs import App
from howdah.jobs.schedules import Scheduler
from howdah.sql.pool import Connection
from tests.jobs.conftest import Work
from tests.sql.engine import enqueue, rows, value

TASKS = ("prepare_partitions", "cut_old_events", "drop_old_history", "expire_idempotency_keys", "sweep")
OLD_DAY = "run_history_20200101"


async def maintain(connection: Connection, work: Work, app: App, task: str) -> None:
    """Run one of the tasks as its schedule would bring it."""
    await enqueue(connection, task=f"howdah:{task}", queue="howdah", args='{"timestamp": 0}')
    await work(app)
    query = "select state, error ->> 'traceback' from run_history where task = %s"
    assert await rows(connection, query, f"howdah:{task}") == [("succeeded", None)]


async def old_day(connection: Connection) -> None:
    await connection.execute(
        f"create table {OLD_DAY} partition of run_history for values from ('2020-01-01') to ('2020-01-02')".encode()
    )


async def exists(connection: Connection, table: str) -> bool:
    return await value(connection, "select to_regclass(%s) is not null", table)


async def test_every_app_has_the_tasks_and_a_worker_schedules_them(connection: Connection) -> None:
    App()  # a second app's names are the same
    app = App()
    crons = {p.task.name: p.cron for p in app.periodic_registry.periodic_tasks.values()}
    assert crons.keys() == {f"howdah:{task}" for task in TASKS}
    assert {app.tasks[name].queue for name in crons} == {"howdah"}

    await connection.execute("set howdah.now = '2030-01-01 12:00:30'")
    await Scheduler(app).register(connection)
    await Scheduler(app).run_once(connection)
    await connection.execute("set howdah.now = '2030-01-01 12:01:00'")
    await Scheduler(app).run_once(connection)
    assert await rows(connection, "select task, queue, unique_key from run") == [
        ("howdah:sweep", "howdah", "howdah:sweep")
    ]
    await connection.execute("set howdah.now = '2030-01-01 13:00:00'")
    await Scheduler(app).run_once(connection)
    waiting = await rows(connection, "select task from run order by task")
    assert waiting == sorted(crons), "once each, however late"


async def test_a_worker_of_other_queues_serves_them_too(app: App, work: Work, connection: Connection) -> None:
    await enqueue(connection, task="howdah:sweep", queue="howdah", args='{"timestamp": 0}')
    await work(app, queues=("elsewhere",))
    assert await rows(connection, "select task, state from run_history") == [("howdah:sweep", "succeeded")]


async def test_a_sweep_brings_back_a_stranded_run_and_tells(app: App, work: Work, connection: Connection) -> None:
    @app.task(name="t")
    async def task() -> None: ...

    await enqueue(connection)
    await connection.execute("delete from lane")
    await maintain(connection, work, app, "sweep")
    await work(app)
    assert await value(connection, "select state from run_history where task = 't'") == "succeeded"
    output = await value(connection, "select output from run_history where task = 'howdah:sweep'")
    assert output["queued run without lane"] == 1


TOMORROW = "select 'run_history' || to_char(engine_now() at time zone 'utc' + interval '1 day', '_YYYYMMDD')"


async def test_a_worker_that_starts_prepares_the_week(app: App, work: Work, connection: Connection) -> None:
    tomorrow = await value(connection, TOMORROW)
    await connection.execute(f"drop table {tomorrow}".encode())
    await work(app)
    assert await exists(connection, tomorrow)


async def test_days_are_prepared_while_a_worker_works(app: App, work: Work, connection: Connection) -> None:
    tomorrow = await value(connection, TOMORROW)

    @app.task(name="lose")
    async def lose() -> None:
        await connection.execute(f"drop table {tomorrow}".encode())
        await enqueue(connection, task="howdah:prepare_partitions", queue="howdah", args='{"timestamp": 0}')

    await enqueue(connection, task="lose")
    await work(app)
    assert await rows(connection, "select distinct state from run_history") == ["succeeded"]
    assert await exists(connection, tomorrow)


@pytest.mark.parametrize(("retention", "kept"), [(None, True), (timedelta(days=30), False)])
async def test_history_is_kept_as_long_as_the_worker_is_told(
    app: App, work: Work, connection: Connection, retention: timedelta | None, kept: bool
) -> None:
    await old_day(connection)
    app.retention = retention
    await maintain(connection, work, app, "drop_old_history")
    assert await exists(connection, OLD_DAY) is kept


async def test_a_caller_cannot_say_how_long_history_is_kept(app: App) -> None:
    (entry,) = [entry for entry in app.task_entries() if entry.name == "howdah:drop_old_history"]
    assert '"properties":{"timestamp"' in entry.args_schema
    assert '"additionalProperties":false' in entry.args_schema


async def test_a_day_in_use_is_left_for_the_next_hour(
    app: App, work: Work, connection: Connection, pool: object
) -> None:
    await old_day(connection)
    app.retention = timedelta(days=30)
    async with connection.transaction():
        await connection.execute(f"select from {OLD_DAY}".encode())
        async with pool.connection() as other:
            await maintain(other, work, app, "drop_old_history")
            assert await exists(other, OLD_DAY)


async def test_idempotency_keys_go_when_their_window_is_over(app: App, work: Work, connection: Connection) -> None:
    await enqueue(connection, idempotency_key="old", task="nobodys")
    await enqueue(connection, idempotency_key="new", task="nobodys")
    await connection.execute("update idempotency_key set expires_at = now() where key = 'old'")
    await maintain(connection, work, app, "expire_idempotency_keys")
    assert await rows(connection, "select key from idempotency_key") == ["new"]


async def test_a_stock_worker_of_all_queues_leaves_them_to_howdahs(connection: Connection, conninfo: str) -> None:
    """It has no such task, and would fail them."""
    await enqueue(connection, task="howdah:sweep", queue="howdah", args='{"timestamp": 0}')
    stock = StockApp(connector=PsycopgConnector(conninfo=conninfo))
    async with stock.open_async():
        await stock.run_worker_async(wait=False, listen_notify=False)
    assert await rows(connection, "select state from run") == ["queued"]
