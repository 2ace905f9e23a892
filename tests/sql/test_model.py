"""Whatever is asked of the engine, in whatever order, it does what a few lines of Python say it should.

In CI a fixed set of examples runs. For a hunt: HOWDAH_MODEL_EXAMPLES=3000 python -m pytest tests/sql/test_model.py
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from psycopg.types.json import Jsonb

from tests.sql.model import LIVE, Model, New, Queue, Run

TENANTS = ("a", "b", "c", "d", "e")
QUEUES = ("q", "r")
TASKS = ("t", "u", "v")
STALE = timedelta(seconds=15)
START = datetime(2100, 1, 1, tzinfo=UTC)

EMPTY = """
    truncate run, run_history, lane, ordered_session, idempotency_key, queue, queue_depth, task, worker,
             tenant cascade;
    insert into tenant select t, t from unnest(%s::text[]) as t;
    select register_tasks(%s, array_fill('task'::text, array[3]), array_fill('q'::text, array[3]),
                          array_fill('{}'::text, array[3]), array_fill(''::text, array[3]));
    insert into queue (name) values ('r');
"""

LIVE_RUNS = """
    select id, tenant_id, queue, task, state, priority, session_id, on_failure, unique_key, run_at, deadline, fresh,
           suspect, cancel_requested, attempt, failures, deaths, deaths_alone, worker_id
    from run
"""

# A queued run that no claim would look at, although its tenant may start it.
UNSEEN = """
    select r.id
    from run as r
    join queue as q on q.name = r.queue
    join tenant as t on t.id = r.tenant_id
    left join lane as l on l.queue = r.queue and l.tenant_id = r.tenant_id and l.task = r.task
    where r.state = 'queued' and not r.suspect
      and (l.queue is null
           or l.parked and not t.paused
              and (q.max_running_per_tenant is null
                   or q.max_running_per_tenant > (select count(*) from run as o where o.queue = r.queue
                                                  and o.tenant_id = r.tenant_id and o.state = 'running'))
           or r.fresh and -r.priority >= -l.floor_priority and (-r.priority, r.id) <= (-l.floor_priority, l.floor_id))
"""

EXAMPLES = os.environ.get("HOWDAH_MODEL_EXAMPLES")
PROFILE = settings(
    max_examples=int(EXAMPLES or 60),
    stateful_step_count=80 if EXAMPLES else 40,
    derandomize=EXAMPLES is None,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate, Phase.shrink),
    print_blob=False,
)

# Small numbers stand for things that there are: the model knows which.
picks = st.integers(0, 40)
sets_of_picks = st.lists(picks, min_size=1, max_size=4)
limits = st.none() | st.integers(0, 4)
orders = st.sampled_from([None, None, "skip", "block"])
delays = st.sampled_from([None, None, None, -5, 3, 30])

news = st.builds(
    New,
    tenant=st.sampled_from(TENANTS),
    queue=st.sampled_from(QUEUES),
    task=st.sampled_from(TASKS),
    priority=st.integers(-1, 1),
    session=st.sampled_from(["s", "s2"]),
    order=orders,
    unique=st.sampled_from([None, None, None, "x"]),
    key=st.sampled_from([None, None, None, "k"]),
    delay=delays,
    deadline=st.sampled_from([None, None, None, 2, 20]),
)


class Engine(RuleBasedStateMachine):
    """Asks the engine and the model the same, and compares."""

    def __init__(self, db: psycopg.Connection) -> None:
        super().__init__()
        self.db = db
        self.model = Model(START)
        self.workers: dict[int, tuple[str, ...] | None] = {}
        self.crashed: set[int] = set()

    def ask(self, query: str, *parameters: Any) -> list[Any]:
        return self.db.execute(query.encode(), parameters).fetchall()

    def picked(self, numbers: Sequence[int], *states: str) -> list[Run]:
        """Some of the runs in these states: none where there are none."""
        found = [run for run in self.model.runs.values() if run.state in states]
        return [found[number] for number in dict.fromkeys(number % len(found) for number in numbers)] if found else []

    @initialize()
    def begin(self) -> None:
        with psycopg.ClientCursor(self.db) as cursor:
            cursor.execute(EMPTY.encode(), [list(TENANTS), list(TASKS)])
        self.model.queues = {name: Queue() for name in QUEUES}
        self.model.weights = dict.fromkeys(TENANTS, 1.0)
        self._set_clock()
        self._hire(None)

    def _set_clock(self) -> None:
        self.db.execute("select set_config('howdah.now', %s, false)", [self.model.now.isoformat()])

    def _hire(self, tasks: tuple[str, ...] | None) -> None:
        ((worker,),) = self.ask("select worker_id from register_worker('w', %s)", list(QUEUES))
        self.workers[worker] = tasks
        self.model.workers[worker] = self.model.now

    def worker(self, number: int) -> int:
        return sorted(self.workers)[number % len(self.workers)]

    # What clients ask.

    @rule(items=st.lists(news, min_size=1, max_size=5))
    def enqueue(self, items: list[New]) -> None:
        items = [item if item.order else replace(item, session=None) for item in items]
        after = self.model._after
        answers = self.ask(
            "select run_id, status from enqueue_runs(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, p_notify => false)",
            [item.tenant for item in items],
            [item.task for item in items],
            ["{}" for _ in items],
            [item.queue for item in items],
            [item.priority for item in items],
            [after(item.delay) for item in items],
            [item.session for item in items],
            [item.key for item in items],
            [item.unique for item in items],
            [item.order for item in items],
            [after(item.deadline) for item in items],
        )
        created = [run_id if status == "created" else None for run_id, status in answers]
        assert [status for _, status in answers] == self.model.enqueue(items, created)
        for item, (run_id, status) in zip(items, answers, strict=True):
            if status == "existing":
                assert item.key
                assert run_id == self.model.keys[item.tenant, item.key][1]

    @rule(numbers=sets_of_picks)
    def cancel(self, numbers: list[int]) -> None:
        ids = [run.id for run in self.picked(numbers, *LIVE, "failed")]
        answers = dict(self.ask("select * from cancel_runs(null, %s, p_notify => false)", ids))
        assert answers == self.model.cancel(ids)

    @rule(numbers=sets_of_picks)
    def requeue(self, numbers: list[int]) -> None:
        ids = [run.id for run in self.picked(numbers, "failed", "cancelled", "running")]
        answers = dict(self.ask("select * from requeue_runs(null, %s, p_notify => false)", ids))
        assert answers == self.model.requeue(ids)

    @rule(numbers=sets_of_picks)
    def discard(self, numbers: list[int]) -> None:
        ids = [run.id for run in self.picked(numbers, "failed", "succeeded", "blocked")]
        answers = dict(self.ask("select * from discard_runs(null, %s, p_notify => false)", ids))
        assert answers == self.model.discard(ids)

    @rule(
        numbers=sets_of_picks,
        priority=st.none() | st.integers(-1, 2),
        queue=st.none() | st.sampled_from(QUEUES),
        delay=delays,
    )
    def change(self, numbers: list[int], priority: int | None, queue: str | None, delay: int | None) -> None:
        ids = [run.id for run in self.picked(numbers, *LIVE)]
        at = self.model._after(delay)
        answers = dict(
            self.ask("select * from change_runs(null, %s, %s, %s, %s, p_notify => false)", ids, priority, queue, at)
        )
        assert answers == self.model.change(ids, priority, queue, at)

    @rule(
        tenant=st.sampled_from(TENANTS),
        queue=st.sampled_from(QUEUES),
        task=st.sampled_from(TASKS),
        count=st.integers(3, 12),
    )
    def stock(self, tenant: str, queue: str, task: str, count: int) -> None:
        self.enqueue([New(tenant, queue, task, 0, None, None, None, None, None, None)] * count)

    # What operators ask.

    @rule(queue=st.sampled_from(QUEUES), running=limits, tenant=limits, starts=limits, period=st.sampled_from([5, 60]))
    def limit(self, queue: str, running: int | None, tenant: int | None, starts: int | None, period: int) -> None:
        patch = {
            "max_running": running,
            "max_running_per_tenant": tenant,
            "starts_per_period": starts,
            "period_s": None if starts is None else period,
        }
        self.ask("select set_queue_limits(%s, %s)", queue, Jsonb(patch))
        for name, limit in patch.items():
            setattr(self.model.queues[queue], name, limit)

    @rule(queue=st.sampled_from(QUEUES))
    def unlimit(self, queue: str) -> None:
        self.limit(queue, None, None, None, 0)

    @rule(queue=st.sampled_from(QUEUES), paused=st.booleans())
    def pause_queue(self, queue: str, paused: bool) -> None:
        self.ask("select pause_queue(%s, %s)", queue, paused)
        self.model.queues[queue].paused = paused

    @rule(tenant=st.sampled_from(TENANTS), paused=st.booleans())
    def pause_tenant(self, tenant: str, paused: bool) -> None:
        self.ask("select pause_tenant(%s, %s)", tenant, paused)
        (self.model.paused_tenants.add if paused else self.model.paused_tenants.discard)(tenant)

    @rule(task=st.sampled_from(TASKS), paused=st.booleans())
    def pause_task(self, task: str, paused: bool) -> None:
        self.ask("select pause_task(%s, %s)", task, paused)
        (self.model.paused_tasks.add if paused else self.model.paused_tasks.discard)(task)

    @rule(tenant=st.sampled_from(TENANTS), weight=st.sampled_from([0.5, 1, 3]))
    def weigh(self, tenant: str, weight: float) -> None:
        self.ask("select set_tenant_weight(%s, %s)", tenant, weight)
        self.model.weights[tenant] = weight

    # What workers do.

    @precondition(lambda self: len(self.workers) < 4)
    @rule(tasks=st.sampled_from([None, ("t",), ("u", "v")]))
    def hire(self, tasks: tuple[str, ...] | None) -> None:
        self._hire(tasks)

    @precondition(lambda self: self.workers)
    @rule(number=picks, limit=st.sampled_from([1, 1, 2, 3, 7, 100]), queues=st.permutations(QUEUES))
    def claim(self, number: int, limit: int, queues: list[str]) -> None:
        worker = self.worker(number)
        if worker not in self.model.workers:
            self._refused(worker)
            return
        lanes = self.ask(
            "select queue, tenant_id, min(virtual_time) from lane where task = any (coalesce(%s, array[task]))"
            " group by queue, tenant_id",
            self._list(worker),
        )
        lag = {(queue, tenant): time for queue, tenant, time in lanes}
        answers = self.ask(
            "select run_id, attempt from claim_runs(%s, %s, %s, %s)", worker, queues, limit, self._list(worker)
        )
        claimed = {run_id for run_id, _ in answers}
        assert len(claimed) == len(answers), "twice the same run"
        left = limit
        for queue in queues:
            left -= self._check_claim(queue, left, self.workers[worker], claimed, lag)
        assert left == limit - len(claimed), "a run that may not start"
        self.model.start(claimed, worker)

    def _check_claim(
        self,
        queue: str,
        wanted: int,
        tasks: Sequence[str] | None,
        claimed: set[int],
        lag: dict[tuple[str, str], float],
    ) -> int:
        """How many runs of this queue were claimed, all that could be, each tenant's first, and none past its due."""
        eligible: dict[str, list[int]] = {}
        for run in self.model.eligible(queue, tasks):
            eligible.setdefault(run.tenant, []).append(run.id)
        room = self.model.room(queue, wanted)
        rooms = {tenant: self.model.tenant_room(queue, tenant, room) for tenant in eligible}
        may = {tenant: min(rooms[tenant], len(ids)) for tenant, ids in eligible.items()}
        took = Counter({tenant: len(claimed.intersection(ids)) for tenant, ids in eligible.items()})
        assert took.total() == min(room, sum(may.values())), f"{took} of {may}, room for {room}"
        for tenant, ids in eligible.items():
            assert claimed.intersection(ids) == set(ids[: took[tenant]]), f"{tenant} started out of order"
            assert took[tenant] <= rooms[tenant], f"{tenant} is over its limit"
        waiting = [tenant for tenant in eligible if may[tenant]]
        if waiting:
            least = min(lag[queue, tenant] for tenant in waiting)
            behind = [tenant for tenant in waiting if lag[queue, tenant] == least]
            weight = sum(
                self.model.weights[tenant]
                for lane, tenant in lag
                if lane == queue and self.model.tenant_room(queue, tenant, room)
            )
            assert any(
                took[tenant] >= min(may[tenant], math.ceil(room * self.model.weights[tenant] / weight - 1e-9))
                for tenant in behind
            ), f"{behind} had to wait for others: {took} of {may}"
        return took.total()

    def _list(self, worker: int) -> list[str] | None:
        tasks = self.workers[worker]
        return None if tasks is None else list(tasks)

    def _refused(self, worker: int) -> None:
        """A worker that its peers have given up learns of it."""
        with pytest.raises(psycopg.Error, match="given it up"):
            self.ask("select * from claim_runs(%s, %s, 1)", worker, list(QUEUES))
        del self.workers[worker]
        self.crashed.discard(worker)

    @precondition(lambda self: self.model.workers)
    @rule(number=picks)
    def claim_suspects(self, number: int) -> None:
        worker = sorted(self.model.workers)[number % len(self.model.workers)]
        tasks = self.workers[worker]
        answers = self.ask("select run_id from claim_suspects(%s, %s, %s)", worker, list(QUEUES), self._list(worker))
        expected = next((runs for queue in QUEUES if (runs := self.model.suspects(queue, tasks))), [])
        assert sorted(run_id for (run_id,) in answers) == expected
        self.model.start(expected, worker)

    @rule(
        numbers=sets_of_picks,
        names=st.lists(
            st.sampled_from(["succeeded", "failed", "cancelled", "retry", "reschedule", "release"]),
            min_size=4,
            max_size=4,
        ),
        delay=delays,
        late=st.lists(picks, max_size=2),
    )
    def flush(self, numbers: list[int], names: list[str], delay: int | None, late: list[int]) -> None:
        """Outcomes of what runs, and of attempts that are over."""
        runs = self.picked(numbers, "running")
        old = [
            (run.id, run.attempt - (run.state == "running"))
            for run in self.picked(late, *LIVE, "succeeded", "failed", "cancelled")
            if run not in runs
        ]
        at = self.model._after(delay)
        written = [*((run.id, run.attempt) for run in runs), *old]
        expected = [self.model.status(*item) for item in written]
        answers = (
            self.ask(
                "select status from flush(%s, %s, %s, %s, %s, %s, %s, p_notify => false)",
                [run_id for run_id, _ in written],
                [attempt for _, attempt in written],
                ["outcome" for _ in written],
                [*names[: len(runs)], *("succeeded" for _ in old)],
                ["{}" for _ in written],
                [None for _ in written],
                [at for _ in written],
            )
            if written
            else []
        )
        assert [status for (status,) in answers] == expected
        for run, name in zip(runs, names, strict=False):
            self.model.outcome(run, name, at)

    @precondition(lambda self: self.model.workers)
    @rule(number=picks)
    def leave(self, number: int) -> None:
        worker = sorted(self.model.workers)[number % len(self.model.workers)]
        assert self.ask("select released from unregister_worker(%s, false)", worker) == [(self.model.leave(worker),)]
        del self.workers[worker]
        self.crashed.discard(worker)

    @precondition(lambda self: self.workers)
    @rule(number=picks)
    def crash(self, number: int) -> None:
        self.crashed.add(self.worker(number))

    # What time does.

    @rule(seconds=st.sampled_from([1, 6, 20, 70]))
    def pass_time(self, seconds: int) -> None:
        self.model.now += timedelta(seconds=seconds)
        self._set_clock()
        for worker in self.model.workers.keys() - self.crashed:
            ((alive, cancelled, suspects),) = self.ask("select alive, cancelled, suspects from heartbeat(%s)", worker)
            self.model.workers[worker] = self.model.now
            mine = [run for run in self.model.runs.values() if run.state == "running" and run.worker == worker]
            assert alive
            assert set(cancelled) == {run.id for run in mine if run.cancel_requested}
            waiting = sum(run.suspect and run.state == "queued" for run in self.model.runs.values())
            assert not suspects if waiting == 0 else suspects or waiting < len(self.model.workers)

    @rule()
    def rescue(self) -> None:
        assert self.ask("select workers, runs from rescue_runs(%s, p_notify => false)", STALE) == [
            self.model.rescue(STALE)
        ]

    @rule()
    def wake(self) -> None:
        assert self.ask("select woken from wake_due_runs(p_notify => false)") == [(self.model.wake(),)]

    @rule()
    def expire(self) -> None:
        assert self.ask("select expired from expire_runs(p_notify => false)") == [(self.model.expire(),)]

    # What always holds.

    @invariant()
    def every_run_is_where_the_model_has_it(self) -> None:
        live = {row[0]: Run(*row) for row in self.ask(LIVE_RUNS)}
        assert live == {run.id: run for run in self.model.runs.values() if run.state in LIVE}
        over = self.ask("select id, state, attempt, failures, deaths, deaths_alone, worker_id from run_history")
        assert sorted(over) == sorted(
            (run.id, run.state, run.attempt, run.failures, run.deaths, run.deaths_alone, run.worker)
            for run in self.model.runs.values()
            if run.state not in LIVE
        )

    @invariant()
    def ordered_sessions_go_one_at_a_time_in_order(self) -> None:
        heads = self.ask("select tenant_id, session_id, head_id from ordered_session")
        assert {(tenant, session): head for tenant, session, head in heads} == {
            line: ids[0] for line, ids in self.model.lines.items()
        }
        waiting = self.ask(
            "select id, state from run where order_no is not null order by tenant_id, session_id, order_no"
        )
        expected = [run_id for line in sorted(self.model.lines) for run_id in self.model.lines[line]]
        assert [run_id for run_id, _ in waiting] == [i for i in expected if self.model.runs[i].state in LIVE]
        for ids in self.model.lines.values():
            assert all(self.model.runs[run_id].state == "blocked" for run_id in ids[1:])
            assert self.model.runs[ids[0]].state != "blocked"

    @invariant()
    def a_queued_run_can_be_seen_by_claims(self) -> None:
        assert self.ask(UNSEEN) == []


@pytest.mark.long
def test_the_engine_does_what_the_model_says(db: psycopg.Connection) -> None:
    run_state_machine_as_test(lambda: Engine(db), settings=PROFILE)  # type: ignore[no-untyped-call]
