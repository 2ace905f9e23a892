"""A lane's floor passes over dead index entries, and over no run: also not over one whose transaction was slow."""

from __future__ import annotations

from howdah.sql.pool import Connection
from howdah.sql.queue.calls import change_runs
from tests.sql.engine import claim, connect, enqueue, new_worker, outcome, rows, value, write

FLOOR = "select floor_id from lane"
# A floor stays two milliseconds behind the newest id it could pass.
LATER = "select pg_sleep(0.005)"


async def raise_floor(connection: Connection, worker: int) -> None:
    for _ in range(3):
        await enqueue(connection, 1)
        await connection.execute(LATER)
        await enqueue(connection, 2)
        await write(connection, *[outcome(run) for run in await claim(connection, 1, worker=worker)])


async def test_the_floor_follows_what_was_claimed(connection: Connection) -> None:
    worker = await new_worker(connection)
    await raise_floor(connection, worker)
    first = await value(connection, FLOOR)
    await raise_floor(connection, worker)
    assert await value(connection, FLOOR) > first > 0


async def test_a_run_committed_late_is_found_however_far_the_queue_has_gone(
    connection: Connection, conninfo: str
) -> None:
    worker = await new_worker(connection)
    await connection.execute("insert into queue (name) values ('default')")
    await connection.execute("set lock_timeout = '1s'")
    async with await connect(conninfo) as slow:
        async with slow.transaction():
            (late,) = await enqueue(slow)
            for _ in range(4):
                await raise_floor(connection, worker)
        assert late in {run.id for run in await claim(connection, worker=worker)}


async def test_what_comes_back_or_moves_is_found_below_the_floor(connection: Connection) -> None:
    worker = await new_worker(connection)
    (early, moved) = await enqueue(connection, 2)
    (run,) = await claim(connection, 1, worker=worker)
    assert run.id == early
    await change_runs(connection, None, [moved], priority=-5)
    for _ in range(4):
        await raise_floor(connection, worker)
    await write(connection, outcome(run, "retry"))
    assert [again.id for again in await claim(connection, 1, worker=worker)] == [early]
    assert moved in {run.id for run in await claim(connection, worker=worker)}


async def test_a_higher_priority_is_served_above_the_floor_and_a_lower_one_below(connection: Connection) -> None:
    worker = await new_worker(connection)
    for _ in range(4):
        await raise_floor(connection, worker)
    (low,) = await enqueue(connection, priority=-1)
    (high,) = await enqueue(connection, priority=1)
    claimed = [run.id for run in await claim(connection, worker=worker)]
    by_priority = await rows(
        connection, "select r.id from run as r where r.state = 'running' order by r.priority desc, r.id"
    )
    assert set(claimed) == set(by_priority)
    assert (by_priority[0], by_priority[-1]) == (high, low)
    (high,) = await enqueue(connection, priority=1)
    (normal,) = await enqueue(connection)
    assert [run.id for _ in range(2) for run in await claim(connection, 1, worker=worker)] == [high, normal]
