"""What a claim promises: order within a tenant, fairness among tenants, and one worker a run."""

from __future__ import annotations

import asyncio
from collections import Counter

import psycopg
import pytest

from howdah.sql.errors import StaleAttempt, from_psycopg
from howdah.sql.pool import Connection
from howdah.sql.queue.calls import NewRun, claim_runs, enqueue_runs
from tests.sql.engine import claim, connect, enqueue, new_worker, rows, value


async def create_tenants(connection: Connection, count: int) -> list[str]:
    return await rows(
        connection, "insert into tenant select 't' || n, n from generate_series(1, %s) n returning id", count
    )


async def test_runs_start_by_priority_then_by_age(connection: Connection) -> None:
    low, high, also_high, middle = [(await enqueue(connection, priority=p))[0] for p in (-1, 9, 9, 0)]
    started = [(await claim(connection, 1))[0].id for _ in range(4)]
    assert started == [high, also_high, middle, low]


async def test_a_claimed_run_carries_what_its_worker_needs(connection: Connection) -> None:
    (run_id,) = await enqueue(connection, args='{"a": [1]}', session_id="case-7")
    (run,) = await claim(connection)
    assert (run.id, run.tenant_id, run.queue, run.task, run.args) == (run_id, "default", "default", "t", '{"a": [1]}')
    assert (run.attempt, run.failures, run.session_id) == (1, 0, "case-7")


async def test_ten_thousand_runs_of_one_tenant_delay_another_by_no_more_than_two_claims(connection: Connection) -> None:
    await connection.execute("select * from create_tenant('acme')")
    await enqueue(connection, 10_000)
    worker = await new_worker(connection)
    for _ in range(5):
        await claim(connection, 100, worker=worker)
    (small,) = await enqueue(connection, tenant="acme")
    claims = [run.id for _ in range(2) for run in await claim(connection, 100, worker=worker)]
    assert small in claims


async def test_tenants_take_turns(connection: Connection) -> None:
    tenants = await create_tenants(connection, 10)
    for tenant in tenants:
        await enqueue(connection, 100 if tenant != "t1" else 1000, tenant=tenant)
    worker = await new_worker(connection)
    for limit, each in ((50, 50), (1, 1)):
        taken = Counter([run.tenant_id for _ in range(10) for run in await claim(connection, limit, worker=worker)])
        assert taken == dict.fromkeys(tenants, each)


async def test_a_tenant_that_was_away_does_not_get_the_past_back(connection: Connection) -> None:
    await connection.execute("select * from create_tenant('acme')")
    await enqueue(connection, 2000)
    worker = await new_worker(connection)
    await claim(connection, 1000, worker=worker)
    await enqueue(connection, 1000, tenant="acme")
    taken = Counter([run.tenant_id for _ in range(20) for run in await claim(connection, 1, worker=worker)])
    assert taken == {"default": 10, "acme": 10}


async def test_one_tenant_alone_gets_full_batches(connection: Connection) -> None:
    tenants = await create_tenants(connection, 50)
    for tenant in tenants[1:]:
        await enqueue(connection, tenant=tenant)
    await enqueue(connection, 1000, tenant=tenants[0])
    worker = await new_worker(connection)
    assert [len(await claim(connection, 300, worker=worker)) for _ in range(3)] == [300, 300, 300]


async def test_a_claim_never_takes_more_than_its_limit(connection: Connection) -> None:
    for tenant in await create_tenants(connection, 30):
        await enqueue(connection, 5, tenant=tenant)
    assert [len(await claim(connection, limit)) for limit in (1, 7, 31)] == [1, 7, 31]


async def test_many_claimers_never_get_the_same_run(connection: Connection, conninfo: str) -> None:
    for tenant in await create_tenants(connection, 7):
        await enqueue(connection, 150, tenant=tenant)

    async def claimer() -> list[int]:
        mine: list[int] = []
        async with await connect(conninfo) as own:
            worker = await new_worker(own)
            while await value(own, "select exists (select from run where state = 'queued')"):
                mine += [run.id for run in await claim(own, 10, worker=worker)]
        return mine

    taken = [run for mine in await asyncio.gather(*(claimer() for _ in range(8))) for run in mine]
    assert len(taken) == len(set(taken)) == 7 * 150


async def test_a_claim_does_not_wait_for_another_that_is_open(connection: Connection, conninfo: str) -> None:
    for tenant in await create_tenants(connection, 70):
        await enqueue(connection, 2, tenant=tenant)
    async with await connect(conninfo) as slow, slow.transaction():
        held = await claim(slow, 64)
        await connection.execute("set lock_timeout = '1s'")
        others = await claim(connection, 64)
    assert len(others) > 0
    assert not {run.id for run in held} & {run.id for run in others}


async def test_a_worker_gets_only_the_tasks_it_knows(connection: Connection) -> None:
    await enqueue_runs(connection, [NewRun("default", task) for task in ("a", "b", "a", "c")])
    worker = await new_worker(connection)
    taken = await claim_runs(connection, worker, ["default"], 10, ["a", "c"])
    assert sorted(run.task for run in taken) == ["a", "a", "c"]
    assert await rows(connection, "select task from run where state = 'queued'") == ["b"]


async def test_a_worker_gets_only_the_queues_it_asked_for(connection: Connection) -> None:
    await enqueue(connection, queue="mail")
    worker = await new_worker(connection)
    assert await claim_runs(connection, worker, ["default", "other"], 10) == []
    assert len(await claim_runs(connection, worker, ["default", "mail"], 10)) == 1


async def test_an_empty_lane_goes_away(connection: Connection) -> None:
    await enqueue(connection, 3)
    await claim(connection, 3)
    await claim(connection, 1)
    assert await value(connection, "select count(*) from lane") == 0


async def test_empty_lanes_do_not_hide_a_full_one(connection: Connection) -> None:
    tenants = await create_tenants(connection, 300)
    await connection.execute("insert into queue (name) values ('default')")
    await connection.execute(b"insert into lane select 'default', id, 't', 0, 0 from tenant where id like 't%%'", [])
    await connection.execute("update lane set virtual_time = 1 where tenant_id = %s", [tenants[-1]])
    (run_id,) = await enqueue(connection, tenant=tenants[-1])
    assert [run.id for run in await claim(connection)] == [run_id]


async def test_a_worker_that_peers_gave_up_claims_nothing(connection: Connection) -> None:
    (run_id,) = await enqueue(connection)
    worker = await new_worker(connection)
    await connection.execute("select * from unregister_worker(%s)", [worker])
    with pytest.raises(psycopg.Error, match=f"worker {worker} is not registered") as refused:
        await claim(connection, worker=worker)
    assert isinstance(from_psycopg(refused.value), StaleAttempt)
    assert [run.id for run in await claim(connection)] == [run_id]


async def test_lanes_with_nothing_for_this_worker_do_not_hide_one_that_has(connection: Connection) -> None:
    tenants = await create_tenants(connection, 300)
    await enqueue_runs(connection, [NewRun(tenant, "other") for tenant in tenants])
    await connection.execute("update lane set virtual_time = 1 where tenant_id = %s", [tenants[-1]])
    (run_id,) = await enqueue(connection, tenant=tenants[-1])
    worker = await new_worker(connection)
    assert [run.id for run in await claim_runs(connection, worker, ["default"], 10, ["t"])] == [run_id]
    assert await claim_runs(connection, worker, ["default"], 10, ["t"]) == []
    assert await value(connection, "select count(*) from lane") == 300
