"""One client's place in the sessions that it watches, and what waits to be sent to it.

A reader keeps numbers, not a backlog: what it is too slow to take stays in the log, and is read from there again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from howdah.app.realtime import frames
from howdah.app.realtime.cursor import Cursor
from howdah.sql.stream.calls import SessionNews

# What waits for one client at most. As much again is on its way to the socket, and the socket holds some.
MAX_BUFFERED_EVENTS = 256
MAX_BUFFERED_BYTES = 128 * 1024

End = Literal["closed", "stopping", "slow"]
State = Literal["unasked", "unknown", "open", "closed"]


@dataclass(slots=True)
class News:
    """What a catch-up has found in one session, encoded once for all who read it."""

    tenant_id: str
    session_id: str
    found: SessionNews
    _lines: dict[int, bytes] = field(default_factory=dict)
    _whole: dict[int, bytes] = field(default_factory=dict)

    def frame(self, number: int, reader: Reader) -> bytes:
        """The event at this place of what was found, as the reader's client gets it."""
        line = self._lines.get(number)
        if line is None:
            line = self._lines[number] = frames.data_line(self.tenant_id, self.session_id, self.found.events[number])
        if len(reader.seats) > 1:
            return b"id: %b\n%b" % (reader.id, line)
        # Where the session is all that they watch, readers share the id as well.
        whole = self._whole.get(number)
        if whole is None:
            whole = self._whole[number] = b"id: %b\n%b" % (reader.id, line)
        return whole


class Seat:
    """A reader's place in one session.

    Attributes
    ----------
    position
        Number of the last event taken from the log.
    behind
        Whether the log has more, as far as is known.
    """

    __slots__ = ("behind", "last_seq", "name", "place_of", "position", "reader", "since", "state")

    def __init__(self, reader: Reader, tenant_id: str, session_id: str, position: int) -> None:
        self.reader = reader
        self.place_of = (tenant_id, session_id)
        self.name = f"{tenant_id}/{session_id}"
        self.position = position
        self.since: datetime | None = None
        self.behind = False
        self.last_seq = 0
        self.state: State = "unasked"

    @property
    def place(self) -> tuple[str, str, int]:
        """(tenant, session, number of the last event taken from the log)."""
        return (*self.place_of, self.position)

    def take(self, news: News | None, *, run_ended: bool) -> None:
        """Take what the reader has room for; the rest is read from the log again, when there is."""
        reader = self.reader
        if news is None:
            self.state = "closed" if run_ended else "unknown"
        else:
            found = news.found
            if self.position + 1 < found.first_seq and not reader.full:
                first, self.position = self.position + 1, found.first_seq - 1
                reader.push(frames.gap(self.place_of[1], first, self.position, reader.id))
            for number, event in enumerate(found.events):
                if event.seq <= self.position:
                    continue  # Two looks have crossed: the other was first.
                if reader.full:
                    break
                self.position = event.seq
                self.since = event.created_at
                if reader.types is None or event.type in reader.types:
                    reader.push(news.frame(number, reader))
                else:
                    reader.passed_over = True
            # Of two looks that have crossed, the older must not hide what the newer has told.
            self.last_seq = max(self.last_seq, found.last_seq)
            self.behind = self.position < self.last_seq
            self.state = "closed" if found.closed or run_ended else "open"
        reader.looked_at(self)


class Reader:
    """One client's stream over some sessions of a tenant.

    Parameters
    ----------
    after
        One number a session: only events above it.
    types
        Only events of these types; None: all.

    Attributes
    ----------
    end
        Once nothing more comes: ``closed`` (the sessions have ended and all is read), ``stopping`` (this process goes
        away: go on elsewhere from the last event seen) or ``slow`` (the client took too little).
    sending_since
        When the client was last given something that it has not taken yet, by the loop's clock; 0: it has all.
    """

    __slots__ = (
        "_chunks",
        "_first",
        "_size",
        "_waiter",
        "cursor",
        "end",
        "passed_over",
        "seats",
        "sending_since",
        "types",
    )

    def __init__(
        self, tenant_id: str, session_ids: Sequence[str], after: Sequence[int], types: frozenset[str] | None = None
    ) -> None:
        self.cursor = Cursor(tenant_id, session_ids)
        self.seats = [
            Seat(self, tenant_id, session_id, position) for session_id, position in zip(session_ids, after, strict=True)
        ]
        self.types = types
        self.passed_over = False
        self.end: End | None = None
        self.sending_since = 0.0
        self._chunks: list[bytes] = []
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None
        self._first: asyncio.Future[None] | None = None

    @property
    def id(self) -> bytes:
        """The `id:` of the last event taken from the log."""
        return self.cursor.write([seat.position for seat in self.seats])

    @property
    def full(self) -> bool:
        """Whether nothing more is taken until the client has taken what is here."""
        return len(self._chunks) >= MAX_BUFFERED_EVENTS or self._size >= MAX_BUFFERED_BYTES

    @property
    def has_all(self) -> bool:
        """Whether every session has ended, and the client has all of it."""
        return self.end == "closed" and not self._chunks

    def push(self, chunk: bytes) -> None:
        """Have this sent."""
        self._chunks.append(chunk)
        self._size += len(chunk)
        self._wake()

    async def next(self) -> bytes:
        """What is to be sent now, as soon as there is anything; b"" at the end."""
        while not self._chunks:
            if self.end is not None:
                return b""
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        chunks, self._chunks, self._size = self._chunks, [], 0
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def finish(self, end: End) -> None:
        """Give out what waits, then stop."""
        self.end = self.end or end
        self._wake()

    def drop(self) -> None:
        """Forget what waits: it stays in the log."""
        self._chunks, self._size = [], 0

    def first_look(self) -> asyncio.Future[None]:
        """Done when all of its sessions have been looked at, from now on."""
        for seat in self.seats:
            seat.state = "unasked"
        self._first = asyncio.get_running_loop().create_future()
        return self._first

    def looked_at(self, seat: Seat) -> None:
        """A catch-up has come to this seat."""
        if self._first is not None and all(s.state != "unasked" for s in self.seats):
            if not self._first.done():
                self._first.set_result(None)
            self._first = None
        if seat.state == "closed" and all(s.state == "closed" and not s.behind for s in self.seats):
            self.finish("closed")

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
