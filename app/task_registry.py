"""What workers say they can run, as the API sees it: names, queues, and validators of arguments."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from referencing import Registry
from sqlalchemy import Text, cast, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from howdah.app.recent import Recent
from howdah.sql.errors import UnknownTask
from howdah.sql.tables import task

log = structlog.get_logger(__name__)

# A task that a worker has just registered is known this soon at the latest.
FRESH_SECONDS = 1.0
# Before a task is called unknown the database is asked again, but not for every bad request of a flood.
MISS_SECONDS = 0.05
# More problems than anyone reads at once only make the answer long.
MAX_ERRORS = 20
MAX_MESSAGE = 300


@dataclass(frozen=True, slots=True)
class RegisteredTask:
    """A task of the registry. `validator` is None where its schema cannot be used; the worker still checks."""

    name: str
    queue: str
    schema: str
    validator: Draft202012Validator | None

    def errors(self, args: Any) -> list[tuple[str, str]]:
        """(JSON pointer below the arguments, what is wrong) of each problem, up to :data:`MAX_ERRORS`."""
        if self.validator is None:
            return []
        found: list[tuple[str, str]] = []
        for error in self.validator.iter_errors(args):
            found.append(("".join(f"/{_escape(part)}" for part in error.absolute_path), error.message[:MAX_MESSAGE]))
            if len(found) == MAX_ERRORS:
                break
        return found


class TaskRegistry:
    """Reads the registry at most once in :data:`FRESH_SECONDS`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._known: dict[str, RegisteredTask] = {}
        self._recent: Recent[str, dict[str, RegisteredTask]] = Recent(self._read, seconds=FRESH_SECONDS, max_entries=1)

    async def find(self, name: str) -> RegisteredTask:
        """The task of this name.

        Raises
        ------
        UnknownTask
            If no worker has registered it; the message names those that come close.
        """
        tasks = await self._recent.get("all")
        # Of a task without versions, the first is all that there is.
        names = (name, name.removesuffix("@1"))
        if tasks.keys().isdisjoint(names):
            tasks = await self._recent.get("all", max_age=MISS_SECONDS)
        for known_as in names:
            if known_as in tasks:
                return tasks[known_as]
        close = difflib.get_close_matches(name, tasks, n=3) or sorted(tasks)[:5]
        known = f"did you mean {', '.join(close)}?" if close else "no worker has registered any task yet: start one"
        raise UnknownTask(f"no worker has registered a task {name!r}; {known}")

    async def _read(self, _: str) -> dict[str, RegisteredTask]:
        async with self._engine.connect() as connection:
            # The plain name of a task with versions stands for the newest.
            meant = task.alias()
            rows = await connection.execute(
                select(task.c.name, meant.c.queue, cast(meant.c.args_schema, Text))
                .join(meant, meant.c.name == func.coalesce(task.c.newest, task.c.name))
                .union_all(
                    select(task.c.name + "@1", task.c.queue, cast(task.c.args_schema, Text)).where(
                        task.c.newest.is_not(None)
                    )
                )
            )
            self._known = {name: self._entry(name, queue, schema) for name, queue, schema in rows}
        return self._known

    def _entry(self, name: str, queue: str, schema: str) -> RegisteredTask:
        known = self._known.get(name)
        if known is not None and (known.queue, known.schema) == (queue, schema):
            return known
        return RegisteredTask(name, queue, schema, _validator(name, schema))


def _validator(name: str, schema: str) -> Draft202012Validator | None:
    parsed = msgspec.json.decode(schema)
    try:
        Draft202012Validator.check_schema(parsed)
    except SchemaError as error:
        log.warning("task_schema_unusable", task=name, error=error.message[:MAX_MESSAGE])
        return None
    # An empty registry: a reference to another host is never fetched.
    return Draft202012Validator(parsed, registry=Registry())


def _escape(part: str | int) -> str:
    return str(part).replace("~", "~0").replace("/", "~1")
