"""What the workers of test_agents.py run: `python -m tests.jobs.agents_app CONNINFO`, until killed."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from howdah.jobs import App, Run
from howdah.jobs.worker.worker import Worker, WorkerSettings
from howdah.sql.pool import Connection

app = App()
app.periodic_registry.periodic_tasks.clear()


@app.workflow(name="agent", queue="agents")
async def talk(run: Run, begins: bool, messages: int) -> int:
    """Say what follows the number that the other one has just said, until `messages` are said; how many were heard."""
    heard = 0
    if begins:
        await run.emit("said", {"number": 1, "answers": 0})
    async for event in run.events(types=["said"]):
        number: int = event.data["number"]
        await run.transaction("hear", hear, run, event.data)
        heard += 1
        if number < messages:
            await run.emit("said", {"number": number + 1, "answers": number})
        if number >= messages - 1:
            break
    return heard


async def hear(connection: Connection, run: Run, said: dict[str, Any]) -> None:
    """A row for each time that a message is really handled."""
    await connection.execute("insert into public.heard (run_id, number) values (%s, %s)", [run.id, said["number"]])


async def main(conninfo: str) -> None:
    await Worker(app, conninfo, WorkerSettings(queues=("agents",), heartbeat=0.1, rescue=0.6)).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
