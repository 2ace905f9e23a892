"""`/v1/tasks/…/pause` and `/resume`: for administrators."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import Controller, post
from litestar.di import NamedDependency
from litestar.params import PathParameter

from howdah.app.api.auth import require_admin
from howdah.app.composition import Resources
from howdah.sql.queue.calls import pause_task

TaskName = Annotated[str, PathParameter(description="The task's name.", max_length=200)]


class TaskState(msgspec.Struct, frozen=True):
    """Whether runs of a task may start."""

    task: str
    paused: bool


class TaskController(Controller):
    """Tasks."""

    path = "/v1/tasks"
    tags = ("tasks",)
    guards = (require_admin,)

    @post("/{name:str}/pause", status_code=200)
    async def pause_task(self, name: TaskName, resources: NamedDependency[Resources]) -> TaskState:
        """Let no run of this task start, of any tenant, until it is resumed; those that run go on to their end."""
        return await _pause(resources, name, paused=True)

    @post("/{name:str}/resume", status_code=200)
    async def resume_task(self, name: TaskName, resources: NamedDependency[Resources]) -> TaskState:
        """Let a paused task go on."""
        return await _pause(resources, name, paused=False)


async def _pause(resources: Resources, name: str, *, paused: bool) -> TaskState:
    async with resources.pool.connection() as connection:
        await pause_task(connection, name, paused)
    return TaskState(name, paused)
