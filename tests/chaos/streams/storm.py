"""Two API processes, clients that hop between them, writers beside them; and all that can fall does."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

import httpx
import psycopg

from howdah.sql.pool import cell_conninfo, make_pool
from howdah.sql.schema import install
from tests.app.api_servers import ApiProcess, api_process
from tests.bench.database import api_key
from tests.chaos.crew import ROOT
from tests.chaos.server import Server, own_database
from tests.chaos.streams.hopper import Hopper
from tests.chaos.streams.talker import QUEUE, WORDS
from tests.chaos.streams.writers import TENANT, Writers

SESSIONS = 5
CLIENTS = 50
GATEWAYS = 2
CALM = (0.3, 1.5)  # seconds between two strikes, at random
# In each round every one of them strikes, in an order at random. Cuts are brief, so there may be more of them.
STRIKES = ("kill", "terminate", "cut", "cut", "crash", "kill_worker")
END_SECONDS = 60.0  # for the last runs to end, one rescue included, and then for the clients to have read all
START_SECONDS = 30.0  # for an API process, on a machine that is busy with all this
HUB = "howdah-hub"  # the name of the connections on which API processes listen


@dataclass(slots=True)
class Storm:
    """What was done, and what became of it.

    Attributes
    ----------
    strikes
        How often each of :data:`STRIKES` struck.
    read
        Events that clients read, in all.
    streams
        How many streams they began.
    broken
        Sentences about promises that were not kept.
    """

    strikes: Counter[str] = field(default_factory=Counter)
    read: int = 0
    streams: int = 0
    broken: list[str] = field(default_factory=list)


async def storm(server: Server, seconds: float, log: IO[bytes], tell: Callable[[str], None] = lambda _: None) -> Storm:
    """Strike for so many seconds, then compare what each client has read with the tables.

    What the processes write goes to `log`.

    Each kind strikes at least once, but for the crash of a server that is not ours.
    """
    done, loop = Storm(), asyncio.get_running_loop()
    with ExitStack() as stack:
        url = stack.enter_context(own_database(server))
        sessions = [f"case-{number}" for number in range(SESSIONS)]
        with psycopg.connect(cell_conninfo(url)) as connection:
            install(connection)
            connection.execute("select create_session(%s, s) from unnest(%s::text[]) as s", [TENANT, sessions])
        headers = {"Authorization": f"Bearer {api_key(url)}"}
        gateways = [Gateway(stack, url, log) for _ in range(GATEWAYS)]
        talker = Talker(stack, url, log)

        def urls() -> list[str]:
            return [gateway.process.url for gateway in gateways]

        async with AsyncExitStack() as opened:
            pool = await opened.enter_async_context(make_pool(cell_conninfo(url, application_name="storm"), max_size=4))
            writers = Writers(pool, sessions, headers, urls)
            hoppers = [Hopper(sessions[number % SESSIONS], headers, urls) for number in range(CLIENTS)]
            writing = asyncio.create_task(writers.write())
            reading = [asyncio.create_task(hopper.read_all()) for hopper in hoppers]
            end = loop.time() + seconds
            try:
                while loop.time() < end and not writing.done():
                    for strike in random.sample(STRIKES, len(STRIKES)):
                        await asyncio.sleep(random.uniform(*CALM))
                        if await _strike(strike, server, url, gateways, talker, done):
                            done.strikes[strike] += 1
                            tell(f"{loop.time() - end + seconds:4.0f} s: {strike}")
                writers.stop()
                await asyncio.wait_for(writing, END_SECONDS)
                await _runs_ended(url)
                with psycopg.connect(cell_conninfo(url)) as connection:
                    connection.execute("select close_session(%s, s) from unnest(%s::text[]) as s", [TENANT, sessions])
                _, late = await asyncio.wait(reading, timeout=END_SECONDS)
                if late:
                    done.broken.append(f"{len(late)} of {CLIENTS} clients had not read to the end after a minute")
            finally:
                for task in (writing, *reading):
                    task.cancel()
                results = await asyncio.gather(writing, *reading, return_exceptions=True)
        done.broken += [repr(result) for result in results if isinstance(result, Exception)]
        _compare(url, writers, hoppers, done)
    return done


class Gateway:
    """An API process, and the next one after its death, at another address."""

    def __init__(self, stack: ExitStack, url: str, log: IO[bytes]) -> None:
        self._stack = stack
        self._url, self._log = url, log
        self.follow()

    def follow(self) -> None:
        """Start the next one."""
        self.process: ApiProcess = self._stack.enter_context(api_process(self._url, log=self._log))


class Talker:
    """The worker process of the runs that talk."""

    def __init__(self, stack: ExitStack, url: str, log: IO[bytes]) -> None:
        self._stack = stack
        self._of = (url, log)
        self._process = stack.enter_context(_talker(url, log))

    def kill(self) -> None:
        """SIGKILL, and start another."""
        self._process.kill()
        self._process.wait()
        self._process = self._stack.enter_context(_talker(*self._of))

    def revive(self) -> None:
        """Start another if it has ended by itself, as where its database was away when it started."""
        if self._process.poll() is not None:
            self._process = self._stack.enter_context(_talker(*self._of))


@contextmanager
def _talker(url: str, log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tests.chaos.streams.talker", url]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=log, stderr=log) as process:
        try:
            yield process
        finally:
            process.kill()


async def _strike(strike: str, server: Server, url: str, gateways: list[Gateway], talker: Talker, done: Storm) -> bool:
    """Whether it struck."""
    gateway = random.choice(gateways)
    talker.revive()
    match strike:
        case "kill":
            gateway.process.kill()
            gateway.follow()
        case "terminate":
            await _serving(gateway)
            if status := await asyncio.to_thread(gateway.process.terminate):
                done.broken.append(f"a process that was to stop ended with status {status}")
            gateway.follow()
        case "cut":
            return await asyncio.to_thread(_cut, url)
        case "crash":
            if server.ours is None:
                return False
            await asyncio.to_thread(server.crash)
        case "kill_worker":
            await asyncio.to_thread(talker.kill)
    for each in gateways:
        if each.process.process.poll() is not None:  # Its database was away when it started.
            each.follow()
    return True


async def _serving(gateway: Gateway) -> None:
    """Wait until it serves: one that is still starting dies of SIGTERM as any program does."""
    async with httpx.AsyncClient(base_url=gateway.process.url, timeout=START_SECONDS) as client:
        await client.get("/health/live")


def _cut(url: str) -> bool:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity"
            " where application_name = %s and datname = current_database()",
            [HUB],
        )
        return cursor.fetchone() != (0,)


async def _runs_ended(url: str) -> None:
    async with asyncio.timeout(END_SECONDS):
        while True:
            try:
                with psycopg.connect(cell_conninfo(url)) as connection:
                    if connection.execute("select from run where queue = %s limit 1", [QUEUE]).fetchone() is None:
                        return
            except psycopg.OperationalError:
                pass
            await asyncio.sleep(0.1)


def _compare(url: str, writers: Writers, hoppers: list[Hopper], done: Storm) -> None:
    """What each client has read is what the table has; and that is what the writers were told was taken."""
    with psycopg.connect(cell_conninfo(url)) as connection:
        for session, keys in writers.events.items():
            rows = connection.execute(
                "select seq, type, data, key from event where tenant_id = %s and session_id = %s order by seq",
                [TENANT, session],
            ).fetchall()
            truth = [(seq, type_, data) for seq, type_, data, _ in rows]
            if [seq for seq, _, _ in truth] != list(range(1, len(truth) + 1)):
                done.broken.append(f"{session}: the table's own numbers have gaps")
            if lost := keys - {key for *_, key in rows}:
                done.broken.append(f"{session}: {len(lost)} events that were taken are not there: {sorted(lost)[:3]}")
            if (words := sum(type_ == "run.word" for _, type_, _ in truth)) != writers.runs[session] * WORDS:
                done.broken.append(f"{session}: {words} words of {writers.runs[session]} runs of {WORDS}")
            for number, hopper in enumerate(hoppers):
                if hopper.session == session and hopper.read != truth:
                    done.broken.append(f"client {number}: {_difference(hopper.read, truth)}")
    for hopper in hoppers:
        done.broken += hopper.faults
        done.read += len(hopper.read)
        done.streams += hopper.streams


def _difference(read: list[tuple[int, str, Any]], truth: list[tuple[int, str, Any]]) -> str:
    place = next((n for n, (got, true) in enumerate(zip(read, truth, strict=False)) if got != true), len(read))
    return (
        f"read {len(read)} events of {len(truth)}; the first that differs is {read[place : place + 2]} at {place + 1}"
    )
