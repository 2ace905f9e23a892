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
