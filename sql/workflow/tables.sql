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
