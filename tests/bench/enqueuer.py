"""One process that enqueues runs of one system and prints the seconds it took, by the database's clock.

``python -m tests.bench.enqueuer SYSTEM FIGURE URL RUNS``
"""

from __future__ import annotations

import sys

import psycopg
import structlog
import uvloop

from tests.bench.callers import WARM_UP
from tests.bench.catalogue import SYSTEMS
from tests.bench.database import database_time
from tests.bench.system import System


async def enqueue(system: System, figure: str, url: str, runs: int) -> float:
    """Seconds that `runs` took, after a few that are not in it."""
    async with (
        await psycopg.AsyncConnection.connect(url, autocommit=True) as clock,
        system.enqueuer(url, figure) as enqueue_runs,
    ):
        await enqueue_runs(WARM_UP)
        started_at = await database_time(clock)
        await enqueue_runs(runs)
        return (await database_time(clock) - started_at).total_seconds()


def main() -> None:
    name, figure, url, runs = sys.argv[1:]
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    system = next(system for system in SYSTEMS if system.name == name)
    print(uvloop.run(enqueue(system, figure, url, int(runs))))


if __name__ == "__main__":
    main()
