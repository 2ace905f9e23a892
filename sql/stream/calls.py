"""Typed callers of the stream's functions; what each does is told in the SQL file of the same name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import msgspec

from howdah.sql.array_literal import integers, texts, timestamps
from howdah.sql.errors import UnknownConsumer
from howdah.sql.pool import Connection

AppendStatus = Literal["created", "existing", "unknown_session", "closed", "busy", "full"]


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to append; `data` is JSON text, `key` the producer's, unique in its session."""

    tenant_id: str
    session_id: str
    type: str
    data: str = "{}"
    key: str | None = None
    source: str | None = None
    subject: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Appended:
    """`seq` is None where the event was refused."""

    seq: int | None
    status: AppendStatus


@dataclass(frozen=True, slots=True)
class Acked:
    """What a consumer has acknowledged now, which never goes back; and whether a full session has room by that."""

    seq: int
    freed: bool


class Event(msgspec.Struct, frozen=True, gc=False):
    """A small fact in a session, numbered 1, 2, 3 … without gaps; `data` is JSON text.

    A Struct, as they come by the hundred thousand: a frozen dataclass takes ten times as long to make.
    """

    seq: int
    type: str
    data: str
    run_id: int | None
    created_at: datetime
    source: str | None = None
    subject: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Consumer:
    """A reader whose place is kept: it has everything up to `acked_seq`, and `lag` events that are kept it has not.

    Producers of a session with a window wait for those that are `required`.
    """

    name: str
    required: bool
    acked_seq: int
    lag: int
    created_at: datetime
    acked_at: datetime | None


@dataclass(frozen=True, slots=True)
class SessionNews:
    """What a reader of one session has not seen yet, and how the session stands.

    `first_seq` is the oldest event that is kept, last_seq + 1 if none is: what is below is gone.
    """

    last_seq: int
    first_seq: int
    closed: bool
    events: list[Event]


async def create_session(connection: Connection, tenant_id: str, session_id: str, window: int | None = None) -> bool:
    """Open a session, with its window of events; False if it was there already, and stays as it is."""
    row = await (
        await connection.execute("select created from create_session(%s, %s, %s)", [tenant_id, session_id, window])
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
        "select seq, status from append_events(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s, %s,"
        " %s::text[], %s::text[], %s::text[])",
        [
            texts([event.tenant_id for event in events]),
            texts([event.session_id for event in events]),
            texts([event.type for event in events]),
            texts([event.data for event in events]),
            texts([event.key for event in events]),
            wait,
            notify,
            texts([event.source for event in events]),
            texts([event.subject for event in events]),
            texts([event.traceparent for event in events]),
        ],
    )
    return [Appended(*row) for row in await cursor.fetchall()]


async def read_events(
    connection: Connection, tenant_id: str, session_id: str, after: int = 0, limit: int = 100
) -> list[Event]:
    """Up to `limit` events numbered above `after`, in order."""
    cursor = await connection.execute(
        "select seq, type, data, run_id, created_at, source, subject, traceparent from read_events(%s, %s, %s, %s)",
        [tenant_id, session_id, after, limit],
    )
    return [Event(*row) for row in await cursor.fetchall()]


async def read_sessions(
    connection: Connection,
    readers: Sequence[tuple[str, str, int]],
    limit: int = 500,
    since: Sequence[datetime | None] | None = None,
) -> list[SessionNews | None]:
    """News for many readers at once, each (tenant, session, number seen last); None where the session is unknown.

    `since` has for each the time of the event that it saw last, where it knows that: older days are not looked at.
    """
    # Binary: to write times and numbers out and read them again was a third of what a catch-up costs.
    cursor = connection.cursor(binary=True)
    await cursor.execute(
        "select ord, last_seq, first_seq, state, seq, type, data, run_id, created_at, source, subject, traceparent"
        " from read_sessions(%s::text[], %s::text[], %s::bigint[], %s, %s::timestamptz[])",
        [
            *_places(readers),
            limit,
            None if since is None else timestamps(since),
        ],
    )
    news: list[SessionNews | None] = [None] * len(readers)
    for ord_, last_seq, first_seq, state, seq, *rest in await cursor.fetchall():
        of_session = news[ord_ - 1]
        if of_session is None:
            of_session = news[ord_ - 1] = SessionNews(last_seq, first_seq, state == "closed", [])
        if seq is not None:
            of_session.events.append(Event(seq, *rest))
    return news


async def find_news(connection: Connection, readers: Sequence[tuple[str, str, int]]) -> list[int]:
    """Which of the readers, each (tenant, session, number seen last), have something to read, by their place here."""
    cursor = await connection.execute(
        "select ord from find_news(%s::text[], %s::text[], %s::bigint[])",
        _places(readers),
    )
    return [row[0] - 1 for row in await cursor.fetchall()]


def _places(readers: Sequence[tuple[str, str, int]]) -> list[str | None]:
    return [texts([r[0] for r in readers]), texts([r[1] for r in readers]), integers([r[2] for r in readers])]


async def set_event_window(connection: Connection, tenant_id: str, session_id: str, window: int | None) -> None:
    """How far the slowest required consumer may be behind before producers wait; None: any distance."""
    await connection.execute("select set_event_window(%s, %s, %s)", [tenant_id, session_id, window])


async def put_consumer(
    connection: Connection, tenant_id: str, session_id: str, name: str, *, required: bool = False, first: int | None = 1
) -> bool:
    """Name a reader whose first event is number `first` (None: what comes from now on); False: it was there.

    One that was there keeps its place; only `required` is changed.
    """
    row = await (
        await connection.execute(
            "select created from put_consumer(%s, %s, %s, %s, %s)", [tenant_id, session_id, name, required, first]
        )
    ).fetchone()
    assert row is not None
    created: bool = row[0]
    return created


async def delete_consumer(connection: Connection, tenant_id: str, session_id: str, name: str) -> bool:
    """Forget a consumer and its place; False if there is none of this name."""
    row = await (
        await connection.execute("select deleted from delete_consumer(%s, %s, %s)", [tenant_id, session_id, name])
    ).fetchone()
    assert row is not None
    deleted: bool = row[0]
    return deleted


async def ack_events(
    connection: Connection, tenant_id: str, session_id: str, name: str, seq: int, *, notify: bool = True
) -> Acked:
    """A consumer has all up to number `seq`."""
    cursor = await connection.execute(
        "select acked_seq, freed from ack_events(%s, %s, %s, %s, %s)", [tenant_id, session_id, name, seq, notify]
    )
    row = await cursor.fetchone()
    assert row is not None
    return Acked(*row)


async def read_consumers(connection: Connection, tenant_id: str, session_id: str) -> list[Consumer]:
    """A session's consumers, by name."""
    cursor = await connection.execute("select * from read_consumers(%s, %s)", [tenant_id, session_id])
    return [Consumer(*row) for row in await cursor.fetchall()]


async def read_consumer(connection: Connection, tenant_id: str, session_id: str, name: str) -> Consumer:
    """One consumer of a session.

    Raises
    ------
    UnknownConsumer
        If the session has none of this name.
    """
    cursor = await connection.execute("select * from read_consumers(%s, %s, %s)", [tenant_id, session_id, name])
    row = await cursor.fetchone()
    if row is None:
        raise UnknownConsumer(f"session {session_id!r} has no consumer {name!r}: name it first, by PUT")
    return Consumer(*row)


async def send_partials(
    connection: Connection, payloads: Sequence[str], attempts: Sequence[tuple[int, int] | None]
) -> list[bool]:
    """Send partials, each of a (run, attempt) or of somebody else; False where the attempt is over."""
    cursor = await connection.execute(
        "select status from send_partials(%s::text[], %s::bigint[], %s::integer[]) order by ord",
        [list(payloads), [a and a[0] for a in attempts], [a and a[1] for a in attempts]],
    )
    return [row[0] == "ok" for row in await cursor.fetchall()]


async def cut_sessions(connection: Connection, days: int | None) -> int:
    """How many sessions were looked at to cut off events older than `days`, or than their tenant says; 0: no more."""
    row = await (await connection.execute("select done from cut_sessions(%s)", [days])).fetchone()
    assert row is not None
    done: int = row[0]
    return done


async def set_tenant_event_days(connection: Connection, tenant_id: str, days: int | None) -> None:
    """For how many days a tenant's events are kept; None: as long as the installation keeps them."""
    await connection.execute("select set_tenant_event_days(%s, %s)", [tenant_id, days])


async def read_emitted(connection: Connection, runs: Sequence[int]) -> list[tuple[int, str]]:
    """(run, key) of each event that these runs have written."""
    cursor = await connection.execute("select run_id, key from read_emitted(%s::bigint[])", [integers(runs)])
    return [(row[0], row[1]) for row in await cursor.fetchall()]
