"""What readers of a live session are promised, whatever happens to hints, connections and their own pace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import psycopg
import pytest

from howdah.app.realtime import hub as hub_module
from howdah.app.realtime.hub import MAX_BUFFERED_BYTES, MAX_BUFFERED_EVENTS, Hub, Reader, TooManyReaders
from howdah.sql.pool import Pool
from howdah.sql.stream.calls import NewEvent, SessionNews, append_events, close_session, create_session

SESSION = "case-7"
# Fails a test that waits for what never comes; nothing here takes long.
PATIENCE = 20


@pytest.fixture
async def hub(pool: Pool, conninfo: str) -> AsyncIterator[Hub]:
    async with pool.connection() as connection:
        await create_session(connection, "default", SESSION)
    async with Hub(pool, conninfo, "howdah") as started:
        yield started


async def append(pool: Pool, count: int, *, session: str = SESSION, notify: bool = True, data: str = "{}") -> None:
    async with pool.connection() as connection:
        events = [NewEvent("default", session, "note.added", data) for _ in range(count)]
        await append_events(connection, events, notify=notify)


async def close(pool: Pool, session: str = SESSION) -> None:
    async with pool.connection() as connection:
        await close_session(connection, "default", session)


async def take(reader: Reader, count: int) -> list[int]:
    """Numbers of the next `count` events, or of those until the end."""
    numbers: list[int] = []
    async with asyncio.timeout(PATIENCE):
        while len(numbers) < count:
            try:
                numbers += [event.seq for event in await anext(reader)]
            except StopAsyncIteration:
                break
    return numbers


def through(last: int) -> list[int]:
    return list(range(1, last + 1))


async def listeners(pool: Pool) -> list[int]:
    """Backends that listen for this database's hub, as soon as there are any."""
    async with asyncio.timeout(PATIENCE), pool.connection() as connection:
        while True:
            cursor = await connection.execute(
                "select pid from pg_stat_activity where application_name = 'howdah-hub'"
                " and datname = current_database() and state = 'idle' and query like 'listen %'"
            )
            if pids := [row[0] for row in await cursor.fetchall()]:
                return pids


async def test_a_reader_gets_every_event_once_and_in_order(hub: Hub, pool: Pool) -> None:
    await append(pool, 3)
    async with hub.subscribe("default", SESSION) as reader:
        assert await take(reader, 3) == [1, 2, 3]
        writers = [asyncio.create_task(append(pool, 7)) for _ in range(20)]
        assert await take(reader, 140) == list(range(4, 144))
        await asyncio.gather(*writers)


async def test_a_reader_who_joins_mid_stream_goes_on_where_it_was(hub: Hub, pool: Pool) -> None:
    writers = [asyncio.create_task(append(pool, 10)) for _ in range(10)]
    async with hub.subscribe("default", SESSION) as first:
        seen = await take(first, 30)
    async with hub.subscribe("default", SESSION, after=seen[-1]) as second:
        seen += await take(second, 100 - len(seen))
    await asyncio.gather(*writers)
    assert seen == through(100)


async def test_a_lost_hint_costs_latency_and_no_event(hub: Hub, pool: Pool) -> None:
    async with hub.subscribe("default", SESSION) as reader:
        await listeners(pool)
        await append(pool, 1)
        assert await take(reader, 1) == [1]
        await append(pool, 4, notify=False)
        assert await take(reader, 4) == [2, 3, 4, 5]


async def test_a_hint_without_a_name_means_look_at_everything(
    hub: Hub, pool: Pool, db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hub.subscribe("default", SESSION) as reader:
        await append(pool, 1)
        assert await take(reader, 1) == [1]
        # From its next turn on the poll sees nobody, so that only the hint can bring the event.
        monkeypatch.setattr(hub_module, "MAX_POLLED", 0)
        await listeners(pool)
        await append(pool, 1, notify=False)
        db.execute("select pg_notify('howdah.events', '')")
        assert await take(reader, 1) == [2]


async def test_a_hint_during_a_query_is_not_lost(hub: Hub, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "MAX_POLLED", 0)
    heard = asyncio.Event()
    read, look = hub_module.read_sessions, hub.look

    async def read_and_linger(*arguments: Any) -> list[SessionNews | None]:
        """The log as it was before an event whose hint arrives before the answer does."""
        news = await read(*arguments)
        monkeypatch.setattr(hub_module, "read_sessions", read)
        heard.clear()
        await append(pool, 1)
        await asyncio.wait_for(heard.wait(), PATIENCE)
        return news

    def look_and_tell(readers: Iterable[Reader]) -> None:
        look(readers)
        heard.set()

    async with hub.subscribe("default", SESSION) as reader:
        await listeners(pool)
        await append(pool, 1)
        assert await take(reader, 1) == [1]
        monkeypatch.setattr(hub, "look", look_and_tell)
        monkeypatch.setattr(hub_module, "read_sessions", read_and_linger)
        await append(pool, 1)
        assert await take(reader, 2) == [2, 3]


async def test_nothing_is_lost_when_the_listening_connection_is_cut(
    hub: Hub, pool: Pool, db: psycopg.Connection
) -> None:
    async with hub.subscribe("default", SESSION) as reader:
        seen: list[int] = []
        for round_ in range(1, 6):
            db.execute("select pg_terminate_backend(pid) from unnest(%s::integer[]) as pid", [await listeners(pool)])
            await append(pool, 4)
            seen += await take(reader, 4)
            assert seen == through(4 * round_)


async def test_a_slow_reader_is_bounded_and_misses_nothing(hub: Hub, pool: Pool) -> None:
    async with hub.subscribe("default", SESSION) as slow, hub.subscribe("default", SESSION) as quick:
        for _ in range(10):
            await append(pool, 200)
        assert await take(quick, 2000) == through(2000)
        held = await anext(slow)
        assert len(held) <= MAX_BUFFERED_EVENTS
        seen = [event.seq for event in held]
        seen += await take(slow, 2000 - len(seen))
        assert seen == through(2000)


async def test_a_slow_reader_of_large_events_is_bounded_by_their_bytes(hub: Hub, pool: Pool) -> None:
    large = '"' + "x" * 200_000 + '"'
    await append(pool, 30, data=large)
    async with hub.subscribe("default", SESSION) as slow, hub.subscribe("default", SESSION) as quick:
        assert await take(quick, 30) == through(30)
        held = await anext(slow)
        assert sum(len(event.data) for event in held) < MAX_BUFFERED_BYTES + len(large)
        assert [event.seq for event in held] + await take(slow, 30 - len(held)) == through(30)


async def test_a_closed_session_ends_after_its_last_event(hub: Hub, pool: Pool) -> None:
    async with hub.subscribe("default", SESSION) as reader:
        await append(pool, 1000)
        await close(pool)
        assert await take(reader, 2000) == through(1000)
        assert reader.end == "closed"


async def test_a_session_that_does_not_exist_yet_is_waited_for(hub: Hub, pool: Pool) -> None:
    async with hub.subscribe("default", "later") as reader:
        async with pool.connection() as connection:
            await create_session(connection, "default", "later")
        await append(pool, 2, session="later")
        assert await take(reader, 2) == [1, 2]


async def test_the_stream_of_a_run_ends_with_the_run(hub: Hub, pool: Pool, db: psycopg.Connection) -> None:
    row = db.execute("select run_id from enqueue_run('default', 'invoice.send')").fetchone()
    assert row is not None
    async with hub.subscribe("default", f"run:{row[0]}") as reader:
        db.execute("select claim_runs(w.worker_id, '{default}', 1) from register_worker('w', '{default}') as w")
        db.execute(
            "select * from flush(%s, '{1,1}', '{event,outcome}', '{note.added,succeeded}', array['{}', '{}'],"
            " '{null,null}', '{null,null}')",
            [[row[0], row[0]]],
        )
        assert await take(reader, 2) == [1]
        assert reader.end == "closed"


async def test_readers_of_one_tenant_never_see_another_s_session_of_the_same_name(
    hub: Hub, pool: Pool, db: psycopg.Connection
) -> None:
    db.execute("select create_tenant('acme')")
    db.execute("select create_session('acme', %s)", [SESSION])
    db.execute("select append_event('acme', %s, 'secret.told')", [SESSION])
    async with hub.subscribe("default", SESSION) as reader, hub.subscribe("acme", SESSION) as other:
        await append(pool, 1)
        assert [event.type for event in await anext(reader)] == ["note.added"]
        assert [event.type for event in await anext(other)] == ["secret.told"]


async def test_an_idle_reader_holds_no_pooled_connection(hub: Hub, pool: Pool) -> None:
    async with asyncio.timeout(PATIENCE):
        streams = [hub.subscribe("default", SESSION) for _ in range(pool.max_size * 5)]
        readers = [await stream.__aenter__() for stream in streams]
        await append(pool, 1)
        assert [await take(reader, 1) for reader in readers] == [[1]] * len(readers)
        for stream in streams:
            await stream.__aexit__(None, None, None)
    assert hub.readers == 0


async def test_a_reader_too_many_is_refused(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "MAX_READERS", 1)
    async with hub.subscribe("default", SESSION):
        with pytest.raises(TooManyReaders):
            async with hub.subscribe("default", SESSION):
                pass
    async with hub.subscribe("default", SESSION):
        pass


async def test_readers_stop_when_the_process_does(hub: Hub, pool: Pool) -> None:
    await append(pool, 3)
    async with hub.subscribe("default", SESSION) as reader, hub.subscribe("default", SESSION) as idle:
        assert await take(idle, 3) == through(3)
        hub.closing.set()
        assert await take(idle, 1) == []
        assert idle.end == "stopping"
        assert await take(reader, 4) in ([], through(3))
    async with hub.subscribe("default", SESSION) as late:
        assert await take(late, 1) == []


async def test_a_database_that_fails_for_a_while_costs_no_event(hub: Hub, pool: Pool, db: psycopg.Connection) -> None:
    async with hub.subscribe("default", SESSION) as reader:
        await append(pool, 1)
        assert await take(reader, 1) == [1]
        db.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
        db.execute("select append_event('default', %s, 'note.added')", [SESSION])
        assert await take(reader, 1) == [2]
