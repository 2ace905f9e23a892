"""Graphile Worker, a process of Node.js, as its page on performance advises: the local queue and batched completion.

It deletes the row of a job that has succeeded. So the first job to run copies the time of its claim into a table of the
benchmark's, and what was finished is what was enqueued and is no longer there.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg

from tests.bench.callers import BATCH, CALLERS, PER_SECOND
from tests.bench.system import Enqueue, Ran, System

VERSION = "0.18.0"
PACKAGE = Path(sys.prefix) / "bench-node" / "node_modules" / "graphile-worker"
PROGRAM = Path(__file__).with_suffix(".mjs")
INSTALL_SECONDS = 120.0  # 70 small packages take a few; without a network npm gives up only after minutes
CONCURRENCY = 24
CONNECTIONS = 25
LOCAL_QUEUE = 500
ENQUEUE_BATCH = 5_000
LINE = 1 << 20  # bytes of a line that it writes, at most
CALLERS_POOL = 20  # connections for callers beside one another


def missing() -> str:
    """Install the package where it is not; what stands in the way, or nothing."""
    if absent := [program for program in ("node", "npm") if shutil.which(program) is None]:
        return f"there is no {' and no '.join(absent)}"
    manifest = PACKAGE / "package.json"
    if manifest.is_file() and json.loads(manifest.read_text())["version"] == VERSION:
        return ""
    folder = PACKAGE.parents[1]
    options = ["--no-audit", "--no-fund", "--ignore-scripts", "--no-save", "--prefix", str(folder)]
    try:
        folder.mkdir(exist_ok=True)
        subprocess.run(
            ["npm", "install", *options, f"graphile-worker@{VERSION}"],
            check=True,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
        )
    except subprocess.CalledProcessError as error:
        return f"npm could not install graphile-worker {VERSION}: {error.stderr.strip()[-300:]}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"npm could not install graphile-worker {VERSION}: {error}"
    return ""


async def install(url: str) -> None:
    process = await asyncio.create_subprocess_exec(*_command("install", url), stdout=DEVNULL, stderr=PIPE)
    _, errors = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"graphile-worker could not make its tables:\n{errors.decode()[-2000:]}")
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await connection.execute("create table first_claim (at timestamptz)")


async def fill(url: str, figure: str, runs: int) -> None:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        for start in range(0, runs, ENQUEUE_BATCH):
            await connection.execute(
                "select count(*) from graphile_worker.add_jobs(array("
                "select row(%s, null, null, null, null, null, null, null)::graphile_worker.job_spec"
                " from generate_series(1, %s)))",
                (figure, min(ENQUEUE_BATCH, runs - start)),
            )


async def work(url: str, figure: str, ran: Ran) -> None:
    async with _process("work", url, figure, CONCURRENCY, CONNECTIONS, LOCAL_QUEUE) as worker:
        assert worker.stdout is not None
        async for line in worker.stdout:
            for waited in json.loads(line):
                ran(waited)
        raise RuntimeError(f"graphile-worker stopped with code {await worker.wait()}")


@asynccontextmanager
async def enqueuer(url: str, figure: str) -> AsyncIterator[Enqueue]:
    numbers = (CALLERS_POOL, BATCH, CALLERS, PER_SECOND)
    async with _process("enqueue", url, figure, *numbers) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None

        async def enqueue(runs: int) -> None:
            stdin.write(f"{runs}\n".encode())
            if not await stdout.readline():
                raise RuntimeError(f"graphile-worker's caller stopped with code {await process.wait()}")

        yield enqueue


@asynccontextmanager
async def _process(*arguments: object) -> AsyncIterator[asyncio.subprocess.Process]:
    """Its errors are this process's: the report shows them when it fails."""
    process = await asyncio.create_subprocess_exec(*_command(*arguments), stdin=PIPE, stdout=PIPE, limit=LINE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _command(*arguments: object) -> list[str]:
    return ["node", str(PROGRAM), str(PACKAGE / "dist" / "index.js"), *map(str, arguments)]


SYSTEM = System(
    name="graphile-worker",
    runs={
        "drain_empty": 50_000,
        "drain_held": 50_000,
        "enqueue_batch": 100_000,
        "enqueue_single": 10_000,
        "pickup": 10_000,
    },
    asked={
        "concurrency": CONCURRENCY,
        "connections": CONNECTIONS,
        "local queue": LOCAL_QUEUE,
        "connections to enqueue": CALLERS_POOL,
        "driver": "pg (Node.js)",
    },
    install=install,
    fill=fill,
    work=work,
    enqueuer=enqueuer,
    unfinished="select from graphile_worker._private_jobs",
    record="select (select coalesce(pg_sequence_last_value(pg_get_serial_sequence("
    "'graphile_worker._private_jobs', 'id')::regclass), 0) - count(*) from graphile_worker._private_jobs),"
    " (select min(at) from first_claim)",
    missing=missing,
)
