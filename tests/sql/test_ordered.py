"""Runs of an ordered session go one at a time, in the order in which they were enqueued, whatever becomes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from howdah.sql.errors import BadValue, from_psycopg
from howdah.sql.pool import Connection
from howdah.sql.queue.calls import NewRun, cancel_runs, discard_runs, enqueue_runs, requeue_runs, wake_due_runs
from tests.sql.engine import claim, connect, enqueue, new_worker, outcome, rows, until_blocked, value, write


async def ordered(
    connection: Connection, count: int, session: str = "case", kind: Any = "skip", **fields: Any
) -> list[int]:
    return await enqueue(connection, count, session_id=session, order=kind, **fields)


async def test_only_the_head_is_claimed_and_its_end_promotes_the_next(connection: Connection) -> None:
    ids = await ordered(connection, 4)
    worker = await new_worker(connection)
    done = []
    for state in ("succeeded", "failed", "cancelled", "succeeded"):
        (run,) = await claim(connection, worker=worker)
        done.append(run.id)
        assert await claim(connection, worker=worker) == []
        await write(connection, outcome(run, state))
    assert done == ids
    assert await value(connection, "select count(*) from ordered_session") == 0


async def test_a_retry_and_a_death_keep_the_heads_place(connection: Connection) -> None:
    first, second = await ordered(connection, 2)
    (run,) = await claim(connection)
    await write(connection, outcome(run, "retry", at=datetime.now(UTC) + timedelta(hours=1)))
    assert await claim(connection) == []
    await connection.execute("set howdah.now = '2100-01-01'")
    await wake_due_runs(connection)
    (run,) = await claim(connection)
    assert run.id == first
    await connection.execute("select requeue_workers_runs(array(select id from worker), 10, false)")
    (run,) = await claim(connection)
    assert (run.id, run.attempt) == (first, 3)
    await write(connection, outcome(run))
    assert [run.id for run in await claim(connection)] == [second]


async def test_a_failed_head_that_blocks_holds_its_session_until_it_is_requeued(connection: Connection) -> None:
    first, second = await ordered(connection, 2, kind="block")
    (run,) = await claim(connection)
    await write(connection, outcome(run, "failed"))
    assert await claim(connection) == []
    third = (await ordered(connection, 1))[0]
    assert await claim(connection) == []
    assert await requeue_runs(connection, None, [first]) == {first: "requeued"}
    done = []
    for _ in range(3):
        (run,) = await claim(connection)
        done.append(run.id)
        await write(connection, outcome(run))
    assert done == [first, second, third]


async def test_a_failed_head_that_blocks_lets_go_when_it_is_discarded(connection: Connection) -> None:
    first, second = await ordered(connection, 2, kind="block")
    (run,) = await claim(connection)
    await write(connection, outcome(run, "failed"))
    assert await discard_runs(connection, None, [first, second]) == {first: "discarded", second: "live"}
    assert [run.id for run in await claim(connection)] == [second]
    assert await rows(connection, "select state from run_history") == ["cancelled"]


@pytest.mark.parametrize("act", [discard_runs, requeue_runs])
async def test_who_takes_up_a_failed_run_locks_its_session_before_the_run(
    connection: Connection, conninfo: str, act: Callable[..., Awaitable[dict[int, str]]]
) -> None:
    (first,) = await ordered(connection, 1, kind="block")
    (run,) = await claim(connection)
    await write(connection, outcome(run, "failed"))
    async with await connect(conninfo) as holder, await connect(conninfo) as operator:
        async with holder.transaction():
            await holder.execute("select from ordered_session for no key update")
            acting = asyncio.create_task(act(operator, None, [first]))
            await until_blocked(connection, operator)
            await holder.execute("select from run_history where id = %s for update nowait", [first])
        assert await acting in ({first: "discarded"}, {first: "requeued"})


async def test_a_requeued_run_whose_session_went_on_goes_to_the_end(connection: Connection) -> None:
    first, second = await ordered(connection, 2)
    (run,) = await claim(connection)
    await write(connection, outcome(run, "failed"))
    assert await requeue_runs(connection, None, [first]) == {first: "requeued"}
    done = []
    for _ in range(2):
        (run,) = await claim(connection)
        done.append(run.id)
        await write(connection, outcome(run))
    assert done == [second, first]


async def test_cancelling_goes_past_the_cancelled(connection: Connection) -> None:
    first, second, third = await ordered(connection, 3)
    assert set((await cancel_runs(connection, None, [first, second])).values()) == {"cancelled"}
    assert [run.id for run in await claim(connection)] == [third]


async def test_the_order_is_that_of_commits_not_of_ids(connection: Connection, conninfo: str) -> None:
    async with await connect(conninfo) as slow, await connect(conninfo) as quick:
        async with slow.transaction():
            await slow.execute("select next_run_id()")
            (before,) = await ordered(slow, 1)
            later = asyncio.create_task(ordered(quick, 1))
            await until_blocked(connection, quick)
        (after,) = await later
    for expected in (before, after):
        (run,) = await claim(connection)
        assert run.id == expected
        await write(connection, outcome(run))


async def test_an_open_caller_in_a_session_stalls_no_other_run_of_a_flush(
    connection: Connection, conninfo: str
) -> None:
    await ordered(connection, 1, "held")
    await ordered(connection, 1, "free")
    runs = await claim(connection)
    async with await connect(conninfo) as caller, caller.transaction():
        await ordered(caller, 1, "held")
        statuses = await write(connection, *(outcome(run) for run in runs))
        assert {run.session_id: status for run, status in zip(runs, statuses, strict=True)} == {
            "held": "busy", "free": "ok"
        }  # fmt: skip
    assert await write(connection, *(outcome(run) for run in runs if run.session_id == "held")) == ["ok"]
    assert [run.session_id for run in await claim(connection)] == ["held"]


async def test_a_scheduled_head_holds_those_behind_it(connection: Connection) -> None:
    (first,) = await ordered(connection, 1, run_at=datetime.now(UTC) + timedelta(hours=1))
    (second,) = await ordered(connection, 1)
    assert await rows(connection, "select state from run order by id") == ["scheduled", "blocked"]
    assert await claim(connection) == []
    await connection.execute("set howdah.now = '2100-01-01'")
    await wake_due_runs(connection)
    (run,) = await claim(connection)
    assert run.id == first
    await write(connection, outcome(run))
    assert [run.id for run in await claim(connection)] == [second]


async def test_a_run_refused_as_not_unique_leaves_no_gap_to_wait_for(connection: Connection) -> None:
    await enqueue(connection, unique_key="once", run_at=datetime.now(UTC) + timedelta(hours=1))
    answers = await enqueue_runs(
        connection,
        [
            NewRun("default", "t", session_id="case", order="skip", unique_key="once"),
            NewRun("default", "t", session_id="case", order="skip"),
        ],
    )
    assert [answer.status for answer in answers] == ["not_unique", "created"]
    assert [run.id for run in await claim(connection)] == [answers[1].run_id]


async def test_sessions_of_the_same_name_are_each_tenants_own(connection: Connection) -> None:
    await connection.execute("insert into tenant values ('acme', 'Acme')")
    await ordered(connection, 1)
    await ordered(connection, 1, tenant="acme")
    await enqueue(connection, session_id="case")
    assert len(await claim(connection)) == 3


@pytest.mark.parametrize(
    "run", [NewRun("default", "t", order="skip"), NewRun("default", "t", session_id="s", order="x")]
)  # type: ignore[arg-type]
async def test_an_order_that_makes_no_sense_is_refused(connection: Connection, run: NewRun) -> None:
    with pytest.raises(psycopg.Error) as refused:
        await enqueue_runs(connection, [run])
    assert isinstance(from_psycopg(refused.value), BadValue)


async def test_a_run_that_is_late_before_its_turn_still_holds_what_comes_after_it(connection: Connection) -> None:
    (first,) = await ordered(connection, 1)
    late = await ordered(connection, 1, kind="block", deadline=datetime(2020, 1, 1, tzinfo=UTC))
    after = await ordered(connection, 1, kind="block")
    (run,) = await claim(connection)
    assert run.id == first
    assert await value(connection, "select expired from expire_runs()") == 0
    await write(connection, outcome(run))
    assert await value(connection, "select expired from expire_runs()") == 1
    assert await claim(connection) == []
    states = await rows(connection, "select state from ops.runs where id = any (%s) order by id", late + after)
    assert states == ["failed", "blocked"]
