"""Everything at once, for a few seconds: limits hold, ordered sessions stay in order, nothing is lost or deadlocks."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta

from psycopg.types.json import Jsonb

from howdah.sql.pool import Connection
from howdah.sql.queue import calls
from howdah.sql.queue.calls import NewRun
from howdah.sql.workflow.calls import flush
from tests.sql.engine import connect, new_worker, outcome, rows, value

QUEUES = ("q", "r")
TENANTS = ("a", "b", "c")
TASKS = ("t", "u")
SECONDS = 4.0
MAX_RUNNING = 9
MAX_A_TENANT = 4

# In one statement, thus of one moment: what runs at most in a queue, and of one tenant in it.
RUNNING = """
    select coalesce(max(n), 0), coalesce(max(most), 0)
    from (select sum(c) as n, max(c) as most
          from (select queue, count(*) as c from run where state = 'running' group by queue, tenant_id) as t
          group by queue) as q
"""
IN_ORDER = """
    select count(*)
    from (select tenant_id, session_id from run where order_no is not null and state <> 'blocked'
          group by tenant_id, session_id having count(*) > 1) as together
"""


async def _limit(connection: Connection, queue: str, **limits: int | None) -> None:
    await connection.execute("select set_queue_limits(%s, %s)", [queue, Jsonb(limits)])


async def _prepare(connection: Connection) -> None:
    await connection.execute("insert into tenant select t, t from unnest(%s::text[]) as t", [list(TENANTS)])
    for queue in QUEUES:
        await _limit(connection, queue, max_running=MAX_RUNNING, max_running_per_tenant=MAX_A_TENANT)


class Crowd:
    """Connections that each do one thing again and again until the time is over."""

    def __init__(self, conninfo: str) -> None:
        self.conninfo = conninfo
        self.enqueued: set[int] = set()
        self.finished: Counter[int] = Counter()
        self.claims = self.most = self.most_a_tenant = self.looks = self.together = 0

    async def act(self, *roles: Callable[[Connection, random.Random], Awaitable[None]]) -> None:
        end = asyncio.get_running_loop().time() + SECONDS

        async def again(role: Callable[[Connection, random.Random], Awaitable[None]], seed: int) -> None:
            chance = random.Random(seed)
            async with await connect(self.conninfo) as own:
                await own.execute("set deadlock_timeout = '100ms'")
                while asyncio.get_running_loop().time() < end:
                    await role(own, chance)

        async with asyncio.TaskGroup() as group:
            for seed, role in enumerate(roles):
                group.create_task(again(role, seed))

    async def enqueue(self, connection: Connection, chance: random.Random) -> None:
        if len(self.enqueued) - len(self.finished) > 400:
            await asyncio.sleep(0.02)
            return
        batch = [
            NewRun(
                chance.choice(TENANTS),
                chance.choice(TASKS),
                queue=chance.choice(QUEUES),
                priority=chance.randint(-1, 1),
                session_id=f"s{chance.randint(1, 4)}",
                order=chance.choice([None, "skip", "skip"]),
            )
            for _ in range(chance.randint(1, 8))
        ]
        results = await calls.enqueue_runs(connection, batch, notify=False)
        self.enqueued.update(run.run_id for run in results if run.run_id is not None)

    def worker(self, tasks: tuple[str, ...] | None) -> Callable[[Connection, random.Random], Awaitable[None]]:
        """One that knows these tasks and begins with another queue each time."""
        mine: dict[Connection, int] = {}

        async def work(connection: Connection, chance: random.Random) -> None:
            if connection not in mine:
                mine[connection] = await new_worker(connection, *QUEUES)
            queues = chance.sample(QUEUES, len(QUEUES))
            claimed = await calls.claim_runs(connection, mine[connection], queues, chance.randint(1, 6), tasks)
            self.claims += len(claimed)
            items = [outcome(run, chance.choice(["succeeded", "succeeded", "retry", "release"])) for run in claimed]
            chance.shuffle(items)
            while items:
                answers = await flush(connection, items)
                assert set(answers) <= {"ok", "busy"}
                self.finished.update(
                    item.run_id
                    for item, answer in zip(items, answers, strict=True)
                    if answer == "ok" and item.name == "succeeded"
                )
                items = [item for item, answer in zip(items, answers, strict=True) if answer == "busy"]

        return work

    async def cancel(self, connection: Connection, chance: random.Random) -> None:
        some = await self._some(connection, chance)
        await calls.cancel_runs(connection, None, some[:1])
        await asyncio.sleep(0.01)

    async def change(self, connection: Connection, chance: random.Random) -> None:
        some = await self._some(connection, chance)
        await calls.change_runs(connection, None, some, priority=chance.randint(-1, 1), queue=chance.choice(QUEUES))
        await asyncio.sleep(0.005)

    async def requeue(self, connection: Connection, chance: random.Random) -> None:
        cancelled = await rows(connection, "select id from run_history where state = 'cancelled' limit 5")
        await calls.requeue_runs(connection, None, cancelled)
        await asyncio.sleep(0.01)

    async def limit(self, connection: Connection, chance: random.Random) -> None:
        """Limits that change, but never above what the watcher holds against them."""
        await _limit(
            connection,
            chance.choice(QUEUES),
            max_running=chance.choice([1, 5, MAX_RUNNING]),
            max_running_per_tenant=chance.choice([1, MAX_A_TENANT]),
        )
        await asyncio.sleep(0.01)

    async def rescue(self, connection: Connection, chance: random.Random) -> None:
        await calls.rescue_runs(connection, timedelta(minutes=1))
        await connection.execute("select from wake_due_runs(), expire_runs(), count_depths()")
        await asyncio.sleep(0.05)

    async def watch(self, connection: Connection, chance: random.Random) -> None:
        ((running, of_one),) = await rows(connection, RUNNING)
        self.most, self.most_a_tenant = max(self.most, running), max(self.most_a_tenant, of_one)
        self.together += await value(connection, IN_ORDER)
        self.looks += 1

    async def _some(self, connection: Connection, chance: random.Random) -> list[int]:
        found = await rows(connection, "select id from run order by random() limit 6")
        chance.shuffle(found)
        return found


async def _deadlocks(connection: Connection) -> int:
    await connection.execute("select pg_stat_clear_snapshot()")
    found: int = await value(connection, "select deadlocks from pg_stat_database where datname = current_database()")
    return found


async def test_everything_at_once_keeps_limits_and_order_loses_nothing_and_never_deadlocks(
    connection: Connection, conninfo: str
) -> None:
    await _prepare(connection)
    crowd = Crowd(conninfo)
    await crowd.act(
        crowd.enqueue,
        crowd.enqueue,
        crowd.worker(None),
        crowd.worker(None),
        crowd.worker(None),
        crowd.worker(("t",)),
        crowd.worker(("u", "t")),
        crowd.cancel,
        crowd.change,
        crowd.requeue,
        crowd.limit,
        crowd.rescue,
        crowd.watch,
    )
    assert await _deadlocks(connection) == 0
    assert crowd.looks > 20
    assert crowd.together == 0, "two runs of an ordered session stood at its head"
    assert 1 <= crowd.most <= MAX_RUNNING
    assert 1 <= crowd.most_a_tenant <= MAX_A_TENANT

    for queue in QUEUES:
        await _limit(connection, queue, max_running=None, max_running_per_tenant=None)
    chance = random.Random(0)
    work = crowd.worker(None)
    while await value(connection, "select count(*) from run"):
        before = crowd.claims
        await work(connection, chance)
        assert crowd.claims > before, "queued runs that no claim finds"
    over = dict(await rows(connection, "select id, state from run_history"))
    assert over.keys() == crowd.enqueued
    assert set(crowd.finished.values()) == {1}
    assert {run_id for run_id, state in over.items() if state == "succeeded"} == crowd.finished.keys()
    assert await value(connection, "select count(*) from ordered_session") == 0
