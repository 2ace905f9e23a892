-- What happened in a session after number p_after, p_limit events at most, in order.
create function read_events(p_tenant text, p_session text, p_after bigint default 0, p_limit integer default 100)
returns table (seq bigint, type text, data text, run_id bigint, created_at timestamptz)
language sql stable
as $$
    select e.seq, e.type, e.data::text, e.run_id, e.created_at
    from event as e
    where e.tenant_id = p_tenant and e.session_id = p_session and e.seq > p_after
    order by e.seq
    limit p_limit
$$;
