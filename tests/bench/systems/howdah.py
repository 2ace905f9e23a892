"""Howdah: its own worker, and its group-commit writer for callers."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
from psycopg.types.json import Jsonb

from howdah.app.collector import relax_collector
from howdah.jobs.app import App
from howdah.jobs.worker.worker import Worker, WorkerSettings
from howdah.jobs.workflow.run import Run
from howdah.sql.notifier import Notifier
from howdah.sql.pool import Connection, cell_conninfo, make_pool
from howdah.sql.queue.calls import NewRun, claim_runs, enqueue_runs
from howdah.sql.queue.writer import enqueue_writer
from howdah.sql.schema import install as install_schema
from tests.bench.callers import in_figures_way
from tests.bench.engine import QUEUE, create_tenants, engine_connection, enqueue_among, lasting_worker
from tests.bench.figures import churn, claim_depth, ordered_depth, realtime, workflows
from tests.bench.system import Enqueue, Ran, System

CONCURRENCY = 500
ENQUEUE_BATCH = 5_000  # past this a larger statement is no faster
LIMITED = ("drain_limited", "drain_limited_busy")
TENANTS = 1_000
TENANT_LIMIT = 20
QUEUE_LIMIT = 5_000
HELD = QUEUE_LIMIT * 9 // 10
API_POOL = 8  # connections of a process that enqueues: as many as an API process has by default


async def install(url: str) -> None:
    with psycopg.connect(url) as connection:
        install_schema(connection)


async def fill(url: str, figure: str, runs: int) -> None:
    async with engine_connection(url) as connection:
        if figure in LIMITED:
            await create_tenants(connection, TENANTS)
            await connection.execute(
                "select * from set_queue_limits(%s, %s)",
                [QUEUE, Jsonb({"max_running": QUEUE_LIMIT, "max_running_per_tenant": TENANT_LIMIT})],
            )
        if figure == "drain_limited_busy":
            await _hold(connection)
        for start in range(0, runs, ENQUEUE_BATCH):
            size = min(ENQUEUE_BATCH, runs - start)
            if figure in LIMITED:
                await enqueue_among(connection, figure, TENANTS, start, size)
            else:
                await enqueue_runs(connection, [_new(figure)] * size, notify=False)


async def _hold(connection: Connection) -> None:
    """Runs that another worker has and does not finish, whose heart goes on beating."""
    await enqueue_among(connection, "long", TENANTS, 0, HELD)
    worker, held = await lasting_worker(connection), 0
    while claimed := await claim_runs(connection, worker, [QUEUE], 500):
        held += len(claimed)
    if held != HELD:
        raise RuntimeError(f"{held} of {HELD} long runs could be claimed")


def _new(task: str, args: str = "{}") -> NewRun:
    return NewRun("default", task, args, queue=QUEUE)


async def work(url: str, figure: str, ran: Ran) -> None:
    app = App(database_url=url)

    async def empty() -> None:
        ran()

    for name in ("drain_empty", "drain_held", "churn", *LIMITED):
        app.task(name=name, queue=QUEUE)(empty)

    @app.task(name="pickup", queue=QUEUE)
    async def pickup(sent_at: float = 0.0) -> None:
        ran(time.time() - sent_at)

    @app.workflow(name="drain_two_steps", queue=QUEUE)
    async def two_steps(run: Run) -> None:
        await run.step("first", _step, 1)
        await run.step("second", _step, 2)
        ran()

    relax_collector()  # as `howdah worker` does
    await Worker(app, cell_conninfo(url), WorkerSettings(concurrency=CONCURRENCY)).run()


async def _step(value: int) -> int:
    return value


@asynccontextmanager
async def enqueuer(url: str, figure: str) -> AsyncIterator[Enqueue]:
    relax_collector()  # as an API process does
    async with (
        make_pool(cell_conninfo(url), max_size=API_POOL, check=False) as pool,
        engine_connection(url) as connection,
    ):
        notifier = Notifier(pool)
        writer = enqueue_writer(pool, notifier)
        yield in_figures_way(
            figure,
            batch=lambda runs: enqueue_runs(connection, [_new(figure)] * runs),
            one=lambda now: writer.submit(_new(figure, f'{{"sent_at": {now!r}}}')),
        )
        await notifier.aclose()


SYSTEM = System(
    name="howdah",
    runs={
        "drain_empty": 50_000,
        "drain_two_steps": 40_000,
        "drain_limited": 50_000,
        "drain_limited_busy": 50_000,
        "drain_held": 50_000,
        "enqueue_batch": 200_000,
        "enqueue_single": 40_000,
        "enqueue_rest": 15_000,
        "pickup": 10_000,
        "claim_depth": claim_depth.RUNS,
        "ordered_depth": ordered_depth.RUNS,
        "churn": churn.RUNS,
        "steps_sequential": 1_000,
        "map_items": 10_000,
        "resume_1000": 1_000,
        "signal_100k": workflows.WAITING,
        "step_overhead": 4_000,
        "stream_sustained": realtime.RUNS,
        "stream_peak": realtime.PEAK_RUNS,
        "fanout_5000": 5_000,
        "idle_10000": 10_000,
        "reconnect_5000": 5_000,
        "append_rest": 15_000,
        "notify_cost": 60_000,
    },
    asked={"concurrency": CONCURRENCY, "connections to enqueue": API_POOL, "driver": "psycopg"},
    install=install,
    fill=fill,
    work=work,
    enqueuer=enqueuer,
    # Not the engine's own housekeeping, which comes by each minute.
    unfinished="select from howdah.run where queue = 'bench' and task <> 'long'",
    record="select count(*), min(claimed_at) from howdah.run_history where state = 'succeeded' and queue = 'bench'",
)
