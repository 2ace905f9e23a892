"""The claim loop: how a worker gets runs, and how soon it asks again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import psycopg
import structlog

from howdah.jobs.app import App
from howdah.jobs.worker.runs_in_hand import RunsInHand
from howdah.jobs.worker.timed_wait import timed_wait
from howdah.jobs.workflow.engine import Engine
from howdah.jobs.workflow.past import read_pasts
from howdah.sql.pool import Pool
from howdah.sql.queue import calls
from howdah.sql.workflow.calls import RunItem

log = structlog.get_logger(__name__)

MAX_CLAIM = 500  # runs a claim: past this, a larger batch saves nothing more
POLL_FROM, POLL_TO = 0.05, 1.0  # seconds between looks at an idle queue; hints wake it sooner
GATHER = 0.002  # seconds to let more slots come free before a small claim
RETRY_PAUSE = 0.5  # seconds after the database did not answer
ALONE_PAUSE = 30.0  # seconds to work on before another try to run nothing but a suspect run
ALONE_WAIT = 10.0  # seconds in which what runs may end, to make room for a suspect run


class ClaimLoop:
    """Claims runs while there is room for them in hand.

    Parameters
    ----------
    pool
        Of one connection that is kept, and so one warm backend.
    failed
        Set when a claim has failed: the worker asks at once whether its peers have given it up.

    Attributes
    ----------
    worker_id
        In whose name; another one when the worker has registered again.
    wake
        Set when there may be something to claim.
    suspects, limited
        What the last heartbeat told: suspect runs wait for this worker; one of its queues limits what runs.
    """

    def __init__(
        self,
        app: App,
        engine: Engine,
        hand: RunsInHand,
        pool: Pool,
        failed: asyncio.Event,
        *,
        queues: Sequence[str],
        tasks: Sequence[str],
        concurrency: int,
    ) -> None:
        self._app = app
        self._engine = engine
        self._hand = hand
        self._pool = pool
        self._failed = failed
        self._queues = list(queues)
        self._tasks = list(tasks)
        # Below this room a claim is small: it waits a moment for more.
        self._small = concurrency // 4
        self._stopping = False
        self._alone_after = 0.0
        # Whether a claim may have brought runs that are not in hand.
        self._unsure = False
        # Backends of claims whose answers were lost: as long as they live, they may commit.
        self._lost: set[int] = set()
        self.worker_id = 0
        self.wake = asyncio.Event()
        self.suspects = False
        self.limited = False
        hand.on_written = self._written

    def stop(self) -> None:
        """Claim nothing more."""
        self._stopping = True
        self.wake.set()
        self._hand.freed.set()

    def _written(self) -> None:
        if self.limited:
            # A slot that a limit counts is free now: what waits for it is not announced.
            self.wake.set()

    async def run(self, last_look: Callable[[], Awaitable[int]] | None = None) -> None:
        """Claim until `stop`; with a `last_look`, until there is nothing to claim, everything is written, and that look
        has brought up nothing that was due.
        """
        poll = POLL_FROM
        while not self._stopping:
            self.wake.clear()
            room = self._hand.room()
            if 0 < room < self._small and self._hand.busy:
                await asyncio.sleep(GATHER)
                room = self._hand.room()
            if room <= 0:
                self._hand.freed.clear()
                if not self._stopping:
                    await self._hand.freed.wait()
                continue
            # Seen before the claim: a run that ends beside it may go back to the queue unseen by it.
            quiet = self._hand.idle
            try:
                if self._unsure:
                    await self._release_unknown()
                if self.suspects and await self._run_suspect():
                    poll = POLL_FROM
                    continue
                claimed = await self._claim(min(room, MAX_CLAIM))
            except psycopg.Error as error:
                log.warning("claim_failed", error=str(error).strip())
                self._failed.set()
                await asyncio.sleep(RETRY_PAUSE)
                continue
            if claimed:
                poll = POLL_FROM
            if len(claimed) < min(room, MAX_CLAIM):
                if last_look is not None and not claimed and not await self._brought_up(last_look) and quiet:
                    return
                if not await timed_wait(self.wake, POLL_FROM if last_look else poll):
                    poll = min(poll * 2, POLL_TO)
                elif self.limited:
                    # Ends come one by one; a claim for each would cost more than it starts.
                    await asyncio.sleep(GATHER)

    async def _brought_up(self, look: Callable[[], Awaitable[int]]) -> bool:
        """Look for what has become due; whether there was anything to claim now."""
        if due := await look() > 0:
            self.wake.set()
        return due

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
        self.suspects = bool(claimed)
        if claimed:
            log.info("suspect_runs_apart", runs=[run.id for run in claimed])
            await self._until_nothing_runs(None)
        return bool(claimed)

    async def _until_nothing_runs(self, seconds: float | None) -> bool:
        loop = asyncio.get_running_loop()
        end = None if seconds is None else loop.time() + seconds
        while self._hand.busy and not self._stopping and (end is None or loop.time() < end):
            self._hand.freed.clear()
            await timed_wait(self._hand.freed, POLL_TO if end is None else min(POLL_TO, end - loop.time()))
        return not self._hand.busy and not self._stopping

    async def _claim(self, limit: int, *, suspect: bool = False) -> list[calls.ClaimedRun]:
        async with self._pool.connection() as connection:
            backend = connection.info.backend_pid
            try:
                if suspect:
                    claimed = await calls.claim_suspects(connection, self.worker_id, self._queues, self._tasks)
                else:
                    claimed = await calls.claim_runs(connection, self.worker_id, self._queues, limit, self._tasks)
                    # A claim fills up from the first queue on: each gets its turn to be that.
                    self._queues.append(self._queues.pop(0))
                again = [run.id for run in claimed if run.attempt > 1 and run.task in self._app.workflows]
                pasts = await read_pasts(connection, again)
            except psycopg.Error:
                self._unsure = True
                if connection.closed:
                    self._lost.add(backend)
                raise
        self._hand.take(claimed, pasts)
        return claimed

    async def _release_unknown(self) -> None:
        """Hand back runs of claims that were committed, but whose answers were lost with the connection.

        Looked at on each turn, until nobody is left who could still commit one: a backend that waits for a lock does
        not notice that its client has gone.
        """
        async with self._engine.pool.connection() as connection:
            living = await calls.read_backends(connection, self._lost)
            claimed = await calls.read_claimed(connection, self.worker_id)
        known = self._hand.attempts
        for run_id, attempt in claimed:
            if (run_id, attempt) not in known:
                await self._engine.writer.submit(RunItem(run_id, attempt, "outcome", "release"))
        self._lost &= living
        self._unsure = bool(self._lost)
