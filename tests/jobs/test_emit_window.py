"""`run.emit` into a full session: it waits, holds up nothing else, goes on when there is room, and can be cancelled."""

from __future__ import annotations

import asyncio
import threading

import pytest

from howdah.jobs import App, Run
from howdah.jobs.workflow import session_events
from howdah.jobs.workflow.full_sessions import FullSessions
from howdah.sql.errors import SessionFull
from howdah.sql.pool import Connection, Pool
from howdah.sql.queue.calls import cancel_runs
from howdah.sql.stream.calls import ack_events, create_session, put_consumer
from tests.jobs.conftest import Work
from tests.sql.engine import enqueue, rows, value

TOLD = "select type from event where session_id = 's' order by seq"


async def full_session(connection: Connection, window: int = 1) -> None:
    await create_session(connection, "default", "s", window)
    await put_consumer(connection, "default", "s", "slow", required=True)


async def until(connection: Connection, query: str) -> None:
    async with asyncio.timeout(20):
        while not await value(connection, query):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_an_emit_waits_for_room_without_a_thread_and_other_branches_go_on(
    app: App, work: Work, connection: Connection, pool: Pool
) -> None:
    await full_session(connection)
    refused = asyncio.Event()

    async def beside() -> int:
        await asyncio.sleep(0)
        return threading.active_count()

    @app.workflow(name="w")
    async def workflow(run: Run) -> list[int]:
        async def tell() -> None:
            for number in range(3):
                await run.emit(f"told.{number}")

        threads = [await run.step("before", beside)]
        telling = asyncio.create_task(tell())
        while await value(connection, "select count(*) from event") < 1:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        threads.append(await run.step("beside", beside))
        refused.set()
        await telling
        return threads

    (run_id,) = await enqueue(connection, task="w", session_id="s")
    working = asyncio.create_task(work(app))
    async with asyncio.timeout(20):
        await refused.wait()
    assert await rows(connection, TOLD) == ["told.0"]
    async with pool.connection() as other:
        for seq in (1, 2):
            await ack_events(other, "default", "s", "slow", seq)
            await until(other, f"select last_seq > {seq} from session where id = 's'")
    await working
    assert await rows(connection, TOLD) == ["told.0", "told.1", "told.2", "howdah.run.succeeded"]
    before, beside_it = await value(connection, "select output from run_history where id = %s", run_id)
    assert beside_it <= before


async def test_who_is_told_of_room_looks_at_once_the_longest_waiting_first() -> None:
    sessions = FullSessions()
    waiting = [asyncio.create_task(sessions.wait("default/s", 60)) for _ in range(4)]
    elsewhere = asyncio.create_task(sessions.wait("default/other", 60))
    await asyncio.sleep(0)
    for most, done in ((1, 1), (2, 3), (2, 4)):
        sessions.tell("default/s", most)
        await asyncio.wait(waiting[:done], timeout=10)
        assert [task.done() for task in waiting] == [True] * done + [False] * (4 - done)
    assert not elsewhere.done()
    assert sessions.missed == 1, "told two, where one waited"
    sessions.tell("")
    await asyncio.wait_for(elsewhere, 10)


async def test_an_acknowledgement_wakes_as_many_as_it_makes_room_for(
    app: App, work: Work, connection: Connection, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody looks by himself: only who is told goes on.
    monkeypatch.setattr(session_events, "FULL_PAUSE", (1_000, 1_000))
    wait, waits, all_wait = FullSessions.wait, [], asyncio.Event()

    async def wait_and_tell(self: FullSessions, session: str, seconds: float) -> None:
        waits.append(session)
        if len(waits) == 16:
            all_wait.set()
        await wait(self, session, seconds)

    monkeypatch.setattr(FullSessions, "wait", wait_and_tell)
    await full_session(connection, 8)

    @app.workflow(name="w")
    async def workflow(run: Run) -> None:
        await asyncio.gather(*(run.emit(f"told.{number}") for number in range(24)))

    await enqueue(connection, task="w", session_id="s")
    working = asyncio.create_task(work(app))
    async with pool.connection() as other:
        async with asyncio.timeout(20):
            await all_wait.wait()
            for acked in (1, 2, 8, 16):
                await ack_events(other, "default", "s", "slow", acked)
                await until(other, f"select last_seq >= {acked + 8} from session where id = 's'")
    await working
    # Of those told, as many find the session full again as find room, and one more an acknowledgement, at most.
    assert len(waits) <= 16 + 16 + 4


async def test_a_run_that_waits_for_room_is_cancelled(app: App, work: Work, connection: Connection, pool: Pool) -> None:
    await full_session(connection)
    outcome: list[str] = []

    @app.workflow(name="w")
    async def workflow(run: Run) -> None:
        try:
            await run.emit("first")
            await run.emit("second")
        except asyncio.CancelledError:
            try:
                await run.emit("tidying up")
            except SessionFull as error:
                outcome.append(str(error))
            raise

    (run_id,) = await enqueue(connection, task="w", session_id="s")
    working = asyncio.create_task(work(app))
    async with pool.connection() as other:
        await until(other, "select count(*) = 1 from event")
        await cancel_runs(other, "default", [run_id])
    await working
    assert await value(connection, "select state from run_history where id = %s", run_id) == "cancelled"
    assert await rows(connection, TOLD) == ["first", "howdah.run.cancelled"]
    assert len(outcome) == 1


async def test_a_run_ends_whoever_is_behind(app: App, work: Work, connection: Connection) -> None:
    await full_session(connection)

    @app.workflow(name="w")
    async def workflow(run: Run) -> None:
        await run.emit("only")

    await enqueue(connection, task="w", session_id="s")
    await work(app)
    assert await rows(connection, TOLD) == ["only", "howdah.run.succeeded"]
