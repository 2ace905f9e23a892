"""Appending through group commit: events that reach one process at the same time share one transaction."""

from __future__ import annotations

from collections.abc import Sequence

from howdah.sql.group_commit import BUSY, Busy, GroupCommit
from howdah.sql.notifier import Notifier
from howdah.sql.pool import Pool
from howdah.sql.stream.calls import Appended, NewEvent, append_events

EVENTS_CHANNEL = "events"
# Parts of events to come: `tenant/session {json}`, heard by whoever listens now and by nobody later.
PARTIALS_CHANNEL = "partials"
# `tenant/session`: it was full, and has room.
ROOM_CHANNEL = "room"


def event_writer(pool: Pool, notifier: Notifier) -> GroupCommit[NewEvent, Appended]:
    """A writer of events. Sessions that somebody else is writing to wait for the next batch, alone."""

    async def write(events: Sequence[NewEvent]) -> list[Appended | Busy]:
        async with pool.connection() as connection:
            results = await append_events(connection, events, wait=False, notify=False)
        notifier.hint(
            EVENTS_CHANNEL,
            {
                f"{event.tenant_id}/{event.session_id}"
                for event, result in zip(events, results, strict=True)
                if result.status == "created"
            },
        )
        return [BUSY if result.status == "busy" else result for result in results]

    return GroupCommit(write)
