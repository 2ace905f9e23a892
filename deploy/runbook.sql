-- What an operator types in psql. Copy one statement at a time, and put your own id, task or name in its place:
-- 1234 is a run, 'examples.hello' a task, '0123456789abcdef' the id in the middle of a key, hwd_<id>_<secret>.
-- For a cell with another name than howdah, read <cell> for howdah and <cell>_ops for ops.
-- What changes something begins with CHANGES; everything else only reads. The role howdah_operator may do all of it but
-- what begins with OWNER: grant howdah_operator to alice, who then needs no right on the tables.
-- What OWNER calls finds its tables by this path; \c and a new psql forget it.
set search_path = howdah, public;

-- ================================================================ Is all well?

-- Queues: how much waits, since when, and how long it will take. `oldest` that grows means too few workers, or none.
select queue, paused, queued, running, max_running, oldest, finished_per_minute, empty_in, more
from ops.queues order by oldest desc nulls last;

-- Workers: who lives. One that is silent for longer than HOWDAH_RESCUE_SECONDS loses its runs to its peers by itself.
select id, name, queues, running, silent_for, now() - started_at as up_for from ops.workers order by silent_for desc;

-- Queues in which runs wait while no worker serves them.
select q.queue, q.queued, q.oldest from ops.queues as q
where q.queued > 0 and not exists (select from ops.workers as w where q.queue = any (w.queues));

-- Runs that wait for a task that no worker has ever announced: a name misspelt, or a worker not deployed yet.
select r.queue, r.task, count(*) as waiting, min(r.created_at) as since from ops.runs as r
where r.state = 'queued' and not exists (select from ops.tasks as t where t.name = r.task)
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

-- CHANGES: brings back a task's failures of the last hour, 1,000 at most: repeat while `more` is true. The filter takes
-- queue, task, tenant, error, since, until and ids.
select * from ops.requeue_failed(
    jsonb_build_object('task', 'examples.hello', 'since', now() - interval '1 hour'));

-- CHANGES: gives up failures that will never succeed, 1,000 at most: repeat while `more` is true.
select * from ops.discard_failed('{"task": "examples.hello", "error": "NonRetryableError"}');

-- ================================================================ One run

-- Where it is.
select * from ops.runs where id = 1234;

-- Its finished steps, in order. `repeats` other than 0 is a bug of Howdah's: please report it.
select step, attempt, started_at, took, bytes, repeats, output from ops.steps where run_id = 1234 order by finished_at;

-- Why it does not run now.
select ops.explain_run(1234);

-- CHANGES: lets it go before others that wait. A queue and a time can be changed too, while it has not started.
select * from ops.change_run(1234, p_priority => 100);

-- CHANGES: cancels it: at once where it is not running (cancelled), else by asking its worker (requested).
select * from ops.cancel_run(1234, 'cancelled by an operator');

-- CHANGES: cancels what waits of a task, 1,000 at most: repeat while `more` is true.
select * from ops.cancel_queued('{"task": "examples.hello"}');

-- CHANGES: a new run with its arguments that goes on after its first finished step; the old one stays as it is.
select * from ops.fork_run(1234, 1);

-- Its events, as its clients saw them. A run without a session writes to one named run:<id>.
select e.* from ops.runs as r
cross join ops.events(r.tenant_id, coalesce(r.session_id, 'run:' || r.id), p_limit => 1000) as e
where r.id = 1234;

-- The model calls it made, and what they cost in USD.
select step, model, status, input_tokens, output_tokens, cost, round(latency_ms) as ms, error
from ops.model_calls where run_id = 1234 order by id;

-- ================================================================ Nothing moves

-- Why the runs that are next do not start, the longest waiting first.
select l.queue, l.tenant_id, l.task, l.waiting, ops.explain_run(l.head) as why
from ops.lanes as l where l.head is not null order by l.waiting desc limit 20;

-- What somebody has paused.
select 'queue' as what, queue as name from ops.queues where paused
union all select 'tenant', id from ops.tenants where paused
union all select 'task', name from ops.tasks where paused;

-- Ordered sessions that wait for a failed run: requeue it, or give it up.
select * from ops.ordered_sessions where state = 'failed' order by blocked desc limit 50;

-- CHANGES: gives a failed run up; the session that waited for it goes on.
select * from ops.discard_run(1234);

-- CHANGES: raises a queue's limit. Others: max_running_per_tenant, starts_per_period, max_queued, max_queued_per_tenant.
select * from ops.set_limit('default', 'max_running', 50);

-- CHANGES: removes a limit.
select * from ops.set_limit('default', 'max_running', null);

-- CHANGES: lets a paused queue go on. Tenants and tasks: resume_tenant, resume_task.
select * from ops.resume_queue('default');

-- Workflows that wait, the oldest first: for a signal (an approval, say), for children, for events, or for a time. `until`
-- null: for ever, if nobody sends it.
select run_id, tenant_id, task, kind, name, choices, until from ops.waits order by run_id limit 50;

-- What was sent to a run.
select name, no, payload, key, sent_at from ops.signals where run_id = 1234 order by sent_at;

-- CHANGES: tells a run what it waits for, in place of whoever should have.
select * from ops.send_signal(1234, 'approval', '"approve"');

-- A run's children, theirs, and so on, with what failed.
select depth, run_id, step, task, state, error from ops.run_tree(1234);

-- ================================================================ Too much

-- CHANGES: pauses a noisy tenant in all queues; what it has running ends.
select * from ops.pause_tenant('default');

-- CHANGES: lets the tenant go on.
select * from ops.resume_tenant('default');

-- CHANGES: gives a tenant a tenth of another's share where they meet; 1 is where everybody begins.
select * from ops.set_weight('default', 0.1);

-- CHANGES: lets no tenant have more than 10 runs of a queue running.
select * from ops.set_limit('default', 'max_running_per_tenant', 10);

-- CHANGES: lets 100 runs of a queue start each 60 seconds, for an outside API that allows no more.
select * from ops.set_limit('default', 'starts_per_period', 100, 60);

-- CHANGES: pauses a queue: what runs ends, nothing starts. Tasks: pause_task.
select * from ops.pause_queue('default');

-- CHANGES: asks a worker to claim nothing more, to finish what it runs, and to stop. Its process ends with status 0.
select * from ops.drain_worker(1234);

-- Consumers that are behind, and sessions whose producers have to wait for one (is_full).
select tenant_id, session_id, name, required, lag, behind, event_window, is_full, acked_at from ops.consumers
where lag > 0 order by is_full desc, behind desc limit 50;

-- CHANGES: lets a session's producers go on however far behind its consumers are.
select * from ops.set_window('default', 'case-7', null);

-- CHANGES: forgets a consumer that will not come back, so that producers no longer wait for it.
select * from ops.drop_consumer('default', 'case-7', 'billing');

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

-- OWNER CHANGES: gives back at once the runs of workers silent for a minute. Live workers do this by themselves.
select * from rescue_runs('1 minute');

-- ================================================================ Keys

-- Who can come in. tenant_id null: an administrator.
select id, tenant_id, name, created_at, revoked_at from ops.api_keys order by created_at desc limit 100;

-- CHANGES: revokes a key. API processes remember keys for 5 seconds; after that it opens nothing.
select * from ops.revoke_api_key('0123456789abcdef');

-- ================================================================ The server

-- Who holds a snapshot, for how long: above some minutes it slows every queue. A dump, or somebody's open psql.
select pid, usename, application_name, state, now() - xact_start as open_for, left(query, 60) as query
from pg_stat_activity where backend_xmin is not null and pid <> pg_backend_pid() order by xact_start limit 20;

-- Who waits for whose lock on the engine's tables.
select sentence, blocking_pid, blocking_query from ops.locks order by since desc limit 20;

-- Connections by program, of those that max_connections allows.
select application_name, state, count(*), current_setting('max_connections') as allowed
from pg_stat_activity where backend_type = 'client backend' group by application_name, state order by count(*) desc;

-- The largest tables, and whether vacuum keeps up with the hot ones (run, lane, session).
select relname, pg_size_pretty(pg_total_relation_size(relid)) as size, n_live_tup, n_dead_tup, last_autovacuum
from pg_stat_user_tables where schemaname = 'howdah' order by pg_total_relation_size(relid) desc limit 20;

-- OWNER Days that nobody prepared a partition for. More than 0: no worker has run for days.
select (select count(*) from run_history_default) as runs, (select count(*) from checkpoint_default) as steps;
