"""What earlier attempts of a run have left for the next one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

from howdah.jobs.workflow.history import Finished
from howdah.sql.pool import Connection
from howdah.sql.stream.calls import read_emitted
from howdah.sql.workflow.calls import Signal, read_asked, read_checkpoints, read_signals


@dataclass(frozen=True, slots=True)
class Past:
    """Finished steps by name, what was sent to the run, the keys of its events, whether it was asked to stop."""

    steps: Mapping[str, Finished] = field(default_factory=dict)
    signals: Sequence[Signal] = ()
    emitted: Set[str] = frozenset()
    asked: bool = False


async def read_pasts(connection: Connection, runs: Sequence[int]) -> dict[int, Past]:
    """The past of each of these runs."""
    if not runs:
        return {}
    steps: dict[int, dict[str, Finished]] = {run_id: {} for run_id in runs}
    signals: dict[int, list[Signal]] = {run_id: [] for run_id in runs}
    emitted: dict[int, set[str]] = {run_id: set() for run_id in runs}
    for checkpoint in await read_checkpoints(connection, runs):
        steps[checkpoint.run_id][checkpoint.step] = Finished(checkpoint.output or "null", checkpoint.after)
    for signal in await read_signals(connection, runs):
        signals[signal.run_id].append(signal)
    for run_id, key in await read_emitted(connection, runs):
        emitted[run_id].add(key)
    asked = await read_asked(connection, runs)
    return {run_id: Past(steps[run_id], signals[run_id], emitted[run_id], run_id in asked) for run_id in runs}
