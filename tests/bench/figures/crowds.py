"""What thousands of clients cost one process: one event to all of them, all of them silent, all of them coming back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median

import httpx
import psycopg
import uvloop

from howdah.sql.pool import cell_conninfo
from tests.app.api_servers import listening_socket, socket_url
from tests.bench.database import settle
from tests.bench.event_producer import DATA
from tests.bench.figure import Figure, Measure, Target
from tests.bench.process import cpu_seconds, resident_megabytes, started_module
from tests.bench.stage import DELIVERY_SECONDS, stage
from tests.bench.stream_clients import StreamClients, allow_connections, stream_clients
from tests.bench.system import Gateway, System

EVENTS = 20  # told to all, one after another
IDLE_SECONDS = 20.0  # longer than the time between two signs of life
BEHIND = 100


@dataclass(frozen=True, slots=True)
class Crowd:
    """A server process and its clients. `tell` brings the next event to all: the time in ns when there was one."""

    pid: int
    clients: StreamClients
    connect: Callable[[], Awaitable[None]]
    tell: Callable[[], Awaitable[int]]


@asynccontextmanager
async def crowd(server_url: str, system: System | Gateway, clients: int, sessions: int) -> AsyncIterator[Crowd]:
    """So many clients, spread over so many sessions; a plain gateway has none."""
    if isinstance(system, Gateway):
        async with _gateway_crowd(system, clients) as of_gateway:
            yield of_gateway
        return
    async with stage(server_url, system, sessions, clients) as played:
        paths = [f"/v1/sessions/s{number % sessions}/events" for number in range(clients)]

        async def tell() -> int:
            await played.producer.append_to_all()
            return played.producer.committed_at[0][-1]

        yield Crowd(played.pid, played.clients, lambda: played.clients.connect(paths), tell)
        played.check_table()


@asynccontextmanager
async def _gateway_crowd(gateway: Gateway, clients: int) -> AsyncIterator[Crowd]:
    allow_connections(clients)
    told = 0
    with (
        listening_socket() as listener,
        started_module("stream_server", gateway.kind, listener.fileno(), pass_fds=[listener.fileno()]) as server,
    ):
        url = socket_url(listener)
        with stream_clients(url, "none") as swarm:
            async with httpx.AsyncClient(base_url=url) as client:

                async def tell() -> int:
                    nonlocal told
                    told += 1
                    frame = f'id: {told}\ndata: {{"type":"answer.delta","sequence":"{told:020}","data":{DATA}}}\n\n'
                    return int((await client.post("/", content=frame.encode())).text)

                yield Crowd(server.pid, swarm, lambda: swarm.connect(["/"] * clients), tell)


def take_fanout(server_url: str, _: Figure, system: System | Gateway, runs: int) -> Mapping[str, float]:
    """Events to `runs` clients of one session, each when all have read the one before."""
    return uvloop.run(_fanout(server_url, system, runs))


async def _fanout(server_url: str, system: System | Gateway, runs: int) -> dict[str, float]:
    committed = []
    async with crowd(server_url, system, runs, 1) as audience:
        await audience.connect()
        await audience.tell()
        await audience.clients.wait(runs, DELIVERY_SECONDS)
        await audience.clients.take()
        before = cpu_seconds(audience.pid), await audience.clients.cpu_seconds()
        for number in range(EVENTS):
            committed.append(await audience.tell())
            await audience.clients.wait(runs * (number + 2), DELIVERY_SECONDS)
        served, read = cpu_seconds(audience.pid) - before[0], await audience.clients.cpu_seconds() - before[1]
        taken = await audience.clients.take()
    last = [max(arrivals[n] for _, arrivals in taken) - at for n, at in enumerate(committed)]
    seconds = sum(last) / 1e9
    return {
        "fanout_5000": median(last) / 1e6,
        "fanout_rate": runs * EVENTS / seconds,
        "fanout_cpu": served / (runs * EVENTS) * 1e6,
        "fanout_clients_cpu": read / seconds * 100,
    }


def take_idle(server_url: str, _: Figure, system: System | Gateway, runs: int) -> Mapping[str, float]:
    """`runs` clients of as many sessions, who hear nothing for 20 s, and then one event each."""
    return uvloop.run(_idle(server_url, system, runs))


async def _idle(server_url: str, system: System | Gateway, runs: int) -> dict[str, float]:
    async with crowd(server_url, system, runs, runs) as audience:
        await audience.connect()
        used = cpu_seconds(audience.pid)
        await asyncio.sleep(IDLE_SECONDS)
        used, memory = cpu_seconds(audience.pid) - used, resident_megabytes(audience.pid)
        await audience.tell()
        await audience.clients.wait(runs, DELIVERY_SECONDS)
    return {"idle_10000": memory, "idle_cpu": used / IDLE_SECONDS * 100}


def take_reconnect(server_url: str, _: Figure, system: System, runs: int) -> Mapping[str, float]:
    """`runs` clients of as many sessions leave, 100 events go into each, and they come back at the same time."""
    return uvloop.run(_reconnect(server_url, system, runs))


async def _reconnect(server_url: str, system: System, runs: int) -> dict[str, float]:
    async with stage(server_url, system, runs) as played:
        await played.connect()
        await played.clients.leave()
        _append_to_all(played.url, BEHIND)
        before = played.api_cpu()
        started = time.monotonic()
        await played.clients.reconnect(runs * BEHIND)
        seconds = time.monotonic() - started
        used = played.api_cpu() - before
        # They are live again: what comes now comes too.
        _append_to_all(played.url, 1)
        played.received = runs * BEHIND
        await played.delivered(runs)
    return {"reconnect_5000": seconds, "reconnect_rate": runs * BEHIND / seconds, "reconnect_cpu": used}


def _append_to_all(url: str, events: int) -> None:
    """So many to each session, without the engine, which would take minutes for as many as nobody appends at once."""
    with psycopg.connect(cell_conninfo(url)) as connection:
        connection.execute(
            "insert into event (tenant_id, session_id, seq, type, data, created_at)"
            " select s.tenant_id, s.id, s.last_seq + n, 'answer.delta', %s, now()"
            " from session as s cross join generate_series(1, %s) as n",
            [DATA, events],
        )
        connection.execute(
            "update session set last_seq = last_seq + %s, last_at = now(), first_at = least(first_at, now())", [events]
        )
        connection.execute("select pg_notify('howdah.events', '')")
    settle(url)


FIGURES = (
    Figure(
        "fanout_5000",
        "one event to 5,000 clients of one session: until the last has read it",
        (
            Measure("fanout_5000", "ms", higher_is_better=False),
            Measure("fanout_rate", "messages/s"),
            Measure("fanout_cpu", "µs/message", higher_is_better=False),
            Measure("fanout_clients_cpu", "% of a core", higher_is_better=False),
        ),
        take_fanout,
        (Target("fanout_5000", 400), Target("fanout_rate", 20_000)),
        rounds=1,
    ),
    Figure(
        "idle_10000",
        "the memory of one process with 10,000 silent clients of as many sessions",
        (
            Measure("idle_10000", "MB", higher_is_better=False),
            Measure("idle_cpu", "% of a core", higher_is_better=False),
        ),
        take_idle,
        (Target("idle_10000", 400),),
        rounds=1,
    ),
    Figure(
        "reconnect_5000",
        "5,000 clients come back at the same time, each 100 events behind: until all have read them",
        (
            Measure("reconnect_5000", "s", higher_is_better=False),
            Measure("reconnect_rate", "events/s"),
            Measure("reconnect_cpu", "s of CPU", higher_is_better=False),
        ),
        take_reconnect,
        (Target("reconnect_5000", 5),),
        rounds=1,
    ),
)
