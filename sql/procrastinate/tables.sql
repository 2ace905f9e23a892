-- The latest moment for which each periodic task was deferred: one row a schedule, so it needs no cleaning.
create table procrastinate_periodic_defers (
    id bigint generated always as identity,
    task_name text not null,
    periodic_id text not null,
    defer_timestamp bigint not null,
    job_id bigint,
    constraint procrastinate_periodic_defers_pkey primary key (task_name, periodic_id)
);
