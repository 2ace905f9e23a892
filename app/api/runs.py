"""`/v1/runs`: create, one or many; look up, wait, list, explain; change, cancel, requeue and discard."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, Response, get, patch, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromQuery, HeaderParameter, JSONBody, PathParameter, QueryParameter

from howdah.app.api.auth import Caller
from howdah.app.api.bodies import JsonBody, JsonItems, decode_body
from howdah.app.api.metrics import Metrics
from howdah.app.api.new_runs import (
    KEY_CHARACTERS,
    MAX_KEY,
    NAME,
    BatchItem,
    BatchResult,
    BatchResults,
    NewRunBody,
    Priority,
    RunBatch,
    batch_result,
    checked_run,
    create_run,
    failed_result,
    must_be_read,
)
from howdah.app.api.pagination import DEFAULT_LIMIT, Cursor, Limit
from howdah.app.api.problems import RETRY_AFTER, Refused
from howdah.app.api.run_reads import (
    FINAL_STATES,
    Run,
    RunPage,
    RunState,
    StepPage,
    find_run,
    find_runs,
    list_runs,
    list_steps,
    parse_run_id,
)
from howdah.app.api.traceparent import traceparent_of
from howdah.app.composition import Resources
from howdah.app.run_waiter import TooManyWaiters
from howdah.sql.errors import HowdahError, UnknownRun, WrongState
from howdah.sql.queue.calls import (
    Enqueued,
    NewRun,
    cancel_runs,
    change_runs,
    discard_runs,
    explain_run,
    requeue_runs,
)

# Below the idle limit of usual proxies.
MAX_WAIT = 60.0

RunId = Annotated[str, PathParameter(description="The run's id.", max_length=40)]


class RunStatus(msgspec.Struct, frozen=True):
    """What became of the request: `cancelled`, `requested` (its worker is asked), `finished` before, `requeued`, or
    `discarded`."""

    id: str
    status: str


class RunChanges(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to change of a run that has not started; what is left out or null stays. A `run_at` that has passed: now."""

    priority: Priority | None = None
    queue: Annotated[str, msgspec.Meta(pattern=NAME)] | None = None
    run_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class Explanation(msgspec.Struct, frozen=True):
    """Why a run does not run now, in one sentence for people."""

    id: str
    explanation: str


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
        request: Request[Any, Any, State],
        data: JSONBody[NewRunBody],
        caller: NamedDependency[Caller],
        resources: NamedDependency[Resources],
        metrics: NamedDependency[Metrics],
        idempotency_key: Annotated[
            str | None,
            HeaderParameter(
                name="Idempotency-Key",
                min_length=1,
                max_length=MAX_KEY,
                pattern=KEY_CHARACTERS,
                description="Sent again with the same task and arguments: the same run. With others: refused.",
            ),
        ] = None,
    ) -> Response[Run]:
        """Create a run. 201 once it is on disk; 200 with the first one's run where the idempotency key was seen."""
        traceparent = traceparent_of(request.headers)
        run, status, headers = await create_run(data, caller, idempotency_key, resources, metrics, traceparent)
        return Response(run, status_code=status, headers=headers)

    @post("/batch", status_code=200, dto=JsonItems[RunBatch])
    async def create_runs(
        self,
        request: Request[Any, Any, State],
        data: JSONBody[list[bytes]],
        caller: NamedDependency[Caller],
        resources: NamedDependency[Resources],
        metrics: NamedDependency[Metrics],
    ) -> BatchResults:
        """Create up to 1,000 runs in one transaction. A bad item fails alone: see each item's status."""
        tenant_id, traceparent = caller.tenant(), traceparent_of(request.headers)
        results: list[BatchResult | None] = [None] * len(data)
        new_runs: dict[int, NewRun] = {}
        for index, item in enumerate(data):
            where = f"/runs/{index}"
            try:
                run = decode_body(item, BatchItem, where)
                new_runs[index] = await checked_run(run, tenant_id, run.idempotency_key, resources, traceparent, where)
            except (Refused, HowdahError) as error:
                results[index] = failed_result(index, error)
        outcomes = await asyncio.gather(*map(resources.enqueuer.add, new_runs.values()), return_exceptions=True)
        to_read = [
            outcome.run_id
            for new, outcome in zip(new_runs.values(), outcomes, strict=True)
            if isinstance(outcome, Enqueued) and outcome.run_id is not None and must_be_read(new, outcome)
        ]
        known = await find_runs(resources.engine, tenant_id, to_read)
        for (index, new), outcome in zip(new_runs.items(), outcomes, strict=True):
            if isinstance(outcome, Enqueued):
                metrics.enqueued(outcome.status)
            results[index] = batch_result(index, new, outcome, known)
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
        parent: Annotated[
            str | None, QueryParameter(description="The run whose children they are; `none`: those that are nobody's.")
        ] = None,
        cursor: Cursor = None,
        limit: Limit = DEFAULT_LIMIT,
    ) -> RunPage:
        """List runs, newest first, without arguments and outputs."""
        filters = {"state": run_state, "queue": queue, "task": task, "session": session, "parent": parent}
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

    @patch("/{run_id:str}", dto=JsonBody[RunChanges])
    async def change_run(
        self,
        run_id: RunId,
        data: JSONBody[RunChanges],
        caller: NamedDependency[Caller],
        resources: NamedDependency[Resources],
    ) -> Run:
        """Change the priority, the queue or the time of a run that has not started; one that has is refused (409)."""
        number = parse_run_id(run_id)
        changes = msgspec.structs.asdict(data)
        async with resources.pool.connection() as connection:
            status = (await change_runs(connection, caller.tenant_id, [number], **changes))[number]
        if status == "unknown":
            raise UnknownRun(f"run {number} is unknown")
        if status != "changed":
            raise WrongState(f"run {number} has {status}: only a run that has not can be changed")
        return await find_run(resources.engine, caller.tenant_id, number)

    @get("/{run_id:str}/explanation")
    async def explain_run(
        self, run_id: RunId, caller: NamedDependency[Caller], resources: NamedDependency[Resources]
    ) -> Explanation:
        """Tell why a run does not run now: paused, at a limit, behind others, without a worker, or over."""
        number = parse_run_id(run_id)
        await find_run(resources.engine, caller.tenant_id, number)
        async with resources.pool.connection() as connection:
            return Explanation(run_id, await explain_run(connection, caller.tenant_id, number))

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

    @post("/{run_id:str}/discard", status_code=200)
    async def discard_run(
        self, run_id: RunId, caller: NamedDependency[Caller], resources: NamedDependency[Resources]
    ) -> RunStatus:
        """Give a failed run up: it is cancelled, and an ordered session that waited for it goes on."""
        number = parse_run_id(run_id)
        async with resources.pool.connection() as connection:
            status = (await discard_runs(connection, caller.tenant_id, [number]))[number]
        if status == "unknown":
            raise UnknownRun(f"run {number} is unknown")
        if status != "discarded":
            state = "not over" if status == "live" else "over, but has not failed"
            raise WrongState(f"run {number} is {state}: only a failed run can be discarded")
        return RunStatus(run_id, status)

    @get("/{run_id:str}/steps")
    async def list_steps(
        self,
        run_id: RunId,
        caller: NamedDependency[Caller],
        resources: NamedDependency[Resources],
        step: Annotated[str | None, QueryParameter(description="Only the step of this name.")] = None,
        outputs: Annotated[bool, QueryParameter(description="Whether with their outputs.")] = True,
        cursor: Cursor = None,
        limit: Limit = DEFAULT_LIMIT,
    ) -> StepPage:
        """List the finished steps of a run with their outputs, in the order in which they finished."""
        number = parse_run_id(run_id)
        await find_run(resources.engine, caller.tenant_id, number)
        return await list_steps(resources.engine, caller.tenant_id, number, cursor, limit, step=step, outputs=outputs)
