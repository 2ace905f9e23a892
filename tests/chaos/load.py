"""What the workers are made to do: workflows and tasks that leave traces; some fail, and one kills its worker."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from procrastinate.job_context import JobContext

from howdah.jobs import App, RetryStrategy, Run
from howdah.sql.queue.calls import NewRun, OnFailure
from tests.chaos.trace import Trace

QUEUE = "chaos"
FAILING = 0.1  # share of the runs that fail on their first attempt to get past a step
IN_SESSIONS = 0.3  # share of the runs that write into a session that others write to as well
SESSIONS = 10
LONGEST_STEP = 0.08  # seconds; long enough that a kill finds many of them under way
# Shares of the runs: numbers come from the plain ones, intricacy from the others.
SHARES = {"plain": 0.7, "steps": 0.16, "ordered": 0.1, "limited": 0.04}
ORDERED_SESSIONS = 60  # each finishes some five runs a second, and gets one or two
POISON_EVERY = 25_000  # runs; one among so many kills its worker each time
POISON_FIRST = 500
POISON_EXIT = 66  # the exit status of a worker that was poisoned

LIMITED_QUEUE = "chaos.limited"
LIMITS = {"max_running": 8, "max_running_per_tenant": 3}
TENANTS = ("amber", "birch", "cedar", "dune")  # together they may run more than the queue: both limits are reached

TABLES = (Path(__file__).parent / "tables.sql").read_text()

app = App(database_url="")
_retry = RetryStrategy(max_attempts=3, wait=1)


@dataclass(frozen=True, slots=True)
class Promise:
    """What a finished run of a task leaves behind.

    Attributes
    ----------
    told_to_fail
        What becomes of a run that is told to fail: it is retried, it ends so, or it ends so and is requeued.
    """

    steps: tuple[str, ...] = ()
    events: int = 0
    told_to_fail: Literal["retried", "ends", "requeued"] = "retried"


PROMISES: Mapping[str, Promise] = {
    # The events that the workflow emits, and the engine's own that says how the run ended.
    "chaos.line": Promise(steps=("read", "price", "write", "report"), events=4 + 1),
    "chaos.fan": Promise(steps=("split", "left", "middle", "right", "join"), events=3 + 1),
    "chaos.loop": Promise(steps=("turn", "turn#2", "turn#3"), events=3 + 1),
    "chaos.plain": Promise(),
    "chaos.limited": Promise(),
    "chaos.patient": Promise(events=1),
    "chaos.skipped": Promise(events=1, told_to_fail="ends"),
    "chaos.blocking": Promise(events=1, told_to_fail="requeued"),
    "chaos.poison": Promise(told_to_fail="ends"),
}


async def _step(run: Run, fails: bool = False) -> str:
    """A step; its output is new each time it runs, so that a run shows which execution it went on from."""
    await run.resource(Trace).step(run)
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


@app.task(name="chaos.limited", queue=LIMITED_QUEUE, retry=_retry, pass_context=True)
async def limited(context: JobContext, fails: bool) -> None:
    """Plain code that takes long enough for its queue to reach its limits."""
    await asyncio.sleep(random.uniform(0.1, 0.3))
    if fails and context.job.attempts == 0:
        raise RuntimeError("this task fails once")


async def _take_turn(run: Run, fails: bool, requeued_helps: bool = False) -> None:
    trace = run.resource(Trace)
    turn, requeued = await trace.begin_turn(run)
    try:
        await asyncio.sleep(random.uniform(0, LONGEST_STEP))
        if fails and not (requeued_helps and requeued):
            raise RuntimeError("this run of an ordered session fails")
    finally:
        await trace.end_turn(turn)


@app.workflow(name="chaos.patient", queue=QUEUE, retry=_retry)
async def patient(run: Run, fails: bool) -> None:
    """Its session waits while it is retried."""
    await _take_turn(run, fails and run.failures == 0)


@app.workflow(name="chaos.skipped", queue=QUEUE)
async def skipped(run: Run, fails: bool) -> None:
    """Its session goes on when it has failed."""
    await _take_turn(run, fails)


@app.workflow(name="chaos.blocking", queue=QUEUE)
async def blocking(run: Run, fails: bool) -> None:
    """Its session waits until it is requeued."""
    await _take_turn(run, fails, requeued_helps=True)


_ORDERED: Mapping[str, OnFailure] = {"chaos.patient": "skip", "chaos.skipped": "skip", "chaos.blocking": "block"}


@app.task(name="chaos.poison", queue=QUEUE)
async def poison(fails: bool) -> None:
    """Kills its worker, with all that runs beside it."""
    await asyncio.sleep(random.uniform(0, LONGEST_STEP))
    os._exit(POISON_EXIT)


def some_run(number: int) -> tuple[NewRun, bool]:
    """(the run of this number, of any of these, whether it fails)."""
    if number % POISON_EVERY == POISON_FIRST:
        return _new_run("chaos.poison", True), True
    fails = random.random() < FAILING
    kind = random.choices(list(SHARES), list(SHARES.values()))[0]
    if kind == "ordered":
        task = random.choice(list(_ORDERED))
        place = f"ordered-{random.randrange(ORDERED_SESSIONS)}"
        return _new_run(task, fails, session_id=place, order=_ORDERED[task]), fails
    if kind == "limited":
        return _new_run("chaos.limited", fails, tenant_id=random.choice(TENANTS), queue=LIMITED_QUEUE), fails
    session = f"case-{random.randrange(SESSIONS)}" if random.random() < IN_SESSIONS else None
    return _new_run("chaos.plain" if kind == "plain" else random.choice(_WITH_STEPS), fails, session_id=session), fails


def _new_run(
    task: str,
    fails: bool,
    tenant_id: str = "default",
    queue: str = QUEUE,
    session_id: str | None = None,
    order: OnFailure | None = None,
) -> NewRun:
    args = f'{{"fails": {str(fails).lower()}}}'
    return NewRun(tenant_id, task, args, queue=queue, session_id=session_id, order=order)


_WITH_STEPS = [task for task, promise in PROMISES.items() if promise.steps]
