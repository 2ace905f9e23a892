"""Slots: how many runs a worker has under way, what it has claimed ahead, and what becomes of that."""

from __future__ import annotations

import asyncio

from howdah.jobs import App
from howdah.sql.pool import Connection
from howdah.sql.queue.calls import cancel_runs
from tests.jobs.conftest import Work
from tests.jobs.test_worker import at_work, until
from tests.sql.engine import enqueue, rows, value


async def test_no_more_runs_are_under_way_than_there_are_slots(app: App, work: Work, connection: Connection) -> None:
    under_way, most = 0, 0

    @app.task(name="brief")
    async def brief() -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.001)
        under_way -= 1

    await enqueue(connection, 2000, task="brief")
    worker = await work(app, concurrency=20)
    assert worker.finished == 2000
    assert most == 20


def held_after(app: App, count: int) -> tuple[list[int], asyncio.Event]:
    """Gives `app` the task `brief`: the numbers that it was started with, and what those from `count` on wait for."""
    started: list[int] = []
    hold = asyncio.Event()

    @app.task(name="brief")
    async def brief(number: int) -> None:
        started.append(number)
        if number >= count:
            await hold.wait()

    return started, hold


async def test_what_was_claimed_ahead_goes_back_when_the_worker_leaves(
    app: App, conninfo: str, connection: Connection
) -> None:
    started, _ = held_after(app, 300)
    for number in range(400):
        await enqueue(connection, task="brief", args=f'{{"number": {number}}}')
    async with at_work(app, conninfo, concurrency=10):
        await until(connection, "select from run where state = 'running' having count(*) > 10")
        await until(connection, "select from run having count(*) = 100")
    assert sorted(started) == list(range(310))
    assert await rows(connection, "select distinct state from run") == ["queued"]
    assert await value(connection, "select count(*) from run") == 100


async def test_a_run_cancelled_while_it_waits_for_a_slot_never_starts(
    app: App, conninfo: str, connection: Connection
) -> None:
    started, hold = held_after(app, 300)
    ids = []
    for number in range(400):
        ids += await enqueue(connection, task="brief", args=f'{{"number": {number}}}')
    async with at_work(app, conninfo, concurrency=10, heartbeat=0.1):
        await until(connection, "select from run having count(*) = 100")
        waiting = await rows(connection, "select id from run where state = 'running' order by id offset 10")
        assert waiting
        await cancel_runs(connection, None, waiting)
        await asyncio.sleep(0.5)
        hold.set()
        await until(connection, "select where not exists (select from run)")
    cancelled = await rows(connection, "select id from run_history where state = 'cancelled' order by id")
    assert cancelled == sorted(waiting)
    assert not {ids.index(run_id) for run_id in waiting} & set(started)
