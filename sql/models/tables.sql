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
