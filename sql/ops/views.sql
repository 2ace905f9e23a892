-- What operators read. The tables behind may change; these names and columns are kept.
-- Everything here is installed in the operator schema beside the cell (`ops`), so it is written ops.runs and so on.

-- Live runs in two parts, as an index by tenant leaves the running ones out.
create view runs as
select r.id, r.tenant_id, r.queue, r.task, r.state, r.priority, r.session_id, r.attempt, r.failures, r.deaths,
       r.worker_id, run_created_at(r.id) as created_at, r.run_at, r.claimed_at, null::timestamptz as finished_at,
       r.args, null::jsonb as output, r.error, r.order_no, r.on_failure, r.deadline, r.retry, r.unique_key, r.suspect,
       r.deaths_alone, r.cancel_requested, r.parent_id, r.parent_step, r.awaits
from run as r
where r.state <> 'running'
union all
select r.id, r.tenant_id, r.queue, r.task, r.state, r.priority, r.session_id, r.attempt, r.failures, r.deaths,
       r.worker_id, run_created_at(r.id) as created_at, r.run_at, r.claimed_at, null::timestamptz as finished_at,
       r.args, null::jsonb as output, r.error, r.order_no, r.on_failure, r.deadline, r.retry, r.unique_key, r.suspect,
       r.deaths_alone, r.cancel_requested, r.parent_id, r.parent_step, r.awaits
from run as r
where r.state = 'running'
union all
select h.id, h.tenant_id, h.queue, h.task, h.state, h.priority, h.session_id, h.attempt, h.failures, h.deaths,
       h.worker_id, run_created_at(h.id), null, h.claimed_at, h.finished_at, h.args, h.output, h.error, h.order_no,
       h.on_failure, null, h.retry, null, false, h.deaths_alone, false, h.parent_id, h.parent_step, null
from run_history as h;

create view failures as
select h.id, h.tenant_id, h.queue, h.task, h.finished_at, h.attempt, h.failures,
       h.error ->> 'type' as error, h.error ->> 'message' as message, h.error ->> 'traceback' as traceback, h.args,
       h.session_id, h.on_failure
from run_history as h
where h.state = 'failed';

-- Counting ends at 100,000 runs of a queue in each state, so that a look costs no more where millions wait: `more` is
-- then true, and oldest and empty_in are the least they can be.
--   finished_per_minute  over the last five; the first 100,000 of them where there are more
--   empty_in             how long that rate needs for what is queued
create view queues as
with ended as materialized (
    select h.queue, h.finished_at from run_history as h
    where h.finished_at > (select engine_now()) - interval '5 minutes'
    limit 100000
),
span as materialized (
    select case when count(*) = 100000 then greatest(extract(epoch from max(e.finished_at) - min(e.finished_at)) / 60, 0.01)
                else 5 end as minutes
    from ended as e
),
rate as materialized (
    select e.queue, count(*) / (select s.minutes from span as s) as a_minute
    from ended as e group by e.queue
),
later as materialized (
    select r.queue, r.state, count(*) as runs, sum(count(*)) over (partition by r.state) = 100000 as more
    from (
        (select s.queue, s.state from run as s where s.state = 'scheduled' limit 100000)
        union all
        (select b.queue, b.state from run as b where b.state = 'blocked' limit 100000)
    ) as r
    group by r.queue, r.state
)
select q.name as queue, q.paused, w.queued, coalesce(s.runs, 0) as scheduled, coalesce(b.runs, 0) as blocked, w.running,
       q.max_running, q.max_running_per_tenant, q.starts_per_period, q.period, q.max_queued, q.max_queued_per_tenant,
       (select count(*) from lane as l where l.queue = q.name) as lanes,
       (select count(*) from lane as l where l.queue = q.name and l.parked) as parked,
       engine_now() - run_created_at(w.first) as oldest,
       coalesce(round(r.a_minute, 1), 0) as finished_per_minute,
       case when r.a_minute > 0 then make_interval(secs => round(w.queued / r.a_minute * 60)::double precision) end as empty_in,
       w.queued = 100000 or w.running = 100000 or coalesce(s.more, false) or coalesce(b.more, false) as more
from queue as q
cross join lateral queue_depth(q.name) as w
left join later as s on s.queue = q.name and s.state = 'scheduled'
left join later as b on b.queue = q.name and b.state = 'blocked'
left join rate as r on r.queue = q.name;

-- The lanes that claims go round, the next one first. parked: its tenant is paused or at its cap, and no claim looks at it.
-- head: the run that is next in it. A lane costs three looks into indexes: name a queue.
create view lanes as
select l.queue, l.tenant_id, l.task, case when l.parked then 'parked' else 'active' end as state, l.virtual_time,
       h.id as head, h.priority, engine_now() - run_created_at(h.id) as waiting
from lane as l
left join lateral (
    select r.id, r.priority
    from (
        (select f.id, f.priority, f.fresh from run as f
         where f.queue = l.queue and f.tenant_id = l.tenant_id and f.task = l.task and f.state = 'queued'
           and not f.fresh and not f.suspect
         order by -f.priority, f.id limit 1)
        union all
        (select f.id, f.priority, f.fresh from run as f
         where f.queue = l.queue and f.tenant_id = l.tenant_id and f.task = l.task and f.state = 'queued' and f.fresh
         order by -f.priority, f.id limit 1)
    ) as r
    order by -r.priority, r.fresh, r.id
    limit 1
) as h on true
order by l.parked, l.virtual_time;

-- Sessions whose runs go one at a time. head: the run that the others wait for; failed: until somebody requeues or
-- discards it. blocked: how many wait behind it, counted up to 1,000.
create view ordered_sessions as
select s.tenant_id, s.session_id, s.head_id as head, coalesce(r.task, h.task) as task, coalesce(r.state, h.state) as state,
       coalesce(h.finished_at, r.claimed_at, r.run_at, run_created_at(s.head_id)) as since, b.blocked
from ordered_session as s
left join run as r on r.id = s.head_id
left join lateral (
    select h.task, h.state, h.finished_at from run_history as h
    where h.id = s.head_id and h.finished_at >= run_created_at(s.head_id) and r.id is null
    limit 1
) as h on true
cross join lateral (
    select count(*) as blocked
    from (select from run as w
          where w.tenant_id = s.tenant_id and w.session_id = s.session_id and w.state = 'blocked' limit 1000) as waiting
) as b;

create view workers as
select w.id, w.name, w.queues, w.started_at, w.heartbeat_at, engine_now() - w.heartbeat_at as silent_for,
       (select count(*) from run as r where r.worker_id = w.id and r.state = 'running') as running, w.tasks, w.draining
from worker as w;

create view locks as
select l.waiting_pid, l.blocking_pid, l.since, l.waits_for,
       format('%s (pid %s) has waited %s for %s, which %s (pid %s, %s) holds',
              coalesce(nullif(l.waiting, ''), 'somebody'), l.waiting_pid, date_trunc('second', l.since), l.waits_for,
              coalesce(nullif(l.blocking, ''), 'somebody'), l.blocking_pid, coalesce(l.blocking_state, 'gone'))
           as sentence,
       l.blocking_query
from lock_waits() as l;

create view schedules as
select s.tenant_id, s.name, s.task, s.cron, s.time_zone, s.missed, s.paused, s.next_at, s.last_at, s.last_run_id,
       s.error, s.queue, s.priority, s.unique_key, s.session_id, s.on_failure, s.args, s.periodic_id is not null as periodic,
       s.updated_at
from schedule as s;

create view steps as
select c.run_id, c.step, c.tenant_id, c.attempt, c.started_at, c.finished_at,
       c.finished_at - c.started_at as took, pg_column_size(c.output) as bytes, c.repeats, c.output, c.after
from checkpoint as c;

-- What waiting runs wait for, a row each. until: when the run is woken at the latest.
create view waits as
select r.id as run_id, r.tenant_id, r.task,
       case when a ? 'signal' then 'signal' when a ? 'children' then 'children' when a ? 'events' then 'events'
            else 'time' end as kind,
       coalesce(a ->> 'signal', a ->> 'children', a ->> 'sleep', r.session_id) as name, a -> 'choices' as choices,
       r.run_at as until
from run as r
cross join lateral jsonb_array_elements(r.awaits) as a
where r.state = 'waiting';

create view signals as
select s.run_id, s.tenant_id, s.name, s.no, s.payload, s.key, s.sent_at
from signal as s;

-- Who reads which session, the furthest behind first. lag: events that are kept and not acknowledged; behind: how long ago the
-- first of them was written; is_full: producers have to wait for it.
create view consumers as
select c.tenant_id, c.session_id, c.name, c.required, c.acked_seq, s.last_seq, a.lag,
       engine_now() - (select e.created_at from event as e
                       where e.tenant_id = c.tenant_id and e.session_id = c.session_id
                         and e.seq > greatest(c.acked_seq, s.first_seq - 1)
                         and e.created_at >= s.first_at and e.created_at <= s.last_at
                       order by e.seq limit 1) as behind,
       s.event_window, c.required and coalesce(a.lag >= s.event_window, false) as is_full, c.created_at, c.acked_at
from consumer as c
join session as s on s.tenant_id = c.tenant_id and s.id = c.session_id
cross join lateral (select s.last_seq - greatest(c.acked_seq, s.first_seq - 1) as lag) as a
order by a.lag desc;

create view tenants as
select t.id, t.name, t.weight, t.paused, t.created_at, t.event_days
from tenant as t;

create view tasks as
select t.name, t.kind, t.queue, t.paused, t.description, t.updated_at, t.newest
from task as t;

-- tenant_id null: an administrator's. Nobody can read a key's secret.
create view api_keys as
select k.id, k.tenant_id, k.name, k.created_at, k.revoked_at
from api_key as k;

create view model_calls as
select c.id, c.tenant_id, c.run_id, c.step, c.model, c.purpose, c.status, c.input_tokens, c.output_tokens, c.cost,
       c.latency_ms, c.error, c.created_at
from model_call as c;
