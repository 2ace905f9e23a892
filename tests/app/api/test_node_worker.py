"""Real Node.js workers by REST, killed, stopped and asked to leave between two steps; the tables tell what happened."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from howdah.app.settings import Settings
from howdah.sql.pool import Connection
from howdah.sql.workflow.calls import NewSignal, send_signals
from tests.app.api.conftest import Keys, Running
from tests.sql.engine import enqueue, rows, value

pytestmark = [pytest.mark.needs("node"), pytest.mark.long]
Start = Callable[[], subprocess.Popen[bytes]]


@pytest.fixture
def settings() -> Settings:
    return Settings(shutdown_seconds=2, heartbeat_seconds=0.1, rescue_seconds=0.8, log_level="warning")


@pytest.fixture
def start(running: Running, keys: Keys, tmp_path: Path) -> Iterator[Start]:
    """Start a Node worker; those that are left are killed at the end. `tmp_path/output` has what they say."""
    started: list[subprocess.Popen[bytes]] = []
    with (tmp_path / "output").open("ab") as output:

        def start() -> subprocess.Popen[bytes]:
            program = Path(__file__).with_name("node_review.mjs")
            environment = {"HOWDAH_URL": running.url, "HOWDAH_KEY": keys.admin}
            process = subprocess.Popen(["node", str(program)], env=environment, stdout=output, stderr=output)
            started.append(process)
            return process

        yield start
        for process in started:
            if process.poll() is None:
                process.kill()
            process.wait()


@pytest.fixture
async def run_id(connection: Connection, tmp_path: Path) -> int:
    (run_id,) = await enqueue(connection, task="node.review", queue="node", args=f'{{"folder": "{tmp_path}"}}')
    return run_id


async def until(connection: Connection, query: str, *parameters: object) -> None:
    async with asyncio.timeout(30):
        while not await value(connection, f"select exists ({query})", *parameters):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def until_executed(folder: Path, line: str) -> None:
    async with asyncio.timeout(30):
        while line not in executed(folder):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def executed(folder: Path) -> list[str]:
    file = folder / "executed"
    return file.read_text().splitlines() if file.exists() else []


async def approve(connection: Connection, run_id: int) -> None:
    """When the run waits for it; then see it succeed, each step kept once."""
    await until(connection, "select from run where state = 'waiting'")
    assert await send_signals(connection, None, [NewSignal(run_id, "approve", '{"by": "ann"}')]) == ["sent"]
    await until(connection, "select from run_history where id = %s", run_id)
    assert await rows(connection, "select state, output, failures from run_history") == [
        ("succeeded", "3 pages, approved by ann", 1)
    ]
    kept = "select step, repeats from checkpoint order by finished_at"
    assert await rows(connection, kept) == [("draft", 0), ("check", 0), ("wait approve", 0), ("print", 0)]


async def test_a_node_worker_killed_between_two_steps_loses_nothing_and_repeats_nothing(
    connection: Connection, start: Start, run_id: int, tmp_path: Path
) -> None:
    first = start()
    await until_executed(tmp_path, "check 1")
    first.send_signal(signal.SIGKILL)
    first.wait()
    last = start()
    await until_executed(tmp_path, "check 2")
    assert await rows(connection, "select deaths, failures from run") == [(1, 0)]
    (tmp_path / "gate").touch()
    await approve(connection, run_id)
    # Attempt 2 failed after the check, 3 came to rest, 4 was woken.
    assert executed(tmp_path) == ["draft 1", "check 1", "check 2", "tidied 2", "tidied 3", "tidied 4", "print 4"]
    assert await rows(connection, "select attempt from checkpoint order by finished_at") == [1, 2, 4, 4]
    last.send_signal(signal.SIGTERM)
    assert last.wait(10) == 0
    assert await rows(connection, "select id from worker") == []


async def test_a_node_worker_that_was_only_asleep_is_refused_when_it_wakes(
    connection: Connection, start: Start, run_id: int, tmp_path: Path
) -> None:
    sleeper = start()
    await until_executed(tmp_path, "check 1")
    sleeper.send_signal(signal.SIGSTOP)
    start()
    await until_executed(tmp_path, "check 2")
    (tmp_path / "gate").touch()
    # It wakes in the middle of its step, finds the gate open, and wants to write.
    sleeper.send_signal(signal.SIGCONT)
    await until_executed(tmp_path, "tidied 1")
    await approve(connection, run_id)
    assert f"attempt 1 of run {run_id} is over: 'check' was not written" in (tmp_path / "output").read_text()
    # It has registered again, and works on.
    await until(connection, "select from worker having count(*) = 2 and min(id) > 1")


async def test_a_cancelled_run_is_told_to_its_node_worker_which_tidies_up(
    connection: Connection, start: Start, run_id: int, tmp_path: Path, api: httpx.AsyncClient, keys: Keys
) -> None:
    start()
    await until_executed(tmp_path, "check 1")
    asked = {"Authorization": f"Bearer {keys.admin}", "Howdah-Tenant": "default"}
    assert (await api.post(f"/v1/runs/{run_id}/cancel", headers=asked)).status_code == 202
    await until(connection, "select from run_history")
    assert await rows(connection, "select state, error ->> 'message' from run_history") == [
        ("cancelled", "cancelled in check")
    ]
    assert executed(tmp_path) == ["draft 1", "check 1", "tidied 1"]


async def test_a_node_worker_asked_to_drain_gives_back_nothing_and_exits_with_0(
    connection: Connection, start: Start, run_id: int, tmp_path: Path
) -> None:
    worker = start()
    await until_executed(tmp_path, "check 1")
    await connection.execute("select ops.drain_worker(id) from worker")
    (tmp_path / "gate").touch()
    assert worker.wait(20) == 0
    assert await rows(connection, "select state, deaths from run") == [("queued", 0)]
    assert await rows(connection, "select id from worker") == []


async def test_a_run_that_fails_again_and_again_has_failed_with_its_reason(
    connection: Connection, start: Start, tmp_path: Path
) -> None:
    await enqueue(connection, task="node.review", queue="node", args=f'{{"folder": "{tmp_path}/nowhere"}}')
    start()
    await until(connection, "select from run_history")
    ((state, attempt, failures, error),) = await rows(
        connection, "select state, attempt, failures, error from run_history"
    )
    assert (state, attempt, failures) == ("failed", 4, 4)
    assert "no such file or directory" in error["message"]
