"""What durable workflows cost: steps one after another and side by side, children, coming back, and being woken."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from statistics import median
from typing import Any

from howdah.sql.pool import Connection
from howdah.sql.queue.calls import NewRun, claim_runs, enqueue_runs
from howdah.sql.workflow.calls import NewSignal, RunItem, flush, send_signals
from tests.bench.database import fresh_database, settle
from tests.bench.engine import QUEUE, engine_connection, lasting_worker
from tests.bench.figure import DEEP, Figure, Measure, Target
from tests.bench.process import started_module
from tests.bench.system import System

WAITING = 1_000_000 if DEEP else 100_000  # runs that wait for a signal
PATIENCE = WAITING / 800  # seconds for the runs to end
LOOK_EVERY = 0.01
COMMITS = 1_000
MAP_WORKERS = 4
BATCH = 1_000  # runs enqueued, or signalled, in one transaction
OTHERS = "others"  # a queue whose claims are timed while the signalled runs come back
OTHERS_EVERY = 0.02  # seconds between those


async def _run(connection: Connection, task: str, **args: int) -> int:
    (run,) = await enqueue_runs(connection, [_new(task, **args)])
    assert run.run_id is not None
    return run.run_id


def _new(task: str, **args: int) -> NewRun:
    text = ", ".join(f'"{name}": {value}' for name, value in args.items())
    return NewRun("default", task, f"{{{text}}}", queue=QUEUE)


async def _row(connection: Connection, query: str, *parameters: Any) -> Any:
    row = await (await connection.execute(query.encode(), parameters or None)).fetchone()
    assert row is not None
    return row


async def _ended(connection: Connection, runs: int) -> None:
    """Return when so many have succeeded, and none is left. While one is, the look costs one row of it: to count the
    ended each time took a fifth of the server.

    Raises
    ------
    RuntimeError
        If one did not succeed.
    """
    async with asyncio.timeout(PATIENCE):
        while True:
            (left,) = await _row(connection, "select (select id from run where queue = %s order by id limit 1)", QUEUE)
            if left is None:
                done, bad = await _row(
                    connection,
                    "select count(*) filter (where state = 'succeeded'),"
                    " max(error::text) filter (where state <> 'succeeded') from howdah.run_history where queue = %s",
                    QUEUE,
                )
                if bad is not None:
                    raise RuntimeError(f"a run failed: {bad}")
                if done >= runs:
                    return
            await asyncio.sleep(LOOK_EVERY)


@asynccontextmanager
async def _workers(server_url: str, system: System, count: int = 1) -> AsyncIterator[Connection]:
    """A fresh database with so many worker processes, and a connection to it."""
    with fresh_database(server_url, f"bench_{system.name}") as url, ExitStack() as stack:
        await system.install(url)
        settle(url)
        for _ in range(count):
            stack.enter_context(started_module("workflow_worker", url))
        async with engine_connection(url) as connection:
            async with asyncio.timeout(PATIENCE):
                while (await _row(connection, "select count(*) from worker"))[0] < count:  # noqa: ASYNC110
                    await asyncio.sleep(LOOK_EVERY)
            # Connections and plans are warm then, as in a worker that has been running.
            for _ in range(5):
                await _run(connection, "sequential", steps=20)
            await _ended(connection, 5)
            await connection.execute("delete from run_history")
            yield connection


async def _sequential(server_url: str, system: System, runs: int) -> dict[str, float]:
    async with _workers(server_url, system) as connection:
        await connection.execute("create table public.commits (n integer)")
        run_id = await _run(connection, "sequential", steps=runs)
        await _ended(connection, 1)
        started = time.perf_counter()
        for number in range(COMMITS):
            await connection.execute("insert into public.commits values (%s)", [number])
        commit = (time.perf_counter() - started) / COMMITS * 1000
        steps, seconds = await _row(
            connection,
            "select count(*), extract(epoch from max(finished_at) - min(finished_at)) from checkpoint"
            " where run_id = %s",
            run_id,
        )
    if steps != runs:
        raise RuntimeError(f"{steps} of {runs} steps are on disk")
    step = float(seconds) / (steps - 1) * 1000
    return {"steps_sequential": step, "steps_commit": commit, "steps_beyond_commit": step - commit}


async def _map(server_url: str, system: System, runs: int) -> dict[str, float]:
    async with _workers(server_url, system, MAP_WORKERS) as connection:
        share = runs // MAP_WORKERS
        started = time.perf_counter()
        await enqueue_runs(connection, [_new("mapped", items=share) for _ in range(MAP_WORKERS)])
        await _ended(connection, MAP_WORKERS)
        spread = share * MAP_WORKERS / (time.perf_counter() - started)
        await connection.execute("delete from run_history")
        started = time.perf_counter()
        await _run(connection, "mapped", items=runs)
        await _ended(connection, 1)
        one = runs / (time.perf_counter() - started)
        await connection.execute("delete from run_history")
        started = time.perf_counter()
        await _run(connection, "parent", items=runs)
        await _ended(connection, runs + 1)
        children = runs / (time.perf_counter() - started)
    return {"map_items": spread, "map_items_one_run": one, "map_children": children}


async def _resume(server_url: str, system: System, runs: int) -> dict[str, float]:
    async with _workers(server_url, system) as connection:
        taken = []
        for _ in range(5):
            run_id = await _run(connection, "resumed", steps=runs)
            await _ended(connection, len(taken) + 1)
            (seconds,) = await _row(
                connection,
                "select extract(epoch from c.started_at - h.claimed_at) from run_history as h"
                " join checkpoint as c on c.run_id = h.id and c.step = 'next' where h.id = %s",
                run_id,
            )
            taken.append(float(seconds) * 1000)
    return {"resume_1000": median(taken)}


async def _signal(server_url: str, system: System, runs: int) -> dict[str, float]:
    async with _workers(server_url, system) as connection:
        ids: list[int] = []
        for start in range(0, runs, BATCH):
            size = min(BATCH, runs - start)
            enqueued = await enqueue_runs(connection, [_new("signalled") for _ in range(size)])
            ids += [run.run_id for run in enqueued if run.run_id is not None]
        async with asyncio.timeout(PATIENCE):
            while (await _row(connection, "select count(*) from run where state <> 'waiting' and queue = 'bench'"))[0]:  # noqa: ASYNC110
                await asyncio.sleep(LOOK_EVERY)
        await connection.execute("vacuum (analyze) run")
        worker = await lasting_worker(connection)
        await connection.execute("insert into queue (name) values (%s)", [OTHERS])
        before = await _claims_of_others(connection, worker, asyncio.Event(), 50)
        over = asyncio.Event()
        async with engine_connection(_url(connection)) as other:
            meanwhile = asyncio.create_task(_claims_of_others(other, worker, over, None))
            started = time.perf_counter()
            for start in range(0, runs, BATCH):
                batch = [NewSignal(run_id, "go", "1") for run_id in ids[start : start + BATCH]]
                await send_signals(connection, None, batch)
            sent = time.perf_counter() - started
            await _ended(connection, runs)
            seconds = time.perf_counter() - started
            over.set()
            during = await meanwhile
            beside = await _claims_beside_work(connection, other, worker, runs)
    return {
        "signal_100k": seconds,
        "signal_100k_sent": sent,
        "signal_claims": median(during) * 1000,
        "signal_claims_before": median(before) * 1000,
        "signal_claims_busy": median(beside) * 1000,
    }


async def _claims_beside_work(connection: Connection, other: Connection, worker: int, runs: int) -> list[float]:
    """The same claims while the worker is as busy, with runs that wait for nothing: what is due to the full machine."""
    await connection.execute("delete from run_history")
    over = asyncio.Event()
    meanwhile = asyncio.create_task(_claims_of_others(other, worker, over, None))
    for start in range(0, runs, BATCH):
        await enqueue_runs(connection, [_new("child", number=1) for _ in range(min(BATCH, runs - start))])
    await _ended(connection, runs)
    over.set()
    return await meanwhile


def _url(connection: Connection) -> str:
    info = connection.info
    return f"postgresql://{info.user}@{info.host}:{info.port}/{info.dbname}"


async def _claims_of_others(connection: Connection, worker: int, over: asyncio.Event, count: int | None) -> list[float]:
    """Seconds that each claim of another queue took, one run at a time."""
    taken: list[float] = []
    while not over.is_set() and len(taken) != count:
        await enqueue_runs(connection, [NewRun("default", "other", queue=OTHERS)], notify=False)
        started = time.perf_counter()
        (run,) = await claim_runs(connection, worker, [OTHERS], 10)
        taken.append(time.perf_counter() - started)
        await flush(connection, [RunItem(run.id, run.attempt, "outcome", "succeeded")], notify=False)
        await asyncio.sleep(OTHERS_EVERY)
    return taken


async def _overhead(server_url: str, system: System, runs: int) -> dict[str, float]:
    async with _workers(server_url, system) as connection:
        await _run(connection, "overhead", items=runs)
        await _ended(connection, 1)
        ((durable, plain),) = [(await _row(connection, "select output from run_history where task = 'overhead'"))[0]]
    return {"step_overhead": (durable / plain - 1) * 100, "step_overhead_plain": plain}


def _figure(
    name: str, meaning: str, measure: Any, measures: tuple[Measure, ...], targets: tuple[Target, ...], rounds: int = 3
) -> Figure:
    def take(server_url: str, figure: Figure, system: System, runs: int) -> Mapping[str, float]:
        values: dict[str, float] = asyncio.run(measure(server_url, system, runs))
        return values

    return Figure(name, meaning, measures, take, targets, rounds)


FIGURES = (
    _figure(
        "steps_sequential",
        "a step of a run with 1,000 of them, one after another, each on disk before the next; beside a bare insert",
        _sequential,
        (
            Measure("steps_sequential", "ms", higher_is_better=False),
            Measure("steps_commit", "ms", higher_is_better=False),
            Measure("steps_beyond_commit", "ms", higher_is_better=False),
        ),
        (Target("steps_beyond_commit", 1.0),),
    ),
    _figure(
        "map_items",
        "10,000 items mapped: in four runs on four workers, in one run, and as children on the four",
        _map,
        (
            Measure("map_items", "items/s"),
            Measure("map_items_one_run", "items/s"),
            Measure("map_children", "children/s"),
        ),
        (Target("map_items", 5_000), Target("map_items_one_run", 5_000)),
    ),
    _figure(
        "resume_1000",
        "from the claim of a run with 1,000 finished steps to the start of the next one",
        _resume,
        (Measure("resume_1000", "ms", higher_is_better=False),),
        (Target("resume_1000", 50),),
    ),
    _figure(
        "signal_100k",
        "100,000 waiting runs signalled: until all have ended; a claim of another queue meanwhile, before, and beside"
        " as many runs that wait for nothing",
        _signal,
        (
            Measure("signal_100k", "s", higher_is_better=False),
            Measure("signal_100k_sent", "s", higher_is_better=False),
            Measure("signal_claims", "ms", higher_is_better=False),
            Measure("signal_claims_before", "ms", higher_is_better=False),
            Measure("signal_claims_busy", "ms", higher_is_better=False),
        ),
        (Target("signal_100k", WAITING / 10_000), Target("signal_claims", 2.0, of="signal_claims_before")),
        rounds=1,
    ),
    _figure(
        "step_overhead",
        "steps of 50 ms, 200 side by side: how much longer than the same without checkpoints",
        _overhead,
        (
            Measure("step_overhead", "%", higher_is_better=False),
            Measure("step_overhead_plain", "s", higher_is_better=False),
        ),
        (Target("step_overhead", 10),),
    ),
)
