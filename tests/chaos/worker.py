"""``python -m tests.chaos.worker DATABASE_URL``: a worker of the chaos load, which ends with its standard input."""

from __future__ import annotations

import os
import sys
import threading

import uvloop

from howdah.jobs.worker.worker import Worker, WorkerSettings
from howdah.sql.pool import cell_conninfo, make_pool
from tests.chaos.load import app
from tests.chaos.trace import Trace

# A rescue within seconds, so that minutes hold many of them.
SETTINGS = WorkerSettings(concurrency=60, heartbeat=0.5, rescue=2.0, name=f"chaos-{os.getpid()}")
APPLICATION = "howdah-chaos-worker"  # of its connections, by which they are found to be cut


async def work(url: str) -> None:
    conninfo = cell_conninfo(url, application_name=APPLICATION)
    async with make_pool(conninfo, max_size=1) as pool:
        await Worker(app, conninfo, SETTINGS, resources={Trace: Trace(pool)}).run()


def end_with_parent() -> None:
    """End this process when the one that started it is gone, however it went."""

    def wait() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    end_with_parent()
    uvloop.run(work(sys.argv[1]))
