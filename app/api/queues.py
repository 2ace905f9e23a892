"""`/v1/queues`: how much waits and runs in each, and what holds them back."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Controller, get, patch
from litestar.di import NamedDependency
from litestar.params import JSONBody, PathParameter
from sqlalchemy import ColumnElement, Row, Select, exists, func, select, true

from howdah.app.api.auth import Caller, require_admin
from howdah.app.api.bodies import JsonBody
from howdah.app.composition import Resources
from howdah.sql.errors import UnknownQueue
from howdah.sql.queue.calls import pause_queue, set_queue_limits
from howdah.sql.tables import queue, run, task

# Beyond what anyone reads; names are the application's own, so there are tens.
MAX_QUEUES = 1000
STATES = ("queued", "scheduled", "blocked", "running")

QueueName = Annotated[str, PathParameter(description="The queue's name.", max_length=128)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2_147_483_647)] | None | msgspec.UnsetType
Seconds = Annotated[float, msgspec.Meta(ge=0.001, le=365 * 86_400)] | None | msgspec.UnsetType


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """How many of the caller's runs are in a queue, by state, and the queue's limits; null: none.

    `starts_per_period` runs may start in each `period_s` seconds. While `paused`, none starts.
    """

    queue: str
    queued: int
    scheduled: int
    blocked: int
    running: int
    paused: bool
    max_running: int | None
    max_running_per_tenant: int | None
    starts_per_period: int | None
    period_s: float | None
    max_queued: int | None
    max_queued_per_tenant: int | None


class QueueList(msgspec.Struct, frozen=True):
    """By name."""

    items: list[Queue]


class QueueChanges(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What to change of a queue: a number sets a limit, null removes it, what is left out stays."""

    paused: bool | msgspec.UnsetType = msgspec.UNSET
    max_running: Count = msgspec.UNSET
    max_running_per_tenant: Count = msgspec.UNSET
    starts_per_period: Count = msgspec.UNSET
    period_s: Seconds = msgspec.UNSET
    max_queued: Count = msgspec.UNSET
    max_queued_per_tenant: Count = msgspec.UNSET


class QueueController(Controller):
    """Queues."""

    path = "/v1/queues"
    tags = ("queues",)

    @get()
    async def list_queues(self, caller: NamedDependency[Caller], resources: NamedDependency[Resources]) -> QueueList:
        """List queues with the caller's depths; an administrator who names no tenant sees those of all together."""
        async with resources.engine.connect() as connection:
            rows = (await connection.execute(_queues(caller).order_by(queue.c.name).limit(MAX_QUEUES))).all()
        return QueueList([_queue(row) for row in rows])

    @get("/{name:str}")
    async def get_queue(
        self, name: QueueName, caller: NamedDependency[Caller], resources: NamedDependency[Resources]
    ) -> Queue:
        """Look up a queue, as in the list."""
        return await _find_queue(resources, caller, name)

    @patch("/{name:str}", dto=JsonBody[QueueChanges], guards=[require_admin])
    async def change_queue(
        self,
        name: QueueName,
        data: JSONBody[QueueChanges],
        caller: NamedDependency[Caller],
        resources: NamedDependency[Resources],
    ) -> Queue:
        """Set or remove limits, pause, or resume: for administrators. Limits hold from the next claim or run on.

        A queue that is not there yet is made, so that its limits can come before its first run."""
        limits: dict[str, Any] = msgspec.to_builtins(data)
        paused: bool | None = limits.pop("paused", None)
        async with resources.pool.connection() as connection, connection.transaction():
            await set_queue_limits(connection, name, limits)
            if paused is not None:
                await pause_queue(connection, name, paused)
        return await _find_queue(resources, caller, name)


async def _find_queue(resources: Resources, caller: Caller, name: str) -> Queue:
    async with resources.engine.connect() as connection:
        row = (await connection.execute(_queues(caller, name))).one_or_none()
    if row is None:
        raise UnknownQueue(f"queue {name!r} is unknown")
    return _queue(row)


def _queues(caller: Caller, name: str | None = None) -> Select[Any]:
    """The queues that the caller may see, or the one of this name, with the caller's depths."""
    depths = select(run.c.queue, *(_count(state) for state in STATES))
    if caller.tenant_id is not None:
        depths = depths.where(run.c.tenant_id == caller.tenant_id)
    if name is not None:
        depths = depths.where(run.c.queue == name)
    found = depths.group_by(run.c.queue).subquery()
    zero = (func.coalesce(found.c[state], 0).label(state) for state in STATES)
    # A queue's name may tell about the tenant that made it up: one sees its own, and those that workers serve.
    served = exists().where(task.c.queue == queue.c.name)
    visible = true() if caller.admin else found.c.queue.is_not(None) | served
    query = select(queue, *zero).outerjoin(found, found.c.queue == queue.c.name).where(visible)
    return query if name is None else query.where(queue.c.name == name)


def _queue(row: Row[Any]) -> Queue:
    return Queue(
        queue=row.name,
        queued=row.queued,
        scheduled=row.scheduled,
        blocked=row.blocked,
        running=row.running,
        paused=row.paused,
        max_running=row.max_running,
        max_running_per_tenant=row.max_running_per_tenant,
        starts_per_period=row.starts_per_period,
        period_s=None if row.period is None else row.period.total_seconds(),
        max_queued=row.max_queued,
        max_queued_per_tenant=row.max_queued_per_tenant,
    )


def _count(state: str) -> ColumnElement[int]:
    return func.count().filter(run.c.state == state).label(state)
