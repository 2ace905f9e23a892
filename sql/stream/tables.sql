-- An ordered stream within a tenant. Its row is the counter of its events, so that numbers have no gaps:
-- a number is allotted under this row's lock, in the transaction that writes the event.
create table session (
    tenant_id text not null,
    id text not null,
    state text not null default 'open',
    last_seq bigint not null default 0,
    created_at timestamptz not null default now(),
    closed_at timestamptz,
    constraint session_pkey primary key (tenant_id, id),
    -- A run without a session of its own writes to 'run:<id>'; no client can choose such a name.
    constraint session_id_check check (id ~ '^([A-Za-z0-9][A-Za-z0-9._-]{0,127}|run:[0-9]+)$'),
    constraint session_state_check check (state in ('open', 'closed'))
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);

create table event (
    tenant_id text not null,
    session_id text not null,
    seq bigint not null,
    type text not null,
    data jsonb not null,
    key text collate "C",  -- in the order of its bytes: a run's own keys stand together, see read_emitted
    run_id bigint,
    created_at timestamptz not null,
    constraint event_pkey primary key (tenant_id, session_id, seq),
    constraint event_type_check check (length(type) between 1 and 200)
);
create unique index event_key_idx on event (tenant_id, session_id, key) where key is not null;
