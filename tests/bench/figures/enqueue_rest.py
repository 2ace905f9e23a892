"""How fast one API process takes runs by REST, each on disk before its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import psycopg

from howdah.app.keys import new_api_key
from tests.app.api_servers import api_process
from tests.bench.database import count, fresh_database, settle
from tests.bench.figure import Figure, Measure, Target
from tests.bench.process import run_module
from tests.bench.system import System

ROUND_SECONDS = 120.0
TASK = "enqueue_rest"


def take(server_url: str, figure: Figure, system: System, runs: int) -> Mapping[str, float]:
    """An API process as `howdah api` runs it, and a client process that has 64 connections to it.

    Raises
    ------
    RuntimeError
        If an answer is not 201, or the tables hold another number of runs than were answered.
    """
    with fresh_database(server_url, f"bench_{system.name}") as url:
        asyncio.run(system.install(url))
        key = _prepare(url)
        settle(url)
        with api_process(url) as api:
            enqueued, seconds = run_module("rest_client", api.url, key, TASK, url, runs, seconds=ROUND_SECONDS).split()
        found = count(url, system.unfinished)
    if found != int(enqueued):
        raise RuntimeError(f"the API answered that {enqueued} runs were created, and {found} are there")
    return {figure.name: runs / float(seconds)}


def _prepare(url: str) -> str:
    """Register the task, and make a key."""
    key = new_api_key()
    with psycopg.connect(url, options="-c search_path=howdah,public") as connection:
        connection.execute(
            "select register_tasks(array[%s], array['task'], array['bench'], array['{}'], array[''])", [TASK]
        )
        connection.execute("select create_api_key(%s, 'default', 'bench', sha256(%s))", [key.id, key.secret.encode()])
    return key.text


FIGURE = Figure(
    "enqueue_rest",
    "POST /v1/runs answered by one API process over 64 connections, the client on the same machine",
    (Measure("enqueue_rest", "runs/s"),),
    take,
    (Target("enqueue_rest", 3_000),),
)
