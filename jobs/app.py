"""`App`: procrastinate's own, on Howdah's engine, and with workflows."""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import msgspec
import procrastinate
from procrastinate.retry import BaseRetryStrategy, RetryValue, get_retry_strategy

from howdah.jobs import maintenance
from howdah.jobs.retry import override_json
from howdah.jobs.signature import Signature
from howdah.jobs.workflow.run import Run
from howdah.sql.errors import HowdahError, IdempotencyConflict, NotUnique, QueueFull, UnknownTenant
from howdah.sql.json_values import encode
from howdah.sql.pool import Connection, cell_conninfo, session_arguments
from howdah.sql.queue.calls import Enqueued, NewRun, OnFailure, TaskEntry, enqueue_runs
from howdah.sql.schema import DEFAULT_CELL

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_TENANT = "default"
DEFAULT_QUEUE = "default"

_REFUSALS: dict[str, type[HowdahError]] = {
    "conflict": IdempotencyConflict,
    "not_unique": NotUnique,
    "unknown_tenant": UnknownTenant,
    "queue_full": QueueFull,
}


@dataclass(frozen=True, slots=True)
class Workflow(Generic[P, R]):
    """A task with durable steps, as `App.workflow` makes it. Calling `enqueue` sends a run of it."""

    app: App
    name: str
    queue: str
    function: Callable[Concatenate[Run, P], Awaitable[R]]
    retry_strategy: BaseRetryStrategy | None
    signature: Signature
    options: dict[str, Any] = field(default_factory=dict)

    def configure(
        self,
        *,
        tenant: str | None = None,
        session: str | None = None,
        idempotency_key: str | None = None,
        queue: str | None = None,
        priority: int = 0,
        run_at: datetime | None = None,
        key_window: timedelta | None = None,
        unique_key: str | None = None,
        order: OnFailure | None = None,
        deadline: datetime | None = None,
        retry: RetryValue = False,
        traceparent: str | None = None,
    ) -> Workflow[P, R]:
        """The same workflow, whose next runs are sent with these options.

        Parameters
        ----------
        key_window
            How long the idempotency key is remembered; None: a day.
        unique_key
            At most one run with this key waits in the tenant.
        order
            The run is one of its session's ordered ones, which go one at a time; when it fails for good, the session
            goes on without it ("skip") or waits for it ("block"). None: it does not wait for others.
        deadline
            When the run has failed if it has not ended.
        retry
            In place of the workflow's own.
        traceparent
            W3C trace context that its events bear, and those of its children.
        """
        options = {
            "tenant_id": tenant or DEFAULT_TENANT,
            "session_id": session,
            "idempotency_key": idempotency_key,
            "queue": queue or self.queue,
            "priority": priority,
            "run_at": run_at,
            "key_window": key_window,
            "unique_key": unique_key,
            "order": order,
            "deadline": deadline,
            "retry": override_json(retry),
            "traceparent": traceparent,
        }
        return replace(self, options=options)

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> int:
        """Send a run with these arguments; its id. The app must be open.

        Raises
        ------
        TypeError
            If the arguments do not fit the workflow's signature.
        IdempotencyConflict, NotUnique, QueueFull, UnknownTenant
            If the engine refuses the run.
        """
        async with self.app.connection() as connection:
            return await self.enqueue_in(connection, *args, **kwargs)

    async def enqueue_in(self, connection: Connection, *args: P.args, **kwargs: P.kwargs) -> int:
        """As `enqueue`, in the caller's own transaction: the run exists if and when that commits."""
        run = self.new_run(*args, **kwargs)
        (enqueued,) = await enqueue_runs(connection, [run])
        return _run_id(enqueued, run)

    def new_run(self, *args: P.args, **kwargs: P.kwargs) -> NewRun:
        """A run with these arguments, not yet sent."""
        bound = inspect.signature(self.function).bind(None, *args, **kwargs)
        arguments = dict(list(bound.arguments.items())[1:])
        text = encode(arguments, f"the arguments of {self.name!r}")
        try:
            self.signature.decode(text)
        except msgspec.ValidationError as error:
            raise TypeError(f"the arguments of {self.name!r} do not fit: {error}") from error
        # The plain name would mean the newest version: this is a run of this very code.
        task = self.name if "@" in self.name else f"{self.name}@1"
        return NewRun(**{"tenant_id": DEFAULT_TENANT, "queue": self.queue, **self.options}, task=task, args=text)


class App(procrastinate.App):
    """A procrastinate app whose jobs live in Howdah, and which also has workflows.

    Everything of procrastinate's `App` works: `task`, `periodic`, `defer`, blueprints, middleware, the shell.

    Parameters
    ----------
    database_url
        The database that `defer` and `enqueue` send to; unset: ``DATABASE_URL``. Workers use their own.
        ``HOWDAH_POOLED`` says whether it is a pooler's.
    cell
        The schema of the installation.

    Attributes
    ----------
    retention
        How long its workers keep history; None: for ever.
    event_days
        For how many days its workers keep the events of tenants that do not say otherwise; None: for ever.
    """

    def __init__(self, *, database_url: str | None = None, cell: str = DEFAULT_CELL, **options: Any) -> None:
        if "connector" not in options:
            pooled = os.environ.get("HOWDAH_POOLED", "").lower() == "true"
            conninfo = cell_conninfo(database_url or os.environ.get("DATABASE_URL", ""), cell, pooled=pooled)
            options["connector"] = procrastinate.PsycopgConnector(conninfo=conninfo, kwargs=session_arguments(conninfo))
        super().__init__(**options)
        self.cell = cell
        self.retention: timedelta | None = None
        self.event_days: int | None = None
        self.workflows: dict[str, Workflow[Any, Any]] = {}
        self.add_tasks_from(maintenance.maintenance(), namespace=maintenance.NAMESPACE)

    def workflow(
        self, *, name: str, queue: str = DEFAULT_QUEUE, retry: RetryValue = False, version: int = 1
    ) -> Callable[[Callable[Concatenate[Run, P], Awaitable[R]]], Workflow[P, R]]:
        """Make an async function whose first parameter is a `Run` a workflow.

        Parameters
        ----------
        name
            How runs refer to it: keep it when the function moves.
        retry
            As procrastinate's: a number of attempts, or a `RetryStrategy`.
        version
            Count it up when the code asks for other steps, and keep the old function under its old version, same name,
            until no run of it is live: runs go on with the code that they began with. The plain name means the highest
            version that a worker has registered, ``name@1`` the first. `enqueue` and `Run.children` send runs of the
            very function that they are given.
        """
        if "@" in name or version < 1:
            raise ValueError(f"workflow {name!r}, version {version}: a name has no '@', and versions count from 1")
        full = name if version == 1 else f"{name}@{version}"

        def decorate(function: Callable[Concatenate[Run, P], Awaitable[R]]) -> Workflow[P, R]:
            if full in self.workflows or full in self.tasks:
                raise ValueError(f"there is a task or workflow named {full!r} already: choose another name or version")
            if not inspect.iscoroutinefunction(function):
                raise TypeError(f"workflow {name!r} must be an async function: write `async def`")
            if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values()):
                raise TypeError(f"workflow {name!r} takes **arguments, which have no type: name each of them")
            workflow = Workflow(self, full, queue, function, get_retry_strategy(retry), Signature(function, skip=1))
            self.workflows[full] = workflow
            return workflow

        return decorate

    def connection(self) -> Any:
        """A connection of the open app's pool, as an async context manager."""
        connector = self.connector
        assert isinstance(connector, procrastinate.PsycopgConnector)
        return connector.pool.connection()

    def task_entries(self) -> list[TaskEntry]:
        """What a worker of this app can run, for the registry that the API reads."""
        entries = [
            TaskEntry(w.name, "workflow", w.queue, w.signature.json_schema(), _first_line(w.function))
            for w in self.workflows.values()
        ]
        for name, task in self.tasks.items():
            signature = Signature(task.func, skip=1 if task.pass_context else 0)
            entries.append(TaskEntry(name, "task", task.queue, signature.json_schema(), _first_line(task.func)))
        return entries


def _run_id(enqueued: Enqueued, run: NewRun) -> int:
    refusal = _REFUSALS.get(enqueued.status)
    if refusal is not None:
        what = {
            "conflict": f"idempotency key {run.idempotency_key!r} was used for another task or other arguments",
            "not_unique": f"a run with the uniqueness key {run.unique_key!r} is already queued",
            "unknown_tenant": f"tenant {run.tenant_id!r} is unknown: create it first",
            "queue_full": f"the queue of {run.task!r} has as many queued runs as it may: try again in a second",
        }[enqueued.status]
        raise refusal(what)
    assert enqueued.run_id is not None
    return enqueued.run_id


def _first_line(function: Callable[..., Any]) -> str:
    return (inspect.getdoc(function) or "").partition("\n")[0]
