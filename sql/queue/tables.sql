-- A run's id begins with its millisecond, so that ids are small, sort by time and bound partitions.
create sequence run_id_seq as bigint minvalue 0 maxvalue 1048575 cycle cache 64;

create table queue (
    name text not null,
    created_at timestamptz not null default now(),
    constraint queue_pkey primary key (name),
    constraint queue_name_check check (name ~ '^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$')
);

-- What workers say they can run; the API reads names and argument schemas here, so both deploy apart.
create table task (
    name text not null,
    kind text not null,
    queue text not null,
    args_schema jsonb not null,
    description text not null default '',
    updated_at timestamptz not null default now(),
    constraint task_pkey primary key (name),
    constraint task_kind_check check (kind in ('task', 'workflow'))
);

create table worker (
    id bigint generated always as identity,
    name text not null,
    queues text[] not null,
    started_at timestamptz not null default now(),
    heartbeat_at timestamptz not null default now(),
    constraint worker_pkey primary key (id)
) with (fillfactor = 50);

-- Live runs only: a finished run moves to run_history, so this table and its indexes stay small and hot.
-- The key is the id alone: psql and stock procrastinate clients address a run without naming its tenant,
-- and an ever-growing key keeps inserts on one index page.
create table run (
    id bigint not null,
    tenant_id text not null,
    queue text not null,
    task text not null,
    state text not null,
    priority integer not null default 0,
    session_id text,
    unique_key text,
    args jsonb not null,
    run_at timestamptz,
    attempt integer not null default 0,
    failures integer not null default 0,
    deaths integer not null default 0,
    worker_id bigint,
    claimed_at timestamptz,
    cancel_requested boolean not null default false,
    error jsonb,
    constraint run_pkey primary key (id),
    constraint run_args_check check (jsonb_typeof(args) = 'object'),
    constraint run_state_check check (
        state in ('queued', 'scheduled', 'blocked', 'waiting', 'held', 'running')),
    constraint run_running_check check ((state = 'running') = (claimed_at is not null))
) with (
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.1, autovacuum_vacuum_cost_delay = 0
);
-- The ready index: what a claim reads, lane by lane, in the order in which runs start.
create index run_ready_idx on run (queue, tenant_id, priority desc, id) where state = 'queued';
create index run_due_idx on run (run_at) where state = 'scheduled';
create index run_worker_idx on run (worker_id) where state = 'running';
create unique index run_unique_key_idx on run (tenant_id, unique_key)
    where unique_key is not null and state in ('queued', 'scheduled', 'blocked');
create index run_tenant_idx on run (tenant_id, id);

-- One row for each (queue, tenant) with queued work. Claims order lanes by virtual time, which is in no
-- unique index, so that advancing it never waits for a concurrent enqueue.
create table lane (
    queue text not null,
    tenant_id text not null,
    virtual_time double precision not null,
    constraint lane_pkey primary key (queue, tenant_id)
) with (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0
);
create index lane_claim_idx on lane (queue, virtual_time);

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
    worker_id bigint,
    claimed_at timestamptz,
    finished_at timestamptz not null,
    output jsonb,
    error jsonb,
    constraint run_history_pkey primary key (id, finished_at),
    constraint run_history_state_check check (state in ('succeeded', 'failed', 'cancelled'))
) partition by range (finished_at);
create index run_history_tenant_idx on run_history (tenant_id, id);
-- A finish must never fail for want of a partition: days that nobody prepared land here.
create table run_history_default partition of run_history default;

create table idempotency_key (
    tenant_id text not null,
    key text not null,
    fingerprint text not null,
    run_id bigint not null,
    created_at timestamptz not null default now(),
    constraint idempotency_key_pkey primary key (tenant_id, key)
);
