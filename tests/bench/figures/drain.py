"""How fast one worker process works off a queue that is full when it starts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import nullcontext

from tests.bench.database import fresh_database, held_snapshot, settle
from tests.bench.figure import OURS, Figure, Measure, Target
from tests.bench.process import run_module
from tests.bench.system import System

ROUND_SECONDS = 60.0  # a system that has not drained by then is counted as it stands


def take(server_url: str, figure: Figure, system: System, runs: int) -> Mapping[str, float]:
    """An empty database, filled, settled, and worked off by one process.

    Raises
    ------
    RuntimeError
        If the worker fails, or drains its queue without having finished every run.
    """
    held = figure.name == "drain_held"
    with fresh_database(server_url, f"bench_{system.name}") as url:
        asyncio.run(system.install(url))
        with held_snapshot(url) if held else nullcontext():
            asyncio.run(system.fill(url, figure.name, runs))
            settle(url)
            line = run_module("worker", system.name, figure.name, url, runs, ROUND_SECONDS, seconds=ROUND_SECONDS)
    result = json.loads(line)
    finished, seconds = result["finished"], result["seconds"]
    if finished != runs and seconds < ROUND_SECONDS:
        raise RuntimeError(f"{system.name} drained {figure.name} but finished {finished} of {runs} runs")
    values = {figure.name: finished / seconds}
    if held and result["fifths"]:
        first, last = result["fifths"]
        values["drain_held_last_fifth"] = last / first
    return values


FIGURES = (
    Figure(
        "drain_empty",
        "runs of an empty task finished by one worker process",
        (Measure("drain_empty", "runs/s"),),
        take,
        (Target("drain_empty", 1.3, system="graphile-worker"), Target("drain_empty", 2.0, system="pgqueuer")),
    ),
    Figure(
        "drain_two_steps",
        "runs with two durable steps finished by one worker process",
        (Measure("drain_two_steps", "runs/s"),),
        take,
        (Target("drain_two_steps", 8_400), Target("drain_two_steps", 30.0, system="dbos")),
    ),
    Figure(
        "drain_limited",
        "the same as drain_empty for 1,000 tenants, with 20 running for each and 5,000 in the queue at most",
        (Measure("drain_limited", "runs/s"),),
        take,
        (Target("drain_limited", 0.65, of="drain_empty", system=OURS),),
    ),
    Figure(
        "drain_limited_busy",
        "the same as drain_limited while another worker's long runs have nine tenths of the queue's 5,000",
        (Measure("drain_limited_busy", "runs/s"),),
        take,
        (Target("drain_limited_busy", 0.3, of="drain_empty", system=OURS),),
    ),
    Figure(
        "drain_held",
        "the same as drain_empty while a transaction holds a snapshot from before the first enqueue to the end",
        (Measure("drain_held", "runs/s"), Measure("drain_held_last_fifth", "of the first")),
        take,
        (Target("drain_held", 0.6, of="drain_empty", system=OURS), Target("drain_held_last_fifth", 0.8)),
    ),
)
