"""The realtime hub: all readers of one process share one LISTEN connection and one catch-up query.

The log in Postgres is the truth. A hint says where to look; a slow poll looks anyway, so that a lost hint costs
latency, never an event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import TracebackType

import msgspec
import psycopg
import structlog
from psycopg.conninfo import make_conninfo

from howdah.app.realtime import frames
from howdah.app.realtime.due import Due, Places
from howdah.app.realtime.reader import MAX_BUFFERED_EVENTS, News, Reader, Seat
from howdah.app.realtime.rounds import Rounds
from howdah.sql.listener import listen
from howdah.sql.pool import Connection, Pool, is_pooled
from howdah.sql.stream.calls import find_news, read_sessions
from howdah.sql.stream.writer import EVENTS_CHANNEL, PARTIALS_CHANNEL

log = structlog.get_logger(__name__)

# One catch-up query: places looked at, and events returned in all, so that neither many readers nor one far behind
# makes it long; 2,048 events of the usual size are some 2 MB.
MAX_PLACES = 512
MAX_EVENTS = 2_048
# Of those who are behind, few at a time, each for long: a client that comes back gets what it missed in a write or two.
MAX_PLACES_BEHIND = 16
# After a failed query: Postgres restarts within seconds.
RETRY_SECONDS = 0.2


class Hub:
    """Feeds all readers of this process. ``async with`` starts and stops it.

    Attributes
    ----------
    delivered
        Events fed so far, one for each reader that took it.
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
        self._events, self._partials = f"{cell}.{EVENTS_CHANNEL}", f"{cell}.{PARTIALS_CHANNEL}"
        self._seats: dict[str, set[Seat]] = {}
        # Apart, so that those who come back in a crowd do not keep news from those who are live.
        self._live = Due(MAX_PLACES, MAX_EVENTS)
        self._behind = Due(MAX_PLACES_BEHIND, MAX_EVENTS)
        self._tasks: list[asyncio.Task[None]] = []
        self._rounds = Rounds(self._find_news, deaf=is_pooled(conninfo))
        self.closing = False
        self.delivered = 0

    @property
    def readers(self) -> int:
        """How many there are now."""
        return len(self._rounds)

    @property
    def slow(self) -> int:
        """How many were let go as their clients took too little."""
        return self._rounds.slow

    async def start(self) -> None:
        """Begin to listen and to feed."""
        listening = listen(self._conninfo, [self._events, self._partials], self._heard)
        work = (
            listening,
            self._feed_all(self._live),
            self._feed_all(self._behind),
            self._rounds.run(),
            self._rounds.poll(),
        )
        self._tasks = [asyncio.create_task(each) for each in work]
        for task in self._tasks:
            task.add_done_callback(self._close_if_failed)

    def close(self) -> None:
        """End every reader after what it has, also those that come from now on."""
        self.closing = True
        for reader in self._rounds.readers():
            reader.finish("stopping")

    async def aclose(self) -> None:
        """`close`, and stop."""
        self.close()
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

    def _close_if_failed(self, task: asyncio.Task[None]) -> None:
        """A hub that is deaf, or feeds nobody any more, must not keep its clients as if all were well."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("hub_fails", error=repr(error))
            self.close()

    async def first_look(self, reader: Reader) -> None:
        """Find out how the reader's sessions stand, together with all who ask at the time. It then has the
        first events.

        After that it is not fed before `add`. It waits as long as the database is away; cancelled, it leaves nothing.
        """
        looked_at = reader.first_look()
        self.look(reader.seats)
        try:
            await looked_at
        except asyncio.CancelledError:
            # A look that is under way would else put it in again.
            reader.finish("stopping")
            for seat in reader.seats:
                self._live.discard(seat)
            raise

    def add(self, reader: Reader) -> None:
        """Feed a reader from now on, until `remove`. A session that does not exist yet is waited for."""
        self._rounds.add(reader)
        for seat in reader.seats:
            self._seats.setdefault(seat.name, set()).add(seat)
        if self.closing:
            reader.finish("stopping")
        else:
            self.look(reader.seats)

    def remove(self, reader: Reader) -> None:
        """Forget a reader."""
        self._rounds.remove(reader)
        for seat in reader.seats:
            self._live.discard(seat)
            self._behind.discard(seat)
            namesakes = self._seats[seat.name]
            namesakes.discard(seat)
            if not namesakes:
                del self._seats[seat.name]

    def look(self, seats: Iterable[Seat]) -> None:
        """Read the log for these soon."""
        for seat in seats:
            if seat not in self._behind:
                self._live.add(seat)

    def make_room(self, reader: Reader) -> None:
        """The reader's client has taken what it had: read on where more was left."""
        for seat in reader.seats:
            if seat.behind:
                self._catch_up(seat)

    def _catch_up(self, seat: Seat) -> None:
        """Read on for one that is behind."""
        self._live.discard(seat)
        self._behind.add(seat)

    def _heard(self, channel: str, payload: str) -> None:
        if channel == self._partials:
            self._heard_partial(payload)
        elif payload:
            self.look(self._seats.get(payload, ()))
        else:
            self.look(seat for seats in self._seats.values() for seat in seats)

    def _heard_partial(self, payload: str) -> None:
        if not payload:
            return
        name, _, body = payload.partition(" ")
        seats = self._seats.get(name)
        if not seats:
            return
        tenant_id, session_id = next(iter(seats)).place_of
        try:
            told = msgspec.json.decode(body, type=dict)
        except msgspec.DecodeError as error:
            log.warning("partial_unreadable", session=name, error=str(error))
            return
        chunk = frames.partial(tenant_id, session_id, told)
        for seat in seats:
            reader = seat.reader
            # Whoever is behind gets the whole in its place.
            if not (reader.full or seat.behind) and (reader.types is None or told.get("type") in reader.types):
                reader.push(chunk)

    async def _feed_all(self, due: Due) -> None:
        while True:
            places = await due.take()
            try:
                await self._feed(places, due.limit(places))
            except psycopg.Error as error:
                log.warning("catch_up_failed", places=len(places), error=str(error).strip())
                for seats in places.values():
                    for seat in seats:
                        due.add(seat)
                await asyncio.sleep(RETRY_SECONDS)

    async def _feed(self, places: Places, limit: int) -> None:
        since = [next((s.since for s in seats if s.since is not None), None) for seats in places.values()]
        async with self._pool.connection() as connection:
            # In this order: a run's last events are committed with its end, or before.
            ended = await _ended_runs(connection, places)
            found = await read_sessions(connection, list(places), min(limit, MAX_BUFFERED_EVENTS), since)
        for (place, seats), of_session in zip(places.items(), found, strict=True):
            news = None if of_session is None else News(place[0], place[1], of_session)
            for seat in seats:
                before = seat.position
                seat.take(news, run_ended=place[1] in ended)
                self.delivered += seat.position - before
                if seat.behind and not seat.reader.full and seat.reader in self._rounds:
                    self._catch_up(seat)

    async def _find_news(self, seats: list[Seat]) -> None:
        """Look at those of these seats for which the log has something that nobody told us of."""
        for start in range(0, len(seats), MAX_PLACES):
            some = seats[start : start + MAX_PLACES]
            try:
                async with self._pool.connection() as connection:
                    self.look(some[number] for number in await find_news(connection, [seat.place for seat in some]))
            except psycopg.Error as error:
                log.warning("poll_failed", error=str(error).strip())


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
