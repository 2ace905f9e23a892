"""What the tables say of the promises: nothing ran twice, nothing was lost, the stream has no gap and no repeat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from howdah.app.client import StreamedEvent
from howdah.jobs.examples.review.types import Report
from howdah.sql.pool import Connection

RESCUE_WITHIN_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Promise:
    """A promise and whether the tables show it kept."""

    kept: bool
    text: str


@dataclass(frozen=True, slots=True)
class Kill:
    """What was on disk when the worker was dead: (run, step) → (attempt, finished_at)."""

    at: datetime
    on_disk: dict[tuple[int, str], tuple[int, datetime]]

    @property
    def checkpoints(self) -> int:
        return len(self.on_disk)


@dataclass(frozen=True, slots=True)
class Joined:
    """A statement and what it answered."""

    sql: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


async def witness(connection: Connection, runs: Sequence[int]) -> Kill:
    """Write down every checkpoint of these runs. Call it when the worker is dead and nobody else works."""
    now = await (await connection.execute("select clock_timestamp()")).fetchone()
    cursor = await connection.execute(
        "select run_id, step, attempt, finished_at from checkpoint where run_id = any (%s)", [list(runs)]
    )
    assert now is not None
    return Kill(now[0], {(run, step): (attempt, at) for run, step, attempt, at in await cursor.fetchall()})


async def check(
    connection: Connection,
    tenant: str,
    session: str,
    runs: Sequence[int],
    seen: Sequence[StreamedEvent],
    kill: Kill | None,
) -> list[Promise]:
    """What holds of these runs and of the stream that a client saw."""
    promises = [await _all_ended(connection, runs)]
    if kill is not None:
        promises += [await _nothing_ran_again(connection, runs, kill), await _rescued(connection, runs, kill)]
    promises.append(await _stream_whole(connection, tenant, session, seen))
    return promises


async def _all_ended(connection: Connection, runs: Sequence[int]) -> Promise:
    row = await _one(
        connection,
        "select (select count(*) from run where id = any (%(runs)s)),"
        " (select count(*) from run_history where id = any (%(runs)s)),"
        " (select count(distinct id) from run_history where id = any (%(runs)s))",
        {"runs": list(runs)},
    )
    live, ended, distinct = row
    return Promise(
        live == 0 and ended == distinct == len(runs),
        f"{ended} of {len(runs)} runs ended, each once; {live} are still live",
    )


async def _nothing_ran_again(connection: Connection, runs: Sequence[int], kill: Kill) -> Promise:
    cursor = await connection.execute(
        "select run_id, step, attempt, finished_at from checkpoint where run_id = any (%s)", [list(runs)]
    )
    now = {(run, step): (attempt, at) for run, step, attempt, at in await cursor.fetchall()}
    kept = sum(now.get(place) == written for place, written in kill.on_disk.items())
    # A second witness: models are called within steps, and each call is recorded when it is made.
    row = await _one(
        connection,
        "select (select coalesce(sum(repeats), 0) from checkpoint where run_id = any (%(runs)s)),"
        " (select count(*) from model_call as m join checkpoint as c on c.run_id = m.run_id and c.step = m.step"
        "  where m.run_id = any (%(runs)s) and m.created_at > c.finished_at)",
        {"runs": list(runs)},
    )
    repeats, late_calls = row
    return Promise(
        kept == kill.checkpoints and repeats == 0 and late_calls == 0,
        f"worker killed at {kill.at:%H:%M:%S}: {kept} of the {kill.checkpoints} steps checkpointed before still carry"
        f" their first attempt; {repeats} ran again, {late_calls} model calls were made for a finished step",
    )


async def _rescued(connection: Connection, runs: Sequence[int], kill: Kill) -> Promise:
    row = await _one(
        connection,
        "select count(*), extract(epoch from min(claimed_at) - %(at)s) from run_history"
        " where id = any (%(runs)s) and attempt > 1",
        {"runs": list(runs), "at": kill.at},
    )
    resumed, seconds = row
    if not resumed:
        return Promise(False, "no run was rescued: the worker died with none in its hands")
    return Promise(
        0 <= seconds <= RESCUE_WITHIN_SECONDS,
        f"{resumed} runs of the dead worker went on elsewhere, the first after {seconds:.1f} s"
        f" (promised: {RESCUE_WITHIN_SECONDS:.0f} s)",
    )


async def _stream_whole(connection: Connection, tenant: str, session: str, seen: Sequence[StreamedEvent]) -> Promise:
    row = await _one(
        connection,
        "select s.last_seq, count(e.seq), count(distinct (e.run_id, e.type, e.data))"
        " from session as s left join event as e on e.tenant_id = s.tenant_id and e.session_id = s.id"
        " where s.tenant_id = %(tenant)s and s.id = %(session)s group by s.last_seq",
        {"tenant": tenant, "session": session},
    )
    last, written, distinct = row
    numbers = [event.seq for event in seen]
    in_order = numbers == list(range(1, last + 1))
    return Promise(
        in_order and written == distinct == last,
        f"the stream brought events 1 to {last} {'in order, without' if in_order else 'NOT without'} gap or repeat;"
        f" the table has {written}, {distinct} of them distinct",
    )


def stream_moved(seen: Sequence[StreamedEvent], killed: str, moved: int) -> Promise:
    """The bars went on from another process after `killed` was gone."""
    after = sum(event.base_url != killed for event in seen)
    return Promise(
        moved >= 1 and after > 0, f"API process {killed} killed: {after} events came from the other, by Last-Event-ID"
    )


def delivered(report: Report, answers: Sequence[int], keys: set[str], run: str) -> Promise:
    """The receiver took the report once, after all that it did to avoid that."""
    return Promise(
        list(answers) == [429, 500, 201] and len(keys) == 1 and report.delivered_status == 201,
        f"run {run} delivered the report: the receiver said {', '.join(map(str, answers))}"
        f" to {len(keys)} idempotency key",
    )


async def seconds_of_runs(connection: Connection, runs: Sequence[int]) -> dict[str, float]:
    """Seconds of work by document name: the sum of its steps."""
    cursor = await connection.execute(
        "select h.args ->> 'name', sum(extract(epoch from c.finished_at - c.started_at))::float"
        " from run_history as h join checkpoint as c on c.run_id = h.id where h.id = any (%s) group by h.id, h.args",
        [list(runs)],
    )
    return dict(await cursor.fetchall())


_JOINED = """\
select r.task, s.attempt, s.step, round(extract(epoch from s.took), 2) as seconds, e.seq as event, c.ordinal as chunk,
       left(c.content, 32) as text
from howdah.document as d
join ops.runs as r on r.id = d.run_id
join ops.steps as s on s.run_id = r.id
join howdah.event as e on e.tenant_id = r.tenant_id and e.run_id = r.id and e.data ->> 'note' = s.step
join howdah.chunk as c on c.tenant_id = d.tenant_id and c.document_id = d.id and c.ordinal = 0
where d.id = %s
order by e.seq"""


async def joined_sql(connection: Connection, document: int) -> Joined:
    """Run, step, event and chunk of one document in one statement: what no set of separate services can show."""
    cursor = await connection.execute(_JOINED, [document])
    columns = tuple(column.name for column in cursor.description or ())
    return Joined(_JOINED.replace("%s", str(document)), columns, await cursor.fetchall())


async def _one(connection: Connection, sql: str, parameters: dict[str, Any]) -> tuple[Any, ...]:
    row = await (await connection.execute(sql, parameters)).fetchone()
    assert row is not None
    return row
