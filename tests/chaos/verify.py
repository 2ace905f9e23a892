"""What must be true afterwards, counted from the tables.

Each check is one query that returns what breaks the promise; an empty answer is a kept one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import psycopg

from tests.chaos.load import PROMISES, Promise

SHOWN = 5  # offenders named; their number is always told

# `turn`: the attempts of ordered runs and when each ended: at its finish, or when the next attempt of its run began,
# for then its worker was dead or given up. One that a given-up worker began after that was refused, and is no turn.
TURNS = """
    with turn as (
        select t.run_id, t.attempt, t.started_at, e.session, e.batch, e.place,
               coalesce(least(t.finished_at, lead(t.started_at) over (partition by t.run_id order by t.attempt)),
                        t.started_at) as ended_at
        from chaos.chaos_turn as t join chaos.chaos_enqueued as e on e.run_id = t.run_id
        where not exists (select from chaos.chaos_turn as later
                          where later.run_id = t.run_id and later.attempt > t.attempt
                            and later.started_at <= t.started_at)
    )"""

# Promise -> query of the offenders, (what, where). `promise` is the table of what each task leaves behind.
CHECKS: Mapping[str, str] = {
    "every run that was enqueued ended, once": """
        select e.run_id, e.task || ': ' || count(h.id) || ' rows in history'
        from chaos.chaos_enqueued as e left join run_history as h on h.id = e.run_id
        group by e.run_id, e.task having count(h.id) <> 1""",
    "every run succeeded, but those that were told to fail for good": """
        select h.id, h.task || ' ' || h.state || ' ' || coalesce(left(h.error::text, 200), '')
        from run_history as h join chaos.chaos_enqueued as e on e.run_id = h.id join promise as p on p.task = e.task
        where h.state <> case when e.fails and p.told_to_fail = 'ends' then 'failed' else 'succeeded' end""",
    "a run that kills its worker failed for that, and none beside it did": """
        select h.id, h.task || ' ' || h.state || ' ' || coalesce(left(h.error::text, 200), '')
        from run_history as h
        where h.state = 'failed' and (h.task = 'chaos.poison') <> (coalesce(h.error ->> 'type', '') = 'WorkerDied')""",
    "no run is left": "select r.id, r.task || ' is ' || r.state from run as r where r.queue <> 'howdah'",
    "nothing ran that nobody enqueued": """
        select h.id, h.task from run_history as h
        where h.queue <> 'howdah' and not exists (select from chaos.chaos_enqueued as e where e.run_id = h.id)""",
    "nothing that was taken from a frozen worker ended by its hand": """
        select h.id, 'attempt ' || h.attempt || ' was given up, and is the one that ended'
        from chaos.chaos_zombie as z join run_history as h on h.id = z.run_id and h.attempt = z.attempt""",
    "no step ran again after its checkpoint was on disk": """
        select x.run_id, x.step || ' of attempt ' || x.attempt || ', kept by attempt ' || c.attempt
        from chaos.chaos_execution as x
        join checkpoint as c on c.run_id = x.run_id and c.step = x.step
        where x.attempt > c.attempt""",
    "no attempt ran a step twice": """
        select x.run_id, x.step || ' of attempt ' || x.attempt || ', ' || count(*) || ' times'
        from chaos.chaos_execution as x group by x.run_id, x.step, x.attempt having count(*) > 1""",
    "no checkpoint was written again": """
        select c.run_id, c.step || ', ' || c.repeats || ' times' from checkpoint as c where c.repeats <> 0""",
    "every step of a run has its checkpoint, and nothing else has": """
        select coalesce(due.run_id, c.run_id),
               coalesce(due.step || ' is missing', c.step || ' is no step of this run')
        from (select e.run_id, step
              from chaos.chaos_enqueued as e join promise as p using (task), unnest(p.steps) as step) as due
        full join checkpoint as c on c.run_id = due.run_id and c.step = due.step
        where due.run_id is null or c.run_id is null""",
    "a run's output is made of the outputs that were kept": """
        select c.run_id, c.step from checkpoint as c join run_history as h on h.id = c.run_id
        where h.output -> c.step is distinct from c.output""",
    "a run failed as often as it was told to": """
        select h.id, h.failures || ' failures' from run_history as h
        join chaos.chaos_enqueued as e on e.run_id = h.id join promise as p on p.task = e.task
        where h.failures <> (e.fails and p.told_to_fail <> 'requeued')::integer""",
    "runs of an ordered session never overlapped": TURNS
    + """
        select o.run_id, 'attempt ' || o.attempt || ' in ' || o.session || ' began before the one before had ended'
        from (select t.*, max(t.ended_at) over (partition by t.session order by t.started_at, t.run_id
                                                rows between unbounded preceding and 1 preceding) as busy_until
              from turn as t) as o
        where o.started_at < o.busy_until""",
    "runs of an ordered session ran in the order in which they were enqueued": TURNS
    + """
        select o.run_id, 'in ' || o.session || ' began before one that was enqueued earlier'
        from (select t.run_id, t.session, min(t.started_at) as first,
                     max(max(t.started_at)) over (partition by t.session order by t.batch, t.place
                                                  rows between unbounded preceding and 1 preceding) as earlier
              from turn as t group by t.run_id, t.session, t.batch, t.place) as o
        where o.first < o.earlier""",
    "a run of an ordered session that ended had its turn": """
        select e.run_id, 'in ' || e.session from chaos.chaos_enqueued as e join run_history as h on h.id = e.run_id
        where e.session is not null
          and not exists (select from chaos.chaos_turn as t
                          where t.run_id = e.run_id and t.attempt = h.attempt and t.finished_at is not null)""",
    "a limited queue never ran more than it may, nor any tenant in it": """
        select s.queue, s.running || ' running, ' || s.of_one_tenant || ' of one tenant, at ' || s.at
        from chaos.chaos_sample as s join queue as q on q.name = s.queue
        where s.running > q.max_running or s.of_one_tenant > q.max_running_per_tenant""",
    "every session is numbered 1, 2, 3 without a gap": """
        select coalesce(s.id, e.session_id),
               'counts ' || coalesce(s.last_seq, 0) || ' but has ' || coalesce(e.events, 0)
               || ' from ' || coalesce(e.first, 0) || ' to ' || coalesce(e.last, 0)
        from session as s
        full join (select tenant_id, session_id, count(*) as events, min(seq) as first, max(seq) as last
                   from event group by 1, 2) as e on e.tenant_id = s.tenant_id and e.session_id = s.id
        where s.id is null or s.last_seq <> coalesce(e.events, 0) or coalesce(e.last, 0) <> coalesce(e.events, 0)
           or coalesce(e.first, 1) <> 1""",
    "no event is there twice, and none is missing": """
        select d.run_id, d.task || ' has ' || d.present || ' events, ' || d.different || ' different ones, of ' || d.due
        from (select e.run_id, e.task, p.events + (e.fails and p.told_to_fail = 'requeued')::integer as due,
                     count(v.run_id) as present,
                     count(distinct (v.type, v.data)) filter (where v.run_id is not null) as different
              from chaos.chaos_enqueued as e join promise as p using (task) left join event as v on v.run_id = e.run_id
              group by e.run_id, e.task, e.fails, p.events, p.told_to_fail) as d
        where d.present <> d.due or d.different <> d.due""",
}

COUNTS: Mapping[str, str] = {
    "runs expected": "select count(*) from chaos.chaos_enqueued",
    "runs ended": "select count(*) from run_history",
    "sweeps that repaired anything": "select count(*) from run_history"
    " where case when task = 'howdah:sweep' then output - '{lane without runs,silent worker}'::text[] <> '{}' end",
    "runs rescued from a dead worker": "select count(*) from run_history where deaths > 0",
    "runs that failed once and were retried": "select count(*) from run_history where failures > 0",
    "runs taken from a frozen worker": "select count(*) from chaos.chaos_zombie",
    "steps started": "select count(*) from chaos.chaos_execution",
    "steps checkpointed": "select count(*) from checkpoint",
    "steps started again, not yet on disk": "select count(*) from (select from chaos.chaos_execution"
    " group by run_id, step having count(*) > 1) as again",
    "runs of ordered sessions begun": "select count(*) from chaos.chaos_turn",
    "failed heads of ordered sessions requeued": "select count(*) from chaos.chaos_requeued",
    "looks at the limited queue": "select count(*) from chaos.chaos_sample",
    "looks at the limited queue that found every slot taken": "select count(*) from chaos.chaos_sample as s"
    " join queue as q on q.name = s.queue and s.running = q.max_running",
    "looks at it that found a tenant with all it may have": "select count(*) from chaos.chaos_sample as s"
    " join queue as q on q.name = s.queue and s.of_one_tenant = q.max_running_per_tenant",
    "events": "select count(*) from event",
    "sessions": "select count(*) from session",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """`kept`: each promise, and how often it was broken. `broken`: sentences. `counts`: how much was looked at."""

    kept: Mapping[str, int]
    broken: list[str]
    counts: Mapping[str, int]


def verify(connection: psycopg.Connection, promises: Mapping[str, Promise] = PROMISES) -> Verdict:
    """Check everything, in one snapshot of the database."""
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read")
        connection.execute(
            "create temporary table promise (task text, steps text[], events integer, told_to_fail text) on commit drop"
        )
        for task, promise in promises.items():
            connection.execute(
                "insert into promise values (%s, %s, %s, %s)",
                [task, list(promise.steps), promise.events, promise.told_to_fail],
            )
        kept, broken = {}, []
        for what, query in CHECKS.items():
            offenders = connection.execute(query.encode()).fetchall()
            kept[what] = len(offenders)
            if offenders:
                named = "; ".join(f"{which}: {how}" for which, how in offenders[:SHOWN])
                broken.append(f"broken {len(offenders)} times: {what} ({named})")
        counts = {}
        for what, query in COUNTS.items():
            row = connection.execute(query.encode()).fetchone()
            counts[what] = row[0] if row else 0
    return Verdict(kept, broken, counts)
