"""What readers of a live session are promised, whatever happens to hints, connections and their own pace."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from howdah.app.realtime import frames
from howdah.app.realtime import hub as hub_module
from howdah.app.realtime import rounds as rounds_module
from howdah.app.realtime.hub import Hub
from howdah.app.realtime.reader import MAX_BUFFERED_BYTES, MAX_BUFFERED_EVENTS, Reader, Seat
from howdah.sql.pool import Connection, Pool
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


@contextmanager
def subscribed(
    hub: Hub, tenant: str = "default", *sessions: str, after: int = 0, types: set[str] | None = None
) -> Iterator[Reader]:
    """A reader that the hub feeds."""
    sessions = sessions or (SESSION,)
    reader = Reader(tenant, sessions, [after] * len(sessions), None if types is None else frozenset(types))
    hub.add(reader)
    try:
        yield reader
    finally:
        hub.remove(reader)


def events_in(chunk: bytes) -> list[dict[str, Any]]:
    """The events that a chunk of a stream holds."""
    return [
        json.loads(line.removeprefix("data: ")) for line in chunk.decode().split("\n") if line.startswith("data: {")
    ]


async def next_chunk(hub: Hub, reader: Reader) -> bytes:
    """What a client would be sent now."""
    chunk = await reader.next()
    hub.make_room(reader)
    return chunk


async def take(hub: Hub, reader: Reader, count: int) -> list[int]:
    """Numbers of the next `count` events, or of those until the end."""
    numbers: list[int] = []
    async with asyncio.timeout(PATIENCE):
        while len(numbers) < count:
            chunk = await next_chunk(hub, reader)
            if not chunk:
                break
            numbers += [int(event["sequence"]) for event in events_in(chunk)]
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
    with subscribed(hub) as reader:
        assert await take(hub, reader, 3) == [1, 2, 3]
        writers = [asyncio.create_task(append(pool, 7)) for _ in range(20)]
        assert await take(hub, reader, 140) == list(range(4, 144))
        await asyncio.gather(*writers)


async def test_a_reader_who_joins_mid_stream_goes_on_where_it_was(hub: Hub, pool: Pool) -> None:
    writers = [asyncio.create_task(append(pool, 10)) for _ in range(10)]
    with subscribed(hub) as first:
        seen = await take(hub, first, 30)
    with subscribed(hub, after=seen[-1]) as second:
        seen += await take(hub, second, 100 - len(seen))
    await asyncio.gather(*writers)
    assert seen == through(100)


async def test_a_lost_hint_costs_latency_and_no_event(hub: Hub, pool: Pool) -> None:
    with subscribed(hub) as reader:
        await listeners(pool)
        await append(pool, 1)
        assert await take(hub, reader, 1) == [1]
        await append(pool, 4, notify=False)
        assert await take(hub, reader, 4) == [2, 3, 4, 5]


async def test_a_hint_without_a_name_means_look_at_everything(
    hub: Hub, pool: Pool, db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subscribed(hub) as reader:
        await append(pool, 1)
        assert await take(hub, reader, 1) == [1]
        # From its next turn on the poll is away, so that only the hint can bring the event.
        monkeypatch.setattr(rounds_module, "TURN_SECONDS", 1_000)
        await listeners(pool)
        await append(pool, 1, notify=False)
        db.execute("select pg_notify('howdah.events', '')")
        assert await take(hub, reader, 1) == [2]


async def test_a_hint_during_a_query_is_not_lost(hub: Hub, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds_module, "TURN_SECONDS", 1_000)
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

    def look_and_tell(seats: Iterable[Seat]) -> None:
        look(seats)
        heard.set()

    with subscribed(hub) as reader:
        await listeners(pool)
        await append(pool, 1)
        assert await take(hub, reader, 1) == [1]
        monkeypatch.setattr(hub, "look", look_and_tell)
        monkeypatch.setattr(hub_module, "read_sessions", read_and_linger)
        await append(pool, 1)
        assert await take(hub, reader, 2) == [2, 3]


async def test_nothing_is_lost_when_the_listening_connection_is_cut(
    hub: Hub, pool: Pool, db: psycopg.Connection
) -> None:
    with subscribed(hub) as reader:
        seen: list[int] = []
        for round_ in range(1, 6):
            db.execute("select pg_terminate_backend(pid) from unnest(%s::integer[]) as pid", [await listeners(pool)])
            await append(pool, 4)
            seen += await take(hub, reader, 4)
            assert seen == through(4 * round_)


async def test_a_slow_reader_is_bounded_and_misses_nothing(hub: Hub, pool: Pool) -> None:
    with subscribed(hub) as slow, subscribed(hub, "default") as quick:
        for _ in range(10):
            await append(pool, 200)
        assert await take(hub, quick, 2000) == through(2000)
        seen = [int(event["sequence"]) for event in events_in(await next_chunk(hub, slow))]
        assert 0 < len(seen) <= MAX_BUFFERED_EVENTS
        seen += await take(hub, slow, 2000 - len(seen))
        assert seen == through(2000)


async def test_a_slow_reader_of_large_events_is_bounded_by_their_bytes(hub: Hub, pool: Pool) -> None:
    large = '"' + "x" * 200_000 + '"'
    await append(pool, 30, data=large)
    with subscribed(hub) as slow, subscribed(hub, "default") as quick:
        assert await take(hub, quick, 30) == through(30)
        held = await next_chunk(hub, slow)
        assert len(held) < MAX_BUFFERED_BYTES + len(large) + 1_000
        seen = [int(event["sequence"]) for event in events_in(held)]
        assert seen + await take(hub, slow, 30 - len(seen)) == through(30)


async def test_a_closed_session_ends_after_its_last_event(hub: Hub, pool: Pool) -> None:
    with subscribed(hub) as reader:
        await append(pool, 1000)
        await close(pool)
        assert await take(hub, reader, 2000) == through(1000)
        assert reader.end == "closed"


async def test_a_session_that_does_not_exist_yet_is_waited_for(hub: Hub, pool: Pool) -> None:
    with subscribed(hub, "default", "later") as reader:
        async with pool.connection() as connection:
            await create_session(connection, "default", "later")
        await append(pool, 2, session="later")
        assert await take(hub, reader, 2) == [1, 2]


async def test_the_stream_of_a_run_ends_with_the_run(hub: Hub, pool: Pool, db: psycopg.Connection) -> None:
    row = db.execute("select run_id from enqueue_run('default', 'invoice.send')").fetchone()
    assert row is not None
    with subscribed(hub, "default", f"run:{row[0]}") as reader:
        db.execute("select claim_runs(w.worker_id, '{default}', 1) from register_worker('w', '{default}') as w")
        db.execute(
            "select * from flush(%s, '{1,1}', '{event,outcome}', '{note.added,succeeded}', array['{}', '{}'],"
            " '{null,null}', '{null,null}')",
            [[row[0], row[0]]],
        )
        assert await take(hub, reader, 2) == [1]
        assert reader.end == "closed"


async def test_readers_of_one_tenant_never_see_another_s_session_of_the_same_name(
    hub: Hub, pool: Pool, db: psycopg.Connection
) -> None:
    db.execute("select create_tenant('acme')")
    db.execute("select create_session('acme', %s)", [SESSION])
    db.execute("select append_event('acme', %s, 'secret.told')", [SESSION])
    with subscribed(hub) as reader, subscribed(hub, "acme") as other:
        await append(pool, 1)
        assert [event["type"] for event in events_in(await reader.next())] == ["note.added"]
        assert [event["type"] for event in events_in(await other.next())] == ["secret.told"]


async def test_an_idle_reader_holds_no_pooled_connection(hub: Hub, pool: Pool) -> None:
    async with asyncio.timeout(PATIENCE):
        with ExitStack() as stack:
            readers = [stack.enter_context(subscribed(hub)) for _ in range(pool.max_size * 5)]
            await append(pool, 1)
            assert [await take(hub, reader, 1) for reader in readers] == [[1]] * len(readers)
    assert hub.readers == 0


async def test_one_reader_of_many_sessions_gets_each_in_its_order(hub: Hub, pool: Pool) -> None:
    sessions = [f"s{number}" for number in range(50)]
    async with pool.connection() as connection:
        for session in sessions:
            await create_session(connection, "default", session)
    with subscribed(hub, "default", *sessions) as reader:
        await asyncio.gather(*(append(pool, 20, session=session) for session in sessions))
        seen: dict[str, list[int]] = {session: [] for session in sessions}
        async with asyncio.timeout(PATIENCE):
            while sum(map(len, seen.values())) < 1000:
                chunk = await next_chunk(hub, reader)
                for event in events_in(chunk):
                    seen[event["source"].rpartition("/")[2]].append(int(event["sequence"]))
        assert seen == {session: through(20) for session in sessions}
        [*_, last] = [line for line in chunk.decode().split("\n") if line.startswith("id: ")]
        assert reader.cursor.read(last.removeprefix("id: ")) == [20] * 50


async def test_a_filtered_reader_is_told_how_far_it_is_without_the_events_between(
    hub: Hub, pool: Pool, db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds_module, "TURN_SECONDS", 0.01)
    with subscribed(hub, types={"wanted"}) as reader:
        await append(pool, 5)
        db.execute("select append_event('default', %s, 'wanted')", [SESSION])
        assert await take(hub, reader, 1) == [6]
        await append(pool, 3)
        async with asyncio.timeout(PATIENCE):
            while reader.cursor.read((await next_chunk(hub, reader)).decode().removeprefix("id: ").rstrip()) != [9]:
                pass


async def test_a_cut_in_the_history_is_told_before_what_comes_after_it(
    hub: Hub, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await append(pool, 6)

    async def read_what_is_left(*arguments: Any) -> list[SessionNews | None]:
        [news] = await read_sessions(*arguments)
        assert news is not None
        return [replace(news, first_seq=4, events=[event for event in news.events if event.seq >= 4])]

    read_sessions = hub_module.read_sessions
    monkeypatch.setattr(hub_module, "read_sessions", read_what_is_left)
    with subscribed(hub, after=1) as reader:
        chunk = (await next_chunk(hub, reader)).decode()
    gap, *rest = chunk.split("\n\n")
    name, data = gap.split("\n")[1:]
    assert name == "event: howdah.gap"
    assert json.loads(data.removeprefix("data: ")) == {"session": SESSION, "from": f"{2:020}", "to": f"{3:020}"}
    assert reader.cursor.read(gap.split("\n")[0].removeprefix("id: ")) == [3]
    assert [int(event["sequence"]) for event in events_in("\n\n".join(rest).encode())] == [4, 5, 6]


async def test_a_partial_event_reaches_who_listens_now_and_carries_no_id(
    hub: Hub, pool: Pool, db: psycopg.Connection
) -> None:
    with subscribed(hub) as reader, subscribed(hub, "default", "elsewhere") as other:
        await listeners(pool)
        db.execute(
            "select pg_notify('howdah.partials', %s)", [f'default/{SESSION} {{"type": "answer", "data": "Good mor"}}']
        )
        async with asyncio.timeout(PATIENCE):
            while (chunk := await reader.next()) == frames.ALIVE:
                pass
        assert b"id: " not in chunk
        [partial] = events_in(chunk)
        assert (partial["type"], partial["partial"], partial["data"]) == ("answer", True, "Good mor")
        await append(pool, 1)
        assert await take(hub, reader, 1) == [1]
        other.finish("stopping")
        assert await other.next() == b""


async def test_a_client_that_takes_nothing_is_let_go_and_told(
    hub: Hub, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds_module, "TURN_SECONDS", 0.01)
    monkeypatch.setattr(rounds_module, "SLOW_SECONDS", 0.05)
    with subscribed(hub) as stuck, subscribed(hub) as quick:
        await append(pool, 1)
        assert await take(hub, quick, 1) == [1]
        stuck.sending_since = asyncio.get_running_loop().time()
        async with asyncio.timeout(PATIENCE):
            while stuck.end is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert (stuck.end, quick.end) == ("slow", None)
        assert await stuck.next() == b"", "what waited for it is still held"
        await append(pool, 1)
        assert await take(hub, quick, 1) == [2]


def readers_in_memory() -> int:
    gc.collect()
    return sum(isinstance(each, Reader) for each in gc.get_objects())


async def test_a_first_look_that_is_given_up_leaves_nothing(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    back = asyncio.Event()
    asked: list[list[str]] = []

    async def fail_first(connection: Connection, places: Sequence[tuple[str, str, int]], *rest: Any) -> Any:
        asked.append([session for _, session, _ in places])
        if len(asked) == 1:
            await back.wait()
            raise psycopg.OperationalError("the database is away")
        return await read_sessions(connection, places, *rest)

    read_sessions = hub_module.read_sessions
    monkeypatch.setattr(hub_module, "read_sessions", fail_first)
    before = readers_in_memory()
    for number in range(3):  # The first one is being looked for, the others wait for that.
        looking = asyncio.create_task(hub.first_look(Reader("default", [f"s{number}"], [0], None)))
        await asyncio.wait([looking], timeout=0.1)
        looking.cancel()
        await asyncio.wait([looking])
        assert looking.cancelled()
    del looking
    assert readers_in_memory() - before == 1
    back.set()
    async with asyncio.timeout(PATIENCE):
        await hub.first_look(Reader("default", [SESSION], [0], None))
    assert asked == [["s0"], [SESSION]]


async def test_readers_stop_when_the_process_does(hub: Hub, pool: Pool) -> None:
    await append(pool, 3)
    with subscribed(hub) as reader, subscribed(hub, "default") as idle:
        assert await take(hub, idle, 3) == through(3)
        hub.close()
        assert await take(hub, idle, 1) == []
        assert idle.end == "stopping"
        assert await take(hub, reader, 4) in ([], through(3))
    with subscribed(hub) as late:
        assert await take(hub, late, 1) == []


async def test_a_database_that_fails_for_a_while_costs_no_event(hub: Hub, pool: Pool, db: psycopg.Connection) -> None:
    with subscribed(hub) as reader:
        await append(pool, 1)
        assert await take(hub, reader, 1) == [1]
        db.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
        db.execute("select append_event('default', %s, 'note.added')", [SESSION])
        assert await take(hub, reader, 1) == [2]
