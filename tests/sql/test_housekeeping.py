"""What the engine's invariants forbid is found and repaired; what is healthy, however busy, is left alone."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from howdah.sql.pool import Connection
from howdah.sql.queue.calls import cancel_runs, change_runs, unregister_worker
from howdah.sql.workflow.calls import RunItem
from tests.sql.engine import (
    claim,
    connect,
    enqueue,
    new_worker,
    outcome,
    rows,
    running,
    until_blocked,
    value,
    write,
)

# What a claim leaves behind when it is full; every other kind is a broken promise.
TIDIED = "lane without runs"


async def sweep(connection: Connection, limit: int = 1000) -> dict[str, int]:
    return dict(await rows(connection, "select kind, repaired from sweep_queues(%s)", limit))


async def limit(connection: Connection, **limits: Any) -> None:
    await connection.execute("select set_queue_limits('default', %s)", [Jsonb(limits)])


async def tenants(connection: Connection, count: int) -> list[str]:
    return await rows(
        connection, "insert into tenant select 't' || n, n from generate_series(1, %s) as n returning id", count
    )


async def ordered(connection: Connection, count: int, session: str = "s", order: Any = "skip") -> list[int]:
    return await enqueue(connection, count, session_id=session, order=order)


async def test_a_healthy_queue_is_left_alone(connection: Connection) -> None:
    await limit(connection, max_running_per_tenant=1)
    await enqueue(connection, 3)
    await ordered(connection, 3)
    await ordered(connection, 2, "waits", "block")
    await enqueue(connection, 1, task="elsewhere", queue="other")
    (run,) = await claim(connection, 1)
    for _ in range(3):
        assert await sweep(connection) == {}
    await write(connection, outcome(run))
    assert await sweep(connection) == {}


async def test_a_queued_run_without_a_lane_gets_one(connection: Connection) -> None:
    (back,) = await running(connection, 1, task="back")
    await write(connection, outcome(back, "retry"))
    fresh = await enqueue(connection, 2)
    await connection.execute("delete from lane")
    assert await claim(connection) == []
    assert await sweep(connection) == {"queued run without lane": 2}
    assert sorted(run.id for run in await claim(connection)) == sorted([*fresh, back.id])
    assert await sweep(connection) in ({}, {TIDIED: 2})


async def test_a_suspect_run_needs_no_lane(connection: Connection) -> None:
    await enqueue(connection)
    await connection.execute("update run set suspect = true, fresh = false")
    await connection.execute("delete from lane")
    assert await sweep(connection) == {}


async def test_a_lane_without_runs_goes_but_for_one_that_an_open_enqueue_holds(
    connection: Connection, conninfo: str
) -> None:
    await running(connection)
    assert await value(connection, "select count(*) from lane") == 1
    async with await connect(conninfo) as enqueuer, enqueuer.transaction():
        (run_id,) = await enqueue(enqueuer)
        await connection.execute("set lock_timeout = '1s'")
        assert await sweep(connection) == {}
    (run,) = await claim(connection, 1)
    assert run.id == run_id
    assert await sweep(connection) == {TIDIED: 1}
    assert await rows(connection, "select from lane") == []


@pytest.mark.parametrize("parked_by", ["cap", "pause"])
async def test_a_parked_lane_whose_tenant_has_room_is_unparked(connection: Connection, parked_by: str) -> None:
    await limit(connection, max_running_per_tenant=1)
    await enqueue(connection, 2)
    if parked_by == "cap":
        (run,) = await claim(connection)
    else:
        await connection.execute("select pause_tenant('default')")
        assert await claim(connection) == []
    assert await value(connection, "select parked from lane")
    assert await sweep(connection) == {}
    if parked_by == "cap":
        await write(connection, outcome(run))
    else:
        await connection.execute("select pause_tenant('default', false)")
    assert not await value(connection, "select parked from lane")

    await connection.execute("update lane set parked = true")
    assert await claim(connection) == []
    assert await sweep(connection) == {"parked lane with room": 1}
    assert len(await claim(connection)) == 1


async def test_a_run_that_claims_passed_while_others_held_it_is_found_again(
    connection: Connection, conninfo: str
) -> None:
    (held, *_) = await enqueue(connection, 100)
    # A floor leaves a margin behind what was taken: the others are of a later second.
    await connection.execute("update run set id = id + (1000::bigint << 20) where id <> %s", [held])
    worker = await new_worker(connection)
    for _ in range(2):
        async with await connect(conninfo) as holder, holder.transaction():
            await holder.execute("select from run where id = %s for update", [held])
            await claim(connection, 5, worker=worker)
    assert held not in [run.id for run in await claim(connection, 20, worker=worker)]
    assert await sweep(connection) == {"run below its lane's floor": 1}
    assert [run.id for run in await claim(connection, 1, worker=worker)] == [held]


async def test_a_run_of_a_clock_that_stepped_back_is_found(connection: Connection) -> None:
    await enqueue(connection, 30)
    worker = await new_worker(connection)
    for _ in range(3):
        await claim(connection, 5, worker=worker)
    (early,) = await enqueue(connection, 1)
    await connection.execute("update run set id = id - (3600000::bigint << 20) where id = %s", [early])
    early -= 3600000 << 20
    assert early not in [run.id for run in await claim(connection, 10, worker=worker)]
    assert await sweep(connection) == {"run below its lane's floor": 1}
    assert [run.id for run in await claim(connection, 1, worker=worker)] == [early]


async def test_blocked_runs_without_a_session_go_on_in_their_order(connection: Connection) -> None:
    first, second, third = await ordered(connection, 3)
    await connection.execute("delete from ordered_session")
    await connection.execute("delete from run where id = %s", [first])
    assert await sweep(connection) == {"blocked run without session": 1}
    assert await rows(connection, "select id, state from run order by id") == [(second, "queued"), (third, "blocked")]
    (run,) = await claim(connection)
    (fourth,) = await ordered(connection, 1)
    assert await sweep(connection) in ({}, {TIDIED: 1})
    for expected in (second, third, fourth):
        assert run.id == expected
        await write(connection, outcome(run))
        run = next(iter(await claim(connection)), run)
    assert await rows(connection, "select from ordered_session") == []


async def test_a_live_run_of_a_lost_session_is_its_head_again(connection: Connection) -> None:
    first, second = await ordered(connection, 2)
    (run,) = await claim(connection)
    await connection.execute("delete from ordered_session")
    assert await sweep(connection) in (
        {"blocked run without session": 1},
        {"blocked run without session": 1, TIDIED: 1},
    )
    assert await rows(connection, "select head_id, last_no from ordered_session") == [(first, 2)]
    assert await claim(connection) == [], "two of a session must never go at once"
    await write(connection, outcome(run))
    assert [run.id for run in await claim(connection)] == [second]


async def test_a_session_whose_head_is_gone_goes_on_and_an_empty_one_goes(connection: Connection) -> None:
    first, second = await ordered(connection, 2)
    (alone,) = await ordered(connection, 1, "alone")
    await connection.execute("delete from run where id = any (%s)", [[first, alone]])
    assert await claim(connection) == []
    assert (await sweep(connection))["session without head"] == 2
    assert [run.id for run in await claim(connection)] == [second]
    assert await rows(connection, "select session_id, head_id from ordered_session") == [("s", second)]


async def test_a_head_that_is_itself_blocked_is_promoted(connection: Connection) -> None:
    first, _ = await ordered(connection, 2)
    await connection.execute("update run set state = 'blocked'")
    assert (await sweep(connection))["session without head"] == 1
    assert [run.id for run in await claim(connection)] == [first]


async def test_a_session_waits_for_a_failed_run_for_as_long_as_history_keeps_it(connection: Connection) -> None:
    _, second = await ordered(connection, 2, order="block")
    (run,) = await claim(connection)
    await write(connection, outcome(run, "failed", "{}"))
    assert await sweep(connection) in ({}, {TIDIED: 1})
    assert await claim(connection) == []
    await connection.execute("delete from run_history")
    assert await sweep(connection) == {"session without head": 1}
    assert [run.id for run in await claim(connection)] == [second]


async def test_a_session_that_somebody_holds_is_left_to_the_next_sweep(connection: Connection, conninfo: str) -> None:
    first, second = await ordered(connection, 2)
    await connection.execute("delete from run where id = %s", [first])
    await connection.execute("set lock_timeout = '1s'")
    async with await connect(conninfo) as holder, holder.transaction():
        await holder.execute("select from ordered_session for update")
        assert "session without head" not in await sweep(connection)
    assert await sweep(connection) == {"session without head": 1}
    assert [run.id for run in await claim(connection)] == [second]


async def test_what_others_have_under_way_is_not_waited_for_or_repaired(connection: Connection, conninfo: str) -> None:
    async with await connect(conninfo) as enqueuer:
        async with enqueuer.transaction():
            first, second = await ordered(enqueuer, 2)
            assert await sweep(connection) == {}
        assert await sweep(connection) == {}
        (run,) = await claim(connection)
        async with enqueuer.transaction():
            await write(enqueuer, outcome(run))
            await connection.execute("set lock_timeout = '1s'")
            assert await sweep(connection) in ({}, {TIDIED: 1})
    assert run.id == first
    assert [run.id for run in await claim(connection)] == [second]


async def test_a_running_run_whose_worker_has_no_row_goes_back(connection: Connection) -> None:
    worker = await new_worker(connection)
    (run_id,) = await enqueue(connection)
    await claim(connection, worker=worker)
    assert await sweep(connection) in ({}, {TIDIED: 1})
    await connection.execute("delete from worker")
    assert (await sweep(connection))["running run without worker"] == 1
    assert [run.id for run in await claim(connection)] == [run_id]


async def test_a_worker_that_leaves_while_its_claim_is_under_way_leaves_no_run_behind(
    connection: Connection, conninfo: str
) -> None:
    (run_id,) = await enqueue(connection)
    async with await connect(conninfo) as cut, await connect(conninfo) as leaving:
        worker = await new_worker(connection)
        async with cut.transaction():
            assert [run.id for run in await claim(cut, worker=worker)] == [run_id]
            released = asyncio.create_task(unregister_worker(leaving, worker))
            await until_blocked(connection, leaving)
        assert await released == 1
    assert await rows(connection, "select state from run") == ["queued"]
    assert await sweep(connection) == {}


async def test_a_worker_silent_for_an_hour_is_taken_away(connection: Connection) -> None:
    await new_worker(connection)
    assert await sweep(connection) == {}
    await connection.execute("update worker set heartbeat_at = heartbeat_at - interval '61 minutes'")
    assert await sweep(connection) == {"silent worker": 1}
    assert await rows(connection, "select from worker") == []


async def test_each_sweep_is_bounded_and_goes_on_where_the_last_one_stopped(connection: Connection) -> None:
    for name in await tenants(connection, 7):
        await enqueue(connection, 2, tenant=name)
        await enqueue(connection, 2, tenant=name, session_id="s", order="skip")
    await connection.execute("delete from lane")
    assert [await sweep(connection, 3) for _ in range(4)] == [
        {"queued run without lane": 3},
        {"queued run without lane": 3},
        {"queued run without lane": 1},
        {},
    ]
    await connection.execute("delete from ordered_session; update lane set parked = true")
    repaired = [await sweep(connection, 3) for _ in range(4)]
    assert sum(each.get("blocked run without session", 0) for each in repaired) == 7
    assert sum(each.get("parked lane with room", 0) for each in repaired) == 7
    assert max(max(each.values(), default=0) for each in repaired) == 3
    assert [await sweep(connection, 3) for _ in range(4)] == [{}] * 4


async def test_one_sweep_at_a_time(connection: Connection, conninfo: str) -> None:
    async with await connect(conninfo) as other, other.transaction():
        await sweep(other)
        await connection.execute("delete from lane")
        await enqueue(connection)
        await connection.execute("delete from lane; set lock_timeout = '1s'")
        assert await sweep(connection) == {}
    assert await sweep(connection) == {"queued run without lane": 1}


async def test_idempotency_keys_are_deleted_when_their_window_is_over(connection: Connection) -> None:
    await connection.execute("set howdah.now = '2030-01-01'")
    for number in range(5):
        await enqueue(connection, idempotency_key=f"old-{number}")
    await connection.execute("set howdah.now = '2030-01-02'")
    await enqueue(connection, idempotency_key="new")
    assert [await value(connection, "select expired from expire_idempotency_keys(3)") for _ in range(3)] == [3, 2, 0]
    assert await rows(connection, "select key from idempotency_key") == ["new"]


async def test_under_load_nothing_is_repaired_and_nothing_lost(connection: Connection, conninfo: str) -> None:
    """Enqueues, claims, retries, cancels, pauses and moves of every kind, with sweeps in between."""
    await limit(connection, max_running_per_tenant=3)
    names = await tenants(connection, 4)
    sent: set[int] = set()
    sending = 3
    repaired: dict[str, int] = {}
    sweeps = 0

    async def enqueuer(seed: int) -> None:
        nonlocal sending
        choose = random.Random(seed)
        async with await connect(conninfo) as own:
            for number in range(60):
                name = choose.choice(names)
                kind = choose.choice(["plain", "skip", "block"])
                options = {} if kind == "plain" else {"session_id": f"{kind}-{number % 3}", "order": kind}
                runs = await enqueue(own, choose.randint(1, 3), name, task=choose.choice(["t", "u"]), **options)
                sent.update(runs)
                if number % 10 == 0:
                    await cancel_runs(own, name, runs[:1])
                if number % 10 == 5:
                    await change_runs(own, name, runs[:1], priority=choose.randint(-1, 1))
                if number % 20 == 7:
                    await own.execute("select pause_tenant(%s)", [name])
                    await own.execute("select pause_tenant(%s, false)", [name])
        sending -= 1

    async def claimer(seed: int) -> None:
        choose = random.Random(seed)
        async with await connect(conninfo) as own:
            worker = await new_worker(own)
            while sending or await value(own, "select exists (select from run where state in ('queued', 'running'))"):
                for run in await claim(own, 5, worker=worker):
                    ends = choose.choice(["succeeded", "succeeded", "cancelled", "failed", "release", "retry"])
                    while await write(own, outcome(run, ends, "{}")) == ["busy"]:
                        pass

    async def sweeper() -> None:
        nonlocal sweeps
        async with await connect(conninfo) as own:
            while sending or sweeps < 50:
                for kind, count in (await sweep(own, random.Random(sweeps).choice([2, 7, 1000]))).items():
                    repaired[kind] = repaired.get(kind, 0) + count
                sweeps += 1

    async with asyncio.timeout(60):
        await asyncio.gather(*(enqueuer(n) for n in range(3)), *(claimer(n) for n in range(3)), sweeper())
    assert set(repaired) <= {TIDIED}
    assert await sweep(connection) in ({}, {TIDIED: await value(connection, "select count(*) from lane")})
    assert set(await rows(connection, "select id from run union all select id from run_history")) == sent
    waiting = await rows(connection, "select distinct state from run")
    assert waiting in ([], ["blocked"])
    # What is left waits for a failed run that says so.
    for session in await rows(
        connection,
        "select h.state || h.on_failure from ordered_session as s left join run_history as h on h.id = s.head_id",
    ):
        assert session == "failedblock"


async def test_a_waiting_run_that_nobody_woke_is_woken(connection: Connection) -> None:
    ids = await enqueue(connection, 3)
    await claim(connection)
    rest = [RunItem(run_id, 1, "outcome", "wait", '[{"signal": "go", "after": 0}]') for run_id in ids]
    assert set(await write(connection, *rest)) == {"ok"}
    # As no function of the engine would: past the run that waits for it.
    await connection.execute(
        "insert into signal (run_id, name, no, tenant_id, payload, sent_at)"
        " values (%s, 'go', 1, 'default', '1', now())",
        [ids[1]],
    )
    assert (await sweep(connection))["waiting run whose wait was over"] == 1
    assert await sweep(connection) == {}
    assert await rows(connection, "select state from run order by id") == ["waiting", "queued", "waiting"]
