"""What a worker does beside its runs: says that it lives, rescues the dead, hears hints, brings up what is due."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any

import psycopg
import structlog

from howdah.jobs.worker.claim_loop import ClaimLoop
from howdah.jobs.worker.runs_in_hand import RunsInHand
from howdah.jobs.worker.timed_wait import timed_wait
from howdah.jobs.workflow.clock import Clock
from howdah.jobs.workflow.full_sessions import FullSessions
from howdah.sql.listener import listen
from howdah.sql.pool import Pool, is_pooled
from howdah.sql.queue import calls
from howdah.sql.queue.writer import RUNS_CHANNEL
from howdah.sql.stream.writer import ROOM_CHANNEL

log = structlog.get_logger(__name__)

CANCELS_CHANNEL = "cancels"
WAKE_EVERY = 0.5  # seconds between looks for runs that have become due, unless one is due sooner
TEND_EVERY = 1.0  # seconds between looks at deadlines and at queues that cap what waits there
LOOK_FOR_CANCELS = 1.0  # seconds between heartbeats where no hint of a cancellation can arrive


class Heart:
    """Registers the worker, and beats for it.

    Parameters
    ----------
    heartbeat, rescue
        Seconds: it says that it lives every `heartbeat`; peers silent for `rescue` lose their runs.
    drain
        Called when an operator asks the worker to leave.
    full_sessions
        Told of room in them.

    Attributes
    ----------
    beat
        Set to have the next heartbeat at once.
    """

    def __init__(
        self,
        conninfo: str,
        cell: str,
        pool: Pool,
        *,
        name: str,
        queues: Sequence[str],
        entries: Sequence[calls.TaskEntry],
        heartbeat: float,
        rescue: float,
        drain: Callable[[], None],
        clock: Clock,
        full_sessions: FullSessions,
    ) -> None:
        self._conninfo = conninfo
        self._cell = cell
        self._pool = pool
        self._name = name
        self._queues = list(queues)
        self._entries = entries
        self._heartbeat = min(heartbeat, LOOK_FOR_CANCELS) if is_pooled(conninfo) else heartbeat
        self._rescue = timedelta(seconds=rescue)
        self._drain = drain
        self._clock = clock
        self._full_sessions = full_sessions
        self._heard_until = 0.0
        self.beat = asyncio.Event()

    async def register(self) -> int:
        """Say what this worker can run; its id."""
        async with self._pool.connection() as connection:
            await calls.register_tasks(connection, self._entries)
            tasks = [entry.name for entry in self._entries]
            worker_id = await calls.register_worker(connection, self._name, self._queues, tasks)
        log.info("worker_started", worker=worker_id, queues=self._queues, tasks=len(tasks))
        return worker_id

    def duties(self, claims: ClaimLoop, hand: RunsInHand) -> list[Coroutine[Any, Any, None]]:
        """What to run side by side until cancelled: it tells `claims` when to look, and `hand` which runs to stop."""
        return [self._hear(claims), self._every(self._heartbeat, lambda: self._keep_alive(claims, hand), self.beat)]

    def upkeep(self, claims: ClaimLoop) -> list[Coroutine[Any, Any, None]]:
        """More duties: to bring up what becomes due."""
        return [self._wake_due(claims), self._every(TEND_EVERY, self._tend_queues)]

    async def look(self) -> int:
        """What `upkeep` does, once; how many runs had become due.

        Who ends when nothing is left to do looks itself: what a duty beside it brings up after its last claim, it would
        leave.
        """
        async with self._pool.connection() as connection:
            return await calls.bring_up_due(connection)

    async def _keep_alive(self, claims: ClaimLoop, hand: RunsInHand) -> None:
        loop = asyncio.get_running_loop()
        async with self._pool.connection() as connection:
            heard = await calls.heartbeat(connection, claims.worker_id)
            workers = runs = 0
            if loop.time() < self._heard_until:
                workers, runs = await calls.rescue_runs(connection, self._rescue)
        # After a silence of its own it leaves its peers the time to speak: the database was away for them as well.
        self._heard_until = loop.time() + 2 * self._heartbeat
        if workers:
            log.warning("workers_found_dead", workers=workers, runs_requeued=runs)
        claims.limited = heard.limited
        if heard.draining:
            self._drain()
        if heard.suspects:
            claims.suspects = True
            claims.wake.set()
        if not heard.alive:
            log.warning("worker_given_up_by_peers", worker=claims.worker_id)
            await hand.lose()
            claims.worker_id = await self.register()
        hand.cancel(heard.cancelled)

    async def _wake_due(self, claims: ClaimLoop) -> None:
        while True:
            pause = WAKE_EVERY
            try:
                async with self._pool.connection() as connection:
                    woken, next_at = await calls.wake_due_runs(connection)
                if woken:
                    claims.wake.set()
                if next_at is not None:
                    pause = min(WAKE_EVERY, max(0.01, (next_at - self._clock.now()).total_seconds()))
            except psycopg.Error as error:
                log.warning("wake_failed", error=str(error).strip())
            await asyncio.sleep(pause)

    async def _tend_queues(self) -> None:
        async with self._pool.connection() as connection:
            await calls.tend_queues(connection)

    async def _hear(self, claims: ClaimLoop) -> None:
        def heard(channel: str, payload: str) -> None:
            if channel == f"{self._cell}.{CANCELS_CHANNEL}":
                self.beat.set()
            elif channel == f"{self._cell}.{ROOM_CHANNEL}":
                self._full_sessions.tell(payload)
            elif not payload or payload in self._queues:
                claims.wake.set()

        channels = [f"{self._cell}.{channel}" for channel in (RUNS_CHANNEL, CANCELS_CHANNEL, ROOM_CHANNEL)]
        await listen(self._conninfo, channels, heard)

    async def _every(
        self, seconds: float, action: Callable[[], Awaitable[None]], sooner: asyncio.Event | None = None
    ) -> None:
        sooner = sooner or asyncio.Event()
        while True:
            sooner.clear()
            try:
                await action()
            except (psycopg.Error, OSError) as error:
                log.warning("will_try_again", error=str(error).strip())
            await timed_wait(sooner, seconds)
