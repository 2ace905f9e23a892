"""`/v1/runs`: create, one or many; look up, wait, list; cancel and requeue."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromQuery, HeaderParameter, JSONBody, PathParameter, QueryParameter

from howdah.app.api.auth import Caller
from howdah.app.api.bodies import JsonBody, JsonItems, decode_body
from howdah.app.api.metrics import Metrics
from howdah.app.api.pagination import DEFAULT_LIMIT, Cursor, Limit
from howdah.app.api.problems import RETRY_AFTER, FieldError, Problem, Refused, problem_of
from howdah.app.api.run_reads import (
    FINAL_STATES,
    Run,
    RunPage,
    RunState,
    RunSummary,
    StepPage,
    created_at,
    find_run,
    find_runs,
    list_runs,
    list_steps,
    parse_run_id,
)
from howdah.app.composition import Resources
from howdah.app.run_waiter import TooManyWaiters
from howdah.sql.errors import HowdahError, IdempotencyConflict, NotUnique, UnknownRun, UnknownTenant, WrongState
from howdah.sql.json_values import checked
from howdah.sql.queue.calls import Enqueued, NewRun, cancel_runs, requeue_runs

# One transaction's worth; a client with more sends several.
MAX_BATCH = 1000
# Below the idle limit of usual proxies.
MAX_WAIT = 60.0

NAME = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$(?!\n)"
SESSION = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$(?!\n)"
Key = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
RunId = Annotated[str, PathParameter(description="The run's id.", max_length=40)]


class NewRunBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A run to create. `queue` left out: the task's own. `run_at` in the future: not before. `unique_key`: refused
    while another run with it is queued."""

    task: Annotated[str, msgspec.Meta(min_length=1, max_length=200, examples=["invoice.send"])]
    args: Annotated[
        msgspec.Raw, msgspec.Meta(description="An object that fits the task's schema.", examples=[{"id": 7}])
    ] = msgspec.field(default_factory=lambda: msgspec.Raw(b"{}"))
    queue: Annotated[str, msgspec.Meta(pattern=NAME)] | None = None
    priority: Annotated[int, msgspec.Meta(ge=-1_000_000, le=1_000_000, description="Higher first.")] = 0
    run_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    session: Annotated[str, msgspec.Meta(pattern=SESSION)] | None = None
    unique_key: Key | None = None


class BatchItem(NewRunBody, kw_only=True, forbid_unknown_fields=True):
    """As for one run, with its idempotency key beside it."""

    idempotency_key: Key | None = None


class RunBatch(msgspec.Struct):
    """Runs to create together."""

    runs: Annotated[list[BatchItem], msgspec.Meta(max_length=MAX_BATCH)]


class BatchResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of the item at `index`: its `run` (201 new, 200 there already), or a `problem`."""

    index: int
    status: int
    run: RunSummary | None = None
    problem: Problem | None = None


class BatchResults(msgspec.Struct, frozen=True):
    """One result an item, in order."""

    items: list[BatchResult]


class RunStatus(msgspec.Struct, frozen=True):
    """What became of the request: `cancelled`, `requested` (its worker is asked), `finished` before, or `requeued`."""

    id: str
    status: str


class RunController(Controller):
    """Runs."""

    path = "/v1/runs"
    tags = ("runs",)

    @post(
        dto=JsonBody[NewRunBody],
        responses={200: ResponseSpec(Run, description="The key's run, there already")},
    )
    async def create_run(
        self,
        data: JSONBody[NewRunBody],
        caller: NamedDependency[Caller],
        resources: NamedDependency[Resources],
        metrics: NamedDependency[Metrics],
        idempotency_key: Annotated[
            str | None,
            HeaderParameter(
                name="Idempotency-Key",
                min_length=1,
                max_length=255,
                pattern=r"^[\x21-\x7e]+$",
                description="Sent again with the same task and arguments: the same run. With others: refused.",
            ),
        ] = None,
    ) -> Response[Run]:
        """Create a run. 201 once it is on disk; 200 with the first one's run where the idempotency key was seen."""
        new = await _checked_run(data, caller.tenant(), idempotency_key, resources)
        enqueued = await resources.enqueuer.submit(new)
        metrics.enqueued(enqueued.status)
        run_id = _accepted(new, enqueued)
        location = {"Location": f"/v1/runs/{run_id}"}
        if enqueued.status == "existing":
            return Response(await find_run(resources.engine, new.tenant_id, run_id), status_code=200, headers=location)
        run = Run(**_of_new(new, run_id), args=msgspec.Raw(new.args.encode()))
        return Response(run, status_code=201, headers=location)

    @post("/batch", status_code=200, dto=JsonItems[RunBatch])
    async def create_runs(
        self,
        data: JSONBody[list[bytes]],
        caller: NamedDependency[Caller],
        resources: NamedDependency[Resources],
        metrics: NamedDependency[Metrics],
    ) -> BatchResults:
        """Create up to 1,000 runs in one transaction. A bad item fails alone: see each item's status."""
        tenant_id = caller.tenant()
        results: list[BatchResult | None] = [None] * len(data)
        new_runs: dict[int, NewRun] = {}
        for index, item in enumerate(data):
            where = f"/runs/{index}"
            try:
                run = decode_body(item, BatchItem, where)
                new_runs[index] = await _checked_run(run, tenant_id, run.idempotency_key, resources, where)
            except (Refused, HowdahError) as error:
                results[index] = _failed(index, error)
        outcomes = await asyncio.gather(*map(resources.enqueuer.add, new_runs.values()), return_exceptions=True)
        existing = [o.run_id for o in outcomes if isinstance(o, Enqueued) and o.status == "existing" and o.run_id]
        known = await find_runs(resources.engine, tenant_id, existing)
        for (index, new), outcome in zip(new_runs.items(), outcomes, strict=True):
            if isinstance(outcome, Enqueued):
                metrics.enqueued(outcome.status)
            results[index] = _result(index, new, outcome, known)
        return BatchResults([result for result in results if result is not None])

    @get()
    async def list_runs(
        self,
        caller: NamedDependency[Caller],
        resources: NamedDependency[Resources],
        run_state: Annotated[RunState | None, QueryParameter(name="state")] = None,
        queue: FromQuery[str | None] = None,
        task: FromQuery[str | None] = None,
        session: FromQuery[str | None] = None,
        cursor: Cursor = None,
        limit: Limit = DEFAULT_LIMIT,
    ) -> RunPage:
        """List runs, newest first, without arguments and outputs."""
        filters = {"state": run_state, "queue": queue, "task": task, "session": session}
        return await list_runs(resources.engine, caller.tenant_id, filters, cursor, limit)

    @get("/{run_id:str}")
    async def get_run(
        self,
        run_id: RunId,
        caller: NamedDependency[Caller],
        resources: NamedDependency[Resources],
        wait: Annotated[
            float,
            QueryParameter(ge=0, le=MAX_WAIT, description="Seconds to wait until the run is over; then as it is."),
        ] = 0,
    ) -> Run:
        """Look up a run; with `wait`, answer when it is over, or as it is when the time is."""
        number = parse_run_id(run_id)
        run = await find_run(resources.engine, caller.tenant_id, number)
        if wait == 0 or run.state in FINAL_STATES:
            return run
        try:
            await resources.waiter.wait(number, wait)
        except TooManyWaiters as error:
            raise Refused(503, "too-many-waiters", f"{error}; ask without wait", headers=RETRY_AFTER) from error
        return await find_run(resources.engine, caller.tenant_id, number)

    @post(
        "/{run_id:str}/cancel",
        status_code=200,
        responses={202: ResponseSpec(RunStatus, description="Requested")},
    )
    async def cancel_run(
        self, run_id: RunId, caller: NamedDependency[Caller], resources: NamedDependency[Resources]
    ) -> Response[RunStatus]:
        """Cancel a run: at once where it is not running (200), else by asking its worker (202)."""
        number = parse_run_id(run_id)
        async with resources.pool.connection() as connection:
            status = (await cancel_runs(connection, caller.tenant_id, [number]))[number]
        if status == "unknown":
            raise UnknownRun(f"run {number} is unknown")
        return Response(RunStatus(run_id, status), status_code=202 if status == "requested" else 200)

    @post("/{run_id:str}/requeue", status_code=200)
    async def requeue_run(
        self, run_id: RunId, caller: NamedDependency[Caller], resources: NamedDependency[Resources]
    ) -> RunStatus:
        """Bring a failed or cancelled run back; a workflow goes on from its last finished step."""
        number = parse_run_id(run_id)
        async with resources.pool.connection() as connection:
            status = (await requeue_runs(connection, caller.tenant_id, [number]))[number]
        if status == "unknown":
            raise UnknownRun(f"run {number} is unknown")
        if status != "requeued":
            raise WrongState(f"run {number} is {status}: only failed and cancelled runs can be requeued")
        return RunStatus(run_id, status)

    @get("/{run_id:str}/steps")
    async def list_steps(
        self,
        run_id: RunId,
        caller: NamedDependency[Caller],
        resources: NamedDependency[Resources],
        cursor: Cursor = None,
        limit: Limit = DEFAULT_LIMIT,
    ) -> StepPage:
        """List the finished steps of a run with their outputs, in the order in which they finished."""
        number = parse_run_id(run_id)
        await find_run(resources.engine, caller.tenant_id, number)
        return await list_steps(resources.engine, caller.tenant_id, number, cursor, limit)


async def _checked_run(
    data: NewRunBody, tenant_id: str, key: str | None, resources: Resources, where: str = ""
) -> NewRun:
    """The run to enqueue, once its task is known and its arguments fit."""
    raw = bytes(data.args)
    text = checked(raw, f"{where}/args")
    task = await resources.tasks.find(data.task)
    args: Any = decode_body(raw, dict[str, Any], f"{where}/args")
    errors = [FieldError(message, f"{where}/args{pointer}") for pointer, message in task.errors(args)]
    if errors:
        detail = f"the arguments do not fit task {data.task!r}: {errors[0].pointer}: {errors[0].detail}"
        raise Refused(422, "invalid-arguments", detail, title="Invalid arguments", errors=errors)
    return NewRun(
        tenant_id=tenant_id,
        task=data.task,
        args=text,
        queue=data.queue or task.queue,
        priority=data.priority,
        run_at=data.run_at,
        session_id=data.session,
        idempotency_key=key,
        unique_key=data.unique_key,
    )


def _accepted(new: NewRun, enqueued: Enqueued) -> int:
    """The id of the run that there is now, or the refusal as an error."""
    if enqueued.run_id is not None:
        return enqueued.run_id
    if enqueued.status == "conflict":
        raise IdempotencyConflict(
            f"idempotency key {new.idempotency_key!r} was used for another task or other arguments:"
            " use a new key for a new request"
        )
    if enqueued.status == "not_unique":
        raise NotUnique(f"a run with the uniqueness key {new.unique_key!r} is already queued: wait until it starts")
    raise UnknownTenant(f"tenant {new.tenant_id!r} is unknown")


def _result(index: int, new: NewRun, outcome: Enqueued | BaseException, known: dict[int, Run]) -> BatchResult:
    """`known` has the runs that were there already."""
    try:
        if isinstance(outcome, BaseException):
            return _failed(index, outcome)
        run_id = _accepted(new, outcome)
    except HowdahError as error:
        return _failed(index, error)
    if outcome.status == "existing":
        fields = {name: getattr(known[run_id], name) for name in RunSummary.__struct_fields__}
        return BatchResult(index, 200, RunSummary(**fields))
    return BatchResult(index, 201, RunSummary(**_of_new(new, run_id)))


def _of_new(new: NewRun, run_id: int) -> dict[str, Any]:
    """A new run as it is on disk, without asking for it: the id tells by the database's own clock whether it is due."""
    created = created_at(run_id)
    later = new.run_at is not None and new.run_at > created
    return {
        "id": str(run_id),
        "tenant": new.tenant_id,
        "queue": new.queue,
        "task": new.task,
        "state": "scheduled" if later else "queued",
        "priority": new.priority,
        "session": new.session_id,
        "attempt": 0,
        "failures": 0,
        "created_at": created,
        "run_at": new.run_at,
        "started_at": None,
        "finished_at": None,
    }


def _failed(index: int, error: BaseException) -> BatchResult:
    problem, _ = problem_of(error if isinstance(error, Exception) else RuntimeError(repr(error)))
    return BatchResult(index, problem.status, problem=problem)
