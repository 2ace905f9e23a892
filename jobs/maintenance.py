"""What keeps the database in order: periodic tasks on the engine itself, of every app, for every worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import procrastinate
import structlog
from procrastinate import JobContext

from howdah.sql.queue import calls
from howdah.sql.stream.calls import cut_sessions

if TYPE_CHECKING:
    from howdah.jobs.app import App

log = structlog.get_logger(__name__)

NAMESPACE = "howdah"
QUEUE = "howdah"
BATCHES = 100  # of 10,000 rows or 1,000 sessions each: what one run deletes at most, so that it ends
PATIENCE = "10s"  # a held snapshot makes a sweep slow: it gives up rather than add to the load


def maintenance() -> procrastinate.Blueprint:
    """The tasks, for one app: an app renames what it takes in."""
    blueprint = procrastinate.Blueprint()
    for name, cron, task in (
        ("prepare_partitions", "7 * * * *", prepare_partitions),
        ("cut_old_events", "12 * * * *", cut_old_events),
        ("drop_old_history", "17 * * * *", drop_old_history),
        ("expire_idempotency_keys", "*/5 * * * *", expire_idempotency_keys),
        ("sweep", "* * * * *", sweep),
    ):
        # One that has not started yet will do the work of the next one too.
        declared = blueprint.task(name=name, queue=QUEUE, queueing_lock=f"{NAMESPACE}:{name}", pass_context=True)(task)
        blueprint.periodic(cron=cron)(declared)
    return blueprint


async def prepare_partitions(context: JobContext, timestamp: int) -> None:
    """Make the days of history, checkpoints and events of the week ahead."""
    async with _app(context).connection() as connection:
        created = await calls.prepare_partitions(connection)
    if created:
        log.info("partitions_prepared", created=created)


async def cut_old_events(context: JobContext, timestamp: int) -> None:
    """Cut off events that are older than their tenant keeps them."""
    app = _app(context)
    async with app.connection() as connection:
        for _ in range(BATCHES):
            if not await cut_sessions(connection, app.event_days):
                break


async def drop_old_history(context: JobContext, timestamp: int) -> None:
    """Drop days of history, checkpoints and events that are older than is kept."""
    app = _app(context)
    async with app.connection() as connection:
        if app.retention is not None:
            for _ in range(BATCHES):
                if not await calls.trim_default_partitions(connection, app.retention):
                    break
        while (dropped := await calls.drop_partition(connection, app.retention)) is not None:
            partition, gone = dropped
            if not gone:
                log.info("partition_in_use", partition=partition)
                return
            log.info("partition_dropped", partition=partition)


async def expire_idempotency_keys(context: JobContext, timestamp: int) -> None:
    """Delete idempotency keys whose window is over."""
    async with _app(context).connection() as connection:
        for _ in range(BATCHES):
            if not await calls.expire_idempotency_keys(connection):
                break


async def sweep(context: JobContext, timestamp: int) -> dict[str, int]:
    """Repair what the engine's invariants forbid; what it repaired, by kind."""
    async with _app(context).connection() as connection, connection.transaction():
        await connection.execute(f"set local statement_timeout = '{PATIENCE}'")
        repaired = await calls.sweep_queues(connection)
    for kind, count in repaired.items():
        level = log.info if kind in calls.TIDIED else log.warning
        level("sweep_repaired", kind=kind, count=count)
    return repaired


def _app(context: JobContext) -> App:
    return cast("App", context.app)
