-- One catch-up for many readers: for each (tenant, session, after) up to p_limit events, and the session's state.
-- A session without news has one row without an event; an unknown one has none.
--   p_since    the time of the event `after`, where the reader knows it: no day before is looked at. Null: all that are kept
--   first_seq  the oldest event that is kept: what is between `after` and it is gone
create function read_sessions(
    p_tenants text[], p_sessions text[], p_afters bigint[], p_limit integer default 500,
    p_since timestamptz[] default null
) returns table (ord bigint, last_seq bigint, first_seq bigint, state text,
                 seq bigint, type text, data text, run_id bigint, created_at timestamptz,
                 source text, subject text, traceparent text)
language plpgsql stable
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
-- Planned anew for each call, the many partitions would cost more than the reading.
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    v_from timestamptz;
    v_to timestamptz;
begin
    -- Days that nobody here has anything to read of are not even opened.
    select min(greatest(i.since, s.first_at)), max(s.last_at) into v_from, v_to
    from unnest(p_tenants, p_sessions, p_afters, p_since) as i(tenant, session, after, since)
    join session as s on s.tenant_id = i.tenant and s.id = i.session
    where s.last_seq > i.after;

    return query
    select i.ord, s.last_seq, s.first_seq, s.state, e.seq, e.type, e.data::text, e.run_id, e.created_at,
           e.source, e.subject, e.traceparent
    from unnest(p_tenants, p_sessions, p_afters, p_since) with ordinality as i(tenant, session, after, since, ord)
    join session as s on s.tenant_id = i.tenant and s.id = i.session
    left join lateral (
        select * from event as e
        where e.tenant_id = i.tenant and e.session_id = i.session and e.seq > greatest(i.after, s.first_seq - 1)
          and s.last_seq > i.after and e.created_at >= greatest(i.since, s.first_at) and e.created_at <= s.last_at
          and e.created_at between v_from and v_to
        order by e.seq
        limit p_limit
    ) as e on true
    order by i.ord, e.seq;
end
$$;
