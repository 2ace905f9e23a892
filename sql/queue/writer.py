"""Enqueueing through group commit: what one process enqueues at the same time shares one transaction."""

from __future__ import annotations

from collections.abc import Sequence

from howdah.sql.group_commit import GroupCommit
from howdah.sql.notifier import Notifier
from howdah.sql.pool import Pool
from howdah.sql.queue.calls import Enqueued, NewRun, enqueue_runs

RUNS_CHANNEL = "runs"


def enqueue_writer(pool: Pool, notifier: Notifier) -> GroupCommit[NewRun, Enqueued]:
    """A writer of new runs; workers are told after the commit."""

    async def flush(runs: Sequence[NewRun]) -> list[Enqueued]:
        async with pool.connection() as connection:
            results = await enqueue_runs(connection, runs, notify=False)
        if any(result.status == "created" for result in results):
            # A run without a queue goes to the one its task is registered for, which only the database knows: ''.
            notifier.hint(RUNS_CHANNEL, {run.queue or "" for run in runs})
        return results

    return GroupCommit(flush)
