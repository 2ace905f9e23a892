"""The worker: claims runs in batches, runs them on one event loop, and writes what became of them through group commit.

It holds no state that matters: killed at any moment, its runs go back to the queue by themselves.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import procrastinate
import structlog

from howdah.jobs import maintenance
from howdah.jobs.api.executor import ApiExecutor
from howdah.jobs.app import App
from howdah.jobs.schedules import Scheduler
from howdah.jobs.worker.claim_loop import ClaimLoop
from howdah.jobs.worker.heart import Heart
from howdah.jobs.worker.runs_in_hand import RunsInHand
from howdah.jobs.workflow.clock import Clock
from howdah.jobs.workflow.engine import Engine, Witness
from howdah.sql.notifier import Notifier
from howdah.sql.pool import Pool, make_pool
from howdah.sql.queue import calls
from howdah.sql.stream.partial_sender import PartialSender
from howdah.sql.workflow.writer import run_writer

log = structlog.get_logger(__name__)

SYNC_THREADS = 32  # for functions that are not async
POOL_SIZE = 4  # heartbeat, hints, what becomes due, schedules
STEP_POOL_SIZE = 8  # for what runs ask the database themselves, and their transactions; opened as they do


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
    schedules
        Whether it fires schedules.
    """

    queues: tuple[str, ...] = ()
    concurrency: int = 500
    heartbeat: float = 3.0
    rescue: float = 15.0
    shutdown: float = 10.0
    schedules: bool = True
    name: str = field(default_factory=lambda: f"{socket.gethostname()}/{os.getpid()}")


class Worker:
    """Runs an app's tasks and workflows until `stop`.

    Parameters
    ----------
    conninfo
        libpq connection string whose search_path is the cell's; see `howdah.sql.pool.cell_conninfo`.
    resources
        Objects that workflows ask for by type with `run.resource`.
    clock, witness
        The testing kit's; see `howdah.jobs.testing`.
    """

    def __init__(
        self,
        app: App,
        conninfo: str,
        settings: WorkerSettings | None = None,
        *,
        api: ApiExecutor | None = None,
        resources: Mapping[type, Any] | None = None,
        clock: Clock | None = None,
        witness: Witness | None = None,
    ) -> None:
        self._app = app
        self._conninfo = conninfo
        self._settings = settings or WorkerSettings()
        self._api = api
        self._resources = dict(resources or {})
        self._clock = clock or Clock()
        self._witness = witness
        self._stopping = False
        self._dead = False
        self._claims: ClaimLoop | None = None
        self._hand: RunsInHand | None = None
        self.finished = 0

    def stop(self) -> None:
        """Claim nothing more; finish what runs, or hand it back after `shutdown` seconds. Safe in a signal handler."""
        self._stopping = True
        if self._claims is not None:
            self._claims.stop()

    def die(self) -> None:
        """Stop dead, as far as that goes within a process: nothing more is written, and what it has stays its own until
        peers rescue it. The testing kit's SIGKILL.
        """
        self._dead = True
        if self._hand is not None:
            self._hand.strand()
        self.stop()

    async def run(self, *, until_idle: bool = False) -> None:
        """Work until `stop`; with `until_idle`, until the queues have nothing to claim and everything is written."""
        settings = self._settings
        entries = self._app.task_entries()
        queues = sorted({*(settings.queues or (entry.queue for entry in entries)), maintenance.QUEUE})
        async with AsyncExitStack() as stack:
            pool: Pool = await stack.enter_async_context(make_pool(self._conninfo, max_size=POOL_SIZE))
            # Claims and writes each keep one connection, and so one warm backend: among five it was a tenth slower.
            claim_pool = await stack.enter_async_context(make_pool(self._conninfo, max_size=1, check=False))
            write_pool = await stack.enter_async_context(make_pool(self._conninfo, max_size=1, check=False))
            step_pool = await stack.enter_async_context(make_pool(self._conninfo, min_size=0, max_size=STEP_POOL_SIZE))
            notifier = Notifier(pool, self._app.cell)
            partials = PartialSender(pool)
            threads = ThreadPoolExecutor(SYNC_THREADS, thread_name_prefix="howdah-step")
            stack.callback(threads.shutdown, wait=False, cancel_futures=True)
            api = self._api
            if api is None:
                api = await stack.enter_async_context(ApiExecutor())
            engine = Engine(
                step_pool,
                run_writer(write_pool),
                notifier,
                threads,
                api,
                self._resources,
                self._clock,
                self._witness,
                partials,
            )
            # A connector keeps the first pool that it is given: the app gets its own back, the next worker a new one.
            stack.enter_context(self._app.replace_connector(procrastinate.PsycopgConnector()))
            await self._app.open_async(pool)
            async with pool.connection() as connection:
                # Where no worker has been for long, today has no partition yet; from then on a periodic task cares.
                await calls.prepare_partitions(connection)
            heart = Heart(
                self._conninfo,
                self._app.cell,
                pool,
                name=settings.name,
                queues=queues,
                entries=entries,
                heartbeat=settings.heartbeat,
                rescue=settings.rescue,
                drain=self._drain,
                clock=self._clock,
                full_sessions=engine.full_sessions,
            )
            hand = self._hand = RunsInHand(self._app, engine, settings.concurrency)
            claims = self._claims = ClaimLoop(
                self._app,
                engine,
                hand,
                claim_pool,
                heart.beat,
                queues=queues,
                tasks=[entry.name for entry in entries],
                concurrency=settings.concurrency,
            )
            # It may find nothing else and end before the first heartbeat has told.
            claims.suspects = until_idle
            claims.worker_id = await heart.register()
            if self._stopping:
                claims.stop()
            duties = heart.duties(claims, hand)
            if not until_idle:
                duties += heart.upkeep(claims)
            if settings.schedules:
                duties.append(Scheduler(self._app).run(pool))
            background = [asyncio.create_task(duty) for duty in duties]
            for task in background:
                task.add_done_callback(self._stop_if_failed)
            try:
                await claims.run(heart.look if until_idle else None)
                await (hand.lose() if self._dead else hand.let_finish(0 if until_idle else settings.shutdown))
            finally:
                # More than once where need be: a pool that has just got a connection swallows a cancellation.
                while left := [task for task in background if not task.done()]:
                    for task in left:
                        task.cancel()
                    await asyncio.wait(left, timeout=0.2)
                await asyncio.gather(*background, return_exceptions=True)
                await engine.writer.drain()
                await partials.aclose()
                await notifier.aclose()
                self.finished = hand.finished
            if self._dead:
                return
            async with pool.connection() as connection:
                released = await calls.unregister_worker(connection, claims.worker_id)
            log.info("worker_stopped", worker=claims.worker_id, finished=self.finished, released=released)
            for task in background:
                if not task.cancelled() and (error := task.exception()) is not None:
                    raise error

    def _stop_if_failed(self, task: asyncio.Task[None]) -> None:
        """A worker without its heartbeat, or deaf, must not go on as if all were well."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("worker_fails", error=repr(error))
            self.stop()

    def _drain(self) -> None:
        if not self._stopping:
            log.info("worker_drains")
            self.stop()
