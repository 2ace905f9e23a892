"""`/v1/tasks`: what workers have registered; `…/pause` and `/resume`, for administrators."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.params import PathParameter
from sqlalchemy import Text, cast, func, select

from howdah.app.api.auth import require_admin
from howdah.app.composition import Resources
from howdah.sql.queue.calls import pause_task
from howdah.sql.tables import task

# Beyond what anyone reads; names are the application's own, so there are tens.
MAX_TASKS = 1000

TaskName = Annotated[str, PathParameter(description="The task's name.", max_length=200)]


class Task(msgspec.Struct, frozen=True):
    """A task as workers have registered it. `queue`: where its runs go unless they say otherwise. `args_schema`: the
    JSON schema of its arguments. While `paused`, no run of it starts. The plain name of a task with versions stands for
    the newest, and is as that is."""

    task: str
    kind: Literal["task", "workflow"]
    queue: str
    description: str
    paused: bool
    args_schema: Any


class TaskList(msgspec.Struct, frozen=True):
    """By name."""

    items: list[Task]


class TaskState(msgspec.Struct, frozen=True):
    """Whether runs of a task may start."""

    task: str
    paused: bool


class TaskController(Controller):
    """Tasks."""

    path = "/v1/tasks"
    tags = ("tasks",)

    @get()
    async def list_tasks(self, resources: NamedDependency[Resources]) -> TaskList:
        """List what can be run: every task that a worker has registered. They are the same for all tenants."""
        meant = task.alias()
        query = (
            select(
                task.c.name,
                meant.c.kind,
                meant.c.queue,
                meant.c.description,
                meant.c.paused,
                cast(meant.c.args_schema, Text).label("args_schema"),
            )
            .join(meant, meant.c.name == func.coalesce(task.c.newest, task.c.name))
            .order_by(task.c.name)
            .limit(MAX_TASKS)
        )
        async with resources.engine.connect() as connection:
            rows = (await connection.execute(query)).all()
        return TaskList(
            [
                Task(row.name, row.kind, row.queue, row.description, row.paused, msgspec.Raw(row.args_schema.encode()))
                for row in rows
            ]
        )

    @post("/{name:str}/pause", status_code=200, guards=[require_admin])
    async def pause_task(self, name: TaskName, resources: NamedDependency[Resources]) -> TaskState:
        """Let no run of this task start, of any tenant, until it is resumed; those that run go on to their end."""
        return await _pause(resources, name, paused=True)

    @post("/{name:str}/resume", status_code=200, guards=[require_admin])
    async def resume_task(self, name: TaskName, resources: NamedDependency[Resources]) -> TaskState:
        """Let a paused task go on."""
        return await _pause(resources, name, paused=False)


async def _pause(resources: Resources, name: str, *, paused: bool) -> TaskState:
    async with resources.pool.connection() as connection:
        await pause_task(connection, name, paused)
    return TaskState(name, paused)
