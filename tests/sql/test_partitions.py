"""A run finishes whatever became of the partitions, and preparing them may happen any number of times."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from howdah.sql.pool import Connection
from howdah.sql.queue.calls import cancel_runs, requeue_runs
from howdah.sql.workflow.calls import read_checkpoints
from tests.sql.engine import checkpoint, connect, enqueue, outcome, rows, running, states, until_blocked, value, write


async def set_now(connection: Connection, now: datetime) -> None:
    await connection.execute("select set_config('howdah.now', %s, false)", [now.isoformat()])


async def drop_partitions(connection: Connection) -> None:
    for name in await rows(
        connection,
        "select inhrelid::regclass::text from pg_inherits"
        " where inhparent in ('run_history'::regclass, 'checkpoint'::regclass, 'signal'::regclass)"
        " and inhrelid::regclass::text not like '%_default'",
    ):
        await connection.execute(f"drop table {name}".encode())


async def test_today_and_the_week_ahead_are_prepared(connection: Connection) -> None:
    (run,) = await running(connection)
    await write(connection, checkpoint(run), outcome(run))
    assert await value(connection, "select count(*) from run_history_default") == 0
    assert await value(connection, "select count(*) from checkpoint_default") == 0
    assert await rows(connection, "select created from prepare_partitions()") == []


async def test_preparing_adds_only_what_is_missing(connection: Connection) -> None:
    await set_now(connection, datetime.now(UTC) + timedelta(days=1))
    created = await rows(connection, "select created from prepare_partitions()")
    assert sorted(name.rstrip("0123456789") for name in created) == ["checkpoint_", "event_", "run_history_", "signal_"]
    assert await rows(connection, "select created from prepare_partitions()") == []


async def test_two_preparers_at_once_do_not_collide(connection: Connection, conninfo: str) -> None:
    await drop_partitions(connection)
    async with await connect(conninfo) as one, await connect(conninfo) as two:
        async with one.transaction():
            first = await rows(one, "select created from prepare_partitions(2)")
            second = asyncio.create_task(rows(two, "select created from prepare_partitions(2)"))
            await until_blocked(connection, two)
        assert (len(first), await second) == (9, [])


async def test_a_run_finishes_on_a_day_without_partition(connection: Connection) -> None:
    (run,) = await running(connection)
    await set_now(connection, datetime.now(UTC) + timedelta(days=400))
    assert await write(connection, checkpoint(run), outcome(run, "failed")) == ["ok", "ok"]
    assert await rows(connection, "select id from run_history_default") == [run.id]
    assert await requeue_runs(connection, "default", [run.id]) == {run.id: "requeued"}


async def test_a_run_older_than_every_partition_finishes(connection: Connection) -> None:
    (run,) = await running(connection)
    old = await value(connection, "select first_run_id('2020-01-01') + 5")
    await connection.execute("update run set id = %s", [old])
    run = msgspec.structs.replace(run, id=old)
    assert await write(connection, checkpoint(run), outcome(run)) == ["ok", "ok"]
    assert await states(connection) == [(old, "succeeded")]
    assert [c.step for c in await read_checkpoints(connection, [old])] == ["s"]
    assert await cancel_runs(connection, "default", [old]) == {old: "finished"}


async def test_a_day_that_began_without_partition_does_not_stop_the_next_ones(connection: Connection) -> None:
    await drop_partitions(connection)
    (run,) = await running(connection)
    await write(connection, checkpoint(run), outcome(run))
    created = await rows(connection, "select created from prepare_partitions(3)")
    assert len(created) == 10, "three days ahead, and of signals today; its history and checkpoints stay where they are"
    await set_now(connection, datetime.now(UTC) + timedelta(days=1))
    (next_day,) = await running(connection)
    await write(connection, outcome(next_day))
    assert await rows(connection, "select id from run_history_default") == [run.id]


@pytest.mark.parametrize("behind", [timedelta(milliseconds=1), timedelta(hours=1)])
async def test_a_run_is_found_when_the_clock_stepped_back_before_it_finished(
    connection: Connection, behind: timedelta
) -> None:
    (run_id,) = await enqueue(connection)
    await set_now(connection, await value(connection, "select run_created_at(%s)", run_id) - behind)
    await cancel_runs(connection, "default", [run_id])
    assert await cancel_runs(connection, "default", [run_id]) == {run_id: "finished"}
