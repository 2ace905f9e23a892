-- Locks the ordered sessions of these runs, sorted. Returns those of the runs that may be touched now: the ones that are
-- not ordered, and those whose session is locked. p_wait false: a session that somebody else holds is left out.
create function lock_ordered_sessions(p_runs bigint[], p_wait boolean) returns bigint[]
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_tenants text[];
    v_sessions text[];
begin
    select array_agg(o.tenant_id), array_agg(o.session_id) into v_tenants, v_sessions
    from (select distinct r.tenant_id, r.session_id from run as r
          where r.id = any (p_runs) and r.order_no is not null) as o;
    if v_tenants is null then
        return p_runs;
    end if;
    if p_wait then
        perform from ordered_session as s
        join unnest(v_tenants, v_sessions) as o(t, s) on s.tenant_id = o.t and s.session_id = o.s
        order by s.tenant_id, s.session_id
        for no key update of s;
        return p_runs;
    end if;
    return array(
        with locked as materialized (
            select s.tenant_id, s.session_id
            from ordered_session as s
            join unnest(v_tenants, v_sessions) as o(t, s) on s.tenant_id = o.t and s.session_id = o.s
            order by s.tenant_id, s.session_id
            for no key update of s skip locked
        )
        select i.id
        from unnest(p_runs) as i(id)
        left join run as r on r.id = i.id
        where r.order_no is null
           or exists (select from locked as l where l.tenant_id = r.tenant_id and l.session_id = r.session_id));
end
$$;
