-- Writes events under numbers 1, 2, 3 … of their session. The caller holds the sessions' row locks.
-- Runs that wait for events of these sessions are woken.
-- An event whose key its session has seen, or that stands twice in the batch, is not written again.
-- Answers a row an event: its number, and whether it is new.
create function number_events(
    p_tenants text[], p_sessions text[], p_types text[], p_data text[], p_keys text[], p_runs bigint[],
    p_times timestamptz[]
) returns table (ord bigint, seq bigint, created boolean)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
as $$
#variable_conflict use_column
begin
    return query
    with item as materialized (
        select i.*, e.seq as seen,
               i.key is not null and row_number() over (
                   partition by i.tenant, i.session, i.key order by i.ord) > 1 as twin
        from unnest(p_tenants, p_sessions, p_types, p_data, p_keys, p_runs, p_times)
            with ordinality as i(tenant, session, type, data, key, run_id, at, ord)
        left join event as e on e.tenant_id = i.tenant and e.session_id = i.session and e.key = i.key
    ),
    numbered as materialized (
        select i.*, s.last_seq + row_number() over (partition by i.tenant, i.session order by i.ord) as number
        from item as i
        join session as s on s.tenant_id = i.tenant and s.id = i.session
        where i.seen is null and not i.twin
    ),
    written as (
        insert into event (tenant_id, session_id, seq, type, data, key, run_id, created_at)
        select n.tenant, n.session, n.number, n.type, n.data::jsonb, n.key, n.run_id, n.at
        from numbered as n
    ),
    counted as (
        update session as s set last_seq = c.last
        from (select n.tenant, n.session, max(n.number) as last from numbered as n group by 1, 2) as c
        where s.tenant_id = c.tenant and s.id = c.session
    )
    select i.ord,
           coalesce(i.seen, n.number, (select t.number from numbered as t
                                       where t.tenant = i.tenant and t.session = i.session and t.key = i.key)),
           n.number is not null
    from item as i
    left join numbered as n on n.ord = i.ord
    order by i.ord;
    perform wake_listeners(p_tenants, p_sessions);
end
$$;
