-- Writes events under numbers 1, 2, 3 … of their session. The caller holds the sessions' row locks.
-- Runs that wait for events of these sessions are woken.
-- An event whose key its session has seen, or that stands twice in the batch, is not written again. A key is looked for
-- where it can be: since the session's oldest event; if it is a run's own, which begins with the run's id, since the run is there.
-- Time does not go back within a session, nor before a run that writes to it.
-- An event that the session's window has no room for is not written, nor what follows it: its slowest required consumer must
-- catch up first. How a run ended is written all the same, unless such an event of the run stands before it: no run waits
-- with its end for a reader.
-- Answers a row an event: its number, and created | existing | full.
create function number_events(
    p_tenants text[], p_sessions text[], p_types text[], p_data text[], p_keys text[], p_runs bigint[],
    p_sources text[] default null, p_subjects text[] default null, p_traceparents text[] default null
) returns table (ord bigint, seq bigint, status text)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
-- Planned anew for each batch, the many partitions would cost more than the work.
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    v_now timestamptz := engine_now();
    v_since timestamptz[];
    v_from timestamptz;
    v_to timestamptz;
begin
    select array_agg(k.since order by k.ord), min(k.since), max(k.until) into v_since, v_from, v_to
    from (
        select i.ord, case when i.key is not null then s.last_at end as until,
               case when i.key is not null then greatest(
                   s.first_at, case when starts_with(i.key, i.run_id || '/') then run_created_at(i.run_id) end) end as since
        from unnest(p_tenants, p_sessions, p_keys, p_runs) with ordinality as i(tenant, session, key, run_id, ord)
        join session as s on s.tenant_id = i.tenant and s.id = i.session
    ) as k;

    return query
    with item as materialized (
        select i.*, e.seq as seen,
               i.key is not null and row_number() over (
                   partition by i.tenant, i.session, i.key order by i.ord) > 1 as twin
        from unnest(p_tenants, p_sessions, p_types, p_data, p_keys, p_runs, v_since, p_sources, p_subjects,
                    p_traceparents)
            with ordinality as i(tenant, session, type, data, key, run_id, since, source, subject, traceparent, ord)
        -- The limit keeps it a look into the index for each event: joined as a set, all events of a day were read.
        left join lateral (
            select e.seq from event as e
            where e.tenant_id = i.tenant and e.session_id = i.session and e.key = i.key
              and e.created_at >= i.since and e.created_at between v_from and v_to
            limit 1
        ) as e on true
    ),
    placed as materialized (
        select i.*, s.last_seq, s.last_at, i.run_id is not null and starts_with(i.type, 'howdah.run.') as is_end,
               coalesce(s.last_seq + row_number() over (partition by i.tenant, i.session order by i.ord)
                            <= greatest(s.acked_seq, s.first_seq - 1) + s.event_window, true)
               or s.acked_seq is null as has_room
        from item as i
        join session as s on s.tenant_id = i.tenant and s.id = i.session
        where i.seen is null and not i.twin
    ),
    fitting as materialized (
        select p.* from (
            select p.*, p.has_room
                   or p.is_end and bool_and(p.has_room or p.is_end) over (
                       partition by p.tenant, p.session, p.run_id order by p.ord) as fits
            from placed as p
        ) as p
        where p.fits
    ),
    numbered as materialized (
        select f.*, f.last_seq + row_number() over (partition by f.tenant, f.session order by f.ord) as number,
               greatest(v_now, f.last_at,
                        max(run_created_at(f.run_id)) over (partition by f.tenant, f.session)) as at
        from fitting as f
    ),
    written as (
        insert into event (tenant_id, session_id, seq, type, data, key, run_id, created_at, source, subject,
                           traceparent)
        select n.tenant, n.session, n.number, n.type, n.data::jsonb, n.key, n.run_id, n.at, n.source, n.subject,
               n.traceparent
        from numbered as n
    ),
    counted as (
        update session as s set last_seq = c.last, last_at = c.at, first_at = least(s.first_at, c.at)
        from (select n.tenant, n.session, max(n.number) as last, max(n.at) as at from numbered as n group by 1, 2) as c
        where s.tenant_id = c.tenant and s.id = c.session
    )
    select r.ord, coalesce(r.seen, r.number, r.twins),
           case when r.number is not null then 'created' when coalesce(r.seen, r.twins) is null then 'full' else 'existing' end
    from (
        select u.ord, max(u.seen) as seen, max(u.number) as number,
               case when u.key is not null then max(max(u.number)) over (partition by u.tenant, u.session, u.key) end as twins
        -- Put together by their places: a join, which could only be a nested loop here, compared each with each.
        from (
            select i.ord, i.tenant, i.session, i.key, i.seen, null::bigint as number from item as i
            union all
            select n.ord, n.tenant, n.session, n.key, null, n.number from numbered as n
        ) as u
        group by u.ord, u.tenant, u.session, u.key
    ) as r
    order by r.ord;
    perform wake_listeners(p_tenants, p_sessions);
end
$$;
