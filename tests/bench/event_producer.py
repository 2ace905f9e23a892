"""A producer of events, as a worker or a service is one: group commit, and hints after it. It notes the times."""

from __future__ import annotations

import asyncio
import random
import time
from array import array
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from howdah.sql.group_commit import GroupCommit
from howdah.sql.notifier import Notifier
from howdah.sql.pool import cell_conninfo, make_pool
from howdah.sql.stream.calls import Appended, NewEvent
from howdah.sql.stream.writer import event_writer

TENANT = "default"
TICK = 0.002  # seconds between looks at what is due
# Some words of an answer, as a model brings them.
DATA = '{"delta": "and so the elephant carried the howdah over the pass, with all who sat in it, before the snow came"}'


class EventProducer:
    """Appends to sessions, and knows when.

    Attributes
    ----------
    appended_at
        For each session and each of its events, in order: when the append was called, in ns of Unix.
    committed_at
        The same: when this process learnt that it was on disk.
    """

    def __init__(self, writer: GroupCommit[NewEvent, Appended], sessions: Sequence[str]) -> None:
        self._writer = writer
        self._sessions = sessions
        self._random = random.Random(1)
        self._under_way = 0
        self._refused: list[str] = []
        self.appended_at = [array("q") for _ in sessions]
        self.committed_at = [array("q") for _ in sessions]

    @property
    def committed(self) -> int:
        """Events on disk."""
        return sum(map(len, self.committed_at))

    async def append(self, session: int) -> None:
        """Append one event to the session at that place, and wait until it is on disk."""
        self._post(session)
        await self._drain()

    async def append_to_all(self) -> None:
        """One to each session."""
        for session in range(len(self._sessions)):
            self._post(session)
        await self._drain()

    async def keep_pace(self, rate: float, events: int) -> float:
        """Append `events` by the clock, `rate` a second, each to a session at random, whether earlier ones are on disk.

        Returns
        -------
        float
            Seconds by which the last was on disk later than it was due.

        Raises
        ------
        RuntimeError
            If the engine refused one.
        """
        start, posted = time.monotonic(), 0
        while posted < events:
            due = min(events, int((time.monotonic() - start) * rate) + 1)
            for _ in range(due - posted):
                self._post(self._random.randrange(len(self._sessions)))
            posted = due
            await asyncio.sleep(TICK)
        await self._drain()
        return time.monotonic() - start - events / rate

    def _post(self, session: int) -> None:
        self._under_way += 1
        event = NewEvent(TENANT, self._sessions[session], "answer.delta", DATA)
        self._writer.post(event, partial(self._told, session, time.time_ns()))

    def _told(self, session: int, appended_at: int, result: Appended | BaseException) -> None:
        self._under_way -= 1
        if isinstance(result, Appended) and result.seq == len(self.committed_at[session]) + 1:
            self.appended_at[session].append(appended_at)
            self.committed_at[session].append(time.time_ns())
        else:
            self._refused.append(f"{self._sessions[session]}: {result}")

    async def _drain(self) -> None:
        await self._writer.drain()
        if self._under_way or self._refused:
            raise RuntimeError(f"{self._under_way} events have no answer; refused: {'; '.join(self._refused[:3])}")


@asynccontextmanager
async def event_producer(url: str, sessions: Sequence[str]) -> AsyncIterator[EventProducer]:
    """A producer that is alone in writing to `sessions`, which are there and empty."""
    async with make_pool(cell_conninfo(url), max_size=2, check=False) as pool:
        notifier = Notifier(pool)
        writer = event_writer(pool, notifier)
        try:
            yield EventProducer(writer, sessions)
        finally:
            await writer.drain()
            await notifier.aclose()
