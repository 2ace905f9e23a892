"""How fast one API process takes runs by REST, each on disk before its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import psycopg

from howdah.sql.pool import cell_conninfo
from tests.app.api_servers import api_process
from tests.bench.database import api_key, count, fresh_database, settle
from tests.bench.figure import Figure, Measure, Target
from tests.bench.rest_client import post_over_rest
from tests.bench.system import System

TASK = "enqueue_rest"
BODY = f'{{"task": "{TASK}", "args": {{}}}}'


def take(server_url: str, figure: Figure, system: System, runs: int) -> Mapping[str, float]:
    """An API process as `howdah api` runs it, and a client process that has 64 connections to it.

    Raises
    ------
    RuntimeError
        If an answer is not 201, or the tables hold another number of runs than were answered.
    """
    with fresh_database(server_url, f"bench_{system.name}") as url:
        asyncio.run(system.install(url))
        _register_task(url)
        key = api_key(url)
        settle(url)
        with api_process(url) as api:
            created, seconds = post_over_rest(api.url, key, "/v1/runs", BODY, url, runs)
        found = count(url, system.unfinished)
    if found != created:
        raise RuntimeError(f"the API answered that {created} runs were created, and {found} are there")
    return {figure.name: runs / seconds}


def _register_task(url: str) -> None:
    with psycopg.connect(cell_conninfo(url)) as connection:
        connection.execute(
            "select register_tasks(array[%s], array['task'], array['bench'], array['{}'], array[''])", [TASK]
        )


FIGURE = Figure(
    "enqueue_rest",
    "POST /v1/runs answered by one API process over 64 connections, the client on the same machine",
    (Measure("enqueue_rest", "runs/s"),),
    take,
    (Target("enqueue_rest", 3_000),),
)
