"""What the workers are made to do: workflows and tasks whose every step leaves a trace, and some of which fail once."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4

from procrastinate.job_context import JobContext

from howdah.jobs import App, RetryStrategy, Run
from howdah.sql.group_commit import GroupCommit
from howdah.sql.pool import Pool
from howdah.sql.queue.calls import NewRun

QUEUE = "chaos"
FAILING = 0.1  # share of the runs that fail on their first attempt to get past a step
IN_SESSIONS = 0.3  # share of the runs that write into a session that others write to as well
SESSIONS = 10
LONGEST_STEP = 0.08  # seconds; long enough that a kill finds many of them under way
PLAIN = 0.8  # share of the runs that have no steps: numbers come from these, intricacy from the others

# In a schema of their own: what happened, told by those to whom it happened, each in a transaction of its own.
TABLES = """
create schema chaos;
create table chaos.chaos_enqueued (
    run_id bigint primary key,
    task text not null,
    fails boolean not null,
    batch integer not null
);
create index on chaos.chaos_enqueued (batch);
create table chaos.chaos_execution (
    id uuid primary key,  -- of the one who tells, so that it can tell again when the answer was lost
    run_id bigint not null,
    step text not null,
    attempt integer not null,
    at timestamptz not null default clock_timestamp()
);
create index on chaos.chaos_execution (run_id, step);
create table chaos.chaos_zombie (run_id bigint not null, attempt integer not null, primary key (run_id, attempt));
"""

_Started = tuple[UUID, int, str, int]

app = App(database_url="")
_retry = RetryStrategy(max_attempts=3, wait=1)


@dataclass(frozen=True, slots=True)
class Promise:
    """What a finished run of a task leaves behind."""

    steps: tuple[str, ...] = ()
    events: int = 0


PROMISES: Mapping[str, Promise] = {
    # The events that the workflow emits, and the engine's own that says how the run ended.
    "chaos.line": Promise(steps=("read", "price", "write", "report"), events=4 + 1),
    "chaos.fan": Promise(steps=("split", "left", "middle", "right", "join"), events=3 + 1),
    "chaos.loop": Promise(steps=("turn", "turn#2", "turn#3"), events=3 + 1),
    "chaos.plain": Promise(),
}


class Trace:
    """Where steps write down that they start; a pool apart from the worker's, which must stay free for heartbeats."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._writer = GroupCommit(self._write)

    async def record(self, run: Run) -> None:
        """Write that the current step of `run` starts; on disk when this returns."""
        await self._writer.submit((uuid4(), run.id, run.current_step or "", run.attempt))

    async def _write(self, rows: Sequence[_Started]) -> Sequence[None]:
        async with self._pool.connection() as connection:
            await connection.execute(
                "insert into chaos.chaos_execution (id, run_id, step, attempt)"
                " select * from unnest(%s::uuid[], %s::bigint[], %s::text[], %s::integer[]) on conflict do nothing",
                [list(column) for column in zip(*rows, strict=True)],
            )
        return [None] * len(rows)


async def _step(run: Run, fails: bool = False) -> str:
    """A step; its output is new each time it runs, so that a run shows which execution it went on from."""
    await run.resource(Trace).record(run)
    await asyncio.sleep(random.uniform(0, LONGEST_STEP))
    if fails and run.failures == 0:
        raise RuntimeError("this step fails once")
    return secrets.token_hex(8)


async def _told_step(run: Run, number: int) -> str:
    await run.emit("chaos.turn", {"turn": number})
    return await _step(run)


@app.workflow(name="chaos.line", queue=QUEUE, retry=_retry)
async def line(run: Run, fails: bool) -> dict[str, str]:
    """Steps one after another, and an event after each."""
    outputs = {}
    for name in PROMISES["chaos.line"].steps:
        outputs[name] = await run.step(name, _step, run, fails and name == "price")
        await run.emit("chaos.stage", {"stage": name})
    return outputs


@app.workflow(name="chaos.fan", queue=QUEUE, retry=_retry)
async def fan(run: Run, fails: bool) -> dict[str, str]:
    """Three steps at the same time between two others."""
    outputs = {"split": await run.step("split", _step, run)}
    await run.emit("chaos.stage", {"stage": "split"})
    branches = ("left", "middle", "right")
    results = await asyncio.gather(*(run.step(b, _step, run, fails and b == "middle") for b in branches))
    outputs |= dict(zip(branches, results, strict=True))
    await run.emit("chaos.stage", {"stage": "branches"})
    outputs["join"] = await run.step("join", _step, run)
    await run.emit("chaos.stage", {"stage": "join"})
    return outputs


@app.workflow(name="chaos.loop", queue=QUEUE, retry=_retry)
async def loop(run: Run, fails: bool) -> dict[str, str]:
    """A step whose name repeats, with an event inside it; it fails between two steps."""
    outputs = {"turn": await run.step("turn", _told_step, run, 1)}
    if fails and run.failures == 0:
        raise RuntimeError("this workflow fails once")
    for number in (2, 3):
        outputs[f"turn#{number}"] = await run.step("turn", _told_step, run, number)
    return outputs


@app.task(name="chaos.plain", queue=QUEUE, retry=_retry, pass_context=True)
async def plain(context: JobContext, fails: bool) -> None:
    """Plain code without steps."""
    await asyncio.sleep(random.uniform(0, LONGEST_STEP))
    if fails and context.job.attempts == 0:
        raise RuntimeError("this task fails once")


def some_run() -> tuple[NewRun, bool]:
    """(a run of any of these, whether it fails once)."""
    fails = random.random() < FAILING
    session = f"case-{random.randrange(SESSIONS)}" if random.random() < IN_SESSIONS else None
    task = "chaos.plain" if random.random() < PLAIN else random.choice(_WITH_STEPS)
    return NewRun("default", task, f'{{"fails": {str(fails).lower()}}}', queue=QUEUE, session_id=session), fails


_WITH_STEPS = [task for task, promise in PROMISES.items() if promise.steps]
