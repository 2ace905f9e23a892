"""What earlier attempts of a run have left for the next one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from howdah.jobs.history import Finished
from howdah.sql.pool import Connection
from howdah.sql.stream.calls import read_watched
from howdah.sql.workflow.calls import Signal, read_checkpoints, read_signals


@dataclass(slots=True)
class Past:
    """Finished steps by name, what was sent to the run, and whether it has written events to a session of its own."""

    steps: dict[str, Finished] = field(default_factory=dict)
    signals: list[Signal] = field(default_factory=list)
    watched: bool = False


async def read_pasts(connection: Connection, runs: Sequence[int]) -> dict[int, Past]:
    """The past of each of these runs."""
    pasts = {run_id: Past() for run_id in runs}
    if runs:
        for checkpoint in await read_checkpoints(connection, runs):
            finished = Finished(checkpoint.output or "null", checkpoint.after)
            pasts[checkpoint.run_id].steps[checkpoint.step] = finished
        for signal in await read_signals(connection, runs):
            pasts[signal.run_id].signals.append(signal)
        for run_id in await read_watched(connection, runs):
            pasts[run_id].watched = True
    return pasts
