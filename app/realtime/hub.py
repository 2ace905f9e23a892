"""The realtime hub: all readers of one process share one LISTEN connection and one catch-up query.

The log in Postgres is the truth. A hint says where to look; a slow poll looks anyway, so that a lost hint costs
latency, never an event. A reader keeps a number, not a backlog: what it is too slow to take stays in the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from itertools import islice
from types import TracebackType
from typing import Literal

import anyio
import psycopg
import structlog
from psycopg.conninfo import make_conninfo

from howdah.sql.listener import listen
from howdah.sql.pool import Connection, Pool
from howdah.sql.stream.calls import Event, SessionNews, read_sessions
from howdah.sql.stream.writer import EVENTS_CHANNEL

log = structlog.get_logger(__name__)

# A reader costs some 20 KB with its connection: beyond this a process would rather be two.
MAX_READERS = 20_000
# What one reader holds at most, and once more while it sends: it then reads the log at its own pace.
MAX_BUFFERED_EVENTS = 256
MAX_BUFFERED_BYTES = 1 << 20
# One catch-up query: places looked at, and events returned in all, so that neither many readers nor one far behind
# makes it long; 2,048 events of the usual size are some 2 MB.
MAX_PLACES = 512
MAX_EVENTS = 2_048
# The poll behind lost hints: every so often it looks at this many readers, the next ones in turn.
POLL_SECONDS = 1.0
MAX_POLLED = 4_096
# After a failed query: Postgres restarts within seconds.
RETRY_SECONDS = 0.2

End = Literal["closed", "stopping"]


class TooManyReaders(Exception):
    """The process has all the readers that it takes; another process may have room."""


class Reader:
    """One client's place in one session: an asynchronous iterator of batches of events, without gap or repeat.

    Attributes
    ----------
    end
        Once the iteration is over: ``closed`` (the session has ended and all is read) or ``stopping`` (this process
        goes away; go on elsewhere from the last event seen).
    """

    __slots__ = ("_arrived", "_buffer", "_buffered_bytes", "_hub", "_position", "behind", "end", "name", "place_of")

    def __init__(self, hub: Hub, tenant_id: str, session_id: str, after: int) -> None:
        self._hub = hub
        self._position = after
        self._buffer: list[Event] = []
        self._buffered_bytes = 0
        self._arrived = asyncio.Event()
        self.place_of = (tenant_id, session_id)
        self.name = f"{tenant_id}/{session_id}"
        self.behind = False
        self.end: End | None = None

    @property
    def place(self) -> tuple[str, str, int]:
        """(tenant, session, number of the last event taken from the log)."""
        return (*self.place_of, self._position)

    @property
    def full(self) -> bool:
        """Whether nothing more is fed until the client has taken what is here."""
        return len(self._buffer) >= MAX_BUFFERED_EVENTS or self._buffered_bytes >= MAX_BUFFERED_BYTES

    def __aiter__(self) -> Reader:
        return self

    async def __anext__(self) -> list[Event]:
        await self._arrived.wait()
        events, self._buffer, self._buffered_bytes = self._buffer, [], 0
        if self.end is None:
            self._arrived.clear()
            if self.behind:
                self._hub.look([self])
        elif not events:
            raise StopAsyncIteration
        return events

    def feed(self, news: SessionNews | None, *, run_ended: bool) -> None:
        """Take what there is room for; the rest is read from the log again, when there is."""
        for event in news.events if news is not None else ():
            if self.full:
                break
            self._buffer.append(event)
            self._buffered_bytes += len(event.data)
            self._position = event.seq
        self.behind = news is not None and self._position < news.last_seq
        if not self.behind and (run_ended or (news is not None and news.closed)):
            self.finish("closed")
        elif self._buffer:
            self._arrived.set()

    def finish(self, end: End) -> None:
        """Give out what is buffered, then stop."""
        self.end = self.end or end
        self._arrived.set()


class Hub:
    """Feeds all readers of this process. ``async with`` starts and stops it.

    Attributes
    ----------
    closing
        Set it, and every reader stops after what it has.
    """

    def __init__(self, pool: Pool, conninfo: str, cell: str) -> None:
        self._pool = pool
        self._conninfo = make_conninfo(
            conninfo,
            application_name="howdah-hub",
            # A connection that died without a word is noticed within half a minute.
            keepalives_idle=15,
            keepalives_interval=5,
            keepalives_count=3,
        )
        self._channel = f"{cell}.{EVENTS_CHANNEL}"
        self._readers: dict[Reader, None] = {}
        self._by_name: dict[str, set[Reader]] = {}
        self._due: dict[Reader, None] = {}
        self._look = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.closing = anyio.Event()

    @property
    def readers(self) -> int:
        """How many there are now."""
        return len(self._readers)

    async def start(self) -> None:
        """Begin to listen and to feed."""
        listening = listen(self._conninfo, [self._channel], self._heard)
        self._tasks = [asyncio.create_task(work) for work in (listening, self._feed_all(), self._stop_readers())]

    async def aclose(self) -> None:
        """End every reader after what it has, and stop."""
        self.closing.set()
        self._finish_readers()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __aenter__(self) -> Hub:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @asynccontextmanager
    async def subscribe(self, tenant_id: str, session_id: str, after: int = 0) -> AsyncIterator[Reader]:
        """Read a session's events numbered above `after`. A session that does not exist yet is waited for.

        Raises
        ------
        TooManyReaders
            If this process has 20,000 readers already.
        """
        if len(self._readers) >= MAX_READERS:
            raise TooManyReaders(f"this process has {MAX_READERS:,} readers: connect to another, or come back later")
        reader = Reader(self, tenant_id, session_id, after)
        self._readers[reader] = None
        self._by_name.setdefault(reader.name, set()).add(reader)
        if self.closing.is_set():
            reader.finish("stopping")
        else:
            self.look([reader])
        try:
            yield reader
        finally:
            del self._readers[reader]
            self._due.pop(reader, None)
            namesakes = self._by_name[reader.name]
            namesakes.remove(reader)
            if not namesakes:
                del self._by_name[reader.name]

    def look(self, readers: Iterable[Reader]) -> None:
        """Read the log for these soon."""
        self._due.update(dict.fromkeys(readers))
        if self._due:
            self._look.set()

    def _heard(self, _channel: str, name: str) -> None:
        self.look(self._by_name.get(name, ()) if name else self._readers)

    async def _feed_all(self) -> None:
        loop = asyncio.get_running_loop()
        poll_at = loop.time() + POLL_SECONDS
        while True:
            try:
                async with asyncio.timeout_at(poll_at):
                    await self._look.wait()
            except TimeoutError:
                pass
            if loop.time() >= poll_at:
                poll_at = loop.time() + POLL_SECONDS
                self._look_in_turn()
            self._look.clear()
            try:
                await self._feed_due()
            except psycopg.Error as error:
                log.warning("catch_up_failed", readers=len(self._due), error=str(error))
                await asyncio.sleep(RETRY_SECONDS)

    def _look_in_turn(self) -> None:
        polled = list(islice(self._readers, MAX_POLLED))
        for reader in polled:
            # To the end of the queue: the next poll begins with others.
            del self._readers[reader]
            self._readers[reader] = None
        self.look(polled)

    async def _feed_due(self) -> None:
        while self._due:
            places: dict[tuple[str, str, int], list[Reader]] = {}
            for reader in list(self._due):
                if len(places) == MAX_PLACES and reader.place not in places:
                    continue
                # Out before the query: what is committed after its snapshot puts the reader in again.
                del self._due[reader]
                if reader.full:
                    reader.behind = True
                elif reader.end is None:
                    places.setdefault(reader.place, []).append(reader)
            if places:
                await self._feed(places)

    async def _feed(self, places: dict[tuple[str, str, int], list[Reader]]) -> None:
        limit = min(MAX_EVENTS // len(places), MAX_BUFFERED_EVENTS)
        try:
            async with self._pool.connection() as connection:
                # In this order: a run's last events are committed with its end, or before.
                ended = await _ended_runs(connection, places)
                news = await read_sessions(connection, list(places), limit)
        except BaseException:
            self.look(reader for readers in places.values() for reader in readers if reader in self._readers)
            raise
        for (place, readers), of_session in zip(places.items(), news, strict=True):
            for reader in readers:
                reader.feed(of_session, run_ended=place[1] in ended)
                if reader.behind and not reader.full and reader in self._readers:
                    self.look([reader])

    async def _stop_readers(self) -> None:
        await self.closing.wait()
        self._finish_readers()

    def _finish_readers(self) -> None:
        for reader in self._readers:
            reader.finish("stopping")


async def _ended_runs(connection: Connection, places: Iterable[tuple[str, str, int]]) -> set[str]:
    """Those of the sessions that belong to one run alone, ``run:<id>``, and whose run has ended."""
    ids = {int(session.removeprefix("run:")) for _, session, _ in places if session.startswith("run:")}
    if not ids:
        return set()
    cursor = await connection.execute(
        "select id from run_history where id = any(%s::bigint[]) and finished_at >= run_created_at(%s)",
        [list(ids), min(ids)],
    )
    return {f"run:{row[0]}" for row in await cursor.fetchall()}
