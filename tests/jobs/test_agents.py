"""Two workflows that talk through a session, while their workers are killed again and again."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from howdah.sql.pool import Connection
from tests.sql.engine import enqueue, rows, value

ROOT = Path(__file__).parents[2]
MESSAGES = 1000
KILLS = 6
PATIENCE = 300.0  # seconds for all of it; it takes 40 where nothing else runs

# The process that a run is in; a worker is named for its host and its process.
HOLDER = """select split_part(w.name, '/', -1) from run as r join worker as w on w.id = r.worker_id
            where r.state = 'running' and w.heartbeat_at > now() - interval '1 s' limit 1"""

pytestmark = pytest.mark.long


class Workers:
    """Two worker processes, either of which may be replaced by a fresh one."""

    def __init__(self, conninfo: str, log: Path) -> None:
        self._conninfo = conninfo
        self._log = log.open("ab")
        self._processes = [self._start(), self._start()]

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.jobs.agents_app", self._conninfo],
            cwd=ROOT,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def kill(self, pid: int) -> None:
        """Kill the one of this id, and start the next in its place."""
        which = [process.pid for process in self._processes].index(pid)
        self._processes[which].kill()
        self._processes[which].wait()
        self._processes[which] = self._start()

    def kill_all(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        self._log.close()


@pytest.fixture
def workers(conninfo: str, tmp_path: Path) -> Iterator[Workers]:
    started = Workers(conninfo, tmp_path / "log")
    yield started
    started.kill_all()


async def test_two_agents_exchange_a_thousand_messages_once_each_and_in_order_while_their_workers_are_killed(
    connection: Connection, workers: Workers, tmp_path: Path
) -> None:
    await connection.execute("create table public.heard (run_id bigint, number integer)")
    agents = []
    for begins in (False, True):
        args = msgspec.json.encode({"begins": begins, "messages": MESSAGES}).decode()
        agents += await enqueue(connection, task="agent", args=args, queue="agents", session_id="talk")
    killed_at: list[int] = []
    try:
        async with asyncio.timeout(PATIENCE):
            while not await value(connection, "select count(*) = 2 from run_history"):
                said = await value(connection, "select coalesce(max(last_seq), 0) from session")
                # Evenly spread over the talk, and where a run is just then.
                if len(killed_at) < KILLS and said >= MESSAGES * (len(killed_at) + 1) // (KILLS + 1):
                    holder = await rows(connection, HOLDER)
                    if holder:
                        workers.kill(int(holder[0]))
                        killed_at.append(said)
                await asyncio.sleep(0.01)
    except TimeoutError:
        live = await rows(connection, "select id, state, attempt, deaths, suspect, awaits from run")
        pytest.fail(
            f"not ended after {PATIENCE} s, killed at {killed_at}: {live}\n{(tmp_path / 'log').read_text()[-3000:]}"
        )

    answerer, beginner = agents
    told = await rows(
        connection, "select seq, data, run_id from event where session_id = 'talk' and type = 'said' order by seq"
    )
    assert told == [
        (number, {"number": number, "answers": number - 1}, beginner if number % 2 else answerer)
        for number in range(1, MESSAGES + 1)
    ]
    assert await rows(connection, "select run_id, number from public.heard order by number, run_id") == [
        (answerer if number % 2 else beginner, number) for number in range(1, MESSAGES + 1)
    ]
    assert await rows(connection, "select state from run_history") == ["succeeded"] * 2
    # Not the runs' deaths: those are forgotten whenever they rest.
    rescued = [int(runs) for runs in re.findall(r"runs_requeued=(\d+)", (tmp_path / "log").read_text())]
    assert sum(rescued) >= KILLS // 3, killed_at
    assert len(killed_at) == KILLS
