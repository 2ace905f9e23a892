"""Typed callers of the schedules' functions; what each does is told in the SQL file of the same name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from howdah.sql.pool import Connection
from howdah.sql.queue.calls import OnFailure

Missed = Literal["last", "skip"]


@dataclass(frozen=True, slots=True)
class NewSchedule:
    """A schedule to put. `args` is a JSON object as text; `queue` None: the one that the task is registered for.
    `order`: its runs are ordered ones of the session, as a NewRun's."""

    tenant_id: str
    name: str
    task: str
    cron: str
    args: str = "{}"
    time_zone: str = "UTC"
    missed: Missed = "last"
    queue: str | None = None
    priority: int = 0
    unique_key: str | None = None
    periodic_id: str | None = None
    session_id: str | None = None
    order: OnFailure | None = None


@dataclass(frozen=True, slots=True)
class DueSchedule:
    """A schedule whose moment has come; `next_at` None: that is to be worked out first, from `counts_from`."""

    tenant_id: str
    name: str
    cron: str
    time_zone: str
    missed: Missed
    counts_from: datetime
    next_at: datetime | None
    now: datetime


@dataclass(frozen=True, slots=True)
class Firing:
    """What is to become of a due schedule: a run for the moment `at`, if there is one, and then `next_at`."""

    schedule: DueSchedule
    at: datetime | None
    next_at: datetime | None
    error: str | None = None


async def put_schedule(connection: Connection, new: NewSchedule) -> bool:
    """Make a schedule or change it; False if it was there already."""
    cursor = await connection.execute(
        "select created from put_schedule(%s, %s, %s, %s, %s::jsonb, %s, %s, %s, %s, %s, %s, %s, %s)",
        [
            new.tenant_id,
            new.name,
            new.task,
            new.cron,
            new.args,
            new.time_zone,
            new.missed,
            new.queue,
            new.priority,
            new.unique_key,
            new.periodic_id,
            new.session_id,
            new.order,
        ],
    )
    row = await cursor.fetchone()
    assert row is not None
    created: bool = row[0]
    return created


async def delete_schedule(connection: Connection, tenant_id: str, name: str) -> bool:
    """False if there is no such schedule."""
    row = await (await connection.execute("select deleted from delete_schedule(%s, %s)", [tenant_id, name])).fetchone()
    assert row is not None
    deleted: bool = row[0]
    return deleted


async def pause_schedule(connection: Connection, tenant_id: str, name: str, paused: bool) -> None:
    """Pause or resume a schedule; twice is as once."""
    await connection.execute("select changed from pause_schedule(%s, %s, %s)", [tenant_id, name, paused])


async def run_schedule(connection: Connection, tenant_id: str, name: str) -> int:
    """The id of a run that the schedule has brought out of turn."""
    row = await (await connection.execute("select run_id from run_schedule(%s, %s)", [tenant_id, name])).fetchone()
    assert row is not None
    run_id: int = row[0]
    return run_id


async def due_schedules(connection: Connection, limit: int) -> list[DueSchedule]:
    """Up to `limit` schedules that are due."""
    cursor = await connection.execute("select * from due_schedules(%s)", [limit])
    return [DueSchedule(*row) for row in await cursor.fetchall()]


async def fire_schedules(connection: Connection, firings: Sequence[Firing]) -> int:
    """How many of the schedules it was this call that moved on."""
    cursor = await connection.execute(
        "select run_id from fire_schedules(%s::text[], %s::text[], %s::timestamptz[], %s::timestamptz[],"
        " %s::timestamptz[], %s::timestamptz[], %s::text[])",
        [
            [firing.schedule.tenant_id for firing in firings],
            [firing.schedule.name for firing in firings],
            [firing.schedule.counts_from for firing in firings],
            [firing.schedule.next_at for firing in firings],
            [firing.at for firing in firings],
            [firing.next_at for firing in firings],
            [firing.error for firing in firings],
        ],
    )
    return len(await cursor.fetchall())
