-- What stock procrastinate clients read: their tables' names and columns, over the engine's own tables.
-- Runs of every tenant and workflows are in them too: there is one queue.

-- attempts: failed ones; procrastinate counts a job's last attempt as well, once it has ended.
create view procrastinate_live_jobs as
select r.id, r.queue as queue_name, r.task as task_name, r.priority,
       case when r.order_no is not null then r.session_id end as lock, r.unique_key as queueing_lock, r.args,
       (case r.state when 'running' then 'doing' else 'todo' end)::procrastinate_job_status as status,
       r.run_at as scheduled_at, r.failures as attempts, r.cancel_requested and r.state = 'running' as abort_requested,
       r.worker_id
from run as r;

create view procrastinate_jobs as
select j.id, j.queue_name, j.task_name, j.priority, j.lock, j.queueing_lock, j.args, j.status, j.scheduled_at,
       j.attempts, j.abort_requested, j.worker_id
from procrastinate_live_jobs as j
union all
select h.id, h.queue, h.task, h.priority,
       case when h.order_no is not null then h.session_id end, null, h.args,
       -- Only a run that was running when it was cancelled still has its worker.
       (case when h.state = 'cancelled' and h.worker_id is not null then 'aborted'
             else h.state end)::procrastinate_job_status,
       null, h.failures + (h.worker_id is not null and h.state <> 'failed')::integer, false, h.worker_id
from run_history as h;

create view procrastinate_workers as
select w.id, w.heartbeat_at as last_heartbeat
from worker as w;

-- Events are read off the runs' own times: the latest of each type, not one for every earlier attempt.
-- ids: the job's, shifted to make room for the type; unique until the year 2109.
create view procrastinate_events as
select (e.job_id << 2) | e.place as id, e.job_id, e.type::procrastinate_job_event_type as type, e.at
from (
    select r.id as job_id, 0 as place, 'deferred' as type, run_created_at(r.id) as at from run as r
    union all
    select r.id, 1, 'scheduled', r.run_at from run as r where r.run_at is not null
    union all
    select r.id, 2, 'started', r.claimed_at from run as r where r.claimed_at is not null
    union all
    select h.id, 0, 'deferred', run_created_at(h.id) from run_history as h
    union all
    select h.id, 2, 'started', h.claimed_at from run_history as h where h.claimed_at is not null
    union all
    select h.id, 3, case when h.state = 'cancelled' and h.worker_id is not null then 'aborted' else h.state end,
           h.finished_at
    from run_history as h
) as e;
