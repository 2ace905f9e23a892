"""What a worker writes about its runs, through group commit: checkpoints, events and outcomes share transactions."""

from __future__ import annotations

from collections.abc import Sequence

from howdah.sql.group_commit import BUSY, Busy, GroupCommit
from howdah.sql.pool import Pool
from howdah.sql.workflow.calls import ItemStatus, RunItem, flush


def run_writer(pool: Pool) -> GroupCommit[RunItem, ItemStatus]:
    """A writer of run items. A busy item is sent again by itself; the result is ok, stale or repeated.

    Nobody is notified: the caller knows which queues and sessions the items touch, and hints after the commit.
    """

    async def write(items: Sequence[RunItem]) -> list[ItemStatus | Busy]:
        async with pool.connection() as connection:
            statuses = await flush(connection, items, notify=False)
        return [BUSY if status == "busy" else status for status in statuses]

    return GroupCommit(write, order=lambda item: item.run_id)
