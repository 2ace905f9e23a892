"""The kit itself: how a test starts runs, moves the clock, kills the worker, and looks at what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from ipaddress import ip_network
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

import msgspec
import procrastinate

from howdah.jobs import maintenance
from howdah.jobs.api.executor import ApiExecutor
from howdah.jobs.app import App, Workflow
from howdah.jobs.errors import HistoryContradictedError
from howdah.jobs.schedules import BATCH, Scheduler
from howdah.jobs.testing.executioner import Executioner, Order, When
from howdah.jobs.testing.replay import FinishedRun, replay
from howdah.jobs.testing.run_results import Failure, Result, Step, find_run, finished_steps
from howdah.jobs.worker.worker import Worker, WorkerSettings
from howdah.jobs.workflow.clock import Clock
from howdah.jobs.workflow.history import Finished
from howdah.jobs.workflow.session_events import PAGE, SessionEvent
from howdah.jobs.workflow.step_function import output_decoder
from howdah.sql.errors import WrongState
from howdah.sql.json_values import encode
from howdah.sql.pool import cell_conninfo, connect
from howdah.sql.queue.calls import bring_up_due, cancel_runs, rescue_runs
from howdah.sql.stream.calls import read_events
from howdah.sql.workflow.calls import NewSignal, SignalStatus, read_checkpoints, read_signals, send_signals

P = ParamSpec("P")
R = TypeVar("R")

PATIENCE = timedelta(seconds=30)
# What a test calls outside is most often a server of its own.
LOOPBACK = [ip_network("127.0.0.0/8"), ip_network("::1/128")]

# All connections tell the same time: engine_now() of this database is as far ahead as its one row says.
_MOVE_CLOCK = """
create table if not exists test_clock (ahead interval not null);
create or replace function engine_now() returns timestamptz
language sql volatile
as $$
    select coalesce(nullif(current_setting('howdah.now', true), '')::timestamptz, clock_timestamp())
           + coalesce((select c.ahead from test_clock as c), interval '0')
$$;
delete from test_clock;
"""


class Kit:
    """Runs an app's workflows in a test. ``with Kit(…) as kit:``, in which the app itself sends to that database.

    Parameters
    ----------
    database_url
        A database of the test's own, with the app's cell in it: its clock is replaced, and every worker it has is taken
        for dead.
    resources
        What workflows ask for with `run.resource`.
    patience
        How long `work` may take in real time.
    """

    def __init__(
        self,
        app: App,
        database_url: str,
        *,
        resources: Mapping[type, Any] | None = None,
        patience: timedelta = PATIENCE,
    ) -> None:
        self.app = app
        self._conninfo = cell_conninfo(database_url, app.cell, "howdah-test")
        self._resources = resources
        self._patience = patience.total_seconds()
        self._clock = Clock()
        self._executioner = Executioner()
        self._sending: AbstractContextManager[Any] | None = None
        self._working = False

    def __enter__(self) -> Self:
        self._sending = self.app.replace_connector(procrastinate.PsycopgConnector(conninfo=self._conninfo))
        self._sending.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sending is not None:
            self._sending.__exit__(kind, error, trace)
        if kind is None and (left := self._executioner.order) is not None:
            raise AssertionError(f"no run came to the step {left.step!r} that was to be its worker's last: see kill_at")

    @property
    def now(self) -> datetime:
        """The time, as the engine and its runs see it."""
        return self._clock.now()

    async def start(self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> int:
        """Enqueue a run, with the options that ``workflow.configure(…)`` has given it; its id."""
        async with await connect(self._conninfo) as connection:
            return await workflow.enqueue_in(connection, *args, **kwargs)

    async def run(self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Result[R]:
        """Enqueue a run and work until nothing is left to do, with a new worker after one that was killed."""
        run_id = await self.start(workflow, *args, **kwargs)
        await self.work()
        while self._executioner.has_struck:
            await self.work()
        return await self.result(run_id)

    async def work(self) -> None:
        """Be a worker until nothing is left that could be done now, or until it is killed.

        What a killed one had is rescued by the next, which is the next call.

        Raises
        ------
        TimeoutError
            If that takes longer than the kit's patience.
        """
        if self._working:
            raise RuntimeError("the kit works already, and is one worker: await that call first")
        self._working = True
        end = asyncio.get_running_loop().time() + self._patience
        try:
            async with await connect(self._conninfo) as connection:
                await rescue_runs(connection, timedelta(0))
            await self._live(end)
        finally:
            self._working = False

    async def advance(self, by: timedelta) -> None:
        """Move the clock forward, and wake what is due then; `work` does it.

        A schedule, such as `@app.periodic` makes, fires once, for the latest of the moments that have passed.
        """
        if by < timedelta(0):
            raise ValueError(f"the clock cannot go back by {-by}: time goes forward, also in a test")
        scheduler = Scheduler(self.app)
        async with await connect(self._conninfo) as connection:
            await scheduler.register(connection)
            # The engine's own housekeeping would only stand between a test's runs.
            await connection.execute("delete from schedule where queue = %s", [maintenance.QUEUE])
            async with connection.transaction():
                await connection.execute(_MOVE_CLOCK)
                await connection.execute("insert into test_clock values (%s)", [self._clock.ahead + by])
            self._clock.ahead += by
            while await scheduler.run_once(connection) == BATCH:
                pass
            while await bring_up_due(connection):
                pass

    async def signal(self, run_id: int, name: str, payload: Any = None, *, key: str | None = None) -> SignalStatus:
        """Send a signal to a run: 'sent', 'existing', 'not_a_choice', 'finished' or 'unknown'."""
        body = encode(payload, f"the payload of signal {name!r}")
        async with await connect(self._conninfo) as connection:
            (status,) = await send_signals(connection, None, [NewSignal(run_id, name, body, key)])
        return status

    async def cancel(self, run_id: int) -> None:
        """Ask for the run's end; one that waits is woken for its `finally` blocks, by the next `work`."""
        async with await connect(self._conninfo) as connection:
            await cancel_runs(connection, None, [run_id])

    def kill_at(self, step: str | int, *, when: When = "before") -> None:
        """Kill the worker at the next finish of this step, by its name or, counted from 1, its number in its run.

        The worker stops dead, with all that it has: nothing more is written, until the next `work` rescues its runs. It
        is as a SIGKILL, but for what a process cannot do to itself: `finally` blocks run, and threads run to their end.
        A run whose workers die again and again is put apart and in the end fails, as it would anywhere.

        Parameters
        ----------
        when
            'before' the step's output is kept: the next attempt runs it again; 'after': it reads it back.
        """
        if self._executioner.order is not None:
            raise ValueError(f"the worker is to be killed at {self._executioner.order.step!r} already: work first")
        self._executioner.order = Order(step, when)

    async def result(self, run_id: int) -> Result[Any]:
        """How the run stands."""
        async with await connect(self._conninfo) as connection:
            found = await find_run(connection, run_id)
            steps = await finished_steps(connection, run_id)
        workflow = self.app.workflows.get(found.claimed.task)
        output = None
        if found.output is not None:
            decoder = msgspec.json.Decoder() if workflow is None else output_decoder(workflow.function)
            output = decoder.decode(found.output)
        error = None if found.error is None else msgspec.json.decode(found.error, type=Failure)
        return Result(run_id, found.state, found.claimed.attempt, error, steps, output)

    async def steps(self, run_id: int) -> dict[str, Step]:
        """The run's finished steps, as in `Result.steps`."""
        async with await connect(self._conninfo) as connection:
            return await finished_steps(connection, run_id)

    async def events(self, run_id: int) -> list[SessionEvent]:
        """All events of the run's session; of a run without one, those it has emitted."""
        events: list[SessionEvent] = []
        async with await connect(self._conninfo) as connection:
            claimed = (await find_run(connection, run_id)).claimed
            session = claimed.session_id or f"run:{run_id}"
            while page := await read_events(
                connection, claimed.tenant_id, session, events[-1].number if events else 0, PAGE
            ):
                events += [
                    SessionEvent(e.seq, e.type, msgspec.json.decode(e.data), e.run_id, e.created_at) for e in page
                ]
        return events

    async def replay(self, run_id: int, workflow: Workflow[Any, Any] | None = None) -> None:
        """Run the present code on a finished run's steps: it must ask for the same ones.

        Nothing is written, and no step runs.

        Parameters
        ----------
        workflow
            The code; None: the app's for the run's task.

        Raises
        ------
        HistoryContradictedError
            If the code asks for other steps, in another order, for more or for fewer.
        WrongState
            If the run has not ended by itself: then nobody knows which steps were to come.
        """
        async with await connect(self._conninfo) as connection:
            found = await find_run(connection, run_id)
            steps = {
                c.step: Finished(c.output or "null", c.after) for c in await read_checkpoints(connection, [run_id])
            }
            signals = await read_signals(connection, [run_id])
        if found.state not in ("succeeded", "failed"):
            raise WrongState(f"run {run_id} is {found.state}: only one that has succeeded or failed can be replayed")
        workflow = workflow or self.app.workflows.get(found.claimed.task)
        if workflow is None:
            raise HistoryContradictedError(
                f"run {run_id} is one of {found.claimed.task!r}, and the app has no such workflow: keep that version"
            )
        failures = {step: error for (run, step), error in self._executioner.failures.items() if run == run_id}
        finished = FinishedRun(found.claimed, found.state, steps, signals, failures)
        async with asyncio.timeout(self._patience):
            await replay(finished, workflow, self._conninfo, self._clock, self._resources or {})

    async def _live(self, end: float) -> None:
        """One worker's life, until it finds nothing to do, or until it is killed."""
        async with ApiExecutor(allow_private=LOOPBACK) as api:
            worker = Worker(
                self.app,
                self._conninfo,
                WorkerSettings(schedules=False),
                api=api,
                resources=self._resources,
                clock=self._clock,
                witness=self._executioner,
            )
            self._executioner.watch(worker)
            life = asyncio.create_task(worker.run(until_idle=True))
            try:
                await asyncio.wait([life], timeout=end - asyncio.get_running_loop().time())
            finally:
                if late := not life.done():
                    worker.die()
                    await asyncio.wait([life])
            life.result()
            if late:
                raise TimeoutError(
                    f"after {self._patience:.0f} s there was still something running: {await self._running()}"
                )

    async def _running(self) -> str:
        async with await connect(self._conninfo) as connection:
            cursor = await connection.execute("select id, task from run where state = 'running' order by id limit 5")
            return ", ".join(f"run {run_id} of {task!r}" for run_id, task in await cursor.fetchall()) or "the queue"
