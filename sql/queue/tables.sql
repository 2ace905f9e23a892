-- A run's id begins with its millisecond, so that ids are small, sort by time and bound partitions.
create sequence run_id_seq as bigint minvalue 0 maxvalue 1048575 cycle cache 64;

-- A limit that is null is none. period_*: the period under way and the starts in it; written by claims only.
create table queue (
    name text not null,
    paused boolean not null default false,
    max_running integer,
    max_running_per_tenant integer,
    starts_per_period integer,
    period interval,
    max_queued integer,
    max_queued_per_tenant integer,
    period_started_at timestamptz,
    period_starts integer not null default 0,
    created_at timestamptz not null default now(),
    constraint queue_pkey primary key (name),
    constraint queue_name_check check (name ~ '^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$'),
    constraint queue_limits_check check (
        least(max_running, max_running_per_tenant, starts_per_period, max_queued, max_queued_per_tenant) >= 0),
    constraint queue_period_check check ((starts_per_period is null) = (period is null) and period > interval '0')
) with (fillfactor = 50);  -- room for updates within the page: no index knows what claims write, so vacuum has little to do

-- How many runs wait in a queue that caps them, as counted at counted_at: one row with tenant_id '' for all its tenants
-- together, and one for each tenant at its cap.
create table queue_depth (
    queue text not null,
    tenant_id text not null,
    queued integer not null,
    counted_at timestamptz not null,
    constraint queue_depth_pkey primary key (queue, tenant_id)
) with (
    -- Written anew each second. A thousand tenants at their caps leave as many dead rows a second.
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0
);

-- What workers say they can run; the API reads names and argument schemas here, so both deploy apart. A workflow's version
-- is part of its name, 'name@2' from the second on, so that a worker never gets one that it lacks.
--   newest  what the plain name of a task with versions stands for: the highest that was ever registered
create table task (
    name text not null,
    kind text not null,
    queue text not null,
    args_schema jsonb not null,
    description text not null default '',
    paused boolean not null default false,
    newest text,
    updated_at timestamptz not null default now(),
    constraint task_pkey primary key (name),
    constraint task_kind_check check (kind in ('task', 'workflow'))
);

-- tasks: what it can run; empty where it did not say, as stock procrastinate workers do not. draining: an operator asked
-- it to claim nothing more, finish, and stop; it learns of that from its next heartbeat.
create table worker (
    id bigint generated always as identity,
    name text not null,
    queues text[] not null,
    tasks text[] not null default '{}',
    draining boolean not null default false,
    started_at timestamptz not null default now(),
    heartbeat_at timestamptz not null default now(),
    constraint worker_pkey primary key (id)
) with (fillfactor = 50);  -- heartbeats are updates within the page, which the next reader prunes

-- Live runs only: a finished run moves to run_history, so this table and its indexes stay small and hot.
-- The key is the id alone: psql and stock procrastinate clients address a run without naming its tenant,
-- and an ever-growing key keeps inserts on one index page.
--   fresh       as it was enqueued; false: it came back to its queue, or became due, and goes before the fresh ones
--   order_no    its number in its ordered session; null: the run is not ordered
--   on_failure  of an ordered run: whether its session goes on without it (skip) or waits for it (block)
--   retry       overrides its task's own strategy
--   deaths      attempts that ended with their worker since it last came to rest; deaths_alone: those where nothing else ran
--               on that worker
--   suspect     died more often than chance explains: it next runs alone
--   parent_id, parent_step  the run, and the step of it, that wait for this one; null: nobody does
--   awaits      of a waiting run: a JSON array of what it waits for, see waits_over. run_at: when it is woken at the latest
create table run (
    id bigint not null,
    tenant_id text not null,
    queue text not null,
    task text not null,
    state text not null,
    priority integer not null default 0,
    fresh boolean not null default true,
    suspect boolean not null default false,
    cancel_requested boolean not null default false,
    attempt integer not null default 0,
    failures integer not null default 0,
    deaths integer not null default 0,
    deaths_alone integer not null default 0,
    session_id text,
    order_no bigint,
    on_failure text,
    unique_key text,
    args jsonb not null,
    run_at timestamptz,
    deadline timestamptz,
    retry jsonb,
    worker_id bigint,
    claimed_at timestamptz,
    error jsonb,
    parent_id bigint,
    parent_step text,
    traceparent text,
    awaits jsonb,
    constraint run_pkey primary key (id),
    constraint run_args_check check (jsonb_typeof(args) = 'object'),
    constraint run_priority_check check (priority > -2147483648),
    constraint run_order_check check (
        (order_no is null) = (on_failure is null) and (order_no is null or session_id is not null)
        and on_failure in ('skip', 'block')),
    constraint run_state_check check (
        state in ('queued', 'scheduled', 'blocked', 'waiting', 'running')),
    constraint run_running_check check ((state = 'running') = (claimed_at is not null))
) with (
    -- Each run leaves two dead rows, and dead index entries at the head of the ready indexes are what slows claims: vacuum
    -- after a fiftieth, where the default is a fifth, and at full speed. A fillfactor below 100 keeps the retry of a run on
    -- its page; state is in an index, so most updates are in indexes too.
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.1, autovacuum_vacuum_cost_delay = 0
);
-- The ready indexes: what a claim reads, lane by lane, in the order in which runs start. Ids only grow, so a claim reads
-- the fresh ones from its lane's floor on; what comes back has an old id, and an index of its own.
create index run_ready_idx on run (queue, tenant_id, task, (-priority), id) where state = 'queued' and fresh;
create index run_returned_idx on run (queue, tenant_id, task, (-priority), id)
    where state = 'queued' and not fresh and not suspect;
create index run_suspect_idx on run (queue, id) where state = 'queued' and suspect;
-- The slots taken: counted against the limits, and searched for a dead worker's runs.
create index run_running_idx on run (queue, tenant_id, worker_id) where state = 'running';
create index run_due_idx on run (run_at) where state in ('scheduled', 'waiting') and run_at is not null;
create index run_child_idx on run (parent_id, parent_step) where parent_id is not null;
-- Who is to be woken by a session's events; and a walk of sweep_queues.
create index run_listening_idx on run (tenant_id, session_id) where state = 'waiting' and session_id is not null;
create index run_waiting_idx on run (id) where state = 'waiting';
create index run_blocked_idx on run (tenant_id, session_id, order_no) where state = 'blocked';
create index run_deadline_idx on run (deadline)
    where deadline is not null and not (state = 'blocked' and on_failure = 'block');
create unique index run_unique_key_idx on run (tenant_id, unique_key)
    where unique_key is not null and state in ('queued', 'scheduled', 'blocked');
-- For lists of a tenant's runs. Not of running ones: those are few, and an entry here was a seventh of each claim.
create index run_tenant_idx on run (tenant_id, id) where state <> 'running';

-- One row for each (queue, tenant, task) with queued work, or more where it had to be made beside an open transaction
-- (twin, see hold_lanes). Claims order lanes by virtual time, which is in no
-- unique index, so that advancing it never waits for a concurrent enqueue.
--   parked   its tenant is at its cap or paused: no claim looks at it until something unparks it
--   floor_*  no fresh run of this priority or a lower one waits before this id; next_*: the floor once every
--            transaction older than next_xid has ended, because those may still commit an earlier run
create table lane (
    queue text not null,
    tenant_id text not null,
    task text not null,
    twin integer not null default 0,
    virtual_time double precision not null,
    parked boolean not null default false,
    floor_priority integer,
    floor_id bigint,
    next_priority integer,
    next_id bigint,
    next_xid xid8,
    constraint lane_pkey primary key (queue, tenant_id, task, twin)
) with (
    -- Every claim updates the virtual time of its lanes, which is in an index: the few rows of this table die thousands of
    -- times a minute, and each claim reads the index from its head. So a fixed threshold, whatever the number of lanes.
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0
);
create index lane_claim_idx on lane (queue, task, virtual_time) where not parked;

-- A session whose runs go one at a time, while it has any. head_id: the run that the others wait for, which may have
-- failed and be in history. The row's lock is the session's.
create table ordered_session (
    tenant_id text not null,
    session_id text not null,
    last_no bigint not null,
    head_id bigint not null,
    constraint ordered_session_pkey primary key (tenant_id, session_id)
) with (
    -- Comes and goes with the session's runs, and is updated in its page as they come.
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0
);

create table run_history (
    id bigint not null,
    tenant_id text not null,
    queue text not null,
    task text not null,
    state text not null,
    priority integer not null,
    session_id text,
    args jsonb not null,
    attempt integer not null,
    failures integer not null,
    deaths integer not null,
    deaths_alone integer not null default 0,
    order_no bigint,
    on_failure text,
    retry jsonb,
    worker_id bigint,
    claimed_at timestamptz,
    finished_at timestamptz not null,
    output jsonb,
    error jsonb,
    parent_id bigint,
    parent_step text,
    traceparent text,
    constraint run_history_pkey primary key (id, finished_at),
    constraint run_history_state_check check (state in ('succeeded', 'failed', 'cancelled'))
) partition by range (finished_at);
create index run_history_tenant_idx on run_history (tenant_id, id);
create index run_history_child_idx on run_history (parent_id) where parent_id is not null;
-- For operators: what failed, a small part of all; and what ended lately, which rows are written in the order of already.
create index run_history_failed_idx on run_history (finished_at) where state = 'failed';
create index run_history_finished_idx on run_history using brin (finished_at) with (autosummarize = on);
-- A finish must never fail for want of a partition: days that nobody prepared land here.
create table run_history_default partition of run_history default;

-- task, args_md5: of the run that the key stands for.
create table idempotency_key (
    tenant_id text not null,
    key text not null,
    task text not null,
    args_md5 text not null,
    run_id bigint not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    constraint idempotency_key_pkey primary key (tenant_id, key)
) with (
    -- A day of keys may be millions, of which some thousands expire every few minutes, always at the index's head.
    autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 5000
);
create index idempotency_key_expires_idx on idempotency_key (expires_at);

-- Runs to look at again: one was to be woken or cancelled while somebody else held its row. See tie_loose_ends.
create table loose_end (
    run_id bigint not null
);

-- How far the walks of sweep_queues have come: the key that each looked at last. One that came to its end has no row.
create table sweep_walk (
    name text not null,
    reached text[] not null,
    constraint sweep_walk_pkey primary key (name)
);
