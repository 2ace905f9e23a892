"""What a figure of event streams is played on: an API process, clients in another, a producer in this one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
import psycopg
from numpy.typing import NDArray

from howdah.sql.pool import cell_conninfo
from tests.app.api_servers import api_process
from tests.bench.database import api_key, count, fresh_database, settle
from tests.bench.event_producer import TENANT, EventProducer, event_producer
from tests.bench.process import cpu_seconds
from tests.bench.stream_clients import StreamClients, allow_connections, stream_clients
from tests.bench.system import System

DELIVERY_SECONDS = 30.0  # for what is still under way when the last event is on disk; more is a loss


@dataclass(frozen=True, slots=True)
class Delays:
    """Of events, in ms, until the client had read them."""

    from_commit: NDArray[np.float64]
    from_append: NDArray[np.float64]

    def within(self, percent: float) -> float:
        """The time from the commit within which so many percent were read."""
        return float(np.percentile(self.from_commit, percent))


@dataclass(slots=True)
class Stage:
    """The parts, the clients not connected yet.

    Attributes
    ----------
    url, pid
        Of the database; of the API process.
    sessions
        Their ids, in the order in which the producer counts them; each is empty.
    """

    url: str
    pid: int
    sessions: Sequence[str]
    clients: StreamClients
    producer: EventProducer
    received: int = 0

    async def connect(self) -> None:
        """One client for each session."""
        await self.clients.connect([f"/v1/sessions/{session}/events" for session in self.sessions])

    async def delivered(self, events: int) -> None:
        """Return when the clients have read so many more.

        Raises
        ------
        RuntimeError
            If one is missing after 30 s, or came twice, or out of order.
        """
        self.received += events
        await self.clients.wait(self.received, DELIVERY_SECONDS)

    async def delays(self) -> Delays:
        """Of what was read since the last time, with client n reading session n."""
        from_commit, from_append = [], []
        for session, (first, arrivals) in enumerate(await self.clients.take()):
            read, these = np.asarray(arrivals), slice(first - 1, first - 1 + len(arrivals))
            from_commit.append(read - np.asarray(self.producer.committed_at[session])[these])
            from_append.append(read - np.asarray(self.producer.appended_at[session])[these])
        return Delays(np.concatenate(from_commit) / 1e6, np.concatenate(from_append) / 1e6)

    def api_cpu(self) -> float:
        """Seconds that the API process has used."""
        return cpu_seconds(self.pid)

    def check_table(self) -> None:
        """Raises RuntimeError unless the table has as many events as the producer was told."""
        if (found := count(self.url, "select from howdah.event")) != self.producer.committed:
            raise RuntimeError(f"{self.producer.committed:,} events were said to be on disk, and {found:,} are")


@asynccontextmanager
async def stage(server_url: str, system: System, sessions: int, connections: int | None = None) -> AsyncIterator[Stage]:
    """A fresh database with so many sessions, and what is to be measured on it."""
    allow_connections(sessions if connections is None else connections)
    names = [f"s{number}" for number in range(sessions)]
    with fresh_database(server_url, f"bench_{system.name}") as url:
        await system.install(url)
        with psycopg.connect(cell_conninfo(url)) as connection:
            connection.execute("select create_session(%s, s) from unnest(%s::text[]) as s", [TENANT, names])
        key = api_key(url)
        settle(url)
        with api_process(url) as api, stream_clients(api.url, key) as clients:
            async with event_producer(url, names) as producer:
                yield Stage(url, api.process.pid, names, clients, producer)
