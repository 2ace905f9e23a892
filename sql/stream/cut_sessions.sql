-- Cuts off events older than their tenant keeps them: whole days, by tenant.event_days or else by p_days (null: for ever).
-- p_limit sessions, and p_limit rows, at most: call it until it answers 0. A session that somebody writes to is left for
-- the next time.
-- The cut is session.first_seq, and readers see it at once. The rows go with their day's partition, see drop_partitions, once
-- no session keeps anything of it; one by one where another tenant keeps that day for longer, or where it has no partition.
-- A session that is closed, or a run's own whose run is over, goes once all of it is older.
create function cut_sessions(p_days integer, p_limit integer default 1000) returns table (done integer)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_today timestamptz := date_trunc('day', engine_now(), 'utc');
    v_longest integer;
    v_tenants text[];
    v_sessions text[];
    v_befores timestamptz[];
    v_by_row boolean[];
    v_next_at timestamptz[];
    v_rows integer;
begin
    perform assert_read_committed();
    select case when p_days is not null then greatest(p_days, max(t.event_days)) end into v_longest from tenant as t;

    select array_agg(l.tenant_id), array_agg(l.id), array_agg(l.before), array_agg(l.by_row)
    into v_tenants, v_sessions, v_befores, v_by_row
    from (
        select s.tenant_id, s.id, a.before, a.days is distinct from v_longest as by_row
        from tenant as t
        cross join lateral (
            select coalesce(t.event_days, p_days) as days,
                   v_today - make_interval(days => coalesce(t.event_days, p_days)) as before
        ) as a
        cross join lateral (
            select o.tenant_id, o.id from session as o
            where o.tenant_id = t.id and o.first_at < a.before
            order by o.first_at
            limit p_limit
            for no key update skip locked
        ) as s
        limit p_limit
    ) as l;
    if v_tenants is null then
        return query select 0;
        return;
    end if;

    with kept as materialized (
        select i.ord, s.tenant_id, s.id, s.state, s.closed_at, i.before, k.seq, k.created_at
        from unnest(v_tenants, v_sessions, v_befores) with ordinality as i(tenant, session, before, ord)
        join session as s on s.tenant_id = i.tenant and s.id = i.session
        left join lateral (
            select e.seq, e.created_at from event as e
            where e.tenant_id = i.tenant and e.session_id = i.session and e.seq >= s.first_seq
              and e.created_at >= i.before and e.created_at <= s.last_at
            order by e.seq
            limit 1
        ) as k on true
    ),
    cut as (
        update session as s set first_seq = coalesce(k.seq, s.last_seq + 1)
        from kept as k
        where s.tenant_id = k.tenant_id and s.id = k.id
    )
    -- When to look at it again, its rows gone: null is never more, for it goes as well.
    select array_agg(case when k.created_at is not null then k.created_at
                          when k.state = 'closed' then nullif(greatest(k.closed_at, k.before), k.before)
                          when k.id !~ '^run:' then 'infinity'
                          when exists (select from run as r where r.id = substr(k.id, 5)::bigint) then k.before
                          end order by k.ord)
    into v_next_at
    from kept as k;

    with cut as materialized (
        select d.tenant_id, d.session_id, d.seq, d.created_at
        from unnest(v_tenants, v_sessions, v_befores, v_by_row) as i(tenant, session, before, by_row)
        join session as s on s.tenant_id = i.tenant and s.id = i.session
        cross join lateral (
            select e.tenant_id, e.session_id, e.seq, e.created_at from event as e
            where i.by_row and e.tenant_id = i.tenant and e.session_id = i.session and e.seq < s.first_seq
              and e.created_at >= s.first_at and e.created_at < i.before
            union all
            select e.tenant_id, e.session_id, e.seq, e.created_at from event_default as e
            where not i.by_row and e.tenant_id = i.tenant and e.session_id = i.session and e.seq < s.first_seq
            limit p_limit
        ) as d
        limit p_limit
    )
    delete from event as e using cut as c
    where e.tenant_id = c.tenant_id and e.session_id = c.session_id and e.seq = c.seq and e.created_at = c.created_at;
    get diagnostics v_rows = row_count;

    -- Not all: the rest is found again from where it is.
    if v_rows < p_limit then
        delete from consumer as c
        using unnest(v_tenants, v_sessions, v_next_at) as i(tenant, session, at)
        where c.tenant_id = i.tenant and c.session_id = i.session and i.at is null;
        delete from session as s
        using unnest(v_tenants, v_sessions, v_next_at) as i(tenant, session, at)
        where s.tenant_id = i.tenant and s.id = i.session and i.at is null;
        update session as s set first_at = i.at
        from unnest(v_tenants, v_sessions, v_next_at) as i(tenant, session, at)
        where s.tenant_id = i.tenant and s.id = i.session and i.at is not null;
    end if;
    return query select cardinality(v_tenants);
end
$$;
