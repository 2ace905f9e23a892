"""Whether a claim costs more when more runs are queued."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from howdah.sql.pool import Connection
from tests.bench.database import fresh_database, settle
from tests.bench.engine import create_tenants, engine_connection, enqueue_among, lasting_worker, timed_work_off
from tests.bench.figure import DEEP, Figure, Measure, Target
from tests.bench.system import System

RUNS = 10_000_000 if DEEP else 1_000_000
SHALLOW = 1_000 if DEEP else 100  # how many times fewer runs the shallow queue has
TENANTS = 10_000
CLAIM = 500
CLAIMS = 40
FILL = 10_000


def take(server_url: str, figure: Figure, system: System, runs: int) -> Mapping[str, float]:
    """The same claims at both depths; after each, as many runs are enqueued as it took.

    The shallow queue is one of a tenth of the tenants: with all of them, a tenant would have one run, and what a claim
    costs would be the many lanes that it empties, not the depth.
    """
    with fresh_database(server_url, f"bench_{system.name}") as url:
        asyncio.run(system.install(url))
        return asyncio.run(_measure(url, runs))


async def _measure(url: str, runs: int) -> dict[str, float]:
    tenants = max(10, TENANTS * runs // RUNS)
    shallow = max(CLAIM, runs // SHALLOW)
    async with engine_connection(url) as connection:
        await create_tenants(connection, tenants)
        await _fill(connection, tenants // 10, 0, shallow)
    settle(url)
    first = await _rate(url, tenants // 10)
    async with engine_connection(url) as connection:
        await _fill(connection, tenants, shallow, runs - shallow)
    settle(url)
    return {"claim_depth_shallow": first, "claim_depth": await _rate(url, tenants)}


async def _fill(connection: Connection, tenants: int, first: int, runs: int) -> None:
    for start in range(0, runs, FILL):
        await enqueue_among(connection, "claim_depth", tenants, first + start, min(FILL, runs - start))


async def _rate(url: str, tenants: int) -> float:
    """Runs per second in claims and finishes."""
    total, total_seconds = 0, 0.0
    # A connection of its own: plans that were made for the other depth are not used at this one.
    async with engine_connection(url) as connection:
        worker = await lasting_worker(connection)
        for number in range(-5, CLAIMS):
            claimed, seconds = await timed_work_off(connection, worker, CLAIM)
            await enqueue_among(connection, "claim_depth", tenants, number * CLAIM + 5 * CLAIM, claimed)
            if number >= 0:  # the first ones plan and warm up
                total, total_seconds = total + claimed, total_seconds + seconds
    return total / total_seconds


FIGURE = Figure(
    "claim_depth",
    f"runs claimed and finished 500 at a time by the engine alone, with {RUNS:,} queued for 10,000 tenants"
    f" (shallow: {RUNS // SHALLOW:,} for 1,000)",
    (Measure("claim_depth", "runs/s"), Measure("claim_depth_shallow", "runs/s")),
    take,
    (Target("claim_depth", 0.85, of="claim_depth_shallow"),),
    rounds=1,
)
