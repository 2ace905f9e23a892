"""A session's events, as a run reads them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from howdah.sql.pool import Pool
from howdah.sql.reconnect import through_reconnects
from howdah.sql.stream.calls import Event, read_events

PAGE = 500


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """A fact in a session. `run_id` is the run that said it; None: a client did."""

    number: int
    type: str
    data: Any
    run_id: int | None
    at: datetime


async def read(pool: Pool, tenant_id: str, session_id: str, after: int) -> list[SessionEvent]:
    """The next events after number `after`; empty: there are none yet."""

    async def page() -> list[Event]:
        async with pool.connection() as connection:
            return await read_events(connection, tenant_id, session_id, after, PAGE)

    events = await through_reconnects(page, "events")
    return [SessionEvent(e.seq, e.type, msgspec.json.decode(e.data), e.run_id, e.created_at) for e in events]
