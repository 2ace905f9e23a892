"""While runs are enqueued: workers die or freeze, connections break, the server falls."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import psycopg

from howdah.sql.pool import Connection, Pool
from tests.chaos import enqueuer, worker
from tests.chaos.crew import Crew
from tests.chaos.enqueuer import Enqueuer, requeue_blocking
from tests.chaos.server import Server
from tests.chaos.watcher import watch

PAUSE = (0.8, 2.8)  # seconds between two disturbances, at random
SHARES = {"kill": 3, "cut": 4, "freeze": 1}  # of the disturbances; the server's crashes have times of their own
CRASH_EVERY = (25.0, 50.0)  # seconds, at random: at least one a minute
OVERTIME = 3.0  # times the minutes, one at least, for what is still to be enqueued then on a slow machine
ANSWER_SECONDS = 20.0  # for peers to give a frozen worker up, and for it to notice
DRAIN_SECONDS = 120.0  # for what is left at the end, one rescue and one retry included
LOOK_EVERY = 0.1  # seconds


@dataclass(slots=True)
class Tally:
    """What was done to the system."""

    interrupted: int = 0
    cuts: int = 0
    crashes: int = 0
    zombies: int = 0
    seconds: float = 0.0


class Torment:
    """What befalls the system; one thing at a time, so that each is known to have struck.

    Attributes
    ----------
    unrefused
        Sentences about frozen workers that woke and were not told that they had been given up.
    """

    def __init__(self, pool: Pool, crew: Crew, server: Server, tell: Callable[[str], None]) -> None:
        self.tally = Tally()
        self.unrefused: list[str] = []
        self._pool = pool
        self._crew = crew
        self._server = server
        self._tell = tell

    async def run(self, load: Enqueuer, runs: int, seconds: float) -> None:
        """Disturb for so many seconds, and longer until all `runs` are enqueued; then wait for the last to end."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        self._crew.fill()
        enqueuing = asyncio.create_task(load.enqueue(runs))
        beside = [asyncio.create_task(requeue_blocking(load.pool)), asyncio.create_task(watch(self._pool))]
        crash_at = min(60.0, seconds) * random.uniform(0.3, 0.7)
        what: str | None
        try:
            while (elapsed := loop.time() - begin) < seconds or not enqueuing.done():
                if elapsed > seconds + OVERTIME * max(seconds, 60.0) or (enqueuing.done() and enqueuing.exception()):
                    break
                await asyncio.sleep(random.uniform(*PAUSE))
                self._crew.fill()
                if self._server.ours is not None and loop.time() - begin > crash_at:
                    crash_at += random.uniform(*CRASH_EVERY)
                    what = await self._crash()
                else:
                    what = await self._disturb(random.choices(list(SHARES), list(SHARES.values()))[0])
                if what:
                    self._tell(f"{loop.time() - begin:4.0f} s, {load.enqueued:,} runs enqueued: {what}")
            enqueuing.cancel()
            await asyncio.wait([enqueuing])
            if not enqueuing.cancelled():
                enqueuing.result()
            self._tell(f"{load.enqueued:,} runs enqueued; waiting for the last of them")
            await self._drain()
        finally:
            for task in (enqueuing, *beside):
                task.cancel()
            await asyncio.wait([enqueuing, *beside])
        for task in beside:
            if not task.cancelled():
                task.result()
        self.tally.seconds = loop.time() - begin

    async def _disturb(self, kind: str) -> str | None:
        if kind == "cut":
            return await self._cut()
        async with self._pool.connection() as connection:
            busy = await _busy(connection)
        names = self._crew.names()
        # One that runs nothing at the moment has nothing to lose.
        victims = [(names[name], worker_id, runs) for name, worker_id, runs in busy if name in names]
        if not victims:
            return None
        pid, worker_id, runs = random.choice(victims)
        if kind == "freeze":
            return await self._freeze(pid, worker_id)
        self._crew.kill(pid)
        self.tally.interrupted += runs
        return f"kill {self._crew.kills}, of a worker with {runs} runs under way"

    async def _crash(self) -> str:
        await asyncio.to_thread(self._server.crash)
        self.tally.crashes += 1
        return "the server has crashed and is up again"

    async def _cut(self) -> str | None:
        """Cut some connections of workers, or of the enqueuer."""
        application = random.choice([worker.APPLICATION, worker.APPLICATION, enqueuer.APPLICATION])
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "select count(pg_terminate_backend(pid))"
                " from (select pid from pg_stat_activity where application_name = %s and datname = current_database()"
                " order by random() limit %s) as victim",
                [application, random.choice([1, 2, 8])],
            )
            (cuts,) = await cursor.fetchone() or (0,)
        self.tally.cuts += cuts
        return f"{cuts} connections of {application} cut" if cuts else None

    async def _freeze(self, pid: int, worker_id: int) -> str:
        """Stop a worker until its peers have given it up, write down what it had, and let it go on."""
        self._crew.freeze(pid)
        try:
            held: list[tuple[int, int]] = []
            # What it has the last time it is seen is what was taken from it: whatever it had sent has arrived by then.
            given_up = await self._wait_until(lambda: self._see_frozen(worker_id, held))
            async with self._pool.connection() as connection, connection.cursor() as cursor:
                await cursor.executemany("insert into chaos.chaos_zombie values (%s, %s)", held)
        finally:
            self._crew.thaw(pid)
        if not given_up:
            self.unrefused.append(f"worker {worker_id} was silent for {ANSWER_SECONDS:g} s and nobody gave it up")
        elif not await self._wait_until(lambda: self._is_back(pid, worker_id)):
            self.unrefused.append(f"worker {worker_id} woke and did not register again")
        self.tally.zombies += 1
        return f"a worker with {len(held)} runs frozen, given up, and awake again"

    async def _see_frozen(self, worker_id: int, held: list[tuple[int, int]]) -> bool:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "select r.id, r.attempt from worker as w left join run as r on r.worker_id = w.id"
                " and r.state = 'running' where w.id = %s",
                [worker_id],
            )
            seen = await cursor.fetchall()
        if seen:
            held[:] = [(run_id, attempt) for run_id, attempt in seen if run_id is not None]
        return not seen

    async def _is_back(self, pid: int, worker_id: int) -> bool:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "select from worker where name = %s and id > %s", [f"chaos-{pid}", worker_id]
            )
            return await cursor.fetchone() is not None

    async def _drain(self) -> None:
        async def nothing_lives() -> bool:
            self._crew.fill()
            try:
                async with self._pool.connection() as connection:
                    cursor = await connection.execute("select not exists (select from run)")
                    return await cursor.fetchone() == (True,)
            except psycopg.OperationalError:
                return False

        await self._wait_until(nothing_lives, DRAIN_SECONDS)

    async def _wait_until(self, true: Callable[[], Awaitable[bool]], seconds: float = ANSWER_SECONDS) -> bool:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not await true():
            if loop.time() > end:
                return False
            await asyncio.sleep(LOOK_EVERY)
        return True


async def _busy(connection: Connection) -> list[tuple[str, int, int]]:
    """(a worker's name, its id, its runs under way), of those that have some."""
    cursor = await connection.execute(
        "select w.name, w.id, count(*) from worker as w join run as r on r.worker_id = w.id"
        " where r.state = 'running' group by w.name, w.id"
    )
    return [(row[0], row[1], row[2]) for row in await cursor.fetchall()]
