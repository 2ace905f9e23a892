"""Typed callers of the stream's functions; what each does is told in the SQL file of the same name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from howdah.sql.pool import Connection

AppendStatus = Literal["created", "existing", "unknown_session", "closed", "busy"]


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to append; `data` is JSON text, `key` the producer's, unique in its session."""

    tenant_id: str
    session_id: str
    type: str
    data: str = "{}"
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Appended:
    """`seq` is None where the event was refused."""

    seq: int | None
    status: AppendStatus


@dataclass(frozen=True, slots=True)
class Event:
    """A small fact in a session, numbered 1, 2, 3 … without gaps; `data` is JSON text."""

    seq: int
    type: str
    data: str
    run_id: int | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class SessionNews:
    """What a reader of one session has not seen yet, and how the session stands."""

    last_seq: int
    closed: bool
    events: list[Event]


async def create_session(connection: Connection, tenant_id: str, session_id: str) -> bool:
    """Open a session; False if it was there already."""
    row = await (
        await connection.execute("select created from create_session(%s, %s)", [tenant_id, session_id])
    ).fetchone()
    assert row is not None
    created: bool = row[0]
    return created


async def close_session(connection: Connection, tenant_id: str, session_id: str) -> int:
    """End a session; the number of its last event."""
    row = await (
        await connection.execute("select last_seq from close_session(%s, %s)", [tenant_id, session_id])
    ).fetchone()
    assert row is not None
    last_seq: int = row[0]
    return last_seq


async def append_events(
    connection: Connection, events: Sequence[NewEvent], *, wait: bool = True, notify: bool = True
) -> list[Appended]:
    """Append a batch; inside the caller's transaction if there is one."""
    cursor = await connection.execute(
        "select seq, status from append_events(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s, %s)",
        [
            [event.tenant_id for event in events],
            [event.session_id for event in events],
            [event.type for event in events],
            [event.data for event in events],
            [event.key for event in events],
            wait,
            notify,
        ],
    )
    return [Appended(*row) for row in await cursor.fetchall()]


async def read_events(
    connection: Connection, tenant_id: str, session_id: str, after: int = 0, limit: int = 100
) -> list[Event]:
    """Up to `limit` events numbered above `after`, in order."""
    cursor = await connection.execute(
        "select * from read_events(%s, %s, %s, %s)", [tenant_id, session_id, after, limit]
    )
    return [Event(*row) for row in await cursor.fetchall()]


async def read_sessions(
    connection: Connection, readers: Sequence[tuple[str, str, int]], limit: int = 500
) -> list[SessionNews | None]:
    """News for many readers at once, each (tenant, session, number seen last); None where the session is unknown."""
    cursor = await connection.execute(
        "select * from read_sessions(%s::text[], %s::text[], %s::bigint[], %s)",
        [[r[0] for r in readers], [r[1] for r in readers], [r[2] for r in readers], limit],
    )
    news: list[SessionNews | None] = [None] * len(readers)
    for ord_, last_seq, state, seq, type_, data, run_id, created_at in await cursor.fetchall():
        of_session = news[ord_ - 1]
        if of_session is None:
            of_session = news[ord_ - 1] = SessionNews(last_seq, state == "closed", [])
        if seq is not None:
            of_session.events.append(Event(seq, type_, data, run_id, created_at))
    return news


async def read_emitted(connection: Connection, runs: Sequence[int]) -> list[tuple[int, str]]:
    """(run, key) of each event that these runs have written."""
    cursor = await connection.execute("select run_id, key from read_emitted(%s::bigint[])", [list(runs)])
    return [(row[0], row[1]) for row in await cursor.fetchall()]
