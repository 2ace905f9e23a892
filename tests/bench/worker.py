"""One worker process of one system: works a filled queue off and prints what it took, as a line of JSON.

``python -m tests.bench.worker SYSTEM FIGURE URL RUNS SECONDS``

The clock is the database's, for every system: from the first claim, as the system's tables record it, to the moment
when a look from outside finds no run unfinished. Start-up comes before the first claim and is not in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys

import psycopg
import structlog
import uvloop

from tests.bench.figures import SYSTEMS
from tests.bench.system import System

LOOK_EVERY = 0.003  # seconds between looks, which begin when the last run's code has run
STOP_SECONDS = 10  # for a worker to leave; how it does is not measured


async def measure(system: System, figure: str, url: str, runs: int, seconds: float) -> tuple[int, float]:
    """(runs finished, seconds they took). What is not finished after `seconds` does not count."""
    all_ran, count = asyncio.Event(), 0

    def ran() -> None:
        nonlocal count
        count += 1
        if count == runs:
            all_ran.set()

    working = asyncio.create_task(system.work(url, figure, ran))
    # A worker that fails must not be waited for.
    working.add_done_callback(lambda _: all_ran.set())
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(_drained(connection, system, all_ran, working), seconds)
        cursor = await connection.execute(f"select clock_timestamp(), r.* from ({system.record}) as r")
        row = await cursor.fetchone()
    if working.done():
        await working
    working.cancel()
    await asyncio.wait([working], timeout=STOP_SECONDS)
    now, finished, started_at = row or (None, 0, None)
    if now is None or started_at is None:
        raise RuntimeError(f"{system.name} claimed none of {runs} runs in {seconds:g} s")
    return finished, (now - started_at).total_seconds()


async def _drained(
    connection: psycopg.AsyncConnection, system: System, all_ran: asyncio.Event, working: asyncio.Task[None]
) -> None:
    await all_ran.wait()
    while not working.done():
        cursor = await connection.execute(f"select where exists ({system.unfinished})")
        if await cursor.fetchone() is None:
            return
        await asyncio.sleep(LOOK_EVERY)


def main() -> None:
    name, figure, url, runs, seconds = sys.argv[1:]
    # Standard output carries the result alone.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    system = next(system for system in SYSTEMS if system.name == name)
    finished, took = uvloop.run(measure(system, figure, url, int(runs), float(seconds)))
    print(json.dumps({"finished": finished, "seconds": took}))


if __name__ == "__main__":
    main()
