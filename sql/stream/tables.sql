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
