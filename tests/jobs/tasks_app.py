"""What the workers of test_kill.py run: `python -m tests.jobs.tasks_app CONNINFO`, until SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import suppress

import psycopg

from howdah.jobs import App, Run
from howdah.jobs.worker.worker import Worker, WorkerSettings

app = App()


async def _note(run: Run, what: str) -> None:
    """A row for each time that this is really executed."""
    async with run.pool.connection() as connection:
        await connection.execute(
            "insert into public.executed (run_id, what, attempt) values (%s, %s, %s)", [run.id, what, run.attempt]
        )


async def _wait_for_gate(run: Run) -> None:
    while True:
        # A question of the workflow's own, so that a connection cut beneath it is the workflow's to bear.
        with suppress(psycopg.OperationalError):
            async with run.pool.connection() as connection:
                cursor = await connection.execute("select from public.gate where open")
                if cursor.rowcount:
                    return
        await asyncio.sleep(0.02)


@app.workflow(name="three-steps", queue="kill")
async def three_steps(run: Run) -> str:
    """Emits before, in and after steps; the second waits at a gate, so that a test can strike there."""
    await run.emit("started", {})

    async def step(what: str) -> str:
        await run.emit(f"in-{what}", {})
        await _note(run, what)
        if what == "second":
            await _wait_for_gate(run)
        return what

    done = [await run.step(what, step, what) for what in ("first", "second", "third")]
    await run.emit("ended", {})
    return "+".join(done)


async def main(conninfo: str) -> None:
    worker = Worker(app, conninfo, WorkerSettings(concurrency=10, heartbeat=0.1, rescue=0.6, shutdown=0.2))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    await worker.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
