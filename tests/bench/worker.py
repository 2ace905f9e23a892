"""One worker process of one system: works runs off and prints what it took, as a line of JSON.

``python -m tests.bench.worker SYSTEM FIGURE URL RUNS SECONDS``

The clock is the database's, for every system: from the first claim, as the system's tables record it, to the moment
when a look from outside finds no run unfinished. Start-up comes before the first claim and is not in it. How the first
and the last fifth went is told by this process's clock, as no system records it. Once the first run has run, it prints
`working`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from typing import Any

import psycopg
import structlog
import uvloop

from tests.bench.catalogue import SYSTEMS
from tests.bench.system import System

LOOK_EVERY = 0.003  # seconds between looks, which begin when the last run's code has run
STOP_SECONDS = 10  # for a worker to leave; how it does is not measured


class Runs:
    """What the code of the runs tells: how many have run, when, and how long each had waited."""

    def __init__(self, runs: int, waits: bool) -> None:
        self.all_ran = asyncio.Event()
        self.waits: list[float] = []
        self._runs = runs
        self._collect = waits
        self._count = 0
        # The first and last run of the first fifth, and of the last one.
        self._marks = {1, max(1, runs // 5), max(1, runs - runs // 5), runs}
        self._seen: dict[int, float] = {}

    def ran(self, waited: float = 0.0) -> None:
        self._count += 1
        if self._collect:
            self.waits.append(waited)
        if self._count in self._marks:
            self._seen[self._count] = time.perf_counter()
            if self._count == 1:
                print("working", flush=True)
            if self._count == self._runs:
                self.all_ran.set()

    def fifths(self) -> list[float]:
        """Runs per second of the first and of the last fifth; empty if not all have run."""
        fifth = self._runs // 5
        if fifth < 2 or self._runs not in self._seen:
            return []
        first = self._seen[fifth] - self._seen[1]
        last = self._seen[self._runs] - self._seen[self._runs - fifth]
        return [(fifth - 1) / max(first, 1e-6), fifth / max(last, 1e-6)]


async def measure(system: System, figure: str, url: str, runs: int, seconds: float) -> dict[str, Any]:
    """What was `finished`, in how many `seconds`; what is not finished after `seconds` does not count."""
    told = Runs(runs, figure == "pickup")
    working = asyncio.create_task(system.work(url, figure, told.ran))
    # A worker that fails must not be waited for.
    working.add_done_callback(lambda _: told.all_ran.set())
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(_drained(connection, system, told.all_ran, working), seconds)
        cursor = await connection.execute(f"select clock_timestamp(), r.* from ({system.record}) as r")
        row = await cursor.fetchone()
    if working.done():
        await working
    working.cancel()
    await asyncio.wait([working], timeout=STOP_SECONDS)
    now, finished, started_at = row or (None, 0, None)
    if now is None or started_at is None:
        raise RuntimeError(f"{system.name} claimed none of {runs} runs in {seconds:g} s")
    return {
        "finished": finished,
        "seconds": (now - started_at).total_seconds(),
        "fifths": told.fifths(),
        "waits": told.waits,
    }


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
    result = uvloop.run(measure(system, figure, url, int(runs), float(seconds)))
    # A child of Node.js leaves the pipe that it shares non-blocking, and an unbuffered standard output drops what one
    # write does not take: each cuts a long line short.
    os.set_blocking(sys.stdout.fileno(), True)
    with open(sys.stdout.fileno(), "w", closefd=False) as output:
        output.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
