"""The worker: claims runs in batches, runs them on one event loop, and writes what became of them through group commit.

It holds no state that matters: killed at any moment, its runs go back to the queue by themselves.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import psycopg
import structlog

from howdah.jobs import maintenance
from howdah.jobs.api_executor import ApiExecutor
from howdah.jobs.app import App
from howdah.jobs.execution import Execution, Stop
from howdah.jobs.run import Engine
from howdah.jobs.schedules import Scheduler
from howdah.sql.listener import listen
from howdah.sql.notifier import Notifier
from howdah.sql.pool import Pool, is_pooled, make_pool
from howdah.sql.queue import calls
from howdah.sql.queue.writer import RUNS_CHANNEL
from howdah.sql.stream.writer import EVENTS_CHANNEL
from howdah.sql.workflow.calls import ItemStatus, RunItem, read_checkpoints
from howdah.sql.workflow.writer import run_writer

log = structlog.get_logger(__name__)

CANCELS_CHANNEL = "cancels"
MAX_CLAIM = 500  # runs a claim: past this, a larger batch saves nothing more
AT_ONCE = 50  # runs started in one turn of the loop, so that what else is ready need not wait for hundreds
DURATIONS = 100  # runs over which the average goes
BRIEF = 0.05  # seconds: runs shorter than this on average are claimed a batch ahead, while the last one runs
POLL_FROM, POLL_TO = 0.05, 1.0  # seconds between looks at an idle queue; hints wake it sooner
GATHER = 0.002  # seconds to let more slots come free before a small claim
WAKE_EVERY = 0.5  # seconds between looks for runs that have become due, unless one is due sooner
TEND_EVERY = 1.0  # seconds between looks at deadlines and at queues that cap what waits there
ALONE_PAUSE = 30.0  # seconds to work on before another try to run nothing but a suspect run
ALONE_WAIT = 10.0  # seconds in which what runs may end, to make room for a suspect run
LOOK_FOR_CANCELS = 1.0  # seconds between heartbeats where no hint of a cancellation can arrive
SYNC_THREADS = 32  # for functions that are not async
POOL_SIZE = 4  # heartbeat, hints, what becomes due, and one for steps that use the pool
RETRY_PAUSE = 0.5  # seconds after the database did not answer


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How one worker behaves; times in seconds.

    Attributes
    ----------
    queues
        Empty: those of the app's tasks and workflows. Every worker serves the engine's own besides.
    concurrency
        Runs under way at once.
    heartbeat, rescue
        It says that it lives every `heartbeat`; peers silent for `rescue` lose their runs.
    shutdown
        How long `stop` lets runs finish before they are handed back.
    """

    queues: tuple[str, ...] = ()
    concurrency: int = 500
    heartbeat: float = 3.0
    rescue: float = 15.0
    shutdown: float = 10.0
    name: str = field(default_factory=lambda: f"{socket.gethostname()}/{os.getpid()}")


class Worker:
    """Runs an app's tasks and workflows until `stop`.

    Parameters
    ----------
    conninfo
        libpq connection string whose search_path is the cell's; see `howdah.sql.pool.cell_conninfo`.
    resources
        Objects that workflows ask for by type with `run.resource`.
    """

    def __init__(
        self,
        app: App,
        conninfo: str,
        settings: WorkerSettings | None = None,
        *,
        api: ApiExecutor | None = None,
        resources: Mapping[type, Any] | None = None,
    ) -> None:
        self._app = app
        self._conninfo = conninfo
        self._settings = settings or WorkerSettings()
        self._api = api
        self._resources = dict(resources or {})
        entries = app.task_entries()
        self._entries = entries
        self._tasks = [entry.name for entry in entries]
        self._queues = sorted({*(self._settings.queues or (entry.queue for entry in entries)), maintenance.QUEUE})
        self._running: dict[int, Execution] = {}  # claimed and not ended
        self._waiting: deque[Execution] = deque()  # those of them that wait for a slot
        self._duration = BRIEF  # of a run, in seconds, averaged over the last ones
        self._unwritten: set[tuple[int, int]] = set()
        self._stopping = False
        self._suspects = False
        self._limited = False
        self._alone_after = 0.0
        self._heard_until = 0.0
        self._wake = asyncio.Event()
        self._beat = asyncio.Event()
        self._freed = asyncio.Event()
        self._worker_id = 0
        self.finished = 0

    def stop(self) -> None:
        """Claim nothing more; finish what runs, or hand it back after `shutdown` seconds. Safe in a signal handler."""
        self._stopping = True
        self._wake.set()
        self._freed.set()
        self._beat.set()

    async def run(self, *, until_idle: bool = False) -> None:
        """Work until `stop`; with `until_idle`, until the queues have nothing to claim and everything is written."""
        async with AsyncExitStack() as stack:
            pool: Pool = await stack.enter_async_context(make_pool(self._conninfo, max_size=POOL_SIZE))
            # Claims and writes each keep one connection, and so one warm backend: among five it was a tenth slower.
            self._claims = await stack.enter_async_context(make_pool(self._conninfo, max_size=1, check=False))
            writes = await stack.enter_async_context(make_pool(self._conninfo, max_size=1, check=False))
            notifier = Notifier(pool, self._app.cell)
            threads = ThreadPoolExecutor(SYNC_THREADS, thread_name_prefix="howdah-step")
            stack.callback(threads.shutdown, wait=False, cancel_futures=True)
            api = self._api
            if api is None:
                api = await stack.enter_async_context(ApiExecutor())
            self._engine = Engine(pool, run_writer(writes), notifier, threads, api, self._resources)
            await self._app.open_async(pool)
            async with pool.connection() as connection:
                # Where no worker has been for long, today has no partition yet; from then on a periodic task cares.
                await calls.prepare_partitions(connection)
            await self._register(pool)
            heartbeat = self._settings.heartbeat
            if is_pooled(self._conninfo):
                heartbeat = min(heartbeat, LOOK_FOR_CANCELS)
            background = [
                asyncio.create_task(self._hear()),
                asyncio.create_task(self._every(heartbeat, self._keep_alive, self._beat)),
                asyncio.create_task(self._wake_due()),
                asyncio.create_task(self._every(TEND_EVERY, self._tend_queues)),
                asyncio.create_task(Scheduler(self._app).run(pool)),
            ]
            try:
                await self._claim_loop(until_idle)
                await self._let_finish(0 if until_idle else self._settings.shutdown)
            finally:
                # More than once where need be: a pool that has just got a connection swallows a cancellation.
                while left := [task for task in background if not task.done()]:
                    for task in left:
                        task.cancel()
                    await asyncio.wait(left, timeout=0.2)
                await asyncio.gather(*background, return_exceptions=True)
                await self._engine.writer.drain()
                await notifier.aclose()
            async with pool.connection() as connection:
                released = await calls.unregister_worker(connection, self._worker_id)
            log.info("worker_stopped", worker=self._worker_id, finished=self.finished, released=released)

    async def _register(self, pool: Pool) -> None:
        async with pool.connection() as connection:
            await calls.register_tasks(connection, self._entries)
            self._worker_id = await calls.register_worker(connection, self._settings.name, self._queues, self._tasks)
        log.info("worker_started", worker=self._worker_id, queues=self._queues, tasks=len(self._tasks))

    async def _claim_loop(self, until_idle: bool) -> None:
        poll = POLL_FROM
        unsure = False
        while not self._stopping:
            self._wake.clear()
            room = self._room()
            if 0 < room < self._settings.concurrency // 4 and self._running:
                await asyncio.sleep(GATHER)
                room = self._room()
            if room <= 0:
                self._freed.clear()
                if not self._stopping:
                    await self._freed.wait()
                continue
            # Seen before the claim: a run that ends beside it may go back to the queue unseen by it.
            quiet = not self._running and not self._unwritten
            try:
                if unsure:
                    await self._release_unknown()
                    unsure = False
                if self._suspects and await self._run_suspect():
                    poll = POLL_FROM
                    continue
                claimed = await self._claim(min(room, MAX_CLAIM))
            except psycopg.Error as error:
                log.warning("claim_failed", error=str(error).strip())
                unsure = True
                self._beat.set()
                await asyncio.sleep(RETRY_PAUSE)
                continue
            if claimed:
                poll = POLL_FROM
            if len(claimed) < min(room, MAX_CLAIM):
                if until_idle and quiet and not claimed:
                    return
                if not await _wait(self._wake, POLL_FROM if until_idle else poll):
                    poll = min(poll * 2, POLL_TO)
                elif self._limited:
                    # Ends come one by one; a claim for each would cost more than it starts.
                    await asyncio.sleep(GATHER)

    def _room(self) -> int:
        """Free slots; none while more finished runs than slots wait to be written."""
        if len(self._unwritten) > self._settings.concurrency:
            return 0
        ahead = min(MAX_CLAIM, self._settings.concurrency) if self._duration < BRIEF else 0
        return self._settings.concurrency + ahead - len(self._running)

    async def _run_suspect(self) -> bool:
        """Run suspect runs and nothing beside them; whether there were any. Their death then tells on nobody else."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._alone_after:
            return False
        if not await self._until_nothing_runs(ALONE_WAIT):
            # Long runs have the right to go on, and others to start beside them: the next try comes later.
            self._alone_after = loop.time() + ALONE_PAUSE
            return False
        claimed = await self._claim(1, suspect=True)
        self._suspects = bool(claimed)
        if claimed:
            log.info("suspect_runs_apart", runs=[run.id for run in claimed])
            await self._until_nothing_runs(None)
        return bool(claimed)

    async def _until_nothing_runs(self, seconds: float | None) -> bool:
        loop = asyncio.get_running_loop()
        end = None if seconds is None else loop.time() + seconds
        while self._running and not self._stopping and (end is None or loop.time() < end):
            self._freed.clear()
            await _wait(self._freed, POLL_TO if end is None else min(POLL_TO, end - loop.time()))
        return not self._running and not self._stopping

    async def _claim(self, limit: int, *, suspect: bool = False) -> list[calls.ClaimedRun]:
        async with self._claims.connection() as connection:
            if suspect:
                claimed = await calls.claim_suspects(connection, self._worker_id, self._queues, self._tasks)
            else:
                claimed = await calls.claim_runs(connection, self._worker_id, self._queues, limit, self._tasks)
                # A claim fills up from the first queue on: each gets its turn to be that.
                self._queues.append(self._queues.pop(0))
            again = [run.id for run in claimed if run.attempt > 1 and run.task in self._app.workflows]
            checkpoints: dict[int, dict[str, str | None]] = {}
            for checkpoint in await read_checkpoints(connection, again) if again else ():
                checkpoints.setdefault(checkpoint.run_id, {})[checkpoint.step] = checkpoint.output
        for run in claimed:
            execution = Execution(self._app, run, checkpoints.get(run.id, {}), self._engine)
            self._running[run.id] = execution
            self._waiting.append(execution)
        self._start_waiting()
        return claimed

    def _start_waiting(self) -> None:
        for _ in range(AT_ONCE):
            if not self._waiting or len(self._running) - len(self._waiting) >= self._settings.concurrency:
                return
            execution = self._waiting.popleft()
            execution.task = asyncio.create_task(self._execute(execution))
        asyncio.get_running_loop().call_soon(self._start_waiting)

    async def _release_unknown(self) -> None:
        """Hand back runs of a claim that was committed, but whose answer was lost with the connection."""
        async with self._engine.pool.connection() as connection:
            claimed = await calls.read_claimed(connection, self._worker_id)
        known = {(run_id, execution.claimed.attempt) for run_id, execution in self._running.items()} | self._unwritten
        for run_id, attempt in claimed:
            if (run_id, attempt) not in known:
                await self._engine.writer.submit(RunItem(run_id, attempt, "outcome", "release"))

    async def _execute(self, execution: Execution) -> None:
        claimed = execution.claimed
        clock = asyncio.get_running_loop().time
        started_at = clock()
        try:
            items = await execution.outcome()
        finally:
            self._duration += (clock() - started_at - self._duration) / DURATIONS
            if self._running.get(claimed.id) is execution:
                del self._running[claimed.id]
            if self._waiting:
                self._start_waiting()
            # The next claim need not wait until this outcome is written: the two go side by side.
            self._freed.set()
        if not items:
            return
        self._unwritten.add((claimed.id, claimed.attempt))
        *events, outcome = items
        for item in events:
            self._engine.writer.add(item)
        self._engine.writer.post(outcome, partial(self._written, execution, outcome.name))
        if events:
            self._engine.notifier.hint(
                EVENTS_CHANNEL, [f"{claimed.tenant_id}/{claimed.session_id or f'run:{claimed.id}'}"]
            )

    def _written(self, execution: Execution, outcome: str, status: ItemStatus | BaseException) -> None:
        self._unwritten.discard((execution.claimed.id, execution.claimed.attempt))
        self._freed.set()
        if isinstance(status, asyncio.CancelledError):
            return
        if isinstance(status, BaseException):
            log.error("outcome_lost", run=execution.claimed.id, outcome=outcome, error=str(status))
        elif status == "stale":
            log.warning("outcome_stale", run=execution.claimed.id, attempt=execution.claimed.attempt, outcome=outcome)
        else:
            self.finished += 1
            if self._limited:
                # A slot that a limit counts is free now: what waits for it is not announced.
                self._wake.set()
            if outcome in ("retry", "release"):
                self._engine.notifier.hint(RUNS_CHANNEL, [execution.claimed.queue])

    async def _let_finish(self, seconds: float) -> None:
        self._drop_waiting()
        tasks = [execution.task for execution in self._running.values() if execution.task is not None]
        if tasks and seconds > 0:
            await asyncio.wait(tasks, timeout=seconds)
        await self._abandon(list(self._running.values()), Stop.SHUTDOWN)

    def _drop_waiting(self) -> None:
        """Forget what has not been started: leaving gives it back."""
        for execution in self._waiting:
            self._running.pop(execution.claimed.id, None)
        self._waiting.clear()

    async def _abandon(self, executions: Sequence[Execution], why: Stop) -> None:
        tasks = []
        for execution in executions:
            execution.stop = why
            if execution.task is not None:
                execution.task.cancel()
                tasks.append(execution.task)
        if tasks:
            # An author's `finally` may take a moment; one that never ends must not keep the worker.
            await asyncio.wait(tasks, timeout=2.0)

    async def _keep_alive(self) -> None:
        async with self._engine.pool.connection() as connection:
            heard = await calls.heartbeat(connection, self._worker_id)
            workers = runs = 0
            if asyncio.get_running_loop().time() < self._heard_until:
                workers, runs = await calls.rescue_runs(connection, timedelta(seconds=self._settings.rescue))
        # After a silence of its own it leaves its peers the time to speak: the database was away for them as well.
        self._heard_until = asyncio.get_running_loop().time() + 2 * self._settings.heartbeat
        if workers:
            log.warning("workers_found_dead", workers=workers, runs_requeued=runs)
        self._limited = heard.limited
        if heard.draining and not self._stopping:
            log.info("worker_drains", worker=self._worker_id, running=len(self._running))
            self.stop()
        if heard.suspects:
            self._suspects = True
            self._wake.set()
        if not heard.alive:
            log.warning("worker_given_up_by_peers", worker=self._worker_id, running=len(self._running))
            self._drop_waiting()
            await self._abandon(list(self._running.values()), Stop.LOST)
            await self._register(self._engine.pool)
        for run_id in heard.cancelled:
            if (execution := self._running.get(run_id)) is not None and execution.stop is None:
                execution.stop = Stop.CANCELLED
                if execution.task is not None:
                    execution.task.cancel()

    async def _wake_due(self) -> None:
        while True:
            pause = WAKE_EVERY
            try:
                async with self._engine.pool.connection() as connection:
                    woken, next_at = await calls.wake_due_runs(connection)
                if woken:
                    self._wake.set()
                if next_at is not None:
                    pause = min(WAKE_EVERY, max(0.01, (next_at - datetime.now(UTC)).total_seconds()))
            except psycopg.Error as error:
                log.warning("wake_failed", error=str(error).strip())
            await asyncio.sleep(pause)

    async def _tend_queues(self) -> None:
        async with self._engine.pool.connection() as connection:
            await connection.execute("select from expire_runs(), count_depths()")

    async def _hear(self) -> None:
        cell = self._app.cell

        def heard(channel: str, payload: str) -> None:
            if channel == f"{cell}.{CANCELS_CHANNEL}":
                self._beat.set()
            elif not payload or payload in self._queues:
                self._wake.set()

        await listen(self._conninfo, [f"{cell}.{RUNS_CHANNEL}", f"{cell}.{CANCELS_CHANNEL}"], heard)

    async def _every(
        self, seconds: float, action: Callable[[], Awaitable[None]], sooner: asyncio.Event | None = None
    ) -> None:
        sooner = sooner or asyncio.Event()
        while True:
            sooner.clear()
            try:
                await action()
            except (psycopg.Error, OSError) as error:
                log.warning("will_try_again", action=action.__name__, error=str(error).strip())
            await _wait(sooner, seconds)


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    """Whether `event` came within `seconds`. (`wait_for` may swallow a cancellation that comes together with it.)"""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
