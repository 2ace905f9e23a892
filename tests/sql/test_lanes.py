"""A queued run always has a lane: removal against enqueue, in both orders, and under stress."""

from __future__ import annotations

import asyncio

import pytest

from howdah.sql.pool import Connection
from tests.sql.engine import claim, connect, enqueue, new_worker, outcome, rows, value, write

WITHOUT_LANE = """
    select r.id from run as r
    where r.state = 'queued'
      and not exists (select from lane as l where l.queue = r.queue and l.tenant_id = r.tenant_id
                      and l.task = r.task)
"""
REMOVE = "select remove_empty_lanes('default', array_agg(tenant_id), array_agg(task), array_agg(twin)) from lane"


async def empty_lane(connection: Connection) -> None:
    """A lane of the tenant 'default' whose last run has just been claimed."""
    await enqueue(connection)
    await claim(connection, 1)
    assert await value(connection, "select count(*) from lane") == 1


async def test_a_removal_leaves_a_lane_that_an_open_enqueue_holds(connection: Connection, conninfo: str) -> None:
    await empty_lane(connection)
    async with await connect(conninfo) as enqueuer, enqueuer.transaction():
        (run_id,) = await enqueue(enqueuer)
        await connection.execute("set lock_timeout = '1s'")
        assert await value(connection, REMOVE) == 0
    assert await rows(connection, WITHOUT_LANE) == []
    assert [run.id for run in await claim(connection)] == [run_id]


@pytest.mark.parametrize("rolled_back", [False, True])
async def test_an_enqueue_beside_an_open_removal_does_not_wait_and_has_a_lane(
    connection: Connection, conninfo: str, rolled_back: bool
) -> None:
    await empty_lane(connection)
    await connection.execute("set lock_timeout = '1s'")
    async with await connect(conninfo) as remover, remover.transaction(force_rollback=rolled_back):
        assert await value(remover, REMOVE) == 1
        (run_id,) = await enqueue(connection)
    assert await rows(connection, WITHOUT_LANE) == []
    assert [run.id for run in await claim(connection)] == [run_id]


@pytest.mark.parametrize("rolled_back", [False, True])
async def test_a_caller_who_makes_a_lane_and_stays_open_stalls_nobody(
    connection: Connection, conninfo: str, rolled_back: bool
) -> None:
    await connection.execute("insert into queue (name) values ('default')")
    await connection.execute("set lock_timeout = '1s'")
    async with await connect(conninfo) as caller, caller.transaction(force_rollback=rolled_back):
        theirs = await enqueue(caller, 2)
        ours = await enqueue(connection, 2)
        (first,) = await claim(connection, 1)
        assert first.id == ours[0]
    expected = ours[1:] if rolled_back else theirs + ours[1:]
    assert [run.id for run in await claim(connection)] == expected
    await claim(connection)
    assert await value(connection, "select count(*) from lane") == 0


async def test_a_removal_spares_a_lane_that_got_a_run(connection: Connection) -> None:
    await empty_lane(connection)
    await enqueue(connection)
    assert await value(connection, REMOVE) == 0


async def test_an_open_callers_enqueue_hides_nobody_elses_runs(connection: Connection, conninfo: str) -> None:
    (before,) = await enqueue(connection)
    async with await connect(conninfo) as caller, caller.transaction():
        await enqueue(caller)
        await connection.execute("set lock_timeout = '1s'")
        (during,) = await enqueue(connection)
        assert sorted(run.id for run in await claim(connection)) == [before, during]


async def test_the_lane_of_a_queue_with_little_to_do_stays_for_the_next_run_and_goes_when_none_came(
    connection: Connection,
) -> None:
    for _ in range(2):
        await enqueue(connection, 3)
        assert len(await claim(connection, 100)) == 3
        assert await value(connection, "select count(*) from lane") == 1
    assert await claim(connection, 100) == []
    assert await value(connection, "select count(*) from lane") == 0


@pytest.mark.parametrize("weight", [0.01, 1, 100])
async def test_a_claim_fills_up_whatever_the_shares(connection: Connection, weight: float) -> None:
    """A lane that was cut short at its tenant's share is read again: what is left must not wait for the next poll."""
    await connection.execute("insert into tenant select 't' || n, n from generate_series(1, 4) n")
    await connection.execute("update tenant set weight = %s where id = 't1'", [weight])
    for number in range(1, 5):
        await enqueue(connection, 60 if number == 1 else 2, f"t{number}")
    assert len(await claim(connection, 100)) == 66


async def test_under_stress_every_run_has_a_lane_and_one_claimer(connection: Connection, conninfo: str) -> None:
    tenants = await rows(connection, "insert into tenant select 't' || n, n from generate_series(1, 3) n returning id")
    sent: list[int] = []
    taken: list[int] = []
    sending = 4

    async def enqueuer() -> None:
        nonlocal sending
        async with await connect(conninfo) as own:
            for number in range(80):
                sent.extend(await enqueue(own, 1, tenants[number % 3]))
        sending -= 1

    async def claimer() -> None:
        async with await connect(conninfo) as own:
            worker = await new_worker(own)
            while True:
                last_look = sending == 0
                runs = await claim(own, 5, worker=worker)
                taken.extend(run.id for run in runs)
                await write(own, *(outcome(run) for run in runs))
                if last_look and not runs:
                    return

    async def checker() -> None:
        while sending:
            assert await rows(connection, WITHOUT_LANE) == []

    await asyncio.gather(*(enqueuer() for _ in range(4)), *(claimer() for _ in range(4)), checker())
    # Claimers that met only locked lanes may have left some.
    taken += [run.id for run in await claim(connection, 1000)]
    assert sorted(taken) == sorted(sent)
    assert len(taken) == 4 * 80
