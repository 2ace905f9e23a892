-- The durable output of each finished step. Partitioned by the day of the run's id from birth, never moved.
create table checkpoint (
    run_id bigint not null,
    step text not null,
    tenant_id text not null,
    attempt integer not null,
    output jsonb,
    started_at timestamptz not null,
    finished_at timestamptz not null,
    -- How often a later attempt finished this step again although its output was on disk. Anything but 0 is a bug.
    repeats integer not null default 0,
    constraint checkpoint_pkey primary key (run_id, step)
) partition by range (run_id);
create table checkpoint_default partition of checkpoint default;
