"""`/v1/queues`: how much waits and runs in each."""

from __future__ import annotations

import msgspec
from litestar import Controller, get
from litestar.di import NamedDependency
from sqlalchemy import ColumnElement, exists, func, select, true

from howdah.app.api.auth import Caller
from howdah.app.composition import Resources
from howdah.sql.tables import queue, run, task

# Beyond what anyone reads; names are the application's own, so there are tens.
MAX_QUEUES = 1000


class QueueDepth(msgspec.Struct, frozen=True):
    """How many of the caller's runs are in a queue, by state."""

    queue: str
    queued: int
    scheduled: int
    running: int


class QueueList(msgspec.Struct, frozen=True):
    """By name."""

    items: list[QueueDepth]


class QueueController(Controller):
    """Queues."""

    path = "/v1/queues"
    tags = ("queues",)

    @get()
    async def list_queues(self, caller: NamedDependency[Caller], resources: NamedDependency[Resources]) -> QueueList:
        """List queues with the caller's depths; an administrator who names no tenant sees those of all together."""
        depths = select(run.c.queue, *(_count(state) for state in ("queued", "scheduled", "running")))
        if caller.tenant_id is not None:
            depths = depths.where(run.c.tenant_id == caller.tenant_id)
        found = depths.group_by(run.c.queue).subquery()
        zero = (func.coalesce(found.c[state], 0).label(state) for state in ("queued", "scheduled", "running"))
        # A queue's name may tell about the tenant that made it up: one sees its own, and those that workers serve.
        served = exists().where(task.c.queue == queue.c.name)
        visible = true() if caller.tenant_id is None else found.c.queue.is_not(None) | served
        query = select(queue.c.name, *zero).outerjoin(found, found.c.queue == queue.c.name).where(visible)
        async with resources.engine.connect() as connection:
            rows = (await connection.execute(query.order_by(queue.c.name).limit(MAX_QUEUES))).all()
        return QueueList([QueueDepth(*row) for row in rows])


def _count(state: str) -> ColumnElement[int]:
    return func.count().filter(run.c.state == state).label(state)
