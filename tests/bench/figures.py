"""The figures, and the systems that they are taken of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.system import System
from tests.bench.systems import dbos, graphile_worker, howdah, pgqueuer, procrastinate


@dataclass(frozen=True, slots=True)
class Figure:
    """Something that is measured, per second: more is better."""

    name: str
    unit: str
    meaning: str


FIGURES = (
    Figure("drain_empty", "runs/s", "runs of an empty task finished by one worker process"),
    Figure("drain_two_steps", "runs/s", "runs with two durable steps finished by one worker process"),
)
SYSTEMS: Sequence[System] = (
    howdah.SYSTEM,
    graphile_worker.SYSTEM,
    pgqueuer.SYSTEM,
    procrastinate.SYSTEM,
    dbos.SYSTEM,
)


def choose(only: str) -> tuple[Figure, ...]:
    """The figures named in `only`, separated by commas; all of them if it is empty.

    Raises
    ------
    ValueError
        If a name is no figure's.
    """
    names = [name.strip() for name in only.split(",") if name.strip()]
    known = {figure.name: figure for figure in FIGURES}
    for name in names:
        if name not in known:
            raise ValueError(f"there is no figure {name!r}: choose from {', '.join(known)}")
    return tuple(known[name] for name in names) or FIGURES
