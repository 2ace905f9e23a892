"""Runs as the API shows them, and the read queries behind: live runs and history as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from sqlalchemy import ColumnElement, DateTime, Row, Select, Text, cast, func, null, select, tuple_, union_all
from sqlalchemy.ext.asyncio import AsyncEngine

from howdah.app.api.pagination import bad_cursor, decode_cursor, encode_cursor
from howdah.jobs.workflow.history import ASIDE
from howdah.sql.errors import UnknownRun
from howdah.sql.queue.calls import OnFailure
from howdah.sql.tables import checkpoint, run, run_history

LiveState = Literal["queued", "scheduled", "blocked", "waiting", "running"]
FinalState = Literal["succeeded", "failed", "cancelled"]
RunState = LiveState | FinalState
FINAL_STATES = ("succeeded", "failed", "cancelled")

_NEVER = cast(null(), DateTime(timezone=True))
# Where a filter's name is not its column's.
_COLUMNS = {"session": "session_id", "parent": "parent_id"}


class Awaited(msgspec.Struct, frozen=True):
    """One thing that a waiting run waits for; the first that comes wakes it.

    `name`: of the signal; of the step whose children or whose time (a sleep, a step to be tried again) it is; of the
    session whose events it reads. `choices`: what a signal's payload, or its field `choice`, may be; null: anything.
    `until`: when the run goes on at the latest; null: it waits for ever.
    """

    kind: Literal["signal", "children", "events", "time"]
    name: str
    choices: list[str] | None
    until: datetime | None


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One execution of a task. `attempt` counts claims, `failures` those that failed. Times are UTC.

    `order` and `order_no` are of a run that is one of its session's ordered ones: what its failure does to those behind
    it, and its place among them. `deadline` is a live run's. `parent` is the run whose step `parent_step` waits for
    this one. `awaits` is empty unless the run is `waiting`.
    """

    id: str
    tenant: str
    queue: str
    task: str
    state: RunState
    priority: int
    session: str | None
    order: OnFailure | None
    order_no: int | None
    attempt: int
    failures: int
    created_at: datetime
    run_at: datetime | None
    deadline: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    parent: str | None
    parent_step: str | None
    awaits: list[Awaited]


class Run(RunSummary, frozen=True, kw_only=True):
    """A run with its arguments and, once it is over, its output or error; all three are JSON."""

    args: Any
    output: Any = None
    error: Any = None


class RunPage(msgspec.Struct, frozen=True):
    """Newest first; `next` is the cursor of the page after, null at the end."""

    items: list[RunSummary]
    next: str | None


class Step(msgspec.Struct, frozen=True):
    """A finished step. `took`: seconds from the start of its last try to its end. `bytes`: the size of `output`.
    `repeats`: how often a later attempt finished it again, 0 unless something is wrong. `output`: unless left out."""

    step: str
    attempt: int
    started_at: datetime
    finished_at: datetime
    took: float
    bytes: int
    repeats: int
    output: Any = msgspec.UNSET


class StepPage(msgspec.Struct, frozen=True):
    """In the order in which they finished; `next` is the cursor of the page after, null at the end."""

    items: list[Step]
    next: str | None


def parse_run_id(text: str) -> int:
    """A run's id from its text.

    Raises
    ------
    UnknownRun
        If no run can have it.
    """
    if text.isascii() and text.isdecimal() and len(text) <= 19 and int(text) < 1 << 63:
        return int(text)
    raise UnknownRun(f"run {text[:40]!r} is unknown: a run's id is a whole number")


def created_at(run_id: int) -> datetime:
    """The millisecond with which a run's id begins."""
    return datetime.fromtimestamp((run_id >> 20) / 1000, UTC)


async def find_runs(engine: AsyncEngine, tenant_id: str | None, runs: Sequence[int]) -> dict[int, Run]:
    """Those of `runs` that exist, wherever they are; `tenant_id` None: any tenant's."""
    if not runs:
        return {}
    live = _live(full=True).where(run.c.id.in_(runs))
    history = _history(full=True).where(
        run_history.c.id.in_(runs),
        # Leaves out partitions that are older than the oldest of these runs.
        run_history.c.finished_at >= created_at(min(runs)),
    )
    if tenant_id is not None:
        live, history = live.where(run.c.tenant_id == tenant_id), history.where(run_history.c.tenant_id == tenant_id)
    async with engine.connect() as connection:
        rows = (await connection.execute(union_all(live, history))).all()
    return {row.id: _full(row) for row in rows}


async def find_run(engine: AsyncEngine, tenant_id: str | None, run_id: int) -> Run:
    """One run.

    Raises
    ------
    UnknownRun
        If the tenant has none with this id.
    """
    found = await find_runs(engine, tenant_id, [run_id])
    if run_id not in found:
        raise UnknownRun(f"run {run_id} is unknown")
    return found[run_id]


async def list_runs(
    engine: AsyncEngine, tenant_id: str | None, filters: dict[str, str | None], cursor: str | None, limit: int
) -> RunPage:
    """A page of runs, newest first. `filters`: wanted values of state, queue, task, session and parent; None: any.

    The parent "none" is that of runs that no other has spawned.
    """
    wanted = {name: value for name, value in filters.items() if value is not None}
    scope = f"runs of {tenant_id} {sorted(wanted.items())}"
    position = decode_cursor(scope, cursor)
    if position is not None and not position.isdecimal():
        raise bad_cursor(cursor or "")
    parts = []
    # Each side ends after a page by itself, through its index on (tenant, id). That has only live runs that do not run
    # just now: the others are few, and have one of their own.
    sides = (
        (run, _live(full=False).where(run.c.state != "running")),
        (run, _live(full=False).where(run.c.state == "running")),
        (run_history, _history(full=False)),
    )
    for table, base in sides:
        if "state" in wanted and (wanted["state"] in FINAL_STATES) != (table is run_history):
            continue
        columns = table.c
        conditions: list[ColumnElement[bool]] = [
            columns[_COLUMNS.get(name, name)] == value for name, value in wanted.items() if name != "parent"
        ]
        if "parent" in wanted:
            parent = None if wanted["parent"] == "none" else parse_run_id(wanted["parent"])
            conditions.append(columns.parent_id.is_(None) if parent is None else columns.parent_id == parent)
            if table is run_history and parent is not None:
                # No child is older than its parent: leaves out partitions of days before it.
                conditions.append(columns.finished_at >= created_at(parent))
        if tenant_id is not None:
            conditions.append(columns.tenant_id == tenant_id)
        if position is not None:
            conditions.append(columns.id < int(position))
        side = base.where(*conditions).order_by(columns.id.desc()).limit(limit + 1).subquery()
        parts.append(select(side))
    both = union_all(*parts).subquery()
    async with engine.connect() as connection:
        rows = (await connection.execute(select(both).order_by(both.c.id.desc()).limit(limit + 1))).all()
    return RunPage(
        [RunSummary(**_summary(row)) for row in rows[:limit]],
        encode_cursor(scope, str(rows[limit - 1].id)) if len(rows) > limit else None,
    )


async def list_steps(
    engine: AsyncEngine,
    tenant_id: str | None,
    run_id: int,
    cursor: str | None,
    limit: int,
    *,
    step: str | None = None,
    outputs: bool = True,
) -> StepPage:
    """A page of a run's finished steps, without what they keep aside for themselves.

    `step`: only the one of this name. `outputs`: whether with what they returned.
    """
    scope = f"steps of {run_id}"
    position = decode_cursor(scope, cursor)
    c = checkpoint.c
    output = cast(c.output, Text)
    query = select(c.step, c.attempt, c.started_at, c.finished_at, c.repeats, func.octet_length(output).label("bytes"))
    if outputs:
        query = query.add_columns(output.label("output"))
    if step is not None:
        query = query.where(c.step == step)
    query = query.where(c.run_id == run_id, c.step.op("!~")(ASIDE)).order_by(c.finished_at, c.step).limit(limit + 1)
    if tenant_id is not None:
        query = query.where(c.tenant_id == tenant_id)
    if position is not None:
        time, _, name = position.partition(" ")
        try:
            after = datetime.fromisoformat(time)
        except ValueError:
            raise bad_cursor(cursor or "") from None
        query = query.where(tuple_(c.finished_at, c.step) > tuple_(after, name))
    async with engine.connect() as connection:
        rows = (await connection.execute(query)).all()
    steps = [
        Step(
            row.step,
            row.attempt,
            row.started_at,
            row.finished_at,
            # The start is by a worker's clock, the end by the server's.
            max(0.0, (row.finished_at - row.started_at).total_seconds()),
            row.bytes or 0,
            row.repeats,
            _raw(row.output) if outputs else msgspec.UNSET,
        )
        for row in rows[:limit]
    ]
    last = steps[-1] if steps else None
    more = encode_cursor(scope, f"{last.finished_at.isoformat()} {last.step}") if last and len(rows) > limit else None
    return StepPage(steps, more)


def _live(*, full: bool) -> Select[Any]:
    c = run.c
    columns: list[Any] = [c.id, c.tenant_id, c.queue, c.task, c.state, c.priority, c.session_id, c.attempt, c.failures]
    columns += [c.on_failure, c.order_no, c.run_at, c.deadline, c.claimed_at, _NEVER.label("finished_at")]
    columns += [c.parent_id, c.parent_step, cast(c.awaits, Text).label("awaits")]
    if full:
        columns += [cast(c.args, Text).label("args"), cast(null(), Text).label("output"), cast(c.error, Text)]
    return select(*columns)


def _history(*, full: bool) -> Select[Any]:
    c = run_history.c
    columns: list[Any] = [c.id, c.tenant_id, c.queue, c.task, c.state, c.priority, c.session_id, c.attempt, c.failures]
    columns += [c.on_failure, c.order_no, _NEVER.label("run_at"), _NEVER.label("deadline"), c.claimed_at, c.finished_at]
    columns += [c.parent_id, c.parent_step, cast(null(), Text).label("awaits")]
    if full:
        columns += [cast(c.args, Text).label("args"), cast(c.output, Text), cast(c.error, Text)]
    return select(*columns)


def _summary(row: Row[Any]) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "tenant": row.tenant_id,
        "queue": row.queue,
        "task": row.task,
        "state": row.state,
        "priority": row.priority,
        "session": row.session_id,
        "order": row.on_failure,
        "order_no": row.order_no,
        "attempt": row.attempt,
        "failures": row.failures,
        "created_at": created_at(row.id),
        "run_at": row.run_at,
        "deadline": row.deadline,
        "started_at": row.claimed_at,
        "finished_at": row.finished_at,
        "parent": None if row.parent_id is None else str(row.parent_id),
        "parent_step": row.parent_step,
        "awaits": [] if row.awaits is None else list(_awaited(row)),
    }


def _awaited(row: Row[Any]) -> Iterator[Awaited]:
    for what in msgspec.json.decode(row.awaits):
        # As ops.waits tells it.
        if "signal" in what:
            yield Awaited("signal", what["signal"], what.get("choices"), row.run_at)
        elif "children" in what:
            yield Awaited("children", what["children"], None, row.run_at)
        elif "events" in what:
            yield Awaited("events", row.session_id, None, row.run_at)
        else:
            yield Awaited("time", what["sleep"], None, row.run_at)


def _full(row: Row[Any]) -> Run:
    return Run(**_summary(row), args=_raw(row.args), output=_raw(row.output), error=_raw(row.error))


def _raw(text: str | None) -> msgspec.Raw | None:
    """JSON text on its way out, as the database wrote it."""
    return None if text is None else msgspec.Raw(text.encode())
