"""What is particular to runs of workflows: `/v1/runs/{id}/signals`, `/fork` and `/tree`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter, JSONBody, QueryParameter
from sqlalchemy import Text, cast, select, tuple_

from howdah.app.api.auth import Caller
from howdah.app.api.bodies import JsonBody
from howdah.app.api.new_runs import KEY_CHARACTERS, MAX_KEY, checked_args
from howdah.app.api.pagination import DEFAULT_LIMIT, Cursor, Limit, bad_cursor, decode_cursor, encode_cursor
from howdah.app.api.run_reads import Run, RunState, find_run, parse_run_id
from howdah.app.api.runs import RunId
from howdah.app.composition import Resources
from howdah.sql.errors import IdempotencyConflict, NotAChoice, UnknownRun, WrongState
from howdah.sql.json_values import checked
from howdah.sql.tables import signal
from howdah.sql.workflow.calls import NewSignal, fork_run, read_tree, send_signals

# What is read and shown at once; who wants more asks for the tree of a run further down.
MAX_TREE = 1000
# More steps than any run finishes.
MAX_STEPS = 1_000_000


class SignalBody(msgspec.Struct, forbid_unknown_fields=True):
    """A signal for a run. `payload` is any JSON; where the run waits with choices, one of them, or an object whose
    `choice` is one."""

    # As a step's name is: no wait can have another.
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=r"^[^#]+$", examples=["approval"])]
    payload: Annotated[msgspec.Raw, msgspec.Meta(description="Any JSON.", examples=[{"choice": "approve"}])] = (
        msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))
    )


class SignalStatus(msgspec.Struct, frozen=True):
    """What became of a signal to the run `id`: `sent`, or `existing`, if its key was sent before."""

    id: str
    name: str
    status: Literal["sent", "existing"]


class Signal(msgspec.Struct, frozen=True):
    """A signal that was sent to a run: the `no`-th of its name."""

    name: str
    no: int
    payload: Any
    key: str | None
    sent_at: datetime


class SignalPage(msgspec.Struct, frozen=True):
    """In the order in which they were sent; `next` is the cursor of the page after, null at the end."""

    items: list[Signal]
    next: str | None


class Fork(msgspec.Struct, forbid_unknown_fields=True):
    """How a run is to be forked: with its first `steps` finished steps, as they are listed; by another `task` or
    version of it, else by its own."""

    steps: Annotated[int, msgspec.Meta(ge=0, le=MAX_STEPS, examples=[2])]
    task: Annotated[str, msgspec.Meta(min_length=1, max_length=200, examples=["invoice.settle@2"])] | None = None


class TreeRun(msgspec.Struct, frozen=True):
    """A run of a tree: `depth` is 0 for its root, and `step` the one of its parent that waits for it. `error`: why it
    failed or was cancelled, in short."""

    id: str
    parent: str | None
    step: str | None
    depth: int
    task: str
    state: RunState
    error: str | None


class RunTree(msgspec.Struct, frozen=True):
    """A run and its descendants, those nearest to it first; `more`: some are left out."""

    items: list[TreeRun]
    more: bool


class WorkflowController(Controller):
    """Signals, forks and children of runs."""

    path = "/v1/runs/{run_id:str}"
    tags = ("workflows",)

    @post(
        "/signals",
        dto=JsonBody[SignalBody],
        responses={200: ResponseSpec(SignalStatus, description="The key's signal, sent before")},
    )
    async def send_signal(
        self,
        run_id: RunId,
        data: JSONBody[SignalBody],
        caller: NamedDependency[Caller],
        resources: NamedDependency[Resources],
        idempotency_key: Annotated[
            str | None,
            HeaderParameter(
                name="Idempotency-Key",
                min_length=1,
                max_length=MAX_KEY,
                pattern=KEY_CHARACTERS,
                description="Sent to the run again with the same signal: it is sent once. With another: refused.",
            ),
        ] = None,
    ) -> Response[SignalStatus]:
        """Tell a run something that it waits for, or will wait for. A run that is over is refused (409), as is a
        payload that is none of the choices for which it waits (422)."""
        number = parse_run_id(run_id)
        new = NewSignal(number, data.name, checked(bytes(data.payload), "/payload"), idempotency_key)
        async with resources.pool.connection() as connection:
            (status,) = await send_signals(connection, caller.tenant_id, [new])
        if status == "unknown":
            raise UnknownRun(f"run {number} is unknown")
        if status == "finished":
            raise WrongState(f"run {number} is over: it waits for no signal any more")
        if status == "conflict":
            raise IdempotencyConflict(
                f"idempotency key {idempotency_key!r} was used for another signal to run {number}:"
                " use a new key for a new one"
            )
        if status == "not_a_choice":
            raise NotAChoice(await _choices(resources, caller, number, data.name))
        return Response(SignalStatus(run_id, data.name, status), status_code=201 if status == "sent" else 200)

    @get("/signals")
    async def list_signals(
        self,
        run_id: RunId,
        caller: NamedDependency[Caller],
        resources: NamedDependency[Resources],
        cursor: Cursor = None,
        limit: Limit = DEFAULT_LIMIT,
    ) -> SignalPage:
        """List what was sent to a run, in the order in which it came."""
        number = parse_run_id(run_id)
        await find_run(resources.engine, caller.tenant_id, number)
        scope = f"signals of {number}"
        c = signal.c
        query = select(c.name, c.no, cast(c.payload, Text).label("payload"), c.key, c.sent_at)
        query = query.where(c.run_id == number).order_by(c.sent_at, c.name, c.no).limit(limit + 1)
        position = decode_cursor(scope, cursor)
        if position is not None:
            try:
                time, no, name = position.split(" ", 2)
                after = tuple_(datetime.fromisoformat(time), name, int(no))
            except ValueError:
                raise bad_cursor(cursor or "") from None
            query = query.where(tuple_(c.sent_at, c.name, c.no) > after)
        async with resources.engine.connect() as connection:
            rows = (await connection.execute(query)).all()
        signals = [Signal(r.name, r.no, msgspec.Raw(r.payload.encode()), r.key, r.sent_at) for r in rows[:limit]]
        last = signals[-1] if len(rows) > limit else None
        more = None if last is None else encode_cursor(scope, f"{last.sent_at.isoformat()} {last.no} {last.name}")
        return SignalPage(signals, more)

    @post("/fork", dto=JsonBody[Fork])
    async def fork_run(
        self,
        run_id: RunId,
        data: JSONBody[Fork],
        caller: NamedDependency[Caller],
        resources: NamedDependency[Resources],
    ) -> Response[Run]:
        """Create a run that goes on after the first finished steps of this one, with its arguments. It has no session.
        More steps than there are, or arguments that another task does not take, are refused (422)."""
        number = parse_run_id(run_id)
        old = await find_run(resources.engine, caller.tenant_id, number)
        if data.task is not None:
            await checked_args(data.task, bytes(old.args), resources)
        async with resources.pool.connection() as connection:
            forked = await fork_run(connection, caller.tenant_id, number, data.steps, data.task)
        run = await find_run(resources.engine, caller.tenant_id, forked)
        return Response(run, status_code=201, headers={"Location": f"/v1/runs/{forked}"})

    @get("/tree")
    async def read_tree(
        self,
        run_id: RunId,
        caller: NamedDependency[Caller],
        resources: NamedDependency[Resources],
        limit: Annotated[
            int, QueryParameter(ge=1, le=MAX_TREE, description=f"Runs of the answer, 1 to {MAX_TREE:,}.")
        ] = MAX_TREE,
    ) -> RunTree:
        """Show a run, its children, theirs, and so on, those nearest to it first."""
        number = parse_run_id(run_id)
        async with resources.pool.connection() as connection:
            found = await read_tree(connection, caller.tenant_id, number, limit + 1)
        if not found:
            raise UnknownRun(f"run {number} is unknown")
        items = [
            TreeRun(
                str(run.run_id),
                None if run.parent_id is None else str(run.parent_id),
                run.step,
                run.depth,
                run.task,
                run.state,  # type: ignore[arg-type]
                run.error,
            )
            for run in found[:limit]
        ]
        return RunTree(items, len(found) > limit)


async def _choices(resources: Resources, caller: Caller, run_id: int, name: str) -> str:
    """Why a payload was none of the choices; the run may have gone on since."""
    run = await find_run(resources.engine, caller.tenant_id, run_id)
    choices = next((what.choices or [] for what in run.awaits if (what.kind, what.name) == ("signal", name)), [])
    one = ", ".join(choices) or "others"
    return f'/payload: run {run_id} waits for the signal {name!r} with one of: {one}; send it, or {{"choice": it}}'
