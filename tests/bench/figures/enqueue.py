"""How fast one process enqueues, each run on disk: in batches, and for callers who each wait for their own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from tests.bench.callers import WARM_UP
from tests.bench.database import count, fresh_database, settle
from tests.bench.figure import BEST_PEER, Figure, Measure, Target
from tests.bench.process import run_module
from tests.bench.system import System

ROUND_SECONDS = 120.0


def take(server_url: str, figure: Figure, system: System, runs: int) -> Mapping[str, float]:
    """An empty database, and one process that enqueues.

    Raises
    ------
    RuntimeError
        If the tables do not hold as many runs afterwards as were enqueued.
    """
    with fresh_database(server_url, f"bench_{system.name}") as url:
        asyncio.run(system.install(url))
        settle(url)
        seconds = float(run_module("enqueuer", system.name, figure.name, url, runs, seconds=ROUND_SECONDS))
        found = count(url, system.unfinished)
    if found != runs + WARM_UP:
        raise RuntimeError(f"{system.name} enqueued {runs + WARM_UP} runs, and {found} are there")
    return {figure.name: runs / seconds}


FIGURES = (
    Figure(
        "enqueue_batch",
        "runs enqueued by one process in batches of 1,000, a transaction each",
        (Measure("enqueue_batch", "runs/s"),),
        take,
        (Target("enqueue_batch", 1.0, system=BEST_PEER),),
    ),
    Figure(
        "enqueue_single",
        "runs enqueued by one process for 64 callers, each of whom enqueues one and waits until it is committed",
        (Measure("enqueue_single", "runs/s"),),
        take,
        (Target("enqueue_single", 5.0, system=BEST_PEER),),
    ),
)
