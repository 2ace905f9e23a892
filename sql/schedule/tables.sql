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
