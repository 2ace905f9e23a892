"""Typed callers of the workflow's functions; what each does is told in the SQL file of the same name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import msgspec

from howdah.sql.array_literal import integers, texts, timestamps
from howdah.sql.pool import Connection
from howdah.sql.queue.calls import NewRun

ItemKind = Literal["checkpoint", "event", "outcome"]
ItemStatus = Literal["ok", "stale", "busy", "repeated", "ready", "cancelled", "full"]
SignalStatus = Literal["sent", "existing", "conflict", "finished", "unknown", "not_a_choice"]

# Checkpoints read at a time.
PAGE = 10_000


class RunItem(msgspec.Struct):
    """One thing that a worker has to say about a run; `body` is JSON text. See flush.sql for what each field means."""

    run_id: int
    attempt: int
    kind: ItemKind
    name: str
    body: str | None = None
    key: str | None = None
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A finished step; `output` is JSON text."""

    run_id: int
    step: str
    output: str | None
    attempt: int
    started_at: datetime
    finished_at: datetime
    after: str | None


@dataclass(frozen=True, slots=True)
class NewSignal:
    """A signal to send; `payload` is JSON text. With a `key`, a repeat changes nothing."""

    run_id: int
    name: str
    payload: str = "null"
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal that was sent: the `no`-th of its name; `payload` is JSON text."""

    run_id: int
    name: str
    no: int
    payload: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended; `output` and `error` are JSON text."""

    run_id: int
    state: Literal["succeeded", "failed", "cancelled"]
    output: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class TreeRun:
    """A run in a tree of them: `step` is the one of its parent that waits for it, `error` why it failed."""

    run_id: int
    parent_id: int | None
    step: str | None
    depth: int
    task: str
    state: str
    error: str | None


async def flush(connection: Connection, items: Sequence[RunItem], *, notify: bool = True) -> list[ItemStatus]:
    """Write the items in one transaction; a status an item, in order."""
    cursor = await connection.execute(
        "select status from flush(%s::bigint[], %s::integer[], %s::text[], %s::text[], %s::text[], %s::text[],"
        " %s::timestamptz[], %s)",
        [
            integers([item.run_id for item in items]),
            integers([item.attempt for item in items]),
            texts([item.kind for item in items]),
            texts([item.name for item in items]),
            texts([item.body for item in items]),
            texts([item.key for item in items]),
            timestamps([item.at for item in items]),
            notify,
        ],
    )
    return [row[0] for row in await cursor.fetchall()]


async def read_checkpoints(connection: Connection, runs: Sequence[int]) -> list[Checkpoint]:
    """The finished steps of these runs, by run and step; a page at a time from the server."""
    found: list[Checkpoint] = []
    after: tuple[int, str] = (0, "")
    while True:
        cursor = await connection.execute(
            "select * from read_checkpoints(%s::bigint[], %s, %s, %s)", [list(runs), *after, PAGE]
        )
        page = [Checkpoint(*row) for row in await cursor.fetchall()]
        found += page
        if len(page) < PAGE:
            return found
        after = (page[-1].run_id, page[-1].step)


async def read_checkpoint(connection: Connection, run_id: int, step: str) -> Checkpoint | None:
    """One finished step."""
    cursor = await connection.execute("select * from read_checkpoint(%s, %s)", [run_id, step])
    row = await cursor.fetchone()
    return None if row is None else Checkpoint(*row)


async def read_signals(connection: Connection, runs: Sequence[int]) -> list[Signal]:
    """What was sent to these runs, by run, name and number."""
    cursor = await connection.execute("select * from read_signals(%s::bigint[])", [list(runs)])
    return [Signal(*row) for row in await cursor.fetchall()]


async def read_asked(connection: Connection, runs: Sequence[int]) -> set[int]:
    """Those of these runs that were asked to stop."""
    cursor = await connection.execute("select run_id from read_asked(%s::bigint[])", [list(runs)])
    return {row[0] for row in await cursor.fetchall()}


async def send_signals(
    connection: Connection, tenant_id: str | None, signals: Sequence[NewSignal]
) -> list[SignalStatus]:
    """Send signals; a status each, in order. `tenant_id` None: to any tenant's runs."""
    cursor = await connection.execute(
        "select status from send_signals(%s, %s::bigint[], %s::text[], %s::text[], %s::text[])",
        [
            tenant_id,
            integers([signal.run_id for signal in signals]),
            texts([signal.name for signal in signals]),
            texts([signal.payload for signal in signals]),
            texts([signal.key for signal in signals]),
        ],
    )
    return [row[0] for row in await cursor.fetchall()]


async def spawn_children(
    connection: Connection, run_id: int, attempt: int, step: str, group: str, runs: Sequence[NewRun]
) -> list[int]:
    """Enqueue a running run's children together with the checkpoint `step` that keeps their ids."""
    cursor = await connection.execute(
        "select child_ids from spawn_children(%s, %s, %s, %s, %s::text[], %s::text[], %s::text[], false)",
        [
            run_id,
            attempt,
            step,
            group,
            texts([run.task for run in runs]),
            texts([run.args for run in runs]),
            texts([run.queue for run in runs]),
        ],
    )
    row = await cursor.fetchone()
    assert row is not None
    ids: list[int] = row[0]
    return ids


async def read_outcomes(connection: Connection, runs: Sequence[int]) -> list[Outcome]:
    """How those of these runs ended that have."""
    cursor = await connection.execute("select * from read_outcomes(%s::bigint[])", [list(runs)])
    return [Outcome(*row) for row in await cursor.fetchall()]


async def fork_run(
    connection: Connection, tenant_id: str | None, run_id: int, steps: int, task: str | None = None
) -> int:
    """A new run that goes on from the first `steps` finished steps of another one; its id."""
    cursor = await connection.execute("select run_id from fork_run(%s, %s, %s, %s)", [tenant_id, run_id, steps, task])
    row = await cursor.fetchone()
    assert row is not None
    forked: int = row[0]
    return forked


async def read_tree(connection: Connection, tenant_id: str | None, run_id: int, limit: int) -> list[TreeRun]:
    """A run and its descendants, those nearest to it first; empty: it is unknown."""
    cursor = await connection.execute("select * from read_tree(%s, %s, %s)", [tenant_id, run_id, limit])
    return [TreeRun(*row) for row in await cursor.fetchall()]
