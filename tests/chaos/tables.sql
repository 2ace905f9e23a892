-- In a schema of their own: what happened, told by those to whom it happened, each in a transaction of its own.
create schema chaos;

-- The client's books. `session` is that of an ordered run; batch and place say in which order they were enqueued.
create table chaos.chaos_enqueued (
    run_id bigint primary key,
    task text not null,
    fails boolean not null,
    batch integer not null,
    place integer not null,
    session text
);
create index on chaos.chaos_enqueued (batch);

-- A step starts. The id is of the one who tells, so that it can tell again when the answer was lost.
create table chaos.chaos_execution (
    id uuid primary key,
    run_id bigint not null,
    step text not null,
    attempt integer not null,
    at timestamptz not null default clock_timestamp()
);
create index on chaos.chaos_execution (run_id, step);

-- An attempt of an ordered run starts, and finishes if its worker lives.
create table chaos.chaos_turn (
    id uuid primary key,
    run_id bigint not null,
    attempt integer not null,
    started_at timestamptz not null default clock_timestamp(),
    finished_at timestamptz
);

-- A failed head of an ordered session was requeued, in this transaction.
create table chaos.chaos_requeued (run_id bigint primary key);

-- What a frozen worker had when its peers gave it up.
create table chaos.chaos_zombie (run_id bigint not null, attempt integer not null, primary key (run_id, attempt));

-- How many runs of a limited queue were under way in one snapshot, and how many of them of one tenant at most.
create table chaos.chaos_sample (
    at timestamptz not null default clock_timestamp(),
    queue text not null,
    running integer not null,
    of_one_tenant integer not null
);
