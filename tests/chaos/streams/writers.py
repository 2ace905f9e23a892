"""Those who write to the sessions at the same time: SQL in batches, REST, and runs; each knows what was taken."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Sequence

import httpx
import psycopg

from howdah.sql.notifier import Notifier
from howdah.sql.pool import Pool
from howdah.sql.queue.calls import NewRun, enqueue_runs
from howdah.sql.stream.calls import NewEvent
from howdah.sql.stream.writer import event_writer
from tests.chaos.streams.talker import QUEUE

TENANT = "default"
SQL_BATCH = (1, 60)  # events, at random
SQL_PAUSE = 0.25  # seconds between batches
REST_PAUSE = 0.05
RUNS = 5  # of a batch
RUNS_PAUSE = 0.4
AGAIN = 0.1  # seconds after a failure until the same is sent again


class Writers:
    """Each event and run has a key, so that what got no answer can be sent again.

    Attributes
    ----------
    events
        Keys of the events that were taken, a session each.
    runs
        Runs that were taken, so many a session.
    """

    def __init__(
        self, pool: Pool, sessions: Sequence[str], headers: dict[str, str], urls: Callable[[], list[str]]
    ) -> None:
        self.events: dict[str, set[str]] = {session: set() for session in sessions}
        self.runs = dict.fromkeys(sessions, 0)
        self._pool = pool
        self._sessions = sessions
        self._headers = headers
        self._urls = urls
        self._over = asyncio.Event()

    async def write(self) -> None:
        """Write until told to stop, and what is under way to its end."""
        async with asyncio.TaskGroup() as group:
            for work in (self._append_by_sql(), self._append_by_rest(), self._enqueue()):
                group.create_task(work)

    def stop(self) -> None:
        self._over.set()

    async def _append_by_sql(self) -> None:
        notifier = Notifier(self._pool)
        writer = event_writer(self._pool, notifier)
        numbers = itertools.count()

        async def append(session: str, key: str) -> None:
            if (await writer.submit(NewEvent(TENANT, session, "sql.note", "{}", key))).seq is None:
                raise RuntimeError(f"event {key} of {session} was refused")
            self.events[session].add(key)

        while not self._over.is_set():
            async with asyncio.TaskGroup() as group:
                for _ in range(random.randint(*SQL_BATCH)):
                    group.create_task(append(random.choice(self._sessions), f"sql/{next(numbers)}"))
            await asyncio.sleep(SQL_PAUSE)
        await notifier.aclose()

    async def _append_by_rest(self) -> None:
        async with httpx.AsyncClient(headers=self._headers, timeout=10.0) as client:
            for number in itertools.count():
                if self._over.is_set():
                    return
                session, key = random.choice(self._sessions), f"rest/{number}"
                await self._post(client, session, key)
                self.events[session].add(key)
                await asyncio.sleep(REST_PAUSE)

    async def _post(self, client: httpx.AsyncClient, session: str, key: str) -> None:
        """Post to any process until one has answered that it is there."""
        while True:
            url = f"{random.choice(self._urls())}/v1/sessions/{session}/events"
            try:
                response = await client.post(url, json={"type": "rest.note", "data": {}, "key": key})
                if response.status_code < 300:
                    return
                if response.status_code < 500:
                    raise RuntimeError(f"event {key} of {session} was refused: {response.text}")
            except httpx.HTTPError:
                pass
            await asyncio.sleep(AGAIN)

    async def _enqueue(self) -> None:
        for number in itertools.count():
            if self._over.is_set():
                return
            sessions = random.choices(self._sessions, k=RUNS)
            batch = [
                NewRun(TENANT, "talk", queue=QUEUE, session_id=session, idempotency_key=f"{number}/{place}")
                for place, session in enumerate(sessions)
            ]
            while True:
                try:
                    async with self._pool.connection() as connection:
                        await enqueue_runs(connection, batch)
                    break
                except psycopg.OperationalError:
                    await asyncio.sleep(AGAIN)
            for session in sessions:
                self.runs[session] += 1
            await asyncio.sleep(RUNS_PAUSE)
