-- One catch-up for many readers: for each (tenant, session, after) up to p_limit events, and the session's state.
-- A session without news has one row without an event; an unknown one has none.
create function read_sessions(p_tenants text[], p_sessions text[], p_afters bigint[], p_limit integer default 500)
returns table (ord bigint, last_seq bigint, state text,
               seq bigint, type text, data text, run_id bigint, created_at timestamptz)
language sql stable
as $$
    select i.ord, s.last_seq, s.state, e.seq, e.type, e.data::text, e.run_id, e.created_at
    from unnest(p_tenants, p_sessions, p_afters) with ordinality as i(tenant, session, after, ord)
    join session as s on s.tenant_id = i.tenant and s.id = i.session
    left join lateral (
        select * from event as e
        where e.tenant_id = i.tenant and e.session_id = i.session and e.seq > i.after
        order by e.seq
        limit p_limit
    ) as e on true
    order by i.ord, e.seq
$$;
