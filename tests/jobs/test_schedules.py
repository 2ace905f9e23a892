"""The scheduler: what was missed, what is bad, what @app.periodic made, and a worker that does all this."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import procrastinate
import psycopg
import pytest
from procrastinate.periodic import PeriodicDeferrer

from howdah.jobs import App
from howdah.jobs.schedules import Scheduler
from howdah.sql.pool import Connection
from howdah.sql.schedule.calls import NewSchedule, put_schedule
from tests.jobs.test_worker import at_work, until
from tests.sql.engine import connect, rows, value

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def scheduler(app: App) -> Scheduler:
    return Scheduler(app)


async def at(connection: Connection, moment: datetime) -> None:
    await connection.execute(f"set howdah.now = '{moment.isoformat()}'")


async def put(connection: Connection, name: str, cron: str = "*/5 * * * *", **fields: Any) -> None:
    await put_schedule(connection, NewSchedule("default", name, name, cron, **fields))


async def fired(connection: Connection) -> dict[str, int]:
    """How many runs each task has got."""
    return dict(await rows(connection, "select task, count(*) from run group by task"))


async def test_a_schedule_fires_at_each_of_its_moments_once(scheduler: Scheduler, connection: Connection) -> None:
    await at(connection, NOON)
    await put(connection, "five")
    moments = []
    for seconds in range(0, 1000, 20):
        await at(connection, NOON + timedelta(seconds=seconds))
        await scheduler.run_once(connection)
        moments.append((seconds, (await fired(connection)).get("five", 0)))
    # Noon itself was over when it was put.
    assert [s for (s, n), (_, before) in zip(moments[1:], moments, strict=False) if n > before] == [300, 600, 900]
    assert moments[-1][1] == 3
    assert await value(connection, "select next_at from schedule") == NOON + timedelta(minutes=20)


async def test_what_was_missed_fires_once_for_the_latest_moment_or_not_at_all(
    scheduler: Scheduler, connection: Connection
) -> None:
    await at(connection, NOON)
    await put(connection, "catches-up", missed="last")
    await put(connection, "skips", missed="skip")
    await put(connection, "never-seen-yet")
    await connection.execute(
        "update schedule set next_at = engine_now() + interval '5 minutes' where name <> 'never-seen-yet'"
    )
    await at(connection, NOON + timedelta(days=3, minutes=3))
    await scheduler.run_once(connection)
    assert await fired(connection) == {"catches-up": 1, "never-seen-yet": 1}
    latest, following = NOON + timedelta(days=3), NOON + timedelta(days=3, minutes=5)
    assert await rows(connection, "select name, last_at, next_at from schedule order by name") == [
        ("catches-up", latest, following),
        ("never-seen-yet", latest, following),
        ("skips", None, following),
    ]
    await at(connection, following + timedelta(seconds=30))
    await scheduler.run_once(connection)
    # Half a minute late is not missed.
    assert await fired(connection) == {"catches-up": 2, "never-seen-yet": 2, "skips": 1}


async def test_many_schedulers_fire_each_moment_once(app: App, connection: Connection, conninfo: str) -> None:
    await at(connection, NOON)
    for n in range(150):
        await put(connection, f"s{n}")
    connections = [await connect(conninfo) for _ in range(4)]
    for minutes in (0, 5, 6, 10):
        for each in connections:
            await at(each, NOON + timedelta(minutes=minutes))
        for _ in range(3):
            await asyncio.gather(*(Scheduler(app).run_once(each) for each in connections))
    counts = await fired(connection)
    assert (len(counts), set(counts.values())) == (150, {2})
    for each in connections:
        await each.close()


async def test_a_bad_schedule_says_so_and_does_not_stop_the_others(
    scheduler: Scheduler, connection: Connection
) -> None:
    await at(connection, NOON)
    await connection.execute(
        "insert into schedule (tenant_id, name, task, cron, time_zone) values"
        " ('default', 'cron', 'bad', 'often', 'UTC'), ('default', 'never', 'bad', '0 0 30 2 *', 'UTC'),"
        " ('default', 'zone', 'bad', '* * * * *', 'Mars/Base')"
    )
    await put(connection, "good")
    await scheduler.run_once(connection)
    await at(connection, NOON + timedelta(minutes=5))
    assert await scheduler.run_once(connection) == 1
    assert await fired(connection) == {"good": 1}
    errors = dict(await rows(connection, "select name, error from ops.schedules"))
    assert errors["good"] is None
    assert errors["cron"].startswith("cron 'often' cannot be read")
    assert "names no moment that ever comes" in errors["never"]
    assert "time zone 'Mars/Base' is unknown" in errors["zone"]


async def test_a_run_that_the_engine_refuses_does_not_stop_the_others(
    scheduler: Scheduler, connection: Connection, db: psycopg.Connection
) -> None:
    db.execute("alter table run add constraint no_such_task check (task <> 'bad')")
    await at(connection, NOON)
    for name in ("bad", "good", "better"):
        await put(connection, name)
    await scheduler.run_once(connection)
    await at(connection, NOON + timedelta(minutes=5))
    await scheduler.run_once(connection)
    assert await fired(connection) == {"good": 1, "better": 1}
    assert "no_such_task" in await value(connection, "select error from schedule where name = 'bad'")
    db.execute("alter table run drop constraint no_such_task")
    await at(connection, NOON + timedelta(minutes=10))
    await scheduler.run_once(connection)
    assert await fired(connection) == {"good": 2, "better": 2, "bad": 1}
    assert await value(connection, "select error from schedule where name = 'bad'") is None


def periodic(app: procrastinate.App, cron: str = "*/5 * * * *") -> list[int]:
    """A periodic task of `app`, and the timestamps it runs for."""
    seen: list[int] = []

    @app.periodic(cron=cron, periodic_id="five", priority=4, task_kwargs={"n": 1})
    @app.task(name="tick", queue="ticks", queueing_lock="tick")
    async def tick(timestamp: int, n: int) -> None:
        seen.append(timestamp)

    return seen


async def test_a_periodic_task_is_put_into_the_table_as_it_was_declared(
    app: App, scheduler: Scheduler, connection: Connection
) -> None:
    periodic(app)
    await at(connection, NOON)
    await scheduler.register(connection)
    shown = "select name, task, cron, time_zone, queue, priority, unique_key, args, periodic_id, missed from schedule"
    expected = ("periodic:tick:five", "tick", "*/5 * * * *", "UTC", "ticks", 4, "tick", {"n": 1}, "five", "last")
    assert await rows(connection, shown) == [expected]
    await scheduler.run_once(connection)
    await at(connection, NOON + timedelta(minutes=5))
    await scheduler.run_once(connection)
    timestamp = int((NOON + timedelta(minutes=5)).timestamp())
    assert await rows(connection, "select queue, priority, args from run") == [
        ("ticks", 4, {"n": 1, "timestamp": timestamp})
    ]
    # A worker that starts anew changes nothing, and one of another release takes nothing away.
    before = await rows(connection, "select schedule::text from schedule where task = 'tick'")
    await scheduler.register(connection)
    await Scheduler(App()).register(connection)
    assert await rows(connection, "select schedule::text from schedule where task = 'tick'") == before


async def test_a_paused_periodic_task_stays_paused_when_a_worker_starts(
    app: App, scheduler: Scheduler, connection: Connection
) -> None:
    periodic(app)
    await scheduler.register(connection)
    await connection.execute("select * from pause_schedule('default', 'periodic:tick:five')")
    await scheduler.register(connection)
    assert await value(connection, "select paused from schedule")


async def test_a_periodic_task_that_cannot_be_scheduled_leaves_the_others(
    app: App, scheduler: Scheduler, connection: Connection
) -> None:
    periodic(app)

    @app.periodic(cron="R * * * *")
    @app.task(name="random")
    async def random(timestamp: int) -> None: ...

    @app.periodic(cron="* * * * *")
    @app.task(name="locked", lock="one at a time")
    async def locked(timestamp: int) -> None: ...

    @app.periodic(cron="* * * * *")
    @app.task(name="a name with spaces, and " + "long " * 40)
    async def oddly_named(timestamp: int) -> None: ...

    await scheduler.register(connection)
    names = await rows(connection, "select name from schedule order by task")
    assert len(names) == 3
    assert names[1:] == ["periodic:locked", "periodic:tick:five"]
    assert await rows(connection, "select session_id, on_failure from schedule where task = 'locked'") == [
        ("one at a time", "skip")
    ]
    assert names[0].startswith("periodic:a-name-with-spaces--and-long-long-")


async def test_a_stock_worker_beside_fires_no_moment_again(
    app: App, scheduler: Scheduler, connection: Connection, conninfo: str
) -> None:
    stock = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=conninfo))
    for each in (app, stock):
        periodic(each)
    deferrer = PeriodicDeferrer(stock.periodic_registry)
    await at(connection, NOON)
    await scheduler.register(connection)
    await scheduler.run_once(connection)
    async with stock.open_async():
        for minutes in range(5, 60, 5):
            moment = NOON + timedelta(minutes=minutes, seconds=1)
            await at(connection, moment)
            ours, theirs = scheduler.run_once(connection), _defer(deferrer, moment)
            # Now one is first, now the other.
            for act in (ours, theirs) if minutes % 2 else (theirs, ours):
                await act
            await connection.execute("update run set unique_key = null")
    timestamps = await rows(connection, "select args ->> 'timestamp' from run order by id")
    assert timestamps == [str(int((NOON + timedelta(minutes=m)).timestamp())) for m in range(5, 60, 5)]


async def _defer(deferrer: PeriodicDeferrer, moment: datetime) -> None:
    await deferrer.defer_jobs(deferrer.get_previous_tasks(at=moment.timestamp()))


async def test_a_worker_fires_schedules_and_runs_what_they_bring(
    app: App, connection: Connection, conninfo: str
) -> None:
    seen = periodic(app, "* * * * * *")

    @app.task(name="stored")
    async def stored() -> None: ...

    await put(connection, "stored", "* * * * * *")
    async with at_work(app, conninfo), at_work(app, conninfo):
        await until(connection, "select from run_history where task = 'stored' having count(*) > 1")
        await until(connection, "select from run_history where task = 'tick' having count(*) > 1")
    assert len(seen) == len(set(seen))
