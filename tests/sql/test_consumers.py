"""Consumers: their places only go forward, and producers of a session with a window wait for the required ones."""

from __future__ import annotations

import asyncio
import random
from datetime import datetime, timedelta

import psycopg
import pytest

from howdah.sql.errors import HowdahError, NoSuchEvent, SessionFull, UnknownConsumer, UnknownSession, from_psycopg
from howdah.sql.pool import Connection
from howdah.sql.stream.calls import (
    NewEvent,
    ack_events,
    append_events,
    create_session,
    cut_sessions,
    delete_consumer,
    put_consumer,
    read_consumer,
    set_event_window,
)
from tests.sql.engine import checkpoint, connect, event, outcome, rows, running, value, write


@pytest.fixture(autouse=True)
async def session(connection: Connection) -> str:
    await create_session(connection, "default", "s")
    return "s"


async def append(connection: Connection, count: int = 1, *keys: str, session: str = "s") -> list[str]:
    events = [NewEvent("default", session, "e", key=key) for key in keys or [None] * count]
    return [appended.status for appended in await append_events(connection, events)]


async def put(connection: Connection, name: str = "c", *, required: bool = True, first: int | None = 1) -> bool:
    return await put_consumer(connection, "default", "s", name, required=required, first=first)


async def ack(connection: Connection, seq: int, name: str = "c") -> int:
    return (await ack_events(connection, "default", "s", name, seq)).seq


async def refused(connection: Connection, query: str, *parameters: object) -> HowdahError | None:
    with pytest.raises(psycopg.Error) as raised:
        await rows(connection, query, *parameters)
    return from_psycopg(raised.value)


async def test_an_acknowledgement_is_cumulative_and_never_goes_back(connection: Connection) -> None:
    await append(connection, 5)
    await put(connection)
    assert [await ack(connection, seq) for seq in (2, 4, 3, 0, -7, 5, 5)] == [2, 4, 4, 4, 4, 5, 5]
    assert (await read_consumer(connection, "default", "s", "c")).lag == 0


@pytest.mark.parametrize("required", [True, False])
async def test_what_cannot_be_acknowledged_is_refused_and_changes_nothing(
    connection: Connection, required: bool
) -> None:
    await append(connection, 2)
    await put(connection, required=required)
    # Another tenant's session of the same name has more.
    await connection.execute("select create_tenant('acme'), create_session('acme', 's')")
    await connection.execute("select append_event('acme', 's', 'e') from generate_series(1, 3)")
    call = "select ack_events(%s, %s, %s, %s)"
    assert isinstance(await refused(connection, call, "default", "s", "c", 3), NoSuchEvent)
    assert isinstance(await refused(connection, call, "default", "s", "c", (1 << 63) - 1), NoSuchEvent)
    assert isinstance(await refused(connection, call, "default", "s", "nobody", 1), UnknownConsumer)
    assert isinstance(await refused(connection, call, "default", "nowhere", "c", 1), UnknownSession)
    assert isinstance(await refused(connection, call, "acme", "s", "c", 1), UnknownConsumer)
    assert isinstance(await refused(connection, call, "nobody", "s", "c", 1), UnknownSession)
    assert (await read_consumer(connection, "default", "s", "c")).acked_seq == 0


async def test_a_consumer_keeps_its_place_when_it_is_put_again(connection: Connection) -> None:
    await append(connection, 5)
    assert await put(connection, first=3)
    assert not await put(connection, required=False, first=1)
    found = await read_consumer(connection, "default", "s", "c")
    assert (found.acked_seq, found.required, found.lag) == (2, False, 3)
    await put(connection, "later", first=None)
    assert (await read_consumer(connection, "default", "s", "later")).lag == 0
    call = "select put_consumer('default', 's', 'x', false, %s)"
    for first in (0, 7):
        assert isinstance(await refused(connection, call, first), NoSuchEvent)


async def test_producers_wait_for_the_slowest_required_consumer_and_no_other(connection: Connection) -> None:
    await set_event_window(connection, "default", "s", 3)
    assert set(await append(connection, 10)) == {"created"}, "nobody is required"
    await put(connection, "one", first=None)
    await put(connection, "two", first=None)
    await put(connection, "idle", required=False, first=1)
    assert await append(connection, 5) == ["created"] * 3 + ["full"] * 2
    await ack(connection, 13, "one")
    assert await append(connection) == ["full"], "two is as far behind"
    await ack(connection, 11, "two")
    assert await append(connection, 2) == ["created", "full"]
    assert await delete_consumer(connection, "default", "s", "two")
    assert await append(connection, 3) == ["created", "created", "full"]
    await put(connection, "one", required=False)
    assert await append(connection, 9) == ["created"] * 9
    assert await value(connection, "select acked_seq from session") is None
    assert await rows(connection, "select seq from event order by seq") == list(range(1, 26))


async def test_a_key_that_was_seen_needs_no_room(connection: Connection) -> None:
    await set_event_window(connection, "default", "s", 2)
    await put(connection)
    assert await append(connection, 0, "a", "b", "c", "a", "c") == ["created", "created", "full", "existing", "full"]


async def test_a_full_session_keeps_no_other_out(connection: Connection) -> None:
    await create_session(connection, "default", "free")
    await set_event_window(connection, "default", "s", 1)
    await put(connection)
    batch = [NewEvent("default", name, "e") for name in ("s", "free", "s", "free")]
    assert [a.status for a in await append_events(connection, batch)] == ["created", "created", "full", "created"]


async def test_one_event_too_many_raises_and_says_who_is_behind(connection: Connection) -> None:
    await set_event_window(connection, "default", "s", 2)
    await put(connection, "slow")
    await append(connection, 2)
    error = await refused(connection, "select append_event('default', 's', 'e')")
    assert isinstance(error, SessionFull)
    assert "'slow' is 2 events behind, of a window of 2" in str(error)


async def test_what_retention_cut_off_is_no_lag(connection: Connection) -> None:
    await set_event_window(connection, "default", "s", 2)
    await put(connection)
    await append(connection, 2)
    await connection.execute("select set_config('howdah.now', (now() + interval '9 days')::text, false)")
    await cut_sessions(connection, 7)
    assert await append(connection, 3) == ["created", "created", "full"]
    assert (await read_consumer(connection, "default", "s", "c")).lag == 2


async def test_a_run_s_full_event_and_what_follows_it_is_not_written_and_its_neighbours_are(
    connection: Connection,
) -> None:
    await set_event_window(connection, "default", "s", 1)
    await put(connection)
    (full,) = await running(connection, 1, session_id="s")
    (other,) = await running(connection)
    statuses = await write(
        connection,
        checkpoint(full, "before"),
        event(full, "fits", key="1"),
        event(full, "full", key="2"),
        checkpoint(other, "theirs"),
        checkpoint(full, "after"),
        event(full, "full too", key="3"),
        event(other),
        event(full, "howdah.run.succeeded", key="4"),
        outcome(full),
        outcome(other),
    )
    assert statuses == ["ok", "ok", "full", "ok", "full", "full", "ok", "full", "full", "ok"]
    assert sorted(await rows(connection, "select step from checkpoint")) == ["before", "theirs"]
    assert await rows(connection, "select id from run") == [full.id]
    assert await rows(connection, "select seq, type from event where session_id = 's'") == [(1, "fits")]
    assert await write(connection, event(full, "howdah.run.succeeded", key="4"), outcome(full)) == ["ok"] * 2
    assert await rows(connection, "select seq from event where session_id = 's' order by seq") == [1, 2]


async def test_operators_see_who_is_behind(connection: Connection) -> None:
    await set_event_window(connection, "default", "s", 3)
    await put(connection)
    await append(connection, 3)
    await connection.execute("select set_config('howdah.now', (now() + interval '1 hour')::text, false)")
    await ack(connection, 0)
    ((name, lag, behind, full),) = await rows(connection, "select name, lag, behind, is_full from ops.consumers")
    assert (name, lag, full) == ("c", 3, True)
    assert behind > timedelta(minutes=59)
    assert isinstance(await value(connection, "select acked_at from ops.consumers"), datetime)


async def test_a_crowd_that_acknowledges_and_appends_keeps_the_count_true(
    connection: Connection, conninfo: str
) -> None:
    await set_event_window(connection, "default", "s", 20)
    for number in range(3):
        await put(connection, f"c{number}", first=None)
    await append(connection, 5)
    broken: list[str] = []

    async def act(seed: int) -> None:
        chance = random.Random(seed)
        async with await connect(conninfo) as mine:
            for _ in range(60):
                name = f"c{chance.randrange(3)}"
                what = chance.random()
                if what < 0.4:
                    await append(mine, chance.randrange(1, 6))
                elif what < 0.85:
                    last = await value(mine, "select last_seq from session")
                    try:
                        await ack(mine, max(0, last - chance.randrange(10)), name)
                    except psycopg.Error as error:
                        assert isinstance(from_psycopg(error), UnknownConsumer)  # noqa: PT017 - deleted meanwhile
                elif what < 0.95:
                    await put(mine, name, required=chance.random() < 0.7, first=None)
                else:
                    await delete_consumer(mine, "default", "s", name)

    async def watch() -> None:
        async with await connect(conninfo) as mine:
            while True:
                found = await rows(
                    mine, "select s.acked_seq, (select min(acked_seq) from consumer where required) from session as s"
                )
                if found[0][0] != found[0][1]:
                    broken.append(str(found))
                await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    async with asyncio.timeout(60):
        await asyncio.gather(*(act(seed) for seed in range(6)))
    watching.cancel()
    assert not broken, broken[:3]
    assert await value(connection, "select count(*) = max(seq) from event")
