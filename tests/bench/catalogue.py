"""The figures that there are, and the systems that they are taken of."""

from __future__ import annotations

from collections.abc import Sequence

from tests.bench.figure import Figure
from tests.bench.figures import (
    appending,
    churn,
    claim_depth,
    crowds,
    drain,
    enqueue,
    enqueue_rest,
    ordered_depth,
    pickup,
    realtime,
    workflows,
)
from tests.bench.system import Gateway, System
from tests.bench.systems import dbos, graphile_worker, howdah, pgqueuer, plain_streams, procrastinate

FIGURES: tuple[Figure, ...] = (
    *drain.FIGURES,
    *enqueue.FIGURES,
    enqueue_rest.FIGURE,
    pickup.FIGURE,
    claim_depth.FIGURE,
    ordered_depth.FIGURE,
    churn.FIGURE,
    *workflows.FIGURES,
    *realtime.FIGURES,
    *crowds.FIGURES,
    *appending.FIGURES,
)
SYSTEMS: Sequence[System | Gateway] = (
    howdah.SYSTEM,
    graphile_worker.SYSTEM,
    pgqueuer.SYSTEM,
    procrastinate.SYSTEM,
    dbos.SYSTEM,
    *plain_streams.SYSTEMS,
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
