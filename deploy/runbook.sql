-- What an operator types in psql. Copy one statement at a time, and put your own id, task or name in its place:
-- 1234 is a run, 'examples.hello' a task, '0123456789abcdef' the id in the middle of a key, hwd_<id>_<secret>.
-- For a cell with another name than howdah, read <cell> for howdah and <cell>_ops for ops.
-- What changes something begins with CHANGES; everything else only reads.
-- Functions outside of ops find their tables by this path; \c and a new psql forget it.
set search_path = howdah, public;

-- ================================================================ Is all well?

-- Queues: how much waits, and since when. `oldest` that grows means too few workers, or none.
select * from ops.queues order by oldest desc nulls last;

-- Workers: who lives. One that is silent for longer than HOWDAH_RESCUE_SECONDS loses its runs to its peers by itself.
select id, name, queues, running, silent_for, now() - started_at as up_for from ops.workers order by silent_for desc;

-- Queues in which runs wait while no worker serves them.
select q.queue, q.queued, q.oldest from ops.queues as q
where q.queued > 0 and not exists (select from ops.workers as w where q.queue = any (w.queues));

-- Runs that wait for a task that no worker has ever announced: a name misspelt, or a worker not deployed yet.
select r.queue, r.task, count(*) as waiting, min(r.created_at) as since from ops.runs as r
where r.state = 'queued' and not exists (select from task as t where t.name = r.task)
group by r.queue, r.task order by waiting desc;

-- Tenants by what they have under way and waiting.
select tenant_id, count(*) filter (where state = 'running') as running,
       count(*) filter (where state = 'queued') as queued
from ops.runs where state in ('running', 'queued') group by tenant_id order by queued desc limit 20;

-- What ended in the last hour, by task and outcome.
select task, state, count(*), max(finished_at) as last from ops.runs
where finished_at > now() - interval '1 hour' group by task, state order by count(*) desc limit 50;

-- ================================================================ Failures

-- What fails most, today.
select task, error, left(message, 80) as message, count(*), max(finished_at) as last, max(id) as for_example
from ops.failures where finished_at > now() - interval '1 day'
group by task, error, left(message, 80) order by count(*) desc limit 20;

-- The newest failures.
select id, tenant_id, task, finished_at, attempt, error, message from ops.failures
where finished_at > now() - interval '1 day' order by finished_at desc limit 20;

-- One failure in full. In psql, \x makes it readable.
select * from ops.failures where id = 1234;

-- CHANGES: brings a failed or cancelled run back. A workflow goes on after its last finished step.
select * from ops.requeue_run(1234);

-- CHANGES: brings back a task's failures of today, 1,000 at most: repeat until it returns no row.
select status, count(*) from requeue_runs(null, array(
    select id from ops.failures
    where task = 'examples.hello' and finished_at > now() - interval '1 day' order by id limit 1000))
group by status;

-- ================================================================ One run

-- Where it is.
select * from ops.runs where id = 1234;

-- Its finished steps, in order. `repeats` other than 0 is a bug of Howdah's: please report it.
select step, attempt, started_at, took, bytes, repeats, output from ops.steps where run_id = 1234 order by finished_at;

-- CHANGES: cancels it: at once where it is not running (cancelled), else by asking its worker (requested).
select * from ops.cancel_run(1234, 'cancelled by an operator');

-- CHANGES: cancels what waits of a task, 1,000 at most: repeat until it returns no row.
select status, count(*) from cancel_runs(null, array(
    select id from ops.runs where task = 'examples.hello' and state in ('queued', 'scheduled') order by id limit 1000),
    'cancelled by an operator')
group by status;

-- Its events, as its clients saw them. A run without a session writes to one named run:<id>.
select e.seq, e.created_at, e.type, e.data from ops.runs as r
join event as e on e.tenant_id = r.tenant_id and e.session_id = coalesce(r.session_id, 'run:' || r.id)
where r.id = 1234 order by e.seq desc limit 100;

-- The model calls it made, and what they cost in USD.
select step, model, status, input_tokens, output_tokens, cost, round(latency_ms) as ms, error
from model_call where run_id = 1234 order by id;

-- ================================================================ Stuck runs

-- Running for more than ten minutes: slow, or hung in a step. The last finished step tells where.
select r.id, r.tenant_id, r.task, now() - r.claimed_at as running_for, w.name as worker, w.silent_for,
       (select s.step from ops.steps as s where s.run_id = r.id order by s.finished_at desc limit 1) as last_step
from ops.runs as r left join ops.workers as w on w.id = r.worker_id
where r.state = 'running' and r.claimed_at < now() - interval '10 minutes'
order by r.claimed_at limit 50;

-- Should have started at a time that is past: workers look each half second, so there is none alive.
select id, task, run_at, now() - run_at as late from ops.runs
where state = 'scheduled' and run_at < now() - interval '10 seconds' order by run_at limit 50;

-- Killed its worker, or was there when it died: look at it before it comes round again.
select id, tenant_id, task, deaths, state, worker_id from ops.runs
where deaths > 0 and state in ('queued', 'running') order by deaths desc limit 50;

-- CHANGES: gives back at once the runs of workers silent for a minute. Live workers do this by themselves.
select * from rescue_runs('1 minute');

-- ================================================================ Keys

-- Who can come in. tenant_id null: an administrator.
select id, tenant_id, name, created_at, revoked_at from api_key order by created_at desc limit 100;

-- CHANGES: revokes a key. API processes remember keys for 5 seconds; after that it opens nothing.
select * from revoke_api_key(null, '0123456789abcdef');

-- ================================================================ The server

-- Who holds a snapshot, for how long: above some minutes it slows every queue. A dump, or somebody's open psql.
select pid, usename, application_name, state, now() - xact_start as open_for, left(query, 60) as query
from pg_stat_activity where backend_xmin is not null and pid <> pg_backend_pid() order by xact_start limit 20;

-- Who waits for whose lock.
select a.pid, pg_blocking_pids(a.pid) as waits_for, now() - a.query_start as since, left(a.query, 60) as query
from pg_stat_activity as a where cardinality(pg_blocking_pids(a.pid)) > 0 order by a.query_start limit 20;

-- Connections by program, of those that max_connections allows.
select application_name, state, count(*), current_setting('max_connections') as allowed
from pg_stat_activity where backend_type = 'client backend' group by application_name, state order by count(*) desc;

-- The largest tables, and whether vacuum keeps up with the hot ones (run, lane, session).
select relname, pg_size_pretty(pg_total_relation_size(relid)) as size, n_live_tup, n_dead_tup, last_autovacuum
from pg_stat_user_tables where schemaname = 'howdah' order by pg_total_relation_size(relid) desc limit 20;

-- Days that nobody prepared a partition for. More than 0: no worker has run for days.
select (select count(*) from run_history_default) as runs, (select count(*) from checkpoint_default) as steps;
