"""`/v1/schedules`: runs that come again and again, by a cron expression on the clock of a time zone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from litestar import Controller, Response, delete, get, post, put
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody, PathParameter
from sqlalchemy import Row, Text, cast, select

from howdah.app.api.auth import Caller
from howdah.app.api.bodies import JsonBody
from howdah.app.api.new_runs import NAME, SESSION, Key, Priority, checked_args
from howdah.app.api.pagination import DEFAULT_LIMIT, Cursor, Limit, decode_cursor, encode_cursor
from howdah.app.api.run_reads import Run, find_run
from howdah.app.composition import Resources
from howdah.jobs.cron import Cron
from howdah.sql.errors import UnknownSchedule
from howdah.sql.queue.calls import OnFailure
from howdah.sql.schedule.calls import (
    Missed,
    NewSchedule,
    delete_schedule,
    pause_schedule,
    put_schedule,
    run_schedule,
)
from howdah.sql.tables import schedule

SchedulePath = Annotated[str, PathParameter(description="The schedule's name.", max_length=128)]
# Without a colon: names with one are those of @app.periodic.
NewSchedulePath = Annotated[
    str,
    PathParameter(
        description="The schedule's name: letters, digits, `.`, `_` and `-`, beginning with a letter or digit.",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$(?!\n)",
        max_length=128,
    ),
]


class ScheduleBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A schedule to keep. `missed`: of the moments that passed while no worker lived, the `last` one brings a run, or
    none does (`skip`). `queue` left out: the task's own. `unique_key`: a moment brings no run while one is queued.
    `session` and `order` are those of its runs: with both they go one at a time."""

    task: Annotated[str, msgspec.Meta(min_length=1, max_length=200, examples=["invoice.remind"])]
    cron: Annotated[
        str,
        msgspec.Meta(
            max_length=200,
            description="Minute, hour, day of month, month, day of week; seconds may follow.",
            examples=["30 9 * * mon-fri"],
        ),
    ]
    args: Annotated[
        msgspec.Raw, msgspec.Meta(description="An object that fits the task's schema.", examples=[{"customer": "acme"}])
    ] = msgspec.field(default_factory=lambda: msgspec.Raw(b"{}"))
    time_zone: Annotated[str, msgspec.Meta(max_length=64, description="IANA name.", examples=["Europe/Berlin"])] = "UTC"
    missed: Missed = "last"
    queue: Annotated[str, msgspec.Meta(pattern=NAME)] | None = None
    priority: Priority = 0
    unique_key: Key | None = None
    session: Annotated[str, msgspec.Meta(pattern=SESSION)] | None = None
    order: OnFailure | None = None


class ScheduleSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule. `next_at` is null while it is paused, and until a worker has seen it. `last_at` is the moment for
    which it last fired, `last_run` the run of that. `error`: why the last moment brought no run."""

    name: str
    tenant: str
    task: str
    cron: str
    time_zone: str
    missed: Missed
    queue: str | None
    priority: int
    unique_key: str | None
    session: str | None
    order: OnFailure | None
    paused: bool
    next_at: datetime | None
    last_at: datetime | None
    last_run: str | None
    error: str | None
    created_at: datetime
    updated_at: datetime


class Schedule(ScheduleSummary, frozen=True, kw_only=True):
    """A schedule with the arguments of its runs."""

    args: Any


class SchedulePage(msgspec.Struct, frozen=True):
    """By name; `next` is the cursor of the page after, null at the end."""

    items: list[ScheduleSummary]
    next: str | None


class ScheduleController(Controller):
    """Schedules."""

    path = "/v1/schedules"
    tags = ("schedules",)

    @put(
        "/{name:str}",
        dto=JsonBody[ScheduleBody],
        responses={201: ResponseSpec(Schedule, description="Made")},
    )
    async def put_schedule(
        self,
        name: NewSchedulePath,
        data: JSONBody[ScheduleBody],
        caller: NamedDependency[Caller],
        resources: NamedDependency[Resources],
    ) -> Response[Schedule]:
        """Make a schedule (201), or give the one of this name another definition (200); whether it is paused stays."""
        tenant_id = caller.tenant()
        # One that never fires is refused as well.
        Cron(data.cron, data.time_zone).after(datetime.now(UTC))
        _, args = await checked_args(data.task, bytes(data.args), resources)
        new = NewSchedule(
            tenant_id=tenant_id,
            name=name,
            task=data.task,
            cron=data.cron,
            args=args,
            time_zone=data.time_zone,
            missed=data.missed,
            queue=data.queue,
            priority=data.priority,
            unique_key=data.unique_key,
            session_id=data.session,
            order=data.order,
        )
        async with resources.pool.connection() as connection:
            created = await put_schedule(connection, new)
        found = await _find(resources, tenant_id, name)
        return Response(found, status_code=201 if created else 200, headers={"Location": f"/v1/schedules/{name}"})

    @get()
    async def list_schedules(
        self,
        caller: NamedDependency[Caller],
        resources: NamedDependency[Resources],
        cursor: Cursor = None,
        limit: Limit = DEFAULT_LIMIT,
    ) -> SchedulePage:
        """List schedules by name, without arguments."""
        tenant_id = caller.tenant()
        query = select(schedule).where(schedule.c.tenant_id == tenant_id).order_by(schedule.c.name).limit(limit + 1)
        scope = f"schedules of {tenant_id}"
        position = decode_cursor(scope, cursor)
        if position is not None:
            query = query.where(schedule.c.name > position)
        async with resources.engine.connect() as reading:
            rows = (await reading.execute(query)).all()
        more = encode_cursor(scope, rows[limit - 1].name) if len(rows) > limit else None
        return SchedulePage([ScheduleSummary(**_fields(row)) for row in rows[:limit]], more)

    @get("/{name:str}")
    async def get_schedule(
        self, name: SchedulePath, caller: NamedDependency[Caller], resources: NamedDependency[Resources]
    ) -> Schedule:
        """Look up a schedule: when it fires next, when it last did, and the run of that."""
        return await _find(resources, caller.tenant(), name)

    @delete("/{name:str}")
    async def delete_schedule(
        self, name: SchedulePath, caller: NamedDependency[Caller], resources: NamedDependency[Resources]
    ) -> None:
        """Remove a schedule; the runs that it has brought stay."""
        tenant_id = caller.tenant()
        async with resources.pool.connection() as connection:
            deleted = await delete_schedule(connection, tenant_id, name)
        if not deleted:
            raise _unknown(name)

    @post("/{name:str}/pause", status_code=200)
    async def pause_schedule(
        self, name: SchedulePath, caller: NamedDependency[Caller], resources: NamedDependency[Resources]
    ) -> Schedule:
        """Pause a schedule: it fires nothing until it is resumed. Twice is as once."""
        return await _pause(resources, caller.tenant(), name, True)

    @post("/{name:str}/resume", status_code=200)
    async def resume_schedule(
        self, name: SchedulePath, caller: NamedDependency[Caller], resources: NamedDependency[Resources]
    ) -> Schedule:
        """Let a paused schedule go on; what passed meanwhile is not caught up."""
        return await _pause(resources, caller.tenant(), name, False)

    @post("/{name:str}/run")
    async def run_schedule(
        self, name: SchedulePath, caller: NamedDependency[Caller], resources: NamedDependency[Resources]
    ) -> Response[Run]:
        """Create a run of a schedule now, also of a paused one. Its own moments stay as they are."""
        tenant_id = caller.tenant()
        async with resources.pool.connection() as connection:
            run_id = await run_schedule(connection, tenant_id, name)
        run = await find_run(resources.engine, tenant_id, run_id)
        return Response(run, headers={"Location": f"/v1/runs/{run_id}"})


async def _pause(resources: Resources, tenant_id: str, name: str, paused: bool) -> Schedule:
    async with resources.pool.connection() as connection:
        await pause_schedule(connection, tenant_id, name, paused)
    return await _find(resources, tenant_id, name)


async def _find(resources: Resources, tenant_id: str, name: str) -> Schedule:
    # As text: read as JSON, large numbers would lose digits.
    query = select(schedule, cast(schedule.c.args, Text).label("args_text"))
    query = query.where(schedule.c.tenant_id == tenant_id, schedule.c.name == name)
    async with resources.engine.connect() as reading:
        row = (await reading.execute(query)).one_or_none()
    if row is None:
        raise _unknown(name)
    return Schedule(**_fields(row), args=msgspec.Raw(row.args_text.encode()))


def _unknown(name: str) -> UnknownSchedule:
    return UnknownSchedule(f"schedule {name!r} is unknown: make it first, by PUT /v1/schedules/{{name}}")


def _fields(row: Row[Any]) -> dict[str, Any]:
    same = (
        "name", "task", "cron", "time_zone", "missed", "queue", "priority", "unique_key", "paused", "next_at",
        "last_at", "error", "created_at", "updated_at",
    )  # fmt: skip
    last_run = None if row.last_run_id is None else str(row.last_run_id)
    return {name: row._mapping[name] for name in same} | {
        "tenant": row.tenant_id, "session": row.session_id, "order": row.on_failure, "last_run": last_run,
    }  # fmt: skip
