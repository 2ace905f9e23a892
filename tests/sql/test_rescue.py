"""What a rescue promises: a dead worker's runs go on elsewhere, and a worker that only slept changes nothing more."""

from __future__ import annotations

from datetime import timedelta

from howdah.sql.pool import Connection
from howdah.sql.queue.calls import Heartbeat, heartbeat, rescue_runs, unregister_worker
from tests.sql.engine import checkpoint, claim, connect, enqueue, new_worker, outcome, rows, running, states, write

STALE = timedelta(seconds=15)


async def pass_time(connection: Connection, time: timedelta) -> None:
    await connection.execute("select set_config('howdah.now', (clock_timestamp() + %s)::text, false)", [time])


async def test_a_silent_workers_runs_go_back_to_the_queue(connection: Connection) -> None:
    lost = await running(connection, 3)
    await pass_time(connection, STALE * 2)
    assert await rescue_runs(connection, STALE) == (1, 3)
    assert {state for _, state in await states(connection)} == {"queued"}
    assert await rows(connection, "select id from worker") == []
    again = await claim(connection)
    assert sorted((run.id, run.attempt, run.failures) for run in again) == [(run.id, 2, 0) for run in lost]
    assert await rows(connection, "select distinct deaths from run") == [1]


async def test_a_worker_that_speaks_keeps_its_runs(connection: Connection) -> None:
    worker = await new_worker(connection)
    await enqueue(connection)
    await claim(connection, worker=worker)
    await pass_time(connection, STALE * 2)
    assert await heartbeat(connection, worker) == Heartbeat(
        alive=True, cancelled=[], suspects=False, draining=False, limited=False
    )
    await pass_time(connection, STALE * 2 + STALE / 2)
    assert await rescue_runs(connection, STALE) == (0, 0)
    assert [state for _, state in await states(connection)] == ["running"]


async def test_a_rescued_workers_writes_are_refused_and_it_is_told(connection: Connection) -> None:
    worker = await new_worker(connection)
    await enqueue(connection)
    (old,) = await claim(connection, worker=worker)
    await pass_time(connection, STALE * 2)
    await rescue_runs(connection, STALE)
    assert await write(connection, checkpoint(old), outcome(old)) == ["stale", "stale"]
    (new,) = await claim(connection)
    assert await write(connection, checkpoint(old), outcome(old)) == ["stale", "stale"]
    assert await heartbeat(connection, worker) == Heartbeat(
        alive=False, cancelled=[], suspects=False, draining=False, limited=False
    )
    assert await write(connection, outcome(new)) == ["ok"]


async def test_a_run_that_a_slow_caller_holds_is_rescued_later(connection: Connection, conninfo: str) -> None:
    held, free = await running(connection, 2)
    await pass_time(connection, STALE * 2)
    async with await connect(conninfo) as slow, slow.transaction():
        await slow.execute("select from run where id = %s for no key update", [held.id])
        await connection.execute("set lock_timeout = '5s'")
        assert await rescue_runs(connection, STALE) == (1, 1)
    assert await rescue_runs(connection, STALE) == (1, 1)
    assert await rescue_runs(connection, STALE) == (0, 0)
    assert await states(connection) == [(held.id, "queued"), (free.id, "queued")]


async def test_more_runs_than_one_rescue_takes_are_taken_by_the_next(connection: Connection) -> None:
    await running(connection, 5)
    await pass_time(connection, STALE * 2)
    took = [await rows(connection, "select runs from rescue_runs(%s, 2)", STALE) for _ in range(4)]
    assert took == [[2], [2], [1], [0]]
    assert await rows(connection, "select id from worker") == []


async def test_a_queued_successor_with_the_same_uniqueness_key_does_not_stop_a_rescue(connection: Connection) -> None:
    await running(connection, unique_key="u")
    neighbours = await running(connection, 2)
    await enqueue(connection, unique_key="u")
    await pass_time(connection, STALE * 2)
    assert await rescue_runs(connection, STALE) == (2, 1 + len(neighbours))


async def test_a_worker_that_leaves_hands_back_without_a_death(connection: Connection) -> None:
    worker = await new_worker(connection)
    await enqueue(connection, 3)
    one, two, three = await claim(connection, worker=worker)
    await write(connection, outcome(one))
    assert await unregister_worker(connection, worker) == 2
    again = await claim(connection)
    assert {(run.id, run.attempt) for run in again} == {(two.id, 2), (three.id, 2)}
    assert await rows(connection, "select distinct deaths from run") == [0]
