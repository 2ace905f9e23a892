"""The client: enqueues so many runs and knows of each whether it was taken, also when the answer was lost.

Beside it the operator, who requeues what blocks its session.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import psycopg

from howdah.sql.pool import Connection, Pool
from howdah.sql.queue.calls import Enqueued, NewRun, enqueue_runs, requeue_runs
from tests.chaos.load import some_run

APPLICATION = "howdah-chaos-enqueuer"  # of its connections, by which they are found to be cut
BACKLOG = 1500  # runs unfinished at most: enough to keep three workers busy, and drained in seconds
BATCH = 100
PAUSE = 0.05  # seconds between two batches, or two attempts at one
REQUEUE_EVERY = 0.2  # seconds

_Batch = list[tuple[NewRun, bool]]


class Enqueuer:
    """Enqueues in two ways by turns: in a transaction with its own books, and by idempotency keys, books afterwards.

    Attributes
    ----------
    pool
        Of the client's connections, which are cut.
    enqueued
        Runs known to be taken.
    repeats
        Batches sent again because a connection broke before the answer.
    """

    def __init__(self, pool: Pool) -> None:
        self.enqueued = 0
        self.repeats = 0
        self.pool = pool
        self._batches = 0

    async def enqueue(self, total: int) -> None:
        """Enqueue `total` runs, no faster than they are finished."""
        while self.enqueued < total:
            try:
                async with self.pool.connection() as connection:
                    row = await (await connection.execute("select count(*) from run")).fetchone()
            except psycopg.OperationalError:
                row = None
            if row is not None and row[0] < BACKLOG:
                await self._enqueue_batch(
                    [some_run(n) for n in range(self.enqueued, min(self.enqueued + BATCH, total))]
                )
            await asyncio.sleep(PAUSE)

    async def _enqueue_batch(self, batch: _Batch) -> None:
        self._batches += 1
        number = self._batches
        while True:
            try:
                async with self.pool.connection() as connection:
                    if number % 2:
                        await self._with_books(connection, number, batch)
                    else:
                        await self._with_keys(connection, number, batch)
            except psycopg.OperationalError:
                self.repeats += 1
                await asyncio.sleep(PAUSE)
            else:
                self.enqueued += len(batch)
                return

    async def _with_books(self, connection: Connection, number: int, batch: _Batch) -> None:
        """Runs and books in one transaction: after a lost answer the books say whether it was committed."""
        async with connection.transaction():
            cursor = await connection.execute(
                "select exists (select from chaos.chaos_enqueued where batch = %s)", [number]
            )
            if await cursor.fetchone() != (True,):
                enqueued = await enqueue_runs(connection, [run for run, _ in batch])
                await _write_books(connection, number, batch, enqueued)

    async def _with_keys(self, connection: Connection, number: int, batch: _Batch) -> None:
        """Each in a transaction of its own: after a lost answer the same keys find the same runs."""
        keyed = [replace(run, idempotency_key=f"{number}/{place}") for place, (run, _) in enumerate(batch)]
        enqueued = await enqueue_runs(connection, keyed)
        await _write_books(connection, number, batch, enqueued)


async def _write_books(connection: Connection, number: int, batch: _Batch, enqueued: list[Enqueued]) -> None:
    refused = [answer.status for answer in enqueued if answer.run_id is None]
    assert not refused, f"runs of batch {number} were refused: {refused}"
    await connection.execute(
        "insert into chaos.chaos_enqueued (batch, run_id, task, fails, session, place)"
        " select %s, * from unnest(%s::bigint[], %s::text[], %s::boolean[], %s::text[]) with ordinality"
        " on conflict do nothing",
        [
            number,
            [answer.run_id for answer in enqueued],
            [run.task for run, _ in batch],
            [fails for _, fails in batch],
            [run.session_id if run.order is not None else None for run, _ in batch],
        ],
    )


async def requeue_blocking(pool: Pool) -> None:
    """Requeue the failed heads of ordered sessions, until cancelled; whoever runs again can read that it was so."""
    while True:
        try:
            async with pool.connection() as connection, connection.transaction():
                cursor = await connection.execute(
                    "insert into chaos.chaos_requeued (run_id)"
                    " select h.id from ordered_session as s join run_history as h on h.id = s.head_id"
                    " where h.state = 'failed' on conflict do nothing returning run_id"
                )
                if blocking := [row[0] for row in await cursor.fetchall()]:
                    await requeue_runs(connection, None, blocking)
        except psycopg.OperationalError:
            pass  # Its connection was cut: whether it was done shows at the next look.
        await asyncio.sleep(REQUEUE_EVERY)
