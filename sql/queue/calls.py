"""Typed callers of the queue's functions; what each does is told in the SQL file of the same name."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec
from psycopg.types.json import Jsonb

from howdah.sql.array_literal import integers, intervals, texts, timestamps
from howdah.sql.pool import Connection

EnqueueStatus = Literal["created", "existing", "conflict", "not_unique", "unknown_tenant", "queue_full"]
OnFailure = Literal["skip", "block"]

# What a sweep takes away though nothing is wrong with it; all else that it repairs should not have been.
TIDIED = frozenset({"lane without runs", "silent worker"})


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to enqueue.

    Attributes
    ----------
    args
        A JSON object as text.
    queue
        None: the one that the task is registered for.
    order
        The run is one of its session's ordered ones, and what its failure does to those behind it; None: not ordered.
    retry
        A JSON object as text that overrides the task's retry strategy.
    key_window
        How long the idempotency key is remembered; None: a day.
    traceparent
        W3C trace context that its events bear, and its children's.
    """

    tenant_id: str
    task: str
    args: str = "{}"
    queue: str | None = None
    priority: int = 0
    run_at: datetime | None = None
    session_id: str | None = None
    idempotency_key: str | None = None
    unique_key: str | None = None
    order: OnFailure | None = None
    deadline: datetime | None = None
    retry: str | None = None
    key_window: timedelta | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Enqueued:
    """`run_id` is None where the run was refused; `task` is as the run bears it, with its version."""

    run_id: int | None
    status: EnqueueStatus
    task: str


class ClaimedRun(msgspec.Struct, frozen=True):
    """A run that this worker has now. `attempt` is its fencing token; `args` and `retry` are JSON text."""

    id: int
    tenant_id: str
    queue: str
    task: str
    args: str
    attempt: int
    failures: int
    session_id: str | None
    retry: str | None = None
    deadline: datetime | None = None


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a worker learns as it says that it lives.

    Attributes
    ----------
    alive
        Whether its peers believe it.
    cancelled
        Ids of its runs to cancel.
    suspects
        Whether suspect runs wait in its queues, and it is this worker that shall run them.
    draining
        Whether it shall claim nothing more, finish, and stop.
    limited
        Whether one of its queues limits what runs: each end may let another run start.
    """

    alive: bool
    cancelled: list[int]
    suspects: bool
    draining: bool
    limited: bool


@dataclass(frozen=True, slots=True)
class Registration:
    """What a worker said as it came, whether it is asked to leave, and how long it has been silent."""

    queues: list[str]
    tasks: list[str]
    draining: bool
    silent_for: timedelta


@dataclass(frozen=True, slots=True)
class TaskEntry:
    """What a worker can run; `args_schema` is a JSON schema as text."""

    name: str
    kind: Literal["task", "workflow"]
    queue: str
    args_schema: str
    description: str


async def enqueue_runs(connection: Connection, runs: Sequence[NewRun], *, notify: bool = True) -> list[Enqueued]:
    """Enqueue a batch in one statement; inside the caller's transaction if there is one."""
    cursor = await connection.execute(
        "select run_id, status, task from enqueue_runs(%s::text[], %s::text[], %s::text[], %s::text[], %s::integer[],"
        " %s::timestamptz[], %s::text[], %s::text[], %s::text[], %s::text[], %s::timestamptz[], %s::text[],"
        " %s::interval[], %s, p_traceparents => %s::text[])",
        [
            texts([run.tenant_id for run in runs]),
            texts([run.task for run in runs]),
            texts([run.args for run in runs]),
            texts([run.queue for run in runs]),
            integers([run.priority for run in runs]),
            timestamps([run.run_at for run in runs]),
            texts([run.session_id for run in runs]),
            texts([run.idempotency_key for run in runs]),
            texts([run.unique_key for run in runs]),
            texts([run.order for run in runs]),
            timestamps([run.deadline for run in runs]),
            texts([run.retry for run in runs]),
            intervals([run.key_window for run in runs]),
            notify,
            texts([run.traceparent for run in runs]),
        ],
    )
    return [Enqueued(*row) for row in await cursor.fetchall()]


async def claim_runs(
    connection: Connection, worker_id: int, queues: Sequence[str], limit: int, tasks: Sequence[str] | None = None
) -> list[ClaimedRun]:
    """Claim up to `limit` runs of `queues`, of these `tasks` only."""
    cursor = await connection.execute(
        "select * from claim_runs(%s, %s::text[], %s, %s::text[])",
        [worker_id, list(queues), limit, None if tasks is None else list(tasks)],
    )
    return [ClaimedRun(*row) for row in await cursor.fetchall()]


async def read_claimed(connection: Connection, worker_id: int) -> list[tuple[int, int]]:
    """(id, attempt) of every run that this worker has, as the database sees it."""
    cursor = await connection.execute(
        "select id, attempt from run where worker_id = %s and state = 'running'", [worker_id]
    )
    return [(row[0], row[1]) for row in await cursor.fetchall()]


async def read_backends(connection: Connection, backends: Collection[int]) -> set[int]:
    """Those of these server processes that are alive."""
    cursor = await connection.execute("select pid from pg_stat_activity where pid = any (%s)", [list(backends)])
    return {row[0] for row in await cursor.fetchall()}


async def wake_due_runs(connection: Connection) -> tuple[int, datetime | None]:
    """Queue scheduled runs that are due: (how many, when the next one is)."""
    row = await (await connection.execute("select woken, next_at from wake_due_runs()")).fetchone()
    assert row is not None
    return row[0], row[1]


async def tend_queues(connection: Connection) -> int:
    """End runs past their deadline, count what waits, look again at what was held; how many runs that was about."""
    query = "select e.expired + t.tied from expire_runs() as e, count_depths(), tie_loose_ends() as t"
    row = await (await connection.execute(query)).fetchone()
    return row[0] if row is not None else 0


async def bring_up_due(connection: Connection) -> int:
    """`wake_due_runs` and `tend_queues`; how many runs had become due."""
    woken, _ = await wake_due_runs(connection)
    return woken + await tend_queues(connection)


async def register_worker(connection: Connection, name: str, queues: Sequence[str], tasks: Sequence[str] = ()) -> int:
    """The new worker's id. `tasks` empty: it does not say what it can run."""
    row = await (
        await connection.execute(
            "select worker_id from register_worker(%s, %s::text[], %s::text[])", [name, list(queues), list(tasks)]
        )
    ).fetchone()
    assert row is not None
    worker_id: int = row[0]
    return worker_id


async def read_registration(connection: Connection, worker_id: int) -> Registration | None:
    """A worker's registration; None where it has left or was given up."""
    cursor = await connection.execute(
        "select queues, tasks, draining, engine_now() - heartbeat_at from worker where id = %s", [worker_id]
    )
    row = await cursor.fetchone()
    return None if row is None else Registration(*row)


async def unregister_worker(connection: Connection, worker_id: int) -> int:
    """How many unfinished runs went back to the queue."""
    row = await (await connection.execute("select released from unregister_worker(%s)", [worker_id])).fetchone()
    assert row is not None
    released: int = row[0]
    return released


async def claim_suspects(
    connection: Connection, worker_id: int, queues: Sequence[str], tasks: Sequence[str], limit: int = 50
) -> list[ClaimedRun]:
    """Claim up to `limit` suspect runs that may run together, or none, for a worker that runs nothing else."""
    cursor = await connection.execute(
        "select * from claim_suspects(%s, %s::text[], %s::text[], %s)", [worker_id, list(queues), list(tasks), limit]
    )
    return [ClaimedRun(*row) for row in await cursor.fetchall()]


async def heartbeat(connection: Connection, worker_id: int) -> Heartbeat:
    """Say that this worker lives, and learn what others ask of it."""
    row = await (
        await connection.execute("select alive, cancelled, suspects, draining, limited from heartbeat(%s)", [worker_id])
    ).fetchone()
    assert row is not None
    return Heartbeat(*row)


async def rescue_runs(connection: Connection, stale: timedelta) -> tuple[int, int]:
    """(workers found dead, runs given back to the queue)."""
    row = await (await connection.execute("select workers, runs from rescue_runs(%s)", [stale])).fetchone()
    assert row is not None
    return row[0], row[1]


async def register_tasks(connection: Connection, tasks: Sequence[TaskEntry]) -> None:
    """Write what this worker can run."""
    await connection.execute(
        "select register_tasks(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[])",
        [
            [task.name for task in tasks],
            [task.kind for task in tasks],
            [task.queue for task in tasks],
            [task.args_schema for task in tasks],
            [task.description for task in tasks],
        ],
    )


async def cancel_runs(
    connection: Connection, tenant_id: str | None, runs: Sequence[int], reason: str = "cancelled"
) -> dict[int, str]:
    """Status of each run: cancelled, requested, finished or unknown."""
    cursor = await connection.execute(
        "select run_id, status from cancel_runs(%s, %s::bigint[], %s)", [tenant_id, list(runs), reason]
    )
    return dict(await cursor.fetchall())


async def requeue_runs(connection: Connection, tenant_id: str | None, runs: Sequence[int]) -> dict[int, str]:
    """Status of each run: requeued, live, succeeded or unknown."""
    cursor = await connection.execute(
        "select run_id, status from requeue_runs(%s, %s::bigint[])", [tenant_id, list(runs)]
    )
    return dict(await cursor.fetchall())


async def discard_runs(connection: Connection, tenant_id: str | None, runs: Sequence[int]) -> dict[int, str]:
    """Status of each run: discarded, live, finished or unknown."""
    cursor = await connection.execute(
        "select run_id, status from discard_runs(%s, %s::bigint[])", [tenant_id, list(runs)]
    )
    return dict(await cursor.fetchall())


async def change_runs(
    connection: Connection,
    tenant_id: str | None,
    runs: Sequence[int],
    *,
    priority: int | None = None,
    queue: str | None = None,
    run_at: datetime | None = None,
) -> dict[int, str]:
    """Status of each run: changed, started, finished or unknown. What is None stays as it is."""
    cursor = await connection.execute(
        "select run_id, status from change_runs(%s, %s::bigint[], %s, %s, %s)",
        [tenant_id, list(runs), priority, queue, run_at],
    )
    return dict(await cursor.fetchall())


async def requeue_failed(connection: Connection, wanted: dict[str, Any], limit: int) -> tuple[int, bool]:
    """(how many failed runs that fit the filter came back, whether there are more)."""
    row = await (
        await connection.execute("select requeued, more from requeue_failed(%s, %s)", [Jsonb(wanted), limit])
    ).fetchone()
    assert row is not None
    return row[0], row[1]


async def discard_failed(connection: Connection, wanted: dict[str, Any], limit: int) -> tuple[int, bool]:
    """(how many failed runs that fit the filter were given up, whether there are more)."""
    row = await (
        await connection.execute("select discarded, more from discard_failed(%s, %s)", [Jsonb(wanted), limit])
    ).fetchone()
    assert row is not None
    return row[0], row[1]


async def cancel_queued(connection: Connection, wanted: dict[str, Any], limit: int) -> tuple[int, int, bool]:
    """(how many waiting runs that fit were cancelled, how many had started and are asked to stop, whether more fit)."""
    row = await (
        await connection.execute("select cancelled, requested, more from cancel_queued(%s, %s)", [Jsonb(wanted), limit])
    ).fetchone()
    assert row is not None
    return row[0], row[1], row[2]


async def explain_run(connection: Connection, tenant_id: str | None, run_id: int) -> str:
    """Why a run does not run now, in one sentence."""
    row = await (await connection.execute("select explain_run(%s, %s)", [tenant_id, run_id])).fetchone()
    assert row is not None
    text: str = row[0]
    return text


async def set_queue_limits(connection: Connection, queue: str, limits: dict[str, int | float | None]) -> None:
    """Change the limits that are named; None removes one."""
    await connection.execute("select set_queue_limits(%s, %s)", [queue, Jsonb(limits)])


async def pause_queue(connection: Connection, queue: str, paused: bool) -> None:
    """Pause a queue, or let it go on."""
    await connection.execute("select pause_queue(%s, %s)", [queue, paused])


async def pause_tenant(connection: Connection, tenant_id: str, paused: bool) -> None:
    """Pause a tenant in all queues, or let it go on."""
    await connection.execute("select pause_tenant(%s, %s)", [tenant_id, paused])


async def pause_task(connection: Connection, task: str, paused: bool) -> None:
    """Pause a task of all tenants, or let it go on."""
    await connection.execute("select pause_task(%s, %s)", [task, paused])


async def set_tenant_weight(connection: Connection, tenant_id: str, weight: float) -> None:
    """Change a tenant's share of each queue beside the others' shares."""
    await connection.execute("select set_tenant_weight(%s, %s)", [tenant_id, weight])


async def prepare_partitions(connection: Connection) -> list[str]:
    """Names of the partitions made."""
    cursor = await connection.execute("select created from prepare_partitions()")
    return [row[0] for row in await cursor.fetchall()]


async def drop_partition(connection: Connection, keep: timedelta | None) -> tuple[str, bool] | None:
    """The next partition whose time is over, and whether it could be dropped now; None when there is none.

    `keep` is for how long history is kept, None: for ever.
    """
    cursor = await connection.execute("select partition, dropped from drop_partitions(%s)", [keep])
    row = await cursor.fetchone()
    return None if row is None else (row[0], row[1])


async def trim_default_partitions(connection: Connection, keep: timedelta) -> int:
    """How many rows older than `keep` were deleted, of days that had no partition; 0 when there are no more."""
    row = await (await connection.execute("select trimmed from trim_default_partitions(%s)", [keep])).fetchone()
    assert row is not None
    trimmed: int = row[0]
    return trimmed


async def expire_idempotency_keys(connection: Connection) -> int:
    """How many were deleted; 0 when there are no more."""
    row = await (await connection.execute("select expired from expire_idempotency_keys()")).fetchone()
    assert row is not None
    expired: int = row[0]
    return expired


async def sweep_queues(connection: Connection) -> dict[str, int]:
    """How much was repaired, by kind; empty where all is well."""
    return dict(await (await connection.execute("select kind, repaired from sweep_queues()")).fetchall())
