"""How runs stand and which steps they have finished, for those who wait for them: tests."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import msgspec

from howdah.sql.errors import UnknownRun
from howdah.sql.pool import Connection
from howdah.sql.queue.calls import ClaimedRun
from howdah.sql.workflow.calls import read_checkpoints

R = TypeVar("R")

_FIND_RUN = """
    select tenant_id, queue, task, args::text, attempt, failures, session_id, state, output::text, error::text
    from run_history where id = %(run)s
    union all
    select tenant_id, queue, task, args::text, attempt, failures, session_id, state, null, error::text
    from run where id = %(run)s
"""


@dataclass(frozen=True, slots=True)
class Step:
    """A finished step: its output as JSON has it, and the attempt that finished it."""

    output: Any
    attempt: int


class Failure(msgspec.Struct, frozen=True):
    """Why a run failed, or its last attempt."""

    type: str
    message: str
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class Result(Generic[R]):
    """How a run stands.

    Attributes
    ----------
    state
        As in ``ops.runs``: 'succeeded', 'failed', 'cancelled', or where it waits: 'waiting', 'scheduled', 'queued' …
    attempt
        The last one; a run that has rested, or whose worker died, comes back as another one.
    steps
        The finished ones by name, in the order in which they finished; repeats of a name are ``name#2``, ``name#3`` …
    """

    run_id: int
    state: str
    attempt: int
    error: Failure | None
    steps: dict[str, Step]
    _output: R | None

    @property
    def output(self) -> R:
        """What the workflow returned; AssertionError with what went wrong where it has not."""
        if self.state != "succeeded":
            why = f": {self.error.type}: {self.error.message}\n{self.error.traceback}" if self.error else ""
            raise AssertionError(f"run {self.run_id} has no output, it is {self.state}{why}")
        return cast(R, self._output)


@dataclass(frozen=True, slots=True)
class FoundRun:
    claimed: ClaimedRun
    state: str
    output: str | None
    error: str | None


async def find_run(connection: Connection, run_id: int) -> FoundRun:
    row = await (await connection.execute(_FIND_RUN, {"run": run_id})).fetchone()
    if row is None:
        raise UnknownRun(f"run {run_id} is unknown")
    *claimed, state, output, error = row
    return FoundRun(ClaimedRun(run_id, *claimed), state, output, error)


async def finished_steps(connection: Connection, run_id: int) -> dict[str, Step]:
    checkpoints = sorted(await read_checkpoints(connection, [run_id]), key=lambda c: c.finished_at)
    return {c.step: Step(msgspec.json.decode(c.output or "null"), c.attempt) for c in checkpoints if is_step(c.step)}


def is_step(name: str) -> bool:
    """Whether it is a step that code asks for; else it is what the engine keeps beside one, such as ``name#until``."""
    return re.search(r"#\D", name) is None
