"""Where runs write down what happens to them, whatever happens to their connections."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID, uuid4

from howdah.jobs import Run
from howdah.sql.group_commit import GroupCommit
from howdah.sql.pool import Pool

_Started = tuple[UUID, int, str, int]
_Turn = tuple[UUID, int, int]


class Trace:
    """Each record is on disk when its method returns. A pool apart from the worker's, which is for heartbeats."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._steps = GroupCommit(self._write_steps)
        self._begun = GroupCommit(self._begin_turns)
        self._ended = GroupCommit(self._end_turns)

    async def step(self, run: Run) -> None:
        """The current step of `run` starts."""
        await self._steps.submit((uuid4(), run.id, run.current_step or "", run.attempt))

    async def begin_turn(self, run: Run) -> tuple[UUID, bool]:
        """An attempt of an ordered run starts: (its name for `end_turn`, whether the run was requeued before)."""
        turn = uuid4()
        return turn, await self._begun.submit((turn, run.id, run.attempt))

    async def end_turn(self, turn: UUID) -> None:
        """It finishes: what it does is done, but its outcome is not on disk yet."""
        await self._ended.submit(turn)

    async def _write_steps(self, rows: Sequence[_Started]) -> Sequence[None]:
        async with self._pool.connection() as connection:
            await connection.execute(
                "insert into chaos.chaos_execution (id, run_id, step, attempt)"
                " select * from unnest(%s::uuid[], %s::bigint[], %s::text[], %s::integer[]) on conflict do nothing",
                [list(column) for column in zip(*rows, strict=True)],
            )
        return [None] * len(rows)

    async def _begin_turns(self, rows: Sequence[_Turn]) -> Sequence[bool]:
        async with self._pool.connection() as connection:
            await connection.execute(
                "insert into chaos.chaos_turn (id, run_id, attempt)"
                " select * from unnest(%s::uuid[], %s::bigint[], %s::integer[]) on conflict do nothing",
                [list(column) for column in zip(*rows, strict=True)],
            )
            cursor = await connection.execute(
                "select run_id from chaos.chaos_requeued where run_id = any (%s)", [[row[1] for row in rows]]
            )
            requeued = {row[0] for row in await cursor.fetchall()}
        return [run_id in requeued for _, run_id, _ in rows]

    async def _end_turns(self, turns: Sequence[UUID]) -> Sequence[None]:
        async with self._pool.connection() as connection:
            await connection.execute(
                "update chaos.chaos_turn set finished_at = clock_timestamp()"
                " where id = any (%s) and finished_at is null",
                [list(turns)],
            )
        return [None] * len(turns)
