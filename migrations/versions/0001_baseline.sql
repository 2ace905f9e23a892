create extension if not exists vector with schema public;
create schema the_cell_ops;
set local check_function_bodies = off;
set local search_path = the_cell, public;
-- weight: its share of each queue beside the other tenants' shares. event_days: for how many days its events are kept; null:
-- as long as the installation keeps them.
create table tenant (
    id text not null,
    name text not null,
    weight double precision not null default 1,
    paused boolean not null default false,
    event_days integer,
    created_at timestamptz not null default now(),
    constraint tenant_pkey primary key (id),
    constraint tenant_weight_check check (weight between 0.001 and 1000),
    constraint tenant_event_days_check check (event_days between 1 and 36500),
    constraint tenant_id_check check (id ~ '^[a-z0-9][a-z0-9-]{0,62}$')
);
-- Stock procrastinate clients know no tenants: what they send belongs to this one.
insert into tenant (id, name) values ('default', 'Default');

-- A key is shown once; only its SHA-256 is kept. tenant_id null: an administrator's key.
create table api_key (
    id text not null,
    tenant_id text,
    name text not null,
    secret_sha256 bytea not null,
    created_at timestamptz not null default now(),
    revoked_at timestamptz,
    constraint api_key_pkey primary key (id),
    constraint api_key_tenant_fkey foreign key (tenant_id) references tenant (id) on delete cascade
);
create index api_key_tenant_idx on api_key (tenant_id);

create table secret (
    name text not null,
    value bytea not null,
    constraint secret_pkey primary key (name)
);

-- Stores a key by the hash of its secret, made by the caller, who alone ever sees the secret.
create function create_api_key(p_id text, p_tenant text, p_name text, p_secret_sha256 bytea) returns table (id text)
language plpgsql
as $$
#variable_conflict use_column
begin
    if p_tenant is not null and not exists (select from tenant as t where t.id = p_tenant) then
        raise exception 'tenant % is unknown', quote_literal(p_tenant) using errcode = 'HW009';
    end if;
    insert into api_key (id, tenant_id, name, secret_sha256, created_at)
    values (p_id, p_tenant, p_name, p_secret_sha256, engine_now());
    return query select p_id;
end
$$;

-- Makes a tenant; one that exists is left as it is: created is then false.
create function create_tenant(p_tenant text, p_name text default null) returns table (created boolean)
language plpgsql
as $$
begin
    insert into tenant (id, name, created_at) values (p_tenant, coalesce(p_name, p_tenant), engine_now())
    on conflict do nothing;
    return query select found;
end
$$;

-- Whose key this is; no row when it is unknown, revoked, or its secret is another.
create function find_api_key(p_id text, p_secret_sha256 bytea) returns table (tenant_id text, admin boolean)
language sql stable
as $$
    select k.tenant_id, k.tenant_id is null
    from api_key as k
    where k.id = p_id and k.secret_sha256 = p_secret_sha256 and k.revoked_at is null
$$;

-- Opens the operator schema beside this cell to the role howdah_operator, and nothing else: its views read and its functions
-- act with their owner's rights, so that the role needs none on the cell itself. Called by the installation; again where
-- the role came later, by the owner: select grant_operators('ops').
-- The functions' path begins with the cell, which the engine takes for its own name when it notifies, and ends with
-- pg_temp: else a caller's temporary table could stand in for one of the engine's.
create function grant_operators(p_schema text) returns void
language plpgsql
as $$
declare
    v_function regprocedure;
begin
    for v_function in
        select p.oid from pg_proc as p where p.pronamespace = p_schema::regnamespace
    loop
        execute format('alter function %s security definer set search_path = %I, public, pg_temp',
                       v_function, current_schema());
        execute format('revoke execute on function %s from public', v_function);
    end loop;
    -- Roles belong to the server: another database or another cell may have made it, also this very moment.
    begin
        if to_regrole('howdah_operator') is null then
            create role howdah_operator nologin;
        end if;
    exception
        when duplicate_object or unique_violation then
            null;
        when insufficient_privilege then
            raise notice 'there is no role howdah_operator, and % may not create it', current_user
                using hint = format('have it created, then: select grant_operators(%L)', p_schema);
            return;
    end;
    execute format('grant usage on schema %I to howdah_operator', p_schema);
    execute format('grant select on all tables in schema %I to howdah_operator', p_schema);
    execute format('grant execute on all functions in schema %I to howdah_operator', p_schema);
end
$$;

-- A revoked key opens nothing from its next use. p_tenant null: any tenant's.
create function revoke_api_key(p_tenant text, p_id text) returns table (revoked boolean)
language plpgsql
as $$
begin
    update api_key as k set revoked_at = coalesce(k.revoked_at, engine_now())
    where k.id = p_id and (p_tenant is null or k.tenant_id = p_tenant);
    return query select found;
end
$$;

-- The key that signs stream tokens, the same for all processes of the cell; made at its first use.
create function stream_secret() returns table (secret bytea)
language plpgsql
as $$
#variable_conflict use_column
begin
    insert into secret (name, value) values ('stream', uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))
    on conflict do nothing;
    return query select s.value from secret as s where s.name = 'stream';
end
$$;

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

-- Goes on with ordered sessions whose head has left the live runs: the next run, by number, becomes the head and is
-- queued; a session without one is gone. The caller holds the sessions' locks and names each head with its number: looked
-- for from there on, the next one costs the same in a session of any length. A session whose head is another run stays.
create function advance_sessions(p_runs bigint[], p_tenants text[], p_sessions text[], p_nos bigint[], p_notify boolean)
returns void
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_queues text[];
    v_tenants text[];
    v_tasks text[];
begin
    with ended as materialized (
        select s.tenant_id, s.session_id,
               (select r.id from run as r
                where r.tenant_id = s.tenant_id and r.session_id = s.session_id and r.state = 'blocked'
                  and r.order_no > i.no
                order by r.order_no
                limit 1) as next_id
        from unnest(p_runs, p_tenants, p_sessions, p_nos) as i(id, tenant_id, session_id, no)
        join ordered_session as s on s.tenant_id = i.tenant_id and s.session_id = i.session_id and s.head_id = i.id
    ),
    gone as (
        delete from ordered_session as s using ended as e
        where e.next_id is null and s.tenant_id = e.tenant_id and s.session_id = e.session_id
    ),
    moved as (
        update ordered_session as s set head_id = e.next_id from ended as e
        where e.next_id is not null and s.tenant_id = e.tenant_id and s.session_id = e.session_id
    ),
    promoted as (
        update run as r
        set state = case when r.run_at > engine_now() then 'scheduled' else 'queued' end, fresh = false
        from ended as e where r.id = e.next_id
        returning r.queue, r.tenant_id, r.task, r.state
    )
    select array_agg(p.queue), array_agg(p.tenant_id), array_agg(p.task) into v_queues, v_tenants, v_tasks
    from promoted as p where p.state = 'queued';
    perform offer_runs(v_queues, v_tenants, v_tasks, p_notify);
end
$$;

-- The engine locks, then reads again in a new statement; under a fixed snapshot that second read would be blind.
create function assert_read_committed() returns void
language plpgsql
as $$
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'the transaction is %, the engine needs read committed', current_setting('transaction_isolation')
            using errcode = 'HW008', hint = 'begin the transaction with: begin isolation level read committed';
    end if;
end
$$;

-- Cancels runs that have not started, those that fit a filter, p_limit at most, the oldest first: see find_queued and
-- cancel_runs. requested: they were started meanwhile, and their workers are asked. more: there are others; call it again.
create function cancel_queued(p_filter jsonb default '{}', p_limit integer default 1000, p_reason text default 'cancelled',
                              p_notify boolean default true)
returns table (cancelled integer, requested integer, more boolean)
language plpgsql
as $$
declare
    v_runs bigint[] := find_queued(p_filter, p_limit);
begin
    return query
    select count(*) filter (where s.status = 'cancelled')::integer, count(*) filter (where s.status = 'requested')::integer,
           cardinality(v_runs) > p_limit
    from cancel_runs(p_filter ->> 'tenant', v_runs[1:p_limit], p_reason, p_notify) as s;
end
$$;

-- Cancels runs: at once where their code has not begun, else by asking their worker. A workflow that no worker has just now is
-- claimed once more, so that its code may tidy up; cancelled again before that, it ends at once. An ordered session goes on
-- without them.
-- p_tenant null: any tenant's (operators). status: cancelled | requested | finished | unknown.
create function cancel_runs(p_tenant text, p_runs bigint[], p_reason text default 'cancelled', p_notify boolean default true)
returns table (run_id bigint, status text)
language plpgsql
as $$
#variable_conflict use_column
declare
    v_idle bigint[];
    v_running bigint[];
    v_begun bigint[];
begin
    perform assert_read_committed();
    perform lock_ordered_sessions(
        array(select r.id from run as r where r.id = any (p_runs) and (p_tenant is null or r.tenant_id = p_tenant)), true);
    select array_agg(l.id) filter (where l.state <> 'running'), array_agg(l.id) filter (where l.state = 'running'),
           array_agg(l.id) filter (where not l.cancel_requested)
    into v_idle, v_running, v_begun
    from (
        select r.id, r.state, r.cancel_requested from run as r
        where r.id = any (p_runs) and (p_tenant is null or r.tenant_id = p_tenant)
        order by r.id for no key update
    ) as l;
    v_begun := runs_to_tidy_up(v_begun);
    v_idle := array(select i from unnest(v_idle) as i where i <> all (v_begun));
    if v_idle <> '{}' then
        perform finish_runs(
            v_idle, array_fill('cancelled'::text, array[cardinality(v_idle)]), null,
            array_fill(jsonb_build_object('type', 'Cancelled', 'message', p_reason), array[cardinality(v_idle)]),
            p_notify);
    end if;
    update run as r set cancel_requested = true where r.id = any (v_running);
    if v_begun <> '{}' then
        perform let_tidy_up(v_begun);
    end if;
    if p_notify and v_running is not null then
        perform pg_notify(current_schema() || '.cancels', '');
    end if;
    return query
    select s.run_id, case when s.run_id = any (v_running || v_begun) then 'requested' else s.status end
    from run_statuses(p_tenant, p_runs, v_idle, 'cancelled', 'unknown', 'finished') as s;
end
$$;

-- Changes the priority, the queue or the time of runs that have not started; a null leaves what it is. A time that has
-- passed starts the run now. p_tenant null: any tenant's. status: changed | started (running, or waiting) | finished | unknown.
create function change_runs(p_tenant text, p_runs bigint[], p_priority integer default null, p_queue text default null,
                            p_run_at timestamptz default null, p_notify boolean default true)
returns table (run_id bigint, status text)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_now timestamptz := engine_now();
    v_changed bigint[];
    v_queues text[];
    v_tenants text[];
    v_tasks text[];
begin
    perform assert_read_committed();
    perform check_queue_name(p_queue);
    insert into queue (name) select p_queue where p_queue is not null on conflict do nothing;
    -- Who holds an ordered session may lock any of its runs, in no order: so that comes first.
    perform lock_ordered_sessions(p_runs, true);
    perform from run as r where r.id = any (p_runs) order by r.id for no key update;
    -- Not fresh: its place in the order of ids is no longer its place in the queue.
    with changed as (
        update run as r
        set priority = coalesce(p_priority, r.priority), queue = coalesce(p_queue, r.queue), fresh = false,
            run_at = case when r.state = 'blocked' or p_run_at > v_now then coalesce(p_run_at, r.run_at)
                          when p_run_at is null then r.run_at end,
            state = case when r.state = 'blocked' or p_run_at is null then r.state
                         when p_run_at > v_now then 'scheduled' else 'queued' end
        where r.id = any (p_runs) and r.state in ('queued', 'scheduled', 'blocked')
          and (p_tenant is null or r.tenant_id = p_tenant)
        returning r.id, r.queue, r.tenant_id, r.task, r.state
    )
    select array_agg(c.id), array_agg(c.queue) filter (where c.state = 'queued'),
           array_agg(c.tenant_id) filter (where c.state = 'queued'), array_agg(c.task) filter (where c.state = 'queued')
    into v_changed, v_queues, v_tenants, v_tasks
    from changed as c;
    perform offer_runs(v_queues, v_tenants, v_tasks, p_notify);
    return query select * from run_statuses(p_tenant, p_runs, v_changed, 'changed', 'started', 'finished');
end
$$;

-- Refuses a filter that has keys other than these, or a limit that is no chunk's: what acts on many runs must not act on
-- more than was meant.
create function check_filter(p_filter jsonb, p_known text[], p_limit integer) returns void
language plpgsql
as $$
declare
    v_key text;
begin
    if jsonb_typeof(p_filter) is distinct from 'object' then
        raise exception 'the filter is %', coalesce(jsonb_typeof(p_filter), 'null')
            using errcode = 'HW016', hint = 'give an object, such as {"queue": "mail"}, or {} for all';
    end if;
    for v_key in select jsonb_object_keys(p_filter) loop
        if v_key <> all (p_known) then
            raise exception 'the filter has an unknown key %', quote_literal(v_key)
                using errcode = 'HW016', hint = 'use ' || array_to_string(p_known, ', ');
        end if;
    end loop;
    if p_limit is null or p_limit not between 1 and 10000 then
        raise exception 'the limit is %', coalesce(p_limit::text, 'null')
            using errcode = 'HW016', hint = 'give a number from 1 to 10000, and repeat while there is more';
    end if;
    if p_filter ? 'ids' and jsonb_typeof(p_filter -> 'ids') <> 'array' then
        raise exception 'the filter''s ids are %', p_filter -> 'ids'
            using errcode = 'HW016', hint = 'give an array of run ids';
    end if;
end
$$;

-- Refuses what cannot be a queue's name; null is none.
create function check_queue_name(p_queue text) returns void
language plpgsql
as $$
begin
    if p_queue !~ '^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$' then
        raise exception 'queue % is not a name', quote_literal(p_queue)
            using errcode = 'HW016', hint = 'use up to 128 letters, digits and . _ : - beginning with a letter or digit';
    end if;
end
$$;

-- Claims up to p_limit queued runs for a worker, fairly among tenants: all there is to know about claiming.
-- A claim locks the few lanes with the least virtual time, takes the head runs of each tenant in order of priority, then
-- age, as many as its weight among theirs gives it, and advances its lanes by what it took, divided by that weight:
-- weighted fair queueing in which workers never wait for one another. It goes round until it is full: one lane alone
-- must give the full speed, and lanes found empty, or parked because their tenant may not start more, make way for others.
--   p_tasks  only runs of these tasks: lanes of others are not even looked at; null: any
-- An attempt's number is its fencing token: every later write must show it.
-- A worker that its peers have given up is refused: a run claimed in its name would belong to nobody.
-- A uniqueness key holds while queued, so it is given up here: kept, a run that comes back could collide with the next
-- one that took it meanwhile, and stop the rescue of its neighbours.
create function claim_runs(
    p_worker bigint,
    p_queues text[],
    p_limit integer,
    p_tasks text[] default null
) returns table (run_id bigint, tenant_id text, queue text, task text, args text,
                 attempt integer, failures integer, session_id text, retry text, deadline timestamptz)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    c_lanes constant integer := 64;   -- lanes locked a round: enough to be fair, few enough to leave others some
    c_rounds constant integer := 16;  -- bounds one call when most lanes turn out empty
    c_margin constant bigint := 2 << 20;  -- ids of one millisecond are in no order: a floor stays two of them behind
    v_now timestamptz := engine_now();
    v_left integer := p_limit;
    v_room integer;
    v_cap integer;
    v_held boolean := false;  -- a queue or lanes are locked: from then on nothing is waited for
    v_taken integer;
    v_started integer;
    v_queue text;
    v_tasks text[];
    v_tenants text[];
    v_lanes text[];
    v_twins integer[];
    v_passed text[];
begin
    perform assert_read_committed();
    perform from worker as w where w.id = p_worker for key share;
    if not found then
        raise exception 'worker % is not registered, or its peers have given it up', p_worker
            using errcode = 'HW001', hint = 'register again: select * from register_worker(...)';
    end if;
    foreach v_queue in array p_queues loop
        exit when v_left <= 0;
        -- A quick look, as most workers serve queues that have nothing.
        continue when not exists (select from lane as l where l.queue = v_queue and not l.parked);
        -- Waited for only while nothing else is held: workers come to their queues in any order.
        select q.room, q.per_tenant, q.held or v_held into v_room, v_cap, v_held
        from lock_queue(v_queue, v_left, not v_held) as q;
        continue when v_room <= 0;
        v_tasks := open_tasks(v_queue, p_tasks);
        v_started := 0;
        v_passed := '{}';
        for v_round in 1..c_rounds loop
            select l.tenants, l.tasks, l.twins into v_tenants, v_lanes, v_twins
            from lock_lanes(v_queue, v_tasks, v_passed, least(c_lanes, greatest(v_room, 8))) as l;
            exit when v_tenants is null;
            v_held := true;

            return query
            with lanes as materialized (
                select i.tenant_id, i.task, i.twin, i.ord, l.virtual_time, l.floor_priority, l.floor_id,
                       i.twin = min(i.twin) over (partition by i.tenant_id, i.task) as read
                from unnest(v_tenants, v_lanes, v_twins) with ordinality as i(tenant_id, task, twin, ord)
                join lane as l
                    on l.queue = v_queue and l.tenant_id = i.tenant_id and l.task = i.task and l.twin = i.twin
            ),
            tenants as materialized (
                select s.*, ceil(v_room * s.weight / greatest(sum(s.weight) filter (where s.room > 0) over (), s.weight))
                            ::integer as share
                from (
                    select t.id, t.weight, l.ord, l.virtual_time,
                           case when t.paused then 0
                                when v_cap is null then v_room
                                else v_cap - (select count(*)
                                              from (select from run as r
                                                    where r.queue = v_queue and r.tenant_id = t.id and r.state = 'running'
                                                    limit v_cap) as slot) end as room
                    from (select l.tenant_id, min(l.ord) as ord, min(l.virtual_time) as virtual_time
                          from lanes as l group by l.tenant_id) as l
                    join tenant as t on t.id = l.tenant_id
                    order by l.ord
                ) as s
            ),
            heads as materialized (
                select h.place, t.id as tenant_id
                from tenants as t
                cross join lateral (
                    select r.ctid as place
                    from lanes as l
                    cross join lateral (
                        (select r.ctid, -r.priority as rank, r.fresh, r.id
                         from run as r
                         where r.queue = v_queue and r.tenant_id = l.tenant_id and r.task = l.task
                           and r.state = 'queued' and not r.fresh and not r.suspect
                         order by -r.priority, r.id
                         limit t.share)
                        union all
                        (select r.ctid, -r.priority, r.fresh, r.id
                         from run as r
                         where r.queue = v_queue and r.tenant_id = l.tenant_id and r.task = l.task
                           and r.state = 'queued' and r.fresh and -r.priority < -l.floor_priority
                         order by -r.priority, r.id
                         limit t.share)
                        union all
                        (select r.ctid, -r.priority, r.fresh, r.id
                         from run as r
                         where r.queue = v_queue and r.tenant_id = l.tenant_id and r.task = l.task
                           and r.state = 'queued' and r.fresh
                           and (-r.priority, r.id) > (coalesce(-l.floor_priority, -2147483648), coalesce(l.floor_id, 0))
                         order by -r.priority, r.id
                         limit t.share)
                    ) as r
                    where l.tenant_id = t.id and l.read
                    order by r.rank, r.fresh, r.id
                    limit least(t.share, t.room)
                ) as h
                where t.room > 0
                limit v_room
            ),
            locked as materialized (
                select r.ctid as place, r.id, r.tenant_id, r.task, r.priority, r.fresh
                from heads as h
                join run as r on r.ctid = h.place
                where r.state = 'queued'
                for no key update of r skip locked
            ),
            taken as materialized (
                select h.tenant_id, h.task, sum(count(*)) over (partition by h.tenant_id) as of_tenant,
                       min(h.priority) filter (where h.fresh) as lowest, max(h.priority) filter (where h.fresh) as highest,
                       max(h.id) filter (where h.fresh) as last
                from locked as h
                group by h.tenant_id, h.task
            ),
            advanced as (
                update lane as l
                set virtual_time = a.virtual_time,
                    floor_priority = case when l.next_xid <= a.oldest then l.next_priority else l.floor_priority end,
                    floor_id = case when l.next_xid <= a.oldest then l.next_id else l.floor_id end,
                    -- One candidate at a time, and only where one priority was read: its last id is then how far.
                    next_priority = case when l.next_xid > a.oldest or a.priority is null then l.next_priority else a.priority end,
                    next_id = case when l.next_xid > a.oldest or a.priority is null then l.next_id else a.last - c_margin end,
                    next_xid = case when l.next_xid > a.oldest or a.priority is null then l.next_xid else a.newest end
                from (
                    select i.tenant_id, i.task, i.twin, t.virtual_time + g.of_tenant / t.weight as virtual_time,
                           case when k.lowest = k.highest then k.lowest end as priority, k.last,
                           pg_snapshot_xmin(pg_current_snapshot()) as oldest,
                           pg_snapshot_xmax(pg_current_snapshot()) as newest
                    from lanes as i
                    join tenants as t on t.id = i.tenant_id
                    join (select distinct k.tenant_id, k.of_tenant from taken as k) as g on g.tenant_id = i.tenant_id
                    left join taken as k on k.tenant_id = i.tenant_id and k.task = i.task
                    offset 0
                ) as a
                where l.queue = v_queue and l.tenant_id = a.tenant_id and l.task = a.task and l.twin = a.twin
            )
            update run as r
            set state = 'running', attempt = r.attempt + 1, worker_id = p_worker, claimed_at = v_now, run_at = null,
                unique_key = null
            from locked as h
            where r.ctid = h.place
            returning r.id, r.tenant_id, r.queue, r.task, r.args::text, r.attempt, r.failures, r.session_id,
                      r.retry::text, r.deadline;
            get diagnostics v_taken = row_count;
            v_left := v_left - v_taken;
            v_room := v_room - v_taken;
            v_started := v_started + v_taken;
            -- Fewer than one tenant's share: nobody was cut short, and all lanes there are have been read. That is a queue with
            -- little to do: its lanes stay, for the next run, until a claim finds nothing in them.
            exit when v_taken > 0 and v_cap is null
                  and v_taken * cardinality(v_tenants) < v_room + v_taken
                  and cardinality(v_tenants) < least(c_lanes, greatest(v_room + v_taken, 8))
                  and not exists (select from tenant as t where t.id = any (v_tenants) and t.weight <> 1);
            if v_cap is not null or v_room > 0 then
                perform park_lanes(v_queue, v_tenants, v_lanes, v_twins, v_cap);
            end if;
            exit when v_room <= 0;

            perform remove_empty_lanes(v_queue, v_tenants, v_lanes, v_twins);
            if v_taken = 0 then
                v_passed := v_passed || array(select i.tenant_id || '/' || i.task
                                              from unnest(v_tenants, v_lanes) as i(tenant_id, task));
            end if;
        end loop;
        perform count_starts(v_queue, v_started);
    end loop;
end
$$;

-- Claims suspect runs, for a worker that runs nothing else until they have ended: as many as their deaths let run together
-- (see suspect_company), p_limit at most. Limits and pauses hold for them as for any other. Answers as claim_runs does.
create function claim_suspects(p_worker bigint, p_queues text[], p_tasks text[] default null, p_limit integer default 50)
returns table (run_id bigint, tenant_id text, queue text, task text, args text,
               attempt integer, failures integer, session_id text, retry text, deadline timestamptz)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_queue text;
    v_room integer;
    v_company integer;
    v_cap integer;
    v_held boolean := false;
begin
    perform assert_read_committed();
    perform from worker as w where w.id = p_worker for key share;
    if not found then
        raise exception 'worker % is not registered, or its peers have given it up', p_worker
            using errcode = 'HW001', hint = 'register again: select * from register_worker(...)';
    end if;
    foreach v_queue in array p_queues loop
        select suspect_company(r.deaths) into v_company
        from run as r
        where r.queue = v_queue and r.state = 'queued' and r.suspect
          and (p_tasks is null or r.task = any (p_tasks))
          and not exists (select from task as k where k.name = r.task and k.paused)
          and not exists (select from tenant as t where t.id = r.tenant_id and t.paused)
        order by r.id
        limit 1;
        continue when not found;
        select q.room, q.per_tenant, q.held or v_held into v_room, v_cap, v_held
        from lock_queue(v_queue, least(v_company, p_limit), not v_held) as q;
        continue when v_room <= 0;
        if v_cap is not null then
            v_room := 1;  -- counted below for one
        end if;
        return query
        with heads as (
            select r.id from run as r
            where r.queue = v_queue and r.state = 'queued' and r.suspect
              and suspect_company(r.deaths) = v_company
              and (p_tasks is null or r.task = any (p_tasks))
              and not exists (select from task as k where k.name = r.task and k.paused)
              and not exists (select from tenant as t where t.id = r.tenant_id and t.paused)
              and (v_cap is null
                   or (select count(*) from run as o
                       where o.queue = v_queue and o.tenant_id = r.tenant_id and o.state = 'running') < v_cap)
            order by r.id
            limit v_room
            for no key update skip locked
        )
        update run as r
        set state = 'running', attempt = r.attempt + 1, worker_id = p_worker, claimed_at = engine_now(), run_at = null,
            unique_key = null
        from heads as h
        where r.id = h.id
        returning r.id, r.tenant_id, r.queue, r.task, r.args::text, r.attempt, r.failures, r.session_id, r.retry::text,
                  r.deadline;
        get diagnostics v_room = row_count;
        if v_room > 0 then
            perform count_starts(v_queue, v_room);
            return;
        end if;
    end loop;
end
$$;

-- Counts what is queued in the queues that cap it; enqueue reads the counts. Workers and API processes call it each
-- second; whoever finds another at it leaves it to that one. Counting ends at the cap.
create function count_depths() returns void
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_queue queue;
begin
    for v_queue in
        select q.* from queue as q where coalesce(q.max_queued, q.max_queued_per_tenant) is not null order by q.name
    loop
        continue when not pg_try_advisory_xact_lock(
            hashtextextended(current_schema() || '.depth.' || v_queue.name, 0));
        delete from queue_depth as d where d.queue = v_queue.name and d.tenant_id <> '';
        insert into queue_depth as d (queue, tenant_id, queued, counted_at)
        select v_queue.name, c.tenant_id, c.queued, engine_now()
        from (
            select '' as tenant_id, count_queued(v_queue.name, null, v_queue.max_queued) as queued
            union all
            select t.tenant_id, count_queued(v_queue.name, t.tenant_id, v_queue.max_queued_per_tenant)
            from (select distinct l.tenant_id from lane as l where l.queue = v_queue.name) as t
            where v_queue.max_queued_per_tenant is not null
        ) as c
        where c.tenant_id = '' or c.queued >= v_queue.max_queued_per_tenant
        on conflict (queue, tenant_id) do update set queued = excluded.queued, counted_at = excluded.counted_at;
    end loop;
end
$$;

-- How many runs are queued in a queue, of one tenant or (null) of all, counted up to p_most; 0 where p_most is null.
create function count_queued(p_queue text, p_tenant text, p_most integer) returns integer
language sql stable
set enable_seqscan = off
as $$
    select count(*)::integer
    from (
        select from run as r
        where r.queue = p_queue and r.state = 'queued' and r.fresh and (p_tenant is null or r.tenant_id = p_tenant)
        limit coalesce(p_most, 0)
    ) as waiting
$$;

-- Counts runs that have just started against their queue's starts_per_period. A period begins with the first start after
-- the last one's end. The caller has locked the queue.
create function count_starts(p_queue text, p_started integer) returns void
language sql
as $$
    update queue as q
    set period_started_at = case when q.period_started_at + q.period > engine_now() then q.period_started_at
                                 else engine_now() end,
        period_starts = p_started + case when q.period_started_at + q.period > engine_now() then q.period_starts else 0 end
    where q.name = p_queue and q.starts_per_period is not null and p_started > 0
$$;

-- Gives failed runs up, those that fit a filter, p_limit at most, the longest failed first: see find_failed and
-- discard_runs. more: there are others; call it again.
create function discard_failed(p_filter jsonb default '{}', p_limit integer default 1000, p_notify boolean default true)
returns table (discarded integer, more boolean)
language plpgsql
as $$
declare
    v_runs bigint[] := find_failed(p_filter, p_limit);
begin
    return query
    select count(*) filter (where s.status = 'discarded')::integer, cardinality(v_runs) > p_limit
    from discard_runs(p_filter ->> 'tenant', v_runs[1:p_limit], p_notify) as s;
end
$$;

-- Gives failed runs up: they become cancelled ones, with their error kept, and an ordered session that waited for one of
-- them goes on. p_tenant null: any tenant's (operators). status: discarded | live | finished | unknown.
create function discard_runs(p_tenant text, p_runs bigint[], p_notify boolean default true)
returns table (run_id bigint, status text)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_oldest timestamptz := (select run_created_at(min(i)) from unnest(p_runs) as i);
    v_discarded bigint[];
begin
    perform assert_read_committed();
    perform lock_finished_sessions(p_runs);
    with discarded as (
        update run_history as h set state = 'cancelled'
        where h.id = any (p_runs) and h.finished_at >= v_oldest and h.state = 'failed'
          and (p_tenant is null or h.tenant_id = p_tenant)
        returning h.id, h.tenant_id, h.session_id, h.order_no
    ),
    kept as (select array_agg(d.id) as ids from discarded as d)
    select k.ids into v_discarded from kept as k;
    perform advance_sessions(array_agg(h.id), array_agg(h.tenant_id), array_agg(h.session_id), array_agg(h.order_no), p_notify)
    from run_history as h
    where h.id = any (v_discarded) and h.finished_at >= v_oldest and h.order_no is not null
    having count(*) > 0;
    return query select * from run_statuses(p_tenant, p_runs, v_discarded, 'discarded', 'live', 'finished');
end
$$;

-- Asks a worker to claim nothing more, to finish what it runs, and to stop. status: asked | stock | unknown.
-- A stock procrastinate worker cannot be asked: end its process, and it does the same.
create function drain_worker(p_worker bigint) returns table (worker_id bigint, status text)
language plpgsql
as $$
#variable_conflict use_column
declare
    v_name text;
begin
    update worker as w set draining = w.name not like 'procrastinate:%' where w.id = p_worker returning w.name into v_name;
    if v_name not like 'procrastinate:%' then
        -- What makes a worker heartbeat at once.
        perform pg_notify(current_schema() || '.cancels', '');
    end if;
    return query
    select p_worker, case when v_name is null then 'unknown' when v_name like 'procrastinate:%' then 'stock' else 'asked' end;
end
$$;

-- Drops one day of history, of checkpoints, of signals or of events that is older than it is kept: call it until it answers
-- nothing. One a call, because a drop locks the whole table until its transaction ends.
--   p_keep   for how long history is kept; null: for ever
--   dropped  false: somebody reads or writes the table right now. It waits a fifth of a second at most, because
--            everybody else would wait behind it; the day stays for the next time.
-- A day of checkpoints or signals goes once no run that was enqueued on it is live, or in history: such a run may be requeued, and
-- goes on from its last finished step. Today stays, whatever p_keep is.
-- A day of events goes once no session keeps anything of it (cut_sessions), but neither today nor yesterday, which somebody
-- may just be writing to.
create function drop_partitions(p_keep interval) returns table (partition text, dropped boolean)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
set lock_timeout = '200ms'
as $$
declare
    v_before date := case when p_keep is not null then least(engine_now() - p_keep, engine_now()) at time zone 'utc' end;
begin
    if not pg_try_advisory_xact_lock(hashtextextended(current_schema() || '.partitions', 0)) then
        return;
    end if;
    select d.name into partition
    from (
        select c.relname as name, i.inhparent = 'run_history'::regclass as is_history,
               i.inhparent = 'event'::regclass as is_events,
               case when c.relname ~ '_\d{8}$' then right(c.relname, 8)::date end as day
        from pg_inherits as i
        join pg_class as c on c.oid = i.inhrelid
        where i.inhparent in ('run_history'::regclass, 'checkpoint'::regclass, 'signal'::regclass, 'event'::regclass)
    ) as d
    where case when d.is_events then d.day < (engine_now() at time zone 'utc')::date - 1 else d.day < v_before end
      and case
          when d.is_history then true
          when d.is_events then not exists (
              select from tenant as t
              where exists (select from session as s
                            where s.tenant_id = t.id and s.first_at < (d.day + 1)::timestamp at time zone 'utc'))
          else not exists (select from run as r where r.id >= first_run_id(d.day) and r.id < first_run_id(d.day + 1))
               and not exists (select from run_history as h
                               where h.id >= first_run_id(d.day) and h.id < first_run_id(d.day + 1)
                                 and h.finished_at >= d.day::timestamp at time zone 'utc')
          end
    order by d.day, not d.is_history, d.name
    limit 1;
    if partition is not null then
        begin
            execute format('drop table %I', partition);
            dropped := true;
        exception when lock_not_available then
            dropped := false;
        end;
        return next;
    end if;
end
$$;

-- Ends those of these runs that somebody asked to stop while they ran: they have stopped, and must not start again. Those
-- past their deadline have failed. The caller holds their locks, and those of their ordered sessions.
--   p_tidied  whether their code has ended by itself; one that was taken from its worker may still have something to tidy up
create function end_cancelled_runs(p_runs bigint[], p_tidied boolean) returns void
language plpgsql
as $$
declare
    v_asked bigint[] := array(select r.id from run as r where r.id = any (p_runs) and r.cancel_requested);
    v_begun bigint[] := '{}';
    v_late bigint[];
    v_cancelled bigint[];
begin
    if v_asked = '{}' then
        return;
    end if;
    if not p_tidied then
        v_begun := runs_to_tidy_up(v_asked);
        perform let_tidy_up(v_begun);
    end if;
    select array_agg(r.id) filter (where r.deadline <= engine_now()),
           array_agg(r.id) filter (where r.deadline is null or r.deadline > engine_now())
    into v_late, v_cancelled
    from run as r
    where r.id = any (v_asked) and r.id <> all (v_begun);
    if v_late is not null then
        perform end_late_runs(v_late, false);
    end if;
    if v_cancelled is not null then
        perform from cancel_runs(null, v_cancelled, 'cancelled', false);
    end if;
end
$$;

-- Ends these runs as failed: their deadline has passed. The caller holds their locks, and they are not running.
create function end_late_runs(p_runs bigint[], p_notify boolean) returns void
language sql
as $$
    select finish_runs(
        p_runs, array_fill('failed'::text, array[cardinality(p_runs)]), null,
        array_fill('{"type": "DeadlineExceeded", "message": "its deadline passed before it ended"}'::jsonb,
                   array[cardinality(p_runs)]),
        p_notify)
$$;

-- The engine's clock. Tests move it with `set howdah.now = '…'`, so that no test sleeps to see an hour pass.
create function engine_now() returns timestamptz
language sql volatile
as $$
    select coalesce(nullif(current_setting('howdah.now', true), '')::timestamptz, clock_timestamp())
$$;

-- One run, for psql and for other languages: select * from enqueue_run('acme', 'invoice.send', '{"id": 7}').
-- The parameters are those of enqueue_runs; what that answers as a status is raised here.
create function enqueue_run(
    p_tenant text,
    p_task text,
    p_args jsonb default '{}',
    p_queue text default null,
    p_priority integer default 0,
    p_run_at timestamptz default null,
    p_session text default null,
    p_key text default null,
    p_unique text default null,
    p_order text default null,
    p_deadline timestamptz default null,
    p_retry jsonb default null,
    p_window interval default null,
    p_notify boolean default true,
    p_traceparent text default null
) returns table (run_id bigint, status text)
language plpgsql
as $$
#variable_conflict use_column
declare
    v_id bigint;
    v_status text;
begin
    select e.run_id, e.status into v_id, v_status
    from enqueue_runs(array[p_tenant], array[p_task], array[p_args::text], array[p_queue], array[p_priority],
                      array[p_run_at], array[p_session], array[p_key], array[p_unique], array[p_order],
                      array[p_deadline], array[p_retry::text], array[p_window], p_notify,
                      p_traceparents => array[p_traceparent]) as e;
    case v_status
        when 'unknown_tenant' then
            raise exception 'tenant % is unknown', quote_literal(p_tenant)
                using errcode = 'HW009', hint = 'create it first: select * from create_tenant(...)';
        when 'conflict' then
            raise exception 'idempotency key % was used for another task or other arguments', quote_literal(p_key)
                using errcode = 'HW003', hint = 'use a new key for a new request';
        when 'not_unique' then
            raise exception 'a run with the uniqueness key % is already queued', quote_literal(p_unique)
                using errcode = 'HW005', hint = 'wait until it starts, or leave the key out';
        when 'queue_full' then
            raise exception 'the queue of task % has as many queued runs as it may', quote_literal(p_task)
                using errcode = 'HW018', hint = 'try again in a second, or raise max_queued: select * from ops.queues';
        else
            return query select v_id, v_status;
    end case;
end
$$;

-- Enqueues a batch of runs, one an array position, and answers in the same positions.
--   p_args       JSON objects as text, up to 1 MiB each
--   p_queues     null: the queue that the task's workers registered, else 'default'
--   p_run_ats    null: now; a later time makes the run 'scheduled'
--   p_keys       idempotency keys, unique per tenant for their window; null: none
--   p_unique     uniqueness keys while queued (procrastinate's queueing lock); null: none
--   p_orders     skip | block: the run is one of its session's ordered runs, which go one at a time in the order in which
--                they were enqueued; when it fails for good, the session goes on without it, or waits. null: not ordered
--   p_deadlines  when the run has failed if it has not ended; null: never
--   p_retries    JSON objects that override the task's own retry strategy; null: none
--   p_windows    how long an idempotency key is remembered; null: a day
--   p_parent, p_parent_step  the run, and its step, that waits for all of these: see spawn_children
--   p_traceparents  W3C trace contexts, which the runs' events bear, and their children's; null: none. What is none is
--                   ignored, as W3C asks.
-- A task that has versions means the newest, unless one is named: 'name@2', or 'name@1', whose runs bear the plain name.
-- status: created | existing (same key, same task and arguments: its run is returned; the plain name is the same task as the
--         version that the run has, also when there is a newer one by now)
--         | conflict (same key, other task or arguments) | not_unique | unknown_tenant
--         | queue_full (its queue caps what may wait there); a bad item fails alone.
-- task: as the run bears it, with its version.
create function enqueue_runs(
    p_tenants text[],
    p_tasks text[],
    p_args text[],
    p_queues text[] default null,
    p_priorities integer[] default null,
    p_run_ats timestamptz[] default null,
    p_sessions text[] default null,
    p_keys text[] default null,
    p_unique text[] default null,
    p_orders text[] default null,
    p_deadlines timestamptz[] default null,
    p_retries text[] default null,
    p_windows interval[] default null,
    p_notify boolean default true,
    p_parent bigint default null,
    p_parent_step text default null,
    p_traceparents text[] default null
) returns table (ord bigint, run_id bigint, status text, task text)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
    v_now timestamptz := engine_now();
    v_ids bigint[];
    v_queues text[];
    v_tasks text[];
    v_status text[];
    v_order_nos bigint[];
    v_heads boolean[];
    v_full text[];
    v_new_queues text[];
    v_new_tenants text[];
    v_new_tasks text[];
begin
    perform assert_read_committed();
    -- Before any id is made: a lane's floor may pass an id only once the transactions that could still commit an
    -- earlier one have ended, and it knows them by this number.
    perform pg_current_xact_id();

    select array_agg(next_run_id() order by i.ord),
           array_agg(coalesce(i.queue, t.queue, 'default') order by i.ord),
           array_agg(case when i.task like '%@1' then p.plain else coalesce(t.newest, i.task) end order by i.ord),
           array_agg(case when tn.id is null then 'unknown_tenant' else 'created' end order by i.ord)
    into v_ids, v_queues, v_tasks, v_status
    from unnest(p_tenants, p_tasks, p_queues) with ordinality as i(tenant, task, queue, ord)
    cross join lateral (select case when i.task like '%@1' then left(i.task, -2) else i.task end as plain) as p
    left join task as t on t.name = p.plain
    left join tenant as tn on tn.id = i.tenant;
    -- Ids in the order given, whatever order the rows were numbered in.
    select array_agg(id order by id) into v_ids from unnest(v_ids) as id;

    if exists (select from queue as q where coalesce(q.max_queued, q.max_queued_per_tenant) is not null) then
        v_full := array(select f.queue || ' ' || f.tenant_id from full_queues(v_queues, p_tenants) as f);
        select array_agg(case when i.status = 'created' and i.queue || ' ' || i.tenant = any (v_full) then 'queue_full'
                              else i.status end order by i.ord)
        into v_status
        from unnest(v_queues, p_tenants, v_status) with ordinality as i(queue, tenant, status, ord);
    end if;

    if exists (select from unnest(p_keys) as k where k is not null) then
        -- A key whose window is over is anybody's again.
        delete from idempotency_key as k
        using unnest(p_tenants, p_keys) as i(tenant, key)
        where k.tenant_id = i.tenant and k.key = i.key and k.expires_at <= v_now;

        insert into idempotency_key as k (tenant_id, key, task, args_md5, run_id, created_at, expires_at)
        select distinct on (i.tenant, i.key) i.tenant, i.key, i.task, md5(i.args::jsonb::text), i.id, v_now,
               v_now + coalesce(i.keep, interval '1 day')
        from unnest(p_tenants, v_tasks, p_args, p_keys, v_ids, v_status, p_windows) with ordinality
            as i(tenant, task, args, key, id, status, keep, ord)
        where i.key is not null and i.status = 'created'
        order by i.tenant, i.key, i.ord
        on conflict do nothing;

        select array_agg(case when k.run_id is null or k.run_id = i.id then i.id else k.run_id end order by i.ord),
               array_agg(case when k.run_id is null or k.run_id = i.id then i.status
                              when k.args_md5 = md5(i.args::jsonb::text)
                                   and (k.task = i.task or regexp_replace(k.task, '@[0-9]+$', '') = i.asked) then 'existing'
                              else 'conflict' end order by i.ord),
               array_agg(coalesce(k.task, i.task) order by i.ord)
        into v_ids, v_status, v_tasks
        from unnest(p_tenants, v_tasks, p_tasks, p_args, p_keys, v_ids, v_status) with ordinality
            as i(tenant, task, asked, args, key, id, status, ord)
        left join idempotency_key as k on k.tenant_id = i.tenant and k.key = i.key and i.key is not null;
    end if;

    insert into queue (name)
    select distinct q from unnest(v_queues, v_status) as i(q, status)
    where i.status = 'created' and not exists (select from queue where name = i.q)
    order by q
    on conflict do nothing;

    if exists (select from unnest(p_orders) as o where o is not null) then
        select array_agg(o.order_no order by o.ord), array_agg(o.head order by o.ord)
        into v_order_nos, v_heads
        from number_ordered_runs(
            v_ids, p_tenants, p_sessions,
            array(select case when i.status = 'created' then i.kind end
                  from unnest(v_status, p_orders) with ordinality as i(status, kind, ord) order by i.ord)) as o;
    end if;

    with inserted as (
        insert into run (id, tenant_id, queue, task, state, priority, session_id, unique_key, args, run_at, order_no,
                         on_failure, deadline, retry, parent_id, parent_step, traceparent)
        select i.id, i.tenant, i.queue, i.task,
               case when not i.head then 'blocked' when i.run_at > v_now then 'scheduled' else 'queued' end,
               coalesce(i.priority, 0), i.session, i.unique_key, i.args::jsonb, i.run_at, i.order_no,
               case when i.order_no is not null then i.kind end, i.deadline, i.retry::jsonb, p_parent, p_parent_step,
               case when i.traceparent ~ '^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$' then i.traceparent end
        from unnest(v_ids, p_tenants, v_queues, v_tasks, p_priorities, p_sessions, p_unique, p_args, p_run_ats, v_status,
                    v_order_nos, v_heads, p_orders, p_deadlines, p_retries, p_traceparents)
            with ordinality as i(id, tenant, queue, task, priority, session, unique_key, args, run_at, status,
                                 order_no, head, kind, deadline, retry, traceparent, ord)
        where i.status = 'created'
        order by i.tenant, i.unique_key, i.ord
        on conflict (tenant_id, unique_key)
            where unique_key is not null and state in ('queued', 'scheduled', 'blocked') do nothing
        returning id, queue, tenant_id, task, state
    )
    select array_agg(queue) filter (where state = 'queued'), array_agg(tenant_id) filter (where state = 'queued'),
           array_agg(task) filter (where state = 'queued')
    into v_new_queues, v_new_tenants, v_new_tasks
    from inserted;

    if exists (select from unnest(p_unique) as u where u is not null) then
        select array_agg(case when i.status = 'created' and i.unique_key is not null
                                   and not exists (select from run as r where r.id = i.id)
                              then 'not_unique' else i.status end order by i.ord)
        into v_status
        from unnest(v_ids, p_unique, v_status) with ordinality as i(id, unique_key, status, ord);
        -- Nor is there one for the same request again, beside it in this batch.
        select array_agg(case when i.status = 'existing'
                                   and i.id = any (array(select j.id from unnest(v_ids, v_status) as j(id, status)
                                                         where j.status = 'not_unique'))
                              then 'not_unique' else i.status end order by i.ord)
        into v_status
        from unnest(v_ids, v_status) with ordinality as i(id, status, ord);
        delete from idempotency_key as k
        using unnest(p_tenants, p_keys, v_ids, v_status) as i(tenant, key, id, status)
        where i.status = 'not_unique' and k.tenant_id = i.tenant and k.key = i.key and k.run_id = i.id;
        -- Numbered, but never there: their ordered sessions go on with what came after.
        if v_order_nos is not null then
            perform advance_sessions(array_agg(i.id), array_agg(i.tenant), array_agg(i.session), array_agg(i.no), p_notify)
            from unnest(v_ids, p_tenants, p_sessions, v_order_nos, v_status) as i(id, tenant, session, no, status)
            where i.status = 'not_unique' and i.no is not null
            having count(*) > 0;
        end if;
    end if;

    if v_new_queues is not null then
        perform hold_lanes(v_new_queues, v_new_tenants, v_new_tasks);
        if p_notify then
            perform notify_queues(v_new_queues);
        end if;
    end if;

    return query
    select i.ord, case when i.status in ('created', 'existing') then i.id end, i.status, i.task
    from unnest(v_ids, v_status, v_tasks) with ordinality as i(id, status, task, ord)
    order by i.ord;
end
$$;

-- Deletes idempotency keys whose window is over, p_limit at most. Returns how many went.
create function expire_idempotency_keys(p_limit integer default 10000) returns table (expired integer)
language sql
set enable_seqscan = off
as $$
    with gone as (
        delete from idempotency_key as k
        using (select e.tenant_id, e.key from idempotency_key as e
               where e.expires_at <= engine_now()
               order by e.expires_at
               limit p_limit
               for update skip locked) as e
        where k.tenant_id = e.tenant_id and k.key = e.key
        returning 1
    )
    select count(*)::integer from gone
$$;

-- Ends runs whose deadline has passed: at once as failed where their code has not begun, else by asking it to stop. A workflow
-- that no worker has just now is claimed once more, so that its code may tidy up, and has a minute to begin: see let_tidy_up.
-- Its worker knows the deadline, and ends it as failed. A running one's worker knows it as well, and has most often stopped
-- by then. p_limit at most; returns how many it ended or asked.
-- A run for which its ordered session would wait fails when it has become the head: gone before, it would hold up nobody.
create function expire_runs(p_limit integer default 1000, p_notify boolean default true) returns table (expired integer)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_now timestamptz := engine_now();
    v_late bigint[];
    v_idle bigint[];
    v_begun bigint[];
    v_asked integer;
begin
    perform assert_read_committed();
    v_late := lock_ordered_sessions(array(
        select r.id from run as r
        where r.deadline <= v_now and not (r.state = 'blocked' and r.on_failure = 'block')
          and (not r.cancel_requested or r.state = 'queued' and r.run_at <= v_now)
        order by r.deadline
        limit p_limit), false);
    select array_agg(l.id), array_agg(l.id) filter (where not l.cancel_requested)
    into v_idle, v_begun
    -- Asked again, under the lock: one that its parent's end has asked to stop meanwhile has its minute as well.
    from (select r.id, r.cancel_requested from run as r
          where r.id = any (v_late) and r.state <> 'running'
            and (not r.cancel_requested or r.state = 'queued' and r.run_at <= v_now)
          order by r.id for no key update skip locked) as l;
    v_begun := runs_to_tidy_up(v_begun);
    v_idle := array(select i from unnest(v_idle) as i where i <> all (v_begun));
    if v_idle <> '{}' then
        perform end_late_runs(v_idle, p_notify);
    end if;
    if v_begun <> '{}' then
        perform let_tidy_up(v_begun);
    end if;
    -- Running ones end themselves; the request is for a worker that cannot tell the time.
    update run as r set cancel_requested = true
    where r.id in (select o.id from run as o
                   where o.id = any (v_late) and o.state = 'running' and o.deadline <= v_now - interval '5 s'
                   order by o.id for no key update skip locked);
    get diagnostics v_asked = row_count;
    if p_notify and v_asked > 0 then
        perform pg_notify(current_schema() || '.cancels', '');
    end if;
    return query select cardinality(v_idle) + cardinality(v_begun) + v_asked;
end
$$;

-- Why a run does not run now, in one sentence, for people: the first reason that holds, of those that a claim would meet.
-- p_tenant null: any tenant's (operators). Counts end at 10,000, and each lookup goes through an index.
create function explain_run(p_tenant text, p_run bigint) returns text
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    c_silent constant interval := '30 s';  -- a worker silent for longer does not count as alive
    v_now timestamptz := engine_now();
    v_run run;
    v_old run_history;
    v_queue queue;
    v_worker worker;
    v_lane lane;
    v_head bigint;
    v_count bigint;
    v_ahead bigint;
begin
    select r.* into v_run from run as r where r.id = p_run and (p_tenant is null or r.tenant_id = p_tenant);
    if not found then
        select h.* into v_old from run_history as h
        where h.id = p_run and h.finished_at >= run_created_at(p_run) and (p_tenant is null or h.tenant_id = p_tenant);
        if not found then
            return format('run %s is unknown: it never was, or its history has been removed', p_run);
        end if;
        return format('run %s %s at %s%s%s', p_run,
                      case v_old.state when 'cancelled' then 'was cancelled' else v_old.state end, v_old.finished_at,
                      ': ' || (v_old.error ->> 'type') || coalesce(': ' || left(v_old.error ->> 'message', 200), ''),
                      case when v_old.state = 'failed' then '; requeue it to bring it back'
                           || case when exists (select from ordered_session as s
                                                where s.tenant_id = v_old.tenant_id and s.session_id = v_old.session_id
                                                  and s.head_id = p_run)
                                   then ', or discard it: its session ' || v_old.session_id || ' waits for it' else '' end
                      end);
    end if;

    case v_run.state
        when 'running' then
            select w.* into v_worker from worker as w where w.id = v_run.worker_id;
            return format('run %s is running, attempt %s, on worker %s (%s) since %s%s%s', p_run, v_run.attempt,
                          v_run.worker_id, coalesce(v_worker.name, 'gone'), v_run.claimed_at,
                          case when v_run.cancel_requested then '; its worker has been asked to stop it' end,
                          case when v_worker.heartbeat_at < v_now - c_silent
                               then '; that worker is silent since ' || v_worker.heartbeat_at
                                    || ': a live one gives its runs back to the queue' end);
        when 'scheduled' then
            return format('run %s is scheduled for %s%s', p_run, v_run.run_at,
                          case when v_run.run_at < v_now - interval '10 s' then ', which has passed: no worker is alive' end);
        when 'blocked' then
            select s.head_id into v_head from ordered_session as s
            where s.tenant_id = v_run.tenant_id and s.session_id = v_run.session_id;
            select h.* into v_old from run_history as h
            where h.id = v_head and h.finished_at >= run_created_at(v_head);
            if found then
                return format('run %s waits in session %s behind run %s, which has %s: requeue that one, or discard it',
                              p_run, v_run.session_id, v_head, v_old.state);
            end if;
            select count(*) into v_count
            from (select from run as r
                  where r.tenant_id = v_run.tenant_id and r.session_id = v_run.session_id and r.state = 'blocked'
                    and r.order_no < v_run.order_no
                  limit 10000) as before;
            return format('run %s waits in session %s behind run %s, which is %s%s', p_run, v_run.session_id, v_head,
                          coalesce((select r.state from run as r where r.id = v_head), 'gone'),
                          case when v_count > 0 then format(', and %s more', v_count) end);
        when 'waiting' then
            return format('run %s waits for %s%s', p_run, (
                              select string_agg(
                                  case when a ? 'signal' then format('the signal %s', a ->> 'signal')
                                                              || coalesce(' (' || (select string_agg(c, ', ') from jsonb_array_elements_text(a -> 'choices') as c) || ')', '')
                                       when a ? 'children' then format('%s children of step %s',
                                                                       (select count(*) from run as c
                                                                        where c.parent_id = p_run
                                                                          and c.parent_step = a ->> 'children'),
                                                                       a ->> 'children')
                                       when a ? 'events' then format('events of session %s after number %s',
                                                                     v_run.session_id, a ->> 'events')
                                       else format('the end of step %s', a ->> 'sleep') end, ', or ')
                              from jsonb_array_elements(v_run.awaits) as a),
                          ', until ' || v_run.run_at || ' at the latest');
        when 'queued' then
            null;
    end case;

    select q.* into v_queue from queue as q where q.name = v_run.queue;
    if v_queue.paused then
        return format('run %s is queued, and its queue %s is paused', p_run, v_run.queue);
    end if;
    if exists (select from tenant as t where t.id = v_run.tenant_id and t.paused) then
        return format('run %s is queued, and its tenant %s is paused', p_run, v_run.tenant_id);
    end if;
    if exists (select from task as t where t.name = v_run.task and t.paused) then
        return format('run %s is queued, and its task %s is paused', p_run, v_run.task);
    end if;

    -- Stock procrastinate workers say neither queues nor tasks: one of them may serve any.
    if not exists (select from worker as w
                   where w.heartbeat_at >= v_now - c_silent and not w.draining
                     and (w.queues = '{}' or v_run.queue = any (w.queues))) then
        return format('run %s is queued, and no live worker serves its queue %s', p_run, v_run.queue);
    end if;
    if not exists (select from worker as w
                   where w.heartbeat_at >= v_now - c_silent and not w.draining
                     and (w.queues = '{}' or v_run.queue = any (w.queues))
                     and (w.tasks = '{}' or v_run.task = any (w.tasks))) then
        return format('run %s is queued, and of the live workers that serve its queue %s none has its task %s', p_run,
                      v_run.queue, v_run.task);
    end if;

    select count(*) into v_count
    from (select from run as r where r.queue = v_run.queue and r.state = 'running' limit v_queue.max_running) as slot;
    if v_count >= v_queue.max_running then
        return format('run %s is queued, and its queue %s has %s of %s runs running', p_run, v_run.queue, v_count,
                      v_queue.max_running);
    end if;
    if v_queue.starts_per_period = 0 then
        return format('run %s is queued, and its queue %s may start none: starts_per_period is 0', p_run, v_run.queue);
    end if;
    if v_queue.period_starts >= v_queue.starts_per_period and v_queue.period_started_at + v_queue.period > v_now then
        return format('run %s is queued, and its queue %s has used up its %s starts until %s', p_run, v_run.queue,
                      v_queue.starts_per_period, v_queue.period_started_at + v_queue.period);
    end if;
    select count(*) into v_count
    from (select from run as r
          where r.queue = v_run.queue and r.tenant_id = v_run.tenant_id and r.state = 'running'
          limit v_queue.max_running_per_tenant) as slot;
    if v_count >= v_queue.max_running_per_tenant then
        return format('run %s is queued, and its tenant %s has %s of %s runs running in queue %s', p_run, v_run.tenant_id,
                      v_count, v_queue.max_running_per_tenant, v_run.queue);
    end if;
    if v_run.suspect then
        return format('run %s died with its worker %s times, and waits for a worker that runs only such runs', p_run,
                      v_run.deaths);
    end if;

    select l.* into v_lane from lane as l
    where l.queue = v_run.queue and l.tenant_id = v_run.tenant_id and l.task = v_run.task;
    select count(*) into v_count
    from (select from run as r
          where r.queue = v_run.queue and r.tenant_id = v_run.tenant_id and r.task = v_run.task and r.state = 'queued'
            and r.fresh and (-r.priority, r.id) < (-v_run.priority, case when v_run.fresh then v_run.id else 0 end)
          limit 10000) as before;
    select v_count + count(*) into v_count
    from (select from run as r
          where r.queue = v_run.queue and r.tenant_id = v_run.tenant_id and r.task = v_run.task and r.state = 'queued'
            and not r.fresh and not r.suspect
            and (-r.priority, r.id) < (-v_run.priority, case when v_run.fresh then 9223372036854775807 else v_run.id end)
          limit 10000) as before;
    select count(distinct l.tenant_id) into v_ahead from lane as l
    where l.queue = v_run.queue and not l.parked and l.virtual_time < v_lane.virtual_time and l.tenant_id <> v_run.tenant_id;
    return format('run %s is queued as number %s of its tenant''s runs of task %s in queue %s, with %s tenants ahead of its own',
                  p_run, v_count + 1, v_run.task, v_run.queue, v_ahead);
end
$$;

-- Ids of failed runs that fit a filter, the longest failed first, one more than p_limit at most: that one tells that there
-- are more. It reads failed runs only, through an index; ids alone are looked up.
--   p_filter  {"queue", "task", "tenant", "error" (its type), "since", "until" (when it failed), "ids"}, all optional
create function find_failed(p_filter jsonb, p_limit integer) returns bigint[]
language plpgsql
set plan_cache_mode = force_custom_plan
as $$
declare
    v_since timestamptz;
    v_until timestamptz;
    v_ids bigint[];
begin
    perform check_filter(p_filter, '{queue,task,tenant,error,since,until,ids}', p_limit);
    v_since := coalesce((p_filter ->> 'since')::timestamptz, '-infinity');
    v_until := coalesce((p_filter ->> 'until')::timestamptz, 'infinity');
    if p_filter ? 'ids' then
        v_ids := array(select i::bigint from jsonb_array_elements_text(p_filter -> 'ids') as i);
        v_since := greatest(v_since, (select run_created_at(min(i)) from unnest(v_ids) as i));
    end if;
    return array(
        select h.id from run_history as h
        where h.state = 'failed' and h.finished_at >= v_since and h.finished_at < v_until
          and (v_ids is null or h.id = any (v_ids))
          and (p_filter ->> 'queue' is null or h.queue = p_filter ->> 'queue')
          and (p_filter ->> 'task' is null or h.task = p_filter ->> 'task')
          and (p_filter ->> 'tenant' is null or h.tenant_id = p_filter ->> 'tenant')
          and (p_filter ->> 'error' is null or h.error ->> 'type' = p_filter ->> 'error')
        order by h.finished_at
        limit p_limit + 1);
end
$$;

-- Ids of runs that have not started and fit a filter, the oldest first, one more than p_limit at most: that one tells that
-- there are more. Few that fit among many that do not cost a read of all live runs.
--   p_filter  {"queue", "task", "tenant", "since", "until" (when it was enqueued), "ids"}, all optional
create function find_queued(p_filter jsonb, p_limit integer) returns bigint[]
language plpgsql
set plan_cache_mode = force_custom_plan
as $$
declare
    v_since bigint;
    v_until bigint;
    v_ids bigint[];
begin
    perform check_filter(p_filter, '{queue,task,tenant,since,until,ids}', p_limit);
    -- A run's id begins with the millisecond of its time.
    v_since := coalesce((extract(epoch from (p_filter ->> 'since')::timestamptz) * 1000)::bigint << 20, 0);
    v_until := coalesce((extract(epoch from (p_filter ->> 'until')::timestamptz) * 1000)::bigint << 20, 9223372036854775807);
    if p_filter ? 'ids' then
        v_ids := array(select i::bigint from jsonb_array_elements_text(p_filter -> 'ids') as i);
    end if;
    return array(
        select r.id from run as r
        where r.state in ('queued', 'scheduled', 'blocked') and r.id >= v_since and r.id < v_until
          and (v_ids is null or r.id = any (v_ids))
          and (p_filter ->> 'queue' is null or r.queue = p_filter ->> 'queue')
          and (p_filter ->> 'task' is null or r.task = p_filter ->> 'task')
          and (p_filter ->> 'tenant' is null or r.tenant_id = p_filter ->> 'tenant')
        order by r.id
        limit p_limit + 1);
end
$$;

-- Moves live runs to history in their final state, and lets their ordered sessions go on: not past a failed run that says
-- that they wait for it. Their parents are woken where they waited for them, their own children cancelled.
-- The caller holds the locks of the runs and of their ordered sessions, has checked the attempts,
-- and has freed their slots, before any lane is made: see free_slots.
create function finish_runs(p_runs bigint[], p_states text[], p_outputs jsonb[], p_errors jsonb[],
                            p_notify boolean default true) returns void
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    -- At or after the millisecond in every id: lookups bound history by it, also where a clock stepped back.
    v_now timestamptz := greatest(engine_now(), (select run_created_at(max(i)) from unnest(p_runs) as i));
    v_heads bigint[];
    v_head_tenants text[];
    v_sessions text[];
    v_nos bigint[];
    v_parents bigint[];
    v_orphans bigint[];
begin
    with gone as (
        delete from run as r
        using unnest(p_runs, p_states, p_outputs, p_errors) as f(id, state, output, error)
        where r.id = f.id
        returning r.id, r.tenant_id, r.queue, r.task, f.state, r.priority, r.session_id, r.args, r.attempt,
                  r.failures + (f.state = 'failed')::integer as failures, r.deaths, r.deaths_alone, r.order_no,
                  r.on_failure, r.retry, r.worker_id, r.claimed_at, f.output, coalesce(f.error, r.error) as error,
                  r.parent_id, r.parent_step, r.traceparent
    ),
    moved as (
        insert into run_history (id, tenant_id, queue, task, state, priority, session_id, args, attempt, failures, deaths,
                                 deaths_alone, order_no, on_failure, retry, worker_id, claimed_at, finished_at, output,
                                 error, parent_id, parent_step, traceparent)
        select g.id, g.tenant_id, g.queue, g.task, g.state, g.priority, g.session_id, g.args, g.attempt, g.failures,
               g.deaths, g.deaths_alone, g.order_no, g.on_failure, g.retry, g.worker_id, g.claimed_at, v_now, g.output,
               g.error, g.parent_id, g.parent_step, g.traceparent
        from gone as g
    )
    select array_agg(distinct g.parent_id) into v_parents from gone as g where g.parent_id is not null;

    -- Most installations have none, and need not read again what was written.
    if exists (select from ordered_session) then
        select array_agg(h.id), array_agg(h.tenant_id), array_agg(h.session_id), array_agg(h.order_no)
        into v_heads, v_head_tenants, v_sessions, v_nos
        from unnest(p_runs) as i(id)
        join run_history as h on h.id = i.id and h.finished_at = v_now
        where h.order_no is not null and not (h.state = 'failed' and h.on_failure = 'block');
        if v_heads is not null then
            perform advance_sessions(v_heads, v_head_tenants, v_sessions, v_nos, p_notify);
        end if;
    end if;

    if v_parents is not null then
        perform wake_waiting(v_parents);
    end if;
    if exists (select from run where parent_id is not null) then
        v_orphans := array(select c.id from run as c where c.parent_id = any (p_runs));
        if v_orphans <> '{}' then
            perform cancel_orphans(v_orphans, p_notify);
        end if;
    end if;
end
$$;

-- The least id that a run enqueued on this day (UTC) can have: a partition's bound.
create function first_run_id(p_day date) returns bigint
language sql immutable parallel safe
as $$
    select (extract(epoch from p_day::timestamp)::bigint * 1000) << 20
$$;

-- Whether a run waits below its lane's floor, where no claim looks. That happens when a clock stepped back and made an
-- older id, or when claims went past a run while others held its row, who then left it queued after all.
create function floor_hides_runs(p_lane lane) returns boolean
language sql stable
set enable_seqscan = off
as $$
    select exists (
        select from run as r
        where r.queue = p_lane.queue and r.tenant_id = p_lane.tenant_id and r.task = p_lane.task
          and r.state = 'queued' and r.fresh
          and -r.priority = -p_lane.floor_priority and r.id <= p_lane.floor_id)
$$;

-- Told of each attempt that ends, by queue and tenant: where tenants have a limit, their lanes are looked at again.
-- Once a transaction, and before it makes a lane: that locks lanes, sorted, and a lane that is made is waited for.
create function free_slots(p_queues text[], p_tenants text[]) returns void
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_queues text[];
    v_tenants text[];
begin
    select array_agg(i.q), array_agg(i.t) into v_queues, v_tenants
    from queue as q
    join (select distinct q, t from unnest(p_queues, p_tenants) as i(q, t)) as i on i.q = q.name
    where q.name = any (p_queues) and q.max_running_per_tenant is not null;
    if v_queues is not null then
        perform unpark_lanes(v_queues, v_tenants);
    end if;
end
$$;

-- Those of these (queue, tenant) pairs to which nothing may be added: as many runs as their queue caps are queued there.
-- The counts are up to a second old. Where nobody counts, because no worker and no API process lives, this counts itself.
create function full_queues(p_queues text[], p_tenants text[]) returns table (queue text, tenant_id text)
language sql stable
as $$
    with capped as (
        select distinct q.name, i.t, q.max_queued, q.max_queued_per_tenant, d.queued,
               coalesce(d.counted_at, '-infinity') < engine_now() - interval '5 s' as unknown
        from unnest(p_queues, p_tenants) as i(q, t)
        join queue as q on q.name = i.q and coalesce(q.max_queued, q.max_queued_per_tenant) is not null
        left join queue_depth as d on d.queue = q.name and d.tenant_id = ''
    )
    select c.name, c.t
    from capped as c
    where case when c.unknown then
                   count_queued(c.name, null, c.max_queued) >= c.max_queued
                   or count_queued(c.name, c.t, c.max_queued_per_tenant) >= c.max_queued_per_tenant
               else
                   c.queued >= c.max_queued
                   or exists (select from queue_depth as d
                              where d.queue = c.name and d.tenant_id = c.t and d.queued >= c.max_queued_per_tenant) end
$$;

-- A worker says that it lives. alive is false when its peers have given it up: all its attempts are then stale.
--   cancelled  its running runs that somebody asked to cancel
--   suspects   whether a run of its queues waits for a worker that runs nothing else (see claim_suspects), and this worker
--              is to be it: not more of them stop for it than there are such runs, and in each minute others
--   draining   whether it shall claim nothing more, finish, and stop: see drain_worker
--   limited    whether one of its queues has a limit on what runs, so that each end may let another run start
create function heartbeat(p_worker bigint)
returns table (alive boolean, cancelled bigint[], suspects boolean, draining boolean, limited boolean)
language plpgsql
as $$
declare
    v_worker worker;
    v_minute bigint := extract(epoch from engine_now())::bigint / 60;
begin
    update worker as w set heartbeat_at = engine_now() where w.id = p_worker returning w.* into v_worker;
    return query
    select v_worker.id is not null,
           coalesce((select array_agg(r.id) from run as r
                     where r.worker_id = p_worker and r.state = 'running' and r.cancel_requested), '{}'),
           (select count(*) from worker as w
            where w.queues && v_worker.queues
              and hashint8extended(w.id, v_minute) < hashint8extended(p_worker, v_minute))
           < (select count(*)
              from (select from run as r
                    where r.queue = any (v_worker.queues) and r.state = 'queued' and r.suspect limit 100) as waiting),
           coalesce(v_worker.draining, false),
           exists (select from queue as q
                   where q.name = any (v_worker.queues)
                     and coalesce(q.max_running, q.max_running_per_tenant) is not null);
end
$$;

-- Makes sure that each (queue, tenant, task) has a lane and that nobody removes it before this transaction ends.
-- A plain `do nothing` lost runs to a concurrent removal; `do update` would hide a tenant behind an open transaction:
-- so take a key share on what is there, insert what is not, and again if it went away in between.
-- A lane that an open transaction is just making or removing is not waited for: one slow caller would stall every batch
-- with a run of that tenant. A second lane does as well, its twin, named for this backend so that no other makes it.
create function hold_lanes(p_queues text[], p_tenants text[], p_tasks text[]) returns void
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_queues text[];
    v_tenants text[];
    v_tasks text[];
    v_twin integer := 0;
begin
    select array_agg(w.q), array_agg(w.t), array_agg(w.k) into v_queues, v_tenants, v_tasks
    from (select distinct q, t, k from unnest(p_queues, p_tenants, p_tasks) as w(q, t, k)) as w;
    loop
        -- What is left is what could not be held.
        with held as materialized (
            select l.queue, l.tenant_id, l.task
            from unnest(v_queues, v_tenants, v_tasks) as w(q, t, k)
            join lane as l on l.queue = w.q and l.tenant_id = w.t and l.task = w.k
            order by l.queue, l.tenant_id, l.task, l.twin
            for key share of l skip locked
        )
        select array_agg(w.q), array_agg(w.t), array_agg(w.k) into v_queues, v_tenants, v_tasks
        from (select * from unnest(v_queues, v_tenants, v_tasks) as w(q, t, k)
              except
              select h.queue, h.tenant_id, h.task from held as h) as w;
        exit when v_queues is null;
        begin
            perform insert_lanes(v_queues, v_tenants, v_tasks, v_twin);
        exception when lock_not_available then
            v_twin := pg_backend_pid();
        end;
    end loop;
end
$$;

-- Inserts those of these lanes that are not there. Gives up (lock_not_available) on one that somebody else is just making
-- or removing, rather than wait for that transaction's end.
-- A lane that begins, begins level with the least active one: what its tenant did not use earlier is not owed to it.
create function insert_lanes(p_queues text[], p_tenants text[], p_tasks text[], p_twin integer) returns void
language sql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
set lock_timeout = '5ms'
as $$
    insert into lane (queue, tenant_id, task, twin, virtual_time)
    select w.q, w.t, w.k, p_twin, f.virtual_time
    from unnest(p_queues, p_tenants, p_tasks) as w(q, t, k)
    join (select d.q, least_virtual_time(d.q) as virtual_time from (select distinct q from unnest(p_queues) as u(q)) as d) as f
        on f.q = w.q
    order by w.q, w.t, w.k
    on conflict do nothing
$$;

-- Whether a lane has a run for claims to take. Looks from its floor on, as they do: what a floor hides by mistake, the
-- sweep brings back with a lane of its own.
create function lane_has_runs(p_lane lane) returns boolean
language plpgsql volatile
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
begin
    return exists (
            select from run as r
            where r.queue = p_lane.queue and r.tenant_id = p_lane.tenant_id and r.task = p_lane.task
              and r.state = 'queued' and not r.fresh and not r.suspect)
        or exists (
            select from run as r
            where r.queue = p_lane.queue and r.tenant_id = p_lane.tenant_id and r.task = p_lane.task
              and r.state = 'queued' and r.fresh
              and (-r.priority, r.id) > (coalesce(-p_lane.floor_priority, -2147483648), coalesce(p_lane.floor_id, 0)))
        or exists (
            select from run as r
            where r.queue = p_lane.queue and r.tenant_id = p_lane.tenant_id and r.task = p_lane.task
              and r.state = 'queued' and r.fresh and -r.priority < -p_lane.floor_priority);
end
$$;

-- The tasks that have lanes in a queue which are not parked: one index descent for each task, however many lanes it has.
create function lane_tasks(p_queue text) returns text[]
language sql stable
as $$
    with recursive found as (
        (select l.task from lane as l where l.queue = p_queue and not l.parked order by l.task limit 1)
        union all
        select (select l.task from lane as l
                where l.queue = p_queue and not l.parked and l.task > f.task order by l.task limit 1)
        from found as f
        where f.task is not null
    )
    select array_agg(f.task) from found as f where f.task is not null
$$;

-- The virtual time at which a lane of this queue begins: the least of the lanes that claims look at; 0 if there is none.
create function least_virtual_time(p_queue text) returns double precision
language sql stable
set enable_seqscan = off
as $$
    select coalesce(min(h.virtual_time), 0)
    from unnest(lane_tasks(p_queue)) as t(task)
    cross join lateral (
        select l.virtual_time from lane as l
        where l.queue = p_queue and l.task = t.task and not l.parked
        order by l.virtual_time
        limit 1
    ) as h
$$;

-- Locks the ordered sessions of these finished runs, sorted, and waits for them.
create function lock_finished_sessions(p_runs bigint[]) returns void
language sql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
    select from ordered_session as s
    where (s.tenant_id, s.session_id) in (
        select h.tenant_id, h.session_id from run_history as h
        where h.id = any (p_runs) and h.order_no is not null
          and h.finished_at >= (select run_created_at(min(i)) from unnest(p_runs) as i))
    order by s.tenant_id, s.session_id
    for no key update
$$;

-- Locks the p_limit lanes of a queue and of these tasks with the least virtual time, but those in p_passed
-- ('tenant/task'); their tenants, tasks and twins in that order, or nulls where there is no lane. A tenant's lanes go together,
-- or one with many tasks would have its turn many times. Lanes that another claim holds are skipped; where it holds them
-- all, this one waits for one a moment: with one tenant alone, two workers would otherwise find the queue empty in turns.
create function lock_lanes(p_queue text, p_tasks text[], p_passed text[], p_limit integer,
                           out tenants text[], out tasks text[], out twins integer[])
language plpgsql
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
begin
    for v_try in 1..2 loop
        with least as materialized (
            select h.tenant_id, h.task, h.twin, h.virtual_time
            from unnest(p_tasks) as t(task)
            cross join lateral (
                select l.tenant_id, l.task, l.twin, l.virtual_time
                from lane as l
                where l.queue = p_queue and l.task = t.task and not l.parked
                  and (p_passed = '{}' or l.tenant_id || '/' || l.task <> all (p_passed))
                order by l.virtual_time
                limit p_limit
                for no key update skip locked
            ) as h
            order by h.virtual_time
            limit p_limit
        ),
        siblings as materialized (
            select l.tenant_id, l.task, l.twin, l.virtual_time
            from (select distinct e.tenant_id from least as e) as e
            join lane as l on l.queue = p_queue and l.tenant_id = e.tenant_id
            where l.task = any (p_tasks) and not l.parked
              and not exists (select from least as f
                              where f.tenant_id = l.tenant_id and f.task = l.task and f.twin = l.twin)
              and (p_passed = '{}' or l.tenant_id || '/' || l.task <> all (p_passed))
            for no key update of l skip locked
        )
        select array_agg(e.tenant_id order by e.virtual_time), array_agg(e.task order by e.virtual_time),
               array_agg(e.twin order by e.virtual_time)
        into tenants, tasks, twins
        from (select * from least union all select * from siblings) as e;
        exit when tenants is not null or v_try = 2;
        begin
            -- Longer than a claim takes, shorter than anybody would notice.
            set local lock_timeout = '20ms';
            perform from lane as l
            where l.queue = p_queue and l.task = any (p_tasks) and not l.parked
              and (p_passed = '{}' or l.tenant_id || '/' || l.task <> all (p_passed))
            limit 1
            for no key update;
            -- Not for the rest of the transaction: a later wait for a queue's row may take longer.
            set local lock_timeout = 0;
            exit when not found;
        exception when lock_not_available then
            return;
        end;
    end loop;
end
$$;

-- Locks the ordered sessions of these runs, sorted. Returns those of the runs that may be touched now: the ones that are
-- not ordered, and those whose session is locked. p_wait false: a session that somebody else holds is left out.
create function lock_ordered_sessions(p_runs bigint[], p_wait boolean) returns bigint[]
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_tenants text[];
    v_sessions text[];
begin
    select array_agg(o.tenant_id), array_agg(o.session_id) into v_tenants, v_sessions
    from (select distinct r.tenant_id, r.session_id from run as r
          where r.id = any (p_runs) and r.order_no is not null) as o;
    if v_tenants is null then
        return p_runs;
    end if;
    if p_wait then
        perform from ordered_session as s
        join unnest(v_tenants, v_sessions) as o(t, s) on s.tenant_id = o.t and s.session_id = o.s
        order by s.tenant_id, s.session_id
        for no key update of s;
        return p_runs;
    end if;
    return array(
        with locked as materialized (
            select s.tenant_id, s.session_id
            from ordered_session as s
            join unnest(v_tenants, v_sessions) as o(t, s) on s.tenant_id = o.t and s.session_id = o.s
            order by s.tenant_id, s.session_id
            for no key update of s skip locked
        )
        select i.id
        from unnest(p_runs) as i(id)
        left join run as r on r.id = i.id
        where r.order_no is null
           or exists (select from locked as l where l.tenant_id = r.tenant_id and l.session_id = r.session_id));
end
$$;

-- How many runs of a queue may start now, p_wanted at most, and how many one tenant may have running (null: any number).
-- A queue with limits is locked until the caller's transaction ends, so that nobody else starts runs of it meanwhile; its
-- running rows are then counted in a statement of their own, which sees what was committed before the lock. A slot is
-- a running row: nothing can leak.
--   p_wait  whether to wait for another claim of the queue. A caller who holds locks of an earlier queue does not.
--   held    whether the queue is locked now
create function lock_queue(p_queue text, p_wanted integer, p_wait boolean default true,
                           out room integer, out per_tenant integer, out held boolean)
language plpgsql
set enable_seqscan = off
as $$
declare
    v_queue queue;
begin
    held := false;
    select q.* into v_queue from queue as q where q.name = p_queue;
    if v_queue.name is null or v_queue.paused then
        room := 0;
        return;
    end if;
    room := p_wanted;
    if coalesce(v_queue.max_running, v_queue.max_running_per_tenant, v_queue.starts_per_period) is null then
        return;
    end if;
    if p_wait then
        select q.* into v_queue from queue as q where q.name = p_queue for no key update;
    else
        select q.* into v_queue from queue as q where q.name = p_queue for no key update skip locked;
    end if;
    held := v_queue.name is not null;
    if v_queue.name is null or v_queue.paused then
        room := 0;
        return;
    end if;
    per_tenant := v_queue.max_running_per_tenant;
    if v_queue.max_running is not null then
        room := least(room, v_queue.max_running - (
            select count(*)
            from (select from run as r where r.queue = p_queue and r.state = 'running' limit v_queue.max_running) as slot));
    end if;
    if v_queue.starts_per_period is not null and v_queue.period_started_at + v_queue.period > engine_now() then
        room := least(room, v_queue.starts_per_period - v_queue.period_starts);
    else
        room := least(room, v_queue.starts_per_period);
    end if;
end
$$;

-- 43 bits of Unix milliseconds (until the year 2248), then 20 bits of sequence: a million ids a millisecond.
create function next_run_id() returns bigint
language sql volatile
as $$
    select ((extract(epoch from clock_timestamp()) * 1000)::bigint << 20) | nextval('run_id_seq')
$$;

-- Tells listening workers that these queues have work: a hint, never the truth.
create function notify_queues(p_queues text[]) returns void
language sql
as $$
    select pg_notify(current_schema() || '.runs', q)
    from (select distinct q from unnest(p_queues) as q) as d
$$;

-- Numbers runs that are about to be enqueued in their ordered sessions, and locks those until the caller's transaction
-- ends: the numbers are the order in which the runs were committed, which ids are not. head: nothing is before it.
--   p_kinds  skip | block; null: this one is not ordered, and gets nulls
-- Session by session, in one order for everybody: it inserts and locks, and two who did both for several sessions at
-- once could wait for one another.
create function number_ordered_runs(p_ids bigint[], p_tenants text[], p_sessions text[], p_kinds text[])
returns table (ord bigint, order_no bigint, head boolean)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_each record;
    v_session ordered_session;
begin
    for v_each in
        select i.ord, i.id, i.tenant, i.session, i.kind
        from unnest(p_ids, p_tenants, p_sessions, p_kinds) with ordinality as i(id, tenant, session, kind, ord)
        order by i.tenant, i.session, i.ord
    loop
        ord := v_each.ord;
        order_no := null;
        head := null;
        if v_each.kind is not null then
            if v_each.session is null or v_each.kind not in ('skip', 'block') then
                raise exception 'order % without a session, or not skip or block', quote_nullable(v_each.kind)
                    using errcode = 'HW016', hint = 'an ordered run names its session and what its failure does to it';
            end if;
            if v_session.tenant_id is distinct from v_each.tenant or v_session.session_id is distinct from v_each.session then
                loop
                    insert into ordered_session (tenant_id, session_id, last_no, head_id)
                    values (v_each.tenant, v_each.session, 0, v_each.id)
                    on conflict do nothing;
                    select s.* into v_session from ordered_session as s
                    where s.tenant_id = v_each.tenant and s.session_id = v_each.session
                    for no key update;
                    exit when found;
                end loop;
            end if;
            v_session.last_no := v_session.last_no + 1;
            update ordered_session as s set last_no = v_session.last_no
            where s.tenant_id = v_each.tenant and s.session_id = v_each.session;
            order_no := v_session.last_no;
            head := v_session.head_id = v_each.id;
        end if;
        return next;
    end loop;
end
$$;

-- Lets claims find runs that were just queued, one an array position: each has its lane, and who listens hears of it.
-- Nulls: none were.
create function offer_runs(p_queues text[], p_tenants text[], p_tasks text[], p_notify boolean) returns void
language plpgsql
as $$
begin
    if p_queues is not null then
        perform hold_lanes(p_queues, p_tenants, p_tasks);
        if p_notify then
            perform notify_queues(p_queues);
        end if;
    end if;
end
$$;

-- Those of p_tasks (null: all that have lanes in the queue) that nobody has paused.
create function open_tasks(p_queue text, p_tasks text[]) returns text[]
language sql stable
as $$
    select array_agg(t.name)
    from unnest(coalesce(p_tasks, lane_tasks(p_queue))) as t(name)
    where not exists (select from task as k where k.name = t.name and k.paused)
$$;

-- Parks those of these lanes, which the caller has locked, whose tenant may not start a run of the queue: it is paused, or
-- as many of its runs are running as p_cap allows. Not where one of those is just ending: that transaction has looked for
-- lanes to unpark already, and may have been too early for this one. Its runs are locked, and so do not count here.
-- Nor where a tenant is just being resumed: that transaction, too, looked for lanes before this one parks any. It has the
-- tenant's row; one that comes later waits for the share of it that is taken here, and sees what was parked. Never waited
-- for here: lanes are locked already.
create function park_lanes(p_queue text, p_tenants text[], p_tasks text[], p_twins integer[], p_cap integer) returns void
language sql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
    with tenants as materialized (
        select distinct i.tenant_id as id from unnest(p_tenants) as i(tenant_id)
    ),
    paused as materialized (
        select t.id from tenants as i join tenant as t on t.id = i.id
        where t.paused
        for share of t skip locked
    ),
    full_tenants as materialized (
        select p.id from paused as p
        union
        select t.id from tenants as t
        where p_cap is not null
          and (select count(*) from (select from run as r
                                     where r.queue = p_queue and r.tenant_id = t.id and r.state = 'running'
                                     limit p_cap) as slot) >= p_cap
          and (select count(*) from (select from run as r
                                     where r.queue = p_queue and r.tenant_id = t.id and r.state = 'running'
                                     limit p_cap
                                     for share skip locked) as slot) >= p_cap
    )
    update lane as l
    set parked = true
    from unnest(p_tenants, p_tasks, p_twins) as i(tenant_id, task, twin)
    join full_tenants as t on t.id = i.tenant_id
    where l.queue = p_queue and l.tenant_id = i.tenant_id and l.task = i.task and l.twin = i.twin
$$;

-- Pauses a queue, or lets it go on: no run of it starts while it is paused; those that run go on to their end.
create function pause_queue(p_queue text, p_paused boolean default true) returns queue
language plpgsql
as $$
declare
    v_queue queue;
begin
    update queue as q set paused = p_paused where q.name = p_queue returning q.* into v_queue;
    if not found then
        raise exception 'queue % is unknown', quote_literal(p_queue)
            using errcode = 'HW021', hint = 'queues come with their first task, run or limit: select * from ops.queues';
    end if;
    if not p_paused then
        perform notify_queues(array[p_queue]);
    end if;
    return v_queue;
end
$$;

-- Pauses a task of all tenants, or lets it go on: no run of it starts while it is paused.
create function pause_task(p_task text, p_paused boolean default true) returns task
language plpgsql
as $$
declare
    v_task task;
begin
    update task as t set paused = p_paused where t.name = p_task returning t.* into v_task;
    if not found then
        raise exception 'task % is unknown', quote_literal(p_task)
            using errcode = 'HW014', hint = 'workers register their tasks as they start: select name from task';
    end if;
    if not p_paused then
        perform notify_queues(array(select distinct l.queue from lane as l where l.task = p_task));
    end if;
    return v_task;
end
$$;

-- Pauses a tenant in all queues, or lets it go on: no run of it starts while it is paused.
create function pause_tenant(p_tenant text, p_paused boolean default true) returns tenant
language plpgsql
as $$
declare
    v_tenant tenant;
    v_queues text[];
begin
    update tenant as t set paused = p_paused where t.id = p_tenant returning t.* into v_tenant;
    if not found then
        raise exception 'tenant % is unknown', quote_literal(p_tenant)
            using errcode = 'HW009', hint = 'create it first: select * from create_tenant(...)';
    end if;
    if not p_paused then
        -- With the tenant's row, so that no claim that saw it paused parks a lane behind this look: see park_lanes.
        v_queues := array(select distinct l.queue from lane as l where l.tenant_id = p_tenant);
        perform unpark_lanes(v_queues, array_fill(p_tenant, array[cardinality(v_queues)]));
        perform notify_queues(v_queues);
    end if;
    return v_tenant;
end
$$;

-- Makes the day partitions of history, checkpoints, signals and events from today to p_days ahead. Called by maintenance, any number
-- of times. A partition is built apart and attached: that leaves the parent alone, but locks the default partition, so a
-- day that cannot have it within a fifth of a second is left for the next call. Longer, and whoever comes after would
-- wait too, behind a dump say.
-- A day that came before its partition has rows in the default one already: it stays there, and the others go on.
-- The rows are never changed again, or hardly: vacuum may freeze them the first time it comes, not read them once more
-- when they are old.
create function prepare_partitions(p_days integer default 7) returns table (created text)
language plpgsql
set lock_timeout = '10s'
as $$
declare
    v_day date;
    v_next date;
    v_parent text;
    v_name text;
    v_from text;
    v_to text;
begin
    -- One preparer at a time; the others would only collide on names.
    perform pg_advisory_xact_lock(hashtextextended(current_schema() || '.partitions', 0));
    set local lock_timeout = '200ms';
    for v_day in select d::date from generate_series(engine_now() at time zone 'utc', (engine_now() at time zone 'utc')
                                                     + make_interval(days => p_days), interval '1 day') as d loop
        v_next := v_day + 1;
        for v_parent, v_from, v_to in values
            ('run_history', (v_day::timestamp at time zone 'utc')::text, (v_next::timestamp at time zone 'utc')::text),
            ('checkpoint', first_run_id(v_day)::text, first_run_id(v_next)::text),
            ('signal', first_run_id(v_day)::text, first_run_id(v_next)::text),
            ('event', (v_day::timestamp at time zone 'utc')::text, (v_next::timestamp at time zone 'utc')::text)
        loop
            v_name := v_parent || to_char(v_day, '_YYYYMMDD');
            continue when to_regclass(v_name) is not null;
            begin
                execute format('create table %I (like %I including defaults including constraints)'
                               ' with (autovacuum_freeze_min_age = 0)', v_name, v_parent);
                execute format('alter table %I attach partition %I for values from (%L) to (%L)',
                               v_parent, v_name, v_from, v_to);
                created := v_name;
                return next;
            exception when check_violation then
                raise warning 'the day % of % stays in its default partition, which has rows of it', v_day, v_parent;
            when lock_not_available then
                raise warning 'the day % of % must wait: its default partition is in use', v_day, v_parent;
            end;
        end loop;
    end loop;
end
$$;

-- Workers write what they can run: name, kind, queue, JSON schema of the arguments, one line of description.
create function register_tasks(p_names text[], p_kinds text[], p_queues text[], p_schemas text[], p_descriptions text[])
returns void
language plpgsql
as $$
begin
    if exists (select from unnest(p_names) as n where n like '%@1') then
        raise exception 'no task can be named %', (select n from unnest(p_names) as n where n like '%@1' limit 1)
            using errcode = 'HW016', hint = 'the first version has the plain name; ''name@1'' means it';
    end if;

    insert into queue (name)
    select distinct q from unnest(p_queues) as q order by q
    on conflict do nothing;

    insert into task as t (name, kind, queue, args_schema, description, updated_at)
    select i.name, i.kind, i.queue, i.args_schema::jsonb, i.description, engine_now()
    from unnest(p_names, p_kinds, p_queues, p_schemas, p_descriptions) as i(name, kind, queue, args_schema, description)
    order by i.name
    on conflict (name) do update
    set kind = excluded.kind, queue = excluded.queue, args_schema = excluded.args_schema,
        description = excluded.description, updated_at = excluded.updated_at
    where (t.kind, t.queue, t.args_schema, t.description)
        is distinct from (excluded.kind, excluded.queue, excluded.args_schema, excluded.description);

    -- The plain name of versions is there without a worker that has the first.
    insert into task as t (name, kind, queue, args_schema, description, updated_at, newest)
    select distinct on (split_part(i.name, '@', 1)) split_part(i.name, '@', 1), i.kind, i.queue, i.args_schema::jsonb,
           i.description, engine_now(), i.name
    from unnest(p_names, p_kinds, p_queues, p_schemas, p_descriptions) as i(name, kind, queue, args_schema, description)
    where i.name ~ '^[^@]+@[0-9]+$'
    order by split_part(i.name, '@', 1), split_part(i.name, '@', 2)::integer desc
    on conflict (name) do update set newest = excluded.newest, updated_at = excluded.updated_at
    where split_part(excluded.newest, '@', 2)::integer > coalesce(nullif(split_part(t.newest, '@', 2), '')::integer, 1);
end
$$;

-- A worker announces itself; its id goes into every claim. p_tasks: what it can run; empty: it does not say.
create function register_worker(p_name text, p_queues text[], p_tasks text[] default '{}') returns table (worker_id bigint)
language sql
as $$
    insert into worker (name, queues, tasks, started_at, heartbeat_at)
    values (p_name, p_queues, p_tasks, engine_now(), engine_now())
    returning id
$$;

-- Removes those of these (tenant, task, twin) lanes in one queue that have no queued run. Returns how many went.
-- Lanes that an enqueuing transaction holds are left to it. The second statement is the recheck: a run committed
-- before the lock was taken is visible to it. What lane_has_runs says is written out: called for each lane, it cost more
-- than all the rest of a claim.
create function remove_empty_lanes(p_queue text, p_tenants text[], p_tasks text[], p_twins integer[]) returns integer
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_tenants text[];
    v_tasks text[];
    v_twins integer[];
    v_removed integer;
begin
    select array_agg(e.tenant_id), array_agg(e.task), array_agg(e.twin) into v_tenants, v_tasks, v_twins
    from (
        select l.tenant_id, l.task, l.twin
        from unnest(p_tenants, p_tasks, p_twins) as i(tenant_id, task, twin)
        join lane as l on l.queue = p_queue and l.tenant_id = i.tenant_id and l.task = i.task and l.twin = i.twin
        where not exists (
                select from run as r
                where r.queue = l.queue and r.tenant_id = l.tenant_id and r.task = l.task
                  and r.state = 'queued' and r.fresh
                  and (-r.priority, r.id) > (coalesce(-l.floor_priority, -2147483648), coalesce(l.floor_id, 0)))
          and not exists (
                select from run as r
                where r.queue = l.queue and r.tenant_id = l.tenant_id and r.task = l.task
                  and r.state = 'queued' and not r.fresh and not r.suspect)
        order by l.tenant_id, l.task, l.twin
        for update of l skip locked
    ) as e;
    if v_tenants is null then
        return 0;
    end if;
    delete from lane as l
    using unnest(v_tenants, v_tasks, v_twins) as i(tenant_id, task, twin)
    where l.queue = p_queue and l.tenant_id = i.tenant_id and l.task = i.task and l.twin = i.twin
      and not exists (
            select from run as r
            where r.queue = l.queue and r.tenant_id = l.tenant_id and r.task = l.task
              and r.state = 'queued' and r.fresh
              and (-r.priority, r.id) > (coalesce(-l.floor_priority, -2147483648), coalesce(l.floor_id, 0)))
      and not exists (
            select from run as r
            where r.queue = l.queue and r.tenant_id = l.tenant_id and r.task = l.task
              and r.state = 'queued' and r.fresh and -r.priority < -l.floor_priority)
      and not exists (
            select from run as r
            where r.queue = l.queue and r.tenant_id = l.tenant_id and r.task = l.task
              and r.state = 'queued' and not r.fresh and not r.suspect);
    get diagnostics v_removed = row_count;
    return v_removed;
end
$$;

-- Brings failed runs back, those that fit a filter, p_limit at most, the longest failed first: see find_failed and
-- requeue_runs. more: there are others; call it again.
create function requeue_failed(p_filter jsonb default '{}', p_limit integer default 1000, p_notify boolean default true)
returns table (requeued integer, more boolean)
language plpgsql
as $$
declare
    v_runs bigint[] := find_failed(p_filter, p_limit);
begin
    return query
    select count(*) filter (where s.status = 'requeued')::integer, cardinality(v_runs) > p_limit
    from requeue_runs(p_filter ->> 'tenant', v_runs[1:p_limit], p_notify) as s;
end
$$;

-- Brings failed and cancelled runs back to their queue. Checkpoints stay, so a workflow goes on from its last
-- finished step; the attempt number goes on too, so no writer of an older attempt can come back to life.
-- An ordered run whose session waits for it keeps its place; any other goes to its session's end.
-- p_tenant null: any tenant's (operators). status: requeued | live (not finished) | succeeded | unknown.
create function requeue_runs(p_tenant text, p_runs bigint[], p_notify boolean default true)
returns table (run_id bigint, status text)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_back run_history[];
    v_nos bigint[];
    v_heads boolean[];
    v_requeued bigint[];
    v_queues text[];
    v_tenants text[];
    v_tasks text[];
    v_oldest timestamptz := (select run_created_at(min(i)) from unnest(p_runs) as i);
begin
    perform assert_read_committed();
    -- Ordered sessions before the runs; a row of history that another requeue took meanwhile is gone by the next statement.
    perform lock_finished_sessions(p_runs);
    with back as (
        delete from run_history as h
        where h.id = any (p_runs) and h.finished_at >= v_oldest and h.state in ('failed', 'cancelled')
          and (p_tenant is null or h.tenant_id = p_tenant)
        returning h as run
    )
    select array_agg(b.run order by (b.run).id) into v_back from back as b;
    if v_back is not null then
        if exists (select from unnest(v_back) as b where b.order_no is not null) then
            -- A head that its session waits for is not numbered anew.
            select array_agg(coalesce(n.order_no, b.order_no) order by n.ord), array_agg(n.head order by n.ord)
            into v_nos, v_heads
            from number_ordered_runs(
                array(select b.id from unnest(v_back) as b order by b.id),
                array(select b.tenant_id from unnest(v_back) as b order by b.id),
                array(select b.session_id from unnest(v_back) as b order by b.id),
                array(select case when not exists (select from ordered_session as s
                                                   where s.tenant_id = b.tenant_id and s.session_id = b.session_id
                                                     and s.head_id = b.id) then b.on_failure end
                      from unnest(v_back) as b order by b.id)) as n
            join unnest(v_back) with ordinality as b on b.ordinality = n.ord;
        end if;
        with live as (
            insert into run (id, tenant_id, queue, task, state, fresh, priority, session_id, args, attempt, error, order_no,
                             on_failure, retry, parent_id, parent_step, traceparent)
            select b.id, b.tenant_id, b.queue, b.task, case when not v_heads[i.ord] then 'blocked' else 'queued' end, false,
                   b.priority, b.session_id, b.args, b.attempt, b.error, v_nos[i.ord],
                   case when v_nos[i.ord] is not null then b.on_failure end, b.retry, b.parent_id, b.parent_step,
                   b.traceparent
            from generate_subscripts(v_back, 1) as i(ord)
            cross join lateral (select (v_back[i.ord]).*) as b
            returning id, queue, tenant_id, task, state
        )
        select array_agg(l.id), array_agg(l.queue) filter (where l.state = 'queued'),
               array_agg(l.tenant_id) filter (where l.state = 'queued'), array_agg(l.task) filter (where l.state = 'queued')
        into v_requeued, v_queues, v_tenants, v_tasks
        from live as l;
        perform offer_runs(v_queues, v_tenants, v_tasks, p_notify);
    end if;
    return query select * from run_statuses(p_tenant, p_runs, v_requeued, 'requeued', 'live', 'succeeded');
end
$$;

-- Takes the running runs away from these workers, which died, and queues them again from their last checkpoint, p_limit
-- at most. Returns how many.
-- Dying in company proves nothing: a deploy or a lost machine takes hundreds along. A run that dies a second time is
-- suspect: it next runs in a small company, then in a smaller one, then alone, and only deaths there count against it:
-- p_alone of them, and it has failed. Coming to rest takes all that back (flush). So a run that kills its worker ends, and none of the hundreds beside it does.
-- Ordered runs whose session is held by somebody else are left for the next call.
create function requeue_workers_runs(p_workers bigint[], p_limit integer, p_notify boolean, p_alone integer default 3)
returns integer
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    c_chance constant integer := 2;  -- deaths in company that may be somebody else's doing
    v_runs bigint[];
    v_poison bigint[];
    v_queues text[];
    v_tenants text[];
    v_tasks text[];
begin
    v_runs := lock_ordered_sessions(array(
        select r.id from run as r
        where r.worker_id = any (p_workers) and r.state = 'running'
        order by r.id
        limit p_limit), false);
    with lost as (
        select r.id from run as r
        where r.id = any (v_runs) and r.worker_id = any (p_workers) and r.claimed_at is not null
        order by r.id
        for no key update skip locked
    ),
    requeued as (
        update run as r
        set state = 'queued', fresh = false, worker_id = null, claimed_at = null,
            deaths = r.deaths + 1, deaths_alone = r.deaths_alone + (r.suspect and suspect_company(r.deaths) = 1)::integer,
            suspect = r.deaths + 1 >= c_chance
        from lost as l where r.id = l.id
        returning r.id, r.queue, r.tenant_id, r.task, r.deaths_alone >= p_alone as poison
    )
    select array_agg(q.id), array_agg(q.queue), array_agg(q.tenant_id), array_agg(q.task),
           array_agg(q.id) filter (where q.poison)
    into v_runs, v_queues, v_tenants, v_tasks, v_poison
    from requeued as q;
    if v_queues is null then
        return 0;
    end if;
    perform free_slots(v_queues, v_tenants);
    if v_poison is not null then
        perform finish_runs(
            v_poison, array_fill('failed'::text, array[cardinality(v_poison)]), null,
            array_fill(jsonb_build_object(
                'type', 'WorkerDied',
                'message', format('its worker died %s times while nothing else ran on it', p_alone)),
                array[cardinality(v_poison)]),
            p_notify);
    end if;
    perform offer_runs(v_queues, v_tenants, v_tasks, p_notify);
    perform end_cancelled_runs(v_runs, false);
    return cardinality(v_queues);
end
$$;

-- Finds workers whose heartbeat is older than p_stale and gives their runs back to the queue. Any peer may call it.
-- A worker that was only asleep finds its row gone and every write of its old attempts refused.
-- Stock procrastinate workers say that they live every 10 s, and count as dead after 30: so do theirs here at least.
--   p_alone  how often a run's worker may die while nothing else runs on it before the run has failed
create function rescue_runs(p_stale interval, p_limit integer default 10000, p_notify boolean default true,
                            p_alone integer default 3)
returns table (workers integer, runs integer)
language plpgsql
as $$
declare
    v_workers bigint[];
    v_runs integer;
begin
    perform assert_read_committed();
    select array_agg(s.id) into v_workers
    from (
        select w.id from worker as w
        where w.heartbeat_at < engine_now() - case when w.name like 'procrastinate:%' then greatest(p_stale, interval '30 s')
                                                   else p_stale end
        order by w.id
        for update skip locked
    ) as s;
    if v_workers is null then
        return query select 0, 0;
        return;
    end if;
    v_runs := requeue_workers_runs(v_workers, p_limit, p_notify, p_alone);
    -- A worker's row goes last: while it stays, the next call finds what this one's limit left over.
    delete from worker as w
    where w.id = any (v_workers)
      and not exists (select from run as r where r.worker_id = w.id and r.state = 'running');
    return query select cardinality(v_workers), v_runs;
end
$$;

-- The millisecond a run was enqueued, read from its id.
create function run_created_at(p_id bigint) returns timestamptz
language sql immutable parallel safe
as $$
    select to_timestamp((p_id >> 20) / 1000.0)
$$;

-- A status for each of these runs, for whoever acted on them: p_done for those in p_done_ids, else p_live where it is not
-- finished, p_finished where it is, and unknown where it is no run (of p_tenant; null: of any).
create function run_statuses(p_tenant text, p_runs bigint[], p_done_ids bigint[], p_done text, p_live text, p_finished text)
returns table (run_id bigint, status text)
language sql stable
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
    select i.id,
           case when i.id = any (p_done_ids) then p_done
                when exists (select from run as r
                             where r.id = i.id and (p_tenant is null or r.tenant_id = p_tenant)) then p_live
                when exists (select from run_history as h
                             where h.id = i.id and h.finished_at >= run_created_at(i.id)
                               and (p_tenant is null or h.tenant_id = p_tenant)) then p_finished
                else 'unknown' end
    from unnest(p_runs) as i(id)
$$;

-- Whether an ordered session's head is one that its blocked runs may wait for: live and not blocked itself, or failed
-- for good where that stops the session.
create function session_has_head(p_session ordered_session) returns boolean
language sql stable
set enable_seqscan = off
as $$
    select exists (select from run as r where r.id = p_session.head_id and r.state <> 'blocked')
        or exists (select from run_history as h
                   where h.id = p_session.head_id and h.finished_at >= run_created_at(p_session.head_id)
                     and h.state = 'failed' and h.on_failure = 'block')
$$;

-- Changes a queue's limits, which hold from the next claim or enqueue on; makes the queue where there is none.
--   p_limits  {"max_running", "max_running_per_tenant", "starts_per_period", "period_s", "max_queued",
--             "max_queued_per_tenant"}: a number sets, null removes, what is absent stays
create function set_queue_limits(p_queue text, p_limits jsonb) returns queue
language plpgsql
as $$
declare
    c_known constant text[] := array['max_running', 'max_running_per_tenant', 'starts_per_period', 'period_s', 'max_queued',
                                     'max_queued_per_tenant'];
    v_key text;
    v_value jsonb;
    v_queue queue;
begin
    for v_key, v_value in select * from jsonb_each(p_limits) loop
        if v_key <> all (c_known) then
            raise exception 'there is no limit %', quote_literal(v_key)
                using errcode = 'HW016', hint = 'use ' || array_to_string(c_known, ', ');
        end if;
        if v_key = 'period_s' and v_value <> 'null' then
            if jsonb_typeof(v_value) <> 'number' or v_value::numeric not between 0.001 and 31536000 then
                raise exception 'period_s is %', v_value
                    using errcode = 'HW016', hint = 'give seconds, from 0.001 to a year';
            end if;
        elsif v_value <> 'null'
            and (jsonb_typeof(v_value) <> 'number' or v_value::numeric not between 0 and 2147483647
                 or v_value::numeric <> trunc(v_value::numeric)) then
            raise exception 'the limit % is %', v_key, v_value
                using errcode = 'HW016', hint = 'give a whole number from 0 on, or null for none';
        end if;
    end loop;
    perform check_queue_name(p_queue);
    insert into queue (name) values (p_queue) on conflict do nothing;
    select q.* into v_queue from queue as q where q.name = p_queue for no key update;
    v_queue := jsonb_populate_record(
        v_queue,
        (p_limits - 'period_s')
        || case when p_limits ? 'period_s'
                then jsonb_build_object('period', case when p_limits ->> 'period_s' is not null
                                                       then (p_limits ->> 'period_s') || ' seconds' end)
                else '{}' end);
    if (v_queue.starts_per_period is null) <> (v_queue.period is null) then
        raise exception 'starts_per_period % and a period of % do not belong together',
            coalesce(v_queue.starts_per_period::text, 'null'), coalesce(v_queue.period::text, 'null')
            using errcode = 'HW016', hint = 'set both starts_per_period and period_s, or remove both';
    end if;
    update queue as q
    set max_running = v_queue.max_running, max_running_per_tenant = v_queue.max_running_per_tenant,
        starts_per_period = v_queue.starts_per_period, period = v_queue.period, max_queued = v_queue.max_queued,
        max_queued_per_tenant = v_queue.max_queued_per_tenant
    where q.name = p_queue
    returning q.* into v_queue;
    -- What was counted was counted up to the old caps.
    delete from queue_depth as d where d.queue = p_queue;
    perform unpark_queue(p_queue);
    perform notify_queues(array[p_queue]);
    return v_queue;
end
$$;

-- Changes a tenant's share of each queue beside the other tenants' shares; 1 is where everybody begins.
create function set_tenant_weight(p_tenant text, p_weight double precision) returns tenant
language plpgsql
as $$
declare
    v_tenant tenant;
begin
    if p_weight is null or p_weight not between 0.001 and 1000 then
        raise exception 'weight % cannot be used', p_weight
            using errcode = 'HW016', hint = 'give a number from 0.001 to 1000';
    end if;
    update tenant as t set weight = p_weight where t.id = p_tenant returning t.* into v_tenant;
    if not found then
        raise exception 'tenant % is unknown', quote_literal(p_tenant)
            using errcode = 'HW009', hint = 'create it first: select * from create_tenant(...)';
    end if;
    return v_tenant;
end
$$;

-- How many suspect runs may run together on a worker that runs nothing else, by how often they have died: ever fewer, so
-- that a run which kills its workers is soon alone, and the hundreds that died with it do not have to go one by one.
create function suspect_company(p_deaths integer) returns integer
language sql immutable
as $$
    select case when p_deaths <= 2 then 50 when p_deaths = 3 then 5 else 1 end
$$;

-- Part of sweep_queues: lanes whose floor hides runs lose it, and claims look from zero; parked lanes whose tenant has
-- room are unparked; lanes without runs go. (The last break nothing: a claim that is full leaves those it emptied.)
create function sweep_lanes(p_limit integer, p_notify boolean) returns table (kind text, repaired integer)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_after text[] := walk_from('lanes', 3);
    v_last text[];
    v_hidden lane[];
    v_parked lane[];
    v_empty lane[];
    v_repaired integer;
begin
    with walked as materialized (
        select l as lane from lane as l
        where (l.queue, l.tenant_id, l.task) > (v_after[1], v_after[2], v_after[3])
        order by l.queue, l.tenant_id, l.task
        limit p_limit
    )
    select array_agg(w.lane) filter (where floor_hides_runs(w.lane)),
           array_agg(w.lane) filter (where (w.lane).parked and tenant_has_room((w.lane).queue, (w.lane).tenant_id)),
           array_agg(w.lane) filter (where not lane_has_runs(w.lane)),
           (array_agg(array[(w.lane).queue, (w.lane).tenant_id, (w.lane).task]
                      order by (w.lane).queue, (w.lane).tenant_id, (w.lane).task))[p_limit:p_limit]
    into v_hidden, v_parked, v_empty, v_last
    from walked as w;
    perform walk_reached('lanes', v_last);

    if v_hidden is not null or v_parked is not null then
        v_hidden := array(
            select l from lane as l
            join unnest(v_hidden || v_parked) as i
                on l.queue = i.queue and l.tenant_id = i.tenant_id and l.task = i.task and l.twin = i.twin
            order by l.queue, l.tenant_id, l.task, l.twin
            for no key update of l skip locked);

        update lane as l
        set floor_priority = null, floor_id = null, next_priority = null, next_id = null, next_xid = null
        from unnest(v_hidden) as i
        where l.queue = i.queue and l.tenant_id = i.tenant_id and l.task = i.task and l.twin = i.twin and floor_hides_runs(l);
        get diagnostics v_repaired = row_count;
        if v_repaired > 0 then
            return query select 'run below its lane''s floor', v_repaired;
        end if;

        update lane as l
        set parked = false, virtual_time = greatest(l.virtual_time, least_virtual_time(l.queue))
        from unnest(v_hidden) as i
        where l.queue = i.queue and l.tenant_id = i.tenant_id and l.task = i.task and l.twin = i.twin
          and l.parked and tenant_has_room(l.queue, l.tenant_id);
        get diagnostics v_repaired = row_count;
        if v_repaired > 0 then
            return query select 'parked lane with room', v_repaired;
        end if;
        if p_notify then
            perform notify_queues(array(select distinct i.queue from unnest(v_hidden) as i));
        end if;
    end if;

    select sum(remove_empty_lanes(e.queue, e.tenants, e.tasks, e.twins)) into v_repaired
    from (select i.queue, array_agg(i.tenant_id) as tenants, array_agg(i.task) as tasks,
                 array_agg(i.twin) as twins
          from unnest(v_empty) as i group by i.queue) as e;
    if v_repaired > 0 then
        return query select 'lane without runs', v_repaired;
    end if;
end
$$;

-- Part of sweep_queues: queued runs whose lane is missing get it back. Goes from one (queue, tenant, task) with queued
-- runs to the next by the ready indexes, an index descent each, however many runs they have. (Suspect runs need no lane.)
create function sweep_queued(p_limit integer, p_notify boolean) returns table (kind text, repaired integer)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_after text[] := walk_from('queued', 3);
    v_last text[];
    v_queues text[];
    v_tenants text[];
    v_tasks text[];
begin
    with recursive fresh as (
        (select r.queue, r.tenant_id, r.task, 1 as place from run as r
         where r.state = 'queued' and r.fresh and (r.queue, r.tenant_id, r.task) > (v_after[1], v_after[2], v_after[3])
         order by r.queue, r.tenant_id, r.task
         limit 1)
        union all
        select n.queue, n.tenant_id, n.task, w.place + 1
        from fresh as w
        cross join lateral (
            select r.queue, r.tenant_id, r.task from run as r
            where r.state = 'queued' and r.fresh and (r.queue, r.tenant_id, r.task) > (w.queue, w.tenant_id, w.task)
            order by r.queue, r.tenant_id, r.task
            limit 1) as n
        where w.place < p_limit
    ),
    returned as (
        (select r.queue, r.tenant_id, r.task, 1 as place from run as r
         where r.state = 'queued' and not r.fresh and not r.suspect
           and (r.queue, r.tenant_id, r.task) > (v_after[1], v_after[2], v_after[3])
         order by r.queue, r.tenant_id, r.task
         limit 1)
        union all
        select n.queue, n.tenant_id, n.task, w.place + 1
        from returned as w
        cross join lateral (
            select r.queue, r.tenant_id, r.task from run as r
            where r.state = 'queued' and not r.fresh and not r.suspect
              and (r.queue, r.tenant_id, r.task) > (w.queue, w.tenant_id, w.task)
            order by r.queue, r.tenant_id, r.task
            limit 1) as n
        where w.place < p_limit
    ),
    walked as materialized (
        select * from fresh union all select * from returned
    ),
    without as (
        select distinct w.queue, w.tenant_id, w.task from walked as w
        where not exists (select from lane as l
                          where l.queue = w.queue and l.tenant_id = w.tenant_id and l.task = w.task)
    )
    select (select array_agg(w.queue order by w.queue, w.tenant_id, w.task) from without as w),
           (select array_agg(w.tenant_id order by w.queue, w.tenant_id, w.task) from without as w),
           (select array_agg(w.task order by w.queue, w.tenant_id, w.task) from without as w),
           -- Where both stopped early, the one that is behind: what the other saw beyond it, it sees again.
           (select array[w.queue, w.tenant_id, w.task] from walked as w
            where w.place = p_limit order by w.queue, w.tenant_id, w.task limit 1)
    into v_queues, v_tenants, v_tasks, v_last;
    perform walk_reached('queued', v_last);
    if v_queues is not null then
        perform offer_runs(v_queues, v_tenants, v_tasks, p_notify);
        return query select 'queued run without lane', cardinality(v_queues);
    end if;
end
$$;

-- Looks for what the engine's invariants forbid, and repairs it: what nobody foresaw, or did by hand, must not strand a
-- run for ever. Answers what it repaired, by kind; nothing where all is well. Each call looks at up to p_limit places of
-- each kind, goes on where the last call stopped, and begins anew after the end. One sweep at a time; another answers nothing.
-- It sees others' transactions from outside, as they began or as they ended, and in both states the invariants hold:
-- what one statement finds broken is broken. Each repair then locks what it found, skips what is held, and looks again.
create function sweep_queues(p_limit integer default 5000, p_notify boolean default true)
returns table (kind text, repaired integer)
language plpgsql
as $$
begin
    perform assert_read_committed();
    if not pg_try_advisory_xact_lock(hashtextextended(current_schema() || '.sweep', 0)) then
        return;
    end if;
    return query select * from sweep_workers(p_limit, p_notify);
    return query select * from sweep_sessions(p_limit, p_notify);
    return query select * from sweep_queued(p_limit, p_notify);
    return query select * from sweep_lanes(p_limit, p_notify);
    return query select * from sweep_waiting(p_limit);
end
$$;

-- Part of sweep_queues: ordered sessions whose head is gone, and blocked runs whose session has no row. The next run by
-- number is promoted; a session without one goes. If an ordered run of the session is live after all, that is its head:
-- two must never go at once.
-- A session that waits for a failed run does so for as long as history keeps it: then its head is gone.
create function sweep_sessions(p_limit integer, p_notify boolean) returns table (kind text, repaired integer)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_after text[] := walk_from('sessions', 2);
    v_blocked_after text[] := walk_from('blocked sessions', 2);
    v_last text[];
    v_headless ordered_session[];
    v_missing text[];
    v_missing_tenants text[];
    v_locked ordered_session[];
    v_made integer;
    v_repaired integer;
begin
    with walked as materialized (
        select s as session from ordered_session as s
        where (s.tenant_id, s.session_id) > (v_after[1], v_after[2])
        order by s.tenant_id, s.session_id
        limit p_limit
    )
    select array_agg(w.session) filter (where not session_has_head(w.session)),
           (array_agg(array[(w.session).tenant_id, (w.session).session_id]
                      order by (w.session).tenant_id, (w.session).session_id))[p_limit:p_limit]
    into v_headless, v_last
    from walked as w;
    perform walk_reached('sessions', v_last);

    with recursive walked as (
        (select r.tenant_id, r.session_id, 1 as place from run as r
         where r.state = 'blocked' and (r.tenant_id, r.session_id) > (v_blocked_after[1], v_blocked_after[2])
         order by r.tenant_id, r.session_id
         limit 1)
        union all
        select n.tenant_id, n.session_id, w.place + 1
        from walked as w
        cross join lateral (
            select r.tenant_id, r.session_id from run as r
            where r.state = 'blocked' and (r.tenant_id, r.session_id) > (w.tenant_id, w.session_id)
            order by r.tenant_id, r.session_id
            limit 1) as n
        where w.place < p_limit
    )
    select array_agg(w.tenant_id) filter (where s.tenant_id is null),
           array_agg(w.session_id) filter (where s.tenant_id is null),
           array_agg(array[w.tenant_id, w.session_id]) filter (where w.place = p_limit)
    into v_missing_tenants, v_missing, v_last
    from walked as w
    left join ordered_session as s on s.tenant_id = w.tenant_id and s.session_id = w.session_id;
    perform walk_reached('blocked sessions', v_last);

    if v_missing is null and v_headless is null then
        return;
    end if;
    -- No run has the id 0: a head that is gone, for the repair below. Made, the row is locked.
    with made as (
        insert into ordered_session as s (tenant_id, session_id, last_no, head_id)
        select i.tenant_id, i.session_id, l.order_no, 0
        from unnest(v_missing_tenants, v_missing) as i(tenant_id, session_id)
        cross join lateral (
            select r.order_no from run as r
            where r.tenant_id = i.tenant_id and r.session_id = i.session_id and r.state = 'blocked'
            order by r.order_no desc
            limit 1) as l
        order by i.tenant_id, i.session_id
        on conflict do nothing
        returning s as session
    )
    select count(*), coalesce(v_headless, '{}') || coalesce(array_agg(m.session), '{}') into v_made, v_headless
    from made as m;

    v_locked := array(
        select s from ordered_session as s
        join unnest(v_headless) as i on i.tenant_id = s.tenant_id and i.session_id = s.session_id
        order by s.tenant_id, s.session_id
        for no key update of s skip locked);
    update ordered_session as s
    set head_id = l.id, last_no = greatest(s.last_no, l.order_no)
    from unnest(v_locked) as i
    cross join lateral (
        select r.id, r.order_no from run as r
        where r.tenant_id = i.tenant_id and r.session_id = i.session_id and r.order_no is not null and r.state <> 'blocked'
        order by r.order_no
        limit 1) as l
    where s.tenant_id = i.tenant_id and s.session_id = i.session_id and not session_has_head(s);
    get diagnostics v_repaired = row_count;

    v_locked := array(
        select s from ordered_session as s
        join unnest(v_locked) as i on i.tenant_id = s.tenant_id and i.session_id = s.session_id
        where not session_has_head(s));
    perform advance_sessions(array_agg(s.head_id), array_agg(s.tenant_id), array_agg(s.session_id),
                             array_agg(0::bigint), p_notify)
    from unnest(v_locked) as s
    having count(*) > 0;
    v_repaired := v_repaired + cardinality(v_locked) - v_made;
    return query
    select s.kind, s.repaired
    from (values ('blocked run without session', v_made), ('session without head', v_repaired)) as s(kind, repaired)
    where s.repaired > 0;
end
$$;

-- Part of sweep_queues: waiting runs whose wait is over are woken.
create function sweep_waiting(p_limit integer) returns table (kind text, repaired integer)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_walked bigint[];
    v_over bigint[];
begin
    v_walked := array(
        select r.id from run as r
        where r.state = 'waiting' and r.id > coalesce(nullif((walk_from('waiting', 1))[1], ''), '0')::bigint
        order by r.id
        limit p_limit);
    perform walk_reached('waiting', case when cardinality(v_walked) = p_limit then array[v_walked[p_limit]::text] end);
    -- One that is due is not overlooked yet: workers look for those by themselves.
    v_over := array(
        select r.id from run as r
        where r.id = any (waits_over(v_walked)) and (r.run_at is null or r.run_at > engine_now()));
    if v_over <> '{}' then
        perform wake_waiting(v_over);
        return query select 'waiting run whose wait was over', cardinality(v_over);
    end if;
end
$$;

-- Part of sweep_queues: gives back running runs whose worker's row is gone, and takes away workers that have been silent
-- for an hour: by then nobody's patience with a silent worker can still hold.
create function sweep_workers(p_limit integer, p_notify boolean) returns table (kind text, repaired integer)
language plpgsql
set enable_seqscan = off
as $$
declare
    v_gone bigint[];
begin
    v_gone := array(
        select distinct r.worker_id from run as r
        where r.state = 'running' and not exists (select from worker as w where w.id = r.worker_id)
        limit p_limit);
    return query
    select s.kind, s.repaired
    from (select 'running run without worker', requeue_workers_runs(v_gone, p_limit, p_notify)
          where v_gone <> '{}') as s(kind, repaired)
    where s.repaired > 0;
    return query
    select 'silent worker', s.workers from rescue_runs(interval '1 hour', p_limit, p_notify) as s where s.workers > 0;
end
$$;

-- Whether a tenant may start a run in a queue, as far as the tenant is concerned: neither paused nor at its cap there.
create function tenant_has_room(p_queue text, p_tenant text) returns boolean
language sql stable
set enable_seqscan = off
as $$
    select exists (select from tenant as t where t.id = p_tenant and not t.paused)
       and not exists (
        select from queue as q
        where q.name = p_queue
          and q.max_running_per_tenant <= (
            select count(*)
            from (select from run as r
                  where r.queue = p_queue and r.tenant_id = p_tenant and r.state = 'running'
                  limit q.max_running_per_tenant) as slot))
$$;

-- Deletes what is older than p_keep from the default partitions, where days land that nobody prepared: p_limit rows of
-- each at most. Checkpoints and signals stay as long as their run is live or in history. Returns how many rows went.
create function trim_default_partitions(p_keep interval, p_limit integer default 10000) returns table (trimmed integer)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_before timestamptz := date_trunc('day', least(engine_now() - p_keep, engine_now()), 'utc');
    v_first_id bigint := first_run_id((v_before at time zone 'utc')::date);
    v_runs integer;
    v_checkpoints integer;
    v_signals integer;
begin
    -- Nothing finishes before the time in its id: what is old enough has a lesser one.
    delete from run_history_default as h
    using (select o.id, o.finished_at from run_history_default as o
           where o.id < v_first_id and o.finished_at < v_before
           order by o.id
           limit p_limit
           for update skip locked) as o
    where h.id = o.id and h.finished_at = o.finished_at;
    get diagnostics v_runs = row_count;

    delete from checkpoint_default as c
    using (select o.run_id, o.step from checkpoint_default as o
           where o.run_id < v_first_id
             and not exists (select from run as r where r.id = o.run_id)
             and not exists (select from run_history as h
                             where h.id = o.run_id and h.finished_at >= run_created_at(o.run_id))
           order by o.run_id
           limit p_limit
           for update skip locked) as o
    where c.run_id = o.run_id and c.step = o.step;
    get diagnostics v_checkpoints = row_count;

    delete from signal_default as s
    using (select o.run_id, o.name, o.no from signal_default as o
           where o.run_id < v_first_id
             and not exists (select from run as r where r.id = o.run_id)
             and not exists (select from run_history as h
                             where h.id = o.run_id and h.finished_at >= run_created_at(o.run_id))
           order by o.run_id
           limit p_limit
           for update skip locked) as o
    where s.run_id = o.run_id and s.name = o.name and s.no = o.no;
    get diagnostics v_signals = row_count;
    return query select v_runs + v_checkpoints + v_signals;
end
$$;

-- Lets claims look at these (queue, tenant) lanes again. Wrongly done, the next claim parks them anew.
-- Locks first: a claim that is about to park such a lane has it locked, and its decision, made before what happened here,
-- must not come last.
create function unpark_lanes(p_queues text[], p_tenants text[]) returns void
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_queues text[];
    v_tenants text[];
    v_tasks text[];
begin
    select array_agg(k.queue), array_agg(k.tenant_id), array_agg(k.task) into v_queues, v_tenants, v_tasks
    from (
        select l.queue, l.tenant_id, l.task
        from lane as l
        join unnest(p_queues, p_tenants) as i(q, t) on l.queue = i.q and l.tenant_id = i.t
        order by l.queue, l.tenant_id, l.task, l.twin
        for no key update of l
    ) as k;
    -- These only: one that came since is not locked, and waiting for it would break the order.
    if v_queues is not null then
        update lane as l
        set parked = false, virtual_time = greatest(l.virtual_time, least_virtual_time(l.queue))
        from unnest(v_queues, v_tenants, v_tasks) as i(q, t, k)
        where l.queue = i.q and l.tenant_id = i.t and l.task = i.k and l.parked;
    end if;
end
$$;

-- Lets claims look at every lane of a queue again.
create function unpark_queue(p_queue text) returns void
language plpgsql
as $$
declare
    v_tenants text[] := array(select distinct l.tenant_id from lane as l where l.queue = p_queue);
begin
    perform unpark_lanes(array_fill(p_queue, array[cardinality(v_tenants)]), v_tenants);
end
$$;

-- A worker leaves in order: what it could not finish goes back to the queue at once, without counting a death.
create function unregister_worker(p_worker bigint, p_notify boolean default true) returns table (released integer)
language plpgsql
as $$
#variable_conflict use_column
declare
    v_runs bigint[];
    v_queues text[];
    v_tenants text[];
    v_tasks text[];
begin
    perform assert_read_committed();
    -- A claim whose connection was cut may still be under way here: its runs, too, must be seen below.
    perform from worker as w where w.id = p_worker for update;
    perform lock_ordered_sessions(
        array(select r.id from run as r where r.worker_id = p_worker and r.state = 'running'), true);
    with released as (
        update run as r
        set state = 'queued', fresh = false, worker_id = null, claimed_at = null
        where r.id in (select o.id from run as o
                       where o.worker_id = p_worker and o.state = 'running' order by o.id for no key update)
        returning r.id, r.queue, r.tenant_id, r.task
    )
    select array_agg(q.id), array_agg(q.queue), array_agg(q.tenant_id), array_agg(q.task)
    into v_runs, v_queues, v_tenants, v_tasks from released as q;
    if v_queues is not null then
        perform free_slots(v_queues, v_tenants);
        perform offer_runs(v_queues, v_tenants, v_tasks, p_notify);
        perform end_cancelled_runs(v_runs, false);
    end if;
    delete from worker where id = p_worker;
    return query select coalesce(cardinality(v_queues), 0);
end
$$;

-- Queues scheduled and waiting runs whose time has come, p_limit at most. Answers how many, and when the next one is due.
create function wake_due_runs(p_limit integer default 1000, p_notify boolean default true)
returns table (woken integer, next_at timestamptz)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_now timestamptz := engine_now();
    v_queues text[];
    v_tenants text[];
    v_tasks text[];
begin
    perform assert_read_committed();
    with due as (
        select r.id from run as r
        where r.state in ('scheduled', 'waiting') and r.run_at <= v_now
        order by r.run_at
        limit p_limit
        for no key update skip locked
    ),
    woken as (
        update run as r set state = 'queued', fresh = false, awaits = null from due as d where r.id = d.id
        returning r.queue, r.tenant_id, r.task
    )
    select array_agg(w.queue), array_agg(w.tenant_id), array_agg(w.task) into v_queues, v_tenants, v_tasks from woken as w;
    perform offer_runs(v_queues, v_tenants, v_tasks, p_notify);
    return query
    select coalesce(cardinality(v_queues), 0),
           (select min(r.run_at) from run as r where r.state in ('scheduled', 'waiting') and r.run_at is not null);
end
$$;

-- The key of p_columns columns after which a walk of sweep_queues goes on; empty strings, before every key, where it begins.
create function walk_from(p_walk text, p_columns integer) returns text[]
language sql stable
as $$
    select coalesce((select w.reached from sweep_walk as w where w.name = p_walk), array_fill(''::text, array[p_columns]))
$$;

-- Keeps how far a walk of sweep_queues has come: the key it looked at last, alone or as an array of one. Nothing: it came
-- to the end, and begins anew.
create function walk_reached(p_walk text, p_key text[]) returns void
language sql
as $$
    delete from sweep_walk as w where w.name = p_walk and coalesce(p_key, '{}') = '{}';
    insert into sweep_walk as w (name, reached)
    select p_walk, array(select unnest(p_key)) where p_key <> '{}'
    on conflict (name) do update set reached = excluded.reached;
$$;

-- Cron schedules: which run comes when. Rows may also be written by plain SQL: a scheduler works out `next_at`, and what
-- it cannot read it says in `error`, while the others go on.
--   cron          five fields, or six with seconds last; the clock is that of time_zone, an IANA name
--   missed        of the moments that passed while no scheduler lived: 'last' fires the latest of them once, 'skip' none
--   counts_from   moments after this count; next_at null: not worked out yet, as after a change of the cron
--   last_at       the moment for which it last fired, with the run that this brought
--   error         why the last moment brought no run; with next_at null it stands still until it is put again
--   session_id    its runs' session
--   on_failure    its runs are ordered ones of that session, one at a time, and a failed one lets the next go on (skip) or
--                 holds it (block); null: they do not wait for one another
--   periodic_id   procrastinate's, for what @app.periodic made: its runs get the moment as `timestamp`
create table schedule (
    tenant_id text not null,
    name text not null,
    task text not null,
    args jsonb not null default '{}',
    queue text,
    priority integer not null default 0,
    unique_key text,
    session_id text,
    on_failure text,
    cron text not null,
    time_zone text not null default 'UTC',
    missed text not null default 'last',
    periodic_id text,
    paused boolean not null default false,
    counts_from timestamptz not null default engine_now(),
    next_at timestamptz,
    last_at timestamptz,
    last_run_id bigint,
    error text,
    created_at timestamptz not null default engine_now(),
    updated_at timestamptz not null default engine_now(),
    constraint schedule_pkey primary key (tenant_id, name),
    constraint schedule_tenant_fkey foreign key (tenant_id) references tenant (id) on delete cascade,
    constraint schedule_name_check check (name ~ '^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$'),
    constraint schedule_args_check check (jsonb_typeof(args) = 'object'),
    constraint schedule_queue_check check (queue ~ '^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$'),
    constraint schedule_cron_check check (length(cron) <= 200),
    constraint schedule_missed_check check (missed in ('last', 'skip')),
    constraint schedule_order_check check (
        (on_failure is null or session_id is not null) and on_failure in ('skip', 'block'))
) with (fillfactor = 80);
create index schedule_next_idx on schedule (next_at) where not paused;

-- Removes a schedule; the runs that it has brought stay.
create function delete_schedule(p_tenant text, p_name text) returns table (deleted boolean)
language plpgsql
as $$
begin
    delete from schedule where tenant_id = p_tenant and name = p_name;
    return query select found;
end
$$;

-- Schedules whose moment has come, and those whose next moment is not worked out yet; now_at is the engine's clock.
-- Only a look: fire_schedules decides who fires what.
create function due_schedules(p_limit integer default 100)
returns table (tenant_id text, name text, cron text, time_zone text, missed text, counts_from timestamptz,
               next_at timestamptz, now_at timestamptz)
language sql
as $$
    with clock as materialized (select engine_now() as now_at),
    new as (
        select s.* from schedule as s
        where s.next_at is null and s.error is null and not s.paused
        limit p_limit
    ),
    due as (
        select s.* from schedule as s
        where s.next_at <= (select c.now_at from clock as c) and not s.paused
        order by s.next_at
        limit p_limit
    )
    select d.tenant_id, d.name, d.cron, d.time_zone, d.missed, d.counts_from, d.next_at, c.now_at
    from (select * from due union all select * from new) as d, clock as c
    limit p_limit
$$;

-- Takes schedules from one moment to the next, and enqueues the runs of those that fire, in one transaction: a moment
-- brings one run, however many schedulers try. One array position a schedule:
--   p_counts_from, p_seen  counts_from and next_at as due_schedules showed them; a schedule that somebody else has
--                          moved or changed since, or is about to, is left alone
--   p_ats                  the moment to fire for; null: it only moves on
--   p_next_ats             its next moment; null, with the reason in p_errors: it stands still
-- A @periodic one shares procrastinate's own guard, so that a stock worker beside fires none of its moments again.
-- Answers those that it moved; run_id is null where there is no run, or a stock worker has enqueued it.
create function fire_schedules(
    p_tenants text[],
    p_names text[],
    p_counts_from timestamptz[],
    p_seen timestamptz[],
    p_ats timestamptz[],
    p_next_ats timestamptz[],
    p_errors text[] default null,
    p_notify boolean default true
) returns table (tenant_id text, name text, run_id bigint)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
    v_locked bigint[];
    v_mine bigint[];
    v_firing bigint[];
    v_new record;
    v_runs bigint[];
    v_statuses text[];
begin
    perform assert_read_committed();
    select array_agg(l.ord) into v_locked
    from (
        select i.ord
        from unnest(p_tenants, p_names) with ordinality as i(tenant, name, ord)
        join schedule as s on s.tenant_id = i.tenant and s.name = i.name
        order by s.tenant_id, s.name
        for no key update of s skip locked
    ) as l;

    select array_agg(i.ord) into v_mine
    from unnest(p_tenants, p_names, p_counts_from, p_seen) with ordinality as i(tenant, name, counts_from, seen, ord)
    join schedule as s on s.tenant_id = i.tenant and s.name = i.name
    where i.ord = any (v_locked) and not s.paused
      and s.counts_from = i.counts_from and s.next_at is not distinct from i.seen;

    with guarded as (
        insert into procrastinate_periodic_defers as d (task_name, periodic_id, defer_timestamp)
        select s.task, s.periodic_id, date_part('epoch', i.at)::bigint
        from unnest(p_tenants, p_names, p_ats) with ordinality as i(tenant, name, at, ord)
        join schedule as s on s.tenant_id = i.tenant and s.name = i.name
        where i.ord = any (v_mine) and i.at is not null and s.periodic_id is not null
        order by s.task, s.periodic_id
        on conflict (task_name, periodic_id) do update set defer_timestamp = excluded.defer_timestamp, job_id = null
            where d.defer_timestamp < excluded.defer_timestamp
        returning d.task_name, d.periodic_id
    )
    select array_agg(i.ord order by i.ord) into v_firing
    from unnest(p_tenants, p_names, p_ats) with ordinality as i(tenant, name, at, ord)
    join schedule as s on s.tenant_id = i.tenant and s.name = i.name
    left join guarded as g on g.task_name = s.task and g.periodic_id = s.periodic_id
    where i.ord = any (v_mine) and i.at is not null and (s.periodic_id is null or g.task_name is not null);

    if v_firing is not null then
        select array_agg(s.tenant_id order by f.ord) as tenants,
               array_agg(s.task order by f.ord) as tasks,
               array_agg((case when s.periodic_id is null then s.args
                               else s.args || jsonb_build_object('timestamp', date_part('epoch', p_ats[f.ord])::bigint)
                          end)::text order by f.ord) as args,
               array_agg(s.queue order by f.ord) as queues,
               array_agg(s.priority order by f.ord) as priorities,
               array_agg(s.unique_key order by f.ord) as unique_keys,
               array_agg(s.session_id order by f.ord) as sessions,
               array_agg(s.on_failure order by f.ord) as orders
        into v_new
        from unnest(v_firing) as f(ord)
        join schedule as s on s.tenant_id = p_tenants[f.ord] and s.name = p_names[f.ord];

        select array_agg(e.run_id order by e.ord), array_agg(e.status order by e.ord) into v_runs, v_statuses
        from enqueue_runs(v_new.tenants, v_new.tasks, v_new.args, v_new.queues, v_new.priorities,
                          p_sessions => v_new.sessions, p_unique => v_new.unique_keys, p_orders => v_new.orders,
                          p_notify => p_notify) as e;

        update procrastinate_periodic_defers as d set job_id = f.run_id
        from unnest(v_firing, v_runs) as f(ord, run_id)
        join schedule as s on s.tenant_id = p_tenants[f.ord] and s.name = p_names[f.ord]
        where d.task_name = s.task and d.periodic_id = s.periodic_id;
    end if;

    return query
    update schedule as s
    set next_at = p_next_ats[m.ord],
        last_at = case when f.run_id is null then s.last_at else p_ats[m.ord] end,
        last_run_id = coalesce(f.run_id, s.last_run_id),
        error = case when p_errors[m.ord] is not null then p_errors[m.ord]
                     when f.status = 'not_unique' then 'a run with its uniqueness key was still queued'
                     when f.status = 'queue_full' then 'its queue was full'
                     when f.run_id is null then f.status end
    from unnest(v_mine) as m(ord)
    left join unnest(v_firing, v_runs, v_statuses) as f(ord, run_id, status) on f.ord = m.ord
    where s.tenant_id = p_tenants[m.ord] and s.name = p_names[m.ord]
    returning s.tenant_id, s.name, f.run_id;
end
$$;

-- A paused schedule fires nothing, and what it missed meanwhile is not caught up: resumed, it counts anew from now.
create function pause_schedule(p_tenant text, p_name text, p_paused boolean default true) returns table (changed boolean)
language plpgsql
as $$
declare
    v_now timestamptz := engine_now();
begin
    update schedule as s
    set paused = p_paused, counts_from = v_now, next_at = null, updated_at = v_now
    where s.tenant_id = p_tenant and s.name = p_name and s.paused <> p_paused;
    if found then
        return query select true;
    elsif exists (select from schedule as s where s.tenant_id = p_tenant and s.name = p_name) then
        return query select false;
    else
        raise exception 'schedule % is unknown', quote_literal(p_name) using errcode = 'HW019';
    end if;
end
$$;

-- Makes a schedule, or gives the one of this name another definition; whether it is paused stays.
--   p_time_zone    an IANA name, as in pg_timezone_names
--   p_missed       what becomes of moments that pass while no scheduler lives: 'last' or 'skip'
--   p_queue        null: the queue that the task's workers registered
--   p_unique       uniqueness key of its runs: a moment brings no run while the one before is still queued
--   p_periodic_id  for @app.periodic
--   p_session      its runs' session
--   p_order        its runs are ordered ones of that session, and what the failure of one does to those behind it: 'skip' or
--                  'block'; null: they do not wait for one another
-- With the same cron and time zone its next moment stays as well; otherwise it counts anew from now.
create function put_schedule(
    p_tenant text,
    p_name text,
    p_task text,
    p_cron text,
    p_args jsonb default '{}',
    p_time_zone text default 'UTC',
    p_missed text default 'last',
    p_queue text default null,
    p_priority integer default 0,
    p_unique text default null,
    p_periodic_id text default null,
    p_session text default null,
    p_order text default null
) returns table (created boolean)
language plpgsql
as $$
#variable_conflict use_column
declare
    c_name constant text := '^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$';
    v_now timestamptz := engine_now();
    v_created boolean;
begin
    if not exists (select from tenant where id = p_tenant) then
        raise exception 'tenant % is unknown', quote_literal(p_tenant) using errcode = 'HW009';
    end if;
    if p_name is null or p_name !~ c_name then
        raise exception '% is not a name for a schedule', coalesce(quote_literal(p_name), 'null')
            using errcode = 'HW020', hint = 'use up to 128 letters, digits and . _ : - beginning with a letter or digit';
    end if;
    if p_queue !~ c_name then
        raise exception 'queue % is not a name', quote_literal(p_queue)
            using errcode = 'HW020', hint = 'use up to 128 letters, digits and . _ : - beginning with a letter or digit';
    end if;
    if p_time_zone <> 'UTC' and not exists (select from pg_timezone_names where name = p_time_zone) then
        raise exception 'time zone % is unknown', quote_literal(p_time_zone)
            using errcode = 'HW020', hint = 'use an IANA name such as Europe/Berlin: see pg_timezone_names';
    end if;
    if p_missed not in ('last', 'skip') then
        raise exception 'missed % is neither ''last'' nor ''skip''', quote_literal(p_missed) using errcode = 'HW020';
    end if;
    if p_order is not null and (p_session is null or p_order not in ('skip', 'block')) then
        raise exception 'order % without a session, or neither ''skip'' nor ''block''', quote_literal(p_order)
            using errcode = 'HW020', hint = 'ordered runs are a session''s: name it, and what a failure does to those behind';
    end if;
    if jsonb_typeof(p_args) <> 'object' then
        raise exception 'the arguments are a JSON %, not an object', jsonb_typeof(p_args)
            using errcode = 'HW020', hint = 'write {"name": value}';
    end if;
    if length(p_cron) > 200 then
        raise exception 'the cron expression has % characters, the limit is 200', length(p_cron) using errcode = 'HW020';
    end if;

    insert into schedule as s (tenant_id, name, task, args, queue, priority, unique_key, cron, time_zone, missed,
                               periodic_id, session_id, on_failure, counts_from, created_at, updated_at)
    values (p_tenant, p_name, p_task, p_args, p_queue, p_priority, p_unique, p_cron, p_time_zone, p_missed,
            p_periodic_id, p_session, p_order, v_now, v_now, v_now)
    on conflict (tenant_id, name) do update
    set task = excluded.task, args = excluded.args, queue = excluded.queue, priority = excluded.priority,
        unique_key = excluded.unique_key, cron = excluded.cron, time_zone = excluded.time_zone,
        missed = excluded.missed, periodic_id = excluded.periodic_id, session_id = excluded.session_id,
        on_failure = excluded.on_failure, error = null, updated_at = v_now,
        counts_from = case when (s.cron, s.time_zone) = (excluded.cron, excluded.time_zone)
                                and (s.next_at is not null or s.error is null)
                           then s.counts_from else v_now end,
        next_at = case when (s.cron, s.time_zone) = (excluded.cron, excluded.time_zone) then s.next_at end
    -- Workers put what @app.periodic made at each start: what is as it was is not written again.
    where (s.task, s.args, s.queue, s.priority, s.unique_key, s.cron, s.time_zone, s.missed, s.periodic_id,
           s.session_id, s.on_failure)
        is distinct from (excluded.task, excluded.args, excluded.queue, excluded.priority, excluded.unique_key,
                          excluded.cron, excluded.time_zone, excluded.missed, excluded.periodic_id, excluded.session_id,
                          excluded.on_failure)
        or s.error is not null
    returning s.xmax = 0 into v_created;
    return query select coalesce(v_created, false);
end
$$;

-- Enqueues a run of a schedule now, also of a paused one; its moments stay as they are.
create function run_schedule(p_tenant text, p_name text, p_notify boolean default true)
returns table (run_id bigint, status text)
language plpgsql
as $$
#variable_conflict use_column
declare
    v_schedule schedule;
begin
    select * into v_schedule from schedule as s where s.tenant_id = p_tenant and s.name = p_name;
    if not found then
        raise exception 'schedule % is unknown', quote_literal(p_name) using errcode = 'HW019';
    end if;
    if v_schedule.periodic_id is not null then
        v_schedule.args := v_schedule.args || jsonb_build_object('timestamp', date_part('epoch', engine_now())::bigint);
    end if;
    return query
    select e.run_id, e.status
    from enqueue_run(v_schedule.tenant_id, v_schedule.task, v_schedule.args, p_queue => v_schedule.queue,
                     p_priority => v_schedule.priority, p_unique => v_schedule.unique_key, p_session => v_schedule.session_id,
                     p_order => v_schedule.on_failure, p_notify => p_notify) as e;
end
$$;

-- The durable output of each finished step. Partitioned by the day of the run's id from birth, never moved.
create table checkpoint (
    run_id bigint not null,
    step text not null,
    tenant_id text not null,
    attempt integer not null,
    output jsonb,
    started_at timestamptz not null,
    finished_at timestamptz not null,
    -- The step that had finished last, in the same branch of the code, when this one was asked for: '' if none had. A later
    -- attempt whose code asks for it after another one contradicts its history. Null: it was asked for by another step.
    after text,
    -- How often a later attempt finished this step again although its output was on disk. Anything but 0 is a bug.
    repeats integer not null default 0,
    constraint checkpoint_pkey primary key (run_id, step)
) partition by range (run_id);
create table checkpoint_default partition of checkpoint default;

-- What was sent to a run, by name, numbered 1, 2, 3 … in the order of arrival. Kept as long as its checkpoints are.
create table signal (
    run_id bigint not null,
    name text not null,
    no integer not null,
    tenant_id text not null,
    payload jsonb not null,
    key text,
    sent_at timestamptz not null,
    constraint signal_pkey primary key (run_id, name, no)
) partition by range (run_id);
create unique index signal_key_idx on signal (run_id, key) where key is not null;
create table signal_default partition of signal default;

-- Cancels these runs, whose parent is over: at once where their code has not begun, else by asking it to stop. One that no
-- worker has just now is claimed once more, so that its code may tidy up, as in cancel_runs; one that was asked before is left
-- to do so. Nothing is waited for: those that somebody else holds become loose ends.
create function cancel_orphans(p_runs bigint[], p_notify boolean) returns void
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_held bigint[];
    v_idle bigint[];
    v_running bigint[];
    v_begun bigint[];
begin
    select array_agg(l.id), array_agg(l.id) filter (where l.state <> 'running' and not l.cancel_requested),
           array_agg(l.id) filter (where l.state = 'running' and not l.cancel_requested),
           array_agg(l.id) filter (where not l.cancel_requested)
    into v_held, v_idle, v_running, v_begun
    from (select r.id, r.state, r.cancel_requested from run as r
          where r.id = any (lock_ordered_sessions(p_runs, false))
          order by r.id
          for no key update skip locked) as l;
    v_begun := runs_to_tidy_up(v_begun);
    v_idle := array(select i from unnest(v_idle) as i where i <> all (v_begun));
    if v_idle <> '{}' then
        perform finish_runs(
            v_idle, array_fill('cancelled'::text, array[cardinality(v_idle)]), null,
            array_fill('{"type": "Cancelled", "message": "its parent is over"}'::jsonb, array[cardinality(v_idle)]),
            p_notify);
    end if;
    if v_running is not null then
        update run as r set cancel_requested = true where r.id = any (v_running);
        if p_notify then
            perform pg_notify(current_schema() || '.cancels', '');
        end if;
    end if;
    if v_begun <> '{}' then
        perform let_tidy_up(v_begun);
    end if;
    insert into loose_end (run_id)
    select r.id from run as r where r.id = any (p_runs) and r.id <> all (coalesce(v_held, '{}'));
end
$$;

-- What a worker has to say about its runs, in one transaction: checkpoints, events and outcomes, one an array position.
--   p_kinds     checkpoint | event | outcome
--   p_names     the step | the event's type | the outcome:
--               succeeded, failed, cancelled  the run is over; the body is its output, or its error
--               retry       again at p_times, counted as a failure; the body is the error
--               reschedule  again at p_times, not a failure (an outside API asked to wait)
--               release     again at once, not a failure (the worker is stopping)
--               wait        asleep until something comes (the body: see waits_over), at p_times at the latest; the key
--                           'session' where it waits for events
--   p_bodies    JSON as text
--   p_keys      the step that a step came after, see checkpoint.after | an event's producer key: a repeat changes nothing | a retry's change, as JSON text: {"priority", "queue"}, both
--               optional; the run keeps it
--   p_times     when a step started | when the run is due again
-- status, an item:
--   ok        it is on disk (also when an earlier, interrupted flush of the same attempt had put it there)
--   stale     the attempt is over: another one has the run, or it has ended. Nothing was written.
--   busy      somebody else holds the run or its session. Nothing of this run was written; send it again.
--   full      an event for which its session's window has no room, as a required consumer is too far behind; or what came after
--             such an event of this run. It was not written; send it again later, in that order.
--   repeated  a later attempt finished a step whose output was already on disk. The first output stays.
--   ready     of a wait: what it waits for has come. It was not put to rest, and goes on.
--   cancelled of a wait: somebody asked to cancel the run. It was not put to rest, and should end.
-- Another kind or outcome than these, or a wait that is not understood, is refused (HW016), with the whole batch: written as
-- nothing, it would seem written.
-- Locks in the engine's order: session, run, lane, each sorted; sessions and runs are skipped when held, so that one
-- slow caller stalls nobody else in the batch.
create function flush(
    p_runs bigint[],
    p_attempts integer[],
    p_kinds text[],
    p_names text[],
    p_bodies text[],
    p_keys text[],
    p_times timestamptz[],
    p_notify boolean default true
) returns table (ord bigint, status text)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    c_outcomes constant text[] := '{succeeded, failed, cancelled, retry, reschedule, release, wait}';
    v_unknown text;
    v_now timestamptz := engine_now();
    v_wanted integer;
    v_mine bigint[];
    v_busy bigint[] := '{}';
    v_live bigint[] := p_runs;  -- an item's run; null where nothing may be written
    v_status text[] := array_fill('ok'::text, array[cardinality(p_runs)]);
    v_repeated text[] := '{}';
    v_slot_queues text[];
    v_slot_tenants text[];
    v_again bigint[];
    v_released bigint[];
    v_queues text[];
    v_tenants text[];
    v_tasks text[];
    v_ordered bigint[];
    v_moved text[];  -- queues that retries name
    v_children boolean;
    v_ending bigint[];
    v_free bigint[];  -- those of them whose parents are locked
    v_waits bigint[];
    v_ready bigint[];
    v_cancelled bigint[];
    v_events boolean := 'event' = any (p_kinds);
    v_event_ords integer[];
    v_full integer[];
    v_listens boolean := 'wait' = any (p_names) and 'session' = any (p_keys);
begin
    perform assert_read_committed();
    select format('%s %s', coalesce(i.kind, 'null'), coalesce(i.name, 'null')) into v_unknown
    from unnest(p_kinds, p_names) as i(kind, name)
    where case i.kind when 'checkpoint' then i.name is null
                      when 'event' then i.name is null
                      when 'outcome' then i.name is null or i.name <> all (c_outcomes)
                      else true end
    limit 1;
    if v_unknown is not null then
        raise exception 'an item cannot be written: %', v_unknown
            using errcode = 'HW016', hint = format('write a checkpoint or an event by its name, or an outcome: %s',
                                                   array_to_string(c_outcomes, ', '));
    end if;

    if 'wait' = any (p_names) then
        select coalesce(i.body, 'null') into v_unknown
        from unnest(p_kinds, p_names, p_bodies, p_times) as i(kind, name, body, at)
        where i.kind = 'outcome' and i.name = 'wait' and not coalesce(wait_is_understood(i.body::jsonb, i.at), false)
        limit 1;
        if v_unknown is not null then
            raise exception 'a run cannot wait for this: %', left(v_unknown, 200)
                using errcode = 'HW016', hint = 'write a JSON array such as [{"signal": "approve", "after": 0}]: see waits_over';
        end if;
    end if;

    if 'retry' = any (p_names) then
        select array_remove(array_agg(distinct i.change::jsonb ->> 'queue'), null) into v_moved
        from unnest(p_kinds, p_names, p_keys) as i(kind, name, change)
        where i.kind = 'outcome' and i.name = 'retry' and i.change is not null;
        insert into queue (name) select q from unnest(v_moved) as q order by q on conflict do nothing;
    end if;

    if v_events or v_listens then
        v_busy := lock_run_sessions(array(
            select distinct i.run_id from unnest(p_runs, p_kinds, p_names, p_keys) as i(run_id, kind, name, key)
            where i.kind = 'event' or i.kind = 'outcome' and i.name = 'wait' and i.key = 'session'));
    end if;

    -- Run by run: told by its statistics that hardly any is running, the planner would read them all and compare each with
    -- each. "Running" is said so that no partial index matches.
    with wanted as materialized (
        select distinct run_id, attempt from unnest(p_runs, p_attempts) as i(run_id, attempt)
    )
    select coalesce(array_agg(l.id), '{}'), array_agg(l.id) filter (where l.order_no is not null),
           (select count(*) from wanted), array_agg(l.queue), array_agg(l.tenant_id), bool_or(l.parent_id is not null)
    into v_mine, v_ordered, v_wanted, v_slot_queues, v_slot_tenants, v_children
    from (select * from wanted order by run_id) as i
    cross join lateral (
        select r.id, r.order_no, r.queue, r.tenant_id, r.parent_id
        from run as r
        where r.id = i.run_id and r.attempt = i.attempt and r.claimed_at is not null and r.id <> all (v_busy)
        for no key update of r skip locked
    ) as l;

    -- An ordered run ends under its session's lock. That is taken late, but never waited for.
    if v_ordered is not null then
        v_mine := lock_ordered_sessions(v_mine, false);
    end if;
    if v_children and 'outcome' = any (p_kinds) then
        v_ending := array(select distinct i.run_id from unnest(p_runs, p_kinds) as i(run_id, kind) where i.kind = 'outcome');
        v_free := lock_parents(v_ending);
        v_mine := array(select m from unnest(v_mine) as m where m <> all (v_ending) or m = any (v_free));
    end if;

    if cardinality(v_mine) < v_wanted then
        -- Not all were locked: a neighbour holds the row for a moment, or the attempt is over, perhaps ended by this
        -- very attempt in a flush whose answer was lost with the connection.
        select array_agg(case when r.id = any (v_mine) then 'ok'
                              when r.id is not null then 'busy'
                              when exists (select from run_history as h
                                           where h.id = i.run_id and h.attempt = i.attempt and h.worker_id is not null
                                             and h.finished_at >= run_created_at(i.run_id)) then 'ok'
                              else 'stale' end order by i.ord),
               array_agg(case when r.id = any (v_mine) then i.run_id end order by i.ord)
        into v_status, v_live
        from unnest(p_runs, p_attempts) with ordinality as i(run_id, attempt, ord)
        left join run as r on r.id = i.run_id and r.attempt = i.attempt and r.claimed_at is not null;
    end if;

    -- First, because what follows an event that does not fit is not written either.
    if v_events then
        v_event_ords := array(
            select i.ord from unnest(v_live, p_kinds) with ordinality as i(run_id, kind, ord)
            where i.kind = 'event' and i.run_id is not null order by i.ord);
        v_full := append_run_events(
            array(select v_live[o] from unnest(v_event_ords) as o), array(select p_names[o] from unnest(v_event_ords) as o),
            array(select p_bodies[o] from unnest(v_event_ords) as o), array(select p_keys[o] from unnest(v_event_ords) as o),
            p_notify);
        if v_full <> '{}' then
            v_full := array(select v_event_ords[f] from unnest(v_full) as f);
            select array_agg(case when i.ord = any (v_full) or f.first < i.ord and i.kind <> 'event' then 'full'
                                  else i.status end order by i.ord),
                   array_agg(case when f.first is null or i.ord < f.first then i.run_id end order by i.ord)
            into v_status, v_live
            from unnest(v_live, p_kinds, v_status) with ordinality as i(run_id, kind, status, ord)
            left join (select v_live[o] as run_id, min(o) as first from unnest(v_full) as o group by 1) as f
                   on f.run_id = i.run_id;
        end if;
    end if;

    if 'checkpoint' = any (p_kinds) then
        with written as (
            insert into checkpoint as c (run_id, step, tenant_id, attempt, output, started_at, finished_at, after)
            select i.run_id, i.step, r.tenant_id, i.attempt, i.body::jsonb, coalesce(i.at, v_now), v_now, i.after
            from unnest(v_live, p_attempts, p_kinds, p_names, p_bodies, p_times, p_keys)
                as i(run_id, attempt, kind, step, body, at, after)
            join run as r on r.id = i.run_id
            where i.kind = 'checkpoint'
            on conflict (run_id, step) do update
                set repeats = c.repeats + (c.attempt <> excluded.attempt)::integer
            returning c.run_id, c.step, c.repeats
        )
        select coalesce(array_agg(w.run_id || '/' || w.step), '{}') into v_repeated from written as w where w.repeats > 0;
    end if;

    if 'wait' = any (p_names) then
        select array_agg(i.run_id), waits_over(array_agg(i.run_id), array_agg(i.body::jsonb), array_agg(i.at))
        into v_waits, v_ready
        from unnest(v_live, p_kinds, p_names, p_bodies, p_times) as i(run_id, kind, name, body, at)
        where i.kind = 'outcome' and i.name = 'wait' and i.run_id is not null;
        select array_agg(r.id) into v_cancelled from run as r where r.id = any (v_waits) and r.cancel_requested;
        -- Its deaths are forgotten: it has come through what it had to do, and so is not what killed its workers. One that
        -- dies of what it does next does not come to rest before it does that again.
        update run as r
        set state = 'waiting', run_at = i.at, awaits = i.body::jsonb, fresh = false, suspect = false, deaths = 0,
            deaths_alone = 0, worker_id = null, claimed_at = null
        from unnest(v_live, p_kinds, p_names, p_bodies, p_times) as i(run_id, kind, name, body, at)
        where i.kind = 'outcome' and i.name = 'wait' and r.id = i.run_id
          and r.id <> all (coalesce(v_ready, '{}')) and r.id <> all (coalesce(v_cancelled, '{}'));
    end if;

    if 'outcome' = any (p_kinds) then
        -- Those of runs that only wrote a checkpoint, too: nothing comes of it.
        perform free_slots(v_slot_queues, v_slot_tenants);
        perform finish_runs(
            array_agg(i.run_id), array_agg(i.name),
            array_agg(case when i.name = 'succeeded' then i.body::jsonb end),
            array_agg(case when i.name <> 'succeeded' then i.body::jsonb end), p_notify)
        from unnest(v_live, p_kinds, p_names, p_bodies) as i(run_id, kind, name, body)
        where i.kind = 'outcome' and i.name in ('succeeded', 'failed', 'cancelled') and i.run_id is not null
        having count(*) > 0;

        if p_names && array['retry', 'reschedule', 'release'] then
            with again as (
                update run as r
                set state = case when i.at > v_now then 'scheduled' else 'queued' end,
                    run_at = case when i.at > v_now then i.at end,
                    fresh = false, suspect = false, worker_id = null, claimed_at = null,
                    failures = r.failures + (i.name = 'retry')::integer,
                    priority = coalesce((i.change::jsonb ->> 'priority')::integer, r.priority),
                    queue = coalesce(i.change::jsonb ->> 'queue', r.queue),
                    error = case when i.name = 'retry' then i.body::jsonb else r.error end
                from unnest(v_live, p_kinds, p_names, p_bodies, p_keys, p_times) as i(run_id, kind, name, body, change, at)
                where i.kind = 'outcome' and i.name in ('retry', 'reschedule', 'release')
                  and r.id = i.run_id
                returning r.id, r.queue, r.tenant_id, r.task, r.state, i.name
            )
            select array_agg(a.id) filter (where a.name <> 'release'), array_agg(a.id) filter (where a.name = 'release'),
                   array_agg(a.queue) filter (where a.state = 'queued'),
                   array_agg(a.tenant_id) filter (where a.state = 'queued'),
                   array_agg(a.task) filter (where a.state = 'queued')
            into v_again, v_released, v_queues, v_tenants, v_tasks
            from again as a;
            perform offer_runs(v_queues, v_tenants, v_tasks, p_notify);
            if v_moved is not null and not p_notify then
                -- Who notifies after the commit knows where the runs were, and not where they went.
                perform notify_queues(v_moved);
            end if;
            if v_again is not null then
                perform end_cancelled_runs(v_again, true);
            end if;
            if v_released is not null then
                perform end_cancelled_runs(v_released, false);
            end if;
        end if;
    end if;

    return query
    select i.ord,
           case when v_repeated <> '{}' and i.kind = 'checkpoint' and i.run_id || '/' || i.name = any (v_repeated) then 'repeated'
                when i.kind = 'outcome' and i.name = 'wait' and i.run_id = any (v_cancelled) then 'cancelled'
                when i.kind = 'outcome' and i.name = 'wait' and i.run_id = any (v_ready) then 'ready'
                else i.status end
    from unnest(v_live, p_kinds, p_names, v_status) with ordinality as i(run_id, kind, name, status, ord)
    order by i.ord;
end
$$;

-- A new run with the task, the arguments and the first p_steps finished steps of another one, live or over: it goes on
-- from there. Of a workflow that runs steps side by side, the first are those that finished first. What a step keeps aside
-- (name#until, #caught, #failed-1, #children-0, #outputs-0) is no step of its own, and goes with it; so does the signal that a wait
-- has had, by which the next one gets its number.
--   p_steps  more than the run has finished are refused: they would run a second time
--   p_task   another task or version to try them on; null: the same, also where a newer version is registered. Its plain name is the newest, as everywhere
-- p_tenant null: any tenant's (operators). It has no session and no order: readers of the old one see nothing of it.
create function fork_run(p_tenant text, p_run bigint, p_steps integer, p_task text default null,
                         p_notify boolean default true)
returns table (run_id bigint)
language plpgsql
as $$
#variable_conflict use_column
declare
    c_aside constant text := '#(until|caught|failed-[0-9]+|children-[0-9]+|outputs-[0-9]+)$';
    v_old record;
    v_id bigint;
    v_status text;
    v_kept text[];
begin
    perform assert_read_committed();
    select o.* into v_old
    from (select r.tenant_id, r.task, r.args, r.queue, r.priority, r.retry from run as r where r.id = p_run
          union all
          select h.tenant_id, h.task, h.args, h.queue, h.priority, h.retry from run_history as h
          where h.id = p_run and h.finished_at >= run_created_at(p_run)) as o
    where p_tenant is null or o.tenant_id = p_tenant;
    if not found then
        raise exception 'run % is unknown', p_run using errcode = 'HW002';
    end if;
    if p_steps < 0 then
        raise exception 'a run cannot be forked from step %', p_steps
            using errcode = 'HW016', hint = 'say how many finished steps the new run shall keep: 0 or more';
    end if;
    select array_agg(k.step) into v_kept
    from (select c.step from checkpoint as c
          where c.run_id = p_run and c.step !~ c_aside
          order by c.finished_at, c.step
          limit p_steps) as k;
    if coalesce(cardinality(v_kept), 0) < p_steps then
        raise exception 'run % has finished % step%, and % were asked for', p_run, coalesce(cardinality(v_kept), 0),
                        case when cardinality(v_kept) = 1 then '' else 's' end, p_steps
            using errcode = 'HW016', hint = 'keep fewer';
    end if;
    select e.run_id, e.status into v_id, v_status
    from enqueue_runs(array[v_old.tenant_id], array[coalesce(p_task, case when v_old.task like '%@%' then v_old.task else v_old.task || '@1' end)], array[v_old.args::text],
                      array[v_old.queue], p_priorities => array[v_old.priority], p_retries => array[v_old.retry::text],
                      p_notify => p_notify) as e;
    if v_id is null then
        raise exception 'the fork of run % was refused: %', p_run, v_status
            using errcode = case v_status when 'queue_full' then 'HW018' else 'HW004' end;
    end if;
    insert into checkpoint (run_id, step, tenant_id, attempt, output, started_at, finished_at, after)
    select v_id, c.step, c.tenant_id, 1, c.output, c.started_at, c.finished_at, c.after
    from checkpoint as c
    where c.run_id = p_run
      and (regexp_replace(c.step, c_aside, '') = any (v_kept)
           -- A failure that the code had caught before the last step that is kept; after it, it is tried again.
           or c.step ~ '#caught$' and c.finished_at <= (select max(k.finished_at) from checkpoint as k
                                                        where k.run_id = p_run and k.step = any (v_kept)));
    insert into signal (run_id, name, no, tenant_id, payload, key, sent_at)
    select v_id, s.name, s.no, s.tenant_id, s.payload, s.key, s.sent_at
    from signal as s
    where s.run_id = p_run
      and exists (select from checkpoint as c
                  where c.run_id = v_id and c.output ->> 'signal' = s.name and c.output -> 'no' = to_jsonb(s.no));
    -- Its first attempt is the other's: the next one reads what it finished.
    update run as r set attempt = 1 where r.id = v_id;
    return query select v_id;
end
$$;

-- Asks these runs to stop, see runs_to_tidy_up: each is claimed once more, so that its code may tidy up, and then ends. The
-- caller holds their locks. One past its deadline has a minute to begin, which its run_at tells: without a worker it would
-- never end, and expire_runs ends it then.
create function let_tidy_up(p_runs bigint[]) returns void
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_now timestamptz := engine_now();
    v_queues text[];
    v_tenants text[];
    v_tasks text[];
begin
    with asked as (
        update run as r
        set state = 'queued', cancel_requested = true, fresh = false, awaits = null,
            run_at = case when r.deadline <= v_now then v_now + interval '1 minute' end
        where r.id = any (p_runs)
        returning r.queue, r.tenant_id, r.task
    )
    select array_agg(a.queue), array_agg(a.tenant_id), array_agg(a.task) into v_queues, v_tenants, v_tasks from asked as a;
    -- Notified here, as only this place knows whom it woke: one notification a batch.
    perform offer_runs(v_queues, v_tenants, v_tasks, true);
end
$$;

-- Locks the parents of these runs, which are to end: that tells a parent whether to go on waiting. Returns those of the runs
-- that may end now: nothing is waited for, and one whose parent somebody else holds is left out.
create function lock_parents(p_runs bigint[]) returns bigint[]
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_held bigint[];
begin
    select coalesce(array_agg(l.id), '{}') into v_held
    from (select p.id from run as p
          where p.id = any (array(select distinct c.parent_id from run as c
                                  where c.id = any (p_runs) and c.parent_id is not null))
          order by p.id
          for no key update skip locked) as l;
    return array(
        select c.id from run as c
        where c.id = any (p_runs)
          and (c.parent_id is null or c.parent_id = any (v_held)
               or not exists (select from run as p where p.id = c.parent_id)));
end
$$;

-- Those of these runs that somebody asked to stop: claimed only so that their code may tidy up.
create function read_asked(p_runs bigint[]) returns table (run_id bigint)
language sql stable
as $$
    select r.id from run as r where r.id = any (p_runs) and r.cancel_requested
$$;

-- One finished step.
create function read_checkpoint(p_run bigint, p_step text)
returns table (run_id bigint, step text, output text, attempt integer, started_at timestamptz, finished_at timestamptz,
               after text)
language sql stable
as $$
    select c.run_id, c.step, c.output::text, c.attempt, c.started_at, c.finished_at, c.after
    from checkpoint as c
    where c.run_id = p_run and c.step = p_step
$$;

-- A page of the outputs of these runs' finished steps, by run and step: after p_after_run and p_after_step, p_limit at most.
create function read_checkpoints(p_runs bigint[], p_after_run bigint default 0, p_after_step text default '',
                                 p_limit integer default 10000)
returns table (run_id bigint, step text, output text, attempt integer, started_at timestamptz, finished_at timestamptz,
               after text)
language sql stable
as $$
    select c.run_id, c.step, c.output::text, c.attempt, c.started_at, c.finished_at, c.after
    from checkpoint as c
    where c.run_id = any (p_runs) and (c.run_id, c.step) > (p_after_run, p_after_step)
    order by c.run_id, c.step
    limit p_limit
$$;

-- What became of these runs; no row for one that is live.
create function read_outcomes(p_runs bigint[]) returns table (run_id bigint, state text, output text, error text)
language sql stable
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
    select h.id, h.state, h.output::text, h.error::text
    from run_history as h
    where h.id = any (p_runs)
      and h.finished_at >= (select run_created_at(min(i)) from unnest(p_runs) as i)
$$;

-- What was sent to these runs, in the order of arrival.
create function read_signals(p_runs bigint[]) returns table (run_id bigint, name text, no integer, payload text)
language sql stable
as $$
    select s.run_id, s.name, s.no, s.payload::text
    from signal as s
    where s.run_id = any (p_runs)
    order by s.run_id, s.name, s.no
$$;

-- A run and its descendants, p_limit at most, those nearest to it first, and of one run's children the earliest.
-- p_tenant null: any tenant's (operators). step: the parent's step that waits for it. error: why it failed, in short.
create function read_tree(p_tenant text, p_run bigint, p_limit integer default 1000)
returns table (run_id bigint, parent_id bigint, step text, depth integer, task text, state text, error text)
language sql stable
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
    with recursive tree (run_id, parent_id, step, depth, task, state, error) as (
        select o.*
        from (select r.id, r.parent_id, r.parent_step, 0, r.task, r.state, null::jsonb
              from run as r
              where r.id = p_run and (p_tenant is null or r.tenant_id = p_tenant)
              union all
              select h.id, h.parent_id, h.parent_step, 0, h.task, h.state, h.error
              from run_history as h
              where h.id = p_run and h.finished_at >= run_created_at(p_run)
                and (p_tenant is null or h.tenant_id = p_tenant)) as o
        union all
        select c.id, c.parent_id, c.parent_step, t.depth + 1, c.task, c.state, c.error
        from tree as t
        cross join lateral (
            select b.*
            from ((select r.id, r.parent_id, r.parent_step, r.task, r.state, null::jsonb as error
                   from run as r
                   where r.parent_id = t.run_id
                   order by r.id
                   limit p_limit)
                  union all
                  (select h.id, h.parent_id, h.parent_step, h.task, h.state, h.error
                   from run_history as h
                   where h.parent_id = t.run_id and h.finished_at >= run_created_at(t.run_id)
                   order by h.id
                   limit p_limit)) as b
            order by b.id
            limit p_limit
        ) as c
    )
    select t.run_id, t.parent_id, t.step, t.depth, t.task, t.state,
           nullif(concat_ws(': ', t.error ->> 'type', left(t.error ->> 'message', 200)), '')
    from tree as t
    limit p_limit
$$;

-- Those of these runs whose code has begun, is not under way, and may have something to tidy up: workflows only, as other
-- tasks begin anew on each attempt. Not one for which its turn in its ordered session has yet to come. The caller holds
-- their locks.
create function runs_to_tidy_up(p_runs bigint[]) returns bigint[]
language sql stable
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
    select coalesce(array_agg(r.id order by r.id), '{}')
    from run as r
    where r.id = any (p_runs)
      and (r.state = 'waiting'
           or r.state in ('queued', 'scheduled') and r.attempt > 0
              and exists (select from task as k where k.name = r.task and k.kind = 'workflow'))
$$;

-- Sends signals to runs, one an array position: a name, a JSON payload as text, and a key that makes a repeat harmless
-- (null: none). One that is sent before its run awaits it waits for the run.
-- p_tenant null: any tenant's (operators). status: sent | existing (the key was sent to the run before, with the same name and
--   payload) | conflict (with others) | finished | unknown | not_a_choice (the run waits for it, and this payload is none of
--   its choices); a bad item fails alone.
create function send_signals(p_tenant text, p_runs bigint[], p_names text[], p_payloads text[],
                             p_keys text[] default null)
returns table (ord bigint, run_id bigint, status text)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_live bigint[];  -- an item's run; null where it has none
    v_status text[];
begin
    perform assert_read_committed();
    -- Run by run, an item each: joined as sets afterwards, each item was compared with each run.
    select array_agg(l.id order by i.ord) into v_live
    from (select * from unnest(p_runs) with ordinality as i(run_id, ord) order by i.run_id) as i
    left join lateral (
        select r.id from run as r
        where r.id = i.run_id and (p_tenant is null or r.tenant_id = p_tenant)
        for no key update
    ) as l on true;

    -- In a statement of its own: it sees what was sent before the locks were taken.
    with item as materialized (
        select i.run_id, i.name, i.payload::jsonb as payload, i.key, i.ord, r.id is not null as live, r.tenant_id,
               r.state = 'waiting' and exists (
                   select from jsonb_array_elements(r.awaits) as a
                   where a ->> 'signal' = i.name and a ? 'choices'
                     and not coalesce(
                         a -> 'choices' ? case when jsonb_typeof(i.payload::jsonb) = 'object' then i.payload::jsonb ->> 'choice'
                                               else i.payload::jsonb #>> '{}' end, false)) as no_choice,
               s.run_id is not null as known,
               i.key is not null
               and (s.run_id is not null
                    or r.id is not null and row_number() over (partition by i.run_id, i.key order by i.ord) > 1) as seen,
               (coalesce(s.name, first_value(i.name) over (partition by i.run_id, i.key order by i.ord)),
                coalesce(s.payload, first_value(i.payload::jsonb) over (partition by i.run_id, i.key order by i.ord)))
               = (i.name, i.payload::jsonb) as same
        from unnest(p_runs, p_names, p_payloads, p_keys, v_live)
            with ordinality as i(run_id, name, payload, key, live, ord)
        left join run as r on r.id = i.live
        left join signal as s
            on s.run_id = i.run_id and s.key = i.key and (p_tenant is null or s.tenant_id = p_tenant)
    ),
    sent as (
        insert into signal (run_id, name, no, tenant_id, payload, key, sent_at)
        select i.run_id, i.name,
               coalesce((select max(s.no) from signal as s where s.run_id = i.run_id and s.name = i.name), 0)
               + row_number() over (partition by i.run_id, i.name order by i.ord),
               i.tenant_id, i.payload, i.key, engine_now()
        from item as i
        where i.live and not i.seen and not i.no_choice
    )
    select array_agg(
        case when i.live then case when i.seen then case when i.same then 'existing' else 'conflict' end
                                   when i.no_choice then 'not_a_choice' else 'sent' end
             when exists (select from run_history as h
                          where h.id = i.run_id and h.finished_at >= run_created_at(i.run_id)
                            and (p_tenant is null or h.tenant_id = p_tenant))
             -- Who asks again, because the answer was lost, is told that it came, though the run has ended since.
             then case when not i.known then 'finished' when i.same then 'existing' else 'conflict' end
             else 'unknown' end order by i.ord)
    into v_status
    from item as i;

    perform wake_runs(waits_over(array(select distinct l from unnest(v_live) as l where l is not null)));
    return query
    select i.ord, i.run_id, i.status
    from unnest(p_runs, v_status) with ordinality as i(run_id, status, ord)
    order by i.ord;
end
$$;

-- Enqueues child runs of a step of a running run and keeps their ids as that step's output, in one transaction: all are
-- there, or none. They go to the parent's tenant, and have its deadline and its trace.
--   p_attempt  the parent's fencing token; refused (HW001) when it is an old one
--   p_step     a part of the step's children, whose ids are kept under this name; p_group: the step, which awaits all parts
-- Returns the children's ids, in order: those of before where the step has spawned already.
create function spawn_children(p_run bigint, p_attempt integer, p_step text, p_group text, p_tasks text[], p_args text[],
                               p_queues text[] default null, p_notify boolean default true)
returns table (child_ids bigint[])
language plpgsql
as $$
#variable_conflict use_column
declare
    v_run run;
    v_ids bigint[];
    v_bad text;
    v_count integer := cardinality(p_tasks);
begin
    perform assert_read_committed();
    select r.* into v_run from run as r
    where r.id = p_run and r.attempt = p_attempt and r.claimed_at is not null
    for no key update;
    if not found then
        raise exception 'attempt % of run % is over: it can have no more children', p_attempt, p_run
            using errcode = 'HW001', hint = 'stop: another attempt has the run, or it has ended';
    end if;
    select array(select jsonb_array_elements_text(c.output -> 'children')::bigint) into v_ids
    from checkpoint as c where c.run_id = p_run and c.step = p_step;
    if not found then
        select array_agg(e.run_id order by e.ord), min(e.status) filter (where e.status <> 'created')
        into v_ids, v_bad
        from enqueue_runs(
            array_fill(v_run.tenant_id, array[v_count]), p_tasks, p_args, p_queues,
            p_deadlines => array_fill(v_run.deadline, array[v_count]), p_notify => p_notify,
            p_parent => p_run, p_parent_step => p_group,
            p_traceparents => array_fill(v_run.traceparent, array[v_count])) as e;
        if v_bad is not null then
            raise exception 'run % can have no such children: %', p_run, v_bad
                using errcode = case v_bad when 'queue_full' then 'HW018' else 'HW004' end,
                      hint = 'the children''s queue may be full: try again later';
        end if;
        insert into checkpoint (run_id, step, tenant_id, attempt, output, started_at, finished_at)
        values (p_run, p_step, v_run.tenant_id, p_attempt, jsonb_build_object('children', to_jsonb(v_ids)), engine_now(),
                engine_now());
    end if;
    return query select v_ids;
end
$$;

-- Looks again at runs that were to be woken or cancelled while somebody else held them, p_limit at most; those that are
-- still held stay. Workers call it each second. Returns how many it looked at.
create function tie_loose_ends(p_limit integer default 1000, p_notify boolean default true) returns table (tied integer)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
    v_runs bigint[];
begin
    perform assert_read_committed();
    with taken as (
        delete from loose_end as l
        using (select o.ctid as place from loose_end as o limit p_limit for update skip locked) as o
        where l.ctid = o.place
        returning l.run_id
    )
    select array_agg(distinct t.run_id) into v_runs from taken as t;
    if v_runs is not null then
        perform cancel_orphans(array(
            select r.id from run as r
            where r.id = any (v_runs) and r.parent_id is not null
              and not exists (select from run as p where p.id = r.parent_id)), p_notify);
        perform wake_waiting(v_runs);
    end if;
    return query select coalesce(cardinality(v_runs), 0);
end
$$;

-- Whether a run can wait for this: a JSON array of what waits_over describes, each with its fields, and with a time where it
-- is only a sleep. What is not understood would never come, and the run never wake.
create function wait_is_understood(p_awaits jsonb, p_until timestamptz) returns boolean
language sql immutable
as $$
    select case when jsonb_typeof(p_awaits) = 'array' then
        jsonb_array_length(p_awaits) > 0 and not exists (
            select from jsonb_array_elements(p_awaits) as a
            where not coalesce(
                case when a ? 'sleep' then p_until is not null
                     when a ? 'signal' then jsonb_typeof(a -> 'signal') = 'string' and a ->> 'after' ~ '^[0-9]{1,9}$'
                     when a ? 'children' then jsonb_typeof(a -> 'children') = 'string'
                     when a ? 'events' then a ->> 'events' ~ '^[0-9]{1,18}$'
                                            and coalesce(jsonb_typeof(a -> 'types'), 'null') in ('array', 'null')
                end, false))
        else false end
$$;

-- Those of these runs that need not wait, or not any longer. The caller holds their locks, taken in an earlier statement.
--   p_awaits, p_untils  what they would wait for, and until when at the latest; null: what they wait for now
-- What a run waits for is an array of these, and one that has come is enough:
--   {"sleep": step}               its time, which is run_at
--   {"signal": name, "after": n}  a signal of that name after number n; "choices": what its payload, or the payload's
--                                 "choice", may be
--   {"children": step}            no child of that step is live
--   {"events": n, "types": [...]} an event of its session after number n that is not its own; types null: of any type
create function waits_over(p_runs bigint[], p_awaits jsonb[] default null, p_untils timestamptz[] default null)
returns bigint[]
language sql stable
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
    select coalesce(array_agg(r.id order by r.id), '{}')
    from unnest(p_runs, p_awaits, p_untils) as i(id, awaits, until)
    join run as r on r.id = i.id
    where (i.awaits is not null or r.state = 'waiting')
      and (case when i.awaits is not null then i.until else r.run_at end <= engine_now()
           or exists (
                select from jsonb_array_elements(coalesce(i.awaits, r.awaits)) as a
                where a ? 'signal' and exists (
                          select from signal as s
                          where s.run_id = r.id and s.name = a ->> 'signal' and s.no > (a ->> 'after')::integer)
                   or a ? 'children' and not exists (
                          select from run as c where c.parent_id = r.id and c.parent_step = a ->> 'children')
                   or a ? 'events'
                      and has_event(r.tenant_id, r.session_id, (a ->> 'events')::bigint, a -> 'types', r.id)))
$$;

-- Wakes the runs that wait for events of these sessions, whose locks the caller holds.
create function wake_listeners(p_tenants text[], p_sessions text[]) returns void
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_runs bigint[] := array(
        select r.id
        from (select distinct tenant, session from unnest(p_tenants, p_sessions) as i(tenant, session)) as i
        join run as r on r.tenant_id = i.tenant and r.session_id = i.session and r.state = 'waiting'
                            and r.session_id is not null);
begin
    if v_runs <> '{}' then
        perform wake_waiting(v_runs);
    end if;
end
$$;

-- Queues these waiting runs, whose locks the caller holds, and tells the workers.
create function wake_runs(p_runs bigint[]) returns void
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_queues text[];
    v_tenants text[];
    v_tasks text[];
begin
    with woken as (
        update run as r set state = 'queued', fresh = false, run_at = null, awaits = null
        where r.id = any (p_runs) and r.state = 'waiting'
        returning r.queue, r.tenant_id, r.task
    )
    select array_agg(w.queue), array_agg(w.tenant_id), array_agg(w.task) into v_queues, v_tenants, v_tasks from woken as w;
    -- Notified here, as only this place knows whom it woke: one notification a batch.
    perform offer_runs(v_queues, v_tenants, v_tasks, true);
end
$$;

-- Wakes those of these runs that need not wait any longer: a child of theirs has ended, or their session has news. Nothing is
-- waited for: those that somebody else holds become loose ends. Locked first, then looked at in another statement: of the
-- last two children to end at the same moment, one sees the other gone.
create function wake_waiting(p_runs bigint[]) returns void
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_held bigint[];
begin
    select coalesce(array_agg(l.id), '{}') into v_held
    from (select r.id from run as r where r.id = any (p_runs) order by r.id for no key update skip locked) as l;
    insert into loose_end (run_id)
    select r.id from run as r where r.id = any (p_runs) and r.id <> all (v_held);
    perform wake_runs(waits_over(v_held));
end
$$;

-- An ordered stream within a tenant. Its row is the counter of its events, so that numbers have no gaps:
-- a number is allotted under this row's lock, in the transaction that writes the event.
--   first_seq  the oldest event that is kept; last_seq + 1: none is. What is below is cut: rows of it that are still there are
--              read by nobody
--   first_at   no event of it that has a row is older, nor is its end: what cut_sessions looks for. infinity: nothing to cut
--   last_at    the time of its last event, or when it was opened: the next event is not older
--   event_window  how far its slowest required consumer may be behind before producers have to wait; null: any distance
--   acked_seq  the least that one of its required consumers has acknowledged; null: it has none
create table session (
    tenant_id text not null,
    id text not null,
    state text not null default 'open',
    last_seq bigint not null default 0,
    first_seq bigint not null default 1,
    first_at timestamptz not null default now(),
    last_at timestamptz not null default now(),
    created_at timestamptz not null default now(),
    closed_at timestamptz,
    event_window bigint,
    acked_seq bigint,
    constraint session_pkey primary key (tenant_id, id),
    -- A run without a session of its own writes to 'run:<id>'; no client can choose such a name.
    constraint session_id_check check (id ~ '^([A-Za-z0-9][A-Za-z0-9._-]{0,127}|run:[0-9]+)$'),
    constraint session_state_check check (state in ('open', 'closed')),
    constraint session_window_check check (event_window >= 1)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);
-- Appending changes nothing in it.
create index session_first_idx on session (tenant_id, first_at);

-- Partitioned by the day of created_at, which never goes back within a session: who knows when the last event was that he
-- has seen reads no day before. Numbers and keys are unique because both are allotted under the session's lock: an index
-- that said so would need the day as well.
--   source, subject, traceparent  of the CloudEvent, where the producer gave them; else the session, the run, and none
create table event (
    tenant_id text not null,
    session_id text not null,
    seq bigint not null,
    type text not null,
    data jsonb not null,
    key text collate "C",  -- in the order of its bytes: a run's own keys stand together, see read_emitted
    run_id bigint,
    created_at timestamptz not null,
    source text,
    subject text,
    traceparent text,
    constraint event_pkey primary key (tenant_id, session_id, seq, created_at),
    constraint event_type_check check (length(type) between 1 and 200),
    constraint event_source_check check (length(source) between 1 and 255),
    constraint event_subject_check check (length(subject) between 1 and 255),
    constraint event_traceparent_check check (traceparent ~ '^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$')
) partition by range (created_at);
create index event_key_idx on event (tenant_id, session_id, key) where key is not null;
-- An event must never be refused for want of a partition.
create table event_default partition of event default;

-- Who reads a session and says how far it has come: its place outlives it. required: producers wait for it, see
-- session.event_window. acked_seq of all required ones, the least, is in the session's row, under whose lock they change.
create table consumer (
    tenant_id text not null,
    session_id text not null,
    name text not null,
    acked_seq bigint not null,
    required boolean not null,
    created_at timestamptz not null,
    acked_at timestamptz,
    constraint consumer_pkey primary key (tenant_id, session_id, name),
    constraint consumer_name_check check (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$')
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);

-- A consumer has everything up to number p_seq. Less than it has said before changes nothing; more than there is, is refused.
-- One that nobody waits for needs no lock on the session: its number only grows.
--   freed  whether a session that was full has room now; then who waits for that is told, on <cell>.room
create function ack_events(p_tenant text, p_session text, p_name text, p_seq bigint, p_notify boolean default true)
returns table (acked_seq bigint, freed boolean)
language plpgsql
as $$
#variable_conflict use_column
declare
    v_last bigint;
    v_acked bigint;
    v_before session;
    v_freed boolean := false;
begin
    perform assert_read_committed();
    select s.last_seq into v_last from session as s where s.tenant_id = p_tenant and s.id = p_session;
    if p_seq > v_last then
        raise exception 'session % has no event % yet', quote_literal(p_session), p_seq
            using errcode = 'HW024', hint = format('its last one is %s', v_last);
    end if;
    update consumer as c set acked_seq = greatest(c.acked_seq, p_seq), acked_at = engine_now()
    where c.tenant_id = p_tenant and c.session_id = p_session and c.name = p_name and not c.required
    returning c.acked_seq into v_acked;
    if not found then
        v_before := lock_session(p_tenant, p_session);
        update consumer as c set acked_seq = greatest(c.acked_seq, p_seq), acked_at = engine_now()
        where c.tenant_id = p_tenant and c.session_id = p_session and c.name = p_name
        returning c.acked_seq into v_acked;
        if not found then
            raise exception 'session % has no consumer %', quote_literal(p_session), quote_literal(p_name)
                using errcode = 'HW023', hint = 'name it first: select * from put_consumer(...)';
        end if;
        perform count_acked(p_tenant, p_session);
        select v_before.last_seq >= greatest(v_before.acked_seq, v_before.first_seq - 1) + v_before.event_window
               and s.acked_seq > v_before.acked_seq
        into v_freed
        from session as s where s.tenant_id = p_tenant and s.id = p_session;
        v_freed := coalesce(v_freed, false);
        if v_freed and p_notify then
            perform pg_notify(current_schema() || '.room', p_tenant || '/' || p_session);
        end if;
    end if;
    return query select v_acked, v_freed;
end
$$;

-- One event, for psql and for other languages; it waits for the session and raises what is wrong.
-- select * from append_event('acme', 'case-7', 'note.added', '{"text": "called back"}');
create function append_event(
    p_tenant text, p_session text, p_type text, p_data jsonb default '{}', p_key text default null,
    p_notify boolean default true, p_source text default null, p_subject text default null, p_traceparent text default null
) returns table (seq bigint, status text)
language plpgsql
as $$
#variable_conflict use_column
declare
    v_seq bigint;
    v_status text;
begin
    select a.seq, a.status into v_seq, v_status
    from append_events(array[p_tenant], array[p_session], array[p_type], array[p_data::text], array[p_key],
                       true, p_notify, array[p_source], array[p_subject], array[p_traceparent]) as a;
    case v_status
        when 'unknown_session' then
            raise exception 'session % is unknown', quote_literal(p_session)
                using errcode = 'HW006', hint = 'open it first: select * from create_session(...)';
        when 'closed' then
            raise exception 'session % is closed', quote_literal(p_session) using errcode = 'HW007';
        when 'full' then
            perform raise_session_full(p_tenant, p_session);
        else
            return query select v_seq, v_status;
    end case;
end
$$;

-- Appends a batch of events, one an array position, and answers in the same positions.
--   p_data   JSON as text, up to 256 KiB: an event is a small fact, not a document
--   p_keys   producer keys, unique in their session; null: none
--   p_wait   true: wait for sessions that others are writing to; false: answer busy, for callers who batch
--   p_sources, p_subjects, p_traceparents  of the CloudEvents; null: the session, none, none
-- status: created | existing (its key was seen: the first's number) | unknown_session | closed | busy |
--         full (a required consumer is too far behind: see session.event_window)
create function append_events(
    p_tenants text[],
    p_sessions text[],
    p_types text[],
    p_data text[],
    p_keys text[] default null,
    p_wait boolean default true,
    p_notify boolean default true,
    p_sources text[] default null,
    p_subjects text[] default null,
    p_traceparents text[] default null
) returns table (ord bigint, seq bigint, status text)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
    v_status text[];
    v_open text[];
    v_closed text[];
    v_ords bigint[];
    v_tenants text[];
    v_sessions text[];
    v_types text[];
    v_data text[];
    v_keys text[];
    v_sources text[];
    v_subjects text[];
    v_traceparents text[];
    v_runs bigint[];
begin
    perform assert_read_committed();
    if p_wait then
        select array_agg(l.name) filter (where l.state = 'open'), array_agg(l.name) filter (where l.state <> 'open')
        into v_open, v_closed
        from (
            select s.tenant_id || '/' || s.id as name, s.state
            from (select distinct tenant, session from unnest(p_tenants, p_sessions) as i(tenant, session)) as i
            join session as s on s.tenant_id = i.tenant and s.id = i.session
            order by s.tenant_id, s.id
            for no key update of s
        ) as l;
    else
        select array_agg(l.name) filter (where l.state = 'open'), array_agg(l.name) filter (where l.state <> 'open')
        into v_open, v_closed
        from (
            select s.tenant_id || '/' || s.id as name, s.state
            from (select distinct tenant, session from unnest(p_tenants, p_sessions) as i(tenant, session)) as i
            join session as s on s.tenant_id = i.tenant and s.id = i.session
            order by s.tenant_id, s.id
            for no key update of s skip locked
        ) as l;
    end if;

    select array_agg(
               case when i.tenant || '/' || i.session = any (v_open) then 'created'
                    when i.tenant || '/' || i.session = any (v_closed) then 'closed'
                    when exists (select from session as s where s.tenant_id = i.tenant and s.id = i.session) then 'busy'
                    else 'unknown_session' end order by i.ord)
    into v_status
    from unnest(p_tenants, p_sessions) with ordinality as i(tenant, session, ord);
    select array_agg(i.ord order by i.ord), array_agg(i.tenant order by i.ord), array_agg(i.session order by i.ord),
           array_agg(i.type order by i.ord), array_agg(i.data order by i.ord), array_agg(i.key order by i.ord),
           array_agg(i.source order by i.ord), array_agg(i.subject order by i.ord), array_agg(i.traceparent order by i.ord), array_agg(null::bigint)
    into v_ords, v_tenants, v_sessions, v_types, v_data, v_keys, v_sources, v_subjects, v_traceparents, v_runs
    from unnest(v_status, p_tenants, p_sessions, p_types, p_data, p_keys, p_sources, p_subjects, p_traceparents)
        with ordinality as i(status, tenant, session, type, data, key, source, subject, traceparent, ord)
    where i.status = 'created';

    return query
    select u.ord, max(u.seq), coalesce(max(u.written), max(u.refused))
    from (
        select i.ord, null::bigint as seq, null::text as written, i.status as refused
        from unnest(v_status) with ordinality as i(status, ord)
        union all
        select v_ords[n.ord], n.seq, n.status, null
        from number_events(v_tenants, v_sessions, v_types, v_data, v_keys, v_runs, v_sources, v_subjects, v_traceparents) as n
        where v_ords is not null
    ) as u
    group by u.ord
    order by u.ord;

    if p_notify and v_ords is not null then
        perform notify_sessions(v_tenants, v_sessions);
    end if;
end
$$;

-- Events written by runs, in the same transaction as their checkpoints; they bear their run's trace. The caller holds the sessions' locks.
-- A run may write to a session that was closed meanwhile: its history must not lose what happened.
-- Answers the positions of those that their session's window has no room for.
create function append_run_events(
    p_runs bigint[], p_types text[], p_data text[], p_keys text[], p_notify boolean
) returns integer[]
language plpgsql
as $$
declare
    v_tenants text[];
    v_sessions text[];
    v_traceparents text[];
    v_full integer[];
begin
    if p_runs = '{}' then
        return '{}';
    end if;
    select array_agg(r.tenant_id order by i.ord), array_agg(session_of_run(r.id, r.session_id) order by i.ord),
           array_agg(r.traceparent order by i.ord)
    into v_tenants, v_sessions, v_traceparents
    from unnest(p_runs) with ordinality as i(run_id, ord)
    join run as r on r.id = i.run_id;
    select coalesce(array_agg(n.ord::integer), '{}') into v_full
    from number_events(v_tenants, v_sessions, p_types, p_data, p_keys, p_runs, p_traceparents => v_traceparents) as n
    where n.status = 'full';
    if p_notify then
        perform notify_sessions(v_tenants, v_sessions);
    end if;
    return v_full;
end
$$;

-- Ends a session: nothing more can be appended, and readers who have read it all are told that it is finished.
create function close_session(p_tenant text, p_session text, p_notify boolean default true)
returns table (last_seq bigint)
language plpgsql
as $$
#variable_conflict use_column
declare
    v_last bigint;
begin
    update session as s
    set state = 'closed', closed_at = coalesce(s.closed_at, engine_now()),
        first_at = least(s.first_at, s.closed_at, engine_now())
    where s.tenant_id = p_tenant and s.id = p_session
    returning s.last_seq into v_last;
    if v_last is null then
        raise exception 'session % is unknown', quote_literal(p_session) using errcode = 'HW006';
    end if;
    if p_notify then
        perform notify_sessions(array[p_tenant], array[p_session]);
    end if;
    return query select v_last;
end
$$;

-- Brings session.acked_seq up to date with the session's required consumers, one of which has changed. The caller holds the
-- session's lock.
create function count_acked(p_tenant text, p_session text) returns void
language sql
as $$
    update session as s set acked_seq = n.acked_seq
    from (select min(c.acked_seq) as acked_seq from consumer as c
          where c.tenant_id = p_tenant and c.session_id = p_session and c.required) as n
    where s.tenant_id = p_tenant and s.id = p_session and s.acked_seq is distinct from n.acked_seq
$$;

-- Opens a session. A session that exists is left as it is: created is then false.
create function create_session(p_tenant text, p_session text, p_window bigint default null) returns table (created boolean)
language plpgsql
as $$
begin
    if not exists (select from tenant where id = p_tenant) then
        raise exception 'tenant % is unknown', quote_literal(p_tenant) using errcode = 'HW009';
    end if;
    insert into session (tenant_id, id, first_at, last_at, created_at, event_window)
    values (p_tenant, p_session, engine_now(), engine_now(), engine_now(), p_window)
    on conflict do nothing;
    return query select found;
end
$$;

-- Cuts off events older than their tenant keeps them: whole days, by tenant.event_days or else by p_days (null: for ever).
-- p_limit sessions, and p_limit rows, at most: call it until it answers 0. A session that somebody writes to is left for
-- the next time.
-- The cut is session.first_seq, and readers see it at once. The rows go with their day's partition, see drop_partitions, once
-- no session keeps anything of it; one by one where another tenant keeps that day for longer, or where it has no partition.
-- A session that is closed, or a run's own whose run is over, goes once all of it is older.
create function cut_sessions(p_days integer, p_limit integer default 1000) returns table (done integer)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_today timestamptz := date_trunc('day', engine_now(), 'utc');
    v_longest integer;
    v_tenants text[];
    v_sessions text[];
    v_befores timestamptz[];
    v_by_row boolean[];
    v_next_at timestamptz[];
    v_rows integer;
begin
    perform assert_read_committed();
    select case when p_days is not null then greatest(p_days, max(t.event_days)) end into v_longest from tenant as t;

    select array_agg(l.tenant_id), array_agg(l.id), array_agg(l.before), array_agg(l.by_row)
    into v_tenants, v_sessions, v_befores, v_by_row
    from (
        select s.tenant_id, s.id, a.before, a.days is distinct from v_longest as by_row
        from tenant as t
        cross join lateral (
            select coalesce(t.event_days, p_days) as days,
                   v_today - make_interval(days => coalesce(t.event_days, p_days)) as before
        ) as a
        cross join lateral (
            select o.tenant_id, o.id from session as o
            where o.tenant_id = t.id and o.first_at < a.before
            order by o.first_at
            limit p_limit
            for no key update skip locked
        ) as s
        limit p_limit
    ) as l;
    if v_tenants is null then
        return query select 0;
        return;
    end if;

    with kept as materialized (
        select i.ord, s.tenant_id, s.id, s.state, s.closed_at, i.before, k.seq, k.created_at
        from unnest(v_tenants, v_sessions, v_befores) with ordinality as i(tenant, session, before, ord)
        join session as s on s.tenant_id = i.tenant and s.id = i.session
        left join lateral (
            select e.seq, e.created_at from event as e
            where e.tenant_id = i.tenant and e.session_id = i.session and e.seq >= s.first_seq
              and e.created_at >= i.before and e.created_at <= s.last_at
            order by e.seq
            limit 1
        ) as k on true
    ),
    cut as (
        update session as s set first_seq = coalesce(k.seq, s.last_seq + 1)
        from kept as k
        where s.tenant_id = k.tenant_id and s.id = k.id
    )
    -- When to look at it again, its rows gone: null is never more, for it goes as well.
    select array_agg(case when k.created_at is not null then k.created_at
                          when k.state = 'closed' then nullif(greatest(k.closed_at, k.before), k.before)
                          when k.id !~ '^run:' then 'infinity'
                          when exists (select from run as r where r.id = substr(k.id, 5)::bigint) then k.before
                          end order by k.ord)
    into v_next_at
    from kept as k;

    with cut as materialized (
        select d.tenant_id, d.session_id, d.seq, d.created_at
        from unnest(v_tenants, v_sessions, v_befores, v_by_row) as i(tenant, session, before, by_row)
        join session as s on s.tenant_id = i.tenant and s.id = i.session
        cross join lateral (
            select e.tenant_id, e.session_id, e.seq, e.created_at from event as e
            where i.by_row and e.tenant_id = i.tenant and e.session_id = i.session and e.seq < s.first_seq
              and e.created_at >= s.first_at and e.created_at < i.before
            union all
            select e.tenant_id, e.session_id, e.seq, e.created_at from event_default as e
            where not i.by_row and e.tenant_id = i.tenant and e.session_id = i.session and e.seq < s.first_seq
            limit p_limit
        ) as d
        limit p_limit
    )
    delete from event as e using cut as c
    where e.tenant_id = c.tenant_id and e.session_id = c.session_id and e.seq = c.seq and e.created_at = c.created_at;
    get diagnostics v_rows = row_count;

    -- Not all: the rest is found again from where it is.
    if v_rows < p_limit then
        delete from consumer as c
        using unnest(v_tenants, v_sessions, v_next_at) as i(tenant, session, at)
        where c.tenant_id = i.tenant and c.session_id = i.session and i.at is null;
        delete from session as s
        using unnest(v_tenants, v_sessions, v_next_at) as i(tenant, session, at)
        where s.tenant_id = i.tenant and s.id = i.session and i.at is null;
        update session as s set first_at = i.at
        from unnest(v_tenants, v_sessions, v_next_at) as i(tenant, session, at)
        where s.tenant_id = i.tenant and s.id = i.session and i.at is not null;
    end if;
    return query select cardinality(v_tenants);
end
$$;

-- Forgets a consumer and its place: producers no longer wait for it.
create function delete_consumer(p_tenant text, p_session text, p_name text)
returns table (deleted boolean)
language plpgsql
as $$
declare
    v_deleted boolean;
begin
    perform lock_session(p_tenant, p_session);
    delete from consumer as c where c.tenant_id = p_tenant and c.session_id = p_session and c.name = p_name;
    v_deleted := found;
    perform count_acked(p_tenant, p_session);
    return query select v_deleted;
end
$$;

-- Those of these readers, each at number p_afters of its session, for whom there is something: by their place in the
-- arrays. The poll behind lost hints: most often it finds nobody, and costs a look at each session's row.
create function find_news(p_tenants text[], p_sessions text[], p_afters bigint[]) returns table (ord bigint)
language sql stable
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
    select i.ord
    from unnest(p_tenants, p_sessions, p_afters) with ordinality as i(tenant, session, after, ord)
    left join session as s on s.tenant_id = i.tenant and s.id = i.session
    where s.last_seq > i.after or s.state = 'closed'
       -- A run's own session ends with the run.
       or i.session like 'run:%' and not exists (select from run as r where r.id = substr(i.session, 5)::bigint)
$$;

-- Whether a session has an event after number p_after that is not of run p_but; p_types, a JSON array: of one of these types.
create function has_event(p_tenant text, p_session text, p_after bigint, p_types jsonb, p_but bigint) returns boolean
language plpgsql stable
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_session session;
begin
    select * into v_session from session as s where s.tenant_id = p_tenant and s.id = p_session and s.last_seq > p_after;
    return found and exists (
        select from event as e
        where e.tenant_id = p_tenant and e.session_id = p_session and e.seq > greatest(p_after, v_session.first_seq - 1)
          and e.created_at between v_session.first_at and v_session.last_at
          and e.run_id is distinct from p_but and (coalesce(p_types, 'null') = 'null' or p_types ? e.type));
end
$$;

-- Locks the sessions to which these runs write, in order, and makes those that are missing.
-- Answers the runs whose session somebody else holds. (A run's session never changes, so reading it unlocked is safe.)
-- Session by session: joined as sets, hundreds of them were compared with one another.
create function lock_run_sessions(p_runs bigint[]) returns bigint[]
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_tenants text[];
    v_sessions text[];
    v_held text[];
    v_now timestamptz := engine_now();
begin
    select array_agg(w.tenant_id order by w.tenant_id, w.session_id), array_agg(w.session_id order by w.tenant_id, w.session_id)
    into v_tenants, v_sessions
    from (select distinct r.tenant_id, session_of_run(r.id, r.session_id) as session_id
          from unnest(p_runs) as i(id)
          join run as r on r.id = i.id) as w;

    insert into session (tenant_id, id, first_at, last_at, created_at)
    select w.tenant_id, w.session_id, v_now, v_now, v_now
    from unnest(v_tenants, v_sessions) with ordinality as w(tenant_id, session_id, ord)
    where not exists (select from session as s where s.tenant_id = w.tenant_id and s.id = w.session_id)
    order by w.ord
    on conflict do nothing;

    select array_agg(l.tenant_id || '/' || l.id) into v_held
    from (select * from unnest(v_tenants, v_sessions) with ordinality as w(tenant_id, session_id, ord) order by w.ord) as w
    cross join lateral (
        select s.tenant_id, s.id
        from session as s
        where s.tenant_id = w.tenant_id and s.id = w.session_id
        for no key update skip locked
    ) as l;
    if cardinality(v_held) = cardinality(v_sessions) then
        return '{}';
    end if;
    return array(
        select r.id
        from unnest(p_runs) as i(id)
        join run as r on r.id = i.id
        where r.tenant_id || '/' || session_of_run(r.id, r.session_id) <> all (coalesce(v_held, '{}')));
end
$$;

-- Locks a session, and answers it. Unknown: HW006.
create function lock_session(p_tenant text, p_session text) returns session
language plpgsql
as $$
declare
    v_session session;
begin
    select * into v_session from session as s where s.tenant_id = p_tenant and s.id = p_session for no key update;
    if not found then
        raise exception 'session % is unknown', quote_literal(p_session)
            using errcode = 'HW006', hint = 'open it first: select * from create_session(...)';
    end if;
    return v_session;
end
$$;

-- Tells listening gateways that these sessions have news: a hint, never the truth.
create function notify_sessions(p_tenants text[], p_sessions text[]) returns void
language sql
as $$
    select pg_notify(current_schema() || '.events', d.tenant || '/' || d.session)
    from (select distinct tenant, session from unnest(p_tenants, p_sessions) as i(tenant, session)) as d
$$;

-- Writes events under numbers 1, 2, 3 … of their session. The caller holds the sessions' row locks.
-- Runs that wait for events of these sessions are woken.
-- An event whose key its session has seen, or that stands twice in the batch, is not written again. A key is looked for
-- where it can be: since the session's oldest event; if it is a run's own, which begins with the run's id, since the run is there.
-- Time does not go back within a session, nor before a run that writes to it.
-- An event that the session's window has no room for is not written, nor what follows it: its slowest required consumer must
-- catch up first. How a run ended is written all the same, unless such an event of the run stands before it: no run waits
-- with its end for a reader.
-- Answers a row an event: its number, and created | existing | full.
create function number_events(
    p_tenants text[], p_sessions text[], p_types text[], p_data text[], p_keys text[], p_runs bigint[],
    p_sources text[] default null, p_subjects text[] default null, p_traceparents text[] default null
) returns table (ord bigint, seq bigint, status text)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
-- Planned anew for each batch, the many partitions would cost more than the work.
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    v_now timestamptz := engine_now();
    v_since timestamptz[];
    v_from timestamptz;
    v_to timestamptz;
begin
    select array_agg(k.since order by k.ord), min(k.since), max(k.until) into v_since, v_from, v_to
    from (
        select i.ord, case when i.key is not null then s.last_at end as until,
               case when i.key is not null then greatest(
                   s.first_at, case when starts_with(i.key, i.run_id || '/') then run_created_at(i.run_id) end) end as since
        from unnest(p_tenants, p_sessions, p_keys, p_runs) with ordinality as i(tenant, session, key, run_id, ord)
        join session as s on s.tenant_id = i.tenant and s.id = i.session
    ) as k;

    return query
    with item as materialized (
        select i.*, e.seq as seen,
               i.key is not null and row_number() over (
                   partition by i.tenant, i.session, i.key order by i.ord) > 1 as twin
        from unnest(p_tenants, p_sessions, p_types, p_data, p_keys, p_runs, v_since, p_sources, p_subjects,
                    p_traceparents)
            with ordinality as i(tenant, session, type, data, key, run_id, since, source, subject, traceparent, ord)
        -- The limit keeps it a look into the index for each event: joined as a set, all events of a day were read.
        left join lateral (
            select e.seq from event as e
            where e.tenant_id = i.tenant and e.session_id = i.session and e.key = i.key
              and e.created_at >= i.since and e.created_at between v_from and v_to
            limit 1
        ) as e on true
    ),
    placed as materialized (
        select i.*, s.last_seq, s.last_at, i.run_id is not null and starts_with(i.type, 'howdah.run.') as is_end,
               coalesce(s.last_seq + row_number() over (partition by i.tenant, i.session order by i.ord)
                            <= greatest(s.acked_seq, s.first_seq - 1) + s.event_window, true)
               or s.acked_seq is null as has_room
        from item as i
        join session as s on s.tenant_id = i.tenant and s.id = i.session
        where i.seen is null and not i.twin
    ),
    fitting as materialized (
        select p.* from (
            select p.*, p.has_room
                   or p.is_end and bool_and(p.has_room or p.is_end) over (
                       partition by p.tenant, p.session, p.run_id order by p.ord) as fits
            from placed as p
        ) as p
        where p.fits
    ),
    numbered as materialized (
        select f.*, f.last_seq + row_number() over (partition by f.tenant, f.session order by f.ord) as number,
               greatest(v_now, f.last_at,
                        max(run_created_at(f.run_id)) over (partition by f.tenant, f.session)) as at
        from fitting as f
    ),
    written as (
        insert into event (tenant_id, session_id, seq, type, data, key, run_id, created_at, source, subject,
                           traceparent)
        select n.tenant, n.session, n.number, n.type, n.data::jsonb, n.key, n.run_id, n.at, n.source, n.subject,
               n.traceparent
        from numbered as n
    ),
    counted as (
        update session as s set last_seq = c.last, last_at = c.at, first_at = least(s.first_at, c.at)
        from (select n.tenant, n.session, max(n.number) as last, max(n.at) as at from numbered as n group by 1, 2) as c
        where s.tenant_id = c.tenant and s.id = c.session
    )
    select r.ord, coalesce(r.seen, r.number, r.twins),
           case when r.number is not null then 'created' when coalesce(r.seen, r.twins) is null then 'full' else 'existing' end
    from (
        select u.ord, max(u.seen) as seen, max(u.number) as number,
               case when u.key is not null then max(max(u.number)) over (partition by u.tenant, u.session, u.key) end as twins
        -- Put together by their places: a join, which could only be a nested loop here, compared each with each.
        from (
            select i.ord, i.tenant, i.session, i.key, i.seen, null::bigint as number from item as i
            union all
            select n.ord, n.tenant, n.session, n.key, null, n.number from numbered as n
        ) as u
        group by u.ord, u.tenant, u.session, u.key
    ) as r
    order by r.ord;
    perform wake_listeners(p_tenants, p_sessions);
end
$$;

-- Names a reader of a session whose place is kept. One that is there keeps its place; only `required` is changed.
--   p_from  the first event that it is to have; 1: all that are kept; null: what comes from now on
create function put_consumer(p_tenant text, p_session text, p_name text, p_required boolean default false,
                             p_from bigint default null) returns table (created boolean)
language plpgsql
as $$
#variable_conflict use_column
declare
    c_most constant integer := 100;
    v_session session := lock_session(p_tenant, p_session);
    v_created boolean;
begin
    if p_from < 1 or p_from > v_session.last_seq + 1 then
        raise exception 'session % has no event %', quote_literal(p_session), p_from
            using errcode = 'HW024', hint = format('begin with one from 1 to %s', v_session.last_seq + 1);
    end if;
    if (select count(*) from consumer as c where c.tenant_id = p_tenant and c.session_id = p_session and c.name <> p_name) >= c_most then
        raise exception 'session % has % consumers already', quote_literal(p_session), c_most
            using errcode = 'HW016', hint = 'delete those that read no more: select * from delete_consumer(...)';
    end if;
    insert into consumer as c (tenant_id, session_id, name, acked_seq, required, created_at)
    values (p_tenant, p_session, p_name,
            case when p_from is null then v_session.last_seq else greatest(p_from, v_session.first_seq) - 1 end,
            p_required, engine_now())
    on conflict on constraint consumer_pkey do update set required = excluded.required
    returning xmax = 0 into v_created;
    perform count_acked(p_tenant, p_session);
    return query select v_created;
end
$$;

-- Refuses an event for which a session's window has no room, and says who is behind.
create function raise_session_full(p_tenant text, p_session text) returns void
language plpgsql
as $$
declare
    v_consumer record;
begin
    select c.name, s.last_seq - greatest(c.acked_seq, s.first_seq - 1) as lag, s.event_window into v_consumer
    from session as s
    join consumer as c on c.tenant_id = s.tenant_id and c.session_id = s.id and c.required
    where s.tenant_id = p_tenant and s.id = p_session
    order by c.acked_seq, c.name
    limit 1;
    raise exception 'session % is full', quote_literal(p_session)
        using errcode = 'HW025',
              hint = format('consumer %s is %s events behind, of a window of %s: try again when it has acknowledged some,'
                            ' or: select * from delete_consumer(...)',
                            quote_literal(v_consumer.name), v_consumer.lag, v_consumer.event_window);
end
$$;

-- The consumers of a session, or the one named, by name: how far each is, and how many events that are kept it has not
-- acknowledged.
create function read_consumers(p_tenant text, p_session text, p_name text default null)
returns table (name text, required boolean, acked_seq bigint, lag bigint, created_at timestamptz, acked_at timestamptz)
language sql stable
as $$
    select c.name, c.required, c.acked_seq, s.last_seq - greatest(c.acked_seq, s.first_seq - 1), c.created_at, c.acked_at
    from consumer as c
    join session as s on s.tenant_id = c.tenant_id and s.id = c.session_id
    where c.tenant_id = p_tenant and c.session_id = p_session and (p_name is null or c.name = p_name)
    order by c.name
$$;

-- The keys of the events that these runs have written to their session: an attempt that comes to one of them again need
-- not write it. A run's keys begin with its id, so this reads its own part of the index, however long the session is.
create function read_emitted(p_runs bigint[]) returns table (run_id bigint, key text)
language plpgsql stable
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
-- Planned anew for each call, the many partitions would cost more than the reading.
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
    return query
    -- First whether there is a session at all: most runs that come back have told nothing, and to look for that in each
    -- partition took a fifth of the server.
    with told as materialized (
        select r.id, s.tenant_id, s.id as session_id
        from unnest(p_runs) as i(id)
        join run as r on r.id = i.id
        join session as s on s.tenant_id = r.tenant_id and s.id = session_of_run(r.id, r.session_id)
    )
    select t.id, e.key
    from told as t
    join event as e on e.tenant_id = t.tenant_id and e.session_id = t.session_id
                       and e.key > t.id || '/' and e.key < t.id || '0'  -- which follows '/'
                       -- No day from before the run is opened; one more, as clocks differ.
                       and e.created_at >= run_created_at(t.id) - interval '1 day';
end
$$;

-- What happened in a session after number p_after, p_limit events at most, in order, of those that are kept: first_seq is the
-- oldest of them.
create function read_events(p_tenant text, p_session text, p_after bigint default 0, p_limit integer default 100)
returns table (seq bigint, type text, data text, run_id bigint, created_at timestamptz, source text, subject text,
               traceparent text, first_seq bigint)
language sql stable
as $$
    select r.seq, r.type, r.data, r.run_id, r.created_at, r.source, r.subject, r.traceparent, r.first_seq
    from read_sessions(array[p_tenant], array[p_session], array[p_after], p_limit) as r
    where r.seq is not null
    order by r.seq
$$;

-- One catch-up for many readers: for each (tenant, session, after) up to p_limit events, and the session's state.
-- A session without news has one row without an event; an unknown one has none.
--   p_since    the time of the event `after`, where the reader knows it: no day before is looked at. Null: all that are kept
--   first_seq  the oldest event that is kept: what is between `after` and it is gone
create function read_sessions(
    p_tenants text[], p_sessions text[], p_afters bigint[], p_limit integer default 500,
    p_since timestamptz[] default null
) returns table (ord bigint, last_seq bigint, first_seq bigint, state text,
                 seq bigint, type text, data text, run_id bigint, created_at timestamptz,
                 source text, subject text, traceparent text)
language plpgsql stable
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
-- Planned anew for each call, the many partitions would cost more than the reading.
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    v_from timestamptz;
    v_to timestamptz;
begin
    -- Days that nobody here has anything to read of are not even opened.
    select min(greatest(i.since, s.first_at)), max(s.last_at) into v_from, v_to
    from unnest(p_tenants, p_sessions, p_afters, p_since) as i(tenant, session, after, since)
    join session as s on s.tenant_id = i.tenant and s.id = i.session
    where s.last_seq > i.after;

    return query
    select i.ord, s.last_seq, s.first_seq, s.state, e.seq, e.type, e.data::text, e.run_id, e.created_at,
           e.source, e.subject, e.traceparent
    from unnest(p_tenants, p_sessions, p_afters, p_since) with ordinality as i(tenant, session, after, since, ord)
    join session as s on s.tenant_id = i.tenant and s.id = i.session
    left join lateral (
        select * from event as e
        where e.tenant_id = i.tenant and e.session_id = i.session and e.seq > greatest(i.after, s.first_seq - 1)
          and s.last_seq > i.after and e.created_at >= greatest(i.since, s.first_at) and e.created_at <= s.last_at
          and e.created_at between v_from and v_to
        order by e.seq
        limit p_limit
    ) as e on true
    order by i.ord, e.seq;
end
$$;

-- A part of an event to come, for those who read the session now: live only, nothing is stored. Who comes later gets
-- the event itself. It travels in a notification's payload, which must stay below 8,000 bytes: split what is longer.
-- Equal ones within one transaction are heard once, as of any notification.
-- A run's own names it and its attempt: once that is over, it is refused (HW001).
-- select send_partial('acme', 'case-7', 'answer', '{"offset": 0, "text": "Good mor"}');
create function send_partial(p_tenant text, p_session text, p_type text, p_data jsonb default '{}', p_run bigint default null,
                             p_attempt integer default null) returns void
language plpgsql
as $$
declare
    v_state text;
    v_payload text;
begin
    if p_type is null or length(p_type) not between 1 and 200 then
        raise exception 'partial type % cannot be used', coalesce(quote_literal(p_type), 'null')
            using errcode = 'HW016', hint = 'give it 1 to 200 characters';
    end if;
    select s.state into v_state from session as s where s.tenant_id = p_tenant and s.id = p_session;
    -- A run's own session has no row before the run's first event. As numeric first: 19 digits may be too large a number.
    if v_state is null and p_session ~ '^run:[0-9]{1,19}$' then
        select 'open' into v_state from run
        where id = least(substr(p_session, 5)::numeric, 9223372036854775807)::bigint and tenant_id = p_tenant;
    end if;
    if v_state is null then
        raise exception 'session % is unknown', quote_literal(p_session)
            using errcode = 'HW006', hint = 'open it first: select * from create_session(...)';
    elsif v_state = 'closed' then
        raise exception 'session % is closed', quote_literal(p_session) using errcode = 'HW007';
    end if;
    if p_run is not null
       and not exists (select from run where id = p_run and attempt = p_attempt and state = 'running') then
        raise exception 'attempt % of run % is over', coalesce(p_attempt::text, 'null'), p_run
            using errcode = 'HW001', hint = 'stop: another attempt has the run, or it has ended';
    end if;
    v_payload := format('%s/%s %s', p_tenant, p_session,
                        jsonb_build_object('type', p_type, 'data', coalesce(p_data, 'null')));
    if octet_length(v_payload) > 7999 then
        raise exception 'a partial of % bytes is too large, the limit is 7999', octet_length(v_payload)
            using errcode = 'HW015', hint = 'send it in several';
    end if;
    perform pg_notify(current_schema() || '.partials', v_payload);
end
$$;

-- Sends partials that a process has made up itself, one an array position, in this order: `tenant/session {json}`, below
-- 8,000 bytes each. Those of a run name it and their attempt; null: of somebody else, whom nothing supersedes.
-- status: ok | stale (the attempt is over: another one has the run, or it has ended; nothing was sent)
create function send_partials(p_payloads text[], p_runs bigint[], p_attempts integer[])
returns table (ord bigint, status text)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_status text[];
begin
    -- What is live only need not reach the disk, and is sooner without.
    perform set_config('synchronous_commit', 'off', true);
    select array_agg(case when i.run_id is null or r.id is not null then 'ok' else 'stale' end order by i.ord) into v_status
    from unnest(p_runs, p_attempts) with ordinality as i(run_id, attempt, ord)
    left join run as r on r.id = i.run_id and r.attempt = i.attempt and r.state = 'running';
    perform pg_notify(current_schema() || '.partials', i.payload)
    from unnest(p_payloads, v_status) with ordinality as i(payload, status, ord)
    where i.status = 'ok'
    order by i.ord;
    return query select i.ord, i.status from unnest(v_status) with ordinality as i(status, ord);
end
$$;

-- Where a run's events go: its own session, or one that is its alone.
create function session_of_run(p_run bigint, p_session text) returns text
language sql immutable parallel safe
as $$
    select coalesce(p_session, 'run:' || p_run)
$$;

-- How far a session's slowest required consumer may be behind before its producers have to wait; null: any distance.
create function set_event_window(p_tenant text, p_session text, p_window bigint) returns table (event_window bigint)
language plpgsql
as $$
begin
    if p_window < 1 then
        raise exception 'a window of % events lets nothing through', p_window
            using errcode = 'HW016', hint = 'give a number from 1, or null for none';
    end if;
    perform lock_session(p_tenant, p_session);
    update session as s set event_window = p_window where s.tenant_id = p_tenant and s.id = p_session;
    return query select p_window;
end
$$;

-- For how many days a tenant's events are kept; null: as long as the installation keeps them. See cut_sessions.
create function set_tenant_event_days(p_tenant text, p_days integer) returns tenant
language plpgsql
as $$
declare
    v_tenant tenant;
begin
    if p_days not between 1 and 36500 then
        raise exception 'events cannot be kept for % days', p_days
            using errcode = 'HW016', hint = 'give a number from 1 to 36500, or null';
    end if;
    update tenant as t set event_days = p_days where t.id = p_tenant returning t.* into v_tenant;
    if not found then
        raise exception 'tenant % is unknown', quote_literal(p_tenant)
            using errcode = 'HW009', hint = 'create it first: select * from create_tenant(...)';
    end if;
    return v_tenant;
end
$$;

create table collection (
    tenant_id text not null,
    name text not null,
    embedding_model text not null,
    dimensions integer not null,
    created_at timestamptz not null default now(),
    constraint collection_pkey primary key (tenant_id, name),
    constraint collection_name_check check (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$'),
    -- halfvec's index holds up to 4,000 dimensions.
    constraint collection_dimensions_check check (dimensions between 1 and 4000)
);

create table document (
    tenant_id text not null,
    id bigint not null,
    collection text not null,
    key text not null,
    title text not null,
    media_type text not null,
    sha256 bytea not null,
    bytes integer not null,
    tokens integer not null,
    metadata jsonb not null,
    run_id bigint,
    created_at timestamptz not null default now(),
    constraint document_pkey primary key (tenant_id, id),
    constraint document_collection_fkey foreign key (tenant_id, collection)
        references collection (tenant_id, name) on delete cascade,
    constraint document_key_key unique (tenant_id, collection, key)
);
create index document_metadata_idx on document using gin (metadata jsonb_path_ops);
create index document_run_idx on document (run_id) where run_id is not null;

create table chunk (
    tenant_id text not null,
    document_id bigint not null,
    ordinal integer not null,
    collection text not null,
    start_char integer not null,
    end_char integer not null,
    tokens integer not null,
    content text not null,
    words tsvector generated always as (to_tsvector('english', content)) stored,
    embedding halfvec not null,
    constraint chunk_pkey primary key (tenant_id, document_id, ordinal),
    constraint chunk_document_fkey foreign key (tenant_id, document_id)
        references document (tenant_id, id) on delete cascade
);
create index chunk_words_idx on chunk using gin (words);
create index chunk_collection_idx on chunk (tenant_id, collection);
-- An index needs a fixed number of dimensions: this one serves the built-in embedding model; other sizes are
-- searched exactly until an operator makes theirs.
create index chunk_embedding_256_idx on chunk using hnsw ((embedding::halfvec(256)) halfvec_cosine_ops)
    where vector_dims(embedding) = 256;

-- What clients hand in and what runs hand back, until it is fetched or reviewed: workers share no disk with the API.
create table file (
    tenant_id text not null,
    id bigint not null,
    filename text not null,
    media_type text not null,
    content bytea not null,
    -- The text that was extracted from it; null: not yet.
    extracted text,
    created_at timestamptz not null default now(),
    constraint file_pkey primary key (tenant_id, id),
    constraint file_filename_check check (length(filename) between 1 and 500)
);
-- Documents are mostly text, but PDFs and images are compressed already: spend no time on them again.
alter table file alter column content set storage external;

-- Makes a collection; one that exists must have the same embedding model and dimensions. created is then false.
create function create_collection(p_tenant text, p_name text, p_embedding_model text, p_dimensions integer)
returns table (created boolean)
language plpgsql
as $$
declare
    v_created boolean;
    v_there collection;
begin
    if not exists (select from tenant where id = p_tenant) then
        raise exception 'tenant % is unknown', quote_literal(p_tenant) using errcode = 'HW009';
    end if;
    insert into collection (tenant_id, name, embedding_model, dimensions, created_at)
    values (p_tenant, p_name, p_embedding_model, p_dimensions, engine_now())
    on conflict do nothing;
    v_created := found;
    select c.* into v_there from collection as c where c.tenant_id = p_tenant and c.name = p_name;
    if (v_there.embedding_model, v_there.dimensions) is distinct from (p_embedding_model, p_dimensions) then
        raise exception 'collection % has embeddings of % with % dimensions, not of % with %', quote_literal(p_name),
            v_there.embedding_model, v_there.dimensions, p_embedding_model, p_dimensions
            using errcode = 'HW012', hint = 'use that model, or a new collection';
    end if;
    return query select v_created;
end
$$;

-- Removes a document and its chunks.
create function delete_document(p_tenant text, p_collection text, p_id bigint) returns table (deleted boolean)
language plpgsql
as $$
begin
    delete from document as d where d.tenant_id = p_tenant and d.collection = p_collection and d.id = p_id;
    return query select found;
end
$$;

-- Stores a document and its chunks under a key; the same key again replaces both, and keeps the document's id.
--   p_embeddings  one vector an chunk as text, '[0.1,…]', of the collection's dimensions
create function put_document(
    p_tenant text, p_collection text, p_key text, p_title text, p_media_type text, p_sha256 bytea, p_bytes integer,
    p_tokens integer, p_metadata jsonb, p_run bigint,
    p_starts integer[], p_ends integer[], p_chunk_tokens integer[], p_contents text[], p_embeddings text[]
) returns table (document_id bigint)
language plpgsql
as $$
#variable_conflict use_column
declare
    v_dimensions integer;
    v_id bigint;
begin
    select c.dimensions into v_dimensions from collection as c where c.tenant_id = p_tenant and c.name = p_collection;
    if v_dimensions is null then
        raise exception 'collection % is unknown', quote_literal(p_collection)
            using errcode = 'HW011', hint = 'create it first: select * from create_collection(...)';
    end if;
    if exists (select from unnest(p_embeddings) as e where vector_dims(e::halfvec) <> v_dimensions) then
        raise exception 'collection % takes embeddings of % dimensions', quote_literal(p_collection), v_dimensions
            using errcode = 'HW012';
    end if;
    insert into document as d (tenant_id, id, collection, key, title, media_type, sha256, bytes, tokens, metadata,
                               run_id, created_at)
    values (p_tenant, next_run_id(), p_collection, p_key, p_title, p_media_type, p_sha256, p_bytes, p_tokens,
            p_metadata, p_run, engine_now())
    on conflict (tenant_id, collection, key) do update
    set title = excluded.title, media_type = excluded.media_type, sha256 = excluded.sha256, bytes = excluded.bytes,
        tokens = excluded.tokens, metadata = excluded.metadata, run_id = excluded.run_id,
        created_at = excluded.created_at
    returning d.id into v_id;
    delete from chunk as c where c.tenant_id = p_tenant and c.document_id = v_id;
    insert into chunk (tenant_id, document_id, ordinal, collection, start_char, end_char, tokens, content, embedding)
    select p_tenant, v_id, i.ord - 1, p_collection, i.start_char, i.end_char, i.tokens, i.content, i.embedding::halfvec
    from unnest(p_starts, p_ends, p_chunk_tokens, p_contents, p_embeddings)
        with ordinality as i(start_char, end_char, tokens, content, embedding, ord);
    return query select v_id;
end
$$;

-- Keeps a file; its id.
create function put_file(p_tenant text, p_filename text, p_media_type text, p_content bytea)
returns table (file_id bigint)
language plpgsql
as $$
begin
    if not exists (select from tenant where id = p_tenant) then
        raise exception 'tenant % is unknown', quote_literal(p_tenant) using errcode = 'HW009';
    end if;
    return query
    insert into file (tenant_id, id, filename, media_type, content, created_at)
    values (p_tenant, next_run_id(), p_filename, p_media_type, p_content, engine_now())
    returning id;
end
$$;

-- Hybrid retrieval: the best by meaning (embedding) and the best by words, merged by reciprocal rank fusion
-- (Cormack, Clarke and Büttcher, SIGIR 2009; the constant 60 is theirs).
--   p_metadata  only documents whose metadata contains this object
--   score       the fused rank score, higher is better; distance: cosine distance, 0 the same, 2 the opposite
create function search_chunks(
    p_tenant text, p_collection text, p_query text, p_embedding text, p_limit integer default 10,
    p_metadata jsonb default '{}'
) returns table (document_id bigint, ordinal integer, title text, key text, start_char integer, end_char integer,
                 content text, metadata text, score double precision, distance double precision)
language plpgsql stable
-- Filters are applied after the index: go on scanning it until enough rows pass.
set hnsw.iterative_scan = relaxed_order
as $$
#variable_conflict use_column
declare
    c_constant constant integer := 60;
    v_pool integer := least(greatest(p_limit * 4, 40), 400);  -- candidates of each kind before fusion
    v_dimensions integer;
    v_query tsquery;
begin
    select c.dimensions into v_dimensions from collection as c where c.tenant_id = p_tenant and c.name = p_collection;
    if v_dimensions is null then
        raise exception 'collection % is unknown', quote_literal(p_collection) using errcode = 'HW011';
    end if;
    if vector_dims(p_embedding::halfvec) <> v_dimensions then
        raise exception 'collection % takes embeddings of % dimensions, not %', quote_literal(p_collection),
            v_dimensions, vector_dims(p_embedding::halfvec) using errcode = 'HW012';
    end if;
    -- Any of the words: all of them would find nothing for a question in plain language.
    v_query := replace(plainto_tsquery('english', p_query)::text, '&', '|')::tsquery;
    return query execute format($q$
        with by_meaning as (
            select c.document_id, c.ordinal,
                   c.embedding::halfvec(%1$s) <=> $1::halfvec(%1$s) as distance
            from chunk as c
            join document as d on d.tenant_id = c.tenant_id and d.id = c.document_id
            where c.tenant_id = $2 and c.collection = $3 and vector_dims(c.embedding) = %1$s and d.metadata @> $4
            order by c.embedding::halfvec(%1$s) <=> $1::halfvec(%1$s)
            limit $5
        ),
        by_words as (
            select c.document_id, c.ordinal, ts_rank_cd(c.words, $6, 1) as rank
            from chunk as c
            join document as d on d.tenant_id = c.tenant_id and d.id = c.document_id
            where c.tenant_id = $2 and c.collection = $3 and c.words @@ $6 and d.metadata @> $4
            order by rank desc
            limit $5
        ),
        fused as (
            select document_id, ordinal, sum(1.0 / (%2$s + place))::double precision as score
            from (
                select document_id, ordinal, rank() over (order by distance) as place from by_meaning
                union all
                select document_id, ordinal, rank() over (order by rank desc) as place from by_words
            ) as ranked
            group by document_id, ordinal
        )
        select f.document_id, f.ordinal, d.title, d.key, c.start_char, c.end_char, c.content, d.metadata::text,
               f.score, (c.embedding::halfvec(%1$s) <=> $1::halfvec(%1$s))::double precision
        from fused as f
        join chunk as c on c.tenant_id = $2 and c.document_id = f.document_id and c.ordinal = f.ordinal
        join document as d on d.tenant_id = $2 and d.id = f.document_id
        order by f.score desc, f.document_id, f.ordinal
        limit $7
    $q$, v_dimensions, c_constant)
    using p_embedding, p_tenant, p_collection, p_metadata, v_pool, v_query, p_limit;
end
$$;

-- Keeps the text that was extracted from a file beside it. stored is false when there is no such file.
create function set_file_text(p_tenant text, p_file bigint, p_text text) returns table (stored boolean)
language plpgsql
as $$
begin
    update file set extracted = p_text where tenant_id = p_tenant and id = p_file;
    return query select found;
end
$$;

-- Every call of a model: who, for which run and step, what it used and cost. cost null: the model has no price.
create table model_call (
    tenant_id text not null,
    id bigint generated always as identity,
    run_id bigint,
    step text,
    model text not null,
    purpose text not null,
    status text not null,
    input_tokens integer not null,
    output_tokens integer not null,
    cost numeric(18, 9),
    latency_ms double precision not null,
    error text,
    created_at timestamptz not null default now(),
    constraint model_call_pkey primary key (tenant_id, id),
    constraint model_call_status_check check (
        status in ('ok', 'rate_limited', 'timeout', 'error', 'malformed', 'refused'))
);
create index model_call_run_idx on model_call (run_id) where run_id is not null;

-- The catalogue: what can be chosen from. Prices are USD for a million tokens; null where none applies.
create table model (
    name text not null,
    kind text not null,
    provider text not null,
    context_window integer not null,
    max_output_tokens integer not null,
    input_price numeric(12, 6),
    output_price numeric(12, 6),
    strengths text[] not null,
    quality smallint not null,
    enabled boolean not null default true,
    updated_at timestamptz not null default now(),
    constraint model_pkey primary key (name),
    constraint model_kind_check check (kind in ('chat', 'embedding'))
);

-- Keeps what one attempt at a model used and cost, for its tenant and, where there is one, its run and step.
create function record_model_call(
    p_tenant text, p_run bigint, p_step text, p_model text, p_purpose text, p_status text,
    p_input_tokens integer, p_output_tokens integer, p_cost numeric, p_latency_ms double precision, p_error text
) returns void
language sql
as $$
    insert into model_call (tenant_id, run_id, step, model, purpose, status, input_tokens, output_tokens, cost,
                            latency_ms, error, created_at)
    values (p_tenant, p_run, p_step, p_model, p_purpose, p_status, p_input_tokens, p_output_tokens, p_cost,
            p_latency_ms, p_error, engine_now())
$$;

-- Brings the catalogue up to what a process was configured with. Whether a model is enabled stays the operator's choice.
create function register_models(
    p_names text[], p_kinds text[], p_providers text[], p_context_windows integer[], p_max_outputs integer[],
    p_input_prices numeric[], p_output_prices numeric[], p_strengths text[], p_qualities smallint[]
) returns void
language sql
as $$
    insert into model as m (name, kind, provider, context_window, max_output_tokens, input_price, output_price,
                            strengths, quality, updated_at)
    select i.name, i.kind, i.provider, i.context_window, i.max_output, i.input_price, i.output_price,
           string_to_array(i.strengths, ','), i.quality, engine_now()
    from unnest(p_names, p_kinds, p_providers, p_context_windows, p_max_outputs, p_input_prices, p_output_prices,
                p_strengths, p_qualities)
        as i(name, kind, provider, context_window, max_output, input_price, output_price, strengths, quality)
    order by i.name
    on conflict (name) do update
    set kind = excluded.kind, provider = excluded.provider, context_window = excluded.context_window,
        max_output_tokens = excluded.max_output_tokens, input_price = excluded.input_price,
        output_price = excluded.output_price, strengths = excluded.strengths, quality = excluded.quality,
        updated_at = excluded.updated_at
$$;

-- The latest moment for which each periodic task was deferred: one row a schedule, so it needs no cleaning.
create table procrastinate_periodic_defers (
    id bigint generated always as identity,
    task_name text not null,
    periodic_id text not null,
    defer_timestamp bigint not null,
    job_id bigint,
    constraint procrastinate_periodic_defers_pkey primary key (task_name, periodic_id)
);

-- The types that stock procrastinate clients name in their queries.
create type procrastinate_job_status as enum (
    'todo', 'doing', 'succeeded', 'failed', 'cancelled', 'aborting', 'aborted');

create type procrastinate_job_event_type as enum (
    'deferred', 'started', 'deferred_for_retry', 'failed', 'succeeded', 'cancelled', 'abort_requested', 'aborted',
    'scheduled', 'retried');

create type procrastinate_job_to_defer_v1 as (
    queue_name character varying,
    task_name character varying,
    priority integer,
    lock text,
    queueing_lock text,
    args jsonb,
    scheduled_at timestamptz
);

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

-- Cancels a job that is not running; with p_abort, asks the worker of a running one to stop it.
-- Returns its id, or null where nothing was to be done. p_delete also takes what was cancelled out of history.
create function procrastinate_cancel_job_v1(p_job bigint, p_abort boolean, p_delete boolean) returns bigint
language plpgsql
as $$
declare
    v_run run;
begin
    perform lock_ordered_sessions(array[p_job], true);
    select r.* into v_run from run as r where r.id = p_job for no key update;
    if not found or (v_run.state = 'running' and not p_abort) then
        return null;
    end if;
    perform from cancel_runs(null, array[p_job]);
    if v_run.state = 'running' then
        perform procrastinate_notify('abort_job_requested', p_job, array[v_run.queue]);
    elsif p_delete then
        perform procrastinate_delete_runs(array[p_job]);
    end if;
    return p_job;
end
$$;

-- Stock clients' defer: all of the batch or nothing, for the tenant 'default'. Returns ids in the order given.
--   queueing_lock  a uniqueness key; a second one is refused under the constraint's name that clients look for
--   lock           the job is one of the ordered runs of this session; a failed one lets the session go on
create function procrastinate_defer_jobs_v1(p_jobs procrastinate_job_to_defer_v1[]) returns bigint[]
language plpgsql
as $$
declare
    c_max_args constant integer := 1048576;  -- an argument is a value, not a document: the engine's limit for a run
    v_job procrastinate_job_to_defer_v1;
    v_ids bigint[];
    v_status text;
    v_lock text;
begin
    if coalesce(cardinality(p_jobs), 0) = 0 then
        return '{}';
    end if;
    foreach v_job in array p_jobs loop
        perform check_queue_name(v_job.queue_name);
        if octet_length(v_job.args::text) > c_max_args then
            raise exception 'the arguments of task % are % bytes of JSON, the limit is %',
                quote_literal(v_job.task_name), octet_length(v_job.args::text), c_max_args
                using errcode = 'HW015', hint = 'store them and pass their id';
        end if;
    end loop;

    select array_agg(e.run_id order by e.ord), max(e.status) filter (where e.status <> 'created'),
           min(j.queueing_lock) filter (where e.status = 'not_unique')
    into v_ids, v_status, v_lock
    from enqueue_runs(
        p_tenants => array(select 'default'::text from unnest(p_jobs)),
        p_tasks => array(select j.task_name::text from unnest(p_jobs) with ordinality as j order by j.ordinality),
        p_args => array(select coalesce(j.args, '{}')::text from unnest(p_jobs) with ordinality as j order by j.ordinality),
        p_queues => array(select j.queue_name::text from unnest(p_jobs) with ordinality as j order by j.ordinality),
        p_priorities => array(select j.priority from unnest(p_jobs) with ordinality as j order by j.ordinality),
        p_run_ats => array(select j.scheduled_at from unnest(p_jobs) with ordinality as j order by j.ordinality),
        p_sessions => array(select j.lock from unnest(p_jobs) with ordinality as j order by j.ordinality),
        p_unique => array(select j.queueing_lock from unnest(p_jobs) with ordinality as j order by j.ordinality),
        p_orders => array(select case when j.lock is not null then 'skip' end
                          from unnest(p_jobs) with ordinality as j order by j.ordinality)) as e
    join unnest(p_jobs) with ordinality as j on j.ordinality = e.ord;

    if v_status = 'not_unique' then
        raise exception 'a job with the queueing lock % is already queued', quote_literal(v_lock)
            using errcode = 'unique_violation', constraint = 'procrastinate_jobs_queueing_lock_idx_v1',
                  detail = format('Key (queueing_lock)=(%s) already exists.', v_lock);
    elsif v_status = 'queue_full' then
        raise exception 'a queue of these jobs has as many queued runs as it may'
            using errcode = 'HW018', hint = 'try again in a second, or raise max_queued: select * from ops.queues';
    elsif v_status is not null then
        raise exception 'the tenant ''default'', to whom procrastinate''s jobs belong, is unknown'
            using errcode = 'HW009', hint = 'create it: select * from create_tenant(''default'', ''Default'')';
    end if;

    perform procrastinate_notify('job_inserted', v_ids[1],
                                 array(select distinct j.queue_name::text from unnest(p_jobs) as j));
    return v_ids;
end
$$;

-- Defers a periodic job once for each moment, however many workers try. Returns null where that moment, or a later
-- one, was deferred already: a worker that lags behind the others defers nothing twice.
create function procrastinate_defer_periodic_job_v2(
    p_queue character varying,
    p_lock character varying,
    p_queueing_lock character varying,
    p_task character varying,
    p_priority integer,
    p_periodic_id character varying,
    p_defer_timestamp bigint,
    p_args jsonb
) returns bigint
language plpgsql
as $$
declare
    v_id bigint;
begin
    insert into procrastinate_periodic_defers as d (task_name, periodic_id, defer_timestamp)
    values (p_task, p_periodic_id, p_defer_timestamp)
    on conflict (task_name, periodic_id) do update set defer_timestamp = excluded.defer_timestamp
        where d.defer_timestamp < excluded.defer_timestamp;
    if not found then
        return null;
    end if;
    v_id := (procrastinate_defer_jobs_v1(array[
        row(p_queue, p_task, p_priority, p_lock, p_queueing_lock, p_args, null)::procrastinate_job_to_defer_v1]))[1];
    update procrastinate_periodic_defers as d set job_id = v_id
    where d.task_name = p_task and d.periodic_id = p_periodic_id;
    return v_id;
end
$$;

-- Lets stock clients' `delete from procrastinate_jobs` (their remove_old_jobs) reach history.
create function procrastinate_delete_job() returns trigger
language plpgsql
as $$
begin
    perform procrastinate_delete_runs(array[old.id]);
    return old;
end
$$;

create trigger procrastinate_delete_job instead of delete on procrastinate_jobs
for each row execute function procrastinate_delete_job();

-- Takes finished runs out of history. Only those of 'default', the tenant of stock clients: other tenants' history is
-- theirs, and goes when its day's partition is dropped. A failed run that its session waits for stays, to be requeued or
-- discarded: without it the session would wait forever.
create function procrastinate_delete_runs(p_runs bigint[]) returns void
language sql
as $$
    delete from run_history as h
    where h.id = any (p_runs) and h.tenant_id = 'default'
      and h.finished_at >= (select run_created_at(min(i)) from unnest(p_runs) as i)
      and not exists (select from ordered_session as s
                      where s.tenant_id = h.tenant_id and s.session_id = h.session_id and s.head_id = h.id)
$$;

-- Writes how the attempt of a held run ended; p_outcome and p_change as in flush. A stock worker would not send it again: what flush
-- could not write is raised.
create function procrastinate_end_attempt(p_run run, p_outcome text, p_error text, p_at timestamptz default null,
                                          p_change text default null)
returns void
language plpgsql
as $$
declare
    v_status text;
begin
    select f.status into v_status
    from flush(array[p_run.id], array[p_run.attempt], array['outcome'], array[p_outcome], array[p_error],
               array[p_change], array[p_at]) as f;
    if v_status <> 'ok' then
        raise exception 'job % was changed by somebody else while it ended: %', p_run.id, v_status
            using errcode = 'HW001', hint = 'its attempt is over, or was ended twice at once: look at its status';
    end if;
end
$$;

-- Gives a stock worker one run of a plain task; a row of nulls where there is none. p_queues null: any queue but
-- 'howdah', whose tasks are the engine's own: a stock worker has none of them, and would fail their runs.
-- Workflows are left to Howdah's workers: a stock worker would run them without their checkpoints.
-- A suspect run goes to a worker that runs nothing, and that is given nothing more until it has ended: see claim_suspects.
create function procrastinate_fetch_job_v2(p_queues character varying[], p_worker bigint) returns procrastinate_jobs
language plpgsql
as $$
declare
    v_job procrastinate_jobs;
    v_id bigint;
    v_queues text[];
    v_suspects text[];
begin
    -- The claim locks it too; it is taken first, because a rescue under way makes us wait for it.
    perform from worker as w where w.id = p_worker for key share;
    if exists (select from run as r where r.worker_id = p_worker and r.state = 'running' and r.suspect) then
        return null;
    end if;
    perform from wake_due_runs();

    -- One run a call: in a fixed order of queues, a busy first one would starve the others.
    select array_agg(q.name order by random()) into v_queues
    from queue as q
    where case when p_queues is null then q.name <> 'howdah' else q.name = any (p_queues) end;
    if v_queues is null then
        return null;
    end if;
    -- One fetch at a time, and nothing below waits: beside another's claim the queue would look empty, and a stock worker
    -- that finds nothing sleeps for seconds.
    perform pg_advisory_xact_lock(hashtextextended(current_schema() || '.procrastinate_fetch', 0));
    select array_agg(s.task) into v_suspects
    from (select r.task from run as r where r.queue = any (v_queues) and r.state = 'queued' and r.suspect
          except select t.name from task as t where t.kind = 'workflow') as s;
    if v_suspects is not null and not exists (select from run as r where r.worker_id = p_worker and r.state = 'running') then
        select c.run_id into v_id from claim_suspects(p_worker, v_queues, v_suspects, 1) as c;
    end if;
    if v_id is null then
        select c.run_id into v_id from claim_runs(
            p_worker, v_queues, 1,
            array(select l.task from unnest(v_queues) as q(name), unnest(lane_tasks(q.name)) as l(task)
                  except select t.name from task as t where t.kind = 'workflow')) as c;
    end if;
    select j.* into v_job from procrastinate_live_jobs as j where j.id = v_id;
    return v_job;
end
$$;

-- A stock worker ends its run: succeeded, failed or aborted. p_delete also takes it out of history.
create function procrastinate_finish_job_v1(p_job bigint, p_status procrastinate_job_status, p_delete boolean)
returns void
language plpgsql
as $$
declare
    v_run run;
begin
    if p_status not in ('succeeded', 'failed', 'aborted') then
        raise exception 'a job cannot end as %', p_status
            using errcode = 'HW016', hint = 'use succeeded, failed or aborted';
    end if;
    v_run := procrastinate_hold_run(p_job);
    perform procrastinate_end_attempt(
        v_run, case p_status when 'aborted' then 'cancelled' else p_status::text end,
        case p_status
            when 'failed' then '{"type": "JobFailed", "message": "failed; its procrastinate worker logged why"}'
            when 'aborted' then '{"type": "JobAborted", "message": "aborted by its procrastinate worker"}' end);
    if v_run.order_no is not null then
        -- The next job of its lock may wait for nothing else; stock workers hear of new jobs only.
        perform procrastinate_notify('job_inserted', p_job, array[v_run.queue]);
    end if;
    if p_delete then
        perform procrastinate_delete_runs(array[p_job]);
    end if;
end
$$;

-- Locks the run that a stock worker means and returns it. Stock clients show no attempt, so this is the fence that is
-- left: the run must be running, and on a stock worker. (That it is another stock worker's cannot be seen.)
-- Its lock, an ordered session, is locked first and waited for: a stock worker says how a job ended only once.
create function procrastinate_hold_run(p_job bigint) returns run
language plpgsql
as $$
declare
    v_run run;
begin
    perform assert_read_committed();
    perform lock_ordered_sessions(array[p_job], true);
    select r.* into v_run from run as r where r.id = p_job for no key update;
    if v_run.state = 'running'
        and exists (select from worker as w where w.id = v_run.worker_id and w.name like 'procrastinate:%') then
        return v_run;
    end if;
    if v_run.id is null and not exists (
        select from run_history as h where h.id = p_job and h.finished_at >= run_created_at(p_job)) then
        raise exception 'job % is unknown', p_job
            using errcode = 'HW002', hint = 'it never was, or was deleted';
    end if;
    raise exception 'job % is not running on a procrastinate worker, it is %', p_job,
        case when v_run.state = 'running' then 'running on a Howdah worker' else coalesce(v_run.state, 'finished') end
        using errcode = 'HW001', hint = 'the attempt is over: its worker was given up, or somebody else ended it';
end
$$;

-- Wakes stock workers: those of these queues, and those of any. A hint: they also poll, every 5 s by default.
-- LISTEN cuts a channel's name at 63 bytes, and so must we, or a long queue name would fail.
create function procrastinate_notify(p_type text, p_job bigint, p_queues text[]) returns void
language sql
as $$
    select pg_notify(left(c.channel, 63), json_build_object('type', p_type, 'job_id', p_job)::text)
    from (
        select 'procrastinate_any_queue_v1' as channel
        union all
        select 'procrastinate_queue_v1#' || q from unnest(p_queues) as q
    ) as c
$$;

-- Stock workers do this as they start: removes stock workers silent for longer than this, and returns their ids.
-- Their runs go back to the queue, where procrastinate would leave them for somebody to retry.
create function procrastinate_prune_stalled_workers_v1(p_seconds double precision) returns table (worker_id bigint)
language plpgsql
as $$
#variable_conflict use_column
declare
    c_runs constant integer := 10000;  -- bounds one call; what is more waits for the next start or rescue
    v_workers bigint[];
begin
    select array_agg(s.id) into v_workers
    from (
        select w.id from worker as w
        where w.name like 'procrastinate:%' and w.heartbeat_at < engine_now() - make_interval(secs => p_seconds)
        order by w.id
        for update skip locked
    ) as s;
    perform requeue_workers_runs(v_workers, c_runs, true);
    return query
    delete from worker as w
    where w.id = any (v_workers)
      and not exists (select from run as r where r.worker_id = w.id and r.state = 'running')
    returning w.id;
end
$$;

-- A stock worker announces itself. Its name's beginning tells it from Howdah's own: it heartbeats more slowly.
create function procrastinate_register_worker_v1() returns table (worker_id bigint)
language sql
as $$
    select w.worker_id from register_worker('procrastinate:' || pg_backend_pid(), '{}') as w
$$;

-- Brings a job that failed for good back from history; its failures are counted on. See procrastinate_retry_job_v2.
-- A lock has gone on without it, so it goes to its lock's end.
create function procrastinate_retry_failed_job(
    p_job bigint, p_retry_at timestamptz, p_priority integer, p_queue text, p_lock text
) returns void
language plpgsql
as $$
declare
    v_old run_history;
    v_run run;
begin
    select h.* into v_old from run_history as h where h.id = p_job and h.finished_at >= run_created_at(p_job);
    if p_lock is not null and (v_old.order_no is null or v_old.session_id <> p_lock) then
        -- It leaves its session, which may wait for it, before it joins another.
        perform from discard_runs(null, array[p_job]);
        update run_history as h set session_id = p_lock, order_no = 0, on_failure = 'skip'
        where h.id = p_job and h.finished_at = v_old.finished_at;
    end if;
    -- Back under the run's lock: nobody can claim it before this transaction has said when.
    perform from requeue_runs(null, array[p_job], p_notify => false);
    update run as r
    set failures = v_old.failures, priority = coalesce(p_priority, r.priority), queue = coalesce(p_queue, r.queue),
        run_at = p_retry_at,
        state = case when r.state = 'blocked' then 'blocked'
                     when p_retry_at > engine_now() then 'scheduled' else 'queued' end
    where r.id = p_job
    returning r.* into v_run;
    perform hold_lanes(array[v_run.queue], array[v_run.tenant_id], array[v_run.task]);
end
$$;

-- Runs a job again at p_retry_at: one that its stock worker has just failed, or one that failed for good.
-- A running job that was asked to abort fails instead. New priority, queue and lock: null leaves them as they are.
create function procrastinate_retry_job_v2(
    p_job bigint,
    p_retry_at timestamptz,
    p_priority integer,
    p_queue character varying,
    p_lock character varying
) returns void
language plpgsql
as $$
begin
    insert into queue (name) select p_queue where p_queue is not null on conflict do nothing;
    if exists (select from run_history as h
               where h.id = p_job and h.finished_at >= run_created_at(p_job) and h.state = 'failed') then
        perform procrastinate_retry_failed_job(p_job, p_retry_at, p_priority, p_queue, p_lock);
    else
        perform procrastinate_retry_running_job(p_job, p_retry_at, p_priority, p_queue, p_lock);
    end if;
    perform notify_queues(array(select r.queue from run as r where r.id = p_job));
    perform procrastinate_notify('job_inserted', p_job, array(select r.queue from run as r where r.id = p_job));
end
$$;

-- Ends the attempt of a stock worker's job as failed, to be tried again. See procrastinate_retry_job_v2.
-- With the lock that it had, it stays the first of it; with a new one it goes to that one's end, and the old one goes on.
create function procrastinate_retry_running_job(
    p_job bigint, p_retry_at timestamptz, p_priority integer, p_queue text, p_lock text
) returns void
language plpgsql
as $$
declare
    v_run run;
    v_no bigint;
    v_head boolean;
begin
    select r.* into v_run from run as r where r.id = p_job;
    if v_run.id is not null and p_lock is not null and (v_run.order_no is null or v_run.session_id <> p_lock) then
        -- Both sessions before the run, in everybody's order.
        if v_run.session_id < p_lock then
            perform lock_ordered_sessions(array[p_job], true);
        end if;
        select n.order_no, n.head into v_no, v_head
        from number_ordered_runs(array[p_job], array[v_run.tenant_id], array[p_lock], array['skip']) as n;
    end if;

    v_run := procrastinate_hold_run(p_job);
    if v_run.cancel_requested then
        perform procrastinate_finish_job_v1(p_job, 'failed', false);
        if v_no is not null then
            -- It has a place in the new session, but does not come.
            perform advance_sessions(array[p_job], array[v_run.tenant_id], array[p_lock], array[v_no], true);
        end if;
        return;
    end if;
    if v_no is not null then
        update run as r set session_id = p_lock, order_no = v_no, on_failure = 'skip' where r.id = p_job;
        if v_run.order_no is not null then
            perform advance_sessions(
                array[p_job], array[v_run.tenant_id], array[v_run.session_id], array[v_run.order_no], true);
        end if;
    end if;
    perform procrastinate_end_attempt(
        v_run, 'retry', '{"type": "JobFailed", "message": "failed, to be retried; its procrastinate worker logged why"}',
        p_retry_at, jsonb_strip_nulls(jsonb_build_object('priority', p_priority, 'queue', p_queue))::text);
    if not v_head then
        update run as r set state = 'blocked' where r.id = p_job;
    end if;
end
$$;

-- A stock worker leaves; what it did not finish goes back to the queue at once.
create function procrastinate_unregister_worker_v1(p_worker bigint) returns void
language sql
as $$
    select from unregister_worker(p_worker)
$$;

-- A stock worker says that it lives. One whom its peers have given up is refused, so that it stops: it would go on
-- working for nobody.
create function procrastinate_update_heartbeat_v1(p_worker bigint) returns void
language plpgsql
as $$
begin
    if not (select h.alive from heartbeat(p_worker) as h) then
        raise exception 'worker % is not registered any more: it was silent for too long and its runs were given back',
            p_worker
            using errcode = 'HW001', hint = 'restart it; if it was only busy, lower update_heartbeat_interval';
    end if;
end
$$;

select * from prepare_partitions();
set local search_path = the_cell_ops, the_cell, public;
-- select * from ops.cancel_queued('{"tenant": "acme"}'): cancels runs that have not started and fit, 1,000 at most; call it
-- again while there is more. Keys: queue, task, tenant, since, until (when it was enqueued), ids.
create function cancel_queued(p_filter jsonb, p_limit integer default 1000, p_reason text default 'cancelled by an operator')
returns table (cancelled integer, requested integer, more boolean)
language sql
as $$
    select * from cancel_queued(p_filter, p_limit, p_reason, true)
$$;

-- select * from ops.cancel_run(1234): at once where it is not running, else its worker is asked to stop it.
create function cancel_run(p_run bigint, p_reason text default 'cancelled by an operator')
returns table (run_id bigint, status text)
language sql
as $$
    select * from cancel_runs(null, array[p_run], p_reason)
$$;

-- select * from ops.change_run(1234, p_priority => 10): another priority, queue or time for a run that has not started;
-- what is left out stays.
create function change_run(p_run bigint, p_priority integer default null, p_queue text default null,
                           p_run_at timestamptz default null)
returns table (run_id bigint, status text)
language sql
as $$
    select * from change_runs(null, array[p_run], p_priority, p_queue, p_run_at)
$$;

-- select * from ops.discard_failed('{"error": "Refused"}'): gives up the failed runs that fit, 1,000 at most; call it again
-- while there is more. Keys as for requeue_failed.
create function discard_failed(p_filter jsonb default '{}', p_limit integer default 1000)
returns table (discarded integer, more boolean)
language sql
as $$
    select * from discard_failed(p_filter, p_limit, true)
$$;

-- select * from ops.discard_run(1234): gives a failed run up; an ordered session that waited for it goes on.
create function discard_run(p_run bigint) returns table (run_id bigint, status text)
language sql
as $$
    select * from discard_runs(null, array[p_run])
$$;

-- select * from ops.drain_worker(7): the worker claims nothing more, finishes what it runs, and stops. What it has not
-- finished by its shutdown time goes back to the queue.
create function drain_worker(p_worker bigint) returns table (worker_id bigint, status text)
language sql
as $$
    select * from drain_worker(p_worker)
$$;

-- select * from ops.drop_consumer('acme', 'case-7', 'billing'): forgets a consumer and its place; producers no longer wait for it.
create function drop_consumer(p_tenant text, p_session text, p_consumer text) returns table (dropped boolean)
language sql
as $$
    select deleted from delete_consumer(p_tenant, p_session, p_consumer)
$$;

-- select * from ops.events('acme', 'case-7'): a session's events after a number, in order, 1,000 at most. A run without a
-- session writes to one named run:<id>.
create function events(p_tenant text, p_session text, p_after bigint default 0, p_limit integer default 100)
returns table (seq bigint, type text, data jsonb, run_id bigint, created_at timestamptz)
language sql
as $$
    select seq, type, data::jsonb, run_id, created_at from read_events(p_tenant, p_session, p_after, least(p_limit, 1000))
$$;

-- select ops.explain_run(1234): why it does not run now, in one sentence.
create function explain_run(p_run bigint) returns text
language sql
as $$
    select explain_run(null, p_run)
$$;

-- select * from ops.fork_run(1234, 2): a new run that goes on after the first two finished steps of run 1234; with a third
-- argument, by another task or version.
create function fork_run(p_run bigint, p_steps integer, p_task text default null) returns table (run_id bigint)
language sql
as $$
    select * from fork_run(null, p_run, p_steps, p_task)
$$;

-- Who waits for whom among those at work on the cell's tables. Behind ops.locks: with the installer's eyes, for an operator's
-- own see nobody else's queries.
create function lock_waits()
returns table (waiting_pid integer, waiting text, waits_for text, since interval, blocking_pid integer, blocking text,
               blocking_state text, blocking_query text)
language sql
as $$
    select a.pid, a.application_name,
           case w.locktype when 'relation' then 'all of table ' when 'advisory' then 'an advisory lock beside table '
                           else 'a row of table ' end || t.tables,
           clock_timestamp() - coalesce(w.waitstart, a.query_start), b.pid, h.application_name, h.state, left(h.query, 200)
    from pg_stat_activity as a
    cross join unnest(pg_blocking_pids(a.pid)) as b(pid)
    left join pg_stat_activity as h on h.pid = b.pid
    join lateral (
        select l.locktype, l.waitstart, l.relation from pg_locks as l where l.pid = a.pid and not l.granted limit 1
    ) as w on true
    cross join lateral (
        select string_agg(distinct c.relname, ', ') as tables
        from pg_locks as l
        join pg_class as c on c.oid = l.relation and c.relkind in ('r', 'p')
        where l.pid = a.pid and c.relnamespace = current_schema()::regnamespace
          and (w.relation is null or w.relation = c.oid)
    ) as t
    where a.datname = current_database() and t.tables is not null
$$;

-- select * from ops.pause_queue('mail'): no run of it starts until it is resumed; those that run go on to their end.
create function pause_queue(p_queue text) returns table (queue text, paused boolean)
language sql
as $$
    select name, paused from pause_queue(p_queue, true)
$$;

-- select * from ops.pause_task(…): no run of it starts until it is resumed, of any tenant.
create function pause_task(p_task text) returns table (task text, paused boolean)
language sql
as $$
    select name, paused from pause_task(p_task, true)
$$;

-- select * from ops.pause_tenant('acme'): no run of it starts until it is resumed, in any queue.
create function pause_tenant(p_tenant text) returns table (tenant_id text, paused boolean)
language sql
as $$
    select id, paused from pause_tenant(p_tenant, true)
$$;

-- How many runs of a queue are queued and running, counted up to 100,000 each, and the oldest queued one of those counted.
-- Behind ops.queues: through its indexes only, for the planner, who sees one queue among many, would read the whole table
-- for each.
create function queue_depth(p_queue text, out queued bigint, out first bigint, out running bigint)
language sql
set enable_seqscan = off
set enable_bitmapscan = off
as $$
    select w.queued, w.first, x.running
    from (
        select count(*) as queued, min(o.id) as first
        from (
            (select r.id from run as r where r.queue = p_queue and r.state = 'queued' and r.fresh limit 100000)
            union all
            (select r.id from run as r
             where r.queue = p_queue and r.state = 'queued' and not r.fresh and not r.suspect limit 100000)
            union all
            (select r.id from run as r
             where r.queue = p_queue and r.state = 'queued' and r.suspect and not r.fresh limit 100000)
            limit 100000
        ) as o
    ) as w
    cross join (
        select count(*) as running
        from (select from run as r where r.queue = p_queue and r.state = 'running' limit 100000) as o
    ) as x
$$;

-- select * from ops.requeue_failed('{"task": "invoice.send"}'): brings back the failed runs that fit, 1,000 at most; call it
-- again while there is more. Keys: queue, task, tenant, error (its type), since, until (when it failed), ids.
create function requeue_failed(p_filter jsonb default '{}', p_limit integer default 1000)
returns table (requeued integer, more boolean)
language sql
as $$
    select * from requeue_failed(p_filter, p_limit, true)
$$;

-- select * from ops.requeue_run(1234): brings a failed or cancelled run back; a workflow goes on from its last
-- finished step.
create function requeue_run(p_run bigint) returns table (run_id bigint, status text)
language sql
as $$
    select * from requeue_runs(null, array[p_run])
$$;

-- select * from ops.resume_queue(…): lets a paused queue go on.
create function resume_queue(p_queue text) returns table (queue text, paused boolean)
language sql
as $$
    select name, paused from pause_queue(p_queue, false)
$$;

-- select * from ops.resume_task(…): lets a paused task go on.
create function resume_task(p_task text) returns table (task text, paused boolean)
language sql
as $$
    select name, paused from pause_task(p_task, false)
$$;

-- select * from ops.resume_tenant(…): lets a paused tenant go on.
create function resume_tenant(p_tenant text) returns table (tenant_id text, paused boolean)
language sql
as $$
    select id, paused from pause_tenant(p_tenant, false)
$$;

-- select * from ops.revoke_api_key('0123456789abcdef'): API processes remember keys for 5 seconds; then it opens nothing.
create function revoke_api_key(p_key text) returns table (revoked boolean)
language sql
as $$
    select * from revoke_api_key(null, p_key)
$$;

-- select * from ops.run_tree(1234): a run and its descendants, those nearest to it first, 1,000 at most.
create function run_tree(p_run bigint, p_limit integer default 1000)
returns table (run_id bigint, parent_id bigint, step text, depth integer, task text, state text, error text)
language sql
as $$
    select * from read_tree(null, p_run, least(p_limit, 1000))
$$;

-- select * from ops.send_signal(1234, 'approval', '"approve"'): tells a run what it waits for, or will wait for.
create function send_signal(p_run bigint, p_name text, p_payload jsonb default 'null')
returns table (run_id bigint, status text)
language sql
as $$
    select s.run_id, s.status from send_signals(null, array[p_run], array[p_name], array[p_payload::text]) as s
$$;

-- select * from ops.set_event_days('acme', 7): for how many days a tenant's events are kept; null: as long as others'.
create function set_event_days(p_tenant text, p_days integer) returns table (tenant_id text, event_days integer)
language sql
as $$
    select id, event_days from set_tenant_event_days(p_tenant, p_days)
$$;

-- select * from ops.set_limit('mail', 'max_running', 20): one limit of a queue; null removes it. Limits: max_running,
-- max_running_per_tenant, starts_per_period, max_queued, max_queued_per_tenant.
--   p_period_s  of starts_per_period: the seconds in which so many may start; null: as it is
create function set_limit(p_queue text, p_limit text, p_value numeric, p_period_s numeric default null)
returns table (queue text, max_running integer, max_running_per_tenant integer, starts_per_period integer, period interval,
               max_queued integer, max_queued_per_tenant integer)
language sql
as $$
    select q.name, q.max_running, q.max_running_per_tenant, q.starts_per_period, q.period, q.max_queued,
           q.max_queued_per_tenant
    from set_queue_limits(
        p_queue,
        jsonb_build_object(p_limit, trim_scale(p_value))
        || case when p_limit = 'starts_per_period' and p_value is null then '{"period_s": null}'
                when p_period_s is not null then jsonb_build_object('period_s', p_period_s)
                else '{}' end) as q
$$;

-- select * from ops.set_weight('acme', 3): a tenant's share of each queue beside the others' shares; everybody begins at 1.
create function set_weight(p_tenant text, p_weight double precision)
returns table (tenant_id text, weight double precision)
language sql
as $$
    select id, weight from set_tenant_weight(p_tenant, p_weight)
$$;

-- select * from ops.set_window('acme', 'case-7', 1000): how many events a session's slowest required consumer may be behind
-- before producers have to wait; null: any number.
create function set_window(p_tenant text, p_session text, p_window bigint)
returns table (session_id text, event_window bigint)
language sql
as $$
    select p_session, event_window from set_event_window(p_tenant, p_session, p_window)
$$;

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

set local search_path = the_cell, public;
select grant_operators('the_cell_ops');