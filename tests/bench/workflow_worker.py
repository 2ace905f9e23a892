"""A worker process with the benchmark's workflows: ``python -m tests.bench.workflow_worker URL``, until killed."""

from __future__ import annotations

import asyncio
import sys
import time

import structlog
import uvloop

from howdah.app.collector import relax_collector
from howdah.jobs import App, RetryStrategy, Run
from howdah.jobs.worker.worker import Worker, WorkerSettings
from howdah.sql.pool import cell_conninfo
from tests.bench.engine import QUEUE

CONCURRENCY = 500
STEP = 0.05  # seconds that a step of `overhead` takes
AT_ONCE = 200  # of those, side by side


def make_app(url: str) -> App:
    """An app with the workflows that the figures run."""
    app = App(database_url=url)

    @app.workflow(name="sequential", queue=QUEUE)
    async def sequential(run: Run, steps: int) -> None:
        for number in range(steps):
            await run.step("step", _same, number)

    @app.workflow(name="mapped", queue=QUEUE)
    async def mapped(run: Run, items: int) -> int:
        return len(await run.map("item", _same, range(items), limit=CONCURRENCY))

    @app.workflow(name="child", queue=QUEUE)
    async def child(run: Run, number: int) -> int:
        return number

    @app.workflow(name="parent", queue=QUEUE)
    async def parent(run: Run, items: int) -> int:
        return len(await run.children("all", child, range(items)))

    @app.workflow(name="resumed", queue=QUEUE, retry=RetryStrategy(max_attempts=1))
    async def resumed(run: Run, steps: int) -> None:
        for number in range(steps):
            await run.step("step", _same, number)
        if run.attempt == 1:
            raise InterruptedError
        await run.step("next", _same, 0)

    @app.workflow(name="signalled", queue=QUEUE)
    async def signalled(run: Run) -> int:
        number: int = await run.wait_for("go", int)
        return number

    @app.workflow(name="overhead", queue=QUEUE)
    async def overhead(run: Run, items: int) -> list[float]:
        started = time.perf_counter()
        await run.map("item", _work, range(items), limit=AT_ONCE)
        return [time.perf_counter() - started, await _plain(items)]

    return app


async def _same(number: int) -> int:
    return number


async def _work(number: int) -> int:
    await asyncio.sleep(STEP)
    return number


async def _plain(items: int) -> float:
    """Seconds for the same work without steps, as many at once."""
    started = time.perf_counter()
    numbers = iter(range(items))

    async def work_off() -> None:
        for number in numbers:
            await _work(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work_off())
    return time.perf_counter() - started


def main() -> None:
    (url,) = sys.argv[1:]
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    relax_collector()  # as `howdah worker` does
    app = make_app(url)
    uvloop.run(Worker(app, cell_conninfo(url), WorkerSettings(concurrency=CONCURRENCY)).run())


if __name__ == "__main__":
    main()
