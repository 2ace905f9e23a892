-- Part of sweep_queues: ordered sessions whose head is gone, and blocked runs whose session has no row. The next run by
-- number is promoted; a session without one goes. If an ordered run of the session is live after all, that is its head:
-- two must never go at once.
-- A session that waits for a failed run does so for as long as history keeps it: then its head is gone.
create function sweep_sessions(p_limit integer, p_notify boolean) returns table (kind text, repaired integer)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_after text[] := walk_from('sessions', 2);
    v_blocked_after text[] := walk_from('blocked sessions', 2);
    v_last text[];
    v_headless ordered_session[];
    v_missing text[];
    v_missing_tenants text[];
    v_locked ordered_session[];
    v_made integer;
    v_repaired integer;
begin
    with walked as materialized (
        select s as session from ordered_session as s
        where (s.tenant_id, s.session_id) > (v_after[1], v_after[2])
        order by s.tenant_id, s.session_id
        limit p_limit
    )
    select array_agg(w.session) filter (where not session_has_head(w.session)),
           (array_agg(array[(w.session).tenant_id, (w.session).session_id]
                      order by (w.session).tenant_id, (w.session).session_id))[p_limit:p_limit]
    into v_headless, v_last
    from walked as w;
    perform walk_reached('sessions', v_last);

    with recursive walked as (
        (select r.tenant_id, r.session_id, 1 as place from run as r
         where r.state = 'blocked' and (r.tenant_id, r.session_id) > (v_blocked_after[1], v_blocked_after[2])
         order by r.tenant_id, r.session_id
         limit 1)
        union all
        select n.tenant_id, n.session_id, w.place + 1
        from walked as w
        cross join lateral (
            select r.tenant_id, r.session_id from run as r
            where r.state = 'blocked' and (r.tenant_id, r.session_id) > (w.tenant_id, w.session_id)
            order by r.tenant_id, r.session_id
            limit 1) as n
        where w.place < p_limit
    )
    select array_agg(w.tenant_id) filter (where s.tenant_id is null),
           array_agg(w.session_id) filter (where s.tenant_id is null),
           array_agg(array[w.tenant_id, w.session_id]) filter (where w.place = p_limit)
    into v_missing_tenants, v_missing, v_last
    from walked as w
    left join ordered_session as s on s.tenant_id = w.tenant_id and s.session_id = w.session_id;
    perform walk_reached('blocked sessions', v_last);

    if v_missing is null and v_headless is null then
        return;
    end if;
    -- No run has the id 0: a head that is gone, for the repair below. Made, the row is locked.
    with made as (
        insert into ordered_session as s (tenant_id, session_id, last_no, head_id)
        select i.tenant_id, i.session_id, l.order_no, 0
        from unnest(v_missing_tenants, v_missing) as i(tenant_id, session_id)
        cross join lateral (
            select r.order_no from run as r
            where r.tenant_id = i.tenant_id and r.session_id = i.session_id and r.state = 'blocked'
            order by r.order_no desc
            limit 1) as l
        order by i.tenant_id, i.session_id
        on conflict do nothing
        returning s as session
    )
    select count(*), coalesce(v_headless, '{}') || coalesce(array_agg(m.session), '{}') into v_made, v_headless
    from made as m;

    v_locked := array(
        select s from ordered_session as s
        join unnest(v_headless) as i on i.tenant_id = s.tenant_id and i.session_id = s.session_id
        order by s.tenant_id, s.session_id
        for no key update of s skip locked);
    update ordered_session as s
    set head_id = l.id, last_no = greatest(s.last_no, l.order_no)
    from unnest(v_locked) as i
    cross join lateral (
        select r.id, r.order_no from run as r
        where r.tenant_id = i.tenant_id and r.session_id = i.session_id and r.order_no is not null and r.state <> 'blocked'
        order by r.order_no
        limit 1) as l
    where s.tenant_id = i.tenant_id and s.session_id = i.session_id and not session_has_head(s);
    get diagnostics v_repaired = row_count;

    v_locked := array(
        select s from ordered_session as s
        join unnest(v_locked) as i on i.tenant_id = s.tenant_id and i.session_id = s.session_id
        where not session_has_head(s));
    perform advance_sessions(array_agg(s.head_id), array_agg(s.tenant_id), array_agg(s.session_id),
                             array_agg(0::bigint), p_notify)
    from unnest(v_locked) as s
    having count(*) > 0;
    v_repaired := v_repaired + cardinality(v_locked) - v_made;
    return query
    select s.kind, s.repaired
    from (values ('blocked run without session', v_made), ('session without head', v_repaired)) as s(kind, repaired)
    where s.repaired > 0;
end
$$;
