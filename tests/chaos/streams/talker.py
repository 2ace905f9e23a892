"""``python -m tests.chaos.streams.talker DATABASE_URL``: a worker of runs that talk, until its input ends."""

from __future__ import annotations

import asyncio
import sys

import uvloop

from howdah.jobs import App, Run
from howdah.jobs.worker.worker import Worker, WorkerSettings
from howdah.sql.pool import cell_conninfo
from tests.chaos.worker import end_with_parent

QUEUE = "talk"
WORDS = 5  # events of a run

# A rescue within seconds: the worker is killed more than once in a pass.
SETTINGS = WorkerSettings(concurrency=20, heartbeat=0.5, rescue=2.0, name="talker")

app = App(database_url="")
app.periodic_registry.periodic_tasks.clear()


@app.workflow(name="talk", queue=QUEUE)
async def talk(run: Run) -> None:
    """Say some words, with pauses in which the worker may die."""
    for number in range(WORDS):
        await run.emit("run.word", {"number": number})
        await asyncio.sleep(0.02)


if __name__ == "__main__":
    end_with_parent()
    uvloop.run(Worker(app, cell_conninfo(sys.argv[1]), SETTINGS).run())
