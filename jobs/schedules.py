"""The scheduler: brings the runs of schedules when their moments come. Any number may work side by side.

What was missed while none lived: a schedule fires once, for the latest of the moments it missed (`missed` 'last'), or
not at all ('skip'; a moment counts as missed once it is a minute ago).
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import psycopg
import structlog
from procrastinate.periodic import PeriodicTask

from howdah.jobs.app import DEFAULT_TENANT, App
from howdah.jobs.cron import Cron
from howdah.sql.errors import BadSchedule, HowdahError, from_psycopg
from howdah.sql.json_values import encode
from howdah.sql.pool import Connection, Pool
from howdah.sql.schedule.calls import (
    DueSchedule,
    Firing,
    NewSchedule,
    due_schedules,
    fire_schedules,
    put_schedule,
)

log = structlog.get_logger(__name__)

BATCH = 100  # schedules a transaction: a few milliseconds of arithmetic between other things of the event loop
MISSED_AFTER = timedelta(minutes=1)  # later than this a moment is missed, for those that skip what they missed
AFTER_THE_SECOND = 0.01  # seconds; moments are whole seconds, so it looks just after each
PERIODIC = "periodic:"  # how the names of schedules begin that @app.periodic made; REST makes none with a colon

_NAME = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Scheduler:
    """Fires what is due, and keeps what `@app.periodic` registered in the table of schedules."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def run(self, pool: Pool) -> None:
        """Look each second, until cancelled."""
        registered = False
        while True:
            try:
                async with pool.connection() as connection:
                    if not registered:
                        await self.register(connection)
                        registered = True
                    while await self.run_once(connection) == BATCH:
                        pass
            except (psycopg.Error, OSError) as error:
                log.warning("schedules_failed", error=str(error).strip())
            await asyncio.sleep(1 - time.time() % 1 + AFTER_THE_SECOND)

    async def register(self, connection: Connection) -> None:
        """Put a schedule for each of the app's periodic tasks. Those that it has lost stay until they are deleted."""
        for periodic in self._app.periodic_registry.periodic_tasks.values():
            try:
                await put_schedule(connection, _schedule_of(periodic))
            except HowdahError as error:
                log.error("periodic_task_refused", task=periodic.task.name, error=str(error))
            except psycopg.Error as error:
                if from_psycopg(error) is None:
                    raise
                log.error("periodic_task_refused", task=periodic.task.name, error=str(error).strip())

    async def run_once(self, connection: Connection) -> int:
        """Take up to `BATCH` schedules that are due to their next moments; how many it was that did so."""
        due = await due_schedules(connection, BATCH)
        return await _fire(connection, [_firing(schedule) for schedule in due]) if due else 0


async def _fire(connection: Connection, firings: Sequence[Firing]) -> int:
    try:
        return await fire_schedules(connection, firings)
    except psycopg.OperationalError:
        raise
    except psycopg.Error as error:
        # One that the engine refuses must not stop the others: each by itself, and the bad one moves on without a run.
        if len(firings) > 1:
            return sum([await _fire(connection, [firing]) for firing in firings])
        (firing,) = firings
        if firing.at is None:
            raise
        why = str(from_psycopg(error) or error.diag.message_primary)
        log.warning("schedule_refused", tenant=firing.schedule.tenant_id, schedule=firing.schedule.name, error=why)
        return await fire_schedules(connection, [Firing(firing.schedule, None, firing.next_at, why)])


def _firing(schedule: DueSchedule) -> Firing:
    """What is to become of a schedule now."""
    now = schedule.now
    try:
        cron = Cron(schedule.cron, schedule.time_zone)
        first = schedule.next_at or cron.after(schedule.counts_from)
        if first > now:
            return Firing(schedule, None, first)
        at = cron.latest(first, now)
        following = cron.after(now)
    except BadSchedule as error:
        return Firing(schedule, None, None, str(error))
    missed = schedule.missed == "skip" and now - at > MISSED_AFTER
    return Firing(schedule, None if missed else at, following)


def _schedule_of(periodic: PeriodicTask[..., Any, ...]) -> NewSchedule:
    """The schedule of a periodic task: its options are those of the decorator, then those of the task."""
    job = periodic.task.configure(**periodic.configure_kwargs).job
    args = {name: value for name, value in job.task_kwargs.items() if name != "timestamp"}
    Cron(periodic.cron)
    return NewSchedule(
        tenant_id=DEFAULT_TENANT,
        name=_name_of(periodic.task.name, periodic.periodic_id),
        task=job.task_name,
        cron=periodic.cron,
        args=encode(args, f"the arguments of periodic task {job.task_name!r}"),
        queue=job.queue,
        priority=job.priority,
        unique_key=job.queueing_lock,
        session_id=job.lock,
        order=None if job.lock is None else "skip",
        periodic_id=periodic.periodic_id,
    )


def _name_of(task: str, periodic_id: str) -> str:
    name = f"{PERIODIC}{task}:{periodic_id}" if periodic_id else f"{PERIODIC}{task}"
    if _NAME.fullmatch(name):
        return name
    plain = re.sub(r"[^A-Za-z0-9._:-]", "-", name)[:111]
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
