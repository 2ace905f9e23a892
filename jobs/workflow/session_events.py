"""A session's events, as a run reads and writes them."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from howdah.jobs.workflow.engine import Engine
from howdah.jobs.workflow.full_sessions import MORE
from howdah.jobs.workflow.rest import Rest
from howdah.jobs.workflow.steps import Steps
from howdah.sql.errors import SessionFull
from howdah.sql.pool import Pool
from howdah.sql.queue.calls import ClaimedRun
from howdah.sql.reconnect import through_reconnects
from howdah.sql.stream.calls import Event, read_events
from howdah.sql.workflow.calls import RunItem

PAGE = 500
# Seconds between looks whether a full session has room, where nobody tells: the first, and the longest they become.
FULL_PAUSE = (0.05, 1.0)


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


async def follow(
    pool: Pool, claimed: ClaimedRun, rest: Rest, types: Sequence[str] | None, after: int
) -> AsyncIterator[SessionEvent]:
    """The session's events of these types after number `after`, without the run's own, for ever."""
    if claimed.session_id is None:
        raise ValueError(f"run {claimed.id} has no session whose events it could read: enqueue it with one")
    cursor = after
    while True:
        await rest.begin(repeated=True)
        try:
            page = await read(pool, claimed.tenant_id, claimed.session_id, cursor)
        finally:
            rest.done()
        for event in page:
            cursor = event.number
            if event.run_id != claimed.id and (types is None or event.type in types):
                yield event
        if not page:
            await rest.wait({"events": cursor, "types": None if types is None else list(types)})


async def write(engine: Engine, rest: Rest, steps: Steps, item: RunItem, session: str) -> None:
    """Write an event into `session` (tenant/session); wait where that is full. The run does not rest meanwhile.

    Errors are those of `Run.emit`.
    """
    pause, longest = FULL_PAUSE
    waited = False
    while True:
        await rest.begin()
        try:
            missed = engine.full_sessions.missed
            status = await engine.writer.submit(item)
            if status != "full":
                steps.refuse_unless_ok(status, item.name)
                if waited:
                    engine.full_sessions.tell(session, MORE)
                return
            if rest.tidying_up:
                raise SessionFull(
                    f"event {item.name!r} of run {item.run_id} was not written: a required consumer of its session is"
                    " too far behind, and a cancelled run does not wait for it"
                )
            waited = True
            if engine.full_sessions.missed != missed:
                continue
            # Spread out: many runs may wait for the same consumer.
            seconds = pause * random.uniform(0.5, 1)  # noqa: S311 - spreads load, hides nothing
            await engine.full_sessions.wait(session, seconds)
        finally:
            rest.done()
        pause = min(2 * pause, longest)
