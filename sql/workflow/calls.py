"""Typed callers of the workflow's functions; what each does is told in the SQL file of the same name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import msgspec

from howdah.sql.array_literal import integers, texts, timestamps
from howdah.sql.pool import Connection

ItemKind = Literal["checkpoint", "event", "outcome"]
ItemStatus = Literal["ok", "stale", "busy", "repeated"]


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
    """The finished steps of these runs, by run, then in the order in which they finished."""
    cursor = await connection.execute("select * from read_checkpoints(%s::bigint[])", [list(runs)])
    return [Checkpoint(*row) for row in await cursor.fetchall()]
