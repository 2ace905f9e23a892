"""Events are kept for days, told as a gap once they are cut off, and go a day at a time; keys hold as long as they."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from howdah.sql.pool import Connection
from howdah.sql.stream.calls import (
    NewEvent,
    SessionNews,
    append_events,
    close_session,
    create_session,
    cut_sessions,
    read_events,
    read_sessions,
    set_tenant_event_days,
)
from tests.sql.engine import connect, enqueue, event, outcome, rows, running, value, write

TODAY = datetime.now(UTC).replace(hour=12)
DAYS = (
    "select inhrelid::regclass::text from pg_inherits where inhparent = 'event'::regclass"
    " and inhrelid::regclass::text ~ '[0-9]$' order by 1"
)


async def day(connection: Connection, number: int, prepare: bool = True) -> None:
    """Move the engine's clock to noon, `number` days after today, with that day's partition or without."""
    await connection.execute(
        "select set_config('howdah.now', %s, false)", [(TODAY + timedelta(days=number)).isoformat()]
    )
    if prepare:
        await connection.execute("select prepare_partitions(0)")


async def append(
    connection: Connection, *keys: str | None, session: str = "s", tenant: str = "default"
) -> list[int | None]:
    """Numbers of events appended, one for each key."""
    await create_session(connection, tenant, session)
    return [a.seq for a in await append_events(connection, [NewEvent(tenant, session, "e", key=key) for key in keys])]


async def cut(connection: Connection, days: int | None, limit: int = 1000) -> None:
    for _ in range(1000):
        if not await value(connection, "select done from cut_sessions(%s, %s)", days, limit):
            return
    pytest.fail("the cut comes to no end")


async def drop(connection: Connection) -> list[str]:
    """Days of events dropped."""
    dropped = []
    while found := await rows(connection, "select * from drop_partitions(null)"):
        assert found[0][1]
        dropped.append(found[0][0])
    return dropped


async def news(connection: Connection, after: int = 0, session: str = "s", tenant: str = "default") -> SessionNews:
    (found,) = await read_sessions(connection, [(tenant, session, after)])
    assert found is not None
    return found


async def name_of(connection: Connection, number: int) -> str:
    return f"event_{TODAY + timedelta(days=number):%Y%m%d}"


async def test_events_go_once_they_are_older_than_is_kept_and_their_reader_is_told(connection: Connection) -> None:
    for number in (0, 1, 5):
        await day(connection, number)
        await append(connection, None, None)
    await day(connection, 6)
    await cut(connection, 6)
    assert (await news(connection)).first_seq == 1, "today's are six days old tomorrow"
    await day(connection, 7)
    await cut(connection, 6)
    found = await news(connection)
    assert (found.first_seq, found.last_seq, [e.seq for e in found.events]) == (3, 6, [3, 4, 5, 6])
    assert [e.seq for e in await read_events(connection, "default", "s")] == [3, 4, 5, 6]
    assert await drop(connection) == [await name_of(connection, 0)]
    assert await value(connection, "select count(*) from event") == 4
    await day(connection, 100)
    await cut(connection, 6)
    found = await news(connection, 2)
    assert (found.first_seq, found.last_seq, found.events) == (7, 6, [])
    assert await append(connection, None) == [7], "an open session goes on counting"
    assert [e.seq for e in (await news(connection)).events] == [7]


async def test_events_are_kept_for_ever_if_nobody_says_otherwise(connection: Connection) -> None:
    await append(connection, None)
    await day(connection, 10_000)
    await cut(connection, None)
    await drop(connection)
    assert (await news(connection)).first_seq == 1
    assert await value(connection, "select count(*) from event") == 1


async def test_a_tenant_keeps_its_events_for_as_long_as_it_says(connection: Connection) -> None:
    for tenant, days in (("short", 2), ("long", 40), ("usual", None)):
        await connection.execute("select create_tenant(%s)", [tenant])
        await set_tenant_event_days(connection, tenant, days)
        await append(connection, None, None, None, tenant=tenant)
    await day(connection, 3)
    await cut(connection, 10, limit=2)
    kept = {t: (await news(connection, tenant=t)).first_seq for t in ("short", "long", "usual")}
    assert kept == {"short": 4, "long": 1, "usual": 1}
    assert await rows(connection, "select distinct tenant_id from event order by 1") == ["long", "usual"]
    await day(connection, 11)
    await cut(connection, 10)
    assert await rows(connection, "select distinct tenant_id from event order by 1") == ["long"]
    assert await name_of(connection, 0) not in await drop(connection)
    await day(connection, 41)
    await cut(connection, 10)
    assert await name_of(connection, 0) in await drop(connection)


async def test_rows_of_the_tenant_that_keeps_longest_are_not_deleted_but_dropped(connection: Connection) -> None:
    await append(connection, None)
    await day(connection, 8)
    await cut(connection, 7)
    assert await value(connection, "select count(*) from event") == 1
    (found,) = await read_sessions(connection, [("default", "s", 0)], since=[TODAY - timedelta(days=1)])
    assert found is not None
    assert found.events == [], "nobody reads it any more"
    assert await name_of(connection, 0) in await drop(connection)


async def test_a_day_without_partition_is_cut_row_by_row(connection: Connection) -> None:
    for name in await rows(connection, DAYS):
        await connection.execute(f"drop table {name}".encode())
    await append(connection, *[None] * 10)
    await day(connection, 8, prepare=False)
    await append(connection, None)
    assert await value(connection, "select count(*) from event_default") == 11
    await cut(connection, 7, limit=3)
    assert await rows(connection, "select seq from event_default") == [11]
    assert (await news(connection)).first_seq == 11


async def test_a_closed_session_goes_with_its_last_event_and_an_open_one_stays(connection: Connection) -> None:
    for session in ("closed", "open", "closed-late", "empty"):
        await append(connection, None, session=session)
    await create_session(connection, "default", "never-used")
    await close_session(connection, "default", "closed")
    await close_session(connection, "default", "never-used")
    await day(connection, 5)
    await close_session(connection, "default", "closed-late")
    await day(connection, 8)
    await cut(connection, 7)
    left = "select id from session order by 1"
    assert await rows(connection, left) == ["closed-late", "empty", "open"]
    await day(connection, 13)
    await cut(connection, 7)
    assert await rows(connection, left) == ["empty", "open"]
    await close_session(connection, "default", "empty")
    await day(connection, 21)
    await cut(connection, 7)
    assert await rows(connection, left) == ["open"], "closed after all was cut"


async def test_a_session_that_is_made_again_has_nothing_of_the_old_one(connection: Connection) -> None:
    await append(connection, "k", None)
    await close_session(connection, "default", "s")
    await day(connection, 8)
    await cut(connection, 7)
    assert await value(connection, "select count(*) from event") == 2, "their day is not dropped yet"
    assert await append(connection, "k") == [1]
    assert [e.seq for e in (await news(connection)).events] == [1]


async def test_a_runs_own_session_goes_when_the_run_is_over(connection: Connection) -> None:
    done, live = await running(connection, 2)
    await write(connection, event(done), event(live), outcome(done))
    await day(connection, 8)
    await cut(connection, 7)
    assert await rows(connection, "select id, first_seq from session") == [(f"run:{live.id}", 2)]
    await write(connection, event(live), outcome(live))
    assert (await news(connection, 1, f"run:{live.id}")).last_seq == 2
    await day(connection, 16)
    await cut(connection, 7)
    assert await rows(connection, "select id from session") == []


async def test_a_session_that_somebody_writes_to_is_cut_the_next_time(connection: Connection, conninfo: str) -> None:
    await append(connection, None)
    await day(connection, 8)
    async with await connect(conninfo) as other, other.transaction():
        await day(other, 8)
        await append(other, None)
        assert await cut_sessions(connection, 7) == 0
        await drop(connection)
    assert await value(connection, "select count(*) from event") == 2
    await cut(connection, 7)
    assert (await news(connection)).first_seq == 2


async def test_a_key_holds_as_long_as_its_event_is_kept(connection: Connection) -> None:
    assert await append(connection, "k", None) == [1, 2]
    await day(connection, 6)
    assert await append(connection, "k", "l") == [1, 3]
    await day(connection, 7)
    await cut(connection, 6)
    await drop(connection)
    assert await append(connection, "k", "l") == [4, 3]


async def test_a_runs_key_holds_however_old_the_run_is(connection: Connection) -> None:
    (run,) = await running(connection)
    await write(connection, event(run, key=f"{run.id}/a"), event(run, key="plain"))
    await day(connection, 5)
    await write(connection, event(run, key=f"{run.id}/a"), event(run, key="plain"), event(run, key=f"{run.id}/b"))
    assert await value(connection, "select count(*) from event") == 3


async def test_a_key_that_a_client_used_before_the_run_was_there_is_seen(connection: Connection) -> None:
    await append(connection, "k")
    await day(connection, 2)
    await enqueue(connection, session_id="s")
    (run,) = await running(connection, 1, session_id="s")
    await write(connection, event(run, key="k"))
    assert await value(connection, "select count(*) from event") == 1


async def test_time_does_not_go_back_within_a_session_when_the_clock_does(connection: Connection) -> None:
    await day(connection, 1)
    await append(connection, None)
    (run,) = await running(connection, 1, session_id="s")
    await day(connection, 0)
    await append(connection, None)
    await write(connection, event(run, key=f"{run.id}/a"), event(run, key=f"{run.id}/a"))
    times = await rows(connection, "select created_at from event order by seq")
    assert len(times) == 3
    assert times == sorted(times)
    assert times[0] == TODAY + timedelta(days=1)
    await write(connection, event(run, key=f"{run.id}/a"))
    assert await value(connection, "select count(*) from event") == 3


async def test_a_reader_who_knows_when_it_saw_the_last_event_misses_none(connection: Connection) -> None:
    seen: list[int] = []
    since: datetime | None = None
    for number in range(4):
        await day(connection, number)
        await append(connection, None, None, None)
        place = ("default", "s", seen[-1] if seen else 0)
        (found,) = await read_sessions(connection, [place], 2, [since])
        assert found is not None
        seen += [e.seq for e in found.events]
        since = found.events[-1].created_at
    (found,) = await read_sessions(connection, [("default", "s", seen[-1])], 100, [since])
    assert found is not None
    assert seen + [e.seq for e in found.events] == list(range(1, 13))


async def test_days_are_cut_and_dropped_under_load_and_nothing_that_is_kept_is_lost(
    connection: Connection, conninfo: str
) -> None:
    for number in range(6):
        await day(connection, number)
        for session in "abcd":
            await append(connection, *[None] * 5, session=session)
    await day(connection, 8)
    stop = asyncio.Event()
    written = dict.fromkeys("abcd", 30)

    async def produce(session: str) -> None:
        async with await connect(conninfo) as mine:
            await day(mine, 8)
            while not stop.is_set():
                (number,) = await append(mine, None, session=session)
                written[session] += 1
                assert number == written[session]

    async def follow(session: str) -> None:
        async with await connect(conninfo) as mine:
            while not stop.is_set():
                found = await news(mine, 25, session)
                assert [e.seq for e in found.events] == list(range(26, found.last_seq + 1))[:500]

    async with asyncio.TaskGroup() as group:
        for session in "abcd":
            group.create_task(produce(session))
            group.create_task(follow(session))
        dropped: list[str] = []
        async with asyncio.timeout(60):
            while len(dropped) < 5 or min(written.values()) < 60:
                await cut_sessions(connection, 3)
                found = await rows(connection, "select * from drop_partitions(null)")
                dropped += [name for name, gone in found if gone]
                await asyncio.sleep(0)
        stop.set()
    for session in "abcd":
        found = await news(connection, 0, session)
        assert (found.first_seq, found.last_seq) == (26, written[session])
