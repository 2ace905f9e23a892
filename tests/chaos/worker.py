"""``python -m tests.chaos.worker DATABASE_URL``: a worker of the chaos load, to be killed."""

from __future__ import annotations

import os
import sys

import uvloop

from howdah.jobs.worker import Worker, WorkerSettings
from howdah.sql.pool import cell_conninfo, make_pool
from tests.chaos.load import Trace, app

# A rescue within seconds, so that minutes hold many of them.
SETTINGS = WorkerSettings(concurrency=60, heartbeat=0.5, rescue=2.0, name=f"chaos-{os.getpid()}")
TRACE_CONNECTIONS = 4


async def work(url: str) -> None:
    async with make_pool(cell_conninfo(url), max_size=TRACE_CONNECTIONS) as pool:
        await Worker(app, cell_conninfo(url), SETTINGS, resources={Trace: Trace(pool)}).run()


if __name__ == "__main__":
    uvloop.run(work(sys.argv[1]))
