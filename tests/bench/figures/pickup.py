"""How long a run waits from the call that enqueues it until its code starts, with one worker that is not busy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from statistics import quantiles

from tests.bench.callers import PER_SECOND, WARM_UP
from tests.bench.database import fresh_database, settle
from tests.bench.figure import Figure, Measure, Target
from tests.bench.process import run_module, started_module
from tests.bench.system import System

PATIENCE = 60.0  # seconds beyond those that the calls take


def take(server_url: str, figure: Figure, system: System, runs: int) -> Mapping[str, float]:
    """One worker process, and one that enqueues by the clock.

    The clock is the host's, which both processes read: the caller writes the time of its call into the run's
    arguments, and the run's code reads it. So the enqueue and its commit are in it.

    Raises
    ------
    RuntimeError
        If not every run finished.
    """
    # The first run shows that the worker works; the next ones open connections and prepare statements.
    all_runs = 1 + WARM_UP + runs
    seconds = all_runs / PER_SECOND + PATIENCE
    with fresh_database(server_url, f"bench_{system.name}") as url:
        asyncio.run(system.install(url))
        asyncio.run(system.fill(url, figure.name, 1))
        settle(url)
        with started_module("worker", system.name, figure.name, url, all_runs, seconds) as worker:
            worker.line()
            run_module("enqueuer", system.name, figure.name, url, runs, seconds=seconds)
            result = json.loads(worker.result(seconds))
    if result["finished"] != all_runs:
        raise RuntimeError(f"{system.name} finished {result['finished']} of {all_runs} runs of {figure.name}")
    waits = result["waits"][-runs:]
    hundredths = quantiles(waits, n=100)
    return {"pickup_p50": hundredths[49] * 1000, "pickup_p99": hundredths[98] * 1000}


FIGURE = Figure(
    "pickup",
    f"from the call that enqueues a run to the start of its code, at {PER_SECOND} calls a second and with one worker",
    (Measure("pickup_p50", "ms", higher_is_better=False), Measure("pickup_p99", "ms", higher_is_better=False)),
    take,
    (Target("pickup_p50", 4.0), Target("pickup_p99", 20.0)),
    rounds=1,
)
