"""A round: an empty database, filled, settled, and worked off by one worker process."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.bench.database import fresh_database, settle
from tests.bench.figures import Figure
from tests.bench.system import System

ROOT = Path(__file__).parents[2]
ROUNDS = 3  # the median of three leaves out one that something else disturbed
ROUND_SECONDS = 60.0  # a system that has not drained by then is counted as it stands
START_AND_STOP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One round of one system: so many of the `runs` enqueued were finished within `seconds`."""

    figure: Figure
    system: System
    runs: int
    finished: int
    seconds: float

    @property
    def rate(self) -> float:
        """Runs per second."""
        return self.finished / self.seconds


def take(server_url: str, figure: Figure, system: System, scale: float) -> Sample:
    """Measure one round.

    Raises
    ------
    RuntimeError
        If the worker fails, or drains its queue without having finished every run; with what it wrote.
    """
    runs = max(1, round(system.runs[figure.name] * scale))
    with fresh_database(server_url, f"bench_{system.name}") as url:
        asyncio.run(system.prepare(url, figure.name, runs))
        settle(url)
        worker = subprocess.run(
            [sys.executable, "-m", "tests.bench.worker", system.name, figure.name, url, str(runs), str(ROUND_SECONDS)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=ROUND_SECONDS + START_AND_STOP_SECONDS,
            check=False,
        )
    if worker.returncode != 0:
        raise RuntimeError(f"the worker of {system.name} failed in {figure.name}:\n{worker.stderr[-2000:]}")
    result = json.loads(worker.stdout.splitlines()[-1])
    sample = Sample(figure, system, runs, result["finished"], result["seconds"])
    if sample.finished != runs and sample.seconds < ROUND_SECONDS:
        raise RuntimeError(f"{system.name} drained {figure.name} but finished {sample.finished} of {runs} runs")
    return sample
