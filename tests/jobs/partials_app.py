"""What the workers of test_partials.py run: `python -m tests.jobs.partials_app CONNINFO`, until killed."""

from __future__ import annotations

import asyncio
import sys

from howdah.jobs import App, Run
from howdah.jobs.worker.worker import Worker, WorkerSettings

TOKENS = [f"tök{number} " for number in range(1000)]

app = App()
app.periodic_registry.periodic_tasks.clear()


async def _gate(run: Run, name: str) -> None:
    """Say that the run is here, and go on when the test has opened the gate."""
    async with run.pool.connection() as connection:
        await connection.execute("insert into public.here values (%s, %s)", [name, run.attempt])
        while not (await connection.execute("select from public.gate where name = %s", [name])).rowcount:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@app.workflow(name="tell", queue="partials")
async def tell(run: Run) -> str:
    """A text of many tokens in a step; gates stand before it, in its middle, after its last token and after it."""

    async def speak() -> str:
        await _gate(run, "before")
        async with run.stream("assistant.message") as out:
            for number, token in enumerate(TOKENS):
                if number == len(TOKENS) // 2:
                    await _gate(run, "middle")
                # Another model's answer on another attempt.
                out.write(token if run.attempt == 1 else token.upper())
                if number % 10 == 0:
                    await asyncio.sleep(0.001)
            await _gate(run, "written")
        await _gate(run, "after")
        return "told"

    return await run.step("speak", speak)


async def main(conninfo: str) -> None:
    await Worker(app, conninfo, WorkerSettings(concurrency=10, heartbeat=0.1, rescue=0.6)).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
