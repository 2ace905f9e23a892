"""What is new of one run since the last look, read as any operator may: from the operator schema."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from psycopg.rows import class_row
from psycopg.sql import SQL, Composed, Identifier

from howdah.jobs.workflow.history import ASIDE
from howdah.sql.errors import UnknownRun
from howdah.sql.pool import Connection, Pool
from howdah.sql.schema import operator_schema

FINAL = ("succeeded", "failed", "cancelled")
# Steps that the first look shows: of a run with more, the latest.
MAX_STEPS = 100
LOOK_SECONDS = 2.0  # for a connection; then the caller may say that it waits
EVENTS = 1000  # events read at a time
TREE = 200  # runs of the tree that are read
# Steps are known by when their transaction began. One that began earlier may end later, by less than this.
OVERLAP = timedelta(seconds=10)

_FAILED = "#failed-[0-9]+$"
_RUN = """
    select r.id, r.tenant_id, r.queue, r.task, r.state, r.session_id, r.attempt, r.failures, r.cancel_requested,
           r.created_at, r.run_at, r.claimed_at, r.finished_at, r.args, r.output, r.error, w.name as worker
    from {}.runs as r left join {}.workers as w on w.id = r.worker_id
    where r.id = %s"""
_STEPS = """
    select step, attempt, finished_at, greatest(took, interval '0') as took, octet_length(output::text) as bytes,
           case when step ~ %s then output end as failure
    from {}.steps
    where run_id = %s and finished_at > coalesce(%s::timestamptz, '-infinity') and (step !~ %s or step ~ %s)
    order by finished_at desc, step desc
    limit %s::bigint"""
_COUNT = "select count(*) from {}.steps where run_id = %s and (step !~ %s or step ~ %s)"
_EVENTS = "select seq, type, data, run_id, created_at from {}.events(%s, %s, %s, %s)"
_SIGNALS = "select name, no, payload, sent_at from {}.signals where run_id = %s order by sent_at, name, no"
_WAITS = "select kind, name, choices, until from {}.waits where run_id = %s"
_TREE = "select run_id, parent_id, step, depth, task, state, error from {}.run_tree(%s, %s)"


@dataclass(frozen=True, slots=True)
class RunRow:
    """The run as it is."""

    id: int
    tenant_id: str
    queue: str
    task: str
    state: str
    session_id: str | None
    attempt: int
    failures: int
    cancel_requested: bool
    created_at: datetime
    run_at: datetime | None
    claimed_at: datetime | None
    finished_at: datetime | None
    args: Any
    output: Any
    error: Any
    worker: str | None


@dataclass(frozen=True, slots=True)
class StepRow:
    """A finished step, or (`failure`) what it keeps of a failed try."""

    step: str
    attempt: int
    finished_at: datetime
    took: timedelta
    bytes: int
    failure: Any


@dataclass(frozen=True, slots=True)
class EventRow:
    """An event in the run's session."""

    seq: int
    type: str
    data: Any
    run_id: int | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class SignalRow:
    """What was sent to the run."""

    name: str
    no: int
    payload: Any
    sent_at: datetime


@dataclass(frozen=True, slots=True)
class WaitRow:
    """One thing that it waits for."""

    kind: str
    name: str
    choices: list[str] | None
    until: datetime | None


@dataclass(frozen=True, slots=True)
class TreeRow:
    """The run itself, a child of it, or a child's child."""

    run_id: int
    parent_id: int | None
    step: str | None
    depth: int
    task: str
    state: str
    error: str | None


@dataclass(frozen=True, slots=True)
class News:
    """The run as it is, and what was not seen before. `why` it does not run, where that is not told by `waits`."""

    run: RunRow
    steps: list[StepRow]
    earlier: int
    events: list[EventRow]
    signals: list[SignalRow]
    waits: list[WaitRow]
    tree: list[TreeRow]
    why: str | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.run.state in FINAL


@dataclass(slots=True)
class RunReader:
    """Looks at one run again and again."""

    pool: Pool
    cell: str
    run_id: int
    _seen_steps: set[str] = field(default_factory=set)
    _latest_step: datetime | None = None
    _floor: datetime | None = None
    _last_event: int = 0
    _signals: int = 0

    async def look(self) -> News:
        """What is new.

        Raises
        ------
        UnknownRun
            If there is no such run.
        psycopg.OperationalError
            If the database does not answer within 2 s.
        """
        async with self.pool.connection(timeout=LOOK_SECONDS) as connection:
            # First of all: what a run has said is on disk before its end is.
            found = await self._rows(connection, RunRow, _RUN, self.run_id)
            if not found:
                raise UnknownRun(f"run {self.run_id} is unknown: it never was, or its history has been removed")
            run: RunRow = found[0]
            steps, earlier = await self._steps(connection)
            events = await self._events(connection, run)
            signals = await self._rows(connection, SignalRow, _SIGNALS, self.run_id)
            waits = await self._rows(connection, WaitRow, _WAITS, self.run_id) if run.state == "waiting" else []
            tree = await self._rows(connection, TreeRow, _TREE, self.run_id, TREE)
            why = await self._why(connection) if run.state in ("queued", "scheduled", "blocked") else None
        new_signals, self._signals = signals[self._signals :], len(signals)
        return News(run, steps, earlier, events, new_signals, waits, tree, why)

    async def _steps(self, connection: Connection) -> tuple[list[StepRow], int]:
        since = self._floor
        if self._latest_step is not None:
            since = max(self._latest_step - OVERLAP, self._floor or self._latest_step - OVERLAP)
        limit = MAX_STEPS if self._latest_step is None else None
        shown = (ASIDE, _FAILED)
        found = await self._rows(connection, StepRow, _STEPS, _FAILED, self.run_id, since, *shown, limit)
        earlier = 0
        if len(found) == limit:
            row = await (await connection.execute(self._sql(_COUNT), [self.run_id, *shown])).fetchone()
            earlier = row[0] - len(found) if row else 0
            self._floor = found[-1].finished_at
        new = [step for step in reversed(found) if step.step not in self._seen_steps]
        self._seen_steps.update(step.step for step in new)
        if found:
            self._latest_step = max(found[0].finished_at, self._latest_step or found[0].finished_at)
        return new, earlier

    async def _events(self, connection: Connection, run: RunRow) -> list[EventRow]:
        session = run.session_id or f"run:{run.id}"
        found: list[EventRow] = []
        while True:
            page = await self._rows(connection, EventRow, _EVENTS, run.tenant_id, session, self._last_event, EVENTS)
            # A session may have other runs' events, and clients'.
            found += [event for event in page if event.run_id == run.id]
            self._last_event = page[-1].seq if page else self._last_event
            if len(page) < EVENTS:
                return found

    async def _why(self, connection: Connection) -> str | None:
        row = await (await connection.execute(self._sql("select {}.explain_run(%s)"), [self.run_id])).fetchone()
        return row[0] if row else None

    async def _rows(self, connection: Connection, kind: type[Any], query: str, *values: Any) -> list[Any]:
        async with connection.cursor(row_factory=class_row(kind)) as cursor:
            await cursor.execute(self._sql(query), values)
            return await cursor.fetchall()

    def _sql(self, query: str) -> Composed:
        ops = Identifier(operator_schema(self.cell))
        return SQL(query).format(*[ops] * query.count("{}"))
