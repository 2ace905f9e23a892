-- select * from ops.events('acme', 'case-7'): a session's events after a number, in order, 1,000 at most. A run without a
-- session writes to one named run:<id>.
create function events(p_tenant text, p_session text, p_after bigint default 0, p_limit integer default 100)
returns table (seq bigint, type text, data jsonb, run_id bigint, created_at timestamptz)
language sql
as $$
    select seq, type, data::jsonb, run_id, created_at from read_events(p_tenant, p_session, p_after, least(p_limit, 1000))
$$;
