"""What the workers of test_crash_matrix.py run: a workflow that uses everything, and a strike at its n-th point.

The strike is this process's alone: what the engine awaits is wrapped here, and counted.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import psycopg
import structlog

from howdah.jobs import App, NonRetryableError, RetryStrategy, Run, SignalTimeoutError
from howdah.jobs.worker import claim_loop
from howdah.jobs.worker.worker import Worker, WorkerSettings
from howdah.jobs.workflow import children, past, session_events, signal_inbox, steps, transaction
from howdah.jobs.workflow import run as run_module
from howdah.sql.pool import Connection
from howdah.sql.workflow import writer

Blow = Literal["none", "kill", "freeze", "cut", "lose"]
SOON = timedelta(milliseconds=10)
LONG = timedelta(milliseconds=120)

app = App()
app.periodic_registry.periodic_tasks.clear()


@dataclass(frozen=True)
class Strike:
    """What befalls a worker at its `at`-th point: killed, frozen, its connections cut, or an answer lost on its way."""

    conninfo: str
    queue: str
    diary: Path
    blow: Blow = "none"
    at: int = 0


def work(strike: Strike, app: App | None = None) -> None:
    """Be a worker of `app`, or of the one below, until killed."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(strike.diary.with_suffix(".log").open("a")))
    steps.REST_FROM = LONG / 2
    Points(strike).wrap_all()
    os.environ["EFFECTS"] = psycopg.conninfo.make_conninfo(strike.conninfo, application_name="effects")
    # The test says when a worker counts as dead: none is given up because the machine is slow.
    settings = WorkerSettings(queues=(strike.queue,), name=worker_name(strike), heartbeat=0.3, rescue=3600)
    conninfo = psycopg.conninfo.make_conninfo(strike.conninfo, application_name=worker_name(strike))
    asyncio.run(Worker(app or everything.app, conninfo, settings).run())


def worker_name(strike: Strike) -> str:
    return f"{strike.queue}/{os.getpid()}"


class Points:
    """Counts the moments before and after all that the engine awaits of the database and of an author's functions."""

    def __init__(self, strike: Strike) -> None:
        self._strike = strike
        self._count = 0
        self._diary = os.open(strike.diary, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def wrap_all(self) -> None:
        self._wrap(writer, "flush")
        self._wrap(transaction, "flush")
        self._wrap(run_module, "with_psycopg")
        self._wrap(run_module, "send_signals")
        self._wrap(children, "spawn_children")
        self._wrap(children, "read_outcomes")
        self._wrap(signal_inbox, "read_signals")
        self._wrap(session_events, "read_events")
        self._wrap(past, "read_checkpoints")
        self._wrap(past, "read_signals")
        self._wrap(steps, "call")
        # Most claims find nothing: those are no points, or there would be no telling how many.
        self._wrap(claim_loop.calls, "claim_runs", only_results=True)

    def _wrap(self, module: Any, name: str, *, only_results: bool = False) -> None:
        real: Callable[..., Awaitable[Any]] = getattr(module, name)
        label = f"{module.__name__.removeprefix('howdah.')}.{name}"

        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            if not only_results:
                self._pass(f"before {label}")
            result = await real(*args, **kwargs)
            if result or not only_results:
                self._pass(f"after {label}", answers=name != "call")
            return result

        setattr(module, name, wrapped)

    def _pass(self, label: str, *, answers: bool = False) -> None:
        strike = self._strike
        if strike.blow == "lose" and not answers:
            return
        self._count += 1
        mine = self._count == strike.at
        os.write(self._diary, f"{'*' if mine else ' '}{self._count} {label}\n".encode())
        if not mine:
            return
        match strike.blow:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "freeze":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "cut":
                self._cut()
            case "lose":
                self._cut()
                raise psycopg.OperationalError("the answer was lost")

    def _cut(self) -> None:
        with psycopg.connect(self._strike.conninfo, autocommit=True, application_name="effects") as connection:
            connection.execute(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = %s",
                [worker_name(self._strike)],
            )


class OutOfStock(NonRetryableError):
    pass


def note_in_thread(run_id: int, what: str, attempt: int) -> int:
    """Record that `what` is really executed; how often it was before. A database that is away is waited for."""
    while True:
        try:
            with psycopg.connect(os.environ["EFFECTS"], autocommit=True) as connection:
                cursor = connection.execute(
                    "insert into public.effect (run_id, what, attempt) values (%(run)s, %(what)s, %(attempt)s)"
                    " returning (select count(*) from public.effect where run_id = %(run)s and what = %(what)s)",
                    {"run": run_id, "what": what, "attempt": attempt},
                )
                row = cursor.fetchone()
                assert row is not None
                return int(row[0])
        except psycopg.OperationalError:
            pass


async def note(run: Run, what: str) -> int:
    return await asyncio.to_thread(note_in_thread, run.id, what, run.attempt)


async def say(run: Run, what: str) -> str:
    await run.emit("in", what)
    await note(run, what)
    return f"{what} done"


async def fail_once(run: Run, what: str) -> str:
    if await note(run, what) == 0:
        raise ConnectionError(what)
    return f"{what} done"


async def refuse(run: Run, what: str) -> None:
    await note(run, what)
    raise OutOfStock(what)


async def pay(connection: Connection, run: Run, amount: int) -> int:
    await connection.execute("insert into public.paid values (%s, %s)", [run.id, amount])
    return amount


@app.workflow(name="child")
async def child(run: Run, number: int) -> int:
    await run.step("square", say, run, f"square {number}")
    if number > 1:
        await run.sleep("a while", LONG)
    return number * number


@app.workflow(name="other")
async def other(run: Run) -> Any:
    return await run.wait_for("hello")


@app.workflow(name="everything")
async def everything(run: Run, queue: str, other: int) -> dict[str, Any]:
    """All that a workflow can do. The test sends what it waits for."""
    got: dict[str, Any] = {}
    await run.emit("began", {"queue": "?"})
    got["one"] = await run.step("one", say, run, "one")
    got["soon"] = await run.step("soon", fail_once, run, "soon", retry=2)
    got["later"] = await run.step(
        "later", fail_once, run, "later", retry=RetryStrategy(max_attempts=2, wait=LONG.total_seconds())
    )
    got["both"] = await asyncio.gather(*(run.step(what, say, run, what) for what in ("left", "right")))

    async def item(number: int) -> str:
        return await say(run, f"item {number}")

    got["map"] = await run.map("map", item, range(3), limit=2)
    got["thread"] = await run.step("thread", note_in_thread, run.id, "thread", run.attempt) >= 0
    await run.progress(0.5, "half of it")
    await run.sleep("moment", SOON)
    await run.sleep("nap", LONG)
    got["early"] = await run.wait_for("early")
    got["late"] = await run.wait_for("late", str)
    got["approval"] = await run.wait_for("approval", choices=["yes", "no"])
    try:
        await run.wait_for("never", timeout=LONG)
    except SignalTimeoutError:
        got["never"] = await run.step("too late", say, run, "too late")
    got["paid"] = await run.transaction("pay", pay, run, 7)
    try:
        await run.step("reserve", refuse, run, "reserve")
    except OutOfStock:
        got["refund"] = await run.step("refund", say, run, "refund")
    got["children"] = await run.children("squares", child.configure(queue=queue), [1, 2])

    async def branch() -> str:
        await run.sleep("branch sleeps", LONG)
        return await run.step("branch", say, run, "branch")

    got["waits"] = await asyncio.gather(run.wait_for("beside"), branch())
    got["heard"] = []
    async for event in run.events(types=["message"]):
        got["heard"].append(await run.step("answer", say, run, f"answer {event.data}"))
        if len(got["heard"]) == 3:
            break
    got["signal"] = await run.signal(other, "hello", {"from": "everything"})
    await run.log("ended", steps=len(got))
    return got
