"""Group commit against a real database: few transactions, order kept, a bad item alone, and a cut connection."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import psycopg
import pytest

from howdah.sql.errors import HowdahError
from howdah.sql.group_commit import BUSY, Busy, GroupCommit
from howdah.sql.notifier import Notifier
from howdah.sql.pool import Connection, Pool, make_pool
from howdah.sql.queue.calls import NewRun
from howdah.sql.queue.writer import enqueue_writer
from howdah.sql.workflow.calls import RunItem
from howdah.sql.workflow.writer import run_writer
from tests.sql.engine import checkpoint, connect, event, outcome, rows, running, states, value

TRANSACTIONS = "select count(distinct xmin::text) from checkpoint"


async def test_a_thousand_concurrent_callers_share_few_transactions(connection: Connection, pool: Pool) -> None:
    runs = await running(connection, 1000)
    writer = run_writer(pool)
    statuses = await asyncio.gather(*(writer.submit(checkpoint(run)) for run in runs))
    assert set(statuses) == {"ok"}
    assert await value(connection, "select count(*) from checkpoint") == 1000
    assert await value(connection, TRANSACTIONS) <= 2


async def test_a_caller_that_returns_has_its_write_committed(connection: Connection, pool: Pool) -> None:
    (run,) = await running(connection)
    assert await run_writer(pool).submit(checkpoint(run)) == "ok"
    assert await rows(connection, "select step from checkpoint") == ["s"]


async def test_a_bad_item_fails_alone(connection: Connection, pool: Pool) -> None:
    runs = await running(connection, 50)
    writer = run_writer(pool)
    bad = checkpoint(runs[23], body='"\\u0000"')
    answers = await asyncio.gather(
        *(writer.submit(bad if number == 23 else checkpoint(run)) for number, run in enumerate(runs)),
        return_exceptions=True,
    )
    assert isinstance(answers[23], psycopg.DataError)
    assert [answer for number, answer in enumerate(answers) if number != 23] == ["ok"] * 49
    assert await value(connection, "select count(*) from checkpoint") == 49


async def test_an_item_too_large_for_an_index_fails_alone_and_at_once(connection: Connection, pool: Pool) -> None:
    writer = enqueue_writer(pool, Notifier(pool))
    key = await value(connection, "select string_agg(md5(n::text), '') from generate_series(1, 1000) n")
    async with asyncio.timeout(10):
        good, bad = await asyncio.gather(
            writer.submit(NewRun("default", "t")),
            writer.submit(NewRun("default", "t", idempotency_key=key)),
            return_exceptions=True,
        )
    assert isinstance(bad, psycopg.errors.ProgramLimitExceeded)
    assert await rows(connection, "select id from run") == [good.run_id]  # type: ignore[union-attr]


async def test_what_the_engine_refuses_arrives_as_its_own_error(conninfo: str) -> None:
    async with make_pool(
        conninfo + " options='-c search_path=howdah -c default_transaction_isolation=serializable'"
    ) as p:
        with pytest.raises(HowdahError, match="needs read committed"):
            await enqueue_writer(p, Notifier(p)).submit(NewRun("default", "t"))


async def test_items_of_a_busy_run_keep_their_order(connection: Connection, conninfo: str, pool: Pool) -> None:
    (held,) = await running(connection, session_id="case")
    (free,) = await running(connection, session_id="other")
    writer = run_writer(pool)
    async with await connect(conninfo) as slow:
        await slow.execute("select * from create_session('default', 'case')")
        async with slow.transaction():
            await slow.execute("select from session where id = 'case' for update")
            waiting = [writer.add(event(held, f"e{number}")) for number in range(5)]
            neighbour = writer.add(event(free))
            assert await neighbour == "ok"
            waiting += [writer.add(event(held, "e5")), writer.add(outcome(held))]
            assert not any(future.done() for future in waiting)
    assert await asyncio.gather(*waiting) == ["ok"] * 7
    assert await rows(connection, "select type from event where session_id = 'case' order by seq") == [
        f"e{number}" for number in range(6)
    ]


async def test_what_follows_a_busy_item_waits_with_it_also_where_a_bad_item_halves_the_batch(
    connection: Connection, conninfo: str, pool: Pool
) -> None:
    (held,) = await running(connection, session_id="case")
    (bad,) = await running(connection)
    writer = run_writer(pool)
    async with await connect(conninfo) as slow:
        await slow.execute("select * from create_session('default', 'case')")
        async with slow.transaction():
            await slow.execute("select from session where id = 'case' for update")
            items = [checkpoint(bad, body="{"), event(held), checkpoint(bad, body="{"), outcome(held)]
            failing, said, also_failing, ended = map(writer.add, items)
            for future in (failing, also_failing):
                with pytest.raises(psycopg.DataError):
                    await future
            assert await writer.submit(outcome(bad)) == "ok"
            assert not said.done()
            assert not ended.done()
    assert (await said, await ended) == ("ok", "ok")
    assert await rows(connection, "select type from event") == ["noted"]


async def test_a_backend_killed_in_mid_flush_loses_and_doubles_nothing(
    connection: Connection, conninfo: str, pool: Pool
) -> None:
    runs = await running(connection, 20, session_id="case")
    writer = run_writer(pool)
    async with await connect(conninfo) as slow, slow.transaction():
        await slow.execute("lock table event in exclusive mode")
        futures = [writer.add(item) for run in runs for item in (checkpoint(run), event(run, key=str(run.id)))]
        blocked = "select pid from pg_stat_activity where cardinality(pg_blocking_pids(pid)) > 0"
        while not (pids := await rows(connection, blocked)):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await connection.execute("select pg_terminate_backend(%s, 5000)", [pids[0]])
    assert set(await asyncio.gather(*futures)) == {"ok"}
    assert await rows(connection, "select seq from event order by seq") == list(range(1, 21))
    assert await value(connection, "select count(*) from checkpoint") == 20


async def test_an_answer_lost_after_the_commit_loses_and_doubles_nothing(connection: Connection, pool: Pool) -> None:
    (run,) = await running(connection)
    real = run_writer(pool)
    cuts = iter([True])

    async def flush_then_cut(items: Sequence[RunItem]) -> Sequence[str | Busy]:
        answers = await asyncio.gather(*(real.submit(item) for item in items))
        if next(cuts, False):
            raise psycopg.OperationalError("the connection was cut after the commit")
        return answers

    writer: GroupCommit[RunItem, str] = GroupCommit(flush_then_cut)
    items = [checkpoint(run), event(run, key="k"), outcome(run)]
    assert await asyncio.gather(*(writer.submit(item) for item in items)) == ["ok", "ok", "ok"]
    assert await value(connection, "select count(*) from event") == 1
    assert await states(connection) == [(run.id, "succeeded")]


async def test_a_batch_is_never_larger_than_its_bound() -> None:
    sizes: list[int] = []

    async def flush(items: Sequence[int]) -> Sequence[int | Busy]:
        sizes.append(len(items))
        return items

    writer: GroupCommit[int, int] = GroupCommit(flush, max_batch=10)
    assert await asyncio.gather(*map(writer.submit, range(35))) == list(range(35))
    assert sizes == [10, 10, 10, 5]


async def test_an_item_is_sent_again_until_it_is_not_busy() -> None:
    batches: list[list[int]] = []

    async def flush(items: Sequence[int]) -> Sequence[int | Busy]:
        batches.append(list(items))
        return [BUSY if item == 1 and len(batches) < 3 else item for item in items]

    writer: GroupCommit[int, int] = GroupCommit(flush)
    assert await asyncio.gather(*map(writer.submit, range(3))) == [0, 1, 2]
    assert batches == [[0, 1, 2], [1], [1]]


async def test_a_cancelled_caller_does_not_take_its_item_back(
    connection: Connection, conninfo: str, pool: Pool
) -> None:
    (run,) = await running(connection)
    writer = run_writer(pool)
    async with await connect(conninfo) as slow, slow.transaction():
        await slow.execute("select from run for update")
        caller = asyncio.create_task(writer.submit(checkpoint(run)))
        await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
    await writer.drain()
    assert await rows(connection, "select step from checkpoint") == ["s"]


async def test_drain_returns_when_everything_is_written(connection: Connection, pool: Pool) -> None:
    runs = await running(connection, 30)
    writer = run_writer(pool)
    futures = [writer.add(outcome(run)) for run in runs]
    await writer.drain()
    assert all(future.done() for future in futures)
    assert await value(connection, "select count(*) from run") == 0
