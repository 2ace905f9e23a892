"""Real worker processes, killed, stopped and asked to leave between two steps; the tables tell what happened."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from howdah.sql.pool import Connection
from tests.sql.engine import enqueue, rows, value

ROOT = Path(__file__).parents[2]
Start = Callable[[], subprocess.Popen[bytes]]


@pytest.fixture
def start(conninfo: str) -> Iterator[Start]:
    """Start a worker process; those that are left are killed at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.jobs.tasks_app", conninfo],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture
async def run_id(connection: Connection) -> int:
    """A run of the workflow with three steps, whose gate is closed."""
    await connection.execute("create table public.executed (run_id bigint, what text, attempt integer)")
    await connection.execute("create table public.gate as select false as open")
    (run_id,) = await enqueue(connection, task="three-steps", queue="kill")
    return run_id


async def until(connection: Connection, query: str, *parameters: object) -> None:
    async with asyncio.timeout(20):
        while not await value(connection, f"select exists ({query})", *parameters):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def until_in_second_step(connection: Connection, attempt: int) -> None:
    await until(connection, "select from public.executed where what = 'second' and attempt = %s", attempt)


async def open_gate_and_finish(connection: Connection, run_id: int) -> None:
    await connection.execute("update public.gate set open = true")
    await until(connection, "select from run_history where id = %s", run_id)


async def assert_told_once(connection: Connection, run_id: int) -> None:
    """Three steps, of which the first was executed once, by the first attempt; events without gap or repeat."""
    assert await rows(connection, "select state, output from run_history where id = %s", run_id) == [
        ("succeeded", "first+second+third")
    ]
    assert await rows(connection, "select attempt from public.executed where what = 'first'") == [1]
    assert await rows(connection, "select step, attempt, repeats from checkpoint order by finished_at") == [
        ("first", 1, 0),
        ("second", 2, 0),
        ("third", 2, 0),
    ]
    told = await rows(connection, "select seq, type from event where run_id = %s order by seq", run_id)
    names = ["started", "in-first", "in-second", "in-third", "ended", "howdah.run.succeeded"]
    assert told == list(enumerate(names, 1))


async def test_a_worker_killed_between_two_steps_loses_nothing_and_repeats_nothing(
    connection: Connection, start: Start, run_id: int
) -> None:
    first = start()
    await until_in_second_step(connection, 1)
    first.send_signal(signal.SIGKILL)
    first.wait()
    start()
    await until_in_second_step(connection, 2)
    assert await rows(connection, "select deaths, failures from run") == [(1, 0)]
    await open_gate_and_finish(connection, run_id)
    await assert_told_once(connection, run_id)


async def test_a_worker_that_was_only_asleep_is_refused_when_it_wakes(
    connection: Connection, start: Start, run_id: int
) -> None:
    sleeper = start()
    await until_in_second_step(connection, 1)
    (asleep,) = await rows(connection, "select id from worker")
    sleeper.send_signal(signal.SIGSTOP)
    start()
    await until_in_second_step(connection, 2)
    await connection.execute("update public.gate set open = true")
    # It wakes in the middle of the second step, finds the gate open, and wants to write.
    sleeper.send_signal(signal.SIGCONT)
    await until(connection, "select from run_history where id = %s", run_id)
    await until(connection, "select from worker having count(*) = 2 and min(id) > %s", asleep)
    await assert_told_once(connection, run_id)


async def test_a_worker_asked_to_leave_hands_back_what_it_cannot_finish(
    connection: Connection, start: Start, run_id: int
) -> None:
    first = start()
    await until_in_second_step(connection, 1)
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=10) == 0
    assert await rows(connection, "select state, deaths, failures from run") == [("queued", 0, 0)]
    assert await rows(connection, "select id from worker") == []
    start()
    await until_in_second_step(connection, 2)
    await open_gate_and_finish(connection, run_id)
    await assert_told_once(connection, run_id)


async def test_a_worker_asked_to_drain_exits_with_0(connection: Connection, start: Start, run_id: int) -> None:
    first = start()
    await until_in_second_step(connection, 1)
    await connection.execute("select ops.drain_worker(id) from worker")
    assert first.wait(timeout=10) == 0
    assert await rows(connection, "select state, deaths, failures from run") == [("queued", 0, 0)]
    assert await rows(connection, "select id from worker") == []


async def test_a_worker_whose_every_connection_is_cut_goes_on(
    connection: Connection, start: Start, run_id: int
) -> None:
    start()
    await until_in_second_step(connection, 1)
    await connection.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid() and application_name = 'howdah'"
    )
    await open_gate_and_finish(connection, run_id)
    assert await rows(connection, "select state from run_history") == ["succeeded"]
    seqs = await rows(connection, "select seq from event where run_id = %s order by seq", run_id)
    assert seqs == list(range(1, len(seqs) + 1))
