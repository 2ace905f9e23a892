"""`/v1/runs/requeue`, `/cancel` and `/discard`: many runs at once, those that fit a filter, in bounded chunks."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Controller, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from howdah.app.api.auth import Caller
from howdah.app.api.bodies import JsonBody
from howdah.app.composition import Resources
from howdah.sql.queue.calls import cancel_queued, discard_failed, requeue_failed

# One transaction's worth; a client with more repeats while there is `more`.
MAX_CHUNK = 1000

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Id = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,19}$(?!\n)")]
Time = Annotated[datetime, msgspec.Meta(tz=True)]


class QueuedFilter(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Runs that have not started: those that fit all that is given. `since` and `until`: when they were created."""

    queue: Name | None = None
    task: Name | None = None
    since: Time | None = None
    until: Time | None = None
    ids: Annotated[list[Id], msgspec.Meta(max_length=MAX_CHUNK)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_CHUNK)] = MAX_CHUNK


class FailedFilter(QueuedFilter, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Failed runs: those that fit all that is given. `error` is its type; `since` and `until`: when they failed."""

    error: Name | None = None


class RequeuedRuns(msgspec.Struct, frozen=True):
    """How many came back; `more`: others fit, send it again."""

    requeued: int
    more: bool


class DiscardedRuns(msgspec.Struct, frozen=True):
    """How many were given up; `more`: others fit, send it again."""

    discarded: int
    more: bool


class CancelledRuns(msgspec.Struct, frozen=True):
    """How many were cancelled, and how many had started meanwhile, so that their workers are asked; `more`: others fit,
    send it again."""

    cancelled: int
    requested: int
    more: bool


class BulkRunController(Controller):
    """Many runs at once."""

    path = "/v1/runs"
    tags = ("runs",)

    @post("/requeue", status_code=200, dto=JsonBody[FailedFilter])
    async def requeue_runs(
        self, data: JSONBody[FailedFilter], caller: NamedDependency[Caller], resources: NamedDependency[Resources]
    ) -> RequeuedRuns:
        """Bring the failed runs back that fit, up to `limit`; workflows go on from their last finished step."""
        async with resources.pool.connection() as connection:
            return RequeuedRuns(*await requeue_failed(connection, _wanted(data, caller), data.limit))

    @post("/discard", status_code=200, dto=JsonBody[FailedFilter])
    async def discard_runs(
        self, data: JSONBody[FailedFilter], caller: NamedDependency[Caller], resources: NamedDependency[Resources]
    ) -> DiscardedRuns:
        """Give the failed runs up that fit, up to `limit`; ordered sessions that waited for them go on."""
        async with resources.pool.connection() as connection:
            return DiscardedRuns(*await discard_failed(connection, _wanted(data, caller), data.limit))

    @post("/cancel", status_code=200, dto=JsonBody[QueuedFilter])
    async def cancel_runs(
        self, data: JSONBody[QueuedFilter], caller: NamedDependency[Caller], resources: NamedDependency[Resources]
    ) -> CancelledRuns:
        """Cancel the runs that have not started and fit, up to `limit`."""
        async with resources.pool.connection() as connection:
            return CancelledRuns(*await cancel_queued(connection, _wanted(data, caller), data.limit))


def _wanted(data: QueuedFilter, caller: Caller) -> dict[str, Any]:
    """The engine's filter. An administrator who names no tenant acts on those of all."""
    wanted: dict[str, Any] = msgspec.to_builtins(data)
    wanted.pop("limit", None)
    if caller.tenant_id is not None:
        wanted["tenant"] = caller.tenant_id
    return wanted
