"""What appending events costs: by REST, and the hints that go out after it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from statistics import median

import psycopg
import uvloop

from howdah.sql.notifier import Notifier
from howdah.sql.pool import Connection, Pool, cell_conninfo, make_pool
from howdah.sql.stream.calls import NewEvent, append_events
from howdah.sql.stream.writer import EVENTS_CHANNEL
from tests.app.api_servers import api_process
from tests.bench.callers import CALLERS
from tests.bench.database import api_key, count, fresh_database, settle
from tests.bench.engine import engine_connection
from tests.bench.event_producer import DATA, TENANT
from tests.bench.figure import Figure, Measure, Target
from tests.bench.rest_client import post_over_rest
from tests.bench.system import System

WRITERS = 32
SLICES = 10  # of each way, by turns, so that a slow moment of the machine falls on all


def take_rest(server_url: str, figure: Figure, system: System, runs: int) -> Mapping[str, float]:
    """An API process as `howdah api` runs it, and a client process with 64 connections, each to a session of its own.

    Raises
    ------
    RuntimeError
        If an answer is not 201, or the table holds another number of events than were answered.
    """
    with fresh_database(server_url, f"bench_{system.name}") as url:
        asyncio.run(system.install(url))
        _create_sessions(url, CALLERS)
        key = api_key(url)
        settle(url)
        body = f'{{"type": "answer.delta", "data": {DATA}}}'
        with api_process(url) as api:
            created, seconds = post_over_rest(api.url, key, "/v1/sessions/s{}/events", body, url, runs)
        found = count(url, "select from howdah.event")
    if found != created:
        raise RuntimeError(f"the API answered that {created} events were created, and {found} are there")
    return {figure.name: runs / seconds}


def take_notify(server_url: str, _: Figure, system: System, runs: int) -> Mapping[str, float]:
    """Writers that append one event a transaction, with an API process that listens."""
    return uvloop.run(_notify(server_url, system, runs))


async def _notify(server_url: str, system: System, runs: int) -> dict[str, float]:
    share = max(1, runs // (3 * SLICES * WRITERS))
    rates: dict[str, list[float]] = {"none": [], "hints": [], "inside": []}
    with fresh_database(server_url, f"bench_{system.name}") as url:
        await system.install(url)
        _create_sessions(url, WRITERS)
        settle(url)
        with api_process(url):
            async with AsyncExitStack() as stack:
                hints: Pool = await stack.enter_async_context(make_pool(cell_conninfo(url), max_size=1, check=False))
                writers = [await stack.enter_async_context(engine_connection(url)) for _ in range(WRITERS)]
                notifier = Notifier(hints)
                for way in rates:
                    await _appended(writers, way, notifier, share)
                for _ in range(SLICES):
                    for way, taken in rates.items():
                        taken.append(await _appended(writers, way, notifier, share))
                await notifier.aclose()
        found = count(url, "select from howdah.event")
    if found != share * WRITERS * len(rates) * (SLICES + 1):
        raise RuntimeError(f"{found} events are there, of {share} a writer and slice")
    none = median(rates["none"])
    return {
        "notify_cost": (1 - median(rates["hints"]) / none) * 100,
        "notify_inside_cost": (1 - median(rates["inside"]) / none) * 100,
        "notify_commits": none,
    }


async def _appended(writers: list[Connection], way: str, notifier: Notifier, share: int) -> float:
    """Commits a second, of all writers together."""

    async def write(number: int, connection: Connection) -> None:
        session = f"s{number}"
        for _ in range(share):
            event = NewEvent(TENANT, session, "answer.delta", DATA)
            await append_events(connection, [event], notify=way == "inside")
            if way == "hints":
                notifier.hint(EVENTS_CHANNEL, [f"{TENANT}/{session}"])

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number, connection in enumerate(writers):
            group.create_task(write(number, connection))
    return share * len(writers) / (time.perf_counter() - started)


def _create_sessions(url: str, sessions: int) -> None:
    with psycopg.connect(cell_conninfo(url)) as connection:
        connection.execute(
            "select create_session(%s, 's' || n) from generate_series(0, %s::int) as n", [TENANT, sessions - 1]
        )


FIGURES = (
    Figure(
        "append_rest",
        "POST of an event answered by one API process over 64 connections, the client on the same machine",
        (Measure("append_rest", "events/s"),),
        take_rest,
        (Target("append_rest", 3_000),),
    ),
    Figure(
        "notify_cost",
        "commits of 32 writers who append: what hints after the commit cost them, and what they would cost inside it",
        (
            Measure("notify_cost", "%", higher_is_better=False),
            Measure("notify_inside_cost", "%", higher_is_better=False),
            Measure("notify_commits", "commits/s"),
        ),
        take_notify,
        (Target("notify_cost", 5),),
        rounds=1,
    ),
)
