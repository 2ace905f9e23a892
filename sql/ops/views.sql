-- What operators read. The tables behind may change; these names and columns are kept.
-- Everything here is installed in the operator schema beside the cell (`ops`), so it is written ops.runs and so on.

create view runs as
select r.id, r.tenant_id, r.queue, r.task, r.state, r.priority, r.session_id, r.attempt, r.failures, r.deaths,
       r.worker_id, run_created_at(r.id) as created_at, r.run_at, r.claimed_at, null::timestamptz as finished_at,
       r.args, null::jsonb as output, r.error
from run as r
union all
select h.id, h.tenant_id, h.queue, h.task, h.state, h.priority, h.session_id, h.attempt, h.failures, h.deaths,
       h.worker_id, run_created_at(h.id), null, h.claimed_at, h.finished_at, h.args, h.output, h.error
from run_history as h;

create view failures as
select h.id, h.tenant_id, h.queue, h.task, h.finished_at, h.attempt, h.failures,
       h.error ->> 'type' as error, h.error ->> 'message' as message, h.error ->> 'traceback' as traceback, h.args
from run_history as h
where h.state = 'failed';

create view queues as
select q.name as queue,
       count(r.id) filter (where r.state = 'queued') as queued,
       count(r.id) filter (where r.state = 'scheduled') as scheduled,
       count(r.id) filter (where r.state = 'running') as running,
       (select count(*) from lane as l where l.queue = q.name) as lanes,
       now() - min(run_created_at(r.id)) filter (where r.state = 'queued') as oldest
from queue as q
left join run as r on r.queue = q.name
group by q.name;

create view workers as
select w.id, w.name, w.queues, w.started_at, w.heartbeat_at, now() - w.heartbeat_at as silent_for,
       (select count(*) from run as r where r.worker_id = w.id and r.state = 'running') as running
from worker as w;

create view schedules as
select s.tenant_id, s.name, s.task, s.cron, s.time_zone, s.missed, s.paused, s.next_at, s.last_at, s.last_run_id,
       s.error, s.queue, s.priority, s.unique_key, s.args, s.periodic_id is not null as periodic, s.updated_at
from schedule as s;

create view steps as
select c.run_id, c.step, c.tenant_id, c.attempt, c.started_at, c.finished_at,
       c.finished_at - c.started_at as took, pg_column_size(c.output) as bytes, c.repeats, c.output
from checkpoint as c;
