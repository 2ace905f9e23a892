"""What a worker writes about its runs, through group commit: checkpoints, events and outcomes share transactions."""

from __future__ import annotations

from collections.abc import Sequence

from howdah.sql.group_commit import BUSY, Busy, GroupCommit
from howdah.sql.pool import Pool
from howdah.sql.workflow.calls import ItemStatus, RunItem, flush


def run_writer(pool: Pool, *, overtake: bool = True) -> GroupCommit[RunItem, ItemStatus]:
    """A writer of run items. A busy item is sent again by itself; the result is another status.

    With `overtake` only the run's own events are full: what stood behind one, of another branch of its run, goes on
    without it.

    Nobody is notified: the caller knows which queues and sessions the items touch, and hints after the commit.
    """

    async def write(items: Sequence[RunItem]) -> list[ItemStatus | Busy]:
        async with pool.connection() as connection:
            statuses = await flush(connection, items, notify=False)
        return [
            BUSY if status == "busy" or (status == "full" and overtake and not _is_told(item)) else status
            for item, status in zip(items, statuses, strict=True)
        ]

    return GroupCommit(write, order=lambda item: item.run_id)


def _is_told(item: RunItem) -> bool:
    """Whether it is an event that the run's code has told, not one of how the run ended."""
    return item.kind == "event" and not item.name.startswith("howdah.run.")
