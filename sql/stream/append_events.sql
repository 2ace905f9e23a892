-- Appends a batch of events, one an array position, and answers in the same positions.
--   p_data   JSON as text, up to 256 KiB: an event is a small fact, not a document
--   p_keys   producer keys, unique in their session; null: none
--   p_wait   true: wait for sessions that others are writing to; false: answer busy, for callers who batch
--   p_sources, p_subjects, p_traceparents  of the CloudEvents; null: the session, none, none
-- status: created | existing (its key was seen: the first's number) | unknown_session | closed | busy |
--         full (a required consumer is too far behind: see session.event_window)
create function append_events(
    p_tenants text[],
    p_sessions text[],
    p_types text[],
    p_data text[],
    p_keys text[] default null,
    p_wait boolean default true,
    p_notify boolean default true,
    p_sources text[] default null,
    p_subjects text[] default null,
    p_traceparents text[] default null
) returns table (ord bigint, seq bigint, status text)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
    v_status text[];
    v_open text[];
    v_closed text[];
    v_ords bigint[];
    v_tenants text[];
    v_sessions text[];
    v_types text[];
    v_data text[];
    v_keys text[];
    v_sources text[];
    v_subjects text[];
    v_traceparents text[];
    v_runs bigint[];
begin
    perform assert_read_committed();
    if p_wait then
        select array_agg(l.name) filter (where l.state = 'open'), array_agg(l.name) filter (where l.state <> 'open')
        into v_open, v_closed
        from (
            select s.tenant_id || '/' || s.id as name, s.state
            from (select distinct tenant, session from unnest(p_tenants, p_sessions) as i(tenant, session)) as i
            join session as s on s.tenant_id = i.tenant and s.id = i.session
            order by s.tenant_id, s.id
            for no key update of s
        ) as l;
    else
        select array_agg(l.name) filter (where l.state = 'open'), array_agg(l.name) filter (where l.state <> 'open')
        into v_open, v_closed
        from (
            select s.tenant_id || '/' || s.id as name, s.state
            from (select distinct tenant, session from unnest(p_tenants, p_sessions) as i(tenant, session)) as i
            join session as s on s.tenant_id = i.tenant and s.id = i.session
            order by s.tenant_id, s.id
            for no key update of s skip locked
        ) as l;
    end if;

    select array_agg(
               case when i.tenant || '/' || i.session = any (v_open) then 'created'
                    when i.tenant || '/' || i.session = any (v_closed) then 'closed'
                    when exists (select from session as s where s.tenant_id = i.tenant and s.id = i.session) then 'busy'
                    else 'unknown_session' end order by i.ord)
    into v_status
    from unnest(p_tenants, p_sessions) with ordinality as i(tenant, session, ord);
    select array_agg(i.ord order by i.ord), array_agg(i.tenant order by i.ord), array_agg(i.session order by i.ord),
           array_agg(i.type order by i.ord), array_agg(i.data order by i.ord), array_agg(i.key order by i.ord),
           array_agg(i.source order by i.ord), array_agg(i.subject order by i.ord), array_agg(i.traceparent order by i.ord), array_agg(null::bigint)
    into v_ords, v_tenants, v_sessions, v_types, v_data, v_keys, v_sources, v_subjects, v_traceparents, v_runs
    from unnest(v_status, p_tenants, p_sessions, p_types, p_data, p_keys, p_sources, p_subjects, p_traceparents)
        with ordinality as i(status, tenant, session, type, data, key, source, subject, traceparent, ord)
    where i.status = 'created';

    return query
    select u.ord, max(u.seq), coalesce(max(u.written), max(u.refused))
    from (
        select i.ord, null::bigint as seq, null::text as written, i.status as refused
        from unnest(v_status) with ordinality as i(status, ord)
        union all
        select v_ords[n.ord], n.seq, n.status, null
        from number_events(v_tenants, v_sessions, v_types, v_data, v_keys, v_runs, v_sources, v_subjects, v_traceparents) as n
        where v_ords is not null
    ) as u
    group by u.ord
    order by u.ord;

    if p_notify and v_ords is not null then
        perform notify_sessions(v_tenants, v_sessions);
    end if;
end
$$;
