"""Schedules in SQL: put, paused, due, and fired once, whoever tries."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from howdah.sql.pool import Connection, Pool
from howdah.sql.queue.calls import OnFailure
from howdah.sql.schedule import calls
from howdah.sql.schedule.calls import DueSchedule, Firing, NewSchedule, due_schedules, fire_schedules, put_schedule
from tests.sql.engine import connect, enqueue, rows, until_blocked, value

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
async def clock(connection: Connection) -> Connection:
    """The connection, whose clock stands at noon."""
    await at(connection, NOON)
    return connection


async def at(connection: Connection, moment: datetime) -> None:
    await connection.execute(f"set howdah.now = '{moment.isoformat()}'")


async def put(connection: Connection, name: str = "report", **fields: Any) -> bool:
    return await put_schedule(connection, NewSchedule("default", name, "t", **{"cron": "0 * * * *", **fields}))


async def due(connection: Connection) -> list[DueSchedule]:
    return await due_schedules(connection, 100)


async def due_at_noon(connection: Connection, *names: str, **fields: Any) -> list[DueSchedule]:
    """Schedules that were to fire at noon, and it is noon now."""
    for name in names or ("report",):
        await put(connection, name, **fields)
    await connection.execute("update schedule set next_at = engine_now()")
    return await due(connection)


def firing(schedule: DueSchedule, moment: datetime | None = NOON, error: str | None = None) -> Firing:
    return Firing(schedule, moment, None if error else NOON + HOUR, error)


async def fields(connection: Connection, *names: str) -> Any:
    (row,) = await rows(connection, f"select {', '.join(names)} from schedule")
    return row


async def refusal(connection: Connection, name: str = "report", **fields: Any) -> str | None:
    with pytest.raises(psycopg.Error) as refused:
        await put(connection, name, **fields)
    return refused.value.sqlstate


async def test_a_new_schedule_is_due_to_be_worked_out(clock: Connection) -> None:
    assert await put(clock, time_zone="Europe/Berlin")
    (schedule,) = await due(clock)
    assert (schedule.name, schedule.cron, schedule.time_zone) == ("report", "0 * * * *", "Europe/Berlin")
    assert (schedule.counts_from, schedule.next_at, schedule.now) == (NOON, None, NOON)
    assert await fire_schedules(clock, [firing(schedule, None)]) == 1
    assert await due(clock) == []
    assert await fields(clock, "next_at", "last_at", "error") == (NOON + HOUR, None, None)
    assert await value(clock, "select count(*) from run") == 0


async def test_what_plain_sql_wrote_is_due_as_well(clock: Connection) -> None:
    await clock.execute("insert into schedule (tenant_id, name, task, cron) values ('default', 's', 't', 'no cron')")
    assert [(schedule.name, schedule.counts_from) for schedule in await due(clock)] == [("s", NOON)]


async def test_a_moment_brings_its_run_as_the_schedule_says(clock: Connection) -> None:
    (schedule,) = await due_at_noon(clock, args='{"n": 1}', queue="mail", priority=7)
    assert await fire_schedules(clock, [firing(schedule)]) == 1
    (run,) = await rows(clock, "select id, tenant_id, queue, task, state, priority, args from run")
    assert run[1:] == ("default", "mail", "t", "queued", 7, {"n": 1})
    assert await fields(clock, "next_at", "last_at", "last_run_id") == (NOON + HOUR, NOON, run[0])


@pytest.mark.parametrize("order", ["skip", "block", None])
async def test_its_runs_have_the_schedules_session_and_order(clock: Connection, order: OnFailure | None) -> None:
    for schedule in await due_at_noon(clock, "a", "b", session_id="s", order=order):
        assert await fire_schedules(clock, [firing(schedule)]) == 1
    assert await rows(clock, "select session_id, on_failure, state from run order by id") == [
        ("s", order, "queued"),
        ("s", order, "blocked" if order else "queued"),
    ]


async def test_a_moment_fires_once_however_many_schedulers_saw_it(clock: Connection, conninfo: str) -> None:
    seen = await due_at_noon(clock, *(f"s{n}" for n in range(20)))
    schedulers = [await connect(conninfo) for _ in range(6)]
    moved = await asyncio.gather(*(fire_schedules(each, [firing(s) for s in seen]) for each in schedulers))
    # One who finds a schedule held leaves it alone; its holder fires it.
    assert sum(moved) == 20
    assert await value(clock, "select count(*) from run") == 20
    assert await fire_schedules(clock, [firing(s) for s in seen]) == 0
    for each in schedulers:
        await each.close()


async def test_a_schedule_that_someone_is_about_to_fire_is_left_alone(clock: Connection, conninfo: str) -> None:
    (schedule,) = await due_at_noon(clock)
    first = await connect(conninfo)
    async with first.transaction(force_rollback=True):
        assert await fire_schedules(first, [firing(schedule)]) == 1
        assert await fire_schedules(clock, [firing(schedule)]) == 0
    assert await value(clock, "select count(*) from run") == 0
    assert await fire_schedules(clock, [firing(schedule)]) == 1
    await first.close()


@pytest.mark.parametrize(
    "change",
    [
        "select * from put_schedule('default', 'report', 't', '5 * * * *')",
        "select * from pause_schedule('default', 'report')",
        "select * from delete_schedule('default', 'report')",
        "update schedule set paused = true",
    ],
)
async def test_a_change_counts_against_a_scheduler_that_looked_before_it(clock: Connection, change: str) -> None:
    (schedule,) = await due_at_noon(clock)
    await at(clock, NOON + timedelta(seconds=1))
    await clock.execute(change.encode())
    assert await fire_schedules(clock, [firing(schedule)]) == 0
    assert await value(clock, "select count(*) from run") == 0


async def test_a_change_before_the_first_moment_counts_against_a_scheduler_as_well(clock: Connection) -> None:
    await put(clock)
    (schedule,) = await due(clock)
    await at(clock, NOON + timedelta(seconds=1))
    await put(clock, cron="5 * * * *")
    assert await fire_schedules(clock, [firing(schedule, None)]) == 0
    assert len(await due(clock)) == 1


async def test_a_change_of_the_cron_counts_anew_and_other_changes_keep_the_moment(clock: Connection) -> None:
    await due_at_noon(clock)
    await at(clock, NOON + HOUR)
    assert not await put(clock, args='{"n": 2}')
    assert await fields(clock, "next_at", "counts_from", "args") == (NOON, NOON, {"n": 2})
    assert not await put(clock, cron="5 * * * *")
    assert await fields(clock, "next_at", "counts_from", "args") == (None, NOON + HOUR, {})
    await clock.execute("update schedule set next_at = engine_now()")
    assert not await put(clock, cron="5 * * * *", time_zone="Asia/Tokyo")
    assert await fields(clock, "next_at", "time_zone") == (None, "Asia/Tokyo")


async def test_putting_the_same_again_changes_nothing(clock: Connection) -> None:
    await due_at_noon(clock)
    before = await fields(clock, "xmin::text", "schedule::text")
    await at(clock, NOON + HOUR)
    assert not await put(clock)
    assert await fields(clock, "xmin::text", "schedule::text") == before


async def test_a_paused_schedule_is_never_due_and_counts_anew_when_resumed(clock: Connection) -> None:
    await due_at_noon(clock)
    await calls.pause_schedule(clock, "default", "report", True)
    assert await due(clock) == []
    await at(clock, NOON + HOUR)
    assert not await put(clock, cron="5 * * * *")
    assert await due(clock) == []
    await calls.pause_schedule(clock, "default", "report", False)
    (schedule,) = await due(clock)
    assert (schedule.counts_from, schedule.next_at) == (NOON + HOUR, None)
    await fire_schedules(clock, [firing(schedule, None)])
    await calls.pause_schedule(clock, "default", "report", False)
    assert await fields(clock, "next_at", "paused") == (NOON + HOUR, False)


async def test_what_stands_still_with_an_error_is_not_due_until_it_is_put_again(clock: Connection) -> None:
    (schedule,) = await due_at_noon(clock)
    await fire_schedules(clock, [firing(schedule, None, "cron cannot be read")])
    assert await due(clock) == []
    assert await fields(clock, "next_at", "error") == (None, "cron cannot be read")
    await put(clock)
    assert [s.next_at for s in await due(clock)] == [None]
    assert await fields(clock, "error", "next_at") == (None, None)


async def test_a_moment_brings_no_run_while_the_one_before_is_queued(clock: Connection) -> None:
    await enqueue(clock, unique_key="report")
    (schedule,) = await due_at_noon(clock, unique_key="report")
    assert await fire_schedules(clock, [firing(schedule)]) == 1
    assert await value(clock, "select count(*) from run") == 1
    assert await fields(clock, "next_at", "last_at", "error") == (
        NOON + HOUR,
        None,
        "a run with its uniqueness key was still queued",
    )


async def test_a_moment_that_finds_its_queue_full_is_lost_and_the_next_one_is_tried(clock: Connection) -> None:
    await clock.execute("""select * from set_queue_limits('mail', '{"max_queued": 0}')""")
    full, free = await due_at_noon(clock, "full", "free")
    await clock.execute("update schedule set queue = 'mail' where name = 'full'")
    assert await fire_schedules(clock, [firing(full), firing(free)]) == 2
    assert await rows(clock, "select name, error, next_at from schedule order by name") == [
        ("free", None, NOON + HOUR),
        ("full", "its queue was full", NOON + HOUR),
    ]
    assert await value(clock, "select count(*) from run") == 1


async def test_a_run_out_of_turn_leaves_the_moments_as_they_are(clock: Connection) -> None:
    await due_at_noon(clock, args='{"n": 1}')
    await calls.pause_schedule(clock, "default", "report", True)
    before = await fields(clock, "schedule::text")
    run_id = await calls.run_schedule(clock, "default", "report")
    assert await rows(clock, "select id, args from run") == [(run_id, {"n": 1})]
    assert await fields(clock, "schedule::text") == before


async def test_a_schedule_that_was_removed_is_unknown(clock: Connection) -> None:
    await put(clock)
    assert await calls.delete_schedule(clock, "default", "report")
    assert not await calls.delete_schedule(clock, "default", "report")
    for act in (calls.pause_schedule(clock, "default", "report", True), calls.run_schedule(clock, "default", "report")):
        with pytest.raises(psycopg.Error) as refused:
            await act
        assert refused.value.sqlstate == "HW019"


async def test_what_cannot_be_kept_is_refused_with_a_code(clock: Connection) -> None:
    for bad in ("", "-a", "a b", "ä", "a" * 129):
        assert await refusal(clock, bad) == "HW020"
    for zone in ("Mars/Base", "europe/berlin", "MSK", "UTC+3"):
        assert await refusal(clock, time_zone=zone) == "HW020"
    assert await refusal(clock, missed="all") == "HW020"
    assert await refusal(clock, queue="no queue") == "HW020"
    assert await refusal(clock, args="[]") == "HW020"
    assert await refusal(clock, cron="*" * 201) == "HW020"
    with pytest.raises(psycopg.Error) as refused:
        await put_schedule(clock, NewSchedule("nobody", "s", "t", "* * * * *"))
    assert refused.value.sqlstate == "HW009"
    assert await value(clock, "select count(*) from schedule") == 0


async def test_only_so_many_are_due_at_a_time_and_the_oldest_first(clock: Connection) -> None:
    await due_at_noon(clock, *(f"s{n}" for n in range(5)))
    await clock.execute("update schedule set next_at = next_at - interval '1 hour' where name in ('s3', 's4')")
    await put(clock, "new")
    assert {schedule.name for schedule in await due_schedules(clock, 2)} == {"s3", "s4"}
    assert len(await due_schedules(clock, 6)) == 6


async def test_a_periodic_one_shares_procrastinates_guard(clock: Connection, conninfo: str, pool: Pool) -> None:
    defer = "select procrastinate_defer_periodic_job_v2('default', null, null, 't', 0, 'id', %s, '{}')"
    (schedule,) = await due_at_noon(clock, periodic_id="id", args='{"n": 1}')
    stock = await connect(conninfo)
    async with clock.transaction():
        assert await fire_schedules(clock, [firing(schedule)]) == 1
        # A stock worker that comes for the same moment at the same time waits, and then gets nothing.
        waiting = asyncio.create_task(value(stock, defer, int(NOON.timestamp())))
        async with pool.connection() as watcher:
            await until_blocked(watcher, stock)
    assert await waiting is None
    assert await rows(clock, "select args from run") == [{"n": 1, "timestamp": int(NOON.timestamp())}]
    # The other way round: the stock worker was first.
    later = NOON + HOUR
    assert await value(stock, defer, int(later.timestamp())) is not None
    await at(clock, later)
    (schedule,) = await due(clock)
    assert await fire_schedules(clock, [Firing(schedule, later, later + HOUR)]) == 1
    assert await value(clock, "select count(*) from run") == 2
    assert await fields(clock, "next_at", "last_at", "error") == (later + HOUR, NOON, None)
    await stock.close()


async def test_the_look_for_due_schedules_goes_through_the_index(db: psycopg.Connection) -> None:
    db.execute(
        "insert into schedule (tenant_id, name, task, cron, next_at) select 'default', 's' || n, 't', '* * * * *',"
        " now() + n * interval '1 minute' from generate_series(1, 5000) as n"
    )
    db.execute("analyze schedule")
    body = db.execute("select prosrc from pg_proc where proname = 'due_schedules'").fetchone()
    assert body is not None
    plan = "\n".join(line for (line,) in db.execute(f"explain {body[0].replace('p_limit', '100')}".encode()))
    assert plan.count("schedule_next_idx") == 2, plan
    assert "Seq Scan on schedule" not in plan
