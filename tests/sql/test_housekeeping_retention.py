"""Old days go whole, without holding anybody up; what may still be needed stays."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from howdah.sql.pool import Connection
from howdah.sql.queue.calls import cancel_runs, requeue_runs
from howdah.sql.workflow.calls import read_checkpoints
from tests.sql.engine import checkpoint, claim, connect, enqueue, outcome, rows, running, until_blocked, value, write

PARTITIONS = (
    "select inhrelid::regclass::text from pg_inherits"
    " where inhparent in ('run_history'::regclass, 'checkpoint'::regclass) and inhrelid::regclass::text ~ '[0-9]$'"
)
TODAY = datetime.now(UTC)


async def set_now(connection: Connection, days: int) -> None:
    """Move the engine's clock to `days` after today."""
    await connection.execute("select set_config('howdah.now', %s, false)", [(TODAY + timedelta(days=days)).isoformat()])


async def drop(connection: Connection, keep: str = "30 days") -> list[str]:
    """Drop until nothing more is to be dropped but days without events; the names without their day."""
    dropped = []
    while found := await rows(connection, "select * from drop_partitions(%s)", keep):
        ((name, gone),) = found
        assert gone, name
        dropped.append(name.rpartition("_")[0])
    return [name for name in dropped if name != "event"]


async def test_days_go_once_they_are_older_than_is_kept(connection: Connection) -> None:
    (run,) = await running(connection)
    await write(connection, checkpoint(run), outcome(run))
    await set_now(connection, 30)
    assert await drop(connection) == []
    await set_now(connection, 31)
    before = len(await rows(connection, PARTITIONS))
    assert await drop(connection) == ["run_history", "checkpoint", "signal"]
    assert len(await rows(connection, PARTITIONS)) == before - 2
    assert await rows(connection, "select from run_history union all select from checkpoint") == []
    assert await cancel_runs(connection, "default", [run.id]) == {run.id: "unknown"}


async def test_today_and_the_days_ahead_stay_whatever_is_kept(connection: Connection) -> None:
    for keep in ("0 days", "-5 days"):
        assert await drop(connection, keep) == []


async def test_the_steps_of_a_live_run_stay(connection: Connection) -> None:
    (run,) = await running(connection)
    await write(connection, checkpoint(run))
    await set_now(connection, 31)
    assert await drop(connection) == ["run_history"]
    assert [c.step for c in await read_checkpoints(connection, [run.id])] == ["s"]


async def test_the_steps_of_a_run_stay_while_its_history_is_kept(connection: Connection) -> None:
    (run,) = await running(connection)
    await write(connection, checkpoint(run))
    await set_now(connection, 5)
    await write(connection, outcome(run, "failed", "{}"))
    await set_now(connection, 32)
    assert "checkpoint" not in (await drop(connection))[:2]
    assert await requeue_runs(connection, "default", [run.id]) == {run.id: "requeued"}
    assert [c.step for c in await read_checkpoints(connection, [run.id])] == ["s"]
    (run,) = await claim(connection, 1)
    await write(connection, outcome(run))
    await set_now(connection, 70)
    assert await value(connection, "select trimmed from trim_default_partitions('30 days')") == 1, "nobody prepared it"
    assert "checkpoint" in await drop(connection)
    assert await read_checkpoints(connection, [run.id]) == []


async def test_a_day_that_somebody_reads_is_left_for_the_next_time_and_holds_nobody_up(
    connection: Connection, conninfo: str
) -> None:
    (run, other) = await running(connection, 2)
    await write(connection, outcome(run))
    await set_now(connection, 31)
    async with await connect(conninfo) as reader, await connect(conninfo) as writer, reader.transaction():
        await reader.execute("select count(*) from run_history")
        ((name, dropped),) = await rows(connection, "select * from drop_partitions('30 days')")
        assert (name, dropped) == (f"run_history_{TODAY:%Y%m%d}", False)
        await writer.execute("set lock_timeout = '2s'")
        dropping = asyncio.create_task(rows(connection, "select * from drop_partitions('30 days')"))
        await asyncio.sleep(0.05)
        assert await write(writer, outcome(other)) == ["ok"]
        assert not (await dropping)[0][1]
    assert await value(connection, "show lock_timeout") == "0", "the caller's own is as it was"
    assert await drop(connection) == ["run_history", "checkpoint", "signal"]


async def test_two_droppers_do_not_collide(connection: Connection, conninfo: str) -> None:
    await set_now(connection, 31)
    async with await connect(conninfo) as other, other.transaction():
        await set_now(other, 31)
        assert len(await rows(other, "select * from drop_partitions('30 days')")) == 1
        assert await rows(connection, "select * from drop_partitions('30 days')") == []


async def test_a_day_is_not_prepared_behind_a_long_read_and_holds_nobody_up(
    connection: Connection, conninfo: str
) -> None:
    await set_now(connection, 1)
    prepare = "select created from prepare_partitions()"
    async with await connect(conninfo) as reader, await connect(conninfo) as other, reader.transaction():
        await reader.execute("select from run_history; select from checkpoint; select from signal; select from event")
        preparing = asyncio.create_task(rows(connection, prepare))
        await until_blocked(other, connection)
        await other.execute("set lock_timeout = '2s'")
        assert await value(other, "select count(*) from run_history") == 0
        assert await preparing == []
    assert len(await rows(connection, prepare)) == 4


async def test_what_landed_in_the_default_partitions_goes_in_bounded_steps(connection: Connection) -> None:
    for name in await rows(connection, PARTITIONS):
        await connection.execute(f"drop table {name}".encode())
    (failed, live, *finished) = await running(connection, 6)
    await write(connection, *(checkpoint(run) for run in (failed, live, *finished)))
    await write(connection, *(outcome(run) for run in finished))
    await set_now(connection, 5)
    await write(connection, outcome(failed, "failed", "{}"))
    trim = "select trimmed from trim_default_partitions('30 days', 3)"
    await set_now(connection, 30)
    assert await value(connection, trim) == 0
    await set_now(connection, 31)
    assert sum([await value(connection, trim) for _ in range(4)]) == 8
    assert await rows(connection, "select id from run_history") == [failed.id]
    assert sorted(await rows(connection, "select run_id from checkpoint")) == sorted([failed.id, live.id])


async def test_a_run_that_waits_is_nobodys_history(connection: Connection) -> None:
    (run_id,) = await enqueue(connection)
    await set_now(connection, 400)
    await drop(connection)
    assert [run.id for run in await claim(connection)] == [run_id]
