"""Looks at a limited queue all the time, and writes down what it saw."""

from __future__ import annotations

import asyncio

import psycopg

from howdah.sql.pool import Pool
from tests.chaos.load import LIMITED_QUEUE

LOOK_EVERY = 0.05  # seconds


async def watch(pool: Pool) -> None:
    """Count what runs, in one snapshot a time, until cancelled."""
    while True:
        try:
            async with pool.connection() as connection:
                await connection.execute(
                    "insert into chaos.chaos_sample (queue, running, of_one_tenant)"
                    " select %(queue)s, coalesce(sum(t.running), 0), coalesce(max(t.running), 0)"
                    " from (select count(*) as running from run"
                    "       where queue = %(queue)s and state = 'running' group by tenant_id) as t",
                    {"queue": LIMITED_QUEUE},
                )
        except psycopg.OperationalError:
            pass  # The server is away: there is nothing to see.
        await asyncio.sleep(LOOK_EVERY)
