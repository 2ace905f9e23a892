"""Runs whose workers die: a fresh process takes each one's place, until the run has ended."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Awaitable, Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from howdah.sql.pool import Connection
from tests.jobs.crash_worker import Strike
from tests.sql.engine import rows, value

PATIENCE = 40.0  # seconds for one run
# A fresh process in 20 ms: its parent has imported everything.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.jobs.crash_worker", "tests.jobs.tree_worker"])


async def run_to_its_end(
    connection: Connection,
    run_id: int,
    work: Callable[[Strike], None],
    strikes: Sequence[Strike],
    meanwhile: Callable[[], Awaitable[None]] | None = None,
) -> tuple[str, Any]:
    """How a run ended whose workers are struck, the last one not: its state, and its output or its error's message."""
    processes: list[BaseProcess] = []
    try:
        async with asyncio.timeout(PATIENCE):
            while not await rows(connection, "select from run_history where id = %s", run_id):
                if not processes or not processes[-1].is_alive():
                    await bury(connection)
                    process = FORKS.Process(target=work, args=(strikes[len(processes)],), daemon=True)
                    process.start()
                    processes.append(process)
                if meanwhile is not None:
                    await meanwhile()
                await asyncio.sleep(0.02)
        assert await value(connection, "select coalesce(sum(repeats), 0) from checkpoint") == 0
        ((state, output, error),) = await rows(
            connection, "select state, output, error from run_history where id = %s", run_id
        )
        return state, output if error is None else error["message"]
    except TimeoutError:
        live = await rows(connection, "select id, task, state, attempt, deaths, awaits from run")
        log = strikes[-1].diary.with_suffix(".log")
        pytest.fail(f"not ended after {PATIENCE} s: {live}\n{log.read_text()[-3000:] if log.exists() else 'no log'}")
    finally:
        for process in processes:
            process.kill()
            process.join()
        # Or the next run's workers would count it among those who might run what is suspect.
        await bury(connection)


def strikes(conninfo: str, queue: str, folder: Path, deaths: Sequence[int]) -> list[Strike]:
    """Of each number in `deaths`, a worker is killed at that point of its work; the last one lives."""
    diary = folder / queue
    return [Strike(conninfo, queue, diary, "kill", at) for at in deaths] + [Strike(conninfo, queue, diary)]


async def bury(connection: Connection) -> None:
    """Let all workers count as dead: those that lived have been killed."""
    await connection.execute("update worker set heartbeat_at = '-infinity'")
    await connection.execute("select from rescue_runs('1 hour')")
