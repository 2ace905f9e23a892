"""Waiting for runs to finish: all waiters of a process share one query, and none holds a connection."""

from __future__ import annotations

import asyncio
import contextlib

import psycopg
import structlog

from howdah.sql.pool import Pool

log = structlog.get_logger(__name__)

# Soon enough that a short run seems to answer at once; rare enough that long ones cost four queries a second.
FIRST_PAUSE = 0.025
LAST_PAUSE = 0.25
SLOWDOWN = 1.5
# What one process answers comfortably; the query's array of ids stays below 100 kB.
MAX_WAITERS = 10_000


class TooManyWaiters(Exception):
    """The process has :data:`MAX_WAITERS` waiters already."""


class RunWaiter:
    """Tells who waits for a run when it is over."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._waiters: dict[int, set[asyncio.Future[None]]] = {}
        self._count = 0
        self._poller: asyncio.Task[None] | None = None
        self._newcomer = asyncio.Event()
        self._released = False

    @property
    def count(self) -> int:
        """How many wait now."""
        return self._count

    async def wait(self, run_id: int, seconds: float) -> None:
        """Return when the run is over, or `seconds` have passed, or this process is about to stop.

        Raises
        ------
        TooManyWaiters
            If it cannot be waited for now.
        """
        if self._released:
            return
        if self._count >= MAX_WAITERS:
            raise TooManyWaiters(f"{MAX_WAITERS:,} requests wait for runs in this process")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(run_id, set()).add(future)
        self._count += 1
        self._newcomer.set()
        if self._poller is None:
            self._poller = asyncio.create_task(self._poll())
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(future, seconds)
        finally:
            self._count -= 1
            of_run = self._waiters.get(run_id)
            if of_run is not None:
                of_run.discard(future)
                if not of_run:
                    del self._waiters[run_id]

    def release(self) -> None:
        """Let all waiters go now, and later ones at once: the process is about to stop."""
        self._released = True
        self._wake(list(self._waiters))

    async def aclose(self) -> None:
        """Let all go and stop asking."""
        self.release()
        if self._poller is not None:
            self._poller.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._poller

    async def _poll(self) -> None:
        pause = FIRST_PAUSE
        try:
            while self._waiters:
                if self._newcomer.is_set():
                    self._newcomer.clear()
                    pause = FIRST_PAUSE
                try:
                    finished = await self._finished(list(self._waiters))
                except psycopg.Error as error:
                    log.warning("run_poll_failed", waiters=self._count, error=str(error))
                    finished, pause = [], LAST_PAUSE
                self._wake(finished)
                pause = FIRST_PAUSE if finished else min(pause * SLOWDOWN, LAST_PAUSE)
                # Whoever comes now is asked for soon, not after a long pause.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._newcomer.wait(), pause)
                    await asyncio.sleep(FIRST_PAUSE)
        finally:
            self._poller = None

    async def _finished(self, runs: list[int]) -> list[int]:
        async with self._pool.connection() as connection:
            # The bound lets the database leave out partitions that are older than the oldest of these runs.
            cursor = await connection.execute(
                "select id from run_history where id = any(%s) and finished_at >= run_created_at(%s)",
                [runs, min(runs)],
            )
            return [row[0] for row in await cursor.fetchall()]

    def _wake(self, runs: list[int]) -> None:
        for run_id in runs:
            for future in self._waiters.get(run_id, ()):
                if not future.done():
                    future.set_result(None)
