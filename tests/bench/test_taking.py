"""The measurement itself: as many runs are enqueued as asked, fifths are told apart, and what is lost is no figure."""

from __future__ import annotations

import asyncio
import time

import psycopg
import pytest

from tests.bench.callers import at_once, by_the_clock, in_batches
from tests.bench.database import count, held_snapshot
from tests.bench.engine import create_tenants, engine_connection, enqueue_among, lasting_worker, timed_work_off
from tests.bench.figures import enqueue
from tests.bench.process import run_module
from tests.bench.systems import howdah
from tests.bench.worker import Runs


@pytest.mark.parametrize("runs", [1, 63, 200])
async def test_callers_beside_one_another_enqueue_as_many_as_asked(runs: int) -> None:
    calls = under_way = most = 0

    async def one(_: float) -> None:
        nonlocal calls, under_way, most
        calls, under_way = calls + 1, under_way + 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1

    await at_once(one, runs)
    assert (calls, most) == (runs, min(runs, 64))


async def test_the_last_batch_has_what_is_left() -> None:
    sizes: list[int] = []

    async def batch(runs: int) -> None:
        sizes.append(runs)

    await in_batches(batch, 2_500)
    assert sizes == [1_000, 1_000, 500]


async def test_calls_by_the_clock_wait_for_no_answer_and_tell_when_they_were_made() -> None:
    answer, told = asyncio.Event(), list[float]()

    async def one(now: float) -> None:
        told.append(now)
        if len(told) == 20:
            answer.set()
        await answer.wait()

    before = time.time()
    await asyncio.wait_for(by_the_clock(one, 20), 10)
    assert before <= told[0] <= told[-1] <= time.time()


def test_fifths_are_of_the_runs_that_ran_first_and_last(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr("tests.bench.worker.time.perf_counter", lambda: clock)
    runs = Runs(100, waits=False)
    for number in range(100):
        clock += 1.0 if number < 80 else 2.0
        runs.ran()
    assert runs.all_ran.is_set()
    assert runs.fifths() == [1.0, 0.5]


def test_a_snapshot_is_held_as_long_as_it_is_asked(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        held = (
            "select count(*) from pg_stat_activity where backend_xmin is not null and state = 'idle in transaction'"
            " and datname = current_database()"
        )
        with held_snapshot(database_url):
            assert connection.execute(held).fetchone() == (1,)
        assert connection.execute(held).fetchone() == (0,)


async def test_the_engine_alone_claims_and_finishes_what_was_enqueued_among_tenants(database_url: str) -> None:
    async with engine_connection(database_url) as connection:
        await create_tenants(connection, 3)
        await enqueue_among(connection, "any", 3, 0, 7)
        worker = await lasting_worker(connection)
        finished, seconds = await timed_work_off(connection, worker, 5)
        assert finished == 5
        assert seconds > 0
    rows = "select from howdah.run_history where tenant_id in ('t1', 't2', 't3') and state = 'succeeded'"
    assert (count(database_url, rows), count(database_url, "select from howdah.run")) == (5, 2)


def test_runs_that_are_not_there_afterwards_are_an_error_and_no_figure(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enqueue, "run_module", lambda *_, **__: "1.0")
    with pytest.raises(RuntimeError, match="howdah enqueued 250 runs, and 0 are there"):
        enqueue.take(database_url, enqueue.FIGURES[0], howdah.SYSTEM, 50)


def test_a_process_that_fails_is_told_with_what_it_wrote() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)worker nobody drain_empty failed:.*StopIteration"):
        run_module("worker", "nobody", "drain_empty", "postgresql://127.0.0.1:1/none", 1, 1, seconds=1)
