"""Limits hold exactly, whoever claims, and cost nothing to those who are not at theirs."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from howdah.sql.errors import BadValue, from_psycopg
from howdah.sql.pool import Connection
from howdah.sql.queue.calls import ClaimedRun, TaskEntry, claim_runs, register_tasks
from tests.sql.engine import claim, connect, enqueue, new_worker, outcome, rows, until_blocked, value, write


async def limit(connection: Connection, queue: str = "default", **limits: Any) -> None:
    await connection.execute("select set_queue_limits(%s, %s)", [queue, Jsonb(limits)])


async def tenants(connection: Connection, count: int) -> list[str]:
    return await rows(
        connection, "insert into tenant select 't' || n, n from generate_series(1, %s) as n returning id", count
    )


async def test_a_limit_of_three_is_never_four(connection: Connection, conninfo: str) -> None:
    await limit(connection, max_running=3)
    await enqueue(connection, 100)
    seen: list[int] = []
    done = 0

    async def worker() -> None:
        nonlocal done
        async with await connect(conninfo) as own:
            me = await new_worker(own)
            while done < 100:
                runs = await claim(own, 10, worker=me)
                seen.append(await value(own, "select count(*) from run where state = 'running'"))
                await write(own, *(outcome(run) for run in runs))
                done += len(runs)

    await asyncio.gather(*(worker() for _ in range(4)))
    assert max(seen) == 3


async def test_a_claim_that_holds_one_queue_does_not_wait_for_another(connection: Connection, conninfo: str) -> None:
    for queue, most in (("q", 1), ("r", 0)):
        await limit(connection, queue, max_running=most)
        await enqueue(connection, queue=queue)
    worker = await new_worker(connection)
    async with await connect(conninfo) as own, own.transaction():
        assert len(await claim_runs(own, worker, ["q"], 1)) == 1
        await connection.execute("set lock_timeout = '1s'")
        assert await claim_runs(connection, worker, ["r", "q"], 1) == []


async def test_a_claim_that_finds_nothing_leaves_its_transactions_timeouts_alone(connection: Connection) -> None:
    worker = await new_worker(connection)
    async with connection.transaction():
        assert await claim_runs(connection, worker, ["default"], 1) == []
        await enqueue(connection)
        await connection.execute("update lane set task = 'other'")
        assert await claim_runs(connection, worker, ["default"], 1, ["t"]) == []
        assert await value(connection, "show lock_timeout") == "0"


async def test_a_tenants_limit_is_its_own(connection: Connection, conninfo: str) -> None:
    await limit(connection, max_running_per_tenant=2)
    names = await tenants(connection, 5)
    for name in names:
        await enqueue(connection, 10, tenant=name)
    first, second = await asyncio.gather(*(_claim_alone(conninfo, 100) for _ in range(2)))
    running = await rows(
        connection, "select tenant_id, count(*) from run where state = 'running' group by 1 order by 1"
    )
    assert running == [(name, 2) for name in names]
    assert len(first) + len(second) == 10


async def _claim_alone(conninfo: str, count: int) -> list[ClaimedRun]:
    async with await connect(conninfo) as own:
        return await claim(own, count)


async def test_a_finish_lets_its_tenants_next_run_start(connection: Connection) -> None:
    await limit(connection, max_running_per_tenant=1)
    await enqueue(connection, 3)
    worker = await new_worker(connection)
    for _ in range(3):
        (run,) = await claim(connection, worker=worker)
        assert await claim(connection, worker=worker) == []
        assert await rows(connection, "select parked from lane") in ([True], [])
        await write(connection, outcome(run))
    assert await value(connection, "select count(*) from run_history") == 3


async def test_a_retry_and_a_dead_worker_free_their_slots_too(connection: Connection) -> None:
    await limit(connection, max_running_per_tenant=1)
    await enqueue(connection, 1)
    (run,) = await claim(connection)
    assert await claim(connection) == []
    await write(connection, outcome(run, "retry"))
    (run,) = await claim(connection)
    await connection.execute("select requeue_workers_runs(array(select id from worker), 10, false)")
    (run,) = await claim(connection)
    assert run.attempt == 3


async def test_tenants_at_their_cap_are_parked_and_the_others_found(connection: Connection) -> None:
    await limit(connection, max_running_per_tenant=1)
    names = await tenants(connection, 200)
    for name in names:
        await enqueue(connection, 2, tenant=name)
    worker = await new_worker(connection)
    assert len(await claim_runs(connection, worker, ["default"], 190, ["t"])) == 190
    full = set(await rows(connection, "select tenant_id from run where state = 'running'"))
    assert {run.tenant_id for run in await claim_runs(connection, worker, ["default"], 500, ["t"])} == set(names) - full
    assert await value(connection, "select count(*) from lane where not parked") == 0
    await connection.execute(
        "select flush(array[id], array[attempt], '{outcome}', '{succeeded}', '{null}', '{null}', '{null}')"
        " from run where tenant_id = 't7' and state = 'running'"
    )
    assert [run.tenant_id for run in await claim_runs(connection, worker, ["default"], 500, ["t"])] == ["t7"]


async def test_a_limit_changed_holds_at_the_next_claim(connection: Connection) -> None:
    await limit(connection, max_running_per_tenant=1)
    await enqueue(connection, 10)
    worker = await new_worker(connection)
    assert len(await claim(connection, worker=worker)) == 1
    assert len(await claim(connection, worker=worker)) == 0
    await limit(connection, max_running_per_tenant=4)
    assert len(await claim(connection, worker=worker)) == 3
    await limit(connection, max_running_per_tenant=None, max_running=6)
    assert len(await claim(connection, worker=worker)) == 2
    await limit(connection, max_running=None)
    assert len(await claim(connection, worker=worker)) == 4


async def test_starts_in_a_period_are_counted_and_the_next_period_begins_anew(connection: Connection) -> None:
    await limit(connection, starts_per_period=3, period_s=60)
    await enqueue(connection, 10)
    worker = await new_worker(connection)
    await connection.execute("set howdah.now = '2030-01-01 00:00:00+00'")
    assert len(await claim(connection, 2, worker=worker)) == 2
    assert len(await claim(connection, worker=worker)) == 1
    await connection.execute("set howdah.now = '2030-01-01 00:00:59+00'")
    assert await claim(connection, worker=worker) == []
    await connection.execute("set howdah.now = '2030-01-01 00:01:00+00'")
    assert len(await claim(connection, worker=worker)) == 3


async def test_a_claim_that_holds_a_queue_does_not_wait_for_another(connection: Connection, conninfo: str) -> None:
    """Workers come to their queues in any order: two who waited like that would wait for one another."""
    for queue in ("one", "two"):
        await limit(connection, queue, max_running=1)
    worker = await new_worker(connection, "one", "two")
    async with await psycopg.AsyncConnection.connect(conninfo) as holding, await connect(conninfo) as claiming:
        await holding.execute("select * from claim_runs(%s, array['two'], 1)", [worker])
        await claiming.execute("set lock_timeout = '5s'")
        await claiming.execute("select * from claim_runs(%s, array['one', 'two'], 1)", [worker])


@pytest.mark.parametrize(
    ("pause", "resume"),
    [
        ("select pause_queue('default')", "select pause_queue('default', false)"),
        ("select pause_tenant('default')", "select pause_tenant('default', false)"),
        ("select pause_task('t')", "select pause_task('t', false)"),
    ],
)
async def test_what_is_paused_does_not_start_until_it_is_resumed(
    connection: Connection, pause: str, resume: str
) -> None:
    await register_tasks(connection, [TaskEntry("t", "task", "default", "{}", "")])
    await enqueue(connection, 2)
    await connection.execute(pause.encode())
    worker = await new_worker(connection)
    assert await claim(connection, worker=worker) == []
    await enqueue(connection, 1)
    assert await claim(connection, worker=worker) == []
    await connection.execute(resume.encode())
    assert len(await claim(connection, worker=worker)) == 3


async def test_a_lane_that_is_made_while_its_tenant_is_resumed_is_not_left_parked(
    connection: Connection, conninfo: str
) -> None:
    worker = await new_worker(connection)
    await connection.execute("select pause_tenant('default')")
    async with await connect(conninfo) as operator, operator.transaction():
        await operator.execute("select pause_tenant('default', false)")
        # The resume has looked for lanes already; to everybody else the tenant is still paused.
        await enqueue(connection)
        assert await claim(connection, worker=worker) == []
    assert len(await claim(connection, worker=worker)) == 1


@pytest.mark.parametrize(
    ("stop", "go"),
    [
        ("pause_tenant('default')", "pause_tenant('default', false)"),
        (
            """set_queue_limits('default', '{"max_running_per_tenant": 0}')""",
            """set_queue_limits('default', '{"max_running_per_tenant": null}')""",
        ),
    ],
)
async def test_who_lets_a_tenant_go_on_waits_for_a_claim_that_parks_its_lane(
    connection: Connection, conninfo: str, stop: str, go: str
) -> None:
    worker = await new_worker(connection)
    await enqueue(connection)
    await connection.execute(f"select {stop}".encode())
    async with await connect(conninfo) as claiming, await connect(conninfo) as operator:
        async with claiming.transaction():
            assert await claim(claiming, worker=worker) == []
            going_on = asyncio.create_task(operator.execute(f"select {go}".encode()))
            await until_blocked(connection, operator)
        await going_on
    assert len(await claim(connection, worker=worker)) == 1


@pytest.mark.parametrize("size", [1, 2, 7, 100])
async def test_weights_share_a_queue_whatever_the_size_of_a_claim(connection: Connection, size: int) -> None:
    heavy, light = await tenants(connection, 2)
    await connection.execute("select set_tenant_weight(%s, 3)", [heavy])
    for name in (heavy, light):
        await enqueue(connection, 400, tenant=name)
    worker = await new_worker(connection)
    taken: list[str] = []
    while len(taken) < 100:
        taken += [run.tenant_id for run in await claim(connection, size, worker=worker)]
    assert 0.72 <= taken.count(heavy) / len(taken) <= 0.78


async def test_a_limit_that_makes_no_sense_is_refused(connection: Connection) -> None:
    for limits in (
        {"max_running": -1},
        {"max_running": "3"},
        {"max_runing": 3},
        {"period_s": 5},
        {"starts_per_period": 5},
        {"max_queued": 1.5},
        {"starts_per_period": 1, "period_s": 0},
    ):
        with pytest.raises(psycopg.Error) as refused:
            await limit(connection, **limits)
        assert isinstance(from_psycopg(refused.value), BadValue)
